"""INT 10h on the VGA itself: VBE 4F05h to 4F09h, palettes (AH=10h), fonts (AH=11h), pages (AH=05h).

Services are called as a stub would call them; what they did is looked for in the device: its memory, its registers, and
the picture that it draws. Sources: VBE 3.0 §4.8 to §4.12; RBIL, INT 10; IBM VGA.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from pyvmm import Machine, MachineConfig
from pyvmm.display.picture import Picture
from pyvmm.firmware import bda
from pyvmm.firmware.frame import FRAME_SIZE, Frame
from pyvmm.firmware.rom import ACTION_RETURN, SERVICE_POST
from pyvmm.firmware.vga import font
from pyvmm.machine.pc import vga_of
from pyvmm.units import MIB, Gpa

STACK, BUFFER = 0x7000, 0x9000
OK, FAILED, NOT_BY_HARDWARE, NOT_IN_THIS_MODE = 0x004F, 0x014F, 0x024F, 0x034F


class Guest:
    """A machine after the BIOS's self-test, whose caller is Python."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        pc = machine._parts
        vga = vga_of(pc)
        assert vga is not None
        assert machine.firmware is not None
        self.vga, self.memory, self.mmio, self.pio = vga, pc.board.memory, pc.board.mmio, pc.board.pio
        self.bios = machine.firmware
        self.service(SERVICE_POST)
        self.video(0x0100, cx=0x2000)  # no cursor in the pictures

    def service(self, number: int, **registers: int) -> Frame:
        self.memory.write(Gpa(STACK), bytes(FRAME_SIZE))
        frame = Frame(self.memory, STACK)
        frame.action = ACTION_RETURN
        for name, value in registers.items():
            setattr(frame, name, value)
        frame.store(self.memory)
        self.bios.service(number, SimpleNamespace(rsp=STACK, ss=SimpleNamespace(base=0)))
        return Frame(self.memory, STACK)

    def video(self, ax: int, **registers: int) -> Frame:
        return self.service(0x10, ax=ax, **registers)

    def put(self, data: bytes) -> dict[str, int]:
        """Data for a service: the segment of where it is."""
        self.memory.write(Gpa(BUFFER), data)
        return {"es": BUFFER >> 4}

    def take(self, size: int) -> bytes:
        return bytes(self.memory.read(Gpa(BUFFER), size))

    def bda(self, offset: int, size: int = 1) -> int:
        return int.from_bytes(self.memory.read(Gpa(bda.BASE + offset), size), "little")

    @property
    def picture(self) -> Picture:
        return self.machine.screen.picture()

    def cell(
        self, column: int, row: int, height: int = 16, width: int = 9
    ) -> list[list[tuple[int, int, int]]]:
        """The pixels of a character, eight of each line."""
        picture = self.picture
        return [
            [picture.pixel(width * column + x, height * row + y) for x in range(8)] for y in range(height)
        ]


@pytest.fixture
def guest() -> Iterator[Guest]:
    with Machine(MachineConfig(memory=16 * MIB, serial="buffer")) as machine:
        yield Guest(machine)


def drawn(
    glyph: bytes, fore: tuple[int, int, int], back: tuple[int, int, int]
) -> list[list[tuple[int, int, int]]]:
    return [[fore if dots >> 7 - x & 1 else back for x in range(8)] for dots in glyph]


BLACK, GREY, WHITE = (0, 0, 0), (170, 170, 170), (255, 255, 255)
GLYPH = bytes(range(0x81, 0x91))

# VBE -----------------------------------------------------------------------------------------------------------------


def test_window_control(guest: Guest) -> None:
    """4F05h, §4.8: 64 KiB steps; the window at A0000 then shows them."""
    assert guest.video(0x4F05, bx=0x0100).ax == NOT_IN_THIS_MODE  # text
    assert guest.video(0x4F02, bx=0x0105).ax == OK
    assert guest.video(0x4F05, bx=0x0000, dx=5).ax == OK
    frame = guest.video(0x4F05, bx=0x0100, dx=0x7777)
    assert (frame.ax, frame.dx) == (OK, 5)
    guest.mmio.write(0xA0007, 1, 0x5A)
    assert guest.vga.memory[0x50007] == 0x5A
    assert guest.video(0x4F05, bx=0x0000, dx=256).ax == FAILED  # 16 MiB are 0 to 255
    assert guest.video(0x4F05, bx=0x0001, dx=0).ax == FAILED  # no window B
    assert guest.video(0x4F05, bx=0x0100).dx == 5
    assert guest.video(0x4F02, bx=0x4105).ax == OK
    assert guest.video(0x4F05, bx=0x0000, dx=1).ax == NOT_IN_THIS_MODE  # linear: no window


