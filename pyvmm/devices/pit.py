"""The 8254 interval timer (csrc/devices/i8254.c)."""

from __future__ import annotations

from pyvmm.devices.base import NativeDevice
from pyvmm.native import lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from pyvmm.board import Board
    from pyvmm.irq import IrqLine

PIT_HZ: Final = 1_193_182
"""Input clock of the three channels."""


class Pit(NativeDevice):
    """Three channels of a 16-bit counter; channel 0's output is the timer interrupt. Region 0: 4 ports."""

    def __init__(self, board: Board, irq: IrqLine) -> None:
        super().__init__(lib.i8254_new(board.pointer, irq.pointer), state="I8254State")

    def output(self, channel: int) -> bool:
        """Level of a channel's OUT pin."""
        return bool(lib.i8254_out(self.pointer, channel))

    def set_gate(self, channel: int, level: bool) -> None:
        """Drive a channel's GATE pin."""
        lib.i8254_set_gate(self.pointer, channel, level)
