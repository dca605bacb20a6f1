"""Whether a device can still be used after its reset: what its driver would do first, and what must come of it.

Each function gets the device's `Ports` (tests/conformance/device_kinds.py) as a driver has them, and asserts.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.conformance.device_kinds import Ports

MS = 1_000_000


def pic(p: Ports) -> None:
    """Initialised, a request is polled (8259A "Poll command")."""
    for chip, words in ((0, (0x20, 4, 1, 0)), (1, (0x28, 2, 1, 0))):
        p.write(chip, 0, 0x11)
        for word in words:
            p.write(chip, 1, word)
    p.board.irq_line(3).raise_()
    p.write(0, 0, 0x0C)
    assert p.read(0, 0) == 0x83


def pit(p: Ports) -> None:
    """Channel 1 counts down."""
    p.write(0, 3, 0x74)
    p.write(0, 1, 0xE8)
    p.write(0, 1, 0x03)
    p.advance(100_000)  # 119 ticks
    p.write(0, 3, 0x40)
    count = p.read(0, 1) | p.read(0, 1) << 8
    assert 875 <= count <= 885


def vga(p: Ports) -> None:
    """A byte goes through the planes and comes back; DISPI answers; the DAC holds colours."""
    for port, index, value in ((0x14, 2, 0x0F), (0x14, 4, 0x06), (0x1E, 1, 0), (0x1E, 3, 0), (0x1E, 5, 0),
                               (0x1E, 6, 5), (0x1E, 8, 0xFF), (0x1E, 4, 2)):  # fmt: skip
        p.write(0, port, value << 8 | index, 2)
    p.write(2, 0x123, 0x5A)
    assert p.read(2, 0x123) == 0x5A
    p.write(1, 0, 0, 2)
    assert p.read(1, 1, 2) & 0xFFF0 == 0xB0C0
    p.write(0, 0x18, 7)
    for value in (1, 2, 3):
        p.write(0, 0x19, value)
    p.write(0, 0x17, 7)
    assert [p.read(0, 0x19) for _ in range(3)] == [1, 2, 3]


def lapic(p: Ports) -> None:
    """A self IPI is pending; the timer counts."""
    p.write(0, 0xF0, 0x1FF, 4)
    p.write(0, 0x300, 0x44041, 4)
    assert p.read(0, 0x220, 4) == 2
    p.write(0, 0x320, 0x10050, 4)
    p.write(0, 0x380, 1_000_000, 4)
    p.advance(1000)
    assert 0 < p.read(0, 0x390, 4) < 1_000_000


def ioapic(p: Ports) -> None:
    """An entry is written and read back."""
    p.write(0, 0, 0x14, 4)
    p.write(0, 0x10, 0x10033, 4)
    assert p.read(0, 0x10, 4) & 0x100FF == 0x10033
    p.write(0, 0, 1, 4)
    assert p.read(0, 0x10, 4) >> 16 & 0xFF == 23


def _cmos(p: Ports, index: int, value: int | None = None) -> int:
    p.write(0, 0, index)
    if value is None:
        return p.read(0, 1)
    p.write(0, 1, value)
    return value


def rtc(p: Ports) -> None:
    """It is set, and goes."""
    _cmos(p, 10, 0x20)
    _cmos(p, 11, 0x86)
    for index, value in ((0, 10), (2, 20), (4, 5), (7, 3), (8, 6), (9, 24)):
        _cmos(p, index, value)
    _cmos(p, 11, 0x06)
    p.advance(2_000_000_000)
    assert (_cmos(p, 0), _cmos(p, 2), _cmos(p, 4)) == (12, 20, 5)


def dma(p: Ports) -> None:
    """Channel 2 is set up and reads back, low byte first."""
    p.write(0, 12, 0)
    for value in (0x34, 0x12):
        p.write(0, 4, value)
    p.write(0, 10, 2)
    assert (p.read(0, 4), p.read(0, 4), p.read(0, 15)) == (0x34, 0x12, 0xFB)


def fdc(p: Ports) -> None:
    """It comes out of reset, seeks, and reads a sector by its FIFO."""
    p.write(0, 2, 0x1C)
    p.advance(1_000_000)
    for drive in range(4):
        p.write(0, 5, 0x08)
        assert (p.read(0, 5), p.read(0, 5)) == (0xC0 | drive, 0)
    p.write(1, 0, 2)  # 250 kbit/s
    for value in (0x03, 0xAF, 0x03, 0x0F, 0, 5):  # no DMA; track 5
        p.write(0, 5, value)
    p.advance(1_000_000)
    p.write(0, 5, 0x08)
    assert (p.read(0, 5), p.read(0, 5)) == (0x20, 5)
    for value in (0x66, 0, 5, 0, 3, 2, 3, 0x1B, 0xFF):
        p.write(0, 5, value)
    p.advance(1_000_000)
    assert bytes(p.read(0, 5) for _ in range(512)) == bytes(range(256)) * 2
    assert [p.read(0, 5) for _ in range(7)] == [0x40, 0x80, 0, 6, 0, 1, 2]
    assert p.read(0, 4) == 0x80


def hpet(p: Ports) -> None:
    """The counter runs, and a level comes at its time."""
    p.write(0, 0x120, 0x6 | 20 << 9, 8)
    p.write(0, 0x128, 5000, 8)
    p.write(0, 0xF0, 0, 8)
    p.write(0, 0x10, 1, 8)
    p.advance(49_000)
    assert p.read(0, 0x20, 4) == 0
    p.advance(2_000)
    assert p.read(0, 0x20, 4) == 2
    assert p.read(0, 0xF0, 8) == 5100


def uart(p: Ports) -> None:
    """A character goes out and one comes in."""
    p.write(0, 2, 0x07)
    while p.read(0, 5) & 1:  # what the far end had sent before
        p.read(0, 0)
    p.device.receive(b"z")
    p.advance(MS)
    assert p.read(0, 0) == ord("z")
    before = p.device.sink.total
    p.write(0, 0, ord("q"))
    assert p.device.sink.total == before + 1


def i8042(p: Ports) -> None:
    """Self-test, then the keyboard's echo and the mouse's identity."""

    def answer() -> int:
        for _ in range(8):
            if p.read(1, 0) & 1:
                return p.read(0, 0)
            p.advance(MS)
        return -1

    while answer() >= 0:
        pass
    p.write(1, 0, 0xAA)
    assert answer() == 0x55
    p.write(1, 0, 0xAE)
    p.write(0, 0, 0xEE)
    assert answer() == 0xEE
    p.write(1, 0, 0xA8)
    p.write(1, 0, 0xD4)
    p.write(0, 0, 0xF2)
    assert (answer(), answer()) == (0xFA, 0x00)


def ide(p: Ports) -> None:
    """The disk is there and gives its second sector; the other channel has a packet device."""
    from tests.conformance.device_kinds import decode_ide

    decode_ide(p)
    for offset, value in ((6, 0xE0), (2, 1), (3, 1), (4, 0), (5, 0), (7, 0x20)):
        p.write(0, offset, value)
    assert p.read(0, 7) == 0x58
    words = [p.read(0, 0, 2) for _ in range(256)]
    assert words == [n | n + 1 << 8 for n in range(0, 256, 2)] * 2
    assert p.read(0, 7) == 0x50
    p.write(2, 6, 0xA0)
    p.write(2, 7, 0xEC)  # IDENTIFY DEVICE, which such a device refuses with its signature
    assert p.read(2, 7) & 1
    assert (p.read(2, 4), p.read(2, 5)) == (0x14, 0xEB)


def acpi_pm(p: Ports) -> None:
    """The power button interrupts, and is acknowledged; the timer counts."""
    p.write(1, 0, 1)
    assert p.read(0, 4, 2) & 1
    p.device.power_button()
    assert p.read(0, 0, 2) & 0x100
    p.write(0, 0, 0x100, 2)
    assert not p.read(0, 0, 2) & 0x100
    first = p.read(0, 8, 4)
    p.advance(MS)
    assert (p.read(0, 8, 4) - first) % (1 << 24) in (3579, 3580)


def port92(p: Ports) -> None:
    """The A20 bit."""
    for value in (2, 0, 2):
        p.write(0, 0, value)
        assert p.read(0, 0) & 2 == value


def port61(p: Ports) -> None:
    """Gate and speaker bits; the refresh bit toggles."""
    for value in (3, 0, 1):
        p.write(0, 0, value)
        assert p.read(0, 0) & 3 == value
    seen = set()
    for _ in range(8):
        p.advance(15_000)
        seen.add(p.read(0, 0) & 0x10)
    assert seen == {0, 0x10}


def post_code(p: Ports) -> None:
    """The last code."""
    p.write(0, 0, 0x5A)
    assert p.device.registers.value == 0x5A


def debug_console(p: Ports) -> None:
    """It says that it is there."""
    p.write(0, 0, ord("x"))
    assert p.read(0, 0) == 0xE9


def _request(p: Ports) -> tuple[int, int]:
    from pyvmm.native import ffi, lib

    code = ffi.new("uint32_t *")
    return int(lib.board_take_request(p.board.pointer, code)), int(code[0])


def exit_port(p: Ports) -> None:
    """It ends the machine with the guest's code."""
    from pyvmm.native import lib

    _request(p)
    p.write(0, 0, 3)
    assert _request(p) == (lib.SYSTEM_EXIT, 7)


