"""The MC146818A real-time clock and CMOS memory (csrc/devices/mc146818.c)."""

from __future__ import annotations

from pyvmm.devices.base import NativeDevice
from pyvmm.errors import DeviceError
from pyvmm.native import lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.board import Board
    from pyvmm.irq import IrqLine


class Rtc(NativeDevice):
    """Time of day from the machine's clock, alarms, and 256 bytes of memory: ``rtc[0x15] = 640 & 0xff``.

    Region 0: index and data port, and those of the upper 128 bytes.
    """

    def __init__(self, board: Board, irq: IrqLine) -> None:
        super().__init__(lib.mc146818_new(board.pointer, irq.pointer), state="MC146818State")

    def __getitem__(self, index: int) -> int:
        value = lib.mc146818_nvram(self.pointer, index) if 0 <= index < 256 else -1
        if value < 0:
            raise DeviceError(f"CMOS byte {index:#x}: there are 0 to 0xff")
        return int(value)

    def __setitem__(self, index: int, value: int) -> None:
        if not 0 <= value <= 0xFF:
            raise DeviceError(f"CMOS byte {index:#x}: {value:#x} does not fit")
        if not 0 <= index < 256 or lib.mc146818_set_nvram(self.pointer, index, value) < 0:
            raise DeviceError(f"CMOS byte {index:#x}: memory is 0x0e to 0xff except the century, 0x32")

    @property
    def nmi_disabled(self) -> bool:
        """Port 0x70, bit 7: the guest holds NMIs back."""
        return bool(lib.mc146818_nmi_disabled(self.pointer))
