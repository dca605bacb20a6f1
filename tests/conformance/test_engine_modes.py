"""Modes of the CPU and the ways between them, gone by the guest itself (Intel SDM vol. 3A §9.8, §9.9, §20.1-20.2)."""

from __future__ import annotations

import struct

import pytest

from pyvmm.engine import ExitReason
from tests.conformance.engine_rig import (
    CODE,
    CONTINUE,
    CS16,
    CS32,
    CS64,
    DATA,
    DS0,
    DS16,
    GDT,
    GP,
    IDT_32,
    IDT_64,
    READ_ONLY_DATA,
    SS,
    STACK,
    TR,
    UD,
    Mode,
    Rig,
    assemble,
    defect_of,
    far_jump,
    interpreted,
    needs,
)  # fmt: skip

POINTERS = 0x7F00  # pseudo-descriptors for LGDT and LIDT


@pytest.mark.parametrize("mode", ["real", "pm16", "pm32", "paging32", "pae", "compat", "long", "v86"])
def test_registers_in_each_mode(rig: Rig, mode: Mode) -> None:
    """Arithmetic, stack and flags work in every mode that the state is put in from outside."""
    state = rig.fault(mode, "mov ax, 0x7fff; push ax; add ax, 1; pop bx; ud2")
    assert state.vector == UD
    assert state.flags & 0x8D5 == 0x894  # OF, SF, AF, PF
    after = rig.vcpu.state
    assert (after.ax, after.bx) == (0x8000, 0x7FFF)


@needs("real", "protected-32", "long", "compatibility")
def test_real_to_long_and_back(rig: Rig) -> None:
    """Real, protected 32, long, compatibility, long, protected 32, protected 16, real: SDM 3A §9.8.5, §9.9.2."""
    rig.page("long")
    memory = rig.memory
    memory.load(POINTERS, struct.pack("<HI", 0xFF, GDT) + bytes(2) + struct.pack("<HQ", 0xFFF, IDT_64))
    memory.load(POINTERS + 0x20, struct.pack("<HI", 0x7FF, IDT_32) + bytes(2) + struct.pack("<HI", 0x3FF, 0))
    parts = {
        0x8000: (16, f"""
            mov al, 1; out 0xe0, al; lgdt [{POINTERS}]; mov eax, cr0; or al, 1; mov cr0, eax
            {far_jump(16, CS32, 0x8100)}"""),
        0x8100: (32, f"""
            mov ax, {DS0}; mov ds, ax; mov es, ax; mov ss, ax; mov esp, {STACK}
            mov al, 2; out 0xe0, al
            mov eax, cr4; or eax, 0x20; mov cr4, eax; mov eax, {rig.tables.root}; mov cr3, eax
            mov ecx, 0xc0000080; rdmsr; or eax, 0x100; wrmsr
            mov eax, cr0; or eax, 0x80000000; mov cr0, eax
            mov ecx, 0xc0000080; rdmsr; mov ebp, eax
            mov al, 3; out 0xe0, al
            {far_jump(32, CS64, 0x8200)}"""),
        0x8200: (64, f"""
            lidt [{POINTERS + 8}]
            mov rdi, 0x123456789abcdef0; mov al, 4; out 0xe0, al
            push {CS32}; push 0x8300; retfq"""),
        0x8300: (32, f"""
            inc eax; mov al, 5; out 0xe0, al
            {far_jump(32, CS64, 0x8400)}"""),
        0x8400: (64, f"mov r8, rdi; mov al, 6; out 0xe0, al; push {CS32}; push 0x8500; retfq"),
        0x8500: (32, f"""
            mov eax, cr0; and eax, 0x7fffffff; mov cr0, eax
            mov ecx, 0xc0000080; rdmsr; mov esi, eax; and eax, 0xfffffeff; wrmsr
            mov al, 7; out 0xe0, al; lidt [{POINTERS + 0x28}]
            {far_jump(32, CS16, 0x8600)}"""),
        0x8600: (16, f"""
            mov ax, {DS16}; mov ds, ax; mov es, ax; mov ss, ax; mov al, 8; out 0xe0, al
            mov eax, cr0; and al, 0xfe; mov cr0, eax
            {far_jump(16, 0, 0x8700)}"""),
        0x8700: (16, """
            xor ax, ax; mov ds, ax; mov ss, ax; mov sp, 0x7000; mov al, 9; out 0xe0, al; int 0x30; hlt"""),
    }  # fmt: skip
    for address, (bits, text) in parts.items():
        memory.load(address, assemble(text, bits, address))  # type: ignore[arg-type]
    rig.on(0x30, action=CONTINUE)
    rig.vcpu.state = rig.state("real", CODE)
    rig.page("long")
    assert rig.run().reason is ExitReason.HLT, rig.faults
    assert rig.sink.written == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    state = rig.vcpu.state
    assert state.mode == "real"
    assert state.ebp & 0x500 == 0x500, "LMA is set by paging (SDM 3A §9.8.5)"
    assert state.esi & 0x500 == 0x100, "LMA is cleared by leaving paging"
    assert rig.vectors == [0x30]


