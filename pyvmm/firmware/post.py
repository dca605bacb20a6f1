"""POST: what firmware sets up before it boots: vectors, BIOS data area, PIC, PIT, CMOS sizes, A20, PCI.

Sources: IBM PC/AT Technical Reference (1985), section 5, and the BIOS listing's order; 8259A data sheet, ICW1 to ICW4;
8254 data sheet, control word; RBIL CMOS.LST and MEMORY.LST. All hardware is reached through ports, as a ROM would.
"""

from __future__ import annotations

import struct
from typing import Final

from pyvmm.firmware import bda
from pyvmm.firmware.drives import BiosDrive
from pyvmm.firmware.frame import Frame
from pyvmm.firmware.pci_setup import assign_resources, routing_table
from pyvmm.firmware.platform import Platform
from pyvmm.firmware.rom import ROM_CODE, Rom
from pyvmm.machine import layout
from pyvmm.units import GIB, KIB, MIB, Gpa

_BIOS_SEGMENT: Final = layout.BIOS_BASE >> 4
_IRET: Final = 0xFF53
_UNUSED_VECTORS: Final = range(0x60, 0x68)
"""Left 0000:0000 for user programs: some look there whether a driver is loaded."""
_CMOS_SHUTDOWN, _CMOS_FLOPPY, _CMOS_EQUIPMENT = 0x0F, 0x10, 0x14
_RESUME_WITH_EOI, _RESUME = 0x05, 0x0A
_PIR_AREA: Final = Gpa(layout.BIOS_BASE + ROM_CODE - 0x400)
TABLE_AREA: Final = (layout.BIOS_BASE, ROM_CODE - 0x400)
"""Address and size of the part of the BIOS segment that is free for tables of others."""


def resume_after_reset(platform: Platform, frame: Frame) -> bool:
    """A reset that a program asked for, to come back to real mode: see RBIL, CMOS 0Fh and 40:67."""
    reason = platform.cmos(_CMOS_SHUTDOWN)
    if reason not in (_RESUME_WITH_EOI, _RESUME):
        return False
    platform.set_cmos(_CMOS_SHUTDOWN, 0)
    if reason == _RESUME_WITH_EOI:
        platform.pio.write(layout.PIC_SLAVE, 1, 0x20)
        platform.pio.write(layout.PIC_MASTER, 1, 0x20)
    frame.ip, frame.cs = platform.bda16(bda.RESUME_VECTOR), platform.bda16(bda.RESUME_VECTOR + 2)
    return True


def write_vectors(platform: Platform, rom: Rom) -> None:
    """The interrupt vector table at 0000:0000."""
    table = bytearray()
    for vector in range(256):
        offset = rom.vectors.get(vector, _IRET)
        table += bytes(4) if vector in _UNUSED_VECTORS else struct.pack("<HH", offset, _BIOS_SEGMENT)
    for vector in (0x1D, 0x1F, 0x43):  # tables of video parameters and fonts, not code: there are none
        table[4 * vector : 4 * vector + 4] = bytes(4)
    platform.memory.write(Gpa(0), bytes(table))


