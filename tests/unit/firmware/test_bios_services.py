"""POST and the services of memory, time, keyboard, serial ports and PCI."""

from __future__ import annotations

import struct
from itertools import pairwise

import pytest
from bios_machine import Caller, FakePci

from pyvmm.boot.e820 import E820_ACPI, E820_RAM, E820Entry, e820_map
from pyvmm.firmware import keymap
from pyvmm.firmware.bios import Bios
from pyvmm.firmware.pci_setup import assign_resources, link_irq, routing_table
from pyvmm.firmware.rom import ACTION_POLL, ACTION_RETURN, ACTION_WAIT
from pyvmm.machine import layout
from pyvmm.units import GIB, KIB, MIB

SMAP = 0x534D4150


def test_post_fills_the_data_area() -> None:
    guest = Caller()
    assert guest.memory.read(0x13 * 4, 4) == b"\x34\xc1\x00\xf0"
    assert guest.memory.read(0x21 * 4, 4) == b"\x53\xff\x00\xf0"
    assert struct.unpack("<HH", guest.memory.read(0x400, 4)) == (0x3F8, 0)
    assert struct.unpack("<H", guest.memory.read(0x413, 2)) == (639,)
    assert struct.unpack("<H", guest.memory.read(0x40E, 2)) == (0x9FC0,)
    assert guest.ports.a20 & 2
    assert (guest.ports.cmos[0x34] | guest.ports.cmos[0x35] << 8) == 48 * MIB // (64 * KIB)


def test_post_resumes_after_a_reset_that_asks_for_it() -> None:
    guest = Caller()
    guest.ports.cmos[0x0F] = 0x0A
    guest.memory.write(0x467, struct.pack("<HH", 0x1234, 0x5678))
    frame = guest.service(0x100)
    assert (frame.cs, frame.ip, guest.ports.cmos[0x0F]) == (0x5678, 0x1234, 0)


@pytest.mark.parametrize("size", [1 * MIB, 2 * MIB, 64 * MIB, 3 * GIB, 5 * GIB])
def test_e820_map_has_all_ram_and_no_overlap(size: int) -> None:
    entries = e820_map(size)
    assert all(a.end <= b.base for a, b in pairwise(entries))
    ram = sum(e.size for e in entries if e.kind == E820_RAM)
    assert ram == size - MIB + layout.EBDA_BASE
    reserved = e820_map(64 * MIB, [E820Entry(60 * MIB, MIB, E820_ACPI)])
    assert E820Entry(60 * MIB, MIB, E820_ACPI) in reserved
    assert E820Entry(61 * MIB, 3 * MIB, E820_RAM) in reserved


def test_e820_calls_walk_the_whole_map() -> None:
    guest = Caller()
    index, entries = 0, []
    while True:
        frame = guest.service(0x15, ax=0xE820, edx=SMAP, ecx=24, ebx=index, es=0x2000, di=0)
        assert (frame.carry, frame.eax, frame.ecx) == (False, SMAP, 20)
        entries.append(E820Entry(*struct.unpack("<QQI", guest.memory.read(0x20000, 20))))
        index = frame.ebx
        if index == 0:
            break
    assert entries == guest.bios.memory_map
    assert guest.service(0x15, ax=0xE820, edx=0, ecx=24).carry


def test_memory_sizes() -> None:
    guest = Caller()
    frame = guest.service(0x15, ax=0xE801)
    assert (frame.ax, frame.bx) == (15 * 1024, 48 * 16)
    assert guest.service(0x15, ax=0x8800).ax == 63 * 1024
    assert guest.service(0x12).ax == 639
    assert guest.service(0x11).ax & 0x0E30 == 0x0220


def test_block_move() -> None:
    guest = Caller()
    guest.memory.write(0x100000, b"moved up")
    table = bytearray(0x30)
    table[0x10:0x18] = struct.pack("<HHBBBB", 0xFFFF, 0, 0x10, 0x93, 0, 0)
    table[0x18:0x20] = struct.pack("<HHBBBB", 0xFFFF, 0, 0x20, 0x93, 0, 0x01)
    guest.memory.write(0x5000, bytes(table))
    assert not guest.service(0x15, ax=0x8700, cx=4, si=0x5000).carry
    assert guest.memory.read(0x1200000, 8) == b"moved up"
    table[0x1F] = 0xF0
    guest.memory.write(0x5000, bytes(table))
    frame = guest.service(0x15, ax=0x8700, cx=4, si=0x5000)
    assert (frame.carry, frame.ah) == (True, 2)


def test_delay_sleeps_then_polls_then_returns() -> None:
    guest = Caller()
    call = {"ax": 0x8600, "cx": 3, "dx": 0}
    assert guest.service(0x15, **call).action == ACTION_WAIT
    guest.now += 150_000_000
    assert guest.service(0x15, **call).action == ACTION_POLL
    guest.now += 50_000_000
    frame = guest.service(0x15, **call)
    assert (frame.action, frame.carry) == (ACTION_RETURN, False)


