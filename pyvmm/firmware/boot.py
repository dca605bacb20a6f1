"""INT 19h and 18h: find something to boot, or say why each drive could not.

Sources: BIOS Boot Specification 1.01 §6 (INT 19h, INT 18h); RBIL INT 19, INT 18; El Torito 1.0 §1.1. A boot sector is
taken if it ends in 55AAh; it starts at 0000:7C00 with DL = drive.
"""

from __future__ import annotations

from typing import Final

from pyvmm.errors import BootError, PyvmmError
from pyvmm.firmware.disk import Disk
from pyvmm.firmware.drives import SECTOR, BiosDrive
from pyvmm.firmware.eltorito import BootEntry, emulated_drive, read_boot_entry
from pyvmm.firmware.frame import IF, Frame, linear
from pyvmm.firmware.group import ServiceGroup, function
from pyvmm.firmware.platform import Platform
from pyvmm.firmware.rom import BOOT_STACK
from pyvmm.firmware.video import Video
from pyvmm.machine import layout
from pyvmm.units import Gpa

_KINDS: Final = {"c": "hard disk", "d": "CD", "a": "floppy"}
_OFFSET: Final = BOOT_STACK
"""A boot sector goes to 0000:7C00, right above the stack."""


class Boot(ServiceGroup):
    """The boot order; INT 18h, which a boot sector calls to give up, goes on with the next drive."""

    def __init__(self, platform: Platform, disk: Disk, video: Video, order: str) -> None:
        super().__init__(platform)
        self.disk = disk
        self.video = video
        self.order = order
        self.failures: list[str] = []
        self._candidates: list[str | BiosDrive] = []

    def reset(self) -> None:
        self.failures = []
        self._candidates = []

    def _list(self) -> list[str | BiosDrive]:
        """Drives in boot order; a string is a reason why a letter has none."""
        found: list[str | BiosDrive] = []
        ranges = {"c": range(0x80, 0xE0), "d": range(0xE0, 0x100), "a": range(0x80)}
        for letter in self.order:
            if letter not in ranges:
                found.append(f"boot order: {letter!r} is no kind of drive (c hard disk, d CD, a floppy)")
                continue
            drives = [self.disk.drives[n] for n in sorted(self.disk.drives) if n in ranges[letter]]
            if letter == "c":
                drives = drives[:1]
            found += drives or [f"{_KINDS[letter]}: none"]
        return found

    @function(0x19, source="INT 19; BIOS Boot Specification 1.01 §6.2")
    def bootstrap(self, frame: Frame) -> None:
        """Start over with the first drive."""
        self.disk.reset()
        self.failures = []
        self._candidates = self._list()
        self._next(frame)

    @function(0x18, source="INT 18; BIOS Boot Specification 1.01 §6.1")
    def no_boot(self, frame: Frame) -> None:
        """What was booted gave up."""
        self.failures.append(f"drive {self.disk.boot_drive:02X}h: its boot program gave up (INT 18h)")
        self._next(frame)

    def _next(self, frame: Frame) -> None:
        while self._candidates:
            drive = self._candidates.pop(0)
            if isinstance(drive, str):
                self.failures.append(drive)
                continue
            label = self._label(drive)
            try:
                problem = (
                    self._try_cd(drive, frame) if drive.geometry is None else self._try_sector(drive, frame)
                )
            except (OSError, PyvmmError, ValueError) as error:
                problem = str(error)
            if problem is None:
                return
            self.failures.append(f"{label}: {problem}")
            self.video.print(f"{label}: {problem}\n")
        self.video.print("No bootable drive.\n")
        raise BootError("; ".join(["nothing to boot", *self.failures]))

    @staticmethod
    def _label(drive: BiosDrive) -> str:
        kind, first = (
            ("CD", 0xE0)
            if drive.geometry is None
            else ("hard disk", 0x80)
            if drive.number >= 0x80
            else ("floppy", 0)
        )
        return f"{kind} {drive.number - first} ({drive.name})"

    def _try_sector(self, drive: BiosDrive, frame: Frame) -> str | None:
        if drive.sectors < 1:
            return f"shorter than one sector of {SECTOR} bytes"
        sector = drive.read(0, 1)
        if sector[510:512] != b"\x55\xaa":
            return "no boot signature 55AA at offset 510 of sector 0"
        self._start(frame, drive.number, 0, _OFFSET, sector)
        return None

    def _try_cd(self, drive: BiosDrive, frame: Frame) -> str | None:
        entry: BootEntry = read_boot_entry(drive)
        emulated = emulated_drive(drive, entry)
        size = entry.sectors * SECTOR
        if not 0 < size <= layout.EBDA_BASE - (entry.segment << 4):
            return f"boot catalogue: {entry.sectors} sectors at segment {entry.segment:04X}h do not fit below the EBDA"
        image = drive.image.pread(size, entry.lba * drive.sector_size)
        if emulated is not None:
            self.disk.emulate(emulated, entry)
        else:
            self.disk.boot_entry = entry
        self._start(frame, drive.number if emulated is None else emulated.number, entry.segment, 0, image)
        return None

    def _start(self, frame: Frame, number: int, segment: int, offset: int, code: bytes) -> None:
        """Load, and let the stub's IRET go there."""
        self.platform.memory.write(Gpa(linear(segment, offset)), code)
        self.disk.boot_drive = number
        frame.eax = 0xAA55
        frame.ebx = frame.ecx = frame.esi = frame.edi = frame.ebp = 0
        frame.edx = number
        frame.ds = frame.es = 0
        if segment == 0x07C0:
            segment, offset = 0, _OFFSET
        frame.cs, frame.ip, frame.flags = segment, offset, IF
