"""fw_cfg as its specification has it: items by key, the file directory, and requests by DMA, hostile ones too."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest

from pyvmm.board import Board
from pyvmm.devices.fw_cfg import FwCfg
from pyvmm.errors import DeviceError

RAM = 1 << 20


@pytest.fixture
def board() -> Iterator[Board]:
    made = Board("virtual")
    made.memory.add(0, RAM)
    yield made
    made.close()


def select(device: FwCfg, key: int) -> None:
    device.pio_write(0, 0, 2, key)


def take(device: FwCfg, count: int) -> bytes:
    return bytes(device.pio_read(0, 1, 1) for _ in range(count))


def dma(board: Board, device: FwCfg, control: int, length: int, gpa: int, at: int = 0x1000) -> int:
    """Make a request; returns the control field afterwards."""
    board.memory.write(at, struct.pack(">IIQ", control, length, gpa))
    device.pio_write(0, 4, 4, int.from_bytes((at >> 32).to_bytes(4, "big"), "little"))
    device.pio_write(0, 8, 4, int.from_bytes((at & 0xFFFFFFFF).to_bytes(4, "big"), "little"))
    return int.from_bytes(board.memory.read(at, 4), "big")


def directory(device: FwCfg) -> dict[str, tuple[int, int]]:
    """Files by name: (size, key)."""
    select(device, 0x19)
    count = int.from_bytes(take(device, 4), "big")
    found = {}
    for _ in range(count):
        size, key, _reserved, name = struct.unpack(">IHH56s", take(device, 64))
        found[name.rstrip(b"\0").decode()] = (size, key)
    return found


def test_signature_and_features(board: Board) -> None:
    device = FwCfg(board)
    assert take(device, 6) == b"QEMU\0\0"
    select(device, 1)
    assert take(device, 4) == b"\x03\0\0\0"
    assert device.pio_read(0, 4, 4).to_bytes(4, "little") == b"QEMU"
    assert device.pio_read(0, 8, 4).to_bytes(4, "little") == b" CFG"


def test_files_are_listed_and_read(board: Board) -> None:
    device = FwCfg(board, {0x8000: b"mine"}, {"b": b"second", "a": b"first"})
    device.add_files({"c/d": b"third", "a": b"FIRST"})
    listed = directory(device)
    assert {name: size for name, (size, _) in listed.items()} == {"a": 5, "b": 6, "c/d": 5}
    for name, data in {"a": b"FIRST", "b": b"second", "c/d": b"third"}.items():
        select(device, listed[name][1])
        assert take(device, len(data) + 2) == data + b"\0\0"
    select(device, 0x8000)
    assert take(device, 4) == b"mine"


def test_what_is_provided_late(board: Board) -> None:
    calls = []

    def provide(device: FwCfg) -> None:
        calls.append(1)
        device.add_files({"late": b"x"})

    device = FwCfg(board, provide=provide)
    assert not calls
    assert list(directory(device)) == ["late"]
    assert list(directory(device)) == ["late"]
    assert len(calls) == 1


def test_dma_selects_reads_and_skips(board: Board) -> None:
    device = FwCfg(board, {0x30: bytes(range(100))})
    assert dma(board, device, 0x30 << 16 | 8 | 2, 10, 0x2000) == 0
    assert board.memory.read(0x2000, 11) == bytes(range(10)) + b"\0"
    assert dma(board, device, 4, 5, 0) == 0
    assert dma(board, device, 2, 200, 0x2000) == 0
    assert board.memory.read(0x2000, 200) == bytes(range(15, 100)) + bytes(115)


@pytest.mark.parametrize(
    ("control", "length", "gpa"),
    [
        (2, 16, RAM - 8),  # runs over the end of memory
        (2, 0xFFFFFFFF, 0),  # more than there is
        (2, 16, 0xFFFFFFFFFFFFFFF8),  # wraps around
        (16, 16, 0x2000),  # writing is not offered
    ],
)
def test_dma_that_cannot_be_done_says_so(board: Board, control: int, length: int, gpa: int) -> None:
    device = FwCfg(board, {0x30: bytes(100)})
    assert (
        dma(board, device, 0x30 << 16 | 8 | control, length, gpa, at=0x3000 if length < RAM else RAM - 16) & 1
    )


def test_dma_request_outside_of_memory(board: Board) -> None:
    device = FwCfg(board)
    device.pio_write(0, 4, 4, 0xFFFFFFFF)
    device.pio_write(0, 8, 4, 0xFFFFFFFF)
    assert take(device, 4) == b"QEMU"


def test_state(board: Board) -> None:
    device = FwCfg(board, {0x30: b"abcdef"})
    select(device, 0x30)
    take(device, 2)
    other = FwCfg(board, {0x30: b"abcdef"})
    other.restore(device.save())
    assert take(other, 4) == b"cdef"
    for bad in (None, (1, 2), (1 << 16, 0, 0), (0, -1, 0)):
        with pytest.raises(DeviceError):
            other.restore(bad)


def test_names_and_keys_are_checked(board: Board) -> None:
    for name in ("", "x" * 56, "ä"):
        with pytest.raises(DeviceError):
            FwCfg(board, files={name: b""})
    with pytest.raises(DeviceError):
        FwCfg(board, {1 << 16: b""})
