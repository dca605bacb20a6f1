"""Which engine a machine runs on: by name, or `auto`."""

from __future__ import annotations

import os

from pyvmm.errors import ConfigError, EngineError
from pyvmm.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.engine import Engine
    from pyvmm.translator import TranslatorEngine

DEVICE = "/dev/kvm"

_made: list[TranslatorEngine] = []


def translator() -> TranslatorEngine:
    """The process's translator: its library is opened and tested once."""
    if not _made:
        from pyvmm.translator import TranslatorEngine

        _made.append(TranslatorEngine())
    return _made[0]


def retest() -> None:
    """Forget what this process and earlier ones found out about the engines: the next question tests them again."""
    from pyvmm.translator import TranslatorEngine

    _made[:] = [TranslatorEngine(remember=False)]


def kvm() -> Engine:
    """KVM, or why it cannot run here."""
    from pyvmm.kvm.engine import KvmEngine
    from pyvmm.machine.layout import KVM_RESERVED

    engine = KvmEngine(reserved_pages=KVM_RESERVED)
    usable, reason = engine.availability()
    if not usable:
        raise EngineError(f"--engine kvm: {reason}")
    return engine


def kvm_verdict(device: str = DEVICE) -> tuple[bool, str]:
    """Whether `auto` takes KVM, and why in one line: measured once per boot of the host (`pyvmm.kvm.probe`)."""
    try:
        os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        return False, f"there is no {device}"
    except PermissionError:
        return False, f"{device}: permission denied, join the group kvm"
    except OSError as error:
        return False, f"{device}: {error.strerror}"
    from pyvmm.kvm.remembered import load

    found = load(device)
    if found is None:
        from pyvmm.kvm.probe import probe

        result = probe(device)
        return result.good, f"{device}: {result.summary}" if result.usable else result.summary
    (_, good), (_, text) = found[:2]
    return good == "True", f"{device}: {text}"


def choose_engine(name: str) -> Engine:
    """`choose`, and nothing but the engine."""
    return choose(name).engine


@record(frozen=True)
class Choice:
    """An engine, why it was taken, and what its user should know.

    Attributes
    ----------
    engine
        What runs guest code.
    reason
        Why, in one line.
    warning
        Something that is wrong with it here; empty: nothing.
    """

    engine: Engine
    reason: str
    warning: str = ""


def choose(name: str, *, cpus: int = 1, clock: str = "realtime", device: str = DEVICE) -> Choice:
    """The engine that `name` asks for, for a machine of so many vCPUs on this kind of clock.

    ``"auto"`` takes KVM where a probe found it good (permission, API, the processor's own speed in ring 0, every CPU
    mode that kernels need), and otherwise the translator. A name is obeyed.

    Raises
    ------
    ConfigError
        There is no engine of that name.
    EngineError
        It, or with ``auto`` any, cannot run here; the reasons are given.
    """
    if name == "kvm":
        engine = kvm()
        good, why = kvm_verdict(device)
        warning = "" if good else f"--engine kvm is slow or incomplete here: {why}; pyvmm doctor says more"
        return Choice(engine, "asked for by name", warning)
    if name == "translator":
        return Choice(translator(), "asked for by name")
    if name != "auto":
        raise ConfigError(
            f"engine {name}: not in this version of pyvmm; choose one of: auto, kvm, translator"
        )
    if clock == "virtual":
        good, why = False, "a virtual clock counts instructions, which KVM does not"
    else:
        good, why = kvm_verdict(device)
    if good:
        try:
            return Choice(kvm(), why)
        except EngineError as error:  # another hypervisor has the processor by now, or the like
            why = str(error).removeprefix("--engine kvm: ")
    if cpus > 1:
        raise EngineError(
            f"--cpus {cpus}: only KVM runs more than one vCPU, and --engine auto does not take it: {why};"
            " use --cpus 1, or --engine kvm to insist"
        )
    engine = translator()
    usable, reason = engine.availability()
    if not usable:
        raise EngineError(f"no engine can run here: kvm: {why}; translator: {reason}")
    return Choice(engine, why)
