"""Laboratories: small guests that are run to see what a processor, and a monitor of it, really do."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.lab.process import GuestThread, guest_ram, threads
    from pyvmm.lab.results import Comparison, Result
    from pyvmm.lab.runner import compare, run
    from pyvmm.lab.sandbox import RingComparison, Sandbox, Stop, compare_rings

_HOME = {
    "Comparison": "results",
    "GuestThread": "process",
    "Result": "results",
    "RingComparison": "sandbox",
    "Sandbox": "sandbox",
    "Stop": "sandbox",
    "compare": "runner",
    "compare_rings": "sandbox",
    "guest_ram": "process",
    "run": "runner",
    "threads": "process",
}

__all__ = [
    "Comparison",
    "GuestThread",
    "Result",
    "RingComparison",
    "Sandbox",
    "Stop",
    "compare",
    "compare_rings",
    "guest_ram",
    "run",
    "threads",
]


def __getattr__(name: str) -> object:
    """Import a public name when it is first used."""
    if name not in _HOME:
        raise AttributeError(f"module 'pyvmm.lab' has no attribute {name!r}")
    home = __import__(f"pyvmm.lab.{_HOME[name]}", fromlist=[name])
    value = getattr(home, name)
    globals()[name] = value
    return value
