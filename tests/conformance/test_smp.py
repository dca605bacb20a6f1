"""Several vCPUs and KVM's own interrupt controllers: INIT and startup IPIs, 8259, I/O APIC, NMI, APIC timers; how a
machine of several vCPUs ends, stops, goes on and is reset (Intel SDM vol. 3A chapters 9 and 11)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pyvmm.cpu.topology import Topology
from pyvmm.devices.base import Device
from pyvmm.engine import ExitReason
from pyvmm.errors import EngineError, PyvmmError
from pyvmm.kvm import KvmEngine
from pyvmm.machine.machine import RunResult
from pyvmm.native import lib
from tests.conformance.smp_rig import (
    ALL_BUT_SELF,
    FOR_EVER,
    ICR,
    ICR_HIGH,
    LINT1,
    LVT_TIMER,
    NMI,
    PIC,
    PIC_INIT,
    POWER_OFF,
    RESET,
    SHARED,
    SLEEP,
    START_APS,
    TIMER_DIVIDE,
    TIMER_INITIAL,
    TRIPLE_FAULT,
    SmpMachine,
    leave,
    pit,
    redirect,
)

Make = Callable[..., SmpMachine]

ALIVE, TOTAL, GO = SHARED, SHARED + 4, SHARED + 8
AP_UP = f"lock inc dword ptr [{ALIVE}]"


def wait_for(address: int, value: int, label: str) -> str:
    """Spin until a word has a value."""
    return f"{label}: pause; cmp dword ptr [{address}], {value}; jne {label}"


@pytest.fixture(params=["kernel", "split"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Make]:
    """``make(bsp, ap, cpus=2)``: a machine that is closed after the test."""
    usable, reason = KvmEngine().availability()
    if not usable:
        pytest.skip(f"no KVM here: {reason}")
    made: list[SmpMachine] = []

    def make(*programs: str, **fields: Any) -> SmpMachine:
        try:
            made.append(SmpMachine(tmp_path, *programs, **{"irqchip": request.param, **fields}))
        except EngineError as error:
            if "runs at most" in str(error):
                pytest.skip(str(error))
            raise
        return made[-1]

    yield make
    for machine in made:
        machine.close()


def run(machine: SmpMachine) -> RunResult:
    """To its end, which must come."""
    result = machine.run(timeout=30)
    assert result.reason != "timeout", [hex(vcpu.state.rip) for vcpu in machine.vcpus]
    assert not (result.reason == "exit" and 0x40 <= result.code >> 1 < 0x60), (
        f"exception {(result.code >> 1) - 0x40}"
    )
    return result


@pytest.mark.parametrize("cpus", [2, 3, 4])
def test_aps_start_count_and_answer(make: Make, cpus: int) -> None:
    """INIT, SIPI, SIPI: each counts under LOCK, sends an IPI of its own to the first, and halts."""
    machine = make(
        f"""
        {START_APS}
        again: {SLEEP}
        xor ecx, ecx; mov esi, {0x12000 + 4 * 0x40}; mov edx, {cpus - 1}
        next: add esi, 4; add ecx, dword ptr [rsi]; dec edx; jnz next
        cmp ecx, {cpus - 1}; jne again
        {leave(1)}
        """,
        f"""
        {AP_UP}; mov ecx, 100; more: lock inc dword ptr [{TOTAL}]; dec ecx; jnz more
        mov esi, edi; shl esi, 2; mov dword ptr [rsi+{SHARED + 16}], edi
        mov dword ptr [rbx+{ICR_HIGH}], 0; mov eax, edi; add eax, 0x4040; mov dword ptr [rbx+{ICR}], eax
        {FOR_EVER}
        """,
        cpus=cpus,
    )
    result = run(machine)
    assert (result.reason, result.code, result.exit.vcpu) == ("exit", 3, 0)
    assert machine.word(0) == cpus - 1
    assert machine.word(1) == 100 * (cpus - 1)
    assert [machine.word(4 + n) for n in range(1, cpus)] == list(range(1, cpus))
    assert [machine.count(0x40 + n) for n in range(1, cpus)] == [1] * (cpus - 1)
    states = [vcpu.state for vcpu in machine.vcpus]
    assert [state.apic_base >> 8 & 1 for state in states] == [1] + [0] * (cpus - 1)
    assert not any(state.wait_for_sipi for state in states)


SEEN = SHARED + 0x100
"""A line of 16 words for each processor, by APIC ID: what CPUID told it."""
TELL_CPUID = f"""
    mov r8d, edi; shl r8d, 6; add r8d, {SEEN}; mov r9, rbx
    mov eax, 1; xor ecx, ecx; cpuid; mov dword ptr [r8], ebx; mov dword ptr [r8+4], edx
    mov eax, 0xb; xor ecx, ecx; cpuid
    mov dword ptr [r8+8], eax; mov dword ptr [r8+12], ebx; mov dword ptr [r8+16], ecx; mov dword ptr [r8+20], edx
    mov eax, 0xb; mov ecx, 1; cpuid
    mov dword ptr [r8+24], eax; mov dword ptr [r8+28], ebx; mov dword ptr [r8+32], ecx; mov dword ptr [r8+36], edx
    mov rbx, r9
