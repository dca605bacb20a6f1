"""The VGA's standard modes: the values of all registers, the palettes, and where pixels are in memory.

Source: IBM PS/2 Hardware Interface Technical Reference, Video Subsystem (1992), "BIOS mode tables" and "Video DAC";
the modes' sizes and pages: PS/2 and PC BIOS Interface Technical Reference (1987), INT 10h. A directly loaded kernel
imports this file too: it stays light.
Left out: 200 and 350 line text (modes 0*, 0, 2*, 2...): text always has 400 lines.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

TEXT, CGA_4, CGA_2, PLANAR, LINEAR = "text", "cga4", "cga2", "planar", "linear"
"""Kinds of memory layout."""


class VgaModeInfo:
    """One standard mode.

    Attributes
    ----------
    kind
        How video memory is used: TEXT, CGA_4 (2 bits a pixel), CGA_2 (1 bit), PLANAR, LINEAR (a byte a pixel).
    columns, rows, cell_height
        Of its text, in characters and scan lines.
    page_size, pages
        Bytes as the CPU sees them from `window` on.
    window
        Physical address of its memory.
    registers
        Miscellaneous Output; Sequencer 1-4; CRTC 0-18h; Attribute Controller 0-14h; Graphics Controller 0-8.
    palette
        Which of `PALETTES` it starts with.
    """

    __slots__ = (
        "cell_height",
        "columns",
        "kind",
        "page_size",
        "pages",
        "palette",
        "registers",
        "rows",
        "window",
    )

    def __init__(
        self,
        kind: str,
        columns: int,
        rows: int,
        cell_height: int,
        page_size: int,
        pages: int,
        window: int,
        palette: str,
        registers: str,
    ) -> None:
        self.kind = kind
        self.columns, self.rows, self.cell_height = columns, rows, cell_height
        self.page_size, self.pages, self.window = page_size, pages, window
        self.palette = palette
        self.registers = bytes.fromhex(registers)
        assert len(self.registers) == 1 + 4 + 25 + 21 + 9

    @property
    def misc(self) -> int:
        return self.registers[0]

    @property
    def sequencer(self) -> bytes:
        return self.registers[1:5]

    @property
    def crtc(self) -> bytes:
        return self.registers[5:30]

    @property
    def attribute(self) -> bytes:
        return self.registers[30:51]

    @property
    def graphics(self) -> bytes:
        return self.registers[51:60]

    @property
    def width(self) -> int:
        """Pixels in a line (graphics; 8 to a column of text)."""
        return self.columns * 8

    @property
    def height(self) -> int:
        """Lines (graphics)."""
        return self.rows * self.cell_height


# Parts that several modes share: CRTC timings and attribute controllers.
_EGA: Final = "000102030405140738393a3b3c3d3e3f"
_CGA: Final = "00010203040506071011121314151617"
_MONO: Final = "00080808080808081018181818181818"
_80_TEXT: Final = "5f4f50825581bf1f004f0d0e00000000"
_40_TEXT: Final = "2d272890 2ba0bf1f004f0d0e00000000"
_640_200: Final = "5f4f50825480bf1f00"
_320_200: Final = "2d2728902b80bf1f00"
_400_LINES: Final = "9c8e8f"
_350: Final = "5f4f50825480bf1f004000000000000083855d280f63bae3ff"
_480: Final = "5f4f508254800b3e0040000000000000ea8cdf2800e704"
_PLANAR_GRAPHICS: Final = "00000000000005 0fff"

_T40: Final = (
    "67 08030002",
    _40_TEXT + _400_LINES + "141f96b9a3ff",
    _EGA + "0c000f0800",
    "00000000001 00e00ff",
)
_T80: Final = (
    "67 00030002",
    _80_TEXT + _400_LINES + "281f96b9a3ff",
    _EGA + "0c000f0800",
    "00000000001 00e00ff",
)


def _join(*parts: str) -> str:
    return "".join(parts).replace(" ", "")


_4 = _join(
    "63 09030002",
    _320_200 + "c1000000000000" + _400_LINES + "140096b9a2ff",
    "00131517020406071011121314151617" + "0100030000",
    "0000000000300f00ff",
)
MODES: Final = {
    0x00: VgaModeInfo(TEXT, 40, 25, 16, 0x800, 8, 0xB8000, "ega", _join(*_T40)),
    0x01: VgaModeInfo(TEXT, 40, 25, 16, 0x800, 8, 0xB8000, "ega", _join(*_T40)),
    0x02: VgaModeInfo(TEXT, 80, 25, 16, 0x1000, 8, 0xB8000, "ega", _join(*_T80)),
    0x03: VgaModeInfo(TEXT, 80, 25, 16, 0x1000, 8, 0xB8000, "ega", _join(*_T80)),
    0x04: VgaModeInfo(CGA_4, 40, 25, 8, 0x4000, 1, 0xB8000, "cga", _4),
    0x05: VgaModeInfo(CGA_4, 40, 25, 8, 0x4000, 1, 0xB8000, "cga", _4),
    0x06: VgaModeInfo(
        CGA_2,
        80,
        25,
        8,
        0x4000,
        1,
        0xB8000,
        "cga",
        _join(
            "63 01010006",
            _640_200 + "c1000000000000" + _400_LINES + "280096b9c2ff",
            "00" + "17" * 15 + "0100010000",
            "0000000000000d00ff",
        ),
    ),
    0x07: VgaModeInfo(
        TEXT,
        80,
        25,
        16,
        0x1000,
        8,
        0xB0000,
        "mono",
        _join(
            "66 00030002",
            _80_TEXT + _400_LINES + "280f96b9a3ff",
            _MONO + "0e000f0800",
            "0000000000100a00ff",
        ),
    ),
    0x0D: VgaModeInfo(
        PLANAR,
        40,
        25,
        8,
        0x2000,
        8,
        0xA0000,
        "cga",
        _join(
            "63 090f0006",
            _320_200 + "c0000000000000" + _400_LINES + "140096b9e3ff",
            _CGA + "01000f0000",
            _PLANAR_GRAPHICS,
        ),
    ),
    0x0E: VgaModeInfo(
        PLANAR,
        80,
        25,
        8,
        0x4000,
        4,
        0xA0000,
        "cga",
        _join(
            "63 010f0006",
            _640_200 + "c0000000000000" + _400_LINES + "280096b9e3ff",
            _CGA + "01000f0000",
            _PLANAR_GRAPHICS,
        ),
    ),
    0x0F: VgaModeInfo(
        PLANAR,
        80,
        25,
        14,
        0x8000,
        2,
        0xA0000,
        "mono",
        _join(
            "a2 010f0006",
            _350,
            "00080000181800000008000000180000" + "0b00050000",
            "00000000000005 05ff",
        ),
    ),
    0x10: VgaModeInfo(
        PLANAR,
        80,
        25,
        14,
        0x8000,
        2,
        0xA0000,
        "ega",
        _join("a3 010f0006", _350, _EGA + "01000f0000", _PLANAR_GRAPHICS),
    ),
    0x11: VgaModeInfo(
        PLANAR,
        80,
        30,
        16,
        0xA000,
        1,
        0xA0000,
        "ega",
        _join(
            "e3 010f0006",
            _480 + "c3ff",
            "00" + "3f" * 15 + "01000f0000",
            "00000000000005 01ff",
        ),
    ),
    0x12: VgaModeInfo(
        PLANAR,
        80,
        30,
        16,
        0xA000,
        1,
        0xA0000,
        "ega",
        _join("e3 010f0006", _480 + "e3ff", _EGA + "01000f0000", _PLANAR_GRAPHICS),
    ),
    0x13: VgaModeInfo(
        LINEAR,
        40,
        25,
        8,
        0x10000,
        1,
        0xA0000,
        "vga",
        _join(
            "63 010f000e",
            _640_200 + "41000000000000" + _400_LINES + "284096b9a3ff",
            "000102030405060708090a0b0c0d0e0f" + "41000f0000",
            "0000000000400 50fff",
        ),
    ),
}


def _ega() -> bytes:
    """Bits 0-2 of the index are blue, green, red at two thirds; bits 3-5 at one third."""
    return bytes(
        0x2A * (index >> bit & 1) + 0x15 * (index >> (bit + 3) & 1)
        for index in range(64)
        for bit in (2, 1, 0)
    )


def _cga() -> bytes:
    """Sixteen colours, dark yellow being brown; intensity is bit 4 of the index."""
    table = bytearray()
    for index in range(64):
        bright = 0x15 * (index >> 4 & 1)
        red, green, blue = (0x2A * (index >> bit & 1) + bright for bit in (2, 1, 0))
        table += bytes((red, green - 0x15 if index & 0x17 == 6 else green, blue))
    return bytes(table)


def _mono() -> bytes:
    return bytes(level for index in range(64) for level in ((0x00, 0x2A, 0x00, 0x3F)[index >> 3 & 3],) * 3)


_GREYS: Final = bytes.fromhex("0005080b0e1114181c2024282d32383f")
_HUES: Final = (
    (0x00, 0x10, 0x1F, 0x2F, 0x3F),
    (0x1F, 0x27, 0x2F, 0x37, 0x3F),
    (0x2D, 0x31, 0x36, 0x3A, 0x3F),
    (0x00, 0x07, 0x0E, 0x15, 0x1C),
    (0x0E, 0x11, 0x15, 0x18, 0x1C),
    (0x14, 0x16, 0x18, 0x1A, 0x1C),
    (0x00, 0x04, 0x08, 0x0C, 0x10),
    (0x08, 0x0A, 0x0C, 0x0E, 0x10),
    (0x0B, 0x0C, 0x0D, 0x0F, 0x10),
)
"""The levels of each wheel of 24 hues: three brightnesses, each with three saturations."""


def _vga() -> bytes:
    """16 colours of the CGA's, 16 greys, nine wheels of 24 hues from blue over red and green, 8 black."""
    cga = _cga()
    table = bytearray(cga[: 8 * 3] + cga[16 * 3 : 24 * 3])
    for grey in _GREYS:
        table += bytes((grey,) * 3)
    ramp = (*range(5), *(4,) * 8, *range(3, -1, -1), *(0,) * 7)  # one channel's level, around the wheel
    for levels in _HUES:
        for hue in range(24):
            red, green, blue = ramp[hue], ramp[hue - 8], ramp[(hue + 8) % 24]
            table += bytes((levels[red], levels[green], levels[blue]))
    return bytes(table.ljust(768, b"\0"))


PALETTES: Final = {"ega": _ega, "cga": _cga, "mono": _mono, "vga": _vga}
"""Makers of what is loaded into the DAC: 64 or 256 times red, green, blue, 6 bits each."""
