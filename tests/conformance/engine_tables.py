"""Descriptor and page tables for the engine tests, from Intel SDM vol. 3A §3.4.5, §6.11, §8.2.3 and §4.3-4.5."""

from __future__ import annotations

import struct
from typing import Any

PRESENT, WRITE, USER, ACCESSED, DIRTY, LARGE, GLOBAL, NO_EXECUTE = 1, 2, 4, 0x20, 0x40, 0x80, 0x100, 1 << 63
_LETTERS = {"P": PRESENT, "W": WRITE, "U": USER, "G": GLOBAL, "X": NO_EXECUTE}


def descriptor(base: int, limit: int, access: int, flags: int) -> bytes:
    """Eight bytes: `access` is bits 40-47, `flags` bits 52-55 (G, D/B, L, AVL)."""
    value = (limit & 0xFFFF) | (base & 0xFFFFFF) << 16 | access << 40 | (limit >> 16 & 15) << 48 | flags << 52
    return struct.pack("<Q", value | (base >> 24 & 0xFF) << 56)


def gdt(tss: int, tss_limit: int, ldt: int, ldt_limit: int) -> bytes:
    """The selectors named in engine_rig.py, in their order; SYSCALL and SYSRET find theirs at 8 and 0x18."""
    flat = (0, 0xFFFFF)
    return b"".join(
        (
            bytes(8),
            descriptor(*flat, 0x9B, 0xA),  # 08 code 64, ring 0
            descriptor(*flat, 0x93, 0xC),  # 10 data, ring 0
            descriptor(*flat, 0xFB, 0xC),  # 18 code 32, ring 3
            descriptor(*flat, 0xF3, 0xC),  # 20 data, ring 3
            descriptor(*flat, 0xFB, 0xA),  # 28 code 64, ring 3
            descriptor(*flat, 0x9B, 0xC),  # 30 code 32, ring 0
            descriptor(0, 0xFFFF, 0x9B, 0),  # 38 code 16, ring 0
            descriptor(0, 0xFFFF, 0x93, 0),  # 40 data 16, ring 0
            descriptor(tss, tss_limit, 0x8B, 0) + bytes(8),  # 48 TSS, busy
            descriptor(ldt, ldt_limit, 0x82, 0) + bytes(8),  # 58 LDT
            descriptor(*flat, 0x13, 0xC),  # 68 data, not present
            descriptor(*flat, 0x1B, 0xC),  # 70 code 32, not present
            descriptor(0x50000, 0xFFF, 0x93, 0x4),  # 78 data of 4 KiB
            descriptor(*flat, 0x91, 0xC),  # 80 data, read-only
            bytes(8 * 14),  # 88 for tests
        )
    )


def gate_32(offset: int, selector: int, ring: int = 0, trap: bool = False) -> bytes:
    """Interrupt or trap gate (SDM 3A figure 6-2)."""
    kind = 0x8E00 | ring << 13 | (0x100 if trap else 0)
    return struct.pack("<HHHH", offset & 0xFFFF, selector, kind, offset >> 16)


def gate_64(offset: int, selector: int, ring: int = 0, trap: bool = False, ist: int = 0) -> bytes:
    """The same for 64-bit mode (SDM 3A figure 6-8)."""
    kind = 0x8E00 | ring << 13 | (0x100 if trap else 0) | ist
    return struct.pack("<HHHHII", offset & 0xFFFF, selector, kind, offset >> 16 & 0xFFFF, offset >> 32, 0)


class PageTables:
    """Tables of one kind: ``paging32`` (2 levels), ``pae`` (3) or ``long`` (4), taken from a range of guest memory."""

    def __init__(self, memory: Any, kind: str, start: int, end: int) -> None:
        self.memory = memory
        self.kind = kind
        self.size = 4 if kind == "paging32" else 8
        self.shifts = {"paging32": (22, 12), "pae": (30, 21, 12), "long": (39, 30, 21, 12)}[kind]
        self.next, self.end = start, end
        memory.load(start, bytes(end - start))
        self.root = self._take()

    def _take(self) -> int:
        assert self.next < self.end, "no room for page tables"
        self.next += 0x1000
        return self.next - 0x1000

    def entry(self, address: int, level: int = -1) -> int:
        """Where the entry for an address is; level 0 is the topmost, -1 the last."""
        levels = range(len(self.shifts))[level]
        table = self.root
        for depth, shift in enumerate(self.shifts):
            index = address >> shift & (0x1FF if self.size == 8 else 0x3FF)
            at = table + index * self.size
            if depth == levels:
                return at
            value = self.memory.read_integer(at, self.size)
            if not value & PRESENT:
                value = self._take() | PRESENT
                if not (self.kind == "pae" and depth == 0):
                    value |= WRITE | USER
                self.memory.write_integer(at, self.size, value)
            table = value & 0x000F_FFFF_FFFF_F000
        raise AssertionError

    def get(self, address: int, level: int = -1) -> int:
        """The entry's value."""
        return int(self.memory.read_integer(self.entry(address, level), self.size))

    def set(self, address: int, value: int, level: int = -1) -> None:
        """Store an entry as it is."""
        self.memory.write_integer(self.entry(address, level), self.size, value)

    def map(self, address: int, gpa: int, size: int, flags: str) -> None:
        """4 KiB pages; `flags` of the letters P, W, U, G, X (X: not executable)."""
        bits = sum(_LETTERS[letter] for letter in flags)
        while size > 0:
            span = 0x200000 if self.size == 8 else 0x400000
            count = min(size, span - address % span) // 0x1000
            at = self.entry(address)
            form = "<I" if self.size == 4 else "<Q"
            self.memory.load(at, b"".join(struct.pack(form, gpa + 0x1000 * n | bits) for n in range(count)))
            address, gpa, size = address + 0x1000 * count, gpa + 0x1000 * count, size - 0x1000 * count

    def map_large(self, address: int, gpa: int, flags: str, level: int = -2) -> None:
        """One large page at the level before the last (4 MiB or 2 MiB), or -3 (1 GiB)."""
        self.set(address, gpa | sum(_LETTERS[letter] for letter in flags) | LARGE, level)
