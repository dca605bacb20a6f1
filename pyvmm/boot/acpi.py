"""ACPI tables of the PC: RSDP, RSDT, XSDT, FADT, MADT, HPET, FACS and a DSDT in AML.

Source: ACPI 6.5 §5.2.5 (RSDP), §5.2.7-8 (RSDT, XSDT), §5.2.9 (FADT; revision 4 is ACPI 3.0's, which every ACPI
system of this century reads), §5.2.10 (FACS), §5.2.12 (MADT), chapter 6 (devices); IA-PC HPET 1.0a §3.2.4 (HPET);
PIIX3 §2.2.12 for PIRQRC; PCI Firmware 3.0 §4. The tables describe what `pyvmm.machine.layout` says and no more. The
PCI links go through the ISA bridge to ISA IRQs, which are inputs of the 8259s and of the I/O APIC alike: the routing is
the same whichever the guest chooses, and a _PIC method would have nothing to do. Left out: MCFG (there is no ECAM),
sleep states other than S5, processors in the DSDT and thermal zones.

Placing: the RSDP is in the area that is searched for it, 0xE0000; the tables are at the end of RAM below 4 GiB, as E820
type 3 (reclaimable), and the FACS, which guests write, in a page after them, as type 4 (NVS).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from pyvmm.boot import aml
from pyvmm.boot.e820 import E820_ACPI, E820_NVS, E820Entry
from pyvmm.machine import layout
from pyvmm.units import KIB, MIB, Gpa

OEM_ID: Final = b"PYVMM "
OEM_TABLE_ID: Final = b"PYVMMPC "
PAGE: Final = 4096
MIN_MEMORY: Final = 2 * MIB
"""With less RAM there is no room above 1 MiB for tables, and the machine has no ACPI."""

SLEEP_TYPE_S5: Final = layout.ACPI_SLEEP_TYPE_S5
ACPI_ENABLE: Final = layout.ACPI_ENABLE
ACPI_DISABLE: Final = layout.ACPI_DISABLE
PM_TIMER_BITS: Final = layout.ACPI_PM_TIMER_BITS
"""What the power management device is made with."""
RTC_CENTURY: Final = 0x32
"""Where the RTC keeps the century (csrc/devices/mc146818.c)."""
RESET_VALUE: Final = 0x06
"""System reset and CPU reset bits of port 0xCF9 (PIIX3 §2.5.5)."""

# FADT flags (§5.2.9, table 5.10)
WBINVD: Final = 1 << 0
PROC_C1: Final = 1 << 2
SLP_BUTTON_ABSENT: Final = 1 << 5
FIX_RTC_ABSENT: Final = 1 << 6
TMR_VAL_EXT: Final = 1 << 8
RESET_REG_SUP: Final = 1 << 10
# IAPC_BOOT_ARCH (table 5.11)
LEGACY_DEVICES: Final = 1 << 0
HAS_8042: Final = 1 << 1
NO_VGA: Final = 1 << 2

# MADT (§5.2.12): the 8259s are there too; MPS INTI flags (table 5.26)
MADT_PCAT_COMPAT: Final = 1 << 0
MADT_BUS_DEFAULT: Final = 0
MADT_LEVEL_HIGH: Final = 0x0D
MADT_LEVEL_LOW: Final = 0x0F

HPET_BLOCK_ID: Final = 0x8086A201
"""Low half of the HPET's capabilities (csrc/devices/hpet.h)."""
HPET_MIN_TICKS: Final = 2000
"""Ticks of a period that loses no interrupt: 20 µs."""

VIRTIO_MMIO_SIZE: Final = 512

LINKS: Final = ("LNKA", "LNKB", "LNKC", "LNKD")
LINK_REGISTERS: Final = ("PRQA", "PRQB", "PRQC", "PRQD")
PIRQRC: Final = 0x60
PIRQRC_DISABLED: Final = 0x80


@dataclass(frozen=True, slots=True)
class AcpiTables:
    """Tables to be loaded: `rsdp_gpa` is None, and the lists empty, on a machine too small for ACPI."""

    rsdp_gpa: Gpa | None
    blobs: list[tuple[Gpa, bytes]] = field(default_factory=list)
    reserved: list[E820Entry] = field(default_factory=list)


