"""ACPI tables: checksums, pointers and places here; the AML by the ACPI reference compiler, out and back."""

from __future__ import annotations

import shutil
import struct
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest

from pyvmm.board import Board
from pyvmm.boot.acpi import SLEEP_TYPE_S5, AcpiTables, build_dsdt, build_hpet, build_madt, build_tables
from pyvmm.boot.e820 import e820_map
from pyvmm.devices.hpet import Hpet
from pyvmm.machine import layout
from pyvmm.units import GIB, MIB, Gpa

VARIANTS = [
    {},
    {"com_ports": 0},
    {"com_ports": 4, "mouse": True, "vga": True, "pm_timer_bits": 32},
    {"hpet": False, "apic_ids": range(255)},
    {"hpet": False, "virtio": [(0xFEB00000 + 512 * n, 16 + n) for n in range(8)]},
]


def table_at(tables: AcpiTables, gpa: int) -> bytes:
    """The table that begins at an address."""
    return dict(tables.blobs)[Gpa(gpa)]


@pytest.mark.parametrize("memory", [2 * MIB, 256 * MIB, 3 * GIB, 8 * GIB])
def test_everything_is_found_from_the_rsdp(memory: int) -> None:
    """RSDP to RSDT and XSDT to FADT and MADT, to DSDT and FACS, all checksums right (§5.2.5 to §5.2.12)."""
    tables = build_tables(memory)
    assert tables.rsdp_gpa is not None
    assert 0xE0000 <= tables.rsdp_gpa < 0x100000
    assert tables.rsdp_gpa % 16 == 0
    rsdp = table_at(tables, tables.rsdp_gpa)
    assert (rsdp[:8], rsdp[15], len(rsdp)) == (b"RSD PTR ", 2, 36)
    assert sum(rsdp[:20]) % 256 == sum(rsdp) % 256 == 0
    rsdt, length, xsdt = struct.unpack_from("<IIQ", rsdp, 16)
    assert length == 36
    roots = (table_at(tables, rsdt), table_at(tables, xsdt))
    assert [root[:4] for root in roots] == [b"RSDT", b"XSDT"]
    listed = struct.unpack("<3I", roots[0][36:])
    assert struct.unpack("<3Q", roots[1][36:]) == listed
    fadt, madt, hpet = (table_at(tables, gpa) for gpa in listed)
    assert (fadt[:4], madt[:4], hpet[:4]) == (b"FACP", b"APIC", b"HPET")
    facs_gpa, dsdt_gpa = struct.unpack_from("<II", fadt, 36)
    assert struct.unpack_from("<QQ", fadt, 132) == (0, dsdt_gpa)
    dsdt, facs = table_at(tables, dsdt_gpa), table_at(tables, facs_gpa)
    assert (facs[:4], len(facs), facs_gpa % 64) == (b"FACS", 64, 0)
    for table in (*roots, fadt, madt, hpet, dsdt):
        assert sum(table) % 256 == 0
        assert struct.unpack_from("<I", table, 4) == (len(table),)


def test_places() -> None:
    """Tables do not overlap, and are where the memory map says ACPI is: type 3, the FACS in type 4."""
    tables = build_tables(64 * MIB)
    spans = sorted((gpa, gpa + len(data)) for gpa, data in tables.blobs)
    assert all(end <= start for (_, end), (start, _) in pairwise(spans))
    rows = e820_map(64 * MIB, tables.reserved)
    for gpa, data in tables.blobs:
        kinds = [e.kind for e in rows if e.base <= gpa and gpa + len(data) <= e.base + e.size]
        assert kinds == ([] if gpa == tables.rsdp_gpa else [4] if data[:4] == b"FACS" else [3])


def test_a_machine_too_small() -> None:
    """1 MiB of RAM has no ACPI."""
    assert build_tables(1 * MIB) == AcpiTables(None, [], [])


def test_madt_structures() -> None:
    """§5.2.12: processors, the I/O APIC, the lines that are not the ISA bus's own, and the NMI of every processor."""
    madt = build_madt((0, 1, 2))
    assert struct.unpack_from("<II", madt, 36) == (layout.LOCAL_APIC_BASE, 1)
    found: dict[int, list[bytes]] = {}
    at = 44
    while at < len(madt):
        assert madt[at + 1] >= 2
        found.setdefault(madt[at], []).append(madt[at + 2 : at + madt[at + 1]])
        at += madt[at + 1]
    assert at == len(madt)
    assert [struct.unpack("<BBI", body) for body in found[0]] == [(0, 0, 1), (1, 1, 1), (2, 2, 1)]
    assert [struct.unpack("<BBII", body) for body in found[1]] == [(0, 0, layout.IO_APIC_BASE, 0)]
    overrides = {
        source: (bus, gsi, flags) for bus, source, gsi, flags in map(struct.Struct("<BBIH").unpack, found[2])
    }
    assert overrides[layout.IRQ_PIT] == (0, 2, 0)
    assert overrides[layout.IRQ_ACPI] == (0, 9, 0x0D)
    assert all(overrides[line] == (0, line, 0x0F) for line in layout.PCI_LINKS)
    assert [struct.unpack("<BHB", body) for body in found[4]] == [(0xFF, 0, 1)]


