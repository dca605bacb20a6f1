"""The whole state out of one machine and into another in mid-program (Intel SDM vol. 3A table 10-1 for RESET#)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pyvmm.cpu.state import GPR_NAMES, CpuState
from pyvmm.engine import Engine, ExitReason
from pyvmm.native import ffi
from tests.conformance.engine_rig import CS64, DATA, IF, UD, Mode, Rig, needs
from tests.conformance.engine_variants import VARIANTS, availability, variant

MakeRig = Callable[..., Rig]


def move(rig: Rig, make_rig: MakeRig) -> Rig:
    """A new machine with the same RAM and state."""
    other = make_rig()
    for slot in rig.memory.slots:
        other.memory.load(slot.gpa, rig.memory.read(slot.gpa, slot.size))
    other.vcpu.state = rig.vcpu.state.copy()
    return other


def test_reset_state(rig: Rig) -> None:
    """A new vCPU, and one that was given `CpuState()` after a run in long mode."""
    rig.finish("long", "mov eax, 1; hlt")
    rig.vcpu.state = CpuState()
    state = rig.vcpu.state
    assert (state.mode, state.cs.selector, state.cs.base, state.rip) == ("real", 0xF000, 0xFFFF0000, 0xFFF0)
    assert (state.cr0, state.cr3, state.cr4, state.efer) == (0x60000010, 0, 0, 0)
    assert (state.rflags, state.dr6, state.dr7, state.idtr.limit) == (2, 0xFFFF0FF0, 0x400, 0xFFFF)
    assert rig.fault("real", "mov ax, 1; ud2").vector == UD


@pytest.mark.parametrize("mode", ["real", "pm16", "pm32", "paging32", "pae", "compat", "long", "v86"])
def test_state_is_a_fixed_point(rig: Rig, mode: Mode) -> None:
    """Out, in, out: the same, bit for bit (but the TSC)."""
    rig.start(mode, "mov ax, 0x1234; stc; ud2")
    rig.run()
    first = rig.vcpu.state
    rig.vcpu.state = first
    second = rig.vcpu.state
    first.tsc = second.tsc = 0
    assert bytes(ffi.buffer(first.pointer)) == bytes(ffi.buffer(second.pointer))


@pytest.mark.parametrize("flags", [0x2, 0x3, 0x402, 0x8D7, 0x246, 0xCD7])
def test_flags_reach_the_guest(rig: Rig, flags: int) -> None:
    """Flags given from outside are those that the guest's first instruction sees."""
    state = rig.finish("long", "pushfq; pop rax; cli; hlt", rflags=flags)
    assert state.rax == flags
    assert state.rflags == flags & ~0x200


def test_every_register_goes_in_and_out(rig: Rig) -> None:
    """Values that the guest could not have loaded by chance."""
    state = rig.state("long", 0x8000)
    for number, name in enumerate(GPR_NAMES):
        setattr(state, name, 0x1111111111111111 * (number % 15 + 1))
    state.fs.base, state.gs.base, state.kernel_gs_base = 0x12345678000, 0xFFFF880000000000, 0x7FFF00000000
    state.cr2, state.cr8, state.dr0, state.dr1, state.dr7 = 0xDEAD000, 5, 0x1000, 0x2000, 0x400
    state.star, state.lstar, state.cstar, state.fmask = 0x1B000800000000, 0x1234, 0x5678, 0x700
    state.sysenter_cs, state.sysenter_esp, state.sysenter_eip, state.pat = 8, 0x100, 0x200, 0x0606060606060606
    state.tsc_aux, state.rflags = 77, 0x200AD7 | IF
    state.ldtr.set(0x58, 0x5800, 0xFF, 0x82)
    rig.vcpu.state = state
    got = rig.vcpu.state
    got.tsc = state.tsc = 0
    state.xcr0 = got.xcr0
    state.apic_base = got.apic_base
    assert repr(got) == repr(state)
    names = "cr8 kernel_gs_base dr0 dr1 dr7 star lstar cstar fmask sysenter_cs sysenter_esp sysenter_eip pat tsc_aux"
    for name in names.split():
        assert getattr(got, name) == getattr(state, name), name


