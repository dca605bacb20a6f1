"""`Machine.report` and what the command line says of a guest that cannot go on."""

from __future__ import annotations

from typing import Any

import pytest

from pyvmm import Machine, assemble
from pyvmm.autopsy import Reader, Report
from pyvmm.cli import exit_codes
from pyvmm.cli.notice import Notice
from pyvmm.cli.runner import Runner
from pyvmm.cpu.state import CpuState
from pyvmm.kvm import report as kvm_report
from pyvmm.kvm.constants import KvmExitReason
from pyvmm.machine.machine import RunResult


@pytest.fixture
def machine() -> Any:
    """A PC whose first instruction is at 0x1000 in flat 32-bit mode, with an IDT of absent gates."""
    with Machine(engine="translator", memory=16 << 20, serial="buffer") as made:
        state = CpuState()
        state.cr0, state.rip, state.rsp, state.rflags = 0x11, 0x1000, 0x8000, 2
        state.cs.set(8, 0, 0xFFFFFFFF, 0xC09B)
        for name in ("ds", "es", "ss", "fs", "gs"):
            getattr(state, name).set(0x10, 0, 0xFFFFFFFF, 0xC093)
        state.idtr.base, state.idtr.limit = 0x3000, 0x7F
        made.vcpu.state = state
        yield made


def run(machine: Machine, text: str) -> RunResult:
    machine.memory.load(0x1000, assemble(text, bits=32, address=0x1000))
    return machine.run(timeout=20)


def test_triple_fault_names_the_chain(machine: Machine) -> None:
    assert run(machine, "push 0x1234; ud2").reason == "shutdown"
    found = machine.report()
    assert found is not None
    assert [(fault.vector, fault.error, fault.in_delivery) for fault in found.chain] == [
        (6, None, False),
        (13, 6 * 8 + 3, True),
        (8, 0, True),
    ]
    assert found.chain[0].rip == 0x1005
    assert found.instruction == "ud2"
    assert found.stack[0] == (0x7FFC, 0x1234)
    assert [gate.vector for gate in found.gates] == [6, 13, 8]
    assert "not present" in str(found)


def test_the_first_fault_is_the_last_one_that_was_not_handled(machine: Machine) -> None:
    """A fault that a handler took is not in the chain; #DE and #GP are #DF at once (SDM 3A table 6-5)."""
    machine.memory.load(0x4008, bytes.fromhex("ffff0000009bcf00 ffff00000093cf00"))
    machine.memory.load(0x3000 + 8 * 6, bytes.fromhex("0050 0800 008e 0000"))
    machine.memory.load(0x5000, assemble("add dword ptr [esp], 2; iretd", bits=32, address=0x5000))
    state = machine.vcpu.state
    state.gdtr.base, state.gdtr.limit = 0x4000, 0x17
    machine.vcpu.state = state
    assert run(machine, "ud2; xor ecx, ecx; div ecx").reason == "shutdown"
    found = machine.report()
    assert found is not None
    assert [fault.vector for fault in found.chain] == [0, 8]


def test_no_report_of_a_healthy_machine(machine: Machine) -> None:
    assert machine.report() is None
    assert run(machine, "cli; hlt").reason == "halted"
    assert machine.report() is None


def runner(machine: Machine) -> Runner:
    return Runner(machine, Notice(), reboot=False)


def test_command_line_prints_it(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    machine.memory.load(0x1000, b"\x0f\x0b")
    assert runner(machine).run() == exit_codes.GUEST_STOPPED
    text = capsys.readouterr().err
    for wanted in (
        "triple-faulted",
        "fault: #UD at 0x1000",
        "fault: #DF",
        "code:  0f 0b  ud2",
        "rip=",
        "gate:  #GP",
    ):
        assert wanted in text
    assert all(line.startswith("pyvmm: ") for line in text.splitlines())


@pytest.mark.parametrize(
    ("reason", "field", "value", "says"),
    [
        (KvmExitReason.FAIL_ENTRY, "entry_failure", 0x80000021, "0x80000021, invalid guest state"),
        (KvmExitReason.INTERNAL_ERROR, "suberror", 3, "KVM internal error 3"),
        (KvmExitReason(9999), "suberror", 0, "which the engine does not ask for"),
    ],
)
def test_failures_of_kvm_on_the_command_line(
    machine: Machine,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    reason: KvmExitReason,
    field: str,
    value: int,
    says: str,
) -> None:
    """As if this vCPU were KVM's and had ended so: no processor here refuses an entry."""
    lib = kvm_report.lib

    class Failing:
        def __getattr__(self, name: str) -> Any:
            return getattr(lib, name)

        def kvm_vcpu_failure(self, vcpu: Any, failure: Any) -> bool:
            failure.exit_reason = reason
            setattr(failure, field, value)
            return True

    assert run(machine, "ud2").reason == "shutdown"
    result = RunResult("failed", 0, machine.vcpu.last_exit)
    monkeypatch.setattr(kvm_report, "lib", Failing())
    assert runner(machine)._judge(result) == exit_codes.ENGINE
    text = capsys.readouterr().err
    assert says in text


def test_causes_of_a_refused_entry(machine: Machine) -> None:
    state = CpuState()
    state.rflags, state.cr0 = 0, 0x80000010
    state.tr.attributes = 0x89
    causes = list(kvm_report._Reader(state, machine.memory).entry_causes())
    assert "RFLAGS bit 1 is 0" in causes
    assert "CR0.PG without CR0.PE" in causes
    assert any("TR is not a busy TSS (type 0x9)" in cause for cause in causes)


@pytest.mark.parametrize("kind", ["paging32", "pae", "long", "large32"])
def test_page_walk(machine: Machine, kind: str) -> None:
    """Against tables made by hand (SDM 3A §4.3-4.5); one page at 0x40001000, nothing beside it."""
    memory, state = machine.memory, CpuState()
    state.cr0, state.cr3 = 0x80000011, 0x100000
    address, page = 0x40001000, 0x203000

    def entry(at: int, value: int, size: int) -> None:
        memory.load(at, value.to_bytes(size, "little"))

    if kind == "paging32":
        entry(0x100000 + 4 * (address >> 22), 0x101003, 4)
        entry(0x101000 + 4, page | 1, 4)
    elif kind == "large32":
        state.cr4 = 0x10
        entry(0x100000 + 4 * (address >> 22), 0x400000 | 0x81, 4)
        page = 0x401000
    else:
        state.cr4 = 0x20
        if kind == "long":
            state.efer = 0x500
            entry(0x100000, 0x110003, 8)
            state_table = 0x110000
        else:
            state_table = 0x100000
        entry(state_table + 8, 0x101001, 8)
        entry(0x101000, 0x102003, 8)
        entry(0x102008, page | 1 | 1 << 63, 8)
    reader = Reader(state, memory)
    assert reader.translate(address + 0x123) == page + 0x123
    if kind != "large32":
        assert reader.translate(address + 0x1000) is None
    assert reader.translate(0x80000000) is None
    state.cr3 = 0xFFFFF000
    assert Reader(state, memory).translate(address) is None, "tables beyond memory"


def test_report_is_a_record() -> None:
    assert {"reason", "summary", "chain", "gates", "stack", "state"} <= set(Report.__dataclass_fields__)