def reset_control(p: Ports) -> None:
    """A rising bit 2 resets."""
    from pyvmm.native import lib

    _request(p)
    p.write(0, 0, 2)
    p.write(0, 0, 6)
    assert _request(p)[0] == lib.SYSTEM_RESET


def firmware_port(p: Ports) -> None:
    """A write of a service number is a request."""
    from pyvmm.native import lib

    _request(p)
    p.write(0, 0, 0x10, 2)
    assert _request(p) == (lib.SYSTEM_FIRMWARE, 0x10)


def fw_cfg(p: Ports) -> None:
    """The signature by the ports, and an item by DMA."""
    p.write(0, 0, 0, 2)
    assert bytes(p.read(0, 1) for _ in range(4)) == b"QEMU"
    memory = p.board.memory
    memory.write(
        0x100, (0x20 << 16 | 8 | 2).to_bytes(4, "big") + (4).to_bytes(4, "big") + (0x200).to_bytes(8, "big")
    )
    p.write(0, 4, 0, 4)
    p.write(0, 8, int.from_bytes((0x100).to_bytes(4, "big"), "little"), 4)
    assert memory.read(0x200, 4) == b"file"
    assert memory.read(0x100, 4) == bytes(4)


def pci_bus(p: Ports) -> None:
    """CONFADD, and nobody at the end of the bus."""
    p.write(0, 0, 0x8000F800, 4)
    assert p.read(0, 0, 4) == 0x8000F800
    assert p.read(1, 0, 4) == 0xFFFFFFFF


