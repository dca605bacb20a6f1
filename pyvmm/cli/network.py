"""``--net`` of ``pyvmm run``: a network card and what it is connected to, from one line.

``KIND[,OPTION=VALUE]...``; the options are QEMU's of ``-netdev KIND``, and ``model=``, ``mac=``, ``mtu=``, ``capture=``
and ``snaplen=`` of the card. A comma in a value is written twice.
"""

from __future__ import annotations

from pyvmm.config import NetworkConfig
from pyvmm.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from pyvmm.net.backend import NetBackend

CARD = ("model", "mac", "mtu", "capture", "snaplen")
USER = (
    *("hostfwd", "restrict", "net", "host", "dhcpstart", "dns", "hostname", "domainname", "dnssearch"),
    *("tftp", "bootfile", "tftp-server-name", "ipv4", "ipv6", "ipv6-net", "ipv6-host", "ipv6-dns"),
)
OPTIONS = {
    "user": (*USER, "plain"),
    "tap": ("ifname", "fd", "vnet_hdr"),
    "socket": ("listen", "connect", "remote", "local", "fd", "reconnect"),
    "none": (),
}
REPEATED = ("hostfwd", "dnssearch")
SWITCHES = ("restrict", "ipv4", "ipv6", "vnet_hdr", "plain")
NUMBERS = ("fd", "mtu", "snaplen", "reconnect")


class Pairs:
    """Options by name; those that may be given more than once have lists.

    Parameters
    ----------
    option
        As written, for messages.
    known
        Names that there are.
    """

    def __init__(self, option: str, known: Iterable[str]) -> None:
        self.option = option
        self.known = tuple(known)
        self.values: dict[str, Any] = {}

    def refuse(self, what: str, instead: str) -> ConfigError:
        """One line: the option, what is wrong, what to write."""
        return ConfigError(f"{self.option}: {what}; {instead}")

    def add(self, name: str, value: str) -> None:
        """One option.

        Raises
        ------
        ConfigError
            A name that is not known, or twice; a value that cannot be.
        """
        if name not in self.known:
            raise self.refuse(f"{name} is not known", f"it has {', '.join(self.known)}")
        if name in REPEATED:
            self.values.setdefault(name, []).append(value)
            return
        if name in self.values:
            raise self.refuse(f"{name} is given twice", "write it once")
        if name in SWITCHES:
            switches = {"on": True, "yes": True, "y": True, "off": False, "no": False, "n": False}
            if value not in switches:
                raise self.refuse(f"{name}={value}", f"write {name}=on or {name}=off")
            self.values[name] = switches[value]
        elif name in NUMBERS:
            if not (value.isascii() and value.isdigit() and len(value) < 10):
                raise self.refuse(f"{name}={value} is not a number", f"write for example {name}=10")
            self.values[name] = int(value)
        else:
            if not value:
                raise self.refuse(f"{name} is empty", f"write {name}=VALUE, or leave it away")
            self.values[name] = value


def split(text: str) -> list[tuple[str, str]]:
    """Names and values between single commas; a name alone is ``on``."""
    pairs = []
    for part in text.replace("\0", "").replace(",,", "\0").split(","):
        name, equals, value = part.replace("\0", ",").partition("=")
        pairs.append((name, value if equals else "on"))
    return pairs


def make_backend(kind: str, values: dict[str, Any]) -> NetBackend:
    """The backend of these options, QEMU's names with ``_`` for ``-``."""
    makers: dict[str, Callable[..., NetBackend]] = {}
    if kind == "user":
        from pyvmm.net.user import User

        makers[kind] = User
    elif kind == "tap":
        from pyvmm.net.tap import Tap

        makers[kind] = Tap
    elif kind == "socket":
        from pyvmm.net.socket import Socket

        makers[kind] = Socket
    else:
        from pyvmm.net.custom import Nothing

        makers[kind] = Nothing
    return makers[kind](**{name.replace("-", "_"): value for name, value in values.items()})


def parse_network(text: str, option: str = "--net") -> NetworkConfig | None:
    """Read one ``--net``; None for ``none``, which is no card at all.

    Raises
    ------
    ConfigError
        Naming what is wrong in it.
    """
    kind, _, rest = text.partition(",")
    if kind not in OPTIONS:
        raise ConfigError(
            f"{option} {text}: {kind!r} is not a network; write {option} user, tap, socket or none"
        )
    if kind == "none" and not rest:
        return None
    pairs = Pairs(f"{option} {text}", (*OPTIONS[kind], *CARD))
    for name, value in split(rest) if rest else []:
        pairs.add(name, value)
    card = {name: pairs.values.pop(name) for name in CARD if name in pairs.values}
    if kind == "socket" and not {"listen", "connect", "remote", "fd"} & pairs.values.keys():
        raise pairs.refuse("it has no other end", "write listen=, connect=, remote= with local=, or fd=")
    from pyvmm.machine.network import MODELS, parse_mac

    if card.get("model", "virtio") not in MODELS:
        raise pairs.refuse(
            f"model={card['model']} is not a network card", f"write model={' or '.join(MODELS)}"
        )
    if "mac" in card:
        parse_mac(card["mac"])
    return NetworkConfig(make_backend(kind, pairs.values), **card)


def parse_networks(texts: list[str]) -> list[NetworkConfig]:
    """All of them; ``none`` stands alone.

    Raises
    ------
    ConfigError
        As `parse_network`.
    """
    if "none" in texts and len(texts) > 1:
        raise ConfigError("--net none: it stands alone; leave it or the others away")
    return [config for config in map(parse_network, texts) if config is not None]


def default_networks() -> tuple[list[NetworkConfig], str]:
    """What a guest has when nothing was said: user networking where libslirp is, else nothing, and why."""
    from pyvmm.net.user import User, availability

    usable, reason = availability()
    return ([NetworkConfig(User())], "") if usable else ([], f"no network: {reason}")
