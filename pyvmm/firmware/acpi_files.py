"""ACPI tables as files for firmware that places them itself: the tables, the root pointer, and a loader script.

Source: QEMU's "ACPI table linker/loader" as firmware understands it: commands of 128 bytes, ALLOCATE (1),
ADD_POINTER (2) and ADD_CHECKSUM (3), little-endian; file names are 56 bytes. Pointers in the files are offsets into the
file they point to, and become addresses when the firmware runs the script.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pyvmm.boot.acpi import AcpiTables

TABLES: Final = "etc/acpi/tables"
RSDP: Final = "etc/acpi/rsdp"
SCRIPT: Final = "etc/table-loader"
_ALLOCATE, _ADD_POINTER, _ADD_CHECKSUM = 1, 2, 3
_ZONE_HIGH, _ZONE_F_SEGMENT = 1, 2
_HEADER = 36
_CHECKSUM = 9
_COMMAND_SIZE = 128
# Fields that point to other tables (ACPI 6.5 §5.2.5.3, §5.2.9): offset and bytes.
_FADT_POINTERS = ((36, 4), (40, 4), (132, 8), (140, 8))
_RSDP_POINTERS = ((16, 4), (24, 8))


def acpi_files(tables: AcpiTables) -> dict[str, bytes]:
    """The three files for `tables`; none for a machine without ACPI."""
    if tables.rsdp_gpa is None:
        return {}
    rsdp = next(data for gpa, data in tables.blobs if gpa == tables.rsdp_gpa)
    parts = sorted((gpa, data) for gpa, data in tables.blobs if gpa != tables.rsdp_gpa)
    image, offsets = bytearray(), {}
    for gpa, data in parts:
        image += bytes(-len(image) % 64)
        offsets[int(gpa)] = len(image)
        image += data
    root = bytearray(rsdp)
    script = [_allocate(TABLES, 64, _ZONE_HIGH), _allocate(RSDP, 16, _ZONE_F_SEGMENT)]
    checksums = []
    for gpa, data in parts:
        at = offsets[int(gpa)]
        fields = _pointers(data)
        for field, size in fields:
            script += _relocate(image, TABLES, at + field, size, offsets)
        if fields:
            image[at + _CHECKSUM] = 0
            checksums.append(_checksum(TABLES, at + _CHECKSUM, at, len(data)))
    for field, size in _RSDP_POINTERS:
        script += _relocate(root, RSDP, field, size, offsets)
    root[8] = root[32] = 0
    checksums += [_checksum(RSDP, 8, 0, 20), _checksum(RSDP, 32, 0, len(root))]
    return {TABLES: bytes(image), RSDP: bytes(root), SCRIPT: b"".join(script + checksums)}


def _pointers(table: bytes) -> list[tuple[int, int]]:
    signature = table[:4]
    if signature == b"FACP":
        return [(at, size) for at, size in _FADT_POINTERS if at + size <= len(table)]
    size = {b"RSDT": 4, b"XSDT": 8}.get(signature, 0)
    return [(at, size) for at in range(_HEADER, len(table), size)] if size else []


def _relocate(data: bytearray, name: str, at: int, size: int, offsets: dict[int, int]) -> list[bytes]:
    """Replace the address at `at` by an offset, and return the command that adds the file's address; none for null."""
    target = int.from_bytes(data[at : at + size], "little")
    if not target:
        return []
    data[at : at + size] = offsets[target].to_bytes(size, "little")
    return [_command(_ADD_POINTER, _name(name) + _name(TABLES) + struct.pack("<IB", at, size))]


def _name(name: str) -> bytes:
    return name.encode().ljust(56, b"\0")


def _command(code: int, arguments: bytes) -> bytes:
    return (code.to_bytes(4, "little") + arguments).ljust(_COMMAND_SIZE, b"\0")


def _allocate(name: str, alignment: int, zone: int) -> bytes:
    return _command(_ALLOCATE, _name(name) + struct.pack("<IB", alignment, zone))


def _checksum(name: str, at: int, start: int, length: int) -> bytes:
    return _command(_ADD_CHECKSUM, _name(name) + struct.pack("<III", at, start, length))
