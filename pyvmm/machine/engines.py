"""Which engine a machine runs on: by name, or `auto`."""

from __future__ import annotations

from pyvmm.errors import ConfigError, EngineError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.engine import Engine
    from pyvmm.translator import TranslatorEngine

_made: list[TranslatorEngine] = []


def translator() -> TranslatorEngine:
    """The process's translator: its library is opened and tested once."""
    if not _made:
        from pyvmm.translator import TranslatorEngine

        _made.append(TranslatorEngine())
    return _made[0]


def engines() -> list[Engine]:
    """The engines that `auto` chooses from, best first."""
    return [translator()]


def retest() -> None:
    """Forget what this process and earlier ones found out about the engines: the next question tests them again."""
    from pyvmm.translator import TranslatorEngine

    _made[:] = [TranslatorEngine(remember=False)]


def kvm() -> Engine:
    """KVM, for who asks for it by name: `auto` does not take it before it measures (docs/supported.md)."""
    from pyvmm.kvm.engine import KvmEngine
    from pyvmm.machine.layout import KVM_RESERVED

    engine = KvmEngine(reserved_pages=KVM_RESERVED)
    usable, reason = engine.availability()
    if not usable:
        raise EngineError(f"--engine kvm: {reason}")
    return engine


def choose_engine(name: str) -> Engine:
    """The engine that `name` asks for.

    Raises
    ------
    ConfigError
        There is no engine of that name.
    EngineError
        It, or with ``auto`` any, cannot run here; the reasons are given.
    """
    if name == "kvm":
        return kvm()
    available = {engine.name: engine for engine in engines()}
    if name != "auto":
        if name not in available:
            raise ConfigError(
                f"engine {name}: not in this version of pyvmm; choose one of: auto, kvm, {', '.join(available)}"
            )
        return available[name]
    reasons = []
    for engine in available.values():
        usable, reason = engine.availability()
        if usable:
            return engine
        reasons.append(f"{engine.name}: {reason}")
    raise EngineError("no engine can run here: " + "; ".join(reasons))