def build_tables(
    memory_size: int,
    *,
    apic_ids: Sequence[int] = (0,),
    com_ports: int = 1,
    mouse: bool = True,
    vga: bool = False,
    hpet: bool = True,
    floppy: bool = False,
    pm_timer_bits: int = PM_TIMER_BITS,
    virtio: Sequence[tuple[int, int]] | None = None,
) -> AcpiTables:
    """Build all tables for a machine and say where they go.

    Parameters
    ----------
    memory_size
        RAM in bytes.
    apic_ids
        Of each processor, the first one's first.
    com_ports
        How many of the serial ports in `layout.COM_PORTS` exist, 0 to 4.
    mouse
        Whether the i8042 has a mouse on its second port.
    vga
        Whether there is a VGA.
    hpet
        Whether there is an HPET.
    floppy
        Whether there is a floppy disk controller.
    pm_timer_bits
        Width of the ACPI PM timer, 24 (PIIX4) or 32.
    virtio
        On a machine without PCI and without an i8042, its memory-mapped virtio devices: address and GSI of each.
    """
    if memory_size < MIN_MEMORY:
        return AcpiTables(None)
    top = min(memory_size, layout.PCI_HOLE_BASE) & ~(PAGE - 1)
    facs_gpa = top - PAGE
    if virtio is None:
        dsdt = build_dsdt(com_ports=com_ports, mouse=mouse, hpet=hpet, floppy=floppy)
    else:
        dsdt = build_dsdt_without_pci(virtio, com_ports=com_ports)
    madt = build_madt(apic_ids, pci=virtio is None)
    room = (len(dsdt) + len(madt) + 4 * KIB + PAGE - 1) & ~(PAGE - 1)
    base = facs_gpa - room

    blobs: list[tuple[Gpa, bytes]] = []
    cursor = base

    def place(table: bytes) -> int:
        nonlocal cursor
        where, cursor = cursor, (cursor + len(table) + 63) & ~63
        blobs.append((Gpa(where), table))
        return where

    dsdt_gpa = place(dsdt)
    fadt = build_fadt(facs_gpa, dsdt_gpa, vga=vga, i8042=virtio is None, pm_timer_bits=pm_timer_bits)
    fadt_gpa = place(fadt)
    listed = [fadt_gpa, place(madt)]
    if hpet:
        listed.append(place(build_hpet()))
    rsdt_gpa = place(build_table(b"RSDT", 1, struct.pack(f"<{len(listed)}I", *listed)))
    xsdt_gpa = place(build_table(b"XSDT", 1, struct.pack(f"<{len(listed)}Q", *listed)))
    blobs.append((Gpa(facs_gpa), build_facs()))
    blobs.append((layout.ACPI_RSDP, build_rsdp(rsdt_gpa, xsdt_gpa)))
    reserved = [E820Entry(base, room, E820_ACPI), E820Entry(facs_gpa, PAGE, E820_NVS)]
    return AcpiTables(layout.ACPI_RSDP, blobs, reserved)


def checksum(data: bytes | bytearray) -> int:
    """Return the byte that makes the sum of all bytes 0 modulo 256."""
    return -sum(data) & 0xFF


def build_table(signature: bytes, revision: int, body: bytes) -> bytes:
    """Return a system description table: the common header (§5.2.6) and `body`."""

    def header(check: int) -> bytes:
        return struct.pack(
            "<4sIBB6s8sI4sI", signature, 36 + len(body), revision, check, OEM_ID, OEM_TABLE_ID, 1, b"PYVM", 1
        )

    return header(checksum(header(0) + body)) + body


def build_rsdp(rsdt_gpa: int, xsdt_gpa: int) -> bytes:
    """Return the root pointer, revision 2: the first checksum covers 20 bytes, the second all 36 (§5.2.5.3)."""
    first = bytearray(struct.pack("<8sB6sBI", b"RSD PTR ", 0, OEM_ID, 2, rsdt_gpa))
    first[8] = checksum(first)
    whole = first + bytearray(struct.pack("<IQB3x", 36, xsdt_gpa, 0))
    whole[32] = checksum(whole)
    return bytes(whole)


