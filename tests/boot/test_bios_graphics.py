"""The BIOS's video on the VGA: boot sectors that draw, and GRUB's graphical terminal.

What a boot sector draws is compared pixel by pixel with what Python computes from the modes' definitions.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from pyvmm import DiskConfig, Machine, MachineConfig
from pyvmm.display.picture import Picture
from pyvmm.exits import ExitReason
from pyvmm.units import MIB
from tests.boot import bios_images
from tests.conftest import RecordExercised

pytestmark = pytest.mark.boot
TIMEOUT = 120.0
UNICODE_FONT = Path("/usr/share/grub/unicode.pf2")

DONE = f"""
        movw    ${bios_images.EXIT_PORT}, %dx
        movb    ${bios_images.EXIT_VALUE}, %al
        outb    %al, %dx
9:      hlt
        jmp     9b
        .org    510
        .word   0xaa55
"""
START = "        .code16\n        .globl _start\n_start:\n        xorw %ax, %ax\n        movw %ax, %ds\n"


def draw(folder: Path, source: str, exits: dict[ExitReason, int] | None = None) -> tuple[Machine, Picture]:
    """Run a boot sector to its end, and take the picture; `exits` is told how many of each reason there were."""
    path = folder / "draw.s"
    path.write_text(START + source + DONE)
    program, image = folder / "draw.o", folder / "draw.img"
    bios_images.run("as", "--32", "-o", program, path)
    bios_images.run(
        "ld", "-m", "elf_i386", "-Ttext=0x7c00", "--oformat=binary", "-e", "_start", "-o", image, program
    )
    bios_images.sized(image, image.read_bytes(), MIB)
    disk = DiskConfig(image, format="raw")
    with Machine(MachineConfig(memory=32 * MIB, disks=[disk], serial="buffer")) as machine:
        result = machine.run(timeout=TIMEOUT)
        assert (result.reason, result.code) == ("exit", bios_images.EXIT_VALUE << 1 | 1)
        if exits is not None:
            exits.update(machine.vcpu.exit_counts)
        return machine, machine.screen.picture()


def six(level: int) -> int:
    """Six bits of the DAC as eight."""
    return level << 2 | level >> 4


def test_mode_13h(tmp_path: Path) -> None:
    """320 x 200, 256 colours of a palette of our own: pixel (x, y) is colour x + y."""
    _, picture = draw(
        tmp_path,
        """
        movw    $0x0013, %ax
        int     $0x10
        movw    $0x3c8, %dx
        xorw    %ax, %ax
        outb    %al, %dx
        incw    %dx
1:      movb    %ah, %al                # red = i / 4, green = 63 - red, blue = i mod 64
        shrb    $2, %al
        outb    %al, %dx
        xorb    $0x3f, %al
        outb    %al, %dx
        movb    %ah, %al
        andb    $0x3f, %al
        outb    %al, %dx
        incb    %ah
        jnz     1b
        movw    $0xa000, %ax
        movw    %ax, %es
        xorw    %di, %di
        xorw    %bx, %bx
2:      xorw    %cx, %cx
3:      movb    %cl, %al
        addb    %bl, %al
        stosb
        incw    %cx
        cmpw    $320, %cx
        jb      3b
        incw    %bx
        cmpw    $200, %bx
        jb      2b
""",
    )
    assert (picture.width, picture.height) == (320, 200)
    for y in range(200):
        for x in range(320):
            i = x + y & 0xFF
            assert picture.pixel(x, y) == (six(i >> 2), six(63 - (i >> 2)), six(i & 63)), (x, y)


COLOURS = [(170 * (i >> 2 & 1), 170 * (i >> 1 & 1), 170 * (i & 1)) for i in range(8)]


def test_planar_mode_12h(tmp_path: Path) -> None:
    """640 x 480, 16 colours: write mode 2, by bit mask; then dots by INT 10h/AH=0Ch."""
    _, picture = draw(
        tmp_path,
        """
        movw    $0x0012, %ax
        int     $0x10
        movw    $0xa000, %ax
        movw    %ax, %es
        movw    $0x3ce, %dx
        movw    $0x0205, %ax            # write mode 2: the byte is the colour
        outw    %ax, %dx
        movw    $0xf008, %ax            # the left four pixels
        outw    %ax, %dx
        xorw    %di, %di
