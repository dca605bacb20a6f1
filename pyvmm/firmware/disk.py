"""INT 13h: floppy, hard disk and CD.

Sources: IBM PS/2 and PC BIOS Interface Technical Reference (1987), INT 13h; Phoenix Enhanced Disk Drive Specification
3.0 (EDD, 1998); El Torito 1.0 §4; RBIL INT 13. Error codes: EDD 3.0 and RBIL table 00234.
Left out: formatting (05h-07h), long sectors (0Ah, 0Bh), locks and ejects (45h, 46h), device paths in 48h (none is
defined for virtio), 4Ah, 4Ch and 4Dh of El Torito.
"""

from __future__ import annotations

import struct
from typing import Final

from pyvmm.errors import GuestError, PyvmmError
from pyvmm.firmware import bda
from pyvmm.firmware.drives import BiosDrive, Geometry
from pyvmm.firmware.eltorito import BootEntry, specification_packet
from pyvmm.firmware.frame import Frame, linear
from pyvmm.firmware.group import ServiceGroup, function
from pyvmm.firmware.platform import Platform
from pyvmm.units import Gpa

OK, BAD_COMMAND, BAD_SECTOR, WRITE_PROTECTED, DMA_BOUNDARY, CONTROLLER_FAILURE, TIMEOUT = (
    0,
    0x01,
    0x04,
    0x03,
    0x09,
    0x20,
    0x80,
)
NOT_REMOVABLE: Final = 0xB2
_MAX_PACKET_SECTORS: Final = 0x7F
"""EDD 3.0, disk address packet: at most 127 blocks a call."""
_EDD_VERSION: Final = 0x30
_EDD_SUBSETS: Final = 0x0005
"""AH=41h, CX: fixed disk access (42h-44h, 47h, 48h) and enhanced disk drive support."""


