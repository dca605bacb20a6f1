"""Who lives where in the address space of a Linux (Documentation/arch/x86/x86_64/mm.rst, 4 levels).

The map of all memory, vmalloc and the struct pages are at places that the kernel chooses at random when it starts
(CONFIG_RANDOMIZE_MEMORY), each at a multiple of 1 GiB and always in this order, so they are looked for; the rest has
its place. The kernel may be anywhere in the GiB that CONFIG_RANDOMIZE_BASE gives it, as distributions build it.

Left out: 5-level kernels, 32-bit kernels, the map of an LDT, EFI's services.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyvmm.mmu.address_space import Range

_CHOSEN, _ENTRY_AREA, _ENTRY_AREA_END = 0xFFFF888000000000, 0xFFFFFE0000000000, 0xFFFFFE8000000000
_KERNEL, _MODULES, _FIXED = 0xFFFFFFFF80000000, 0xFFFFFFFFC0000000, 0xFFFFFFFFFF000000
_GIB = 1 << 30


def linux_names(ranges: Sequence[Range]) -> tuple[tuple[int, int, str], ...]:
    """(start, end, name) of the parts of a running Linux; nothing when this is none.

    Parameters
    ----------
    ranges
        All that is mapped, by address (`AddressSpace.ranges`).
    """
    chosen = [each for each in ranges if _CHOSEN <= each.start < _ENTRY_AREA]
    memory = next((each for each in chosen if each.start % _GIB == 0 and each.physical == 0), None)
    code = any(_KERNEL <= each.start < _MODULES and "x" in each.rights for each in ranges)
    if memory is None or not code:
        return ()
    others = [each for each in chosen if each.physical != each.start - memory.start]
    pages = [each.start for each in others if each.start % _GIB == 0 and each.page == "2 MiB"][-1:]
    pages_start = pages[0] if pages else _ENTRY_AREA
    vmalloc = others[0].start if others else pages_start
    return (
        (0, 1 << 47, "a program"),
        (memory.start, vmalloc, "all physical memory"),
        (vmalloc, pages_start, "vmalloc, stacks and devices"),
        (pages_start, _ENTRY_AREA, "a struct page for each page"),
        (_ENTRY_AREA, _ENTRY_AREA_END, "what entries from ring 3 need"),
        (_KERNEL, _MODULES, "the kernel: code, read-only data, data"),
        (_MODULES, _FIXED, "modules and BPF"),
        (_FIXED, 1 << 64, "fixed mappings"),
    )
