"""The VGA as firmware drives it: mode setting, cursor, palette and fonts, by ports and video memory.

Sources: IBM PS/2 Hardware Interface Technical Reference, Video Subsystem (1992), for registers; the Bochs project's
"VBE Display Interface" for ports 1CEh and 1CFh. Registers are written through ports, as a ROM would; what goes to
video memory in bulk (fonts, blank pages) is stored at once where the planes keep it: byte 4 * offset + plane
(csrc/devices/vga.h). A directly loaded kernel gets its text mode here too: this file imports little.
"""

from __future__ import annotations

from pyvmm.firmware.vga_modes import MODES, PALETTES, TEXT, VgaModeInfo
from pyvmm.machine import layout

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final, Protocol

    class VgaPorts(Protocol):
        """The port address space, with REP OUTS."""

        def read(self, port: int, size: int) -> int: ...
        def write(self, port: int, size: int, value: int) -> None: ...
        def write_string(self, port: int, size: int, data: bytes) -> None: ...

    class VideoMemory(Protocol):
        """Who has the planes (`pyvmm.devices.vga.Vga`)."""

        @property
        def memory(self) -> memoryview: ...


ATTRIBUTE: Final = 0x3C0
ATTRIBUTE_READ: Final = 0x3C1
MISC_WRITE: Final = 0x3C2
MISC_READ: Final = 0x3CC
SEQUENCER: Final = 0x3C4
DAC_MASK: Final = 0x3C6
DAC_READ_INDEX: Final = 0x3C7
DAC_WRITE_INDEX: Final = 0x3C8
DAC_DATA: Final = 0x3C9
GRAPHICS: Final = 0x3CE
CRTC_COLOUR: Final = 0x3D4
CRTC_MONO: Final = 0x3B4
MISC_IS_COLOUR: Final = 0x01
SCREEN_ON: Final = 0x20
"""Attribute Address, bit 5: the palette belongs to the display."""
FONT_HEIGHTS: Final = (8, 14, 16)
_TEXT_OFFSETS: Final = 0x8000
"""Offsets of the planes that text modes use: 32 KiB of characters and attributes, and four fonts of 8 KiB."""


def font(height: int) -> bytes:
    """The 256 glyphs of 8 x `height` dots (8, 14 or 16), code page 437."""
    with open(f"{__file__[: -len('firmware/vga.py')]}display/font8x{height}.bin", "rb") as file:
        return file.read()


def indexed(values: bytes, first: int = 0) -> bytes:
    """Registers with their indices, for words to an index port."""
    words = bytearray(2 * len(values))
    words[0::2], words[1::2] = range(first, first + len(values)), values
    return bytes(words)


