"""The board's local APIC and I/O APIC as a guest program has them: timer modes, self IPI, CR8, x2APIC, relocation,
and the PIT by the I/O APIC (Intel SDM vol. 3A chapter 11; 82093AA datasheet)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pyvmm.devices.apic import IoApic
from pyvmm.engine import Engine
from tests.conformance.engine_probes import has
from tests.conformance.engine_rig import CONTINUE, GP, LOG, Rig, needs
from tests.conformance.test_engine_interrupts import with_pit

MakeRig = Callable[..., Rig]
APIC, MOVED, IO_APIC = 0xFEE00000, 0xD0000000, 0xFEC00000
VECTOR = 0x22
SETUP = f"mov ebx, {APIC}; mov dword ptr [rbx + 0xf0], 0x1ff; mov dword ptr [rbx + 0x3e0], 0xb"
EOI = "mov dword ptr [rbx + 0xb0], 0"


def start(rig: Rig, program: str, **registers: int) -> None:
    """64-bit code, with the APICs' pages mapped."""
    rig.on(VECTOR, action=CONTINUE)
    rig.start("long", program, **registers)
    for page in (APIC, MOVED, IO_APIC):
        rig.tables.map(page, page, 0x1000, "PW")
    rig.board.start_io()


@pytest.fixture
def rig(make_rig: MakeRig) -> Rig:
    return make_rig(apic=True)


def test_one_shot(rig: Rig) -> None:
    """It wakes HLT once; the count is then 0, and what was in service ends by EOI."""
    start(
        rig,
        f"""{SETUP}; mov dword ptr [rbx + 0x320], {VECTOR}; mov dword ptr [rbx + 0x380], 2000000
        sti; hlt; cli
        mov r8d, [rbx + 0x110]; mov r9d, [rbx + 0x390]; {EOI}; mov r10d, [rbx + 0x110]; hlt""",
    )
    rig.run()
    state = rig.vcpu.state
    assert rig.vectors == [VECTOR]
    assert (state.r8, state.r9, state.r10) == (1 << (VECTOR & 31), 0, 0)


def test_periodic(rig: Rig) -> None:
    """Again and again, without another write of the count; masked it stops."""
    start(
        rig,
        f"""{SETUP}; mov dword ptr [rbx + 0x320], {0x20000 | VECTOR}; mov dword ptr [rbx + 0x380], 3000000
        mov ebp, 5
        l: sti; hlt; cli; {EOI}; dec ebp; jnz l
        mov dword ptr [rbx + 0x320], {0x30000 | VECTOR}; hlt""",
    )
    rig.run()
    assert rig.vectors == [VECTOR] * 5


@needs("tsc-deadline")
def test_tsc_deadline(rig: Rig) -> None:
    """It fires at the deadline and not before, reads 0 then, and fires at once for one in the past."""
    start(
        rig,
        f"""{SETUP}; mov dword ptr [rbx + 0x320], {0x40000 | VECTOR}
        rdtsc; shl rdx, 32; or rax, rdx; add rax, 3000000; mov r8, rax
        mov rdx, rax; shr rdx, 32; mov ecx, 0x6e0; wrmsr
        sti; hlt; cli; {EOI}
        rdtsc; shl rdx, 32; or rax, rdx; sub rax, r8; mov r9, rax
        rdmsr; mov r10, rax
        mov eax, 1; xor edx, edx; wrmsr
        sti; hlt; cli; {EOI}; hlt""",
    )
    rig.run()
    state = rig.vcpu.state
    assert rig.vectors == [VECTOR] * 2
    assert state.r9 < 1 << 63, "before its time"
    assert state.r10 == 0


def test_self_ipi(rig: Rig) -> None:
    """By the shorthand of ICR: pending while interrupts are off, then taken."""
    start(
        rig,
        f"""{SETUP}; mov dword ptr [rbx + 0x300], {0x44000 | VECTOR}
        mov r8d, [rbx + 0x210]; sti; hlt; cli; mov r9d, [rbx + 0x210]; {EOI}; hlt""",
    )
    rig.run()
    assert rig.vectors == [VECTOR]
    assert (rig.vcpu.state.r8, rig.vcpu.state.r9) == (1 << (VECTOR & 31), 0)


