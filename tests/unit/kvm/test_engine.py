"""The engine behind the protocol: the built-in guest to its shell and back, kicks, steps, reports."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Literal

import pytest

from pyvmm.asm import assemble
from pyvmm.board import Board
from pyvmm.config import DiskConfig
from pyvmm.engine import ExitReason, Vcpu
from pyvmm.errors import EngineError
from pyvmm.kvm import KvmEngine
from pyvmm.kvm.constants import KvmExitReason
from pyvmm.kvm.report import report
from pyvmm.kvm.system import System
from pyvmm.machine.engines import translator
from pyvmm.machine.machine import Machine

CODE = 0x1000


class Rig:
    """A board with a megabyte, a vCPU, and what port 0x77 was told."""

    def __init__(self, engine: KvmEngine) -> None:
        self.board = Board()
        self.board.memory.add(0, 1 << 20)
        self.vm = engine.create_vm(self.board)
        self.vcpu: Vcpu = self.vm.create_vcpu(0)

    def start(self, source: str, *, bits: int = 16) -> Vcpu:
        self.board.memory.load(CODE, assemble(source, bits=bits, address=CODE))  # type: ignore[arg-type]
        state = self.vcpu.state
        if bits == 16:
            state.set_real_mode(0, CODE, sp=0x8000)
        else:
            state.set_flat_protected_mode(CODE, esp=0x8000)
            state.idtr.limit = 0
        self.vcpu.state = state
        return self.vcpu


@pytest.fixture
def rig(engine: KvmEngine) -> Iterator[Rig]:
    made = Rig(engine)
    yield made
    made.vm.close()
    made.board.close()


def test_availability_without_a_device() -> None:
    assert KvmEngine("/nonexistent").availability() == (
        False,
        "/nonexistent: no such file; load the module (modprobe kvm_intel or kvm_amd), switch virtualisation on in the"
        " firmware, or inside a virtual machine ask its host for nested virtualisation",
    )
    usable, reason = KvmEngine("/dev/null").availability()
    assert not usable
    assert "not the KVM device" in reason


def test_virtual_clock_is_refused(engine: KvmEngine) -> None:
    board = Board("virtual")
    with pytest.raises(EngineError, match="--engine translator"):
        engine.create_vm(board)
    board.close()


def test_more_vcpus_than_there_can_be(rig: Rig, engine: KvmEngine, system: System) -> None:
    with pytest.raises(EngineError, match="--cpus"):
        rig.vm.create_vcpu(1)
    most = system.check_extension("MAX_VCPUS")
    for arguments, message in (
        ({"cpus": most + 1}, f"--cpus {most + 1}: this KVM runs at most {most} vCPUs"),
        ({"cpus": 2, "irqchip": "user"}, "--cpus 2: .* --irqchip kernel, or --cpus 1"),
        ({"cpus": min(most, 300)}, "--cpus"),
    ):
        board = Board()
        with pytest.raises(EngineError, match=message):
            engine.create_vm(board, **arguments)  # type: ignore[arg-type]
        assert board.irq_line(3).gsi == 3
        board.close()
    board = Board()
    vm = engine.create_vm(board, cpus=255)
    assert vm.warning is None or "--cpus 255: this KVM recommends at most" in vm.warning
    vm.close()
    board.close()


def test_the_translator_has_one_vcpu_and_its_own_irqchip() -> None:
    board = Board()
    with pytest.raises(EngineError, match="--cpus 2: the translator runs one vCPU"):
        translator().create_vm(board, cpus=2)
    with pytest.raises(EngineError, match="--irqchip kernel: the translator"):
        translator().create_vm(board, irqchip="kernel")
    board.close()


def test_surfaced_exits(rig: Rig) -> None:
    vcpu = rig.start("mov al, 5; out 0x99, al; in al, 0x98; cli; hlt")
    first = vcpu.run([ExitReason.IO])
    assert (first.reason, first.address, first.value, first.is_write, first.handled) == (
        ExitReason.IO, 0x99, 5, True, False,
    )  # fmt: skip
    second = vcpu.run([ExitReason.IO])
    assert (second.address, second.value, second.is_write) == (0x98, 0xFF, False)
    assert vcpu.run([ExitReason.IO]).reason is ExitReason.HLT
    assert vcpu.state.al == 0xFF


def test_unknown_msr_is_answered_or_faults(rig: Rig) -> None:
    vcpu = rig.start("mov ecx, 0xc0010015; rdmsr; cli; hlt")
    assert vcpu.run().reason is ExitReason.HLT
    assert vcpu.state.eax == 0


def test_kick_from_another_thread(rig: Rig) -> None:
    vcpu = rig.start("cli; l: jmp l")
    timer = threading.Timer(0.02, vcpu.kick)
    timer.start()
    assert vcpu.run().reason is ExitReason.KICK
    timer.join()


def test_kick_wakes_a_halted_guest(rig: Rig) -> None:
    vcpu = rig.start("sti; hlt")
    timer = threading.Timer(0.02, vcpu.kick)
    timer.start()
    assert vcpu.run().reason is ExitReason.KICK
    timer.join()


def test_step_and_breakpoint(rig: Rig) -> None:
    vcpu = rig.start("l: inc ax; inc ax; inc ax; jmp l")
    assert vcpu.step().rip == CODE + 1
    vcpu.breakpoints = [CODE + 2]
    for turn in range(3):
        left = vcpu.run()
        assert (left.reason, left.rip) == (ExitReason.DEBUG, CODE + 2)
        assert vcpu.state.ax == 2 + 3 * turn
    with pytest.raises(EngineError, match="5 breakpoints"):
        vcpu.breakpoints = [1, 2, 3, 4, 5]


def test_no_report_of_a_healthy_vcpu(rig: Rig) -> None:
    assert report(rig.vcpu, rig.board.memory) is None


def test_report_of_a_triple_fault(rig: Rig) -> None:
    vcpu = rig.start("push 0x1234; ud2", bits=32)
    assert vcpu.run().reason is ExitReason.SHUTDOWN
    found = report(vcpu, rig.board.memory)
    assert found is not None
    assert found.reason is KvmExitReason.SHUTDOWN
    if found.state.rip == 0xFFF0:
        assert "SVM" in found.causes[0]
        return
    assert found.instruction == "ud2"
    assert found.causes == ("no exception can be delivered: beyond the IDT's limit 0x0",)
    assert found.stack[0] == (0x7FFC, 0x1234)
    assert "triple fault at 0x1005" in str(found)
    vcpu.state = vcpu.state
    assert report(vcpu, rig.board.memory) is None


def test_report_names_the_broken_gate(rig: Rig) -> None:
    memory = rig.board.memory
    vcpu = rig.start("ud2", bits=32)
    state = vcpu.state
    state.idtr.base, state.idtr.limit = 0x3000, 0xFF
    state.gdtr.base, state.gdtr.limit = 0x4000, 0x17
    memory.load(0x4008, bytes.fromhex("ffff0000009bcf00 ffff00000093cf00"))
    for vector in range(32):
        memory.load(0x3000 + 8 * vector, bytes.fromhex("0050 0800 008e 0000"))
    for vector in (6, 8, 11):  # #UD not present: #NP; that too: #DF; that too: shutdown
        memory.load(0x3000 + 8 * vector, bytes.fromhex("0050 0800 000e 0000"))
    memory.load(0x3000 + 8 * 10, bytes.fromhex("0050 1000 008e 0000"))
    memory.load(0x3000 + 8 * 12, bytes.fromhex("0050 0800 0085 0000"))
    memory.load(0x3000 + 8 * 13, bytes.fromhex("0050 f800 008e 0000"))
    memory.load(0x3000 + 8 * 14, bytes.fromhex("0050 0800 0083 0000"))
    vcpu.state = state
    assert vcpu.run().reason is ExitReason.SHUTDOWN
    found = report(vcpu, memory)
    assert found is not None
    if found.state.rip == 0xFFF0:
        pytest.skip("SVM resets the registers at a shutdown")
    problems = {gate.vector: gate.problem for gate in found.gates}
    for vector in (6, 8, 11):
        assert "is not present" in problems[vector]
    assert "not present code" in problems[10]
    assert not problems[12], "a task gate's selector is the guest's to get right"
    assert "beyond the GDT's limit 0x17" in problems[13]
    assert "no gate" in problems[14]


def test_report_of_a_refused_instruction(rig: Rig) -> None:
    """Device memory is emulated on every host; KVM's emulator has no FLD from it."""
    vcpu = rig.start("fninit; fld dword ptr [0x200000]; hlt", bits=32)
    left = vcpu.run()
    if left.reason is not ExitReason.FAIL:
        pytest.skip("this KVM emulates FLD")
    assert "KVM cannot emulate the instruction at 0x1002" in left.text
    found = report(vcpu, rig.board.memory)
    assert found is not None
    assert found.reason is KvmExitReason.INTERNAL_ERROR
    assert found.instruction == "fld dword ptr [0x200000]"
    assert "accesses device memory at 0x200000" in found.causes[0]


