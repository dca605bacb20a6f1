"""virtio-vsock from Python, with the driver's side played in guest memory (virtio 1.2 §5.10)."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyvmm.board import Board
from pyvmm.devices.pci import PciBus
from pyvmm.devices.virtio import PciPlace
from pyvmm.devices.virtio.vsock import VirtioVsock
from pyvmm.errors import DeviceError
from pyvmm.native import check, lib, new_error

MMIO, BUFFERS = 0xE0000000, 0x10000
RX, TX, EVENT = 0, 1, 2
QUEUE = 16
HEADER = struct.Struct("<QQIIIHHIII")
REQUEST, RESPONSE, RST, SHUTDOWN, RW = 1, 2, 3, 4, 5


class Driver:
    """A board with one vsock device on a virtual clock: all is done inside notifications."""

    def __init__(self, path: Path) -> None:
        self.board = Board(clock="virtual")
        error = new_error()
        check(lib.guest_memory_add(self.board.pointer.memory, 0, 1 << 20, 0, error), error)
        self.pci = PciBus(self.board)
        self.vsock = VirtioVsock(self.board, PciPlace(self.pci, 3), path, cid=9)
        function = self.pci[3]
        function.write(0x20, 4, MMIO)
        function.write(0x04, 2, 6)

    def poke(self, offset: int, size: int, value: int) -> None:
        self.board.mmio.write(MMIO + offset, size, value)

    def start(self) -> None:
        self.board.memory.write(0, bytes(0x8000))
        self.offered, self.taken = [0, 0, 0], [0, 0, 0]
        for offset, size, value in (
            (20, 1, 0),
            (20, 1, 3),
            (8, 4, 0),
            (12, 4, 1),
            (8, 4, 1),
            (12, 4, 1),
            (20, 1, 11),
        ):
            self.poke(offset, size, value)
        for queue in (RX, TX, EVENT):
            rings = 0x1000 * (queue + 1)
            self.poke(22, 2, queue)
            self.poke(24, 2, QUEUE)
            for register, address in ((32, rings), (40, rings + 0x100), (48, rings + 0x200)):
                self.poke(register, 8, address)
            self.poke(28, 2, 1)
        self.poke(20, 1, 15)

    def offer(self, queue: int, data: bytes | int) -> None:
        """Put one buffer into a queue: bytes for the device to read, or room for it to write."""
        rings, index = 0x1000 * (queue + 1), self.offered[queue] % QUEUE
        at = BUFFERS + queue * 0x10000 + index * 0x1000
        length = data if isinstance(data, int) else len(data)
        if isinstance(data, bytes):
            self.board.memory.write(at, data)
        flags = 2 if isinstance(data, int) else 0
        self.board.memory.write(rings + 16 * index, struct.pack("<QIHH", at, length, flags, 0))
        self.board.memory.write(rings + 0x104 + 2 * index, index.to_bytes(2, "little"))
        self.offered[queue] += 1
        self.board.memory.write(rings + 0x102, self.offered[queue].to_bytes(2, "little"))
        self.poke(0x3000 + 4 * queue, 2, queue)

    def used(self, queue: int) -> bytes | None:
        """The next buffer that came back, as much as was written; None: none did."""
        rings = 0x1000 * (queue + 1)
        memory = self.board.memory
        if int.from_bytes(memory.read(rings + 0x202, 2), "little") == self.taken[queue]:
            return None
        element = memory.read(rings + 0x204 + 8 * (self.taken[queue] % QUEUE), 8)
        index, length = struct.unpack("<II", element)
        self.taken[queue] += 1
        return bytes(memory.read(BUFFERS + queue * 0x10000 + index * 0x1000, length))

    def say(self, op: int, guest_port: int, host_port: int, data: bytes = b"", flags: int = 0) -> None:
        header = HEADER.pack(9, 2, guest_port, host_port, len(data), 1, op, flags, 65536, 0)
        self.offer(TX, header + data)
        assert self.used(TX) == b""

    def hear(self) -> tuple[int, int, int, bytes] | None:
        """Operation, host port, guest port and data of the next packet."""
        self.offer(RX, 4096)
        packet = self.used(RX)
        if packet is None:
            return None
        _, _, source, destination, length, _, op, _, _, _ = HEADER.unpack(packet[: HEADER.size])
        assert len(packet) == HEADER.size + length
        return op, source, destination, packet[HEADER.size :]

    def close(self) -> None:
        self.vsock.close()
        self.pci.close()
        self.board.close()


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[Driver]:
    made = Driver(tmp_path / "v")
    yield made
    made.close()


def test_both_ways(driver: Driver) -> None:
    driver.start()
    listener = driver.vsock.listen(5)
    driver.say(REQUEST, 1000, 5)
    assert driver.hear() == (RESPONSE, 5, 1000, b"")
    program, _ = listener.accept()
    with listener, program:
        driver.say(RW, 1000, 5, b"question")
        assert program.recv(100) == b"question"
        program.sendall(b"answer")
        assert driver.hear() == (RW, 5, 1000, b"answer")
        driver.say(SHUTDOWN, 1000, 5, flags=3)
        assert driver.hear() == (RST, 5, 1000, b"")
        assert program.recv(100) == b""
    counters = driver.vsock.counters
    assert (counters.by_guest, counters.resets, counters.connections) == (1, 0, 0)
    assert (counters.bytes_from_guest, counters.bytes_to_guest) == (8, 6)
    assert driver.vsock.queue_counters.faults == 0


def test_a_program_connects(driver: Driver) -> None:
    driver.start()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as program:
        program.connect(driver.vsock.path)
        program.sendall(b"CONNECT 77\nhello")
        for _ in range(8):  # buffers: on a virtual clock the host is looked at when the guest does something
            driver.offer(RX, 4096)
        request = driver.used(RX)
        assert request is not None
        fields = HEADER.unpack(request)
        assert (fields[0], fields[1], fields[3], fields[6]) == (2, 9, 77, REQUEST)
        driver.say(RESPONSE, 77, fields[2])
        assert program.recv(100) == b"OK %d\n" % fields[2]
        data = driver.used(RX)
        assert data is not None
        assert data[HEADER.size :] == b"hello"


def test_a_reset_ends_connections(driver: Driver) -> None:
    driver.start()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as program:
        program.connect(driver.vsock.path)
        driver.offer(RX, 4096)
        assert driver.vsock.counters.connections == 1
        driver.poke(20, 1, 0)
        assert driver.vsock.counters.connections == 0
        assert program.recv(1) == b""


@pytest.mark.parametrize(
    ("packet", "message"),
    [
        (b"x" * 43, "without a whole header"),
        (HEADER.pack(9, 2, 1, 2, 100, 1, RW, 0, 0, 0) + b"short", "shorter than its header says"),
    ],
)
def test_malformed_packets_need_a_reset(driver: Driver, packet: bytes, message: str) -> None:
    driver.start()
    driver.offer(TX, packet)
    assert "DEVICE_NEEDS_RESET" in driver.vsock.status
    assert any(message in line for line in driver.board.messages())
    driver.start()
    driver.say(REQUEST, 1000, 5)
    assert driver.hear() == (RST, 5, 1000, b"")


def test_small_receive_buffers(driver: Driver) -> None:
    driver.start()
    driver.say(REQUEST, 1000, 5)
    driver.offer(RX, 43)
    assert "DEVICE_NEEDS_RESET" in driver.vsock.status
    driver.start()
    listener = driver.vsock.listen(5)
    driver.say(REQUEST, 1000, 5)
    assert driver.hear() == (RESPONSE, 5, 1000, b"")
    program, _ = listener.accept()
    with listener, program:
        program.sendall(b"data")
        driver.offer(RX, 44)  # a header and nothing more: it stays in the ring
        assert driver.used(RX) is None
        assert driver.vsock.queue_counters.faults == 1


def test_replies_wait_for_room(driver: Driver) -> None:
    """Without receive buffers no more packets are taken than there is room for their answers."""
    driver.start()
    for port in range(256):
        driver.say(REQUEST, port, 5)
    driver.offer(TX, HEADER.pack(9, 2, 500, 5, 0, 1, REQUEST, 0, 0, 0))
    assert driver.used(TX) is None
    for port in range(256):
        assert driver.hear() == (RST, 5, port, b"")
    assert driver.used(TX) == b""
    assert driver.hear() == (RST, 5, 500, b"")


def test_a_restored_driver_is_told_that_connections_are_gone(driver: Driver) -> None:
    driver.start()
    listener = driver.vsock.listen(5)
    driver.say(REQUEST, 1000, 5)
    driver.hear()
    program, _ = listener.accept()
    state = driver.vsock.save()
    driver.vsock.restore(state)
    assert driver.vsock.save() == state
    with listener, program:
        assert program.recv(1) == b""
    assert driver.vsock.counters.connections == 0
    assert driver.used(EVENT) is None
    driver.offer(EVENT, 8)
    assert driver.used(EVENT) == bytes(4)
    driver.offer(EVENT, 8)
    assert driver.used(EVENT) is None  # once
    driver.say(RW, 1000, 5)
    assert driver.hear() == (RST, 5, 1000, b"")


def test_names_and_addresses(driver: Driver, tmp_path: Path) -> None:
    assert driver.vsock.offered_features[0] == "STREAM"
    assert driver.vsock.registers.virtio.config[:8] == (9).to_bytes(8, "little")
    assert "virtio-vsock" in str(driver.pci[3])
    for path, cid, message in (
        (tmp_path / "x", 2, "CID 2"),
        (tmp_path / "x", 1 << 32, "CID"),
        (tmp_path / "missing" / "x", 3, "No such file"),
        (tmp_path / ("x" * 100), 3, "shorter"),
        (driver.vsock.path, 3, "in use"),
    ):
        with pytest.raises(DeviceError, match=message):
            VirtioVsock(driver.board, PciPlace(driver.pci, 4), path, cid)


def test_its_sockets_go_with_it(tmp_path: Path) -> None:
    driver = Driver(tmp_path / "v")
    driver.vsock.listen(5).close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["v", "v_5"]
    driver.close()
    assert not list(tmp_path.iterdir())
