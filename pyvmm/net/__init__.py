"""Networks for machines: what is at the other end of a NIC's cable.

`User` is a network inside this process, with DHCP, DNS and forwarded ports (libslirp); `Tap` an interface of the host;
`Socket` a cable to another program; `Link` one between two machines of this process; `Custom` whatever a Python class
makes of frames. Each is plain configuration until a machine is built with it.
"""

from __future__ import annotations

__all__ = ["Custom", "Link", "NetBackend", "NetCounters", "Nothing", "Socket", "Tap", "User", "Wire"]

_HOMES = {
    "Custom": "custom",
    "Link": "socket",
    "NetBackend": "backend",
    "NetCounters": "backend",
    "Nothing": "custom",
    "Socket": "socket",
    "Tap": "tap",
    "User": "user",
    "Wire": "socket",
}

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.net.backend import NetBackend, NetCounters
    from pyvmm.net.custom import Custom, Nothing
    from pyvmm.net.socket import Link, Socket, Wire
    from pyvmm.net.tap import Tap
    from pyvmm.net.user import User
else:

    def __getattr__(name):
        """Each from its module when it is first asked for (PEP 562)."""
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(__import__(f"{__name__}.{_HOMES[name]}", fromlist=[name]), name)
        globals()[name] = value
        return value
