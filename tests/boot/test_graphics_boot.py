"""Graphics before the operating system and for it: SYSLINUX's vesamenu.c32, and Linux's ``vga=``."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pyvmm import DiskConfig, Machine
from pyvmm.errors import BootError
from pyvmm.firmware import seabios
from pyvmm.guests.cached import cached_kernel
from pyvmm.units import MIB
from tests.boot import bios_images
from tests.boot.console_text import assert_shown
from tests.boot.guests import need
from tests.conftest import RecordExercised

pytestmark = [pytest.mark.boot, pytest.mark.timeout(1800)]
TIMEOUT = 240.0
END = "end Kernel panic - not syncing"
"""Without a root file system it is the last thing that Linux prints."""


@pytest.fixture(scope="module")
def generic_kernel(guest_cache: Path) -> Path:
    """Debian's generic kernel, which has vesafb; the cloud kernel has not."""
    need("apt-get", "dpkg-deb")
    return cached_kernel("generic")


def wait_for_end(machine: Machine) -> str:
    """Run until Linux gave up, and on until the last line is drawn; what it printed on COM1."""
    said = ""

    def ended() -> bool:
        nonlocal said
        said += machine.serial.read_text()
        return END in said and said.endswith("\n")

    assert machine.wait_for(ended, TIMEOUT), said[-2000:]
    machine.run(timeout=1.0)
    return said


def has_menu(machine: Machine) -> Callable[[], bool]:
    """Whether vesamenu's mode is on and more than a background of one colour is drawn."""

    def drawn() -> bool:
        if (machine.screen.mode.width, machine.screen.mode.height) != (800, 600):
            return False
        pixels = machine.screen.picture().pixels
        return len({pixels[at : at + 4] for at in range(0, len(pixels), 404)}) > 40

    return drawn


def changed_rows(machine: Machine, before: bytes) -> list[int]:
    """Lines of the picture that are not as they were."""
    now, pitch = machine.screen.picture().pixels, 4 * 800
    return [y for y in range(600) if now[y * pitch : (y + 1) * pitch] != before[y * pitch : (y + 1) * pitch]]


@pytest.mark.parametrize("firmware", ["builtin", "seabios"])
def test_vesamenu(
    tmp_path: Path, generic_kernel: Path, firmware: str, record_exercised: RecordExercised
) -> None:
    """ISOLINUX's menu in 800 x 600: its bar moves and comes back; then the own BIOS's real-mode kernel sets 0x317.

    Linux's set-up code asks the BIOS for the mode by VBE; its console is then compared with what COM1 got.
    """
    settings: dict[str, object] = {}
    if firmware == "seabios":
        if not any(Path(path).exists() for path in seabios.PATHS):
            pytest.skip("SeaBIOS is missing: package seabios")
        settings["firmware"] = firmware
    shutil.copyfile(generic_kernel, tmp_path / "vmlinuz")
    image = bios_images.vesamenu_iso(tmp_path, tmp_path / "vmlinuz")
    disk = DiskConfig(image, "cdrom", "raw", read_only=True)
    with Machine(memory=256 * MIB, disks=[disk], serial="buffer", **settings) as machine:
        assert machine.wait_for(has_menu(machine), TIMEOUT), machine.screen.text()
        machine.run(timeout=2.0)
        before = machine.screen.picture().pixels
        machine.keyboard.press("down")
        assert machine.wait_for(lambda: bool(changed_rows(machine, before)), TIMEOUT)
        machine.run(timeout=1.0)
        moved = changed_rows(machine, before)
        assert 30 <= len(moved) <= 40  # two lines of the menu
        assert moved[-1] - moved[0] < 40
        machine.keyboard.press("up")
        assert machine.wait_for(lambda: not changed_rows(machine, before), TIMEOUT)
        if firmware == "builtin":
            machine.keyboard.press("enter")
            said = wait_for_end(machine)
            assert "vesafb: mode is 1024x768x16, linelength=2048" in said
            assert "Console: switching to colour frame buffer device 128x48" in said
            assert_shown(machine.screen.picture(), said)
        record_exercised(engine=machine.engine_name, guest=f"ISOLINUX, vesamenu.c32, {firmware}")


def test_vga_of_a_directly_started_kernel(generic_kernel: Path, record_exercised: RecordExercised) -> None:
    """--kernel with ``vga=0x343``: VBE mode 143h, 800 x 600 with 32 bits, in screen_info. Again after a reset."""
    append = "console=ttyS0 console=tty0 vga=0x343"
    with Machine(memory=256 * MIB, serial="buffer", kernel=generic_kernel, append=append) as machine:
        mode = machine.screen.mode
        assert (mode.width, mode.height, mode.bits_per_pixel) == (800, 600, 32)
        said = wait_for_end(machine)
        assert "vesafb: mode is 800x600x32, linelength=3200" in said
        assert_shown(machine.screen.picture(), said)
        machine.reset()
        mode = machine.screen.mode
        assert (mode.width, mode.height, mode.bits_per_pixel) == (800, 600, 32)
        assert not any(machine.screen.picture().pixels)
        record_exercised(engine=machine.engine_name, guest="Debian generic kernel, vga=")


@pytest.mark.parametrize(("vga", "append"), [("std", "vga=0x3ff"), ("none", "vga=0x317")])
def test_mode_that_is_not_there(generic_kernel: Path, vga: str, append: str) -> None:
    with pytest.raises(BootError, match=r"--append: vga=0x3"):
        Machine(memory=256 * MIB, serial="buffer", kernel=generic_kernel, append=append, vga=vga).close()
