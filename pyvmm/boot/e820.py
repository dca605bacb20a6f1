"""The map of physical memory that firmware hands over: ACPI 6.4 §15.1 and §15.2 (E820h).

The same list goes to INT 15h/AX=E820h and, when a kernel is loaded without a BIOS, into its boot parameters.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from pyvmm.machine import layout

E820_RAM: Final = 1
E820_RESERVED: Final = 2
E820_ACPI: Final = 3
"""Reclaimable once the ACPI tables have been read."""
E820_NVS: Final = 4


@dataclass(frozen=True, slots=True, order=True)
class E820Entry:
    """`size` bytes from `base` on, of one `kind` (ACPI 6.4 table 15.4)."""

    base: int
    size: int
    kind: int

    @property
    def end(self) -> int:
        return self.base + self.size

    def pack(self) -> bytes:
        """The 20 bytes of the address range descriptor."""
        return struct.pack("<QQI", self.base, self.size, self.kind)


_FIXED: Final = (
    E820Entry(layout.EBDA_BASE, layout.LOW_RAM_END - layout.EBDA_BASE, E820_RESERVED),
    E820Entry(layout.BIOS_BASE, layout.BIOS_SIZE, E820_RESERVED),
    E820Entry(layout.IO_APIC_BASE, layout.ABOVE_4G_BASE - layout.IO_APIC_BASE, E820_RESERVED),
)


def e820_map(memory_size: int, reserved: Iterable[E820Entry] = ()) -> list[E820Entry]:
    """The map of a machine with `memory_size` bytes of RAM.

    Parameters
    ----------
    memory_size
        Bytes of RAM, at least 1 MiB.
    reserved
        Ranges of RAM with another kind (ACPI tables, for example): cut out of the RAM around them. The later of two
        wins.

    Returns
    -------
    list
        Sorted, without overlap; neighbours of one kind are joined.
    """
    entries = [E820Entry(0, layout.LOW_RAM_END, E820_RAM)]
    entries += [E820Entry(base, size, E820_RAM) for base, size in layout.split_memory(memory_size)]
    for hole in (*_FIXED, *reserved):
        entries = _cut(entries, hole)
    joined: list[E820Entry] = []
    for entry in sorted(entries):
        if joined and joined[-1].kind == entry.kind and joined[-1].end == entry.base:
            joined[-1] = E820Entry(joined[-1].base, joined[-1].size + entry.size, entry.kind)
        else:
            joined.append(entry)
    return joined


def _cut(entries: list[E820Entry], hole: E820Entry) -> list[E820Entry]:
    """`entries` with `hole` in place of what it covers."""
    if hole.size <= 0:
        return entries
    kept = [hole]
    for entry in entries:
        if entry.base < min(entry.end, hole.base):
            kept.append(E820Entry(entry.base, min(entry.end, hole.base) - entry.base, entry.kind))
        if entry.end > max(entry.base, hole.end):
            start = max(entry.base, hole.end)
            kept.append(E820Entry(start, entry.end - start, entry.kind))
    return kept


__all__ = ["E820_ACPI", "E820_NVS", "E820_RAM", "E820_RESERVED", "E820Entry", "e820_map"]
