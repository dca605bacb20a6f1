"""virtio network device (csrc/virtio/virtio_net.h; virtio 1.2 §5.1)."""

from __future__ import annotations

from pyvmm.devices.virtio.base import VirtioDevice
from pyvmm.devices.virtio.features import NET
from pyvmm.errors import DeviceError
from pyvmm.native import check_pointer, ffi, lib, new_error
from pyvmm.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.board import Board
    from pyvmm.devices.virtio.base import Place
    from pyvmm.net.backend import NetBackend


@record(frozen=True, slots=True)
class VirtioNetCounters:
    """What the device has done since it was made; ``tx`` leaves the guest. A big (GSO) frame is one.

    `rx_filtered` were for somebody else; `rx_drops` longer than their buffer, or came before the driver was ready.
    `rx_waits` and `tx_waits`: there were no buffers, and the backend had no room.
    """

    tx_frames: int
    tx_bytes: int
    tx_gso: int
    tx_drops: int
    tx_waits: int
    rx_frames: int
    rx_bytes: int
    rx_gso: int
    rx_filtered: int
    rx_drops: int
    rx_waits: int
    commands: int
    command_errors: int


class VirtioNet(VirtioDevice):
    """A network card. Its backend is open on the same board, and closed after it.

    Parameters
    ----------
    place
        Where it stands. Its queues run on the backend's thread.
    backend
        The other end of the cable.
    mac
        Six bytes; not a group address.
    mtu
        What the driver is told to keep to, 68 to 65535; 0: it is not told.
    rx_size, tx_size
        Descriptors in its queues: powers of two, 64 to 1024; 0: 256.
    withhold
        Features that it does not offer, by name: ``("HOST_TSO4", "MRG_RXBUF")``.

    Raises
    ------
    DeviceError
        A value out of range, the place is taken, or the backend has a NIC.
    """

    feature_bits = NET

    def __init__(
        self,
        board: Board,
        place: Place,
        backend: NetBackend,
        mac: bytes,
        *,
        mtu: int = 0,
        rx_size: int = 0,
        tx_size: int = 0,
        withhold: tuple[str, ...] = (),
    ) -> None:
        if len(mac) != 6 or mac[0] & 1:
            raise DeviceError(f"virtio-net: {mac.hex(':')} is not the address of one card")
        bits = {name: 1 << bit for bit, name in NET.items()}
        unknown = [name for name in withhold if name not in bits]
        if unknown:
            raise DeviceError(f"virtio-net has no feature {unknown[0]}; it has {', '.join(bits)}")
        if backend.pointer is None or backend.board is not board:
            raise DeviceError(f"virtio-net: {backend!r} is not open on this board")
        if not (0 <= mtu < 65536 and 0 <= rx_size <= 1024 and 0 <= tx_size <= 1024):
            raise DeviceError(f"virtio-net: mtu {mtu}, queues of {rx_size} and {tx_size}: out of range")
        error = new_error()
        options = ffi.new("VirtioNetOptions *")
        options.mac = mac
        options.mtu, options.rx_size, options.tx_size = mtu, rx_size, tx_size
        options.withhold = sum(bits[name] for name in withhold)
        pointer = lib.virtio_net_new(board.pointer, place.native(board), backend.pointer, options, error)
        super().__init__(check_pointer(pointer, error, exception=DeviceError), place)
        self.backend = backend

    @property
    def mac(self) -> str:
        """What its driver, or its maker, called it."""
        return ":".join(f"{byte:02x}" for byte in self.registers.virtio.config[:6])

    @property
    def counters(self) -> VirtioNetCounters:
        """Frames and bytes so far."""
        native = ffi.new("VirtioNetCounters *")
        lib.virtio_net_counters(self.pointer, native)
        return VirtioNetCounters(
            **{name: int(getattr(native, name)) for name in VirtioNetCounters.__match_args__}
        )

    def announce(self) -> None:
        """Ask the driver to tell the network where it is: after the other end of the cable has moved."""
        lib.virtio_net_announce(self.pointer)

    def close(self) -> None:
        """Leave the backend, then as every device."""
        if self.pointer is not None:
            lib.virtio_net_unplug(self.pointer)
        super().close()