def build_facs() -> bytes:
    """Return the firmware control structure, version 1, global lock free; it has no checksum (§5.2.10)."""
    return struct.pack("<4sIIIIIQB31x", b"FACS", 64, 0, 0, 0, 0, 0, 1)


def io_register(port: int, bits: int, access: int) -> bytes:
    """Return a generic address structure of an I/O register; access 1 byte, 2 word, 3 double word (§5.2.3.2)."""
    return struct.pack("<BBBBQ", 1, bits, 0, access, port)


def build_fadt(
    facs_gpa: int,
    dsdt_gpa: int,
    *,
    vga: bool = False,
    i8042: bool = True,
    pm_timer_bits: int = PM_TIMER_BITS,
) -> bytes:
    """Return the fixed description table of revision 4, 244 bytes (§5.2.9)."""
    event, control, timer = layout.ACPI_PM, layout.ACPI_PM + 4, layout.ACPI_PM + 8
    flags = WBINVD | PROC_C1 | SLP_BUTTON_ABSENT | FIX_RTC_ABSENT | RESET_REG_SUP
    flags |= TMR_VAL_EXT if pm_timer_bits == 32 else 0
    boot_arch = LEGACY_DEVICES | (HAS_8042 if i8042 else 0) | (0 if vga else NO_VGA)
    absent = bytes(12)
    fields: list[tuple[str, int | bytes]] = [
        ("I", facs_gpa),  # FIRMWARE_CTRL
        ("I", dsdt_gpa),  # DSDT
        ("B", 0),  # reserved
        ("B", 1),  # Preferred_PM_Profile: desktop
        ("H", layout.IRQ_ACPI),  # SCI_INT
        ("I", layout.ACPI_SMI_COMMAND),  # SMI_CMD
        ("B", ACPI_ENABLE),
        ("B", ACPI_DISABLE),
        ("B", 0),  # S4BIOS_REQ
        ("B", 0),  # PSTATE_CNT
        ("I", event),  # PM1a_EVT_BLK
        ("I", 0),  # PM1b_EVT_BLK
        ("I", control),  # PM1a_CNT_BLK
        ("I", 0),  # PM1b_CNT_BLK
        ("I", 0),  # PM2_CNT_BLK
        ("I", timer),  # PM_TMR_BLK
        ("I", 0),  # GPE0_BLK
        ("I", 0),  # GPE1_BLK
        ("B", 4),  # PM1_EVT_LEN
        ("B", 2),  # PM1_CNT_LEN
        ("B", 0),  # PM2_CNT_LEN
        ("B", 4),  # PM_TMR_LEN
        ("B", 0),  # GPE0_BLK_LEN
        ("B", 0),  # GPE1_BLK_LEN
        ("B", 0),  # GPE1_BASE
        ("B", 0),  # CST_CNT
        ("H", 0xFFF),  # P_LVL2_LAT: above 100 means no C2
        ("H", 0xFFF),  # P_LVL3_LAT: above 1000 means no C3
        ("H", 0),  # FLUSH_SIZE
        ("H", 0),  # FLUSH_STRIDE
        ("B", 0),  # DUTY_OFFSET
        ("B", 0),  # DUTY_WIDTH
        ("B", 0),  # DAY_ALRM
        ("B", 0),  # MON_ALRM
        ("B", RTC_CENTURY),
        ("H", boot_arch),  # IAPC_BOOT_ARCH
        ("B", 0),  # reserved
        ("I", flags),
        ("12s", io_register(layout.RESET_CONTROL, 8, 1)),  # RESET_REG
        ("B", RESET_VALUE),
        ("3s", bytes(3)),  # reserved
        ("Q", 0),  # X_FIRMWARE_CTRL: 0, the FACS is below 4 GiB
        ("Q", dsdt_gpa),  # X_DSDT
        ("12s", io_register(event, 32, 2)),  # X_PM1a_EVT_BLK
        ("12s", absent),  # X_PM1b_EVT_BLK
        ("12s", io_register(control, 16, 2)),  # X_PM1a_CNT_BLK
        ("12s", absent),  # X_PM1b_CNT_BLK
        ("12s", absent),  # X_PM2_CNT_BLK
        ("12s", io_register(timer, 32, 3)),  # X_PM_TMR_BLK
        ("12s", absent),  # X_GPE0_BLK
        ("12s", absent),  # X_GPE1_BLK
    ]
    body = struct.pack("<" + "".join(form for form, _ in fields), *(value for _, value in fields))
    return build_table(b"FACP", 4, body)


