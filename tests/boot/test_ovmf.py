"""UEFI firmware, as Debian ships it, on our hardware: its shell, its variables in flash, and GRUB and Linux by EFI."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pyvmm import DiskConfig, Machine
from pyvmm.errors import ConfigError
from pyvmm.units import MIB
from tests.boot.guests import need
from tests.conftest import RecordExercised

VARIABLES = Path("/usr/share/OVMF/OVMF_VARS.fd")
pytestmark = [
    pytest.mark.boot,
    pytest.mark.skipif(not VARIABLES.exists(), reason="OVMF is missing: package ovmf"),
]
TIMEOUT = 240.0
GUID = "12345678-1234-1234-1234-123456789abc"


class Talk:
    """A machine whose COM1 is read until a text comes."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.text = ""
        self.seen = 0

    def see(self, text: str) -> None:
        def found() -> bool:
            self.text += self.machine.serial.read_text()
            at = self.text.find(text, self.seen)
            if at >= 0:
                self.seen = at + len(text)
            return at >= 0

        assert self.machine.wait_for(found, TIMEOUT), f"{text!r} did not come: {self.text[-800:]!r}"


@pytest.fixture
def machine_of() -> Iterator[Callable[..., Machine]]:
    """Return a function that makes a machine with OVMF, closed after the test."""
    machines: list[Machine] = []

    def make(**fields: object) -> Machine:
        machines.append(Machine(memory=256 * MIB, firmware="ovmf", serial="buffer", **fields))
        return machines[-1]

    yield make
    for machine in machines:
        machine.close()


@pytest.fixture
def variables(tmp_path: Path) -> Path:
    """A copy of empty variables."""
    return Path(shutil.copy(VARIABLES, tmp_path / "vars.fd"))


def test_shell_and_variables(
    machine_of: Callable[..., Machine], variables: Path, record_exercised: RecordExercised
) -> None:
    """What is typed on the PS/2 keyboard is in the file, and there again for the next machine."""
    machine = machine_of(pflash=variables)
    talk = Talk(machine)
    talk.see("Shell>")
    mode = machine.screen.mode
    assert (mode.kind, mode.width, mode.height) == ("graphics", 1280, 800)
    assert len(set(machine.screen.picture().pixels)) > 2, "the shell is on the frame buffer"
    machine.keyboard.type(f"setvar hello -guid {GUID} -nv -bs =0x11223344\n")
    talk.see("\n")
    talk.see("Shell>")
    machine.close()
    assert "hello".encode("utf-16-le") in variables.read_bytes()
    again = Talk(machine_of(pflash=variables))
    again.see("Shell>")
    again.machine.keyboard.type(f"setvar hello -guid {GUID}\n")
    again.see("44 33 22 11")
    record_exercised(engine=machine.engine_name, guest="OVMF, shell")


def test_linux_by_grub(
    cloud_kernel: Path,
    initramfs: Path,
    machine_of: Callable[..., Machine],
    tmp_path: Path,
    record_exercised: RecordExercised,
) -> None:
    """An EFI system partition with GRUB and a kernel: ACPI tables come through UEFI, frame buffer through GOP."""
    need("grub-mkstandalone", "mcopy", "mkfs.fat")
    config = tmp_path / "grub.cfg"
    config.write_text(
        "search --no-floppy --file --set=root /vmlinuz\nlinux /vmlinuz console=ttyS0\ninitrd /initrd\nboot\n"
    )
    loader = tmp_path / "bootx64.efi"
    modules = "part_gpt part_msdos fat normal linux search search_fs_file echo"
    command = ["grub-mkstandalone", "-O", "x86_64-efi", "-o", loader, f"--install-modules={modules}"]
    made = subprocess.run(
        [*command, f"boot/grub/grub.cfg={config}"], capture_output=True, text=True, check=False
    )
    if "grub/x86_64-efi" in made.stderr and "doesn't exist" in made.stderr:
        pytest.skip("GRUB for EFI is missing: package grub-efi-amd64-bin")
    assert made.returncode == 0, made.stderr
    disk = tmp_path / "esp.img"
    with disk.open("wb") as file:
        file.truncate(128 * MIB)
    subprocess.run(["mkfs.fat", "-F", "32", disk], check=True, capture_output=True)
    subprocess.run(["mmd", "-i", disk, "::/EFI", "::/EFI/BOOT"], check=True)
    for source, target in (
        (loader, "EFI/BOOT/BOOTX64.EFI"),
        (cloud_kernel, "vmlinuz"),
        (initramfs, "initrd"),
    ):
        subprocess.run(["mcopy", "-i", disk, source, f"::/{target}"], check=True)
    machine = machine_of(disks=[DiskConfig(disk, format="raw", snapshot=True)])
    talk = Talk(machine)
    talk.see("efi: EFI v2.7")
    talk.see("ACPI: FACP")
    talk.see("\nUP")
    assert "PYVMM" in talk.text
    record_exercised(engine=machine.engine_name, guest="OVMF, GRUB, Linux")


def test_mistakes_are_named(tmp_path: Path, variables: Path) -> None:
    def refused(match: str, **fields: object) -> None:
        with pytest.raises(ConfigError, match=match):
            Machine(memory=64 * MIB, serial="buffer", **fields)

    refused("--pflash: goes with UEFI firmware", pflash=variables)
    missing = tmp_path / "none.fd"
    refused(f"--pflash: {missing}: No such file", firmware="ovmf", pflash=missing)
    odd = tmp_path / "odd.fd"
    odd.write_bytes(bytes(1000))
    refused(f"--pflash: {odd}: 1000 bytes; flash is a multiple", firmware="ovmf", pflash=odd)
    with Machine(memory=64 * MIB, serial="buffer", firmware="ovmf", pflash=variables):
        refused(f"--pflash: {variables}: another machine has it", firmware="ovmf", pflash=variables)
