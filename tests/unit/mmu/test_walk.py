"""`pyvmm.mmu.walk`: every format, every end."""

from __future__ import annotations

from functools import cache
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyvmm.board import Board
from pyvmm.cpu.state import CpuState
from pyvmm.memory import GuestMemory
from pyvmm.mmu import walk
from tests.conformance.engine_tables import PageTables
from tests.unit.mmu import python_walker

RAM = 0x100000
P, W, U, LARGE, XD = 1, 2, 4, 0x80, 1 << 63
STATES = {
    "paging32": {"cr0": 0x80010033, "cr4": 0x10, "efer": 0},
    "pae": {"cr0": 0x80010033, "cr4": 0x20, "efer": 0x800},
    "long": {"cr0": 0x80010033, "cr4": 0x20, "efer": 0xD01},
}
KINDS = {"paging32": "32-bit", "pae": "PAE", "long": "4-level"}


def ram() -> GuestMemory:
    """A megabyte."""
    memory = Board("virtual").memory
    memory.add(0, RAM)
    return memory


@cache
def _one_ram() -> GuestMemory:
    return ram()


def cleared_ram() -> GuestMemory:
    """The same megabyte each time, for tests of many examples: a board has files open."""
    memory = _one_ram()
    memory.load(0, bytes(RAM))
    return memory


def state_of(kind: str, cr3: int, **changes: int) -> CpuState:
    state = CpuState()
    for name, value in {**STATES[kind], "cr3": cr3, **changes}.items():
        setattr(state, name, value)
    return state


@pytest.fixture(params=list(STATES))
def made(request: pytest.FixtureRequest) -> tuple[str, GuestMemory, PageTables, CpuState]:
    memory = ram()
    tables = PageTables(memory, request.param, 0x10000, 0x40000)
    return request.param, memory, tables, state_of(request.param, tables.root)


def test_pages_and_rights(made: tuple[str, GuestMemory, PageTables, CpuState]) -> None:
    kind, memory, tables, state = made
    tables.map(0x400000, 0x5000, 0x1000, "PWU")
    tables.map(0x401000, 0x6000, 0x1000, "P")
    found = walk(memory, state, 0x400123)
    assert (found.kind, found.physical, found.page_size) == (KINDS[kind], 0x5123, 0x1000)
    assert len(found.steps) == len(tables.shifts)
    assert found.access(3, write=True)
    read_only = walk(memory, state, 0x401000)
    assert read_only.steps[-1].rights == "r-x supervisor"
    assert not read_only.access(3)
    assert not read_only.access(0, write=True)
    assert read_only.access(0)
    text = str(found)
    assert text.count("\n") == len(found.steps) + 1
    assert "PTE" in text
    assert "-> 0x5123: a page of 4 KiB, rwx user" in text


def test_ends(made: tuple[str, GuestMemory, PageTables, CpuState]) -> None:
    _, memory, tables, state = made
    tables.map(0x400000, 0x5000, 0x1000, "PW")
    absent = walk(memory, state, 0x403000)
    assert (absent.physical, absent.why) == (None, "#PF: PTE not present")
    assert absent.access(0).vector == 14
    assert str(absent.access(0)).startswith("#PF: PTE not present (SDM")
    assert str(absent).splitlines()[-2].endswith("  not present")
    tables.set(0x400000, 0x7FFFF000 | P | W, -2)
    assert "0x7ffff000, where there is no RAM" in walk(memory, state, 0x400000).why
    state.cr3 = 0x80000000
    assert "where there is no RAM" in walk(memory, state, 0).why
    state.cr0 = 0x11
    assert walk(memory, state, 0x1234).physical == 0x1234


def test_large_pages() -> None:
    memory = ram()
    tables = PageTables(memory, "paging32", 0x10000, 0x20000)
    tables.map_large(0x800000, 0x400000, "PW")
    state = state_of("paging32", tables.root)
    assert walk(memory, state, 0x812345).physical == 0x412345
    tables.set(0x800000, 0x400000 | P | W | LARGE | 3 << 13, -2)
    assert walk(memory, state, 0x800000).physical == 0x3_0040_0000  # PSE-36
    tables.set(0x800000, 0x400000 | P | W | LARGE | 1 << 21, -2)
    assert "reserved bits set: 0x200000" in walk(memory, state, 0x800000).why
    long = PageTables(memory, "long", 0x20000, 0x30000)
    long.map_large(0x40000000, 0x40000000, "PWUX", -3)
    found = walk(memory, state_of("long", long.root), 0x7FFFFFFF)
    assert (found.physical, found.page_size) == (0x7FFFFFFF, 1 << 30)
    assert not found.access(3, fetch=True)
    long.map_large(0x200000, 0x200000, "P")
    assert "2 MiB" in walk(memory, state_of("long", long.root), 0x200000).why
    long.set(0x200000, 0x202000 | P | LARGE, -2)
    assert "reserved bits set: 0x2000" in walk(memory, state_of("long", long.root), 0x200000).why


def test_reserved_bits() -> None:
    memory = ram()
    tables = PageTables(memory, "long", 0x10000, 0x20000)
    tables.map(0x1000, 0x1000, 0x1000, "PX")
    assert "0x8000000000000000" in walk(memory, state_of("long", tables.root, efer=0x501), 0x1000).why
    tables.set(0x1000, 1 << 45 | P)
    assert walk(memory, state_of("long", tables.root), 0x1000).physical == 1 << 45
    assert "reserved" in walk(memory, state_of("long", tables.root), 0x1000, physical_bits=40).why
    pae = PageTables(memory, "pae", 0x20000, 0x30000)
    pae.map(0, 0, 0x1000, "P")
    pae.set(0, pae.get(0, 0) | W, 0)
    assert "PDPTE has reserved bits set: 0x2" in walk(memory, state_of("pae", pae.root), 0).why


