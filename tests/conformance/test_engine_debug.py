"""Single steps and breakpoints by the host; TF, DR0-DR7 and INT3 by the guest (Intel SDM vol. 3B chapter 17)."""

from __future__ import annotations

import itertools

import pytest

from pyvmm.engine import ExitReason
from tests.conformance.engine_rig import (
    BP,
    CONTINUE,
    DATA,
    DB,
    PF_,
    RF,
    SKIP,
    TF,
    UD,
    USER_VECTOR,
    Mode,
    Rig,
    assemble,
    defect_of,
    interpreted,
    needs,
)  # fmt: skip

MODES: tuple[Mode, ...] = ("real", "pm16", "pm32", "paging32", "long")


@needs("step")
@pytest.mark.parametrize("mode", MODES)
def test_step(rig: Rig, mode: Mode) -> None:
    """One instruction each, with the addresses between them."""
    base = rig.start(mode, "nop; mov al, 1; jmp there; hlt; there: inc cx; hlt", rcx=0)
    addresses = []
    for _ in range(4):
        exit_ = rig.step()
        assert exit_.reason is ExitReason.DEBUG
        addresses.append(rig.vcpu.state.rip - base)
        assert exit_.rip == rig.vcpu.state.linear_rip
    assert addresses[:3] == [1, 3, 6]
    assert rig.vcpu.state.cx == 1
    assert rig.step().reason is ExitReason.HLT


@needs("step")
def test_step_over_special_instructions(rig: Rig) -> None:
    """IN and OUT, CPUID, a fault (to its handler's first instruction), INT n, IRET, MOV SS."""
    base = rig.start("long", "out 0xe0, al; cpuid; mov ax, ss; mov ss, ax; nop; int 0x30; ud2")
    rig.on(USER_VECTOR, action=CONTINUE)
    seen = []
    for _ in range(200):
        exit_ = rig.step()
        if exit_.reason is not ExitReason.DEBUG:
            break
        seen.append(exit_.rip)
    assert rig.sink.written == [0]
    assert [rip - base for rip in seen if base <= rip < base + 32][:3] == [2, 4, 7]
    assert rig.vectors == [USER_VECTOR, UD]
    assert exit_.reason is ExitReason.HLT


@needs("step")
def test_step_through_rep(rig: Rig) -> None:
    """A string instruction is stepped by element or whole; its result is the same."""
    rig.memory.load(DATA, b"abcdefgh")
    rig.start("long", f"mov esi, {DATA}; mov edi, {DATA + 64}; mov ecx, 8; rep movsb; mov ebx, 5; hlt", rbx=0)
    for _ in range(40):
        if rig.step().reason is not ExitReason.DEBUG:
            break
    assert rig.memory.read(DATA + 64, 8) == b"abcdefgh"
    state = rig.vcpu.state
    assert (state.ecx, state.ebx) == (0, 5)


@needs("step")
def test_step_then_run(rig: Rig) -> None:
    """Steps leave nothing behind: the rest runs, and memory and flags are right."""
    rig.start("long", f"mov ecx, 1000; mov ebx, {DATA}; l: add dword ptr [rbx], ecx; dec ecx; jnz l; hlt")
    for _ in range(50):
        rig.step()
    rig.run()
    assert rig.memory.read_u32(DATA) == 1000 * 1001 // 2


@needs("breakpoints")
@pytest.mark.parametrize("mode", MODES)
def test_breakpoints(rig: Rig, mode: Mode) -> None:
    """Before the instruction; going on does not stop there again; the next round does."""
    base = rig.start(mode, "mov cx, 3; there: inc bx; dec cx; jnz there; hlt", rbx=0)
    there = base + (3 if mode in ("real", "pm16") else 4)
    rig.vcpu.breakpoints = (there,)
    for n in range(3):
        exit_ = rig.run()
        assert (exit_.reason, exit_.rip) == (ExitReason.DEBUG, there)
        assert rig.vcpu.state.bx == n
    assert rig.run().reason is ExitReason.HLT
    rig.vcpu.breakpoints = ()
    assert rig.finish(mode, "inc bx; hlt", rbx=0).bx == 1


@needs("breakpoints")
def test_breakpoint_on_special_instructions(rig: Rig) -> None:
    """On REP (once, or before each element) and on an instruction that faults."""
    base = rig.start("long", f"mov ecx, 100; mov edi, {DATA}; rep stosb; mov eax, dword ptr [0x50000000]")
    rig.vcpu.breakpoints = (base + 10, base + 12)
    assert rig.run().rip == base + 10
    assert rig.vcpu.state.ecx == 100
    stops = 1
    while (exit_ := rig.run()).rip == base + 10:
        stops += 1
    assert stops <= 101
    assert (exit_.rip, rig.vcpu.state.ecx) == (base + 12, 0)
    assert rig.run().reason is ExitReason.HLT
    assert rig.vectors == [PF_]


@needs("breakpoints", "step")
def test_step_from_a_breakpoint(rig: Rig) -> None:
    """A step from an address with a breakpoint executes its instruction."""
    base = rig.start("long", "nop; inc ebx; inc ebx; hlt", rbx=0)
    rig.vcpu.breakpoints = (base + 1,)
    assert rig.run().rip == base + 1
    assert rig.step().rip == base + 3
    assert rig.vcpu.state.ebx == 1
    assert rig.run().reason is ExitReason.HLT


