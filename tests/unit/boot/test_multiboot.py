"""Multiboot 1 against its specification."""

from __future__ import annotations

import struct

import pytest

from pyvmm.boot.entry import EntryState
from pyvmm.boot.kernel import load_image
from pyvmm.errors import BootError
from tests.unit.boot.images import (
    KERNEL_CODE,
    FakeMemory,
    image,
    make_elf,
    make_flat_multiboot,
    make_multiboot_header,
)

BASE = 0x100000


def load(memory: FakeMemory, data: bytes, initrd: bytes | None = None, append: str = "") -> EntryState:
    """Load bytes as a kernel."""
    disk = image(initrd, "initrd.gz") if initrd is not None else None
    return load_image(image(data), memory.map(), initrd=disk, append=append)


def test_flat_kernel() -> None:
    """§3.1.3: from the header's own address the file's start is found; .bss is zero; §3.2: EAX, EBX, flat segments."""
    memory = FakeMemory()
    state = load(memory, make_flat_multiboot())
    assert (state.mode, state.rip, state.gpr["rax"]) == ("protected", BASE + 32, 0x2BADB002)
    assert memory.read(BASE, 4) == bytes.fromhex("02b0ad1b")
    assert memory.read(BASE + 32, len(KERNEL_CODE) + 4096) == KERNEL_CODE + bytes(4096)
    assert memory.read(BASE + 32 + len(KERNEL_CODE) + 4096, 1) == b"\xcc"
    gdt = struct.unpack("<3Q", memory.read(state.gdt[0], state.gdt[1]))
    assert gdt == (0, 0x00CF9B000000FFFF, 0x00CF93000000FFFF)


def test_load_to_the_end_of_the_file() -> None:
    """load_end_addr 0: all of the file; bss_end_addr 0: no .bss."""
    memory = FakeMemory()
    data = make_multiboot_header(0x10000, BASE, BASE, 0, 0, BASE + 32) + KERNEL_CODE
    load(memory, data)
    assert memory.read(BASE, len(data) + 1) == data + b"\xcc"


@pytest.mark.parametrize("bits", [32, 64])
def test_elf_kernel(bits: int) -> None:
    """An ELF file with a header in its first 8 KiB, entered at the physical address of e_entry."""
    memory = FakeMemory()
    loads = ((0xC0000000 + BASE, BASE, KERNEL_CODE, 4096),)
    data = make_elf(bits=bits, entry=0xC0000000 + BASE + 3, loads=loads, head=make_multiboot_header(3))
    state = load(memory, data)
    assert state.rip == BASE + 3
    assert memory.read(BASE, len(KERNEL_CODE)) == KERNEL_CODE


def test_boot_information() -> None:
    """§3.3, with a module."""
    memory = FakeMemory()
    state = load(memory, make_flat_multiboot(), initrd=b"module" * 999, append="hello world")
    info = struct.unpack("<18I", memory.read(state.gpr["rbx"], 72))
    assert info[0] == 1 << 0 | 1 << 2 | 1 << 3 | 1 << 6 | 1 << 9
    assert info[1:3] == (639, 63 * 1024)
    assert memory.text(info[4]) == b"hello world"
    assert info[5] == 1
    start, end, name, reserved = struct.unpack("<4I", memory.read(info[6], 16))
    assert start % 4096 == 0
    assert memory.read(start, end - start) == b"module" * 999
    assert (memory.text(name), reserved) == (b"initrd.gz", 0)
    rows, position = [], info[12]
    while position < info[12] + info[11]:
        size, *row = struct.unpack("<IQQI", memory.read(position, 24))
        rows.append(tuple(row))
        position += size + 4
    assert rows == [(e.base, e.size, e.kind) for e in memory.entries]
    assert memory.text(info[16]) == b"pyvmm"


END = BASE + 32 + len(KERNEL_CODE)


def flat(*addresses: int) -> bytes:
    """A flat kernel with these address fields."""
    return make_multiboot_header(0x10000, *addresses) + KERNEL_CODE


BAD = [
    (make_flat_multiboot(flags=0x10007), "flag 2 demands a video mode"),
    (make_flat_multiboot(flags=0x10018), "flags 0x18 demand unknown features"),
    (
        make_multiboot_header(3, checksum_error=1) + bytes(64),
        "multiboot header at offset 0x0: wrong checksum",
    ),
    (make_multiboot_header(3) + bytes(64), "gives no load addresses"),
    (flat(BASE - 4, BASE, 0, 0, BASE + 32), "contradict"),
    (flat(BASE + 4, BASE, 0, 0, BASE + 32), "contradict"),
    (flat(BASE, BASE, BASE - 1, 0, BASE + 32), "contradict"),
    (flat(BASE, BASE, END, END - 1, BASE + 32), "contradict"),
    (flat(BASE, BASE, END + 1, 0, BASE + 32), "multiboot load area .* ends beyond the file"),
    (flat(BASE, BASE, END, 0, END), "entry_addr .* is outside the loaded kernel"),
    (flat(0xA0000, 0xA0000, 0, 0, 0xA0020), "not all RAM"),
    (flat(BASE, BASE, END, 0xFFFFFFFF, BASE + 32), "not all RAM"),
    (bytes(8180) + make_multiboot_header(0x10000), "address fields are cut off"),
    (make_elf(entry=9, head=make_multiboot_header(0)), "ELF e_entry 0x9 is in no loadable segment"),
]


@pytest.mark.parametrize(("data", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_files(data: bytes, message: str) -> None:
    """Each refusal names what is wrong."""
    with pytest.raises(BootError, match=message):
        load(FakeMemory(), data)


def test_header_is_looked_for_where_it_may_be() -> None:
    """Only aligned, only in the first 8 KiB; a wrong checksum before the right one is passed over."""
    header = make_flat_multiboot()[16:]
    with pytest.raises(BootError, match="not a kernel"):
        load(FakeMemory(), b"..." + header)
    with pytest.raises(BootError, match="not a kernel"):
        load(FakeMemory(), bytes(8192) + header)
    load(FakeMemory(), make_multiboot_header(0, checksum_error=5) + header)
