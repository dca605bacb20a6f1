"""PCI resource assignment: sizes every BAR through configuration mechanism 1 and gives it an address; routes
INTA#..INTD#.

Sources: PCI Local Bus 3.0 §3.2.2.3.2 (mechanism 1), §6.1 (header), §6.2.5.1 (sizing BARs); PIIX3 (Intel 290550) §2.1.11
(PIRQRC); PCI IRQ routing table 1.0 ($PIR). Used by the BIOS at POST, and by direct kernel boot without one. Policy: I/O
upward from layout.PCI_IO_BASE, memory from layout.PCI_MMIO_BASE, largest first (so that natural alignment wastes
nothing); 64-bit BARs stay below 4 GiB when they fit there, and go to layout.PCI_MMIO64_BASE when not.
Left out: PCI-to-PCI bridges (bus 0 only), expansion ROM BARs (left disabled).
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from pyvmm.firmware.platform import PortBus
from pyvmm.machine import layout

logger = logging.getLogger("pyvmm.firmware")

VENDOR, COMMAND, CLASS, HEADER_TYPE, BAR0, INTERRUPT_LINE, INTERRUPT_PIN = (
    0x00,
    0x04,
    0x08,
    0x0E,
    0x10,
    0x3C,
    0x3D,
)
_COMMAND_IO, _COMMAND_MEMORY, _COMMAND_MASTER = 0x01, 0x02, 0x04
_PIRQRC: Final = 0x60
"""Route control of links A to D, one byte each: IRQ number, bit 7 disables (PIIX3 §2.1.11)."""
_IDE_ID: Final = 0x70108086
_IDETIM: Final = 0x40
_IDETIM_DECODE: Final = 0x80008000
"""Both channels' ports are decoded (PIIX3 IDETIM, bit 15 of each half)."""
_PIIX4_ID: Final = 0x71138086
_SMBBA, _SMBHSTCFG = 0x90, 0xD2
_SMBHSTCFG_ON: Final = 0x09
"""The SMBus host controller is on, and interrupts by IRQ 9 (82371AB SMBHSTCFG)."""
_BAR_IO: Final = 0x01
_BAR_64BIT: Final = 0x04
_BAR_COUNT: Final = {0: 6, 1: 2}
DEVICES: Final = 32
FUNCTIONS: Final = 8


@dataclass(frozen=True, slots=True, order=True)
class PciAddress:
    """Bus, device and function."""

    bus: int
    device: int
    function: int

    def __str__(self) -> str:
        return f"{self.bus:02x}:{self.device:02x}.{self.function}"

    @property
    def devfn(self) -> int:
        return self.device << 3 | self.function


class ConfigSpace:
    """Configuration space through ports CF8h and CFCh (PCI 3.0 §3.2.2.3.2)."""

    def __init__(self, pio: PortBus) -> None:
        self.pio = pio

    def _select(self, at: PciAddress, register: int) -> int:
        self.pio.write(layout.PCI_CONFIG_ADDRESS, 4, 1 << 31 | at.bus << 16 | at.devfn << 8 | register & 0xFC)
        return layout.PCI_CONFIG_DATA + (register & 3)

    def read(self, at: PciAddress, register: int, size: int) -> int:
        """`size` 1, 2 or 4 bytes at `register`, aligned to it; all ones when nothing is there."""
        return self.pio.read(self._select(at, register), size)

    def write(self, at: PciAddress, register: int, size: int, value: int) -> None:
        self.pio.write(self._select(at, register), size, value)

    def functions(self, bus: int = 0) -> Iterator[PciAddress]:
        """Every function that answers on a bus."""
        for device in range(DEVICES):
            for number in range(FUNCTIONS):
                at = PciAddress(bus, device, number)
                if self.read(at, VENDOR, 2) in (0xFFFF, 0):
                    if number == 0:
                        break
                    continue
                yield at
                if number == 0 and not self.read(at, HEADER_TYPE, 1) & 0x80:
                    break


@dataclass(frozen=True, slots=True)
class Bar:
    """One base address register and what it asks for. `size` is in bytes (ports for I/O)."""

    at: PciAddress
    register: int
    size: int
    is_io: bool
    is_64bit: bool


