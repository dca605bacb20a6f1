"""The screen seen on a serial terminal: COM1 shows what INT 10h draws, and what is typed there comes back as keys.

Two states. *Plain*: as long as a program only writes onwards (characters, CR, LF, blanks ahead on the line), only those
are sent, so that a log stays a log. *Addressed*: once it goes elsewhere (a menu), the terminal is cleared, drawn
afresh, and followed by cursor addressing and colours (ECMA-48 §8.3: CUP, ED, DL, IL, SGR). Clearing the screen goes
back to plain.

The BIOS gives COM1 up as soon as another program sets it up for itself (a boot loader with its own serial console, an
operating system): it sees that line control, modem control or interrupt enables are no longer as POST left them, or
that the FIFO is on, which POST leaves off for that purpose. Otherwise each text would come twice.
"""

from __future__ import annotations

from typing import Final

from pyvmm.display.codepage import GLYPHS
from pyvmm.firmware.platform import PortBus
from pyvmm.firmware.screen import NORMAL, Screen

# 16550D §8.0, register offsets and bits
_DATA, _IER, _FCR, _LCR, _MCR, _LSR = 0, 1, 2, 3, 4, 5
_IIR_FIFO: Final = 0xC0
_LCR_8N1: Final = 0x03
_LCR_DLAB: Final = 0x80
_MCR_DTR_RTS: Final = 0x03
_LSR_DATA_READY: Final = 0x01
_LSR_THR_EMPTY: Final = 0x20
_WAIT_READS: Final = 10_000
_ANSI_COLOURS: Final = (0, 4, 2, 6, 1, 5, 3, 7)
"""VGA's blue-green-red order to SGR's red-green-blue."""


