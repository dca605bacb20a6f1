"""Interrupts through the 8259: HLT, STI and MOV SS shadows, NMI, strings, timers on both clocks, kicks
(Intel SDM vol. 3A §6.3-6.8)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from pyvmm.devices.pit import Pit
from pyvmm.engine import ExitReason
from tests.conformance.engine_rig import (
    CODE,
    CONTINUE,
    DATA,
    DS0,
    EOI,
    IDT_32,
    IDT_64,
    IRQ_BASE,
    MMIO,
    NMI,
    NP,
    STACK,
    UD,
    Mode,
    Rig,
    interpreted,
    needs,
)  # fmt: skip

MODES: tuple[Mode, ...] = ("real", "pm16", "pm32", "paging32", "pae", "compat", "long")
MakeRig = Callable[..., Rig]
IRQ5 = IRQ_BASE + 5


def with_pit(rig: Rig, hz: int = 1000) -> Pit:
    """IRQ 0 from channel 0 in mode 2 (8254 datasheet, "Mode 2: rate generator")."""
    rig.interrupts()
    pit = Pit(rig.board, rig.board.irq_line(0))
    rig.devices.append(pit)
    rig.board.pio.add(0x40, 4, pit)
    divisor = 1_193_182 // hz
    rig.board.pio.write(0x43, 1, 0x34)
    rig.board.pio.write(0x40, 1, divisor & 0xFF)
    rig.board.pio.write(0x40, 1, divisor >> 8)
    return pit


@needs("interrupt-window")
@pytest.mark.parametrize("mode", MODES)
def test_pending_interrupt(rig: Rig, mode: Mode) -> None:
    """Raised with IF=0, taken after STI and one more instruction; the handler's frame is right."""
    rig.interrupts()
    rig.on(IRQ5, action=EOI)
    line = rig.board.irq_line(5)
    line.raise_()
    rig.start(mode, "sti; nop; nop; nop; mov bx, 4; cli; hlt", rbx=0)
    rig.run()
    fault = rig.faults[0]
    assert (fault.vector, fault.ip) == (IRQ5, CODE + 2)
    assert fault.flags & 0x200
    assert rig.vcpu.state.ebx == 4


@needs("interrupt-window")
@pytest.mark.parametrize("mode", ["pm32", "long"])
def test_sti_shadow(rig: Rig, mode: Mode) -> None:
    """After STI the next instruction is executed first: STI; CLI takes nothing (SDM vol. 2B STI)."""
    rig.interrupts()
    rig.on(IRQ5, action=EOI)
    rig.board.irq_line(5).raise_()
    rig.finish(mode, "sti; cli; nop; hlt")
    assert not rig.faults
    start = rig.start(mode, "sti; nop; nop; nop; cli; hlt")
    rig.run()
    assert [fault.ip for fault in rig.faults] == [start + 2]


@pytest.mark.parametrize("mode", ["pm32", "long"])
def test_sti_hlt_is_atomic(rig: Rig, mode: Mode) -> None:
    """STI; HLT with an interrupt pending: HLT is executed and woken at once, never slept through."""
    rig.interrupts()
    rig.on(IRQ5, action=EOI)
    rig.board.irq_line(5).raise_()
    start = rig.start(mode, "sti; hlt; nop; cli; hlt")
    assert rig.run().reason is ExitReason.HLT
    assert [fault.ip for fault in rig.faults] == [start + 2]


@pytest.mark.parametrize("mode", ["real", "pm32"])
def test_mov_ss_shadow(rig: Rig, mode: Mode) -> None:
    """MOV SS holds interrupts off for one instruction; the line rises while SS is read (SDM vol. 3A §6.8.3)."""
    rig.interrupts()
    rig.on(IRQ5, action=EOI)
    line = rig.board.irq_line(5)
    rig.mmio_sink.answers = [0 if mode == "real" else DS0]
    rig.mmio_sink.on_read = line.raise_
    load = "mov ax, 0xc000; mov es, ax; sti; nop; mov ss, word ptr es:[0]"
    if mode == "pm32":
        load = f"mov ebx, {MMIO}; sti; nop; mov ss, word ptr [ebx]"
    rig.finish(mode, f"{load}; mov esp, {STACK - 0x200}; mov ecx, 30000; l: dec ecx; jnz l; cli; hlt")
    assert rig.vectors == [IRQ5]
    assert rig.faults[0].frame == STACK - 0x200 - (6 if mode == "real" else 12)


