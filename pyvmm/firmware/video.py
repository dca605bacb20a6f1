"""INT 10h, video: modes, the cursor, characters, pages and dots, on the VGA where there is one.

Sources: Ralf Brown's Interrupt List (RBIL), INT 10; IBM PS/2 and PC BIOS Interface Technical Reference (1987), INT 10h.
Palettes and fonts (AH=10h, 11h) are in palette.py and fonts.py, VBE in vbe.py. Without a VGA the text is kept in
`Screen` and mirrored to a serial line only: 80 x 25, one page, no graphics.
Left out: 200 and 350 line text, the save areas at 40:A8, saving the state (AH=1Ch). In graphics modes characters go to
the page that is shown, dots to any.
"""

from __future__ import annotations

from typing import Final

from pyvmm.firmware import bda
from pyvmm.firmware.frame import Frame, linear
from pyvmm.firmware.group import ServiceGroup, function
from pyvmm.firmware.pixels import Pixels
from pyvmm.firmware.platform import Platform
from pyvmm.firmware.screen import COLUMNS, ROWS, Screen, VideoCells
from pyvmm.firmware.terminal import SerialConsole
from pyvmm.firmware.vga import CRTC_COLOUR, VgaAdapter
from pyvmm.firmware.vga_modes import CGA_2, CGA_4, LINEAR, MODES, TEXT
from pyvmm.firmware.video_rom import FONT_OFFSETS, ROM_SEGMENT, STATIC_TABLE
from pyvmm.units import Gpa

TEXT_MODES: Final = (0, 1, 2, 3, 7)
_PAGE_BYTES: Final = 0x1000
_COLOURS: Final = {CGA_2: 1, CGA_4: 2, LINEAR: 8}
_CURSOR_OFF: Final = 0x20
_NO_EMULATION: Final = 0x01
"""40:87 bit 0: cursor shapes are scan lines of the real cell."""
NO_PALETTE: Final = 0x08
"""40:89 bit 3: a mode set leaves the palette alone."""


class Painter:
    """Draws the characters of a graphics mode."""

    def __init__(self, pixels: Pixels, font: bytes, height: int) -> None:
        self.pixels = pixels
        self.font = font
        self.height = height
        self.background = 0

    def cells_changed(self, screen: Screen, row: int, column: int, count: int) -> None:
        """Draw cells, from the screen's own characters and attributes."""
        at = row * screen.columns + column
        for i in range(at, at + count):
            y, x = divmod(i, screen.columns)
            code = screen.characters[i]
            glyph = self.font[code * self.height : (code + 1) * self.height]
            self.pixels.draw_glyph(8 * x, self.height * y, glyph, screen.attributes[i], self.background)

    def scrolled(self, screen: Screen, top: int, left: int, bottom: int, right: int, lines: int) -> None:
        height = self.height
        fill = screen.attributes[(bottom if lines > 0 else top) * screen.columns + left]
        lines = 0 if abs(lines) > bottom - top else lines
        self.pixels.scroll(
            8 * left, height * top, 8 * (right - left + 1), height * (bottom - top + 1), height * lines, fill
        )

    def cleared(self, screen: Screen) -> None:
        self.pixels.scroll(0, 0, self.pixels.width, self.pixels.height, 0, 0)