def build_madt(apic_ids: Sequence[int], *, pci: bool = True) -> bytes:
    """Return the multiple APIC description table of revision 4 (§5.2.12).

    A local APIC for each processor, the I/O APIC at GSI 0, and what is not an edge-triggered, active-high line of the
    ISA bus on the input of its own number: IRQ 0, the SCI, and the lines that PCI links may be routed to. The NMI is at
    LINT1 of every processor.
    """
    body = struct.pack("<II", layout.LOCAL_APIC_BASE, MADT_PCAT_COMPAT)
    for number, apic_id in enumerate(apic_ids):
        body += struct.pack("<BBBBI", 0, 8, number, apic_id, 1)  # processor local APIC: enabled
    body += struct.pack("<BBBBII", 1, 12, layout.IO_APIC_ID, 0, layout.IO_APIC_BASE, 0)
    body += struct.pack("<BBBBIH", 2, 10, 0, layout.IRQ_PIT, layout.IO_APIC_TIMER_INPUT, MADT_BUS_DEFAULT)
    body += struct.pack("<BBBBIH", 2, 10, 0, layout.IRQ_ACPI, layout.IRQ_ACPI, MADT_LEVEL_HIGH)
    for line in layout.PCI_LINK_CHOICES if pci else ():
        body += struct.pack("<BBBBIH", 2, 10, 0, line, line, MADT_LEVEL_LOW)
    body += struct.pack("<BBBHB", 4, 6, 0xFF, MADT_BUS_DEFAULT, 1)
    return build_table(b"APIC", 4, body)


def build_hpet() -> bytes:
    """Return the HPET description table, revision 1: one block, number 0, without page protection (HPET §3.2.4)."""
    address = struct.pack("<BBBBQ", 0, 64, 0, 0, layout.HPET_BASE)  # system memory
    body = struct.pack("<I12sBHB", HPET_BLOCK_ID, address, 0, HPET_MIN_TICKS, 0)
    return build_table(b"HPET", 1, body)


def build_dsdt(*, com_ports: int = 1, mouse: bool = False, hpet: bool = False, floppy: bool = False) -> bytes:
    """Return the DSDT, revision 2 (64-bit integers): the PCI root bus, its interrupt links, ISA devices, HPET, S5."""
    sleep = aml.integer(SLEEP_TYPE_S5)
    body = aml.name(r"\_S5", aml.package(sleep, sleep, aml.integer(0), aml.integer(0)))
    body += aml.scope(
        r"\_SB",
        aml.device(
            "PCI0",
            _hid("PNP0A03"),
            _uid(0),
            _windows(),
            _interrupt_routing(),
            _isa_bridge(com_ports, mouse, floppy),
        ),
        *(_link(index) for index in range(4)),
        *([_hpet_device()] if hpet else []),
    )
    return build_table(b"DSDT", 2, body)


def build_dsdt_without_pci(virtio: Sequence[tuple[int, int]], *, com_ports: int = 1) -> bytes:
    """Return the DSDT of a machine with memory-mapped virtio devices, serial lines and an RTC.

    LNRO0005 is the identity by which systems know a virtio device's registers and interrupt.
    """
    sleep = aml.integer(SLEEP_TYPE_S5)
    body = aml.name(r"\_S5", aml.package(sleep, sleep, aml.integer(0), aml.integer(0)))
    body += aml.scope(
        r"\_SB",
        _timer(),
        _rtc(),
        *(_com(port) for port in range(com_ports)),
        *(
            aml.device(
                f"VR{number:02d}",
                aml.name("_HID", aml.string("LNRO0005")),
                _uid(number),
                _crs(aml.fixed_memory(address, VIRTIO_MMIO_SIZE), aml.extended_irq_level(gsi)),
            )
            for number, (address, gsi) in enumerate(virtio)
        ),
    )
    return build_table(b"DSDT", 2, body)


