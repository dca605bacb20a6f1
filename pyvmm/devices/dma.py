"""The DMA controllers, two 8237A with the PC's page registers (csrc/devices/i8237.c)."""

from __future__ import annotations

from pyvmm.devices.base import NativeDevice
from pyvmm.native import lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.board import Board


class Dma(NativeDevice):
    """Channels 0 to 3 move bytes, 5 to 7 words; ``dma.registers.channels[2]`` is the floppy controller's."""

    MASTER, SLAVE, PAGES = 0, 1, 2
    """Regions: 16 ports from 0, 32 from 0xC0, 15 from 0x81."""

    def __init__(self, board: Board) -> None:
        super().__init__(lib.i8237_new(board.pointer), state="I8237State")
