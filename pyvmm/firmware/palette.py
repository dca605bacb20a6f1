"""INT 10h/AH=10h and 11h: palette registers, the DAC, and fonts. Only with a VGA.

Sources: RBIL, INT 10/AH=10h and 11h; IBM PS/2 and PC BIOS Interface Technical Reference (1987), INT 10h.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyvmm.firmware import bda
from pyvmm.firmware.frame import Frame, linear
from pyvmm.firmware.group import ServiceGroup, function
from pyvmm.firmware.vga import DAC_MASK, VgaAdapter, font
from pyvmm.firmware.video_rom import FONT_OFFSETS, ROM_SEGMENT
from pyvmm.units import Gpa

if TYPE_CHECKING:
    from pyvmm.firmware.platform import Platform
    from pyvmm.firmware.video import Video


class Palette(ServiceGroup):
    """Attribute Controller and DAC."""

    def __init__(self, platform: Platform, adapter: VgaAdapter) -> None:
        super().__init__(platform)
        self.adapter = adapter

    def unsupported(self, interrupt: int, frame: Frame) -> None:
        self.platform.log_once(f"BIOS: INT 10h AX={frame.ax:04X}h is not supported")

    @function(0x10, 0x1000, source="INT 10/AX=1000h")
    def set_register(self, frame: Frame) -> None:
        if frame.bl <= 0x14:
            self.adapter.write_attribute(frame.bl, bytes((frame.bh,)))

    @function(0x10, 0x1001, source="INT 10/AX=1001h")
    def set_border(self, frame: Frame) -> None:
        self.adapter.write_attribute(0x11, bytes((frame.bh,)))

    @function(0x10, 0x1002, source="INT 10/AX=1002h")
    def set_all(self, frame: Frame) -> None:
        """16 palette registers and the border from ES:DX."""
        values = self.platform.memory.read(linear(frame.es, frame.dx), 17)
        self.adapter.write_attribute(0, values[:16])
        self.adapter.write_attribute(0x11, values[16:])

    @function(0x10, 0x1003, source="INT 10/AX=1003h")
    def set_blinking(self, frame: Frame) -> None:
        """BL=0: attribute bit 7 is intensity; 1: blinking."""
        mode = self.adapter.read_attribute(0x10)
        self.adapter.write_attribute(0x10, bytes((mode & ~8 | (frame.bl & 1) << 3,)))

    @function(0x10, 0x1007, source="INT 10/AX=1007h")
    def get_register(self, frame: Frame) -> None:
        if frame.bl <= 0x14:
            frame.bh = self.adapter.read_attribute(frame.bl)

    @function(0x10, 0x1008, source="INT 10/AX=1008h")
    def get_border(self, frame: Frame) -> None:
        frame.bh = self.adapter.read_attribute(0x11)

    @function(0x10, 0x1009, source="INT 10/AX=1009h")
    def get_all(self, frame: Frame) -> None:
        values = bytes(self.adapter.read_attribute(index) for index in (*range(16), 0x11))
        self.platform.memory.write(linear(frame.es, frame.dx), values)

    @function(0x10, 0x1010, source="INT 10/AX=1010h")
    def set_dac_register(self, frame: Frame) -> None:
        """Entry BX: red DH, green CH, blue CL."""
        self.adapter.write_dac(frame.bl, bytes((frame.dh, frame.ch, frame.cl)))

    @function(0x10, 0x1012, source="INT 10/AX=1012h")
    def set_dac_block(self, frame: Frame) -> None:
        """CX entries from BX on, from ES:DX."""
        count = min(frame.cx, 256)
        self.adapter.write_dac(frame.bl, self.platform.memory.read(linear(frame.es, frame.dx), 3 * count))

    @function(0x10, 0x1013, source="INT 10/AX=1013h")
    def select_dac_page(self, frame: Frame) -> None:
        """BL=0: four pages of 64 (BH=0) or sixteen of 16; BL=1: the page is BH."""
        mode = self.adapter.read_attribute(0x10)
        if frame.bl == 0:
            self.adapter.write_attribute(0x10, bytes((mode & 0x7F | (frame.bh & 1) << 7,)))
        elif frame.bl == 1:
            page = frame.bh if mode & 0x80 else frame.bh << 2
            self.adapter.write_attribute(0x14, bytes((page & 0x0F,)))

    @function(0x10, 0x1015, source="INT 10/AX=1015h")
    def get_dac_register(self, frame: Frame) -> None:
        frame.dh, frame.ch, frame.cl = self.adapter.read_dac(frame.bl, 1)

    @function(0x10, 0x1017, source="INT 10/AX=1017h")
    def get_dac_block(self, frame: Frame) -> None:
        colours = self.adapter.read_dac(frame.bl, min(frame.cx, 256))
        self.platform.memory.write(linear(frame.es, frame.dx), colours)

    @function(0x10, 0x1018, source="INT 10/AX=1018h")
    def set_mask(self, frame: Frame) -> None:
        self.adapter.pio.write(DAC_MASK, 1, frame.bl)

    @function(0x10, 0x1019, source="INT 10/AX=1019h")
    def get_mask(self, frame: Frame) -> None:
        frame.bl = self.adapter.pio.read(DAC_MASK, 1)

    @function(0x10, 0x101A, source="INT 10/AX=101Ah")
    def get_dac_page(self, frame: Frame) -> None:
        mode = self.adapter.read_attribute(0x10) >> 7
        page = self.adapter.read_attribute(0x14)
        frame.bl, frame.bh = mode, page if mode else page >> 2

    @function(0x10, 0x101B, source="INT 10/AX=101Bh")
    def sum_to_grey(self, frame: Frame) -> None:
        """CX entries from BX on become 30% red, 59% green, 11% blue."""
        count = min(frame.cx, 256)
        colours = self.adapter.read_dac(frame.bl, count)
        greys = bytearray()
        for i in range(0, 3 * count, 3):
            red, green, blue = colours[i : i + 3]
            greys += bytes(((30 * red + 59 * green + 11 * blue + 50) // 100,)) * 3
        self.adapter.write_dac(frame.bl, bytes(greys))


class Fonts(ServiceGroup):
    """Character generators: plane 2 in text modes, a table in memory in graphics modes."""

    def __init__(self, platform: Platform, adapter: VgaAdapter, video: Video) -> None:
        super().__init__(platform)
        self.adapter = adapter
        self.video = video

    def unsupported(self, interrupt: int, frame: Frame) -> None:
        self.platform.log_once(f"BIOS: INT 10h AX={frame.ax:04X}h is not supported")

    def _recalculate(self, height: int) -> None:
        """As many rows as 400 lines have of this height (RBIL, INT 10/AX=1110h)."""
        rows = 400 // height
        maximum = self.adapter.read_crtc(9)
        self.adapter.write_crtc(9, maximum & 0xE0 | height - 1)
        end = rows * height - 1
        overflow = self.adapter.read_crtc(7) & ~0x42 | (end >> 8 & 1) << 1 | (end >> 9 & 1) << 6
        protect = self.adapter.read_crtc(0x11)
        self.adapter.write_crtc(0x11, protect & 0x7F)
        self.adapter.write_crtc(7, overflow)
        self.adapter.write_crtc(0x11, protect)
        self.adapter.write_crtc(0x12, end & 0xFF)
        columns = self.platform.bda16(bda.VIDEO_COLUMNS)
        size = (2 * columns * rows + 0xFF) & ~0xFF
        self.platform.set_bda16(bda.VIDEO_PAGE_SIZE, max(size, 0x800))
        self.video.resize(columns, rows, height, clear=False)

    @function(0x10, 0x1100, 0x1110, source="INT 10/AX=1100h, 1110h")
    def load_user(self, frame: Frame) -> None:
        """CX glyphs of BH bytes from ES:BP on, from character DX, into font BL; 1110h also changes the mode's rows."""
        height = frame.bh
        if not 1 <= height <= 32:
            return
        count = min(frame.cx, 256)
        glyphs = self.platform.memory.read(linear(frame.es, frame.bp), count * height)
        self.adapter.load_font(glyphs, height, frame.dx & 0xFF, frame.bl & 7)
        if frame.al & 0x10 and self.video.pixels is None:
            self._recalculate(height)

    @function(
        0x10,
        0x1101,
        0x1102,
        0x1104,
        0x1111,
        0x1112,
        0x1114,
        source="INT 10/AX=1101h, 1102h, 1104h, 1111h, 1112h, 1114h",
    )
    def load_own(self, frame: Frame) -> None:
        """8 x 14, 8 x 8 or 8 x 16 into font BL; 1111h to 1114h also change the mode's rows."""
        height = {1: 14, 2: 8, 4: 16}[frame.al & 0x0F]
        self.adapter.load_font(font(height), height, 0, frame.bl & 7)
        if frame.al & 0x10 and self.video.pixels is None:
            self._recalculate(height)

    @function(0x10, 0x1103, source="INT 10/AX=1103h")
    def select_fonts(self, frame: Frame) -> None:
        """BL as the Sequencer's Character Map Select."""
        self.adapter.write_sequencer(3, frame.bl & 0x3F)

    @function(0x10, 0x1120, source="INT 10/AX=1120h")
    def set_upper_half(self, frame: Frame) -> None:
        """INT 1Fh points to the 8 x 8 glyphs of characters 80h to FFh."""
        self.video.set_vector(0x1F, frame.es, frame.bp)

    def _set_graphics_font(self, frame: Frame, segment: int, offset: int, height: int) -> None:
        self.video.set_vector(0x43, segment, offset)
        rows = {1: 14, 2: 25, 3: 43}.get(frame.bl, frame.dl) or 25
        self.platform.set_bda16(bda.CHARACTER_HEIGHT, height)
        self.platform.set_bda8(bda.VIDEO_ROWS, rows - 1)
        painter, pixels = self.video.painter, self.video.pixels
        if painter is not None and pixels is not None and rows * height <= pixels.height:
            painter.height = height
            screen = self.video.screen
            screen.reshape(screen.columns, rows)

    @function(0x10, 0x1121, source="INT 10/AX=1121h")
    def set_graphics_font(self, frame: Frame) -> None:
        """Glyphs of CX bytes at ES:BP; BL: 14, 25 or 43 rows, 0: DL rows."""
        if 1 <= frame.cx <= 32:
            self._set_graphics_font(frame, frame.es, frame.bp, frame.cx)

    @function(0x10, 0x1122, 0x1123, 0x1124, source="INT 10/AX=1122h, 1123h, 1124h")
    def set_own_graphics_font(self, frame: Frame) -> None:
        """8 x 14, 8 x 8, 8 x 16."""
        height = {2: 14, 3: 8, 4: 16}[frame.al & 0x0F]
        self._set_graphics_font(frame, ROM_SEGMENT, FONT_OFFSETS[height], height)

    @function(0x10, 0x1130, source="INT 10/AX=1130h")
    def font_information(self, frame: Frame) -> None:
        """Where font BH is: 0, 1 the vectors 1Fh and 43h; 2 8 x 14; 3, 4 8 x 8 and its upper half; 6 8 x 16."""
        fonts = {
            2: FONT_OFFSETS[14],
            3: FONT_OFFSETS[8],
            4: FONT_OFFSETS[8] + 128 * 8,
            5: FONT_OFFSETS[14],
            6: FONT_OFFSETS[16],
            7: FONT_OFFSETS[16],
        }
        if frame.bh in (0, 1):
            pointer = self.platform.memory.read(Gpa(4 * (0x43 if frame.bh else 0x1F)), 4)
            frame.bp = int.from_bytes(pointer[:2], "little")
            frame.es = int.from_bytes(pointer[2:], "little")
        elif frame.bh in fonts:
            frame.es, frame.bp = ROM_SEGMENT, fonts[frame.bh]
        else:
            return
        frame.cx = self.platform.bda16(bda.CHARACTER_HEIGHT)
        frame.dl = self.platform.bda8(bda.VIDEO_ROWS)
