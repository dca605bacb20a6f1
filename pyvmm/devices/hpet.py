"""The high precision event timers (csrc/devices/hpet.c)."""

from __future__ import annotations

from pyvmm.devices.base import NativeDevice
from pyvmm.native import lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from pyvmm.board import Board
    from pyvmm.irq import IrqLine

HPET_HZ: Final = 100_000_000
"""What the main counter counts."""


class Hpet(NativeDevice):
    """A main counter of 64 bits, and three timers that compare with it. Region 0: 1 KiB of memory.

    Parameters
    ----------
    board
        The machine's wires.
    pit, rtc
        Those devices' lines: in legacy replacement mode timers 0 and 1 interrupt in their place, and they are cut.
    """

    def __init__(self, board: Board, pit: IrqLine, rtc: IrqLine) -> None:
        super().__init__(lib.hpet_new(board.pointer, pit.pointer, rtc.pointer), state="HpetState")
