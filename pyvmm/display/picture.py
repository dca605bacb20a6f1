"""A still picture of a screen: pixels, and the PNG that a notebook shows."""

from __future__ import annotations

import os
import zlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy

_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def _chunk(kind: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")


class Picture:
    """What a screen showed at one moment.

    Attributes
    ----------
    width, height
        Pixels.
    pixels
        ``width * height`` pixels by rows, 4 bytes each: blue, green, red, 0 (0x00RRGGBB, little-endian).
    """

    __slots__ = ("height", "pixels", "width")

    def __init__(self, width: int, height: int, pixels: bytes) -> None:
        self.width = width
        self.height = height
        self.pixels = pixels

    @property
    def array(self) -> numpy.ndarray[Any, Any]:
        """The pixels as an array of shape (height, width, 3), red, green, blue, uint8."""
        import numpy

        shaped = numpy.frombuffer(self.pixels, numpy.uint8).reshape(self.height, self.width, 4)
        return shaped[:, :, 2::-1]

    def pixel(self, x: int, y: int) -> tuple[int, int, int]:
        """Red, green and blue (0 to 255) of one pixel, (0, 0) at the top left."""
        if not (0 <= x < self.width and 0 <= y < self.height):
            raise IndexError(f"({x}, {y}) is not in a picture of {self.width} x {self.height}")
        at = 4 * (y * self.width + x)
        return self.pixels[at + 2], self.pixels[at + 1], self.pixels[at]

    def png(self) -> bytes:
        """The picture as a PNG file: 8 bits a channel, no alpha (PNG, second edition, §11.2)."""
        header = self.width.to_bytes(4, "big") + self.height.to_bytes(4, "big") + bytes((8, 2, 0, 0, 0))
        rgb = bytearray(3 * self.width * self.height)
        rgb[0::3], rgb[1::3], rgb[2::3] = self.pixels[2::4], self.pixels[1::4], self.pixels[0::4]
        stride = 3 * self.width
        lines = b"".join(b"\0" + rgb[y * stride : (y + 1) * stride] for y in range(self.height))
        data = _chunk(b"IDAT", zlib.compress(lines, 6))
        return _SIGNATURE + _chunk(b"IHDR", header) + data + _chunk(b"IEND", b"")

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the PNG file."""
        with open(path, "wb") as file:
            file.write(self.png())

    def _repr_png_(self) -> bytes:
        return self.png()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Picture):
            return NotImplemented
        return (self.width, self.height, self.pixels) == (other.width, other.height, other.pixels)

    def __hash__(self) -> int:
        return hash((self.width, self.height, self.pixels))

    def __repr__(self) -> str:
        return f"<Picture {self.width} x {self.height}>"