@pytest.fixture(
    params=[(1, "user"), (1, "split"), (1, "kernel"), (2, "auto")], ids=["user", "split", "kernel", "2-cpus"]
)
def machine(engine: KvmEngine, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Machine]:
    """The built-in guest's PC on this engine."""
    disk = tmp_path / "builtin.qcow2"
    shutil.copy(str(files("pyvmm") / "data" / "builtin.qcow2"), disk)
    cpus, irqchip = request.param
    with Machine(
        engine="kvm",
        memory=64 << 20,
        cpus=cpus,
        irqchip=irqchip,
        serial="buffer",
        disks=[DiskConfig(disk)],
    ) as made:
        yield made


def test_builtin_guest_to_its_shell_and_back(machine: Machine) -> None:
    assert machine.engine_name == "kvm"
    machine.serial.expect("guest> ", timeout=30)
    machine.serial.send("ticks\n")
    machine.serial.expect("guest> ", timeout=30)
    machine.serial.send("disk\n")
    machine.serial.expect("guest> ", timeout=30)
    machine.serial.send("poweroff\n")
    assert machine.run(timeout=30).reason == "poweroff"
    counts = machine.vcpu.exit_counts
    assert counts[ExitReason.IO] > 100
    if machine.config.irqchip in ("user", "split"):
        assert counts[ExitReason.INTERRUPT] > 0
    else:
        assert ExitReason.INTERRUPT not in counts
    if machine.config.irqchip != "user":
        assert ExitReason.HLT not in counts


