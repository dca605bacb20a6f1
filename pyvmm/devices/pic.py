"""The pair of 8259A interrupt controllers (csrc/irq/i8259.c)."""

from __future__ import annotations

from pyvmm.devices.base import NativeDevice
from pyvmm.native import lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.board import Board


class Pic(NativeDevice):
    """Listens to GSI 0 to 15 and drives the CPU's INTR pin.

    `registers.master` and `registers.slave` hold IRR, IMR, ISR and the command words of the 8259A datasheet.
    """

    MASTER, SLAVE, ELCR = 0, 1, 2
    """Regions, of 2 ports each."""

    def __init__(self, board: Board) -> None:
        super().__init__(lib.i8259_new(board.pointer, board.pointer.irqs), state="I8259State")
