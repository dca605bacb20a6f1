"""A tap interface of the host (csrc/net/net_tap.h)."""

from __future__ import annotations

from pyvmm.native import ffi, lib
from pyvmm.net.backend import NetBackend, Texts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyvmm.board import Board


class Tap(NetBackend):
    """An Ethernet port that the host's own network sees: put it on a bridge, or give it an address.

    Parameters
    ----------
    ifname
        Its name; made if it is not there, which needs root, and gone with the machine. None: one that is free.
    fd
        An open ``/dev/net/tun`` instead (IFF_TAP and IFF_NO_PI), which the backend then owns.
    vnet_hdr
        Big frames and unfinished checksums pass as they are (IFF_VNET_HDR).
    """

    def __init__(self, ifname: str | None = None, *, fd: int | None = None, vnet_hdr: bool = True) -> None:
        self.wanted, self.fd, self.vnet_hdr = ifname, fd, vnet_hdr

    def __repr__(self) -> str:
        return f"Tap(fd={self.fd})" if self.fd is not None else f"Tap({self.wanted!r})"

    def _create(self, board: Board, io: Any, error: Any) -> Any:
        text = Texts()
        options = ffi.new("NetTapOptions *")
        options.ifname = text(self.wanted)
        options.fd = 0 if self.fd is None else self.fd
        options.no_header = not self.vnet_hdr
        return lib.net_tap_new(board.pointer, io, options, error)

    @property
    def ifname(self) -> str:
        """The interface's name at the host."""
        return str(ffi.string(lib.net_tap_ifname(self._open())).decode())
