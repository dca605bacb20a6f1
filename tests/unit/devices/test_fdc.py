"""The Python face of the floppy disk controller, and how a machine gets one."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyvmm import DiskConfig, Machine
from pyvmm.block import open_image
from pyvmm.board import Board
from pyvmm.devices.dma import Dma
from pyvmm.devices.fdc import Fdc, FloppyMedium
from pyvmm.devices.rtc import Rtc
from pyvmm.errors import ConfigError, DeviceError, ImageError
from pyvmm.units import KIB, MIB


def floppy(path: Path, kib: int) -> Path:
    path.write_bytes(bytes(kib * KIB))
    return path


@pytest.mark.parametrize(("kib", "cmos"), [(360, 1), (1200, 2), (720, 3), (1440, 4), (2880, 5)])
def test_machine_with_one_drive(kib: int, cmos: int, tmp_path: Path) -> None:
    """CMOS names the drive (byte 10h) and counts it (14h); the controller answers at its ports."""
    image = floppy(tmp_path / "a.img", kib)
    with Machine(memory=16 * MIB, disks=[DiskConfig(image, "floppy", "raw")], engine="translator") as machine:
        rtc, fdc = machine.devices["rtc"], machine.devices["fdc"]
        assert isinstance(rtc, Rtc)
        assert isinstance(fdc, Fdc)
        assert (rtc[0x10], rtc[0x14] & 0xC1) == (cmos << 4, 0x01)
        machine.pio.write(0x3F2, 1, 0x0C)
        assert fdc.registers.dor == 0x0C
        assert machine.pio.read(0x3F7, 1) & 0x80, "a disk that nobody has looked at is a changed one"


def test_machine_with_two_drives_and_with_three(tmp_path: Path) -> None:
    disks = [DiskConfig(floppy(tmp_path / f"{n}.img", 1440), "floppy", "raw") for n in range(3)]
    with Machine(memory=16 * MIB, disks=disks[:2], engine="translator") as machine:
        rtc = machine.devices["rtc"]
        assert isinstance(rtc, Rtc)
        assert (rtc[0x10], rtc[0x14] & 0xC1) == (0x44, 0x41)
    with pytest.raises(ConfigError, match="--floppy: 3 images"):
        Machine(memory=16 * MIB, disks=disks, engine="translator")


def test_what_is_no_floppy_is_refused(tmp_path: Path) -> None:
    disk = DiskConfig(floppy(tmp_path / "odd.img", 1000), "floppy", "raw")
    with pytest.raises(ImageError, match="no floppy size"):
        Machine(memory=16 * MIB, disks=[disk], engine="translator")


def test_changing_the_disk(tmp_path: Path) -> None:
    """Ejected and inserted, the change line says so; what is not there cannot be changed."""
    board = Board("virtual")
    dma = Dma(board)
    with open_image(floppy(tmp_path / "a.img", 720), "raw") as image:
        medium = FloppyMedium(image, 80, 2, 9, 3)
        fdc = Fdc(board, board.irq_line(6), dma, [medium])
        fdc.eject(0)
        assert fdc.drives == [None]
        assert fdc.registers.changed[0] == 1
        fdc.insert(0, medium)
        assert fdc.drives == [medium]
        with pytest.raises(DeviceError, match="no drive 1"):
            fdc.eject(1)
        with pytest.raises(DeviceError, match="3 drives"):
            Fdc(board, board.irq_line(6), dma, [None] * 3)
        with pytest.raises(DeviceError, match="no disk has"):
            FloppyMedium(image, 86, 2, 9, 3)
        fdc.close()
    dma.close()
    board.close()
