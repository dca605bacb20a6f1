"""Debian's cloud kernel and a busybox initramfs, started directly by ``--kernel``."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from pyvmm.guests.cached import cached_kernel
from pyvmm.guests.tools import find_tool
from tests.boot.guests import Boot, Vmm, need

pytestmark = [pytest.mark.boot, pytest.mark.timeout(1800)]


def test_kernel_gets_its_files_and_memory(
    vmm: Vmm, boot: Boot, exercised: Callable[[str], None], cloud_kernel: Path, initramfs: Path
) -> None:
    """The guest sees the kernel that was given, its command line, an unharmed initramfs and the memory asked for."""
    append = "console=ttyS0 pyvmm.test=a,b"
    with boot(vmm.kernel(cloud_kernel, initramfs, append, memory=300)) as session:
        session.expect(r"Linux version \d")
        session.expect("\nUP\r+\n")
        session.plain_shell()
        assert session.check("cat /proc/cmdline").strip() == append
        assert session.check("uname -r").strip() == cloud_kernel.name.removeprefix("vmlinuz-")
        total = int(session.check("grep MemTotal /proc/meminfo").split()[1])
        assert 0.7 * 300 * 1024 < total < 300 * 1024
        busybox = Path(str(find_tool("busybox"))).read_bytes()
        assert session.check("sha256sum /bin/busybox").split()[0] == hashlib.sha256(busybox).hexdigest()
        assert session.poweroff("poweroff -f") == 0
    exercised("Debian cloud kernel")


def test_user_space_computes_right(
    vmm: Vmm, boot: Boot, exercised: Callable[[str], None], cloud_kernel: Path, initramfs: Path
) -> None:
    """Arithmetic, pipes, processes and files in the guest give what they give on the host."""
    with boot(vmm.kernel(cloud_kernel, initramfs, "console=ttyS0 quiet")) as session:
        session.expect("\nUP\r+\n")
        session.plain_shell()
        numbers = b"".join(b"%d\n" % number for number in range(1, 100001))
        said = session.check("seq 1 100000 | tee /tmp/n | gzip | zcat | sha256sum; cmp /tmp/n /tmp/n")
        assert said.split()[0] == hashlib.sha256(numbers).hexdigest()
        # Floating point, with context switches between the two.
        sums = "for p in 1 2 3; do awk 'BEGIN{for(i=1;i<=20000;i++)s+=1/i;printf \"%.9f\\n\",s}' & done; wait"
        expected = f"{sum(1 / i for i in range(1, 20001)):.9f}"
        printed = session.check(sums).split()
        assert printed.count(expected) == 3, printed
        assert (
            session.check("i=0; while [ $i -lt 300 ]; do (exit 7); [ $? = 7 ] || echo bad; i=$((i+1)); done")
            == ""
        )
        assert session.poweroff("poweroff -f") == 0
    exercised("Debian cloud kernel")


def test_time_and_ticks(
    vmm: Vmm, boot: Boot, exercised: Callable[[str], None], cloud_kernel: Path, initramfs: Path
) -> None:
    """Timer interrupts come, sleeping works, the clock goes forward and the date is the host's."""
    with boot(vmm.kernel(cloud_kernel, initramfs, "console=ttyS0 quiet")) as session:
        session.expect("\nUP\r+\n")
        session.plain_shell()
        first = int(session.check("date +%s"))
        session.check("sleep 2")
        second = int(session.check("date +%s"))
        assert first + 2 <= second
        assert first > 1_600_000_000, "the real-time clock did not reach the guest"
        assert session.poweroff("poweroff -f") == 0
    exercised("Debian cloud kernel")


def test_reset_starts_the_guest_again(
    vmm: Vmm, boot: Boot, exercised: Callable[[str], None], cloud_kernel: Path, initramfs: Path
) -> None:
    """A reboot asked for by the guest starts the same kernel from its beginning."""
    with boot(vmm.kernel(cloud_kernel, initramfs, "console=ttyS0")) as session:
        session.expect("\nUP\r+\n")
        session.plain_shell()
        session.child.sendline("reboot -f")
        session.expect(r"Linux version \d")
        session.expect("\nUP\r+\n")
        session.plain_shell()
        assert session.poweroff("poweroff -f") == 0
    exercised("Debian cloud kernel")


def test_console_on_the_screen(cloud_kernel: Path) -> None:
    """The VGA is in text mode before the kernel starts, and boot_params say so: vgacon takes it.

    Without a root file system the kernel's last line stays on the screen.
    """
    from pyvmm import Machine, MachineConfig

    append = "console=ttyS0 console=tty0"
    with Machine(
        MachineConfig(memory=256 << 20, serial="buffer", kernel=cloud_kernel, append=append)
    ) as machine:
        found = machine.wait_for(lambda: "end Kernel panic - not syncing" in machine.screen.text(), 120)
        assert found, machine.screen.text()
        assert "Console: colour VGA+ 80x25" in machine.serial.read_text()
        mode = machine.screen.mode
        assert (mode.kind, mode.columns, mode.rows) == ("text", 80, 25)


def test_mp_table_is_enough_without_acpi(
    vmm: Vmm, boot: Boot, exercised: Callable[[str], None], guest_cache: Path, initramfs: Path
) -> None:
    """acpi=off: Debian's generic kernel finds the MP table, and takes its interrupts through the I/O APIC."""
    need("apt-get", "dpkg-deb")
    append = "console=ttyS0 acpi=off"
    with boot(vmm.kernel(cached_kernel("generic"), initramfs, append, memory=300)) as session:
        session.expect("\nUP\r+\n")
        session.plain_shell()
        log = session.check("dmesg")
        assert "Intel MultiProcessor Specification v1.4" in log
        assert "BIOS bug" not in log
        if vmm.name == "pyvmm":
            assert "MPTABLE: OEM ID: PYVMM" in log
        lines = session.check("cat /proc/interrupts")
        assert re.search(r" 4: +\d+ +IO-APIC +4-edge +ttyS0", lines), lines
    exercised("Debian generic kernel, no ACPI")
