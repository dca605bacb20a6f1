"""The CPU as a model: registers, modes, rings, and what each instruction may do in which ring; without an engine.

``pyvmm.cpu.classify(code, mode)`` says of any instruction whether a virtual machine monitor has to care.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.cpu.classifier import Classification, classify
    from pyvmm.cpu.instructions import TABLE, Kind, Row
    from pyvmm.cpu.rings import Check, Descriptor

_HOME = {
    "TABLE": "instructions",
    "Check": "rings",
    "Classification": "classifier",
    "Descriptor": "rings",
    "Kind": "instructions",
    "Row": "instructions",
    "classify": "classifier",
}

__all__ = ["TABLE", "Check", "Classification", "Descriptor", "Kind", "Row", "classify"]


def __getattr__(name: str) -> object:
    """Import a public name when it is first used: a machine starts without this module's tables."""
    if name not in _HOME:
        raise AttributeError(f"module 'pyvmm.cpu' has no attribute {name!r}")
    home = __import__(f"pyvmm.cpu.{_HOME[name]}", fromlist=[name])
    value = getattr(home, name)
    globals()[name] = value
    return value