def size_bars(config: ConfigSpace, at: PciAddress) -> list[Bar]:
    """The BARs of a function, sized by writing ones (PCI 3.0 §6.2.5.1), with decoding off meanwhile; old values are put
    back.
    """
    bars: list[Bar] = []
    command = config.read(at, COMMAND, 2)
    config.write(at, COMMAND, 2, command & ~(_COMMAND_IO | _COMMAND_MEMORY))
    count = _BAR_COUNT.get(config.read(at, HEADER_TYPE, 1) & 0x7F, 0)
    index = 0
    while index < count:
        register = BAR0 + 4 * index
        old = config.read(at, register, 4)
        config.write(at, register, 4, 0xFFFFFFFF)
        mask = config.read(at, register, 4)
        config.write(at, register, 4, old)
        is_io = bool(mask & _BAR_IO)
        is_64bit = not is_io and mask & 0x06 == _BAR_64BIT and index + 1 < count
        if mask not in (0, 0xFFFFFFFF):
            bits = mask & (0xFFFFFFFC if is_io else 0xFFFFFFF0)
            width = 64 if is_64bit else 32
            if is_io and not bits >> 16:
                bits |= 0xFFFF0000  # the upper half need not be implemented: §6.2.5.1
            if is_64bit:
                bits |= _size_upper(config, at, register + 4) << 32
            size = (1 << width) - bits if bits else 0
            if size and size & (size - 1) == 0:
                bars.append(Bar(at, register, size, is_io, is_64bit))
        index += 2 if is_64bit else 1
    config.write(at, COMMAND, 2, command)
    return bars


def _size_upper(config: ConfigSpace, at: PciAddress, register: int) -> int:
    old = config.read(at, register, 4)
    config.write(at, register, 4, 0xFFFFFFFF)
    mask = config.read(at, register, 4)
    config.write(at, register, 4, old)
    return mask


class _Window:
    """Addresses given out upwards, naturally aligned."""

    def __init__(self, base: int, end: int) -> None:
        self.next, self.end = base, end

    def take(self, size: int) -> int | None:
        start = (self.next + size - 1) & -size
        if start + size > self.end:
            return None
        self.next = start + size
        return start


def link_irq(device: int, pin: int) -> int:
    """IRQ of a device's INTx# (1 = INTA#): the pins are swizzled over links A to D by device number (PIIX3; PCI 3.0
    §2.2.6).
    """
    return layout.PCI_LINKS[layout.pci_link(device, pin - 1)]


@dataclass(frozen=True, slots=True)
class Assignment:
    """Where a BAR went; `address` is None when the window was full."""

    bar: Bar
    address: int | None


def assign_resources(pio: PortBus) -> list[Assignment]:
    """Give every BAR on bus 0 an address, route interrupts, switch decoding and bus mastering on.

    Returns
    -------
    list
        What was assigned, for listings and tests.
    """
    config = ConfigSpace(pio)
    functions = list(config.functions())
    bars = [bar for at in functions for bar in size_bars(config, at)]
    io = _Window(layout.PCI_IO_BASE, layout.PCI_IO_END + 1)
    memory = _Window(layout.PCI_MMIO_BASE, layout.PCI_MMIO_END)
    high = _Window(layout.PCI_MMIO64_BASE, layout.PCI_MMIO64_BASE + layout.PCI_MMIO64_SIZE)
    done: list[Assignment] = []
    failed: set[tuple[PciAddress, bool]] = set()
    for bar in sorted(bars, key=lambda b: -b.size):
        address = (io if bar.is_io else memory).take(bar.size)
        if address is None and bar.is_64bit:
            address = high.take(bar.size)
        done.append(Assignment(bar, address))
        if address is None:
            logger.warning(
                "PCI %s: BAR at %#x: no room for %#x bytes: it stays off", bar.at, bar.register, bar.size
            )
            failed.add((bar.at, bar.is_io))
            continue
        config.write(bar.at, bar.register, 4, address & 0xFFFFFFFF)
        if bar.is_64bit:
            config.write(bar.at, bar.register + 4, 4, address >> 32)
    for at in functions:
        _enable(config, at, [bar for bar in bars if bar.at == at], failed)
    _decode_ide(config)
    _decode_smbus(config)
    _route_links(config)
    return done


