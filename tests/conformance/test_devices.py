"""Every device of the PC: what it saves it takes back, no access harms it, and reset makes it new and usable again."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyvmm.devices.acpi_pm import AcpiPm
from pyvmm.devices.apic import IoApic, Lapic
from pyvmm.devices.base import Device, NativeDevice
from pyvmm.devices.i8042 import I8042
from pyvmm.devices.pci import PciDevice
from pyvmm.devices.pflash import Pflash
from pyvmm.devices.pic import Pic
from pyvmm.devices.rtc import Rtc
from pyvmm.devices.uart import Uart
from pyvmm.devices.vga import Vga
from pyvmm.devices.virtio.base import VirtioDevice
from pyvmm.errors import DeviceError
from pyvmm.native import ffi, lib
from tests.conformance.device_kinds import KINDS, Bench, Kind, read, write


@pytest.fixture(params=KINDS, ids=lambda kind: kind.name)
def kind(request: pytest.FixtureRequest) -> Kind:
    """Each device in turn."""
    found: Kind = request.param
    return found


@pytest.fixture(params=[kind for kind in KINDS if kind.name != "fw_cfg"], ids=lambda kind: kind.name)
def native_kind(request: pytest.FixtureRequest) -> Kind:
    """Each device in C, whose state is bytes."""
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

    def in_region(region: int) -> st.SearchStrategy[Access]:
        return st.builds(
            Access,
            region=st.just(region),
            offset=st.integers(0, kind.regions[region][-1] - 1),
            size=st.sampled_from((1, 1, 1, 2, 4)),
            value=st.none() | st.integers(0, 255) | st.integers(0, 0xFFFFFFFF),
            ns=st.sampled_from((0, 0, 1, 1_000, 1_000_000, 1_000_000_000, 86_400_000_000_000)),
        )

    return st.lists(st.one_of(*map(in_region, range(len(kind.regions)))), max_size=60)


def perform(kind: Kind, bench: Bench, device: Any, sequence: list[Access]) -> None:
    """Drive the device as a guest would, with some of what comes from outside."""
    kind.firmware(kind.ports(bench, device))
    for access in sequence:
        if access.value is None:
            value = read(kind, bench, device, access.region, access.offset, access.size)
            assert 0 <= value < 1 << (8 * access.size)
        else:
            write(kind, bench, device, access.region, access.offset, access.size, access.value)
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


def behaviour(bench: Bench, device: Any, kind: Kind) -> list[int]:
    """What the guest sees of it: every port read once, and of a large region its beginning."""
    return [
        read(kind, bench, device, region, offset, 1)
        for region, extent in enumerate(kind.regions)
        for offset in range(min(extent[-1], 0x400))
    ]


quick = settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))


@quick
@given(data=st.data())
def test_restored_into_a_new_device_it_is_the_same(kind: Kind, data: st.DataObject) -> None:
    bench = Bench()
    try:
        first = kind.build(bench)
        perform(kind, bench, first, data.draw(accesses(kind)))
        saved = first.save()
        registers = asdict(first.registers) if isinstance(first, NativeDevice) else None
        second = kind.build(bench)
        second.restore(saved)
        assert second.save() == saved
        if registers is not None:
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
        device = kind.build(bench)
        perform(kind, bench, device, data.draw(accesses(kind)))
        device.reset()
        once = device.save()
        device.reset()
        assert device.save() == once
        # The battery's time, the PM timer and the wires go on; flash and video memory hold what they hold.
        if isinstance(device, (Pflash, Vga)):
            assert asdict(kind.build(bench).registers) == asdict(device.registers)
        elif not isinstance(device, (Rtc, AcpiPm, Pic, IoApic)):
            assert kind.build(bench).save() == once
    finally:
        bench.close()


@quick
@given(data=st.data())
def test_reset_after_any_accesses_leaves_it_usable(kind: Kind, data: st.DataObject) -> None:
    bench = Bench()
    try:
        device = kind.build(bench)
        perform(kind, bench, device, data.draw(accesses(kind)))
        device.reset()
        kind.usable(kind.ports(bench, device))
    finally:
        bench.close()


def _classes(base: type[Device]) -> set[type[Device]]:
    found = set()
    for name in base.__subclasses__():
        found |= {name} | _classes(name)
    return found


def test_every_device_is_here(bench: Bench) -> None:
    """A device class that is not in this suite is a mistake. virtio-blk stands for the transport of all virtio devices,
    whose queues have tests of their own (csrc/tests/test_virtio_*.c)."""
    import pyvmm.devices

    for module in pkgutil.walk_packages(pyvmm.devices.__path__, "pyvmm.devices."):
        importlib.import_module(module.name)
    here = {type(kind.build(bench)) for kind in KINDS}
    ours = {name for name in _classes(Device) if name.__module__.startswith("pyvmm.devices.")}
    bases = {NativeDevice, PciDevice} | _classes(VirtioDevice) | {VirtioDevice}
    assert {name.__name__ for name in ours - bases - here} == set()


@quick
@given(noise=st.data())
def test_a_spoiled_state_is_refused_or_harmless(native_kind: Kind, noise: st.DataObject) -> None:
    bench = Bench()
    try:
        device = native_kind.build(bench)
        before = device.save()
        size = len(before) - 4
        short = min(size, 2048)  # hypothesis draws no more at once; the rest of a large state is what it was
        spoiled = before[:4] + noise.draw(st.binary(min_size=short, max_size=short)) + before[4 + short :]
        try:
            device.restore(spoiled)
        except DeviceError:
            assert device.save() == before
        perform(native_kind, bench, device, noise.draw(accesses(native_kind)))
        device.save()
    finally:
        bench.close()


def test_a_state_of_another_version_or_size_is_refused(native_kind: Kind, bench: Bench) -> None:
    device = native_kind.build(bench)
    saved = device.save()
    with pytest.raises(DeviceError, match="version"):
        device.restore(b"\xff\xff\xff\xff" + saved[4:])
    with pytest.raises(DeviceError, match="version"):
        device.restore(saved[:-1])
    device.restore(saved)


def test_registers_are_readable_by_name(native_kind: Kind, bench: Bench) -> None:
    device = native_kind.build(bench)
    text = repr(device.registers)
    assert "cdata" not in text
    assert text.startswith(device.state_type)
