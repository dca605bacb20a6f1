"""What a VGA's ROM at C000:0 has for others: a header, fonts, and the tables that INT 10h's answers point to.

Sources: PnP BIOS 1.0A §3.2 (option ROM header); RBIL, INT 10/AH=11h and 1Bh; VBE 3.0, "VbeInfoBlock". There is no code
but a return: the services are the BIOS's.
"""

from __future__ import annotations

from typing import Final

from pyvmm.firmware.vga import FONT_HEIGHTS, font

ROM_SEGMENT: Final = 0xC000
ROM_SIZE: Final = 16 << 10
STATIC_TABLE: Final = 0x10
"""Offset of what is always possible (RBIL, "static functionality table"): modes, 400 lines, 2 of 8 fonts at once."""
OEM_STRING: Final = 0x20
MODE_LIST: Final = 0x40
_FONTS: Final = 0x100
FONT_OFFSETS: Final = {
    height: _FONTS + 256 * sum(other for other in FONT_HEIGHTS if other < height) for height in FONT_HEIGHTS
}
OEM_NAME: Final = b"pyvmm VGA BIOS\0"


def build(vbe_modes: list[int]) -> bytes:
    """The ROM, with a right checksum."""
    rom = bytearray(ROM_SIZE)
    rom[0:4] = b"\x55\xaa" + bytes((ROM_SIZE // 512, 0xCB))  # entry: RETF
    static = bytes((0xFF, 0xE0, 0x0F, 0, 0, 0, 0, 0x04, 2, 8, 0xE0, 0x0C, 0, 0, 0, 0))
    rom[STATIC_TABLE : STATIC_TABLE + 16] = static
    rom[OEM_STRING : OEM_STRING + len(OEM_NAME)] = OEM_NAME
    modes = b"".join(mode.to_bytes(2, "little") for mode in [*vbe_modes, 0xFFFF])
    assert MODE_LIST + len(modes) <= _FONTS
    rom[MODE_LIST : MODE_LIST + len(modes)] = modes
    for height, offset in FONT_OFFSETS.items():
        rom[offset : offset + 256 * height] = font(height)
    rom[-1] = -sum(rom) & 0xFF
    return bytes(rom)
