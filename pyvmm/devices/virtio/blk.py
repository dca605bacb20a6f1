"""virtio block device (csrc/virtio/virtio_blk.c; virtio 1.2 §5.2)."""

from __future__ import annotations

from pyvmm.devices.virtio.base import VirtioDevice
from pyvmm.devices.virtio.features import BLOCK
from pyvmm.errors import DeviceError
from pyvmm.native import check_pointer, ffi, lib, new_error
from pyvmm.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Final

    from pyvmm.block.image import Image
    from pyvmm.board import Board, IoThread
    from pyvmm.config import OnDiskError
    from pyvmm.devices.virtio.base import Place
    from pyvmm.devices.virtio.timeline import Recording

ID_BYTES: Final = 20
MAX_QUEUES: Final = 64
ON_ERROR: Final = ("report", "stop", "enospc")


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
        Descriptors in each queue: a power of two, 4 to 256.
    block_size
        Logical block in bytes: a power of two, 512 to 4096.
    queues
        1 to 64; more than one is offered to the driver as MQ.
    threads
        Who runs the queues, in turns (queue n is run by thread n modulo their number); none: the place's `io`.
    read_error, write_error
        What a failure of the host is, in a read, or in a write, flush, discard or write-zeroes: ``"report"`` (an error
        to the driver), ``"stop"`` (the machine stops, `go_on` tries again), ``"enospc"`` (stop for a full host disk,
        report all else).

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
        queues: int = 1,
        threads: Sequence[IoThread] = (),
        read_error: OnDiskError = "report",
        write_error: OnDiskError = "report",
    ) -> None:
        if not serial.isascii() or len(serial) > ID_BYTES or "\0" in serial:
            raise DeviceError(f"virtio-blk serial {serial!r}: at most {ID_BYTES} ASCII characters")
        error = new_error()
        options = ffi.new("VirtioBlkOptions *")
        options.serial = serial.encode()
        options.queue_size, options.block_size = queue_size, block_size
        if not 1 <= queues <= MAX_QUEUES or not len(threads) <= queues:
            raise DeviceError(
                f"virtio-blk: {queues} queues, {len(threads)} threads: 1 to {MAX_QUEUES}, and no more threads"
            )
        for name in (read_error, write_error):
            if name not in ON_ERROR:
                raise DeviceError(f"virtio-blk: {name!r} is no answer to an error: {', '.join(ON_ERROR)}")
        options.num_queues = queues
        options.on_read_error, options.on_write_error = (
            ON_ERROR.index(read_error),
            ON_ERROR.index(write_error),
        )
        runners = ffi.new("IoThread *[]", [thread.on(board) for thread in threads])
        options.io, options.io_count = runners, len(threads)
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

    @property
    def stopped_by(self) -> int:
        """The errno of the request that the machine stopped for; 0: none waits."""
        return int(lib.virtio_blk_stopped_by(self.pointer))

    def go_on(self) -> None:
        """Try again what the machine stopped for; `Machine.run` does."""
        lib.virtio_blk_go_on(self.pointer)

    def record(self, capacity: int = 65536) -> Recording:
        """Record every request, with its time line, for a ``with`` block.

        >>> with machine.virtio[0].record() as r:                              # doctest: +SKIP
        ...     machine.run(timeout=5)
        >>> print(r.table())                                                  # doctest: +SKIP

        Parameters
        ----------
        capacity
            Requests that are kept: the last ones.
        """
        from pyvmm.devices.virtio.timeline import Recording

        return Recording(self, capacity)

    def resized(self) -> None:
        """The image's size has changed: tell the driver."""
        lib.virtio_blk_resized(self.pointer)
