"""A map of an address space: which ranges are mapped, with which rights, by pages of which size; text and picture.

The tables are read as a processor would (`walker`), each entry once for each place it is reached from. Tables that
point at each other can make a map of astronomic size: after `tables_limit` tables it stops and says so; tables
outside RAM are named, too.

Left out: what `walker` leaves out; reserved bits (such an entry is shown as mapped).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Protocol

from pyvmm.errors import GuestError

if TYPE_CHECKING:
    from pyvmm.cpu.state import CpuState

_P, _RW, _US, _PS, _XD = 1, 2, 4, 0x80, 1 << 63
_CR0_PG, _CR4_PSE, _CR4_PAE, _CR4_LA57 = 1 << 31, 1 << 4, 1 << 5, 1 << 12
_EFER_LMA, _EFER_NXE = 1 << 10, 1 << 11
_ADDRESS = (1 << 52) - 0x1000
_SIZES = {12: "4 KiB", 21: "2 MiB", 22: "4 MiB", 30: "1 GiB"}
_COLOURS = {"r-- user": "#9ecae1", "rw- user": "#3182bd", "r-x user": "#31a354", "rwx user": "#e6550d"}
_COLOURS |= {
    "r-- kernel": "#bdbdbd",
    "rw- kernel": "#756bb1",
    "r-x kernel": "#006d2c",
    "rwx kernel": "#a63603",
}


class Memory(Protocol):
    """What a map reads: `pyvmm.GuestMemory`, or anything that has this."""

    def read(self, gpa: int, size: int) -> bytes:
        """Bytes at a guest physical address; `GuestError` when there is no memory."""


@dataclass(frozen=True, slots=True)
class Range:
    """Pages side by side, of one size and with the same rights. `physical` is the first one's."""

    start: int
    end: int
    physical: int
    page: str
    rights: str

    @property
    def size(self) -> int:
        """In bytes."""
        return self.end - self.start

    def __str__(self) -> str:
        return f"{self.start:#018x}-{self.end:#018x} {_in_units(self.size):>9}  {self.rights:<11} {self.page}"


@dataclass(frozen=True, slots=True)
class AddressSpace:
    """All ranges, by address; ``print()`` it, or end a notebook's cell with it.

    Attributes
    ----------
    ranges
        What is mapped.
    tables
        Number of tables read.
    remarks
        What could not be read, and why.
    """

    ranges: tuple[Range, ...]
    tables: int
    remarks: tuple[str, ...] = field(default=())

    def __str__(self) -> str:
        total = sum(each.size for each in self.ranges)
        last = f"{_in_units(total)} mapped in {len(self.ranges)} ranges by {self.tables} tables"
        return "\n".join([*map(str, self.ranges), last, *self.remarks])

    def svg(self, width: int = 760) -> str:
        """A picture: one bar for each range, as long as the logarithm of its size, in the colour of its rights."""
        rows = []
        for number, each in enumerate(self.ranges[:_DRAWN]):
            y = 22 * number
            length = 12 * (each.size.bit_length() - 11)
            rows.append(
                f"<text x='0' y='{y + 14}'>{each.start:016x}</text>"
                f"<rect x='150' y='{y + 2}' width='{length}' height='16' fill='{_COLOURS[each.rights]}'/>"
                f"<text x='{156 + length}' y='{y + 14}'>{_in_units(each.size)} {each.rights}, {each.page}</text>"
            )
        left = len(self.ranges) - _DRAWN
        if left > 0:
            rows.append(f"<text x='0' y='{22 * _DRAWN + 14}'>and {left} more ranges</text>")
        for number, remark in enumerate(self.remarks, len(rows)):
            rows.append(f"<text x='0' y='{22 * number + 14}'>{escape(remark)}</text>")
        height = 22 * len(rows) + 4
        return (
            f"<svg xmlns='http://www.w3.org/2000/svg' width='{width}' height='{height}' font-family='monospace' "
            f"font-size='12'><rect width='100%' height='100%' fill='white'/>{''.join(rows)}</svg>"
        )

    def _repr_svg_(self) -> str:
        return self.svg()


_DRAWN = 100


