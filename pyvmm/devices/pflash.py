"""Parallel flash memory (csrc/devices/pflash.c): UEFI's variables, in a file."""

from __future__ import annotations

import os

from pyvmm.devices.base import NativeDevice
from pyvmm.errors import ConfigError, DeviceError
from pyvmm.native import check_pointer, ffi, lib, new_error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.board import Board


class Pflash(NativeDevice):
    """Flash with Intel's command set, 8 bits wide.

    Parameters
    ----------
    path
        A file that holds the contents and gets all changes; None for memory of `size` bytes that begins erased.
    size
        Bytes, a multiple of 4096; a file's own size where there is one.

    Raises
    ------
    ConfigError
        The file cannot be opened for writing, is in use, or has no size that flash can have.
    """

    def __init__(self, board: Board, path: str | os.PathLike[str] | None, size: int = 0) -> None:
        error = new_error()
        self._lock: int | None = None
        descriptor = -1
        if path is not None:
            descriptor = _open(path)
            size = os.fstat(descriptor).st_size
        pointer = lib.pflash_new(board.pointer, descriptor, size, error)
        if descriptor >= 0 and pointer == ffi.NULL:
            os.close(descriptor)
        what = "--pflash" if path is None else f"--pflash: {os.fspath(path)}"
        super().__init__(check_pointer(pointer, error, what=what, exception=ConfigError), state="PflashState")
        self._lock = descriptor if descriptor >= 0 else None
        self.size = size

    @property
    def data(self) -> memoryview:
        """The contents."""
        return memoryview(ffi.buffer(lib.pflash_data(self.pointer), self.size))

    def save(self) -> bytes:
        """Registers as any device's; then the contents, unless a file has them."""
        return super().save() + (b"" if self._lock is not None else bytes(self.data))

    def restore(self, state: bytes) -> None:
        """Take back what `save` gave; see `NativeDevice.restore`."""
        size = 0 if self._lock is not None else self.size
        if size > len(state):
            raise DeviceError(f"{self.name}: the saved state's contents are not whole")
        super().restore(state[: len(state) - size])
        if size:
            self.data[:] = state[len(state) - size :]

    def close(self) -> None:
        """Flush the file and let it go."""
        if self.pointer is not None and self._lock is not None:
            lib.pflash_flush(self.pointer)
            os.close(self._lock)
            self._lock = None
        super().close()


def _open(path: str | os.PathLike[str]) -> int:
    import fcntl

    name = os.fspath(path)
    try:
        descriptor = os.open(name, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigError(
            f"--pflash: {name}: {error.strerror}; give a copy of OVMF_VARS.fd that may be written"
        ) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise ConfigError(f"--pflash: {name}: another machine has it; give each its own copy") from None
    return descriptor
