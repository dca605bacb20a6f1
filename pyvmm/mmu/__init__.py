"""Paging, looked at without an engine: walks, maps of address spaces, shadow page tables.

``print(machine.vcpu.walk(address))`` shows how a linear address becomes a physical one, level by level;
``machine.vcpu.address_space()`` is a map of everything that is mapped; `Shadow` is a monitor's shadow page tables, and
`SideBySide` these beside the guest's. docs/mmu.md is the lesson.
"""

from __future__ import annotations

from pyvmm.mmu.address_space import AddressSpace, Range, address_space
from pyvmm.mmu.linux_names import linux_names
from pyvmm.mmu.shadow import Shadow, ShadowFault, ShadowStatistics
from pyvmm.mmu.side_by_side import SideBySide
from pyvmm.mmu.tlb import TlbContents, TlbEntry, TlbStatistics
from pyvmm.mmu.walker import Step, Walk, walk

__all__ = [
    "AddressSpace",
    "Range",
    "Shadow",
    "ShadowFault",
    "ShadowStatistics",
    "SideBySide",
    "Step",
    "TlbContents",
    "TlbEntry",
    "TlbStatistics",
    "Walk",
    "address_space",
    "linux_names",
    "walk",
]
