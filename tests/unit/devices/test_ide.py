"""The IDE controller as a Python object, and on the PC."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pyvmm import Machine, MachineConfig
from pyvmm.block import open_image
from pyvmm.board import Board
from pyvmm.config import DiskConfig
from pyvmm.devices.ide import Ide, IdeDrive
from pyvmm.devices.pci import IsaBridge, PciBus
from pyvmm.errors import ConfigError, DeviceError
from pyvmm.firmware.pci_setup import assign_resources
from pyvmm.machine import layout

DISK = bytes(range(256)) * 256


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A raw disk of 64 KiB."""
    path = tmp_path / "disk.raw"
    path.write_bytes(DISK)
    return path


@pytest.fixture
def machine(disk: Path, tmp_path: Path) -> Iterator[Machine]:
    """A PC that is not running, with a disk and a disc."""
    iso = tmp_path / "disc.iso"
    iso.write_bytes(b"iso!" * 2048)
    disks = [DiskConfig(disk, "ide", "raw"), DiskConfig(iso, "cdrom", "raw")]
    with Machine(MachineConfig(memory=16 << 20, disks=disks, serial="buffer", clock="virtual")) as made:
        assign_resources(made.pio)
        yield made


def ide_of(machine: Machine) -> Ide:
    """Its controller."""
    device = machine.devices["ide"]
    assert isinstance(device, Ide)
    return device


def test_firmware_gives_it_what_it_needs(machine: Machine) -> None:
    pci = machine.devices["pci"]
    assert isinstance(pci, PciBus)
    function = pci[layout.PCI_ISA_BRIDGE, layout.PCI_IDE_FUNCTION]
    assert (function.header.vendor_id, function.header.device_id) == (0x8086, 0x7010)
    assert function.header.class_code == 0x010180
    assert [bar.size for bar in function.bars] == [16]
    assert machine.pio.read(0x1F7, 1) == 0x50
    assert machine.pio.read(0x3F6, 1) == 0x50


def test_a_sector_through_the_ports(machine: Machine) -> None:
    pio, ide = machine.pio, ide_of(machine)
    for register, value in ((6, 0xE0), (2, 1), (3, 3), (4, 0), (5, 0), (7, 0x20)):
        pio.write(0x1F0 + register, 1, value)
    assert ide.registers.channels[0].drives[0].status == 0x58
    assert ide.registers.channels[0].transfer.end == 512
    data = b"".join(pio.read(0x1F0, 2).to_bytes(2, "little") for _ in range(256))
    assert data == DISK[3 * 512 : 4 * 512]
    counters = ide.counters(0)
    assert (counters.commands, counters.pio_blocks, counters.bytes_read) == (1, 1, 512)
    assert ide.counters(1).commands == 0


def test_drives_have_their_places(machine: Machine) -> None:
    kinds = [drive and drive.kind for drive in ide_of(machine).drives]
    assert kinds == ["disk", None, "cdrom", None]


def test_discs_are_changed(machine: Machine, tmp_path: Path) -> None:
    ide = ide_of(machine)
    another = tmp_path / "another.iso"
    another.write_bytes(bytes(4096))
    ide.eject(2)
    assert ide.registers.channels[1].drives[0].media_event == 3
    with open_image(another, "raw", read_only=True) as other:
        ide.insert(2, other)
        assert ide.registers.channels[1].drives[0].attention == 2
        ide.eject(2)
    for place in (0, 1, 4, -1):
        with pytest.raises(DeviceError, match="no CD-ROM drive at place"):
            ide.eject(place)


def test_without_drives_there_is_no_controller() -> None:
    with Machine(MachineConfig(memory=16 << 20, serial="buffer")) as machine:
        assert "ide" not in machine.devices
        assert machine.pio.read(0x1F7, 1) == 0xFF


def test_a_fifth_drive_is_refused(tmp_path: Path) -> None:
    disks = []
    for number in range(5):
        path = tmp_path / f"{number}.raw"
        path.write_bytes(bytes(512))
        disks.append(DiskConfig(path, "ide", "raw"))
    with pytest.raises(ConfigError, match=r"4\.raw: the IDE controller has four drives already"):
        Machine(MachineConfig(memory=16 << 20, disks=disks, serial="buffer"))


@pytest.mark.parametrize(
    ("drives", "why"),
    [
        ([IdeDrive("disk")], "no image"),
        ([IdeDrive("cdrom", serial="x" * 21)], "at most 20"),
        ([IdeDrive("cdrom", serial="é")], "at most 20"),
        ([None] * 5, "room for 4"),
    ],
)
def test_bad_drives_are_refused(drives: Any, why: str) -> None:
    board = Board("virtual")
    pci = PciBus(board)
    bridge = IsaBridge(board, pci, 1)
    with pytest.raises(DeviceError, match=why):
        Ide(board, pci, 1, (board.irq_line(14), board.irq_line(15)), drives)
    bridge.close()
    pci.close()
    board.close()
