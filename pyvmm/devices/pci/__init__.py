"""PCI: the root bus and what stands on it. `PciDevice` is a function written in Python."""

from pyvmm.devices.pci.bridges import HostBridge, IsaBridge, PowerManagement
from pyvmm.devices.pci.bus import PciBus
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
