"""The page walk once more, in Python: the oracle of csrc/mmu/walk.c. 32-bit, PAE, 4 and 5 levels (SDM 3A §4.3 to §4.5).

A walk has as many steps as the format has levels, so that tables that point at each other end it like any others; a
table outside RAM, a reserved bit and an entry that is not present each end it with a reason. Nothing is written:
accessed and dirty bits stay as they are.

Left out: the PDPTE registers (PAE: the entries are read from memory, where a processor may still hold those of the
last MOV to CR3), protection keys, nested paging, memory types.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Protocol

from pyvmm.cpu.rings import Check, page_access
from pyvmm.errors import GuestError

if TYPE_CHECKING:
    from pyvmm.cpu.state import CpuState

_P, _RW, _US, _PS, _G, _XD = 1 << 0, 1 << 1, 1 << 2, 1 << 7, 1 << 8, 1 << 63
_CR0_WP, _CR0_PG = 1 << 16, 1 << 31
_CR4_PSE, _CR4_PAE, _CR4_LA57, _CR4_SMEP, _CR4_SMAP = 1 << 4, 1 << 5, 1 << 12, 1 << 20, 1 << 21
_EFER_LMA, _EFER_NXE = 1 << 10, 1 << 11
_BITS = {0: "P", 1: "R/W", 2: "U/S", 3: "PWT", 4: "PCD", 5: "A", 6: "D", 7: "PS", 8: "G", 63: "XD"}


class Memory(Protocol):
    """What a walk reads: `pyvmm.GuestMemory`, or anything that has this."""

    def read_integer(self, gpa: int, size: int) -> int:
        """The little-endian integer at a guest physical address.

        Raises
        ------
        GuestError
            When there is no memory.
        """


@dataclass(frozen=True, slots=True)
class Step:
    """One level.

    Attributes
    ----------
    level
        Name of its entries: ``PML5E``, ``PML4E``, ``PDPTE``, ``PDE`` or ``PTE``.
    address, index
        Where the entry is (guest physical), and which of its table's it is.
    value
        The entry.
    bits
        Names of the bits that are set (SDM 3A figure 4-11).
    writable, user, executable
        What is left of the rights, this level included.
    """

    level: str
    address: int
    index: int
    value: int
    bits: str
    writable: bool
    user: bool
    executable: bool

    @property
    def rights(self) -> str:
        """``"rwx user"``."""
        write, execute = "w" if self.writable else "-", "x" if self.executable else "-"
        return f"r{write}{execute} {'user' if self.user else 'supervisor'}"

    def __str__(self) -> str:
        entry = f"{self.level:<6}[{self.index:>4}] at {self.address:#012x} = {self.value:#018x}"
        return f"{entry}  {self.rights:<15} {self.bits}" if self.value & 1 else f"{entry}  not present"


@dataclass(frozen=True, slots=True)
class Walk:
    """A walk from CR3 to the page, or to where it ends.

    Attributes
    ----------
    address
        The linear address.
    kind
        ``"none"``, ``"32-bit"``, ``"PAE"``, ``"4-level"`` or ``"5-level"``.
    steps
        The levels, topmost first.
    physical
        The guest physical address, or None.
    page_size
        4 KiB, 2 MiB, 4 MiB or 1 GiB in bytes; 0 without a page.
    why
        How it ended.
    section
        Of the Intel SDM.
    """

    address: int
    kind: str
    steps: tuple[Step, ...]
    physical: int | None
    page_size: int
    why: str
    section: str
    modes: dict[str, bool]

    def access(self, cpl: int, *, write: bool = False, fetch: bool = False, ac: bool = False) -> Check:
        """Whether code of that ring may read, write or execute there (`pyvmm.cpu.rings.page_access`)."""
        if self.physical is None:
            vector = 13 if not self.steps and "canonical" in self.why else 14
            return Check(False, self.why.removeprefix("#PF: "), self.section, vector)
        if not self.steps:
            return Check(True, self.why, self.section)
        last = self.steps[-1]
        return page_access(
            cpl,
            user=last.user,
            writable=last.writable,
            executable=last.executable,
            write=write,
            fetch=fetch,
            ac=ac,
            **self.modes,
        )

    def __str__(self) -> str:
        head = (
            f"{self.address:#x}, {self.kind} paging"
            if self.kind != "none"
            else f"{self.address:#x}, no paging"
        )
        end = f"-> {self.physical:#x}: {self.why}" if self.physical is not None else f"-> {self.why}"
        return "\n".join([head, *(f"  {step}" for step in self.steps), f"  {end} (SDM {self.section})"])

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}</pre>"


def walk(memory: Memory, state: CpuState, address: int, *, physical_bits: int = 52) -> Walk:
    """Walk the page tables of `state` for a linear address.

    Parameters
    ----------
    memory
        The guest's.
    state
        Its CR0, CR3, CR4 and EFER say which tables there are.
    address
        Linear: 32 bits, in 64-bit paging 64.
    physical_bits
        MAXPHYADDR, 32 to 52: an entry with an address beyond it is a reserved-bit #PF.

    Raises
    ------
    ValueError
        For an address or `physical_bits` that does not exist.
    """
    if not 32 <= physical_bits <= 52:
        raise ValueError(f"physical_bits is {physical_bits}: it must be 32 to 52")
    long = bool(state.efer & _EFER_LMA)
    if not 0 <= address < 1 << (64 if long else 32):
        raise ValueError(f"no linear address {address:#x} in a mode of {64 if long else 32} bits")
    modes = {
        "wp": bool(state.cr0 & _CR0_WP),
        "smep": bool(state.cr4 & _CR4_SMEP),
        "smap": bool(state.cr4 & _CR4_SMAP),
    }
    if not state.cr0 & _CR0_PG:
        return Walk(address, "none", (), address, 0, "linear addresses are physical ones", "3A §4.1.1", modes)
    if long:
        levels = 5 if state.cr4 & _CR4_LA57 else 4
        kind, section = f"{levels}-level", "3A §4.5"
        top = 12 + 9 * levels
        if address >> top - 1 not in (0, (1 << 65 - top) - 1):
            return Walk(
                address,
                kind,
                (),
                None,
                0,
                f"not canonical: bits {top - 1} to 63 differ",
                "vol. 1 §3.3.7.1",
                modes,
            )
        shifts, table = tuple(range(top - 9, 11, -9)), state.cr3 & (1 << physical_bits) - 0x1000
    elif state.cr4 & _CR4_PAE:
        kind, section, shifts, table = "PAE", "3A §4.4", (30, 21, 12), state.cr3 & 0xFFFFFFE0
    else:
        kind, section, shifts, table = "32-bit", "3A §4.3", (22, 12), state.cr3 & 0xFFFFF000
    steps, physical, size, why = _descend(memory, state, address, kind, shifts, table, physical_bits)
    return Walk(address, kind, tuple(steps), physical, size, why, section, modes)


def _descend(
    memory: Memory,
    state: CpuState,
    address: int,
    kind: str,
    shifts: tuple[int, ...],
    table: int,
    physical_bits: int,
) -> tuple[list[Step], int | None, int, str]:
    """Level by level; returns the steps, the physical address, the page's size and how it ended."""
    wide = kind != "32-bit"
    size = 8 if wide else 4
    names = ("PTE", "PDE", "PDPTE", "PML4E", "PML5E")[: len(shifts)][::-1]
    writable = user = executable = True
    steps: list[Step] = []
    for name, shift in zip(names, shifts, strict=True):
        index = address >> shift & (3 if kind == "PAE" and shift == 30 else 0x1FF if wide else 0x3FF)
        at = table + size * index
        try:
            value = memory.read_integer(at, size)
        except GuestError:
            return steps, None, 0, f"the {name} would be at {at:#x}, where there is no RAM"
        if not (kind == "PAE" and shift == 30):  # a PAE PDPTE has no rights
            writable, user = writable and bool(value & _RW), user and bool(value & _US)
            executable = executable and not (value & _XD and state.efer & _EFER_NXE)
        steps.append(Step(name, at, index, value, _bit_names(value), writable, user, executable))
        if not value & _P:
            return steps, None, 0, f"#PF: {name} not present"
        large = bool(value & _PS) and (wide or bool(state.cr4 & _CR4_PSE)) and shift > 12
        reserved = _reserved(value, kind, shift, large, state, physical_bits)
        if reserved:
            return steps, None, 0, f"#PF: {name} has reserved bits set: {reserved:#x}"
        if large or shift == 12:
            page = 1 << shift
            base = value & (1 << physical_bits) - page if wide else value & 0x1_0000_0000 - page
            if large and not wide:  # PSE-36: bits 13 to 20 are address bits 32 to 39
                base |= (value >> 13 & 0xFF) << 32
            unit = f"{page >> 30} GiB" if page >> 30 else f"{page >> 20} MiB" if page >> 20 else "4 KiB"
            return steps, base | address & page - 1, page, f"a page of {unit}, {steps[-1].rights}"
        table = value & ((1 << physical_bits) - 0x1000 if wide else 0xFFFFF000)
    raise AssertionError("the last level is a page")


def _reserved(value: int, kind: str, shift: int, large: bool, state: CpuState, physical_bits: int) -> int:
    """Bits of a present entry that must be clear (3A §4.3, tables 4-8 to 4-20)."""
    if kind == "32-bit":
        beyond = min(max(physical_bits, 32), 40) - 32  # PSE-36
        return value & ((0xFF << 13 & ~((1 << 13 + beyond) - 1)) | 1 << 21) if large else 0
    mask = (1 << 52) - (1 << physical_bits)
    if not state.efer & _EFER_NXE:
        mask |= _XD
    if kind == "PAE":
        mask |= (1 << 63) - (1 << 52)
        if shift == 30:
            mask |= 0x1E6 | _XD
    elif shift >= 39:
        mask |= _PS
    if large and shift <= 30 and not (kind == "PAE" and shift == 30):
        mask |= (1 << shift) - (1 << 13)
    return value & mask


def _bit_names(value: int) -> str:
    return " ".join(name for bit, name in _BITS.items() if value >> bit & 1)