"""


@pytest.mark.parametrize(
    "topology", [Topology(4, 1, 1), Topology(1, 4, 1), Topology(1, 2, 2), Topology(2, 3, 1)]
)
def test_topology_is_what_cpuid_tells_each_vcpu(make: Make, topology: Topology) -> None:
    """Leaf 1 and leaf 0xb on every processor (SDM 2A, CPUID): IDs, shifts, how many; the MADT has the same IDs."""
    ids = topology.apic_ids()
    machine = make(
        f"{TELL_CPUID} {START_APS} {wait_for(ALIVE, len(ids) - 1, 'up')}; {leave(1)}",
        f"{TELL_CPUID} {AP_UP}; {FOR_EVER}",
        cpus=topology.count,
        topology=topology,
    )
    assert run(machine).code == 3
    assert [machine.devices[name].id for name in ("lapic", "lapic1")] == ids[:2]  # type: ignore[attr-defined]
    lines = {
        apic_id: [machine.memory.read_u32(SEEN + 64 * apic_id + 4 * n) for n in range(10)] for apic_id in ids
    }
    if len({line[5] for line in lines.values()}) == 1:
        pytest.skip("this KVM does not show the guest the CPUID that it was given: leaf 0xb is the host's")
    core, package = (topology.threads - 1).bit_length(), (topology.threads * topology.cores - 1).bit_length()
    for apic_id, line in lines.items():
        assert line[0] >> 24 == apic_id
        if (
            topology.cores * topology.threads > 1
        ):  # HTT; some KVMs show the host's bit where it should be clear
            assert line[1] >> 28 & 1
        assert line[2:6] == [core, topology.threads, 0x100, apic_id]
        assert line[6:] == [package, topology.threads * topology.cores, 0x201, apic_id]


def test_vcpus_that_nobody_starts(make: Make) -> None:
    """They wait for a startup IPI; the machine ends without them, again and again, and their state shows it."""
    machine = make(f"inc dword ptr [{TOTAL}]; {leave(2)}", cpus=3)
    for turn in range(1, 4):
        assert run(machine).code == 5
        assert machine.word(1) == turn
        assert [vcpu.state.wait_for_sipi for vcpu in machine.vcpus] == [0, 1, 1]
        assert machine.vcpus[1].state.cs.selector == 0xF000
        machine.reset()


def test_vcpus_have_threads_of_their_name(make: Make) -> None:
    """As `top -H` shows them."""
    names: set[str] = set()
    machine = make(
        f"{START_APS} {wait_for(ALIVE, 2, 'a')}; mov dx, 0x77; out dx, al; {leave(0)}",
        f"{AP_UP}; {FOR_EVER}",
        cpus=3,
    )

    class Look(Device):
        def pio_write(self, region: int, offset: int, size: int, value: int) -> None:
            for comm in Path("/proc/self/task").glob("*/comm"):
                names.add(comm.read_text().strip())

    machine.pio.add(0x77, 1, Look())
    run(machine)
    assert {"vcpu-0", "vcpu-1", "vcpu-2"} <= names


@pytest.mark.parametrize(
    ("end", "reason"),
    [(POWER_OFF, "poweroff"), (TRIPLE_FAULT, "shutdown"), (leave(3), "exit"), (RESET, "reset")],
)
def test_an_ap_ends_the_machine(make: Make, end: str, reason: str) -> None:
    """While the first one and another sleep in the kernel. All have left when run() returns, nothing is left over."""
    machine = make(
        f"{START_APS} {FOR_EVER}",
        f"cmp edi, 2; jne sleep; {end}; sleep: {FOR_EVER}",
        cpus=3,
    )
    for _ in range(2):
        result = run(machine)
        assert result.reason == reason
        if reason == "shutdown":
            assert result.exit.vcpu == 2
        assert not machine.running
        machine.reset()
    machine.program(leave(9))
    assert run(machine).code == 19


def test_every_vcpu_ends_at_once(make: Make) -> None:
    """One result for each run; all of them shut down, and the next runs say so; a reset forgets what is left."""
    machine = make(
        f"{START_APS} {wait_for(ALIVE, 2, 'a')}; mov dword ptr [{GO}], 1; {TRIPLE_FAULT}",
        f"{AP_UP}; {wait_for(GO, 1, 'b')}; {TRIPLE_FAULT}",
        cpus=3,
    )
    for _ in range(3):
        assert run(machine).reason == "shutdown"
    machine.reset()
    machine.program(leave(1))
    assert run(machine).reason == "exit"


def test_stop_while_all_halt(make: Make) -> None:
    """stop() from another thread calls every vCPU out of HLT; run again sleeps again."""
    machine = make(f"{START_APS} {wait_for(ALIVE, 3, 'a')}; {FOR_EVER}", f"{AP_UP}; {FOR_EVER}", cpus=4)
    for _ in range(5):
        timer = threading.Timer(0.03, machine.stop)
        timer.start()
        assert run(machine).reason == "stopped"
        timer.join()
    machine.stop()
    assert run(machine).reason == "stopped"
    assert machine.run(timeout=0.02).reason == "timeout"
    assert machine.word(0) == 3


def test_pauses_lose_nothing(make: Make) -> None:
    """Many short runs: every count of every vCPU arrives."""
    machine = make(
        f"{START_APS} {wait_for(ALIVE, 2, 'a')}; {leave(0)}",
        f"mov ecx, 20000; more: lock inc dword ptr [{TOTAL}]; dec ecx; jnz more; {AP_UP}; {FOR_EVER}",
        cpus=3,
    )
    end = time.monotonic() + 60
    while (result := machine.run(timeout=0.01)).reason == "timeout":
        for vcpu in machine.vcpus:
            vcpu.state = vcpu.state
        assert time.monotonic() < end
    assert result.reason == "exit"
    assert machine.word(1) == 40000


def test_reset_in_the_middle(make: Make) -> None:
    """APs are running and interrupts are on: after reset() they wait for a startup IPI, and it all works again."""
    machine = make(
        f"{PIC_INIT} {pit(1000)} {START_APS} {wait_for(ALIVE, 2, 'a')}; inc dword ptr [{GO}]"
        f"; cmp dword ptr [{GO}], 1; jne done; {SLEEP}; sti; l: jmp l; done: {leave(4)}",
        f"{AP_UP}; l: jmp l",
        cpus=3,
    )
    assert machine.run(timeout=0.3).reason == "timeout"
    assert machine.word(2) == 1
    machine.reset()
    assert [vcpu.state.wait_for_sipi for vcpu in machine.vcpus] == [0, 1, 1]
    assert machine.devices["pic"].registers.master.imr == 0xFF  # type: ignore[attr-defined]
    machine.memory.write_u32(ALIVE, 0)
    assert run(machine).code == 9
    assert machine.word(0) == 2


@pytest.mark.parametrize("cpus", [1, 2])
def test_timer_through_the_8259(make: Make, cpus: int) -> None:
    """The board's PIT, KVM's 8259, LINT0 of the first processor as KVM resets it: ExtINT."""
    machine = make(
        f"""{PIC_INIT} {pit(1000)}
        again: {SLEEP}; cmp dword ptr [{0x12000 + 4 * PIC}], 20; jb again; {leave(5)}""",
        cpus=cpus,
    )
    assert run(machine).code == 11
    assert machine.count(PIC) == 20
    registers = machine.devices["pic"].registers  # type: ignore[attr-defined]
    assert (registers.master.icw2, registers.slave.icw2, registers.master.imr) == (PIC, PIC + 8, 0xFA)


def test_timer_through_the_ioapic_to_an_ap(make: Make) -> None:
    """ISA IRQ 0 is input 2 of the I/O APIC, and goes where the guest says."""
    machine = make(
        f"{PIC_INIT} mov al, 0xff; out 0x21, al; {redirect(2, 0x50, 1)} {pit(1000)} {START_APS} {FOR_EVER}",
        f"again: {SLEEP}; cmp dword ptr [{0x13000 + 4 * 0x50}], 20; jb again; {leave(6)}",
    )
    result = run(machine)
    assert (result.code, result.exit.vcpu) == (13, 1)
    assert machine.count(0x50, cpu=1) == 20
    assert machine.count(0x50) == machine.count(PIC) == 0


class Source(Device):
    """Holds a line up until it is told that it was seen."""

    def __init__(self, machine: SmpMachine, gsi: int) -> None:
        super().__init__()
        self.line = machine.board.irq_line(gsi)
        self.seen = 0

    def pio_write(self, region: int, offset: int, size: int, value: int) -> None:
        self.seen += 1
        if value:
            self.line.lower()


def test_a_level_comes_again_until_it_is_served(make: Make) -> None:
    """A level-triggered I/O APIC input: another interrupt after each EOI while the line is up (SDM 3A §11.8.5)."""
    machine = make(
        f"""{redirect(11, 0x51, 0, level=True)}; mov dx, 0x77
        again: {SLEEP}; mov eax, dword ptr [{0x12000 + 4 * 0x51}]; cmp eax, 5; setae al; out dx, al
        cmp dword ptr [{0x12000 + 4 * 0x51}], 5; jb again
        mov ecx, 1000; l: sti; nop; cli; dec ecx; jnz l; {leave(7)}"""
    )
    source = Source(machine, 11)
    machine.pio.add(0x77, 1, source)
    source.line.raise_()
    assert run(machine).code == 15
    assert 5 <= machine.count(0x51) <= 6  # one may be on its way when the line falls
    assert source.seen == 5


def test_message_signalled_interrupt(make: Make) -> None:
    """board_msi() goes to KVM's local APICs (SDM 3A §11.11).

    The AP looks why it woke: a startup IPI that comes after HLT ends it under KVM, and does nothing on a processor.
    """
    machine = make(
        f"{START_APS} {FOR_EVER}",
        f"{AP_UP}; again: {SLEEP}; cmp dword ptr [{0x13000 + 4 * 0x52}], 1; jne again; {leave(8)}",
    )
    assert machine.run(timeout=0.3).reason == "timeout"
    assert machine.word(0) == 1
    assert lib.board_msi(machine.board.pointer, 0xFEE01000, 0x52) == 1
    assert run(machine).exit.vcpu == 1
    assert machine.count(0x52, cpu=1) == 1


def test_nmi_to_each(make: Make) -> None:
    """By IPI to an AP that halts with interrupts off; from the board to the first processor, by LINT1 or not at all."""
    machine = make(
        f"""{START_APS} {wait_for(ALIVE, 1, "a")}
        mov dword ptr [rbx+{ICR}], {ALL_BUT_SELF | 0x4400}
        {wait_for(0x13000 + 4 * NMI, 1, "b")}
        mov dword ptr [rbx+{LINT1}], 0x400; mov dword ptr [{GO}], 1
        {wait_for(0x12000 + 4 * NMI, 1, "c")}
        mov dword ptr [rbx+{LINT1}], 0x10400; mov dword ptr [{GO}], 2
        {FOR_EVER}""",
        f"{AP_UP}; {FOR_EVER}",
    )
    assert machine.wait_for(lambda: machine.word(2) == 1, 30)
    machine.board.nmi()
    assert machine.wait_for(lambda: machine.word(2) == 2, 30)
    machine.board.nmi()
    assert machine.run(timeout=0.05).reason == "timeout"
    assert (machine.count(NMI), machine.count(NMI, cpu=1)) == (1, 1)


def test_local_timers(make: Make) -> None:
    """Each processor's own timer, periodic (SDM 3A §11.5.4)."""
    timer = f"""
        mov dword ptr [rbx+{TIMER_DIVIDE}], 3; mov dword ptr [rbx+{LVT_TIMER}], 0x20055
        mov dword ptr [rbx+{TIMER_INITIAL}], 100000
        mov esi, edi; shl esi, 12
        again: {SLEEP}; cmp dword ptr [rsi+{0x12000 + 4 * 0x55}], 10; jb again
        mov dword ptr [rbx+{TIMER_INITIAL}], 0; {AP_UP}
    """
    machine = make(
        f"{START_APS} {timer}; {wait_for(ALIVE, 3, 'a')}; {leave(10)}", f"{timer}; {FOR_EVER}", cpus=3
    )
    assert run(machine).code == 21
    assert all(machine.count(0x55, cpu) >= 10 for cpu in range(3))