@pytest.mark.parametrize("by", ["cr8", "tpr"])
def test_task_priority(rig: Rig, by: str) -> None:
    """A class that is not above TPR's waits, whoever wrote it; lowered, it comes. CR8 and TPR show each other."""
    raised = "mov eax, 2; mov cr8, rax" if by == "cr8" else "mov dword ptr [rbx + 0x80], 0x2f"
    lowered = "mov eax, 1; mov cr8, rax" if by == "cr8" else "mov dword ptr [rbx + 0x80], 0x10"
    start(
        rig,
        f"""{SETUP}; {raised}; mov dword ptr [rbx + 0x300], {0x44000 | VECTOR}
        sti; mov ecx, 20000; l: dec ecx; jnz l
        mov r8d, dword ptr [{LOG}]; mov r9, cr8; mov r10d, [rbx + 0x80]; mov r12d, [rbx + 0xa0]
        {lowered}; mov ecx, 3; w: mov r11d, [rbx + 0x30]; dec ecx; jnz w; cli; mov r11d, [rbx + 0x80]; {EOI}; hlt""",
    )
    rig.run()
    state = rig.vcpu.state
    assert rig.vectors == [VECTOR]
    assert state.r8 == LOG + 16, "nothing came before"
    assert (state.r9, state.r10, state.r12) == (2, 0x20 if by == "cr8" else 0x2F, state.r10)
    assert state.r11 == 0x10


X2APIC_ON = "mov ecx, 0x1b; rdmsr; or eax, 0x400; wrmsr"


@needs("x2apic")
def test_x2apic(rig: Rig) -> None:
    """Registers by MSR; a self IPI by its own; reserved ones are #GP."""
    start(
        rig,
        f"""{X2APIC_ON}; xor edx, edx; mov ecx, 0x80f; mov eax, 0x1ff; wrmsr
        mov ecx, 0x83f; mov eax, {VECTOR}; wrmsr; sti; hlt; cli
        mov ecx, 0x811; rdmsr; mov r8, rax; mov ecx, 0x80b; xor eax, eax; wrmsr; mov ecx, 0x811; rdmsr; mov r9, rax
        mov ecx, 0x802; rdmsr; mov r10, rax; mov ecx, 0x80d; rdmsr; mov r11, rax
        mov ecx, 0x80e; rdmsr""",
    )
    rig.run()
    state = rig.vcpu.state
    assert rig.vectors == [VECTOR, GP]
    assert (state.r8, state.r9, state.r10, state.r11) == (1 << (VECTOR & 31), 0, 0, 1)
    assert state.apic_base == APIC | 0xD00


def test_x2apic_where_it_is_not(engine: Engine, rig: Rig) -> None:
    """Where CPUID does not tell of it, entering it is #GP; leaving xAPIC for EXTD alone is so everywhere."""
    start(rig, "mov ecx, 0x1b; rdmsr; and eax, 0xfffff7ff; or eax, 0x400; wrmsr")
    rig.run()
    assert rig.vectors == [GP]
    if not has(engine, "x2apic"):
        rig.forget()
        start(rig, X2APIC_ON)
        rig.run()
        assert rig.vectors == [GP]


def test_base(rig: Rig) -> None:
    """The page moves with IA32_APIC_BASE, is gone when that disables it, and comes back as after reset."""
    start(
        rig,
        f"""mov ebx, {APIC}; mov dword ptr [rbx + 0x80], 0x30
        mov ecx, 0x1b; rdmsr; mov r8, rax; mov eax, {MOVED | 0x900}; wrmsr
        mov ebp, {MOVED}; mov r9d, [rbp + 0x30]; mov r10d, [rbx + 0x30]; mov r11d, [rbp + 0x80]
        mov eax, {APIC | 0x100}; wrmsr; mov r12d, [rbx + 0x30]; mov r13d, [rbp + 0x30]
        mov eax, {APIC | 0x900}; wrmsr; mov r14d, [rbx + 0x30]; mov r15d, [rbx + 0x80]; hlt""",
    )
    rig.run()
    state = rig.vcpu.state
    nothing = 0xFFFFFFFF
    assert state.r8 == APIC | 0x900
    assert (state.r9 & 0xFF, state.r10, state.r11) == (0x14, nothing, 0x30)
    assert (state.r12, state.r13) == (nothing, nothing)
    assert (state.r14 & 0xFF, state.r15) == (0x14, 0)


def test_pit_by_the_io_apic(rig: Rig) -> None:
    """IRQ 0 is input 2; the local APIC passes what the entry says, the 8259s nothing."""
    io_apic = IoApic(rig.board, 2)
    rig.devices.append(io_apic)
    rig.board.mmio.add(IO_APIC, 0x1000, io_apic)
    with_pit(rig, 500)
    rig.board.pio.write(0x21, 1, 0xFF)
    start(
        rig,
        f"""{SETUP}; mov ebp, {IO_APIC}
        mov dword ptr [rbp], 0x15; mov dword ptr [rbp + 16], 0
        mov dword ptr [rbp], 0x14; mov dword ptr [rbp + 16], {VECTOR}
        mov esi, 4
        l: sti; hlt; cli; {EOI}; dec esi; jnz l
        mov dword ptr [rbp + 16], 0x10000; hlt""",
    )
    rig.run()
    assert rig.vectors == [VECTOR] * 4
