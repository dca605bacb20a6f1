"""The floppy disk controller, an 82077AA with two drives (csrc/devices/fdc.c)."""

from __future__ import annotations

from pyvmm.devices.base import NativeDevice
from pyvmm.errors import DeviceError
from pyvmm.native import ffi, lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyvmm.block import Image
    from pyvmm.board import Board, IoThread
    from pyvmm.devices.dma import Dma
    from pyvmm.irq import IrqLine

DRIVES = 2
_RATES = {1: 2, 2: 0, 3: 2, 4: 0, 6: 3}
"""Data rate by drive type (INT 13h, AH=08h), as in CCR: 0 is 500 kbit/s, 2 is 250, 3 is 1000."""


class FloppyMedium:
    """An image as a disk.

    Parameters
    ----------
    image
        What is on it.
    tracks, heads, sectors
        1 to 85, 1 or 2, 1 to 63.
    drive_type
        The kind of drive that takes it: 1 360K, 2 1.2M, 3 720K, 4 1.44M, 6 2.88M.
    """

    def __init__(self, image: Image, tracks: int, heads: int, sectors: int, drive_type: int) -> None:
        if not (1 <= tracks <= 85 and 1 <= heads <= 2 and 1 <= sectors <= 63 and drive_type in _RATES):
            raise DeviceError(f"floppy: no disk has {tracks} tracks, {heads} heads and {sectors} sectors")
        self.image, self.drive_type = image, drive_type
        self.geometry = (tracks, heads, sectors, _RATES[drive_type])
        self.cmos_type = 5 if drive_type == 6 else drive_type
        """What CMOS byte 10h calls the drive."""


class Fdc(NativeDevice):
    """Up to two drives, each with a disk or without. The images must stay open as long as it does.

    Parameters
    ----------
    irq
        IRQ 6.
    dma, channel
        Where its data goes: channel 2.
    drives
        The disks; None is a drive without one. As many drives as the list is long.
    io
        The thread that reads and writes the images, from ``board.worker("fdc")``; None: the board's own.

    Raises
    ------
    DeviceError
        More than two drives.
    """

    PORTS, RATE = 0, 1
    """Regions: 6 ports from 0x3F0, and 0x3F7."""

    def __init__(
        self,
        board: Board,
        irq: IrqLine,
        dma: Dma,
        drives: list[FloppyMedium | None],
        channel: int = 2,
        io: IoThread | None = None,
    ) -> None:
        if len(drives) > DRIVES:
            raise DeviceError(f"floppy: {len(drives)} drives: the controller has room for {DRIVES}")
        options = ffi.new("FdcOptions *")
        for place, medium in zip(options.drives, drives, strict=False):
            place.present = 1
            if medium is not None:
                place.image = medium.image.handle
                place.geometry = medium.geometry
        if io is not None:
            options.io = io.on(board)
        pointer: Any = lib.fdc_new(board.pointer, irq.pointer, dma.pointer, channel, options)
        super().__init__(pointer, state="FdcState")
        self.drives = list(drives)
        """The disks that are in."""

    def insert(self, drive: int, medium: FloppyMedium) -> None:
        """Put another disk into drive 0 or 1; the guest sees that it was changed.

        Raises
        ------
        DeviceError
            There is no such drive.
        """
        self._change(drive, medium)

    def eject(self, drive: int) -> None:
        """Take the disk out."""
        self._change(drive, None)

    def _change(self, drive: int, medium: FloppyMedium | None) -> None:
        if not 0 <= drive < len(self.drives):
            raise DeviceError(f"floppy: no drive {drive}: there are {len(self.drives)}")
        geometry = ffi.new("FdcGeometry *", medium.geometry if medium is not None else (0, 0, 0, 0))
        handle = ffi.NULL if medium is None else medium.image.handle
        lib.fdc_change_medium(self.pointer, drive, handle, geometry)
        self.drives[drive] = medium