def write_data_area(platform: Platform, drives: list[BiosDrive]) -> None:
    """40:00 and the extended BIOS data area, whose first byte is its size in KiB."""
    p = platform
    p.memory.write(Gpa(bda.BASE), bytes(bda.SIZE))
    ports = [port for port in layout.COM_PORTS if _uart_answers(p, port)]
    for index, port in enumerate(ports):
        p.set_bda16(bda.COM_PORTS + 2 * index, port)
        p.set_bda8(bda.COM_TIMEOUT + index, 1)
    floppies = sum(drive.number < 0x80 for drive in drives)
    # 40:10: 0 floppy there, 1 coprocessor, 2 mouse (none), 4-5 video 80x25 colour, 6-7 floppies - 1, 9-11 serial ports
    equipment = 0x0002 | 2 << 4 | len(ports) << 9 | (0x0001 | (min(floppies, 4) - 1) << 6 if floppies else 0)
    p.set_bda16(bda.EQUIPMENT, equipment)
    p.set_bda16(bda.MEMORY_KIB, layout.EBDA_BASE // KIB)
    p.set_bda16(bda.EBDA_SEGMENT, layout.EBDA_BASE >> 4)
    p.memory.write(layout.EBDA_BASE, bytes((1,)))
    disks = [drive for drive in drives if 0x80 <= drive.number < 0xE0]
    for index, vector in ((0, 0x41), (1, 0x46)):
        if index < len(disks):
            _write_disk_table(p, disks[index], index, vector)


def _uart_answers(platform: Platform, port: int) -> bool:
    """Whether IER keeps its reserved bits clear (16550D §8.6.4): an empty port reads as all ones."""
    return platform.pio.read(port + 1, 1) & 0xF0 == 0


def _write_disk_table(platform: Platform, drive: BiosDrive, index: int, vector: int) -> None:
    """Fixed disk parameter table in the EBDA, which INT 41h or 46h points to (RBIL INT 41, format of table)."""
    geometry = drive.geometry
    assert geometry is not None
    address = layout.EBDA_BASE + 0x3D + 0x10 * index
    control = 0x08 if geometry.heads > 8 else 0
    table = struct.pack(
        "<HBHHBBBBBHBB",
        geometry.cylinders,
        geometry.heads & 0xFF,
        0,
        0xFFFF,
        0,
        control,
        0,
        0,
        0,
        geometry.cylinders - 1,
        geometry.sectors,
        0,
    )
    platform.memory.write(Gpa(address), table)
    platform.memory.write(
        Gpa(4 * vector), struct.pack("<HH", address - layout.EBDA_BASE, layout.EBDA_BASE >> 4)
    )


def set_up_chipset(platform: Platform) -> None:
    """PICs at INT 08h and 70h with timer, keyboard and cascade open; PIT channel 0 at 18.2 Hz, channel 2 for the
    speaker; A20 on.
    """
    write = platform.pio.write
    for port, base, cascade in ((layout.PIC_MASTER, 0x08, 0x04), (layout.PIC_SLAVE, 0x70, 0x02)):
        write(port, 1, 0x11)  # ICW1: edge, cascade, ICW4 follows
        write(port + 1, 1, base)
        write(port + 1, 1, cascade)
        write(port + 1, 1, 0x01)  # ICW4: 8086 mode
    write(layout.PIC_MASTER + 1, 1, 0xFF & ~(1 << layout.IRQ_PIT | 1 << layout.IRQ_KEYBOARD | 1 << 2))
    write(layout.PIC_SLAVE + 1, 1, 0xFF)
    write(layout.PIT + 3, 1, 0x36)  # channel 0, low then high byte, mode 3
    write(layout.PIT, 1, 0)
    write(layout.PIT, 1, 0)
    gate = platform.pio.read(layout.SYSTEM_CONTROL_A, 1)
    if gate != 0xFF:
        write(layout.SYSTEM_CONTROL_A, 1, gate & ~1 | 0x02)
    write(layout.I8042_COMMAND, 1, 0x60)  # command byte: translate to set 1, keyboard interrupt on, mouse off
    write(layout.I8042_DATA, 1, 0x61)
    write(layout.I8042_COMMAND, 1, 0xAE)


def write_cmos(platform: Platform, drives: list[BiosDrive]) -> None:
    """Memory sizes and equipment where software looks for them (RBIL CMOS 10h to 35h, 5Bh to 5Dh)."""
    p = platform
    size = p.memory_size
    extended = min(max(size - MIB, 0) // KIB, 0xFFFF)
    below_4g = min(size, layout.PCI_HOLE_BASE)
    blocks = min(max(below_4g - 16 * MIB, 0) // (64 * KIB), 0xFFFF)
    above_4g = (size - below_4g) // (64 * KIB)
    base = layout.LOW_RAM_END // KIB
    values = {
        0x15: base & 0xFF,
        0x16: base >> 8,
        0x17: extended & 0xFF,
        0x18: extended >> 8,
        0x30: extended & 0xFF,
        0x31: extended >> 8,
        0x34: blocks & 0xFF,
        0x35: blocks >> 8,
        0x5B: above_4g & 0xFF,
        0x5C: above_4g >> 8 & 0xFF,
        0x5D: above_4g >> 16 & 0xFF,
    }
    # CMOS has its own number for 2.88M (RBIL CMOS.LST, byte 10h).
    floppies = [5 if drive.floppy_type == 6 else drive.floppy_type for drive in drives if drive.number < 0x80]
    types = [*floppies, 0, 0][:2]
    values |= {_CMOS_FLOPPY: types[0] << 4 | types[1], _CMOS_EQUIPMENT: p.bda16(bda.EQUIPMENT) & 0xFF}
    for register, value in values.items():
        p.set_cmos(register, value)
    checksum = sum(p.cmos(register) for register in range(0x10, 0x2E))
    p.set_cmos(0x2E, checksum >> 8 & 0xFF)
    p.set_cmos(0x2F, checksum & 0xFF)


def set_up_pci(platform: Platform) -> None:
    """Resources for all of bus 0, and the $PIR table for an OS without ACPI."""
    assign_resources(platform.pio)
    platform.memory.load(_PIR_AREA, routing_table(platform.pio)[:0x400])


assert _PIR_AREA % 16 == 0
assert layout.BIOS_BASE < GIB
