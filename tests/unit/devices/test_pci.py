"""The PCI bus from Python: listing, configuration space by name, a function written in Python, interrupt links."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pyvmm.board import Board
from pyvmm.devices.base import Device
from pyvmm.devices.pci import Bar, HostBridge, IsaBridge, PciBus, PciDevice, PowerManagement
from pyvmm.errors import DeviceError

PIRQRC = 0x60


class Pc:
    """A board with the chip set's functions, and a list of what to close."""

    def __init__(self) -> None:
        self.board = Board(clock="virtual")
        self.pci = PciBus(self.board)
        self.board.pio.add(0xCF8, 1, self.pci, PciBus.ADDRESS)
        self.board.pio.add(0xCFC, 4, self.pci, PciBus.DATA)
        self.devices: list[Device] = [
            HostBridge(self.board, self.pci),
            IsaBridge(self.board, self.pci, 1),
            PowerManagement(self.board, self.pci, 1, 0x600, self.board.irq_line(9)),
        ]

    def close(self) -> None:
        for device in reversed(self.devices):
            device.close()
        self.pci.close()
        self.board.close()


@pytest.fixture
def pc() -> Iterator[Pc]:
    machine = Pc()
    yield machine
    machine.close()


class Adder(PciDevice):
    """Two ports' sum, and a byte of memory; writing port 4 interrupts."""

    name = "adder"
    device_id = 0xADDE
    interrupt_pin = 2
    bars = (Bar(16, io=True), Bar(4096), Bar(1 << 20, wide=True, index=4))

    def __init__(self) -> None:
        super().__init__()
        self.cells = [0, 0]
        self.memory = bytearray(4096)

    def pio_read(self, region: int, offset: int, size: int) -> int:
        return sum(self.cells) if offset == 8 else super().pio_read(region, offset, size)

    def pio_write(self, region: int, offset: int, size: int, value: int) -> None:
        if offset == 4:
            self.raise_irq() if value else self.lower_irq()
        else:
            self.cells[offset & 1] = value

    def mmio_read(self, region: int, offset: int, size: int) -> int:
        return region << 8 | self.memory[offset & 0xFFF]

    def mmio_write(self, region: int, offset: int, size: int, value: int) -> None:
        self.memory[offset] = value & 0xFF


def test_listing(pc: Pc) -> None:
    lines = [str(function) for function in pc.pci]
    assert lines[0] == "00:00.0 8086:1237 i440fx (host bridge)"
    assert lines[1] == "00:01.0 8086:7000 piix3-isa (ISA bridge)"
    assert lines[2] == "00:01.3 8086:7113 piix4-pm (bridge)"
    assert len(lines) == 3
    assert "00:01.0" in repr(pc.pci)


def test_header_by_name(pc: Pc) -> None:
    header = pc.pci[0].header
    assert (header.vendor_id, header.device_id, header.class_code) == (0x8086, 0x1237, 0x060000)
    assert pc.pci[1].header.header_type == 0x80
    assert pc.pci[1, 3].read(0x40, 4) == 0x601
    assert pc.pci[0].config[:4] == bytes.fromhex("86803712")


def test_guest_sees_the_same(pc: Pc) -> None:
    pc.board.pio.write(0xCF8, 4, 0x80000000 | 1 << 11)
    assert pc.board.pio.read(0xCFC, 4) == 0x70008086
    assert pc.board.pio.read(0xCFE, 2) == 0x7000


@pytest.mark.parametrize(("offset", "size"), [(1, 2), (2, 4), (0, 3), (256, 1), (-4, 4), (254, 4)])
def test_bad_config_access(pc: Pc, offset: int, size: int) -> None:
    with pytest.raises(DeviceError, match="PCI configuration"):
        pc.pci[0].read(offset, size)


@pytest.mark.parametrize("place", [5, 32, -1, (0, 8), (1, 2)])
def test_empty_place(pc: Pc, place: int | tuple[int, int]) -> None:
    with pytest.raises(DeviceError, match="PCI slot"):
        pc.pci[place]