@needs("real", "protected-32")
def test_big_real_mode(rig: Rig) -> None:
    """Limits of 4 GiB that were loaded in protected mode stay in real mode (SDM 3A §9.9.2 step 4, "unreal")."""
    rig.memory.load(POINTERS, struct.pack("<HI", 0xFF, GDT))
    rig.memory.write_u32(0x200000, 0xCAFEF00D)
    state = rig.finish("real", f"""
        lgdt [{POINTERS}]; mov eax, cr0; or al, 1; mov cr0, eax
        mov bx, {DS0}; mov fs, bx; and al, 0xfe; mov cr0, eax
        mov ebx, 0x200000; mov ecx, dword ptr fs:[ebx]; hlt""")  # fmt: skip
    assert state.ecx == 0xCAFEF00D


@needs("real")
def test_real_mode_wraps_ip_and_segments(rig: Rig) -> None:
    """Segment * 16 + offset; SP wraps at 64 KiB (SDM vol. 3A §20.1.1)."""
    state = rig.finish("real", """
        mov ax, 0x1000; mov es, ax; mov word ptr es:[0xfff0], 0x1234
        mov ax, 0x1fff; mov ds, ax; mov bx, word ptr [0]
        xor ax, ax; mov ss, ax; mov sp, 0x7000; mov ax, 0x55aa; push ax; mov cx, sp; hlt""")  # fmt: skip
    assert (state.bx, state.cx) == (0x1234, 0x6FFE)
    assert rig.memory.read_u16(0x6FFE) == 0x55AA


@needs("protected-16")
def test_16_bit_protected_mode(rig: Rig) -> None:
    """A 16-bit code segment: LSL, a short segment's limit, a far call to 32 bits and back."""
    rig.memory.load(0x8800, assemble("mov edx, 0x12345678; retf", 32, 0x8800))
    state = rig.finish("pm16", f"""
        mov ax, 0x78; .byte 0x66,0x0f,0x03,0xd8; mov es, ax; mov al, byte ptr es:[0xfff]
        .byte 0x66; .byte 0x9a; .long 0x8800; .short {CS32}
        hlt""")  # fmt: skip
    assert state.ebx == 0xFFF
    assert state.edx == 0x12345678


@needs("virtual-8086")
def test_v86_runs_and_traps_privileged(rig: Rig) -> None:
    """CLI at IOPL 0 and HLT are #GP(0) to ring 0, with all segments pushed (SDM vol. 3A §20.3.1, §20.2.7)."""
    fault = rig.fault("v86", "mov ax, 0x1111; mov gs, ax; cli; hlt")
    assert (fault.vector, fault.error, fault.ip) == (GP, 0, 5)
    assert fault.flags & 1 << 17
    assert fault.cs == 0x2000
    frame = struct.unpack("<9I", rig.memory.read(fault.frame, 36))
    assert frame[4] == 0x2000  # SS
    assert frame[8] == 0x1111  # GS, pushed last to the top
    state = rig.vcpu.state
    assert state.cs.selector == CS32
    assert state.ds.selector == 0, "data segments are null in the handler"


@needs("virtual-8086")
def test_v86_entered_and_left_by_iret(rig: Rig) -> None:
    """IRETD to a frame with VM, INT 0x30 back to ring 0 (SDM vol. 3A §20.2.5, §20.2.7)."""
    rig.memory.load(0x20000, assemble("mov ax, ds; mov bx, 0x77; int 0x30; hlt", 16, 0))
    fault = rig.fault("pm32", f"""
        push 0x4444; push 0x3333; push 0x2200; push 0x2100   # gs, fs, ds, es
        push 0x2000; push 0xf000; push 0x23002; push 0x2000; push 0
        mov ax, {TR}; iretd""")  # fmt: skip
    assert (fault.vector, fault.cs, fault.ip) == (0x30, 0x2000, 7)
    assert rig.vcpu.state.bx == 0x77
    assert rig.vcpu.state.ax == 0x2200


