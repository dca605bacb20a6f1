"""Paging in its three forms: faults and their error codes, large pages, NX, WP, SMEP, A and D bits, the TLB
(Intel SDM vol. 3A chapter 4)."""

from __future__ import annotations

import pytest

from tests.conformance.engine_rig import (
    CODE,
    CONTINUE,
    DATA,
    PF_,
    SKIP,
    UD,
    USER_CODE,
    USER_VECTOR,
    Mode,
    Rig,
    assemble,
    defect_of,
    interpreted,
    needs,
)  # fmt: skip
from tests.conformance.engine_tables import ACCESSED, DIRTY, LARGE, PRESENT, WRITE

PAGED: tuple[Mode, ...] = ("paging32", "pae", "long")
LEVELS = [
    (mode, level) for mode, count in (("paging32", 2), ("pae", 3), ("long", 4)) for level in range(count)
]
P, W, U, RSVD, FETCH = 1, 2, 4, 8, 16  # the bits of the error code (SDM 3A figure 4-12)
VA = 0x40000000
ON_USER = 0x21000  # inside what ring 3 may use


def prepare(rig: Rig, mode: Mode, flags: str = "PW", gpa: int = DATA) -> None:
    """One page of RAM at VA, in tables that the next `enter` keeps."""
    rig.state(mode, 0)
    rig.tables.map(VA, gpa, 0x1000, flags)


def enter(rig: Rig, mode: Mode, program: str, cpl: int = 0, **registers: int) -> None:
    """Load and run with the tables as they are."""
    tables = rig.tables
    base = USER_CODE if cpl else CODE
    bits = 64 if mode == "long" else 32
    rig.memory.load(base, assemble(program, bits, base))  # type: ignore[arg-type]
    page, rig.page = rig.page, lambda kind: tables  # type: ignore[method-assign]
    rig.vcpu.state = rig.state(mode, base, cpl, **registers)
    rig.page = page  # type: ignore[method-assign]
    rig.run()


@pytest.mark.parametrize(("mode", "level"), LEVELS)
def test_not_present_at_each_level(rig: Rig, mode: Mode, level: int) -> None:
    """P=0 at any level: #PF with P clear, CR2 the address."""
    address = VA if mode != "long" else VA + (1 << 39)
    rig.state(mode, 0)
    rig.tables.map(address, DATA, 0x1000, "PW")
    rig.tables.set(address, rig.tables.get(address, level) & ~1, level)
    enter(
        rig, mode, f"nop; mov eax, dword ptr [{'rsi' if mode == 'long' else 'esi'}]; hlt", rsi=address + 0x123
    )
    fault = rig.faults[0]
    assert (fault.vector, fault.error, fault.cr2, fault.ip) == (PF_, 0, address + 0x123, CODE + 1)


@pytest.mark.parametrize("mode", PAGED)
def test_error_code_bits(rig: Rig, mode: Mode) -> None:
    """P, W/R, U/S, RSVD and I/D, each where it belongs."""
    nx = mode != "paging32"
    cases = [
        ("", "mov eax, dword ptr [VA]", 0, 0),
        ("", "mov dword ptr [VA], eax", 0, W),
        ("", "mov eax, dword ptr [VA]", 3, U),
        ("P", "mov dword ptr [VA], eax", 0, P | W),
        ("PW", "mov eax, dword ptr [VA]", 3, P | U),
        ("PU", "mov dword ptr [VA], eax", 3, P | W | U),
        ("PWUX" if nx else "", "call ebx", 0, P | FETCH if nx else 0),
        ("PWUX" if nx else "", "call ebx", 3, P | U | FETCH if nx else U),
        ("", "call ebx", 0, FETCH if nx else 0),
    ]
    for flags, text, cpl, error in cases:
        rig.forget()
        prepare(rig, mode, flags)
        program = text.replace("VA", hex(VA)).replace(
            "call ebx", "call rbx" if mode == "long" else "call ebx"
        )
        enter(rig, mode, program + "; int 0x30", cpl, rbx=VA)
        fault = rig.faults[0]
        assert (fault.vector, fault.error, fault.cr2) == (PF_, error, VA), (flags, text, cpl)
        if "call" in text:
            assert fault.ip == VA
    if mode == "pae":  # bit 62; in long mode large pages have reserved bits that no processor uses (below)
        rig.forget()
        prepare(rig, mode)
        rig.tables.set(VA, rig.tables.get(VA) | 1 << 62)
        enter(rig, mode, f"mov dword ptr [{VA}], eax")
        assert (rig.faults[0].vector, rig.faults[0].error) == (PF_, P | W | RSVD)


