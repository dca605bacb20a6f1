"""ELF kernels by PVH: 32-bit entry with a start-info structure.

Source: Xen `docs/misc/pvh.pandoc` ("PVH Specification", "x86/HVM direct boot ABI") and the public header
`arch-x86/hvm/start_info.h`, version 1 of the structure; the entry point is the ELF note XEN_ELFNOTE_PHYS32_ENTRY.
"""

from __future__ import annotations

import struct
from typing import Final

from pyvmm.boot.elf import ElfFile
from pyvmm.boot.entry import CODE_32, DATA_32, EntrySegment, EntryState, KernelInfo, build_gdt
from pyvmm.boot.image import KernelImage
from pyvmm.boot.ram import FOUR_GIB, RamMap
from pyvmm.machine.layout import BOOT_DATA_BASE, HIGH_MEMORY_BASE
from pyvmm.units import Gpa

NOTE_NAME: Final = b"Xen"
XEN_ELFNOTE_PHYS32_ENTRY: Final = 18
START_INFO_MAGIC: Final = 0x336EC578
START_INFO: Final = struct.Struct("<IIIIQQQQII")
"""magic, version, flags, nr_modules, modlist, cmdline, rsdp, memmap addresses, memmap_entries, reserved."""
MODULE: Final = struct.Struct("<QQQQ")
"""Address, size, command line address, reserved."""
MEMORY_MAP_ENTRY: Final = struct.Struct("<QQII")
"""Address, size, type (numbered as E820's), reserved."""


def pvh_entry(elf: ElfFile) -> int | None:
    """Return the physical address of the PVH entry point, or None when the file has no such note.

    Raises
    ------
    BootError
        When a note is corrupt or the address is not of 4 or 8 bytes.
    """
    for note in elf.notes():
        if note.name == NOTE_NAME and note.type == XEN_ELFNOTE_PHYS32_ENTRY:
            if len(note.descriptor) not in (4, 8):
                raise elf.image.error(
                    f"PVH entry note of {len(note.descriptor)} bytes, expected 4 or 8: corrupt file"
                )
            return int.from_bytes(note.descriptor, "little")
    return None


def load_pvh(
    elf: ElfFile,
    entry: int,
    ram: RamMap,
    *,
    initrd: KernelImage | None = None,
    append: bytes = b"",
    acpi_rsdp: Gpa | None = None,
) -> EntryState:
    """Load an ELF kernel whose PVH entry point is `entry`; the initrd is its first module.

    Raises
    ------
    BootError
        When a segment, the initrd or the entry point is not inside RAM.
    """
    image = elf.image
    address, size = elf.load(ram)
    if not address <= entry < min(address + size, FOUR_GIB):
        where = f"{address:#x}-{address + size - 1:#x}"
        raise image.error(f"PVH entry point {entry:#x} is not inside the loaded kernel ({where})")
    code, data = EntrySegment(0x08, CODE_32), EntrySegment(0x10, DATA_32)
    task = EntrySegment(0x18, 0x008B, limit=0x67)
    gdt = build_gdt(code, data, task)
    start_info = ram.place(image, bytes(START_INFO.size), "hvm_start_info", above=BOOT_DATA_BASE)
    gdt_address = ram.place(image, gdt, "the GDT", above=BOOT_DATA_BASE)

    modules = initrd_address = initrd_size = 0
    if initrd is not None:
        initrd_size = initrd.size
        initrd_address = ram.place_high(
            initrd, initrd.data, "the initrd", above=HIGH_MEMORY_BASE, limit=FOUR_GIB
        )
        entry_bytes = MODULE.pack(initrd_address, initrd_size, 0, 0)
        modules = ram.place(image, entry_bytes, "the module list", above=BOOT_DATA_BASE)
    rows = b"".join(MEMORY_MAP_ENTRY.pack(e.base, e.size, e.kind, 0) for e in ram.entries)
    memory_map = ram.place(image, rows, "the memory map", above=BOOT_DATA_BASE)
    line = ram.place(image, append + b"\0", "the command line", above=BOOT_DATA_BASE)
    ram.memory.load(
        Gpa(start_info),
        START_INFO.pack(
            START_INFO_MAGIC,
            1,
            0,
            1 if initrd else 0,
            modules,
            line,
            acpi_rsdp or 0,
            memory_map,
            len(ram.entries),
            0,
        ),
    )
    return EntryState(
        mode="protected",
        rip=entry,
        gpr={"rbx": start_info},
        gdt=(Gpa(gdt_address), len(gdt)),
        code=code,
        data=data,
        task=task,
        description=f"ELF{elf.bits} kernel by PVH, 32-bit entry at {entry:#x}",
        kernel=KernelInfo("PVH ELF", "", "1", address, size, Gpa(initrd_address), initrd_size),
    )
