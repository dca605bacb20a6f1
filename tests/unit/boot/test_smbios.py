"""SMBIOS: the entry point and structures here; the whole by dmidecode, which knows the specification by heart."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from pyvmm.boot import smbios
from pyvmm.machine import layout
from pyvmm.units import GIB, KIB, MIB

UUID = "12345678-9abc-def0-1234-56789abcdef0"


def test_entry_point() -> None:
    """DSP0134 2.8.0 §5.2.1: both checksums, the table's length, the largest structure, how many there are."""
    structures = smbios.build_structures(256 * MIB)
    anchor = smbios.build_entry_point(structures, 0xE8000)
    assert (len(anchor), anchor[:4], anchor[0x10:0x15]) == (31, b"_SM_", b"_DMI_")
    assert sum(anchor) % 256 == sum(anchor[0x10:]) % 256 == 0
    assert (anchor[5], anchor[6], anchor[7], anchor[0x1E]) == (31, 2, 8, 0x28)
    assert struct.unpack_from("<H", anchor, 8) == (max(map(len, structures)),)
    assert struct.unpack_from("<HIH", anchor, 0x16) == (sum(map(len, structures)), 0xE8000, len(structures))


def test_strings() -> None:
    """§6.1.3: numbered from 1 in their order, the set ends with an empty one; without any it is two zero bytes."""
    made = smbios.structure(9, 0x1234, "BHBB", "one", 0xABCD, "", "two")
    assert made == b"\x09\x09\x34\x12" + b"\x01\xcd\xab\x00\x02" + b"one\0two\0\0"
    assert smbios.structure(127, 0, "") == b"\x7f\x04\0\0\0\0"
    assert smbios.structure(9, 0, "B", "a\0b\u00e9")[5:] == b"a b?\0\0"


def test_uuid() -> None:
    """§7.2.1, table 10: 00112233-4455-6677-8899-AABBCCDDEEFF is stored as 33 22 11 00 55 44 77 66 88 99 AA ... FF."""
    stored = smbios.parse_uuid("00112233-4455-6677-8899-AABBCCDDEEFF")
    assert stored == bytes.fromhex("33221100554477668899AABBCCDDEEFF")
    for text in (
        "",
        "1234",
        UUID + "0",
        UUID.replace("-", "+"),
        UUID.replace("a", "g"),
        UUID.replace("9a", " 9"),
    ):
        with pytest.raises(ValueError, match=r"UUID|hexadecimal"):
            smbios.parse_uuid(text)


def test_places() -> None:
    """Where they are searched for, and within the room between the MP table and the BIOS."""
    placed = dict(smbios.place(smbios.build_structures(256 * GIB, sockets=255, name="n" * 100)))
    assert layout.SMBIOS_ENTRY % 16 == 0
    assert layout.SMBIOS_TABLE + len(placed[layout.SMBIOS_TABLE]) <= layout.BIOS_BASE


@pytest.mark.parametrize(
    ("memory", "size"),
    [
        (1 * MIB, "1 MB"),
        (20 * MIB + 4 * KIB, "20484 kB"),
        (300 * MIB, "300 MB"),
        (8 * GIB, "8 GB"),
        (256 * GIB, "256 GB"),
    ],
)
def test_dmidecode_has_nothing_to_complain_about(tmp_path: Path, memory: int, size: int) -> None:
    """Every structure is decoded, with our values, and without a word on bad lengths, values or checksums."""
    program = shutil.which("dmidecode", path="/usr/sbin:/usr/bin:/sbin:/bin")
    if program is None:
        pytest.skip("dmidecode is missing: install dmidecode")
    structures = smbios.build_structures(memory, sockets=2, cores=3, threads=2, name="vm1", uuid=UUID)
    # dmidecode's own dump format: the entry point at 0, the table at 32
    dump = smbios.build_entry_point(structures, 32).ljust(32, b"\0") + b"".join(structures)
    (tmp_path / "dump").write_bytes(dump)
    done = subprocess.run(
        [program, "--from-dump", str(tmp_path / "dump")], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    said = done.stdout
    for bad in ("rong", "nvalid", "BAD INDEX", "OUT OF SPEC", "truncated", "roken"):
        assert bad not in said, said
    assert "SMBIOS 2.8 present." in said
    assert f"{len(structures)} structures" in said
    assert said.count("Processor Information") == 2
    for line in (
        f"UUID: {UUID}",
        "Asset Tag: vm1",
        "Core Count: 3",
        "Thread Count: 6",
        "Status: Populated, Enabled",
        "64-bit capable",
        "ACPI is supported",
        "System is a virtual machine",
        f"Size: {size}",
        f"Maximum Capacity: {size}",
        "Number Of Devices: 1",
        "Type: RAM",
        "Wake-up Type: Power Switch",
        "Status: No errors detected",
        "End Of Table",
    ):
        assert line in said, (line, said)
    assert said.count("Memory Array Mapped Address") == (2 if memory > layout.PCI_HOLE_BASE else 1)