def test_exits_of_all_come_one_after_another(make: Make) -> None:
    """Teaching mode sees every vCPU; the one that left waits, and what is changed there counts."""
    machine = make(
        f"{START_APS} {wait_for(ALIVE, 2, 'a')}; mov dx, 0x99; mov al, 0; out dx, al; {wait_for(GO, 2, 'b')}"
        f"; {leave(11)}",
        f"{AP_UP}; mov ecx, 3; mov dx, 0x99; l: mov eax, edi; out dx, al; dec ecx; jnz l; cmp al, 0x77; jne x"
        f"; lock inc dword ptr [{GO}]; x: {FOR_EVER}",
        cpus=3,
    )
    seen = []
    for exit_ in machine.exits([ExitReason.IO]):
        if exit_.reason is not ExitReason.IO or exit_.address != 0x99:
            last = exit_
            continue
        vcpu = machine.vcpus[exit_.vcpu]
        assert vcpu.state.edi == exit_.vcpu == exit_.value
        seen.append(exit_.vcpu)
        if seen.count(exit_.vcpu) == 3:
            vcpu.registers.rax = 0x77
    assert sorted(seen) == [0, 1, 1, 1, 2, 2, 2]
    assert (last.reason, last.vcpu, last.code) == (ExitReason.SYSTEM, 0, 23)
    assert not machine.running


