"""Every device of the first PC: what it saves it takes back, no access harms it, and reset makes it new again."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyvmm.block import open_image
from pyvmm.board import Board
from pyvmm.devices.acpi_pm import AcpiPm
from pyvmm.devices.apic import IoApic, Lapic
from pyvmm.devices.base import NativeDevice
from pyvmm.devices.hpet import Hpet
from pyvmm.devices.i8042 import I8042
from pyvmm.devices.ide import Ide, IdeDrive
from pyvmm.devices.pci import IsaBridge, PciBus, PowerManagement
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
from pyvmm.display.serial import CharSink
from pyvmm.errors import DeviceError
from pyvmm.native import ffi, lib


class Bench:
    """A board on a virtual clock, and what is made on it; closed in reverse order."""

    def __init__(self) -> None:
        self.board = Board("virtual")
        self.parts: list[Any] = []
        self.buses: dict[Any, Any] = {}

    def keep(self, part: Any) -> Any:
        """Close this with the bench."""
        self.parts.append(part)
        return part

    def close(self) -> None:
        """All parts, then the board."""
        for part in reversed(self.parts):
            part.close()
        self.board.close()


@dataclass(frozen=True)
class Kind:
    """How to make a device, and the ports that it has: (region, bytes)."""

    name: str
    make: Callable[[Bench], NativeDevice]
    regions: tuple[tuple[int, int], ...]


def _make_uart(bench: Bench) -> NativeDevice:
    return Uart(bench.board, bench.board.irq_line(4), bench.keep(CharSink(bench.board, capture=64)))


def _make_port61(bench: Bench) -> NativeDevice:
    return NmiAndSpeaker(bench.board, bench.keep(Pit(bench.board, bench.board.irq_line(0))))


def _make_acpi_pm(bench: Bench) -> NativeDevice:
    return AcpiPm(
        bench.board, bench.board.irq_line(9), s5_type=5, acpi_enable=1, acpi_disable=2, timer_bits=24
    )


def _make_vga(bench: Bench) -> NativeDevice:
    return Vga(bench.board, bench.keep(PciBus(bench.board)), slot=2)


def _image(bench: Bench, size: int, read_only: bool = False) -> Any:
    """A raw image of a temporary file."""
    with tempfile.NamedTemporaryFile(suffix=".raw") as file:
        file.write(bytes(range(256)) * (size // 256))
        file.flush()
        return bench.keep(open_image(file.name, "raw", cache="unsafe", read_only=read_only))


def _make_ide(bench: Bench) -> NativeDevice:
    pci = bench.keep(PciBus(bench.board))
    bench.keep(IsaBridge(bench.board, pci, 1))
    drives = [
        IdeDrive("disk", _image(bench, 64 << 10)),
        None,
        IdeDrive("cdrom", _image(bench, 64 << 10, True)),
    ]
    device = Ide(bench.board, pci, 1, (bench.board.irq_line(14), bench.board.irq_line(15)), drives)
    bench.buses[device.pointer] = pci.bus
    return device


def decode_ide(bench: Bench, device: Ide) -> None:
    """What firmware does, so that the ports answer."""
    bus = bench.buses[device.pointer]
    lib.pci_bus_config_write(bus, 1 << 3 | 1, 0x40, 4, 0x80008000)
    lib.pci_bus_config_write(bus, 1 << 3 | 1, 0x04, 2, 0x05)


def _make_smbus(bench: Bench) -> NativeDevice:
    pci = bench.keep(PciBus(bench.board))
    bench.keep(IsaBridge(bench.board, pci, 1))
    device = PowerManagement(bench.board, pci, 1, 0x600, bench.board.irq_line(9))
    bench.buses[device.pointer] = pci.bus
    return device


def enable_smbus(bench: Bench, device: PowerManagement) -> None:
    """What firmware does; where the ports are does not matter to a device that is asked directly."""
    lib.pci_bus_config_write(bench.buses[device.pointer], 1 << 3 | 3, 0xD2, 1, 0x09)


def _make_lapic(bench: Bench) -> NativeDevice:
    """The bootstrap processor's; a board has one, so each is on a board of its own, with the same time."""
    now = bench.board.clock.now
    if bench.board not in bench.parts:
        bench.keep(bench.board)
    bench.board = bench.keep(Board("virtual"))
    lib.clock_set(bench.board.clock.pointer, now)
    return Lapic(bench.board)


