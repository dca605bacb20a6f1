"""Paging as a model: how a linear address becomes a physical one, without an engine.

``print(pyvmm.mmu.walk(machine.memory, machine.vcpu.state, address))`` shows each level.
"""

from __future__ import annotations

from pyvmm.mmu.walker import Step, Walk, walk

__all__ = ["Step", "Walk", "walk"]
