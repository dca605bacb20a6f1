"""virtio devices: paravirtual devices that share memory queues with their driver (virtio 1.2)."""

from pyvmm.devices.virtio.balloon import VirtioBalloon
from pyvmm.devices.virtio.base import MmioPlace, PciPlace, VirtioCounters, VirtioDevice
from pyvmm.devices.virtio.blk import VirtioBlk, VirtioBlkCounters
from pyvmm.devices.virtio.console import CharSocket, ConsolePort, PortSetup, VirtioConsole
from pyvmm.devices.virtio.features import feature_names, status_names
from pyvmm.devices.virtio.input import VirtioInput
from pyvmm.devices.virtio.python import Later, PythonVirtioDevice
from pyvmm.devices.virtio.rng import VirtioRng, VirtioRngCounters

__all__ = [
    "CharSocket",
    "ConsolePort",
    "Later",
    "MmioPlace",
    "PciPlace",
    "PortSetup",
    "PythonVirtioDevice",
    "VirtioBalloon",
    "VirtioBlk",
    "VirtioBlkCounters",
    "VirtioConsole",
    "VirtioCounters",
    "VirtioDevice",
    "VirtioInput",
    "VirtioRng",
    "VirtioRngCounters",
    "feature_names",
    "status_names",
]
