"""The screen that a directly started Linux finds: text, or the VBE mode that its command line asks for by ``vga=``.

Source: Linux `Documentation/arch/x86/boot.rst` ("Special Command Line Options") and `admin-guide/svga.rst` (mode
numbers), `include/uapi/linux/screen_info.h`. The kernel's real-mode part is not run, so what it would do with ``vga=``
is done here: the mode is set, and screen_info describes its linear frame buffer.
Left out: ``vga=ask``, ``vga=ext`` and the numbers of text modes other than 80 x 25, which are refused.
"""

from __future__ import annotations

import struct

from pyvmm.errors import BootError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from pyvmm.firmware.vga import VgaPorts, VideoMemory

VESA_OFFSET: Final = 0x200
"""What Linux adds to a VBE mode's number."""
_TEXT: Final = (0xFFFF, 0x0F00)
"""NORMAL_VGA and VIDEO_80x25."""
_LINEAR_TYPE: Final = 0x23
"""VIDEO_TYPE_VLFB."""
TEXT_SCREEN_INFO: Final = bytes((0, 0, 0, 0, 0, 0, 3, 80, 0, 0, 0, 0, 0, 0, 25, 1, 16))
"""Cursor at the top left, orig_video_mode 3, 80 columns, 25 lines, orig_video_isVGA, 16 points."""


def wanted_mode(line: bytes) -> int | None:
    """The VBE mode of the last word ``vga=`` of a command line; None for text.

    Raises
    ------
    BootError
        It is no number of a VBE mode or of 80 x 25 text.
    """
    words = [word for word in line.split() if word.startswith(b"vga=")]
    if not words:
        return None
    value = words[-1][4:].decode("ascii", "replace")
    if value == "normal":
        return None
    try:
        number = int(value, 0)
    except ValueError:
        number = -1
    if number in _TEXT:
        return None
    if not VESA_OFFSET <= number < 2 * VESA_OFFSET:
        raise BootError(
            f"--append: vga={value}: give a VBE mode's number and 0x200, like vga=0x317 for 1024x768 with 16 bits, "
            "or vga=normal"
        )
    return number - VESA_OFFSET


def linear_screen_info(
    width: int, height: int, bits: int, pitch: int, fields: tuple[int, ...], base: int, memory_64k: int
) -> bytes:
    """struct screen_info of a linear frame buffer.

    Parameters
    ----------
    fields
        Size and position of red, green, blue and what is left.
    base
        Guest physical address of the first pixel.
    memory_64k
        Video memory, in units of 64 KiB.
    """
    return TEXT_SCREEN_INFO[:15] + struct.pack(
        "<BHHHHIIHHH8BHHHHII",
        _LINEAR_TYPE,
        16,
        width,
        height,
        bits,
        base & 0xFFFFFFFF,
        memory_64k,
        0,
        0,
        pitch,
        *fields,
        0,  # no protected mode interface
        0,
        max((memory_64k << 16) // (pitch * height), 1),
        0x9F,
        0,
        base >> 32,
    )


class BootScreen:
    """What a loader asks for the screen: call it with the kernel's command line.

    Parameters
    ----------
    display
        The VGA in 80 x 25 text; None when there is none.
    """

    def __init__(self, pio: VgaPorts, display: VideoMemory | None) -> None:
        self.pio = pio
        self.display = display

    def __call__(self, line: bytes) -> bytes:
        """Set the mode and return screen_info; no bytes without a screen. Raises BootError, see `wanted_mode`."""
        number = wanted_mode(line)
        if number is None:
            return b"" if self.display is None else TEXT_SCREEN_INFO
        asked = f"--append: vga={number + VESA_OFFSET:#x}"
        if self.display is None:
            raise BootError(f"{asked}: the machine has no screen: leave out --vga none")
        from pyvmm.firmware.vbe import start_mode

        started = start_mode(self.pio, self.display, number)
        if started is None:
            raise BootError(f"{asked}: there is no VBE mode {number:#x}; vga=0x317 is 1024x768 with 16 bits")
        return linear_screen_info(*started)
