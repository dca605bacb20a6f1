"""Linux bzImage by the x86 boot protocol, versions 2.02 to 2.15: 64-bit and 32-bit entry.

Source: Linux `Documentation/arch/x86/boot.rst` ("The Real-Mode Kernel Header", "32-bit Boot Protocol", "64-bit Boot
Protocol") and `zero-page.rst`; screen_info's fields: `include/uapi/linux/screen_info.h`. The real-mode part of the
kernel is not run: the loader does its work, which is the zero page (struct boot_params). screen_info, at its offset 0,
is filled by who has the screen (`firmware/boot_screen.py`); otherwise it stays zero (no screen): Linux writes to none.
Left out: zImage and protocols before 2.02, an initrd above 4 GiB, and setup_data.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

from pyvmm.boot.e820 import E820_RAM
from pyvmm.boot.entry import (
    CODE_32,
    CODE_64,
    DATA_32,
    EntrySegment,
    EntryState,
    KernelInfo,
    build_gdt,
    build_identity_tables,
)
from pyvmm.boot.image import KernelImage
from pyvmm.boot.ram import FOUR_GIB, RamMap, align_up
from pyvmm.machine.layout import BOOT_DATA_BASE, HIGH_MEMORY_BASE
from pyvmm.units import MIB, Gpa, format_size


class Field(NamedTuple):
    """A field of the setup header: offset in the file (and the zero page), bytes, first protocol version."""

    offset: int
    size: int
    since: int


FIELDS: Final = {
    "setup_sects": Field(0x1F1, 1, 0x200),
    "syssize": Field(0x1F4, 4, 0x204),
    "boot_flag": Field(0x1FE, 2, 0x200),
    "jump": Field(0x200, 2, 0x200),
    "version": Field(0x206, 2, 0x200),
    "kernel_version": Field(0x20E, 2, 0x200),
    "type_of_loader": Field(0x210, 1, 0x200),
    "loadflags": Field(0x211, 1, 0x200),
    "code32_start": Field(0x214, 4, 0x200),
    "ramdisk_image": Field(0x218, 4, 0x200),
    "ramdisk_size": Field(0x21C, 4, 0x200),
    "cmd_line_ptr": Field(0x228, 4, 0x202),
    "initrd_addr_max": Field(0x22C, 4, 0x203),
    "kernel_alignment": Field(0x230, 4, 0x205),
    "relocatable_kernel": Field(0x234, 1, 0x205),
    "xloadflags": Field(0x236, 2, 0x20C),
    "cmdline_size": Field(0x238, 4, 0x206),
    "setup_data": Field(0x250, 8, 0x209),
    "pref_address": Field(0x258, 8, 0x20A),
    "init_size": Field(0x260, 4, 0x20A),
}
HEADER_START: Final = 0x1F1
HEADER_MAGIC: Final = b"HdrS"
HEADER_END_MAX: Final = 0x290
"""The zero page's next field (edd_mbr_sig_buffer) begins here."""
OLDEST_PROTOCOL: Final = 0x202
LOADED_HIGH: Final = 1 << 0
XLF_KERNEL_64: Final = 1 << 0
LOADER_UNASSIGNED: Final = 0xFF

# The zero page, zero-page.rst
ZERO_PAGE_SIZE: Final = 4096
SCREEN_INFO_SIZE: Final = 0x40
ACPI_RSDP_ADDR: Final = 0x070
ALT_MEM_K: Final = 0x1E0
E820_ENTRIES: Final = 0x1E8
E820_TABLE: Final = 0x2D0
E820_MAX: Final = 128

BOOT_CS: Final = 0x10
BOOT_DS: Final = 0x18
ENTRY_64_OFFSET: Final = 0x200


@dataclass(frozen=True, slots=True)
class SetupHeader:
    """The setup header's fields by name; one that the kernel's protocol does not have yet reads 0."""

    image: KernelImage
    version: int
    raw: memoryview

    def __getitem__(self, name: str) -> int:
        """Return a field's value."""
        field = FIELDS[name]
        start = field.offset - HEADER_START
        if self.version < field.since or start + field.size > len(self.raw):
            return 0
        return int.from_bytes(self.raw[start : start + field.size], "little")

    @property
    def setup_size(self) -> int:
        """Bytes of boot sector and real-mode code before the protected-mode kernel."""
        return ((self["setup_sects"] or 4) + 1) * 512

    @property
    def protocol(self) -> str:
        """The version in the protocol's own writing, like ``2.15``."""
        return f"{self.version >> 8}.{self.version & 0xFF:02d}"

    @property
    def has_64_bit_entry(self) -> bool:
        """Whether there is an entry point for 64-bit mode at 0x200."""
        return bool(self["xloadflags"] & XLF_KERNEL_64)

    @property
    def kernel_name(self) -> str:
        """The version string that the header points to, up to its first NUL; empty when there is none."""
        start = self["kernel_version"] + 0x200
        if start == 0x200 or start >= self.setup_size:
            return ""
        end = min(start + 255, self.setup_size, self.image.size)
        return bytes(self.image.data[start:end]).split(b"\0")[0].decode("ascii", "replace")


