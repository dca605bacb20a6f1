"""virtio-blk kicked by ioeventfd and answered by irqfd: a driver with MSI-X on a local APIC in the kernel."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pyvmm.config import DiskConfig
from pyvmm.engine import ExitReason
from pyvmm.kvm import KvmEngine
from pyvmm.machine import layout
from tests.conformance.smp_rig import COUNTS, SmpMachine
from tests.conformance.virtio_rig import DATA, USED, Disk

FIRST, SECOND = 0x41, 0x52
A_WHILE = "sti; mov ecx, 3000; while: dec ecx; jnz while; cli"
"""Longer than an interpreting KVM's batch, at whose end it looks for interrupts."""
ENABLED, FUNCTION_MASKED = 0x8000, 0xC000


class Rig:
    """A machine with a disk whose driver is run in pieces: `do` appends text, and runs it to its end."""

    def __init__(self, folder: Path, **fields: Any) -> None:
        image = folder / "disk"
        image.write_bytes(b"sector 0".ljust(512, b".") + bytes(1 << 20))
        self.machine = SmpMachine(folder, "hlt", cpus=1, disks=[DiskConfig(image)], **fields)
        self.disk = Disk(self.machine)
        self.text: list[str] = []
        self.parts = 0

    def add(self, *text: str) -> None:
        """A piece of the program, after which the machine leaves with the piece's number."""
        self.parts += 1
        self.text += [*text, f"mov al, {self.parts}; mov dx, {layout.EXIT}; out dx, al"]

    def start(self) -> None:
        self.machine.program("\n".join([*self.text, "cli; hlt"]))
        self.at = 0

    def run(self) -> dict[str, int]:
        """The next piece: what it did to the counters."""
        before = self._counters()
        result = self.machine.run(timeout=30)
        self.at += 1
        assert (result.reason, result.code) == ("exit", 2 * self.at + 1), result
        return {name: value - before[name] for name, value in self._counters().items()}

    def _counters(self) -> dict[str, int]:
        counters, exits = self.disk.device.queue_counters, self.machine.vcpus[0].exit_counts
        return {
            "kicks": counters.kicks,
            "signals": counters.signals,
            "interrupts": counters.interrupts,
            "irqfd": counters.irqfd_interrupts,
            "mmio": exits.get(ExitReason.MMIO, 0),
            "io": exits.get(ExitReason.IO, 0),
            "changes": self.machine.board.irqfds[2],
        }

    def setup(self, vector: int = FIRST) -> list[str]:
        disk = self.disk
        return [disk.places(), disk.message_control(ENABLED), disk.entry(vector), disk.driver()]

    def read(self, vector: int = FIRST, times: int = 1) -> str:
        """Reads, each answered by one interrupt; EDX is its count."""
        label = f"read{len(self.text)}"
        return f"""
            mov r8d, {times}; {label}n: mov edx, dword ptr [{COUNTS + 4 * vector}]
            {self.disk.kick()}
            cli; {label}: cmp edx, dword ptr [{COUNTS + 4 * vector}]; jne {label}d; sti; hlt; cli; jmp {label}
            {label}d: {self.disk.poll(f"{label}p")}; dec r8d; jnz {label}n
        """


@pytest.fixture(params=["kernel", "split"])
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    usable, reason = KvmEngine().availability()
    if not usable:
        pytest.skip(f"no KVM here: {reason}")
    rig = Rig(tmp_path, irqchip=request.param)
    yield rig
    rig.machine.close()


def test_neither_kick_nor_interrupt_is_an_exit(rig: Rig) -> None:
    """Eight reads: eight eventfds each way, one change of KVM's table, and the only exit is the end of the piece."""
    rig.add(*rig.setup())
    rig.add(rig.read(times=8))
    rig.start()
    rig.run()
    assert rig.machine.board.irqfds == (0, 0, 0)
    did = rig.run()
    assert did == {
        "kicks": 0, "signals": 8, "interrupts": 8, "irqfd": 8, "mmio": 0, "io": 1, "changes": 1,
    }  # fmt: skip
    assert rig.machine.count(FIRST) == 8
    assert rig.machine.memory.read(DATA, 8) == b"sector 0"
    assert rig.machine.board.irqfds == (1, 1, 1)