@pytest.mark.parametrize("mode", MODES)
def test_halt_wakes(make_rig: MakeRig, mode: Mode) -> None:
    """HLT with IF=1 sleeps until a device on another thread pulls its line."""
    rig = make_rig()
    rig.interrupts()
    rig.on(IRQ5, action=EOI)
    line = rig.board.irq_line(5)
    rig.start(mode, "sti; hlt; hlt; hlt; cli; mov bx, 0x77; hlt")
    done = threading.Event()

    def pulses() -> None:
        while not done.is_set():
            line.pulse()
            time.sleep(0.002)

    thread = threading.Thread(target=pulses)
    thread.start()
    try:
        exit_ = rig.run()
    finally:
        done.set()
        thread.join()
    assert exit_.reason is ExitReason.HLT
    assert rig.vcpu.state.bx == 0x77
    assert len(rig.vectors) >= 3
    assert set(rig.vectors) == {IRQ5}


def test_halt_with_interrupts_off_returns(rig: Rig) -> None:
    """Nothing but an NMI could wake it: the caller is told; with an NMI it goes on."""
    start = rig.start("pm32", "hlt; mov ebx, 0x99; hlt")
    exit_ = rig.run()
    assert exit_.reason is ExitReason.HLT
    assert exit_.rip == start + 1
    rig.on(NMI, action=CONTINUE)
    rig.board.nmi()
    assert rig.run().rip == start + 7
    assert rig.vcpu.state.ebx == 0x99
    assert rig.vectors == [NMI]


@pytest.mark.parametrize("mode", ["real", "pm32", "long"])
def test_nmi_is_blocked_until_iret(rig: Rig, mode: Mode) -> None:
    """With IF=0 too; a second one waits for the handler's IRET (SDM vol. 3A §6.7.1)."""
    sink = rig.sink
    base = rig.start(mode, "mov ecx, 100; nop; there: dec ecx; jnz there; out 0xe2, al; hlt")
    rig.on(NMI, action=CONTINUE)

    def write(offset: int, value: int) -> None:
        if offset == 1:
            rig.board.nmi()  # inside the handler: must wait

    sink.on_write = write
    rig.board.nmi()
    rig.run()
    assert rig.vectors == [NMI]
    assert rig.faults[0].ip == base
    rig.forget()
    rig.start(mode, "out 0xe1, al; nop; nop; nop; hlt")
    state = rig.vcpu.state
    state.nmi_blocked = 1
    rig.vcpu.state = state
    rig.run()
    assert not rig.faults, "blocked"
    assert rig.vcpu.state.nmi_blocked
    rig.start(mode, "nop; nop; hlt")
    rig.run()
    assert rig.vectors == [NMI], "pending until unblocked"
    assert not rig.vcpu.state.nmi_blocked


def test_priorities_and_nesting(rig: Rig) -> None:
    """Two lines at once: the lower IRQ first; the other after its EOI (8259A datasheet, fully nested mode)."""
    rig.interrupts()
    rig.on(*range(IRQ_BASE, IRQ_BASE + 16), action=EOI)
    for irq in (12, 5, 1):
        rig.board.irq_line(irq).raise_()
    rig.finish("long", "sti; mov ecx, 30000; l: dec ecx; jnz l; cli; hlt")
    assert rig.vectors == [IRQ_BASE + 1, IRQ_BASE + 12, IRQ_BASE + 5]


@pytest.mark.parametrize("mode", ["pm32", "pae", "compat", "long"])
def test_interrupt_in_ring_3(rig: Rig, mode: Mode) -> None:
    """From ring 3 to the TSS's stack and back."""
    rig.interrupts()
    rig.on(IRQ5, action=EOI)
    rig.board.irq_line(5).raise_()
    rig.start(mode, "mov ecx, 30000; l: dec ecx; jnz l; ud2", cpl=3, rflags=0x202)
    rig.run()
    assert rig.vectors == [IRQ5, UD]
    assert rig.faults[0].cs & 3 == 3


