"""What no kernel should do, bare and under each monitor: an explained end, or what a processor would do. Never a hang.

Where a monitor cannot do what a processor does (its own slot, tables outside RAM), the end says so, with the place. All
else must be the same as on the bare processor.
"""

from __future__ import annotations

import random
import re

import pytest

from pyvmm.lab.runner import usable
from tests.conformance.engine_variants import availability
from tests.lab.bad_guest import CODE, DATA, GDT, GUEST_END, IDT, PML4, SLOT, STACK, Ending, leave, run

ENGINES = ("translator", "kvm")
TECHNIQUES = ("bare", "trap-and-emulate", "translation")
MONITORS = TECHNIQUES[1:]


def ending(
    program: str | bytes, technique: str, engine: str, *, traps: bool = False, timeout: float = 20.0
) -> Ending:
    """Run it where the technique is to be had."""
    found, reason = availability(engine)
    if not found:
        pytest.skip(f"{engine}: {reason}")
    if technique != "bare" and technique not in usable(engine):
        pytest.skip(f"{technique}: not in this build")
    return run(program, technique, engine, traps=traps, timeout=timeout)


both_engines = pytest.mark.parametrize("engine", ENGINES)
every_technique = pytest.mark.parametrize("technique", TECHNIQUES)
every_monitor = pytest.mark.parametrize("technique", MONITORS)


# The guest's own exceptions ------------------------------------------------------------------------------------------

FAULTS = {
    "no instruction": (b"\x0f\xff\xc0\xf4", 6),
    "LOCK where none may be": (b"\xf0\x90\xf4", 6),
    "a prefix too many": (b"\x66" * 15 + b"\x90\xf4", 13),
    "MOV to CR4 of a reserved bit": ("mov rax, cr4; bts rax, 40; mov cr4, rax; hlt", 13),
    "MOV to CR3 beyond MAXPHYADDR": ("mov rax, 0xfff0000000070000; mov cr3, rax; hlt", 13),
    "an MSR that there is not": ("mov ecx, 0x12345678; rdmsr; hlt", 13),
    "WRMSR of a non-canonical base": ("mov ecx, 0xc0000100; mov edx, 0x12345678; wrmsr; hlt", 13),
    "a non-canonical address": ("mov rax, 0x1234567890abcdef; mov rax, [rax]; hlt", 13),
    "nothing mapped": ("mov rax, 0x7fff00000000; mov rax, [rax]; hlt", 14),
    "an unused selector": ("mov ax, 0x1230; mov ds, ax; hlt", 13),
    "a far jump to data": (f"push 0x10; push {CODE}; .byte 0x48, 0xcb; hlt", 13),
    "LLDT of no LDT": ("mov ax, 8; lldt ax; hlt", 13),
    "LTR of code": ("mov ax, 8; ltr ax; hlt", 13),
    "divide by zero": ("xor ecx, ecx; div ecx; hlt", 0),
    "INT3": ("int3; hlt", 3),
    "INT of a gate": ("int 0x41; hlt", 0x41),
}


@every_technique
@pytest.mark.parametrize("name", FAULTS)
def test_an_exception_is_the_guests_own(name: str, technique: str) -> None:
    """Its handler is called with the vector that a processor gives."""
    program, vector = FAULTS[name]
    found = ending(program, technique, "translator", traps=True)
    assert (found.kind, found.number) == ("exit", vector), found


@both_engines
@every_technique
def test_a_triple_fault(technique: str, engine: str) -> None:
    """No IDT: #UD, #GP for that, #DF, the end."""
    found = ending("ud2", technique, engine)
    if technique == "bare":
        assert found.kind in ("shutdown", "failed")
    else:
        assert found.kind == "end"
        assert "triple fault" in found.why
        assert f"at {CODE:#x} (ud2)" in found.why


