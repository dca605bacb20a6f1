"""The text screen that INT 10h draws on: cells of (character, attribute), a cursor, and whoever watches.

Characters are code page 437, attributes the VGA's (IBM VGA Technical Reference, "Text modes": bits 0-3 foreground, 4-6
background, 7 blink). In a VGA's text modes the cells are those in video memory, so that what a program stored there by
itself is seen; otherwise (no VGA, graphics modes) they are a model in Python.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from pyvmm.display.codepage import GLYPHS

if TYPE_CHECKING:
    from pyvmm.firmware.vga import VideoMemory

COLUMNS: Final = 80
ROWS: Final = 25
NORMAL: Final = 0x07
BLANK: Final = 0x20


class ScreenWatcher(Protocol):
    """Told of each change after it was made."""

    def cells_changed(self, screen: Screen, row: int, column: int, count: int) -> None: ...
    def scrolled(self, screen: Screen, top: int, left: int, bottom: int, right: int, lines: int) -> None: ...
    def cleared(self, screen: Screen) -> None: ...


class Cells(Protocol):
    """Where the cells are: buffers of one byte a cell, by rows, to read and to write."""

    @property
    def characters(self) -> bytearray | memoryview: ...
    @property
    def attributes(self) -> bytearray | memoryview: ...


class PlainCells:
    """Cells that are nowhere else."""

    def __init__(self, count: int) -> None:
        self.characters = bytearray((BLANK,)) * count
        self.attributes = bytearray((NORMAL,)) * count


class VideoCells:
    """Cells of a page in a VGA's memory, from the plane offset `start` on (IBM VGA, "Text modes": planes 0 and 1)."""

    def __init__(self, display: VideoMemory, start: int, count: int) -> None:
        self.display = display
        self.start = start
        self.count = count

    def _plane(self, plane: int) -> memoryview:
        at = 4 * self.start + plane
        return self.display.memory[at : at + 8 * self.count : 8]

    @property
    def characters(self) -> memoryview:
        return self._plane(0)

    @property
    def attributes(self) -> memoryview:
        return self._plane(1)


class Screen:
    """Rows and columns count from 0, top left. In graphics modes `painter` draws the cells; `watchers` only look on."""

    def __init__(self) -> None:
        self.watchers: list[ScreenWatcher] = []
        self.painter: ScreenWatcher | None = None
        self.columns, self.rows = COLUMNS, ROWS
        self.cells: Cells = PlainCells(COLUMNS * ROWS)
        self.row = self.column = 0
        self.cursor_shape = 0x0607

    def reshape(self, columns: int, rows: int, cells: Cells | None = None) -> None:
        """Another size, and where its cells are; they stay as they are, the cursor goes to the top left."""
        self.columns, self.rows = columns, rows
        self.cells = cells or PlainCells(columns * rows)
        self.row = self.column = 0

    @property
    def characters(self) -> bytearray | memoryview:
        return self.cells.characters

    @property
    def attributes(self) -> bytearray | memoryview:
        return self.cells.attributes

    def _fill(self) -> None:
        self.characters[:] = bytes((BLANK,)) * (self.rows * self.columns)
        self.attributes[:] = bytes((NORMAL,)) * (self.rows * self.columns)

    def _is_blank(self) -> bool:
        return bytes(self.characters).count(BLANK) == self.rows * self.columns

    def text(self) -> str:
        """What is on the screen, one line a row, trailing blanks cut off."""
        return "\n".join(self.line(row).rstrip() for row in range(self.rows)).rstrip("\n")

    def line(self, row: int) -> str:
        return "".join(
            GLYPHS[code] for code in self.characters[row * self.columns : (row + 1) * self.columns]
        )

    def clear(self) -> None:
        """Blank cells, cursor at the top left."""
        self._fill()
        self.row = self.column = 0
        if self.painter is not None:
            self.painter.cleared(self)
        for watcher in self.watchers:
            watcher.cleared(self)

    def move(self, row: int, column: int) -> None:
        """Set the cursor; outside of the screen it goes to the nearest cell."""
        self.row = min(max(row, 0), self.rows - 1)
        self.column = min(max(column, 0), self.columns - 1)

    def put(self, row: int, column: int, code: int, attribute: int | None, count: int = 1) -> None:
        """Write `count` equal cells from (row, column) on, over line ends, up to the last cell; the cursor stays."""
        start = row * self.columns + column
        count = min(count, self.rows * self.columns - start)
        if count <= 0:
            return
        self.characters[start : start + count] = bytes((code,)) * count
        if attribute is not None:
            self.attributes[start : start + count] = bytes((attribute,)) * count
        if self.painter is not None:
            self.painter.cells_changed(self, row, column, count)
        if count >= self.rows * self.columns - self.columns and self._is_blank():
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
            if self.column == self.columns:
                self.column = 0
                self._line_feed()

    def _line_feed(self) -> None:
        if self.row < self.rows - 1:
            self.row += 1
        else:
            self.scroll(
                0,
                0,
                self.rows - 1,
                self.columns - 1,
                1,
                0 if self.painter is not None else self.attributes[-1],
            )

    def scroll(self, top: int, left: int, bottom: int, right: int, lines: int, attribute: int) -> None:
        """Scroll a window up (lines > 0) or down (< 0); 0 lines blank it. Corners are inclusive."""
        bottom, right = min(bottom, self.rows - 1), min(right, self.columns - 1)
        if top > bottom or left > right:
            return
        height, width = bottom - top + 1, right - left + 1
        if lines == 0 or abs(lines) >= height:
            lines = height
        characters, attributes = self.characters, self.attributes
        rows = range(top, bottom + 1) if lines > 0 else range(bottom, top - 1, -1)
        for row in rows:
            source = row + lines
            at = row * self.columns + left
            if top <= source <= bottom:
                start = source * self.columns + left
                characters[at : at + width] = bytes(characters[start : start + width])
                attributes[at : at + width] = bytes(attributes[start : start + width])
            else:
                characters[at : at + width] = bytes((BLANK,)) * width
                attributes[at : at + width] = bytes((attribute,)) * width
        if self.painter is not None:
            self.painter.scrolled(self, top, left, bottom, right, lines)
        blank = lines == height and self._is_blank()
        for watcher in self.watchers:
            if blank:
                watcher.cleared(self)
            else:
                watcher.scrolled(self, top, left, bottom, right, lines)
