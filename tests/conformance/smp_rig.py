"""A PC with several vCPUs and a guest of a few lines: all start in real mode at START, go to long mode, and split.

The same trampoline serves the reset vector (a ROM jumps to it) and startup IPIs (vector START >> 12). The processor
that IA32_APIC_BASE calls the bootstrap one goes to the program `bsp`, the others to `ap`. There EDI is the APIC ID, EBX
the local APIC, and the stack is the processor's own.
Handlers count each interrupt by vector and processor, and acknowledge it at the 8259s (PIC to PIC + 15) or the local
APIC (others). An exception ends the machine with exit code 0x40 + its vector.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pyvmm
from pyvmm.machine import layout
from pyvmm.machine.machine import Machine
from tests.conformance.engine_tables import gate_64

TABLES, GDT, GDT_POINTER, IDT, IDT_POINTER = 0x1000, 0x5000, 0x5100, 0x6000, 0x7000
START, HANDLERS, PROGRAM = 0x8000, 0x9000, 0xC000
SHARED, COUNTS, STACKS = 0x10000, 0x12000, 0x20000
"""SHARED: the program's own words; COUNTS: 32-bit words by vector, a page for each processor."""

PIC, NMI, RTC_VECTOR = 0x20, 2, 0x28
LAPIC, IOAPIC = layout.LOCAL_APIC_BASE, layout.IO_APIC_BASE
MAX_CPUS = 8

ID, EOI, SVR, ICR, ICR_HIGH, LVT_TIMER, LINT1 = 0x20, 0xB0, 0xF0, 0x300, 0x310, 0x320, 0x360
TIMER_INITIAL, TIMER_DIVIDE = 0x380, 0x3E0
ALL_BUT_SELF = 0xC0000

PRELUDE = f"""
    mov ebx, {LAPIC:#x}
    mov dword ptr [rbx+{SVR}], 0x1ff
"""
START_APS = f"""
    mov dword ptr [rbx+{ICR}], {ALL_BUT_SELF | 0x4500:#x}
    mov dword ptr [rbx+{ICR}], {ALL_BUT_SELF | 0x4600 | START >> 12:#x}
    mov dword ptr [rbx+{ICR}], {ALL_BUT_SELF | 0x4600 | START >> 12:#x}
"""
"""INIT, then two startup IPIs, to all but this one (Intel SDM 3A §9.4.4.1)."""

SLEEP = "sti; hlt; cli"
FOR_EVER = "cli; forever: hlt; jmp forever"


def leave(code: int) -> str:
    """End the machine by the exit port."""
    return f"mov al, {code}; mov dx, {layout.EXIT}; out dx, al; cli; hlt"


POWER_OFF = f"mov dx, {layout.ACPI_PM + 4}; mov ax, {1 << 13 | layout.ACPI_SLEEP_TYPE_S5 << 10}; out dx, ax"
RESET = f"mov al, 6; mov dx, {layout.RESET_CONTROL}; out dx, al"
TRIPLE_FAULT = "push 0; push 0; lidt [rsp]; ud2"

PIC_INIT = "".join(
    f"mov al, {value}; out {port}, al;"
    for port, value in (
        (0x20, 0x11), (0x21, PIC), (0x21, 4), (0x21, 1), (0xA0, 0x11), (0xA1, PIC + 8), (0xA1, 2), (0xA1, 1),
        (0x21, 0xFA), (0xA1, 0xFF),
    )
)  # fmt: skip
"""ICW1 to ICW4 as in the 8259A datasheet; IRQ 0 and the cascade open."""


def pit(hz: int) -> str:
    """Channel 0 as a rate generator."""
    divisor = 1_193_182 // hz
    return f"mov al, 0x34; out 0x43, al; mov al, {divisor & 0xFF}; out 0x40, al; mov al, {divisor >> 8}; out 0x40, al;"


def redirect(pin: int, vector: int, apic_id: int, *, level: bool = False) -> str:
    """An I/O APIC pin to a processor (82093AA §3.2.4)."""
    low = vector | level << 15
    return f"""
        mov esi, {IOAPIC:#x}
        mov dword ptr [rsi], {0x11 + 2 * pin}; mov dword ptr [rsi+0x10], {apic_id << 24:#x}
        mov dword ptr [rsi], {0x10 + 2 * pin}; mov dword ptr [rsi+0x10], {low:#x}
    """


