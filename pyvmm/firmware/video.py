"""INT 10h, video: text modes as far as boot loaders and kernels' set-up code need them.

Sources: Ralf Brown's Interrupt List (RBIL), INT 10; IBM PS/2 and PC BIOS Interface Technical Reference (1987), INT 10h.
Left out: graphics modes, palettes (accepted, without effect), fonts, VBE (answered as not there), pages other than 0.
"""

from __future__ import annotations

from typing import Final

from pyvmm.firmware import bda
from pyvmm.firmware.frame import Frame, linear
from pyvmm.firmware.group import ServiceGroup, function
from pyvmm.firmware.platform import Platform
from pyvmm.firmware.screen import COLUMNS, ROWS, Screen
from pyvmm.firmware.terminal import SerialConsole

TEXT_MODES: Final = (0, 1, 2, 3, 7)
_PAGE_BYTES: Final = 0x1000
_CRTC_COLOUR: Final = 0x3D4


class Video(ServiceGroup):
    """The screen and its services."""

    def __init__(self, platform: Platform, console: SerialConsole | None) -> None:
        super().__init__(platform)
        self.console = console
        self.screen = Screen()
        self.mode = 3
        if console is not None:
            self.screen.watchers.append(console)

    def reset(self) -> None:
        """80 x 25 text, blank; the BIOS data area's video fields (RBIL MEMORY.LST, 40:49 to 40:8A)."""
        if self.console is not None:
            self.console.setup()
        self.screen.clear()
        self.mode = 3
        p = self.platform
        p.set_bda8(bda.VIDEO_MODE, self.mode)
        p.set_bda16(bda.VIDEO_COLUMNS, COLUMNS)
        p.set_bda16(bda.VIDEO_PAGE_SIZE, _PAGE_BYTES)
        p.set_bda16(bda.VIDEO_PAGE_OFFSET, 0)
        p.set_bda8(bda.VIDEO_PAGE, 0)
        p.set_bda16(bda.CRTC_PORT, _CRTC_COLOUR)
        p.set_bda8(bda.VIDEO_ROWS, ROWS - 1)
        p.set_bda16(bda.CHARACTER_HEIGHT, 16)
        p.set_bda8(bda.VIDEO_CONTROL, 0x60)
        p.set_bda8(bda.VIDEO_SWITCHES, 0x09)
        p.set_bda8(bda.VIDEO_FLAGS, 0x11)
        self._store_cursor()

    def _store_cursor(self) -> None:
        self.platform.set_bda16(bda.CURSOR_POSITION, self.screen.row << 8 | self.screen.column)
        self.platform.set_bda16(bda.CURSOR_SHAPE, self.screen.cursor_shape)

    def print(self, text: str) -> None:
        """Write a message of the BIOS's own, LF meaning a new line."""
        for code in text.replace("\n", "\r\n").encode("cp437", "replace"):
            self._teletype(code)
        self._store_cursor()

    def _teletype(self, code: int, attribute: int | None = None) -> None:
        console = self.console
        in_step = console is not None and console.in_step(self.screen)
        self.screen.teletype(code, attribute)
        if console is not None and (code == 0x07 or (in_step and code in (0x0A, 0x0D))):
            console.control(self.screen, code)

    def unsupported(self, interrupt: int, frame: Frame) -> None:
        """Registers unchanged: that is how INT 10h's callers see that a function is missing (RBIL, INT 10/AX=4F00h: AL
        must become 4Fh).
        """
        self.platform.log_once(f"BIOS: INT 10h AX={frame.ax:04X}h is not supported")

    @function(0x10, 0x00, source="INT 10/AH=00h")
    def set_mode(self, frame: Frame) -> None:
        """Set a text mode, clearing the screen unless bit 7 is set. Other modes are refused: the mode stays."""
        mode = frame.al & 0x7F
        if mode not in TEXT_MODES:
            self.platform.log_once(f"BIOS: INT 10h: video mode {mode:02X}h is not a text mode")
            return
        self.mode = mode
        self.screen.cursor_shape = 0x0607
        if not frame.al & 0x80:
            self.screen.clear()
        self.platform.set_bda8(bda.VIDEO_MODE, mode)
        self._store_cursor()
        frame.al = 0x30

    @function(0x10, 0x01, source="INT 10/AH=01h")
    def set_cursor_shape(self, frame: Frame) -> None:
        self.screen.cursor_shape = frame.cx
        self._store_cursor()

    @function(0x10, 0x02, source="INT 10/AH=02h")
    def set_cursor(self, frame: Frame) -> None:
        self.screen.move(frame.dh, frame.dl)
        self._store_cursor()

    @function(0x10, 0x03, source="INT 10/AH=03h")
    def get_cursor(self, frame: Frame) -> None:
        frame.dh, frame.dl = self.screen.row, self.screen.column
        frame.cx = self.screen.cursor_shape
        frame.ax = 0

    @function(0x10, 0x05, source="INT 10/AH=05h")
    def select_page(self, frame: Frame) -> None:
        """There is page 0 only; selecting it is no change, and another is ignored."""

    @function(0x10, 0x06, 0x07, source="INT 10/AH=06h, 07h")
    def scroll(self, frame: Frame) -> None:
        lines = frame.al if frame.ah == 0x06 else -frame.al
        self.screen.scroll(frame.ch, frame.cl, frame.dh, frame.dl, lines, frame.bh)

    @function(0x10, 0x08, source="INT 10/AH=08h")
    def read_cell(self, frame: Frame) -> None:
        at = self.screen.row * COLUMNS + self.screen.column
        frame.al, frame.ah = self.screen.characters[at], self.screen.attributes[at]

    @function(0x10, 0x09, 0x0A, source="INT 10/AH=09h, 0Ah")
    def write_cells(self, frame: Frame) -> None:
        attribute = frame.bl if frame.ah == 0x09 else None
        self.screen.put(self.screen.row, self.screen.column, frame.al, attribute, frame.cx)

    @function(0x10, 0x0E, source="INT 10/AH=0Eh")
    def teletype(self, frame: Frame) -> None:
        self._teletype(frame.al)
        self._store_cursor()

    @function(0x10, 0x0F, source="INT 10/AH=0Fh")
    def get_mode(self, frame: Frame) -> None:
        frame.al, frame.ah, frame.bh = self.mode, COLUMNS, 0

    @function(0x10, 0x0B, 0x10, source="INT 10/AH=0Bh, 10h")
    def palette(self, frame: Frame) -> None:
        """Palettes and blinking: there is no hardware that shows them."""

    @function(0x10, 0x12, source="INT 10/AH=12h/BL=10h")
    def alternate_select(self, frame: Frame) -> None:
        """BL=10h: colour, 256 KiB. Other selections are answered as unsupported (AL is not 12h)."""
        if frame.bl == 0x10:
            frame.bx, frame.cx = 0x0003, 0x0009

    @function(0x10, 0x13, source="INT 10/AH=13h")
    def write_string(self, frame: Frame) -> None:
        """AL bit 0: move the cursor; bit 1: the string holds (character, attribute) pairs."""
        screen = self.screen
        row, column = screen.row, screen.column
        pairs = bool(frame.al & 2)
        data = self.platform.memory.read(linear(frame.es, frame.bp), frame.cx * (2 if pairs else 1))
        screen.move(frame.dh, frame.dl)
        for i in range(frame.cx):
            if pairs:
                self._teletype(data[2 * i], data[2 * i + 1])
            else:
                self._teletype(data[i], frame.bl)
        if not frame.al & 1:
            screen.move(row, column)
        self._store_cursor()

    @function(0x10, 0x1A00, source="INT 10/AX=1A00h")
    def display_combination(self, frame: Frame) -> None:
        """A VGA with a colour display, as far as text services go."""
        frame.al, frame.bx = 0x1A, 0x0008