def test_stop_reset_and_run_again(machine: Machine) -> None:
    machine.serial.expect("guest> ", timeout=30)
    assert machine.run(timeout=0.05).reason == "timeout"
    machine.reset()
    machine.serial.expect("guest> ", timeout=30)
    machine.serial.send("poweroff\n")
    assert machine.run(timeout=30).reason == "poweroff"


@pytest.mark.parametrize("first", ["kvm", "translator"])
def test_a_running_guest_goes_on_on_the_other_engine(engine: KvmEngine, first: str, tmp_path: Path) -> None:
    """RAM, devices and CpuState, FPU and clock included, in the middle of a run; timer interrupts go on."""
    usable, reason = translator().availability()
    if not usable:
        pytest.skip(f"no translator here: {reason}")
    board = Board()
    vm = engine.create_vm(board)
    vm.create_vcpu(0)
    tsc_hz = board.tsc_hz  # where the host cannot scale it, the guest's rate is the host's
    vm.close()
    board.close()

    def make(name: Literal["kvm", "translator"], disk: Path) -> Machine:
        shutil.copy(str(files("pyvmm") / "data" / "builtin.qcow2"), disk)
        return Machine(engine=name, memory=64 << 20, serial="buffer", tsc_hz=tsc_hz, disks=[DiskConfig(disk)])

    second = "translator" if first == "kvm" else "kvm"
    with make(first, tmp_path / "first.qcow2") as source, make(second, tmp_path / "second.qcow2") as target:
        source.serial.expect("guest> ", timeout=30)
        for slot in source.memory.slots:
            target.memory.load(slot.gpa, source.memory.read(slot.gpa, slot.size))
        for name, device in source.devices.items():
            target.devices[name].restore(device.save())
        before = source.vcpu.state
        target.vcpu.state = before
        after = target.vcpu.state
        for name in ("rip", "rsp", "rflags", "cr0", "cr3", "cr4", "efer", "star", "lstar", "halted"):
            assert getattr(after, name) == getattr(before, name), name
        target.serial.send("ticks\n")
        assert b"measured over 20 ticks" in target.serial.expect("guest> ", timeout=30)
        target.serial.send("poweroff\n")
        assert target.run(timeout=30).reason == "poweroff"
