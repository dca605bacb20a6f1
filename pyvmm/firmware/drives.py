"""BIOS drives: what INT 13h numbers and addresses, over disk images.

Geometry: Phoenix Enhanced Disk Drive Specification 3.0, annex (LBA assist translation); floppy formats by size, or by
the BIOS parameter block of the image (Microsoft FAT specification, "BPB").
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pyvmm.errors import ImageError
from pyvmm.firmware.platform import Image

SECTOR: Final = 512
CD_SECTOR: Final = 2048
MAX_CYLINDERS: Final = 1024


@dataclass(frozen=True, slots=True)
class Geometry:
    """Cylinders, heads, sectors a track (these count from 1)."""

    cylinders: int
    heads: int
    sectors: int

    def lba(self, cylinder: int, head: int, sector: int) -> int | None:
        """Sector number of a CHS address, None outside."""
        if cylinder >= self.cylinders or head >= self.heads or not 1 <= sector <= self.sectors:
            return None
        return (cylinder * self.heads + head) * self.sectors + sector - 1


@dataclass(frozen=True, slots=True)
class FloppyFormat:
    """A floppy format; `drive_type` is INT 13/AH=08h's (RBIL table 00242)."""

    geometry: Geometry
    drive_type: int


FLOPPY_FORMATS: Final = {
    kib * 1024: FloppyFormat(Geometry(*chs), drive_type)
    for kib, chs, drive_type in (
        (160, (40, 1, 8), 1),
        (180, (40, 1, 9), 1),
        (320, (40, 2, 8), 1),
        (360, (40, 2, 9), 1),
        (720, (80, 2, 9), 3),
        (1200, (80, 2, 15), 2),
        (1440, (80, 2, 18), 4),
        (2880, (80, 2, 36), 6),
    )
}


def hard_disk_geometry(sectors: int) -> Geometry:
    """LBA assist translation: 63 sectors a track, and the fewest of 16, 32, 64, 128 or 255 heads that do with 1024
    cylinders.
    """
    heads = next((h for h in (16, 32, 64, 128) if sectors <= h * 63 * MAX_CYLINDERS), 255)
    return Geometry(max(1, min(sectors // (heads * 63), MAX_CYLINDERS)), heads, 63)


def floppy_format(image: Image, name: str) -> FloppyFormat:
    """The format of a floppy image.

    Raises
    ------
    ImageError
        When neither its size nor its BIOS parameter block gives one.
    """
    known = FLOPPY_FORMATS.get(image.size)
    if known is not None:
        return known
    if image.size >= SECTOR:
        boot = image.pread(SECTOR, 0)
        sectors, heads = (int.from_bytes(boot[at : at + 2], "little") for at in (0x18, 0x1A))
        if boot[0x0B:0x0D] == b"\x00\x02" and 1 <= sectors <= 63 and 1 <= heads <= 2:
            cylinders = image.size // (SECTOR * sectors * heads)
            if 1 <= cylinders <= 85:
                return FloppyFormat(Geometry(cylinders, heads, sectors), 4)
    raise ImageError(
        f"{name}: {image.size} bytes is no floppy size (160K to 2880K), and sector 0 has no BIOS parameter block: "
        "use it as a hard disk"
    )


@dataclass(slots=True)
class BiosDrive:
    """One INT 13h drive: a range of an image, in sectors of `sector_size` bytes.

    Attributes
    ----------
    number
        00h.. floppy, 80h.. hard disk, E0h.. CD.
    geometry
        None for a CD.
    start
        Byte of the image where sector 0 is (a disk emulated from a CD begins inside).
    emulated
        A disk emulated from an El Torito CD.
    """

    number: int
    name: str
    image: Image
    sector_size: int
    sectors: int
    geometry: Geometry | None
    floppy_type: int = 0
    read_only: bool = False
    removable: bool = False
    start: int = 0
    emulated: bool = False
    status: int = 0

    def read(self, lba: int, count: int) -> bytes:
        """Whole sectors; the caller has checked the range. Raises OSError or PyvmmError of the image."""
        return self.image.pread(count * self.sector_size, self.start + lba * self.sector_size)

    def write(self, lba: int, data: bytes) -> None:
        self.image.pwrite(data, self.start + lba * self.sector_size)

    def holds(self, lba: int, count: int) -> bool:
        return lba >= 0 and lba + count <= self.sectors


def hard_disk(number: int, name: str, image: Image) -> BiosDrive:
    """Drive 80h and up over a whole image."""
    sectors = image.size // SECTOR
    return BiosDrive(
        number, name, image, SECTOR, sectors, hard_disk_geometry(sectors), read_only=image.read_only
    )


def floppy(number: int, name: str, image: Image) -> BiosDrive:
    """Drive 00h and up; `ImageError` when the image is no floppy."""
    fmt = floppy_format(image, name)
    g = fmt.geometry
    return BiosDrive(
        number,
        name,
        image,
        SECTOR,
        g.cylinders * g.heads * g.sectors,
        g,
        fmt.drive_type,
        read_only=image.read_only,
        removable=True,
    )


def cdrom(number: int, name: str, image: Image) -> BiosDrive:
    """Drive E0h and up, 2048-byte sectors; a last part of a sector counts as one if it is whole."""
    return BiosDrive(
        number, name, image, CD_SECTOR, image.size // CD_SECTOR, None, read_only=True, removable=True
    )