def host_bridge(p: Ports) -> None:
    """Identity and PAM."""
    assert p.configuration(0, 4) == 0x12378086
    p.configure(0x5A, 0x33, 1)
    assert p.configuration(0x5A, 1) == 0x33


def isa_bridge(p: Ports) -> None:
    """Identity and a route."""
    assert p.configuration(0, 4) == 0x70008086
    p.configure(0x60, 11, 1)
    assert p.configuration(0x60, 1) == 11


def power_management(p: Ports) -> None:
    """Identity, and where its registers are."""
    assert p.configuration(0, 4) == 0x71138086
    assert p.configuration(0x40, 4) == 0x601


def pflash(p: Ports) -> None:
    """A block is erased, a byte programmed and read."""
    p.write(0, 0x1000, 0x50)
    p.write(0, 0x1000, 0x20)
    p.write(0, 0x1000, 0xD0)
    p.write(0, 0x1005, 0x40)
    p.write(0, 0x1005, 0xA5)
    assert p.read(0, 0) == 0x80
    p.write(0, 0, 0xFF)
    assert p.read(0, 0x1004, 4) == 0xFFFFA5FF


def virtio_blk(p: Ports) -> None:
    """The driver's way to a queue (virtio 1.2 §3.1.1), and one read of the disk."""
    from tests.conformance.device_kinds import assign_virtio

    assign_virtio(p)
    common, memory = 0xE0000000, p.board.memory

    def write(offset: int, value: int, size: int) -> None:
        p.board.mmio.write(common + offset, size, value)

    def read(offset: int, size: int) -> int:
        return p.board.mmio.read(common + offset, size)

    write(0x14, 0, 1)
    assert read(0x14, 1) == 0
    for status in (1, 3):
        write(0x14, status, 1)
    write(8, 1, 4)
    write(0xC, 1, 4)  # VIRTIO_F_VERSION_1 alone
    write(8, 0, 4)
    write(0xC, 0, 4)
    write(0x14, 0x0B, 1)
    assert read(0x14, 1) == 0x0B
    write(0x16, 0, 2)
    assert read(0x18, 2) >= 2
    write(0x18, 4, 2)
    for at, address in ((0x20, 0x1000), (0x28, 0x2000), (0x30, 0x3000)):
        write(at, address, 4)
        write(at + 4, 0, 4)
    write(0x1C, 1, 2)
    write(0x14, 0x0F, 1)
    rows: Any = ((0x4000, 16, 1, 1), (0x5000, 512, 3, 2), (0x4800, 1, 2, 0))
    memory.write(0x1000, b"".join(a.to_bytes(8, "little") + n.to_bytes(4, "little") + f.to_bytes(2, "little")
                                  + k.to_bytes(2, "little") for a, n, f, k in rows))  # fmt: skip
    memory.write(0x4000, bytes(16))
    memory.write(0x2000, bytes((0, 0, 1, 0, 0, 0)))
    memory.write(0x3000, bytes(16))
    write(0x3000, 0, 2)  # notify queue 0
    assert memory.read(0x3002, 2) == b"\1\0"
    assert memory.read(0x5000, 512) == bytes(range(256)) * 2


