"""The Linux loader against the boot protocol document, field by field."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest

from pyvmm.boot.e820 import E820Entry
from pyvmm.boot.entry import EntryState
from pyvmm.boot.kernel import load_image, load_kernel
from pyvmm.errors import BootError
from pyvmm.units import MIB, Gpa
from tests.unit.boot.images import KERNEL_CODE, FakeMemory, image, make_bzimage, write

INITRD = b"070701 initrd" * 1000


def load(
    memory: FakeMemory, data: bytes, *, initrd: bytes | None = None, append: str = "", **options: object
) -> EntryState:
    """Load bytes as a kernel."""
    disk = image(initrd, "initrd.gz") if initrd is not None else None
    return load_image(image(data), memory.map(), initrd=disk, append=append, **options)  # type: ignore[arg-type]


def walk(memory: FakeMemory, cr3: int, address: int) -> int:
    """Translate a linear address by 4-level page tables with 2 MiB pages (Intel SDM 3A §4.5)."""
    table = cr3
    for shift in (39, 30, 21):
        entry = memory.number(table + (address >> shift & 511) * 8, 8)
        assert entry & 1
        table = entry & ~0xFFF & ((1 << 52) - 1)
    assert entry & 1 << 7
    return table + (address & (1 << 21) - 1)


def test_64_bit_entry() -> None:
    """64-bit boot protocol: entry at load address + 0x200, RSI, flat segments at 0x10 and 0x18, identity paging."""
    memory = FakeMemory()
    state = load(memory, make_bzimage(), append="console=ttyS0")
    assert (state.mode, state.rip) == ("long", 0x1000200)
    assert memory.read(0x1000000, len(KERNEL_CODE)) == KERNEL_CODE
    assert list(state.gpr) == ["rsi"]
    assert (state.code.selector, state.data.selector) == (0x10, 0x18)
    gdt = struct.unpack("<4Q", memory.read(state.gdt[0], state.gdt[1]))
    assert gdt == (0, 0, 0x00AF9B000000FFFF, 0x00CF93000000FFFF)
    for address in (0, 0x1000200, 0x7FFFFFFF, 0xFFFFFFFF):
        assert walk(memory, state.cr3, address) == address


def test_32_bit_entry() -> None:
    """32-bit boot protocol: entry at the load address, no paging; without XLF_KERNEL_64, or when asked for."""
    for data, options in ((make_bzimage(xloadflags=0), {}), (make_bzimage(), {"long_mode": False})):
        memory = FakeMemory()
        state = load(memory, data, **options)
        assert (state.mode, state.rip, state.cr3) == ("protected", 0x1000000, 0)
        assert struct.unpack("<4Q", memory.read(state.gdt[0], 32))[2:] == (
            0x00CF9B000000FFFF,
            0x00CF93000000FFFF,
        )


def test_zero_page() -> None:
    """The setup header is the file's own; the loader's fields and the memory map are filled in."""
    memory = FakeMemory(64 * MIB)
    data = make_bzimage()
    state = load(memory, data, initrd=INITRD, append="a=1 b", acpi_rsdp=Gpa(0xE0000))
    page = state.gpr["rsi"]
    assert page % 4096 == 0
    assert page >= 0x1000
    assert memory.read(page + 0x1F1, 0x1F) == data[0x1F1:0x210]
    assert memory.read(page + 0x22C, 0x24) == data[0x22C:0x250]
    assert memory.read(page + 0x258, 0x14) == data[0x258:0x26C]
    assert memory.read(page + 0x26C, 0x2D0 - 0x26C) == bytes(0x2D0 - 0x26C), (
        "nothing behind the header's own length"
    )
    assert memory.number(page + 0x210, 1) == 0xFF
    assert memory.number(page + 0x214, 4) == 0x1000000
    assert memory.text(memory.number(page + 0x228, 4)) == b"a=1 b"
    assert memory.number(page + 0x70, 8) == 0xE0000
    assert memory.number(page + 0x1EF, 1) == 0, "the sentinel"
    assert memory.number(page + 0x1E0, 4) == 63 * 1024
    count = memory.number(page + 0x1E8, 1)
    rows = [struct.unpack("<QQI", memory.read(page + 0x2D0 + n * 20, 20)) for n in range(count)]
    assert rows == [(e.base, e.size, e.kind) for e in memory.entries]
    address = memory.number(page + 0x218, 4)
    assert memory.number(page + 0x21C, 4) == len(INITRD) == state.kernel.initrd_size
    assert memory.read(address, len(INITRD)) == INITRD
    assert address % 4096 == 0
    assert 64 * MIB - address < len(INITRD) + 4096, "as high as it goes"


def test_a_shorter_header_is_copied_by_its_length() -> None:
    """Protocol 2.05: what looks like later fields in the file is code, and is neither copied nor read."""
    memory = FakeMemory()
    data = make_bzimage(version=0x205, jump=b"\xeb\x34", relocatable=0)
    state = load(memory, data)
    page = state.gpr["rsi"]
    assert memory.read(page + 0x236, 0x2D0 - 0x236) == bytes(0x2D0 - 0x236)
    assert (state.mode, state.rip) == ("protected", 0x100000)
    assert memory.number(page + 0x70, 8) == 0


def test_old_protocols_have_their_limits() -> None:
    """Before 2.06 a command line has at most 255 bytes; before 2.03 an initrd ends below 0x38000000."""
    data = make_bzimage(version=0x202, jump=b"\xeb\x2a", relocatable=0)
    load(FakeMemory(), data, append="x" * 255)
    with pytest.raises(BootError, match="256 bytes, the kernel takes 255"):
        load(FakeMemory(), data, append="x" * 256)
    state = load(FakeMemory(1024 * MIB), data, initrd=INITRD)
    assert 0x38000000 - 8 * 4096 < state.kernel.initrd_address + len(INITRD) <= 0x38000000


def test_initrd_address_max() -> None:
    """The initrd's last byte is at most at initrd_addr_max."""
    state = load(FakeMemory(), make_bzimage(initrd_addr_max=0x1FFFFFF), initrd=INITRD)
    assert state.kernel.initrd_address + len(INITRD) <= 0x2000000
    assert state.kernel.initrd_address >= 0x1100000, "above what the kernel needs for itself"