def trampoline() -> bytes:
    """Real mode to long mode in one store to CR0 (SDM 3A §9.8.5 allows it from real mode too)."""
    enter = pyvmm.assemble(
        f"""
        cli; xor ax, ax; mov ds, ax; mov ss, ax
        lgdt [{GDT_POINTER}]; lidt [{IDT_POINTER}]
        mov eax, 0x620; mov cr4, eax
        mov eax, {TABLES}; mov cr3, eax
        mov ecx, 0xc0000080; mov eax, 0x100; xor edx, edx; wrmsr
        mov eax, 0x80000033; mov cr0, eax
        """,
        bits=16,
        address=START,
    )
    at = START + len(enter) + 5
    return enter + struct.pack("<BHH", 0xEA, at, 8) + pyvmm.assemble(
        f"""
        mov eax, 16; mov ds, eax; mov es, eax; mov ss, eax
        {PRELUDE}
        mov edi, dword ptr [rbx+{ID}]; shr edi, 24
        mov esp, edi; shl esp, 12; add esp, {STACKS + 0x1000}
        mov ecx, 0x1b; rdmsr
        test eax, 0x100; mov eax, {PROGRAM}; jnz go; mov eax, {PROGRAM + 0x1000}; go: jmp rax
        """,
        bits=64,
        address=at,
    )  # fmt: skip


def handlers() -> tuple[bytes, bytes]:
    """The IDT, and its code."""
    idt, code = b"", b""
    for vector in range(256):
        at = HANDLERS + len(code)
        idt += gate_64(at, 8, 0, False) if vector < 0x60 else bytes(16)
        if vector >= 0x60:
            continue
        count = f"mov eax, edi; shl eax, 12; lock inc dword ptr [rax+{COUNTS + 4 * vector}]"
        if vector == NMI:
            text = f"push rax; {count}; pop rax; iretq"
        elif vector < 32:
            text = leave(0x40 + vector)
        elif vector < PIC + 16:
            slave = "out 0xa0, al;" if vector >= PIC + 8 else ""
            text = f"push rax; {count}; mov al, 0x20; {slave} out 0x20, al; pop rax; iretq"
        else:
            text = f"push rax; {count}; mov dword ptr [rbx+{EOI}], 0; pop rax; iretq"
        code += pyvmm.assemble(text, bits=64, address=at)
    assert len(code) <= PROGRAM - HANDLERS
    return idt, code


class SmpMachine(Machine):
    """A PC whose processors run `bsp` and `ap` (long mode, 64-bit assembly)."""

    def __init__(self, folder: Path, bsp: str, ap: str = FOR_EVER, *, cpus: int = 2, **fields: Any) -> None:
        rom = bytearray(b"\xf4" * 0x10000)
        rom[0xFFF0:0xFFF5] = struct.pack("<BHH", 0xEA, START, 0)
        path = folder / "rom"
        path.write_bytes(rom)
        super().__init__(
            engine="kvm", cpus=cpus, memory=4 << 20, firmware=path, serial="buffer",
            **{"irqchip": "kernel", **fields},
        )  # fmt: skip
        self.program(bsp, ap)

    def program(self, bsp: str, ap: str = FOR_EVER) -> None:
        """Put both programs, tables and handlers into RAM; counts are 0."""
        load = self.memory.load
        for at, text in ((PROGRAM, bsp), (PROGRAM + 0x1000, ap)):
            code = pyvmm.assemble(text, bits=64, address=at)
            assert len(code) <= 0x1000
            load(at, code)
        load(SHARED, bytes(STACKS - SHARED))
        pages = 0x83  # present, writable, 2 MiB
        load(TABLES, struct.pack("<Q", TABLES + 0x1000 | 3))
        load(TABLES + 0x1000, struct.pack("<4Q", TABLES + 0x2000 | 3, 0, 0, TABLES + 0x3000 | 3))
        for table, base in ((TABLES + 0x2000, 0), (TABLES + 0x3000, 3 << 30)):
            load(table, struct.pack("<512Q", *(base + n * 0x200000 | pages for n in range(512))))
        load(GDT, struct.pack("<3Q", 0, 0x00AF9B000000FFFF, 0x00CF93000000FFFF))
        load(GDT_POINTER, struct.pack("<HI", 23, GDT))
        idt, code = handlers()
        load(IDT, idt)
        load(IDT_POINTER, struct.pack("<HI", 0xFFF, IDT))
        load(HANDLERS, code)
        load(START, trampoline())

    def word(self, index: int) -> int:
        """The 32-bit word at SHARED + 4 * index."""
        return self.memory.read_u32(SHARED + 4 * index)

    def count(self, vector: int, cpu: int = 0) -> int:
        """How often a processor took a vector."""
        return self.memory.read_u32(COUNTS + 0x1000 * cpu + 4 * vector)
