"""Direct start of a kernel file, without a boot loader of the guest's: which protocol, by the file's content.

An ELF file with a PVH note starts by PVH, another one by its multiboot header; a file with a Linux setup header by the
Linux boot protocol; else a multiboot header is looked for. Everything that the kernel is given (memory map, command
line, initrd) ends up in guest RAM before the first instruction; nothing is emulated afterwards.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Final

from pyvmm.boot.e820 import E820Entry, e820_map
from pyvmm.boot.elf import MAGIC, parse_elf
from pyvmm.boot.entry import EntryState
from pyvmm.boot.image import KernelImage
from pyvmm.boot.linux import is_linux, load_linux
from pyvmm.boot.multiboot import find_multiboot_header, load_multiboot
from pyvmm.boot.pvh import load_pvh, pvh_entry
from pyvmm.boot.ram import LoadTarget, RamMap
from pyvmm.errors import BootError
from pyvmm.units import Gpa

HINTS: Final = (
    (0, b"\x1f\x8b", "a gzip file: decompress it first"),
    (0, b"\xfd7zXZ\0", "an xz file: decompress it first"),
    (0, b"\x28\xb5\x2f\xfd", "a zstd file: decompress it first"),
    (0, b"QFI\xfb", "a qcow2 disk image: give it as the disk"),
    (0x8001, b"CD001", "a CD image: give it as a disk"),
    (0, b"070701", "a cpio archive: give it with --initrd"),
    (0, b"MZ", "an EFI program without a Linux header"),
    (0x1FE, b"\x55\xaa", "a boot sector without a Linux header: a disk image, give it as the disk"),
)
"""Files that are taken for kernels by mistake: offset, magic bytes, what to do."""


def load_kernel(
    memory: LoadTarget,
    path: str | os.PathLike[str],
    *,
    memory_size: int,
    initrd: str | os.PathLike[str] | None = None,
    append: str = "",
    reserved: Sequence[E820Entry] = (),
    acpi_rsdp: Gpa | None = None,
    long_mode: bool = True,
    screen: Callable[[bytes], bytes] | None = None,
) -> EntryState:
    """Load a kernel file into guest memory and return how the vCPU enters it.

    Parameters
    ----------
    memory
        Guest memory to fill.
    path
        bzImage, ELF kernel with a PVH entry, or multiboot kernel.
    memory_size
        Guest RAM in bytes.
    initrd
        Initial RAM disk (Linux, PVH) or module (multiboot).
    append
        Kernel command line.
    reserved
        Parts of RAM that are taken already, like ACPI tables.
    acpi_rsdp
        Where the RSDP is, for kernels that can be told.
    long_mode
        False on a vCPU without 64-bit mode: a bzImage is then entered in 32-bit mode.
    screen
        See `load_linux`.

    Raises
    ------
    BootError
        One line about the file, the field, or the option to change.
    """
    image = KernelImage.open(path)
    disk = KernelImage.open(initrd, role="initrd") if initrd is not None else None
    ram = RamMap(memory, e820_map(memory_size, reserved))
    return load_image(
        image,
        ram,
        initrd=disk,
        append=append,
        acpi_rsdp=acpi_rsdp,
        long_mode=long_mode,
        screen=screen,
    )


def load_image(
    image: KernelImage,
    ram: RamMap,
    *,
    initrd: KernelImage | None = None,
    append: str = "",
    acpi_rsdp: Gpa | None = None,
    long_mode: bool = True,
    screen: Callable[[bytes], bytes] | None = None,
) -> EntryState:
    """Load a kernel that is open already; parameters and errors as `load_kernel`."""
    line = append.encode("utf-8", "surrogateescape")
    if b"\0" in line:
        raise BootError("--append: a kernel command line cannot contain a NUL character")
    if image.has(MAGIC):
        elf = parse_elf(image)
        entry = pvh_entry(elf)
        if entry is not None:
            return load_pvh(elf, entry, ram, initrd=initrd, append=line, acpi_rsdp=acpi_rsdp)
    elif is_linux(image):
        return load_linux(
            image,
            ram,
            initrd=initrd,
            append=line,
            acpi_rsdp=acpi_rsdp,
            long_mode=long_mode,
            screen=screen,
        )
    header = find_multiboot_header(image)
    if header is not None:
        return load_multiboot(image, header, ram, initrd=initrd, append=line)
    raise image.error(f"not a kernel that can be started directly: {_describe(image)}")


def _describe(image: KernelImage) -> str:
    """What a file seems to be instead of a kernel, and what to do."""
    if image.has(MAGIC):
        return (
            "an ELF file with neither a PVH entry note nor a multiboot header "
            "(for Linux: give the bzImage, or build vmlinux with CONFIG_PVH)"
        )
    for offset, magic, meaning in HINTS:
        if image.has(magic, offset):
            return meaning
    return "neither bzImage nor ELF nor multiboot"
