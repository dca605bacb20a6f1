"""The MP table, read back by the MultiProcessor Specification 1.4, chapter 4; Linux reads it in tests/boot."""

from __future__ import annotations

import struct

import pytest

from pyvmm.boot.acpi import build_madt
from pyvmm.boot.e820 import E820_RAM, e820_map
from pyvmm.boot.mp import build_mp_table
from pyvmm.cpu.topology import Topology
from pyvmm.firmware.post import TABLE_AREA
from pyvmm.machine import layout
from pyvmm.units import MIB

SIZES = {0: 20, 1: 8, 2: 8, 3: 8, 4: 8}


def entries(table: bytes) -> list[bytes]:
    """The base table's entries (table 4-3)."""
    found, at = [], 44
    while at < len(table):
        size = SIZES[table[at]]
        found.append(table[at : at + size])
        at += size
    return found


@pytest.mark.parametrize("ids", [[0], [0, 1, 2, 3], Topology(2, 3, 1).apic_ids(), list(range(255))])
def test_structures(ids: list[int]) -> None:
    """Checksums, lengths, counts; one bootstrap processor; nothing lies where the guest has RAM."""
    (pointer_gpa, pointer), (table_gpa, table) = build_mp_table(ids)
    assert pointer[:4] == b"_MP_"
    assert (len(pointer), pointer[8], pointer[9]) == (16, 1, 4)
    assert struct.unpack_from("<I", pointer, 4) == (table_gpa,)
    assert pointer_gpa % 16 == 0
    start, size = TABLE_AREA
    assert start <= pointer_gpa <= start + size - 16
    assert table[:4] == b"PCMP"
    assert sum(pointer) % 256 == sum(table) % 256 == 0
    length, revision, _, _, _, _, _, count, lapic = struct.unpack_from("<HBB8s12sIHHI", table, 4)
    assert (length, revision, lapic) == (len(table), 4, layout.LOCAL_APIC_BASE)
    found = entries(table)
    assert len(found) == count
    processors = [entry for entry in found if entry[0] == 0]
    assert [entry[1] for entry in processors] == ids
    assert [entry[3] for entry in processors] == [3] + [1] * (len(ids) - 1)
    assert table_gpa >= layout.ACPI_RSDP + 36
    assert table_gpa + len(table) <= layout.BIOS_BASE
    assert not any(
        entry.kind == E820_RAM and entry.base < table_gpa + len(table) and table_gpa < entry.end
        for entry in e820_map(64 * MIB)
    )


def test_wiring() -> None:
    """Every PCI pin is where the board's link is routed, level and low; ISA's timer is on input 2; the SCI is level."""
    found = entries(build_mp_table([0])[1][1])
    buses = {entry[1]: entry[2:] for entry in found if entry[0] == 1}
    assert buses == {0: b"PCI   ", 1: b"ISA   "}
    lines = {
        (entry[4], entry[5]): (struct.unpack_from("<H", entry, 2)[0], entry[7])
        for entry in found
        if entry[0] == 3
    }
    for slot in range(1, 32):
        for pin in range(4):
            assert lines[0, slot << 2 | pin] == (0xF, layout.PCI_LINKS[layout.pci_link(slot, pin)])
    assert lines[1, 0] == (0, 2)
    assert lines[1, 9] == (0xD, 9)
    assert lines[1, 4] == (0, 4)
    inputs = [pin for (bus, _), (_, pin) in lines.items() if bus == 1]
    assert len(inputs) == len(set(inputs))
    assert not set(inputs) & set(layout.PCI_LINKS)
    assert [(entry[1], entry[6], entry[7]) for entry in found if entry[0] == 4] == [
        (3, 0xFF, 0),
        (1, 0xFF, 1),
    ]


def test_madt_has_the_same_processors() -> None:
    """APIC IDs follow the topology (ACPI 6.5 §5.2.12.2)."""
    ids = Topology(2, 3, 1).apic_ids()
    madt, at, found = build_madt(ids), 44, []
    while at < len(madt):
        if madt[at] == 0:
            found.append((madt[at + 2], madt[at + 3]))
        at += madt[at + 1]
    assert found == list(enumerate(ids))
