"""Linux's virtio disk through what a disk lives through: a full host, a cut file, reset under load, rebinding.

The full host disk is a small tmpfs in a mount namespace of its own (unshare(1)), reached by /proc/PID/root (proc(5)).
"""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pyvmm import DiskConfig, Machine
from pyvmm.devices.virtio import VirtioBlk
from pyvmm.guests.cached import cached_initramfs
from tests.boot.guests import check_image, need, qemu_img

pytestmark = [pytest.mark.boot, pytest.mark.timeout(600)]

MIB = 1 << 20
TIMEOUT = 240


@pytest.fixture(scope="module")
def initramfs(guest_cache: Path, cloud_kernel: Path) -> Path:
    """A busybox initramfs that loads the driver of virtio disks."""
    need("busybox")
    return cached_initramfs(modules=("virtio_pci", "virtio_blk"))


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system of 8 MiB."""
    need("unshare")
    script = "mount -t tmpfs -o size=8m none /mnt && echo ready && cat"
    with subprocess.Popen(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as keeper:
        assert keeper.stdout is not None
        assert keeper.stderr is not None
        if keeper.stdout.readline() != b"ready\n":
            pytest.skip(f"no mount namespace here: {keeper.stderr.read().decode().strip()[:100]}")
        yield Path(f"/proc/{keeper.pid}/root/mnt")
        assert keeper.stdin is not None
        keeper.stdin.close()  # cat ends, and the file system with it


class Guest:
    """Linux at a shell, on one disk."""

    def __init__(self, kernel: Path, initrd: Path, *disks: DiskConfig) -> None:
        self.machine = Machine(
            memory=256 * MIB,
            kernel=kernel,
            initrd=initrd,
            append="console=ttyS0 quiet loglevel=1",
            disks=list(disks),
            serial="buffer",
            engine="translator",
        )
        self.machine.serial.expect(r"\nUP\r+\n", timeout=TIMEOUT)
        self.run("stty -echo")

    @property
    def blk(self) -> VirtioBlk:
        disk = self.machine.virtio[0]
        assert isinstance(disk, VirtioBlk)
        return disk

    def send(self, command: str) -> None:
        self.machine.serial.send(f"{command}; echo done-$?\r")

    def answer(self, code: int = 0) -> str:
        said = self.machine.serial.expect(r"done-\d+\r?\n", timeout=TIMEOUT).decode(errors="replace")
        assert said.rstrip().endswith(f"done-{code}"), said
        return said

    def run(self, command: str, code: int = 0) -> str:
        self.send(command)
        return self.answer(code)


def make_image(folder: Path, kind: str) -> DiskConfig:
    path = folder / f"disk.{kind}"
    qemu_img("create", "-f", kind, path, "64M")
    (folder / "ballast").write_bytes(bytes(6 * MIB))
    return DiskConfig(path, format="raw" if kind == "raw" else "qcow2")


WRITE = "dd if=/tmp/data of=/dev/vda bs=64k oflag=direct 2>&1"
PREPARE = "yes 'a line of the guest' | head -c 4194304 > /tmp/data; sha256sum /tmp/data"
DIGEST = hashlib.sha256((b"a line of the guest\n" * (4 * MIB // 20 + 1))[: 4 * MIB]).hexdigest()
READ = "dd if=/dev/vda bs=64k count=64 iflag=direct 2>/dev/null | sha256sum"


@pytest.mark.parametrize("kind", ["raw", "qcow2"])
def test_full_host_disk(
    exercised: Callable[[str], None], cloud_kernel: Path, initramfs: Path, small_disk: Path, kind: str
) -> None:
    """The guest gets an I/O error; when there is room it writes again, and what it wrote is there."""
    guest = Guest(cloud_kernel, initramfs, make_image(small_disk, kind))
    with guest.machine:
        guest.run(PREPARE)
        assert "Input/output error" in guest.run(WRITE, code=1)
        assert guest.blk.counters.errors > 0
        (small_disk / "ballast").unlink()
        guest.run(WRITE)
        assert DIGEST in guest.run(READ)
        assert guest.blk.status[-1] != "DEVICE_NEEDS_RESET"
    if kind == "qcow2":
        check_image(small_disk / "disk.qcow2")
    exercised(f"Linux virtio-blk, full host disk, {kind}")


def test_full_host_disk_stops_the_machine(
    exercised: Callable[[str], None], cloud_kernel: Path, initramfs: Path, small_disk: Path
) -> None:
    """With ``enospc`` the guest sees nothing of it: the machine stops until there is room."""
    disk = make_image(small_disk, "qcow2")
    disk.write_error = "enospc"
    guest = Guest(cloud_kernel, initramfs, disk)
    with guest.machine as machine:
        guest.run(PREPARE)
        guest.send(WRITE)
        for _ in range(3):  # each run tries again
            result = machine.run(timeout=TIMEOUT)
            assert (result.reason, result.code) == ("io-error", errno.ENOSPC)
            assert guest.blk.stopped_by == errno.ENOSPC
        (small_disk / "ballast").unlink()
        guest.answer()
        assert DIGEST in guest.run(READ)
        assert guest.blk.counters.errors == 0
    check_image(small_disk / "disk.qcow2")
    exercised("Linux virtio-blk, a machine that stops for a full disk")


def test_cut_and_removed_file(
    exercised: Callable[[str], None], cloud_kernel: Path, initramfs: Path, tmp_path: Path
) -> None:
    """What is gone is an I/O error; what is left can be read, and written, also without a name."""
    path = tmp_path / "disk.raw"
    path.write_bytes(b"pyvmm" * (2 * MIB))
    guest = Guest(cloud_kernel, initramfs, DiskConfig(path, format="raw"))
    with guest.machine:
        os.truncate(path, MIB)
        guest.run("dd if=/dev/vda of=/dev/null bs=64k count=16 iflag=direct 2>/dev/null")
        assert "Input/output error" in guest.run(
            "dd if=/dev/vda of=/dev/null bs=64k skip=32 iflag=direct 2>&1", code=1
        )
        path.unlink()
        guest.run("dd if=/dev/zero of=/dev/vda bs=64k seek=32 count=4 oflag=direct 2>/dev/null")
        guest.run("dd if=/dev/vda of=/dev/null bs=64k skip=32 count=4 iflag=direct 2>/dev/null")
    exercised("Linux virtio-blk, file cut and removed")


def test_rebinding_under_load(
    exercised: Callable[[str], None], cloud_kernel: Path, initramfs: Path, tmp_path: Path
) -> None:
    """A hundred times the driver goes (and resets the device) and comes while requests are under way."""
    path = tmp_path / "disk.raw"
    contents = b"pyvmm rebinds..." * (8 * MIB // 16)
    path.write_bytes(contents)
    guest = Guest(
        cloud_kernel, initramfs, DiskConfig(path, format="raw", queues=2, threads=2, serial="bind-me")
    )
    with guest.machine:
        assert "MQ" in guest.blk.driver_features
        assert "bind-me" in guest.run("cat /sys/block/vda/serial")
        guest.run("cd /sys/bus/virtio/drivers/virtio_blk")
        load = "for m in 1 2 3; do dd if=/dev/vda of=/dev/null bs=256k iflag=direct 2>/dev/null & done"
        guest.run(
            f"for n in $(seq 100); do {load}; echo virtio0 > unbind; wait; echo virtio0 > bind || break; done; "
            "test $n = 100 && test -b /dev/vda"
        )
        with guest.blk.record() as recording:
            assert hashlib.sha256(contents).hexdigest() in guest.run("sha256sum /dev/vda")
        assert {r.status for r in recording.records} == {"ok"}
        assert sum(r.bytes for r in recording.records if r.kind == "read") >= len(contents)
        assert "in the device" in str(guest.blk.queues[0])
        assert guest.blk.queue_counters.faults == 0
    exercised("Linux virtio-blk, bound a hundred times")