class SerialConsole:
    """A `ScreenWatcher` that draws on a UART, and the source of its input bytes."""

    def __init__(self, pio: PortBus, port: int) -> None:
        self.pio = pio
        self.port = port
        self.addressed = False
        self.row = self.column = 0
        self.attribute = NORMAL
        self.lost = True

    # The UART --------------------------------------------------------------------------------------------------------
    def setup(self) -> None:
        """115200 baud, 8N1, no FIFO, no interrupts (16550D §8.1 to §8.6): the BIOS owns the port from here on."""
        for offset, value in (
            (_IER, 0),
            (_LCR, _LCR_DLAB),
            (_DATA, 1),
            (_IER, 0),
            (_LCR, _LCR_8N1),
            (_FCR, 0),
            (_MCR, _MCR_DTR_RTS),
        ):
            self.pio.write(self.port + offset, 1, value)
        self.addressed = False
        self.row = self.column = 0
        self.attribute = NORMAL
        self.lost = not self._as_left()

    def _as_left(self) -> bool:
        """Whether the registers are as `setup` left them. IIR last: reading it acknowledges interrupts."""
        read, port = self.pio.read, self.port
        return (
            read(port + _IER, 1) == 0
            and read(port + _LCR, 1) == _LCR_8N1
            and read(port + _MCR, 1) & 0x1F == _MCR_DTR_RTS
            and read(port + _FCR, 1) & _IIR_FIFO == 0
        )

    def owned(self) -> bool:
        """Whether COM1 is still the BIOS's."""
        if not self.lost and not self._as_left():
            self.lost = True
        return not self.lost

    def send(self, text: str) -> None:
        """Send as UTF-8, waiting for the transmitter as long as a slow terminal needs, but not for ever."""
        if not self.owned():
            return
        for byte in text.encode():
            for _ in range(_WAIT_READS):
                if self.pio.read(self.port + _LSR, 1) & _LSR_THR_EMPTY:
                    break
            self.pio.write(self.port + _DATA, 1, byte)

    def receive(self) -> bytes:
        """What has been typed."""
        data = bytearray()
        while len(data) < 64 and self.owned() and self.pio.read(self.port + _LSR, 1) & _LSR_DATA_READY:
            data.append(self.pio.read(self.port + _DATA, 1))
        return bytes(data)

    # Drawing ---------------------------------------------------------------------------------------------------------
    def in_step(self, screen: Screen) -> bool:
        """Whether both cursors are at the same place, so that a control character means the same to both."""
        return not self.addressed and (self.row, self.column) == (screen.row, screen.column)

    def control(self, screen: Screen, code: int) -> None:
        """Pass on a BEL, LF or CR that the screen has carried out, the two cursors having been in step before it."""
        self.send(chr(code))
        if code != 0x07:
            self.row, self.column = screen.row, screen.column

    def cells_changed(self, screen: Screen, row: int, column: int, count: int) -> None:
        end = row * screen.columns + column + count
        at = row * screen.columns + column
        while at < end:
            row, column = divmod(at, screen.columns)
            width = min(screen.columns - column, end - at)
            self._draw(screen, row, column, width)
            at += width

    def scrolled(self, screen: Screen, top: int, left: int, bottom: int, right: int, lines: int) -> None:
        whole = (top, left, bottom, right) == (0, 0, screen.rows - 1, screen.columns - 1)
        if not self.addressed:
            if whole and lines == 1:  # a line feed on the last line: the terminal scrolls by itself
                self.row = max(self.row - 1, -1)
                return
            if not any(screen.line(row)[left : right + 1].strip() for row in range(top, bottom + 1)):
                return
            self._address(screen)
        elif whole and lines == 1 and screen.attributes[-1] == NORMAL:
            self.send("\x1b[0m\x1b[H\x1b[M")
            self.row = self.column = 0
            self.attribute = NORMAL
        else:
            for row in range(top, bottom + 1):
                self._draw(screen, row, left, right - left + 1)

    def cleared(self, screen: Screen) -> None:
        if self.addressed:
            self.send("\x1b[0m\x1b[2J\x1b[H")
            self.addressed = False
        elif self.column:
            self.send("\r\n")
        self.row = self.column = 0
        self.attribute = NORMAL

    def redraw(self, screen: Screen) -> None:
        """Another page is shown."""
        if self.owned():
            self._address(screen)

    def _draw(self, screen: Screen, row: int, column: int, width: int) -> None:
        """Send the cells of one row that changed, the terminal's cursor being anywhere."""
        if not self.owned():
            return
        if (
            not self.addressed
            and not screen.line(row)[column:].strip()
            and (row, column) > (self.row, self.column)
        ):
            return  # blanks ahead: nothing to see
        text = self._reach(screen, row, column)
        if text is None:
            self._address(screen)
            return
        at = row * screen.columns + column
        parts = [text]
        cells = zip(screen.characters[at : at + width], screen.attributes[at : at + width], strict=True)
        for character, attribute in cells:
            if self.addressed and attribute != self.attribute:
                self.attribute = attribute
                parts.append(sgr(attribute))
            parts.append(GLYPHS[character])
        self.send("".join(parts))
        self.row, self.column = row, column + width
        if self.column >= screen.columns:  # terminals differ in what follows a full line: be explicit
            if self.addressed:
                self.row = -1
            else:
                self.send("\r\n")
                self.row, self.column = row + 1, 0

    def _reach(self, screen: Screen, row: int, column: int) -> str | None:
        """What moves the terminal's cursor to a cell; None when that cannot be done in plain text."""
        if (row, column) == (self.row, self.column):
            return ""
        if self.addressed:
            return f"\x1b[{row + 1};{column + 1}H"
        if row == self.row and 0 <= self.column < column:
            return screen.line(row)[self.column : column]
        if row == self.row and column == self.column - 1:
            return "\b"
        if row > self.row or (row == self.row and column == 0):
            return "\r" + "\n" * (row - self.row) + screen.line(row)[:column]
        return None

    def _address(self, screen: Screen) -> None:
        """Clear the terminal, draw the whole screen, and follow from there by cursor addressing."""
        self.send("\x1b[0m\x1b[2J")
        self.addressed = True
        self.attribute = NORMAL
        self.row = -1
        for row in range(screen.rows):
            base = row * screen.columns
            cells = zip(
                screen.characters[base : base + screen.columns],
                screen.attributes[base : base + screen.columns],
                strict=True,
            )
            width = max((x + 1 for x, cell in enumerate(cells) if cell != (0x20, NORMAL)), default=0)
            if width:
                self._draw(screen, row, 0, width)

    def cursor_moved(self, screen: Screen) -> None:
        """Before the program waits for a key: show the cursor where it believes it to be."""
        if self.addressed and (screen.row, screen.column) != (self.row, self.column):
            self.send(f"\x1b[{screen.row + 1};{screen.column + 1}H")
            self.row, self.column = screen.row, screen.column


def sgr(attribute: int) -> str:
    """The ECMA-48 rendition of a VGA attribute."""
    if attribute == NORMAL:
        return "\x1b[0m"
    foreground = 30 + _ANSI_COLOURS[attribute & 7] + (60 if attribute & 8 else 0)
    return f"\x1b[0;{foreground};{40 + _ANSI_COLOURS[attribute >> 4 & 7]}m"
