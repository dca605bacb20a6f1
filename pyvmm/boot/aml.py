"""ACPI machine language: small functions that return its bytes, so that a table reads like ASL.

Source: ACPI 6.5 §20.2 (AML grammar), §6.4 (resource descriptors), §19.3.4 (EISA IDs). Only the terms that pyvmm's own
tables use; a term list is the concatenation of terms.
"""

from __future__ import annotations

import struct
from functools import cache
from typing import Final

LOCAL0, LOCAL1 = b"\x60", b"\x61"
ARG0: Final = b"\x68"
NOTHING: Final = b"\x00"
"""The null name: an operation's result is returned only, not stored as well."""

SYSTEM_IO, PCI_CONFIG = 1, 2
"""Address spaces of `operation_region` (§5.5.2.4)."""

MEMORY_RANGE, IO_RANGE, BUS_RANGE = 0, 1, 2
"""Kinds of `address_range` (§6.4.3.5)."""
FIXED_WINDOW: Final = 0x0C
"""General flags of a bridge's window: both ends fixed, positively decoded, produced for the devices below."""
IO_ENTIRE_RANGE: Final = 0x03
MEMORY_UNCACHED_WRITABLE: Final = 0x01
MEMORY_CACHED_WRITABLE: Final = 0x03
IRQ_LEVEL_LOW_SHARED: Final = 0x18


# Names and lengths (§20.2.2, §20.2.4) -------------------------------------------------------------------------------


@cache
def name_string(path: str) -> bytes:
    r"""Return a name: ``"PCI0"``, ``"\_SB.PCI0.ISA"``, ``"^LNKA"``; segments are padded with underscores."""
    prefix = path[: len(path) - len(path.lstrip("\\^"))]
    parts = [part for part in path[len(prefix) :].split(".") if part]
    for part in parts:
        if (
            len(part) > 4
            or not part.isascii()
            or not part.replace("_", "A").isalnum()
            or part != part.upper()
        ):
            raise ValueError(f"{part!r} in {path!r} is not an ACPI name segment")
    segments = b"".join(part.ljust(4, "_").encode() for part in parts)
    if len(parts) > 2:
        segments = bytes([0x2F, len(parts)]) + segments
    elif len(parts) == 2:
        segments = b"\x2e" + segments
    return prefix.encode() + (segments or NOTHING)


def encode_length(length: int) -> bytes:
    """Return a PkgLength that says `length`."""
    if length < 1 << 6:
        return bytes([length])
    extra = next(count for count in (1, 2, 3) if length < 1 << (4 + 8 * count))
    return bytes([extra << 6 | length & 0xF]) + (length >> 4).to_bytes(extra, "little")


def with_length(body: bytes) -> bytes:
    """Return `body` with its PkgLength in front, which counts its own bytes too."""
    size = next(size for size in (1, 2, 3, 4) if len(encode_length(len(body) + size)) == size)
    return encode_length(len(body) + size) + body


# Data (§20.2.3) -----------------------------------------------------------------------------------------------------


def integer(value: int) -> bytes:
    """Return a constant of up to 64 bits in its shortest form."""
    if value in (0, 1):
        return bytes([value])
    for size, prefix in ((1, 0x0A), (2, 0x0B), (4, 0x0C), (8, 0x0E)):
        if 0 <= value < 1 << 8 * size:
            return bytes([prefix]) + value.to_bytes(size, "little")
    raise ValueError(f"{value:#x} does not fit into a 64-bit ACPI integer")


def eisa_id(text: str) -> bytes:
    """Return a compressed EISA ID, like ``"PNP0A03"``: five bits a letter, four bits a digit, big-endian."""
    letters = [ord(letter) - 0x40 for letter in text[:3]]
    packed = letters[0] << 26 | letters[1] << 21 | letters[2] << 16 | int(text[3:], 16)
    return integer(int.from_bytes(packed.to_bytes(4, "big"), "little"))


def string(text: str) -> bytes:
    """Return a string constant."""
    return b"\x0d" + text.encode("ascii") + b"\0"


def buffer(data: bytes) -> bytes:
    """Return a buffer constant."""
    return b"\x11" + with_length(integer(len(data)) + data)


def package(*elements: bytes) -> bytes:
    """Return a package of up to 255 elements."""
    return b"\x12" + with_length(bytes([len(elements)]) + b"".join(elements))


# Named objects (§20.2.5) ---------------------------------------------------------------------------------------------


def name(path: str, value: bytes) -> bytes:
    """Return ``Name (path, value)``."""
    return b"\x08" + name_string(path) + value


def scope(path: str, *terms: bytes) -> bytes:
    """Return ``Scope (path) {terms}``."""
    return b"\x10" + with_length(name_string(path) + b"".join(terms))


def device(path: str, *terms: bytes) -> bytes:
    """Return ``Device (path) {terms}``."""
    return b"\x5b\x82" + with_length(name_string(path) + b"".join(terms))


