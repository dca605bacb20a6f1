"""Whether a picture shows a text, whatever the font: a character is the same glyph everywhere, and no other's."""

from __future__ import annotations

from pyvmm.display.picture import Picture


def cells(picture: Picture) -> list[list[bytes]]:
    """Rows of 8 x 16 cells as dots, a byte a line; a dot is set when its pixel is not black."""
    pixels, pitch = bytes(picture.pixels), picture.width * 4
    rows = []
    for top in range(0, picture.height - 15, 16):
        lines = []
        for y in range(top, top + 16):
            line = pixels[y * pitch : (y + 1) * pitch]
            lines.append("".join("1" if any(line[4 * x : 4 * x + 3]) else "0" for x in range(picture.width)))
        rows.append(
            [bytes(int(line[x : x + 8], 2) for line in lines) for x in range(0, picture.width - 7, 8)]
        )
    return rows


def assert_shown(picture: Picture, text: str) -> None:
    """The last lines of `text`, wrapped at the right edge, fill the picture but for the last row, the cursor's."""
    rows = cells(picture)[:-1]
    columns = picture.width // 8
    wrapped = [
        line[at : at + columns].ljust(columns)
        for line in text.replace("\r", "").rstrip("\n").split("\n")
        for at in range(0, max(len(line), 1), columns)
    ]
    glyphs: dict[str, bytes] = {" ": bytes(16)}
    for number, (row, line) in enumerate(zip(rows, wrapped[-len(rows) :], strict=True)):
        for column, (glyph, character) in enumerate(zip(row, line, strict=True)):
            assert glyphs.setdefault(character, glyph) == glyph, (number, column, line)
    assert len(set(glyphs.values())) == len(glyphs) > 40
