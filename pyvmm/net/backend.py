"""What all network backends share in Python (csrc/net/net.h)."""

from __future__ import annotations

import os

from pyvmm.errors import NetError
from pyvmm.native import check, check_pointer, ffi, lib, new_error
from pyvmm.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyvmm.board import Board, IoThread
    from pyvmm.config import StrPath


@record(frozen=True, slots=True)
class NetCounters:
    """Frames and bytes as the guest sees the directions: ``tx`` leaves it. A big (GSO) frame is one.

    Attributes
    ----------
    tx_drops
        The host's side did not take them, or the link was down.
    tx_invalid
        The guest's header contradicted its frame.
    rx_drops
        Too many waited, there was no NIC, or the link was down.
    rx_waits, tx_waits
        How often the NIC had no buffers, and the backend no room.
    segmented, checksummed
        Frames cut, and checksums finished, by software of ours.
    rx_queued
        Frames that wait for the NIC now.
    link
        Whether there is a carrier.
    """

    tx_frames: int
    tx_bytes: int
    tx_drops: int
    tx_invalid: int
    rx_frames: int
    rx_bytes: int
    rx_drops: int
    rx_waits: int
    tx_waits: int
    segmented: int
    checksummed: int
    link_changes: int
    rx_queued: int
    link: bool


class NetBackend:
    """One end of a NIC's cable. Configuration at first; `open` makes it on a board, which a machine does.

    One machine at a time has it; when that is closed it can be opened again.

    Attributes
    ----------
    pointer
        The ``NetBackend *``, for a NIC's constructor; None while it is closed.
    io
        The I/O thread that it shares with its NIC.
    """

    pointer: Any = None
    io: IoThread | None = None
    board: Board | None = None

    def open(self, board: Board, io: IoThread) -> None:
        """Make it, on a board and one of its threads (``board.worker("net-0")``).

        Raises
        ------
        NetError
            The host does not have what it needs, or another machine has this backend.
        """
        if self.pointer is not None:
            raise NetError(f"{self!r} is in use by another machine; make one for each")
        error = new_error()
        pointer = check_pointer(self._create(board, io.on(board), error), error, exception=NetError)
        self.pointer, self.board, self.io = pointer, board, io
        try:
            self._opened()
        except BaseException:
            self.close()
            raise

    def _create(self, board: Board, io: Any, error: Any) -> Any:
        raise NotImplementedError

    def _opened(self) -> None:
        """What is left to do once there is a pointer."""

    def close(self) -> None:
        """Free it, after its NIC. A capture that runs is ended."""
        if self.pointer is not None:
            pointer, self.pointer, self.board, self.io = self.pointer, None, None, None
            lib.net_backend_free(pointer)

    def _open(self) -> Any:
        if self.pointer is None:
            raise NetError(f"{self!r} is not open: it belongs to no machine now")
        return self.pointer

    @property
    def counters(self) -> NetCounters:
        """What went over it so far."""
        native = ffi.new("NetCounters *")
        lib.net_backend_counters(self._open(), native)
        values: dict[str, Any] = {name: int(getattr(native, name)) for name in NetCounters.__match_args__}
        return NetCounters(**values | {"link": bool(native.link)})

    @property
    def link(self) -> bool:
        """Whether there is a carrier. Setting it to False pulls the cable, True plugs it in again."""
        return bool(lib.net_backend_link(self._open()))

    @link.setter
    def link(self, up: bool) -> None:
        lib.net_backend_set_link(self._open(), up)

    def capture(self, path: StrPath, snaplen: int = 0) -> None:
        """Record every frame, both ways, in a pcap file from now on.

        Parameters
        ----------
        path
            The file, which is overwritten. Wireshark and tcpdump read it.
        snaplen
            Bytes of each frame that are kept, 14 to 262144; 0: all.

        Raises
        ------
        NetError
            It cannot be written.
        """
        error = new_error()
        check(
            lib.net_backend_capture(self._open(), os.fsencode(path), snaplen, error),
            error,
            exception=NetError,
        )

    def stop_capture(self) -> None:
        """Flush and close the file.

        Raises
        ------
        NetError
            Not all of it could be written.
        """
        error = new_error()
        check(lib.net_backend_capture_stop(self._open(), error), error, exception=NetError)


class Texts:
    """C strings that live as long as this does."""

    def __init__(self) -> None:
        self._kept: list[Any] = []

    def __call__(self, text: str | None) -> Any:
        """NULL for None.

        Raises
        ------
        NetError
            It has a zero byte.
        """
        if text is None:
            return ffi.NULL
        if "\0" in text:
            raise NetError(f"{text!r} has a zero byte in it")
        self._kept.append(ffi.new("char[]", os.fsencode(text)))
        return self._kept[-1]

    def list(self, texts: list[str]) -> Any:
        """An array that ends with NULL; NULL for none at all."""
        if not texts:
            return ffi.NULL
        self._kept.append(ffi.new("char *[]", [*(self(text) for text in texts), ffi.NULL]))
        return self._kept[-1]