def _enable(
    config: ConfigSpace, at: PciAddress, bars: list[Bar], failed: set[tuple[PciAddress, bool]]
) -> None:
    """Decoding of what has addresses, bus mastering, and the interrupt line (which the OS reads, not the hardware)."""
    command = config.read(at, COMMAND, 2)
    if bars:
        command |= _COMMAND_MASTER
        command |= _COMMAND_IO if any(b.is_io for b in bars) and (at, True) not in failed else 0
        command |= _COMMAND_MEMORY if any(not b.is_io for b in bars) and (at, False) not in failed else 0
        config.write(at, COMMAND, 2, command)
    pin = config.read(at, INTERRUPT_PIN, 1)
    if 1 <= pin <= 4:
        config.write(at, INTERRUPT_LINE, 1, link_irq(at.device, pin))


def _decode_ide(config: ConfigSpace) -> None:
    """Let the PIIX3's IDE function, if it is there, answer at its channels' ports."""
    at = PciAddress(0, layout.PCI_ISA_BRIDGE, layout.PCI_IDE_FUNCTION)
    if config.read(at, VENDOR, 4) == _IDE_ID:
        config.write(at, _IDETIM, 4, _IDETIM_DECODE)


def _decode_smbus(config: ConfigSpace) -> None:
    """Put the PIIX4's SMBus host controller where SeaBIOS has it, and switch it on."""
    at = PciAddress(0, layout.PCI_ISA_BRIDGE, layout.PCI_POWER_FUNCTION)
    if config.read(at, VENDOR, 4) == _PIIX4_ID:
        config.write(at, _SMBBA, 4, layout.SMBUS)
        config.write(at, _SMBHSTCFG, 1, _SMBHSTCFG_ON)
        config.write(at, COMMAND, 2, config.read(at, COMMAND, 2) | _COMMAND_IO)


def _route_links(config: ConfigSpace) -> None:
    """PIRQRC of the ISA bridge, and the links' IRQs made level-triggered in ELCR (PIIX3 §2.1.11, §2.5.5)."""
    bridge = PciAddress(0, layout.PCI_ISA_BRIDGE, 0)
    for link, irq in enumerate(layout.PCI_LINKS):
        config.write(bridge, _PIRQRC + link, 1, irq)
    levels = sum(1 << irq for irq in set(layout.PCI_LINKS))
    for half in range(2):
        port = layout.PIC_ELCR + half
        level = config.pio.read(port, 1)
        config.pio.write(port, 1, (0 if level == 0xFF else level) | levels >> 8 * half & 0xFF)


def routing_table(pio: PortBus) -> bytes:
    """The $PIR table for the devices on bus 0 (PCI IRQ routing table 1.0): slots, links (values 60h..63h) and possible
    IRQs.
    """
    config = ConfigSpace(pio)
    slots = sorted({at.device for at in config.functions()} - {layout.PCI_HOST_BRIDGE})
    exclusive = sum(1 << irq for irq in set(layout.PCI_LINKS))
    bridge = PciAddress(0, layout.PCI_ISA_BRIDGE, 0)
    entries = b"".join(routing_entry(slot) for slot in slots)
    ids = config.read(bridge, VENDOR, 4)
    header = struct.pack(
        "<4sHHBBHII11xB", b"$PIR", 0x0100, 32 + len(entries), bridge.bus, bridge.devfn, exclusive, ids, 0, 0
    )
    table = bytearray(header + entries)
    table[31] = -sum(table) & 0xFF
    return bytes(table)


def routing_entry(device: int) -> bytes:
    """One slot of the routing table: for each pin its link and the bitmap of IRQs that the link may use."""
    bitmap = sum(1 << irq for irq in layout.PCI_LINK_CHOICES)
    pins = b"".join(struct.pack("<BH", _PIRQRC + layout.pci_link(device, pin), bitmap) for pin in range(4))
    return struct.pack("<BB", 0, device << 3) + pins + b"\0\0"