@needs("long")
@defect_of("translator", "Unicorn loads first: W/R is clear for a read-modify-write (SDM vol. 3A §4.7)")
def test_error_code_of_read_modify_write(rig: Rig) -> None:
    """INC of an absent page is a write."""
    prepare(rig, "long", "")
    enter(rig, "long", f"inc dword ptr [{VA}]")
    assert rig.faults[0].error == W


@needs("nx")
@pytest.mark.parametrize("mode", ["pae", "long"])
def test_nx_is_reserved_without_nxe(rig: Rig, mode: Mode) -> None:
    """With EFER.NXE clear, bit 63 is reserved and I/D is never set (SDM vol. 3A §4.6, §4.7)."""
    prepare(rig, mode, "PWX")
    efer = rig.state(mode, 0).efer
    prepare(rig, mode, "PWX")
    enter(rig, mode, f"mov eax, dword ptr [{VA}]", efer=efer & ~0x800)
    assert (rig.faults[0].vector, rig.faults[0].error) == (PF_, P | RSVD)


@pytest.mark.parametrize("mode", PAGED)
def test_write_protect(rig: Rig, mode: Mode) -> None:
    """Ring 0 writes read-only pages when CR0.WP is clear."""
    prepare(rig, mode, "PU")
    cr0 = rig.state(mode, 0).cr0
    prepare(rig, mode, "PU")
    enter(rig, mode, f"mov dword ptr [{VA}], 0x77; hlt", cr0=cr0 & ~0x10000)
    assert not rig.faults
    assert rig.memory.read_u32(DATA) == 0x77
    enter(rig, mode, f"mov dword ptr [{VA}], 0x78; hlt", cr0=cr0)
    assert rig.faults[0].error == P | W


@needs("smep")
@pytest.mark.parametrize("mode", PAGED)
def test_smep(rig: Rig, mode: Mode) -> None:
    """Ring 0 fetches from a user page: #PF with I/D (SDM vol. 3A §4.6.1)."""
    prepare(rig, mode, "PWU")
    rig.memory.load(DATA, b"\xc3")
    call = "call rbx" if mode == "long" else "call ebx"
    cr4 = rig.state(mode, 0).cr4
    prepare(rig, mode, "PWU")
    enter(rig, mode, f"{call}; ud2", rbx=VA)
    assert rig.vectors == [UD]
    rig.forget()
    enter(rig, mode, f"{call}; ud2", rbx=VA, cr4=cr4 | 1 << 20)
    assert (rig.faults[0].vector, rig.faults[0].error) == (PF_, P | FETCH)


@pytest.mark.parametrize("mode", PAGED)
def test_accessed_and_dirty(rig: Rig, mode: Mode) -> None:
    """A load sets A on the way, a store also D in the last entry; a fault sets neither D (SDM vol. 3A §4.8)."""
    prepare(rig, mode)
    enter(rig, mode, f"mov eax, dword ptr [{VA}]; hlt")
    assert rig.tables.get(VA) & (ACCESSED | DIRTY) == ACCESSED
    assert rig.tables.get(VA, -2) & ACCESSED
    enter(rig, mode, f"mov eax, dword ptr [{VA}]; mov dword ptr [{VA}], eax; hlt")
    assert rig.tables.get(VA) & (ACCESSED | DIRTY) == ACCESSED | DIRTY
    prepare(rig, mode, "P")
    enter(rig, mode, f"mov dword ptr [{VA}], eax; hlt")
    assert not rig.tables.get(VA) & DIRTY


@pytest.mark.parametrize("mode", PAGED)
def test_large_pages(rig: Rig, mode: Mode) -> None:
    """4 MiB or 2 MiB: data through it, code in it, D set in its entry."""
    rig.state(mode, 0)
    rig.tables.map_large(VA, 0x800000, "PW")
    rig.memory.write_u32(0x812344, 0x55667788)
    rig.memory.load(0x820000, b"\xb8\x21\x43\x00\x00\xc3")
    call = "call rbx" if mode == "long" else "call ebx"
    enter(rig, mode, f"mov ecx, dword ptr [{VA + 0x12344}]; {call}; mov dword ptr [{VA + 0x1FFFFC}], eax; hlt",
          rbx=VA + 0x20000)  # fmt: skip
    state = rig.vcpu.state
    assert (state.ecx, state.eax) == (0x55667788, 0x4321)
    assert rig.memory.read_u32(0x9FFFFC) == 0x4321
    assert rig.tables.get(VA, -2) & (DIRTY | ACCESSED | LARGE) == DIRTY | ACCESSED | LARGE


