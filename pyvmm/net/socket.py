"""Cables that are sockets (csrc/net/net_socket.h)."""

from __future__ import annotations

import os

from pyvmm.errors import NetError
from pyvmm.native import check, ffi, lib
from pyvmm.net.backend import NetBackend, Texts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyvmm.board import Board


class Wire(NetBackend):
    """A backend on a socket: what `Socket` and an end of a `Link` share."""

    def __init__(
        self,
        *,
        listen: str | None = None,
        connect: str | None = None,
        remote: str | None = None,
        local: str | None = None,
        fd: int | None = None,
        reconnect: float = 0.0,
        header: bool = False,
    ) -> None:
        if not 0 <= reconnect <= 86400:
            raise NetError(f"reconnect={reconnect}: 0 to 86400 seconds")
        self.texts = {"listen": listen, "connect": connect, "remote": remote, "local": local}
        self.fd, self.reconnect, self.header = fd, reconnect, header

    def __repr__(self) -> str:
        ways = [f"{name}={value!r}" for name, value in self.texts.items() if value is not None]
        return f"{type(self).__name__}({', '.join(ways or [f'fd={self.fd}'])})"

    def _create(self, board: Board, io: Any, error: Any) -> Any:
        text = Texts()
        options = ffi.new("NetSocketOptions *")
        for name, value in self.texts.items():
            setattr(options, name, text(value))
        options.fd = 0 if self.fd is None else self.fd
        options.reconnect_ms = int(self.reconnect * 1000)
        options.header = self.header
        return lib.net_socket_new(board.pointer, io, options, error)

    @property
    def address(self) -> str:
        """Where it listens or is bound: with its real port, where 0 was asked for."""
        text = ffi.new("char[256]")
        lib.net_socket_address(self._open(), text, 256)
        return str(ffi.string(text).decode(errors="replace"))


class Socket(Wire):
    """A cable to another program, in the form that QEMU's ``-netdev socket``, ``stream`` and ``dgram`` use.

    Nothing is encrypted or authenticated: addresses of other hosts are for networks that you trust.

    Parameters
    ----------
    listen
        Wait for one peer at a time, ``"unix:PATH"`` or ``"HOST:PORT"``; ``":PORT"`` is this host only.
    connect
        To such a listener.
    remote, local
        Datagrams instead: where to, and where from.
    fd
        A socket that is connected already.
    reconnect
        With `connect`: seconds between attempts, also at first; 0 fails at once, and stays down when the peer goes.
    """

    def __init__(
        self,
        *,
        listen: str | None = None,
        connect: str | None = None,
        remote: str | None = None,
        local: str | None = None,
        fd: int | None = None,
        reconnect: float = 1.0,
    ) -> None:
        super().__init__(
            listen=listen, connect=connect, remote=remote, local=local, fd=fd, reconnect=reconnect
        )


class Link:
    """A cable between two machines of one process; big frames and unfinished checksums pass as they are.

    Attributes
    ----------
    ends
        A backend for each machine. An end that is closed leaves the other without a carrier, for good.
    """

    def __init__(self) -> None:
        pair = ffi.new("int[2]")
        check(lib.net_socket_pair(pair), what="socketpair", exception=NetError)
        self.ends = (_End(int(pair[0])), _End(int(pair[1])))


class _End(Wire):
    """One end of a `Link`; until a machine has it, the descriptor is its own."""

    def __init__(self, fd: int) -> None:
        super().__init__(fd=fd, header=True)

    def __del__(self) -> None:
        if self.fd is not None and os is not None:
            os.close(self.fd)

    def _create(self, board: Board, io: Any, error: Any) -> Any:
        if self.fd is None:
            raise NetError("this end of the link was used already: make a new Link")
        return super()._create(board, io, error)

    def _opened(self) -> None:
        self.fd = None