class Disk(ServiceGroup):
    """The drives, and INT 13h over them. `drives` maps BIOS numbers."""

    def __init__(self, platform: Platform, drives: list[BiosDrive]) -> None:
        super().__init__(platform)
        self._configured = list(drives)
        self.drives = {drive.number: drive for drive in drives}
        self.boot_entry: BootEntry | None = None
        self.boot_drive = 0

    def reset(self) -> None:
        """The configured drives, no emulation."""
        self.drives = {drive.number: drive for drive in self._configured}
        self.boot_entry = None
        self.write_counts()

    def write_counts(self) -> None:
        """40:75, number of hard disks."""
        self.platform.set_bda8(bda.DISK_COUNT, self.count(hard=True))

    def count(self, *, hard: bool) -> int:
        """How many hard disks, or floppies, there are."""
        return sum(0x80 <= n < 0xE0 if hard else n < 0x80 for n in self.drives)

    def emulate(self, drive: BiosDrive, entry: BootEntry) -> None:
        """Put an emulated disk first: the others of its kind move up by one (El Torito §1.3)."""
        hard = drive.number >= 0x80
        moved: dict[int, BiosDrive] = {}
        for number, other in self.drives.items():
            if (0x80 <= number < 0xE0) == hard and number < 0xE0:
                number += 1
            moved[number] = other
        self.drives = moved | {drive.number: drive}
        self.boot_entry = entry
        self.write_counts()

    # Every call ------------------------------------------------------------------------------------------------------
    def call(self, interrupt: int, frame: Frame) -> None:
        """As any group, and AH is kept for function 01h."""
        asked = frame.ah
        super().call(interrupt, frame)
        if asked not in (0x01, 0x08, 0x15, 0x41):
            drive = self.drives.get(frame.dl)
            if drive is not None:
                drive.status = frame.ah if frame.carry else OK
            self.platform.set_bda8(
                bda.DISK_STATUS if frame.dl & 0x80 else bda.FLOPPY_STATUS, frame.ah if frame.carry else OK
            )

    def unsupported(self, interrupt: int, frame: Frame) -> None:
        """CF set, AH = 01h, invalid function."""
        self.platform.log_once(f"BIOS: INT 13h AX={frame.ax:04X}h is not supported")
        frame.fail(BAD_COMMAND)

    def _drive(self, frame: Frame) -> BiosDrive | None:
        """The drive of DL; None after answering that there is none."""
        drive = self.drives.get(frame.dl)
        if drive is None:
            frame.fail(BAD_COMMAND if frame.dl & 0x80 else TIMEOUT)
        return drive

    def _transfer(self, drive: BiosDrive, operation: str, lba: int, count: int, buffer: Gpa) -> int:
        """Move whole sectors; returns the status for AH."""
        if not drive.holds(lba, count):
            return BAD_SECTOR
        if operation == "write" and drive.read_only:
            return WRITE_PROTECTED
        try:
            if operation == "read":
                self.platform.memory.write(buffer, drive.read(lba, count))
            elif operation == "write":
                drive.write(lba, self.platform.memory.read(buffer, count * drive.sector_size))
            else:
                drive.read(lba, count)
        except GuestError:
            return DMA_BOUNDARY
        except (OSError, PyvmmError) as error:
            self.platform.log_once(f"BIOS: INT 13h: {drive.name}: {operation} of sector {lba}: {error}")
            return CONTROLLER_FAILURE
        return OK

    @staticmethod
    def _finish(frame: Frame, status: int) -> None:
        if status == OK:
            frame.done()
        else:
            frame.fail(status)

    # CHS functions ---------------------------------------------------------------------------------------------------
    @function(0x13, 0x00, 0x0D, source="INT 13/AH=00h, 0Dh")
    def reset_drive(self, frame: Frame) -> None:
        if self._drive(frame) is not None:
            frame.done()

    @function(0x13, 0x01, source="INT 13/AH=01h")
    def get_status(self, frame: Frame) -> None:
        drive = self._drive(frame)
        if drive is not None:
            frame.ah = drive.status
            frame.al = drive.status
            frame.carry = drive.status != OK

    @function(0x13, 0x02, 0x03, 0x04, source="INT 13/AH=02h, 03h, 04h")
    def chs_transfer(self, frame: Frame) -> None:
        """AL sectors from cylinder CH + CL bits 6-7, head DH, sector CL bits 0-5, at ES:BX."""
        drive = self._drive(frame)
        if drive is None:
            return
        geometry, count = drive.geometry, frame.al
        cylinder, sector = frame.ch | (frame.cl & 0xC0) << 2, frame.cl & 0x3F
        lba = None if geometry is None else geometry.lba(cylinder, frame.dh, sector)
        if lba is None or not 1 <= count <= 128:
            frame.al = 0
            frame.fail(BAD_COMMAND if geometry is None or not 1 <= count <= 128 else BAD_SECTOR)
            return
        operation = {0x02: "read", 0x03: "write", 0x04: "verify"}[frame.ah]
        status = self._transfer(drive, operation, lba, count, linear(frame.es, frame.bx))
        self._finish(frame, status)
        if status != OK:
            frame.al = 0

    @function(0x13, 0x08, source="INT 13/AH=08h")
    def drive_parameters(self, frame: Frame) -> None:
        drive = self._drive(frame)
        if drive is None:
            return
        geometry: Geometry | None = drive.geometry
        if geometry is None:
            frame.fail(BAD_COMMAND)
            return
        last = geometry.cylinders - 1
        frame.ax = 0
        frame.ch, frame.cl = last & 0xFF, geometry.sectors | (last >> 2) & 0xC0
        frame.dh = geometry.heads - 1
        hard = drive.number >= 0x80
        frame.dl = self.count(hard=hard)
        if not hard:
            frame.bx = drive.floppy_type
            frame.di, frame.es = struct.unpack("<HH", self.platform.memory.read(Gpa(0x1E * 4), 4))
        frame.done()

    @function(0x13, 0x09, 0x0C, 0x10, 0x11, 0x14, source="INT 13/AH=09h, 0Ch, 10h, 11h, 14h")
    def nothing_to_do(self, frame: Frame) -> None:
        """Set parameters, seek, test ready, recalibrate, diagnostics: done if the drive is there."""
        if self._drive(frame) is not None:
            frame.done()

    @function(0x13, 0x15, source="INT 13/AH=15h")
    def drive_type(self, frame: Frame) -> None:
        """AH: 0 none, 2 floppy with change line, 3 hard disk with CX:DX sectors."""
        drive = self.drives.get(frame.dl)
        if drive is None:
            frame.done(0)
        elif drive.number < 0x80:
            frame.done(2)
        else:
            sectors = min(drive.sectors, 0xFFFFFFFF)
            frame.cx, frame.dx = sectors >> 16, sectors & 0xFFFF
            frame.done(3)

    @function(0x13, 0x16, source="INT 13/AH=16h")
    def disk_change(self, frame: Frame) -> None:
        """Media do not change while the machine runs."""
        if self._drive(frame) is not None:
            frame.done()

    # EDD 3.0 ---------------------------------------------------------------------------------------------------------
    @function(0x13, 0x41, source="INT 13/AH=41h; EDD 3.0, Check Extensions Present")
    def check_extensions(self, frame: Frame) -> None:
        drive = self._drive(frame)
        if drive is None:
            return
        if frame.bx != 0x55AA or drive.number < 0x80:
            frame.fail(BAD_COMMAND)
            return
        frame.bx, frame.cx = 0xAA55, _EDD_SUBSETS
        frame.done(_EDD_VERSION)

    @function(
        0x13,
        0x42,
        0x43,
        0x44,
        0x47,
        source="INT 13/AH=42h, 43h, 44h, 47h; EDD 3.0, Extended Read, Write, Verify, Seek",
    )
    def packet_transfer(self, frame: Frame) -> None:
        """The disk address packet at DS:SI says what and where."""
        drive = self._drive(frame)
        if drive is None:
            return
        if drive.number < 0x80:
            frame.fail(BAD_COMMAND)
            return
        at = linear(frame.ds, frame.si)
        size, _, count, _, offset, segment, lba = struct.unpack("<BBBBHHQ", self.platform.memory.read(at, 16))
        if size < 16 or count > _MAX_PACKET_SECTORS:
            frame.fail(BAD_COMMAND)
            return
        buffer = linear(segment, offset)
        if (segment, offset) == (0xFFFF, 0xFFFF) and size >= 24:
            buffer = Gpa(int.from_bytes(self.platform.memory.read(Gpa(at + 16), 8), "little"))
        operation = {0x42: "read", 0x43: "write", 0x44: "verify", 0x47: "seek"}[frame.ah]
        status = (
            (OK if drive.holds(lba, 1) else BAD_SECTOR)
            if operation == "seek"
            else (self._transfer(drive, operation, lba, count, buffer))
        )
        if status != OK and operation != "seek":
            self.platform.memory.write(Gpa(at + 2), b"\0")
        self._finish(frame, status)

    @function(0x13, 0x48, source="INT 13/AH=48h; EDD 3.0, Get Drive Parameters")
    def extended_parameters(self, frame: Frame) -> None:
        """Fills the 26 bytes of EDD 1.0, or 30 without a device parameter table (FFFF:FFFF), as they fit."""
        drive = self._drive(frame)
        if drive is None:
            return
        at = linear(frame.ds, frame.si)
        (room,) = struct.unpack("<H", self.platform.memory.read(at, 2))
        if room < 26 or drive.number < 0x80:
            frame.fail(BAD_COMMAND)
            return
        geometry = drive.geometry
        # Information flags: 2 removable, 1 geometry valid; a CD leaves CHS at -1 (EDD 3.0, table "Information flags")
        flags = (0x02 if geometry else 0) | (0x04 | 0x40 if drive.removable else 0)
        chs = (geometry.cylinders, geometry.heads, geometry.sectors) if geometry else (0xFFFFFFFF,) * 3
        result = struct.pack(
            "<HHIIIQH", 30 if room >= 30 else 26, flags, *chs, drive.sectors, drive.sector_size
        )
        if room >= 30:
            result += b"\xff\xff\xff\xff"
        self.platform.memory.write(at, result)
        frame.done()

    @function(0x13, 0x49, source="INT 13/AH=49h; EDD 3.0, Get Extended Disk Change")
    def extended_change(self, frame: Frame) -> None:
        if self._drive(frame) is not None:
            frame.done()

    @function(0x13, 0x4E, source="INT 13/AH=4Eh; EDD 3.0, Set Hardware Configuration")
    def hardware_configuration(self, frame: Frame) -> None:
        """Prefetch and DMA modes: accepted; the image has none."""
        if self._drive(frame) is not None:
            frame.al = 0
            frame.done()

    # El Torito -------------------------------------------------------------------------------------------------------
    @function(0x13, 0x4B00, 0x4B01, source="INT 13/AX=4B00h, 4B01h; El Torito §4.1, §4.2")
    def emulation_status(self, frame: Frame) -> None:
        """The specification packet to DS:SI; 4B00h ends an emulation as well. DL=7Fh means all."""
        entry = self.boot_entry
        if entry is None or frame.dl not in (0x7F, self.boot_drive):
            frame.fail(BAD_COMMAND)
            return
        self.platform.memory.write(linear(frame.ds, frame.si), specification_packet(self.boot_drive, entry))
        if (
            frame.al == 0x00
            and self.drives.get(self.boot_drive) is not None
            and self.drives[self.boot_drive].emulated
        ):
            self.drives = {drive.number: drive for drive in self._configured}
            self.boot_entry = None
            self.write_counts()
        frame.done()
