"""A network in Python: frames as bytes (csrc/net/net_python.h)."""

from __future__ import annotations

from pyvmm.errors import NetError
from pyvmm.native import ffi, lib
from pyvmm.net.backend import NetBackend

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyvmm.board import Board


class Custom(NetBackend):
    """Subclass it: `send` gets the guest's frames, `deliver` gives it some.

    Frames are Ethernet frames without FCS, with finished checksums and at most the guest's MTU, whatever its driver
    left to be done. An exception in `send` is raised by ``machine.run()``, as one in a Python device.

    Examples
    --------
    >>> class Echo(Custom):
    ...     def send(self, frame: bytes) -> None:
    ...         self.deliver(frame[6:12] + frame[:6] + frame[12:])
    """

    def send(self, frame: bytes) -> None:
        """A frame from the guest, on the backend's I/O thread (``net-0``)."""

    def deliver(self, frame: bytes) -> bool:
        """A frame for the guest, from any thread; False: it was dropped, as 1024 wait already or there is no NIC.

        Raises
        ------
        NetError
            It is no frame: 14 to 65560 bytes.
        """
        result = int(lib.net_python_deliver(self._open(), bytes(frame), len(frame)))
        if result == -22:
            raise NetError(f"a frame has 14 to 65560 bytes, not {len(frame)}")
        return result == 0

    _handle: Any = None

    def _create(self, board: Board, io: Any, error: Any) -> Any:
        self._handle = ffi.new_handle((self, board))
        return lib.net_python_new(board.pointer, io, lib.python_net_send, self._handle, error)


class Nothing(NetBackend):
    """A cable to nothing: for a NIC that is only looked at, or a capture of what a guest sends."""

    def _create(self, board: Board, io: Any, error: Any) -> Any:
        return lib.net_python_new(board.pointer, io, ffi.NULL, ffi.NULL, error)

    def __repr__(self) -> str:
        return "Nothing()"


@ffi.def_extern()  # type: ignore[untyped-decorator]
def python_net_send(handle: Any, frame: Any, length: int) -> None:
    backend, board = ffi.from_handle(handle)
    try:
        backend.send(bytes(ffi.buffer(frame, length)))
    except BaseException as error:
        board.fault(error)
