"""virtio entropy device (csrc/virtio/virtio_rng.c; virtio 1.2 §5.4)."""

from __future__ import annotations

from pyvmm.devices.virtio.base import VirtioDevice
from pyvmm.errors import DeviceError
from pyvmm.native import check_pointer, ffi, lib, new_error
from pyvmm.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.board import Board
    from pyvmm.devices.virtio.base import Place


@record(frozen=True, slots=True)
class VirtioRngCounters:
    """What the device has given since it was made; `waits`: times that its limit made the driver wait."""

    requests: int
    bytes: int
    waits: int


class VirtioRng(VirtioDevice):
    """Random bytes for the guest.

    Parameters
    ----------
    place
        Where it stands.
    bytes_per_second
        The most that the guest gets, 0 to 2**40; 0: no limit.
    seed
        A fixed stream instead of the host's entropy, 0 to 2**64 - 1: the guest's keys are then no secret.

    Raises
    ------
    DeviceError
        A value out of range, or the place is taken.
    """

    def __init__(
        self, board: Board, place: Place, *, bytes_per_second: int = 0, seed: int | None = None
    ) -> None:
        if not 0 <= bytes_per_second <= 1 << 40:
            raise DeviceError(f"virtio-rng: {bytes_per_second} bytes a second: 0 (no limit) to 2**40")
        if seed is not None and not 0 <= seed < 1 << 64:
            raise DeviceError(f"virtio-rng: seed {seed}: 0 to 2**64 - 1")
        error = new_error()
        options = ffi.new("VirtioRngOptions *")
        options.bytes_per_second, options.seeded, options.seed = (
            bytes_per_second,
            seed is not None,
            seed or 0,
        )
        pointer = lib.virtio_rng_new(board.pointer, place.native(board), options, error)
        super().__init__(check_pointer(pointer, error, exception=DeviceError), place)

    @property
    def counters(self) -> VirtioRngCounters:
        """Requests and bytes so far."""
        native = ffi.new("VirtioRngCounters *")
        lib.virtio_rng_counters(self.pointer, native)
        return VirtioRngCounters(int(native.requests), int(native.bytes), int(native.waits))