@needs("long")
def test_fpu_state_moves(make_rig: MakeRig) -> None:
    """x87 with a stack that is not at 0, tags, control words, XMM: a computation goes on elsewhere."""
    rig = make_rig()
    rig.memory.write_u32(DATA, 0x5F80)
    rig.memory.write_u16(DATA + 4, 0xF7F)
    rig.start("long", f"""
        fninit; fldpi; fld1; fldl2e; mov ebx, {DATA}; ldmxcsr [rbx]; fldcw word ptr [rbx+4]
        mov eax, 0x12345678; movd xmm3, eax; pshufd xmm15, xmm3, 0
        out 0xe0, al; l: pause; cmp byte ptr [rbx+8], 0; je l
        fstp tbyte ptr [rbx+16]; fstp tbyte ptr [rbx+32]; fstp tbyte ptr [rbx+48]; fnstsw ax; fnstcw word ptr [rbx+6]
        stmxcsr [rbx+12]; movdqu [rbx+64], xmm15; hlt""")  # fmt: skip
    rig.sink.on_write = lambda offset, value: rig.vcpu.kick()
    assert rig.run().reason is ExitReason.KICK
    other = move(rig, make_rig)
    other.memory.write_u8(DATA + 8, 1)
    other.run()
    memory = other.memory
    assert memory.read(DATA + 16, 10) == bytes.fromhex("bcf0175c293baab8ff3f")
    assert memory.read(DATA + 32, 10) == bytes.fromhex("0000000000000080ff3f")
    assert memory.read(DATA + 48, 10) == bytes.fromhex("35c26821a2da0fc90040")
    assert (memory.read_u16(DATA + 6), memory.read_u32(DATA + 12)) == (0xF7F, 0x5F80)
    assert memory.read(DATA + 64, 16) == bytes.fromhex("78563412") * 4
    state = other.vcpu.state
    assert state.ax & 0x3800 == 0
    assert state.pointer.xsave[4] == 0


@needs("long")
def test_program_moves_many_times(make_rig: MakeRig) -> None:
    """A checksum over flags, strings and MMX, moved to a new machine at each OUT: the result of an undisturbed run."""
    program = f"""
        mov ebp, {DATA}; mov ecx, 6; mov eax, 0x12345
        l: push rcx; mov edi, ebp; mov ecx, 300; rep stosd; pop rcx; stc; adc eax, 0x77777777; rcl eax, 3
        pushfq; pop rdx; and edx, 0x8d5; xor eax, edx; movd mm0, eax; paddd mm0, mm0; movd eax, mm0; out 0xe0, eax
        dec ecx; jnz l; hlt"""
    whole = make_rig()
    whole.finish("long", program)
    rig = make_rig()
    rig.start("long", program)
    written = []
    while True:
        rig.sink.on_write = lambda offset, value, rig=rig: rig.vcpu.kick()  # type: ignore[misc]
        exit_ = rig.run()
        written += rig.sink.written
        if exit_.reason is not ExitReason.KICK:
            break
        rig.sink.log.clear()
        rig = move(rig, make_rig)
    assert written == whole.sink.written
    assert rig.vcpu.state.rax == whole.vcpu.state.rax
    assert rig.memory.read(0, 0x60000) == whole.memory.read(0, 0x60000)


@needs("interrupt-window")
def test_interrupt_shadow_moves(make_rig: MakeRig) -> None:
    """STI's shadow is part of the state: an interrupt waits one more instruction."""
    rig = make_rig()
    rig.interrupts()
    rig.on(0x25, action=3)
    rig.board.irq_line(5).raise_()
    start = rig.start("pm32", "nop; nop; nop; cli; hlt", rflags=2 | IF, interrupt_shadow=1)
    rig.run()
    assert [fault.ip for fault in rig.faults] == [start + 1]


