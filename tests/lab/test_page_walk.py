"""`pyvmm.mmu.walk` beside a processor: P, R/W, U/S and XD in all combinations, each access, two rings."""

from __future__ import annotations

from itertools import product

import pytest

from pyvmm.mmu import walk
from tests.conformance.engine_rig import BITS, PF_, UD, USER_CODE, USER_STACK, Mode, assemble
from tests.lab.experiment import rig

PAGE, FRAME = 0x600000, 0x150000
PROGRAMS = {
    "read": f"mov eax, [{PAGE:#x}]; ud2",
    "write": f"mov [{PAGE:#x}], eax; ud2",
    "execute": f"mov eax, {PAGE:#x}; jmp {{}}",
}
MODES: tuple[Mode, ...] = ("paging32", "pae", "long")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("wp", [True, False], ids=["WP", "no-WP"])
def test_rights_are_the_processors(mode: Mode, wp: bool) -> None:
    machine = rig("translator")
    tried = 0
    letters = ["".join(each) for each in product(("", "P"), ("", "W"), ("", "U"), ("", "X"))]
    for flags, cpl, act in product(letters, (0, 3), PROGRAMS):
        if mode == "paging32" and "X" in flags:
            continue
        machine.forget()
        state = machine.state(mode, USER_CODE, cpl)
        machine.tables.map(PAGE, FRAME, 0x1000, flags)
        machine.memory.load(FRAME, b"\x0f\x0b")
        program = PROGRAMS[act].format("rax" if mode == "long" else "eax")
        machine.memory.load(USER_CODE, assemble(program, BITS[mode], USER_CODE))
        state.rsp = USER_STACK
        if not wp:
            state.cr0 &= ~(1 << 16)
        found = walk(machine.memory, state, PAGE)
        check = found.access(cpl, write=act == "write", fetch=act == "execute")
        machine.vcpu.state = state
        machine.run()
        fault = machine.faults[0]
        assert (fault.vector == UD) == bool(check), f"{flags} ring {cpl} {act}: {fault}\n{found}\n{check}"
        if fault.vector != UD:
            assert (fault.vector, fault.cr2, check.vector) == (PF_, PAGE, PF_)
        assert found.physical == (FRAME if "P" in flags else None)
        tried += 1
    assert tried >= 48


def test_reserved_bits_are_the_processors() -> None:
    """Bit 3 of the error code says so (SDM 3A §4.7)."""
    machine = rig("translator")
    machine.forget()
    state = machine.state("long", USER_CODE, 0)
    machine.tables.map(PAGE, FRAME, 0x1000, "PW")
    machine.tables.set(PAGE, FRAME | 1 << 51 | 3)
    assert machine.vcpu.physical_bits == 40
    found = walk(machine.memory, state, PAGE, physical_bits=machine.vcpu.physical_bits)
    assert "PTE has reserved bits set: 0x8000000000000" in found.why
    machine.memory.load(USER_CODE, assemble(PROGRAMS["read"], 64, USER_CODE))
    machine.vcpu.state = state
    machine.run()
    assert (machine.faults[0].vector, machine.faults[0].error) == (PF_, 9)


def test_a_vcpus_own_code(capsys: pytest.CaptureFixture[str]) -> None:
    """What a reader would do: stop a machine, and walk to its next instruction."""
    machine = rig("translator")
    machine.forget()
    machine.memory.load(USER_CODE, b"\x0f\x0b")
    machine.vcpu.state = machine.state("long", USER_CODE, 3)
    print(machine.vcpu.walk(machine.vcpu.state.linear_rip))
    shown = capsys.readouterr().out
    assert shown.startswith("0x20000, 4-level paging\n  PML4E ")
    assert shown.endswith("-> 0x20000: a page of 4 KiB, rwx user (SDM 3A §4.5)\n")
