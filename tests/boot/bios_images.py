"""Boot images for the BIOS, made by the boot loaders' own tools: a plain boot sector, GRUB 2, SYSLINUX, ISOLINUX."""

from __future__ import annotations

import os
import subprocess
import tarfile
from pathlib import Path

from pyvmm.units import KIB, MIB
from tests.boot.guests import need

GRUB_MODULES = Path("/usr/lib/grub/i386-pc")
SYSLINUX_MODULES = Path("/usr/lib/syslinux/modules/bios")
SYSLINUX_MBR = Path("/usr/lib/syslinux/mbr/mbr.bin")
ISOLINUX = Path("/usr/lib/ISOLINUX/isolinux.bin")
EXIT_PORT = 0x501
EXIT_VALUE = 0x21

# Prints, reads sector 1 by EDD and (on a floppy) by CHS, waits for three ticks asleep, ends the machine.
BOOT_SECTOR = f"""
        .code16
        .globl _start
_start: ljmp    $0, $1f
1:      xorw    %ax, %ax
        movw    %ax, %ds
        movw    %ax, %es
        movw    $text, %si
        call    print
        testb   $0x80, %dl
        jz      floppy
        movw    $packet, %si
        movb    $0x42, %ah
        int     $0x13
        jmp     read
floppy: movw    $0x0201, %ax
        movw    $0x0002, %cx
        movb    $0, %dh
        movw    $0x8000, %bx
        int     $0x13
read:   movw    $failed, %si
        jc      2f
        movw    $0x8000, %si
2:      call    print
        movl    0x46c, %ebx
        addl    $3, %ebx
3:      sti
        hlt
        cmpl    %ebx, 0x46c
        jb      3b
        movw    $ticked, %si
        call    print
        hlt                             # lets a slow serial line finish
        hlt
        movw    ${EXIT_PORT}, %dx
        movb    ${EXIT_VALUE}, %al
        outb    %al, %dx
4:      hlt
        jmp     4b
print:  lodsb
        testb   %al, %al
        jz      5f
        movb    $0x0e, %ah
        movw    $7, %bx
        int     $0x10
        jmp     print
5:      ret
text:   .asciz  "boot sector runs\\r\\n"
failed: .asciz  "read failed\\r\\n"
ticked: .asciz  "three ticks\\r\\n"
        .balign 4
packet: .byte   16, 0
        .word   1, 0x8000, 0
        .quad   1
        .org    510
        .word   0xaa55
        .asciz  "sector one\\r\\n"
        .org    1024
"""


def run(*command: str | Path, cwd: Path | None = None) -> None:
    """Run a tool; its output is in the error when it fails."""
    environment = {**os.environ, "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin", "MTOOLS_SKIP_CHECK": "1"}
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, cwd=cwd, env=environment, check=False
    )
    assert done.returncode == 0, f"{command[0]}: {done.stderr or done.stdout}"


def boot_sector(folder: Path) -> bytes:
    """Two sectors: the boot program above, and the text that it reads."""
    need("gcc", "ld")
    source, thing, binary = folder / "boot.S", folder / "boot.o", folder / "boot.bin"
    source.write_text(BOOT_SECTOR)
    run("gcc", "-m32", "-c", "-o", thing, source)
    run("ld", "-m", "elf_i386", "-Ttext=0x7c00", "--oformat", "binary", "-o", binary, thing)
    return binary.read_bytes()


def sized(path: Path, data: bytes, size: int) -> Path:
    """Write an image of `size` bytes that starts with `data`."""
    path.write_bytes(data)
    os.truncate(path, size)
    return path


GRUB_CONFIG = """
set timeout=-1
menuentry "first entry" { echo "chose the first"; sleep 1; }
menuentry "second entry" {
    echo "chose the second"
    hexdump -n 4 -s 508 (hd0)0+1
    echo "GRUB is done"
    sleep 1
}
"""


def grub_disk(folder: Path) -> Path:
    """GRUB on an MBR disk: boot.img, core.img behind it, its configuration in a memory disk inside."""
    need("grub-mkimage")
    (folder / "grub.cfg").write_text(GRUB_CONFIG)
    with tarfile.open(folder / "memdisk.tar", "w") as tar:
        tar.add(folder / "grub.cfg", "boot/grub/grub.cfg")
    modules = ["biosdisk", "part_msdos", "memdisk", "tar", "normal", "configfile"]
    modules += ["echo", "hexdump", "sleep", "test", "minicmd"]
    run(
        "grub-mkimage", "-O", "i386-pc", "-d", GRUB_MODULES, "-p", "(memdisk)/boot/grub", "-m", folder / "memdisk.tar",
        "-o", folder / "core.img", *modules
    )  # fmt: skip
    boot = (GRUB_MODULES / "boot.img").read_bytes()
    return sized(folder / "grub.img", boot + (folder / "core.img").read_bytes(), 16 * MIB)


def grub_iso(folder: Path, graphics: str = "", font: Path | None = None) -> Path:
    """GRUB on a CD by grub-mkrescue; with its graphical terminal in a mode like ``800x600x32`` and a font."""
    need("grub-mkrescue", "xorriso", "mformat")
    tree = folder / "tree" / "boot" / "grub"
    tree.mkdir(parents=True)
    config = GRUB_CONFIG.replace("(hd0)0+1", "(cd0)0+1")
    if font is not None:
        (tree / "unicode.pf2").write_bytes(font.read_bytes())
        config = (
            f"set gfxmode={graphics}\nloadfont /boot/grub/unicode.pf2\ninsmod vbe\ninsmod gfxterm\n"
            f"terminal_output gfxterm\n{config}"
        )
    (tree / "grub.cfg").write_text(config)
    run("grub-mkrescue", "-d", GRUB_MODULES, "-o", folder / "grub.iso", folder / "tree")
    return folder / "grub.iso"


