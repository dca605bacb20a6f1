"""Instructions that KVM's emulator refuses, executed by the translator: by a machine, counted, or not when told so."""

from __future__ import annotations

import pytest

from pyvmm.asm import assemble
from pyvmm.cpu.state import CpuState
from pyvmm.engine import ExitReason
from pyvmm.kvm import KvmEngine
from pyvmm.machine.engines import translator
from pyvmm.machine.machine import Machine

CODE = 0x10000
# Device memory is emulated on every host; KVM's emulator has no FLD from it. Nobody answers at 3 GiB: all ones, a NaN.
PROGRAM = (
    "fninit; mov ecx, 3; l: fld dword ptr [0xc0000000]; fstp dword ptr [0x20000]; dec ecx; jnz l; cli; hlt"
)


def make(hand_over: str) -> Machine:
    machine = Machine(memory=16 << 20, serial="null", engine="kvm", hand_over=hand_over)  # type: ignore[arg-type]
    machine.memory.load(CODE, assemble(PROGRAM, bits=32, address=CODE))
    state = CpuState()
    state.set_flat_protected_mode(CODE, esp=0x8000)
    state.apic_base = machine.vcpu.state.apic_base
    machine.vcpu.state = state
    return machine


@pytest.fixture(autouse=True)
def both(engine: KvmEngine) -> None:
    usable, reason = translator().availability()
    if not usable:
        pytest.skip(f"no translator here: {reason}")


def test_a_machine_lends_the_translator() -> None:
    with make("on") as machine:
        result = machine.run(timeout=30)
        assert result.reason == "halted", result
        kinds = machine.vcpu.handed_over_kinds
        if not kinds:
            pytest.skip("this KVM emulates FLD")
        assert machine.memory.read_u32(0x20000) == 0xFFFFFFFF
        assert machine.vcpu.handed_over == sum(kinds.values())
        assert (
            next(count for code, count in kinds.items() if code[:1] == b"\xd9" and code[1:2] == b"\x05") == 3
        )
        assert machine.engine_name == "kvm"
        assert machine.vcpu.handed_over_summary.startswith(f"{machine.vcpu.handed_over} instructions")


def test_not_when_told() -> None:
    with make("off") as machine:
        result = machine.run(timeout=30)
        if result.reason == "halted":
            pytest.skip("this KVM emulates FLD")
        assert result.reason == "failed"
        assert "KVM cannot emulate the instruction" in result.exit.text
        assert machine.vcpu.handed_over == 0


def test_teaching_mode_goes_on() -> None:
    with make("on") as machine:
        last = list(machine.exits([ExitReason.HLT]))[-1]
        assert last.reason is ExitReason.HLT