def test_free_slot(pc: Pc) -> None:
    assert pc.pci.free_slot() == 2
    assert pc.pci.free_slot(3) == 3
    with pytest.raises(DeviceError, match="no PCI slot"):
        pc.pci.free_slot(32)


@pytest.fixture
def adder(pc: Pc) -> Adder:
    device = Adder()
    pc.pci.add(device, 4)
    pc.devices.append(device)
    device.function.write(0x10, 4, 0xC100)
    device.function.write(0x14, 4, 0xE0000000)
    device.function.write(0x20, 4, 0)
    device.function.write(0x24, 4, 0x80)
    return device


def test_python_function(pc: Pc, adder: Adder) -> None:
    assert [bar.index for bar in adder.function.bars] == [0, 1, 4]
    assert all(bar.base is None for bar in adder.function.bars)
    assert pc.board.pio.read(0xC108, 1) == 0xFF
    adder.function.write(0x04, 2, 3)
    pc.board.pio.write(0xC100, 1, 20)
    pc.board.pio.write(0xC101, 1, 22)
    assert pc.board.pio.read(0xC108, 1) == 42
    pc.board.mmio.write(0xE0000005, 1, 7)
    assert pc.board.mmio.read(0xE0000005, 2) == 0x107
    assert pc.board.mmio.read(0x8000000005, 2) == 0x407
    assert "BAR0 I/O 0xc100+0x10, BAR1 mem 0xe0000000+0x1000, BAR4 mem64 0x8000000000+0x100000" in str(
        adder.function
    )
    adder.reset()
    assert pc.board.pio.read(0xC108, 1) == 0xFF


class Messenger(PciDevice):
    """Both kinds of messages."""

    name = "messenger"
    device_id = 0x3E55
    bars = (Bar(16, io=True),)
    msi_vectors = 4
    msix_vectors = 3


@pytest.fixture
def messenger(pc: Pc) -> Messenger:
    device = Messenger()
    pc.pci.add(device, 5)
    pc.devices.append(device)
    device.function.write(0x14, 4, 0xE0001000)
    device.function.write(0x04, 2, 6)
    return device


def word(pc: Pc, gpa: int) -> int:
    """What a message stored: those to RAM are stores."""
    return pc.board.memory.read_u32(gpa)


def test_msix_of_a_python_function(pc: Pc, messenger: Messenger) -> None:
    pc.board.memory.add(0, 0x10000)
    assert [bar.index for bar in messenger.function.bars] == [0, 1]
    at = dict(messenger.function.capabilities)[0x11]
    assert messenger.notify(1) is False  # the guest listens to the pin
    pc.board.mmio.write(0xE0001010, 8, 0x1000)
    pc.board.mmio.write(0xE0001018, 4, 0xABCD)
    messenger.function.write(at + 2, 2, 0x8000)
    assert messenger.notify(1) is True
    assert word(pc, 0x1000) == 0  # masked, and pending
    assert pc.board.mmio.read(0xE0001800, 8) == 2
    saved = messenger.save()
    messenger.reset()
    assert pc.board.mmio.read(0xE0001800, 8) == 0xFFFFFFFFFFFFFFFF
    messenger.restore(saved)
    pc.board.mmio.write(0xE000101C, 4, 0)
    assert word(pc, 0x1000) == 0xABCD
    assert pc.board.mmio.read(0xE0001800, 8) == 0
    assert messenger.notify(3) is True  # there is none: nothing happens


def test_msi_of_a_python_function(pc: Pc, messenger: Messenger) -> None:
    pc.board.memory.add(0, 0x10000)
    at = dict(messenger.function.capabilities)[0x05]
    assert messenger.function.read(at + 2, 2) == 0x84  # four vectors wanted, 64-bit addresses
    messenger.function.write(at + 4, 4, 0x2000)
    messenger.function.write(at + 12, 2, 0x40)
    messenger.raise_irq()
    messenger.function.write(at + 2, 2, 0x11)  # enabled, two granted
    assert not messenger.function.header.status & 8  # the pin is silent
    assert messenger.notify(3) is True
    assert word(pc, 0x2000) == 0x41
    messenger.function.write(at + 2, 2, 0)
    assert messenger.function.header.status & 8