def address_space(memory: Memory, state: CpuState, *, tables_limit: int = 8192) -> AddressSpace:
    """Map the whole address space of `state`.

    Parameters
    ----------
    memory
        The guest's.
    state
        Its CR0, CR3, CR4 and EFER say which tables there are.
    tables_limit
        How many tables to read before giving up.
    """
    if not state.cr0 & _CR0_PG:
        return AddressSpace((), 0, ("paging is off: linear addresses are physical ones",))
    reader = _Reader(memory, state, tables_limit)
    ranges: list[Range] = []
    for start, shift, physical, rights in reader.pages():
        page, end = _SIZES[shift], start + (1 << shift)
        last = ranges[-1] if ranges else None
        if last and (last.end, last.page, last.rights) == (start, page, rights):
            ranges[-1] = Range(last.start, end, last.physical, page, rights)
        else:
            ranges.append(Range(start, end, physical, page, rights))
    return AddressSpace(tuple(ranges), reader.tables, tuple(reader.remarks))


class _Reader:
    """Depth first through the tables; counts them, and keeps what it could not read."""

    def __init__(self, memory: Memory, state: CpuState, tables_limit: int) -> None:
        self.memory, self.limit = memory, tables_limit
        self.tables = 0
        self.remarks: list[str] = []
        self.nxe, self.pse = bool(state.efer & _EFER_NXE), bool(state.cr4 & _CR4_PSE)
        self.long = bool(state.efer & _EFER_LMA)
        self.wide = self.long or bool(state.cr4 & _CR4_PAE)
        self.shifts: tuple[int, ...]
        if self.long:
            self.shifts = (48, 39, 30, 21, 12) if state.cr4 & _CR4_LA57 else (39, 30, 21, 12)
            self.root = state.cr3 & _ADDRESS
        else:
            self.shifts = (30, 21, 12) if self.wide else (22, 12)
            self.root = state.cr3 & (0xFFFFFFE0 if self.wide else 0xFFFFF000)

    def pages(self) -> Iterator[tuple[int, int, int, str]]:
        """(linear address, log2 of the size, physical address, rights) of each page."""
        yield from self._table(self.root, 0, 0, _RW | _US)

    def _table(self, table: int, depth: int, base: int, above: int) -> Iterator[tuple[int, int, int, str]]:
        shift, pae_top = self.shifts[depth], self.wide and not self.long and depth == 0
        if self.tables >= self.limit:
            if self.tables == self.limit:
                self.remarks.append(
                    f"stopped after {self.limit} tables, at {base:#x}: do they point at each other?"
                )
                self.tables += 1
            return
        self.tables += 1
        size = 32 if pae_top else 0x1000
        try:
            entries = struct.unpack(
                f"<{size // 8}Q" if self.wide else "<1024I", self.memory.read(table, size)
            )
        except GuestError:
            if len(self.remarks) < 20:
                self.remarks.append(f"no RAM at {table:#x}, where the tables for {base:#x} should be")
            return
        for index, entry in enumerate(entries):
            if not entry & _P:
                continue
            start = base | index << shift
            if self.long and depth == 0 and index >= 0x100:
                start |= (1 << 64) - (1 << shift + 9)  # canonical
            rights = above if pae_top else (above & entry & (_RW | _US)) | (above | entry) & _XD
            if shift == 12 or (entry & _PS and shift <= 30 and not pae_top and (self.wide or self.pse)):
                physical = entry & _ADDRESS & -(1 << shift)
                if shift == 22:
                    physical = entry & 0xFFC00000 | (entry >> 13 & 0xFF) << 32
                yield start, shift, physical, self._rights(rights)
            else:
                yield from self._table(
                    entry & (_ADDRESS if self.wide else 0xFFFFF000), depth + 1, start, rights
                )

    def _rights(self, rights: int) -> str:
        write = "w" if rights & _RW else "-"
        execute = "-" if rights & _XD and self.nxe else "x"
        return f"r{write}{execute} {'user' if rights & _US else 'kernel'}"


def _in_units(size: int) -> str:
    for shift, unit in ((40, "TiB"), (30, "GiB"), (20, "MiB")):
        if size >= 1 << shift:
            return f"{size / (1 << shift):.4g} {unit}"
    return f"{size >> 10} KiB"
