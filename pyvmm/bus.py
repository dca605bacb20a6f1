"""Address spaces of devices: ports and memory-mapped registers (csrc/io/bus.h)."""

from __future__ import annotations

from pyvmm.errors import DeviceError
from pyvmm.native import check, ffi, lib, new_error
from pyvmm.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Literal

    from pyvmm.board import Board
    from pyvmm.devices.base import Device


@record(frozen=True, slots=True)
class BusRange:
    """A device's claim: addresses [base, base + size), as its region number `region`."""

    base: int
    size: int
    region: int
    name: str

    def __str__(self) -> str:
        return f"{self.base:#06x}-{self.base + self.size - 1:#06x} {self.name}"


class Bus:
    """``machine.pio`` or ``machine.mmio``: who answers where, and accesses as the guest would make them."""

    def __init__(self, pointer: Any, kind: Literal["pio", "mmio"], owner: Board) -> None:
        self.pointer = pointer
        self.kind = kind
        self._owner = owner
        self._devices: list[Device] = []  # the C side has their handles: they live as long as the bus

    def add(self, base: int, size: int, device: Device, region: int = 0) -> None:
        """Give [base, base + size) to a device, which is then asked for offsets in its region.

        Raises
        ------
        DeviceError
            Another device has some of it (both are named), or it is outside the address space.
        """
        error = new_error()
        check(device.map_region(self, base, size, region, error), error, exception=DeviceError)
        if device not in self._devices:
            self._devices.append(device)

    def remove(self, base: int) -> None:
        """Take back the range that starts at `base`."""
        if lib.bus_remove(self.pointer, base) < 0:
            raise DeviceError(f"{self.kind}: no device's range starts at {base:#x}")

    def read(self, address: int, size: int) -> int:
        """What the guest would read: `size` is 1, 2, 4 or 8 bytes. All ones when nobody answers.

        What a device written in Python raises is raised here.
        """
        value = ffi.new("uint64_t *")
        lib.bus_read(self.pointer, address, size, value)
        self._owner.raise_own_fault()
        return int(value[0])

    def write(self, address: int, size: int, value: int) -> None:
        """What the guest would write. What a device written in Python raises is raised here."""
        lib.bus_write(self.pointer, address, size, value)
        self._owner.raise_own_fault()

    def write_string(self, address: int, size: int, data: bytes) -> None:
        """Write each `size` bytes (1, 2 or 4) of `data` to one address, in order, as REP OUTS does."""
        if size not in (1, 2, 4) or len(data) % size:
            raise DeviceError(
                f"{self.kind}: {len(data)} bytes are not writes of {size}; 1, 2 or 4 bytes each"
            )
        lib.bus_write_string(self.pointer, address, size, data, len(data) // size)
        self._owner.raise_own_fault()

    @property
    def ranges(self) -> list[BusRange]:
        """All claims, in order of address."""
        table = ffi.new("BusRange[255]")
        count = lib.bus_ranges(self.pointer, table, 255)
        return [
            BusRange(row.base, row.size, row.region, ffi.string(row.name).decode()) for row in table[0:count]
        ]

    @property
    def unmapped_count(self) -> int:
        """Accesses that nobody answered."""
        return int(lib.bus_unmapped_count(self.pointer))

    def __repr__(self) -> str:
        return f"Bus({self.kind})\n  " + "\n  ".join(map(str, self.ranges))
