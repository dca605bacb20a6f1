"""The loader script gives back the tables that it was made from, wherever the files are put."""

from __future__ import annotations

import struct

import pytest

from pyvmm.boot import acpi
from pyvmm.firmware.acpi_files import RSDP, SCRIPT, TABLES, acpi_files
from pyvmm.units import MIB


def run_script(files: dict[str, bytes], where: dict[str, int]) -> dict[str, bytearray]:
    """Do what firmware does, with the files at these addresses."""
    loaded = {name: bytearray(data) for name, data in files.items() if name != SCRIPT}
    allocated = []
    for at in range(0, len(files[SCRIPT]), 128):
        command = files[SCRIPT][at : at + 128]
        code = int.from_bytes(command[:4], "little")
        name = command[4:60].rstrip(b"\0").decode()
        if code == 1:
            allocated.append(name)
        elif code == 2:
            source = command[60:116].rstrip(b"\0").decode()
            offset, size = struct.unpack("<IB", command[116:121])
            data = loaded[name]
            value = int.from_bytes(data[offset : offset + size], "little") + where[source]
            data[offset : offset + size] = value.to_bytes(size, "little")
        else:
            assert code == 3
            offset, start, length = struct.unpack("<III", command[60:72])
            data = loaded[name]
            assert data[offset] == 0
            data[offset] = -sum(data[start : start + length]) & 0xFF
    assert sorted(allocated) == sorted(loaded)
    return loaded


def table(memory: bytes, base: int, gpa: int) -> bytes:
    at = gpa - base
    return memory[at : at + int.from_bytes(memory[at + 4 : at + 8], "little")]


@pytest.mark.parametrize("base", [0x03FFF000, 0xBFFD0040])
def test_tables_come_out_as_they_were(base: int) -> None:
    built = acpi.build_tables(64 * MIB)
    loaded = run_script(acpi_files(built), {TABLES: base, RSDP: 0xF5A00})
    image, root = bytes(loaded[TABLES]), bytes(loaded[RSDP])
    assert root[:8] == b"RSD PTR "
    assert sum(root[:20]) & 0xFF == sum(root) & 0xFF == 0
    xsdt = table(image, base, int.from_bytes(root[24:32], "little"))
    rsdt = table(image, base, int.from_bytes(root[16:20], "little"))
    assert (xsdt[:4], rsdt[:4]) == (b"XSDT", b"RSDT")
    entries = [int.from_bytes(xsdt[at : at + 8], "little") for at in range(36, len(xsdt), 8)]
    assert entries == [int.from_bytes(rsdt[at : at + 4], "little") for at in range(36, len(rsdt), 4)]
    found = {table(image, base, gpa)[:4]: table(image, base, gpa) for gpa in entries}
    fadt = found[b"FACP"]
    dsdt = table(image, base, int.from_bytes(fadt[140:148], "little"))
    assert dsdt == next(data for _, data in built.blobs if data[:4] == b"DSDT")
    facs = int.from_bytes(fadt[36:40], "little")
    assert facs % 64 == 0
    assert image[facs - base : facs - base + 4] == b"FACS"
    for data in (xsdt, rsdt, dsdt, *found.values()):
        assert sum(data) & 0xFF == 0


def test_no_acpi_no_files() -> None:
    assert acpi_files(acpi.AcpiTables(None)) == {}