@needs("virtual-8086")
def test_v86_int_at_iopl_0(rig: Rig) -> None:
    """INT n with IOPL below 3 is #GP(0) (without VME)."""
    fault = rig.fault("v86", "int 0x30; hlt")
    assert (fault.vector, fault.error, fault.ip) == (GP, 0, 0)


@needs("long", "compatibility")
def test_compatibility_mode_is_32_bit(rig: Rig) -> None:
    """Addresses wrap at 4 GiB and 0x40 is INC, not REX."""
    rig.memory.write_u32(0x50000, 0xABCD)
    state = rig.finish(
        "compat", "mov ebx, 0xfffffff0; mov eax, dword ptr [ebx+0x50010]; .byte 0x41; hlt", ecx=7
    )
    assert state.eax == 0xABCD
    assert state.ecx == 8


@needs("long", "fsgsbase")
def test_64_bit_ignores_segment_bases(rig: Rig) -> None:
    """Only FS and GS have bases; SWAPGS exchanges GS's (SDM vol. 3A §3.4.4)."""
    rig.memory.write_u64(0x50010, 0x1111)
    rig.memory.write_u64(0x51010, 0x2222)
    state = rig.finish("long", """
        mov ecx, 0xc0000101; mov eax, 0x50000; xor edx, edx; wrmsr
        mov ecx, 0xc0000102; mov eax, 0x51000; wrmsr
        xor esi, esi; mov r8, gs:[rsi+0x10]; swapgs; mov r9, gs:[rsi+0x10]; rdgsbase r10;
        hlt""", cr4=0x10620)  # fmt: skip
    assert (state.r8, state.r9, state.r10) == (0x1111, 0x2222, 0x51000)
    assert state.kernel_gs_base == 0x50000
    assert state.gs.base == 0x51000


@needs("long")
@interpreted("CR4's upper half is ignored")
def test_long_mode_checks(rig: Rig) -> None:
    """Clearing CR4.PAE in long mode, EFER.LME under paging and CR0.PG without PE are #GP(0) (SDM 3A §4.1.1,
    vol. 2 MOV CR).
    """
    rig.on(GP, action=2)
    for program in (
        "mov rax, cr4; and rax, -33; mov cr4, rax",
        "mov ecx, 0xc0000080; rdmsr; and eax, 0xfffffeff; wrmsr",
        "mov rax, cr0; and rax, -2; mov cr0, rax",
        "mov rax, cr4; bts rax, 40; mov cr4, rax",
    ):
        rig.forget()
        rig.resume_at(0x8100)
        rig.memory.load(0x8100, b"\xf4")
        rig.finish("long", program + "; hlt")
        assert rig.vectors == [GP], program


@needs("long")
def test_canonical_addresses(rig: Rig) -> None:
    """A non-canonical address is #GP(0), by the stack #SS(0) (SDM vol. 1 §3.3.7.1)."""
    fault = rig.fault("long", "mov rax, 0x800000000000; mov rbx, [rax]")
    assert (fault.vector, fault.error) == (GP, 0)


@needs("long")
@defect_of("translator", "Unicorn raises #GP for every non-canonical access (SDM vol. 3A §6.15, #SS)")
def test_canonical_stack_addresses(rig: Rig) -> None:
    """By way of RSP or RBP it is #SS(0)."""
    fault = rig.fault("long", "mov rbp, 0x800000000000; mov rbx, [rbp]")
    assert (fault.vector, fault.error) == (SS, 0)


@needs("protected-32")
@defect_of("translator", "Unicorn does not check segment limits of data accesses (SDM vol. 3A §5.3)")
@pytest.mark.parametrize("mode", ["real", "pm16", "pm32"])
def test_segment_limits(rig: Rig, mode: Mode) -> None:
    """An access past a segment's limit is #GP(0); in real mode past 0xffff (SDM vol. 3A §5.3, table 20-1)."""
    load = "" if mode == "real" else "mov ax, 0x78; mov ds, ax;"
    assert rig.fault(mode, f"{load} mov eax, 0x10000; mov bl, [eax]; hlt").vector == GP


@needs("protected-32")
@defect_of("translator", "Unicorn does not check segment types of data accesses (SDM vol. 3A §5.5)")
def test_read_only_segment(rig: Rig) -> None:
    """A store through a read-only segment is #GP(0)."""
    assert (
        rig.fault("pm32", f"mov ax, {READ_ONLY_DATA}; mov ds, ax; mov dword ptr [{DATA}], eax; hlt").vector
        == GP
    )
