"""Exceptions in every mode: vector, error code, the RIP of faults and traps, nesting (Intel SDM vol. 3A chapter 6)."""

from __future__ import annotations

import pytest

from pyvmm.engine import ExitReason
from tests.conformance.engine_rig import (
    ABSENT_CODE,
    ABSENT_DATA,
    AC,
    AC_,
    BP,
    BR,
    CODE,
    CONTINUE,
    CS32,
    DATA,
    DB,
    DE,
    DF_,
    GDT,
    GP,
    IDT_32,
    IDT_64,
    IST_STACK,
    MF,
    NM,
    NP,
    OF,
    OF_,
    PF_,
    SKIP,
    SPARE,
    SS,
    STACK,
    TRAP_VECTOR,
    TS,
    UD,
    USER_CODE,
    USER_STACK,
    USER_VECTOR,
    XM,
    Mode,
    Rig,
    defect_of,
    interpreted,
    needs,
)  # fmt: skip
from tests.conformance.engine_tables import descriptor, gate_64

PRIVILEGED = (
    "hlt", "cli", "sti", "mov cr3, rax", "mov rax, cr0", "lgdt [rsp]", "lidt [rsp]", "invlpg [rsp]", "rdmsr", "wrmsr",
    "wbinvd", "clts", "mov rax, dr7", "swapgs", "ltr ax", "lldt ax", "lmsw ax", "sysret", "in al, 0xe0",
)  # fmt: skip
MODES: tuple[Mode, ...] = ("real", "pm16", "pm32", "paging32", "pae", "compat", "long")

