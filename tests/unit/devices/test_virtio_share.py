"""A shared folder from Python: what it is made with, and that it is saved only while nobody has it mounted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pyvmm.board import Board
from pyvmm.devices.pci import PciBus
from pyvmm.devices.virtio import PciPlace
from pyvmm.devices.virtio.share import Virtio9p
from pyvmm.errors import DeviceError
from pyvmm.native import check, ffi, lib, new_error

MMIO, RINGS, MESSAGE, REPLY = 0xE0000000, 0x1000, 0x8000, 0x9000


class Driver:
    """A board with one share, and as much of a driver as one message at a time needs."""

    def __init__(self, folder: Path, **options: object) -> None:
        self.board = Board(clock="virtual")
        error = new_error()
        check(lib.guest_memory_add(self.board.pointer.memory, 0, 1 << 20, 0, error), error)
        self.pci = PciBus(self.board)
        self.share = Virtio9p(self.board, PciPlace(self.pci, 3), folder, "tag", **options)  # type: ignore[arg-type]
        function = self.pci[3]
        function.write(0x20, 4, MMIO)
        function.write(0x04, 2, 6)
        self.sent = 0
        for offset, size, value in (
            (20, 1, 0), (20, 1, 3), (8, 4, 0), (12, 4, 1), (8, 4, 1), (12, 4, 1), (20, 1, 11), (24, 2, 16),
            (32, 8, RINGS), (40, 8, RINGS + 0x100), (48, 8, RINGS + 0x200), (28, 2, 1), (20, 1, 15),
        ):  # fmt: skip
            self.board.mmio.write(MMIO + offset, size, value)

    def do(self, kind: int, body: bytes) -> bytes:
        """Send one message; returns the reply without its header."""
        memory = self.board.memory
        message = (7 + len(body)).to_bytes(4, "little") + bytes([kind, 9, 0]) + body
        memory.write(MESSAGE, message)
        chain = MESSAGE.to_bytes(8, "little") + len(message).to_bytes(4, "little") + b"\1\0\1\0"
        chain += REPLY.to_bytes(8, "little") + (4096).to_bytes(4, "little") + b"\2\0\0\0"
        memory.write(RINGS, chain)
        self.sent += 1
        memory.write(RINGS + 0x102, self.sent.to_bytes(2, "little"))
        self.board.mmio.write(MMIO + 0x3000, 2, 0)
        size = int.from_bytes(memory.read(REPLY, 4), "little")
        return bytes(memory.read(REPLY + 4, size - 4))

    def mount(self) -> None:
        """Tversion and Tattach, whose fid is 1."""
        assert self.do(100, b"\0\x20\0\0\x08\0" + b"9P2000.L")[0] == 101
        assert self.do(104, b"\1\0\0\0" + b"\xff" * 4 + bytes(8))[0] == 105

    def close(self) -> None:
        self.share.close()
        self.pci.close()
        self.board.close()


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[Driver]:
    made = Driver(tmp_path)
    yield made
    made.close()


def test_a_session(driver: Driver, tmp_path: Path) -> None:
    (tmp_path / "name").write_bytes(b"what is in it")
    driver.mount()
    assert driver.do(110, b"\1\0\0\0\2\0\0\0\1\0\4\0name")[0] == 111
    assert driver.do(12, b"\2\0\0\0\0\0\0\0")[0] == 13
    reply = driver.do(116, b"\2\0\0\0" + bytes(8) + b"\xff\0\0\0")
    assert (reply[0], reply[3:]) == (117, b"\x0d\0\0\0what is in it")
    counters = driver.share.counters
    assert (counters.requests, counters.errors, counters.bytes_read, counters.fids) == (5, 0, 13, 2)
    assert driver.do(110, b"\1\0\0\0\3\0\0\0\1\0\2\0..")[:1] == b"\7"
    assert driver.share.counters.errors == 1


def test_configuration(driver: Driver) -> None:
    assert driver.share.offered_features[0] == "MOUNT_TAG"
    config = driver.share.registers.virtio.config
    assert config[:5] == b"\3\0tag"
    assert "virtio-9p" in str(driver.pci[3])


def test_saved_while_nobody_has_it_mounted(driver: Driver) -> None:
    state = driver.share.save()
    driver.share.restore(state)
    driver.mount()
    with pytest.raises(DeviceError, match=r"share tag: .* \(1 files\).* unmount"):
        driver.share.save()
    record = ffi.new("VirtioPciState *")
    lib.device_save(driver.share.pointer, record)
    mounted = int(lib.device_state_version(driver.share.pointer)).to_bytes(4, "little") + bytes(
        ffi.buffer(record)
    )
    with pytest.raises(DeviceError, match="out of range"):
        driver.share.restore(mounted)
    assert driver.share.counters.fids == 0  # a reset forgets the driver
    driver.share.restore(state)


@pytest.mark.parametrize(
    ("folder", "tag", "security", "message"),
    [
        ("missing", "t", "none", "No such file"),
        ("", "", "none", "1 to 31 bytes"),
        ("", "t" * 32, "none", "1 to 31 bytes"),
        ("", "t\0", "none", "NUL"),
        ("", "t", "passthrough", "not none or mapped"),
        ("/proc", "t", "mapped", "extended attributes"),
    ],
)
def test_what_cannot_be_shared(tmp_path: Path, folder: str, tag: str, security: str, message: str) -> None:
    board = Board(clock="virtual")
    pci = PciBus(board)
    with pytest.raises(DeviceError, match=message):
        Virtio9p(board, PciPlace(pci, 3), tmp_path / folder, tag, security=security)  # type: ignore[arg-type]
    pci.close()
    board.close()
