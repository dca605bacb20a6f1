"""Small kernels of every format, made field by field, and a memory to load them into: for unit tests and fuzzing."""

from __future__ import annotations

import struct
from pathlib import Path

from pyvmm.boot.e820 import E820_RAM, E820Entry, e820_map
from pyvmm.boot.image import KernelImage
from pyvmm.boot.ram import RamMap
from pyvmm.units import MIB, Gpa

KERNEL_CODE = b"\xf4\xeb\xfd" + b"protected-mode kernel".ljust(1021, b".")


class FakeMemory:
    """Guest RAM as one array; a load outside RAM fails the test that did it. `writes` are (start, end) pairs."""

    def __init__(self, size: int = 64 * MIB, entries: list[E820Entry] | None = None) -> None:
        self.entries = e820_map(size) if entries is None else entries
        self.bytes = bytearray(b"\xcc") * max(entry.end for entry in self.entries if entry.kind == E820_RAM)
        self.writes: list[tuple[int, int]] = []

    def load(self, gpa: Gpa, data: bytes | memoryview, /) -> None:
        """Copy `data` in, checking every byte to be in RAM of the map."""
        end = gpa + len(data)
        ram = [entry for entry in self.entries if entry.kind == E820_RAM]
        assert any(e.base <= gpa and end <= e.base + e.size for e in ram), (
            f"load to {gpa:#x}-{end:#x} is not in RAM"
        )
        self.bytes[gpa:end] = data
        self.writes.append((gpa, end))

    def read(self, gpa: int, size: int) -> bytes:
        """Return bytes of guest memory."""
        return bytes(self.bytes[gpa : gpa + size])

    def number(self, gpa: int, size: int) -> int:
        """Return a little-endian number in guest memory."""
        return int.from_bytes(self.read(gpa, size), "little")

    def text(self, gpa: int) -> bytes:
        """Return the NUL-terminated string at an address."""
        return self.read(gpa, 4096).split(b"\0")[0]

    def map(self) -> RamMap:
        """Return a fresh map over this memory."""
        return RamMap(self, self.entries)


def image(data: bytes, name: str = "kernel.img") -> KernelImage:
    """Return bytes as a kernel file."""
    return KernelImage(name, data)


def write(folder: Path, data: bytes, name: str = "kernel.img") -> Path:
    """Write a file and return its path."""
    path = folder / name
    path.write_bytes(data)
    return path


def make_bzimage(
    *,
    version: int = 0x20F,
    loadflags: int = 1,
    code32_start: int = 0x100000,
    initrd_addr_max: int = 0x7FFFFFFF,
    kernel_alignment: int = 0x200000,
    relocatable: int = 1,
    xloadflags: int = 1,
    cmdline_size: int = 2047,
    pref_address: int = 0x1000000,
    init_size: int = 0x100000,
    setup_sects: int = 1,
    jump: bytes = b"\xeb\x6a",
    name: bytes = b"9.8.7-test (me@here) #1 SMP",
    kernel: bytes = KERNEL_CODE,
) -> bytes:
    """Return a bzImage with a setup header of the x86 boot protocol; offsets from boot.rst once more."""
    setup = bytearray(((setup_sects or 4) + 1) * 512)
    for offset, form, value in (
        (0x1F1, "B", setup_sects),
        (0x1F4, "I", len(kernel) // 16),
        (0x1FE, "H", 0xAA55),
        (0x200, "2s", jump),
        (0x202, "4s", b"HdrS"),
        (0x206, "H", version),
        (0x20E, "H", 0x80 if name else 0),
        (0x211, "B", loadflags),
        (0x214, "I", code32_start),
        (0x22C, "I", initrd_addr_max),
        (0x230, "I", kernel_alignment),
        (0x234, "B", relocatable),
        (0x236, "H", xloadflags),
        (0x238, "I", cmdline_size),
        (0x258, "Q", pref_address),
        (0x260, "I", init_size),
    ):
        struct.pack_into("<" + form, setup, offset, value)
    setup[0x280 : 0x281 + len(name)] = name + b"\0"
    return bytes(setup) + kernel


def make_note(name: bytes, kind: int, descriptor: bytes) -> bytes:
    """Return an ELF note with its padding."""
    name += b"\0"
    padded = name.ljust((len(name) + 3) & ~3, b"\0") + descriptor.ljust((len(descriptor) + 3) & ~3, b"\0")
    return struct.pack("<III", len(name), len(descriptor), kind) + padded


def make_elf(
    *,
    bits: int = 64,
    machine: int | None = None,
    kind: int = 2,
    entry: int = 0x100010,
    loads: tuple[tuple[int, int, bytes, int], ...] = ((0x100000, 0x100000, KERNEL_CODE, 4096),),
    notes: bytes = b"",
    head: bytes = b"",
) -> bytes:
    """Return an ELF kernel; `loads` are (virtual, physical, data, memory size), `head` follows the program headers."""
    segments = [(1, *load) for load in loads]
    if notes:
        segments.append((4, 0, 0, notes, len(notes)))
    header_size, entry_size = (64, 56) if bits == 64 else (52, 32)
    offset = header_size + entry_size * len(segments) + len(head)
    table = blob = b""
    for type_, virtual, physical, data, size in segments:
        where = offset + len(blob)
        if bits == 64:
            table += struct.pack("<IIQQQQQQ", type_, 7, where, virtual, physical, len(data), size, 4)
        else:
            table += struct.pack("<IIIIIIII", type_, where, virtual, physical, len(data), size, 7, 4)
        blob += data
    ident = b"\x7fELF" + bytes([2 if bits == 64 else 1, 1, 1]) + bytes(9)
    machine = machine if machine is not None else (62 if bits == 64 else 3)
    form = "<HHIQQQIHHHHHH" if bits == 64 else "<HHIIIIIHHHHHH"
    fields = (kind, machine, 1, entry, header_size, 0, 0, header_size, entry_size, len(segments), 0, 0, 0)
    header = struct.pack(form, *fields)
    return ident + header + table + head + blob


def make_pvh(entry: int = 0x100010, size: int = 4, **options: object) -> bytes:
    """Return an ELF kernel with a PVH entry note of `size` bytes."""
    notes = make_note(b"GNU", 3, b"build id") + make_note(b"Xen", 18, entry.to_bytes(size, "little"))
    return make_elf(notes=notes, **options)  # type: ignore[arg-type]


def make_multiboot_header(flags: int, *addresses: int, checksum_error: int = 0) -> bytes:
    """Return a multiboot 1 header."""
    checksum = (checksum_error - 0x1BADB002 - flags) & 0xFFFFFFFF
    return struct.pack(f"<III{len(addresses)}I", 0x1BADB002, flags, checksum, *addresses)


def make_flat_multiboot(*, flags: int = 0x10003, bss: int = 4096) -> bytes:
    """Return a flat multiboot kernel: 16 other bytes, the header, code; from the header on it goes to 1 MiB."""
    base, size = 0x100000, 32 + len(KERNEL_CODE)
    end = base + size
    header = make_multiboot_header(flags, base, base, end, end + bss if bss else 0, base + 32)
    return b"not to be loaded" + header + KERNEL_CODE + b"trailer"