@needs("virtual-8086")
def test_interrupt_in_v86(rig: Rig) -> None:
    """An external interrupt leaves virtual-8086 mode through the 32-bit IDT, whatever IOPL is."""
    rig.interrupts()
    rig.on(IRQ5, action=EOI)
    rig.board.irq_line(5).raise_()
    rig.start("v86", "mov cx, 1000; l: dec cx; jnz l; ud2", rflags=0x20202)
    rig.run()
    assert rig.vectors == [IRQ5, UD]
    assert rig.faults[0].flags & 1 << 17
    assert rig.vcpu.state.cx == 0


@needs("long")
@pytest.mark.parametrize("text", ["rep movsb", "rep stosb", "repe cmpsb", "repne scasb", "rep outsb"])
def test_interrupts_in_string_instructions(make_rig: MakeRig, text: str) -> None:
    """Interrupted anywhere, a string instruction does each element once (SDM vol. 1 §7.3.9.3)."""
    rig = make_rig()
    rig.interrupts()
    rig.on(IRQ5, action=EOI)
    line = rig.board.irq_line(5)
    count = 3_000_000 if text != "rep outsb" else 20_000
    source, target = 0x400000, 0x900000
    data = (bytes(range(1, 251)) * (count // 250 + 1))[:count]
    rig.memory.load(source, data)
    if text in ("repe cmpsb",):
        rig.memory.load(target, data)
    rig.start(
        "pm32",
        f"mov esi, {source}; mov edi, {target}; mov ecx, {count}; mov edx, 0xe0; mov eax, 0xff; sti; {text}; cli; hlt",
    )
    done = threading.Event()

    def pulses() -> None:
        while not done.is_set():
            line.pulse()
            time.sleep(0.0005)

    thread = threading.Thread(target=pulses)
    thread.start()
    try:
        rig.run()
    finally:
        done.set()
        thread.join()
    state = rig.vcpu.state
    assert state.ecx == 0
    uses = {
        "rep movsb": (1, 1),
        "rep stosb": (0, 1),
        "repe cmpsb": (1, 1),
        "repne scasb": (0, 1),
        "rep outsb": (1, 0),
    }
    assert state.esi == source + count * uses[text][0]
    assert state.edi == target + count * uses[text][1]
    if text == "rep movsb":
        assert rig.memory.read(target, count) == data
    if text == "rep outsb":
        assert bytes(rig.sink.written) == data
    assert set(rig.vectors) <= {IRQ5}


@interpreted("no EXT bit in error codes")
@pytest.mark.parametrize("mode", ["pm32", "long"])
def test_absent_gate_of_an_interrupt(rig: Rig, mode: Mode) -> None:
    """#NP with IDT and EXT bits: an external event's delivery faulted (SDM vol. 3A §6.13)."""
    rig.interrupts()
    at = (IDT_64 + 16 * IRQ5 if mode == "long" else IDT_32 + 8 * IRQ5) + 5
    rig.memory.write_u8(at, rig.memory.read_u8(at) & 0x7F)
    rig.board.irq_line(5).raise_()
    rig.start(mode, "sti; mov ecx, 30000; l: dec ecx; jnz l; hlt")
    rig.run()
    assert rig.faults[0][:2] == (NP, IRQ5 * 8 + 3)


# Timers -----------------------------------------------------------------------------------------------------------


def test_timer_on_realtime_clock(make_rig: MakeRig) -> None:
    """The PIT's interrupts arrive while the guest computes and while it sleeps."""
    rig = make_rig()
    with_pit(rig)
    rig.on(IRQ_BASE, action=EOI)
    rig.board.start_io()
    rig.board.clock.resume()
    rig.finish("long", "sti; hlt; hlt; hlt; cli; hlt")
    assert rig.vectors[:3] == [IRQ_BASE] * 3
    rig.forget()
    rig.finish("long", """
        sti; mov ebx, 0xf000
        l: mov eax, dword ptr [rbx]; cmp eax, 0xf010 + 400; jb l; cli; hlt""")  # fmt: skip
    assert len(rig.vectors) >= 5
    assert set(rig.vectors) == {IRQ_BASE}


@needs("virtual-clock")
def test_timer_on_virtual_clock_repeats(make_rig: MakeRig) -> None:
    """Two runs: the same TSC at each OUT, the same place and count of interrupts."""
    traces = []
    for _ in range(2):
        rig = make_rig(clock="virtual")
        with_pit(rig, hz=5000)
        rig.on(IRQ_BASE, action=EOI)
        rig.finish("long", """
            sti; mov ebp, 12; l: mov ecx, 100000; m: imul edx, ecx; dec ecx; jnz m
            rdtsc; out 0xe0, eax; mov eax, edx; out 0xe4, eax; hlt; rdtsc; out 0xe0, eax
            dec ebp; jnz l; cli; hlt""")  # fmt: skip
        traces.append((rig.sink.log, rig.faults, rig.board.clock.now))
    assert traces[0] == traces[1]
    assert len(traces[0][1]) >= 12
    first = [entry[3] for entry in traces[0][0] if entry[1] == 0]
    assert first == sorted(first)


@needs("virtual-clock")
def test_virtual_clock_jumps_when_halted(make_rig: MakeRig) -> None:
    """HLT with a timer armed costs no host time: 200 ticks of 20 Hz are ten seconds of the guest."""
    rig = make_rig(clock="virtual")
    with_pit(rig, hz=20)
    rig.on(IRQ_BASE, action=EOI)
    rig.finish("pm32", "sti; mov ecx, 200; l: hlt; loop l; cli; hlt")
    assert rig.board.clock.now >= 9_900_000_000


# Kicks ------------------------------------------------------------------------------------------------------------


def test_kick_before_run(rig: Rig) -> None:
    """Not lost: run returns before any guest code; once."""
    start = rig.start("pm32", "inc ebx; hlt", rbx=0)
    rig.vcpu.kick()
    assert rig.run().reason is ExitReason.KICK
    assert rig.vcpu.state.rip == start
    assert rig.run().reason is ExitReason.HLT
    assert rig.vcpu.state.ebx == 1


@pytest.mark.parametrize("mode", ["real", "pm32", "long"])
def test_kick_in_a_loop_with_interrupts_off(rig: Rig, mode: Mode) -> None:
    """The tightest loop that there is."""
    start = rig.start(mode, "cli; out 0xe0, al; l: jmp l")
    rig.sink.on_write = lambda offset, value: threading.Timer(0.02, rig.vcpu.kick).start()
    assert rig.run().reason is ExitReason.KICK
    assert rig.vcpu.state.rip == start + 3


def test_kick_while_halted(rig: Rig) -> None:
    """A sleeping vCPU returns, and sleeps again when run again."""
    rig.interrupts()
    rig.start("pm32", "sti; hlt; l: jmp l")
    assert rig.run([ExitReason.HLT]).reason is ExitReason.HLT
    for _ in range(3):
        threading.Timer(0.02, rig.vcpu.kick).start()
        assert rig.run().reason is ExitReason.KICK
        assert rig.vcpu.state.rip == CODE + 2
    assert rig.vcpu.state.halted


@needs("long")
def test_thousands_of_kicks_execute_nothing_twice(rig: Rig) -> None:
    """Read-modify-write, push and pop, device accesses: each exactly once however often the run is left."""
    loops = 60000
    rig.start("long", f"""
        mov esi, {DATA}; mov ecx, {loops}
        l: add qword ptr [rsi], 1; lock inc qword ptr [rsi+8]; push rcx; pop rax; add [rsi+16], rax
        xadd [rsi+24], rdx; mov edx, 1; inc r8; test ecx, 0xfff; jnz m; out 0xe0, al; m: dec ecx; jnz l; hlt""",
        r8=0, rdx=1)  # fmt: skip
    done = threading.Event()

    def kicks() -> None:
        while not done.is_set():
            rig.vcpu.kick()
            time.sleep(0)

    thread = threading.Thread(target=kicks)
    rig.vcpu.kick()  # one at least, however fast the guest is
    thread.start()
    left = 0
    try:
        while rig.run().reason is ExitReason.KICK:
            left += 1
    finally:
        done.set()
        thread.join()
    memory = rig.memory
    assert memory.read_u64(DATA) == memory.read_u64(DATA + 8) == memory.read_u64(DATA + 24) == loops
    assert memory.read_u64(DATA + 16) == loops * (loops + 1) // 2
    assert rig.vcpu.state.r8 == loops
    assert len(rig.sink.log) == loops // 0x1000
    assert left
