"""Paging as a model: how a linear address becomes a physical one, without an engine.

``print(pyvmm.mmu.walk(machine.memory, machine.vcpu.state, address))`` shows each level;
``pyvmm.mmu.address_space(machine.memory, machine.vcpu.state)`` is a map of everything that is mapped.
"""

from __future__ import annotations

from pyvmm.mmu.address_space import AddressSpace, Range, address_space
from pyvmm.mmu.walker import Step, Walk, walk

__all__ = ["AddressSpace", "Range", "Step", "Walk", "address_space", "walk"]
