"""Keys: scan codes (set 1) to BIOS key codes (scan code << 8 | ASCII), and a terminal's bytes to the same.

Sources: IBM PS/2 and PC BIOS Interface Technical Reference (1987), INT 16h, "Keyboard encoding"; IBM Personal System/2
keyboard, scan code set 1. US layout. Terminal sequences: ECMA-48 and xterm's "VT220-Style Function Keys".
"""

from __future__ import annotations

from typing import Final

_ROWS: Final = (
    (0x02, "1234567890-=", "!@#$%^&*()_+"),
    (0x10, "qwertyuiop[]", "QWERTYUIOP{}"),
    (0x1E, "asdfghjkl;'`", 'ASDFGHJKL:"~'),
    (0x2B, "\\zxcvbnm,./", "|ZXCVBNM<>?"),
)
PLAIN: Final = {first + i: ord(c) for first, plain, _ in _ROWS for i, c in enumerate(plain)} | {
    0x01: 0x1B,
    0x0E: 0x08,
    0x0F: 0x09,
    0x1C: 0x0D,
    0x39: 0x20,
    0x37: ord("*"),
    0x4A: ord("-"),
    0x4E: ord("+"),
    0x56: ord("\\"),
}
SHIFTED: Final = {first + i: ord(c) for first, _, shifted in _ROWS for i, c in enumerate(shifted)} | {
    0x01: 0x1B,
    0x0E: 0x08,
    0x1C: 0x0D,
    0x39: 0x20,
    0x37: ord("*"),
    0x4A: ord("-"),
    0x4E: ord("+"),
    0x56: ord("|"),
}
KEYPAD: Final = dict(zip(range(0x47, 0x54), b"789-456+1230.", strict=True))
"""The keypad's figures, when Num Lock is on."""
CTRL_CODES: Final = {
    0x47: 0x77,
    0x48: 0x8D,
    0x49: 0x84,
    0x4B: 0x73,
    0x4D: 0x74,
    0x4F: 0x75,
    0x50: 0x91,
    0x51: 0x76,
    0x52: 0x92,
    0x53: 0x93,
}
"""Cursor keys with Ctrl have scan codes of their own."""
ALT_DIGITS: Final = range(0x78, 0x84)


def function_key(scan: int, *, shift: bool, ctrl: bool, alt: bool) -> int | None:
    """Key code of F1 to F12, None for another key."""
    if 0x3B <= scan <= 0x44:
        base = 0x68 if alt else 0x5E if ctrl else 0x54 if shift else 0x3B
        return (base + scan - 0x3B) << 8
    if scan in (0x57, 0x58):
        base = 0x8B if alt else 0x89 if ctrl else 0x87 if shift else 0x85
        return (base + scan - 0x57) << 8
    return None


def encode(
    scan: int, *, shift: bool, ctrl: bool, alt: bool, caps: bool, num: bool, extended: bool
) -> int | None:
    """BIOS key code of a make code, None when the key gives none."""
    code = function_key(scan, shift=shift, ctrl=ctrl, alt=alt)
    if code is not None:
        return code
    if scan in KEYPAD and scan not in (0x4A, 0x4E):
        if ctrl and scan in CTRL_CODES:
            return CTRL_CODES[scan] << 8 | (0xE0 if extended else 0)
        if extended:
            return scan << 8 | 0xE0
        if alt:
            return None
        if num != shift:
            return scan << 8 | KEYPAD[scan]
        return scan << 8
    if extended:
        return {0x1C: 0xE00D, 0x35: 0xE02F}.get(scan)
    character = PLAIN.get(scan)
    if character is None:
        return None
    letter = 0x61 <= character <= 0x7A
    if alt:
        return (ALT_DIGITS[scan - 2] if 0x02 <= scan <= 0x0D else scan) << 8
    if ctrl:
        return _control(scan, character)
    if scan == 0x0F and shift:
        return 0x0F00
    if shift != (caps and letter):
        character = SHIFTED.get(scan, character)
    return scan << 8 | character


def _control(scan: int, character: int) -> int | None:
    if 0x61 <= character <= 0x7A or character in b"[\\]":
        return scan << 8 | character & 0x1F
    special = {
        0x03: 0x0300,
        0x07: 0x071E,
        0x0C: 0x0C1F,
        0x0E: 0x0E7F,
        0x0F: 0x9400,
        0x1C: 0x1C0A,
        0x39: 0x3920,
        0x01: 0x011B,
    }
    return special.get(scan)


_SEQUENCES: Final = {
    b"A": 0x48E0,
    b"B": 0x50E0,
    b"C": 0x4DE0,
    b"D": 0x4BE0,
    b"H": 0x47E0,
    b"F": 0x4FE0,
    b"1~": 0x47E0,
    b"2~": 0x52E0,
    b"3~": 0x53E0,
    b"4~": 0x4FE0,
    b"5~": 0x49E0,
    b"6~": 0x51E0,
    b"7~": 0x47E0,
    b"8~": 0x4FE0,
    b"P": 0x3B00,
    b"Q": 0x3C00,
    b"R": 0x3D00,
    b"S": 0x3E00,
    **{
        b"%d~" % n: code << 8
        for n, code in zip(
            (11, 12, 13, 14, 15, 17, 18, 19, 20, 21, 23, 24),
            (0x3B, 0x3C, 0x3D, 0x3E, 0x3F, 0x40, 0x41, 0x42, 0x43, 0x44, 0x85, 0x86),
            strict=True,
        )
    },
}
_BY_CHARACTER: Final = {
    **{
        c: scan << 8 | c
        for table in (SHIFTED, PLAIN)
        for scan, c in table.items()
        if scan < 0x40 and scan != 0x37
    },
    **{
        code & 0xFF: code
        for scan in PLAIN
        if (code := _control(scan, PLAIN[scan]) or 0) and 0 < code & 0xFF < 0x20
    },
    0x0D: 0x1C0D,
    0x0A: 0x1C0A,
    0x08: 0x0E08,
    0x7F: 0x0E08,
    0x09: 0x0F09,
    0x1B: 0x011B,
}


def decode_terminal(data: bytearray, *, final: bool) -> list[int]:
    """Key codes of the bytes that a terminal sent; what is consumed is taken out of `data`.

    An unfinished escape sequence stays, unless `final` says that no more will come: then ESC is the Escape key.
    """
    keys: list[int] = []
    while data:
        if data[0] == 0x1B and (len(data) > 1 or not final):
            length = _sequence_length(data)
            if length is None:
                if not final:
                    break
            elif length > 1:
                code = _SEQUENCES.get(bytes(data[2:length]))
                del data[:length]
                if code is not None:
                    keys.append(code)
                continue
        code = _BY_CHARACTER.get(data.pop(0))
        if code is not None:
            keys.append(code)
    return keys


def _sequence_length(data: bytearray) -> int | None:
    """Length of the CSI or SS3 sequence at the start; None when unfinished, 1 when it is none."""
    if len(data) == 1:
        return None
    if data[1] not in b"[O":
        return 1
    for i in range(2, min(len(data), 8)):
        if 0x40 <= data[i] <= 0x7E:
            return i + 1
    return None if len(data) < 8 else 1
