"""The privilege checks by themselves; tests/lab/test_ring_checks.py runs them beside a processor."""

from __future__ import annotations

import pytest

from pyvmm.cpu import rings
from pyvmm.cpu.rings import GP, NP, PF, SS, Descriptor

DATA, CODE, CONFORMING, EXECUTE_ONLY, READ_ONLY = 3, 0xB, 0xF, 0x9, 1


def segment(kind: int, dpl: int, present: bool = True) -> Descriptor:
    return Descriptor(kind, True, dpl, present)


def test_descriptors_are_taken_apart() -> None:
    flat = Descriptor.parse(0x00CFFA000000FFFF)
    assert (flat.is_code, flat.is_readable, flat.dpl, flat.limit, flat.base) == (True, True, 3, 0xFFFFFFFF, 0)
    gate = Descriptor.parse(bytes.fromhex("3412080000ee7856"))
    assert (gate.is_segment, gate.type, gate.dpl, gate.present) == (False, 0xE, 3, True)
    assert (gate.base, gate.limit) == (0x56781234, 8)
    with pytest.raises(ValueError, match="8 bytes"):
        Descriptor.parse(b"short")


@pytest.mark.parametrize("cpl", range(4))
@pytest.mark.parametrize("rpl", range(4))
@pytest.mark.parametrize("dpl", range(4))
def test_data_stack_and_code(cpl: int, rpl: int, dpl: int) -> None:
    """§5.6, §5.7, §5.8.1 as sentences: the weaker of CPL and RPL; all three one; the same ring."""
    selector = 8 | rpl
    assert bool(rings.load_data_segment(cpl, selector, segment(DATA, dpl))) == (cpl <= dpl and rpl <= dpl)
    assert rings.load_data_segment(cpl, selector, segment(CONFORMING, dpl))
    assert bool(rings.load_stack_segment(cpl, selector, segment(DATA, dpl))) == (len({cpl, rpl, dpl}) == 1)
    assert bool(rings.far_transfer(cpl, selector, segment(CODE, dpl))) == (dpl == cpl >= rpl)
    assert bool(rings.far_transfer(cpl, selector, segment(CONFORMING, dpl))) == (dpl <= cpl)
    assert bool(rings.far_return(cpl, selector, segment(CODE, dpl))) == (cpl <= rpl == dpl)


def test_kinds_of_segments() -> None:
    assert rings.load_data_segment(0, 8, segment(EXECUTE_ONLY, 0)).vector == GP
    assert rings.load_data_segment(0, 8, segment(DATA, 0, present=False)).vector == NP
    assert rings.load_data_segment(3, 3, None)
    assert rings.load_stack_segment(0, 8, segment(READ_ONLY, 0)).vector == GP
    assert rings.load_stack_segment(0, 8, segment(DATA, 0, present=False)).vector == SS
    assert rings.load_stack_segment(0, 0, None).vector == GP
    assert rings.load_stack_segment(0, 0, None, long=True)
    assert rings.load_stack_segment(3, 3, None, long=True).vector == GP


def test_gates_lead_inwards() -> None:
    gate, kernel, user = Descriptor(0xC, False, 3, True), segment(CODE, 0), segment(CODE, 3)
    assert rings.call_gate(3, 3, gate, kernel).cpl == 0
    assert rings.call_gate(3, 3, gate, segment(CONFORMING, 0)).cpl == 3
    assert rings.call_gate(3, 3, gate, kernel, jump=True).vector == GP
    assert rings.call_gate(3, 3, Descriptor(0xC, False, 0, True), kernel).vector == GP
    assert rings.call_gate(0, 0, gate, user).vector == GP
    trap = Descriptor(0xE, False, 0, True)
    assert rings.interrupt_gate(3, trap, kernel, software=True).vector == GP
    assert rings.interrupt_gate(3, trap, kernel, software=False).cpl == 0
    assert rings.interrupt_gate(0, trap, user, software=False).vector == GP


def test_ports() -> None:
    """Vol. 1 §19.5.2: every byte of the port needs its bit; virtual-8086 mode asks the bit map only."""
    bitmap = bytearray(b"\xff" * 0x20)
    bitmap[0xE0 // 8] &= ~0b11
    assert rings.port_access(3, 0, 0xE0, 2, bitmap=bytes(bitmap))
    assert rings.port_access(3, 0, 0xE1, 2, bitmap=bytes(bitmap)).vector == GP
    assert rings.port_access(3, 0, 0x1000, bitmap=bytes(bitmap)).vector == GP
    assert rings.port_access(3, 0, 0xE0).vector == GP
    assert rings.port_access(3, 3, 0xE0)
    assert not rings.port_access(3, 3, 0xE0, virtual_8086=True)
    assert rings.interrupt_flag(3, 3)
    assert rings.interrupt_flag(3, 0).vector == GP
    assert rings.interrupt_flag(3, 0, virtual_interrupts=True)


def test_pages() -> None:
    assert rings.page_access(3, user=False).vector == PF
    assert rings.page_access(2, user=False)
    assert not rings.page_access(3, user=True, writable=False, write=True)
    assert not rings.page_access(0, user=True, writable=False, write=True)
    assert rings.page_access(0, user=True, writable=False, write=True, wp=False)
    assert not rings.page_access(0, user=True, fetch=True, smep=True)
    assert rings.page_access(0, user=True, smep=True)
    assert not rings.page_access(0, user=True, smap=True)
    assert rings.page_access(0, user=True, smap=True, ac=True)
    assert not rings.page_access(3, user=True, fetch=True, executable=False)


def test_answers_read_well() -> None:
    assert (
        str(rings.load_data_segment(3, 0x10, segment(DATA, 0)))
        == "#GP: DPL 0 < max(CPL 3, RPL 0) (SDM 3A §5.6)"
    )
    assert str(rings.far_return(0, 0x1B, segment(CODE, 3))).startswith("allowed, to ring 3: ")
