"""AML encodings against the byte values of ACPI 6.5 §20.2 and §6.4."""

from __future__ import annotations

import pytest

from pyvmm.boot import aml


@pytest.mark.parametrize(
    ("path", "encoded"),
    [
        ("PCI0", b"PCI0"),
        ("_HID", b"_HID"),
        ("A", b"A___"),
        ("\\", b"\\\0"),
        (r"\_SB", rb"\_SB_"),
        ("^^LNKA", b"^^LNKA"),
        ("PCI0.ISA", b"\x2ePCI0ISA_"),
        (r"\_SB.PCI0.ISA", b"\\\x2f\x03_SB_PCI0ISA_"),
    ],
)
def test_names(path: str, encoded: bytes) -> None:
    """§20.2.2."""
    assert aml.name_string(path) == encoded


@pytest.mark.parametrize("path", ["LNKAB", "lnka", "A-B", "PCI0.\xc4"])
def test_bad_names(path: str) -> None:
    """Not a name segment."""
    with pytest.raises(ValueError, match="is not an ACPI name segment"):
        aml.name_string(path)


@pytest.mark.parametrize(
    ("length", "encoded"),
    [
        (0, "00"),
        (0x3F, "3f"),
        (0x40, "4004"),
        (0xFFF, "4fff"),
        (0x1000, "800001"),
        (0xFFFFF, "8fffff"),
        (0x100000, "c0000001"),
    ],
)
def test_lengths(length: int, encoded: str) -> None:
    """§20.2.4: up to 6 bits in one byte, else 4 bits and one to three bytes."""
    assert aml.encode_length(length).hex() == encoded


@pytest.mark.parametrize("size", [0, 1, 62, 63, 64, 4092, 4093, 4094, 4095, 70000, 1 << 20])
def test_a_length_counts_itself(size: int) -> None:
    """What is decoded again is the whole size."""
    data = aml.with_length(bytes(size))
    extra = data[0] >> 6
    length = data[0] & (0x0F if extra else 0x3F)
    length |= int.from_bytes(data[1 : 1 + extra], "little") << 4 if extra else 0
    assert length == len(data) == size + extra + 1


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        (0, "00"),
        (1, "01"),
        (2, "0a02"),
        (0xFF, "0aff"),
        (0x100, "0b0001"),
        (0x10000, "0c00000100"),
        (1 << 32, "0e0000000001000000"),
    ],
)
def test_integers(value: int, encoded: str) -> None:
    """§20.2.3."""
    assert aml.integer(value).hex() == encoded


@pytest.mark.parametrize("value", [-1, 1 << 64])
def test_integers_out_of_range(value: int) -> None:
    """64 bits at most."""
    with pytest.raises(ValueError, match="does not fit"):
        aml.integer(value)


def test_eisa_ids() -> None:
    """§19.3.4: PNP0A03 is 0x030AD041."""
    assert aml.eisa_id("PNP0A03") == b"\x0c\x41\xd0\x0a\x03"
    assert aml.eisa_id("PNP0C0F") == b"\x0c\x41\xd0\x0c\x0f"
    assert aml.eisa_id("PNP0000") == b"\x0b\x41\xd0"


def test_resources() -> None:
    """§6.4: tags, lengths, flags."""
    assert aml.resource_template(aml.irq_edge(4)).hex() == "1108" + "0a05" + "221000" + "7900"
    assert aml.irq_level(10, 11).hex() == "23000c18"
    assert aml.io_ports(0x3F8, 8).hex() == "4701f803f8030108"
    assert (
        aml.address_range(aml.BUS_RANGE, 0, 255, 0, bits=16).hex()
        == "880d00" + "020c00" + "00000000ff0000000001"
    )
    wide = aml.address_range(aml.MEMORY_RANGE, 1 << 39, (1 << 40) - 1, 1, bits=64)
    assert wide[:6].hex() == "8a2b00000c01"
    assert len(wide) == 0x2B + 3