SYSLINUX_CONFIG = """
SAY syslinux is here
PROMPT 1
TIMEOUT 0
LABEL sector
    KERNEL sector.bs
"""


def _fat(image: Path, folder: Path, offset: int) -> None:
    """Fill the FAT file system at `offset` and install SYSLINUX into it."""
    (folder / "syslinux.cfg").write_text(SYSLINUX_CONFIG)
    (folder / "sector.bs").write_bytes(boot_sector(folder)[:512])
    run("mcopy", "-i", f"{image}@@{offset}", folder / "syslinux.cfg", folder / "sector.bs", "::")
    run("syslinux", "--install", *(["--offset", str(offset)] if offset else []), image)


def syslinux_floppy(folder: Path) -> Path:
    """SYSLINUX on a 1.44 MB floppy."""
    need("syslinux", "mformat", "mcopy")
    image = sized(folder / "floppy.img", b"", 1440 * KIB)
    run("mformat", "-i", image, "-f", "1440", "::")
    _fat(image, folder, 0)
    return image


def syslinux_disk(folder: Path) -> Path:
    """SYSLINUX on the active FAT partition of an MBR disk; sector 1 holds what the boot sector reads."""
    need("syslinux", "mformat", "mcopy")
    start, size = 2048, 32 * MIB
    sectors = size // 512 - start
    mbr = bytearray(SYSLINUX_MBR.read_bytes().ljust(512, b"\0"))
    extent = start.to_bytes(4, "little") + sectors.to_bytes(4, "little")
    mbr[446:462] = bytes((0x80, 32, 33, 0, 0x0E, 254, 63, 3)) + extent
    mbr[510:512] = b"\x55\xaa"
    image = sized(folder / "disk.img", bytes(mbr) + boot_sector(folder)[512:], size)
    run(
        "mformat",
        "-i",
        f"{image}@@{start * 512}",
        "-T",
        str(sectors),
        "-h",
        "16",
        "-s",
        "63",
        "-H",
        str(start),
        "::",
    )
    _fat(image, folder, start * 512)
    return image


def isolinux_iso(folder: Path) -> Path:
    """ISOLINUX without emulation."""
    need("xorriso")
    tree = folder / "iso" / "isolinux"
    tree.mkdir(parents=True)
    (tree / "isolinux.bin").write_bytes(ISOLINUX.read_bytes())
    (tree / "ldlinux.c32").write_bytes((SYSLINUX_MODULES / "ldlinux.c32").read_bytes())
    (tree / "isolinux.cfg").write_text(SYSLINUX_CONFIG.replace("syslinux", "isolinux"))
    (tree / "sector.bs").write_bytes(boot_sector(folder)[:512])
    run(
        "xorriso", "-as", "mkisofs", "-o", folder / "isolinux.iso", "-b", "isolinux/isolinux.bin", "-c",
        "isolinux/boot.cat", "-no-emul-boot", "-boot-load-size", "4", "-boot-info-table", folder / "iso",
    )  # fmt: skip
    return folder / "isolinux.iso"


def floppy_emulation_iso(folder: Path) -> Path:
    """A CD that boots an emulated 1.44 MB floppy, the plain boot sector."""
    need("xorriso")
    tree = folder / "emulated"
    tree.mkdir()
    sized(tree / "floppy.img", boot_sector(folder), 1440 * KIB)
    run(
        "xorriso", "-as", "mkisofs", "-o", folder / "emulated.iso", "-b", "floppy.img", "-c", "boot.cat", tree
    )
    return folder / "emulated.iso"


VESAMENU_CONFIG = """
UI vesamenu.c32
MENU TITLE Boot menu in graphics
MENU RESOLUTION 800 600
LABEL linux
    MENU LABEL Linux in a VBE mode
    KERNEL vmlinuz
    APPEND vga=0x317 console=ttyS0 console=tty0
LABEL local
    MENU LABEL The first disk
    LOCALBOOT 0x80
"""


def vesamenu_iso(folder: Path, kernel: Path) -> Path:
    """ISOLINUX with its menu in graphics, and a kernel that is started with ``vga=0x317``."""
    need("xorriso")
    tree = folder / "vesamenu" / "isolinux"
    tree.mkdir(parents=True)
    (tree / "isolinux.bin").write_bytes(ISOLINUX.read_bytes())
    for module in ("ldlinux", "libcom32", "libutil", "vesamenu"):
        (tree / f"{module}.c32").write_bytes((SYSLINUX_MODULES / f"{module}.c32").read_bytes())
    (tree / "isolinux.cfg").write_text(VESAMENU_CONFIG)
    (tree / "vmlinuz").write_bytes(kernel.read_bytes())
    run(
        "xorriso", "-as", "mkisofs", "-o", folder / "vesamenu.iso", "-b", "isolinux/isolinux.bin", "-c",
        "isolinux/boot.cat", "-no-emul-boot", "-boot-load-size", "4", "-boot-info-table", folder / "vesamenu",
    )  # fmt: skip
    return folder / "vesamenu.iso"