@needs("breakpoints")
def test_four_breakpoints(rig: Rig) -> None:
    """As many as there are debug registers, each once (SDM vol. 3B §17.2)."""
    base = rig.start("long", "nop;" * 50 + "hlt")
    rig.vcpu.breakpoints = tuple(range(base + 10, base + 50, 10))
    stops = []
    while (exit_ := rig.run()).reason is ExitReason.DEBUG:
        stops.append(exit_.rip)
    assert stops == list(range(base + 10, base + 50, 10))


@needs("many-breakpoints")
def test_64_breakpoints(rig: Rig) -> None:
    """All of them, each once; more is an error that says so."""
    base = rig.start("long", "nop;" * 100 + "hlt")
    rig.vcpu.breakpoints = tuple(range(base + 10, base + 74))
    stops = []
    while (exit_ := rig.run()).reason is ExitReason.DEBUG:
        stops.append(exit_.rip)
    assert stops == list(range(base + 10, base + 74))


@needs("ring-3-breakpoints")
def test_breakpoint_in_ring_3_and_after_a_write(rig: Rig) -> None:
    """By linear address in any ring; code that is written again keeps it."""
    base = rig.start("long", "nop; nop; ud2", cpl=3)
    rig.vcpu.breakpoints = (base + 1,)
    assert rig.run().rip == base + 1
    rig.run()
    rig.start("long", "nop; nop; nop; ud2", cpl=3)
    assert rig.run().rip == base + 1


# By the guest -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["real", "pm32", "long"])
def test_trap_flag(rig: Rig, mode: Mode) -> None:
    """#DB after each instruction, starting with the one after POPF; BS in DR6 (SDM vol. 3B §17.3.1.4)."""
    rig.on(DB, action=CONTINUE)
    base = rig.start(
        mode, "pushf; pop ax; or ax, 0x100; push ax; popf; nop; nop; inc bx; push 2; popf; nop; hlt", rbx=0
    )
    rig.run()
    assert set(rig.vectors) == {DB}
    assert all(fault.dr6 & 1 << 14 for fault in rig.faults)
    offsets = [fault.ip - base for fault in rig.faults]
    assert [b - a for a, b in itertools.pairwise(offsets)][:2] == [
        1,
        {"real": 1, "pm32": 2, "long": 3}[mode],
    ]
    assert len(offsets) == 5
    assert rig.vcpu.state.bx == 1
    assert all(fault.flags & TF for fault in rig.faults[:-1])


@interpreted("no #DB between the iterations of a string instruction")
def test_trap_flag_and_strings(rig: Rig) -> None:
    """TF with REP: after each iteration (SDM vol. 3B §17.3.1.4)."""
    rig.on(DB, action=CONTINUE)
    rig.finish("pm32", f"mov edi, {DATA}; mov ecx, 3; push 0x102; popf; rep stosb; push 2; popf; hlt")
    assert len(rig.faults) == 5


def test_trap_flag_and_int(rig: Rig) -> None:
    """TF with INT n: cleared in the handler."""
    rig.on(DB, USER_VECTOR, action=CONTINUE)
    rig.finish("pm32", "push 0x102; popf; int 0x30; nop; push 2; popf; hlt")
    assert USER_VECTOR in rig.vectors
    assert all(fault.ip < 0xC000 for fault in rig.faults)


@needs("long")
def test_int3(rig: Rig) -> None:
    """A trap from any ring."""
    rig.on(BP, action=CONTINUE)
    rig.fault("long", "int3; nop; ud2", cpl=3)
    assert rig.vectors == [BP, UD]


@needs("long")
def test_hardware_breakpoint_on_execution(rig: Rig) -> None:
    """DR0 with L0: a fault before the instruction, each time that it comes (SDM vol. 3B §17.3.1.1)."""
    rig.on(DB, action=SKIP)
    rig.resume_at(0x9000)
    rig.memory.load(0x9000, assemble("add edx, 5; jmp r12", 64, 0x9000))
    state = rig.finish("long", """
        lea rax, [rip+there]; mov dr0, rax; mov eax, 0x401; mov dr7, rax; mov ecx, 3; lea r12, [rip+after]
        again: nop; there: inc ebx; after: dec ecx; jnz again; hlt""", rbx=0, rdx=0)  # fmt: skip
    assert [(fault.vector, fault.ip, fault.dr6 & 0xF) for fault in rig.faults] == [(DB, state.dr0, 1)] * 3
    assert (state.ebx, state.edx) == (0, 15)


@needs("long")
@defect_of("translator", "Unicorn pushes RF clear for faults (SDM vol. 3B §17.3.1.1)")
def test_resume_flag_of_faults(rig: Rig) -> None:
    """A fault other than an instruction breakpoint pushes RF set."""
    assert rig.fault("long", "ud2").flags & RF


@needs("long")
@interpreted("no data breakpoints")
@defect_of("translator", "Unicorn has no data breakpoints by DR7 (SDM vol. 3B §17.2.4)")
def test_hardware_watchpoint(rig: Rig) -> None:
    """DR1 on writes of four bytes: a trap after the store (SDM vol. 3B §17.2.4)."""
    rig.on(DB, action=CONTINUE)
    rig.start("long", f"""
        mov ebx, {DATA}; mov dr1, rbx; mov eax, 0xd00404; mov dr7, rax
        mov eax, dword ptr [rbx]; mov dword ptr [rbx+4], eax; there: mov dword ptr [rbx], 7; after: nop;
        hlt""")  # fmt: skip
    rig.run()
    assert [(fault.vector, fault.dr6 & 0xF) for fault in rig.faults] == [(DB, 2)]
    assert rig.memory.read_u32(DATA) == 7
