"""SMBIOS 2.8: what the machine says of itself (manufacturer, UUID, processors, memory), as `dmidecode` shows it.

Source: DMTF DSP0134 2.8.0 §5.2.1 (entry point), §6.1.2 (structure header), §6.1.3 (strings) and §7 (structures): BIOS
(type 0), system (1), chassis (3), a processor for each socket (4), memory array (16), device (17) and mapped addresses
(19), boot (32), end of table (127). Left out: base board, caches, slots and connectors, which nothing is soldered to;
the processor's ID and speed in hertz, which CPUID tells.

Placing: the entry point is in the BIOS segment, where it is searched for on 16-byte boundaries; the structures are in
the segment before it, in memory that the map does not give away. Firmware of others gets both by fw_cfg, and places
them itself.
"""

from __future__ import annotations

import struct
from typing import Final

from pyvmm.machine import layout
from pyvmm.units import KIB, MIB, Gpa

MANUFACTURER: Final = "pyvmm"
PRODUCT: Final = "PC"
VERSION: Final = "1"
RELEASE_DATE: Final = "01/01/2014"
"""Of the board's BIOS, as guests see it.

Quirk: from 2015 on (Intel), or 2021 on (AMD), Linux takes the RTC's alarm by ACPI's fixed event, which the power
management here lacks (FADT: FIX_RTC_ABSENT); on an older board it comes as IRQ 8 (tests/boot/test_linux_board.py).
"""
ANCHOR_FILE: Final = "etc/smbios/smbios-anchor"
TABLES_FILE: Final = "etc/smbios/smbios-tables"

_ENTRY_SIZE: Final = 0x1F
_NONE: Final = 0xFFFF
_NO_ERRORS: Final = 0xFFFE
"""Memory error information: no handle is provided (§7.17, §7.18)."""
_SYSTEM, _CHASSIS, _PROCESSOR, _ARRAY, _DEVICE, _MAPPED, _BOOT, _END = (
    0x0100, 0x0300, 0x0400, 0x1000, 0x1100, 0x1300, 0x2000, 0x7F00,
)  # fmt: skip
"""Handles: of the first one of a type."""

# §7.1.1: PCI, boot from CD, selectable boot, EDD; §7.1.2: ACPI; target content distribution, virtual machine
_BIOS_CHARACTERISTICS: Final = 1 << 7 | 1 << 15 | 1 << 16 | 1 << 19
_BIOS_EXTENSIONS: Final = (1 << 0, 1 << 2 | 1 << 4)
_POWER_SWITCH: Final = 6
_OTHER, _UNKNOWN = 1, 2
_SAFE: Final = 3
_MAPPED_RAM: Final = 7


def structure(kind: int, handle: int, formatted: str, *fields: object) -> bytes:
    """A structure: header, fields, strings.

    Parameters
    ----------
    formatted
        The fields after the header, as `struct` has them, without byte order. A string is a number in the structure
        (B), and its text is added after it; the empty string is number 0.
    """
    strings: list[bytes] = []

    def number(text: str) -> int:
        encoded = text.encode("ascii", "replace")[:64].replace(b"\0", b" ")
        if not encoded:
            return 0
        strings.append(encoded)
        return len(strings)

    values = [number(field) if isinstance(field, str) else field for field in fields]
    body = struct.pack("<" + formatted, *values)
    return (
        struct.pack("<BBH", kind, 4 + len(body), handle)
        + body
        + (b"".join(string + b"\0" for string in strings) or b"\0")
        + b"\0"
    )


def parse_uuid(text: str) -> bytes:
    """The 16 bytes of a UUID as SMBIOS has them: the first three fields are little-endian (§7.2.1).

    Raises
    ------
    ValueError
        `text` is not of the form 8-4-4-4-12 hexadecimal digits.
    """
    parts = text.split("-")
    if [len(part) for part in parts] != [8, 4, 4, 4, 12] or not all(part.isalnum() for part in parts):
        raise ValueError(f"{text!r} is not a UUID")
    fields = [bytes.fromhex(part) for part in parts]
    return b"".join([*(field[::-1] for field in fields[:3]), *fields[3:]])