def test_halted_moves(make_rig: MakeRig) -> None:
    """A vCPU asleep in HLT is asleep in its copy, and wakes there."""
    rig = make_rig()
    rig.interrupts()
    rig.start("pm32", "sti; hlt; mov ebx, 0x42; cli; hlt")
    assert rig.run([ExitReason.HLT]).reason is ExitReason.HLT
    assert rig.vcpu.state.halted
    other = make_rig()
    other.interrupts()
    other.on(0x25, action=3)
    other.memory.load(0x8000, rig.memory.read(0x8000, 0x100))
    other.set_tss(False)
    other.vcpu.state = rig.vcpu.state
    other.board.irq_line(5).raise_()
    other.run()
    assert other.vcpu.state.ebx == 0x42
    assert other.vectors == [0x25]


@needs("long")
@pytest.mark.parametrize("target", VARIANTS)
def test_program_moves_between_engines(engine: Engine, make_rig: MakeRig, target: str) -> None:
    """At each OUT to the other engine and back: the result, and XMM registers, of an undisturbed run."""
    usable, reason = availability(target)
    if not usable:
        pytest.skip(f"no {target} to move to: {reason}")
    program = f"""
        mov ebp, {DATA}; mov ecx, 6; mov eax, 0x12345
        l: push rcx; mov edi, ebp; mov ecx, 300; rep stosd; pop rcx; stc; adc eax, 0x77777777; rcl eax, 1
        pushfq; pop rdx; and edx, 0x8c1; xor eax, edx; add [rbp+4], eax; out 0xe0, eax; dec ecx; jnz l; hlt"""
    pattern = bytes(range(16, 32))
    xmm5 = slice(160 + 5 * 16, 160 + 6 * 16)
    rigs = [make_rig(), Rig(variant(target))]
    rigs[1].require = rigs[0].require
    try:
        state = rigs[0].finish("long", program)
        whole, rax, memory = rigs[0].sink.written, state.rax, rigs[0].memory.read(0, 0x60000)
        rigs[0].sink.log.clear()
        rigs[0].start("long", program)
        state = rigs[0].vcpu.state
        image = ffi.buffer(state.pointer.xsave)
        image[xmm5] = pattern
        image[512] = bytes((image[512][0] | 3,))  # XSTATE_BV: x87 and SSE are not in their initial state
        rigs[0].vcpu.state = state
        turn = 0
        while True:
            here = rigs[turn % 2]
            here.sink.on_write = lambda offset, value, here=here: here.vcpu.kick()  # type: ignore[misc]
            exit_ = here.run()
            if exit_.reason is not ExitReason.KICK:
                break
            turn += 1
            there = rigs[turn % 2]
            for slot in here.memory.slots:
                there.memory.load(slot.gpa, here.memory.read(slot.gpa, slot.size))
            there.vcpu.state = here.vcpu.state.copy()
        written = [[entry[3] for entry in rig.sink.log] for rig in rigs]
        assert [value for pair in zip(*written, strict=True) for value in pair] == whole
        final = rigs[turn % 2].vcpu.state
        assert final.rax == rax
        assert bytes(ffi.buffer(final.pointer.xsave)[xmm5]) == pattern
        assert rigs[turn % 2].memory.read(0, 0x60000) == memory
    finally:
        rigs[1].close()


@needs("long")
def test_lazy_segments_and_cpl(rig: Rig) -> None:
    """State given in ring 3 is ring 3, whatever ran before; its selectors are kept."""
    rig.finish("long", "hlt")
    fault = rig.fault("long", "mov rax, cr0", cpl=3)
    assert (fault.vector, fault.cs & 3) == (13, 3)
    state = rig.state("long", 0x20000, 3)
    assert state.cpl == 3
    assert state.cs.selector != CS64
