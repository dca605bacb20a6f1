"""The Intel 82540EM NIC (csrc/devices/e1000.c)."""

from __future__ import annotations

from pyvmm.devices.base import NativeDevice
from pyvmm.errors import DeviceError
from pyvmm.native import check_pointer, ffi, lib, new_error
from pyvmm.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.board import Board
    from pyvmm.devices.pci.bus import PciBus
    from pyvmm.net.backend import NetBackend


@record(frozen=True, slots=True)
class E1000Counters:
    """What the device has done since it was made; ``tx`` leaves the guest.

    `tx_segmented` are frames for TCP segmentation, each counted once; `faults` descriptors and buffers that are not in
    RAM. The others are as in `VirtioNetCounters`.
    """

    tx_frames: int
    tx_bytes: int
    tx_segmented: int
    tx_drops: int
    tx_waits: int
    rx_frames: int
    rx_bytes: int
    rx_filtered: int
    rx_drops: int
    rx_waits: int
    interrupts: int
    faults: int


class E1000(NativeDevice):
    """A NIC for systems without virtio drivers. Its backend must be open, and stay so as long as it lives.

    Parameters
    ----------
    pci, slot
        The bus, and the device number on it, 0 to 31.
    backend
        The other end of its cable.
    mac
        Six bytes; not a group address.

    Raises
    ------
    DeviceError
        A bad address, the place is taken, or the backend has a NIC or is not open.
    """

    MMIO, IO = 0, 1

    def __init__(self, board: Board, pci: PciBus, slot: int, backend: NetBackend, mac: bytes) -> None:
        if not 0 <= slot < 32:
            raise DeviceError(f"e1000: PCI slot {slot} is not one of 0 to 31")
        if len(mac) != 6:
            raise DeviceError(f"e1000: {mac.hex(':')} is not the address of one card")
        if backend.pointer is None or backend.board is not board:
            raise DeviceError(f"e1000: {backend!r} is not open on this board")
        error = new_error()
        pointer = lib.e1000_new(board.pointer, pci.bus, slot << 3, backend.pointer, mac, error)
        super().__init__(check_pointer(pointer, error, exception=DeviceError), "E1000State")
        self.slot, self.backend = slot, backend

    @property
    def mac(self) -> str:
        """What its driver, or its EEPROM, has in the first receive address."""
        low, high = self.registers.registers.ra[:2]
        address = int(low) | (int(high) & 0xFFFF) << 32
        return address.to_bytes(6, "little").hex(":")

    @property
    def counters(self) -> E1000Counters:
        """Frames, bytes and interrupts so far."""
        native = ffi.new("E1000Counters *")
        lib.e1000_counters(self.pointer, native)
        return E1000Counters(**{name: int(getattr(native, name)) for name in E1000Counters.__match_args__})

    def close(self) -> None:
        """Pull the cable, then free the device."""
        if self.pointer is not None:
            lib.e1000_unplug(self.pointer)
        super().close()
