"""Names for addresses: a System.map, the symbol table of an ELF file, or what a kernel carries in itself (kallsyms).

Distributions' kernels are stripped, and Debian's System.map is one line that says where the real one is: so the tables
that the kernel prints its own oopses with are the usual source, in guest memory (where address randomisation is in them
already) or in a vmlinux or bzImage file. Left out: DWARF (files and lines), modules' symbols, except in a
copy of the guest's /proc/kallsyms, and bzImages packed with LZ4 or LZO.
"""

from __future__ import annotations

import bz2
import lzma
import re
import struct
import zlib
from bisect import bisect_right
from collections.abc import Iterable
from typing import TYPE_CHECKING

from pyvmm.errors import PyvmmError
from pyvmm.trace.kallsyms import find_kallsyms

if TYPE_CHECKING:
    from pyvmm.config import StrPath
    from pyvmm.memory import GuestMemory

_CODE = frozenset("tTwW")
_MAX_FILE = 1 << 30
_MAX_KERNEL = 512 << 20
"""Bytes that a bzImage may unpack to."""
_OTHER_PACKERS = {b"\x02\x21\x4c\x18": "by LZ4", b"\x89LZO": "by LZO"}
_FARTHEST = 1 << 20
"""Bytes behind a symbol that still count as its: a gap in the text is nobody's."""
_LINE = re.compile(rb"([0-9a-fA-F]{1,16}) ([a-zA-Z?]) (\S+)(?:[ \t]+(\[\S+\]))?")


class Symbols:
    """Code symbols in order of address.

    Parameters
    ----------
    rows
        (address, name) in any order.
    source
        Where they come from, for people.
    slide
        Added to each address: the difference between where a file says that the kernel is and where it runs.
    """

    def __init__(self, rows: Iterable[tuple[int, str]], source: str, slide: int = 0) -> None:
        self._all = sorted((address + slide, name) for address, name in rows)
        self.rows = list(dict(self._all).items())
        self.source = source
        self.slide = slide
        self._addresses = [address for address, _ in self.rows]

    def resolve(self, address: int) -> tuple[str, int] | None:
        """(name, offset) of the function that an address is in, or None."""
        at = bisect_right(self._addresses, address) - 1
        if at < 0 or address - self._addresses[at] > _FARTHEST:
            return None
        return self.rows[at][1], address - self._addresses[at]

    def name(self, address: int) -> str:
        """``"io_serial_in+0x14"``, or nothing."""
        found = self.resolve(address)
        if found is None:
            return ""
        return f"{found[0]}+{found[1]:#x}" if found[1] else found[0]

    def address(self, name: str) -> int | None:
        """Where a symbol is, or None; the lowest address when several have the name."""
        return next((address for address, each in self._all if each == name), None)

    def at(self, name: str, address: int) -> Symbols:
        """The same, moved so that the symbol `name` is at `address`: a file's symbols for a kernel under KASLR.

        Raises
        ------
        PyvmmError
            There is no such symbol.
        """
        here = self.address(name)
        if here is None:
            raise PyvmmError(f"{self.source}: it has no symbol {name}")
        return Symbols(self._all, self.source, address - here)

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        slid = f", slid by {self.slide:#x}" if self.slide else ""
        return f"<Symbols {len(self)} of {self.source}{slid}>"

    @classmethod
    def from_memory(cls, memory: GuestMemory) -> Symbols | None:
        """Those of the Linux that runs in a guest, KASLR or not; None when no kernel's tables are found in its RAM."""
        for slot in memory.slots:
            if slot.read_only:
                continue
            rows = _code(find_kallsyms(memory.view(slot.gpa, slot.end - slot.gpa)))
            if rows:
                return cls(rows, "the guest's kallsyms")
        return None

    @classmethod
    def from_file(cls, path: StrPath) -> Symbols:
        """Those of a file: System.map or a copy of /proc/kallsyms, ELF (vmlinux or a program), or bzImage.

        Raises
        ------
        PyvmmError
            One line: it is none of these, is damaged, or has no symbols (Debian's System.map).
        OSError
            It cannot be read.
        """
        with open(path, "rb") as file:
            data = file.read(_MAX_FILE + 1)
        if len(data) > _MAX_FILE:
            raise PyvmmError(f"{path}: more than {_MAX_FILE >> 20} MiB is no kernel and no System.map")
        try:
            if data[:4] == b"\x7fELF":
                rows = _elf(data) or _code(find_kallsyms(data))
            elif data[0x202:0x206] == b"HdrS":
                rows = _code(find_kallsyms(_unpack(data)))
            else:
                rows = _map(data)
        except (struct.error, ValueError, lzma.LZMAError, zlib.error, OSError, EOFError) as error:
            raise PyvmmError(f"{path}: {error}") from None
        if not rows:
            raise PyvmmError(
                f"{path}: no symbols of code in it; leave --symbols out to use those that the kernel has in itself,"
                " or give a System.map, a vmlinux, or a copy of the guest's /proc/kallsyms"
            )
        return cls(rows, str(path))


