"""A page walk that explains itself: 32-bit, PAE, 4-level and 5-level paging (Intel SDM 3A §4.3, §4.4, §4.5).

The walk is csrc/mmu/walk.c, the words are here. A walk has as many steps as the format has levels, so that tables that
point at each other end it like any others; a table outside RAM, a reserved bit and an entry that is not present each
end it with a reason. Nothing is written: accessed and dirty bits stay as they are.

Left out: the PDPTE registers (PAE: the entries are read from memory, where a processor may still hold those of the
last MOV to CR3), protection keys, nested paging, memory types.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any

from pyvmm.cpu.rings import Check, page_access
from pyvmm.native import ffi, lib

if TYPE_CHECKING:
    from pyvmm.cpu.state import CpuState
    from pyvmm.memory import GuestMemory

_CR0_WP = 1 << 16
_CR4_SMEP, _CR4_SMAP = 1 << 20, 1 << 21
_EFER_LMA = 1 << 10
_BITS = {0: "P", 1: "R/W", 2: "U/S", 3: "PWT", 4: "PCD", 5: "A", 6: "D", 7: "PS", 8: "G", 63: "XD"}
_NAMES = ("", "PTE", "PDE", "PDPTE", "PML4E", "PML5E")
_KINDS = ("none", "32-bit", "PAE", "4-level", "5-level")
_SECTIONS = ("3A §4.1.1", "3A §4.3", "3A §4.4", "3A §4.5", "3A §4.5")
_PAGE, _NOT_PRESENT, _RESERVED, _NO_RAM, _NOT_CANONICAL = range(5)  # enum PageWalkEnd
_WRITE, _USER, _EXECUTE = 1, 2, 4  # enum PageRights
_PF_WRITE, _PF_USER, _PF_FETCH = 2, 4, 16  # enum PageFault


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
        Names of the bits that are set (SDM 3A figure 4-11); without P they are the kernel's to use as it likes.
    writable, user, executable
        What is left of the rights, this level included.
    depth
        The level as a number: 1 for a PTE, to 5.
    """

    level: str
    address: int
    index: int
    value: int
    bits: str
    writable: bool
    user: bool
    executable: bool
    depth: int

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
    native: tuple[Any, Any] = field(repr=False, compare=False)

    def error_code(
        self, cpl: int, *, write: bool = False, fetch: bool = False, ac: bool = False
    ) -> int | None:
        """The error code of the #PF that the access gets (3A §4.7), or None when there is none."""
        found, mode = self.native
        access = write * _PF_WRITE | fetch * _PF_FETCH | (cpl == 3) * _PF_USER
        code = int(lib.page_check(found, mode, access, ac))
        return None if code < 0 else code

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
        return f'<pre style="font-family: monospace">{escape(str(self))}</pre>'


def walk(memory: GuestMemory, state: CpuState, address: int, *, physical_bits: int = 52) -> Walk:
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
    mode = ffi.new("PagingMode *")
    mode.cr0, mode.cr3, mode.cr4, mode.efer = state.cr0, state.cr3, state.cr4, state.efer
    mode.physical_bits = physical_bits
    found = ffi.new("PageWalk *")
    lib.page_walk(memory.pointer, mode, address, found)
    return explain(found, mode, address)


def explain(found: Any, mode: Any, address: int) -> Walk:
    """The words for what C's page_walk() found (`PageWalk *`) in a mode (`PagingMode *`)."""
    modes = {
        "wp": bool(mode.cr0 & _CR0_WP),
        "smep": bool(mode.cr4 & _CR4_SMEP),
        "smap": bool(mode.cr4 & _CR4_SMAP),
    }
    steps = tuple(_step(found.steps[number]) for number in range(found.count))
    physical = found.physical if found.end == _PAGE else None
    size = 1 << found.page_bits if found.page_bits else 0
    section = _SECTIONS[found.kind]
    if found.end == _NOT_CANONICAL:
        top = 56 if _KINDS[found.kind] == "5-level" else 47
        why, section = f"not canonical: bits {top} to 63 differ", "vol. 1 §3.3.7.1"
    elif found.end == _NO_RAM:
        name = _NAMES[steps[-1].depth - 1] if steps else _NAMES[found.kind + 1]
        why = f"the {name} would be at {found.physical:#x}, where there is no RAM"
    elif found.end == _NOT_PRESENT:
        why = f"#PF: {steps[-1].level} not present"
    elif found.end == _RESERVED:
        why = f"#PF: {steps[-1].level} has reserved bits set: {found.reserved:#x}"
    elif not steps:
        why = "linear addresses are physical ones"
    else:
        unit = (
            f"{size >> 30} GiB" if size >> 30 else f"{size >> 20} MiB" if size >> 20 else f"{size >> 10} KiB"
        )
        why = f"a page of {unit}, {steps[-1].rights}"
    return Walk(address, _KINDS[found.kind], steps, physical, size, why, section, modes, (found, mode))


def _step(step: Any) -> Step:
    return Step(
        _NAMES[step.level],
        step.address,
        step.index,
        step.value,
        _bit_names(step.value),
        bool(step.rights & _WRITE),
        bool(step.rights & _USER),
        bool(step.rights & _EXECUTE),
        step.level,
    )


def _bit_names(value: int) -> str:
    return " ".join(name for bit, name in _BITS.items() if value >> bit & 1)
