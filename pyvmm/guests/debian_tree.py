"""A debootstrapped tree made into a system that boots: accounts, fstab, GRUB's files, menu and core image.

GRUB's menu is the one that the guest's own `grub-mkconfig` writes. That program asks `grub-probe` what disk the tree
is on; while the menu is made a stand-in answers for the disk that will be: GRUB finds it by the BIOS number of the
drive it was started from, Linux by the file system's UUID.

Sources: GRUB 2.06 manual ("Simple configuration", "Serial terminal"), fstab(5), machine-id(5), dpkg(1).
"""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path

from pyvmm.guests.tools import run_logged

_GRUB_SETTINGS = """\
# A machine whose console is its first serial port, and perhaps a screen as well.
GRUB_TIMEOUT={timeout}
GRUB_CMDLINE_LINUX_DEFAULT=""
GRUB_CMDLINE_LINUX="console=tty0 console=ttyS0,115200"
GRUB_TERMINAL="serial console"
GRUB_SERIAL_COMMAND="serial --unit=0 --speed=115200"
"""

_GRUB_PROBE = """\
#!/bin/sh
# Answers for the disk that this tree will be on.
for word; do case $word in
    --target=*) target=${{word#--target=}} ;;
    -t) next=1 ;;
    *) [ "$next" ] && target=$word; next= ;;
esac; done
case $target in
    device) echo /dev/vda1 ;;
    disk) echo /dev/vda ;;
    fs) echo ext2 ;;
    fs_uuid) echo {identity} ;;
    fs_label) echo root ;;
    partmap) echo msdos ;;
    partuuid) echo {signature:08x}-01 ;;
    drive) echo '(hd0,msdos1)' ;;
    bios_hints) echo hd0,msdos1 ;;
    hints_string) echo "--hint-bios=hd0,msdos1" ;;
    compatibility_hint) echo hd0,msdos1 ;;
    abstraction|cryptodisk_uuid) ;;
    *) exit 1 ;;
esac
"""

_DHCP_NETWORK = """\
# Used once systemd-networkd is enabled.
[Match]
Name=en* eth*

[Network]
DHCP=yes
"""

# grub-install copies these beside the modules.
_CORE_MODULES = ("biosdisk", "part_msdos", "ext2")


def in_tree(tree: Path, log: Path, *argv: str, stdin: str | None = None) -> str:
    """Run a command of the guest inside its tree and return its standard output."""
    env = {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "LC_ALL": "C",
        "HOME": "/root",
        "DEBIAN_FRONTEND": "noninteractive",
    }
    return run_logged(["chroot", tree, *argv], log, stdin=stdin, env=env)


def configure_tree(
    tree: Path, identity: uuid.UUID, hostname: str, root_password: str, grub_timeout: int, log: Path
) -> None:
    """Give the tree its name, file systems, root's password and GRUB's settings, and take out what each machine makes.

    The login on ttyS0 needs nothing: systemd starts a getty on every console of the kernel's command line
    (systemd-getty-generator(8)).
    """
    etc = tree / "etc"
    (etc / "hostname").write_text(f"{hostname}\n")
    (etc / "hosts").write_text(f"127.0.0.1\tlocalhost\n127.0.1.1\t{hostname}\n::1\tlocalhost ip6-localhost\n")
    (etc / "fstab").write_text(
        "# <file system> <mount point> <type> <options> <dump> <pass>\n"
        f"UUID={identity} / ext4 errors=remount-ro 0 1\n"
    )
    (etc / "systemd/network/80-dhcp.network").write_text(_DHCP_NETWORK)
    settings = etc / "default/grub.d/serial.cfg"
    settings.parent.mkdir(exist_ok=True)
    settings.write_text(_GRUB_SETTINGS.format(timeout=grub_timeout))
    in_tree(tree, log, "chpasswd", stdin=f"root:{root_password}\n")
    (etc / "machine-id").write_text("")  # systemd writes one at the first boot
    for path in (tree / "var/lib/dbus/machine-id", etc / "resolv.conf"):
        path.unlink(missing_ok=True)
    for folder in (tree / "var/log", tree / "var/lib/apt/lists", tree / "var/cache/apt"):
        for path in folder.rglob("*"):
            if path.is_file():
                path.unlink()


def make_grub_menu(tree: Path, identity: uuid.UUID, log: Path) -> None:
    """Put GRUB's modules, font, environment block and menu into /boot/grub, as grub-install and update-grub do."""
    grub = tree / "boot/grub"
    modules = tree / "usr/lib/grub/i386-pc"
    (grub / "i386-pc").mkdir(exist_ok=True)
    for pattern in ("*.mod", "*.lst"):
        for path in sorted(modules.glob(pattern)):
            shutil.copy2(path, grub / "i386-pc" / path.name)
    (grub / "fonts").mkdir(exist_ok=True)
    shutil.copy2(tree / "usr/share/grub/unicode.pf2", grub / "fonts/unicode.pf2")
    in_tree(tree, log, "grub-editenv", "/boot/grub/grubenv", "create")

    probe = tree / "usr/sbin/grub-probe"
    kept = probe.with_name("grub-probe.kept")
    by_uuid = tree / "dev/disk/by-uuid" / str(identity)
    probe.rename(kept)
    try:
        probe.write_text(_GRUB_PROBE.format(identity=identity, signature=identity.fields[0]))
        probe.chmod(0o755)
        by_uuid.parent.mkdir(parents=True)
        by_uuid.touch()  # grub-mkconfig names the root by UUID only when udev knows it
        in_tree(tree, log, "grub-mkconfig", "-o", "/boot/grub/grub.cfg")
    finally:
        kept.rename(probe)
        shutil.rmtree(tree / "dev/disk", ignore_errors=True)


def make_core_image(tree: Path, log: Path) -> bytes:
    """Return GRUB's core image for a disk whose first MBR partition has /boot/grub on ext4.

    A prefix without a drive means: the drive that the BIOS booted from.
    """
    core = "/boot/grub/i386-pc/core.img"
    in_tree(
        tree, log, "grub-mkimage", "-O", "i386-pc", "-p", "(,msdos1)/boot/grub", "-o", core, *_CORE_MODULES
    )
    shutil.copy2(tree / "usr/lib/grub/i386-pc/boot.img", tree / "boot/grub/i386-pc/boot.img")
    return (tree / core.lstrip("/")).read_bytes()
