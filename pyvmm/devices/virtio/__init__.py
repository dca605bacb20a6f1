"""virtio devices: paravirtual devices that share memory queues with their driver (virtio 1.2)."""

from pyvmm.devices.virtio.base import MmioPlace, PciPlace, VirtioCounters, VirtioDevice
from pyvmm.devices.virtio.blk import VirtioBlk, VirtioBlkCounters
from pyvmm.devices.virtio.features import feature_names, status_names

__all__ = [
    "MmioPlace",
    "PciPlace",
    "VirtioBlk",
    "VirtioBlkCounters",
    "VirtioCounters",
    "VirtioDevice",
    "feature_names",
    "status_names",
]
