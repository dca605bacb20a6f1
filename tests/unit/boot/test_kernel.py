"""Choosing the loader by content, files that are no kernels, and the entry state on a vCPU."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from pyvmm.boot.entry import CODE_32, DATA_32, EntrySegment, build_gdt
from pyvmm.boot.kernel import load_image, load_kernel
from pyvmm.errors import BootError
from pyvmm.units import MIB
from tests.unit.boot.images import FakeMemory, image, make_bzimage, make_flat_multiboot, make_pvh, write


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (make_bzimage(), "Linux bzImage"),
        (make_pvh(), "PVH ELF"),
        (make_flat_multiboot(), "multiboot"),
        (make_pvh(bits=32), "PVH ELF"),
    ],
)
def test_format_by_content(tmp_path: Path, data: bytes, kind: str) -> None:
    """The name of the file does not matter."""
    path = write(tmp_path, data, "anything")
    assert load_kernel(FakeMemory(), path, memory_size=64 * MIB).kernel.format == kind


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x1f\x8b\x08", "a gzip file: decompress it first"),
        (b"QFI\xfb", "a qcow2 disk image: give it as the disk"),
        (b"070701", "a cpio archive: give it with --initrd"),
        (b"MZ", "an EFI program"),
        (bytes(510) + b"\x55\xaa", "a boot sector"),
        (bytes(0x8001) + b"CD001", "a CD image"),
        (b"#!/bin/sh", "neither bzImage nor ELF nor multiboot"),
        (b"\0", "neither bzImage nor ELF nor multiboot"),
    ],
)
def test_not_a_kernel(data: bytes, message: str) -> None:
    """The message says what the file seems to be."""
    with pytest.raises(BootError, match=f"^kernel.img: not a kernel that can be started directly: {message}"):
        load_image(image(data), FakeMemory().map())


def test_files_that_cannot_be_opened(tmp_path: Path) -> None:
    """A missing file, a folder, a device, an empty file."""
    empty = write(tmp_path, b"", "empty")
    for path, message in (
        (tmp_path / "none", "No such file"),
        (tmp_path, "not a plain file"),
        (Path("/dev/null"), "not a plain file"),
        (empty, "empty file"),
    ):
        with pytest.raises(BootError, match=message) as caught:
            load_kernel(FakeMemory(), path, memory_size=64 * MIB)
        assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize(
    "data", [make_bzimage(), make_pvh(), make_flat_multiboot()], ids=["linux", "pvh", "multiboot"]
)
def test_without_low_ram(data: bytes) -> None:
    """Boot data goes above 1 MiB where there is no RAM below."""
    entries = [entry for entry in FakeMemory().entries if entry.base >= MIB or entry.kind != 1]
    memory = FakeMemory(entries=entries)
    state = load_image(image(data), memory.map())
    assert state.gdt[0] >= MIB


def test_apply() -> None:
    """All that an entry needs lands in the vCPU; everything else is as after reset."""
    names = ("cs", "ds", "es", "ss", "fs", "gs", "tr", "ldtr")
    view = {name: SimpleNamespace(selector=9, base=9, limit=9, attributes=9) for name in names}
    tables = {name: SimpleNamespace(base=9, limit=9) for name in ("gdtr", "idtr")}
    cpu = SimpleNamespace(**view, **tables)
    state = load_image(image(make_bzimage()), FakeMemory().map())
    state.apply(cpu)  # type: ignore[arg-type]
    assert (cpu.rip, cpu.rsi, cpu.rbp, cpu.rbx, cpu.r15) == (state.rip, state.gpr["rsi"], 0, 0, 0)
    assert (cpu.cr0, cpu.cr3, cpu.cr4, cpu.efer) == (0x80000011, state.cr3, 0x20, 0x500)
    assert (cpu.cs.selector, cpu.cs.attributes, cpu.cs.limit) == (0x10, 0xA09B, 0xFFFFFFFF)
    for name in ("ds", "es", "ss", "fs", "gs"):
        assert (view[name].selector, view[name].base, view[name].attributes) == (0x18, 0, 0xC093)
    assert (cpu.gdtr.base, cpu.gdtr.limit, cpu.idtr.limit) == (state.gdt[0], 31, 0)
    assert (cpu.rflags, cpu.tr.attributes, cpu.ldtr.attributes) == (2, 0x8B, 1 << 16)
    load_image(image(make_pvh()), FakeMemory().map()).apply(cpu)  # type: ignore[arg-type]
    assert (cpu.cr0, cpu.cr3, cpu.cr4, cpu.efer) == (0x11, 0, 0, 0)


def test_descriptors() -> None:
    """Base and limit are spread over a descriptor as in Intel SDM 3A figure 3-8."""
    segment = EntrySegment(0x10, DATA_32, base=0x12345678, limit=0xABCDEFFF)
    assert segment.descriptor() == 0x12CA93345678BCDE
    assert build_gdt(EntrySegment(0x10, CODE_32))[:16] == bytes(16)
