"""What a guest shows: text and pictures of any display device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from pyvmm.display.codepage import GLYPHS
from pyvmm.display.picture import Picture

if TYPE_CHECKING:
    from collections.abc import Callable


class Mode(Protocol):
    """What a display device shows now; sizes in pixels unless they say cells."""

    @property
    def kind(self) -> str:
        """``"blank"``, ``"text"`` or ``"graphics"``."""
        ...

    @property
    def width(self) -> int: ...
    @property
    def height(self) -> int: ...
    @property
    def columns(self) -> int: ...
    @property
    def rows(self) -> int: ...


class Display(Protocol):
    """A device with a picture. Each call may find another mode than the one before; None says that it changed."""

    def mode(self) -> Mode: ...
    def render(self, width: int, height: int, blink: bool = True) -> bytes | None: ...
    def cells(self, columns: int, rows: int) -> memoryview | None: ...


BLANK_SIZE = (640, 480)
"""Size of the black picture while the guest shows nothing."""


class Screen:
    """The machine's screen.

    >>> machine.screen.text()                # doctest: +SKIP
    'SeaBIOS (version 1.16.2) ...'
    >>> machine.screen.picture().save("screen.png")     # doctest: +SKIP
    """

    def __init__(self, display: Display) -> None:
        self.display = display

    @property
    def mode(self) -> Mode:
        """Kind and size of what is shown now."""
        return self.display.mode()

    def text(self) -> str:
        """The characters of a text mode, one line a row, trailing blanks cut off; empty in other modes."""
        for _ in range(8):
            mode = self.display.mode()
            if mode.kind != "text":
                return ""
            cells = self.display.cells(mode.columns, mode.rows)
            if cells is not None:
                codes = bytes(cells[::2])
                lines = (codes[row * mode.columns : (row + 1) * mode.columns] for row in range(mode.rows))
                return "\n".join("".join(GLYPHS[code] for code in line).rstrip() for line in lines).rstrip(
                    "\n"
                )
        return ""

    def attributes(self) -> bytes:
        """The attribute byte of each cell of a text mode (bits 0-3 foreground, 4-6 background, 7 blink), by rows."""
        for _ in range(8):
            mode = self.display.mode()
            cells = self.display.cells(mode.columns, mode.rows) if mode.kind == "text" else None
            if mode.kind != "text" or cells is not None:
                return bytes(cells[1::2]) if cells is not None else b""
        return b""

    def picture(self, blink: bool = True) -> Picture:
        """What is shown, as pixels; black while the guest shows nothing.

        Parameters
        ----------
        blink
            Whether the cursor and blinking characters are in the phase in which they are seen.
        """
        for _ in range(8):
            mode = self.display.mode()
            size = (mode.width, mode.height) if mode.kind != "blank" else BLANK_SIZE
            pixels = self.display.render(*size, blink)
            if pixels is not None:
                return Picture(*size, pixels)
        return Picture(*BLANK_SIZE, bytes(4 * BLANK_SIZE[0] * BLANK_SIZE[1]))

    def wait_for(self, text: str, run: Callable[[Callable[[], bool], float], bool], timeout: float) -> bool:
        """Run the machine by ``run(done, timeout)`` until `text` is on the screen; False after `timeout` seconds."""
        return run(lambda: text in self.text(), timeout)

    def __str__(self) -> str:
        return self.text()

    def _repr_png_(self) -> bytes:
        return self.picture().png()
