"""An MBR disk with GRUB in its gap: the partition table, and GRUB's boot and core images put where the BIOS finds them.

A disk of one Linux partition from sector 2048. GRUB's core image goes to the sectors after the MBR ("MBR gap"), as
`grub-bios-setup` does; that program wants a block device, this wants only an open file.

Sources: the PC partition table (UEFI 2.10 §5.2.1, "Legacy Master Boot Record"); GRUB 2.06 manual, "Images" and "BIOS
installation"; the offsets of the fields are GRUB's own interface between its boot image and its installer.
Left out: more than one partition, GPT, Reed-Solomon codes after the core image.
"""

from __future__ import annotations

import struct
from typing import BinaryIO

from pyvmm.guests.tools import GuestBuildError

SECTOR = 512
PARTITION_START = 2048  # in sectors: 1 MiB, where every partitioner of today starts
LINUX_PARTITION = 0x83

# Fields of GRUB's boot.img (the MBR code).
_BOOT_KERNEL_SECTOR = 0x5C  # u64: first sector of the core image
_BOOT_DRIVE = 0x64  # u8: 0xFF = the drive that the BIOS booted from
_BOOT_DRIVE_CHECK = 0x66  # 2-byte jump; two NOPs turn on the repair of a wrong DL on hard disks
# Field of diskboot.img, the first sector of the core image: the last entry of its block list.
_CORE_BLOCK_LIST = SECTOR - 12  # u64 start, u16 sectors, u16 segment


def chs_address(lba: int) -> bytes:
    """Return the 3-byte CHS address of a sector with 255 heads and 63 sectors; what is beyond gets 1023/254/63."""
    cylinder, rest = divmod(lba, 255 * 63)
    head, sector = divmod(rest, 63)
    if cylinder > 1023:
        cylinder, head, sector = 1023, 254, 62
    return bytes((head, (sector + 1) | (cylinder >> 2 & 0xC0), cylinder & 0xFF))


def partition_entry(start: int, sectors: int, kind: int = LINUX_PARTITION, active: bool = True) -> bytes:
    """Return one 16-byte entry of the partition table; `start` and `sectors` in sectors of 512 bytes."""
    if not 0 < sectors < 1 << 32 or not 0 < start < 1 << 32 or start + sectors > 1 << 32:
        raise GuestBuildError(
            f"a partition of {sectors} sectors at {start} does not fit an MBR: use a smaller --size"
        )
    end = start + sectors - 1
    flag = 0x80 if active else 0
    return (
        bytes((flag,))
        + chs_address(start)
        + bytes((kind,))
        + chs_address(end)
        + struct.pack("<II", start, sectors)
    )


def grub_mbr(boot_image: bytes, disk_signature: int, table: bytes) -> bytes:
    """Return the MBR sector: GRUB's boot image with its fields set, the disk signature and the partition table."""
    if len(boot_image) != SECTOR or boot_image[510:] != b"\x55\xaa":
        raise GuestBuildError("boot.img of GRUB is not a boot sector: reinstall grub-pc-bin")
    mbr = bytearray(boot_image)
    struct.pack_into("<Q", mbr, _BOOT_KERNEL_SECTOR, 1)
    mbr[_BOOT_DRIVE] = 0xFF
    mbr[_BOOT_DRIVE_CHECK : _BOOT_DRIVE_CHECK + 2] = b"\x90\x90"
    struct.pack_into("<IH", mbr, 0x1B8, disk_signature, 0)
    mbr[0x1BE:0x1FE] = table.ljust(64, b"\0")
    return bytes(mbr)


def install_grub(
    disk: BinaryIO, boot_image: bytes, core_image: bytes, sectors: int, disk_signature: int
) -> None:
    """Write MBR and GRUB's core image to a disk file of `sectors` sectors.

    Raises
    ------
    GuestBuildError
        When the core image does not fit before the partition, or an image is not GRUB's.
    """
    core_sectors = -(-len(core_image) // SECTOR)
    if not 1 < core_sectors < PARTITION_START:
        raise GuestBuildError(
            f"GRUB's core image has {core_sectors} sectors: the MBR gap holds {PARTITION_START - 1}"
        )
    core = bytearray(core_image.ljust(core_sectors * SECTOR, b"\0"))
    _, count, _ = struct.unpack_from("<QHH", core, _CORE_BLOCK_LIST)
    if count != core_sectors - 1:
        raise GuestBuildError(
            f"GRUB's core image says {count} sectors and has {core_sectors - 1}: reinstall grub-pc-bin"
        )
    struct.pack_into("<Q", core, _CORE_BLOCK_LIST, 2)
    table = partition_entry(PARTITION_START, sectors - PARTITION_START)
    disk.seek(0)
    disk.write(grub_mbr(boot_image, disk_signature, table) + core)