def is_linux(image: KernelImage) -> bool:
    """Tell whether a file has a Linux setup header."""
    return image.has(HEADER_MAGIC, 0x202) and image.has(b"\x55\xaa", FIELDS["boot_flag"].offset)


def read_setup_header(image: KernelImage) -> SetupHeader:
    """Read and check the setup header.

    Raises
    ------
    BootError
        When the protocol is too old, the kernel is a zImage, or a field contradicts another.
    """
    version = image.number(0x206, 2, "boot protocol version")
    if version < OLDEST_PROTOCOL:
        raise image.error(
            f"a Linux kernel with boot protocol {version >> 8}.{version & 0xFF:02d}: 2.02 (Linux 2.4) is the oldest "
            "that can be started directly, boot it from a disk by its own boot loader"
        )
    jump = image.part(0x200, 2, "jump instruction")
    end = 0x202 + jump[1]
    if jump[0] != 0xEB or jump[1] > 0x7F or end < 0x22C or end > HEADER_END_MAX:
        raise image.error(f"setup header at offset 0x200: jump {jump.hex(' ')} gives no valid header length")
    header = SetupHeader(image, version, image.part(HEADER_START, end - HEADER_START, "setup header"))
    if not header["loadflags"] & LOADED_HIGH:
        raise image.error(
            "a zImage (loadflags at offset 0x211 without LOADED_HIGH), which needs its 16-bit entry: "
            "build a bzImage, or boot it from a disk by its own boot loader"
        )
    rest = image.size - header.setup_size
    if rest <= 0 or (header["syssize"] * 16) - 15 > rest:
        raise image.error(
            f"setup header: {header.setup_size} bytes of set-up code and syssize {header['syssize'] * 16} bytes of "
            f"kernel exceed the file ({image.size} bytes): the file is cut short, fetch it again"
        )
    alignment = header["kernel_alignment"]
    if header["relocatable_kernel"] and (alignment == 0 or alignment & (alignment - 1)):
        raise image.error(
            f"setup header: kernel_alignment {alignment:#x} at offset 0x230 is not a power of two"
        )
    return header


def load_linux(
    image: KernelImage,
    ram: RamMap,
    *,
    initrd: KernelImage | None = None,
    append: bytes = b"",
    acpi_rsdp: Gpa | None = None,
    long_mode: bool = True,
    screen: Callable[[bytes], bytes] | None = None,
) -> EntryState:
    """Load a bzImage with its initrd and command line.

    Parameters
    ----------
    append
        The command line, without a NUL.
    acpi_rsdp
        Where the RSDP is; told to kernels of protocol 2.14 and later, older ones search 0xE0000-0xFFFFF.
    long_mode
        False takes the 32-bit entry although there is a 64-bit one.
    screen
        Sets the screen up as the command line asks, and returns struct screen_info. None: there is no screen.

    Raises
    ------
    BootError
        When the file is not right, or does not fit into the guest with its initrd and command line.
    """
    header = read_setup_header(image)
    limit = header["cmdline_size"] or 255
    if len(append) > limit:
        raise image.error(
            f"the command line has {len(append)} bytes, the kernel takes {limit}: shorten --append"
        )
    address = _load_protected_mode_kernel(image, header, ram)
    size = image.size - header.setup_size
    ramdisk = (0, 0)
    if initrd is not None:
        highest = header["initrd_addr_max"] or 0x37FFFFFF
        where = ram.place_high(initrd, initrd.data, "the initrd", above=HIGH_MEMORY_BASE, limit=highest + 1)
        ramdisk = (where, initrd.size)

    use_64 = long_mode and header.has_64_bit_entry
    code = EntrySegment(BOOT_CS, CODE_64 if use_64 else CODE_32)
    data = EntrySegment(BOOT_DS, DATA_32)
    zero_page = ram.place(image, bytes(ZERO_PAGE_SIZE), "boot_params", above=BOOT_DATA_BASE, alignment=4096)
    gdt = build_gdt(code, data)
    gdt_address = ram.place(image, gdt, "the GDT", above=BOOT_DATA_BASE)
    cr3 = _place_identity_tables(image, ram) if use_64 else 0
    line = ram.place(image, append + b"\0", "the command line", above=BOOT_DATA_BASE)
    params = _zero_page(header, ram, address, ramdisk, line, acpi_rsdp)
    if screen is not None:
        params = screen(append).ljust(SCREEN_INFO_SIZE, b"\0") + params[SCREEN_INFO_SIZE:]
    ram.memory.load(Gpa(zero_page), params)

    name = header.kernel_name
    info = KernelInfo("Linux bzImage", name, header.protocol, Gpa(address), size, Gpa(ramdisk[0]), ramdisk[1])
    entry = address + (ENTRY_64_OFFSET if use_64 else 0)
    return EntryState(
        mode="long" if use_64 else "protected",
        rip=entry,
        gpr={"rsi": zero_page},
        gdt=(Gpa(gdt_address), len(gdt)),
        code=code,
        data=data,
        cr3=cr3,
        description=f"{'Linux ' if name[:1].isdigit() else ''}{name.split(' (')[0] or 'bzImage'}, Linux boot protocol "
        f"{header.protocol}, {64 if use_64 else 32}-bit entry at {entry:#x}",
        kernel=info,
    )


