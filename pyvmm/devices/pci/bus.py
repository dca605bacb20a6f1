"""The PCI root bus (csrc/devices/pci.c): configuration mechanism 1, and the functions that stand on it."""

from __future__ import annotations

from pyvmm.devices.base import NativeDevice
from pyvmm.errors import DeviceError
from pyvmm.native import check_pointer, ffi, lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyvmm.board import Board
    from pyvmm.devices.pci.device import PciDevice
    from pyvmm.devices.pci.function import PciFunction

SLOTS = 32


class PciBus(NativeDevice):
    """Bus 0. ``for function in machine.pci.functions: print(function)`` lists it; ``machine.pci[slot]`` is one.

    Close it after the C devices on it.
    """

    ADDRESS, DATA = 0, 1
    """Regions: CONFADD (1 port: 4-byte accesses only; port 0xcf9 is another's) and CONFDATA (4)."""

    def __init__(self, board: Board) -> None:
        self.board = board
        self.bus = check_pointer(lib.pci_bus_new(board.pointer), what="PCI bus", exception=DeviceError)
        super().__init__(lib.pci_bus_device(self.bus), state="PciBusState")
        self._added: list[PciDevice] = []  # the C side has their handles

    @property
    def functions(self) -> list[PciFunction]:
        """What stands on the bus, in order of slot and function."""
        from pyvmm.devices.pci.function import PciFunction

        return [
            PciFunction(self.bus, devfn) for devfn in range(256) if lib.pci_bus_device_name(self.bus, devfn)
        ]

    def __iter__(self) -> Iterator[PciFunction]:
        return iter(self.functions)

    def __getitem__(self, place: int | tuple[int, int]) -> PciFunction:
        """The function at a slot, or at (slot, function).

        Raises
        ------
        DeviceError
            Nobody is there.
        """
        from pyvmm.devices.pci.function import PciFunction

        slot, number = place if isinstance(place, tuple) else (place, 0)
        if not (0 <= slot < SLOTS and 0 <= number < 8):
            raise DeviceError(f"PCI slot {slot} function {number}: slots are 0 to 31, functions 0 to 7")
        if not lib.pci_bus_device_name(self.bus, slot << 3 | number):
            raise DeviceError(
                f"PCI slot {slot} function {number} is empty: machine.pci.functions lists what there is"
            )
        return PciFunction(self.bus, slot << 3 | number)

    def free_slot(self, first: int = 0) -> int:
        """The first slot from `first` on with nothing in it.

        Raises
        ------
        DeviceError
            The bus is full.
        """
        for slot in range(first, SLOTS):
            if not lib.pci_bus_device_name(self.bus, slot << 3):
                return slot
        raise DeviceError(f"no PCI slot from {first} to 31 is free: the machine has too many devices")

    def add(self, device: PciDevice, slot: int, function: int = 0) -> None:
        """Put a function written in Python on the bus; its BARs come from its class.

        Raises
        ------
        DeviceError
            The place is taken, or a BAR's size cannot be.
        """
        device.attach(self, slot, function)
        self._added.append(device)

    def close(self) -> None:
        """Free it, and first what `add` put on it; C functions must be closed already."""
        for device in reversed(self._added):
            device.close()
        super().close()
        self.bus = ffi.NULL

    def __repr__(self) -> str:
        if self.bus == ffi.NULL:
            return "<PciBus closed>"
        return "\n".join(["PciBus", *(f"  {function}" for function in self.functions)])
