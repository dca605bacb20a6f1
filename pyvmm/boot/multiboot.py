"""Multiboot 1 kernels: ELF files and flat ones that give their own load addresses (the "a.out kludge").

Source: GNU "Multiboot Specification version 0.6.96", §3.1 (header), §3.2 (machine state), §3.3 (boot information).
The initrd is the one module. The command line is what the user gave, without a program name before it.
Left out, and refused when the kernel demands them: a video mode (flag 2) and flags 3-15. Not given: symbols, drives,
the BIOS configuration table, APM and VBE.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from typing import Final

from pyvmm.boot.e820 import E820_RAM
from pyvmm.boot.elf import MAGIC, parse_elf
from pyvmm.boot.entry import CODE_32, DATA_32, EntrySegment, EntryState, KernelInfo, build_gdt
from pyvmm.boot.image import KernelImage
from pyvmm.boot.ram import FOUR_GIB, RamMap
from pyvmm.machine.layout import BOOT_DATA_BASE, HIGH_MEMORY_BASE
from pyvmm.units import MIB, Gpa

HEADER_MAGIC: Final = 0x1BADB002
LOADER_MAGIC: Final = 0x2BADB002
SEARCH_SIZE: Final = 8192
PAGE_ALIGN: Final = 1 << 0
MEMORY_INFO: Final = 1 << 1
VIDEO_MODE: Final = 1 << 2
REQUIREMENTS: Final = 0xFFFF
"""A flag in this half that the loader does not know must make it refuse (§3.1.2)."""
ADDRESS_FIELDS: Final = 1 << 16

# Boot information: flags, mem_lower, mem_upper, boot_device, cmdline, mods_count, mods_addr, syms[4], mmap_length,
# mmap_addr, drives_length, drives_addr, config_table, boot_loader_name, apm_table
INFO: Final = struct.Struct("<18I")
INFO_MEMORY: Final = 1 << 0
INFO_COMMAND_LINE: Final = 1 << 2
INFO_MODULES: Final = 1 << 3
INFO_MEMORY_MAP: Final = 1 << 6
INFO_LOADER_NAME: Final = 1 << 9


@dataclass(frozen=True, slots=True)
class MultibootHeader:
    """A header with a right checksum, at `offset` in the file; `addresses` when it has them (flag 16)."""

    offset: int
    flags: int
    addresses: tuple[int, int, int, int, int] | None
    """header_addr, load_addr, load_end_addr, bss_end_addr, entry_addr."""


def find_multiboot_header(image: KernelImage) -> MultibootHeader | None:
    """Look for a header in the first 8 KiB, 4-byte aligned.

    Raises
    ------
    BootError
        When the magic number is there, but only with a wrong checksum.
    """
    head = bytes(image.data[:SEARCH_SIZE])
    wrong = -1
    for offset in range(0, len(head) - 11, 4):
        magic, flags, checksum = struct.unpack_from("<III", head, offset)
        if magic != HEADER_MAGIC:
            continue
        if (magic + flags + checksum) & 0xFFFFFFFF:
            wrong = offset
            continue
        addresses = None
        if flags & ADDRESS_FIELDS:
            if offset + 32 > len(head):
                raise image.error(f"multiboot header at offset {offset:#x}: its address fields are cut off")
            addresses = struct.unpack_from("<5I", head, offset + 12)
        return MultibootHeader(offset, flags, addresses)
    if wrong >= 0:
        raise image.error(f"multiboot header at offset {wrong:#x}: wrong checksum, the file is corrupt")
    return None


def load_multiboot(
    image: KernelImage,
    header: MultibootHeader,
    ram: RamMap,
    *,
    initrd: KernelImage | None = None,
    append: bytes = b"",
) -> EntryState:
    """Load a multiboot kernel.

    Raises
    ------
    BootError
        When it demands something that is not offered, or does not fit into RAM.
    """
    if header.flags & VIDEO_MODE:
        where = f"multiboot header at offset {header.offset:#x}"
        raise image.error(f"{where}: flag 2 demands a video mode, which is not offered")
    unknown = header.flags & REQUIREMENTS & ~(PAGE_ALIGN | MEMORY_INFO)
    if unknown:
        raise image.error(
            f"multiboot header at offset {header.offset:#x}: flags {unknown:#x} demand unknown features"
        )
    if header.addresses is not None:
        address, size, entry = _load_by_addresses(image, header.offset, header.addresses, ram)
    else:
        address, size, entry = _load_elf(image, ram)

    code, data = EntrySegment(0x08, CODE_32), EntrySegment(0x10, DATA_32)
    gdt = build_gdt(code, data)
    info_address = ram.place(image, bytes(INFO.size), "the boot information", above=BOOT_DATA_BASE)
    gdt_address = ram.place(image, gdt, "the GDT", above=BOOT_DATA_BASE)
    initrd_address = 0
    if initrd is not None:
        initrd_address = ram.place_high(
            initrd, initrd.data, "the initrd", above=HIGH_MEMORY_BASE, limit=FOUR_GIB
        )
    info = _boot_information(image, ram, initrd, initrd_address, append)
    ram.memory.load(Gpa(info_address), info)
    return EntryState(
        mode="protected",
        rip=entry,
        gpr={"rax": LOADER_MAGIC, "rbx": info_address},
        gdt=(Gpa(gdt_address), len(gdt)),
        code=code,
        data=data,
        description=f"multiboot kernel, 32-bit entry at {entry:#x}",
        kernel=KernelInfo(
            "multiboot",
            "",
            "1",
            Gpa(address),
            size,
            Gpa(initrd_address),
            initrd.size if initrd is not None else 0,
        ),
    )


def _load_by_addresses(
    image: KernelImage, offset: int, addresses: tuple[int, int, int, int, int], ram: RamMap
) -> tuple[int, int, int]:
    """Load a flat kernel (§3.1.3); return its address, its extent and its entry point."""
    header_address, load, load_end, bss_end, entry = addresses
    start = offset - (header_address - load)
    size = load_end - load if load_end else image.size - start
    end = max(bss_end, load + size)
    if header_address < load or start < 0 or size <= 0 or (bss_end and bss_end < load + size):
        raise image.error(
            f"multiboot header at offset {offset:#x}: header_addr {header_address:#x}, load_addr {load:#x}, "
            f"load_end_addr {load_end:#x} and bss_end_addr {bss_end:#x} contradict each other"
        )
    data = image.part(start, size, "multiboot load area")
    if not load <= entry < end:
        raise image.error(
            f"multiboot header at offset {offset:#x}: entry_addr {entry:#x} is outside the loaded kernel"
        )
    ram.claim(image, load, end - load, "the kernel")
    ram.memory.load(Gpa(load), data)
    ram.clear(load + size, end - load - size)
    return load, end - load, entry


def _load_elf(image: KernelImage, ram: RamMap) -> tuple[int, int, int]:
    """Load an ELF kernel; return its address, its extent and the physical address of its entry point."""
    if not image.has(MAGIC):
        raise image.error("a multiboot kernel that is not ELF and gives no load addresses (header flag 16)")
    elf = parse_elf(image)
    entry = elf.physical_entry()
    if entry is None or entry >= FOUR_GIB:
        raise image.error(f"ELF e_entry {elf.entry:#x} is in no loadable segment below 4 GiB")
    address, size = elf.load(ram)
    return address, size, entry


def _boot_information(
    image: KernelImage, ram: RamMap, initrd: KernelImage | None, initrd_address: int, append: bytes
) -> bytes:
    """Place what the boot information points to (§3.3) and return the structure itself."""

    def place(data: bytes, what: str) -> int:
        return ram.place(image, data, what, above=BOOT_DATA_BASE)

    flags = INFO_MEMORY | INFO_COMMAND_LINE | INFO_MODULES | INFO_MEMORY_MAP | INFO_LOADER_NAME
    modules = 0
    if initrd is not None:
        name = place(os.fsencode(initrd.name) + b"\0", "the module's name")
        modules = place(
            struct.pack("<4I", initrd_address, initrd_address + initrd.size, name, 0), "the module list"
        )
    # `size` counts the bytes after itself.
    rows = b"".join(struct.pack("<IQQI", 20, e.base, e.size, e.kind) for e in ram.entries)
    memory_map = place(rows, "the memory map")
    lower = next((e.size for e in ram.entries if e.kind == E820_RAM and e.base == 0), 0) // 1024
    upper = next((e.size for e in ram.entries if e.kind == E820_RAM and e.base == MIB), 0) // 1024
    return INFO.pack(
        flags,
        min(lower, 640),
        min(upper, 0xFFFFFFFF),
        0,
        place(append + b"\0", "the command line"),
        1 if initrd is not None else 0,
        modules,
        0,
        0,
        0,
        0,
        len(rows),
        memory_map,
        0,
        0,
        0,
        place(b"pyvmm\0", "the boot loader's name"),
        0,
    )
