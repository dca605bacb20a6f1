"""Code page 437 as the PC's character generator draws it: a picture for every code, control characters too."""

from __future__ import annotations

_GRAPHIC_CONTROLS = "\0☺☻♥♦♣♠•◘○◙♂♀♪♫☼►◄↕‼¶§▬↨↑↓→←∟↔▲▼"
GLYPHS = (
    " "
    + _GRAPHIC_CONTROLS[1:]
    + bytes(range(0x20, 0x7F)).decode()
    + "⌂"
    + bytes(range(0x80, 0x100)).decode("cp437")
)
"""Unicode character for each code; 0 is a blank."""
