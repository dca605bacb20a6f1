"""virtio block device (csrc/virtio/virtio_blk.c; virtio 1.2 §5.2)."""

from __future__ import annotations

from pyvmm.devices.virtio.base import VirtioDevice
from pyvmm.devices.virtio.features import BLOCK
from pyvmm.errors import DeviceError
from pyvmm.native import check_pointer, ffi, lib, new_error
from pyvmm.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from pyvmm.block.image import Image
    from pyvmm.board import Board
    from pyvmm.devices.virtio.base import Place

ID_BYTES: Final = 20


@record(frozen=True, slots=True)
class VirtioBlkCounters:
    """What the device has done since it was made.

    `host_calls` counts reads and writes of the image: fewer than requests where neighbours were merged. `errors` are
    requests that were refused or failed.
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


class VirtioBlk(VirtioDevice):
    """A disk. Its image must stay open as long as it does.

    Parameters
    ----------
    place
        Where it stands.
    image
        What it shows; read-only images are offered as such.
    serial
        What the driver reads as its serial number: at most 20 bytes of ASCII.
    queue_size
        Descriptors in its queue: a power of two, 4 to 256.
    block_size
        Logical block in bytes: a power of two, 512 to 4096.

    Raises
    ------
    DeviceError
        A value out of range, or the place is taken.
    """

    feature_bits = BLOCK

    def __init__(
        self,
        board: Board,
        place: Place,
        image: Image,
        *,
        serial: str = "",
        queue_size: int = 256,
        block_size: int = 512,
    ) -> None:
        if not serial.isascii() or len(serial) > ID_BYTES or "\0" in serial:
            raise DeviceError(f"virtio-blk serial {serial!r}: at most {ID_BYTES} ASCII characters")
        error = new_error()
        options = ffi.new("VirtioBlkOptions *")
        options.serial = serial.encode()
        options.queue_size, options.block_size = queue_size, block_size
        pointer = lib.virtio_blk_new(board.pointer, place.native(board), image.handle, options, error)
        super().__init__(check_pointer(pointer, error, exception=DeviceError), place)
        self.image = image

    @property
    def counters(self) -> VirtioBlkCounters:
        """Requests, bytes and batches so far."""
        native = ffi.new("VirtioBlkCounters *")
        lib.virtio_blk_counters(self.pointer, native)
        return VirtioBlkCounters(
            **{name: int(getattr(native, name)) for name in VirtioBlkCounters.__match_args__}
        )

    def resized(self) -> None:
        """The image's size has changed: tell the driver."""
        lib.virtio_blk_resized(self.pointer)
