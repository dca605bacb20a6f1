"""A map of an address space: which ranges are mapped, with which rights, by pages of which size; text and picture.

The tables are read as a processor would (`walker`), each entry once for each place it is reached from. Tables that
point at each other can make a map of astronomic size: after `tables_limit` tables, or as many ranges as anybody could
look at, it stops and says so; tables outside RAM and entries with reserved bits are named, too.

Left out: what `walker` leaves out.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from pyvmm.errors import GuestError
from pyvmm.mmu.linux_names import linux_names
from pyvmm.svg import Svg
from pyvmm.units import counted

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
        ranges, tables = counted(len(self.ranges), "range"), counted(self.tables, "table")
        last = f"{_in_units(total)} mapped in {ranges} by {tables}"
        return "\n".join([*map(str, self.ranges), last, *self.remarks])

    def regions(self, gap: int = 64 << 20) -> list[tuple[Range, ...]]:
        """The ranges in groups: those nearer to each other than `gap` bytes are of one."""
        groups: list[list[Range]] = []
        for each in self.ranges:
            if groups and each.start - groups[-1][-1].end < gap:
                groups[-1].append(each)
            else:
                groups.append([each])
        return [tuple(group) for group in groups]

    def svg(self, width: int = 900, names: Iterable[tuple[int, int, str]] | None = None) -> str:
        """A picture: one bar for each region, true to scale inside it, in the colours of the rights.

        Parameters
        ----------
        width
            In pixels.
        names
            (start, end, name) of addresses that have one; what `linux_names` finds unless given.
        """
        names = linux_names(self.ranges) if names is None else tuple(names)
        regions = self.regions()
        drawn = regions[:_DRAWN]
        used = [rights for rights in _COLOURS if any(each.rights == rights for each in self.ranges)]
        height = 54 + 40 * len(drawn) + 18 * (len(self.remarks) + (len(regions) > _DRAWN))
        picture = Svg(width, height)
        for number, rights in enumerate(used):
            picture.rectangle(10 + 110 * number, 8, 14, 14, _COLOURS[rights])
            picture.text(28 + 110 * number, 19, rights)
        y = 46
        for region in drawn:
            start, end = region[0].start, region[-1].end
            name = next((name for first, last, name in names if first <= start < last), "")
            pages = ", ".join(page for page in _SIZES.values() if any(each.page == page for each in region))
            mapped = _in_units(sum(each.size for each in region))
            span = _in_units(end - start)
            within = "" if span == mapped else f" in {span}"
            picture.text(10, y, f"{start:#018x}", bold=True)
            picture.text(160, y, f"{mapped}{within}, pages of {pages}" + (f": {name}" if name else ""))
            scale = (width - 20) / (end - start)
            picture.rectangle(10, y + 5, width - 20, 16, "#f4f4f4")
            for each in region:
                at, length = 10 + (each.start - start) * scale, max(each.size * scale, 1)
                picture.rectangle(at, y + 5, length, 16, _COLOURS[each.rights], str(each))
            y += 40
        if len(regions) > _DRAWN:
            picture.text(10, y, f"and {len(regions) - _DRAWN} more regions")
            y += 18
        for remark in self.remarks:
            picture.text(10, y, remark)
            y += 18
        return str(picture)

    def _repr_svg_(self) -> str:
        return self.svg()


_DRAWN = 60
_RANGES = 1 << 16
_REMARKS = 20


def address_space(
    memory: Memory, state: CpuState, *, tables_limit: int = 8192, physical_bits: int = 52
) -> AddressSpace:
    """Map the whole address space of `state`.

    Parameters
    ----------
    memory
        The guest's.
    state
        Its CR0, CR3, CR4 and EFER say which tables there are.
    tables_limit
        How many tables to read before giving up.
    physical_bits
        MAXPHYADDR, 32 to 52: addresses beyond it are reserved bits.
    """
    if not state.cr0 & _CR0_PG:
        return AddressSpace((), 0, ("paging is off: linear addresses are physical ones",))
    reader = _Reader(memory, state, tables_limit, physical_bits)
    ranges: list[Range] = []
    for start, shift, physical, rights in reader.pages():
        page, end = _SIZES[shift], start + (1 << shift)
        last = ranges[-1] if ranges else None
        if last and (last.end, last.page, last.rights) == (start, page, rights):
            ranges[-1] = Range(last.start, end, last.physical, page, rights)
        else:
            if len(ranges) == _RANGES:
                reader.remark(f"stopped after {_RANGES} ranges, at {start:#x}: are these page tables?")
                break
            ranges.append(Range(start, end, physical, page, rights))
    return AddressSpace(tuple(ranges), reader.tables, tuple(reader.remarks))


class _Reader:
    """Depth first through the tables; counts them, and keeps what it could not read."""

    def __init__(self, memory: Memory, state: CpuState, tables_limit: int, physical_bits: int) -> None:
        self.memory, self.limit, self.bits = memory, tables_limit, physical_bits
        self.tables = 0
        self.stopped = False
        self.remarks: list[str] = []
        self.nxe, self.pse = bool(state.efer & _EFER_NXE), bool(state.cr4 & _CR4_PSE)
        self.long = bool(state.efer & _EFER_LMA)
        self.wide = self.long or bool(state.cr4 & _CR4_PAE)
        self.shifts: tuple[int, ...]
        if self.long:
            self.shifts = (48, 39, 30, 21, 12) if state.cr4 & _CR4_LA57 else (39, 30, 21, 12)
            self.root = state.cr3 & _bits(12, physical_bits)
        else:
            self.shifts = (30, 21, 12) if self.wide else (22, 12)
            self.root = state.cr3 & (0xFFFFFFE0 if self.wide else 0xFFFFF000)

    def pages(self) -> Iterator[tuple[int, int, int, str]]:
        """(linear address, log2 of the size, physical address, rights) of each page."""
        yield from self._table(self.root, 0, 0, _RW | _US)

    def _table(self, table: int, depth: int, base: int, above: int) -> Iterator[tuple[int, int, int, str]]:
        shift, pae_top = self.shifts[depth], self.wide and not self.long and depth == 0
        if self.tables >= self.limit:
            if not self.stopped:
                self.remarks.append(
                    f"stopped after {self.limit} tables, at {base:#x}: do they point at each other?"
                )
            self.stopped = True
            return
        self.tables += 1
        size = 32 if pae_top else 0x1000
        try:
            entries = struct.unpack(
                f"<{size // 8}Q" if self.wide else "<1024I", self.memory.read(table, size)
            )
        except GuestError:
            self.remark(f"no RAM at {table:#x}, where the tables for {base:#x} should be")
            return
        for index, entry in enumerate(entries):
            if not entry & _P:
                continue
            start = base | index << shift
            if self.long and depth == 0 and index >= 0x100:
                start |= (1 << 64) - (1 << shift + 9)  # canonical
            rights = above if pae_top else (above & entry & (_RW | _US)) | (above | entry) & _XD
            large = bool(entry & _PS) and 12 < shift <= 30 and not pae_top and (self.wide or self.pse)
            reserved = entry & self._reserved(shift, large, pae_top)
            if reserved:
                self.remark(f"#PF from {start:#x} on: reserved bits of {entry:#x} are set: {reserved:#x}")
            elif shift == 12 or large:
                physical = entry & _bits(shift, self.bits)
                if shift == 22:
                    physical = entry & 0xFFC00000 | (entry >> 13 & 0xFF) << 32
                yield start, shift, physical, self._rights(rights)
            else:
                yield from self._table(
                    entry & (_ADDRESS if self.wide else 0xFFFFF000), depth + 1, start, rights
                )

    def _reserved(self, shift: int, large: bool, pae_top: bool) -> int:
        """Bits of a present entry that must be clear (SDM 3A tables 4-4 to 4-20)."""
        if not self.wide:
            return _bits(13 + min(self.bits, 40) - 32, 22) if large else 0
        mask = _bits(self.bits, 52) | (0 if self.nxe else _XD)
        if not self.long:
            mask |= _bits(52, 63) | (_XD | 0x1E6 if pae_top else 0)
        elif shift >= 39:
            mask |= _PS
        return mask | (_bits(13, shift) if large else 0)

    def remark(self, text: str) -> None:
        """Keep it, unless there are many already."""
        if len(self.remarks) < _REMARKS:
            self.remarks.append(text)
        elif len(self.remarks) == _REMARKS:
            self.remarks.append("and more like these")

    def _rights(self, rights: int) -> str:
        write = "w" if rights & _RW else "-"
        execute = "-" if rights & _XD and self.nxe else "x"
        return f"r{write}{execute} {'user' if rights & _US else 'kernel'}"


def _bits(low: int, high: int) -> int:
    """From `low` up to and without `high`."""
    return (1 << high) - (1 << low)


def _in_units(size: int) -> str:
    for shift, unit in ((40, "TiB"), (30, "GiB"), (20, "MiB")):
        if size >= 1 << shift:
            return f"{size / (1 << shift):.4g} {unit}"
    return f"{size >> 10} KiB"