@both_engines
@every_technique
def test_a_triple_fault_by_page_fault(technique: str, engine: str) -> None:
    """An IDT where nothing is mapped."""
    program = "lidt [rip + pointer]; ud2; pointer: .word 0xfff; .quad 0x700000000000"
    found = ending(program.replace("pointer", "tables"), technique, engine)
    if technique == "bare":
        assert found.kind in ("shutdown", "failed")
    else:
        assert (found.kind, "triple fault" in found.why) == ("end", True), found


# Asleep for ever, busy for ever --------------------------------------------------------------------------------------


@both_engines
@every_technique
def test_hlt_that_nothing_can_end(technique: str, engine: str) -> None:
    found = ending("cli; hlt", technique, engine)
    if technique == "bare":
        assert found.kind == "halted"
    else:
        assert found.kind == "end"
        assert "HLT with interrupts off: nothing can wake the guest" in found.why
        assert "(hlt)" in found.why


@both_engines
@every_technique
@pytest.mark.parametrize(
    "program",
    [
        "sti; hlt",
        "here: jmp here",
        "here: cli; sti; jmp here",
        "here: pushfq; popfq; jmp here",
        "here: mov rax, cr3; mov cr3, rax; lea rbx, [rip + here]; jmp rbx",
        f"mov rbx, {PML4}; here: mov rax, [rbx + 8]; mov [rbx + 8], rax; jmp here",
    ],
    ids=["asleep", "loop", "cli-sti", "pushf-popf", "cr3", "tables"],
)
def test_a_guest_that_never_ends_can_be_stopped(program: str, technique: str, engine: str) -> None:
    """Nothing is wrong with it; the time-out ends the run, and soon."""
    assert ending(program, technique, engine, timeout=0.3).kind == "timeout"


# The monitor's own ---------------------------------------------------------------------------------------------------


@both_engines
@every_monitor
@pytest.mark.parametrize(
    "program",
    [
        f"mov rax, [rbp + {PML4}]; mov [rbp + {PML4 + 511 * 8}], rax; mov rax, {SLOT + 0x2000:#x}; mov rax, [rax]",
        f"mov rax, {GUEST_END:#x}; mov rax, [rax]",
        f"mov rax, {GUEST_END + 0x5000:#x}; mov [rax], rax",
    ],
    ids=["map", "physical-read", "physical-write"],
)
def test_the_monitors_memory(program: str, technique: str, engine: str) -> None:
    """Its slot and its RAM are nobody else's: who maps them and asks for them ends, and is told."""
    found = ending(f"{program}; {leave(1)}", technique, engine, traps=True)
    assert found.kind == "end", found
    assert "monitor" in found.why


@both_engines
@every_monitor
@pytest.mark.parametrize("act", ["mov rax, [rax]", "mov [rax], rax", "jmp rax", "push rax; ret"])
def test_a_slot_that_the_guest_has_not_mapped(act: str, technique: str, engine: str) -> None:
    """It is a page fault of its own, as where no monitor is."""
    for offset in (0, 0x3000, 0x5000, 0x800000):
        found = ending(f"mov rax, {SLOT + offset:#x}; {act}; {leave(1)}", technique, engine, traps=True)
        assert (found.kind, found.number) == ("exit", 14), found


@both_engines
@every_monitor
def test_what_ring_3_can_write_in_the_slot(technique: str, engine: str) -> None:
    """A technique's data: a guest that overwrites it harms itself, and nobody else."""
    program = (
        f"mov rdi, {SLOT + 0x20000:#x}; mov ecx, 0x2000; mov rax, -1; rep stosq; cli; sti; pushfq; popfq; "
        f"mov rax, cr3; mov cr3, rax; lea rax, [rip + there]; call rax; there: {leave(1)}"
    )
    found = ending(program, technique, engine, traps=True, timeout=2.0)
    assert found.kind in ("exit", "end", "timeout"), found


