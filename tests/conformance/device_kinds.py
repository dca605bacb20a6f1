"""The devices of the conformance suite: how each is made, and what of it a guest can reach."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pyvmm.block import open_image
from pyvmm.board import Board
from pyvmm.devices.acpi_pm import AcpiPm
from pyvmm.devices.apic import IoApic, Lapic
from pyvmm.devices.base import NativeDevice
from pyvmm.devices.dma import Dma
from pyvmm.devices.e1000 import E1000
from pyvmm.devices.fdc import Fdc, FloppyMedium
from pyvmm.devices.fw_cfg import FwCfg
from pyvmm.devices.hpet import Hpet
from pyvmm.devices.i8042 import I8042
from pyvmm.devices.ide import Ide, IdeDrive
from pyvmm.devices.pci import HostBridge, IsaBridge, PciBus, PciDevice, PowerManagement
from pyvmm.devices.pflash import Pflash
from pyvmm.devices.pic import Pic
from pyvmm.devices.pit import Pit
from pyvmm.devices.ports import (
    DebugConsole,
    ExitPort,
    FirmwarePort,
    NmiAndSpeaker,
    PostCode,
    ResetControl,
    SystemControlA,
)
from pyvmm.devices.rtc import Rtc
from pyvmm.devices.uart import Uart
from pyvmm.devices.vga import Vga
from pyvmm.devices.virtio import (
    PciPlace,
    PortSetup,
    PythonVirtioDevice,
    VirtioBalloon,
    VirtioBlk,
    VirtioConsole,
    VirtioInput,
    VirtioRng,
)
from pyvmm.devices.virtio.net import VirtioNet
from pyvmm.display.serial import CharSink
from pyvmm.native import lib
from pyvmm.net import Custom
from tests.conformance import device_usable as usable
from tests.conformance import virtio_usable

RAM = 64 << 10
MSIX_BAR = 0xE0010000


class Bench:
    """A board on a virtual clock, and what is made on it; closed in reverse order."""

    def __init__(self) -> None:
        self.board = Board("virtual")
        self.board.memory.add(0, RAM)
        self.parts: list[Any] = []
        self.buses: dict[Any, Any] = {}
        self.boards: dict[int, Board] = {}

    def another_board(self) -> Board:
        """For a device of which a board has one: it is on a board of its own, with the same time."""
        now = self.board.clock.now
        if self.board not in self.parts:
            self.keep(self.board)
        self.board = self.keep(Board("virtual"))
        self.board.memory.add(0, RAM)
        lib.clock_set(self.board.clock.pointer, now)
        return self.board

    def pci(self) -> PciBus:
        """A bus on a board of its own."""
        bus: PciBus = self.keep(PciBus(self.another_board()))
        return bus

    def keep(self, part: Any) -> Any:
        """Close this with the bench."""
        self.parts.append(part)
        return part

    def close(self) -> None:
        """All parts, then the board."""
        for part in reversed(self.parts):
            part.close()
        self.board.close()


class Ports:
    """A device as its driver has it: its regions, its configuration space, and time that passes."""

    def __init__(self, bench: Bench, device: Any, devfn: int) -> None:
        self.board, self.device, self.devfn = bench.boards[id(device)], device, devfn
        self.bus = bench.buses.get(getattr(device, "pointer", None))

    def read(self, region: int, offset: int, size: int = 1) -> int:
        """A port or a register."""
        return int(self.device.pio_read(region, offset, size))

    def write(self, region: int, offset: int, value: int, size: int = 1) -> None:
        """The same."""
        self.device.pio_write(region, offset, size, value)

    def configuration(self, offset: int, size: int) -> int:
        """A register of its configuration space."""
        return int(lib.pci_bus_config_read(self.bus, self.devfn, offset, size))

    def configure(self, offset: int, value: int, size: int) -> None:
        """The same."""
        lib.pci_bus_config_write(self.bus, self.devfn, offset, size, value)

    def advance(self, ns: int) -> None:
        """Let time pass, timer by timer."""
        clock = self.board.clock
        end = clock.now + ns
        while (deadline := lib.clock_next_deadline(clock.pointer)) <= end:
            clock.advance(max(0, deadline - clock.now))
            lib.clock_run_timers(clock.pointer)
        clock.advance(end - clock.now)
        lib.clock_run_timers(clock.pointer)


CONFIG, PIO, MMIO = "config", "pio", "mmio"


@dataclass(frozen=True)
class Kind:
    """How to make a device, and what a guest can reach of it.

    Each of `regions` is a region's number and its bytes; or ``CONFIG``, ``PIO`` or ``MMIO``, with the first address
    between: its configuration space, or where firmware put a BAR. `usable` is what a driver does after reset, and
    `firmware` what was done before, so that it answers.
    """

    name: str
    make: Callable[[Bench], Any]
    regions: tuple[tuple[int, int] | tuple[str, int, int], ...]
    usable: Callable[[Ports], None]
    devfn: int = 0
    firmware: Callable[[Ports], None] = lambda ports: None

    def build(self, bench: Bench) -> Any:
        """One more of them on the bench."""
        device = bench.keep(self.make(bench))
        bench.boards[id(device)] = bench.board
        return device

    def ports(self, bench: Bench, device: Any) -> Ports:
        """As a driver has it."""
        return Ports(bench, device, self.devfn)


def read(kind: Kind, bench: Bench, device: Any, region: int, offset: int, size: int) -> int:
    """One read of a region, by its place in ``kind.regions``."""
    match kind.regions[region]:
        case (int(number), _):
            return int(device.pio_read(number, offset, size))
        case ("config", _, _):
            return kind.ports(bench, device).configuration(offset & -size, size)
        case (space, base, _):
            board = bench.boards[id(device)]
            bus = board.pio if space == PIO else board.mmio
            return int(bus.read(base + offset, size))
    raise AssertionError(kind)


def write(kind: Kind, bench: Bench, device: Any, region: int, offset: int, size: int, value: int) -> None:
    """One write."""
    value &= (1 << 8 * size) - 1
    match kind.regions[region]:
        case (int(number), _):
            device.pio_write(number, offset, size, value)
        case ("config", _, _):
            kind.ports(bench, device).configure(offset & -size, value, size)
        case (space, base, _):
            board = bench.boards[id(device)]
            bus = board.pio if space == PIO else board.mmio
            bus.write(base + offset, size, value)


def assign_virtio(ports: Ports) -> None:
    """Registers in BAR 0 and 4, MSI-X in BAR 1."""
    for offset, value in ((0x10, 0xC000), (0x14, MSIX_BAR), (0x20, 0xE0000000), (0x24, 0), (0x04, 7)):
        ports.configure(offset, value, 4)


def assign_messages(ports: Ports) -> None:
    """MSI-X in BAR 0."""
    for offset, value in ((0x10, MSIX_BAR), (0x04, 6)):
        ports.configure(offset, value, 4)


def enable_smbus(ports: Ports) -> None:
    """The SMBus host of the power management function."""
    ports.configure(0xD2, 0x09, 1)


def _make_uart(bench: Bench) -> NativeDevice:
    return Uart(bench.board, bench.board.irq_line(4), bench.keep(CharSink(bench.board, capture=64)))


def _make_port61(bench: Bench) -> NativeDevice:
    return NmiAndSpeaker(bench.board, bench.keep(Pit(bench.board, bench.board.irq_line(0))))


def _make_acpi_pm(bench: Bench) -> NativeDevice:
    return AcpiPm(
        bench.board, bench.board.irq_line(9), s5_type=5, acpi_enable=1, acpi_disable=2, timer_bits=24
    )


def _on_bus(bench: Bench, bus: PciBus, device: Any) -> Any:
    bench.buses[device.pointer] = bus.bus
    return device


def _make_vga(bench: Bench) -> Any:
    bus = bench.pci()
    return _on_bus(bench, bus, Vga(bench.board, bus, slot=2))


def _image(bench: Bench, size: int, read_only: bool = False) -> Any:
    """A raw image of a temporary file."""
    with tempfile.NamedTemporaryFile(suffix=".raw") as file:
        file.write(bytes(range(256)) * (size // 256))
        file.flush()
        return bench.keep(open_image(file.name, "raw", cache="unsafe", read_only=read_only))


def _make_ide(bench: Bench) -> Any:
    pci = bench.pci()
    bench.keep(IsaBridge(bench.board, pci, 1))
    drives = [
        IdeDrive("disk", _image(bench, 64 << 10)),
        None,
        IdeDrive("cdrom", _image(bench, 64 << 10, True)),
    ]
    device = Ide(bench.board, pci, 1, (bench.board.irq_line(14), bench.board.irq_line(15)), drives)
    bench.buses[device.pointer] = pci.bus
    return device


def decode_ide(ports: Ports) -> None:
    """What firmware does, so that the ports answer."""
    ports.configure(0x40, 0x80008000, 4)
    ports.configure(0x04, 5, 2)


def _make_fdc(bench: Bench) -> Any:
    media: list[FloppyMedium | None] = [FloppyMedium(_image(bench, 180 << 10), 40, 1, 9, 1), None]
    return Fdc(bench.board, bench.board.irq_line(6), bench.keep(Dma(bench.board)), media)


def _make_host_bridge(bench: Bench) -> Any:
    bus = bench.pci()
    return _on_bus(bench, bus, HostBridge(bench.board, bus))


def _make_isa_bridge(bench: Bench) -> Any:
    bus = bench.pci()
    return _on_bus(bench, bus, IsaBridge(bench.board, bus, 1))


def _make_power_management(bench: Bench) -> Any:
    bus = bench.pci()
    bench.keep(IsaBridge(bench.board, bus, 1))
    return _on_bus(bench, bus, PowerManagement(bench.board, bus, 1, 0x600, bench.board.irq_line(9)))


def _make_virtio_blk(bench: Bench) -> Any:
    bus = bench.pci()
    image = _image(bench, 64 << 10)
    return _on_bus(bench, bus, VirtioBlk(bench.board, PciPlace(bus, 3), image))


def _virtio(name: str, make: Callable[[Board, PciPlace], Any], usable: Callable[[Ports], None]) -> Kind:
    """A virtio device alone on a PCI bus."""

    def on_bus(bench: Bench) -> Any:
        bus = bench.pci()
        return _on_bus(bench, bus, make(bench.board, PciPlace(bus, 3)))

    regions: Any = (
        (PIO, 0xC000, 64),
        (MMIO, 0xE0000000, 0x38),
        (MMIO, 0xE0002000, 0x100),
        (MMIO, 0xE0003000, 0x20),
        (MMIO, MSIX_BAR, 0x40),
        (CONFIG, 0, 256),
    )
    return Kind(name, on_bus, regions, usable, 3 << 3, assign_virtio)


MAC = bytes.fromhex("525400123456")


class Frames(Custom):
    """A network that keeps what it is sent."""

    def __init__(self, bench: Bench) -> None:
        self.sent: list[bytes] = []
        self.open(bench.board, bench.board.worker("net-0"))
        bench.keep(self)

    def send(self, frame: bytes) -> None:
        """One more."""
        self.sent.append(frame)


def _make_e1000(bench: Bench) -> Any:
    bus = bench.pci()
    return _on_bus(bench, bus, E1000(bench.board, bus, 3, Frames(bench), MAC))


def _make_virtio_net(bench: Bench) -> Any:
    bus = bench.pci()
    return _on_bus(bench, bus, VirtioNet(bench.board, PciPlace(bus, 3), Frames(bench), MAC))


def assign_e1000(ports: Ports) -> None:
    """What firmware does."""
    ports.configure(0x10, 0xE0000000, 4)
    ports.configure(0x14, 0xC000, 4)
    ports.configure(4, 7, 2)


class Messenger(PciDevice):
    """A function in Python that has nothing but messages."""

    name = "messenger"
    msi_vectors = 4
    msix_vectors = 4


def _make_messenger(bench: Bench) -> Any:
    bus = bench.pci()
    function = Messenger()
    function.attach(bus, 4)
    return _on_bus(bench, bus, function.native)


def _make_fw_cfg(bench: Bench) -> FwCfg:
    return FwCfg(bench.board, {5: b"\x04\x00"}, {"etc/name": b"file", "opt/long": bytes(range(256)) * 9})


def _make_lapic(bench: Bench) -> NativeDevice:
    """The bootstrap processor's; a board has one."""
    return Lapic(bench.another_board())


