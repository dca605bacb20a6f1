"""`pyvmm.mmu.Shadow`: the C shadow beside the walker in Python, and what a reader sees of it."""

from __future__ import annotations

import random
import xml.etree.ElementTree as ElementTree
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyvmm.board import Board
from pyvmm.cpu.state import CpuState
from pyvmm.errors import GuestError
from pyvmm.memory import GuestMemory
from pyvmm.mmu import Shadow, walk
from tests.conformance.engine_tables import PageTables
from tests.unit.mmu import python_walker
from tests.unit.mmu.test_address_space import INDICES
from tests.unit.mmu.test_walk import ENTRY

GUEST_END, POOL_SIZE = 4 << 20, 64 << 12
PAGES = (0x400000, 0x401000, 0x5FF000, 0x40000000, 0x7FFFFFFFF000, 0xFFFF800000000000)


@cache
def cleared() -> GuestMemory:
    memory = Board("virtual").memory
    memory.add(0, GUEST_END + POOL_SIZE)
    return memory


def cleared_memory() -> GuestMemory:
    """The same RAM each time, for tests of many examples."""
    cleared().load(0, bytes(GUEST_END))
    return cleared()


@pytest.fixture
def memory() -> GuestMemory:
    memory = Board("virtual").memory
    memory.add(0, GUEST_END + POOL_SIZE)
    return memory


@pytest.fixture
def shadow(memory: GuestMemory) -> Shadow:
    return Shadow(memory, guest_end=GUEST_END, pool=GUEST_END, pool_size=POOL_SIZE, monitor_entry=0x1003)


def state_of(cr3: int, cpl: int = 0, **changes: int) -> CpuState:
    state = CpuState()
    state.cr0, state.cr4, state.efer, state.cr3 = 0x80010033, 0x20, 0xD01, cr3
    state.ss.attributes = state.cs.attributes = 0x93 | cpl << 5
    for name, value in changes.items():
        setattr(state, name, value)
    assert state.cpl == cpl
    return state


@pytest.mark.parametrize("seed", range(4))
def test_a_shadow_is_what_walks_allow(memory: GuestMemory, shadow: Shadow, seed: int) -> None:
    """Random rights, accesses in a random order; the oracle is the walk in Python."""
    choose = random.Random(seed)
    tables = PageTables(memory, "long", 0x10000, 0x80000)
    for page in PAGES:
        tables.map(
            page, choose.randrange(0x100, 0x200) << 12, 0x1000, choose.choice(("", "PU", "PWU", "PW", "PX"))
        )
    states = [state_of(tables.root, cpl) for cpl in (0, 3)]
    states += [state_of(tables.root, cr0=0x80000033), state_of(tables.root, cr4=0x300020)]
    for _ in range(200):
        state, page = choose.choice(states), choose.choice(PAGES)
        act = choose.choice(({}, {"write": True}, {"fetch": True}))
        if choose.random() < 0.2:
            value = (
                choose.randrange(0x100, 0x200) << 12
                | choose.randrange(128) & ~0x18
                | choose.randrange(2) << 63
            )
            shadow.write(tables.entry(page), value.to_bytes(8, "little"))
        expected = python_walker.walk(memory, state, page, physical_bits=40)
        allowed = expected.access(state.cpl, **act)
        shadow.root(state)
        found = shadow.fault(state, page, **act)
        assert found.result == ("filled" if allowed else "guest fault"), f"{found}\n{expected}"
        if not allowed:
            assert found.why == allowed.why
            continue
        ours = shadow.walk(state, page)
        assert ours is not None
        assert ours.physical == expected.physical == found.physical
        assert ours.access(3, **act)
    assert shadow.statistics.guest_faults > 20


def test_side_by_side(memory: GuestMemory, shadow: Shadow) -> None:
    tables = PageTables(memory, "long", 0x10000, 0x80000)
    tables.map(0x400000, 0x100000, 0x1000, "PW")
    tables.map(0x401000, tables.root, 0x1000, "PW")
    tables.map(0x402000, 0x102000, 0x1000, "PWU")
    tables.map(0x403000, 0x103000, 0x1000, "PU")
    kernel, user = state_of(tables.root), state_of(tables.root, 3)
    assert "no shadow for this CR3 and ring" in str(shadow.side_by_side(kernel, 0x400000))
    shadow.root(kernel)
    assert "A is clear" in str(shadow.side_by_side(kernel, 0x400000))
    assert shadow.fault(kernel, 0x400000).result == "filled"
    text = str(shadow.side_by_side(kernel, 0x400000))
    assert text.startswith("0x400000, ring 0\n")
    assert "U/S is set in the shadow" in text
    assert "D is clear" in text
    assert text.count("\nPTE ") == 1
    assert shadow.fault(kernel, 0x401008, write=True).result == "traced"
    assert shadow.is_traced(tables.root)
    assert shadow.fault(kernel, 0x401008).result == "filled"
    assert "the page is traced" in str(shadow.side_by_side(kernel, 0x401008))
    shadow.root(user)
    assert "ring 3 may not even read here" in str(shadow.side_by_side(user, 0x400000))
    assert "maps nothing here" in str(shadow.side_by_side(user, 0x500000))
    smep = state_of(tables.root, cr4=0x100020)
    shadow.fault(smep, 0x402000, write=True)
    assert "CR4.SMEP" in str(shadow.side_by_side(smep, 0x402000))
    no_wp = state_of(tables.root, cr0=0x80000033)
    shadow.fault(no_wp, 0x403000, write=True)
    assert "CR0.WP is clear" in str(shadow.side_by_side(no_wp, 0x403000))
    seen = shadow.side_by_side(kernel, 0x400000)
    picture = ElementTree.fromstring(seen.svg())
    boxes = picture.findall("{http://www.w3.org/2000/svg}rect")
    assert len(boxes) == 1 + 2 * 5  # the ground; four levels and the page, twice
    assert "<svg" in seen._repr_html_()