def test_too_many_vectors(pc: Pc) -> None:
    class Many(Messenger):
        msix_vectors = 65

    with pytest.raises(DeviceError, match="65 MSI-X vectors"):
        pc.pci.add(Many(), 6)


def test_bar_moves(pc: Pc, adder: Adder) -> None:
    adder.function.write(0x04, 2, 1)
    adder.function.write(0x10, 4, 0xFFFFFFFF)
    assert adder.function.read(0x10, 4) == 0xFFFFFFF1
    adder.function.write(0x10, 4, 0xC200)
    assert pc.board.pio.read(0xC108, 1) == 0xFF
    assert pc.board.pio.read(0xC208, 1) == 0


def test_interrupt_follows_link(pc: Pc, adder: Adder) -> None:
    adder.function.write(0x04, 2, 1)
    assert adder.function.interrupt_gsi is None
    link = (4 + 1 - 1) % 4  # slot 1's INTA# is link A
    pc.pci[1].write(PIRQRC + link, 1, 11)
    assert adder.function.interrupt_gsi == 11
    pc.board.pio.write(0xC104, 1, 1)
    assert adder.function.header.status & 8
    pc.board.pio.write(0xC104, 1, 0)
    assert not adder.function.header.status & 8
    assert "INTB# -> IRQ 11" in str(adder.function)


def test_exception_in_function_is_kept(pc: Pc) -> None:
    class Broken(Adder):
        def pio_read(self, region: int, offset: int, size: int) -> int:
            raise ZeroDivisionError

    device = Broken()
    pc.pci.add(device, 5)
    pc.devices.append(device)
    device.function.write(0x10, 4, 0xC100)
    device.function.write(0x04, 2, 1)
    with pytest.raises(ZeroDivisionError):  # Python itself made the access: it is raised there
        pc.board.pio.read(0xC100, 1)
    assert pc.board.take_fault() is None


def test_save_and_restore(pc: Pc, adder: Adder) -> None:
    adder.function.write(0x04, 2, 3)
    state = adder.save()
    adder.reset()
    adder.restore(state)
    assert pc.board.pio.read(0xC108, 1) == 0
    assert adder.function.bars[0].base == 0xC100
    with pytest.raises(DeviceError):
        adder.restore(state[:-1])
    with pytest.raises(DeviceError):
        adder.restore(state[:4] + b"\0\0" + state[6:])  # another vendor
    assert adder.function.header.vendor_id == 0x1234


def test_collision_is_told(pc: Pc, adder: Adder) -> None:
    other = Adder()
    pc.pci.add(other, 6)
    pc.devices.append(other)
    adder.function.write(0x04, 2, 1)
    other.function.write(0x10, 4, 0xC100)
    other.function.write(0x04, 2, 1)
    bar = other.function.bars[0]
    assert bar.base == 0xC100
    assert not bar.mapped
    assert any("overlaps adder" in line for line in pc.board.messages())


def test_wrong_python_functions(pc: Pc, adder: Adder) -> None:
    with pytest.raises(DeviceError, match="slot 4 function 0 is taken by adder"):
        pc.pci.add(Adder(), 4)
    with pytest.raises(DeviceError, match="already"):
        pc.pci.add(adder, 7)
    with pytest.raises(DeviceError, match="slots are 0 to 31"):
        pc.pci.add(Adder(), 40)
    with pytest.raises(DeviceError, match="not on a PCI bus"):
        Adder().raise_irq()

    class OddBar(PciDevice):
        bars = (Bar(100),)

    class WideIdentity(PciDevice):
        vendor_id = 0x12345

    for wrong, message in ((OddBar, "power of two"), (WideIdentity, "out of range")):
        with pytest.raises(DeviceError, match=message):
            pc.pci.add(wrong(), 9)
    assert pc.pci.free_slot(9) == 9


def test_power_management_base(pc: Pc) -> None:
    with pytest.raises(DeviceError, match="PMBASE"):
        PowerManagement(pc.board, pc.pci, 8, 0x601, pc.board.irq_line(9))
