"""What a stock Linux makes of the board's clocks, interrupts and ways to start again."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pyvmm.guests.cached import cached_initramfs
from tests.boot.guests import Boot, Session, Vmm, qemu_img

pytestmark = [pytest.mark.boot, pytest.mark.timeout(1800)]

STAMP = "+'%Y-%m-%d %H:%M:%S'"
SLACK = 30
"""Seconds between reading two clocks: a busy host's delay, never a clock's."""


@contextmanager
def shell(boot: Boot, argv: list[str]) -> Iterator[Session]:
    """Linux's shell on the console, and power-off at the end of the block."""
    with boot(argv) as session:
        session.expect("\nUP\r+\n")
        session.plain_shell()
        yield session
        assert session.poweroff("poweroff -f") == 0


def test_date_hwclock_and_sleep(
    vmm: Vmm, boot: Boot, exercised: Callable[[str], None], cloud_kernel: Path, initramfs: Path
) -> None:
    """The date is the host's, the RTC is read and set, and 5 seconds are 5 seconds."""
    with shell(boot, vmm.kernel(cloud_kernel, initramfs, "console=ttyS0 quiet")) as session:
        assert abs(int(session.check("date +%s")) - time.time()) < SLACK
        rtc = int(session.check("cat /sys/class/rtc/rtc0/since_epoch"))
        assert abs(rtc - time.time()) < SLACK
        assert session.check("hwclock -u -r").split()[-2:] == ["0.000000", "seconds"]

        begun = time.monotonic()
        assert session.check(
            "a=$(cut -d. -f1 /proc/uptime); sleep 5; b=$(cut -d. -f1 /proc/uptime); echo $((b-a))"
        )
        taken = time.monotonic() - begun
        assert 4.5 < taken < 5 + SLACK

        session.check("date -u -s '2031-02-28 23:59:50'; hwclock -u -w")
        assert session.check(f"date -u {STAMP}").startswith(("2031-02-28", "2031-03-01"))
        written = session.check("cat /sys/class/rtc/rtc0/date").strip()
        assert written in ("2031-02-28", "2031-03-01")
        session.check("sleep 11")
        assert session.check("cat /sys/class/rtc/rtc0/date").strip() == "2031-03-01", "2031 is no leap year"
        session.check("hwclock -u -s")
        assert session.check(f"date -u {STAMP}").startswith("2031-03-01 00:0")
    exercised("Debian cloud kernel, clocks")


def test_rtc_alarm_interrupts(
    vmm: Vmm, boot: Boot, exercised: Callable[[str], None], cloud_kernel: Path, initramfs: Path
) -> None:
    """The alarm that wakealarm sets comes as IRQ 8, and is over then."""
    with shell(boot, vmm.kernel(cloud_kernel, initramfs, "console=ttyS0 quiet")) as session:
        count = "awk '$1 == \"8:\" {print $2}' /proc/interrupts"
        before = int(session.check(count))
        session.check("echo +2 > /sys/class/rtc/rtc0/wakealarm")
        assert session.check("cat /sys/class/rtc/rtc0/wakealarm").strip().isdigit()
        # Empty once it has rung. With an HPET Linux polls for it, at 64 interrupts a second on the same line.
        wait = (
            'for i in $(seq 100); do [ -z "$(cat /sys/class/rtc/rtc0/wakealarm)" ] && break; sleep 0.2; done'
        )
        session.check(wait)
        assert session.check("cat /sys/class/rtc/rtc0/wakealarm").strip() == ""
        assert int(session.check(count)) > before
    exercised("Debian cloud kernel, RTC alarm")


def test_interrupts(
    vmm: Vmm, boot: Boot, exercised: Callable[[str], None], cloud_kernel: Path, tmp_path: Path
) -> None:
    """Devices interrupt by the I/O APIC, virtio by MSI-X, the local timer ticks, and nothing is spurious."""
    disk = tmp_path / "disk.qcow2"
    qemu_img("create", "-f", "qcow2", disk, "16M")
    initrd = cached_initramfs(modules=("virtio_pci", "virtio_blk"))
    words = [*vmm.kernel(cloud_kernel, initrd, "console=ttyS0 quiet"), *vmm.virtio(disk)]
    with shell(boot, words) as session:
        session.check("dd if=/dev/vda of=/dev/null bs=64k count=20 iflag=direct 2>&1")
        said = session.check("cat /proc/interrupts")
        rows = {
            match[1]: (int(match[2]), match[3])
            for match in re.finditer(r"^ *(\w+): +(\d+) *(.*)$", said, re.M)
        }
        for line, name in (("1", "i8042"), ("4", "ttyS0"), ("8", "rtc0"), ("9", "acpi")):
            assert re.fullmatch(rf"IO-APIC +{line}-\w+ +{name}", rows[line][1]), said
        assert rows["4"][0] > 0
        assert rows["LOC"][0] > 10
        assert rows["ERR"][0] == rows["MIS"][0] == rows["SPU"][0] == 0, said
        requests = [count for count, text in rows.values() if re.search(r"PCI-MSI.* virtio0-req", text)]
        assert requests, said
        assert requests[0] >= 20, said
    exercised("Debian cloud kernel, interrupts")


@pytest.mark.parametrize("way", ["acpi", "kbd", "triple", "pci"])
def test_reboot(
    way: str,
    vmm: Vmm,
    boot: Boot,
    exercised: Callable[[str], None],
    cloud_kernel: Path,
    initramfs: Path,
) -> None:
    """FADT's reset register, the keyboard controller, a triple fault and port 0xcf9 start the guest again."""
    append = f"console=ttyS0 panic=0 reboot={way},force"
    with boot(vmm.kernel(cloud_kernel, initramfs, append)) as session:
        session.expect("\nUP\r+\n")
        session.plain_shell()
        session.child.sendline("reboot -f")
        session.expect(r"Linux version \d")
        session.expect("\nUP\r+\n")
        session.plain_shell()
        assert session.poweroff("poweroff -f") == 0
    exercised(f"Debian cloud kernel, reboot={way}")


@pytest.mark.long
def test_disk_reboots_to_login(
    debian_disk: Path, vmm: Vmm, boot: Boot, exercised: Callable[[str], None], tmp_path: Path
) -> None:
    """systemd's reboot goes by firmware and GRUB to the login again, and the file system was unmounted cleanly."""
    overlay = tmp_path / "overlay.qcow2"
    qemu_img("create", "-f", "qcow2", "-b", debian_disk, "-F", "qcow2", overlay)
    with boot(vmm.disk(overlay)) as session:
        session.login()
        first = session.check("cat /proc/sys/kernel/random/boot_id")
        session.child.sendline("reboot")
        session.expect("GNU GRUB +version 2")
        session.login()
        assert session.check("cat /proc/sys/kernel/random/boot_id") != first
        assert session.run("journalctl -k -b --no-pager | grep -E 'EXT4-fs.*(recover|error)'").output == ""
        assert session.poweroff() == 0
    exercised("Debian disk, reboot")