def _load_protected_mode_kernel(image: KernelImage, header: SetupHeader, ram: RamMap) -> int:
    """Load the protected-mode kernel where its header wants it, and claim what it needs for itself (init_size)."""
    size = image.size - header.setup_size
    need = max(size, header["init_size"])
    preferred = header["pref_address"] or header["code32_start"] or HIGH_MEMORY_BASE
    if header["relocatable_kernel"]:
        alignment = header["kernel_alignment"]
        address = align_up(preferred, alignment)
        if address + need > FOUR_GIB or not ram.is_free(address, need):
            # Below its preferred address the decompressor would move itself there, so look above it only.
            found = ram.find_lowest(need, alignment, preferred)
            if found is None:
                raise image.error(
                    f"the kernel needs {format_size(need)} of free RAM from {preferred:#x} (init_size), "
                    f"the guest has {format_size(ram.size)}: give it more with -m"
                )
            address = found
        ram.claim(image, address, need, "the kernel")
    else:
        # It is loaded at code32_start and moves itself to pref_address, where it needs init_size bytes.
        address = header["code32_start"] or HIGH_MEMORY_BASE
        runtime = header["pref_address"] or address
        start, end = min(address, runtime), max(address + size, runtime + header["init_size"])
        if end > FOUR_GIB:
            raise image.error(
                f"setup header: load address {address:#x} or pref_address {runtime:#x} is beyond 4 GiB"
            )
        ram.claim(image, start, end - start, "the kernel")
    ram.memory.load(Gpa(address), image.part(header.setup_size, size, "protected-mode kernel"))
    return address


def _place_identity_tables(image: KernelImage, ram: RamMap) -> int:
    """Build the page tables of the 64-bit boot protocol and return their address."""
    where = ram.find_lowest(6 * 4096, 4096, BOOT_DATA_BASE)
    if where is None:
        raise image.error("no room in RAM for the page tables (24 KiB): give the guest more memory with -m")
    return ram.place(image, build_identity_tables(where), "page tables", above=where, alignment=4096)


def _zero_page(
    header: SetupHeader,
    ram: RamMap,
    address: int,
    ramdisk: tuple[int, int],
    line: int,
    acpi_rsdp: Gpa | None,
) -> bytes:
    """struct boot_params: the kernel's own setup header with the loader's fields filled in, and the memory map."""
    page = bytearray(ZERO_PAGE_SIZE)
    page[HEADER_START : HEADER_START + len(header.raw)] = header.raw

    def put(name: str, value: int) -> None:
        field = FIELDS[name]
        if header.version >= field.since:
            page[field.offset : field.offset + field.size] = value.to_bytes(field.size, "little")

    put("type_of_loader", LOADER_UNASSIGNED)
    put("code32_start", address)
    put("ramdisk_image", ramdisk[0])
    put("ramdisk_size", ramdisk[1])
    put("cmd_line_ptr", line)
    put("setup_data", 0)
    if acpi_rsdp is not None and header.version >= 0x20E:
        struct.pack_into("<Q", page, ACPI_RSDP_ADDR, acpi_rsdp)
    entries = ram.entries[:E820_MAX]
    page[E820_ENTRIES] = len(entries)
    for number, entry in enumerate(entries):
        struct.pack_into("<QQI", page, E820_TABLE + number * 20, entry.base, entry.size, entry.kind)
    high = next((e.size for e in entries if e.kind == E820_RAM and e.base == MIB), 0)
    struct.pack_into("<I", page, ALT_MEM_K, min(high // 1024, 0xFFFFFFFF))
    return bytes(page)
