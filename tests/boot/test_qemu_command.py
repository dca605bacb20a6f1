"""``pyvmm qemu-kvm`` runs guests: the lecture's command line literally, and the names of its threads."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyvmm.block import create_image
from pyvmm.cli.run import builtin_disk
from pyvmm.kvm import KvmEngine

pytestmark = [pytest.mark.boot, pytest.mark.timeout(600)]

LECTURE = (
    "-name vm1 -M rhel6.4.0 {} -rtc base=localtime"
    " -drive file=vm.qcow2,if=none,id=drive-virtio-disk0,format=qcow2,cache=none"
    " -drive file=data.qcow2,if=none,format=qcow2,cache=none"
)
DEVICE = (
    "-device virtio-blk-pci,scsi=off,bus=pci.0,addr=0x4,drive=drive-virtio-disk0,id=virtio-disk0,bootindex=1"
)
KVM = "-enable-kvm -m 512 -smp 4,sockets=4,cores=1,threads=1"


class Vm:
    """The command in a process of its own; both outputs are one."""

    def __init__(self, folder: Path, line: str) -> None:
        words = [sys.executable, "-m", "pyvmm.cli.main", "qemu-kvm", *line.split()]
        self.process = subprocess.Popen(
            words, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        self.text = ""
        assert self.process.stdout is not None
        os.set_blocking(self.process.stdout.fileno(), False)

    def expect(self, pattern: str, seconds: float = 120) -> None:
        assert self.process.stdout is not None
        end = time.monotonic() + seconds
        while not re.search(pattern, self.text):
            assert time.monotonic() < end, self.text
            data = self.process.stdout.read()
            self.text += (data or b"").decode(errors="replace")
            if data == b"":
                assert re.search(pattern, self.text), self.text
            time.sleep(0.02)

    def send(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def threads(self) -> list[str]:
        return sorted(p.read_text().strip() for p in Path(f"/proc/{self.process.pid}/task").glob("*/comm"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The lecture's two images: the built-in guest's disk, and an empty one."""
    (tmp_path / "vm.qcow2").write_bytes(Path(builtin_disk().path).read_bytes())
    create_image(tmp_path / "data.qcow2", size=64 << 20)
    return tmp_path


@pytest.fixture
def vms() -> Iterator[list[Vm]]:
    made: list[Vm] = []
    yield made
    for vm in made:
        vm.process.kill()
        vm.process.communicate()


def kvm_or_skip() -> None:
    usable, reason = KvmEngine().availability()
    if not usable:
        pytest.skip(f"KVM cannot run here: {reason}")


@pytest.mark.parametrize("how", ["", KVM], ids=["translator", "kvm"])
def test_the_lectures_command_boots(folder: Path, vms: list[Vm], how: str) -> None:
    """To the guest's shell and off again; meanwhile the process is vm1, with a thread for each vCPU and each disk."""
    if how:
        kvm_or_skip()
    vm = Vm(folder, f"{LECTURE.format(how)} {DEVICE}")
    vms.append(vm)
    vm.expect("guest> ")
    assert "data.qcow2: if=none connects it to nothing" in vm.text
    assert Path(f"/proc/{vm.process.pid}/comm").read_text() == "vm1\n"
    cpus = 4 if how else 1
    names = vm.threads()
    assert [name for name in names if name.startswith("vcpu-")] == [f"vcpu-{n}" for n in range(cpus)]
    assert {"vm1", "io", "blk-0", "console"} <= set(names)
    vm.send("poweroff")
    assert vm.process.wait(60) == 0


def test_the_lectures_command_without_a_device(folder: Path, vms: list[Vm]) -> None:
    """QEMU would have nothing to boot: both drives are connected, in their order, and a line for each says so."""
    vm = Vm(folder, LECTURE.format(""))
    vms.append(vm)
    vm.expect("guest> ")
    for name in ("vm.qcow2", "data.qcow2"):
        assert f"-drive file={name}: if=none connects it to nothing in QEMU" in vm.text
    assert {"vm1", "blk-0", "blk-1"} <= set(vm.threads())


def test_more_than_one_vcpu_without_kvm(folder: Path, vms: list[Vm]) -> None:
    vm = Vm(folder, "-smp 2 vm.qcow2")
    vms.append(vm)
    assert vm.process.wait(60) == 2
    vm.expect("-smp 2: the translator, QEMU's TCG, has one vCPU here; add -enable-kvm")


def test_a_bare_disk_is_hda(folder: Path, vms: list[Vm]) -> None:
    """QEMU's shortest command line: an IDE disk, which the BIOS boots."""
    vm = Vm(folder, "-snapshot -nographic vm.qcow2 -no-reboot")
    vms.append(vm)
    vm.expect("boot sector: loading the kernel")


def test_power_off_and_on_again(folder: Path, vms: list[Vm]) -> None:
    """-no-shutdown: the process stays, and ends by a signal."""
    vm = Vm(folder, "-no-shutdown -drive file=vm.qcow2,if=virtio")
    vms.append(vm)
    vm.expect("guest> ")
    vm.send("poweroff")
    vm.expect("the guest powered off; Ctrl-A C, resume")
    assert vm.process.poll() is None
    vm.process.terminate()
    assert vm.process.wait(60) == 143
