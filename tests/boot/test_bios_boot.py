"""The BIOS boots what people boot: a plain boot sector, GRUB 2, SYSLINUX and ISOLINUX; and says why when it cannot.

The images are made by the boot loaders' own tools (bios_images.py). Everything is read from, and typed to, COM1: the
mirror of INT 10h and INT 16h is tested along the way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pyvmm import DiskConfig, Machine, MachineConfig
from pyvmm.errors import BootError
from pyvmm.units import KIB, MIB
from tests.boot import bios_images
from tests.conftest import RecordExercised

if TYPE_CHECKING:
    from pyvmm.config import DiskInterface

pytestmark = pytest.mark.boot

TIMEOUT = 120.0
"""Seconds; it only ends a test that hangs."""
UP, DOWN = "\x1b[A", "\x1b[B"
Step = tuple[str, str]
SECTOR_STEPS: list[Step] = [("see", "boot sector runs"), ("see", "three ticks")]
EXIT_CODE = bios_images.EXIT_VALUE << 1 | 1


class Conversation:
    """A machine whose COM1 is read until a text comes."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.text = ""
        self.position = 0

    def _find(self, text: str) -> bool:
        self.text += self.machine.serial.read_text()
        at = self.text.find(text, self.position)
        if at >= 0:
            self.position = at + len(text)
        return at >= 0

    def see(self, text: str) -> None:
        found = self.machine.wait_for(lambda: self._find(text), TIMEOUT)
        assert found, (
            f"{text!r} did not come; COM1: {self.text[-500:]!r}; screen:\n{self.machine.firmware.screen.text()}"
        )

    def type(self, text: str) -> None:
        self.machine.serial.send(text)


MachineMaker = Callable[..., Machine]


@pytest.fixture
def machine_of() -> Iterator[MachineMaker]:
    """Return a function that makes a machine with one drive, closed after the test."""
    machines: list[Machine] = []

    def make(path: Path, interface: DiskInterface = "virtio", **fields: object) -> Machine:
        disk = DiskConfig(path, interface=interface, format="raw", read_only=interface == "cdrom")
        machines.append(Machine(MachineConfig(memory=64 * MIB, disks=[disk], serial="buffer"), **fields))
        return machines[-1]

    yield make
    for machine in machines:
        machine.close()


def converse(machine: Machine, steps: list[Step]) -> Conversation:
    """Carry out (see | type, text) steps."""
    conversation = Conversation(machine)
    for kind, text in steps:
        getattr(conversation, kind)(text)
    return conversation


def record(exercised: RecordExercised, machine: Machine, guest: str) -> None:
    exercised(engine=machine.engine_name, guest=guest)


@pytest.mark.parametrize("interface", ["virtio", "floppy"])
def test_plain_boot_sector(
    tmp_path: Path, machine_of: MachineMaker, interface: DiskInterface, record_exercised: RecordExercised
) -> None:
    image = bios_images.sized(tmp_path / "plain.img", bios_images.boot_sector(tmp_path), 1440 * KIB)
    machine = machine_of(image, interface)
    result = machine.run(timeout=TIMEOUT)
    assert (result.reason, result.code) == ("exit", EXIT_CODE)
    assert machine.serial.read_text() == "boot sector runs\r\nsector one\r\nthree ticks\r\n"
    assert machine.firmware.screen.text() == "boot sector runs\nsector one\nthree ticks"
    assert machine.firmware.calls[0x13, 0x42 if interface == "virtio" else 0x02] == 1
    record(record_exercised, machine, f"boot sector, {interface}")


def test_boot_sector_after_reset(tmp_path: Path, machine_of: MachineMaker) -> None:
    image = bios_images.sized(tmp_path / "plain.img", bios_images.boot_sector(tmp_path), MIB)
    machine = machine_of(image)
    assert machine.run(timeout=TIMEOUT).reason == "exit"
    machine.reset()
    assert machine.run(timeout=TIMEOUT).reason == "exit"
    assert machine.serial.read_text().count("three ticks") == 2


