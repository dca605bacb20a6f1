"""Pictures in the forms that RFB clients ask for: pixel formats, and the encodings Raw and ZRLE.

Source: RFC 6143 §7.4 (pixel format), §7.7.1 (Raw), §7.7.6 (ZRLE). Of ZRLE's tiles, those of one colour and raw ones are
made. Left out: colour maps (a client that asks for one is told to use true colour), CopyRect, RRE, Hextile, TRLE.
"""

from __future__ import annotations

import struct
import zlib
from typing import Any

import numpy as np

from pyvmm.record import record

RAW, ZRLE, DESKTOP_SIZE = 0, 16, -223
TILE = 64
Pixels = np.ndarray[Any, Any]
"""Shape (height, width), uint32, 0x00RRGGBB."""


@record(frozen=True, slots=True)
class PixelFormat:
    """RFC 6143 §7.4. Maxima are the largest value of each colour, shifts where it begins in the pixel."""

    bits: int = 32
    depth: int = 24
    big_endian: bool = False
    true_colour: bool = True
    red_max: int = 255
    green_max: int = 255
    blue_max: int = 255
    red_shift: int = 16
    green_shift: int = 8
    blue_shift: int = 0

    def pack(self) -> bytes:
        """16 bytes of ServerInit or SetPixelFormat."""
        return struct.pack(
            ">BBBBHHHBBB3x",
            self.bits,
            self.depth,
            self.big_endian,
            self.true_colour,
            self.red_max,
            self.green_max,
            self.blue_max,
            self.red_shift,
            self.green_shift,
            self.blue_shift,
        )

    @classmethod
    def unpack(cls, data: bytes) -> PixelFormat:
        """From SetPixelFormat.

        Raises
        ------
        ValueError
            A format that this server does not make.
        """
        bits, depth, big, true, *rest = struct.unpack(">BBBBHHHBBB3x", data)
        made = cls(bits, depth, bool(big), bool(true), *rest)
        if not made.true_colour:
            raise ValueError("a colour map; set the client to true colour")
        if bits not in (8, 16, 32):
            raise ValueError(f"{bits} bits a pixel; there are 8, 16 and 32")
        colours = (
            (made.red_max, made.red_shift),
            (made.green_max, made.green_shift),
            (made.blue_max, made.blue_shift),
        )
        if any(shift >= bits or top << shift >= 1 << bits for top, shift in colours):
            raise ValueError("a colour that does not fit into its pixel")
        return made

    @property
    def _is_native(self) -> bool:
        shifts = (self.red_shift, self.green_shift, self.blue_shift)
        tops = (self.red_max, self.green_max, self.blue_max)
        return self.bits == 32 and shifts == (16, 8, 0) and tops == (255, 255, 255)

    def convert(self, pixels: Pixels) -> Pixels:
        """The same picture with this format's pixels, as an array of 8, 16 or 32 bits in the client's byte order."""
        values = pixels
        if not self._is_native:
            colours = (
                (16, self.red_max, self.red_shift),
                (8, self.green_max, self.green_shift),
                (0, self.blue_max, self.blue_shift),
            )
            values = np.zeros_like(pixels)
            for at, top, shift in colours:
                values |= ((pixels >> at & 0xFF) * top + 127) // 255 << shift
        order = ">" if self.big_endian else "<"
        return values.astype(f"{order}u{self.bits // 8}", copy=False)

    @property
    def compact(self) -> slice | None:
        """Which bytes of a 32-bit pixel ZRLE sends: three, when the colours are all in them (CPIXEL); None for all."""
        used = (
            self.red_max << self.red_shift
            | self.green_max << self.green_shift
            | self.blue_max << self.blue_shift
        )
        if self.bits != 32 or self.depth > 24:
            return None
        if used < 1 << 24:
            return slice(1, 4) if self.big_endian else slice(0, 3)
        if used & 0xFF == 0:
            return slice(0, 3) if self.big_endian else slice(1, 4)
        return None


def rectangle(x: int, y: int, width: int, height: int, encoding: int) -> bytes:
    """Header of one rectangle in a FramebufferUpdate."""
    return struct.pack(">HHHHi", x, y, width, height, encoding)


class Encoder:
    """One client's encoding and its compression, which goes on from rectangle to rectangle."""

    def __init__(self) -> None:
        self.format = PixelFormat()
        self.encoding = RAW
        self._stream = zlib.compressobj(1)

    def choose(self, encodings: list[int]) -> None:
        """The first of the client's encodings that is made here; Raw when there is none."""
        self.encoding = next((number for number in encodings if number in (RAW, ZRLE)), RAW)

    def encode(self, pixels: Pixels, x: int, y: int) -> bytes:
        """A whole rectangle with its header; `pixels` is the part of the picture that it shows."""
        height, width = pixels.shape
        values = np.ascontiguousarray(self.format.convert(pixels))
        head = rectangle(x, y, width, height, self.encoding)
        if self.encoding == RAW:
            return head + values.tobytes()
        data = self._stream.compress(self._tiles(values)) + self._stream.flush(zlib.Z_SYNC_FLUSH)
        return head + len(data).to_bytes(4, "big") + data

    def _tiles(self, values: Pixels) -> bytes:
        size = values.dtype.itemsize
        raw = values.view(np.uint8).reshape(*values.shape, size)
        compact = self.format.compact
        if compact is not None:
            raw = raw[:, :, compact]
        parts = []
        for y in range(0, values.shape[0], TILE):
            for x in range(0, values.shape[1], TILE):
                tile = values[y : y + TILE, x : x + TILE]
                if (tile == tile[0, 0]).all():
                    parts.append(b"\x01" + raw[y, x].tobytes())
                else:
                    parts.append(b"\0" + raw[y : y + TILE, x : x + TILE].tobytes())
        return b"".join(parts)


def changed_tiles(before: Pixels, after: Pixels) -> list[tuple[int, int, int, int]]:
    """(x, y, width, height) of what differs between two pictures of one size, in tiles, joined along rows."""
    height, width = after.shape
    differs = before != after
    found = []
    for y in range(0, height, TILE):
        band = differs[y : y + TILE]
        columns = band.any(axis=0)
        if not columns.any():
            continue
        dirty = [bool(columns[x : x + TILE].any()) for x in range(0, width, TILE)]
        start = None
        for index, is_dirty in enumerate([*dirty, False]):
            if is_dirty and start is None:
                start = index
            elif not is_dirty and start is not None:
                x = start * TILE
                found.append((x, y, min(index * TILE, width) - x, band.shape[0]))
                start = None
    return found
