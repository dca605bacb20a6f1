"""The text screen that INT 10h draws on: 80 x 25 cells of (character, attribute), a cursor, and whoever watches.

Characters are code page 437, attributes the VGA's (IBM VGA Technical Reference, "Text modes": bits 0-3 foreground, 4-6
background, 7 blink). One page. It is a model in Python, not memory at B8000: a program that stores into video memory is
not seen here.
"""

from __future__ import annotations

from typing import Final, Protocol

from pyvmm.display.codepage import GLYPHS

COLUMNS: Final = 80
ROWS: Final = 25
NORMAL: Final = 0x07
BLANK: Final = 0x20


class ScreenWatcher(Protocol):
    """Told of each change after it was made."""

    def cells_changed(self, screen: Screen, row: int, column: int, count: int) -> None: ...
    def scrolled(self, screen: Screen, top: int, left: int, bottom: int, right: int, lines: int) -> None: ...
    def cleared(self, screen: Screen) -> None: ...


class Screen:
    """The model. Rows and columns count from 0, top left."""

    def __init__(self) -> None:
        self.watchers: list[ScreenWatcher] = []
        self.characters = bytearray()
        self.attributes = bytearray()
        self.row = self.column = 0
        self.cursor_shape = 0x0607
        self._fill()

    def _fill(self) -> None:
        self.characters[:] = bytes((BLANK,)) * (ROWS * COLUMNS)
        self.attributes[:] = bytes((NORMAL,)) * (ROWS * COLUMNS)

    def text(self) -> str:
        """What is on the screen, one line a row, trailing blanks cut off."""
        return "\n".join(self.line(row).rstrip() for row in range(ROWS)).rstrip("\n")

    def line(self, row: int) -> str:
        return "".join(GLYPHS[code] for code in self.characters[row * COLUMNS : (row + 1) * COLUMNS])

    def clear(self) -> None:
        """Blank cells, cursor at the top left."""
        self._fill()
        self.row = self.column = 0
        for watcher in self.watchers:
            watcher.cleared(self)

    def move(self, row: int, column: int) -> None:
        """Set the cursor; outside of the screen it goes to the nearest cell."""
        self.row = min(max(row, 0), ROWS - 1)
        self.column = min(max(column, 0), COLUMNS - 1)

    def put(self, row: int, column: int, code: int, attribute: int | None, count: int = 1) -> None:
        """Write `count` equal cells from (row, column) on, over line ends, up to the last cell; the cursor stays."""
        start = row * COLUMNS + column
        count = min(count, ROWS * COLUMNS - start)
        if count <= 0:
            return
        self.characters[start : start + count] = bytes((code,)) * count
        if attribute is not None:
            self.attributes[start : start + count] = bytes((attribute,)) * count
        if count >= ROWS * COLUMNS - COLUMNS and self.characters.count(BLANK) == ROWS * COLUMNS:
            for watcher in self.watchers:
                watcher.cleared(self)
            return
        for watcher in self.watchers:
            watcher.cells_changed(self, row, column, count)

    def teletype(self, code: int, attribute: int | None = None) -> None:
        """Write one character as INT 10h/AH=0Eh does: control characters act, and the cursor moves on."""
        if code == 0x08:
            self.column = max(self.column - 1, 0)
        elif code == 0x0D:
            self.column = 0
        elif code == 0x0A:
            self._line_feed()
        elif code != 0x07:
            self.put(self.row, self.column, code, attribute)
            self.column += 1
            if self.column == COLUMNS:
                self.column = 0
                self._line_feed()

    def _line_feed(self) -> None:
        if self.row < ROWS - 1:
            self.row += 1
        else:
            self.scroll(0, 0, ROWS - 1, COLUMNS - 1, 1, self.attributes[-1])

    def scroll(self, top: int, left: int, bottom: int, right: int, lines: int, attribute: int) -> None:
        """Scroll a window up (lines > 0) or down (< 0); 0 lines blank it. Corners are inclusive."""
        bottom, right = min(bottom, ROWS - 1), min(right, COLUMNS - 1)
        if top > bottom or left > right:
            return
        height, width = bottom - top + 1, right - left + 1
        if lines == 0 or abs(lines) >= height:
            lines = height
        rows = range(top, bottom + 1) if lines > 0 else range(bottom, top - 1, -1)
        for row in rows:
            source = row + lines
            at = row * COLUMNS + left
            if top <= source <= bottom:
                start = source * COLUMNS + left
                self.characters[at : at + width] = self.characters[start : start + width]
                self.attributes[at : at + width] = self.attributes[start : start + width]
            else:
                self.characters[at : at + width] = bytes((BLANK,)) * width
                self.attributes[at : at + width] = bytes((attribute,)) * width
        blank = lines == height and self.characters.count(BLANK) == ROWS * COLUMNS
        for watcher in self.watchers:
            if blank:
                watcher.cleared(self)
            else:
                watcher.scrolled(self, top, left, bottom, right, lines)
