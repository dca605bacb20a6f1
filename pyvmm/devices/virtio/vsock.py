"""virtio socket device: stream sockets between host and guest (csrc/virtio/virtio_vsock.c, csrc/vsock/)."""

from __future__ import annotations

import os

from pyvmm.devices.virtio.base import VirtioDevice
from pyvmm.devices.virtio.features import SOCKET
from pyvmm.errors import DeviceError
from pyvmm.native import check_pointer, ffi, lib, new_error
from pyvmm.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from typing import Final

    from pyvmm.board import Board
    from pyvmm.config import StrPath
    from pyvmm.devices.virtio.base import Place

FIRST_CID: Final = 3
LAST_CID: Final = 0xFFFFFFFE


@record(frozen=True, slots=True)
class VsockCounters:
    """What the device has done since it was made, and how many connections there are now.

    `by_guest` and `by_host` are connections that were established, by who asked; `refused` those that were not.
    `resets` ended otherwise than by both sides' shutdown. `malformed` packets were dropped.
    """

    by_guest: int
    by_host: int
    refused: int
    resets: int
    bytes_from_guest: int
    bytes_to_guest: int
    malformed: int
    connections: int


class VirtioVsock(VirtioDevice):
    """Sockets to the guest. A program reaches the guest's port N by connecting to `path` and sending ``CONNECT N``.

    A guest that connects to port N of CID 2 reaches who listens on the Unix socket ``PATH_N``.

    Parameters
    ----------
    place
        Where it stands.
    path
        Of the Unix socket: made here, removed by `close`; at most 95 bytes.
    cid
        The guest's address, 3 to 4294967294.

    Raises
    ------
    DeviceError
        The path or the CID cannot be, or the place is taken.
    """

    feature_bits = SOCKET

    def __init__(self, board: Board, place: Place, path: StrPath, cid: int = FIRST_CID) -> None:
        if not FIRST_CID <= cid <= LAST_CID:
            raise DeviceError(f"vsock: the guest's CID {cid} is not one of {FIRST_CID} to {LAST_CID}")
        if "\0" in os.fspath(path):
            raise DeviceError(f"vsock: {path!r}: there is a NUL in it")
        error = new_error()
        pointer = lib.virtio_vsock_new(board.pointer, place.native(board), os.fsencode(path), cid, error)
        super().__init__(check_pointer(pointer, error, exception=DeviceError), place)
        self.path, self.cid = os.path.abspath(os.fspath(path)), cid
        self._listening: list[str] = []

    def connect(self, port: int, timeout: float | None = 10.0) -> socket.socket:
        """Connect to a port of the guest's; what is returned is an ordinary socket.

        The guest must be running meanwhile. `timeout` is of the connecting, in seconds, and of the socket afterwards.

        Raises
        ------
        ConnectionRefusedError
            Nobody listens there, or the guest has no driver.
        TimeoutError
            The guest has not answered.
        """
        import socket

        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            made.settimeout(timeout)
            made.connect(self.path)
            made.sendall(b"CONNECT %d\n" % port)
            answer = b""
            while not answer.endswith(b"\n"):
                byte = made.recv(1)  # what comes after the line is the guest's
                if not byte:
                    raise ConnectionRefusedError(f"vsock: nobody answers at the guest's port {port}")
                answer += byte
        except (ConnectionResetError, BrokenPipeError):
            made.close()
            raise ConnectionRefusedError(f"vsock: nobody answers at the guest's port {port}") from None
        except BaseException:
            made.close()
            raise
        return made

    def listen(self, port: int, backlog: int = 16) -> socket.socket:
        """A listening socket that the guest reaches at port `port` of CID 2; ``accept()`` gives its connections.

        Raises
        ------
        OSError
            The Unix socket is there already, or cannot be made.
        """
        import socket

        path = f"{self.path}_{port}"
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            made.bind(path)
            self._listening.append(path)
            made.listen(backlog)
        except BaseException:
            made.close()
            raise
        return made

    @property
    def counters(self) -> VsockCounters:
        """Connections and bytes."""
        native = ffi.new("VsockCounters *")
        lib.virtio_vsock_counters(self.pointer, native)
        return VsockCounters(**{name: int(getattr(native, name)) for name in VsockCounters.__match_args__})

    def close(self) -> None:
        """Free the device; its Unix sockets are removed."""
        super().close()
        for path in self._listening:
            if os.path.lexists(path):
                os.unlink(path)
        self._listening.clear()