def method(path: str, arguments: int, *terms: bytes, serialized: bool = False) -> bytes:
    """Return ``Method (path, arguments) {terms}``; a method that creates names has to be serialized."""
    flags = arguments | (0x08 if serialized else 0)
    return b"\x14" + with_length(name_string(path) + bytes([flags]) + b"".join(terms))


def operation_region(path: str, space: int, offset: int, size: int) -> bytes:
    """Return ``OperationRegion (path, space, offset, size)``; offset and size in bytes."""
    return b"\x5b\x80" + name_string(path) + bytes([space]) + integer(offset) + integer(size)


def byte_field(region: str, *units: tuple[str, int]) -> bytes:
    """Return ``Field (region, ByteAcc, NoLock, Preserve)`` with (name, bits) units."""
    fields = b"".join(name_string(unit) + encode_length(bits) for unit, bits in units)
    return b"\x5b\x81" + with_length(name_string(region) + b"\x01" + fields)


def create_word_field(source: bytes, index: int, path: str) -> bytes:
    """Return ``CreateWordField (source, index, path)``; index in bytes."""
    return b"\x8b" + source + integer(index) + name_string(path)


# Statements and operators (§20.2.5.3, §20.2.5.4) ---------------------------------------------------------------------


def store(value: bytes, target: bytes) -> bytes:
    """Return ``target = value``."""
    return b"\x70" + value + target


def bit_and(left: bytes, right: bytes, target: bytes = NOTHING) -> bytes:
    """Return ``And (left, right, target)``."""
    return b"\x7b" + left + right + target


def bit_or(left: bytes, right: bytes, target: bytes = NOTHING) -> bytes:
    """Return ``Or (left, right, target)``."""
    return b"\x7d" + left + right + target


def shift_left(value: bytes, count: bytes, target: bytes = NOTHING) -> bytes:
    """Return ``ShiftLeft (value, count, target)``."""
    return b"\x79" + value + count + target


def find_set_right_bit(value: bytes, target: bytes) -> bytes:
    """Return ``FindSetRightBit (value, target)``: 1 for bit 0, 0 when no bit is set."""
    return b"\x82" + value + target


def decrement(target: bytes) -> bytes:
    """Return ``target--``."""
    return b"\x76" + target


def less(left: bytes, right: bytes) -> bytes:
    """Return ``LLess (left, right)``."""
    return b"\x95" + left + right


def if_(condition: bytes, *terms: bytes) -> bytes:
    """Return ``If (condition) {terms}``."""
    return b"\xa0" + with_length(condition + b"".join(terms))


def return_(value: bytes) -> bytes:
    """Return ``Return (value)``."""
    return b"\xa4" + value


# Resource templates (§6.4) -------------------------------------------------------------------------------------------


def resource_template(*descriptors: bytes) -> bytes:
    """Return ``ResourceTemplate () {descriptors}``: a buffer with an end tag whose checksum 0 means "not checked"."""
    return buffer(b"".join(descriptors) + b"\x79\0")


def io_ports(base: int, count: int) -> bytes:
    """Return a fixed range of I/O ports, all 16 address bits decoded (§6.4.2.5)."""
    return struct.pack("<BBHHBB", 0x47, 1, base, base, 1, count)


def fixed_memory(base: int, size: int) -> bytes:
    """Return a fixed range of memory below 4 GiB that cannot be written as RAM is: registers (§6.4.3.4)."""
    return struct.pack("<BHBII", 0x86, 9, 0, base, size)


def irq_edge(*lines: int) -> bytes:
    """Return edge-triggered, active-high, unshared IRQ lines (§6.4.2.1, the form without flags)."""
    return struct.pack("<BH", 0x22, sum(1 << line for line in lines))


def dma_channel(channel: int) -> bytes:
    """Return an 8-bit DMA channel of compatibility timing, no bus master (§6.4.2.2)."""
    return struct.pack("<BBB", 0x2A, 1 << channel, 0)


def irq_level(*lines: int) -> bytes:
    """Return level-triggered, active-low, shared IRQ lines: PCI's (§6.4.2.1)."""
    return struct.pack("<BHB", 0x23, sum(1 << line for line in lines), IRQ_LEVEL_LOW_SHARED)


def extended_irq_level(gsi: int) -> bytes:
    """Return a level-triggered, active-high, unshared line of any number (§6.4.3.6)."""
    return struct.pack("<BHBBI", 0x89, 6, 0x01, 1, gsi)


def address_range(kind: int, first: int, last: int, type_flags: int, *, bits: int) -> bytes:
    """Return a bridge's fixed window from `first` to `last`, as a descriptor of 16, 32 or 64 bits (§6.4.3.5)."""
    tag, letter = {16: (0x88, "H"), 32: (0x87, "I"), 64: (0x8A, "Q")}[bits]
    window = struct.pack(
        f"<BBB5{letter}", kind, FIXED_WINDOW, type_flags, 0, first, last, 0, last - first + 1
    )
    return struct.pack("<BH", tag, len(window)) + window