def test_cd_with_floppy_emulation(
    tmp_path: Path, machine_of: MachineMaker, record_exercised: RecordExercised
) -> None:
    machine = machine_of(bios_images.floppy_emulation_iso(tmp_path), "cdrom")
    converse(machine, [("see", "boot sector runs"), ("see", "sector one"), ("see", "three ticks")])
    record(record_exercised, machine, "El Torito floppy emulation")


@pytest.mark.parametrize("interface", ["virtio", "ide"])
def test_grub_on_an_mbr_disk(
    tmp_path: Path, machine_of: MachineMaker, interface: DiskInterface, record_exercised: RecordExercised
) -> None:
    machine = machine_of(bios_images.grub_disk(tmp_path), interface)
    talk = converse(machine, [("see", "Welcome to GRUB!"), ("see", "first entry")])
    talk.see("second entry")
    assert "│*first entry" in machine.firmware.screen.text()
    for key in (DOWN, UP, DOWN, "\r"):
        talk.type(key)
    for text in ("chose the second", "00 00 55 aa", "GRUB is done"):
        talk.see(text)
    record(record_exercised, machine, f"GRUB 2, MBR disk, {interface}")


def test_grub_rescue_cd(tmp_path: Path, machine_of: MachineMaker, record_exercised: RecordExercised) -> None:
    machine = machine_of(bios_images.grub_iso(tmp_path), "cdrom")
    talk = converse(machine, [("see", "first entry"), ("see", "second entry")])
    talk.type(DOWN)
    talk.type("\r")
    talk.see("chose the second")
    talk.see("GRUB is done")
    record(record_exercised, machine, "GRUB 2, CD")


SYSLINUX_STEPS: list[Step] = [("see", "linux is here"), ("see", "boot:"), ("type", "sector\r"), *SECTOR_STEPS]


@pytest.mark.parametrize(
    ("make", "interface"),
    [
        (bios_images.syslinux_floppy, "floppy"),
        (bios_images.syslinux_disk, "virtio"),
        (bios_images.isolinux_iso, "cdrom"),
    ],
    ids=["floppy", "disk", "cd"],
)
def test_syslinux(
    tmp_path: Path,
    machine_of: MachineMaker,
    make: Callable[[Path], Path],
    interface: DiskInterface,
    record_exercised: RecordExercised,
) -> None:
    machine = machine_of(make(tmp_path), interface)
    converse(machine, SYSLINUX_STEPS)
    record(record_exercised, machine, f"SYSLINUX, {interface}")


def test_disk_without_boot_signature(tmp_path: Path, machine_of: MachineMaker) -> None:
    image = bios_images.sized(tmp_path / "empty.img", b"", MIB)
    machine = machine_of(image)
    with pytest.raises(BootError) as caught:
        machine.run(timeout=TIMEOUT)
    text = str(caught.value)
    assert f"hard disk 0 ({image}): no boot signature 55AA at offset 510 of sector 0" in text
    assert "CD: none" in text
    assert "\n" not in text
    assert image.read_bytes() == bytes(MIB)


def test_boot_order_goes_on_to_the_floppy(tmp_path: Path) -> None:
    empty = bios_images.sized(tmp_path / "empty.img", b"", MIB)
    floppy = bios_images.sized(tmp_path / "floppy.img", bios_images.boot_sector(tmp_path), 1440 * KIB)
    disks = [DiskConfig(empty, format="raw"), DiskConfig(floppy, interface="floppy", format="raw")]
    with Machine(memory=64 * MIB, disks=disks, serial="buffer", boot_order="cda") as machine:
        converse(machine, [("see", "no boot signature 55AA"), *SECTOR_STEPS])


def test_nothing_is_mirrored_when_not_asked(tmp_path: Path, machine_of: MachineMaker) -> None:
    image = bios_images.sized(tmp_path / "plain.img", bios_images.boot_sector(tmp_path), MIB)
    machine = machine_of(image, bios_serial=False)
    assert machine.run(timeout=TIMEOUT).reason == "exit"
    assert machine.serial.read_text() == ""
    assert "three ticks" in machine.firmware.screen.text()
