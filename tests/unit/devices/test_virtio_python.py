"""Virtio devices in Python: answers at once and later, features, configuration, exceptions, reset."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import ClassVar

import pytest

from pyvmm.board import Board
from pyvmm.devices.virtio import Later, MmioPlace, PythonVirtioDevice
from pyvmm.errors import DeviceError

BASE, RINGS, DATA, ANSWER = 0xFEB00000, 0x1000, 0x4000, 0x5000


class Shout(PythonVirtioDevice):
    """Says it louder; ``later`` and ``bad`` are special."""

    device_id = 42
    features = 1 << 3
    feature_bits: ClassVar[dict[int, str]] = {3: "LOUD"}
    config = b"configuration"
    kept: Later | None = None

    def request(self, queue: int, data: bytes, room: int) -> bytes | Later:
        if data == b"bad":
            raise ValueError("not this")
        if data == b"later":
            self.kept = self.later()
            return self.kept
        return data.upper()


class Driver:
    """A driver by MMIO (virtio 1.2 §4.2) that has one request at a time: a readable and a writable buffer."""

    def __init__(self) -> None:
        self.board = Board("virtual")
        self.board.memory.add(0, 1 << 16)  # type: ignore[arg-type]
        self.device = Shout(self.board, MmioPlace(BASE, 10))
        self.board.mmio.add(BASE, MmioPlace.SIZE, self.device)

    def close(self) -> None:
        self.device.close()
        self.board.close()

    def write(self, offset: int, value: int) -> None:
        self.board.mmio.write(BASE + offset, 4, value)

    def read(self, offset: int) -> int:
        return self.board.mmio.read(BASE + offset, 4)

    def start(self, features: int = 0) -> None:
        for status in (0, 1, 3):
            self.write(0x70, status)
        for word, bits in ((0, features), (1, 1)):
            self.write(0x24, word)
            self.write(0x20, bits)
        self.write(0x70, 11)
        self.board.memory.write(RINGS, bytes(0x300))
        self.write(0x38, 4)
        for offset, address in ((0x80, RINGS), (0x90, RINGS + 0x100), (0xA0, RINGS + 0x200)):
            self.write(offset, address)
        self.write(0x44, 1)
        self.write(0x70, 15)

    def ask(self, data: bytes, room: int = 64) -> bytes | None:
        """The answer, or None when there is none yet."""
        memory = self.board.memory
        memory.write(DATA, data)
        memory.write(RINGS, struct.pack("<QIHHQIHH", DATA, len(data), 1, 1, ANSWER, room, 2, 0))
        (made,) = struct.unpack("<H", memory.read(RINGS + 0x102, 2))
        memory.write(RINGS + 0x102, struct.pack("<H", made + 1))
        self.write(0x50, 0)
        return self.answer(made)

    def answer(self, number: int) -> bytes | None:
        memory = self.board.memory
        (used,) = struct.unpack("<H", memory.read(RINGS + 0x202, 2))
        if used <= number:
            return None
        (size,) = struct.unpack("<I", memory.read(RINGS + 0x204 + 8 * (number % 4) + 4, 4))
        return memory.read(ANSWER, size)


@pytest.fixture
def driver() -> Iterator[Driver]:
    made = Driver()
    yield made
    made.close()


def test_answers(driver: Driver) -> None:
    driver.start(1 << 3)
    assert driver.read(8) == 42
    assert "LOUD" in driver.device.driver_features
    assert driver.ask(b"hello") == b"HELLO"
    assert driver.ask(b"cut off", room=3) == b"CUT"
    assert driver.device.name == "Shout"


def test_configuration(driver: Driver) -> None:
    assert driver.board.mmio.read(BASE + 0x100, 4).to_bytes(4, "little") == b"conf"
    generation = driver.read(0xFC)
    driver.device.set_config(b"C")
    assert driver.board.mmio.read(BASE + 0x100, 4).to_bytes(4, "little") == b"Conf"
    assert driver.read(0xFC) != generation
    with pytest.raises(DeviceError):
        driver.device.set_config(b"x" * 14)


def test_later(driver: Driver) -> None:
    driver.start()
    assert driver.ask(b"later") is None
    assert driver.device.pending == 1
    with pytest.raises(DeviceError, match="no answer yet"):
        driver.device.save()
    assert driver.device.kept is not None
    assert driver.device.kept.complete(b"now")
    assert driver.answer(0) == b"now"
    assert not driver.device.kept.complete(b"twice")
    driver.device.restore(driver.device.save())


def test_reset_takes_requests_away(driver: Driver) -> None:
    driver.start()
    driver.ask(b"later")
    driver.start()
    assert driver.device.pending == 0
    assert driver.device.kept is not None
    assert not driver.device.kept.complete(b"too late")
    assert driver.ask(b"again") == b"AGAIN"


def test_an_exception_is_kept_and_the_driver_answered(driver: Driver) -> None:
    driver.start()
    with pytest.raises(ValueError, match="not this"):
        driver.ask(b"bad")
    assert driver.answer(0) == b""
    assert driver.ask(b"fine") == b"FINE"


def test_attributes_are_checked() -> None:
    board = Board("virtual")
    try:
        for attributes in ({"device_id": 64}, {"queue_count": 65}, {"queue_size": 3}, {"config": bytes(257)}):
            kind = type("Wrong", (PythonVirtioDevice,), attributes)
            with pytest.raises(DeviceError):
                kind(board, MmioPlace(BASE, 10))
    finally:
        board.close()