class VgaAdapter:
    """Registers of one VGA, and its memory."""

    def __init__(self, pio: VgaPorts, display: VideoMemory) -> None:
        self.pio = pio
        self.display = display

    @property
    def memory(self) -> memoryview:
        return self.display.memory

    @property
    def crtc(self) -> int:
        """The CRTC's index port: 3D4h, or 3B4h in monochrome modes."""
        return CRTC_COLOUR if self.pio.read(MISC_READ, 1) & MISC_IS_COLOUR else CRTC_MONO

    def dispi(self, index: int, value: int) -> None:
        """One DISPI register."""
        self.pio.write(layout.VGA_DISPI, 2, index)
        self.pio.write(layout.VGA_DISPI + 1, 2, value)

    def read_dispi(self, index: int) -> int:
        self.pio.write(layout.VGA_DISPI, 2, index)
        return self.pio.read(layout.VGA_DISPI + 1, 2)

    # Modes -----------------------------------------------------------------------------------------------------------
    def set_mode(self, mode: VgaModeInfo, *, clear: bool = True, palette: bool = True) -> None:
        """All registers of a standard mode; the screen is on when this returns."""
        pio = self.pio
        self.dispi(4, 0)
        pio.write(MISC_WRITE, 1, mode.misc)
        pio.write_string(SEQUENCER, 2, b"\0\1" + indexed(mode.sequencer, 1) + b"\0\3")
        crtc = CRTC_COLOUR if mode.misc & MISC_IS_COLOUR else CRTC_MONO
        pio.write_string(crtc, 2, b"\x11\0" + indexed(mode.crtc))  # 11h first: it may protect the others
        pio.write_string(GRAPHICS, 2, indexed(mode.graphics))
        pio.write(DAC_MASK, 1, 0xFF)
        if palette:
            self.write_dac(0, PALETTES[mode.palette]())
        if mode.kind == TEXT:
            self._fill_text(mode, clear)
        elif clear:
            self.clear_graphics()
        self._start_attribute()
        pio.write_string(ATTRIBUTE, 1, indexed(mode.attribute) + bytes((SCREEN_ON,)))

    def _fill_text(self, mode: VgaModeInfo, clear: bool) -> None:
        """Fonts in plane 2, and blank characters."""
        image = bytearray(4 * 0x2000)  # offsets 0 to 1FFFh: the first font, and a fourth of the characters
        glyphs = font(mode.cell_height)
        for row in range(mode.cell_height):
            image[2 + 4 * row :: 4 * 32] = glyphs[row :: mode.cell_height]
        memory = self.memory
        if clear:
            image[0::8] = b" " * (len(image) // 8)
            image[1::8] = b"\7" * (len(image) // 8)
            memory[0 : len(image)] = bytes(image)
            image[2::4] = bytes(0x2000)
            for at in range(len(image), 4 * _TEXT_OFFSETS, len(image)):
                memory[at : at + len(image)] = bytes(image)
        else:
            memory[2 : len(image) : 4] = bytes(image[2::4])

    def clear_graphics(self) -> None:
        """Zero what standard modes show: 64 Ki offsets of four planes."""
        self.memory[0 : 4 << 16] = bytes(4 << 16)

    def load_font(self, glyphs: bytes, height: int, first: int = 0, block: int = 0) -> None:
        """Glyphs of `height` bytes into one of the eight fonts of plane 2 (Sequencer, Character Map Select)."""
        base = (block & 3) * 0x4000 + (block >> 2 & 1) * 0x2000
        memory = self.memory
        for index in range(min(len(glyphs) // height, 256 - first)):
            at = 4 * (base + (first + index) * 32) + 2
            memory[at : at + 4 * height : 4] = glyphs[index * height : (index + 1) * height]

    # Registers -------------------------------------------------------------------------------------------------------
    def read_crtc(self, index: int) -> int:
        port = self.crtc
        self.pio.write(port, 1, index)
        return self.pio.read(port + 1, 1)

    def write_crtc(self, index: int, *values: int) -> None:
        self.pio.write_string(self.crtc, 2, indexed(bytes(values), index))

    def read_sequencer(self, index: int) -> int:
        self.pio.write(SEQUENCER, 1, index)
        return self.pio.read(SEQUENCER + 1, 1)

    def write_sequencer(self, index: int, value: int) -> None:
        self.pio.write(SEQUENCER, 2, value << 8 | index)

    def _start_attribute(self) -> None:
        """The next write to 3C0h is an index."""
        self.pio.read(self.crtc + 6, 1)

    def read_attribute(self, index: int) -> int:
        self._start_attribute()
        self.pio.write(ATTRIBUTE, 1, index)
        value = self.pio.read(ATTRIBUTE_READ, 1)
        self.show(True)
        return value

    def write_attribute(self, first: int, values: bytes) -> None:
        """Attribute Controller registers from `first` on; the screen is on afterwards."""
        self._start_attribute()
        self.pio.write_string(ATTRIBUTE, 1, indexed(values, first) + bytes((SCREEN_ON,)))

    def show(self, on: bool) -> None:
        """Give the palette to the display, or take it."""
        self._start_attribute()
        self.pio.write(ATTRIBUTE, 1, SCREEN_ON if on else 0)

    def write_dac(self, first: int, colours: bytes) -> None:
        """Red, green, blue (6 bits each; 8 in 8-bit DISPI mode) of entries from `first` on."""
        self.pio.write(DAC_WRITE_INDEX, 1, first & 0xFF)
        self.pio.write_string(DAC_DATA, 1, colours)

    def read_dac(self, first: int, count: int) -> bytes:
        self.pio.write(DAC_READ_INDEX, 1, first & 0xFF)
        return bytes(self.pio.read(DAC_DATA, 1) for _ in range(3 * count))

    def set_start(self, address: int) -> None:
        """The first address that is shown, in the address counter's units."""
        self.write_crtc(0x0C, address >> 8 & 0xFF, address & 0xFF)

    def set_cursor(self, address: int) -> None:
        """The text cursor's address, likewise."""
        self.write_crtc(0x0E, address >> 8 & 0xFF, address & 0xFF)

    def set_cursor_shape(self, start: int, end: int) -> None:
        self.write_crtc(0x0A, start, end)


def start_text_mode(pio: VgaPorts, display: VideoMemory) -> None:
    """80 x 25 characters, as firmware leaves the VGA to an operating system."""
    VgaAdapter(pio, display).set_mode(MODES[3])
