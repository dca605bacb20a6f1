"""PCI: the root bus and what stands on it. `PciDevice` is a function written in Python."""

from __future__ import annotations

from pyvmm.devices.pci.bridges import HostBridge, IsaBridge, PowerManagement
from pyvmm.devices.pci.bus import PciBus

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.devices.pci.device import Bar, PciDevice
    from pyvmm.devices.pci.function import BarState, PciFunction, PciHeader

__all__ = [
    "Bar",
    "BarState",
    "HostBridge",
    "IsaBridge",
    "PciBus",
    "PciDevice",
    "PciFunction",
    "PciHeader",
    "PowerManagement",
]


def __getattr__(name: str) -> object:
    """What a machine does not need to start: functions written in Python, and looking at functions."""
    if name not in __all__:
        raise AttributeError(f"module 'pyvmm.devices.pci' has no attribute {name!r}")
    module = "device" if name in ("Bar", "PciDevice") else "function"
    value: object = getattr(__import__(f"pyvmm.devices.pci.{module}", fromlist=[name]), name)
    globals()[name] = value
    return value
