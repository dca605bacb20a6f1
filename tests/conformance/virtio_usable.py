"""What a driver of each smaller virtio device does after a reset: the device must be of use then."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.conformance.device_kinds import Ports

BASE = 0xE0000000
DATA = 0x8000


class Driver:
    """From reset to DRIVER_OK by the modern interface (virtio 1.2 §3.1.1, §4.1.4.3), with queues of 4."""

    def __init__(self, ports: Ports, queues: int, features: int = 0) -> None:
        from tests.conformance.device_kinds import assign_virtio

        assign_virtio(ports)
        self.board = ports.board
        self.made = [0] * queues
        for status in (0, 1, 3):
            self.write(0x14, status, 1)
        for word, bits in enumerate((features, 1)):
            self.write(8, word, 4)
            self.write(0xC, bits, 4)
        self.write(0x14, 0x0B, 1)
        assert self.read(0x14, 1) == 0x0B
        for queue in range(queues):
            self.write(0x16, queue, 2)
            self.write(0x18, 4, 2)
            for at, address in ((0x20, 0x1000), (0x28, 0x1100), (0x30, 0x1200)):
                self.board.memory.write(0x1000 + 0x400 * queue, bytes(0x400))
                self.write(at, address + 0x400 * queue, 4)
                self.write(at + 4, 0, 4)
            self.write(0x1C, 1, 2)
        self.write(0x14, 0x0F, 1)

    def write(self, offset: int, value: int, size: int) -> None:
        """A register of the modern BAR."""
        self.board.mmio.write(BASE + offset, size, value)

    def read(self, offset: int, size: int) -> int:
        """The same."""
        return self.board.mmio.read(BASE + offset, size)

    def offer(self, queue: int, size: int, *, writable: bool, address: int = DATA) -> None:
        """One buffer, and a notification."""
        memory, rings, slot = self.board.memory, 0x1000 + 0x400 * queue, self.made[queue] % 4
        memory.write(rings + 16 * slot, struct.pack("<QIHH", address, size, 2 * writable, 0))
        memory.write(rings + 0x104 + 2 * slot, struct.pack("<H", slot))
        self.made[queue] += 1
        memory.write(rings + 0x102, struct.pack("<H", self.made[queue]))
        self.write(0x3000 + 4 * queue, queue, 2)

    def used(self, queue: int) -> list[int]:
        """How many bytes the device wrote to each buffer that it gave back."""
        rings = 0x1200 + 0x400 * queue
        (count,) = struct.unpack("<H", self.board.memory.read(rings + 2, 2))
        return [
            struct.unpack("<I", self.board.memory.read(rings + 8 + 8 * slot, 4))[0] for slot in range(count)
        ]


def rng(p: Ports) -> None:
    """Some random bytes, in their time."""
    driver = Driver(p, 1)
    driver.offer(0, 64, writable=True)
    p.advance(1_000_000_000)
    assert driver.used(0) == [64]
    assert driver.board.memory.read(DATA, 64) != bytes(64)


def console(p: Ports) -> None:
    """The driver says that it is ready, and hears of both ports."""
    driver = Driver(p, 6, features=2)
    driver.offer(2, 64, writable=True)
    driver.offer(2, 64, writable=True, address=DATA + 64)
    driver.board.memory.write(DATA + 128, struct.pack("<IHH", 0, 0, 1))
    driver.offer(3, 8, writable=False, address=DATA + 128)
    assert driver.used(2) == [8, 8]
    assert struct.unpack("<IHH", driver.board.memory.read(DATA + 64, 8)) == (1, 1, 1)


def balloon(p: Ports) -> None:
    """A page goes into the balloon, and comes back empty."""
    driver = Driver(p, 2)
    driver.board.memory.write(DATA, struct.pack("<I", 0xC))
    driver.board.memory.write(0xC000, b"full")
    driver.offer(0, 4, writable=False)
    assert driver.used(0) == [0]
    assert driver.board.memory.read(0xC000, 4) == bytes(4)
    driver.offer(1, 4, writable=False)
    assert driver.used(1) == [0]


def python(p: Ports) -> None:
    """A request is answered, with nothing."""
    driver = Driver(p, 1)
    driver.offer(0, 16, writable=True)
    assert driver.used(0) == [0]


def net(p: Ports) -> None:
    """A frame goes out, and one comes in (§5.1.6)."""
    from tests.conformance.device_kinds import MAC

    driver = Driver(p, 2)
    frame = bytes(6) + MAC + b"\x88\xb5" + bytes(range(50))
    p.board.memory.write(DATA, bytes(12) + frame)
    driver.offer(1, 12 + len(frame), writable=False)
    assert driver.used(1) == [0]
    p.advance(2_000_000)
    assert p.device.backend.sent[-1] == frame
    driver.offer(0, 2048, writable=True, address=DATA + 0x1000)
    assert p.device.backend.deliver(MAC + frame[6:])
    p.advance(2_000_000)
    assert driver.used(0) == [12 + len(frame)]
    assert p.board.memory.read(DATA + 0x100C, len(frame)) == MAC + frame[6:]


def tablet(p: Ports) -> None:
    """It says that it has two axes, and takes a buffer for events."""
    driver = Driver(p, 2)
    driver.write(0x2000, 0x11, 1)
    driver.write(0x2001, 3, 1)
    assert (driver.read(0x2002, 1), driver.read(0x2008, 1)) == (1, 3)
    driver.offer(0, 8, writable=True)
    assert driver.used(0) == []
