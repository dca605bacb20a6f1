"""Where a guest's characters go: a descriptor, a buffer that Python reads, or both (csrc/devices/char_sink.c)."""

from __future__ import annotations

from pyvmm.errors import DeviceError
from pyvmm.native import check, check_pointer, ffi, lib, new_error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyvmm.board import Board

CAPTURE_DEFAULT = 1 << 20
"""Bytes of output that are kept for Python when nobody reads them."""


class CharSink:
    """Output of a serial port or debug console.

    Bytes for a descriptor wait in a ring of 64 KiB that the I/O thread empties without ever blocking a vCPU; the
    descriptor is duplicated, and its flags stay as they are. A descriptor that breaks is dropped with one message of
    the board's, and the guest goes on.

    Parameters
    ----------
    board
        The machine's wires.
    fd
        An open descriptor to write to, or None.
    capture
        How many of the newest bytes to keep for `read`: 0 to 2**30.

    Raises
    ------
    DeviceError
        The descriptor is not open.
    """

    def __init__(self, board: Board, fd: int | None = None, capture: int = CAPTURE_DEFAULT) -> None:
        if not 0 <= capture <= 1 << 30:
            raise DeviceError(f"character buffer of {capture} bytes: it can be 0 to 1 GiB")
        error = new_error()
        number = -1 if fd is None else fd
        pointer = lib.char_sink_new_fd(board.pointer, number, capture, error)
        self.pointer: Any = check_pointer(pointer, error, exception=DeviceError)
        self._board = board  # outlives the C object

    def read(self, size: int | None = None) -> bytes:
        """Take up to `size` captured bytes, oldest first; all of them by default. Empty when there are none."""
        available = int(lib.char_sink_captured(self.pointer))
        buffer = ffi.new("uint8_t[]", max(1, available if size is None else min(size, available)))
        wanted = 0 if size == 0 else len(buffer)
        return bytes(ffi.buffer(buffer, lib.char_sink_read(self.pointer, buffer, wanted)))

    def write(self, data: bytes) -> int:
        """Write as a device would; returns how many bytes were taken."""
        return int(lib.char_sink_write(self.pointer, data, len(data)))

    def set_preamble(self, data: bytes) -> None:
        """Bytes (at most 16) that go to the descriptor in front of the guest's first one; set before the guest runs."""
        check(
            lib.char_sink_set_preamble(self.pointer, data, len(data)), what="preamble", exception=DeviceError
        )

    @property
    def waiting(self) -> int:
        """Captured bytes that `read` would give."""
        return int(lib.char_sink_captured(self.pointer))

    @property
    def total(self) -> int:
        """Bytes ever written by the guest."""
        return int(lib.char_sink_total(self.pointer))

    @property
    def overwritten(self) -> int:
        """Captured bytes that were lost because nobody read them in time."""
        return int(lib.char_sink_overwritten(self.pointer))

    def drain(self, timeout: float = 1.0) -> bool:
        """Write out what waits for the descriptor; False when some is still there after `timeout` seconds."""
        return int(lib.char_sink_drain(self.pointer, max(0, int(timeout * 1000)))) == 0

    def close(self) -> None:
        """Free the C side; the devices that write to it must be gone."""
        if self.pointer is not None:
            lib.char_sink_free(self.pointer)
            self.pointer = None

    def __repr__(self) -> str:
        return (
            "CharSink(closed)"
            if self.pointer is None
            else f"CharSink({self.total} bytes, {self.waiting} to read)"
        )
