"""Pixels of the graphics modes, for INT 10h: a dot, a character's glyph, a scrolled window.

Source: IBM PS/2 Hardware Interface Technical Reference, Video Subsystem (1992), "Display memory organization"; VBE 3.0,
"ModeInfoBlock", for linear modes. In every layout eight pixels that begin at a multiple of eight are one run of bytes
in video memory (`span`), so that all else works on runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pyvmm.firmware.vga_modes import CGA_2, CGA_4, LINEAR, PALETTES

if TYPE_CHECKING:
    from pyvmm.firmware.vga import VideoMemory

_SPANS: Final = {CGA_2: 4, CGA_4: 8, LINEAR: 32}


class Pixels:
    """One page of a standard graphics mode, or a VBE mode.

    Parameters
    ----------
    kind
        The layout (`vga_modes`); with `bits` 8 to 32, a VBE mode instead.
    pitch
        Bytes from line to line, as the CPU sees them.
    start
        Offset of the page, likewise.
    bits
        Bits of a pixel: 1, 2, 4, 8, 15, 16, 24 or 32.
    """

    def __init__(
        self, display: VideoMemory, kind: str, width: int, height: int, pitch: int, bits: int, start: int = 0
    ) -> None:
        self.display = display
        self.kind = kind
        self.width, self.height, self.pitch, self.bits, self.start = width, height, pitch, bits, start
        self.is_vbe = kind == "vbe"
        self.bytes = (bits + 7) // 8
        self.span = 8 * self.bytes if self.is_vbe else _SPANS.get(kind, 4)

    def _line(self, y: int) -> int:
        """Where a line begins in video memory."""
        if self.is_vbe:
            return self.start + y * self.pitch
        if self.kind in (CGA_2, CGA_4):
            return 4 * (self.start + (y & 1) * 0x2000 + (y >> 1) * self.pitch)
        return 4 * (self.start + y * self.pitch)

    def _run(self, x: int, y: int, runs: int = 1) -> slice:
        at = self._line(y) + x // 8 * self.span
        return slice(at, at + runs * self.span)

    def _inside(self, x: int, y: int) -> bool:
        return 0 <= x < self.width and 0 <= y < self.height

    # Eight pixels ----------------------------------------------------------------------------------------------------
    def encode(self, colours: list[int]) -> bytes:
        """The run of eight pixels; bytes that the layout does not use are 0."""
        if self.is_vbe:
            return b"".join(self.colour(colour).to_bytes(self.bytes, "little") for colour in colours)
        if self.kind == LINEAR:
            return bytes(colours[:4]) + bytes(12) + bytes(colours[4:]) + bytes(12)
        if self.kind == CGA_4:
            halves = colours[:4], colours[4:]
            return bytes(sum(c << 6 - 2 * i for i, c in enumerate(half)) for half in halves) + bytes(6)
        planes = range(1 if self.kind == CGA_2 else 4)
        if self.bits == 1:  # one colour in whatever planes are shown
            colours = [15 * (colour & 1) for colour in colours]
        return bytes(sum((c >> plane & 1) << 7 - i for i, c in enumerate(colours)) for plane in planes).ljust(
            4, b"\0"
        )

    def decode(self, run: memoryview) -> list[int]:
        """The colours of eight pixels."""
        if self.is_vbe:
            size = self.bytes
            return [int.from_bytes(run[i * size : (i + 1) * size], "little") for i in range(8)]
        if self.kind == LINEAR:
            return [*run[:4], *run[16:20]]
        if self.kind == CGA_4:
            return [run[i // 4] >> 6 - i % 4 * 2 & 3 for i in range(8)]
        planes = range(4 if self.bits == 4 else 1)
        return [sum((run[plane] >> 7 - i & 1) << plane for plane in planes) for i in range(8)]

    def colour(self, index: int) -> int:
        """The pixel value of one of sixteen colours (the value itself up to 8 bits a pixel)."""
        if self.bits <= 8:
            return index & 0xFF
        ega = PALETTES["cga"]()
        index = (index & 7) + (index & 8) * 2
        red, green, blue = (level * 255 // 63 for level in ega[3 * index : 3 * index + 3])
        if self.bits == 15:
            return (red >> 3) << 10 | (green >> 3) << 5 | blue >> 3
        if self.bits == 16:
            return (red >> 3) << 11 | (green >> 2) << 5 | blue >> 3
        return red << 16 | green << 8 | blue

    @property
    def mask(self) -> int:
        """All bits of a colour that INT 10h may name."""
        return (1 << self.bits) - 1 if self.bits <= 8 else 15

    # What INT 10h asks for -------------------------------------------------------------------------------------------
    def get(self, x: int, y: int) -> int:
        """One pixel; 0 outside of the page."""
        if not self._inside(x, y):
            return 0
        return self.decode(self.display.memory[self._run(x, y)])[x % 8]

    def set(self, x: int, y: int, colour: int) -> None:
        """One pixel; with bit 7 (not with 256 colours) it is combined by XOR. Nothing outside of the page."""
        if not self._inside(x, y) or self.bits > 8:
            return
        memory, where = self.display.memory, self._run(x, y)
        colours = self.decode(memory[where])
        if colour & 0x80 and self.bits < 8:
            colour ^= colours[x % 8]
        colours[x % 8] = colour & self.mask
        memory[where] = self.encode(colours)

    def draw_glyph(self, x: int, y: int, glyph: bytes, colour: int, background: int = 0) -> None:
        """A character at a multiple of eight, bit 7 of `colour` as in `set`."""
        memory = self.display.memory
        combine = bool(colour & 0x80) and self.bits < 8
        fore, back = colour & self.mask, 0 if combine else background & self.mask
        for dy, dots in enumerate(glyph):
            if not self._inside(x, y + dy):
                break
            where = self._run(x, y + dy)
            colours = [fore if dots >> 7 - i & 1 else back for i in range(8)]
            if combine:
                old = self.decode(memory[where])
                colours = [a ^ b for a, b in zip(colours, old, strict=True)]
            memory[where] = self.encode(colours)

    def read_dots(self, x: int, y: int, height: int) -> bytes:
        """Which pixels of a cell are not of colour 0."""
        memory = self.display.memory
        rows = (self.decode(memory[self._run(x, min(y + dy, self.height - 1))]) for dy in range(height))
        return bytes(sum(bool(colour) << 7 - i for i, colour in enumerate(row)) for row in rows)

    def scroll(self, x: int, y: int, width: int, height: int, lines: int, colour: int) -> None:
        """Move a window (multiples of eight across) up by `lines` (> 0) or down, filling with a colour."""
        memory = self.display.memory
        runs = width // 8
        height = min(height, self.height - y)
        blank = self.encode([colour & self.mask] * 8) * runs
        order = range(y, y + height) if lines > 0 else range(y + height - 1, y - 1, -1)
        for line in order:
            source = line + lines
            inside = lines and y <= source < y + height
            memory[self._run(x, line, runs)] = bytes(memory[self._run(x, source, runs)]) if inside else blank
