"""ELF kernels and PVH, against Xen's start_info.h."""

from __future__ import annotations

import struct

import pytest

from pyvmm.boot.elf import parse_elf
from pyvmm.boot.entry import EntryState
from pyvmm.boot.kernel import load_image
from pyvmm.errors import BootError
from pyvmm.units import MIB, Gpa
from tests.unit.boot.images import KERNEL_CODE, FakeMemory, image, make_elf, make_note, make_pvh


def load(memory: FakeMemory, data: bytes, initrd: bytes | None = None, append: str = "") -> EntryState:
    """Load bytes as a kernel."""
    disk = image(initrd, "initrd.gz") if initrd is not None else None
    return load_image(image(data), memory.map(), initrd=disk, append=append, acpi_rsdp=Gpa(0xE0000))


@pytest.mark.parametrize(("bits", "size"), [(32, 4), (64, 4), (64, 8)])
def test_entry_state(bits: int, size: int) -> None:
    """32-bit protected mode, flat segments, a TSS, EBX at the start info; .bss is zero."""
    memory = FakeMemory()
    state = load(memory, make_pvh(bits=bits, size=size))
    assert (state.mode, state.rip, list(state.gpr)) == ("protected", 0x100010, ["rbx"])
    assert memory.read(0x100000, 4096) == KERNEL_CODE.ljust(4096, b"\0")
    assert memory.read(0x101000, 1) == b"\xcc", "nothing behind p_memsz"
    gdt = struct.unpack("<4Q", memory.read(state.gdt[0], 32))
    assert gdt == (0, 0x00CF9B000000FFFF, 0x00CF93000000FFFF, 0x00008B0000000067)
    assert (state.task.attributes, state.task.limit, state.task.base) == (0x8B, 0x67, 0)


def test_start_info() -> None:
    """hvm_start_info version 1 with one module and the memory map."""
    memory = FakeMemory()
    state = load(memory, make_pvh(), initrd=b"initrd" * 999, append="quiet")
    info = struct.unpack("<IIIIQQQQII", memory.read(state.gpr["rbx"], 56))
    magic, version, flags, modules, module_list, line, rsdp, memory_map, count, reserved = info
    assert (magic, version, flags, modules, rsdp, reserved) == (0x336EC578, 1, 0, 1, 0xE0000, 0)
    assert memory.text(line) == b"quiet"
    address, size, module_line, _ = struct.unpack("<4Q", memory.read(module_list, 32))
    assert memory.read(address, size) == b"initrd" * 999
    assert module_line == 0
    rows = [struct.unpack("<QQII", memory.read(memory_map + n * 24, 24)) for n in range(count)]
    assert rows == [(e.base, e.size, e.kind, 0) for e in memory.entries]


def test_without_initrd() -> None:
    """No module, no module list."""
    memory = FakeMemory()
    state = load(memory, make_pvh())
    assert struct.unpack("<IQ", memory.read(state.gpr["rbx"] + 12, 12)) == (0, 0)


def test_a_kernel_in_low_memory_moves_the_boot_data() -> None:
    """What the protocol hands over never lies in the kernel's own segments."""
    memory = FakeMemory()
    state = load(memory, make_pvh(entry=0x7010, loads=((0x7000, 0x7000, KERNEL_CODE, 0x8000),)))
    assert state.gpr["rbx"] >= 0xF000
    assert memory.read(0x7000, len(KERNEL_CODE)) == KERNEL_CODE


def elf_with(offset: int, value: bytes) -> bytes:
    """A PVH kernel with some bytes changed."""
    data = bytearray(make_pvh())
    data[offset : offset + len(value)] = value
    return bytes(data)


BAD = [
    (elf_with(4, b"\x03"), "ELF identification at offset 4"),
    (elf_with(5, b"\x02"), "ELF identification at offset 4"),
    (elf_with(16, b"\x01"), "ELF e_type is 1"),
    (elf_with(18, b"\xb7"), "ELF e_machine is 183: not a kernel for x86"),
    (elf_with(32, b"\xff" * 8), "ELF program headers at offset 0xffffffffffffffff"),
    (elf_with(54, b"\x20"), "2 of 32 bytes each, expected 1 to 65534 of 56"),
    (elf_with(56, b"\0\0"), "0 of 56 bytes"),
    (elf_with(56, b"\xff\xff"), "65535 of 56 bytes"),
    (elf_with(56, b"\xfe\xff"), r"ELF program headers at offset 0x40 .* ends beyond the file"),
    (
        elf_with(64 + 8, b"\xff" * 8),
        "ELF program header 0: 1024 bytes from offset 0xffffffffffffffff end beyond",
    ),
    (elf_with(64 + 32, (1 << 63).to_bytes(8, "little")), "ELF program header 0: .* end beyond the file"),
    (elf_with(64 + 40, b"\x01\0"), "p_filesz 1024 exceeds p_memsz 1"),
    (elf_with(64 + 40, b"\xff" * 8), "PT_LOAD segment 0 needs guest memory .* not all RAM"),
    (elf_with(64 + 24, (0xA0000).to_bytes(8, "little")), "PT_LOAD segment 0 needs guest memory 0xa0000-"),
    (make_pvh(entry=0x200000), "PVH entry point 0x200000 is not inside the loaded kernel"),
    (make_pvh(size=3), "PVH entry note of 3 bytes"),
    (make_pvh(loads=()), "without a loadable segment"),
    (make_pvh(loads=((0, MIB, b"a", 9), (0, MIB + 8, b"b", 9))), "PT_LOAD segment 1 at .* overlaps PT_LOAD"),
    (make_elf(notes=make_note(b"Xen", 18, b"1234")[:-2]), "ELF note at offset .* ends beyond its segment"),
    (make_elf(notes=b"\xff" * 12), "ELF note at offset .* ends beyond its segment"),
    (make_elf(notes=make_note(b"Xen", 17, b"1234")), "neither a PVH entry note nor a multiboot header"),
    (make_elf(), "build vmlinux with CONFIG_PVH"),
]


@pytest.mark.parametrize(("data", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_files(data: bytes, message: str) -> None:
    """Each refusal names what is wrong."""
    with pytest.raises(BootError, match=message):
        load(FakeMemory(), data)


def test_cut_short_anywhere() -> None:
    """Every proper prefix of the file is refused, none crashes."""
    data = make_pvh()
    for size in range(1, len(data)):
        with pytest.raises(BootError):
            load(FakeMemory(2 * MIB), data[:size])


def test_physical_entry() -> None:
    """A virtual entry address is translated by the segment that holds it."""
    elf = parse_elf(
        image(make_elf(entry=0xC0100020, loads=((0xC0100000, 0x100000, KERNEL_CODE, 4096),), bits=32))
    )
    assert elf.physical_entry() == 0x100020
    assert parse_elf(image(make_elf(entry=0x99))).physical_entry() is None