def _make_ioapic(bench: Bench) -> NativeDevice:
    if not isinstance(bench.parts[-1] if bench.parts else None, IoApic):
        bench.keep(_make_lapic(bench))
    return IoApic(bench.board, 2)


KINDS = [
    Kind("pic", lambda bench: Pic(bench.board), ((0, 2), (1, 2), (2, 2)), usable.pic),
    Kind("pit", lambda bench: Pit(bench.board, bench.board.irq_line(0)), ((0, 4),), usable.pit),
    Kind(
        "vga",
        _make_vga,
        ((Vga.PORTS, 0x30), (Vga.DISPI, 4), (Vga.WINDOW, 0x20000), (CONFIG, 0, 256)),
        usable.vga,
        2 << 3,
    ),
    Kind("lapic", _make_lapic, ((0, 0x1000),), usable.lapic),
    Kind("ioapic", _make_ioapic, ((0, 0x50),), usable.ioapic),
    Kind("rtc", lambda bench: Rtc(bench.board, bench.board.irq_line(8)), ((0, 4),), usable.rtc),
    Kind(
        "hpet",
        lambda bench: Hpet(bench.board, bench.board.irq_line(0), bench.board.irq_line(8)),
        ((0, 0x400),),
        usable.hpet,
    ),
    Kind("uart", _make_uart, ((0, 8),), usable.uart),
    Kind(
        "i8042",
        lambda bench: I8042(bench.board, bench.board.irq_line(1), bench.board.irq_line(12)),
        ((0, 1), (1, 1)),
        usable.i8042,
    ),
    Kind(
        "ide",
        _make_ide,
        ((0, 8), (1, 1), (2, 8), (3, 1), (4, 16), (CONFIG, 0, 256)),
        usable.ide,
        1 << 3 | 1,
        decode_ide,
    ),
    Kind("dma", lambda bench: Dma(bench.board), ((0, 16), (1, 32), (2, 15)), usable.dma),
    Kind("fdc", _make_fdc, ((0, 6), (1, 1)), usable.fdc),
    Kind("acpi_pm", _make_acpi_pm, ((0, 12), (1, 2)), usable.acpi_pm),
    Kind("port92", lambda bench: SystemControlA(bench.board), ((0, 1),), usable.port92),
    Kind("port61", _make_port61, ((0, 1),), usable.port61),
    Kind("post_code", lambda bench: PostCode(bench.board), ((0, 1),), usable.post_code),
    Kind("debug_console", lambda bench: DebugConsole(bench.board), ((0, 1),), usable.debug_console),
    Kind("exit_port", lambda bench: ExitPort(bench.board), ((0, 1),), usable.exit_port),
    Kind("reset_control", lambda bench: ResetControl(bench.board), ((0, 1),), usable.reset_control),
    Kind("firmware_port", lambda bench: FirmwarePort(bench.board), ((0, 2),), usable.firmware_port),
    Kind("fw_cfg", _make_fw_cfg, ((0, 12),), usable.fw_cfg),
    Kind("pci_bus", lambda bench: PciBus(bench.board), ((0, 1), (1, 4)), usable.pci_bus),
    Kind("host_bridge", _make_host_bridge, ((CONFIG, 0, 256),), usable.host_bridge),
    Kind("isa_bridge", _make_isa_bridge, ((CONFIG, 0, 256),), usable.isa_bridge, 1 << 3),
    Kind(
        "power_management",
        _make_power_management,
        ((0, 16), (CONFIG, 0, 256)),
        usable.power_management,
        1 << 3 | 3,
        enable_smbus,
    ),
    Kind(
        "pci_msi",
        _make_messenger,
        ((MMIO, MSIX_BAR, 0x1000), (CONFIG, 0, 256)),
        usable.pci_msi,
        4 << 3,
        assign_messages,
    ),
    Kind("pflash", lambda bench: Pflash(bench.board, None, 64 << 10), ((0, 64 << 10),), usable.pflash),
    Kind(
        "virtio_blk",
        _make_virtio_blk,
        ((PIO, 0xC000, 64), (MMIO, 0xE0000000, 0x4000), (MMIO, MSIX_BAR, 0x1000), (CONFIG, 0, 256)),
        usable.virtio_blk,
        3 << 3,
        assign_virtio,
    ),
    Kind(
        "e1000",
        _make_e1000,
        ((0, 0x600), (0, 0x5800), (1, 8), (CONFIG, 0, 256)),
        usable.e1000,
        3 << 3,
        assign_e1000,
    ),
    Kind(
        "virtio_net",
        _make_virtio_net,
        ((PIO, 0xC000, 64), (MMIO, 0xE0000000, 0x4000), (MMIO, MSIX_BAR, 0x1000), (CONFIG, 0, 256)),
        virtio_usable.net,
        3 << 3,
        assign_virtio,
    ),
    _virtio(
        "virtio_console",
        lambda board, place: VirtioConsole(board, place, [PortSetup(is_console=True), PortSetup("agent")]),
        virtio_usable.console,
    ),
    _virtio(
        "virtio_balloon",
        lambda board, place: VirtioBalloon(board, place, RAM, stats_interval=1.0),
        virtio_usable.balloon,
    ),
    _virtio("virtio_input", lambda board, place: VirtioInput(board, place, "tablet"), virtio_usable.tablet),
    _virtio("virtio_python", PythonVirtioDevice, virtio_usable.python),
    _virtio(
        "virtio_rng",
        lambda board, place: VirtioRng(board, place, bytes_per_second=1000, seed=1),
        virtio_usable.rng,
    ),
]
