"""The main job: a stock Debian disk boots by its own GRUB to a login, keeps what it writes, and is QEMU's disk too."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.boot.guests import Boot, Session, Vmm, check_files, check_image, qemu_img, write_files

pytestmark = [pytest.mark.boot, pytest.mark.timeout(3600)]


def sha256(path: Path) -> str:
    """Return the digest of a file of the host."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def menu_to_login(session: Session) -> None:
    """Follow a boot from GRUB's menu over Linux to a root shell."""
    session.expect("GNU GRUB +version 2")
    session.expect("Debian GNU/Linux")
    session.expect(r"Linux version \d+\.\d+")
    session.expect("systemd 2[0-9]+.* running in system mode")
    session.login()


def test_disk_boots_and_keeps_files(
    debian_disk: Path, vmm: Vmm, qemu: Vmm, boot: Boot, exercised: Callable[[str], None], tmp_path: Path
) -> None:
    """Boot, write, power off; boot again; QEMU boots the same disk: the files are there and the image is clean."""
    disk = tmp_path / "debian.qcow2"
    shutil.copyfile(debian_disk, disk)

    with boot(vmm.disk(disk)) as session:
        menu_to_login(session)
        assert session.check("systemctl list-units --failed --no-legend --plain") == ""
        assert "console=ttyS0" in session.check("cat /proc/cmdline")
        interrupts = session.check("cat /proc/interrupts")
        assert re.search(r"PCI-MSI \d+-edge +virtio0-req", interrupts), interrupts
        assert re.search(r"IO-APIC +4-edge +ttyS0", interrupts), interrupts
        assert "/dev/vda1" in session.check("findmnt -n -o SOURCE,OPTIONS / | grep rw")
        write_files(session, "/root/first")
        assert session.poweroff() == 0
    check_image(disk)

    with boot(vmm.disk(disk)) as session:
        menu_to_login(session)
        check_files(session, "/root/first")
        assert session.run("journalctl -k -b --no-pager | grep -E 'EXT4-fs.*(recover|error)'").output == ""
        write_files(session, "/root/second")
        assert session.poweroff() == 0
    check_image(disk)

    with boot(qemu.disk(disk)) as session:
        menu_to_login(session)
        check_files(session, "/root/first")
        check_files(session, "/root/second")
        assert session.poweroff() == 0
    check_image(disk)
    exercised("Debian disk")


def test_disk_on_ide(
    debian_disk: Path, vmm: Vmm, qemu: Vmm, boot: Boot, exercised: Callable[[str], None], tmp_path: Path
) -> None:
    """The same disk as an IDE drive: Debian's own initrd finds it by ata_piix, and QEMU reads what was written."""
    overlay = tmp_path / "overlay.qcow2"
    qemu_img("create", "-f", "qcow2", "-b", debian_disk, "-F", "qcow2", overlay)

    with boot(vmm.disk(overlay, interface="ide")) as session:
        menu_to_login(session)
        assert session.check("systemctl list-units --failed --no-legend --plain") == ""
        assert "/dev/sda1" in session.check("findmnt -n -o SOURCE,OPTIONS / | grep rw")
        assert "ata_piix" in session.check("readlink -f /sys/bus/pci/devices/0000:00:01.1/driver")
        assert session.run("dmesg | grep -E 'ata[12].*(exception|failed|error|timeout)'").output == ""
        write_files(session, "/root/ide")
        assert session.poweroff() == 0
    check_image(overlay)

    with boot(qemu.disk(overlay, interface="ide")) as session:
        menu_to_login(session)
        check_files(session, "/root/ide")
        assert session.poweroff() == 0
    check_image(overlay)
    exercised("Debian disk, IDE")


def test_overlay_both_ways(
    debian_disk: Path, vmm: Vmm, qemu: Vmm, boot: Boot, exercised: Callable[[str], None], tmp_path: Path
) -> None:
    """An overlay by qemu-img: written by pyvmm and read by QEMU, and the reverse; its base stays as it was."""
    overlay = tmp_path / "overlay.qcow2"
    qemu_img("create", "-f", "qcow2", "-b", debian_disk, "-F", "qcow2", overlay)
    before = sha256(debian_disk)

    with boot(vmm.disk(overlay)) as session:
        menu_to_login(session)
        write_files(session, "/root/ours")
        assert session.poweroff() == 0
    check_image(overlay)

    with boot(qemu.disk(overlay)) as session:
        menu_to_login(session)
        check_files(session, "/root/ours")
        write_files(session, "/root/theirs")
        assert session.poweroff() == 0
    check_image(overlay)

    with boot(vmm.disk(overlay)) as session:
        menu_to_login(session)
        check_files(session, "/root/ours")
        check_files(session, "/root/theirs")
        assert session.poweroff() == 0
    check_image(overlay)
    assert sha256(debian_disk) == before
    exercised("Debian disk")