@pytest.mark.parametrize(("mode", "size"), [(0x105, 1), (0x117, 2), (0x144, 4)])
def test_scan_line_length(guest: Guest, mode: int, size: int) -> None:
    """4F06h, §4.9: BX bytes, CX pixels, DX lines; rounded up to eight pixels."""
    assert guest.video(0x4F06, bx=1).ax == NOT_IN_THIS_MODE
    assert guest.video(0x4F02, bx=0x4000 | mode).ax == OK
    frame = guest.video(0x4F06, bx=1)
    assert (frame.ax, frame.bx, frame.cx, frame.dx) == (OK, 1024 * size, 1024, (16 << 20) // (1024 * size))
    frame = guest.video(0x4F06, bx=0, cx=1099)
    assert (frame.ax, frame.bx, frame.cx, frame.dx) == (OK, 1104 * size, 1104, (16 << 20) // (1104 * size))
    frame = guest.video(0x4F06, bx=2, cx=1201 * size)
    assert (frame.ax, frame.bx, frame.cx) == (OK, 1208 * size, 1208)
    assert guest.video(0x4F06, bx=1).cx == 1208
    longest = guest.video(0x4F06, bx=3)
    assert longest.ax == OK
    assert longest.bx * longest.dx <= 16 << 20
    assert longest.dx >= 768
    assert guest.video(0x4F06, bx=1).cx == 1208  # asking changes nothing
    assert guest.video(0x4F06, bx=0, cx=longest.cx + 8).ax == NOT_BY_HARDWARE
    assert guest.video(0x4F06, bx=0, cx=longest.cx).ax == OK
    assert guest.video(0x4F06, bx=4).ax == FAILED


def test_scan_line_length_is_the_texts_too(guest: Guest) -> None:
    """Characters after a change of the pitch are drawn where the display shows them."""
    guest.video(0x4F02, bx=0x4101)
    guest.video(0x4F06, bx=0, cx=800)
    guest.video(0x0E41, bx=0x000F)
    assert guest.cell(0, 0, width=8) == drawn(font(16)[0x41 * 16 : 0x42 * 16], WHITE, BLACK)


def test_display_start(guest: Guest) -> None:
    """4F07h, §4.10: pixel and line at the top left, at once or at the retrace."""
    assert guest.video(0x4F07, bx=1).ax == NOT_IN_THIS_MODE
    guest.video(0x4F02, bx=0x4101)
    guest.video(0x4F06, bx=0, cx=800)
    memory = guest.vga.memory
    memory[30 * 800 + 24], memory[61 * 800 + 160] = 15, 7
    assert guest.video(0x4F07, bx=0, cx=24, dx=30).ax == OK
    assert guest.picture.pixel(0, 0) == WHITE
    frame = guest.video(0x4F07, bx=0xFF01, cx=0, dx=0)
    assert (frame.ax, frame.bh, frame.cx, frame.dx) == (OK, 0, 24, 30)
    assert guest.video(0x4F07, bx=0x80, cx=160, dx=61).ax == OK
    assert guest.picture.pixel(0, 0) == GREY
    assert guest.video(0x4F07, bx=0, cx=161, dx=0).ax == FAILED  # 161 + 640 > 800
    assert guest.video(0x4F07, bx=0, cx=0, dx=(16 << 20) // 800 - 479).ax == FAILED
    assert guest.video(0x4F07, bx=0, cx=0, dx=(16 << 20) // 800 - 480).ax == OK
    assert guest.video(0x4F07, bx=2).ax == FAILED


def test_dac_width_and_palette(guest: Guest) -> None:
    """4F08h and 4F09h, §4.11 and §4.12: six bits a colour until eight are asked for; blue, green, red, nothing."""
    guest.video(0x4F02, bx=0x4101)
    assert guest.video(0x4F08, bx=1).bh == 6
    guest.vga.memory[0], guest.vga.memory[1] = 0x20, 0x21
    entries = bytes((1, 2, 3, 0, 0x3F, 0x20, 0x10, 0))
    assert guest.video(0x4F09, bx=0, cx=2, dx=0x20, **guest.put(entries)).ax == OK
    assert guest.picture.pixel(0, 0) == (3 << 2, 2 << 2, 1 << 2)
    assert guest.picture.pixel(1, 0) == (0x10 << 2 | 1, 0x20 << 2 | 2, 0xFF)
    guest.put(bytes(8))
    assert guest.video(0x4F09, bx=1, cx=2, dx=0x20, es=BUFFER >> 4).ax == OK
    assert guest.take(8) == entries
    frame = guest.video(0x4F08, bx=0x0800)
    assert (frame.ax, frame.bh) == (OK, 8)
    assert guest.vga.memory[0] == 0x20, "the picture stays"
    entries = bytes((0x11, 0x80, 0xFF, 0))
    assert guest.video(0x4F09, bx=0x80, cx=1, dx=0x20, **guest.put(entries)).ax == OK
    assert guest.picture.pixel(0, 0) == (0xFF, 0x80, 0x11)
    assert guest.video(0x4F08, bx=0x0700).bh == 6
    guest.video(0x4F08, bx=0x0800)
    guest.video(0x4F02, bx=0x4101)
    assert guest.video(0x4F08, bx=1).bh == 6, "a mode set goes back to six"
    assert guest.video(0x4F09, bx=0, cx=2, dx=255).ax == FAILED
    assert guest.video(0x4F09, bx=2, cx=1, dx=0).ax == NOT_BY_HARDWARE  # no second palette
    guest.video(0x4F02, bx=0x4111)
    assert guest.video(0x4F08, bx=0x0800).ax == NOT_IN_THIS_MODE  # 16 bits a pixel


# Palettes ------------------------------------------------------------------------------------------------------------


def test_palette_registers(guest: Guest) -> None:
    """AX=1000h to 1009h: through them an attribute's colour becomes an entry of the DAC."""
    guest.video(0x0941, bx=0x0003, cx=1)
    glyph = font(16)[0x41 * 16 : 0x42 * 16]
    assert guest.cell(0, 0) == drawn(glyph, (0, 170, 170), BLACK)
    guest.video(0x1000, bx=0x0403)  # register 3 is colour 4
    assert guest.cell(0, 0) == drawn(glyph, (170, 0, 0), BLACK)
    assert guest.video(0x1007, bx=3).bh == 4
    guest.video(0x1001, bx=0x2A00)
    assert guest.video(0x1008).bh == 0x2A
    values = bytes((*range(15, -1, -1), 9))
    guest.video(0x1002, dx=0, **guest.put(values))
    guest.put(bytes(17))
    guest.video(0x1009, dx=0, es=BUFFER >> 4)
    assert guest.take(17) == values
    assert guest.video(0x1007, bx=3).bh == 12
    assert guest.video(0x1008).bh == 9


def test_blinking_and_intensity(guest: Guest) -> None:
    """AX=1003h: bit 7 of an attribute blinks, or is the background's intensity."""
    guest.video(0x0920, bx=0x00F0, cx=1)
    assert guest.cell(0, 0)[0][0] == GREY
    guest.video(0x1003, bx=0)
    assert guest.cell(0, 0)[0][0] == WHITE
    guest.video(0x1003, bx=1)
    assert guest.cell(0, 0)[0][0] == GREY


def test_dac(guest: Guest) -> None:
    """AX=1010h to 101Bh."""
    guest.video(0x09DB, bx=0x0007, cx=1)
    guest.video(0x1010, bx=7, dx=0x3F00, cx=0x2010)  # DH red, CH green, CL blue
    assert guest.cell(0, 0)[0][0] == (0xFF, 0x20 << 2 | 2, 0x10 << 2 | 1)
    frame = guest.video(0x1015, bx=7)
    assert (frame.dh, frame.cx) == (0x3F, 0x2010)
    colours = bytes(range(30))
    guest.video(0x1012, bx=100, cx=10, dx=0, **guest.put(colours))
    guest.put(bytes(30))
    guest.video(0x1017, bx=100, cx=10, dx=0, es=BUFFER >> 4)
    assert guest.take(30) == colours
    guest.video(0x1010, bx=8, dx=0x3C00, cx=0x1428)
    guest.video(0x101B, bx=8, cx=1)
    grey = (30 * 0x3C + 59 * 0x14 + 11 * 0x28 + 50) // 100
    frame = guest.video(0x1015, bx=8)
    assert (frame.dh, frame.ch, frame.cl) == (grey, grey, grey)
    guest.video(0x1018, bx=0x0F)
    assert guest.video(0x1019).bl == 0x0F
    guest.video(0x1018, bx=0xFF)
    # Pages of 64 (the attribute's six bits), then of 16.
    guest.video(0x1013, bx=0x0001 | 2 << 8)
    frame = guest.video(0x101A)
    assert (frame.bl, frame.bh) == (0, 2)
    guest.video(0x1010, bx=2 * 64 + 7, dx=0x0000, cx=0x003F)
    assert guest.cell(0, 0)[0][0] == (0, 0, 255)
    guest.video(0x1013, bx=0x0100)
    guest.video(0x1013, bx=0x0001 | 11 << 8)
    frame = guest.video(0x101A)
    assert (frame.bl, frame.bh) == (1, 11)
    guest.video(0x1010, bx=11 * 16 + 7, dx=0x3F00, cx=0)
    assert guest.cell(0, 0)[0][0] == (255, 0, 0)


# Fonts ---------------------------------------------------------------------------------------------------------------


def test_glyphs_of_ones_own(guest: Guest) -> None:
    """AX=1100h: from character DX on; the other characters and the rows stay."""
    guest.video(0x0941, bx=0x000F, cx=1)
    guest.video(0x1100, bx=0x1000, cx=1, dx=0x41, bp=0, **guest.put(GLYPH))
    assert guest.cell(0, 0) == drawn(GLYPH, WHITE, BLACK)
    guest.video(0x0942, bx=0x000F, cx=1)
    assert guest.cell(0, 0) == drawn(font(16)[0x42 * 16 : 0x43 * 16], WHITE, BLACK)
    assert guest.bda(bda.VIDEO_ROWS) == 24


@pytest.mark.parametrize(("ax", "height", "rows"), [(0x1111, 14, 28), (0x1112, 8, 50), (0x1114, 16, 25)])
def test_own_fonts_and_rows(guest: Guest, ax: int, height: int, rows: int) -> None:
    """AX=1111h, 1112h, 1114h: the data area, the display and the cursor agree about the new rows."""
    guest.video(ax, bx=0)
    assert (guest.bda(bda.VIDEO_ROWS), guest.bda(bda.CHARACTER_HEIGHT, 2)) == (rows - 1, height)
    assert guest.bda(bda.VIDEO_PAGE_SIZE, 2) >= rows * 160
    mode = guest.machine.screen.mode
    assert (mode.columns, mode.rows, mode.cell_height, mode.height) == (80, rows, height, rows * height)
    guest.video(0x0200, bx=0, dx=rows - 1 << 8 | 5)
    guest.video(0x0958, bx=0x0007, cx=1)
    assert guest.cell(5, rows - 1, height) == drawn(font(height)[0x58 * height : 0x59 * height], GREY, BLACK)
    guest.video(0x0100, cx=0x0607)
    assert guest.machine.screen.mode.cursor == (rows - 1, 5)
    assert guest.machine.screen.text().split("\n")[rows - 1].strip() == "X"
    guest.video(0x0E0A)  # the last row: it scrolls
    assert guest.machine.screen.text().split("\n")[rows - 2].strip() == "X"


def test_user_font_with_rows(guest: Guest) -> None:
    """AX=1110h: ten lines a character make 40 rows of 400 lines."""
    guest.video(0x1110, bx=0x0A00, cx=256, dx=0, bp=0, **guest.put(bytes(2560)))
    assert (guest.bda(bda.VIDEO_ROWS), guest.bda(bda.CHARACTER_HEIGHT, 2)) == (39, 10)
    assert guest.machine.screen.mode.rows == 40


def test_two_fonts_at_once(guest: Guest) -> None:
    """AX=1103h: attribute bit 3 chooses between fonts A (bits 2, 3, 5) and B (bits 0, 1, 4)."""
    for block in (1, 6):
        guest.video(0x1100, bx=0x1000 | block, cx=1, dx=0x41, bp=0, **guest.put(GLYPH))
        select = {1: 0x04, 6: 0x28}[block]
        guest.video(0x1103, bx=select)
        guest.video(0x0941, bx=0x0007, cx=1)
        assert guest.cell(0, 0) == drawn(font(16)[0x41 * 16 : 0x42 * 16], GREY, BLACK)
        guest.video(0x0941, bx=0x000F, cx=1)
        assert guest.cell(0, 0) == drawn(GLYPH, WHITE, BLACK)


@pytest.mark.parametrize(("bh", "height"), [(2, 14), (3, 8), (6, 16)])
def test_font_information(guest: Guest, bh: int, height: int) -> None:
    """AX=1130h: a pointer to glyphs; CX and DL are the mode's."""
    frame = guest.video(0x1130, bx=bh << 8)
    assert (frame.cx, frame.dl) == (16, 24)
    assert guest.memory.read(Gpa((frame.es << 4) + frame.bp), 256 * height) == font(height)


def test_graphics_fonts(guest: Guest) -> None:
    """AX=1123h and 1121h in mode 12h: 60 rows of 8 lines, then glyphs of one's own."""
    guest.video(0x0012)
    guest.video(0x1123, bx=0, dx=60)
    assert (guest.bda(bda.VIDEO_ROWS), guest.bda(bda.CHARACTER_HEIGHT, 2)) == (59, 8)
    guest.video(0x0200, bx=0, dx=59 << 8 | 79)
    guest.video(0x0941, bx=0x000F, cx=1)
    assert guest.cell(79, 59, 8, 8) == drawn(font(8)[0x41 * 8 : 0x42 * 8], WHITE, BLACK)
    glyphs = bytes(0x41 * 16) + GLYPH + bytes(0xBE * 16)
    guest.video(0x1121, bx=0, cx=16, dx=30, bp=0, **guest.put(glyphs))
    guest.video(0x0200, bx=0, dx=0)
    guest.video(0x0941, bx=0x000F, cx=1)
    assert guest.cell(0, 0, 16, 8) == drawn(GLYPH, WHITE, BLACK)
    frame = guest.video(0x1130, bx=0x0100)  # INT 43h
    assert (frame.es << 4) + frame.bp == BUFFER


# Pages ---------------------------------------------------------------------------------------------------------------


def test_text_pages(guest: Guest) -> None:
    """AH=05h: pages have cursors and characters of their own; what is scrolled is the one that is shown."""
    text = guest.machine.screen
    guest.video(0x0100, cx=0x0607)
    guest.video(0x0200, bx=0, dx=0x0203)
    guest.video(0x0941, bx=0x0007, cx=3)
    guest.video(0x0200, bx=0x0100, dx=0x1800)
    guest.video(0x0942, bx=0x0107, cx=2)  # on page 1, unseen
    assert text.text().split("\n")[2] == "   AAA"
    assert bytes(guest.vga.memory[4 * (0x1000 + 24 * 160) :][:1]) == b"B"
    guest.video(0x0501)
    assert guest.video(0x0F00).bh == 1
    assert guest.bda(bda.VIDEO_PAGE_OFFSET, 2) == 0x1000
    assert text.text().split("\n")[24] == "BB"
    assert text.mode.cursor == (24, 0)
    assert guest.video(0x0300, bx=0x0000).dx == 0x0203
    guest.video(0x0E0A)  # scrolls page 1
    assert text.text().split("\n")[23] == "BB"
    guest.video(0x0601, bx=0x0700, cx=0, dx=0x184F)
    assert text.text().split("\n")[22] == "BB"
    guest.video(0x0701, bx=0x0700, cx=0, dx=0x184F)
    assert text.text().split("\n")[23] == "BB"
    assert guest.video(0x0800, bx=0).al == 0x41  # page 0 as it was, at its cursor
    data = b"to page two"
    guest.video(0x1301, bx=0x0207, cx=len(data), dx=0x0500, bp=0, **guest.put(data))
    assert guest.video(0x0300, bx=0x0200).dx == 0x0500 + len(data)
    guest.video(0x0502)
    assert text.text().split("\n")[5] == "to page two"
    guest.video(0x0500)
    assert text.text().split("\n")[2] == "   AAA"
    assert text.mode.cursor == (2, 3)
    guest.video(0x0508)  # there are eight
    assert guest.video(0x0F00).bh == 0


def test_graphics_pages(guest: Guest) -> None:
    """AH=05h, 0Ch and 0Dh in mode 0Dh: dots go to page BH, whichever is shown."""
    guest.video(0x000D)
    guest.video(0x0C04, bx=0x0000, cx=10, dx=20)
    guest.video(0x0C0F, bx=0x0300, cx=11, dx=21)
    assert guest.video(0x0D00, bx=0x0000, cx=10, dx=20).al == 4
    assert guest.video(0x0D00, bx=0x0300, cx=11, dx=21).al == 15
    assert guest.video(0x0D00, bx=0x0300, cx=10, dx=20).al == 0
    assert guest.picture.pixel(10, 20) == (170, 0, 0)
    assert guest.picture.pixel(11, 21) == BLACK
    guest.video(0x0503)
    assert guest.picture.pixel(11, 21) == WHITE
    assert guest.picture.pixel(10, 20) == BLACK
    guest.video(0x0941, bx=0x030F, cx=1)
    assert guest.cell(0, 0, 8, 8) == drawn(font(8)[0x41 * 8 : 0x42 * 8], WHITE, BLACK)
    guest.video(0x0500)
    assert guest.cell(0, 0, 8, 8) == drawn(bytes(8), WHITE, BLACK)
