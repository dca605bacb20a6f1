"""Booting from CD: the boot catalogue of the El Torito specification 1.0 (1995), §2.

Its initial/default entry is taken. Section headers (other platforms) are left out.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from pyvmm.firmware.drives import (
    CD_SECTOR,
    FLOPPY_FORMATS,
    SECTOR,
    BiosDrive,
    FloppyFormat,
    Geometry,
)

BOOT_RECORD_SECTOR: Final = 17
_SYSTEM_ID: Final = b"EL TORITO SPECIFICATION"
_BOOTABLE: Final = 0x88
NO_EMULATION, FLOPPY_1200, FLOPPY_1440, FLOPPY_2880, HARD_DISK = range(5)
_FLOPPY_BYTES: Final = {FLOPPY_1200: 1200 * 1024, FLOPPY_1440: 1440 * 1024, FLOPPY_2880: 2880 * 1024}


@dataclass(frozen=True, slots=True)
class BootEntry:
    """El Torito §2.2, initial/default entry.

    Attributes
    ----------
    media
        0 no emulation, 1 to 3 floppy of 1.2, 1.44 or 2.88 MB, 4 hard disk.
    segment
        Where to load; 0 in the catalogue means 07C0h.
    sectors
        512-byte sectors to load.
    lba
        CD sector of the image.
    """

    media: int
    segment: int
    system_type: int
    sectors: int
    lba: int
    catalogue_lba: int


def read_boot_entry(cd: BiosDrive) -> BootEntry:
    """Find and check the boot catalogue.

    Raises
    ------
    ValueError
        Saying in one phrase why the CD cannot be booted.
    """
    if not cd.holds(BOOT_RECORD_SECTOR, 1):
        raise ValueError("too short for a CD")
    record = cd.read(BOOT_RECORD_SECTOR, 1)
    if record[:7] != b"\0CD001\1" or not record[7:39].startswith(_SYSTEM_ID):
        raise ValueError(f"no El Torito boot record in sector {BOOT_RECORD_SECTOR}")
    (catalogue_lba,) = struct.unpack_from("<I", record, 0x47)
    if not cd.holds(catalogue_lba, 1):
        raise ValueError(f"boot catalogue in sector {catalogue_lba}, beyond the end")
    catalogue = cd.read(catalogue_lba, 1)
    validation = struct.unpack_from("<16H", catalogue)
    if catalogue[0] != 1 or catalogue[0x1E:0x20] != b"\x55\xaa" or sum(validation) & 0xFFFF:
        raise ValueError(f"boot catalogue in sector {catalogue_lba}: validation entry is damaged")
    indicator, media, segment, system_type, sectors, lba = struct.unpack_from("<BBHBxHI", catalogue, 32)
    if indicator != _BOOTABLE:
        raise ValueError("boot catalogue says that it is not bootable")
    if media & 0x0F > HARD_DISK:
        raise ValueError(f"boot catalogue: unknown media type {media & 0x0F}")
    entry = BootEntry(media & 0x0F, segment or 0x07C0, system_type, sectors or 1, lba, catalogue_lba)
    if not cd.holds(lba, (entry.sectors * SECTOR + CD_SECTOR - 1) // CD_SECTOR):
        raise ValueError(f"boot image in sector {lba}, beyond the end")
    return entry


def emulated_drive(cd: BiosDrive, entry: BootEntry) -> BiosDrive | None:
    """The floppy (00h) or hard disk (80h) that the entry asks for; None without emulation.

    Raises
    ------
    ValueError
        When the image on the CD cannot be one.
    """
    start = entry.lba * CD_SECTOR
    if entry.media == NO_EMULATION:
        return None
    if entry.media == HARD_DISK:
        partition = cd.image.pread(SECTOR, start)[0x1BE:0x1CE]
        heads, sectors = partition[5] + 1, partition[6] & 0x3F
        first, count = struct.unpack_from("<II", partition, 8)
        total = first + count
        if not sectors or not count or start + total * SECTOR > cd.image.size:
            raise ValueError("hard disk image: its partition table is empty or goes beyond the end")
        geometry = Geometry(max(1, min(1024, -(-total // (heads * sectors)))), heads, sectors)
        return BiosDrive(
            0x80,
            f"{cd.name} (hard disk image)",
            cd.image,
            SECTOR,
            total,
            geometry,
            read_only=True,
            start=start,
            emulated=True,
        )
    size = _FLOPPY_BYTES[entry.media]
    fmt: FloppyFormat = FLOPPY_FORMATS[size]
    sectors = min(size, cd.image.size - start) // SECTOR
    return BiosDrive(
        0x00,
        f"{cd.name} (floppy image)",
        cd.image,
        SECTOR,
        sectors,
        fmt.geometry,
        fmt.drive_type,
        read_only=True,
        removable=True,
        start=start,
        emulated=True,
    )


def specification_packet(drive_number: int, entry: BootEntry) -> bytes:
    """What INT 13h/AX=4B01h returns (El Torito §4.1, specification packet, 13h bytes)."""
    return struct.pack(
        "<BBBBIHHHBBB",
        0x13,
        entry.media,
        drive_number,
        0,
        entry.lba,
        0,
        0,
        entry.segment,
        entry.sectors & 0xFF,
        0,
        0,
    )