1:      movb    %es:(%di), %al          # latches
        movw    %di, %ax
        andb    $7, %al
        stosb
        cmpw    $38400, %di
        jb      1b
        movw    $0x0005, %ax
        outw    %ax, %dx
        movw    $0xff08, %ax
        outw    %ax, %dx
        movw    $100, %cx
2:      movw    $0x0c04, %ax            # a red diagonal
        xorw    %bx, %bx
        movw    %cx, %dx
        int     $0x10
        loop    2b
""",
    )
    assert (picture.width, picture.height) == (640, 480)
    for y in range(480):
        for x in range(640):
            column = y * 80 + x // 8
            colour = column & 7 if x % 8 < 4 else 0
            colour = 4 if 1 <= x == y <= 100 else colour
            expected = COLOURS[colour] if colour != 6 else (170, 85, 0)
            assert picture.pixel(x, y) == expected, (x, y)


def test_mode_x_with_split_screen_and_panning(tmp_path: Path) -> None:
    """Mode 13h unchained: plane 2's pixels only, shown from address 90 on, two pixels panned, split after line 100."""
    _, picture = draw(
        tmp_path,
        """
        movw    $0x0013, %ax
        int     $0x10
        movw    $0x3c4, %dx
        movw    $0x0604, %ax            # no chain 4, no odd/even
        outw    %ax, %dx
        movw    $0x0402, %ax            # plane 2
        outw    %ax, %dx
        movw    $0x3d4, %dx
        movw    $0x0014, %ax            # no double words
        outw    %ax, %dx
        movw    $0xe317, %ax            # bytes
        outw    %ax, %dx
        movw    $0x000c, %ax
        outw    %ax, %dx
        movw    $0x5a0d, %ax            # start address 90
        outw    %ax, %dx
        movw    $0xc718, %ax            # line compare 199: of 400 scan lines
        outw    %ax, %dx
        movb    $0x11, %al              # registers 0 to 7 are protected
        outb    %al, %dx
        incw    %dx
        inb     %dx, %al
        andb    $0x7f, %al
        outb    %al, %dx
        decw    %dx
        movw    $0x0f07, %ax            # bit 8 of line compare is 0
        outw    %ax, %dx
        movw    $0x0109, %ax            # bit 9 too; two scan lines a row
        outw    %ax, %dx
        movw    $0x3da, %dx
        inb     %dx, %al
        movw    $0x3c0, %dx
        movb    $0x33, %al              # panning: 4 half pixels
        outb    %al, %dx
        movb    $0x04, %al
        outb    %al, %dx
        movw    $0xa000, %ax
        movw    %ax, %es
        xorw    %di, %di
1:      movw    %di, %ax
        stosb
        cmpw    $32000, %di
        jb      1b
""",
    )
    dac = standard_palette()
    assert (picture.width, picture.height) == (320, 200)
    for y in range(200):
        start = 90 + y * 80 if y < 100 else (y - 100) * 80
        for x in range(320):
            at, plane = start + (x + 2) // 4, (x + 2) % 4
            assert picture.pixel(x, y) == dac[at & 0xFF if plane == 2 else 0], (x, y)


def standard_palette() -> list[tuple[int, ...]]:
    """Mode 13h's colours, eight bits wide."""
    from pyvmm.firmware.vga_modes import PALETTES

    table = PALETTES["vga"]()
    return [tuple(six(level) for level in table[3 * i : 3 * i + 3]) for i in range(256)]


def test_text_by_teletype_in_graphics(tmp_path: Path) -> None:
    """Characters in mode 12h are drawn with the 8 x 16 font."""
    _, picture = draw(
        tmp_path,
        """
        movw    $0x0012, %ax
        int     $0x10
        movw    $0x0e41, %ax
        movw    $0x0002, %bx
        int     $0x10
""",
    )
    from pyvmm.firmware.vga import font

    glyph = font(16)[0x41 * 16 : 0x42 * 16]
    for y in range(16):
        for x in range(8):
            assert picture.pixel(x, y) == (COLOURS[2] if glyph[y] >> 7 - x & 1 else (0, 0, 0))