@needs("long", "1g-pages")
def test_1g_page(rig: Rig) -> None:
    """A PDPTE with PS."""
    rig.state("long", 0)
    rig.tables.map_large(VA, 0, "PW", -3)
    enter(rig, "long", f"mov dword ptr [{VA + DATA}], 0x31; mov eax, dword ptr [{DATA}]; hlt")
    assert rig.vcpu.state.eax == 0x31


@needs("long")
def test_large_page_with_reserved_bits(rig: Rig) -> None:
    """Bits 20:13 of a 2 MiB page's entry are reserved."""
    rig.state("long", 0)
    rig.tables.map_large(VA, 0x800000 | 1 << 13, "PW")
    enter(rig, "long", f"mov eax, dword ptr [{VA}]")
    assert rig.faults[0].error == P | RSVD


@needs("paging-32")
def test_pse_off(rig: Rig) -> None:
    """Without CR4.PSE, PS is ignored in 32-bit paging: the entry is a table."""
    rig.state("paging32", 0)
    rig.tables.map(VA, DATA, 0x1000, "PW")
    rig.tables.set(VA, rig.tables.get(VA, 0) | LARGE, 0)
    rig.memory.write_u32(DATA, 0x99)
    cr4 = 0x600
    enter(rig, "paging32", f"mov eax, dword ptr [{VA}]; hlt", cr4=cr4)
    assert rig.vcpu.state.eax == 0x99


@pytest.mark.parametrize("mode", PAGED)
def test_tlb_is_flushed(rig: Rig, mode: Mode) -> None:
    """A changed entry is seen after INVLPG, after MOV CR3, and by a global page only after INVLPG or CR4.PGE
    (§4.10).
    """
    prepare(rig, mode)
    for number in range(4):
        rig.memory.write_u32(DATA + 0x1000 * number, 0x100 + number)
    entry = rig.tables.entry(VA)
    rig.tables.map(entry & ~0xFFF, entry & ~0xFFF, 0x1000, "PW")
    a, b = ("rax", "rbx") if mode == "long" else ("eax", "ebx")
    program = f"""
        mov edi, {entry}; mov esi, {VA}; mov ecx, dword ptr [{b}]
        add dword ptr [{a}], 0x1000; invlpg [{b}]; mov edx, dword ptr [{b}]
        add dword ptr [{a}], 0x1000; mov {a}, cr3; mov cr3, {a}; mov edi, dword ptr [{b}]
        mov esi, {entry}; mov {a}, {"rsi" if mode == "long" else "esi"}; or dword ptr [{a}], 0x100; invlpg [{b}]
        mov ebp, dword ptr [{b}]
        add dword ptr [{a}], 0x1000
        mov {a}, cr4; xor eax, 0x80; mov cr4, {a}; xor eax, 0x80; mov cr4, {a}
        mov esi, dword ptr [{b}]; hlt"""
    enter(rig, mode, program, rax=entry, rbx=VA)
    state = rig.vcpu.state
    assert (state.ecx, state.edx, state.edi, state.ebp, state.esi) == (0x100, 0x101, 0x102, 0x102, 0x103)


@interpreted("the first part of a store over two pages is done before the second is checked")
@pytest.mark.parametrize("mode", PAGED)
def test_access_across_pages(rig: Rig, mode: Mode) -> None:
    """Eight or four bytes over two pages that are not neighbours; the second absent: fault with CR2 there,
    nothing stored.
    """
    prepare(rig, mode)
    rig.tables.map(VA + 0x1000, DATA + 0x5000, 0x1000, "PW")
    register = "rcx" if mode == "long" else "ecx"
    size = 8 if mode == "long" else 4
    enter(rig, mode, f"mov {register}, [ebx]; mov [ebx+0x80000000-0x80000000], {register}; "
        f"not {register}; mov [ebx], {register}; hlt"
          if mode != "long" else "mov rcx, [rbx]; not rcx; mov [rbx], rcx; hlt",
          rbx=VA + 0xFFF, rcx=0)  # fmt: skip
    joined = rig.memory.read(DATA + 0xFFF, 1) + rig.memory.read(DATA + 0x5000, size - 1)
    assert joined == b"\xff" * size
    prepare(rig, mode)
    rig.memory.write_u8(DATA + 0xFFF, 0)
    enter(
        rig,
        mode,
        f"mov [{'rbx' if mode == 'long' else 'ebx'}], {register}; hlt",
        rbx=VA + 0xFFF,
        rcx=(1 << 64) - 1,
    )
    fault = rig.faults[0]
    assert (fault.vector, fault.error, fault.cr2) == (PF_, W, VA + 0x1000)
    assert rig.memory.read_u8(DATA + 0xFFF) == 0