def pci_msi(p: Ports) -> None:
    """A message by MSI-X, and one held back by the mask until it is cleared."""
    from pyvmm.native import lib
    from tests.conformance.device_kinds import MSIX_BAR, assign_messages

    assign_messages(p)
    table, memory = MSIX_BAR, p.board.memory
    capability = p.configuration(0x34, 1)
    while p.configuration(capability, 1) != 0x11:
        capability = p.configuration(capability + 1, 1)
        assert capability
    p.configure(capability + 2, 0x8000, 2)
    memory.write(0x600, bytes(8))
    for vector in (0, 1):
        for word, value in enumerate((0x600 + 4 * vector, 0, 0x1234 + vector, vector)):
            p.board.mmio.write(table + 16 * vector + 4 * word, 4, value)
        assert lib.pci_python_notify(p.device.pointer, vector)
    assert memory.read(0x600, 8) == (0x1234).to_bytes(8, "little")
    p.board.mmio.write(table + 16 + 12, 4, 0)
    assert memory.read(0x604, 4) == (0x1235).to_bytes(4, "little")


def e1000(p: Ports) -> None:
    """Its EEPROM is whole, and a frame goes out and one comes in (82540EM manual §3.2, §3.3)."""
    from tests.conformance.device_kinds import MAC, assign_e1000

    assign_e1000(p)
    memory, frame = p.board.memory, MAC[::-1] + MAC + b"\x88\xb5" + bytes(range(50))
    words = []
    for address in range(64):
        p.write(0, 0x14, address << 8 | 1, 4)
        words.append(p.read(0, 0x14, 4) >> 16)
    assert sum(words) & 0xFFFF == 0xBABA
    memory.write(0x1000, struct.pack("<QII", 0x4000, len(frame) | 9 << 24, 0))  # EOP, report status
    memory.write(0x4000, frame)
    memory.write(0x2000, struct.pack("<QQ", 0x5000, 0) * 8)
    for offset, value in (
        (0x0000, 0x40),  # CTRL: link up
        *((0x3800, 0x1000), (0x3804, 0), (0x3808, 128), (0x3810, 0), (0x0400, 2)),  # transmit ring, TCTL
        *(
            (0x2800, 0x2000),
            (0x2804, 0),
            (0x2808, 128),
            (0x2810, 0),
            (0x0100, 2),
            (0x2818, 7),
        ),  # receive ring
        (0x3818, 1),
    ):
        p.write(0, offset, value, 4)
    p.advance(2_000_000)
    assert p.device.backend.sent[-1] == frame
    assert memory.read(0x100C, 1) == b"\1"
    assert p.device.backend.deliver(MAC + frame[6:])
    p.advance(2_000_000)
    assert memory.read(0x5000, len(frame)) == MAC + frame[6:]
    assert p.read(0, 0x2810, 4) == 1
