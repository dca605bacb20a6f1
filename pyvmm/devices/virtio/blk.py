"""virtio block device on PCI (csrc/virtio/virtio_blk.c; virtio 1.2 §4.1, §5.2)."""

from __future__ import annotations

from pyvmm.devices.base import NativeDevice
from pyvmm.devices.virtio.features import feature_names, status_names
from pyvmm.errors import DeviceError
from pyvmm.native import check_pointer, ffi, lib, new_error
from pyvmm.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from pyvmm.block.image import Image
    from pyvmm.board import Board, IoThread
    from pyvmm.devices.pci.bus import PciBus

ID_BYTES: Final = 20


@record(frozen=True, slots=True)
class VirtioBlkCounters:
    """What the device has done since it was made.

    `host_calls` counts reads and writes of the image: fewer than requests where neighbours were merged. `errors` are
    requests that were refused or failed; `faults` are malformed chains and rings, each of which stops the device until
    the driver resets it. `kicks` are the driver's notifications that were seen as accesses, `signals` those that came
    by eventfd without an exit. `irqfd_interrupts` are the device's interrupts that went by eventfd to local APICs in
    the kernel; the others were a call.
    """

    reads: int
    writes: int
    flushes: int
    others: int
    bytes_read: int
    bytes_written: int
    errors: int
    batches: int
    host_calls: int
    interrupts: int
    faults: int
    kicks: int
    signals: int
    irqfd_interrupts: int


class VirtioBlk(NativeDevice):
    """A disk. Its image must stay open as long as it does.

    Parameters
    ----------
    pci, slot
        Where it stands; it needs BARs and an interrupt from the firmware, as any PCI function.
    image
        What it shows; read-only images are offered as such.
    serial
        What the driver reads as its serial number: at most 20 bytes of ASCII.
    queue_size
        Descriptors in its queue: a power of two, 4 to 256.
    block_size
        Logical block in bytes: a power of two, 512 to 4096.
    modern_only
        Leave out the legacy interface (device ID 1042 instead of 1001).
    io
        The thread that does its requests, from ``board.worker("blk-0")``; devices may share one. None: the board's own,
        where a slow image delays timers.
    ioeventfd
        False: every notification leaves guest code as an access, on every engine.
    irqfd
        False: MSI-X messages are never signalled by eventfd, on any engine.

    Raises
    ------
    DeviceError
        A value out of range, or the slot is taken.
    """

    def __init__(
        self,
        board: Board,
        pci: PciBus,
        slot: int,
        image: Image,
        *,
        serial: str = "",
        queue_size: int = 256,
        block_size: int = 512,
        modern_only: bool = False,
        io: IoThread | None = None,
        ioeventfd: bool = True,
        irqfd: bool = True,
    ) -> None:
        if not serial.isascii() or len(serial) > ID_BYTES or "\0" in serial:
            raise DeviceError(f"virtio-blk serial {serial!r}: at most {ID_BYTES} ASCII characters")
        if not 0 <= slot < 32:
            raise DeviceError(f"virtio-blk: PCI slot {slot} is not one of 0 to 31")
        error = new_error()
        options = ffi.new("VirtioBlkOptions *")
        options.serial = serial.encode()
        options.queue_size, options.block_size, options.modern_only = queue_size, block_size, modern_only
        options.no_ioeventfd = not ioeventfd
        options.no_irqfd = not irqfd
        if io is not None:
            options.io = io.on(board)
        pointer = lib.virtio_blk_new(board.pointer, pci.bus, slot, image.handle, options, error)
        super().__init__(check_pointer(pointer, error, exception=DeviceError), state="VirtioPciState")
        self.image = image
        self.io = io
        self.slot = slot

    @property
    def counters(self) -> VirtioBlkCounters:
        """Requests, bytes, batches and faults so far."""
        native = ffi.new("VirtioBlkCounters *")
        lib.virtio_blk_counters(self.pointer, native)
        return VirtioBlkCounters(
            **{name: int(getattr(native, name)) for name in VirtioBlkCounters.__match_args__}
        )

    @property
    def offered_features(self) -> tuple[str, ...]:
        """What the device offers, by name."""
        return feature_names(int(lib.virtio_pci_device_features(self.pointer)))

    @property
    def driver_features(self) -> tuple[str, ...]:
        """What the driver took, by name."""
        return feature_names(self.registers.virtio.driver_features)

    @property
    def status(self) -> tuple[str, ...]:
        """The status byte's bits by name; empty after reset."""
        return status_names(self.registers.virtio.status)

    def resized(self) -> None:
        """The image's size has changed: tell the driver."""
        lib.virtio_blk_resized(self.pointer)
