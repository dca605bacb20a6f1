"""User networking: a network inside this process, by libslirp (csrc/net/net_user.h)."""

from __future__ import annotations

import os

from pyvmm.errors import NetError
from pyvmm.native import check, ffi, lib, new_error
from pyvmm.net.backend import NetBackend, Texts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from pyvmm.board import Board
    from pyvmm.config import StrPath


def availability() -> tuple[bool, str]:
    """Whether libslirp is there, and if not, the package to install."""
    error = new_error()
    if lib.net_user_available(error) < 0:
        return False, ffi.string(error.text).decode(errors="replace")
    return True, ""


class User(NetBackend):
    """The guest is behind a router that turns its connections into sockets of this process. Needs no privileges.

    The guest gets 10.0.2.15 by DHCP; 10.0.2.2 is the router and this host, 10.0.2.3 a DNS server that asks the host's.
    Nothing from outside reaches the guest but forwarded ports. Options have QEMU's names and defaults (``-netdev
    user``).

    Parameters
    ----------
    hostfwd
        Forwarded ports: ``"tcp:[HOST_ADDRESS]:HOST_PORT-[GUEST_ADDRESS]:GUEST_PORT"``, or ``udp:``. Host port 0 takes
        one that is free: `forwarded` has it.
    restrict
        The guest reaches nothing outside but by forwarded ports.
    net
        The guest's network, ``"10.0.2.0/24"``.
    host, dhcpstart, dns
        Addresses in it: the router, the guest's first, the DNS server.
    hostname, domainname, dnssearch
        What DHCP tells the guest.
    tftp, bootfile, tftp_server_name
        A folder that TFTP serves, and what DHCP says of it, for booting from the network.
    ipv4, ipv6
        Which of them there are.
    ipv6_net, ipv6_host, ipv6_dns
        ``"fec0::/64"``, and addresses in it.
    plain
        Frames of at most 1500 bytes: to see what big ones are worth.
    """

    def __init__(
        self,
        hostfwd: Sequence[str] = (),
        *,
        restrict: bool = False,
        net: str | None = None,
        host: str | None = None,
        dhcpstart: str | None = None,
        dns: str | None = None,
        hostname: str | None = None,
        domainname: str | None = None,
        dnssearch: Sequence[str] = (),
        tftp: StrPath | None = None,
        bootfile: str | None = None,
        tftp_server_name: str | None = None,
        ipv4: bool = True,
        ipv6: bool = True,
        ipv6_net: str | None = None,
        ipv6_host: str | None = None,
        ipv6_dns: str | None = None,
        plain: bool = False,
    ) -> None:
        self.hostfwd = [hostfwd] if isinstance(hostfwd, str) else list(hostfwd)
        self.forwarded: list[int] = []
        self.restrict, self.ipv4, self.ipv6, self.plain = restrict, ipv4, ipv6, plain
        self.dnssearch = [dnssearch] if isinstance(dnssearch, str) else list(dnssearch)
        self.texts: dict[str, str | None] = {
            "net": net,
            "host": host,
            "dhcpstart": dhcpstart,
            "dns": dns,
            "hostname": hostname,
            "domainname": domainname,
            "tftp": None if tftp is None else os.fspath(tftp),
            "bootfile": bootfile,
            "tftp_server_name": tftp_server_name,
            "ipv6_net": ipv6_net,
            "ipv6_host": ipv6_host,
            "ipv6_dns": ipv6_dns,
        }

    def __repr__(self) -> str:
        return f"User({', '.join(map(repr, self.hostfwd))})"

    def _create(self, board: Board, io: Any, error: Any) -> Any:
        tftp = self.texts["tftp"]
        if tftp is not None and not os.path.isdir(tftp):
            raise NetError(f"tftp={tftp}: no such folder")
        text = Texts()
        options = ffi.new("NetUserOptions *")
        for name, value in self.texts.items():
            setattr(options, name, text(value))
        options.dnssearch = text.list(self.dnssearch)
        options.restricted, options.plain = self.restrict, self.plain
        options.no_ipv4, options.no_ipv6 = not self.ipv4, not self.ipv6
        return lib.net_user_new(board.pointer, io, options, error)

    def _opened(self) -> None:
        self.forwarded = []
        for rule in self.hostfwd:
            self.forwarded.append(self._add(rule))

    def _add(self, rule: str) -> int:
        error = new_error()
        result = lib.net_user_hostfwd(self._open(), Texts()(rule), error)
        return check(result, error, exception=NetError)

    def add_hostfwd(self, rule: str) -> int:
        """Forward one more port of the host; returns the port.

        Raises
        ------
        NetError
            The rule cannot be read, or the port is taken.
        """
        port = self._add(rule)
        self.forwarded.append(port)
        return port

    def remove_hostfwd(self, rule: str) -> None:
        """End a forwarding, ``"tcp:[HOST_ADDRESS]:HOST_PORT"``. Connections that are open stay.

        Raises
        ------
        NetError
            There is none of this host address and port.
        """
        error = new_error()
        result = lib.net_user_hostfwd_remove(self._open(), Texts()(rule), error)
        check(result, error, exception=NetError)

    @property
    def connections(self) -> str:
        """libslirp's table of connections, a line for each."""
        size = 4096
        while True:
            text = ffi.new("char[]", size)
            length = int(lib.net_user_connections(self._open(), text, size))
            if length < size:
                return str(ffi.string(text).decode(errors="replace"))
            size = length + 4096

    @property
    def version(self) -> str:
        """libslirp's version."""
        return str(ffi.string(lib.net_user_version(self._open())).decode())
