"""`pyvmm.mmu.address_space`: the same as a walk to each page, and an end whatever the tables hold."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest

from pyvmm.mmu import address_space, walk
from tests.conformance.engine_tables import PageTables
from tests.unit.mmu.test_walk import KINDS, LARGE, P, U, W, ram, state_of


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