def _timer() -> bytes:
    return aml.device("TMR", _hid("PNP0100"), _crs(aml.io_ports(layout.PIT, 4), aml.irq_edge(layout.IRQ_PIT)))


def _rtc() -> bytes:
    return aml.device("RTC", _hid("PNP0B00"), _crs(aml.io_ports(layout.RTC, 4), aml.irq_edge(layout.IRQ_RTC)))


def _com(port: int) -> bytes:
    return aml.device(
        f"COM{port + 1}",
        _hid("PNP0501"),
        _uid(port + 1),
        _crs(aml.io_ports(layout.COM_PORTS[port], 8), aml.irq_edge(layout.IRQ_COM[port])),
    )


def _hpet_device() -> bytes:
    """Where the timers are; which interrupts they have is in their own registers (HPET §3.2.1)."""
    window = aml.fixed_memory(layout.HPET_BASE, layout.HPET_SIZE)
    return aml.device("HPET", _hid("PNP0103"), _uid(0), _crs(window))


def _floppy_controller() -> bytes:
    """Its ports, IRQ and DMA channel; which drives there are is in CMOS, and _FDE is not needed."""
    return aml.device(
        "FDC",
        _hid("PNP0700"),
        _crs(
            aml.io_ports(layout.FDC, 6),
            aml.io_ports(layout.FDC_RATE, 1),
            aml.irq_edge(layout.IRQ_FDC),
            aml.dma_channel(layout.DMA_FDC),
        ),
    )


def _hid(eisa_id: str) -> bytes:
    return aml.name("_HID", aml.eisa_id(eisa_id))


def _uid(number: int) -> bytes:
    return aml.name("_UID", aml.integer(number))


def _crs(*descriptors: bytes) -> bytes:
    return aml.name("_CRS", aml.resource_template(*descriptors))


def _windows() -> bytes:
    """What the root bus decodes: bus numbers, all I/O ports but its own registers', the VGA window and MMIO."""
    config_end = layout.PCI_CONFIG_DATA + 4
    wide = layout.PCI_MMIO64_BASE
    return _crs(
        aml.address_range(aml.BUS_RANGE, 0, 0xFF, 0, bits=16),
        aml.io_ports(layout.PCI_CONFIG_ADDRESS, config_end - layout.PCI_CONFIG_ADDRESS),
        aml.address_range(aml.IO_RANGE, 0, layout.PCI_CONFIG_ADDRESS - 1, aml.IO_ENTIRE_RANGE, bits=16),
        aml.address_range(aml.IO_RANGE, config_end, layout.PCI_IO_END, aml.IO_ENTIRE_RANGE, bits=16),
        aml.address_range(
            aml.MEMORY_RANGE,
            layout.VGA_WINDOW,
            layout.OPTION_ROM_BASE - 1,
            aml.MEMORY_CACHED_WRITABLE,
            bits=32,
        ),
        aml.address_range(
            aml.MEMORY_RANGE,
            layout.PCI_MMIO_BASE,
            layout.PCI_MMIO_END - 1,
            aml.MEMORY_UNCACHED_WRITABLE,
            bits=32,
        ),
        aml.address_range(
            aml.MEMORY_RANGE, wide, wide + layout.PCI_MMIO64_SIZE - 1, aml.MEMORY_UNCACHED_WRITABLE, bits=64
        ),
    )


def _interrupt_routing() -> bytes:
    """_PRT: which link each pin (0 = INTA#) of each slot is soldered to."""
    rows = []
    for slot in range(1, 32):
        for pin in range(4):
            link = aml.name_string(LINKS[layout.pci_link(slot, pin)])
            rows.append(aml.package(aml.integer(slot << 16 | 0xFFFF), aml.integer(pin), link, aml.integer(0)))
    return aml.name("_PRT", aml.package(*rows))


