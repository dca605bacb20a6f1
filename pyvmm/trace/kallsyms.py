"""The symbols that Linux carries in itself (CONFIG_KALLSYMS), found in an image of it: a file, or a guest's memory.

Distributions strip their kernels and no longer ship a System.map, but the kernel prints its own symbols in an oops, and
so has them all, compressed. In memory the addresses are the running kernel's: address space randomisation (KASLR) is
in them. The tables have no header, so they are found by what they look like, and taken only when everything fits:

    offsets        s32 for each symbol, and relative_base, u64; both before (to 6.4) or after (from 6.5) the rest
    num_syms       u32, padded to 8
    names          for each symbol a length (one byte; from 6.1 two when the first has bit 7) and as many token
                   numbers; the expanded name begins with its type, as nm(1) has it
    markers        u32: where in `names` each 256th symbol begins
    (seqs)         from 6.2: the order by name, of no use here
    token_table    256 strings, and token_index, u16: where each begins

Source: Linux's scripts/kallsyms.c and kernel/kallsyms.c, by what they write and read. Left out: kernels before 4.20
(markers of 64 bits), other than 64-bit little-endian ones, and modules, whose symbols are not in these tables.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from typing import Any

Buffer = bytes | bytearray | memoryview

_DIGITS = re.compile(b"".join(bytes((digit, 0)) for digit in b"0123456789"))
_MAX_TOKENS = 8192
_MAX_SYMBOLS = 2_000_000
_MAX_NAMES = 32 << 20
"""Bytes of names and markers before the token table."""
_MAX_TABLES = 16
_MAX_TRIED = 2 * _MAX_SYMBOLS
"""What looks like token tables, and symbols of what looks like names: a guest may fill its memory with either."""


def find_kallsyms(image: Buffer) -> list[tuple[int, str, str]]:
    """(address, type, name) of each symbol of the first kernel in `image`, in order of address; maybe none."""
    view = memoryview(image).cast("B")
    tables = 0
    for match in _DIGITS.finditer(view):
        tokens = _tokens(view, match.start())
        if tokens is None:
            continue
        tables += 1
        if tables > _MAX_TABLES:
            break
        table, after, strings = tokens
        for count, names, found in _names(view, table, strings):
            addresses = _addresses(view, count, names, after)
            if addresses is not None:
                symbols = [(a, name[0], name[1:]) for a, name in zip(addresses, found, strict=True) if name]
                return sorted(symbols)
    return []


def _align(position: int, to: int = 8) -> int:
    return -(-position // to) * to


def _tokens(view: memoryview, digits: int) -> tuple[int, int, list[str]] | None:
    """Start of the token table whose tokens "0".."9" are at `digits`, end of its index, and the tokens."""
    low = max(0, digits - _MAX_TOKENS)
    before = bytes(view[low:digits]).split(b"\0")  # the last part is empty: what ends before `digits`
    if len(before) < ord("0") + 1 or before[-1]:
        return None
    # Token 0 begins somewhere in the part before: padding, or the end of another table, is in front of it.
    head = before[-ord("0") - 1]
    rest = bytes(view[digits : digits + _MAX_TOKENS]).split(b"\0")[: 256 - ord("0")]
    if len(rest) < 256 - ord("0"):
        return None
    tail = [*before[-ord("0") : -1], *rest]
    end = digits + sum(len(token) + 1 for token in rest)
    start_of_tail = end - sum(len(token) + 1 for token in tail)
    for length in range(min(len(head), 64), 0, -1):
        tokens = [head[len(head) - length :], *tail]
        start = start_of_tail - length - 1
        index, at = [], 0
        for token in tokens:
            index.append(at)
            at += len(token) + 1
        if at > 0xFFFF:
            return None
        wanted = struct.pack("<256H", *index)
        for position in {_align(end, 2), _align(end, 4), _align(end), _align(end, 16)}:
            if view[position : position + 512] == wanted:
                return start, position + 512, [token.decode("latin-1") for token in tokens]
    return None


def _names(view: memoryview, table: int, tokens: list[str]) -> Iterator[tuple[int, int, list[str]]]:
    """(count, position of num_syms, expanded names) of each place before the token table that can be `num_syms`."""
    low = max(0, table - _MAX_NAMES)
    low += -low % 8
    import numpy as np

    tried = 0
    words = np.frombuffer(view[low : low + (table - low) // 8 * 8], "<u8")
    for at in np.flatnonzero((words >= 256) & (words < _MAX_SYMBOLS))[::-1].tolist():
        position, count = low + at * 8, int(words[at])
        data = view[position + 8 : table]
        if len(data) < count * 2:
            continue
        tried += count
        if tried > _MAX_TRIED:
            return
        found = _expand(data, count, tokens)
        if found is not None:
            yield count, position, found


def _expand(data: memoryview, count: int, tokens: list[str]) -> list[str] | None:
    """The names at the start of `data`, if they are that and their markers follow."""
    spans, at, size = [], 0, len(data)
    starts = []
    for number in range(count):
        if number & 0xFF == 0:
            starts.append(at)
        if at + 1 >= size:
            return None
        length = data[at]
        at += 1
        if length & 0x80:
            length = length & 0x7F | data[at] << 7
            at += 1
        if not length:
            return None
        spans.append((at, at + length))
        at += length
        if at > size:
            return None
    markers = struct.pack(f"<{len(starts)}I", *starts)
    if not any(data[start : start + len(markers)] == markers for start in range(at, min(at + 16, size))):
        return None
    return ["".join([tokens[byte] for byte in data[first:last]]) for first, last in spans]


def _addresses(view: memoryview, count: int, names: int, after: int) -> list[int] | None:
    """Addresses of the symbols: `names` is where num_syms is, `after` the end of the token index."""
    for base, offsets in (
        (names - 8, names - 8 - _align(count * 4)),
        (_align(after) + _align(count * 4), _align(after)),
        (_align(after, 4) + _align(count * 4, 4), _align(after, 4)),
    ):
        if offsets < 0 or base + 8 > len(view):
            continue
        (relative,) = struct.unpack_from("<Q", view, base)
        if relative >> 47 != 0x1FFFF:  # the kernel's half of the address space
            continue
        import numpy as np

        rows: Any = np.frombuffer(view[offsets : offsets + count * 4], "<i4").astype(np.int64)
        if (rows < 0).sum() * 2 > count:  # KALLSYMS_ABSOLUTE_PERCPU: positive ones are no addresses of code
            return [row if row >= 0 else relative - 1 - row for row in rows.tolist()]
        if (rows[1:] < rows[:-1]).any():
            continue
        return [relative + (row & 0xFFFFFFFF) for row in rows.tolist()]
    return None
