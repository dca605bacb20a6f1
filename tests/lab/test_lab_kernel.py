"""The lab's guest kernel on bare processors: pyvmm's engines by the lab's protocol, QEMU by PVH as the oracle."""

from __future__ import annotations

import os
import re
import shutil
import struct
import subprocess
import zlib
from pathlib import Path

import pytest

from pyvmm.config import DiskConfig
from pyvmm.errors import BootError
from pyvmm.lab import boot
from pyvmm.machine.machine import Machine

RAM = 16 << 20  # a leak of pages would be noticed: a fork takes ten
DISK_SIZE = 1 << 20
READS = 16
COUNTED = ("syscall", "in", "cr8wr", "callret", "pgfault", "ptemod", "divzero", "switch", "loop")
MULTIPLIER, INCREMENT = 6364136223846793005, 1442695040888963407


@pytest.fixture(scope="module")
def kernel() -> boot.LabKernel:
    return boot.LabKernel.open()


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """Return a disk of sectors that differ."""
    path = tmp_path / "disk.img"
    path.write_bytes(b"".join(struct.pack("<Q", n * MULTIPLIER % 2**64) for n in range(DISK_SIZE // 8)))
    return path


def run(kernel: boot.LabKernel, line: str, *disks: DiskConfig, engine: str = "translator") -> boot.LabReport:
    """Run the kernel in ring 0 until it ends; return what it reports."""
    with Machine(memory=RAM, engine=engine, disks=list(disks)) as machine:
        boot.prepare(machine, kernel, command_line=line)
        result = machine.run(timeout=120)
        report = kernel.report(machine.memory)
    assert (result.reason, report.state) == ("exit", "done"), (result, report)
    return report


def lab_loop(count: int) -> int:
    """What csrc/guest/lab/user/loop.h computes."""
    x = 1
    for _ in range(count):
        x = (x * MULTIPLIER + INCREMENT) % 2**64
    return x


def test_every_check_is_right_in_ring_0(kernel: boot.LabKernel) -> None:
    report = run(kernel, "workload=checks")
    assert len(report.checks) == 26
    assert not report.wrong, [str(check) for check in report.wrong]


@pytest.mark.parametrize("door", ["syscall", "int80", "int3"])
def test_workloads(kernel: boot.LabKernel, door: str) -> None:
    """Each does as many operations as asked for, through each door."""
    report = run(kernel, f"workload={','.join(COUNTED)},fork count=500 door={door}")
    assert report.doors == {"syscall", "int80", "int3"}
    assert report.door == door
    assert not report.paravirt
    for name in (*COUNTED, "fork"):
        result = report[name]
        assert (result.operations, result.status) == (500, "ok"), result
        assert result.cycles > 0
    assert report["loop"].value == lab_loop(500)
    assert report["pgfault"].value == 0  # a fresh page is zero
    assert report["ptemod"].value == sum(range(1, 17))
    # The child sees its own page 1 and the parent's page 2; what it writes is not the parent's.
    assert report["fork"].value == sum(i + 2 + 1 for i in range(500))
    assert report["switch"].value >= 500


def test_timer_takes_turns(kernel: boot.LabKernel) -> None:
    result = run(kernel, "workload=timer count=30")["timer"]
    assert (result.operations, result.status) == (30, "ok")
    assert (
        result.value >= 25
    )  # two that compute for ever: each tick is a switch, but for the first and the last


@pytest.mark.parametrize("interface", ["ide", "virtio"])
def test_disk(kernel: boot.LabKernel, disk: Path, interface: str) -> None:
    drive = DiskConfig(path=disk, format="raw", interface="ide" if interface == "ide" else "virtio")
    report = run(kernel, f"workload=disk count={READS} disk={interface}", drive)
    assert report["disk"].status == "ok"
    assert report["disk"].value == zlib.crc32(disk.read_bytes()[: READS * 4096])
    assert report.interrupts >= READS * (8 if interface == "ide" else 1)


def test_what_is_not_there_is_said(kernel: boot.LabKernel) -> None:
    report = run(kernel, "workload=disk,hello,dance count=3")
    assert [(result.name, result.status) for result in report.results] == [
        ("disk", "absent"),
        ("hello", "ok"),
        ("dance", "absent"),
    ]


def test_on_kvm(kernel: boot.LabKernel, disk: Path) -> None:
    """Also where KVM has no hardware to virtualise with: doors are found, refused instructions handed over."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        pytest.skip("no /dev/kvm")
    drive = DiskConfig(path=disk, format="raw", interface="virtio")
    line = "workload=checks,hello,syscall,pgfault,switch,timer,disk,loop count=20 disk=virtio"
    report = run(kernel, line, drive, engine="kvm")
    assert not report.wrong, [str(check) for check in report.wrong]
    assert {result.status for result in report.results} == {"ok"}
    assert report["disk"].value == zlib.crc32(disk.read_bytes()[: 20 * 4096])


def test_on_qemu_it_reports_the_same(kernel: boot.LabKernel, disk: Path) -> None:
    """The oracle: checks, operations and values by PVH under QEMU's TCG and under the translator."""
    qemu = shutil.which("qemu-system-x86_64")
    if not qemu:
        pytest.skip("no qemu-system-x86_64 (qemu-system-x86)")
    line = f"workload=checks,{','.join(COUNTED)},fork,disk count=16"
    done = subprocess.run(
        [qemu, "-M", "pc", "-accel", "tcg", "-m", "16", "-nodefaults", "-display", "none", "-no-reboot",
         "-serial", "stdio", "-device", "isa-debug-exit,iobase=0x501,iosize=1",
         "-drive", f"file={disk},format=raw,if=ide",
         "-kernel", kernel.path, "-append", line],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    mine = run(kernel, line, DiskConfig(path=disk, format="raw", interface="ide"))
    checks = re.findall(r"check (\S+) expected ([0-9a-f]+) seen ([0-9a-f]+)", done.stdout)
    # CR0 differs by what firmware left in it; the check compares it with itself.
    own = {check.name: (check.expected, check.seen) for check in mine.checks}
    assert {name: (int(a, 16), int(b, 16)) for name, a, b in checks if name != "smsw"} == {
        name: seen for name, seen in own.items() if name != "smsw"
    }
    assert all(a == b for _, a, b in checks)
    results = re.findall(r"result (\S+) operations (\d+) cycles \d+ value (\d+) status (\d+)", done.stdout)
    for name, operations, value, status in results:
        assert int(status) == 0, name
        if name != "switch":
            assert (int(operations), int(value)) == (mine[name].operations, mine[name].value), name
    assert len(results) == len(mine.results)


def test_the_paravirtual_kernel_says_that_it_has_no_monitor() -> None:
    kernel = boot.LabKernel.open(paravirt=True)
    with Machine(memory=RAM, engine="translator", kernel=kernel.path) as machine:
        result = machine.run(timeout=30)
    assert (result.reason, result.code) == ("exit", 3)


def test_bad_input(kernel: boot.LabKernel, tmp_path: Path) -> None:
    with Machine(memory=RAM, engine="translator") as machine:
        with pytest.raises(BootError, match="4 MiB"):
            kernel.load(machine.memory, ram_end=1 << 20)
        with pytest.raises(BootError, match="255 characters"):
            kernel.load(machine.memory, ram_end=RAM, command_line="x" * 256)
    whole = Path(kernel.path).read_bytes()
    for size in (0, 16, 64, 5000, len(whole) // 2):
        cut = tmp_path / f"cut{size}.elf"
        cut.write_bytes(whole[:size])
        with pytest.raises(BootError, match=re.escape(str(cut))):
            boot.LabKernel.open(path=cut)
    with pytest.raises(BootError, match="lab_report"):
        boot.LabKernel.open(path=Path(kernel.path).with_name("guest-kernel.elf"))


def test_report_of_a_guest_that_lies() -> None:
    """Counts beyond the tables and states that do not exist are taken as they come."""
    size = len(boot._HEAD.pack(*([0] * 14)))
    data = bytearray(b"\xff" * 8192)
    assert boot.parse_report(bytes(data)).state == "absent"
    struct.pack_into(
        "<QIIIIIIII", data, 0, boot.REPORT_MAGIC, boot.VERSION, 77, 1, 99, 3, 1, 2**32 - 1, 2**32 - 1
    )
    report = boot.parse_report(bytes(data))
    assert (report.state, len(report.results), len(report.checks)) == ("absent", 24, 40)
    assert size == 80


def test_symbols(kernel: boot.LabKernel) -> None:
    entry = kernel.symbols["lab_entry"]
    assert kernel.elf.entry == entry
    assert kernel.symbol_at(entry) == "lab_entry"
    assert kernel.symbol_at(entry + 3) == "lab_entry+0x3"
    assert kernel.symbol_at(0x10) == "0x10"
