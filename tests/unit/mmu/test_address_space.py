"""`pyvmm.mmu.address_space`: the same as a walk to each page, and an end whatever the tables hold."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyvmm.cpu.state import CpuState
from pyvmm.mmu import Range, address_space, linux_names, walk
from tests.conformance.engine_tables import PageTables
from tests.unit.mmu.test_walk import ENTRY, KINDS, LARGE, MODES, XD, P, U, W, cleared_ram, ram, state_of


@pytest.mark.parametrize("kind", list(KINDS))
def test_ranges_are_what_walks_find(kind: str) -> None:
    memory = ram()
    tables = PageTables(memory, kind, 0x10000, 0x40000)
    tables.map(0x400000, 0x5000, 0x3000, "PWU")
    tables.map(0x403000, 0x9000, 0x2000, "P")
    tables.map(0x7FFFF000, 0x5000, 0x1000, "PU")
    tables.map_large(0xC0000000, 0x400000, "PW")
    state = state_of(kind, tables.root)
    found = address_space(memory, state)
    large = 0x400000 if kind == "paging32" else 0x200000
    assert [(each.start, each.size, each.rights) for each in found.ranges] == [
        (0x400000, 0x3000, "rwx user"),
        (0x403000, 0x2000, "r-x kernel"),
        (0x7FFFF000, 0x1000, "r-x user"),
        (0xC0000000, large, "rwx kernel"),
    ]
    assert not found.remarks
    for each in found.ranges:
        first = walk(memory, state, each.start)
        assert first.physical == each.physical
        assert first.steps[-1].rights.split()[0] == each.rights.split()[0]
        assert walk(memory, state, each.end - 1).physical is not None
    lines = str(found).splitlines()
    assert len(lines) == 5
    assert lines[-1].endswith(f"mapped in 4 ranges by {found.tables} tables")
    assert [len(region) for region in found.regions()] == [2, 1, 1]
    picture = ElementTree.fromstring(found.svg(names=[(0xC0000000, 0xD0000000, "<a large page>")]))
    boxes = [each.get("fill") for each in picture.findall("{http://www.w3.org/2000/svg}rect")]
    assert len(boxes) == 1 + 4 + 3 + 4  # the ground; rights that there are; regions; ranges
    assert "<a large page>" in "".join(picture.itertext())


def test_upper_half_and_no_execute() -> None:
    memory = ram()
    tables = PageTables(memory, "long", 0x10000, 0x40000)
    tables.map(0xFFFFFFFF80000000, 0x5000, 0x1000, "PWX")
    found = address_space(memory, state_of("long", tables.root))
    assert (found.ranges[0].start, found.ranges[0].rights) == (0xFFFFFFFF80000000, "rw- kernel")


def test_loops_and_tables_outside_ram_end() -> None:
    memory = ram()
    for index in range(512):
        memory.write_integer(0x10000 + 8 * index, 8, 0x10000 | P | W | U)
    found = address_space(memory, state_of("long", 0x10000), tables_limit=100)
    assert len(found.remarks) == 1
    assert "do they point at each other?" in found.remarks[0]
    memory.write_integer(0x20000, 8, 0x7FFFF000 | P | W)
    found = address_space(memory, state_of("long", 0x20000))
    assert found.ranges == ()
    assert "no RAM at 0x7ffff000" in str(found)
    assert "no RAM" in found.svg()
    memory.write_integer(0x30000, 8, 0x31000 | P | W)
    memory.write_integer(0x31000, 8, P | W | U | LARGE)
    assert address_space(memory, state_of("long", 0x30000)).ranges[0].rights == "rwx kernel"


def test_paging_off() -> None:
    assert "paging is off" in str(address_space(ram(), state_of("long", 0, cr0=0x11)))


def test_reserved_bits_and_devices() -> None:
    """Large pages that are none, and a page of a device: where a processor would fault is not mapped."""
    memory = ram()
    for index, entry in enumerate(
        [
            0x40000000 | P | LARGE | 1 << 13,  # a page of 1 GiB with a reserved bit
            1 << 45 | P | LARGE,  # beyond MAXPHYADDR
            0xC0000000 | P | LARGE | XD,  # without NXE
            0xC0000000 | P | W | LARGE,  # no RAM: may be a device's
        ]
    ):
        memory.write_integer(0x11000 + 8 * index, 8, entry)
    memory.write_integer(0x10000, 8, 0x11000 | P | W)
    memory.write_integer(0x10008, 8, 0x11000 | P | W | LARGE)  # no such page
    found = address_space(memory, state_of("long", 0x10000, efer=0x501), physical_bits=40)
    assert [(each.start, each.physical) for each in found.ranges] == [(0xC0000000, 0xC0000000)]
    assert [remark.split(" are set: ")[1] for remark in found.remarks] == [
        "0x2000", "0x200000000000", "0x8000000000000000", "0x80"
    ]  # fmt: skip
    for remark in found.remarks:
        assert (
            "reserved bits"
            in walk(
                memory, state_of("long", 0x10000, efer=0x501), int(remark.split()[2], 16), physical_bits=40
            ).why
        )


def test_as_many_ranges_as_can_be() -> None:
    """Tables that are each other's, with rights that differ from page to page."""
    memory = ram()
    for index in range(512):
        memory.write_integer(0x10000 + 8 * index, 8, 0x10000 | P | (W if index % 2 else U))
    found = address_space(memory, state_of("long", 0x10000), tables_limit=1 << 30)
    assert len(found.ranges) == 1 << 16
    assert "are these page tables?" in found.remarks[-1]
    assert len(found.svg()) < 20 << 20


