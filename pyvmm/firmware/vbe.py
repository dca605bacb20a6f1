"""INT 10h/AH=4Fh: VESA BIOS extensions, on the VGA's DISPI registers.

Source: VESA BIOS Extension (VBE) Core Functions Standard 3.0; mode numbers 100h to 11Bh are VESA's, those from 140h on
our own, as the standard leaves them to the firmware. Modes have 8 to 32 bits a pixel, a window of 64 KiB at A0000 and a
linear frame buffer.
Left out: saving the state (4F04h), the protected mode interface (4F0Ah), display data channel (4F15h), 16-colour
modes, triple buffering and stereo (4F07h, BL=02h to 06h): their callers are told that they are not there.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from pyvmm.firmware.frame import Frame, linear
from pyvmm.firmware.group import ServiceGroup, function
from pyvmm.firmware.pci_setup import BAR0, VENDOR, ConfigSpace
from pyvmm.firmware.pixels import Pixels
from pyvmm.firmware.vga import VgaAdapter
from pyvmm.firmware.vga_modes import MODES, PALETTES
from pyvmm.firmware.video_rom import MODE_LIST, OEM_STRING, ROM_SEGMENT

if TYPE_CHECKING:
    from pyvmm.firmware.platform import Platform
    from pyvmm.firmware.vga import VgaPorts, VideoMemory
    from pyvmm.firmware.video import Video

_PCI_ID: Final = 0x11111234
_OK, _FAILED, _NOT_IN_THIS_MODE = 0x00, 0x01, 0x03
_LINEAR, _KEEP_MEMORY = 0x4000, 0x8000
# DISPI registers and the bits of ENABLE (the Bochs project's "VBE Display Interface")
_XRES, _YRES, _BPP, _ENABLE, _BANK, _VIRT_WIDTH, _VIRT_HEIGHT, _X_OFFSET, _Y_OFFSET, _MEMORY_64K = range(
    1, 11
)
_ENABLED, _8_BIT_DAC, _LFB, _NO_CLEAR = 0x01, 0x20, 0x40, 0x80
_ATTRIBUTES: Final = 0x9F
"""Supported, extended information, text output by the BIOS, colour, graphics, linear frame buffer."""
_FIELDS: Final = {
    15: (5, 10, 5, 5, 5, 0, 1, 15),
    16: (5, 11, 6, 5, 5, 0, 0, 0),
    24: (8, 16, 8, 8, 8, 0, 0, 0),
    32: (8, 16, 8, 8, 8, 0, 8, 24),
}
"""Size and position of red, green, blue, and what is left."""
_PIXEL_CLOCK: Final = 230_000_000
"""Hz, the highest that is claimed; nothing depends on it."""


class VbeMode(NamedTuple):
    width: int
    height: int
    bits: int

    @property
    def pixel_bytes(self) -> int:
        return (self.bits + 7) // 8

    @property
    def pitch(self) -> int:
        return self.width * self.pixel_bytes


def _modes() -> dict[int, VbeMode]:
    sizes = {0x101: (640, 480), 0x103: (800, 600), 0x105: (1024, 768), 0x107: (1280, 1024)}
    modes = {0x100: VbeMode(640, 400, 8)}
    modes |= {number: VbeMode(*size, 8) for number, size in sizes.items()}
    number = 0x10D
    for size in ((320, 200), *sizes.values()):
        for bits in (15, 16, 24):
            modes[number] = VbeMode(*size, bits)
            number += 1
    number = 0x140
    for size in ((320, 200), (640, 400), *sizes.values()):
        modes[number] = VbeMode(*size, 32)
        number += 1
    number = 0x150
    for size in (
        (1280, 720),
        (1280, 800),
        (1440, 900),
        (1600, 1200),
        (1680, 1050),
        (1920, 1080),
        (1920, 1200),
    ):
        for bits in (16, 24, 32):
            modes[number] = VbeMode(*size, bits)
            number += 1
    return modes


VBE_MODES: Final = _modes()


def _enter(adapter: VgaAdapter, mode: VbeMode, flags: int) -> None:
    for index, value in ((_ENABLE, 0), (_XRES, mode.width), (_YRES, mode.height), (_BPP, mode.bits)):
        adapter.dispi(index, value)
    adapter.dispi(_ENABLE, _ENABLED | flags)
    adapter.write_dac(0, PALETTES["vga"]())
    adapter.show(True)


def _frame_buffer(config: ConfigSpace) -> int:
    for at in config.functions():
        if config.read(at, VENDOR, 4) == _PCI_ID:
            return config.read(at, BAR0, 4) & ~0xF
    return 0


def start_mode(
    pio: VgaPorts, display: VideoMemory, number: int
) -> tuple[int, int, int, int, tuple[int, ...], int, int] | None:
    """Set a mode as 4F02h with a linear frame buffer does; None when there is no such mode.

    Returns
    -------
    tuple
        Width, height, bits a pixel, pitch in bytes; size and position of red, green, blue and the rest; address of
        the frame buffer; video memory in units of 64 KiB.
    """
    mode, adapter = VBE_MODES.get(number), VgaAdapter(pio, display)
    memory_64k = adapter.read_dispi(_MEMORY_64K)
    if mode is None or mode.pitch * mode.height > memory_64k << 16:
        return None
    _enter(adapter, mode, _LFB)
    fields = _FIELDS.get(mode.bits, (6, 0, 6, 0, 6, 0, 0, 0))
    base = _frame_buffer(ConfigSpace(pio))
    return mode.width, mode.height, mode.bits, mode.pitch, fields, base, memory_64k


class Vbe(ServiceGroup):
    """What VBE knows beyond the registers: which mode it set."""

    def __init__(self, platform: Platform, adapter: VgaAdapter, video: Video) -> None:
        super().__init__(platform)
        self.adapter = adapter
        self.video = video
        self.number = 0
        self._config = ConfigSpace(platform.pio)

    @property
    def mode(self) -> VbeMode | None:
        """The mode that VBE set, while it is on."""
        on = self.adapter.read_dispi(_ENABLE) & _ENABLED
        return VBE_MODES.get(self.number & 0x1FF) if on else None

    def unsupported(self, interrupt: int, frame: Frame) -> None:
        """AL is not 4Fh: the function is not there (VBE 3.0 §4.1)."""
        self.platform.log_once(f"BIOS: VBE function AX={frame.ax:04X}h is not supported")

    def call(self, interrupt: int, frame: Frame) -> None:
        """AX is 004Fh afterwards, or 01, 02, 03 in AH by `_fail`."""
        if (interrupt, frame.ax) in self.functions:
            name = self.functions[interrupt, frame.ax][0]
            frame.ax = 0x004F
            getattr(self, name)(frame)
        else:
            self.unsupported(interrupt, frame)

    def frame_buffer(self) -> int:
        """Physical address of the linear frame buffer: BAR 0; 0 while it has none."""
        return _frame_buffer(self._config)

    @property
    def _memory_64k(self) -> int:
        return self.adapter.read_dispi(_MEMORY_64K)

    @function(0x10, 0x4F00, source="VBE 3.0 §4.3, 4F00h")
    def controller_information(self, frame: Frame) -> None:
        """VbeInfoBlock at ES:DI: 512 bytes for callers that write "VBE2" there, 256 for others."""
        memory, at = self.platform.memory, linear(frame.es, frame.di)
        size = 512 if memory.read(at, 4) == b"VBE2" else 256
        oem = ROM_SEGMENT << 16 | OEM_STRING
        block = struct.pack(
            "<4sHIIIHHIII",
            b"VESA",
            0x0300,
            oem,
            0x00000001,  # the DAC can be 8 bits wide
            ROM_SEGMENT << 16 | MODE_LIST,
            self._memory_64k,
            0x0001,
            oem,
            oem,
            oem,
        )
        memory.write(at, block.ljust(size, b"\0"))

    @function(0x10, 0x4F01, source="VBE 3.0 §4.4, 4F01h")
    def mode_information(self, frame: Frame) -> None:
        """ModeInfoBlock of mode CX at ES:DI, 256 bytes."""
        mode = VBE_MODES.get(frame.cx & 0x3FFF)
        if mode is None:
            frame.ah = _FAILED
            return
        fields = _FIELDS.get(mode.bits, (0,) * 8)
        pages = max((self._memory_64k << 16) // (mode.pitch * mode.height), 1) - 1
        block = struct.pack(
            "<HBBHHHHIHHHBBBBBBBBB8BBIIHHBB8BI",
            _ATTRIBUTES,
            0x07,  # window A: relocatable, readable, writable
            0,
            64,
            64,
            0xA000,
            0,
            0,  # no far call for banks: 4F05h does it
            mode.pitch,
            mode.width,
            mode.height,
            8,
            16,
            1,
            mode.bits,
            1,
            6 if mode.bits > 8 else 4,
            0,
            min(pages, 255),
            1,
            *fields,
            0x02 if fields[6] else 0,
            self.frame_buffer(),
            0,
            0,
            mode.pitch,
            min(pages, 255),
            min(pages, 255),
            *fields,
            _PIXEL_CLOCK,
        )
        self.platform.memory.write(linear(frame.es, frame.di), block.ljust(256, b"\0"))

    @function(0x10, 0x4F02, source="VBE 3.0 §4.5, 4F02h")
    def set_mode(self, frame: Frame) -> None:
        """Mode BX; bit 14 linear, bit 15 keep memory. Below 100h it is INT 10h/AH=00h's."""
        number, keep = frame.bx & 0x1FF, bool(frame.bx & _KEEP_MEMORY)
        if number in MODES:
            self.number = number
            self.video.enter(number, clear=not keep)
            return
        mode = VBE_MODES.get(number)
        if mode is None or frame.bx & 0x3600 or mode.pitch * mode.height > self._memory_64k << 16:
            frame.ah = _FAILED
            return
        adapter = self.adapter
        _enter(adapter, mode, (_LFB if frame.bx & _LINEAR else 0) | (_NO_CLEAR if keep else 0))
        self.number = frame.bx & (_LINEAR | 0x1FF)
        pixels = Pixels(adapter.display, "vbe", mode.width, mode.height, mode.pitch, mode.bits)
        self.video.enter_vbe(number, pixels)

    @function(0x10, 0x4F03, source="VBE 3.0 §4.6, 4F03h")
    def current_mode(self, frame: Frame) -> None:
        frame.bx = self.number if self.mode is not None else self.video.mode

    @function(0x10, 0x4F05, source="VBE 3.0 §4.8, 4F05h")
    def window(self, frame: Frame) -> None:
        """Window A (BL=0): BH=0 put it at DX times 64 KiB, BH=1 where it is. Not in a linear mode, which has none."""
        if self.mode is None or self.number & _LINEAR:
            frame.ah = _NOT_IN_THIS_MODE
        elif frame.bl != 0 or frame.bh > 1:
            frame.ah = _FAILED
        elif frame.bh == 1:
            frame.dx = self.adapter.read_dispi(_BANK)
        elif frame.dx >= self._memory_64k:
            frame.ah = _FAILED
        else:
            self.adapter.dispi(_BANK, frame.dx)

    @function(0x10, 0x4F06, source="VBE 3.0 §4.9, 4F06h")
    def line_length(self, frame: Frame) -> None:
        """BL=0 set it in pixels, 1 get it, 2 set it in bytes, 3 the longest."""
        mode, function_, wanted = self.mode, frame.bl, frame.cx
        if mode is None or function_ > 3:
            frame.ah = _NOT_IN_THIS_MODE if mode is None else _FAILED
            return
        memory = self._memory_64k << 16
        longest = min(memory // mode.height // mode.pixel_bytes, 0x7FF8) & ~7
        if function_ in (0, 2):
            pixels = wanted if function_ == 0 else -(-wanted // mode.pixel_bytes)
            if not mode.width <= pixels <= longest:
                frame.ah = 0x02
                return
            self.adapter.dispi(_VIRT_WIDTH, pixels)
        width = longest if function_ == 3 else self.adapter.read_dispi(_VIRT_WIDTH)
        pitch = width * mode.pixel_bytes
        frame.bx, frame.cx, frame.dx = pitch, width, min(memory // pitch, 0xFFFF)
        if function_ != 3 and self.video.pixels is not None:
            self.video.pixels.pitch = pitch

    @function(0x10, 0x4F07, source="VBE 3.0 §4.10, 4F07h")
    def display_start(self, frame: Frame) -> None:
        """BL=0 or 80h: pixel CX of line DX is the first one shown; 1: which one is."""
        mode, adapter = self.mode, self.adapter
        if mode is None:
            frame.ah = _NOT_IN_THIS_MODE
        elif frame.bl == 1:
            frame.bh = 0
            frame.cx, frame.dx = adapter.read_dispi(_X_OFFSET), adapter.read_dispi(_Y_OFFSET)
        elif (
            frame.bl & 0x7F
            or frame.cx + mode.width > adapter.read_dispi(_VIRT_WIDTH)
            or frame.dx + mode.height > adapter.read_dispi(_VIRT_HEIGHT)
        ):
            frame.ah = _FAILED
        else:
            adapter.dispi(_X_OFFSET, frame.cx)
            adapter.dispi(_Y_OFFSET, frame.dx)

    @function(0x10, 0x4F08, source="VBE 3.0 §4.11, 4F08h")
    def dac_width(self, frame: Frame) -> None:
        """BL=0: BH bits for each colour, 6 or (from 8 on) 8; BL=1: how many there are."""
        mode, adapter = self.mode, self.adapter
        if mode is None or mode.bits != 8 or frame.bl > 1:
            frame.ah = _NOT_IN_THIS_MODE if frame.bl <= 1 else _FAILED
            return
        if frame.bl == 0:
            enable = adapter.read_dispi(_ENABLE)
            wide = _8_BIT_DAC if frame.bh >= 8 else 0
            adapter.dispi(_ENABLE, enable & ~_8_BIT_DAC | wide | _NO_CLEAR)
        frame.bh = 8 if adapter.read_dispi(_ENABLE) & _8_BIT_DAC else 6

    @function(0x10, 0x4F09, source="VBE 3.0 §4.12, 4F09h")
    def palette(self, frame: Frame) -> None:
        """CX entries from DX on at ES:DI, each blue, green, red, 0: BL=0 or 80h set, 1 get."""
        count, first, at = frame.cx, frame.dx, linear(frame.es, frame.di)
        if first + count > 256:
            frame.ah = _FAILED
        elif frame.bl in (0x00, 0x80):
            data = self.platform.memory.read(at, 4 * count)
            colours = bytearray(3 * count)
            colours[0::3], colours[1::3], colours[2::3] = data[2::4], data[1::4], data[0::4]
            self.adapter.write_dac(first, bytes(colours))
        elif frame.bl == 1:
            colours = bytearray(self.adapter.read_dac(first, count))
            block = bytearray(4 * count)
            block[0::4], block[1::4], block[2::4] = colours[2::3], colours[1::3], colours[0::3]
            self.platform.memory.write(at, bytes(block))
        else:
            frame.ah = 0x02