@both_engines
@every_monitor
def test_who_never_touches_the_slot_may_fill_it(technique: str, engine: str) -> None:
    """A kernel that writes the entry and does not use it sees its own value."""
    entry = PML4 + 511 * 8
    program = f"mov rax, 0x1234003; mov [rbp + {entry}], rax; mov rbx, [rbp + {entry}]; xor eax, ebx; {leave('eax')}"
    assert ending(program, technique, engine, traps=True) == Ending("exit", 0, "")


@both_engines
@every_monitor
@pytest.mark.parametrize("size", ["al", "ax", "eax"])
def test_the_monitors_port(size: str, technique: str, engine: str) -> None:
    """To the guest it is a port that nobody answers."""
    program = (
        f"mov edx, 0x5e0; mov ecx, 1000; here: out dx, {size}; dec ecx; jnz here; in {size}, dx; {leave(7)}"
    )
    assert ending(program, technique, engine, traps=True) == Ending("exit", 7, "")


@both_engines
@every_monitor
def test_a_jump_into_the_landing_page(technique: str, engine: str) -> None:
    """What ring 3 may execute of the slot gives a kernel nothing: its own exception, or an end."""
    program = f"mov rcx, 0x1234567812345678; mov rax, {SLOT + 0x7000:#x}; jmp rax"
    found = ending(program, technique, engine, traps=True)
    assert found.kind in ("exit", "end"), found


# Page tables ---------------------------------------------------------------------------------------------------------


@both_engines
@every_technique
def test_tables_that_loop(technique: str, engine: str) -> None:
    """A PML4 that is its own entry 1: the tables are seen through themselves, and can be changed so."""
    window, alias = 1 << 39 | 1 << 30 | 1 << 21 | 1 << 12, 2 << 39 | DATA
    program = (
        f"mov rax, {PML4 | 3}; mov [rbp + {PML4 + 8}], rax; mov rbx, {window:#x}; mov rcx, [rbx + 8]; "
        "and rcx, -0x61; cmp rcx, rax; jne wrong; "
        f"mov rax, [rbx]; mov [rbx + 16], rax; mov rdi, {alias:#x}; mov dword ptr [rdi], 77; "
        f"cmp dword ptr [rbp + {DATA}], 77; jne wrong; mov qword ptr [rbx + 8], 0; invlpg [rbx]; "
        f"cmp qword ptr [rbp + {PML4 + 8}], 0; jne wrong; {leave(5)}; wrong: {leave(99)}"
    )
    found = ending(program, technique, engine, traps=True)
    assert (found.kind, found.number) == ("exit", 5), found


OUTSIDE = 0x7_0000_0000


@both_engines
@every_monitor
@pytest.mark.parametrize(
    "program",
    [
        f"mov rax, {OUTSIDE | 3}; mov [rbp + {PML4 + 8}], rax; mov rax, {1 << 39:#x}; mov rax, [rax]",
        f"mov rax, {OUTSIDE | 3}; mov [rbp + {PML4 + 0x1000 + 8 * 8}], rax; mov rax, {8 << 30:#x}; mov rax, [rax]",
        f"mov rax, {OUTSIDE | 3}; mov [rbp + {PML4 + 0x2040}], rax; mov rbx, {8 << 21}; invlpg [rbx]; mov rax, [rbx]",
        f"mov rax, {OUTSIDE}; mov cr3, rax",
        f"mov rax, {GUEST_END}; mov cr3, rax",
    ],
    ids=["pdpt", "pd", "pt", "pml4", "monitor"],
)
def test_tables_outside_ram(program: str, technique: str, engine: str) -> None:
    found = ending(f"{program}; {leave(1)}", technique, engine, traps=True)
    assert found.kind == "end", found
    assert re.search("where the guest has no RAM|no RAM of the guest's", found.why)


@every_technique
def test_reserved_bits_are_a_page_fault(technique: str) -> None:
    entry = f"mov rax, {1 << 45 | 0x83}; mov [rbp + {PML4 + 0x2040}], rax"
    program = f"{entry}; mov rbx, {8 << 21}; invlpg [rbx]; mov rax, [rbx]"
    assert ending(program, technique, "translator", traps=True).number == 14