def test_a20() -> None:
    guest = Caller()
    assert guest.service(0x15, ax=0x2400).ah == 0
    assert guest.service(0x15, ax=0x2402).al == 0
    guest.service(0x15, ax=0x2401)
    assert guest.service(0x15, ax=0x2402).al == 1


def test_unknown_function_and_call_counter() -> None:
    guest = Caller()
    frame = guest.service(0x15, ax=0xC4FF)
    assert (frame.carry, frame.ah) == (True, 0x86)
    assert guest.bios.calls[0x15, 0xC4] == 1


@pytest.mark.parametrize(
    ("typed", "code"),
    [(b"a", 0x1E61), (b"A", 0x1E41), (b"\r", 0x1C0D), (b"~", 0x297E), (b"\x7f", 0x0E08), (b"\x03", 0x2E03),
     (b"\x1b[A", 0x48E0), (b"\x1bOB", 0x50E0), (b"\x1b[5~", 0x49E0), (b"\x1b[21~", 0x4400), (b"/", 0x352F),
     (b"\t", 0x0F09), (b" ", 0x3920)],
)  # fmt: skip
def test_serial_keys(typed: bytes, code: int) -> None:
    guest = Caller()
    guest.type(typed)
    frame = guest.service(0x16, ax=0x1100)
    assert (frame.zero, frame.ax) == (False, code)
    assert guest.service(0x16, ax=0x1000).ax == code
    assert guest.service(0x16, ax=0x1100).zero


def test_every_printable_character_has_a_key() -> None:
    data = bytearray(range(0x20, 0x7F))
    assert bytes(code & 0xFF for code in keymap.decode_terminal(data, final=True)) == bytes(range(0x20, 0x7F))


def test_escape_alone_and_split_sequence() -> None:
    guest = Caller()
    guest.type(b"\x1b")
    assert guest.service(0x16, ax=0x0100).zero
    guest.type(b"[B")
    assert guest.service(0x16, ax=0x0000).ax == 0x5000
    guest.type(b"\x1b")
    assert guest.service(0x16, ax=0x0100).zero
    guest.now += 200_000_000
    assert guest.service(0x16, ax=0x0000).ax == 0x011B


def test_read_key_waits() -> None:
    guest = Caller()
    assert guest.service(0x16, ax=0x0000).action == ACTION_WAIT
    assert (0x16, 0x00) not in guest.bios.calls
    guest.type(b"x")
    assert guest.service(0x16, ax=0x0000).action == ACTION_RETURN


def test_spinning_on_the_keyboard_sleeps() -> None:
    guest = Caller()
    guest.now = 1_000_000_000
    assert {guest.service(0x16, ax=0x0100).action for _ in range(200)} == {ACTION_RETURN}
    actions = [guest.service(0x16, ax=0x0100).action for _ in range(100)]
    assert actions[-2:] in ([ACTION_WAIT, ACTION_RETURN], [ACTION_RETURN, ACTION_WAIT])
    guest.now += 10_000_000
    assert guest.service(0x16, ax=0x0100).action == ACTION_RETURN
    guest.now += 10_000_000
    assert {guest.service(0x16, ax=0x0100).action for _ in range(200)} == {ACTION_RETURN}
    guest.ports.masks[layout.PIC_MASTER + 1] = 0xFF
    assert {guest.service(0x16, ax=0x0100).action for _ in range(500)} == {ACTION_RETURN}


def test_scan_codes() -> None:
    guest = Caller()
    for scan in (0x2A, 0x1E, 0x9E, 0xAA, 0x1E, 0x9E, 0xE0, 0x48, 0xE0, 0xC8, 0x1D, 0x2E, 0xAE, 0x9D):
        guest.service(0x09, eax=scan)
    assert [guest.service(0x16, ax=0x1000).ax for _ in range(4)] == [0x1E41, 0x1E61, 0x48E0, 0x2E03]
    assert guest.service(0x16, ax=0x0200).al == 0
    guest.service(0x09, eax=0x1D)
    guest.service(0x09, eax=0xE0)
    assert guest.service(0x09, eax=0x46).al == 0x1B


def test_keyboard_buffer_holds_fifteen_and_survives_nonsense() -> None:
    guest = Caller()
    results = [guest.service(0x16, ax=0x0500, cx=0x1E61).al for _ in range(16)]
    assert results == [0] * 15 + [1]
    guest.memory.write(0x480, b"\xff\xff\x01\x00")
    guest.memory.write(0x41A, b"\x03\x99\x05\x99")
    assert guest.service(0x16, ax=0x0100).zero
    assert guest.service(0x16, ax=0x0500, cx=0x1E61).al == 0
    assert guest.service(0x16, ax=0x0000).ax == 0x1E61


