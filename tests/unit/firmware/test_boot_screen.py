"""``vga=`` of a directly started kernel: numbers, and struct screen_info by the offsets of Linux's header."""

from __future__ import annotations

import pytest

from pyvmm.errors import BootError
from pyvmm.firmware.boot_screen import TEXT_SCREEN_INFO, BootScreen, linear_screen_info, wanted_mode


@pytest.mark.parametrize(
    ("line", "number"),
    [
        (b"", None),
        (b"console=tty0 vga=normal", None),
        (b"vga=0xf00", None),
        (b"vga=791 quiet", 0x117),
        (b"vga=0x317", 0x117),
        (b"vga=0x317 vga=0x301", 0x101),
        (b"novga=0x317", None),
    ],
)
def test_numbers(line: bytes, number: int | None) -> None:
    assert wanted_mode(line) == number


@pytest.mark.parametrize("value", ["ask", "ext", "", "0x117", "0x400", "-1", "1e3", "\xff"])
def test_refused(value: str) -> None:
    with pytest.raises(BootError, match="vga="):
        wanted_mode(f"quiet vga={value}".encode())


def test_no_screen() -> None:
    screen = BootScreen(None, None)  # type: ignore[arg-type]
    assert screen(b"quiet") == b""
    with pytest.raises(BootError, match="--vga none"):
        screen(b"vga=0x317")


def test_screen_info() -> None:
    """include/uapi/linux/screen_info.h."""
    fields = (5, 11, 6, 5, 5, 0, 0, 0)
    info = linear_screen_info(1024, 768, 16, 2048, fields, 0x1_E000_0000, 256).ljust(64, b"\0")
    assert len(info) == 64

    def number(at: int, size: int) -> int:
        return int.from_bytes(info[at : at + size], "little")

    assert number(0x0F, 1) == 0x23  # orig_video_isVGA: VIDEO_TYPE_VLFB
    assert (number(0x12, 2), number(0x14, 2), number(0x16, 2)) == (1024, 768, 16)
    assert (number(0x18, 4), number(0x3A, 4)) == (0xE0000000, 1)  # lfb_base, ext_lfb_base
    assert (number(0x1C, 4), number(0x24, 2)) == (256, 2048)  # lfb_size, lfb_linelength
    assert tuple(info[0x26:0x2E]) == fields
    assert (number(0x2E, 2), number(0x30, 2), number(0x32, 2)) == (0, 0, 10)  # vesapm, pages
    assert number(0x36, 4) == 0  # capabilities: the DAC is a VGA's
    assert TEXT_SCREEN_INFO[0x0F] == 1