@both_engines
@every_technique
def test_a_store_across_two_tables(technique: str, engine: str) -> None:
    """Eight bytes of which each half is in another table's entry, and a REP STOSQ over a whole one; all in use."""
    second, third, fourth = PML4 + 0x3000, PML4 + 0x4000, PML4 + 0x5000
    use = "; ".join(
        f"mov rbx, {address:#x}; mov rax, [rbx]" for address in (0x7FE00000, 0x80000000, 0xC0000000)
    )
    program = (
        f"{use}; mov rax, -1; mov [rbp + {second + 0xFFC}], rax; mov qword ptr [rbp + {second + 0xFFC}], 0; "
        f"mov rdi, {fourth}; xor eax, eax; mov ecx, 512; rep stosq; mov rbx, [rbp + {third}]; "
        f"shr rbx, 32; or rbx, [rbp + {fourth + 8}]; lea eax, [rbx + 3]; {leave('eax')}"
    )
    found = ending(program, technique, engine, traps=True)
    assert (found.kind, found.number) == ("exit", 3), found


# What no monitor here has, and what no processor has ---------------------------------------------------------------

CR4 = "mov rax, cr4; bts rax, {}; mov cr4, rax"
LIDT = "lidt [rip + there]; int 0x41; there: .word 0xfff; .quad {:#x}"
LGDT = "lgdt [rip + there]; push 8; lea rax, [rip + there]; push rax; .byte 0x48, 0xcb; there: .word 0xff; .quad {:#x}"
WIDE = f"mov word ptr [rbp + {DATA + 8}], 0xff; mov qword ptr [rbp + {DATA + 10}], {GDT}; lgdt [rbp + {DATA + 8}]"
"""The GDT with room for selector 18h."""
IST = (
    f"{WIDE}; mov rax, {{:#x}}; mov [rbp + {GDT + 0x18}], rax; mov rax, {{:#x}}; mov [rbp + {GDT + 0x20}], rax; "
    f"mov ax, 0x18; ltr ax; mov byte ptr [rbp + {IDT + 0x41 * 16 + 4}], 1; int 0x41"
)
"""A TSS by its descriptor's halves; then IST 1 is wanted for vector 41h."""
COMPATIBILITY = f"{WIDE}; mov rax, 0x00cf9b000000ffff; mov [rbp + {GDT + 0x18}], rax"
WILD, ABSENT = 0x1234567890ABCDEF, 0x700000000000
TRIPLE = "triple fault"
WRONG: dict[str, tuple[str, int | str, str]] = {
    # what: program, the vector that a processor gives or words of the end, the instruction where that is
    "paging off": ("mov rax, cr0; btr rax, 31; mov cr0, rax", 13, ""),
    "protection off": ("mov rax, cr0; and eax, 0x7ffffffe; mov cr0, rax", 13, ""),
    "LA57": (CR4.format(12), 13, ""),
    "PAE off": ("mov rax, cr4; btr rax, 5; mov cr4, rax", 13, ""),
    "PCID": (CR4.format(17), "no UMIP, FSGSBASE, PCIDs", "mov cr4, rax"),
    "UMIP": (CR4.format(11), "no UMIP, FSGSBASE, PCIDs", "mov cr4, rax"),
    "XSAVE": (CR4.format(18), "no UMIP, FSGSBASE, PCIDs", "mov cr4, rax"),
    "CR4's reserved bits": (CR4.format(31), 13, ""),
    "CR4's high half": (CR4.format(63), 13, ""),
    "EFER's reserved bits": ("mov ecx, 0xc0000080; rdmsr; bts eax, 3; wrmsr", 13, ""),
    "EFER's high half": ("mov ecx, 0xc0000080; rdmsr; bts edx, 3; wrmsr", 13, ""),
    "LME off": ("mov ecx, 0xc0000080; rdmsr; btr eax, 8; wrmsr", 13, ""),
    "CR3 outside RAM": (f"mov rax, {OUTSIDE}; mov cr3, rax", "no RAM", "mov cr3, rax"),
    "CR3 at the monitor": (f"mov rax, {GUEST_END + 0x8000}; mov cr3, rax", "no RAM", "mov cr3, rax"),
    "CR3 that leads nowhere": (f"mov eax, {DATA}; mov cr3, rax; hlt", TRIPLE, ""),
    "CR3 that is code": (f"mov eax, {CODE}; mov cr3, rax; hlt", "", ""),
    "CR3 beyond MAXPHYADDR": (f"mov rax, {WILD & ~0xFFF:#x}; mov cr3, rax", 13, ""),
    "GDTR not canonical": (LGDT.format(WILD), 13, ""),
    "IDTR not canonical": (LIDT.format(WILD), 13, ""),
    "GDTR where nothing is": (LGDT.format(ABSENT), TRIPLE, "retfq"),
    "IDTR where nothing is": (LIDT.format(ABSENT), TRIPLE, "int 0x41"),
    "GDTR in the monitor's slot": (LGDT.format(SLOT + 0x3000), TRIPLE, "retfq"),
    "IDTR in the monitor's slot": (LIDT.format(SLOT + 0x2000), TRIPLE, "int 0x41"),
    "GDTR in the monitor's RAM": (LGDT.format(GUEST_END + 0x3000), "monitor", "retfq"),
    "IDTR in the monitor's RAM": (LIDT.format(GUEST_END + 0x2000), "monitor", "int 0x41"),
    "IDTR of noise": (LIDT.format(CODE), "", ""),
    "GDTR without entries": ("lgdt [rip + there]; push 8; lea rax, [rip + there]; push rax; .byte 0x48, 0xcb; "
                             f"there: .word 0; .quad {GDT}", TRIPLE, "retfq"),
    "TSS not canonical": (IST.format(0x0000890000000067, WILD >> 32), 13, ""),
    "TSS where nothing is": (IST.format(0x0000890000000067, ABSENT >> 32), 14, ""),
    "TSS too short": (IST.format(0x0000890000000010, 0), 10, ""),
    "TSS in the monitor's RAM": (
        IST.format(0x67 | 0x89 << 40 | (GUEST_END & 0xFFFFFF) << 16 | (GUEST_END >> 24) << 56, 0),
        "monitor", "int 0x41"),
    "32-bit code by RETF": (
        f"{COMPATIBILITY}; push 0x18; lea rax, [rip + there]; push rax; .byte 0x48, 0xcb; there: nop",
        "64-bit mode only", "retfq"),
    "32-bit code by IRETQ": (
        f"{COMPATIBILITY}; push 0x10; push {STACK}; push 2; push 0x18; lea rax, [rip + there]; push rax; iretq; "
        "there: nop", "64-bit mode only", "iretq"),
    "32-bit code by SYSRET": (
        "mov ecx, 0xc0000080; rdmsr; bts eax, 0; wrmsr; xor ecx, ecx; .byte 0x0f, 0x07", "64-bit mode only", "sysret"),
    "a call gate": (
        f"{WIDE}; mov rax, 0x00008c0000080000; mov [rbp + {GDT + 0x18}], rax; mov dword ptr [rbp + {DATA}], 0; "
        f"mov word ptr [rbp + {DATA + 4}], 0x18; .byte 0xff, 0x2c, 0x25; .long {DATA}", "call gate", "jmp"),
    "the time stamp counter": ("mov ecx, 0x10; xor eax, eax; xor edx, edx; wrmsr", "time stamp counter", "wrmsr"),
    "the local APIC elsewhere": (
        "mov ecx, 0x1b; rdmsr; mov eax, 0x10000900; wrmsr", "IA32_APIC_BASE", "wrmsr"),
    "a stack where nothing is": (f"mov rsp, {ABSENT:#x}; int 0x41", TRIPLE, "int 0x41"),
    "a stack not canonical": (f"mov rsp, {WILD:#x}; int 0x41", TRIPLE, "int 0x41"),
    "a stack in the monitor's RAM": (f"mov rsp, {GUEST_END + 0x6000:#x}; int 0x41", "monitor", "int 0x41"),
    "code in the monitor's RAM": (f"mov rax, {GUEST_END:#x}; jmp rax", "monitor", ""),
    "code where a device is": ("mov rax, 0xfee00000; jmp rax", "", ""),
    "a gate to nowhere": (f"mov dword ptr [rbp + {IDT + 0x41 * 16 + 8}], 0x12345678; int 0x41", 13, ""),
    "a return to nowhere": (f"push 0x10; push {STACK}; push 2; push 8; mov rax, {WILD:#x}; push rax; iretq", 13, ""),
}  # fmt: skip