def build_structures(
    memory_size: int,
    *,
    sockets: int = 1,
    cores: int = 1,
    threads: int = 1,
    name: str = "",
    uuid: str | None = None,
    with_bios: bool = True,
) -> list[bytes]:
    """All structures, each on its own.

    Parameters
    ----------
    memory_size
        RAM in bytes.
    sockets, cores, threads
        Processors, cores in each, threads in each core.
    name
        The machine's, shown as the chassis' asset tag.
    uuid
        None: it has none.
    with_bios
        Whether the BIOS is ours to describe.
    """
    bios = structure(
        0, 0, "BBHBBQBBBBBB", MANUFACTURER, VERSION, layout.BIOS_BASE >> 4, RELEASE_DATE, 0, _BIOS_CHARACTERISTICS,
        *_BIOS_EXTENSIONS, 0xFF, 0xFF, 0xFF, 0xFF,
    )  # fmt: skip
    return [
        *([bios] if with_bios else []),
        structure(
            1, _SYSTEM, "BBBB16sBBB", MANUFACTURER, PRODUCT, VERSION, "",
            bytes(16) if uuid is None else parse_uuid(uuid), _POWER_SWITCH, "", "Virtual Machine",
        ),
        structure(
            3, _CHASSIS, "BBBBBBBBBIBBBBB", MANUFACTURER, _OTHER, VERSION, "", name, _SAFE, _SAFE, _SAFE, _UNKNOWN,
            0, 0, 0, 0, 0, "",
        ),
        *(_processor(socket, cores, threads) for socket in range(sockets)),
        *_memory(memory_size),
        structure(32, _BOOT, "6xB", 0),
        structure(127, _END, ""),
    ]  # fmt: skip


def _processor(socket: int, cores: int, threads: int) -> bytes:
    """§7.5: a central processor, populated and enabled, 64 bits; its speed is not said, and it has no cache of ours."""
    return structure(
        4, _PROCESSOR + socket, "BBBBQBBHHHBBHHHBBBBBBHH", f"CPU {socket}", 3, _OTHER, MANUFACTURER, 0, VERSION, 0,
        0, 0, 0, 0x41, _OTHER, _NONE, _NONE, _NONE, "", "", "", min(cores, 255), min(cores, 255),
        min(cores * threads, 255), 1 << 2, 0,
    )  # fmt: skip


def _memory(size: int) -> list[bytes]:
    """One device of all RAM, and where its parts are (§7.17, §7.18, §7.20). Sizes of the array are in KiB."""
    array = structure(16, _ARRAY, "BBBIHHQ", 3, 3, 3, size // KIB, _NO_ERRORS, 1, 0)
    if size % MIB and size < 32 * MIB:
        short, extended = 0x8000 | size // KIB, 0
    elif size < 0x7FFF * MIB:
        short, extended = size // MIB, 0
    else:
        short, extended = 0x7FFF, size // MIB
    device = structure(
        17, _DEVICE, "HHHHHBBBBBHHBBBBBIHHHH", _ARRAY, _NO_ERRORS, 64, 64, short, 9, 0, "DIMM 0", "", 7, _UNKNOWN,
        0, MANUFACTURER, "", "", "", 0, extended, 0, 0, 0, 0,
    )  # fmt: skip
    below = min(size, layout.PCI_HOLE_BASE)
    ranges = [(0, below)] + (
        [(layout.ABOVE_4G_BASE, layout.ABOVE_4G_BASE + size - below)] if size > below else []
    )
    mapped = [
        structure(19, _MAPPED + index, "IIHBQQ", start // KIB, end // KIB - 1, _ARRAY, 1, 0, 0)
        for index, (start, end) in enumerate(ranges)
    ]
    return [array, device, *mapped]


def build_entry_point(structures: list[bytes], address: int) -> bytes:
    """The 2.1 entry point, 31 bytes: the first checksum is over all of it, the second from ``_DMI_`` on (§5.2.1)."""
    length = sum(map(len, structures))
    anchor = bytearray(
        struct.pack(
            "<4sBBBBHB5x5sBHIHB", b"_SM_", 0, _ENTRY_SIZE, 2, 8, max(map(len, structures)), 0, b"_DMI_", 0, length,
            address, len(structures), 0x28,
        )
    )  # fmt: skip
    anchor[0x15] = -sum(anchor[0x10:]) & 0xFF
    anchor[4] = -sum(anchor) & 0xFF
    return bytes(anchor)


def place(structures: list[bytes]) -> list[tuple[Gpa, bytes]]:
    """Entry point and table, with the addresses that they go to."""
    table = b"".join(structures)
    return [
        (layout.SMBIOS_ENTRY, build_entry_point(structures, layout.SMBIOS_TABLE)),
        (layout.SMBIOS_TABLE, table),
    ]


def smbios_files(structures: list[bytes]) -> dict[str, bytes]:
    """fw_cfg files for firmware that places the table itself, and then changes the entry point's address."""
    return {ANCHOR_FILE: build_entry_point(structures, 0), TABLES_FILE: b"".join(structures)}