@pytest.mark.parametrize("way", ["vector", "function"])
def test_a_masked_vector_waits_until_it_is_unmasked(rig: Rig, way: str) -> None:
    """The pending bit is set, nothing is delivered; unmasking delivers once, by the same entry (PCI 3.0 §6.8.2.2)."""
    disk = rig.disk
    mask = disk.mask(True) if way == "vector" else disk.message_control(FUNCTION_MASKED)
    unmask = disk.mask(False) if way == "vector" else disk.message_control(ENABLED)
    rig.add(*rig.setup(), rig.read())
    rig.add(mask, disk.kick(), disk.poll("a"), disk.kick(), disk.poll("b"), A_WHILE)
    rig.add(unmask, f"sti; got: pause; cmp dword ptr [{COUNTS + 4 * FIRST}], 2; jne got; cli")
    rig.add(rig.read())
    rig.start()
    rig.run()
    did = rig.run()
    assert (did["interrupts"], did["irqfd"], rig.machine.count(FIRST)) == (2, 0, 1)
    assert rig.disk.device.registers.msix.pending == 1
    did = rig.run()
    assert (did["irqfd"], did["changes"], rig.machine.count(FIRST)) == (1, 0, 2)
    did = rig.run()
    assert (did["irqfd"], did["changes"], rig.machine.count(FIRST)) == (1, 0, 3)


def test_the_message_follows_the_table(rig: Rig) -> None:
    """Another vector, and back, and to a processor that is not there: the table changes only when the message did."""
    disk = rig.disk
    rig.add(*rig.setup(), rig.read())
    rig.add(disk.entry(SECOND), rig.read(SECOND, 3))
    rig.add(disk.entry(SECOND), rig.read(SECOND))
    rig.add(disk.entry(FIRST), rig.read())
    rig.add(disk.entry(FIRST, apic_id=5), disk.kick(), disk.poll("a"), A_WHILE)
    rig.start()
    assert [rig.run()["changes"] for _ in range(5)] == [1, 1, 0, 1, 1]
    assert rig.machine.count(FIRST) == 2
    assert rig.machine.count(SECOND) == 4
    assert rig.disk.device.queue_counters.irqfd_interrupts == 7


def test_msix_off_device_reset_and_machine_reset(rig: Rig) -> None:
    """Disabled: the engine has no entry. A device reset keeps the table; a machine's takes everything."""
    disk, machine = rig.disk, rig.machine
    rig.add(*rig.setup(), rig.read())
    rig.add(disk.message_control(0), disk.kick(), disk.poll("a"))
    rig.add(disk.message_control(ENABLED), rig.read())
    rig.add(disk.driver(), rig.read())
    rig.start()
    rig.run()
    did = rig.run()
    assert (did["interrupts"], did["irqfd"]) == (1, 0)
    assert machine.board.irqfds == (1, 0, 1)
    assert rig.run()["irqfd"] == 1
    did = rig.run()
    assert (did["irqfd"], did["changes"]) == (1, 0)
    assert machine.board.irqfds[1] == 1
    machine.reset()
    assert machine.board.irqfds[:2] == (1, 0)
    assert machine.board.ioeventfds == (0, 0)
    rig.start()
    assert machine.memory.read(USED, 4) != b""
    assert rig.run()["irqfd"] == 1
    assert machine.count(FIRST) == 1


def test_not_asked_for_or_not_there(tmp_path: Path) -> None:
    """With pyvmm's own controllers no message goes by eventfd, and none is made."""
    usable, reason = KvmEngine().availability()
    if not usable:
        pytest.skip(f"no KVM here: {reason}")
    rig = Rig(tmp_path, irqchip="user")
    disk = rig.disk
    rig.add(disk.places(), disk.message_control(ENABLED), disk.entry(FIRST), disk.driver())
    rig.add(disk.kick(), disk.poll("a"))
    rig.start()
    rig.run()
    did = rig.run()
    assert (did["signals"], did["interrupts"], did["irqfd"]) == (1, 1, 0)
    assert rig.machine.board.irqfds == (0, 0, 0)
    rig.machine.close()