def _link(index: int) -> bytes:
    """A PCI interrupt link device: reads and sets one PIRQRC register of the ISA bridge (ACPI 6.5 §6.2.13)."""
    register = aml.name_string(rf"\_SB.PCI0.ISA.{LINK_REGISTERS[index]}")
    choices = layout.PCI_LINK_CHOICES
    mask = aml.name_string("IRQW")
    current = aml.method(
        "_CRS",
        0,
        aml.create_word_field(aml.name_string("RES"), 1, "IRQW"),
        aml.store(aml.integer(0), mask),
        aml.bit_and(register, aml.integer(PIRQRC_DISABLED | 0x0F), aml.LOCAL0),
        aml.if_(
            aml.less(aml.LOCAL0, aml.integer(PIRQRC_DISABLED)),
            aml.shift_left(aml.integer(1), aml.LOCAL0, mask),
        ),
        aml.return_(aml.name_string("RES")),
        serialized=True,
    )
    choose = aml.method(
        "_SRS",
        1,
        aml.create_word_field(aml.ARG0, 1, "IRQW"),
        aml.find_set_right_bit(mask, aml.LOCAL0),
        aml.if_(aml.LOCAL0, aml.decrement(aml.LOCAL0), aml.store(aml.LOCAL0, register)),
        serialized=True,
    )
    status = aml.method(
        "_STA",
        0,
        aml.if_(aml.bit_and(register, aml.integer(PIRQRC_DISABLED)), aml.return_(aml.integer(0x09))),
        aml.return_(aml.integer(0x0B)),
    )
    disable = aml.method("_DIS", 0, aml.bit_or(register, aml.integer(PIRQRC_DISABLED), register))
    possible = aml.name("_PRS", aml.resource_template(aml.irq_level(*choices)))
    answer = aml.name("RES", aml.resource_template(aml.irq_level()))
    identity = _hid("PNP0C0F") + _uid(index + 1)
    return aml.device(LINKS[index], identity, status, possible, disable, answer, current, choose)


def _isa_bridge(com_ports: int, mouse: bool, floppy: bool) -> bytes:
    """The PIIX3's function 0 with the PIRQRC registers, and the devices on the ISA bus behind it."""
    return aml.device(
        "ISA",
        aml.name("_ADR", aml.integer(layout.PCI_ISA_BRIDGE << 16)),
        aml.operation_region("PIRQ", aml.PCI_CONFIG, PIRQRC, len(LINKS)),
        aml.byte_field("PIRQ", *((register, 8) for register in LINK_REGISTERS)),
        aml.device(
            "PIC",
            _hid("PNP0000"),
            _crs(
                aml.io_ports(layout.PIC_MASTER, 2),
                aml.io_ports(layout.PIC_SLAVE, 2),
                aml.io_ports(layout.PIC_ELCR, 2),
                aml.irq_edge(2),
            ),
        ),
        aml.device(
            "DMA",
            _hid("PNP0200"),
            _crs(
                aml.io_ports(layout.DMA_MASTER, 16),
                aml.io_ports(layout.DMA_PAGES, 15),
                aml.io_ports(layout.DMA_SLAVE, 32),
                aml.dma_channel(4),
            ),
        ),
        _timer(),
        _rtc(),
        aml.device(
            "KBD",
            _hid("PNP0303"),
            _crs(
                aml.io_ports(layout.I8042_DATA, 1),
                aml.io_ports(layout.I8042_COMMAND, 1),
                aml.irq_edge(layout.IRQ_KEYBOARD),
            ),
        ),
        *([aml.device("MOU", _hid("PNP0F13"), _crs(aml.irq_edge(layout.IRQ_MOUSE)))] if mouse else []),
        *(_com(port) for port in range(com_ports)),
        *([_floppy_controller()] if floppy else []),
        # Ports of the board that belong to no other device.
        aml.device(
            "MBRD",
            _hid("PNP0C02"),
            _crs(
                aml.io_ports(layout.SYSTEM_CONTROL_A, 1),
                aml.io_ports(layout.ACPI_SMI_COMMAND, 2),
                aml.io_ports(
                    layout.ACPI_PM, 64
                ),  # all of PIIX4's PM window: a part of it would be a conflict,
            ),
        ),
    )
