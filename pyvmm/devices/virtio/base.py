"""What all virtio devices share in Python: where they stand, what was negotiated, what went over their queues."""

from __future__ import annotations

from pyvmm.devices.base import NativeDevice
from pyvmm.devices.virtio.features import RESERVED, feature_names, status_names
from pyvmm.errors import DeviceError
from pyvmm.native import ffi, lib
from pyvmm.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, ClassVar, TypeAlias

    from pyvmm.board import Board, IoThread
    from pyvmm.devices.pci.bus import PciBus
    from pyvmm.devices.virtio.view import Queue

    Place: TypeAlias = "PciPlace | MmioPlace"


_OFFERED = ("INDIRECT_DESC", "EVENT_IDX", "RING_RESET")
_ON_DEMAND = ("RING_PACKED", "IN_ORDER", "NOTIFICATION_DATA")


def _chosen(features: dict[str, bool]) -> tuple[int, int]:
    """Feature bits to offer, and to withhold."""
    bits = {name: 1 << bit for bit, name in RESERVED.items()}
    for name in features:
        if name not in _OFFERED + _ON_DEMAND:
            raise DeviceError(f"virtio: {name} is not one of {', '.join(_OFFERED + _ON_DEMAND)}")
    return (
        sum(bits[name] for name in _ON_DEMAND if features.get(name)),
        sum(bits[name] for name in _OFFERED if not features.get(name, True)),
    )


class MmioPlace:
    """A window of registers and an interrupt line for a virtio device (virtio 1.2 §4.2), where there is no PCI.

    The machine maps the device there: ``machine.mmio.add(address, MmioPlace.SIZE, device)``.

    Parameters
    ----------
    address
        Guest physical address of its registers, a multiple of 512; 512 bytes.
    gsi
        Its interrupt line, level-triggered, active high.
    legacy
        Version 1 of the registers, for drivers older than virtio 1.0.
    io, features, ioeventfd
        As for `PciPlace`.

    Raises
    ------
    DeviceError
        A bad address, or a feature that is not to choose.
    """

    SIZE = 512
    state = "VirtioMmioState"

    def __init__(
        self,
        address: int,
        gsi: int,
        *,
        legacy: bool = False,
        io: IoThread | None = None,
        features: dict[str, bool] | None = None,
        ioeventfd: bool = True,
    ) -> None:
        if address % self.SIZE or not 0 < address < 1 << 52:
            raise DeviceError(f"virtio: {address:#x} is not a place for registers: a multiple of 512")
        self.offer, self.withhold = _chosen(features or {})
        self.address, self.gsi, self.io = address, gsi, io
        self.legacy, self.ioeventfd = legacy, ioeventfd

    def native(self, board: Board) -> Any:
        """The VirtioPlace of csrc/virtio/virtio_place.h."""
        place = ffi.new("VirtioPlace *")
        place.line, place.base = board.irq_line(self.gsi).pointer, self.address
        place.legacy = self.legacy
        place.offer, place.withhold = self.offer, self.withhold
        place.no_ioeventfd = not self.ioeventfd
        if self.io is not None:
            place.io = self.io.on(board)
        return place


class PciPlace:
    """A function on PCI for a virtio device (virtio 1.2 §4.1).

    Parameters
    ----------
    pci, slot
        The bus, and the device number on it, 0 to 31. Firmware gives BARs and interrupt, as to any PCI function.
    modern_only
        Leave out the legacy interface (device ID 1040h + kind instead of the transitional one).
    io
        The thread that runs its queues, from ``board.worker("blk-0")``; devices may share one. None: the board's own,
        where a slow backend delays timers.
    features
        Of the ring, by name: ``{"RING_PACKED": True}``. RING_PACKED, IN_ORDER and NOTIFICATION_DATA are offered only
        when asked for; INDIRECT_DESC, EVENT_IDX and RING_RESET unless said otherwise.
    ioeventfd
        False: every notification leaves guest code as an access, on every engine.
    irqfd
        False: MSI-X messages are never signalled by eventfd, on any engine.

    Raises
    ------
    DeviceError
        No such slot, or a feature that is not to choose.
    """

    state = "VirtioPciState"

    def __init__(
        self,
        pci: PciBus,
        slot: int,
        *,
        modern_only: bool = False,
        io: IoThread | None = None,
        features: dict[str, bool] | None = None,
        ioeventfd: bool = True,
        irqfd: bool = True,
    ) -> None:
        if not 0 <= slot < 32:
            raise DeviceError(f"virtio: PCI slot {slot} is not one of 0 to 31")
        self.pci, self.slot, self.io = pci, slot, io
        self.offer, self.withhold = _chosen(features or {})
        self.modern_only, self.ioeventfd, self.irqfd = modern_only, ioeventfd, irqfd

    def native(self, board: Board) -> Any:
        """The VirtioPlace of csrc/virtio/virtio_place.h."""
        place = ffi.new("VirtioPlace *")
        place.bus, place.devfn = self.pci.bus, self.slot << 3
        place.modern_only = self.modern_only
        place.offer, place.withhold = self.offer, self.withhold
        place.no_ioeventfd, place.no_irqfd = not self.ioeventfd, not self.irqfd
        if self.io is not None:
            place.io = self.io.on(board)
        return place


@record(frozen=True, slots=True)
class VirtioCounters:
    """What went over a device's queues since it was made.

    `faults` are malformed chains and rings, each of which stops the device until the driver resets it. `kicks` are the
    driver's notifications that were seen as accesses, `signals` those that came by eventfd without an exit.
    `irqfd_interrupts` are the device's interrupts that went by eventfd to local APICs in the kernel; the others were a
    call.
    """

    interrupts: int
    faults: int
    kicks: int
    signals: int
    irqfd_interrupts: int


class VirtioDevice(NativeDevice):
    """A virtio device in C, on its transport.

    Parameters
    ----------
    pointer
        What its C constructor returned.
    place
        Where it stands.
    """

    feature_bits: ClassVar[dict[int, str]] = {}
    """The names of the device's own feature bits."""

    def __init__(self, pointer: Any, place: Place) -> None:
        super().__init__(pointer, state=place.state)
        self.place = place

    @property
    def slot(self) -> int:
        """Its PCI device number.

        Raises
        ------
        DeviceError
            It does not stand on PCI.
        """
        if not isinstance(self.place, PciPlace):
            raise DeviceError(f"{self.name} is not on PCI")
        return self.place.slot

    @property
    def offered_features(self) -> tuple[str, ...]:
        """What the device offers, by name."""
        return feature_names(int(lib.virtio_device_features(self.pointer)), self.feature_bits)

    @property
    def driver_features(self) -> tuple[str, ...]:
        """What the driver took, by name."""
        return feature_names(self.registers.virtio.driver_features, self.feature_bits)

    @property
    def status(self) -> tuple[str, ...]:
        """The status byte's bits by name; empty after reset."""
        return status_names(self.registers.virtio.status)

    @property
    def queues(self) -> tuple[Queue, ...]:
        """Its queues, to be looked at: ``print(device.queues[0])``."""
        from pyvmm.devices.virtio.view import Queue

        return tuple(Queue(self, index) for index in range(int(lib.virtio_queue_count(self.pointer))))

    @property
    def queue_counters(self) -> VirtioCounters:
        """Notifications, interrupts and faults so far."""
        native = ffi.new("VirtioCounters *")
        lib.virtio_counters(self.pointer, native)
        return VirtioCounters(**{name: int(getattr(native, name)) for name in VirtioCounters.__match_args__})