def _code(symbols: list[tuple[int, str, str]]) -> list[tuple[int, str]]:
    return [(address, name) for address, kind, name in symbols if kind in _CODE and address]


def _map(data: bytes) -> list[tuple[int, str]]:
    """nm(1)'s lines: address, type, name, and for a module's symbol its module."""
    rows = []
    for number, line in enumerate(data.splitlines(), 1):
        if not line.strip():
            continue
        match = _LINE.match(line)
        if match is None:
            raise ValueError(f"line {number} is not `ADDRESS TYPE NAME`")
        address, kind = int(match[1], 16), match[2].decode()
        if kind in _CODE and address:
            module = b" " + match[4] if match[4] else b""
            rows.append((address, (match[3] + module).decode(errors="replace")))
    return rows


def _elf(data: bytes) -> list[tuple[int, str]]:
    """Functions of .symtab (ELF 1.2, book I): 64-bit little-endian files."""
    if data[4:6] != b"\x02\x01":
        raise ValueError("offset 4: an ELF file, but not a 64-bit little-endian one")
    (sections,) = struct.unpack_from("<Q", data, 0x28)
    entry_size, count = struct.unpack_from("<HH", data, 0x3A)
    if count and entry_size < 64:
        raise ValueError(f"offset 0x3a: section headers of {entry_size} bytes")
    rows = []
    for number in range(count):
        _, kind, _, _, offset, size, link, _, _, each = struct.unpack_from(
            "<IIQQQQIIQQ", data, sections + number * entry_size
        )
        if kind != 2:  # SHT_SYMTAB
            continue
        if link >= count or each < 24 or offset + size > len(data):
            raise ValueError(f"section {number}: a symbol table outside the file")
        text_offset, text_size = struct.unpack_from("<QQ", data, sections + link * entry_size + 24)
        if text_offset + text_size > len(data):
            raise ValueError(f"section {link}: strings outside the file")
        strings = data[text_offset : text_offset + text_size]
        for at in range(offset, offset + size - each + 1, each):
            name, info, _, section, value, _ = struct.unpack_from("<IBBHQQ", data, at)
            if info & 15 in (0, 2) and section and section < 0xFF00 and value:  # NOTYPE (assembly), FUNC
                end = strings.find(b"\0", name)
                text = strings[name : end if end >= 0 else None].decode(errors="replace")
                if text and text[0] not in "$.":
                    rows.append((value, text))
    return rows


def _unpack(data: bytes) -> bytes:
    """The kernel of a bzImage (Linux boot, payload_offset)."""
    (offset, length) = struct.unpack_from("<II", data, 0x248)
    (version,) = struct.unpack_from("<H", data, 0x206)
    start = ((data[0x1F1] or 4) + 1) * 512 + offset
    payload = data[start : start + length]
    if version < 0x208 or not payload:
        raise ValueError("offset 0x248: a bzImage without a payload")
    if payload[:2] == b"\x1f\x8b":
        return zlib.decompressobj(31).decompress(payload, _MAX_KERNEL)
    if payload[:6] == b"\xfd7zXZ\0":
        return lzma.LZMADecompressor(lzma.FORMAT_XZ).decompress(payload, _MAX_KERNEL)
    if payload[:3] == b"BZh":
        return bz2.BZ2Decompressor().decompress(payload, _MAX_KERNEL)
    if payload[:3] == b"\x5d\0\0":
        return lzma.LZMADecompressor(lzma.FORMAT_ALONE).decompress(payload, _MAX_KERNEL)
    if payload[:4] == b"\x28\xb5\x2f\xfd":
        import zstandard

        with zstandard.ZstdDecompressor(max_window_size=1 << 28).stream_reader(payload) as reader:
            return bytes(reader.read(_MAX_KERNEL))
    how = _OTHER_PACKERS.get(payload[:4], f"in an unknown way ({payload[:4].hex()})")
    raise ValueError(
        f"offset {start:#x}: packed {how}, which is not read here; leave --symbols out to use those that the kernel has"
        " in itself, or give its vmlinux"
    )
