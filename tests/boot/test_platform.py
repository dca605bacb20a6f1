"""What a stock Linux makes of the board's firmware tables, timers and power button."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pyvmm import DiskConfig, Machine
from pyvmm.firmware import seabios
from tests.boot.guests import qemu_img

pytestmark = [pytest.mark.boot, pytest.mark.timeout(1800)]
TIMEOUT = 900.0
UUID = "12345678-9abc-def0-1234-56789abcdef0"


def ask(machine: Machine, command: str) -> str:
    """Run a command in the guest's shell; what it prints."""
    machine.serial.send(f"{command}; echo en''ded\n")
    return machine.serial.expect("ended\r\n", timeout=120).decode(errors="replace")


@pytest.mark.parametrize("firmware", ["pyvmm", pytest.param("seabios", marks=pytest.mark.long)])
def test_power_button_and_smbios_on_debian(
    debian_disk: Path, tmp_path: Path, firmware: str, exercised: Callable[[str], None]
) -> None:
    """systemd finds the UUID and name of the machine, and shuts down when the button is pressed."""
    if firmware == "seabios" and not any(Path(path).exists() for path in seabios.PATHS):
        pytest.skip("SeaBIOS is missing: package seabios")
    overlay = tmp_path / "overlay.qcow2"
    qemu_img("create", "-f", "qcow2", "-b", debian_disk, "-F", "qcow2", overlay)
    with Machine(
        memory=512 << 20,
        disks=[DiskConfig(overlay)],
        firmware=firmware,
        name="vm1",
        uuid=UUID,
        serial="buffer",
    ) as machine:
        events = machine.events
        machine.serial.expect("login:", timeout=TIMEOUT)
        machine.serial.send("root\n")
        machine.serial.expect("assword:", timeout=120)
        machine.serial.send("pyvmm\n")
        machine.serial.expect("# ", timeout=120)
        assert UUID in ask(machine, "cat /sys/class/dmi/id/product_uuid")
        assert "vm1" in ask(machine, "cat /sys/class/dmi/id/chassis_asset_tag")
        vendor = ask(machine, "cat /sys/class/dmi/id/bios_vendor")
        assert ("pyvmm" if firmware == "pyvmm" else "SeaBIOS") in vendor.splitlines()
        assert "hpet" in ask(
            machine, "cat /sys/devices/system/clocksource/clocksource0/available_clocksource"
        )
        machine.power_button()
        assert machine.run(timeout=TIMEOUT).reason == "poweroff"
    assert [event.kind for event in events.take()] == ["power-button", "poweroff", "closed"]
    exercised("Debian disk")


@pytest.mark.parametrize("hpet", [True, False])
def test_clocks_of_the_cloud_kernel(
    cloud_kernel: Path, initramfs: Path, hpet: bool, exercised: Callable[[str], None]
) -> None:
    """The kernel drives the HPET by legacy replacement, or the PIT; and it has nothing to complain about."""
    # So that ticks come from there. Without HPET Linux wants the PIT only where there is no local APIC.
    append = f"console=ttyS0 {'nolapic_timer' if hpet else 'nolapic'}"
    with Machine(
        memory=256 << 20, kernel=cloud_kernel, initrd=initramfs, append=append, hpet=hpet, serial="buffer"
    ) as machine:
        log = machine.serial.expect("guest# ", timeout=TIMEOUT).decode(errors="replace")
        assert ("HPET id: 0x8086a201" in log) is hpet
        assert "DMI: pyvmm PC" in log
        devices = ask(machine, "cat /proc/timer_list")
        assert ("Clock Event Device: hpet" in devices) is hpet
        assert ("Clock Event Device: pit" in devices) is not hpet
        ticks = [
            int(line.split()[1])
            for line in ask(machine, "cat /proc/interrupts; sleep 1; cat /proc/interrupts").splitlines()
            if line.strip().startswith("0:")
        ]
        assert ticks[1] > ticks[0]
        levels = "dmesg -r | grep '^<[0-4]>' | grep -iE ' (hpet|rtc|dmi|smbios|acpi|clocksource)'"
        # A slow processor makes the kernel wait longer for the HPET; without I/O APIC it corrects ELCR. QEMU's TCG too.
        complaints = ask(machine, f"{levels} | grep -vE 'CE: hpet increased min_delta_ns|setting ELCR'")
        assert "\n<" not in complaints, complaints
        machine.serial.send("poweroff -f\n")
        assert machine.run(timeout=TIMEOUT).reason == "poweroff"
    exercised("Debian cloud kernel")
