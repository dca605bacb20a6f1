"""The floppy disk controller under software that knows nothing of us: Linux's floppy driver, SeaBIOS, SYSLINUX."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from pyvmm import DiskConfig, Machine
from pyvmm.firmware import seabios
from pyvmm.guests.cached import cached_initramfs, cached_kernel
from pyvmm.units import KIB, MIB
from tests.boot import bios_images
from tests.boot.guests import need

pytestmark = [pytest.mark.boot, pytest.mark.timeout(900)]
TIMEOUT = 300.0


def ask(machine: Machine, command: str) -> str:
    """Run a command in the guest's shell; what it prints."""
    machine.serial.send(f"{command}; echo en''ded\n")
    return machine.serial.expect("ended\r\n", timeout=TIMEOUT).decode(errors="replace")


def filled(path: Path, kib: int) -> Path:
    """An image in which no two sectors are alike."""
    path.write_bytes(b"".join(hashlib.sha512(str(n).encode()).digest() * 8 for n in range(2 * kib)))
    return path


def test_linux_reads_and_writes_two_drives(tmp_path: Path, record_exercised: Callable[..., None]) -> None:
    """The generic kernel's floppy module: sizes found out by itself, tracks by DMA, both drives."""
    need("apt-get", "dpkg-deb", "busybox")
    images = filled(tmp_path / "a.img", 1440), filled(tmp_path / "b.img", 360)
    before = [image.read_bytes() for image in images]
    with Machine(
        memory=256 * MIB,
        kernel=cached_kernel("generic"),
        initrd=cached_initramfs(modules=("floppy",), flavour="generic"),
        append="console=ttyS0 quiet",
        disks=[DiskConfig(image, "floppy", "raw") for image in images],
        serial="buffer",
    ) as machine:
        machine.serial.expect("guest# ", timeout=TIMEOUT)
        log = ask(machine, "dmesg | grep -iE 'floppy|FDC'")
        assert "fd0 is 1.44M, fd1 is 360K" in log, log
        assert "FDC 0 is a post-1991 82077" in log, log
        for name, data in zip(("fd0", "fd1"), before, strict=True):
            middle = data[300 * 512 : 700 * 512]
            digest = ask(machine, f"dd if=/dev/{name} bs=512 skip=300 count=400 | md5sum")
            assert hashlib.md5(middle).hexdigest() in digest
            ask(machine, f"yes pyvmm | dd of=/dev/{name} bs=512 seek=37 count=50 conv=fsync iflag=fullblock")
        assert "I/O error" not in ask(machine, "dmesg")
        machine.serial.send("poweroff -f\n")
        assert machine.run(timeout=TIMEOUT).reason == "poweroff"
        record_exercised(engine=machine.engine_name, guest="Debian generic kernel, floppy")
    written = (b"pyvmm\n" * 5000)[: 50 * 512]
    for image, data in zip(images, before, strict=True):
        assert image.read_bytes() == data[: 37 * 512] + written + data[87 * 512 :]


@pytest.mark.parametrize("kib", [360, 720, 1200, 1440, 2880])
def test_seabios_boots_each_format(kib: int, tmp_path: Path, record_exercised: Callable[..., None]) -> None:
    """Its own driver, which finds the data rate out by trying."""
    if not any(Path(path).exists() for path in seabios.PATHS):
        pytest.skip("SeaBIOS is missing: package seabios")
    image = bios_images.sized(tmp_path / "floppy.img", bios_images.boot_sector(tmp_path), kib * KIB)
    with Machine(
        memory=16 * MIB,
        disks=[DiskConfig(image, "floppy", "raw")],
        boot_order="a",
        firmware="seabios",
        serial="buffer",
    ) as machine:
        result = machine.run(timeout=TIMEOUT)
        assert (result.reason, result.code) == ("exit", bios_images.EXIT_VALUE << 1 | 1), (
            machine.screen.text()
        )
        record_exercised(engine=machine.engine_name, guest=f"boot sector on {kib}K, SeaBIOS")


def test_seabios_boots_syslinux(tmp_path: Path, record_exercised: Callable[..., None]) -> None:
    """A boot loader that reads a file system of many tracks."""
    if not any(Path(path).exists() for path in seabios.PATHS):
        pytest.skip("SeaBIOS is missing: package seabios")
    with Machine(
        memory=32 * MIB,
        disks=[DiskConfig(bios_images.syslinux_floppy(tmp_path), "floppy", "raw")],
        boot_order="a",
        firmware="seabios",
        serial="buffer",
    ) as machine:
        assert machine.wait_for(lambda: "SYSLINUX" in machine.screen.text(), TIMEOUT), machine.screen.text()
        record_exercised(engine=machine.engine_name, guest="SYSLINUX on a floppy, SeaBIOS")
