"""Make the pictures of docs/screens.md: CDs with Debian's kernels and memtest86+, and boot menus; GRUB under SeaBIOS.

Run it from anywhere with the environment's Python: ``.venv/bin/python docs/images/screens.py``. Needs Debian's packages
seabios, grub-common, grub-pc-bin, isolinux, syslinux-common, xorriso, mtools and busybox-static; kernels and memtest86+
are fetched by apt.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from pyvmm import DiskConfig, Machine
from pyvmm.guests.cached import cached_initramfs, cached_kernel, guest_cache
from pyvmm.units import MIB

FOLDER = Path(__file__).resolve().parent
TIMEOUT = 600.0

INIT = """\
#!/bin/sh
/bin/busybox --install -s /bin
export PATH=/bin HOME=/
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev 2>/dev/null
clear
uname -srm
grep -E 'MemTotal|MemFree' /proc/meminfo
head -12 /proc/interrupts
cat /proc/fb
dmesg | grep -E 'Console: |vesafb|simple-framebuffer|fb0' | tail -4 | cut -c1-78
echo READY > /dev/ttyS0
setsid cttyhack sh
"""

MENU = """\
set timeout=-1
set color_normal=white/black
menuentry "Debian GNU/Linux, text console" {
    linux /boot/cloud console=ttyS0 console=tty0 quiet
    initrd /boot/initrd
}
menuentry "Debian GNU/Linux, frame buffer" {
    insmod all_video
    set gfxmode=1024x768x32
    set gfxpayload=keep
    terminal_output gfxterm
    linux /boot/generic console=ttyS0 console=tty0 quiet
    initrd /boot/initrd
}
menuentry "Memory test (memtest86+)" {
    linux /boot/memtest console=ttyS0,115200
}
menuentry "This menu in a VBE graphics mode" {
    insmod all_video
    insmod png
    loadfont /boot/unicode.pf2
    set gfxmode=1024x768x32
    terminal_output gfxterm
}
"""


def memtest() -> Path:
    """memtest86+ of Debian's package, as a Linux kernel image."""
    folder = guest_cache() / "memtest86+"
    image = folder / "boot" / "memtest86+x64.bin"
    if not image.exists():
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            ["apt-get", "download", "memtest86+"], cwd=folder, check=True, stdout=subprocess.DEVNULL
        )
        package = next(folder.glob("memtest86+*.deb"))
        subprocess.run(["dpkg-deb", "-x", package.name, "."], cwd=folder, check=True)
    return image


def make_disc(folder: Path) -> Path:
    """An El Torito CD with GRUB, its menu and what the menu starts."""
    boot = folder / "tree" / "boot"
    (boot / "grub").mkdir(parents=True)
    (boot / "grub" / "grub.cfg").write_text(MENU)
    files = {"cloud": cached_kernel(), "generic": cached_kernel("generic"), "memtest": memtest()}
    files |= {"initrd": cached_initramfs(INIT), "unicode.pf2": Path("/usr/share/grub/unicode.pf2")}
    for name, path in files.items():
        shutil.copyfile(path, boot / name)
    disc = folder / "screens.iso"
    command = ["grub-mkrescue", "-d", "/usr/lib/grub/i386-pc", "-o", str(disc), str(folder / "tree")]
    subprocess.run(command, check=True, capture_output=True)
    return disc


SYSLINUX_MENU = """\
UI vesamenu.c32
MENU TITLE Boot menu
MENU RESOLUTION 800 600
LABEL linux
    MENU LABEL Debian GNU/Linux, 1024 x 768
    KERNEL vmlinuz
    APPEND vga=0x317 quiet
LABEL local
    MENU LABEL The first disk
    LOCALBOOT 0x80
"""


def make_syslinux_disc(folder: Path) -> Path:
    """A CD with ISOLINUX and its menu in graphics; what it would start is not there."""
    tree, modules = folder / "syslinux" / "isolinux", Path("/usr/lib/syslinux/modules/bios")
    tree.mkdir(parents=True)
    shutil.copyfile("/usr/lib/ISOLINUX/isolinux.bin", tree / "isolinux.bin")
    for name in ("ldlinux", "libcom32", "libutil", "vesamenu"):
        shutil.copyfile(modules / f"{name}.c32", tree / f"{name}.c32")
    (tree / "isolinux.cfg").write_text(SYSLINUX_MENU)
    disc = folder / "syslinux.iso"
    command = ["xorriso", "-as", "mkisofs", "-o", str(disc), "-b", "isolinux/isolinux.bin", "-c"]
    command += ["isolinux/boot.cat", "-no-emul-boot", "-boot-load-size", "4", "-boot-info-table"]
    subprocess.run([*command, str(folder / "syslinux")], check=True, capture_output=True)
    return disc


def wait(machine: Machine, shows: str, *, on_serial: bool = False) -> None:
    """Run until a text is on the screen, or came by the serial line."""
    said = ""

    def seen() -> bool:
        nonlocal said
        said += machine.serial.read_text()
        return shows in (said if on_serial else machine.screen.text())

    if not machine.wait_for(seen, TIMEOUT):
        sys.exit(f"screens.py: {shows!r} did not come; the screen is:\n{machine.screen.text()}")


def take(machine: Machine, name: str) -> None:
    """Save what is shown once it is complete: the cursor stands, the rest is drawn."""
    machine.run(timeout=3.0)
    machine.screenshot().save(FOLDER / name)
    print(f"{name}: {machine.screen.mode.width} x {machine.screen.mode.height}", flush=True)


def choose(machine: Machine, entry: int) -> None:
    """Move in GRUB's menu and start an entry."""
    for _ in range(entry):
        machine.keyboard.press("down")
        machine.run(timeout=0.5)
    machine.keyboard.press("enter")


def main() -> None:
    """Start the CD once for each picture."""
    with tempfile.TemporaryDirectory(prefix="pyvmm-screens-") as folder:
        disk = DiskConfig(make_syslinux_disc(Path(folder)), "cdrom", "raw", read_only=True)
        with Machine(memory=64 * MIB, disks=[disk], serial="buffer", engine="translator") as machine:
            machine.wait_for(lambda: machine.screen.mode.width == 800, TIMEOUT)
            take(machine, "vesamenu.png")
        disk = DiskConfig(make_disc(Path(folder)), "cdrom", "raw", read_only=True)
        settings = {"memory": 256 * MIB, "disks": [disk], "firmware": "seabios", "serial": "buffer"}

        def started() -> Machine:
            machine = Machine(**settings, engine="translator", bios_serial=False)
            wait(machine, "VBE graphics mode")
            machine.run(timeout=1.0)
            return machine

        with started() as machine:
            take(machine, "grub.png")
            choose(machine, 3)
            machine.wait_for(lambda: machine.screen.mode.kind == "graphics", TIMEOUT)
            take(machine, "grub-vbe.png")
        with started() as machine:
            choose(machine, 2)
            wait(machine, "Memtest86+")
            machine.run(timeout=20.0)
            take(machine, "memtest.png")
        for entry, name in enumerate(("linux-text.png", "linux-framebuffer.png")):
            with started() as machine:
                choose(machine, entry)
                wait(machine, "READY", on_serial=True)
                take(machine, name)


if __name__ == "__main__":
    main()
