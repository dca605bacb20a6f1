"""How a vCPU begins in a directly loaded kernel: the registers that the boot protocols prescribe.

All supported protocols start either in 32-bit protected mode without paging or in 64-bit mode with identity page
tables; none in real mode. Intel SDM 3A §9.8 describes the modes, §3.4.5 the descriptors.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

from pyvmm.units import Gpa

if TYPE_CHECKING:
    from pyvmm.cpu.state import CpuState

PAGE: Final = 4096

CR0_PE: Final = 1 << 0
CR0_ET: Final = 1 << 4
CR0_PG: Final = 1 << 31
CR4_PAE: Final = 1 << 5
EFER_LME: Final = 1 << 8
EFER_LMA: Final = 1 << 10
RFLAGS_FIXED: Final = 1 << 1

# Segment attributes: a descriptor's bits 40-55, with the limit's bits 48-51 taken out (csrc/engine/cpu_state.h).
# A = accessed, as a load of the register would have left it.
CODE_32: Final = 0xC09B
CODE_64: Final = 0xA09B
DATA_32: Final = 0xC093
TSS_32_BUSY: Final = 0x008B
UNUSABLE: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class EntrySegment:
    """One segment register at entry; `limit` in bytes, `attributes` as in csrc/engine/cpu_state.h."""

    selector: int
    attributes: int
    base: int = 0
    limit: int = 0xFFFFFFFF

    def descriptor(self) -> int:
        """Return the 8-byte descriptor that loads this segment (Intel SDM 3A §3.4.5)."""
        limit = self.limit >> 12 if self.attributes & 0x8000 else self.limit
        return (
            (limit & 0xFFFF)
            | (self.base & 0xFFFFFF) << 16
            | (self.attributes & 0xFF) << 40
            | (limit >> 16 & 0xF) << 48
            | (self.attributes >> 12 & 0xF) << 52
            | (self.base >> 24 & 0xFF) << 56
        )


@dataclass(frozen=True, slots=True)
class KernelInfo:
    """What a kernel file says about itself.

    Attributes
    ----------
    format
        ``"Linux bzImage"``, ``"PVH ELF"`` or ``"multiboot"``.
    version
        The version string in a bzImage's header; empty when the format has none.
    protocol
        The boot protocol's version as text: ``"2.15"`` of a bzImage, ``"1"`` of PVH and multiboot.
    load_address, load_size
        Where the kernel's own bytes are in guest memory, from the lowest to the highest.
    initrd_address, initrd_size
        Where the initrd (or module) is; 0 when there is none.
    """

    format: str
    version: str
    protocol: str
    load_address: Gpa
    load_size: int
    initrd_address: Gpa
    initrd_size: int


@dataclass(slots=True)
class EntryState:
    """The state of the first vCPU at a kernel's entry point.

    Attributes
    ----------
    mode
        ``"protected"``: 32-bit, paging off. ``"long"``: 64-bit, paging by `cr3`.
    rip
        Guest physical (and linear) address of the entry.
    gpr
        Non-zero general registers by name, like ``{"rsi": 0x7000}``.
    cr3
        Page tables in long mode.
    gdt
        Where the GDT is and its size in bytes.
    code, data, task
        CS; DS, ES, SS (and FS, GS); TR.
    description
        One line for people: kernel, protocol, entry.
    kernel
        What was loaded.
    """

    mode: Literal["protected", "long"]
    rip: int
    gpr: dict[str, int]
    gdt: tuple[Gpa, int]
    code: EntrySegment
    data: EntrySegment
    description: str
    kernel: KernelInfo
    cr3: int = 0
    task: EntrySegment = field(default_factory=lambda: EntrySegment(0, TSS_32_BUSY, limit=0x67))

    def apply(self, cpu: CpuState) -> None:
        """Put this state into a vCPU that is in its reset state.

        Interrupts are off and the IDT is empty, so a kernel that faults before it made its own IDT shuts down.
        """
        for name in (
            "rax",
            "rbx",
            "rcx",
            "rdx",
            "rsi",
            "rdi",
            "rbp",
            "rsp",
            *(f"r{n}" for n in range(8, 16)),
        ):
            setattr(cpu, name, self.gpr.get(name, 0))
        cpu.rip = self.rip
        cpu.rflags = RFLAGS_FIXED
        pairs = [(cpu.cs, self.code), (cpu.tr, self.task)]
        pairs += [(view, self.data) for view in (cpu.ds, cpu.es, cpu.ss, cpu.fs, cpu.gs)]
        pairs.append((cpu.ldtr, EntrySegment(0, UNUSABLE, limit=0)))
        for view, segment in pairs:
            view.selector = segment.selector
            view.base = segment.base
            view.limit = segment.limit
            view.attributes = segment.attributes
        cpu.gdtr.base, cpu.gdtr.limit = self.gdt[0], self.gdt[1] - 1
        cpu.idtr.base, cpu.idtr.limit = 0, 0
        cpu.cr0 = CR0_PE | CR0_ET | (CR0_PG if self.mode == "long" else 0)
        cpu.cr3 = self.cr3
        cpu.cr4 = CR4_PAE if self.mode == "long" else 0
        cpu.efer = EFER_LME | EFER_LMA if self.mode == "long" else 0


def build_gdt(*segments: EntrySegment) -> bytes:
    """Return a GDT with each segment's descriptor at its selector; a slot that no segment names is null."""
    table = [0] * (max(segment.selector >> 3 for segment in segments) + 1)
    for segment in segments:
        table[segment.selector >> 3] = segment.descriptor()
    return struct.pack(f"<{len(table)}Q", *table)


def build_identity_tables(base: int) -> bytes:
    """Return page tables, to be loaded at `base`, that map the first 4 GiB to itself by 2 MiB pages.

    Six pages: PML4, page-directory-pointer table, four page directories (Intel SDM 3A §4.5).
    """
    present_writable, large = 0b11, 1 << 7
    entries = [0] * (6 * 512)
    entries[0] = base + PAGE | present_writable
    for directory in range(4):
        entries[512 + directory] = base + (2 + directory) * PAGE | present_writable
    for page in range(4 * 512):
        entries[2 * 512 + page] = page << 21 | large | present_writable
    return struct.pack(f"<{len(entries)}Q", *entries)
