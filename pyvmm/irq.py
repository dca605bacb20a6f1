"""Interrupt lines: what a device pulls (csrc/irq/irq.h)."""

from __future__ import annotations

from pyvmm.native import lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class IrqLine:
    """One source on a GSI. Several lines may share a GSI; its level is their OR."""

    def __init__(self, pointer: Any, owner: object) -> None:
        self.pointer = pointer
        self._owner = owner

    def raise_(self) -> None:
        """Level high."""
        lib.irq_line_set(self.pointer, True)

    def lower(self) -> None:
        """Level low."""
        lib.irq_line_set(self.pointer, False)

    def pulse(self) -> None:
        """High, then low: an edge."""
        lib.irq_line_pulse(self.pointer)

    @property
    def level(self) -> bool:
        """Whether this source holds the line up."""
        return bool(lib.irq_line_level(self.pointer))

    @property
    def gsi(self) -> int:
        """Global system interrupt number that the line goes to."""
        return int(lib.irq_line_gsi(self.pointer))

    def __repr__(self) -> str:
        return f"IrqLine(gsi={self.gsi}, level={int(self.level)})"
