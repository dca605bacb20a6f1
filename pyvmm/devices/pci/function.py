"""A function of the PCI bus as anybody sees it: its configuration space, read and written by name.

Source: PCI Local Bus Specification 3.0 §6.1 (header), §6.2.5 (base address registers), §6.7 (capabilities).
"""

from __future__ import annotations

from pyvmm.errors import DeviceError
from pyvmm.native import ffi, lib
from pyvmm.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

CLASS_NAMES: Final = {
    0x0100: "SCSI storage",
    0x0101: "IDE storage",
    0x0200: "Ethernet",
    0x0300: "VGA display",
    0x0600: "host bridge",
    0x0601: "ISA bridge",
    0x0680: "bridge",
}
"""Base class and sub-class of what stands on our machines (PCI 3.0 appendix D)."""

_STATUS_CAPABILITIES: Final = 1 << 4
_CAPABILITIES: Final = 0x34
_BAR_NUMBERS: Final = 7
_BAR_IO: Final = 1
_BAR_64BIT: Final = 4
_ROM: Final = 6


@record(frozen=True, slots=True)
class PciHeader:
    """The header of configuration space by the names of PCI 3.0 §6.1, as it is at one moment.

    `class_code` has 24 bits: base class, sub-class, programming interface.
    """

    vendor_id: int
    device_id: int
    command: int
    status: int
    revision_id: int
    class_code: int
    cache_line_size: int
    latency_timer: int
    header_type: int
    subsystem_vendor_id: int
    subsystem_id: int
    interrupt_line: int
    interrupt_pin: int

    @classmethod
    def from_bytes(cls, config: bytes) -> PciHeader:
        """Decode the first 64 bytes of configuration space."""
        import struct

        vendor, device, command, status, revision = struct.unpack_from("<4HB", config)
        line_size, latency, header_type = struct.unpack_from("<3B", config, 0x0C)
        subsystem_vendor, subsystem = struct.unpack_from("<2H", config, 0x2C)
        return cls(
            vendor_id=vendor,
            device_id=device,
            command=command,
            status=status,
            revision_id=revision,
            class_code=int.from_bytes(config[0x09:0x0C], "little"),
            cache_line_size=line_size,
            latency_timer=latency,
            header_type=header_type,
            subsystem_vendor_id=subsystem_vendor,
            subsystem_id=subsystem,
            interrupt_line=config[0x3C],
            interrupt_pin=config[0x3D],
        )


@record(frozen=True, slots=True)
class BarState:
    """A base address register: what it asks for, and where the guest has it.

    Attributes
    ----------
    base
        Port or guest physical address; None while its decoding is off.
    mapped
        Whether it answers there. False with a `base` when another device has the range.
    is_ram
        Whether the guest reaches it as RAM, without exits: a frame buffer, where no RAM of the machine's is.
    """

    index: int
    size: int
    is_io: bool
    is_64bit: bool
    base: int | None
    mapped: bool
    is_ram: bool

    def __str__(self) -> str:
        kind = "ROM" if self.index == _ROM else "I/O" if self.is_io else "mem64" if self.is_64bit else "mem"
        where = "off" if self.base is None else f"{self.base:#x}" + ("" if self.mapped else " (taken)")
        return f"BAR{self.index} {kind} {where}+{self.size:#x}"


class PciFunction:
    """One function on the root bus. `header` gives the registers by name, `read` and `write` any of the 256 bytes."""

    def __init__(self, bus: Any, devfn: int) -> None:
        self._bus = bus
        self.devfn = devfn

    @property
    def slot(self) -> int:
        """Device number on the bus, 0 to 31."""
        return self.devfn >> 3

    @property
    def number(self) -> int:
        """Function number in the slot, 0 to 7."""
        return self.devfn & 7

    @property
    def name(self) -> str:
        """Name of the device that it belongs to."""
        name = lib.pci_bus_device_name(self._bus, self.devfn)
        return ffi.string(name).decode() if name else ""

    def read(self, offset: int, size: int) -> int:
        """Read `size` (1, 2 or 4) bytes at `offset`, which is a multiple of it, as the guest would.

        Raises
        ------
        DeviceError
            No such access.
        """
        self._check(offset, size)
        return int(lib.pci_bus_config_read(self._bus, self.devfn, offset, size))

    def write(self, offset: int, size: int, value: int) -> None:
        """Write as the guest would: read-only bits stay, BARs move.

        Raises
        ------
        DeviceError
            No such access.
        """
        self._check(offset, size)
        lib.pci_bus_config_write(self._bus, self.devfn, offset, size, value & ((1 << 8 * size) - 1))

    @staticmethod
    def _check(offset: int, size: int) -> None:
        if size not in (1, 2, 4) or offset % size or not 0 <= offset < 256:
            raise DeviceError(
                f"PCI configuration: {size} bytes at {offset:#x}: 1, 2 or 4 aligned bytes below 0x100"
            )

    @property
    def config(self) -> bytes:
        """All 256 bytes."""
        return b"".join(self.read(offset, 4).to_bytes(4, "little") for offset in range(0, 256, 4))

    @property
    def header(self) -> PciHeader:
        """The header's registers by name."""
        return PciHeader.from_bytes(self.config)

    @property
    def bars(self) -> list[BarState]:
        """The base address registers that it has; the expansion ROM's has index 6."""
        info = ffi.new("PciBarInfo *")
        return [
            BarState(
                index,
                int(info.size),
                bool(info.flags & _BAR_IO),
                bool(info.flags & _BAR_64BIT),
                int(info.base) if info.wanted else None,
                bool(info.mapped),
                bool(info.is_ram),
            )
            for index in range(_BAR_NUMBERS)
            if lib.pci_bus_bar(self._bus, self.devfn, index, info) == 0
        ]

    @property
    def capabilities(self) -> list[tuple[int, int]]:
        """(ID, offset) of each capability, in order of the list (PCI 3.0 §6.7)."""
        config = self.config
        if not config[0x06] & _STATUS_CAPABILITIES:
            return []
        found: list[tuple[int, int]] = []
        at = config[_CAPABILITIES] & 0xFC
        while at and (config[at], at) not in found:
            found.append((config[at], at))
            at = config[at + 1] & 0xFC
        return found

    @property
    def interrupt_gsi(self) -> int | None:
        """Where its pin ends now, through the link and PIRQRC; None without a pin or while not routed."""
        pin = self.read(0x3D, 1)
        if not pin:
            return None
        gsi = lib.pci_bus_link_route(self._bus, lib.pci_link(self.slot, pin - 1))
        return None if gsi < 0 else int(gsi)

    def __str__(self) -> str:
        header = self.header
        kind = CLASS_NAMES.get(header.class_code >> 8, f"class {header.class_code:06x}")
        parts = [
            f"00:{self.slot:02x}.{self.number} {header.vendor_id:04x}:{header.device_id:04x} {self.name} ({kind})"
        ]
        parts += [str(bar) for bar in self.bars]
        if header.interrupt_pin:
            gsi = self.interrupt_gsi
            parts.append(
                f"INT{'ABCD'[header.interrupt_pin - 1]}# -> {'not routed' if gsi is None else f'IRQ {gsi}'}"
            )
        return ", ".join(parts)

    def __repr__(self) -> str:
        return f"<PciFunction {self}>"
