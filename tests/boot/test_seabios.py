"""SeaBIOS and its VGA BIOS, as Debian ships them, on our hardware: firmware that sees it only through ports and PCI."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import pytest
from PIL import Image

from pyvmm import DiskConfig, Machine
from pyvmm.devices.ide import Ide
from pyvmm.devices.ports import DebugConsole
from pyvmm.errors import BootError
from pyvmm.firmware import seabios
from pyvmm.units import KIB, MIB
from tests.boot import bios_images
from tests.boot.guests import Boot, Vmm, qemu_img
from tests.conftest import RecordExercised

pytestmark = [
    pytest.mark.boot,
    pytest.mark.skipif(
        not any(Path(path).exists() for path in seabios.PATHS), reason="SeaBIOS is missing: package seabios"
    ),
]
TIMEOUT = 120.0


@pytest.fixture
def machine_of() -> Iterator[Callable[..., Machine]]:
    """Return a function that makes a machine with SeaBIOS, closed after the test."""
    machines: list[Machine] = []

    def make(**fields: object) -> Machine:
        machines.append(Machine(memory=64 * MIB, firmware="seabios", serial="buffer", **fields))
        return machines[-1]

    yield make
    for machine in machines:
        machine.close()


def messages(machine: Machine) -> str:
    """What SeaBIOS wrote to its debug port."""
    port = machine.devices["firmware_debug"]
    assert isinstance(port, DebugConsole)
    assert port.sink is not None
    return port.sink.read().decode(errors="replace")


def test_power_on_self_test(machine_of: Callable[..., Machine], record_exercised: RecordExercised) -> None:
    machine = machine_of()
    assert machine.wait_for(lambda: "No bootable device" in machine.screen.text(), TIMEOUT)
    log = messages(machine)
    assert "Found QEMU fw_cfg" in log
    assert "DMA interface supported" in log
    assert "(via xsdt)" in log, "SeaBIOS found our ACPI tables where its loader put them"
    assert "Running option rom at c000:0003" in log
    mode = machine.screen.mode
    assert (mode.kind, mode.columns, mode.rows, mode.width, mode.height) == ("text", 80, 25, 720, 400)
    assert machine.screen.text().startswith("SeaBIOS (version ")
    picture = machine.screenshot()
    lit = {(x // 9, y // 16) for y in range(400) for x in range(720) if picture.pixel(x, y) != (0, 0, 0)}
    shown = {
        (column, row)
        for row, line in enumerate(machine.screen.text().split("\n"))
        for column, character in enumerate(line)
        if character != " "
    }
    assert shown <= lit
    assert len(lit - shown) <= 1, "besides characters only the cursor is lit"
    record_exercised(engine=machine.engine_name, guest="SeaBIOS, self-test")


@pytest.mark.parametrize("interface", ["virtio", "ide"])
def test_boot_sector(
    tmp_path: Path,
    machine_of: Callable[..., Machine],
    interface: Literal["virtio", "ide"],
    record_exercised: RecordExercised,
) -> None:
    image = bios_images.sized(tmp_path / "plain.img", bios_images.boot_sector(tmp_path), 1440 * KIB)
    machine = machine_of(disks=[DiskConfig(image, interface, "raw")])
    for _ in range(2):
        result = machine.run(timeout=TIMEOUT)
        assert (result.reason, result.code) == ("exit", bios_images.EXIT_VALUE << 1 | 1)
        assert "boot sector runs\nsector one\nthree ticks" in machine.screen.text()
        assert "three ticks" in machine.serial.read_text(), "the serial console mirrors the screen"
        machine.reset()
    record_exercised(engine=machine.engine_name, guest=f"SeaBIOS, boot sector, {interface}")


def test_cd_in_the_atapi_drive(
    tmp_path: Path, machine_of: Callable[..., Machine], record_exercised: RecordExercised
) -> None:
    """SeaBIOS's own ATAPI driver reads the disc: the El Torito catalogue, the boot image, GRUB's modules and menu."""
    machine = machine_of(disks=[DiskConfig(bios_images.grub_iso(tmp_path), "cdrom", "raw")])
    assert machine.wait_for(lambda: "second entry" in machine.screen.text(), TIMEOUT)
    ide = machine.devices["ide"]
    assert isinstance(ide, Ide)
    assert ide.counters(1).packets > 20
    assert ide.counters(1).bytes_read > 50 * KIB
    record_exercised(engine=machine.engine_name, guest="SeaBIOS, CD")


def test_no_mirror_when_not_asked(tmp_path: Path, machine_of: Callable[..., Machine]) -> None:
    image = bios_images.sized(tmp_path / "plain.img", bios_images.boot_sector(tmp_path), 1440 * KIB)
    machine = machine_of(disks=[DiskConfig(image, format="raw")], bios_serial=False)
    assert machine.run(timeout=TIMEOUT).reason == "exit"
    assert machine.serial.read_text() == ""


def test_screen_and_keys_by_vnc(tmp_path: Path, machine_of: Callable[..., Machine]) -> None:
    """A stock VNC client presses Escape in time for the boot menu, and takes a picture of it."""
    machine = machine_of()
    server = machine.serve_vnc("127.0.0.1:777")
    taken = tmp_path / "screen.png"
    thread = threading.Thread(target=lambda: machine.run(timeout=TIMEOUT))
    thread.start()
    try:
        end = time.monotonic() + TIMEOUT
        while "Press ESC for boot menu" not in machine.screen.text():
            assert time.monotonic() < end
            time.sleep(0.01)
        command = [sys.executable, "-m", "vncdotool.command", "-s", f"127.0.0.1::{server.address[1]}"]
        words = ["key", "esc", "pause", "1", "capture", str(taken)]
        subprocess.run([*command, *words], check=True, timeout=TIMEOUT, capture_output=True)
        assert "Select boot device" in machine.screen.text()
    finally:
        machine.stop()
        thread.join()
    with Image.open(taken) as picture:
        assert picture.size == (720, 400)
        lit = sum(1 for value in picture.convert("L").tobytes() if value)
    assert lit > 1000, "the menu's characters are on it"


@pytest.mark.parametrize("memory", [2 * MIB, 16 * MIB, 3584 * MIB, 5120 * MIB])
def test_memory_map(machine_of: Callable[..., Machine], memory: int) -> None:
    machine = Machine(memory=memory, firmware="seabios", serial="buffer")
    with machine:
        assert machine.wait_for(lambda: "No bootable device" in machine.screen.text(), TIMEOUT)
        below = min(memory, 3 << 30)
        lines = [line.split() for line in messages(machine).split("\n") if "= 1 RAM" in line]
        ranges = [(int(words[1], 16), int(words[3], 16)) for words in lines]
        top = max(end for _, end in ranges if end <= 1 << 32)
        assert below - 512 * KIB <= top <= below
        above = [end - start for start, end in ranges if start >= 1 << 32]
        assert sum(above) == memory - below


def test_debian_disk(
    debian_disk: Path, vmm: Vmm, boot: Boot, exercised: Callable[[str], None], tmp_path: Path
) -> None:
    """GRUB and Linux by SeaBIOS; Linux finds our ACPI tables, and powers off by them."""
    overlay = tmp_path / "overlay.qcow2"
    qemu_img("create", "-f", "qcow2", "-b", debian_disk, "-F", "qcow2", overlay)
    with boot([*vmm.disk(overlay), "--firmware", "seabios"]) as session:
        session.expect("SeaBIOS")
        session.expect("GNU GRUB +version 2")
        session.login()
        assert "PYVMM" in session.check("dmesg | grep 'ACPI: FACP'")
        assert session.run("dmesg | grep -iE 'ACPI.*(error|warning|BIOS bug)'").output == ""
        assert session.poweroff() == 0
    exercised("Debian disk, SeaBIOS")


def test_missing_rom_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seabios, "PATHS", ("/nowhere/bios.bin",))
    with pytest.raises(BootError, match=r"--firmware seabios: none of /nowhere/bios\.bin is there; install"):
        Machine(memory=64 * MIB, firmware="seabios", serial="buffer")


def test_boot_menu_by_keyboard(tmp_path: Path, machine_of: Callable[..., Machine]) -> None:
    image = bios_images.sized(tmp_path / "plain.img", bios_images.boot_sector(tmp_path), 1440 * KIB)
    machine = machine_of(disks=[DiskConfig(image, format="raw")])
    assert machine.wait_for(lambda: "Press ESC for boot menu" in machine.screen.text(), TIMEOUT)
    machine.keyboard.press("esc")
    assert machine.wait_for(lambda: "Select boot device" in machine.screen.text(), TIMEOUT)
    machine.keyboard.type("1")
    assert machine.run(timeout=TIMEOUT).reason == "exit"
    assert "three ticks" in machine.screen.text()
