"""Linux with each choice of interrupt controllers and timers that its command line knows."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.boot.guests import Boot, Vmm

pytestmark = [pytest.mark.boot, pytest.mark.timeout(1800)]

# Command line, then what /proc/interrupts must show and what the kernel's log must say.
CHOICES = {
    "": (r"IO-APIC +4-edge +ttyS0", r"x2apic enabled|TSC deadline timer available"),
    "nox2apic": (r"IO-APIC +4-edge +ttyS0", r"APIC: Switch to symmetric I/O mode"),
    "lapic=notscdeadline": (r"IO-APIC +2-edge +timer", r"Using IOAPIC for interrupt routing"),
    "noapic": (r"XT-PIC +ttyS0", r"Using PIC for interrupt routing"),
    "nolapic": (r"XT-PIC +timer", r"Using PIC for interrupt routing"),
}
COMPLAINTS = (
    "APIC.*(error|fail|bug|mismatch)|spurious|irq .*nobody cared|unchecked MSR|MP-BIOS bug|timer doesn.t work"
)


@pytest.mark.parametrize("words", CHOICES, ids=lambda words: words or "default")
def test_linux_takes_what_it_is_told(
    words: str, vmm: Vmm, boot: Boot, exercised: Callable[[str], None], cloud_kernel: Path, initramfs: Path
) -> None:
    """The timer ticks and the serial line interrupts through the controller chosen, and the kernel finds no fault."""
    shown, said = CHOICES[words]
    with boot(vmm.kernel(cloud_kernel, initramfs, f"console=ttyS0 quiet {words}")) as session:
        session.expect("\nUP\r+\n")
        session.plain_shell()
        interrupts = session.check("cat /proc/interrupts")
        assert re.search(shown, interrupts), interrupts
        log = session.check("dmesg")
        assert re.search(said, log), log
        assert not re.search(COMPLAINTS, log, re.IGNORECASE), log
        ticks = re.search(r"timer$" if words == "nolapic" else r"^ *LOC: *([0-9]+)", interrupts, re.MULTILINE)
        assert ticks, interrupts
        session.check("sleep 1")
        assert session.check("cat /proc/interrupts") != interrupts
        assert session.poweroff("poweroff -f") == 0
    exercised("Debian cloud kernel")
