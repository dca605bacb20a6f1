"""Puts the built-in guest together: boot sector, setup code and kernel become a bootable MBR disk, raw and as qcow2 v3.

    mkdisk.py --mbr mbr.bin --setup setup.bin --kernel kernel.bin --qcow2 builtin.qcow2 [--raw builtin.raw]

Layout: LBA 0 the MBR, LBA 1 and up the boot image (setup, kernel), LBA 2048 and up partition 1, the shell's data area.
The qcow2 file follows QEMU's docs/interop/qcow2.txt, version 3: 64 KiB clusters, 16-bit refcounts, no compression;
clusters of zeros are not allocated. The same inputs give the same bytes. Standard library only: it runs before pyvmm
is installed. Left out: backing files, images of more clusters than one refcount block counts (2 GiB of data).
"""

from __future__ import annotations

import argparse
import struct
import sys
from pathlib import Path

SECTOR = 512
PARTITION_START = 2048
PARTITION_TYPE = 0xDA  # non-file-system data
DISK_SIGNATURE = 0x4D4D5650
IMAGE_MAGIC = b"PVMG"
IMAGE_LIMIT = 0x70000  # BOOT_IMAGE_LIMIT of layout.h
MBR_SECTORS_LEFT = 0x1B0
MBR_SIGNATURE = 0x1B8
MBR_PARTITIONS = 0x1BE
DATA_GREETING = b"This is the data area of the pyvmm built-in guest. `disk write LBA TEXT` writes here.\n"

CLUSTER_BITS = 16
CLUSTER = 1 << CLUSTER_BITS
COPIED = 1 << 63  # L1 and L2 entries: the cluster's refcount is exactly one


class LayoutError(ValueError):
    """An input that does not fit; the message names the file and what to do."""


def build_boot_image(setup: bytes, kernel: bytes) -> bytes:
    """Return setup and kernel as the boot sector reads them, whole sectors, with the kernel's size filled in."""
    if setup[4:8] != IMAGE_MAGIC or len(setup) % SECTOR:
        raise LayoutError(
            "setup: no magic at offset 4, or not whole sectors; was it built from boot/setup.S?"
        )
    image = bytearray(setup + kernel)
    struct.pack_into("<I", image, 8, len(kernel))
    image += bytes(-len(image) % SECTOR)
    if len(image) > IMAGE_LIMIT:
        raise LayoutError(
            f"kernel: boot image of {len(image)} bytes, at most {IMAGE_LIMIT} fit below 0x80000"
        )
    if len(image) > (PARTITION_START - 1) * SECTOR:
        raise LayoutError(
            f"kernel: boot image of {len(image)} bytes does not fit before LBA {PARTITION_START}"
        )
    return bytes(image)


def chs(lba: int) -> bytes:
    """Return the three CHS bytes of a partition record for 255 heads and 63 sectors (UEFI 2.10 §5.2.1)."""
    cylinder, rest = divmod(lba, 255 * 63)
    head, sector = divmod(rest, 63)
    if cylinder > 1023:
        return bytes((254, 0xFF, 0xFF))
    return bytes((head, sector + 1 | cylinder >> 2 & 0xC0, cylinder & 0xFF))


def build_disk(mbr: bytes, image: bytes, size: int) -> bytes:
    """Return the raw disk of `size` bytes."""
    if len(mbr) != SECTOR or mbr[510:] != b"\x55\xaa":
        raise LayoutError(f"mbr: {len(mbr)} bytes, must be 512 and end in 55 AA")
    sectors = size // SECTOR
    if size % SECTOR or sectors <= PARTITION_START:
        raise LayoutError(f"--size {size}: must be whole sectors and above {PARTITION_START * SECTOR} bytes")
    disk = bytearray(size)
    disk[:SECTOR] = mbr
    struct.pack_into("<H", disk, MBR_SECTORS_LEFT, len(image) // SECTOR)
    struct.pack_into("<I", disk, MBR_SIGNATURE, DISK_SIGNATURE)
    count = sectors - PARTITION_START
    record = b"\x80" + chs(PARTITION_START) + bytes((PARTITION_TYPE,)) + chs(sectors - 1)
    disk[MBR_PARTITIONS : MBR_PARTITIONS + 16] = record + struct.pack("<II", PARTITION_START, count)
    disk[SECTOR : SECTOR + len(image)] = image
    start = PARTITION_START * SECTOR
    disk[start : start + len(DATA_GREETING)] = DATA_GREETING
    return bytes(disk)


def build_qcow2(disk: bytes) -> bytes:
    """Return `disk` as a qcow2 version 3 image: header, refcount table and block, L1, L2 tables, data."""
    clusters = [disk[at : at + CLUSTER] for at in range(0, len(disk), CLUSTER)]
    per_l2 = CLUSTER // 8
    l2_count = -(-len(clusters) // per_l2)
    l1_at, l2_at = 3, 4  # cluster numbers; 0 header, 1 refcount table, 2 refcount block
    data_at = l2_at + l2_count
    l2 = [0] * (l2_count * per_l2)
    body = bytearray()
    for index, cluster in enumerate(clusters):
        if cluster.strip(b"\0"):
            l2[index] = (data_at << CLUSTER_BITS) + len(body) | COPIED
            body += cluster.ljust(CLUSTER, b"\0")
    used = data_at + len(body) // CLUSTER
    if used > CLUSTER // 2 or l2_count > CLUSTER // 8:
        raise LayoutError(f"--size {len(disk)}: more clusters than one refcount block counts")

    header = struct.pack(
        ">4sIQIIQIIQQIIQ QQQII B7x",
        b"QFI\xfb", 3, 0, 0, CLUSTER_BITS, len(disk), 0, l2_count, l1_at * CLUSTER, CLUSTER, 1, 0, 0,
        0, 0, 0, 4, 112, 0,
    )  # fmt: skip
    l1 = [(l2_at + i) << CLUSTER_BITS | COPIED for i in range(l2_count)]
    parts = (
        header,
        struct.pack(">Q", 2 * CLUSTER),
        struct.pack(f">{used}H", *[1] * used),
        struct.pack(f">{l2_count}Q", *l1),
        struct.pack(f">{len(l2)}Q", *l2),
    )
    padded = b"".join(part + bytes(-len(part) % CLUSTER) for part in parts)
    return padded + bytes(body)


def main(arguments: list[str] | None = None) -> int:
    """Build the files named on the command line; return the exit code."""
    parser = argparse.ArgumentParser(description="Build the disk of the built-in guest.")
    parser.add_argument("--mbr", type=Path, required=True)
    parser.add_argument("--setup", type=Path, required=True)
    parser.add_argument("--kernel", type=Path, required=True)
    parser.add_argument("--raw", type=Path)
    parser.add_argument("--qcow2", type=Path)
    parser.add_argument("--size", type=int, default=8 << 20, help="bytes, default 8 MiB")
    options = parser.parse_args(arguments)
    try:
        image = build_boot_image(options.setup.read_bytes(), options.kernel.read_bytes())
        disk = build_disk(options.mbr.read_bytes(), image, options.size)
        if options.raw:
            options.raw.write_bytes(disk)
        if options.qcow2:
            options.qcow2.write_bytes(build_qcow2(disk))
    except (LayoutError, OSError) as error:
        print(f"mkdisk: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