def test_clock() -> None:
    guest = Caller()
    guest.ports.cmos[0:10] = bytes((0x56, 0, 0x34, 0, 0x12, 0, 0, 0x31, 0x12, 0x26))
    guest.ports.cmos[0x32] = 0x20
    frame = guest.service(0x1A, ax=0x0200)
    assert (frame.ch, frame.cl, frame.dh) == (0x12, 0x34, 0x56)
    frame = guest.service(0x1A, ax=0x0400)
    assert (frame.cx, frame.dx) == (0x2026, 0x1231)
    guest.ports.cmos[0x0B] = 0x04  # binary, 12 hours
    guest.ports.cmos[4] = 0x80 | 11
    assert guest.service(0x1A, ax=0x0200).ch == 0x23
    guest.service(0x1A, ax=0x0100, cx=0x12, dx=0x3456)
    frame = guest.service(0x1A, ax=0x0000)
    assert (frame.cx, frame.dx) == (0x12, 0x3456)


def pci_devices() -> list[FakePci]:
    return [
        FakePci(0, {}, pin=0, identity=0x12378086),
        FakePci(1, {}, pin=0, identity=0x70008086),
        FakePci(3, {0: 0xFFFFFFE1, 1: 0xFFFFF000, 4: 0xFFFFC00C, 5: 0xFFFFFFFF}),
        FakePci(4, {0: 0x0000FF81}, pin=2),
    ]


def test_pci_resources() -> None:
    devices = pci_devices()
    guest = Caller(pci=devices)
    ranges = []
    for assignment in assign_resources(guest.ports):
        assert assignment.address is not None
        assert assignment.address % assignment.bar.size == 0
        ranges.append((assignment.bar.is_io, assignment.address, assignment.bar.size))
    assert sorted(size for _, _, size in ranges) == [0x20, 0x80, 0x1000, 0x4000]
    ranges.sort()
    assert all(a[0] != b[0] or a[1] + a[2] <= b[1] for a, b in pairwise(ranges))
    virtio = devices[2]
    assert virtio.space[0x3C] == link_irq(3, 1)
    assert virtio.space[4] & 7 == 7
    assert devices[1].space[0x60:0x64] == bytes(layout.PCI_LINKS)
    assert not virtio.decoding_while_sizing
    assert (guest.ports.elcr[1] << 8) & (1 << 10 | 1 << 11) == 1 << 10 | 1 << 11
    table = routing_table(guest.ports)
    assert table[:4] == b"$PIR"
    assert sum(table) & 0xFF == 0
    assert len(table) == 32 + 3 * 16 == struct.unpack_from("<H", table, 6)[0]


def test_pci_bios() -> None:
    guest = Caller(pci=pci_devices())
    frame = guest.service(0x1A, ax=0xB101)
    assert (frame.edx, frame.bx, frame.ah, frame.carry) == (0x20494350, 0x0210, 0, False)
    frame = guest.service(0x1A, ax=0xB102, cx=0x1001, dx=0x1AF4, si=1)
    assert (frame.bh, frame.bl) == (0, 4 << 3)
    assert guest.service(0x1A, ax=0xB102, cx=0x1001, dx=0x1AF4, si=2).ah == 0x86
    assert guest.service(0x1A, ax=0xB103, ecx=0x010000, si=0).carry is False
    assert guest.service(0x1A, ax=0xB10A, bx=3 << 3, di=0).ecx == 0x10011AF4
    guest.service(0x1A, ax=0xB10B, bx=3 << 3, di=0x3C, cx=5)
    assert guest.service(0x1A, ax=0xB108, bx=3 << 3, di=0x3C).cl == 5
    assert guest.service(0x1A, ax=0xB10A, bx=3 << 3, di=2).ah == 0x87
    assert guest.service(0x1A, ax=0xB10F).ah == 0x81
    guest.memory.write(0x5000, struct.pack("<HHH", 256, 0x6000, 0))
    assert guest.service(0x1A, ax=0xB10E, di=0x5000).carry is False
    assert struct.unpack("<H", guest.memory.read(0x5000, 2)) == (48,)


def test_serial_service() -> None:
    guest = Caller(console=False)
    guest.service(0x14, ax=0x01_58, dx=0)
    assert guest.sent == "X"
    guest.type(b"y")
    assert guest.service(0x14, ax=0x0200, dx=0).al == ord("y")
    assert guest.service(0x14, ax=0x0200, dx=0).action == ACTION_POLL
    guest.now += 2_000_000_000
    assert guest.service(0x14, ax=0x0200, dx=0).ah & 0x80
    assert guest.service(0x14, ax=0x0100, dx=3).ah & 0x80


def test_listing_names_a_source_for_each_function() -> None:
    rows = Bios.functions()
    assert len(rows) > 80
    assert all(info.source for info, _ in rows)