@both_engines
@pytest.mark.parametrize("technique", [*MONITORS, "paravirtual"])
@pytest.mark.parametrize("name", WRONG)
def test_what_a_monitor_cannot_do(name: str, technique: str, engine: str) -> None:
    """The exception that a processor gives, or an end that names the place and the instruction; never a hang."""
    program, expected, instruction = WRONG[name]
    found = ending(f"{program}; {leave(1)}", technique, engine, traps=True)
    if technique == "paravirtual" and "no handler for vector" in found.why:
        assert re.search("at 0x[0-9a-f]+", found.why), (
            found
        )  # it has a trap table, not an IDT: this guest set none
    elif isinstance(expected, int):
        assert (found.kind, found.number) == ("exit", expected), found
    elif expected:
        assert found.kind == "end", found
        assert expected in found.why
        assert re.search(
            rf"at 0x[0-9a-f]+ \({instruction}" if instruction else "at 0x[0-9a-f]+", found.why
        ), found
    else:
        assert found.kind in ("exit", "end") or (found.kind == "failed" and found.why), found


# Code that changes, and code that is none ----------------------------------------------------------------------------


@both_engines
@every_technique
def test_code_that_changes_itself(technique: str, engine: str) -> None:
    """An immediate is written before each turn, on the same page: each turn must use the new one."""
    program = (
        "xor ebx, ebx; mov ecx, 100; "
        "turn: mov dword ptr [rip + patched + 1], ecx; patched: mov eax, 0x11111111; add ebx, eax; dec ecx; jnz turn; "
        f"cmp ebx, 5050; jne wrong; {leave(4)}; wrong: {leave(99)}"
    )
    found = ending(program, technique, engine, traps=True)
    assert (found.kind, found.number) == ("exit", 4), found


@every_technique
def test_a_runaway_string_instruction(technique: str) -> None:
    """REP with the greatest count, from a port, over all memory, to a port: a fault or the time-out ends it, soon."""
    for program in (
        f"mov rcx, -1; mov rdi, {DATA}; mov edx, 0x80; rep insb; hlt",
        f"mov rcx, -1; mov rdi, {STACK}; rep stosb; hlt",
        f"mov rcx, -1; mov rsi, {CODE}; mov edx, 0x80; rep outsb; hlt",
    ):
        found = ending(program, technique, "translator", traps=True, timeout=1.0)
        assert found.kind in ("exit", "end", "timeout"), found


@every_technique
@pytest.mark.parametrize("seed", range(4))
def test_random_bytes(seed: int, technique: str) -> None:
    """Ten kernels of noise each: every one ends somehow, and the process is well."""
    chance = random.Random(seed)
    for _ in range(10):
        noise = bytes(chance.randbytes(512))
        found = ending(noise, technique, "translator", traps=chance.random() < 0.8, timeout=0.5)
        assert found.kind in ("exit", "end", "timeout", "shutdown", "halted", "reset", "failed"), found
