"""Which engine a machine runs on: by name, or `auto`."""

from __future__ import annotations

from functools import cache

from pyvmm.engine import Engine
from pyvmm.errors import ConfigError, EngineError
from pyvmm.translator import TranslatorEngine


@cache
def translator() -> TranslatorEngine:
    """The process's translator: its library is opened and tested once."""
    return TranslatorEngine()


def engines() -> list[Engine]:
    """Every engine of this version, best first."""
    return [translator()]


def choose_engine(name: str) -> Engine:
    """The engine that `name` asks for.

    Raises
    ------
    ConfigError
        There is no engine of that name.
    EngineError
        None can run here; the reasons are given.
    """
    available = {engine.name: engine for engine in engines()}
    if name != "auto":
        if name not in available:
            raise ConfigError(
                f"engine {name}: not in this version of pyvmm; choose one of: {', '.join(available)}"
            )
        return available[name]
    reasons = []
    for engine in available.values():
        usable, reason = engine.availability()
        if usable:
            return engine
        reasons.append(f"{engine.name}: {reason}")
    raise EngineError("no engine can run here: " + "; ".join(reasons))
