"""Make the VGA's fonts for code page 437 from the public-domain misc-fixed fonts: run by hand, its output is kept.

    python cmake/make_fonts.py FOLDER pyvmm/display

FOLDER has `*-Fixed16.psf.gz` and `*-Fixed14.psf.gz`, as Debian's console-setup-linux keeps them in
/usr/share/consolefonts: the X Window System's misc-fixed fonts ("Public domain font. Share and enjoy.") at 8 x 16 and
8 x 14, in PC screen font format 1 or 2 with a Unicode table. The 8 x 8 font is the 8 x 16 one with rows merged. Lines,
blocks and shades (B0h to DFh) are drawn here, by their Unicode names: those files show double lines as single ones.
"""

from __future__ import annotations

import gzip
import struct
import sys
import unicodedata
from pathlib import Path

from pyvmm.display.codepage import GLYPHS

FIRST_CHOICE = ("Uni2", "Uni1", "Uni3", "Lat15", "Lat7", "Greek", "FullGreek")
MERGED = ((0, 1), (2, 3), (4, 5), (6, 7), (8, 9), (10, 11), (12, 13), (14, 15))


def read_psf(path: Path) -> dict[int, bytes]:
    """Glyphs of a PSF file by Unicode character."""
    data = gzip.decompress(path.read_bytes())
    glyphs: dict[int, bytes] = {}
    if data[:2] == b"\x36\x04":
        mode, height = data[2], data[3]
        count = 512 if mode & 1 else 256
        rows = [data[4 + i * height : 4 + (i + 1) * height] for i in range(count)]
        table = struct.unpack(f"<{(len(data) - 4 - count * height) // 2}H", data[4 + count * height :])
        index, sequence = 0, False
        for code in table:
            if code == 0xFFFF:
                index, sequence = index + 1, False
            elif code == 0xFFFE:
                sequence = True
            elif not sequence:
                glyphs.setdefault(code, rows[index])
    elif data[:4] == b"\x72\xb5\x4a\x86":
        _, start, _, count, size, _, _ = struct.unpack_from("<7I", data, 4)
        entries = data[start + count * size :].split(b"\xff")[:count]
        for index, entry in enumerate(entries):
            for character in entry.split(b"\xfe")[0].decode():
                glyphs.setdefault(ord(character), data[start + index * size : start + (index + 1) * size])
    return glyphs


def read_height(folder: Path, height: int) -> dict[int, bytes]:
    """All glyphs of one height, from all files."""
    found: dict[int, bytes] = {}
    first = [folder / f"{name}-Fixed{height}.psf.gz" for name in FIRST_CHOICE]
    for path in [*first, *sorted(folder.glob(f"*-Fixed{height}.psf.gz"))]:
        if path.exists():
            for code, glyph in read_psf(path).items():
                found.setdefault(code, glyph)
    return found


def merge(glyph: bytes) -> bytes:
    """Eight rows of sixteen."""
    return bytes(glyph[a] | glyph[b] for a, b in MERGED)


def box_arms(name: str) -> dict[str, int]:
    """How many lines go each way (0 to 2) in the picture that Unicode names, like ``DOWN DOUBLE AND LEFT SINGLE``."""
    ways = {"UP": "u", "DOWN": "d", "LEFT": "l", "RIGHT": "r", "VERTICAL": "ud", "HORIZONTAL": "lr"}
    words = name.removeprefix("BOX DRAWINGS ").split()
    weight = {"LIGHT": 1, "DOUBLE": 2}.get(words[0])
    arms = dict.fromkeys("udlr", 0)
    if weight is not None:  # one weight for all
        for word in words[1:]:
            arms |= dict.fromkeys(ways.get(word, ""), weight)
    else:
        for way, single_or_double in zip(words[0::3], words[1::3], strict=True):
            arms |= dict.fromkeys(ways[way], {"SINGLE": 1, "DOUBLE": 2}[single_or_double])
    return arms