class Video(ServiceGroup):
    """The screen and its services."""

    def __init__(
        self, platform: Platform, console: SerialConsole | None, adapter: VgaAdapter | None = None
    ) -> None:
        super().__init__(platform)
        self.console = console
        self.adapter = adapter
        self.screen = Screen()
        self.mode = 3
        self.pixels: Pixels | None = None
        self.painter: Painter | None = None
        if console is not None:
            self.screen.watchers.append(console)

    def reset(self) -> None:
        """80 x 25 text, blank; the BIOS data area's video fields (RBIL MEMORY.LST, 40:49 to 40:8A)."""
        if self.console is not None:
            self.console.setup()
        p = self.platform
        p.set_bda8(bda.VIDEO_CONTROL, 0x60)
        p.set_bda8(bda.VIDEO_SWITCHES, 0x09)
        p.set_bda8(bda.VIDEO_FLAGS, 0x11)
        self.enter(3, clear=True)
        if self.adapter is not None:
            self.set_vector(0x1F, ROM_SEGMENT, FONT_OFFSETS[8] + 128 * 8)

    # Modes -----------------------------------------------------------------------------------------------------------
    def enter(self, number: int, *, clear: bool) -> None:
        """A standard mode: the hardware, the screen, the data area."""
        p, info = self.platform, MODES[number]
        if self.adapter is not None:
            palette = not p.bda8(bda.VIDEO_FLAGS) & NO_PALETTE
            self.adapter.set_mode(info, clear=clear, palette=palette)
        self.mode = number
        self.screen.cursor_shape = 0x0607
        text = info.kind == TEXT
        columns, rows = (info.columns, info.rows) if self.adapter is not None else (COLUMNS, ROWS)
        p.set_bda8(bda.VIDEO_MODE, number)
        p.set_bda16(bda.VIDEO_PAGE_SIZE, info.page_size if self.adapter is not None else _PAGE_BYTES)
        p.set_bda16(bda.CRTC_PORT, CRTC_COLOUR if info.misc & 1 or self.adapter is None else 0x3B4)
        p.set_bda8(bda.CRT_MODE_CONTROL, {2: 0x2D, 3: 0x29, 6: 0x1E, 7: 0x29}.get(number, 0x2A))
        p.set_bda8(bda.CRT_PALETTE, 0x3F if number == 6 else 0x30)
        flags = p.bda8(bda.VIDEO_CONTROL) & 0x7F
        p.set_bda8(bda.VIDEO_CONTROL, flags | (0 if clear else 0x80))
        height = info.cell_height if self.adapter is not None else 16
        if self.adapter is None or text:
            self._set_pixels(None, height)
        else:
            pitch = info.width * _COLOURS.get(info.kind, 1) // 8
            bits = 1 if number == 0x11 else _COLOURS.get(info.kind, 4)
            self._set_pixels(
                Pixels(self.adapter.display, info.kind, info.width, info.height, pitch, bits), height
            )
        self.resize(columns, rows, height, clear=clear)

    def enter_vbe(self, number: int, pixels: Pixels) -> None:
        """A VBE mode was set: text goes to it in cells of 8 x 16."""
        self.mode = number & 0x7F
        self.platform.set_bda8(bda.VIDEO_MODE, self.mode)
        self._set_pixels(pixels, 16)
        self.resize(pixels.width // 8, pixels.height // 16, 16, clear=True)

    def _set_pixels(self, pixels: Pixels | None, height: int) -> None:
        self.pixels, self.painter = pixels, None
        self.screen.painter = None
        if self.adapter is None:
            return
        self.set_vector(0x43, ROM_SEGMENT, FONT_OFFSETS[height])
        if pixels is not None:
            self.painter = Painter(pixels, b"", height)
            self.screen.painter = self.painter

    def set_vector(self, number: int, segment: int, offset: int) -> None:
        """A far pointer in the interrupt vector table."""
        data = offset.to_bytes(2, "little") + segment.to_bytes(2, "little")
        self.platform.memory.write(Gpa(4 * number), data)

    def resize(self, columns: int, rows: int, height: int, *, clear: bool) -> None:
        """How many cells there are now; cursors at the top left, page 0 shown."""
        p = self.platform
        p.set_bda16(bda.VIDEO_COLUMNS, columns)
        p.set_bda8(bda.VIDEO_ROWS, rows - 1)
        p.set_bda16(bda.CHARACTER_HEIGHT, height)
        p.set_bda16(bda.VIDEO_PAGE_OFFSET, 0)
        p.set_bda8(bda.VIDEO_PAGE, 0)
        p.memory.write(Gpa(bda.BASE + bda.CURSOR_POSITION), bytes(16))
        if self.adapter is not None and self.pixels is None:
            self.screen.reshape(columns, rows, VideoCells(self.adapter.display, 0, columns * rows))
        elif (columns, rows) != (self.screen.columns, self.screen.rows) or self.adapter is not None:
            self.screen.reshape(columns, rows)
        if self.adapter is None:
            if clear:
                self.screen.clear()
        else:
            self.screen.move(0, 0)
            if self.pixels is None:
                self._show_cursor_shape()
            if clear and self.console is not None:
                self.console.cleared(self.screen)
        self._store_cursor()

    # The cursor and the page -----------------------------------------------------------------------------------------
    def _store_cursor(self, row: int | None = None, column: int | None = None) -> None:
        """The screen's cursor (or another place, which may be off the screen) is the shown page's."""
        row, column = (
            self.screen.row if row is None else row,
            self.screen.column if column is None else column,
        )
        p = self.platform
        page = p.bda8(bda.VIDEO_PAGE) & 7
        p.set_bda16(bda.CURSOR_POSITION + 2 * page, row << 8 | column)
        p.set_bda16(bda.CURSOR_SHAPE, self.screen.cursor_shape)
        if self.adapter is not None and self.pixels is None:
            start = p.bda16(bda.VIDEO_PAGE_OFFSET) // 2
            self.adapter.set_cursor(start + row * self.screen.columns + column)

    def _show_cursor_shape(self) -> None:
        """CGA-like shapes (eight lines) are stretched to the cell, unless 40:87 says not to (RBIL, INT 10/AH=01h)."""
        assert self.adapter is not None
        start, end = self.screen.cursor_shape >> 8 & 0x3F, self.screen.cursor_shape & 0x1F
        height = self.platform.bda16(bda.CHARACTER_HEIGHT)
        if (
            not self.platform.bda8(bda.VIDEO_CONTROL) & _NO_EMULATION
            and not start & _CURSOR_OFF
            and height > 8 >= end + 1
        ):
            top = (start & 0x1F) * height // 8 if start < 3 else (start + 1) * height // 8 - 1
            start, end = top, (end + 1) * height // 8 - (2 if end > 3 else 1)
        self.adapter.set_cursor_shape(start, end)

    def _page(self, number: int) -> Screen:
        """The screen of a page; one that is not shown has no watchers, and a place in memory of its own."""
        p = self.platform
        if self.adapter is None or self.pixels is not None or number == p.bda8(bda.VIDEO_PAGE):
            return self.screen
        size, shown = p.bda16(bda.VIDEO_PAGE_SIZE), self.screen
        start = min(number * size, 0x8000 - 2 * shown.columns * shown.rows)
        page = Screen()
        page.reshape(
            shown.columns, shown.rows, VideoCells(self.adapter.display, start, shown.columns * shown.rows)
        )
        cursor = p.bda16(bda.CURSOR_POSITION + 2 * (number & 7))
        page.move(cursor >> 8, cursor & 0xFF)
        return page

    def call(self, interrupt: int, frame: Frame) -> None:
        """The cursor is what the data area says: programs move it there too."""
        self.sync()
        super().call(interrupt, frame)

    def sync(self) -> None:
        """Take the cursor, and the font of graphics modes, from the guest's memory."""
        if self.adapter is None:
            return
        p = self.platform
        cursor = p.bda16(bda.CURSOR_POSITION + 2 * (p.bda8(bda.VIDEO_PAGE) & 7))
        self.screen.move(cursor >> 8, cursor & 0xFF)
        if self.painter is not None:
            offset = int.from_bytes(p.memory.read(Gpa(4 * 0x43), 2), "little")
            segment = int.from_bytes(p.memory.read(Gpa(4 * 0x43 + 2), 2), "little")
            self.painter.font = p.memory.read(linear(segment, offset), 256 * self.painter.height)

    def print(self, text: str) -> None:
        """Write a message of the BIOS's own, LF meaning a new line."""
        self.sync()
        for code in text.replace("\n", "\r\n").encode("cp437", "replace"):
            self._teletype(self.screen, code, 0x07 if self.pixels is not None else None)
        self._store_cursor()

    def _teletype(self, screen: Screen, code: int, attribute: int | None = None) -> None:
        console = self.console if screen is self.screen else None
        in_step = console is not None and console.in_step(screen)
        screen.teletype(code, attribute)
        if console is not None and (code == 0x07 or (in_step and code in (0x0A, 0x0D))):
            console.control(screen, code)

    def unsupported(self, interrupt: int, frame: Frame) -> None:
        """Registers unchanged: that is how INT 10h's callers see that a function is missing (RBIL, INT 10/AX=4F00h: AL
        must become 4Fh).
        """
        self.platform.log_once(f"BIOS: INT 10h AX={frame.ax:04X}h is not supported")

    # Services --------------------------------------------------------------------------------------------------------
    @function(0x10, 0x00, source="INT 10/AH=00h")
    def set_mode(self, frame: Frame) -> None:
        """Set a mode, clearing the screen unless bit 7 is set. A mode that is not there is refused: the mode stays."""
        mode = frame.al & 0x7F
        if mode not in (TEXT_MODES if self.adapter is None else MODES):
            self.platform.log_once(f"BIOS: INT 10h: video mode {mode:02X}h is not there")
            return
        self.enter(mode, clear=not frame.al & 0x80)
        frame.al = 0x3F if mode == 6 else 0x30 if mode < 8 else 0x20

    @function(0x10, 0x01, source="INT 10/AH=01h")
    def set_cursor_shape(self, frame: Frame) -> None:
        self.screen.cursor_shape = frame.cx
        if self.adapter is not None and self.pixels is None:
            self._show_cursor_shape()
        self.platform.set_bda16(bda.CURSOR_SHAPE, frame.cx)

    @function(0x10, 0x02, source="INT 10/AH=02h")
    def set_cursor(self, frame: Frame) -> None:
        """Of page BH; outside of the screen it is not seen."""
        if self.adapter is None or frame.bh == self.platform.bda8(bda.VIDEO_PAGE):
            self.screen.move(frame.dh, frame.dl)
            self._store_cursor(*((frame.dh, frame.dl) if self.adapter is not None else ()))
        else:
            self.platform.set_bda16(bda.CURSOR_POSITION + 2 * (frame.bh & 7), frame.dx)

    @function(0x10, 0x03, source="INT 10/AH=03h")
    def get_cursor(self, frame: Frame) -> None:
        if self.adapter is None:
            frame.dh, frame.dl = self.screen.row, self.screen.column
        else:
            frame.dx = self.platform.bda16(bda.CURSOR_POSITION + 2 * (frame.bh & 7))
        frame.cx = self.screen.cursor_shape
        frame.ax = 0

    @function(0x10, 0x05, source="INT 10/AH=05h")
    def select_page(self, frame: Frame) -> None:
        """Show page AL. Without a VGA there is page 0 only, and another is ignored."""
        info = MODES.get(self.mode)
        p = self.platform
        if self.adapter is None or info is None or frame.al >= info.pages or self._is_vbe:
            return
        if frame.al == p.bda8(bda.VIDEO_PAGE):
            return
        offset = frame.al * p.bda16(bda.VIDEO_PAGE_SIZE)
        p.set_bda8(bda.VIDEO_PAGE, frame.al)
        p.set_bda16(bda.VIDEO_PAGE_OFFSET, offset)
        self.adapter.set_start(offset // 2 if info.kind == TEXT else offset)
        if self.pixels is not None:
            self.pixels.start = offset
            return
        screen = self.screen
        screen.reshape(
            screen.columns,
            screen.rows,
            VideoCells(self.adapter.display, offset, screen.columns * screen.rows),
        )
        self.sync()
        self._store_cursor(*divmod(p.bda16(bda.CURSOR_POSITION + 2 * frame.al), 256))
        if self.console is not None:
            self.console.redraw(screen)

    @property
    def _is_vbe(self) -> bool:
        return self.pixels is not None and self.pixels.is_vbe

    @function(0x10, 0x06, 0x07, source="INT 10/AH=06h, 07h")
    def scroll(self, frame: Frame) -> None:
        lines = frame.al if frame.ah == 0x06 else -frame.al
        self.screen.scroll(frame.ch, frame.cl, frame.dh, frame.dl, lines, frame.bh)

    @function(0x10, 0x08, source="INT 10/AH=08h")
    def read_cell(self, frame: Frame) -> None:
        """In graphics modes, the character whose glyph the pixels are; 0 for none."""
        screen = self._page(frame.bh)
        if self.pixels is not None and self.painter is not None:
            height = self.painter.height
            dots = self.pixels.read_dots(8 * screen.column, height * screen.row, height)
            font = self.painter.font
            codes = (code for code in range(256) if font[code * height : (code + 1) * height] == dots)
            frame.al = next(codes, 0)
            return
        at = screen.row * screen.columns + screen.column
        frame.al, frame.ah = screen.characters[at], screen.attributes[at]

    @function(0x10, 0x09, 0x0A, source="INT 10/AH=09h, 0Ah")
    def write_cells(self, frame: Frame) -> None:
        """In graphics modes BL is the colour for both, and with 256 colours BH the background."""
        screen = self._page(frame.bh)
        attribute = frame.bl if frame.ah == 0x09 or self.pixels is not None else None
        if self.painter is not None and self.mode == 0x13:
            self.painter.background = frame.bh
        screen.put(screen.row, screen.column, frame.al, attribute, frame.cx)
        if self.painter is not None:
            self.painter.background = 0

    @function(0x10, 0x0C, source="INT 10/AH=0Ch")
    def write_dot(self, frame: Frame) -> None:
        """Colour AL at column CX, row DX of page BH; bit 7 of AL: by XOR."""
        pixels = self._dots(frame.bh)
        if pixels is not None:
            pixels.set(frame.cx, frame.dx, frame.al)

    @function(0x10, 0x0D, source="INT 10/AH=0Dh")
    def read_dot(self, frame: Frame) -> None:
        """Of column CX, row DX of page BH."""
        pixels = self._dots(frame.bh)
        if pixels is not None:
            frame.al = pixels.get(frame.cx, frame.dx) & 0xFF

    def _dots(self, page: int) -> Pixels | None:
        """The pixels of a page; in modes with one page, of that (RBIL, INT 10/AH=0Ch)."""
        shown, info = self.pixels, MODES.get(self.mode)
        if shown is None or shown.is_vbe or info is None or not 1 < info.pages > page:
            return shown
        start = page * self.platform.bda16(bda.VIDEO_PAGE_SIZE)
        return Pixels(shown.display, shown.kind, shown.width, shown.height, shown.pitch, shown.bits, start)

    @function(0x10, 0x0E, source="INT 10/AH=0Eh")
    def teletype(self, frame: Frame) -> None:
        """To the page that is shown; BL is the colour in graphics modes."""
        self._teletype(self.screen, frame.al, frame.bl if self.pixels is not None else None)
        self._store_cursor()

    @function(0x10, 0x0F, source="INT 10/AH=0Fh")
    def get_mode(self, frame: Frame) -> None:
        """Bit 7 of AL: the last mode set did not clear the screen."""
        p = self.platform
        frame.al = self.mode | p.bda8(bda.VIDEO_CONTROL) & 0x80
        frame.ah, frame.bh = self.screen.columns, p.bda8(bda.VIDEO_PAGE)

    @function(0x10, 0x12, source="INT 10/AH=12h")
    def alternate_select(self, frame: Frame) -> None:
        """BL: 10h colour, 256 KiB; 20h print screen, 30h scan lines (400 only), 31h default palettes, 34h cursor
        emulation, 36h the display on or off. AL becomes 12h when it is done.
        """
        p, off = self.platform, bool(frame.al & 1)
        if frame.bl == 0x10:
            frame.bx = 0x0003 | (0 if p.bda16(bda.CRTC_PORT) == CRTC_COLOUR else 0x0100)
            frame.cx = 0x0009
            return
        if self.adapter is None:
            return
        if frame.bl == 0x31:
            p.set_bda8(bda.VIDEO_FLAGS, p.bda8(bda.VIDEO_FLAGS) & ~NO_PALETTE | NO_PALETTE * off)
        elif frame.bl == 0x34:
            p.set_bda8(bda.VIDEO_CONTROL, p.bda8(bda.VIDEO_CONTROL) & ~_NO_EMULATION | _NO_EMULATION * off)
        elif frame.bl == 0x36:
            clocking = self.adapter.read_sequencer(1)
            self.adapter.write_sequencer(1, clocking & ~0x20 | 0x20 * off)
        elif frame.bl != 0x20 and not (frame.bl == 0x30 and frame.al == 2):
            return
        frame.al = 0x12

    @function(0x10, 0x13, source="INT 10/AH=13h")
    def write_string(self, frame: Frame) -> None:
        """AL bit 0: move the cursor; bit 1: the string holds (character, attribute) pairs. On page BH."""
        screen = self._page(frame.bh)
        row, column = screen.row, screen.column
        pairs = bool(frame.al & 2)
        data = self.platform.memory.read(linear(frame.es, frame.bp), frame.cx * (2 if pairs else 1))
        screen.move(frame.dh, frame.dl)
        for i in range(frame.cx):
            if pairs:
                self._teletype(screen, data[2 * i], data[2 * i + 1])
            else:
                self._teletype(screen, data[i], frame.bl)
        if not frame.al & 1:
            screen.move(row, column)
        if screen is self.screen:
            self._store_cursor()
        else:
            where = bda.CURSOR_POSITION + 2 * (frame.bh & 7)
            self.platform.set_bda16(where, screen.row << 8 | screen.column)

    @function(0x10, 0x1A00, 0x1A01, source="INT 10/AX=1A00h, 1A01h")
    def display_combination(self, frame: Frame) -> None:
        """A VGA with a colour display; setting it is accepted."""
        if frame.al == 0:
            frame.bx = 0x0008
        frame.al = 0x1A

    @function(0x10, 0x1B, source="INT 10/AH=1Bh")
    def state_information(self, frame: Frame) -> None:
        """BX=0: 64 bytes at ES:DI (RBIL, "video functionality/state data"). Only with a VGA."""
        if self.adapter is None or frame.bx != 0:
            return
        p, info = self.platform, MODES.get(self.mode)
        state = bytearray(64)
        state[0:4] = STATIC_TABLE.to_bytes(2, "little") + ROM_SEGMENT.to_bytes(2, "little")
        state[4:0x22] = p.memory.read(Gpa(bda.BASE + bda.VIDEO_MODE), 0x1E)
        state[0x22] = p.bda8(bda.VIDEO_ROWS) + 1
        state[0x23:0x25] = p.bda16(bda.CHARACTER_HEIGHT).to_bytes(2, "little")
        state[0x25] = 0x08  # VGA, colour display
        colours = 1 << self.pixels.bits if self.pixels is not None and self.pixels.bits <= 8 else 16
        state[0x27:0x29] = (0 if self.mode == 7 else colours).to_bytes(2, "little")
        state[0x29] = info.pages if info is not None else 1
        state[0x2A] = {350: 1, 400: 2, 480: 3}.get(info.height if info is not None else 0, 2)
        state[0x2D] = 0x01 | (0 if p.bda8(bda.VIDEO_CONTROL) & _NO_EMULATION else 0x10)
        state[0x31] = 3  # 256 KiB
        p.memory.write(linear(frame.es, frame.di), bytes(state))
        frame.al = 0x1B

    @function(0x10, 0x0B, source="INT 10/AH=0Bh")
    def cga_palette(self, frame: Frame) -> None:
        """BH=0: background and border; BH=1: palette of mode 4."""
        adapter = self.adapter
        if adapter is None:
            return
        if frame.bh == 0:
            colour = frame.bl & 7 | (frame.bl & 8) << 1
            adapter.write_attribute(0x11, bytes((colour,)))
            if self.mode in (4, 5, 6, 13, 14):
                adapter.write_attribute(0, bytes((colour,)))
        elif self.mode in (4, 5):
            base = 0x12 if frame.bl & 1 == 0 else 0x13
            adapter.write_attribute(1, bytes((base, base + 2, 0x16 + (frame.bl & 1))))
