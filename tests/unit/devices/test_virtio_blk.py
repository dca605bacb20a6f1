"""virtio-blk from Python, with the driver's side played in guest memory (virtio 1.2 §3.1, §4.1, §5.2)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyvmm.block.image import open_image
from pyvmm.board import Board
from pyvmm.devices.pci import HostBridge, IsaBridge, PciBus
from pyvmm.devices.virtio import MmioPlace, PciPlace, VirtioBlk, feature_names, status_names
from pyvmm.errors import DeviceError
from pyvmm.native import check, ffi, lib, new_error

SLOT = 3
MMIO = 0xE0000000
NOTIFY = 0x3000
RINGS, HEADER, DATA = 0x1000, 0x8000, 0x9000
QUEUE = 16
DISK = 1 << 20


def add_ram(board: Board, size: int) -> None:
    error = new_error()
    check(lib.guest_memory_add(board.pointer.memory, 0, size, 0, error), error)


class Driver:
    """A board with one disk, and as much of a driver as one request at a time needs."""

    def __init__(self, path: Path, *, modern_only: bool = False, **options: object) -> None:
        path.write_bytes(bytes(range(256)) * (DISK // 256))
        self.board = Board(clock="virtual")
        add_ram(self.board, 1 << 20)
        self.pci = PciBus(self.board)
        self.bridges = [HostBridge(self.board, self.pci), IsaBridge(self.board, self.pci, 1)]
        self.image = open_image(path, format="raw", cache="unsafe")
        place = PciPlace(self.pci, SLOT, modern_only=modern_only)
        self.blk = VirtioBlk(self.board, place, self.image, **options)  # type: ignore[arg-type]
        function = self.pci[SLOT]
        function.write(0x20, 4, MMIO)
        function.write(0x04, 2, 6)
        self.sent = 0

    def close(self) -> None:
        self.blk.close()
        for bridge in self.bridges:
            bridge.close()
        self.pci.close()
        self.image.close()
        self.board.close()

    def poke(self, offset: int, size: int, value: int) -> None:
        self.board.mmio.write(MMIO + offset, size, value)

    def start(self, features: int = 0) -> None:
        self.poke(20, 1, 0)
        self.poke(20, 1, 3)
        for word, bits in enumerate((features & 0xFFFFFFFF, features >> 32 | 1)):
            self.poke(8, 4, word)
            self.poke(12, 4, bits)
        self.poke(20, 1, 11)
        self.poke(24, 2, QUEUE)
        for register, address in ((32, RINGS), (40, RINGS + 0x100), (48, RINGS + 0x200)):
            self.poke(register, 8, address)
        self.board.memory.write(RINGS, bytes(0x400))
        self.poke(28, 2, 1)
        self.poke(20, 1, 15)
        self.sent = 0

    def request(self, kind: int, sector: int, length: int, *, to_device: bool = False) -> int:
        memory = self.board.memory
        memory.write(HEADER, struct.pack("<IIQB", kind, 0, sector, 0xEE))
        chain = struct.pack("<QIHH", HEADER, 16, 1, 1)
        chain += struct.pack("<QIHH", DATA, length, 1 if to_device else 3, 2)
        chain += struct.pack("<QIHH", HEADER + 16, 1, 2, 0)
        memory.write(RINGS, chain)
        self.sent += 1
        memory.write(RINGS + 0x102, struct.pack("<H", self.sent))
        self.poke(NOTIFY, 2, 0)
        return memory.read(HEADER + 16, 1)[0]


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[Driver]:
    made = Driver(tmp_path / "disk.raw", serial="disk-7")
    yield made
    made.close()


def test_read_and_write(driver: Driver) -> None:
    driver.start()
    assert driver.request(0, 1, 4096) == 0
    assert driver.board.memory.read(DATA, 4096) == bytes(range(256)) * 16
    driver.board.memory.write(DATA, b"pyvmm" * 100 + bytes(12))
    assert driver.request(1, 9, 512, to_device=True) == 0
    assert driver.image.pread(5, 9 * 512) == b"pyvmm"
    counters = driver.blk.counters
    assert (counters.reads, counters.writes, counters.bytes_read, counters.bytes_written) == (1, 1, 4096, 512)
    assert counters.errors == driver.blk.queue_counters.faults == 0


def test_serial_and_errors(driver: Driver) -> None:
    driver.start()
    assert driver.request(8, 0, 20) == 0
    assert driver.board.memory.read(DATA, 20) == b"disk-7".ljust(20, b"\0")
    assert driver.request(0, DISK // 512, 512) == 1
    assert driver.request(99, 0, 512) == 2
    assert driver.blk.counters.errors == 2


def test_names_in_a_notebook(driver: Driver) -> None:
    assert driver.blk.status == ()
    assert {"VERSION_1", "EVENT_IDX", "FLUSH", "DISCARD"} <= set(driver.blk.offered_features)
    driver.start(1 << 29)
    assert driver.blk.status == ("ACKNOWLEDGE", "DRIVER", "DRIVER_OK", "FEATURES_OK")
    assert driver.blk.driver_features == ("EVENT_IDX", "VERSION_1")
    driver.request(0, 0, 512)
    queue = driver.blk.registers.virtio.queues[0]
    assert (queue.size, queue.last_avail, queue.next_used, queue.enabled) == (QUEUE, 1, 1, 1)
    assert "virtio-blk (SCSI storage)" in str(driver.pci[SLOT])
    assert [kind for kind, _ in driver.pci[SLOT].capabilities] == [9] * 5 + [17]


def test_malformed_chain_needs_reset(driver: Driver) -> None:
    driver.start()
    assert driver.request(0, 0, 0) == 0xEE
    assert "DEVICE_NEEDS_RESET" in driver.blk.status
    assert driver.blk.queue_counters.faults == 1
    assert any("buffer of length 0" in line for line in driver.board.messages())
    driver.start()
    assert driver.request(0, 0, 512) == 0


def test_save_and_restore(driver: Driver) -> None:
    driver.start()
    driver.request(0, 0, 512)
    state = driver.blk.save()
    driver.blk.reset()
    assert driver.blk.status == ()
    driver.blk.restore(state)
    assert driver.blk.save() == state
    assert driver.request(0, 1, 512) == 0
    with pytest.raises(DeviceError):
        driver.blk.restore(state[:-1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"serial": "x" * 21}, "at most 20"),
        ({"serial": "é"}, "ASCII"),
        ({"queue_size": 100}, "queue size 100"),
        ({"block_size": 1000}, "block size 1000"),
    ],
)
def test_bad_options(driver: Driver, options: dict[str, object], message: str) -> None:
    with pytest.raises(DeviceError, match=message):
        VirtioBlk(driver.board, PciPlace(driver.pci, 5), driver.image, **options)  # type: ignore[arg-type]
    with pytest.raises(DeviceError, match="slot 3 function 0 is taken"):
        VirtioBlk(driver.board, PciPlace(driver.pci, SLOT), driver.image)


def test_modern_only(tmp_path: Path) -> None:
    made = Driver(tmp_path / "disk.raw", modern_only=True)
    try:
        assert made.pci[SLOT].header.device_id == 0x1042
        assert [bar.index for bar in made.pci[SLOT].bars] == [1, 4]
        made.start()
        assert made.request(0, 0, 512) == 0
    finally:
        made.close()


def test_bit_names() -> None:
    assert feature_names(1 << 32 | 1 << 9 | 1 << 50) == ("FLUSH", "VERSION_1", "bit 50")
    assert status_names(0x41) == ("ACKNOWLEDGE", "DEVICE_NEEDS_RESET")
    assert ffi.sizeof("VirtioPciState") > 256


def test_ring_features(driver: Driver) -> None:
    assert "RING_PACKED" not in driver.blk.offered_features
    assert "RING_RESET" in driver.blk.offered_features
    place = PciPlace(driver.pci, 5, features={"RING_PACKED": True, "EVENT_IDX": False, "IN_ORDER": True})
    blk = VirtioBlk(driver.board, place, driver.image)
    assert {"RING_PACKED", "IN_ORDER", "INDIRECT_DESC"} <= set(blk.offered_features)
    assert "EVENT_IDX" not in blk.offered_features
    blk.close()
    with pytest.raises(DeviceError, match="VERSION_1 is not one of INDIRECT_DESC"):
        PciPlace(driver.pci, 5, features={"VERSION_1": False})


@pytest.mark.parametrize("legacy", [False, True])
def test_memory_mapped(driver: Driver, legacy: bool) -> None:
    base = 0xFEB00000
    blk = VirtioBlk(driver.board, MmioPlace(base, 16, legacy=legacy), driver.image)
    driver.board.mmio.add(base, MmioPlace.SIZE, blk)
    words = [driver.board.mmio.read(base + 4 * n, 4) for n in range(3)]
    assert words == [0x74726976, 1 if legacy else 2, 2]
    assert driver.board.mmio.read(base + 0x100, 8) == DISK // 512
    assert ("VERSION_1" in blk.offered_features) is not legacy
    assert ("ANY_LAYOUT" in blk.offered_features) is legacy
    state = blk.save()
    driver.board.mmio.write(base + 0x70, 4, 3)
    assert blk.status == ("ACKNOWLEDGE", "DRIVER")
    blk.restore(state)
    assert blk.status == ()
    with pytest.raises(DeviceError, match="not on PCI"):
        _ = blk.slot
    driver.board.mmio.remove(base)
    blk.close()
    with pytest.raises(DeviceError, match="a multiple of 512"):
        MmioPlace(base + 4, 16)