def test_five_levels_and_canonical_addresses() -> None:
    memory = ram()
    for table in range(0x10000, 0x15000, 0x1000):
        target = table + 0x1000 if table < 0x14000 else 0x9000
        memory.write_integer(table + 8 * 0x1FF, 8, target | P | W)
    state = state_of("long", 0x10000, cr4=0x1020)
    found = walk(memory, state, (1 << 64) - 1)
    assert (found.kind, found.physical, len(found.steps)) == ("5-level", 0x9FFF, 5)
    assert found.steps[0].level == "PML5E"
    four = state_of("long", 0x10000)
    bad = walk(memory, four, 1 << 47)
    assert (bad.physical, bad.access(0).vector) == (None, 13)
    assert "canonical" in bad.why
    assert walk(memory, state, 1 << 47).why == "#PF: PML5E not present"


def test_tables_that_loop_end() -> None:
    """A table that is its own entry (a recursive mapping) ends after the format's levels."""
    memory = ram()
    memory.write_integer(0x10000, 8, 0x10000 | P | W | U)
    found = walk(memory, state_of("long", 0x10000), 0x123)
    assert (len(found.steps), found.physical) == (4, 0x10123)


def test_what_cannot_be_asked() -> None:
    with pytest.raises(ValueError, match="32 bits"):
        walk(ram(), state_of("pae", 0), 1 << 32)
    with pytest.raises(ValueError, match="physical_bits"):
        walk(ram(), state_of("pae", 0), 0, physical_bits=53)


@given(st.binary(min_size=64, max_size=512), st.integers(0, (1 << 64) - 1), st.sampled_from(list(STATES)))
def test_any_tables_end_explained(junk: bytes, address: int, kind: str) -> None:
    memory = cleared_ram()
    memory.load(0x1000, (junk * 128)[:0x8000])
    found = walk(memory, state_of(kind, 0x1000), address if kind == "long" else address & 0xFFFFFFFF)
    assert found.why
    assert str(found)
    assert found._repr_html_()


MODES = [
    {"cr0": 0x80010033, "cr4": 0, "efer": 0},
    *STATES.values(),
    {"cr0": 0x80010033, "cr4": 0x20, "efer": 0},  # PAE without NXE
    {"cr0": 0x80010033, "cr4": 0x1020, "efer": 0xD01},  # 5 levels
    {"cr0": 0x80000033, "cr4": 0x300020, "efer": 0x501},  # SMEP and SMAP, no WP, no NXE
    {"cr0": 0x33, "cr4": 0x20, "efer": 0},
]
ENTRY = st.builds(
    lambda low, high, table, keep: (low | 1 | (table << 12)) & keep | high,
    st.integers(0, 0xFFF),
    st.sampled_from([0, 0, 0, 0, 1 << 63, 1 << 52, 1 << 51, 1 << 40, 1 << 31, 1 << 13, 1 << 21]),
    st.integers(1, 6) | st.integers(0, 0x1FF),
    st.sampled_from([~0, ~0, ~0, ~0x80, ~0x80, ~1]),
)


@settings(max_examples=600)
@given(
    st.sampled_from(MODES),
    st.lists(ENTRY, min_size=12, max_size=12),
    st.tuples(*[st.sampled_from([0, 1, 0x1FF])] * 5),
    st.sampled_from([32, 36, 40, 46, 52]),
    st.booleans(),
)
def test_as_the_walker_in_python(
    mode: dict[str, int], entries: list[int], indices: tuple[int, ...], physical_bits: int, odd: bool
) -> None:
    """Six tables, of which few entries are anything: what is found, how it ends, and each access's answer."""
    memory = cleared_ram()
    size = 8 if mode["cr4"] & 0x20 else 4
    for number, entry in enumerate(entries):
        index = (0, 1, 0x1FF if size == 8 else 0x3FF)[number % 3]
        value = entry & (1 << 8 * size) - 1
        for table in (0x1000 + 0x1000 * (number // 3), 0x5000, 0x6000):
            memory.write_integer(table + size * index, size, value)
    state = CpuState()
    for name, setting in {**mode, "cr3": 0x1000}.items():
        setattr(state, name, setting)
    address = sum(index << shift for index, shift in zip(indices, (12, 21, 30, 39, 48), strict=True)) | 0x123
    if mode["efer"] & 0x400:
        top = 57 if mode["cr4"] & 0x1000 else 48
        low = address & (1 << top) - 1
        address = low | ((1 << 64) - (1 << top) if low >> top - 1 else 0) if not odd else address
    else:
        address &= 0xFFFFFFFF
    found = walk(memory, state, address, physical_bits=physical_bits)
    expected = python_walker.walk(memory, state, address, physical_bits=physical_bits)
    assert str(found) == str(expected)
    assert (found.physical, found.page_size, found.modes) == (
        expected.physical,
        expected.page_size,
        expected.modes,
    )
    for cpl, write, fetch, ac in product((0, 3), (False, True), (False, True), (False, True)):
        if write and fetch:
            continue
        check = expected.access(cpl, write=write, fetch=fetch, ac=ac)
        code = found.error_code(cpl, write=write, fetch=fetch, ac=ac)
        assert (code is None) == bool(check) == bool(found.access(cpl, write=write, fetch=fetch, ac=ac))
        if code is not None:
            tells = mode["cr4"] & 1 << 20 or (mode["cr4"] & 0x20 and mode["efer"] & 0x800)
            present = expected.physical is not None or "reserved" in expected.why
            assert code == (
                present | write << 1 | (cpl == 3) << 2 | ("reserved" in expected.why) << 3
                | (bool(tells) and fetch) << 4
            )  # fmt: skip
