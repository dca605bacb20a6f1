"""The MP table: processors, I/O APIC and interrupt lines for systems that do not read ACPI.

Source: MultiProcessor Specification 1.4, chapters 4 (the structures) and 5 (default wiring). It says what the MADT and
the _PRT say (`pyvmm.boot.acpi`): ISA lines on the I/O APIC's input of their number except the timer's, PCI pins where
the board's links are routed at reset. Left out: the extended entries (§4.4), which describe address spaces.

Placing: the floating pointer is at the start of the BIOS segment, where it is searched for (§4); the configuration
table follows the RSDP, in memory that the map does not give away.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from pyvmm.machine import layout
from pyvmm.units import Gpa

if TYPE_CHECKING:
    from collections.abc import Sequence

_PROCESSOR, _BUS, _IO_APIC, _IO_INTERRUPT, _LOCAL_INTERRUPT = range(5)
_INT, _NMI, _SMI, _EXT_INT = range(4)
"""Interrupt types (table 4-10)."""
_PCI_BUS, _ISA_BUS = 0, 1
_CONFORMS: Final = 0
_LEVEL_HIGH: Final = 0x0D
_LEVEL_LOW: Final = 0x0F
_ENABLED, _BOOTSTRAP = 1, 2
_SIGNATURE: Final = 0x600
_FEATURES: Final = 0x201
"""FPU and APIC: of CPUID leaf 1 EDX. The guest asks CPUID for more."""
_APIC_VERSION: Final = 0x14
_IO_APIC_VERSION: Final = 0x20
_CASCADE: Final = 2
_ALL_APICS: Final = 0xFF


def build_mp_table(apic_ids: Sequence[int], *, pci: bool = True) -> list[tuple[Gpa, bytes]]:
    """The floating pointer and the configuration table, with the addresses that they go to.

    Parameters
    ----------
    apic_ids
        Of each processor; the first one is the bootstrap processor's.
    pci
        Whether there is a PCI bus.
    """
    entries = [
        struct.pack(
            "<BBBBIIQ",
            _PROCESSOR,
            apic_id,
            _APIC_VERSION,
            _ENABLED | (_BOOTSTRAP if index == 0 else 0),
            _SIGNATURE,
            _FEATURES,
            0,
        )
        for index, apic_id in enumerate(apic_ids)
    ]
    if pci:
        entries.append(struct.pack("<BB6s", _BUS, _PCI_BUS, b"PCI   "))
    entries.append(struct.pack("<BB6s", _BUS, _ISA_BUS, b"ISA   "))
    entries.append(
        struct.pack("<BBBBI", _IO_APIC, layout.IO_APIC_ID, _IO_APIC_VERSION, 1, layout.IO_APIC_BASE)
    )
    entries += [_line(*line) for line in (*(_pci_lines() if pci else ()), *_isa_lines(pci))]
    entries.append(_local(_EXT_INT, 0))
    entries.append(_local(_NMI, 1))
    return [(layout.MP_POINTER, _pointer()), (layout.MP_TABLE, _table(entries))]


def _pci_lines() -> list[tuple[int, int, int, int]]:
    """(flags, bus, source, I/O APIC input) of each pin of each slot (§D.3)."""
    return [
        (_LEVEL_LOW, _PCI_BUS, slot << 2 | pin, layout.PCI_LINKS[layout.pci_link(slot, pin)])
        for slot in range(1, 32)
        for pin in range(4)
    ]


def _isa_lines(pci: bool) -> list[tuple[int, int, int, int]]:
    lines = []
    for irq in range(16):
        if irq == _CASCADE or (pci and irq in layout.PCI_LINKS):
            continue
        flags = _LEVEL_HIGH if pci and irq == layout.IRQ_ACPI else _CONFORMS
        lines.append((flags, _ISA_BUS, irq, layout.IO_APIC_TIMER_INPUT if irq == layout.IRQ_PIT else irq))
    return lines


def _line(flags: int, bus: int, source: int, pin: int) -> bytes:
    return struct.pack("<BBHBBBB", _IO_INTERRUPT, _INT, flags, bus, source, layout.IO_APIC_ID, pin)


def _local(kind: int, pin: int) -> bytes:
    """LINT0 and LINT1 of every processor (§5.1)."""
    return struct.pack("<BBHBBBB", _LOCAL_INTERRUPT, kind, _CONFORMS, _ISA_BUS, 0, _ALL_APICS, pin)


def _pointer() -> bytes:
    """The floating pointer structure (§4.1): a table is there, and no IMCR."""

    def pack(check: int) -> bytes:
        return struct.pack("<4sIBBB5x", b"_MP_", layout.MP_TABLE, 1, 4, check)

    return pack(-sum(pack(0)) & 0xFF)


def _table(entries: list[bytes]) -> bytes:
    """Header (§4.2) and entries."""
    body = b"".join(entries)

    def pack(check: int) -> bytes:
        return struct.pack(
            "<4sHBB8s12sIHHIHBB", b"PCMP", 44 + len(body), 4, check, b"PYVMM   ", b"PC          ",
            0, 0, len(entries), layout.LOCAL_APIC_BASE, 0, 0, 0,
        )  # fmt: skip

    return pack(-sum(pack(0) + body) & 0xFF) + body
