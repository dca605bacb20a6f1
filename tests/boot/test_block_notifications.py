"""How the built-in guest's disk driver reaches its disk: by eventfd where the engine can, by an access elsewhere."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyvmm import Machine
from pyvmm.cli.run import builtin_disk
from pyvmm.config import DiskConfig
from pyvmm.devices.pci import PciBus
from pyvmm.devices.virtio import VirtioBlk
from pyvmm.engine import ExitReason
from tests.boot import builtin_session as session
from tests.conftest import RecordExercised

pytestmark = pytest.mark.boot


def kvm_usable() -> bool:
    try:
        os.close(os.open("/dev/kvm", os.O_RDWR))
    except OSError:
        return False
    return True


ENGINES = [
    "translator",
    pytest.param(
        "kvm", marks=pytest.mark.skipif(not kvm_usable(), reason="/dev/kvm: not there, or not ours")
    ),
]


@pytest.fixture(params=ENGINES)
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Machine]:
    """A machine with the built-in guest at its prompt."""
    disk = Path(shutil.copy(builtin_disk().path, tmp_path / "disk.qcow2"))
    with Machine(
        engine=request.param, memory=128 << 20, disks=[DiskConfig(disk)], serial="buffer"
    ) as machine:
        machine.serial.expect(r"guest> ", timeout=120)
        yield machine


def disk_of(machine: Machine) -> VirtioBlk:
    disk = machine.devices["disk0"]
    assert isinstance(disk, VirtioBlk)
    return disk


def command(machine: Machine, line: str, answer: str) -> None:
    machine.serial.send(f"{line}\r")
    machine.serial.expect(answer, timeout=60)
    machine.serial.expect(r"guest> ", timeout=60)


def write_and_read(machine: Machine) -> None:
    command(machine, f"disk write {session.WRITE_LBA} {session.WRITE_TEXT}", "written and flushed")
    command(machine, f"disk read {session.WRITE_LBA}", "77 72 69 74 74 65 6e")


def test_reads_and_writes(machine: Machine, record_exercised: RecordExercised) -> None:
    """Under KVM no notification is an exit; under the translator each is an access."""
    write_and_read(machine)
    counters = disk_of(machine).counters
    assert counters.writes
    assert counters.reads
    assert counters.flushes
    assert not counters.errors
    notifications = disk_of(machine).queue_counters
    if machine.engine_name == "kvm":
        assert machine.board.ioeventfds == (1, 1)
        assert notifications.signals
        assert not notifications.kicks
    else:
        assert machine.board.ioeventfds == (1, 0)
        assert notifications.kicks
        assert not notifications.signals
    record_exercised(engine=machine.engine_name, guest="built-in guest, disk notifications")


def test_teaching_mode_sees_notifications(machine: Machine) -> None:
    """Who looks at MMIO exits sees the notification as one, on every engine; afterwards it is none again."""
    before = disk_of(machine).queue_counters
    pci = machine.devices["pci"]
    assert isinstance(pci, PciBus)
    bar = next(bar for bar in pci[disk_of(machine).slot].bars if bar.size == 0x4000)
    machine.serial.send("disk read 0\r")
    watchdog = threading.Timer(60, machine.stop)
    watchdog.start()
    seen = set()
    for exit_ in machine.exits([ExitReason.MMIO]):
        seen.add(exit_.address)
        if disk_of(machine).queue_counters.kicks > before.kicks:
            break
    watchdog.cancel()
    assert bar.base + 0x3000 in seen
    assert disk_of(machine).queue_counters.kicks > before.kicks
    signals = disk_of(machine).queue_counters.signals
    machine.serial.expect(r"guest> ", timeout=60)
    command(machine, "disk read 0", "55 aa")
    assert (disk_of(machine).queue_counters.signals > signals) is (machine.engine_name == "kvm")


def thread_names() -> set[str]:
    names = set()
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # one that ends meanwhile
            names.add((task / "comm").read_text().strip())
    return names


def test_reset_between_runs(machine: Machine) -> None:
    """A reset of the paused machine takes the notification back, and the disk works in the next run."""
    write_and_read(machine)
    disk = disk_of(machine)
    assert disk.place.io is not None
    assert disk.place.io.running
    assert disk.place.io.name in thread_names()
    machine.reset()
    assert machine.board.ioeventfds == (0, 0)
    machine.serial.expect(r"guest> ", timeout=120)
    write_and_read(machine)


def test_threads_end_with_the_machine(tmp_path: Path) -> None:
    """No I/O thread is left when a machine is closed."""
    disk = Path(shutil.copy(builtin_disk().path, tmp_path / "disk.qcow2"))
    with Machine(memory=64 << 20, disks=[DiskConfig(disk)], serial="buffer", engine="translator") as machine:
        machine.run(timeout=0.05)
        assert thread_names() >= {"io", "blk-0"}
    assert not thread_names() & {"io", "blk-0"}