def draw_box(name: str, height: int) -> bytes:
    """Lines from the middle: two dots wide upright, one dot high across; double ones on both sides of the middle.

    Double arms are bands that are filled, then hollowed out together; single arms are drawn last.
    """
    arms = box_arms(name)
    rows = [[False] * 8 for _ in range(height)]
    middle = height // 2 - 1
    wide, high = max(arms["u"], arms["d"]) == 2, max(arms["l"], arms["r"]) == 2
    left, right = (1, 6) if wide else (3, 4)
    top, bottom = (middle - 1, middle + 1) if high else (middle, middle)

    def fill(x: range, y: range, on: bool) -> None:
        for row in y:
            for column in x:
                rows[row][column] = on

    for on, dx, dy in ((True, 0, 0), (False, 2, 1)):  # bands, then what is inside of their lines
        if not on and not wide:
            dx = 0
        if not on and not high:
            dy = 0
        for way, x, y in (
            ("u", range(left + dx, right + 1 - dx), range(bottom + 1 - dy)),
            ("d", range(left + dx, right + 1 - dx), range(top + dy, height)),
            ("l", range(right + 1 - dx), range(top + dy, bottom + 1 - dy)),
            ("r", range(left + dx, 8), range(top + dy, bottom + 1 - dy)),
        ):
            if arms[way] == 2 and (on or (wide if way in "ud" else high)):
                fill(x, y, on)
    through = {"u": "lr", "d": "lr", "l": "ud", "r": "ud"}
    opposite = {"u": "d", "d": "u", "l": "r", "r": "l"}
    for way in "udlr":
        if arms[way] != 1:
            continue
        near = all(arms[side] == 2 for side in through[way]) and not arms[opposite[way]]
        if way == "u":
            fill(range(3, 5), range((top if near else bottom) + 1), True)
        elif way == "d":
            fill(range(3, 5), range(bottom if near else top, height), True)
        elif way == "l":
            fill(range((left if near else right) + 1), range(middle, middle + 1), True)
        else:
            fill(range(right if near else left, 8), range(middle, middle + 1), True)
    return bytes(sum(on << 7 - x for x, on in enumerate(row)) for row in rows)


def draw_block(name: str, height: int) -> bytes | None:
    """Shades and blocks; None when it is neither."""
    shades = {
        "LIGHT SHADE": (0x22, 0x88),
        "MEDIUM SHADE": (0x55, 0xAA),
        "DARK SHADE": (0xDD, 0x77),
        "FULL BLOCK": (0xFF, 0xFF),
        "LEFT HALF BLOCK": (0xF0, 0xF0),
        "RIGHT HALF BLOCK": (0x0F, 0x0F),
    }
    if name in shades:
        return bytes(shades[name] * (height // 2))
    half = bytes(height // 2), b"\xff" * (height // 2)
    return {"LOWER HALF BLOCK": half[0] + half[1], "UPPER HALF BLOCK": half[1] + half[0]}.get(name)


def draw(character: str, height: int) -> bytes | None:
    """What is drawn rather than taken from a file."""
    name = unicodedata.name(character)
    return draw_box(name, height) if name.startswith("BOX DRAWINGS") else draw_block(name, height)


def main(folder: Path, target: Path) -> None:
    tall, middle = read_height(folder, 16), read_height(folder, 14)
    missing = [character for character in GLYPHS if ord(character) not in tall]
    if missing:
        sys.exit(f"{folder}: no glyph for {' '.join(missing)}")
    for height in (16, 14, 8):
        font = b""
        for character in GLYPHS:
            glyph = tall[ord(character)]
            if height == 14:
                glyph = middle.get(ord(character), glyph[1:15])
            elif height == 8:
                glyph = merge(glyph)
            font += draw(character, height) or glyph
        (target / f"font8x{height}.bin").write_bytes(font)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