def test_hpet_fields() -> None:
    """IA-PC HPET 1.0a §3.2.4: what the device's own capabilities say, its address, and the shortest period."""
    hpet = build_hpet()
    assert (len(hpet), hpet[8]) == (56, 1)
    block, space, bits, address = struct.unpack_from("<IBBxxQ", hpet, 36)
    assert (space, bits, address) == (0, 64, layout.HPET_BASE)
    board = Board("virtual")
    device = Hpet(board, board.irq_line(0), board.irq_line(8))
    assert block == device.mmio_read(0, 0, 4)
    period_ns = device.mmio_read(0, 4, 4) / 1_000_000
    assert (hpet[52], hpet[55]) == (0, 0)
    assert struct.unpack_from("<H", hpet, 53)[0] * period_ns == 20_000
    device.close()
    board.close()
    assert all(data[:4] != b"HPET" for _, data in build_tables(64 * MIB, hpet=False).blobs)


def test_fadt_fields() -> None:
    """Registers, interrupt and flags at their offsets of §5.2.9."""
    fadt = next(data for _, data in build_tables(64 * MIB).blobs if data[:4] == b"FACP")
    assert (len(fadt), fadt[8]) == (244, 4)
    assert struct.unpack_from("<H", fadt, 46) == (layout.IRQ_ACPI,)
    assert struct.unpack_from("<IBB", fadt, 48) == (layout.ACPI_SMI_COMMAND, 0xF1, 0xF0)
    pm = layout.ACPI_PM
    assert struct.unpack_from("<IIII", fadt, 56) == (pm, 0, pm + 4, 0)
    assert struct.unpack_from("<I", fadt, 76) == (pm + 8,)
    assert tuple(fadt[88:92]) == (4, 2, 0, 4)
    assert fadt[108] == 0x32
    assert struct.unpack_from("<H", fadt, 109) == (0b111,)
    (flags,) = struct.unpack_from("<I", fadt, 112)
    assert flags == 1 << 0 | 1 << 2 | 1 << 5 | 1 << 6 | 1 << 10
    assert fadt[116:129] == bytes([1, 8, 0, 1]) + struct.pack("<QB", 0xCF9, 6)
    assert fadt[148:160] == bytes([1, 32, 0, 2]) + struct.pack("<Q", pm)
    assert fadt[172:184] == bytes([1, 16, 0, 2]) + struct.pack("<Q", pm + 4)
    assert fadt[208:220] == bytes([1, 32, 0, 3]) + struct.pack("<Q", pm + 8)


def test_s5() -> None:
    r"""\_S5 holds the SLP_TYP that powers off."""
    value = bytes([SLEEP_TYPE_S5]) if SLEEP_TYPE_S5 < 2 else bytes([0x0A, SLEEP_TYPE_S5])
    elements = value + value + b"\0\0"
    assert b"\x08\\_S5_\x12" + bytes([len(elements) + 2, 4]) + elements in build_dsdt()


@pytest.fixture
def iasl() -> str:
    """The ACPI reference compiler."""
    path = shutil.which("iasl")
    if path is None:
        pytest.skip("iasl is missing: install acpica-tools")
    return path


def run(*command: str, folder: Path) -> str:
    """Run iasl; return all that it says."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("options", VARIANTS)
def test_iasl_agrees(iasl: str, tmp_path: Path, options: dict[str, int]) -> None:
    """Each table is disassembled and compiled again without error, warning or remark."""
    for _, data in build_tables(64 * MIB, **options).blobs:  # type: ignore[arg-type]
        name = data[:4].decode()
        if name == "RSD ":
            continue  # has no table header: iasl takes it only as part of a whole dump
        (tmp_path / f"{name}.dat").write_bytes(data)
        said = run(iasl, "-d", f"{name}.dat", folder=tmp_path)
        assert not [word for word in ("Error", "Warning", "nvalid", "ncorrect") if word in said], said
        said = run(iasl, "-p", "again", f"{name}.dsl", folder=tmp_path)
        assert "0 Errors, 0 Warnings, 0 Remarks" in said, said


@pytest.mark.parametrize("options", VARIANTS)
def test_dsdt_survives_the_compiler(iasl: str, tmp_path: Path, options: dict[str, int]) -> None:
    """Compiled again without optimisation, the DSDT is the same, byte for byte, behind its header."""
    dsdt = next(data for _, data in build_tables(64 * MIB, **options).blobs if data[:4] == b"DSDT")  # type: ignore[arg-type]
    (tmp_path / "dsdt.dat").write_bytes(dsdt)
    run(iasl, "-d", "dsdt.dat", folder=tmp_path)
    run(iasl, "-oa", "-p", "again", "dsdt.dsl", folder=tmp_path)
    assert (tmp_path / "again.aml").read_bytes()[36:] == dsdt[36:]
