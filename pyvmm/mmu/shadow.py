"""Shadow page tables in Python's hands (csrc/mmu/shadow.h): to fill them, look at them beside the guest's, and count.

A monitor of the lab has one (`Shadow.of`); one can also be made over any guest's memory, without a processor, to see
what each fault makes it do. The rules, and what is left out, are in the C header.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from textwrap import fill
from typing import TYPE_CHECKING, Any, Literal

from pyvmm.errors import GuestError
from pyvmm.mmu.side_by_side import SideBySide
from pyvmm.mmu.walker import Walk, explain, walk
from pyvmm.native import check, check_pointer, ffi, lib, new_error
from pyvmm.units import counted

if TYPE_CHECKING:
    from pyvmm.cpu.state import CpuState
    from pyvmm.memory import GuestMemory

Result = Literal["filled", "guest fault", "traced", "bad table", "monitor", "unsupported"]
_RESULTS: tuple[Result, ...] = ("filled", "guest fault", "traced", "bad table", "monitor", "unsupported")
_PF_WRITE, _PF_FETCH = 2, 16
_AC = 1 << 18


@dataclass(frozen=True, slots=True)
class ShadowFault:
    """What came of a page fault.

    Attributes
    ----------
    result
        ``"filled"``: the access may be tried again. ``"guest fault"``: the guest's own #PF, with `error_code`.
        ``"traced"``: a store into a page that is write-protected, at `physical`. Else the end, explained by `why`.
    error_code
        As the guest's processor would push it.
    physical
        Where the access goes, or None.
    why
        One line.
    """

    result: Result
    error_code: int | None
    physical: int | None
    why: str

    def __str__(self) -> str:
        return f"{self.result}: {self.why}"


@dataclass(frozen=True, slots=True)
class ShadowStatistics:
    """Counters since the shadow was made; the four last ones are states. Each is explained in csrc/mmu/shadow.h."""

    faults: int
    fills: int
    guest_faults: int
    trace_faults: int
    spurious: int
    mmio_fills: int
    table_writes: int
    prefetched: int
    roots: int
    roots_found: int
    pages_made: int
    pages_zapped: int
    flushes: int
    splintered: int
    large_fills: int
    unsyncs: int
    synced: int
    sync_drops: int
    invlpg: int
    tlb_flushes: int
    touches: int
    host_writes: int
    pages: int
    pages_peak: int
    pages_total: int
    traced: int

    def __str__(self) -> str:
        rows = [
            (
                counted(self.faults, "page fault"),
                f"{self.fills} filled ({self.mmio_fills} of devices, {self.large_fills} of 2 MiB), "
                f"{self.guest_faults} the guest's own, {self.trace_faults} stores into traced pages, "
                f"{self.spurious} for nothing",
            ),
            (
                f"{counted(self.table_writes, 'entry', 'entries')} written",
                f"{self.prefetched} filled at once; {counted(self.unsyncs, 'table')} let out of step, "
                f"{self.synced} compared again, {counted(self.sync_drops, 'entry', 'entries')} dropped then",
            ),
            (
                f"{self.pages} of {self.pages_total} shadow pages",
                f"at most {self.pages_peak}; {self.pages_made} made ({self.splintered} for pieces of large pages), "
                f"{self.pages_zapped} thrown away, all of them {counted(self.flushes, 'time')}; "
                f"{counted(self.traced, 'page')} traced now",
            ),
            (
                f"{counted(self.roots, 'root')} asked for",
                f"{self.roots_found} of them there; {self.invlpg} INVLPG, "
                f"{counted(self.tlb_flushes, 'flush', 'flushes')} of the real TLB",
            ),
        ]
        return "\n".join(
            fill(second, 100, initial_indent=f"{first:>26}: ", subsequent_indent=" " * 28)
            for first, second in rows
        )


class Shadow:
    """Shadow page tables for a 4-level guest.

    Parameters
    ----------
    memory
        The guest's, and the monitor's above it.
    guest_end
        First guest physical address that is not the guest's.
    pool, pool_size
        Where shadow pages are made: RAM at or above `guest_end`, both multiples of 4096, at least 32 pages.
    monitor_slot, monitor_entry
        PML4 slot of every address space that is the monitor's, and the entry there.
    physical_bits
        MAXPHYADDR, 32 to 52.
    write_limit
        Stores in a row into a table after which it is no longer traced; 0: no limit.

    Raises
    ------
    GuestError
        The pool is not RAM above the guest's.

    Notes
    -----
    Made, and let go, while the machine whose memory it is does not run.
    """

    def __init__(
        self,
        memory: GuestMemory,
        *,
        guest_end: int,
        pool: int,
        pool_size: int,
        monitor_slot: int = 511,
        monitor_entry: int = 0,
        physical_bits: int = 40,
        write_limit: int = 0,
    ) -> None:
        config = ffi.new("ShadowConfig *")
        config.guest_end, config.pool, config.pool_size = guest_end, pool, pool_size
        config.monitor_slot, config.monitor_pml4e = monitor_slot, monitor_entry
        config.physical_bits, config.write_limit = physical_bits, write_limit
        error = new_error()
        pointer = check_pointer(lib.shadow_new(memory.pointer, config, error), error, exception=GuestError)
        self._adopt(ffi.gc(pointer, lib.shadow_free), memory, physical_bits, None)

    @classmethod
    def of(cls, pointer: Any, memory: GuestMemory, physical_bits: int, owner: object) -> Shadow:
        """The one that something in C has (`Shadow *`); `owner` is kept alive."""
        shadow = cls.__new__(cls)
        shadow._adopt(pointer, memory, physical_bits, owner)
        return shadow

    def _adopt(self, pointer: Any, memory: GuestMemory, physical_bits: int, owner: object) -> None:
        self.pointer, self.memory, self._physical_bits, self._owner = pointer, memory, physical_bits, owner

    def _mode(self, state: CpuState) -> Any:
        mode = ffi.new("ShadowMode *")
        paging = mode.paging
        paging.cr0, paging.cr3, paging.cr4, paging.efer = state.cr0, state.cr3, state.cr4, state.efer
        paging.physical_bits = self._physical_bits
        mode.user, mode.ac = state.cpl == 3, bool(state.rflags & _AC)
        return mode

    def root(self, state: CpuState) -> int:
        """What the real CR3 would be for this virtual processor.

        Raises
        ------
        GuestError
            It cannot be shadowed; says why.
        """
        error = new_error()
        root = int(lib.shadow_root(self.pointer, self._mode(state), error))
        if not root:
            check(-error.code, error, exception=GuestError)
        return root

    def fault(
        self, state: CpuState, address: int, *, write: bool = False, fetch: bool = False
    ) -> ShadowFault:
        """A page fault of this virtual processor, as the monitor would be told of it."""
        found, error = ffi.new("ShadowFault *"), new_error()
        code = write * _PF_WRITE | fetch * _PF_FETCH
        result = _RESULTS[lib.shadow_fault(self.pointer, self._mode(state), address, code, found, error)]
        if result == "guest fault":
            guest = walk(self.memory, state, address, physical_bits=self._physical_bits)
            allowed = guest.access(state.cpl, write=write, fetch=fetch, ac=bool(state.rflags & _AC))
            return ShadowFault(result, found.error_code, None, allowed.why)
        if result == "filled":
            return ShadowFault(result, None, found.gpa, f"mapped to {found.gpa:#x}")
        if result == "traced":
            kinds = [
                name for name, on in (("a page table", found.table), ("translated code", found.code)) if on
            ]
            return ShadowFault(result, None, found.gpa, f"{found.gpa:#x} is in {' and '.join(kinds)}")
        return ShadowFault(result, None, None, ffi.string(error.text).decode())

    def write(self, gpa: int, data: bytes) -> None:
        """A store that the monitor makes for the guest, within one page: memory and shadows.

        Raises
        ------
        GuestError
            Not RAM that the guest may write.
        """
        result = lib.shadow_write(self.pointer, gpa, data, len(data))
        check(result, what=f"{len(data)} bytes at {gpa:#x}", exception=GuestError)

    def trace(self, gpa: int, on: bool = True) -> None:
        """Stores into that page come as ``"traced"`` while it is on."""
        check(lib.shadow_trace(self.pointer, gpa, on), what=f"a page at {gpa:#x}", exception=GuestError)

    def is_traced(self, gpa: int) -> bool:
        """Whether that page is write-protected in every shadow."""
        return bool(lib.shadow_is_traced(self.pointer, gpa))

    def unsync(self, gpa: int) -> None:
        """Let the guest write that table until the next `sync` or `invlpg`."""
        lib.shadow_unsync(self.pointer, gpa)

    def sync(self) -> None:
        """The guest loaded CR3: tables that are out of step are compared again."""
        lib.shadow_sync(self.pointer)

    def invlpg(self, address: int) -> None:
        """The guest's INVLPG."""
        lib.shadow_invlpg(self.pointer, address)

    def flush(self) -> None:
        """Throw all shadow pages away."""
        lib.shadow_flush(self.pointer)

    def walk(self, state: CpuState, address: int) -> Walk | None:
        """A walk of the shadow's own tables as they are now; None when there are none for that state."""
        found, mode = ffi.new("PageWalk *"), ffi.new("PagingMode *")
        if lib.shadow_look(self.pointer, self._mode(state), address, found) < 0:
            return None
        mode.cr0, mode.cr4, mode.efer, mode.physical_bits = 0x80010001, 0x20, 0xD00, self._physical_bits
        mode.cr3 = found.steps[0].address & ~0xFFF
        return explain(found, mode, address)

    def side_by_side(self, state: CpuState, address: int) -> SideBySide:
        """The guest's walk and the shadow's for one address."""
        guest = walk(self.memory, state, address, physical_bits=self._physical_bits)
        traced = guest.physical is not None and self.is_traced(guest.physical)
        return SideBySide(guest, self.walk(state, address), state.cpl, traced)

    @property
    def statistics(self) -> ShadowStatistics:
        """Counters; see `ShadowStatistics`."""
        counters = lib.shadow_statistics(self.pointer)
        return ShadowStatistics(*(int(getattr(counters, each.name)) for each in fields(ShadowStatistics)))