# A program of one faulting instruction, its vector, error code, and how far the pushed IP is from its start.
FAULTS = {
    "divide": ("xor cx, cx; there: div cx; hlt", DE, 0, 2),
    "breakpoint": ("int3; hlt", BP, 0, 1),
    "undefined": ("nop; ud2; hlt", UD, 0, 1),
    "interrupt": ("int 0x30; hlt", USER_VECTOR, 0, 2),
    "trap gate": ("int 0x31; hlt", TRAP_VECTOR, 0, 2),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", FAULTS)
def test_vector_and_rip(rig: Rig, mode: Mode, name: str) -> None:
    """Faults push their own address, traps that of the next instruction."""
    program, vector, error, offset = FAULTS[name]
    fault = rig.fault(mode, program)
    if mode in ("pm32", "paging32", "pae", "compat", "long") and name == "divide":
        offset = 3
    assert (fault.vector, fault.error, fault.ip) == (vector, error, CODE + offset)
    assert len(rig.faults) == 1


@defect_of("translator", "Unicorn has no INT1 (0xf1): #UD (SDM vol. 2A, INT n/INTO/INT3/INT1)")
def test_int1(rig: Rig) -> None:
    """0xf1 is a trap with vector 1."""
    fault = rig.fault("long", b"\xf1\xf4")
    assert (fault.vector, fault.ip) == (DB, CODE + 1)


@pytest.mark.parametrize("mode", ["real", "pm16", "pm32", "paging32", "pae", "compat"])
def test_overflow_and_bound(rig: Rig, mode: Mode) -> None:
    """INTO is a trap, BOUND a fault, and both exist outside 64-bit mode only."""
    rig.on(OF_, action=CONTINUE)
    rig.memory.write_u32(0x7E80, 0x00200010 if mode in ("real", "pm16") else 0x10)
    rig.memory.write_u32(0x7E84, 0x20)
    bound = "bound ax, [0x7e80]" if mode in ("real", "pm16") else "bound eax, [0x7e80]"
    rig.finish(
        mode, f"mov al, 0x7f; add al, 1; into; mov eax, 0x18; {bound}; mov eax, 0x21; there: {bound}; hlt"
    )
    assert rig.vectors == [OF_, BR]
    assert rig.faults[0].ip == CODE + 5


@pytest.mark.parametrize("mode", MODES)
def test_interrupt_flag_in_handlers(rig: Rig, mode: Mode) -> None:
    """Interrupt gates clear IF and TF, trap gates leave IF; IRET brings the old flags back."""
    rig.on(USER_VECTOR, TRAP_VECTOR, action=CONTINUE)
    state = rig.finish(mode, "sti; int 0x30; int 0x31; pushf; pop ax; cli; hlt")
    assert state.ax & 0x200
    assert [fault.flags & 0x200 for fault in rig.faults] == [0x200, 0x200]


@needs("long")
@pytest.mark.parametrize("mode", ["pm32", "pae", "compat", "long"])
def test_error_codes_of_selectors(rig: Rig, mode: Mode) -> None:
    """Loads of bad selectors: #GP, #NP and #SS with the selector as error code (SDM vol. 2B MOV)."""
    beyond = 0x1F8
    pops = "pop rax" if mode == "long" else "pop eax"
    rig.on(GP, NP, SS, action=SKIP)
    for load, vector, error in (
        (f"mov ax, {beyond}; mov ds, ax", GP, beyond),
        (f"mov ax, {ABSENT_DATA}; mov ds, ax", NP, ABSENT_DATA),
        (f"mov ax, {ABSENT_DATA}; mov ss, ax", SS, ABSENT_DATA),
        (f"mov ax, {CS32}; mov ss, ax", GP, CS32),
        (f"push {ABSENT_CODE}; push 0x9000; {'retfq' if mode == 'long' else 'retf'}", NP, ABSENT_CODE),
        (f"mov ax, {beyond}; ltr ax", GP, beyond),
        (
            "int 0x77",
            GP,
            0x77 * 8 + 2,
        ),  # gate not present is #NP; this one is null: type error, #GP with IDT bit
    ):
        rig.forget()
        rig.resume_at(0x9000)
        rig.memory.load(0x9000, b"\xf4")
        rig.finish(mode, f"{load}; hlt; {pops}")
        fault = rig.faults[0]
        assert (fault.vector, fault.error) == (vector, error), load


@needs("long")
@pytest.mark.parametrize("mode", ["pm32", "long"])
def test_absent_gate(rig: Rig, mode: Mode) -> None:
    """A gate that is not present is #NP with the IDT bit (SDM vol. 3A §6.13)."""
    base, size = (IDT_64, 16) if mode == "long" else (IDT_32, 8)
    at = base + size * USER_VECTOR + 5
    rig.memory.write_u8(at, rig.memory.read_u8(at) & 0x7F)
    fault = rig.fault(mode, "int 0x30; hlt")
    assert (fault.vector, fault.error) == (NP, USER_VECTOR * 8 + 2)
    assert fault.ip == CODE


@pytest.mark.parametrize("mode", ["pm32", "compat"])
@pytest.mark.parametrize(("text", "vector"), [("into", OF_), ("int3", BP)])
def test_absent_gate_of_a_trap(rig: Rig, mode: Mode, text: str, vector: int) -> None:
    """INTO and INT3 whose gate is not present: #NP at the instruction itself, EXT clear (SDM vol. 3A §6.13)."""
    at = (IDT_64 + 16 * vector if mode == "compat" else IDT_32 + 8 * vector) + 5
    rig.memory.write_u8(at, rig.memory.read_u8(at) & 0x7F)
    fault = rig.fault(mode, f"mov al, 0x7f; add al, 1; {text}; hlt")
    assert (fault.vector, fault.error, fault.ip) == (NP, vector * 8 + 2, CODE + 4)
    assert fault.flags & OF
    assert len(rig.faults) == 1


@needs("int-from-ring-3")
@pytest.mark.parametrize("mode", ["pm32", "long"])
def test_gate_of_ring_0(rig: Rig, mode: Mode) -> None:
    """A software INT through a gate of lower DPL is #GP with the vector and the IDT bit (SDM vol. 3A §6.12.1.1)."""
    fault = rig.fault(mode, "int 0x20; hlt", cpl=3)
    assert (fault.vector, fault.error, fault.ip) == (GP, 0x20 * 8 + 2, USER_CODE)


@needs("protected-32")
def test_invalid_tss(rig: Rig) -> None:
    """IRET with NT set and a back link that names no TSS: #TS with that selector (SDM vol. 3A §6.15, §8.4)."""
    fault = rig.fault("pm32", "pushfd; or dword ptr [esp], 0x4000; popfd; iretd; hlt")
    assert (fault.vector, fault.error & 0xFFF8) in ((TS, 0), (TS, 0x48))


@needs("long")
@pytest.mark.parametrize("mode", ["real", "pm32", "compat", "long"])
def test_device_not_available(rig: Rig, mode: Mode) -> None:
    """CR0.TS and EM: #NM on x87; WAIT needs MP and TS (SDM vol. 3A table 2-2)."""
    cr0 = rig.state(mode, 0).cr0
    assert rig.fault(mode, "nop; fldz; hlt", cr0=cr0 | 8).vector == NM
    rig.forget()
    assert rig.fault(mode, "nop; fldz; hlt", cr0=cr0 | 4).vector == NM
    rig.forget()
    assert rig.fault(mode, "fwait; hlt", cr0=cr0 | 0xA).vector == NM
    rig.forget()
    assert rig.fault(mode, "nop; xorps xmm0, xmm0; hlt", cr0=cr0 | 4).vector == UD
    rig.forget()
    assert rig.fault(mode, "clts; fldz; ud2", cr0=cr0 | 8).vector == UD


@needs("long")
def test_math_fault(rig: Rig) -> None:
    """An unmasked x87 exception is #MF at the next x87 instruction that waits, with CR0.NE (SDM vol. 1 §8.7.1)."""
    rig.memory.write_u16(DATA, 0x37B)  # zero divide unmasked
    fault = rig.fault("long", f"fldcw word ptr [{DATA}]; fld1; fldz; fdivp st(1), st; nop; there: fwait; hlt")
    assert fault.vector == MF
    assert fault.ip == CODE + 13


@needs("long")
@defect_of("translator", "Unicorn has no unmasked SSE exceptions (SDM vol. 1 §11.5)")
def test_simd_fault(rig: Rig) -> None:
    """Unmasked, division by zero is #XM."""
    rig.memory.write_u32(DATA, 0x1D80)
    program = (
        f"ldmxcsr dword ptr [{DATA}]; mov eax, 1; cvtsi2ss xmm0, eax; xorps xmm1, xmm1; divss xmm0, xmm1; hlt"
    )
    assert rig.fault("long", program).vector == XM


@needs("long")
@defect_of("translator", "Unicorn does not check alignment (SDM vol. 3A §6.15, #AC)")
def test_alignment_check(rig: Rig) -> None:
    """CR0.AM and EFLAGS.AC in ring 3: #AC(0)."""
    state = rig.state("long", USER_CODE, 3)
    program = f"mov eax, dword ptr [{USER_STACK + 1}]; int 0x30"
    fault = rig.fault("long", program, cpl=3, cr0=state.cr0 | 1 << 18, rflags=2 | AC)
    assert (fault.vector, fault.error) == (AC_, 0)


@needs("long")
def test_undefined_in_64_bit_mode(rig: Rig) -> None:
    """Encodings that 64-bit mode took away (SDM vol. 2, "Invalid")."""
    for code in (0x06, 0x0E, 0x16, 0x1E, 0x27, 0x2F, 0x37, 0x3F, 0x60, 0x61, 0x9A, 0xCE, 0xD4, 0xD5, 0xEA):
        rig.forget()
        fault = rig.fault("long", bytes((code, 0, 0, 0, 0, 0, 0, 0xF4)))
        assert (fault.vector, fault.ip) == (UD, CODE), hex(code)


@needs("long")
def test_lock_prefix_is_checked(rig: Rig) -> None:
    """LOCK on an instruction that does not take it, or on a register, is #UD (SDM vol. 2A LOCK)."""
    for code in (b"\xf0\x90", b"\xf0\x01\xc0"):
        rig.forget()
        assert rig.fault("long", code + b"\xf4").vector == UD, code.hex()


@needs("long")
@defect_of("translator", "Unicorn takes LOCK before loads (SDM vol. 2A, LOCK)")
def test_lock_prefix_on_a_load(rig: Rig) -> None:
    """LOCK MOV is #UD."""
    assert rig.fault("long", b"\xf0\x8b\x03\xf4").vector == UD


@needs("long")
def test_instruction_length(rig: Rig) -> None:
    """More than 15 bytes is #GP(0) (SDM vol. 3A §6.15, #GP)."""
    fault = rig.fault("long", b"\x66" * 15 + b"\x90\xf4")
    assert (fault.vector, fault.error) == (GP, 0)


@needs("long")
def test_privileged_instructions_in_ring_3(rig: Rig) -> None:
    """#GP(0) at the instruction, from ring 3 to ring 0's stack (SDM vol. 3A §5.9)."""
    for text in PRIVILEGED:
        rig.forget()
        fault = rig.fault("long", f"nop; {text}; int 0x30", cpl=3)
        assert (fault.vector, fault.error, fault.ip) == (GP, 0, USER_CODE + 1), text
        assert (fault.cs & 3, fault.ss, fault.sp) == (3, 0x23, USER_STACK)
        assert fault.frame == STACK - 40


@needs("long", "int-from-ring-3")
@pytest.mark.parametrize("mode", ["pm32", "paging32", "pae", "compat", "long"])
def test_ring_change_and_back(rig: Rig, mode: Mode) -> None:
    """INT from ring 3 takes SS:SP from the TSS, IRET brings ring 3 back (SDM vol. 3A §6.12.1)."""
    rig.on(USER_VECTOR, action=CONTINUE)
    fault = rig.fault(mode, "mov ecx, 5; int 0x30; inc ecx; mov dx, cs; mov bx, ss; ud2", cpl=3)
    assert (fault.vector, fault.cs & 3, fault.sp, fault.ss) == (USER_VECTOR, 3, USER_STACK, 0x23)
    assert fault.frame == STACK - (40 if mode in ("long", "compat") else 20)
    assert rig.vectors == [USER_VECTOR, UD]
    state = rig.vcpu.state
    assert (state.ecx, state.dx & 3, state.bx) == (6, 3, 0x23)


@needs("long")
def test_ist(rig: Rig) -> None:
    """An IST entry is used without a change of ring too, and the stack is aligned to 16 (SDM vol. 3A §6.14.5)."""
    raw = rig.memory.read(IDT_64 + 16 * USER_VECTOR, 16)
    rig.memory.load(IDT_64 + 16 * USER_VECTOR, raw[:4] + b"\1" + raw[5:])
    fault = rig.fault("long", "push rax; int 0x30")
    assert fault.frame == IST_STACK - 40
    assert fault.sp == STACK - 0x108
    rig.forget()
    fault = rig.fault("long", "sub rsp, 3; int 0x31")
    assert fault.sp == STACK - 0x103
    assert fault.frame == ((STACK - 0x103) & ~15) - 40


@needs("long")
@pytest.mark.parametrize("mode", ["paging32", "pae", "long"])
def test_fault_in_delivery_is_double_fault(rig: Rig, mode: Mode) -> None:
    """#GP has no gate: a contributory fault while one is delivered is #DF(0) (SDM vol. 3A table 6-5)."""
    base, size = (IDT_64, 16) if mode == "long" else (IDT_32, 8)
    rig.memory.load(base + size * GP, bytes(size))
    fault = rig.fault(mode, "mov ax, 0x1f8; mov ds, ax; hlt")
    assert (fault.vector, fault.error) == (DF_, 0)


@needs("long")
def test_page_fault_on_stack_is_double_fault(rig: Rig) -> None:
    """The stack of #UD's handler is absent: #PF instead (benign first). Of #PF's: #DF, on an IST."""
    raw = gate_64(int.from_bytes(rig.memory.read(IDT_64 + 16 * DF_, 2), "little"), 8, ist=1)
    rig.memory.load(IDT_64 + 16 * DF_, raw)
    fault = rig.fault("long", "mov esp, 0x40000000; mov eax, dword ptr [0x50000000]")
    assert (fault.vector, fault.error) == (DF_, 0)
    assert rig.faults[0].frame == IST_STACK - 40


@pytest.mark.parametrize(
    "mode",
    [
        pytest.param("real", marks=interpreted("the IDT's limit is not checked in real mode")),
        "pm32",
        "pae",
        "long",
    ],
)
def test_triple_fault(rig: Rig, mode: Mode) -> None:
    """No IDT at all: shutdown, and the machine can be started again."""
    limit = "lidt [0x7f00]; ud2; hlt"
    rig.memory.load(0x7F00, bytes(10))
    rig.start(mode, limit)
    assert rig.run().reason is ExitReason.SHUTDOWN
    assert not rig.faults
    assert rig.fault(mode, "ud2").vector == UD


@needs("long")
def test_many_faults_are_not_nested(rig: Rig) -> None:
    """Fault after fault, each handled, stays that fault."""
    rig.on(PF_, GP, UD, action=SKIP)
    rig.resume_at(0x9000)
    rig.memory.load(0x9000, b"\xff\xe7")  # jmp rdi
    rig.finish("long", """
        lea rdi, [rip+a]; mov eax, dword ptr [0x50000000]
        a: lea rdi, [rip+b]; mov eax, dword ptr [0x50000000]
        b: lea rdi, [rip+c]; mov ax, 0x1f8; mov ds, ax
        c: lea rdi, [rip+d]; mov dword ptr [0x50000000], eax
        d: lea rdi, [rip+e]; ud2
        e: lea rdi, [rip+f]; mov eax, dword ptr [0x50000000]
        f: hlt""")  # fmt: skip
    assert rig.vectors == [PF_, PF_, GP, PF_, UD, PF_]


@needs("protected-32")
@interpreted("no call gates")
def test_call_gate(rig: Rig) -> None:
    """Ring 3 calls ring 0 through a gate: stack from the TSS, parameters copied, RETF back (SDM vol. 3A §5.8.5)."""
    target = 0x9000
    gate = (target & 0xFFFF) | CS32 << 16 | 1 << 32 | 0xEC00 << 32 | (target >> 16) << 48
    rig.state("pm32", 0)
    rig.memory.load(
        target, b"\x8b\x44\x24\x08\x66\x8c\xca\xca\x04\x00"
    )  # mov eax, [esp+8]; mov dx, cs; retf 4
    program = f"push 0x1234; .byte 0x9a; .long 0; .short {SPARE | 3}; mov ebx, esp; ud2"
    rig.start("pm32", program, cpl=3)
    rig.memory.write_u64(GDT + SPARE, gate)
    rig.run()
    state = rig.vcpu.state
    assert rig.vectors == [UD]
    assert (state.eax, state.dx, state.ebx) == (0x1234, CS32, USER_STACK)


@needs("protected-32")
def test_accessed_bit_is_set(rig: Rig) -> None:
    """Loading a segment register sets the descriptor's A bit (SDM vol. 3A §3.4.5.1)."""
    rig.start("pm32", f"mov ax, {SPARE}; mov es, ax; hlt")
    rig.memory.load(GDT + SPARE, descriptor(0x1000, 0xFFFFF, 0x92, 0xC))
    rig.run()
    assert rig.memory.read_u8(GDT + SPARE + 5) == 0x93
    es = rig.vcpu.state.es
    assert (es.selector, es.base, es.limit, es.attributes) == (SPARE, 0x1000, 0xFFFFFFFF, 0xC093)
