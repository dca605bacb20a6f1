"""What a TLB did, as far as the engine sees it.

The translator has a TLB of its own in software, and counts what makes it slow: fills and flushes
(csrc/translator/tlb.c). Under KVM the TLB is the processor's; what KVM does to it and, without nested paging, to its
shadow page tables is in KVM's binary statistics (csrc/kvm/stats.c). Hits are not counted by either.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyvmm.mmu.walker import walk
from pyvmm.units import counted

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any, Self

    from pyvmm.cpu.state import CpuState
    from pyvmm.memory import GuestMemory

_SHADOW = (
    *("pf_taken", "pf_fixed", "pf_guest", "vm.mmu_shadow_zapped", "vm.mmu_pte_write", "vm.mmu_flooded"),
    *("vm.mmu_recycled", "vm.mmu_cache_miss", "vm.mmu_unsync", "vm.pages_4k", "vm.pages_2m", "vm.pages_1g"),
)


@dataclass(frozen=True, slots=True)
class TlbStatistics:
    """Counters since the vCPU was made.

    Attributes
    ----------
    fills
        Entries made, by ``"user"`` and ``"kernel"``; empty where the engine cannot see them (KVM).
    flushes
        Times all of it was dropped, by the guest's doing or the engine's.
    page_flushes
        Pages dropped one by one: INVLPG.
    mmu
        Under KVM: the counters of KVM's own MMU, by its names.
    """

    fills: Mapping[str, int]
    flushes: int
    page_flushes: int
    mmu: Mapping[str, int]

    @classmethod
    def of(cls, statistics: Mapping[str, int]) -> Self:
        """From an engine's statistics (`Vcpu.statistics`)."""
        fills = {
            name: statistics[f"tlb_fill_{name}"]
            for name in ("user", "kernel")
            if f"tlb_fill_{name}" in statistics
        }
        pages = statistics.get("tlb_flush_page", statistics.get("invlpg", 0))
        mmu = {name: statistics[name] for name in _SHADOW if name in statistics}
        return cls(fills, statistics.get("tlb_flush", 0), pages, mmu)

    def __sub__(self, before: TlbStatistics) -> TlbStatistics:
        """What was done since `before`."""
        return TlbStatistics(
            {name: count - before.fills.get(name, 0) for name, count in self.fills.items()},
            self.flushes - before.flushes,
            self.page_flushes - before.page_flushes,
            {name: count - before.mmu.get(name, 0) for name, count in self.mmu.items()},
        )

    def __str__(self) -> str:
        text = f"dropped {counted(self.flushes, 'time')} as a whole, and {counted(self.page_flushes, 'page')} by INVLPG"
        if self.fills:
            made = " and ".join(
                f"{count} for {'programs' if name == 'user' else 'the kernel'}"
                for name, count in self.fills.items()
            )
            text = f"{counted(sum(self.fills.values()), 'entry', 'entries')} made: {made}; {text}"
        if self.mmu:
            text += "\n" + ", ".join(f"{name} {count}" for name, count in self.mmu.items())
        return text


@dataclass(frozen=True, slots=True)
class TlbEntry:
    """A translation that is remembered.

    Attributes
    ----------
    page, physical
        Linear and guest physical address, multiples of 4096.
    rights
        ``"rwx"``, of which those that are not held are ``-``: a store may have to walk first.
    user
        For accesses of ring 3; else of the kernel.
    stale
        What the page tables say by now, when that is something else; else empty.
    """

    page: int
    physical: int
    rights: str
    user: bool
    stale: str

    def __str__(self) -> str:
        text = f"{self.page:#018x} -> {self.physical:#012x} {self.rights} {'user' if self.user else 'kernel'}"
        return f"{text}  stale: {self.stale}" if self.stale else text


@dataclass(frozen=True, slots=True)
class TlbContents:
    """A TLB at one moment, by address; ``print()`` it."""

    entries: tuple[TlbEntry, ...]

    @classmethod
    def of(cls, table: Iterable[Any], memory: GuestMemory, state: CpuState) -> Self:
        """From an engine's (C's `TlbTranslation`)."""
        entries = []
        for each in table:
            rights = "".join(letter if each.rights >> bit & 1 else "-" for bit, letter in enumerate("rwx"))
            stale = _stale(each, rights, memory, state)
            entries.append(TlbEntry(each.page, each.physical, rights, bool(each.user), stale))
        return cls(tuple(sorted(entries, key=lambda entry: (entry.page, entry.user))))

    @property
    def stale(self) -> tuple[TlbEntry, ...]:
        """Those that say something else than the page tables. A kernel may have some, until its INVLPG."""
        return tuple(each for each in self.entries if each.stale)

    def __str__(self) -> str:
        last = f"{counted(len(self.entries), 'entry', 'entries')}, {len(self.stale)} of them stale"
        return "\n".join([*map(str, self.entries), last])


def _stale(each: Any, rights: str, memory: GuestMemory, state: CpuState) -> str:
    found = walk(memory, state, each.page)
    if found.physical is None:
        return found.why
    if found.physical != each.physical:
        return f"it is {found.physical:#x} by now"
    cpl = 3 if each.user else 0
    for letter, access in (("r", {}), ("w", {"write": True}), ("x", {"fetch": True})):
        check = found.access(cpl, ac=True, **access)
        if letter in rights and not check:
            return check.why
    return ""
