"""The microvm: Linux finds its virtio devices by ACPI, and what it is told without."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from pyvmm import DiskConfig, Machine
from pyvmm.config import NetworkConfig, RngConfig, VsockConfig
from pyvmm.errors import ConfigError, PyvmmError
from pyvmm.guests.cached import cached_initramfs, cached_kernel
from pyvmm.net import User
from pyvmm.net.user import availability
from tests.boot.guests import need

pytestmark = [pytest.mark.boot, pytest.mark.timeout(600)]

MIB = 1 << 20


@pytest.fixture(scope="session")
def mmio_initramfs(guest_cache: Path, cloud_kernel: Path) -> Path:
    """A busybox initramfs that loads the drivers of memory-mapped virtio disks."""
    need("busybox")
    return cached_initramfs(modules=("virtio_mmio", "virtio_blk"))


def make_disks(folder: Path, count: int) -> list[DiskConfig]:
    """Disks of 1 MiB that begin with their number."""
    disks = []
    for number in range(count):
        path = folder / f"{number}.raw"
        path.write_bytes(f"disk {number}\n".encode().ljust(MIB, b"."))
        disks.append(DiskConfig(path, format="raw"))
    return disks


def test_linux_by_acpi(
    exercised: Callable[[str], None], cloud_kernel: Path, mmio_initramfs: Path, tmp_path: Path
) -> None:
    """As many disks as there is room for, each with its own line; no PCI; power-off."""
    disks = make_disks(tmp_path, 8)
    with Machine(
        machine="microvm",
        memory=192 * MIB,
        kernel=cloud_kernel,
        initrd=mmio_initramfs,
        append="console=ttyS0 quiet",
        disks=disks,
        serial="buffer",
        engine="translator",
    ) as machine:
        serial = machine.serial

        def run(command: str) -> str:
            serial.send(f"{command}; echo done-$?\r")
            return bytes(serial.expect(r"done-0\r?\n", timeout=60)).decode(errors="replace")

        serial.expect(r"\nUP\r+\n", timeout=120)
        run("stty -echo")
        for number in range(8):
            disk = f"/dev/vd{chr(ord('a') + number)}"
            assert f"disk {number}" in run(f"head -n 1 {disk}")
            run(f"echo written {number} | dd of={disk} bs=512 seek=1 conv=notrunc,sync,fsync 2>/dev/null")
        assert "LNRO0005" in run("ls /sys/bus/acpi/devices")
        lines = run("grep virtio /proc/interrupts").splitlines()
        assert re.findall(r"(\d+): .*IO-APIC", "\n".join(lines)) == [str(n) for n in range(16, 24)]
        run("[ ! -e /proc/bus/pci ] || [ ! -s /proc/bus/pci/devices ]")
        assert not run(
            "dmesg -l err,warn | grep -v -i -E 'retbleed|spectre|mds|mmio stale|tsx|l1tf' || true"
        ).count("virtio")
        serial.send("poweroff -f\r")
        assert machine.run(timeout=60).reason == "poweroff"
        exercised("Linux on the microvm, virtio by MMIO")
    for number, disk in enumerate(disks):
        assert Path(disk.path).read_bytes()[512:].startswith(f"written {number}\n".encode())


def test_other_devices(
    exercised: Callable[[str], None], cloud_kernel: Path, guest_cache: Path, tmp_path: Path
) -> None:
    """What a PC has on PCI is there too: random numbers, sockets, and a network."""
    need("busybox")
    usable, reason = availability()
    if not usable:
        pytest.skip(reason)
    modules = ("virtio_mmio", "virtio_rng", "vmw_vsock_virtio_transport", "virtio_net")
    with Machine(
        machine="microvm",
        memory=192 * MIB,
        kernel=cloud_kernel,
        initrd=cached_initramfs(modules=modules),
        append="console=ttyS0 quiet",
        rng=RngConfig(),
        vsock=VsockConfig(tmp_path / "vsock", 3),
        networks=[NetworkConfig(User())],
        serial="buffer",
        engine="translator",
    ) as machine:
        machine.serial.expect(r"\nUP\r+\n", timeout=120)
        machine.serial.send(
            "stty -echo; cat /sys/class/misc/hw_random/rng_current; head -c 512 /dev/hwrng | wc -c; "
            "ls -l /sys/bus/virtio/drivers/*/ | grep -c virtio[0-9]; "
            "ip link set eth0 up; udhcpc -i eth0 -n -q 2>&1 | grep -c 10.0.2.15.obtained; echo over\r"
        )
        seen = bytes(machine.serial.expect(r"\nover", timeout=60)).decode(errors="replace")
        assert re.search(r"virtio_rng\.0\r?\n512\r?\n3\r?\n1\r?\n", seen), seen
        exercised("Linux on the microvm, rng and vsock by MMIO")


def test_linux_without_acpi(exercised: Callable[[str], None], guest_cache: Path, initramfs: Path) -> None:
    """The MP table, which the cloud kernel cannot read, is enough to get to the shell; a triple fault is its reboot."""
    need("apt-get", "dpkg-deb")
    with Machine(
        machine="microvm",
        acpi=False,
        memory=320 * MIB,
        kernel=cached_kernel("generic"),
        initrd=initramfs,
        append="console=ttyS0 quiet reboot=t",
        serial="buffer",
        engine="translator",
    ) as machine:
        machine.serial.expect(r"\nUP\r+\n", timeout=120)
        machine.serial.send("stty -echo; cat /proc/interrupts; ls /sys/firmware/acpi; echo over\r")
        seen = bytes(machine.serial.expect(r"\nover", timeout=30)).decode(errors="replace")
        assert "IO-APIC" in seen
        assert "No such file" in seen
        machine.serial.send("reboot -f\r")
        assert machine.run(timeout=60).reason == "shutdown"
        exercised("Linux on the microvm, no ACPI")


def test_devices_on_the_command_line(cloud_kernel: Path, tmp_path: Path) -> None:
    """Each device's window and line are told, and are where they are told to be."""
    with Machine(
        machine="microvm",
        acpi=False,
        memory=128 * MIB,
        kernel=cloud_kernel,
        append="quiet",
        disks=make_disks(tmp_path, 3),
        serial="buffer",
        engine="translator",
    ) as machine:
        words = [f"virtio_mmio.device=512@{0xFEB00000 + 512 * n:#x}:{irq}" for n, irq in enumerate((5, 6, 7))]
        text = machine.memory.read(0, 640 << 10)
        assert " ".join(["quiet", *words]).encode() + b"\0" in text
        for number in range(3):
            base = 0xFEB00000 + 512 * number
            magic, version, kind = (machine.mmio.read(base + 4 * n, 4) for n in range(3))
            assert (struct.pack("<I", magic), version, kind) == (b"virt", 2, 2)
        with pytest.raises(PyvmmError, match="no keyboard controller"):
            machine.keyboard.type("x")
        with pytest.raises(PyvmmError, match="no display"):
            machine.screenshot()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "no BIOS to boot a disk"),
        ({"kernel": "k", "firmware": "seabios"}, "without any"),
        ({"kernel": "k", "disks": [DiskConfig("a.img", interface="ide")]}, "virtio disks only"),
        ({"kernel": "k", "disks": [DiskConfig("a.img", place=4)]}, "no PCI device numbers"),
        ({"kernel": "k", "networks": [NetworkConfig(User(), model="e1000")]}, "use model=virtio"),
    ],
)
def test_what_it_does_not_have(fields: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Machine(machine="microvm", **fields)


def test_too_many_devices(cloud_kernel: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="room for 8 virtio devices"):
        Machine(machine="microvm", kernel=cloud_kernel, disks=make_disks(tmp_path, 9), serial="null")


def test_acpi_off_is_the_microvms() -> None:
    with pytest.raises(ConfigError, match="acpi=off goes with microvm"):
        Machine(acpi=False)