def test_initrd_may_not_reach_reserved_memory() -> None:
    """ACPI tables at the end of RAM stay as they are."""
    entries = [E820Entry(0, 0x9FC00, 1), E820Entry(MIB, 62 * MIB, 1), E820Entry(63 * MIB, MIB, 3)]
    state = load(FakeMemory(entries=entries), make_bzimage(), initrd=INITRD)
    assert state.kernel.initrd_address + len(INITRD) <= 63 * MIB


def test_preferred_address_taken() -> None:
    """A relocatable kernel goes to the next aligned free place above a preferred address that is not all RAM."""
    entries = [
        E820Entry(0, 0x9FC00, 1),
        E820Entry(MIB, 15 * MIB + 4096, 1),
        E820Entry(0x1100000, 32 * MIB, 1),
    ]
    memory = FakeMemory(entries=entries)
    state = load(memory, make_bzimage())
    assert state.rip == 0x1200200
    assert memory.number(state.gpr["rsi"] + 0x214, 4) == 0x1200000


def test_not_relocatable() -> None:
    """Loaded at code32_start; what it needs at pref_address is kept free."""
    entries = [E820Entry(0, 0x9FC00, 1), E820Entry(MIB, 32 * MIB, 1)]
    state = load(FakeMemory(entries=entries), make_bzimage(relocatable=0, init_size=0x1000000), initrd=INITRD)
    assert state.rip == 0x100200
    assert state.kernel.initrd_address >= 0x2000000


def test_what_the_kernel_says_of_itself() -> None:
    """Version string and protocol; a kernel without the string has none."""
    state = load(FakeMemory(), make_bzimage())
    assert state.kernel.version == "9.8.7-test (me@here) #1 SMP"
    assert state.kernel.protocol == "2.15"
    assert state.description == "Linux 9.8.7-test, Linux boot protocol 2.15, 64-bit entry at 0x1000200"
    assert load(FakeMemory(), make_bzimage(name=b"")).kernel.version == ""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 0x201}, r"boot protocol 2\.01: 2\.02 \(Linux 2\.4\) is the oldest"),
        ({"loadflags": 0}, r"a zImage \(loadflags at offset 0x211"),
        ({"jump": b"\xe9\x6a"}, "setup header at offset 0x200: jump e9 6a"),
        ({"jump": b"\xeb\x10"}, "no valid header length"),
        ({"jump": b"\xeb\xfe"}, "no valid header length"),
        ({"kernel_alignment": 0x30000}, "kernel_alignment 0x30000 at offset 0x230 is not a power of two"),
        ({"kernel_alignment": 0}, "kernel_alignment 0x0"),
        ({"init_size": 0xFFFFFFFF}, r"needs 4 GiB of free RAM from 0x1000000 \(init_size\)"),
        ({"pref_address": 1 << 62}, "of free RAM from 0x4000000000000000"),
        ({"relocatable": 0, "pref_address": 1 << 63}, "beyond 4 GiB"),
        ({"relocatable": 0, "code32_start": 0xA0000}, "0xa0000-.* is not all RAM"),
        ({"relocatable": 0, "code32_start": 0xFFFFFFFF}, "beyond 4 GiB"),
        ({"setup_sects": 255}, None),
    ],
)
def test_bad_headers(change: dict[str, int | bytes], message: str | None) -> None:
    """Each refusal is one line that names file and field."""
    if message is None:
        load(FakeMemory(), make_bzimage(**change))  # type: ignore[arg-type]
        return
    with pytest.raises(BootError, match=message) as caught:
        load(FakeMemory(), make_bzimage(**change))  # type: ignore[arg-type]
    assert str(caught.value).startswith("kernel.img: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", [0x207, 0x240, 0x3FF, 0x400, 0x401, 0x7F0])
def test_cut_short(size: int) -> None:
    """Cut off anywhere, a bzImage is refused as that."""
    with pytest.raises(BootError, match="cut short"):
        load(FakeMemory(), make_bzimage()[:size])


def test_what_does_not_fit(tmp_path: Path) -> None:
    """Little RAM, a long command line, a missing or too big initrd: option or file is named."""
    kernel = write(tmp_path, make_bzimage())
    memory = FakeMemory(18 * MIB)
    with pytest.raises(BootError, match=r"the guest has .* MiB: give it more with -m"):
        load_kernel(FakeMemory(3 * MIB), kernel, memory_size=3 * MIB)
    with pytest.raises(BootError, match="2048 bytes, the kernel takes 2047: shorten --append"):
        load_kernel(memory, kernel, append="x" * 2048, memory_size=18 * MIB)
    with pytest.raises(BootError, match="NUL"):
        load_kernel(memory, kernel, append="a\0b", memory_size=18 * MIB)
    with pytest.raises(BootError, match=re.escape(f"{tmp_path}/none: cannot open the initrd: No such file")):
        load_kernel(memory, kernel, initrd=tmp_path / "none", memory_size=18 * MIB)
    big = write(tmp_path, bytes(17 * MIB), "big")
    with pytest.raises(BootError, match=r"big: the initrd \(17 MiB\) does not fit"):
        load_kernel(memory, kernel, initrd=big, memory_size=18 * MIB)
