"""The BIOS ROM image: where it is, and the table in it that tells Python where its handlers are
(csrc/firmware/vectors.S).

The constants here are the ones that the assembly takes from Python when the ROM is built (cmake/firmware_constants.py).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROM_SIZE: Final = 0x10000
ROM_CODE: Final = 0xC000
"""Code and fixed tables start here; below is free for tables that POST places (ACPI RSDP, $PIR...)."""
ROM_SIGNATURE: Final = b"pyvmmrom"
BOOT_STACK: Final = 0x7C00
"""The stack of POST and of the boot sector grows down from 0000:7C00, where the boot sector itself is loaded."""

SERVICE_POST: Final = 0x100
"""Service numbers below 100h are interrupt numbers."""
ACTION_RETURN: Final = 0
ACTION_WAIT: Final = 1
ACTION_POLL: Final = 2

_HEADER: Final = struct.Struct("<8sHH")


@dataclass(frozen=True, slots=True)
class Rom:
    """A parsed ROM image.

    Attributes
    ----------
    data
        The 64 KiB image.
    service_port
        The port that its stubs write to.
    vectors
        Interrupt number to offset in segment F000.
    """

    data: bytes
    service_port: int
    vectors: dict[int, int]


def parse(data: bytes, name: str = "bios.bin") -> Rom:
    """Check an image and read its vector table.

    Raises
    ------
    ValueError
        When it is not a ROM of this BIOS, naming the offset.
    """
    if len(data) != ROM_SIZE:
        raise ValueError(f"{name}: {len(data)} bytes, a BIOS ROM has {ROM_SIZE}: build the firmware again")
    signature, port, count = _HEADER.unpack_from(data, ROM_CODE)
    if signature != ROM_SIGNATURE:
        raise ValueError(
            f"{name}: offset {ROM_CODE:#x}: no {ROM_SIGNATURE.decode()!r} signature: build the firmware again"
        )
    table = ROM_CODE + _HEADER.size
    if not 0 < count <= 256 or table + 4 * count > ROM_SIZE:
        raise ValueError(
            f"{name}: offset {ROM_CODE + 10:#x}: {count} vectors, expected 1 to 256: build the firmware again"
        )
    pairs = (struct.unpack_from("<HH", data, table + 4 * i) for i in range(count))
    return Rom(data, port, {vector & 0xFF: offset for vector, offset in pairs})


def load() -> Rom:
    """The ROM that was built with the package.

    Raises
    ------
    FileNotFoundError
        When the package was not built with its firmware.
    """
    from pyvmm import firmware

    for folder in firmware.__path__:
        path = Path(folder) / "bios.bin"
        if path.is_file():
            return parse(path.read_bytes(), str(path))
    raise FileNotFoundError("pyvmm/firmware/bios.bin is missing: install the package again (pip install .)")
