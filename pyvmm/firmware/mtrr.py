"""Memory types as firmware leaves them to the operating system.

Source: Intel SDM 3A §11.11. RAM is write-back by default; the VGA's window and the hole below 4 GiB, where devices are,
are uncached; ROMs are write-protected. Every processor gets the same (§11.11.8).
"""

from __future__ import annotations

from pyvmm.machine import layout

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.cpu.state import CpuState

_UNCACHED, _WRITE_PROTECTED, _WRITE_BACK = 0, 5, 6
_ALL = 0x0101010101010101
"""Eight times a type: a fixed-range register."""
_ENABLE = 1 << 11 | 1 << 10
_VALID = 1 << 11


def set_memory_types(state: CpuState) -> None:
    """Switch the ranges on: 640 KiB of RAM, two registers of VGA window, the ROM area, and the PCI hole."""
    hole = layout.ABOVE_4G_BASE - layout.PCI_HOLE_BASE
    mask = (1 << layout.ADDRESS_BITS) - hole
    state.mtrr_def_type = _ENABLE | _WRITE_BACK
    # One register for 0 to 512 KiB, one for 128 KiB more, one for the window, eight for 256 KiB of ROM.
    rows = (_WRITE_BACK, _WRITE_BACK, _UNCACHED, *([_WRITE_PROTECTED] * 8))
    state.mtrr_fixed = [kind * _ALL for kind in rows]
    state.mtrr_variable = [layout.PCI_HOLE_BASE | _UNCACHED, mask | _VALID, *([0] * 14)]