def lit(picture: Picture) -> int:
    """How many bytes of its pixels are not 0: quick enough to be asked often."""
    return len(picture.pixels) - picture.pixels.count(0)


@pytest.mark.parametrize("size", [(1024, 768), (800, 600)])
def test_grub_in_graphics(tmp_path: Path, size: tuple[int, int], record_exercised: RecordExercised) -> None:
    """GRUB's gfxterm by VBE, in 32 bits: its menu is drawn by GRUB itself."""
    if not UNICODE_FONT.exists():
        pytest.skip("GRUB's unicode font is missing: package grub-common")
    mode = f"{size[0]}x{size[1]}x32"
    image = bios_images.grub_iso(tmp_path, graphics=mode, font=UNICODE_FONT)
    disk = DiskConfig(image, interface="cdrom", format="raw", read_only=True)
    with Machine(MachineConfig(memory=64 * MIB, disks=[disk], serial="buffer")) as machine:

        def ready() -> bool:
            shown = machine.screen.mode
            return (shown.width, shown.height) == size and lit(machine.screen.picture()) > 5000

        assert machine.wait_for(ready, TIMEOUT), machine.screen.text()
        picture = machine.screen.picture()
        assert (picture.width, picture.height) == size
        assert machine.firmware is not None
        assert machine.firmware.calls[0x10, 0x4F] > 3
        record_exercised(engine=machine.engine_name, guest=f"GRUB 2, gfxterm {mode}")


def test_linear_frame_buffer_is_memory(tmp_path: Path) -> None:
    """VBE mode 103h (800 x 600, 8 bits) filled through the linear frame buffer: stores that are not exits.

    Then the frame buffer's base address register is moved, and its decoding switched off and on: a store goes where
    the register says at that time.
    """
    exits: dict[ExitReason, int] = {}
    _, picture = draw(
        tmp_path,
        """
        movw    %ax, %es
        movw    $0x4f01, %ax
        movw    $0x103, %cx
        movw    $0x9000, %di
        int     $0x10
        movw    $0x4f02, %ax
        movw    $0x4103, %bx
        int     $0x10
        cli
        lgdt    gdtr
        movl    %cr0, %eax
        orb     $1, %al
        movl    %eax, %cr0
        movw    $8, %bx
        movw    %bx, %es                # 4 GiB of data; code stays as it is
        andb    $0xfe, %al
        movl    %eax, %cr0
        movl    0x9028, %edi            # PhysBasePtr
        movl    $480000, %ecx
1:      movb    %cl, %es:-1(%edi, %ecx)
        addr32 loop 1b
        movl    0x9028, %edi
        leal    0x4000000(%edi), %ebx   # 64 MiB further
        movl    $0x80001010, %eax       # BAR 0
        movl    %ebx, %ecx
        call    config
        movb    $10, %es:(%ebx)         # there
        movb    $10, %es:(%edi)         # nobody
        movl    $0x80001004, %eax       # command: no memory
        xorl    %ecx, %ecx
        call    config
        movb    $10, %es:2(%ebx)        # nobody
        movb    $2, %cl
        call    config
        movb    $10, %es:4(%ebx)
        movl    $0x80001010, %eax
        movl    %edi, %ecx
        call    config
        movb    $10, %es:6(%edi)
        movb    $10, %es:8(%ebx)        # nobody
        movb    %es:4(%edi), %al        # what is read is what was written elsewhere
        movb    %al, %es:10(%edi)
        jmp     7f
config: movw    $0xcf8, %dx
        outl    %eax, %dx
        movw    $0xcfc, %dx
        xchgl   %eax, %ecx
        outl    %eax, %dx
        xchgl   %eax, %ecx
        ret
        .balign 8
gdt:    .quad   0, 0x00cf93000000ffff
gdtr:   .word   15
        .long   gdt
7:
""",
        exits,
    )
    dac = standard_palette()
    assert (picture.width, picture.height) == (800, 600)
    changed = {0: 10, 4: 10, 6: 10, 10: 10}
    for y in range(600):
        for x in range(800):
            at = y * 800 + x
            assert picture.pixel(x, y) == dac[changed.get(at, at + 1 & 0xFF)], (x, y)
    assert exits[ExitReason.MMIO] < 1000