def _make_ioapic(bench: Bench) -> NativeDevice:
    if not isinstance(bench.parts[-1] if bench.parts else None, IoApic):
        bench.keep(_make_lapic(bench))
    return IoApic(bench.board, 2)


KINDS = [
    Kind("pic", lambda bench: Pic(bench.board), ((0, 2), (1, 2), (2, 2))),
    Kind("pit", lambda bench: Pit(bench.board, bench.board.irq_line(0)), ((0, 4),)),
    Kind("vga", _make_vga, ((Vga.PORTS, 0x30), (Vga.DISPI, 4))),
    Kind("lapic", _make_lapic, ((0, 0x1000),)),
    Kind("ioapic", _make_ioapic, ((0, 0x50),)),
    Kind("rtc", lambda bench: Rtc(bench.board, bench.board.irq_line(8)), ((0, 2),)),
    Kind(
        "hpet",
        lambda bench: Hpet(bench.board, bench.board.irq_line(0), bench.board.irq_line(8)),
        ((0, 0x400),),
    ),
    Kind("uart", _make_uart, ((0, 8),)),
    Kind(
        "i8042",
        lambda bench: I8042(bench.board, bench.board.irq_line(1), bench.board.irq_line(12)),
        ((0, 1), (1, 1)),
    ),
    Kind("ide", _make_ide, ((0, 8), (1, 1), (2, 8), (3, 1), (4, 16))),
    Kind("smbus", _make_smbus, ((0, 16),)),
    Kind("acpi_pm", _make_acpi_pm, ((0, 12), (1, 2))),
    Kind("port92", lambda bench: SystemControlA(bench.board), ((0, 1),)),
    Kind("port61", _make_port61, ((0, 1),)),
    Kind("post_code", lambda bench: PostCode(bench.board), ((0, 1),)),
    Kind("debug_console", lambda bench: DebugConsole(bench.board), ((0, 1),)),
    Kind("exit_port", lambda bench: ExitPort(bench.board), ((0, 1),)),
    Kind("reset_control", lambda bench: ResetControl(bench.board), ((0, 1),)),
    Kind("firmware_port", lambda bench: FirmwarePort(bench.board), ((0, 2),)),
]


@pytest.fixture(params=KINDS, ids=lambda kind: kind.name)
def kind(request: pytest.FixtureRequest) -> Kind:
    """Each device in turn."""
    found: Kind = request.param
    return found


@pytest.fixture
def bench() -> Iterator[Bench]:
    """A fresh board."""
    made = Bench()
    yield made
    made.close()


@dataclass(frozen=True)
class Access:
    """What a guest may do: a read or write anywhere in the device, then time passes."""

    region: int
    offset: int
    size: int
    value: int | None
    ns: int


def accesses(kind: Kind) -> st.SearchStrategy[list[Access]]:
    """Any sequence of accesses to a device's regions; most are bytes, as guests do."""

    def in_region(region: tuple[int, int]) -> st.SearchStrategy[Access]:
        return st.builds(
            Access,
            region=st.just(region[0]),
            offset=st.integers(0, region[1] - 1),
            size=st.sampled_from((1, 1, 1, 2, 4)),
            value=st.none() | st.integers(0, 255) | st.integers(0, 0xFFFFFFFF),
            ns=st.sampled_from((0, 0, 1, 1_000, 1_000_000, 1_000_000_000, 86_400_000_000_000)),
        )

    return st.lists(st.one_of(*map(in_region, kind.regions)), max_size=60)


