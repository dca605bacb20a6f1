"""Small guests in ring 0 of 64-bit mode, bare or under a monitor: for what no kernel should do.

A program is assembled to CODE; RBP is 0, for absolute addresses. It has 4 GiB mapped one to one by 2 MiB pages, a
stack, and no IDT; `traps` gives it one whose gates all lead to a handler that ends the machine with the vector as its
number.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from pyvmm import Machine, assemble
from pyvmm.boot.entry import (
    CODE_64,
    DATA_32,
    EntrySegment,
    EntryState,
    KernelInfo,
    build_gdt,
    build_identity_tables,
)
from pyvmm.lab.monitor import Monitor
from pyvmm.units import Gpa

MEMORY, GUEST_END = 64 << 20, 48 << 20
PML4, PDPT, PD = 0x70000, 0x71000, 0x72000
GDT, IDT, STUBS, COMMON = 0x79000, 0x7A000, 0x7B000, 0x7C000
CODE, DATA, STACK = 0x200000, 0x300000, 0x400000
SLOT = 0xFFFFFF8000000000
"""Linear address of PML4 entry 511, where a monitor lives."""
EXIT = 0x501
_STUB = 16


def leave(number: str | int) -> str:
    """Assembly that ends the machine with a number from 0 to 127."""
    return f"mov eax, {number}; mov edx, {EXIT}; out dx, al; hlt"


@dataclass(frozen=True)
class Ending:
    """How a guest ended: ``"exit"`` with its number, ``"end"`` (a monitor's explanation), or what the machine says."""

    kind: str
    number: int
    why: str


def _load_traps(machine: Machine) -> None:
    for vector in range(256):
        stub = STUBS + _STUB * vector
        gate = stub & 0xFFFF | 8 << 16 | 0x8E00 << 32 | (stub & 0xFFFF0000) << 32
        machine.memory.load(IDT + 16 * vector, struct.pack("<QQ", gate, 0))
        machine.memory.load(stub, assemble(f"mov eax, {vector & 127}; jmp {COMMON}", address=stub))
    machine.memory.load(COMMON, assemble(f"mov edx, {EXIT}; out dx, al; hlt", address=COMMON))


def run(
    program: str | bytes,
    technique: str,
    engine: str = "translator",
    *,
    traps: bool = False,
    timeout: float = 20.0,
) -> Ending:
    """Run a program until it ends."""
    code = program if isinstance(program, bytes) else assemble(program, address=CODE)
    with Machine(memory=MEMORY, engine=engine, irqchip="user", serial="null", vga="none") as machine:  # type: ignore[arg-type]
        memory = machine.memory
        segments = EntrySegment(0x08, CODE_64), EntrySegment(0x10, DATA_32)
        gdt = build_gdt(*segments)
        memory.load(Gpa(PML4), build_identity_tables(Gpa(PML4)))
        memory.load(Gpa(GDT), gdt)
        memory.load(Gpa(CODE), code)
        if traps:
            _load_traps(machine)
        entry = EntryState(
            mode="long", rip=CODE, gdt=(Gpa(GDT), len(gdt)), code=segments[0], data=segments[1],
            task=EntrySegment(0x18, 0x008B, limit=0x67), cr3=Gpa(PML4), description="a bad guest",
            gpr={}, kernel=KernelInfo("test", "", "", Gpa(CODE), len(code), Gpa(0), 0),
        )  # fmt: skip
        state = machine.vcpu.state
        entry.apply(state)
        state.rsp = STACK
        state.idtr.base, state.idtr.limit = (IDT, 0xFFF) if traps else (0, 0)
        machine.vcpu.state = state
        monitor = None
        if technique not in ("bare", "hardware"):
            monitor = Monitor(machine, technique)
            monitor.start(machine.vcpu.state)
        left = machine.run(timeout=timeout)
        if monitor is not None and monitor.end is not None:
            assert monitor.end.rip or not monitor.end.instruction
            return Ending("end", 0, str(monitor.end))
        report = machine.report()
        return Ending(left.reason, left.code >> 1, str(report) if report is not None else left.exit.text)
