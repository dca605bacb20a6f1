"""Flash from Python: contents in memory go with the state, contents in a file stay there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pyvmm.board import Board
from pyvmm.devices.pflash import Pflash
from pyvmm.errors import DeviceError


@pytest.fixture
def board() -> Iterator[Board]:
    made = Board("virtual")
    yield made
    made.close()


def program(flash: Pflash, offset: int, value: int) -> None:
    flash.mmio_write(0, offset, 1, 0x40)
    flash.mmio_write(0, offset, 1, value)


def test_state_has_the_contents(board: Board) -> None:
    flash, other = Pflash(board, None, 8192), Pflash(board, None, 8192)
    program(flash, 100, 0x12)
    other.restore(flash.save())
    assert other.mmio_read(0, 0, 1) == 0x80  # still showing its status
    assert other.data[100] == 0x12
    for bad in (b"", flash.save()[:-1], flash.save() + b"x"):
        with pytest.raises(DeviceError):
            other.restore(bad)
    flash.close()
    other.close()


def test_a_file_keeps_them(board: Board, tmp_path: Path) -> None:
    path = tmp_path / "vars.fd"
    path.write_bytes(b"\xff" * 4096)
    flash = Pflash(board, path)
    state = flash.save()
    program(flash, 5, 0xA5)
    flash.restore(state)
    flash.close()
    assert path.read_bytes()[5] == 0xA5
    again = Pflash(board, path)
    assert again.mmio_read(0, 5, 1) == 0xA5
    again.close()