def perform(bench: Bench, device: NativeDevice, sequence: list[Access]) -> None:
    """Drive the device as a guest would, with some of what comes from outside."""
    if isinstance(device, Ide):
        decode_ide(bench, device)
    elif isinstance(device, PowerManagement):
        enable_smbus(bench, device)
    for access in sequence:
        if access.value is None:
            value = device.pio_read(access.region, access.offset, access.size)
            assert 0 <= value < 1 << (8 * access.size)
        else:
            device.pio_write(access.region, access.offset, access.size, access.value)
        if isinstance(device, Uart):
            device.receive(b"ab")
        elif isinstance(device, I8042):
            device.key(b"\xf0\x1c")
        elif isinstance(device, AcpiPm):
            device.power_button()
        elif isinstance(device, Lapic):
            lib.board_msi(bench.board.pointer, 0xFEE00000 | (access.value or 0) & 0xFF00C, access.offset)
        elif isinstance(device, IoApic):
            lib.irq_line_pulse(bench.board.irq_line(access.offset % 24).pointer)
        elif isinstance(device, Pic):
            lib.irq_line_pulse(bench.board.irq_line(access.offset * 5 % 16).pointer)
        lib.board_take_request(bench.board.pointer, ffi.new("uint32_t *"))
        bench.board.clock.advance(access.ns)


def behaviour(bench: Bench, device: NativeDevice, kind: Kind) -> list[int]:
    """What the guest sees of it: every port read once."""
    return [device.pio_read(region, offset, 1) for region, size in kind.regions for offset in range(size)]


quick = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


@quick
@given(data=st.data())
def test_restored_into_a_new_device_it_is_the_same(kind: Kind, data: st.DataObject) -> None:
    bench = Bench()
    try:
        first = bench.keep(kind.make(bench))
        perform(bench, first, data.draw(accesses(kind)))
        saved = first.save()
        registers = asdict(first.registers)
        second = bench.keep(kind.make(bench))
        second.restore(saved)
        assert second.save() == saved
        assert asdict(second.registers) == registers
        if isinstance(first, Uart) and first.receive_room < 4096:
            return  # what the host still holds for the line is not the machine's state
        assert behaviour(bench, second, kind) == behaviour(bench, first, kind)
    finally:
        bench.close()


@quick
@given(data=st.data())
def test_reset_after_any_accesses_makes_it_new(kind: Kind, data: st.DataObject) -> None:
    bench = Bench()
    try:
        device = bench.keep(kind.make(bench))
        perform(bench, device, data.draw(accesses(kind)))
        device.reset()
        once = device.save()
        device.reset()
        assert device.save() == once
        if not isinstance(
            device, (Rtc, AcpiPm, Pic, IoApic)
        ):  # the battery's time, the PM timer and the wires go on
            fresh = bench.keep(kind.make(bench))
            assert fresh.save() == once
    finally:
        bench.close()


@quick
@given(noise=st.data())
def test_a_spoiled_state_is_refused_or_harmless(kind: Kind, noise: st.DataObject) -> None:
    bench = Bench()
    try:
        device = bench.keep(kind.make(bench))
        before = device.save()
        size = len(before) - 4
        short = min(size, 2048)  # hypothesis draws no more at once; the rest of a large state is what it was
        spoiled = before[:4] + noise.draw(st.binary(min_size=short, max_size=short)) + before[4 + short :]
        try:
            device.restore(spoiled)
        except DeviceError:
            assert device.save() == before
        perform(bench, device, noise.draw(accesses(kind)))
        device.save()
    finally:
        bench.close()


def test_a_state_of_another_version_or_size_is_refused(kind: Kind, bench: Bench) -> None:
    device = bench.keep(kind.make(bench))
    saved = device.save()
    with pytest.raises(DeviceError, match="version"):
        device.restore(b"\xff\xff\xff\xff" + saved[4:])
    with pytest.raises(DeviceError, match="version"):
        device.restore(saved[:-1])
    device.restore(saved)


def test_registers_are_readable_by_name(kind: Kind, bench: Bench) -> None:
    device = bench.keep(kind.make(bench))
    text = repr(device.registers)
    assert "cdata" not in text
    assert text.startswith(device.state_type)