def test_large_pages_and_steps(memory: GuestMemory, shadow: Shadow) -> None:
    tables = PageTables(memory, "long", 0x10000, 0x80000)
    tables.map_large(0x200000, 0, "PWU")
    state = state_of(tables.root, 3)
    shadow.root(state)
    assert shadow.fault(state, 0x300000, write=True).result == "filled"
    assert "in pieces" in str(shadow.side_by_side(state, 0x300000))
    shadow.trace(0x101000)
    assert str(shadow.fault(state, 0x301000, write=True)) == "traced: 0x101000 is in translated code"
    shadow.trace(0x101000, False)
    assert shadow.fault(state, 0x301000, write=True).result == "filled"
    here = tables.entry(0x200000, 1) & ~0xFFF
    shadow.unsync(here)
    memory.view(tables.entry(0x200000, -2), 8)[:] = bytes(8)  # the guest's store, unseen
    assert shadow.walk(state, 0x300000).physical == 0x100000  # type: ignore[union-attr]
    shadow.unsync(tables.entry(0x200000, -2) & ~0xFFF)
    shadow.invlpg(0x300000)
    assert shadow.walk(state, 0x300000).physical is None  # type: ignore[union-attr]
    shadow.sync()
    shadow.flush()
    counted = shadow.statistics
    assert (counted.splintered, counted.trace_faults, counted.invlpg, counted.unsyncs) == (1, 1, 1, 2)
    assert "page faults" in str(counted)


def test_ends_are_explained(memory: GuestMemory, shadow: Shadow) -> None:
    tables = PageTables(memory, "long", 0x10000, 0x80000)
    tables.map(0x400000, GUEST_END, 0x1000, "PW")
    state = state_of(tables.root)
    assert "monitor's memory" in shadow.fault(state, 0x400000).why
    tables.set(0x400000, 0x7000_0003, -2)
    assert "no RAM" in shadow.fault(state, 0x400000).why
    with pytest.raises(GuestError, match="only 64-bit paging"):
        shadow.root(state_of(tables.root, cr0=0x33))
    with pytest.raises(GuestError, match="CR3 is"):
        shadow.root(state_of(1 << 39))
    with pytest.raises(GuestError, match="8 bytes at"):
        shadow.write(GUEST_END, bytes(8))
    with pytest.raises(GuestError, match="32 pages to 4 GiB"):
        Shadow(memory, guest_end=GUEST_END, pool=0, pool_size=POOL_SIZE)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 6), INDICES, ENTRY), min_size=4, max_size=24),
    st.lists(
        st.tuples(st.tuples(*[INDICES] * 4), st.sampled_from(["read", "write", "fetch"]), st.booleans()),
        min_size=8,
        max_size=8,
    ),
    st.sampled_from([0xD01, 0x501]),
)
def test_any_tables_end_explained(
    entries: list[tuple[int, int, int]],
    asked: list[tuple[tuple[int, ...], str, bool]],
    efer: int,
) -> None:
    """Tables that loop, lead to devices, nowhere, or to the monitor: an answer with its reason, as the walk has it."""
    memory = cleared_memory()
    shadow = Shadow(memory, guest_end=GUEST_END, pool=GUEST_END, pool_size=POOL_SIZE)
    for table, index, entry in entries:
        memory.write_integer(table * 0x1000 + 8 * (index & 0x1FF), 8, entry & (1 << 64) - 1)
    for indices, act, user in asked:
        state = state_of(0x1000, 3 if user else 0, efer=efer)
        address = sum(
            (index & 0x1FF) << shift for index, shift in zip(indices, (12, 21, 30, 39), strict=True)
        )
        address |= 0xFFFF << 48 if address >> 47 else 0
        guest = walk(memory, state, address, physical_bits=40)
        allowed = guest.access(state.cpl, write=act == "write", fetch=act == "fetch")
        shadow.root(state)
        found = shadow.fault(state, address, write=act == "write", fetch=act == "fetch")
        assert found.why
        assert str(shadow.side_by_side(state, address))
        if found.result in ("filled", "traced"):
            assert (bool(allowed), found.physical) == (True, guest.physical), f"{found}\n{guest}"
        elif found.result == "guest fault":
            assert not allowed, f"{found}\n{guest}"
        elif found.result == "bad table":
            assert "no RAM" in guest.why, f"{found}\n{guest}"
        else:
            assert found.result == "monitor", found
            assert address >> 39 & 511 == 511 or (guest.physical or 0) >= GUEST_END, f"{found}\n{guest}"