@pytest.mark.parametrize("mode", PAGED)
def test_code_across_pages(rig: Rig, mode: Mode) -> None:
    """An instruction whose second half is in an absent page: #PF at its start, CR2 in the second page; then it runs."""
    prepare(rig, mode, "PW")
    rig.memory.load(DATA + 0xFFD, b"\xb9\x11\x22")  # mov ecx, imm32
    rig.memory.load(DATA + 0x3000, b"\x33\x44\xc3")
    second = rig.tables.entry(VA + 0x1000)
    program = "call rbx; hlt" if mode == "long" else "call ebx; hlt"
    enter(rig, mode, program, rbx=VA + 0xFFD)
    fault = rig.faults[0]
    assert (fault.vector, fault.error & ~FETCH, fault.ip, fault.cr2) == (PF_, 0, VA + 0xFFD, VA + 0x1000)
    rig.memory.write_integer(second, rig.tables.size, (DATA + 0x3000) | PRESENT | WRITE)
    enter(rig, mode, program, rbx=VA + 0xFFD)
    assert rig.vcpu.state.ecx == 0x44332211


@needs("long")
def test_cr3_switch(rig: Rig) -> None:
    """Two address spaces: the same address, other contents, also for code."""
    prepare(rig, "long", gpa=DATA)
    first = rig.tables
    second = type(first)(rig.memory, "long", 0x380000, 0x400000)
    second.map(0, 0, 0x200000, "PW")
    second.map(VA, DATA + 0x1000, 0x1000, "PW")
    first.map(0x200000, 0x200000, 0x200000, "PW")
    rig.memory.load(DATA, b"\xb8\x01\x00\x00\x00\xc3")
    rig.memory.load(DATA + 0x1000, b"\xb8\x02\x00\x00\x00\xc3")
    enter(rig, "long", """
        mov ecx, 1000
        l: call rbx; mov esi, eax; mov cr3, rdx; call rbx; mov edi, eax; mov cr3, rbp; dec ecx; jnz l; hlt""",
        rbx=VA, rdx=second.root, rbp=first.root)  # fmt: skip
    state = rig.vcpu.state
    assert (state.esi, state.edi) == (1, 2), rig.faults


@needs("long")
def test_page_fault_handler_can_map(rig: Rig) -> None:
    """A fault in REP MOVS leaves RCX, RSI and RDI right for the restart (SDM vol. 1 §7.3.9.3)."""
    prepare(rig, "long")
    entry = rig.tables.entry(VA + 0x1000)
    rig.tables.map(entry & ~0xFFF, entry & ~0xFFF, 0x1000, "PW")
    rig.memory.load(0x60000, bytes(range(256)) * 32)
    rig.memory.load(0x9000, assemble(f"""
        mov r8, rcx; mov r9, rsi; mov r10, rdi
        mov rax, {DATA + 0x1000 | 3}; mov ebp, {entry}; mov qword ptr [rbp], rax; jmp r12""", 64, 0x9000))  # fmt: skip
    rig.on(PF_, action=SKIP)
    rig.resume_at(0x9000)
    enter(
        rig,
        "long",
        f"lea r12, [rip+there]; mov esi, 0x60000; mov edi, {VA + 0xF00}; mov ecx, 0x300; there: rep movsb; hlt",
    )
    state = rig.vcpu.state
    assert (state.r8, state.r9, state.r10) == (0x200, 0x60100, VA + 0x1000)
    assert (state.rcx, state.rsi, state.rdi) == (0, 0x60300, VA + 0x1200)
    assert rig.memory.read(DATA + 0xF00, 0x300) == (bytes(range(256)) * 3)


@needs("long")
@interpreted("U/S of upper entries does not matter")
def test_user_pages_need_the_bit_at_each_level(rig: Rig) -> None:
    """U/S clear in one upper entry is enough to refuse ring 3 (SDM vol. 3A §4.6)."""
    rig.on(USER_VECTOR, action=CONTINUE)
    for level in range(4):
        rig.forget()
        prepare(rig, "long", "PWU")
        high = VA
        enter(rig, "long", f"mov eax, dword ptr [{high}]; ud2", 3)
        assert rig.vectors == [UD]
        rig.forget()
        rig.tables.map(ON_USER, ON_USER, 0x1000, "PWU")
        if level == 0:
            continue  # the whole of the lower half, where the program itself is
        rig.tables.set(VA, rig.tables.get(VA, level) & ~4, level)
        enter(rig, "long", f"mov eax, dword ptr [{high}]; ud2", 3)
        assert (rig.faults[0].vector, rig.faults[0].error) == (PF_, P | U)
