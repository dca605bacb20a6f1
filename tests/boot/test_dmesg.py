"""Stock Debian kernels complain of nothing on pyvmm's PC that they do not complain of on QEMU's.

Both machines have the same kernel, command line, memory, VGA, virtio disk, IDE disk and disc; the peer is
``qemu -M pc`` with TCG, hence ours runs on the translator.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from pyvmm.guests.cached import cached_initramfs, cached_kernel
from tests.boot.dmesg import complaints, not_said_by
from tests.boot.guests import Boot, Vmm, need, qemu_img

pytestmark = [pytest.mark.boot, pytest.mark.timeout(1800)]

STORAGE = ("virtio_pci", "virtio_blk", "ata_piix", "ata_generic", "sd_mod", "sr_mod")
DRIVERS = {
    "cloud": (*STORAGE, "button", "evdev"),
    "generic": (*STORAGE, "button", "evdev", "psmouse", "pcspkr", "bochs", "floppy", "i2c_piix4"),
}
"""What udev loads for such a machine, of what the flavour has."""

KNOWN: tuple[str, ...] = ()
"""What remains, as regular expressions: each is in docs/supported.md."""


def test_a_complaint_is_told_from_talk() -> None:
    """The comparison itself: levels, facilities, words, numbers and what a busy host does."""
    log = "\n".join(
        (
            "<6>[    0.000000] Linux version 6.1",
            "<4>[    1.000000] pnp 00:04: disabling [io  0x0600-0x060b]",
            "<6>[    1.100000] WARNING: CPU: 0 PID: 1 at kernel/x.c:1",
            "<28>[   2.000000] systemd[1]: a warning of somebody else's",
            "<4>[    3.000000] hrtimer: interrupt took 123 ns",
            "<3>[    4.000000] mce: Unable to init",
        )
    )
    assert [complaint.level for complaint in complaints(log)] == [4, 6, 3]
    peer = "<4>[ 1.0] pnp 00:05: disabling [io  0x0700-0x070b]"
    assert not_said_by(peer, log) == ["WARNING: CPU: 0 PID: 1 at kernel/x.c:1", "mce: Unable to init"]
    with pytest.raises(ValueError, match="dmesg"):
        complaints("login: ")


def unexpected(theirs: str, ours: str) -> list[str]:
    """What only our log complains of, but for what is known."""
    return [text for text in not_said_by(theirs, ours) if not any(re.search(known, text) for known in KNOWN)]


@pytest.mark.parametrize("flavour", ["cloud", "generic"])
def test_kernel_complains_of_no_more_than_under_qemu(
    flavour: str, qemu: Vmm, boot: Boot, exercised: Callable[[str], None], guest_cache: Path, tmp_path: Path
) -> None:
    """The kernel started directly, with the drivers of all that the machine has."""
    need("apt-get", "dpkg-deb", "busybox", "qemu-img")
    kernel = cached_kernel(flavour)
    initrd = cached_initramfs(modules=DRIVERS[flavour], flavour=flavour)
    disc = tmp_path / "disc.iso"
    disc.write_bytes(b"\0" * 65536)
    logs = {}
    for vmm in (Vmm("pyvmm", "translator"), qemu):
        disks = [tmp_path / f"{vmm.name}-{bus}.qcow2" for bus in ("virtio", "ide")]
        for disk in disks:
            qemu_img("create", "-f", "qcow2", disk, "16M")
        words = [
            *vmm.kernel(kernel, initrd, "console=ttyS0 quiet"),
            *vmm.virtio(disks[0]),
            *vmm.ide(disks[1], disc),
        ]
        with boot([*words, *std_vga(vmm)]) as session:
            session.expect("\nUP\r+\n")
            session.plain_shell()
            session.check(
                "for i in $(seq 100); do [ -b /dev/sda ] && [ -b /dev/sr0 ] && break; sleep 0.2; done"
            )
            logs[vmm.name] = session.check("dmesg -r")
            assert session.poweroff("poweroff -f") == 0
    assert unexpected(logs["qemu"], logs["pyvmm"]) == []
    exercised(f"Debian {flavour} kernel")


@pytest.mark.long
def test_disk_by_seabios_complains_of_no_more_than_under_qemu(
    debian_disk: Path, qemu: Vmm, boot: Boot, exercised: Callable[[str], None], tmp_path: Path
) -> None:
    """The whole disk, by the firmware that QEMU has too, and with the drivers that udev finds."""
    if not Path("/usr/share/seabios/bios-256k.bin").exists():
        pytest.skip("needs Debian's package seabios")
    logs = {}
    for vmm in (Vmm("pyvmm", "translator"), qemu):
        overlay = tmp_path / f"{vmm.name}.qcow2"
        qemu_img("create", "-f", "qcow2", "-b", debian_disk, "-F", "qcow2", overlay)
        firmware = ["--firmware", "seabios"] if vmm.name == "pyvmm" else []
        with boot([*vmm.disk(overlay), *firmware, *std_vga(vmm)]) as session:
            session.login()
            session.check("udevadm settle")
            logs[vmm.name] = session.check("dmesg -r")
            assert session.poweroff() == 0
    assert unexpected(logs["qemu"], logs["pyvmm"]) == []
    exercised("Debian disk, SeaBIOS")


def std_vga(vmm: Vmm) -> list[str]:
    """Words for a standard VGA; pyvmm has one anyway."""
    return [] if vmm.name == "pyvmm" else ["-vga", "std"]