def test_exits_can_be_left_and_gone_on_with(make: Make) -> None:
    """What nobody saw is not lost for the machine, and it can run on."""
    machine = make(
        f"{START_APS} {wait_for(ALIVE, 1, 'a')}; {FOR_EVER}",
        f"{AP_UP}; mov dx, 0x99; mov ecx, 50; l: out dx, al; lock inc dword ptr [{TOTAL}]; dec ecx; jnz l; {leave(12)}",
    )
    for number, _ in enumerate(machine.exits([ExitReason.IO])):
        with pytest.raises(PyvmmError, match="running"):
            machine.reset()
        if number == 5:
            break
    assert run(machine).code == 25
    assert machine.word(1) == 50


def test_a_python_device_raises_on_an_ap(make: Make) -> None:
    """run() raises it, with all vCPUs stopped."""

    class Broken(Device):
        def pio_write(self, region: int, offset: int, size: int, value: int) -> None:
            raise ValueError("from the device")

    machine = make(f"{START_APS} {FOR_EVER}", f"mov dx, 0x77; out dx, al; {leave(13)}")
    machine.pio.add(0x77, 1, Broken())
    with pytest.raises(ValueError, match="from the device"):
        machine.run(timeout=30)
    assert run(machine).code == 27


def test_many_vcpus(make: Make) -> None:
    """More than this KVM recommends is slow, not wrong; the IDs are the vCPUs' numbers."""
    machine = make(
        f"{START_APS} {wait_for(ALIVE, 7, 'a')}; {leave(14)}",
        f"mov esi, edi; shl esi, 2; mov dword ptr [rsi+{SHARED + 16}], edi; {AP_UP}; {FOR_EVER}",
        cpus=8,
    )
    assert run(machine).code == 29
    assert [machine.word(4 + n) for n in range(1, 8)] == list(range(1, 8))


def test_close_while_it_runs(make: Make) -> None:
    """Another thread's run() ends."""
    machine = make(f"{START_APS} {FOR_EVER}", f"{AP_UP}; l: jmp l", cpus=3)
    ends: list[str] = []
    thread = threading.Thread(target=lambda: ends.append(machine.run().reason))
    thread.start()
    while machine.word(0) < 2:
        time.sleep(0.001)
    machine.close()
    thread.join(30)
    assert ends == ["stopped"]