def test_many_remarks_are_not_all_kept() -> None:
    memory = ram()
    for index in range(512):
        memory.write_integer(0x10000 + 8 * index, 8, 0x7FFF0000 + index * 0x1000 | P | W | U)
    found = address_space(memory, state_of("long", 0x10000))
    assert len(found.remarks) == 21
    assert found.remarks[-1] == "and more like these"


INDICES = st.sampled_from([0, 1, 2, 0xFF, 0x100, 0x1FF, 0x3FF])


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(MODES),
    st.lists(st.tuples(st.integers(1, 6), INDICES, ENTRY), min_size=4, max_size=24),
    st.lists(st.tuples(*[INDICES] * 5), min_size=8, max_size=8),
    st.sampled_from([36, 40, 52]),
)
def test_any_tables_are_what_walks_find(
    mode: dict[str, int],
    entries: list[tuple[int, int, int]],
    asked: list[tuple[int, ...]],
    physical_bits: int,
) -> None:
    """Six tables that lead anywhere, also to each other and outside RAM: mapped is what a walk finds a page for."""
    memory = cleared_ram()
    size = 8 if mode["cr4"] & 0x20 else 4
    for table, index, entry in entries:
        place = table * 0x1000 + size * (index & (0x1FF if size == 8 else 0x3FF))
        memory.write_integer(place, size, entry & (1 << 8 * size) - 1)
    state = CpuState()
    for name, setting in {**mode, "cr3": 0x1000}.items():
        setattr(state, name, setting)
    found = address_space(memory, state, tables_limit=400, physical_bits=physical_bits)
    assert str(found)
    if "stopped" in str(found.remarks) or not mode["cr0"] >> 31:
        return
    shifts = (12, 21, 30, 39, 48) if size == 8 else (12, 22)
    width = 32 if not mode["efer"] & 0x400 else 57 if mode["cr4"] & 0x1000 else 48
    for indices in asked:
        address = (
            sum(index << shift for index, shift in zip(indices, shifts, strict=False)) & (1 << width) - 1
        )
        if width > 32 and address >> width - 1:
            address |= (1 << 64) - (1 << width)
        one = walk(memory, state, address, physical_bits=physical_bits)
        there = [each for each in found.ranges if each.start <= address < each.end]
        assert len(there) == (one.physical is not None), f"{one}\n{found}"
        if there:
            assert there[0].rights == one.steps[-1].rights.replace("supervisor", "kernel"), f"{one}\n{found}"
            if there[0].start == address:
                assert there[0].physical == one.physical


def layout(memory: int, vmalloc: int, pages: int, kernel: int) -> list[Range]:
    """As a Debian of 256 MiB."""
    return [
        Range(0x400000, 0x4F0000, 0x3000000, "4 KiB", "r-x user"),
        Range(memory, memory + 0x200000, 0, "4 KiB", "rw- kernel"),
        Range(memory + 0x200000, memory + 0x10000000, 0x200000, "2 MiB", "rw- kernel"),
        Range(vmalloc, vmalloc + 0x4000, 0x3C42000, "4 KiB", "rw- kernel"),
        Range(pages, pages + 0x400000, 0xF400000, "2 MiB", "rw- kernel"),
        Range(0xFFFFFE0000000000, 0xFFFFFE0000002000, 0x3200000, "4 KiB", "r-- kernel"),
        Range(kernel, kernel + 0xE00000, 0x1000000, "2 MiB", "r-x kernel"),
        Range(0xFFFFFFFFC0024000, 0xFFFFFFFFC0224000, 0x4500000, "4 KiB", "r-x kernel"),
        Range(0xFFFFFFFFFF5FC000, 0xFFFFFFFFFF5FE000, 0xFEC00000, "4 KiB", "rw- kernel"),
    ]


@pytest.mark.parametrize(
    ("memory", "vmalloc", "pages", "kernel"),
    [
        (0xFFFF888000000000, 0xFFFFC90000000000, 0xFFFFEA0000000000, 0xFFFFFFFF81000000),  # nokaslr
        (0xFFFF8D9BC0000000, 0xFFFFD32500000000, 0xFFFFF34000000000, 0xFFFFFFFF88600000),
        (0xFFFFC9F400000000, 0xFFFFEA1940000000, 0xFFFFFD0000000000, 0xFFFFFFFFB2000000),
    ],
)
def test_names_of_a_linux(memory: int, vmalloc: int, pages: int, kernel: int) -> None:
    """Also of one that chose its addresses at random."""
    ranges = layout(memory, vmalloc, pages, kernel)
    names = [
        next(name.split()[0] for start, end, name in linux_names(ranges) if start <= each.start < end)
        for each in ranges
    ]
    assert names == ["a", "all", "all", "vmalloc,", "a", "what", "the", "modules", "fixed"]


def test_no_names_for_others() -> None:
    """An identity map is nobody's program."""
    assert linux_names([Range(0, 1 << 32, 0, "2 MiB", "rwx kernel")]) == ()
    everywhere = [Range(0xFFFF888000000000, 0xFFFF888000200000, 0x5000, "4 KiB", "rw- kernel")]
    assert linux_names(everywhere) == ()
