"""The host's side of a network, by netlink: bridges, taps, VLANs and VXLANs, as a cloud's nodes have them.

Each function returns `Step`s; a step knows the command of ``ip`` or ``bridge`` (iproute2) that does the same, and does
it through pyroute2. So ``pyvmm net ... --explain`` needs neither privileges nor pyroute2. Everything that is made lasts
until it is removed or the host is started again.

Sources: Linux Documentation/networking/{bridge,vxlan,tuntap}.rst; IEEE 802.1Q; RFC 7348. Left out: routes and firewalls
(masquerading), the host's configuration files, Open vSwitch.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pyvmm.errors import ConfigError, NetError

_NAME_SIZE = 16
_TUNSETIFF, _TUNSETPERSIST, _TUNSETOWNER = 0x400454CA, 0x400454CB, 0x400454CC  # linux/if_tun.h
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
VXLAN_PORT = 4789
"""RFC 7348 §5."""


@dataclass(frozen=True)
class Step:
    """One change: what one would type, and what does it, given pyroute2's IPRoute."""

    command: str
    apply: Callable[[Any], object]


@dataclass(frozen=True)
class Interface:
    """One interface of the host, as `show` lists it."""

    name: str
    kind: str
    up: bool
    master: str
    addresses: tuple[str, ...]
    details: str


def check_name(name: str) -> str:
    """An interface's name: 1 to 15 bytes, without space, slash or colon (Linux net/core/dev.c, dev_valid_name).

    Raises
    ------
    ConfigError
        It is not one.
    """
    wrong = not name or len(name.encode()) >= _NAME_SIZE or name in (".", "..")
    if wrong or any(character in "/:" or character.isspace() or character == "\0" for character in name):
        raise ConfigError(
            f"{name!r} is not an interface's name: 1 to 15 characters, without space, slash or colon"
        )
    return name


def check_vid(vid: int) -> int:
    """A VLAN's number, 1 to 4094 (IEEE 802.1Q §9.6).

    Raises
    ------
    ConfigError
        It is not one.
    """
    if not 1 <= vid <= 4094:
        raise ConfigError(f"VLAN {vid}: the numbers are 1 to 4094")
    return vid


def _index(ipr: Any, name: str) -> int:
    found = ipr.link_lookup(ifname=name)
    if not found:
        raise NetError(f"{name}: there is no such interface; pyvmm net show lists them")
    return int(found[0])


def set_up(name: str) -> list[Step]:
    """Let it carry frames."""
    return [Step(f"ip link set {name} up", lambda ipr: ipr.link("set", index=_index(ipr, name), state="up"))]


def address(name: str, cidr: str) -> list[Step]:
    """Give it an address with its prefix, ``"192.168.7.1/24"``.

    Raises
    ------
    ConfigError
        It is not one.
    """
    try:
        parsed = ipaddress.ip_interface(cidr)
    except ValueError:
        parsed = None
    if parsed is None or "/" not in cidr:
        raise ConfigError(
            f"--address {cidr}: not an address with its prefix; write for example 192.168.7.1/24"
        )
    host, prefix = str(parsed.ip), parsed.network.prefixlen

    def apply(ipr: Any) -> None:
        ipr.addr("add", index=_index(ipr, name), address=host, prefixlen=prefix)

    return [Step(f"ip addr add {host}/{prefix} dev {name}", apply)]


def attach(name: str, bridge: str) -> list[Step]:
    """Make it a port of a bridge."""

    def apply(ipr: Any) -> None:
        ipr.link("set", index=_index(ipr, name), master=_index(ipr, bridge))

    return [Step(f"ip link set {name} master {bridge}", apply)]


def make_bridge(name: str, *, vlan_filtering: bool = False, cidr: str | None = None) -> list[Step]:
    """A switch in the kernel. With `vlan_filtering` each port is in the VLANs that `join_vlan` says."""
    check_name(name)

    def apply(ipr: Any) -> None:
        extra = {"br_vlan_filtering": 1} if vlan_filtering else {}  # a kernel without it refuses 0 too
        ipr.link("add", ifname=name, kind="bridge", **extra)

    filtering = " vlan_filtering 1" if vlan_filtering else ""
    steps = [Step(f"ip link add {name} type bridge{filtering}", apply)]
    return steps + (address(name, cidr) if cidr else []) + set_up(name)


def make_tap(name: str, *, user: str | None = None, bridge: str | None = None) -> list[Step]:
    """A tap that stays when nobody has it open, for `user` to open (``pyvmm run --net tap,ifname=NAME``).

    Raises
    ------
    ConfigError
        There is no such user.
    """
    check_name(name)
    uid = _uid(user)

    def apply(ipr: Any) -> None:
        if ipr.link_lookup(ifname=name):  # /dev/net/tun would take it for a new one
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        _make_tap(name, uid)

    owner = f" user {user}" if user else ""
    steps = [Step(f"ip tuntap add {name} mode tap vnet_hdr{owner}", apply)]
    return steps + (attach(name, bridge) if bridge else []) + set_up(name)


def _uid(user: str | None) -> int | None:
    if user is None or user.isdigit():
        return None if user is None else int(user)
    import pwd

    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        raise ConfigError(f"--user {user}: there is no such user") from None


def _make_tap(name: str, uid: int | None) -> None:
    import fcntl

    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    try:
        flags = _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR
        fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
        if uid is not None:
            fcntl.ioctl(fd, _TUNSETOWNER, uid)
        fcntl.ioctl(fd, _TUNSETPERSIST, 1)
    finally:
        os.close(fd)


def make_vlan(parent: str, vid: int, *, name: str | None = None, cidr: str | None = None) -> list[Step]:
    """A sub-interface: what `parent` carries with this tag, without it."""
    check_vid(vid)
    name = check_name(name or f"{parent}.{vid}")

    def apply(ipr: Any) -> None:
        ipr.link("add", ifname=name, kind="vlan", link=_index(ipr, parent), vlan_id=vid)

    steps = [Step(f"ip link add link {parent} name {name} type vlan id {vid}", apply)]
    return steps + (address(name, cidr) if cidr else []) + set_up(name)


def join_vlan(port: str, vid: int, *, untagged: bool = False, bridge: bool = False) -> list[Step]:
    """Let a port of a filtering bridge into a VLAN.

    Parameters
    ----------
    untagged
        An access port: frames without a tag belong to this VLAN, both ways; the port leaves VLAN 1, the default.
    bridge
        `port` is the bridge itself: for a VLAN sub-interface of it, or its address.
    """
    check_vid(vid)
    this = "self" if bridge else "master"
    info: dict[str, Any] = {"vid": vid}
    if untagged:
        info["flags"] = 0x2 | 0x4  # BRIDGE_VLAN_INFO_PVID, _UNTAGGED of linux/if_bridge.h

    def filter_(command: str, vlan: dict[str, Any]) -> Callable[[Any], object]:
        extra = {"vlan_flags": "self"} if bridge else {}
        return lambda ipr: ipr.vlan_filter(command, index=_index(ipr, port), vlan_info=vlan, **extra)

    ways = " pvid untagged" if untagged else ""
    steps = [Step(f"bridge vlan add dev {port} vid {vid}{ways} {this}", filter_("add", info))]
    if untagged and vid != 1:
        steps.append(Step(f"bridge vlan del dev {port} vid 1 {this}", filter_("del", {"vid": 1})))
    return steps


def make_vxlan(
    name: str,
    vni: int,
    *,
    remote: str | None = None,
    local: str | None = None,
    device: str | None = None,
    port: int = VXLAN_PORT,
    bridge: str | None = None,
) -> list[Step]:
    """A tunnel for Ethernet over UDP between hosts; `remote` is the other one, or a multicast group with `device`.

    Raises
    ------
    ConfigError
        A number or address that cannot be.
    """
    check_name(name)
    if not 1 <= vni < 1 << 24:
        raise ConfigError(f"VXLAN {vni}: the numbers are 1 to 16777215 (RFC 7348 §5)")
    if not 1 <= port <= 65535:
        raise ConfigError(f"--port {port}: a UDP port is 1 to 65535")
    attributes: dict[str, Any] = {"vxlan_id": vni, "vxlan_port": port, "vxlan_learning": 1}
    words = [f"ip link add {name} type vxlan id {vni} dstport {port}"]
    for word, text in (("remote", remote), ("local", local)):
        if text is None:
            continue
        try:
            parsed = ipaddress.ip_address(text)
        except ValueError:
            raise ConfigError(f"--{word} {text}: not an IP address") from None
        multicast = word == "remote" and parsed.is_multicast
        six = "6" if parsed.version == 6 else ""
        attributes[f"vxlan_{'group' if word == 'remote' else 'local'}{six}"] = str(parsed)
        words.append(f"{'group' if multicast else word} {parsed}")
    if device is not None:
        words.append(f"dev {device}")

    def apply(ipr: Any) -> None:
        extra = {} if device is None else {"vxlan_link": _index(ipr, device)}
        ipr.link("add", ifname=name, kind="vxlan", **attributes, **extra)

    steps = [Step(" ".join(words), apply)]
    return steps + (attach(name, bridge) if bridge else []) + set_up(name)


def remove(name: str) -> list[Step]:
    """Take an interface away: with a bridge its ports stay; a machine that has the tap loses its carrier."""
    check_name(name)
    return [Step(f"ip link del {name}", lambda ipr: ipr.link("del", index=_index(ipr, name)))]


def make_namespace(name: str) -> list[Step]:
    """A network namespace, seen by ``ip netns``."""

    def apply(ipr: Any) -> None:
        from pyroute2 import netns

        netns.create(name)

    return [Step(f"ip netns add {check_name(name)}", apply)]


def remove_namespace(name: str) -> list[Step]:
    """Take a namespace away, and what is in it."""

    def apply(ipr: Any) -> None:
        from pyroute2 import netns

        netns.remove(name)

    return [Step(f"ip netns del {check_name(name)}", apply)]


def _pyroute2() -> Any:
    try:
        import pyroute2
    except ImportError:
        raise NetError("pyvmm net needs pyroute2: pip install 'pyvmm-lab[net]'") from None
    return pyroute2


def run(steps: list[Step], *, namespace: str | None = None) -> None:
    """Do the steps, one after another, in this network namespace or the one named.

    Raises
    ------
    NetError
        The first that failed, with its command; those before it stay done.
    """
    pyroute2 = _pyroute2()
    with _inside(namespace), pyroute2.IPRoute() as ipr:
        for step in steps:
            try:
                step.apply(ipr)
            except NetError as error:
                raise NetError(f"{step.command}: {error}") from None
            except (OSError, pyroute2.NetlinkError) as error:
                raise NetError(f"{step.command}: {_why(error)}") from None


def _why(error: Any) -> str:
    code = getattr(error, "code", None) or getattr(error, "errno", None) or 0
    if code in (errno.EPERM, errno.EACCES):
        return "needs root (CAP_NET_ADMIN); run it by sudo, or in a namespace of your own: unshare -Urn"
    if code == errno.EEXIST:
        return "it is there already"
    if code == errno.EOPNOTSUPP:
        return "this kernel has no such thing; load the module (bridge, 8021q, vxlan, tun)"
    return os.strerror(code) if code else str(error)


class _inside:  # noqa: N801 - a context manager, as contextlib's
    """This thread in another network namespace, for a while."""

    def __init__(self, namespace: str | None) -> None:
        self.namespace = namespace
        self.before = -1

    def __enter__(self) -> None:
        if self.namespace is None:
            return
        from pyroute2 import netns

        self.before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            netns.setns(check_name(self.namespace), flags=0)
        except OSError as error:
            os.close(self.before)
            advice = "; pyvmm net namespace makes one" if error.errno == errno.ENOENT else ""
            raise NetError(f"--netns {self.namespace}: {_why(error)}{advice}") from None

    def __exit__(self, *exception: object) -> None:
        if self.namespace is not None:
            from pyroute2 import netns

            netns.setns(self.before)
            os.close(self.before)


def show(*, namespace: str | None = None) -> list[Interface]:
    """Every interface, with its kind, bridge, addresses, and VLAN or VXLAN number."""
    pyroute2 = _pyroute2()
    with _inside(namespace), pyroute2.IPRoute() as ipr:
        links = list(ipr.get_links())
        addresses: dict[int, list[str]] = {}
        for item in ipr.get_addr():
            text = f"{item.get_attr('IFA_ADDRESS')}/{item['prefixlen']}"
            addresses.setdefault(item["index"], []).append(text)
    names = {link["index"]: link.get_attr("IFLA_IFNAME") for link in links}
    return [_describe(link, names, tuple(addresses.get(link["index"], ()))) for link in links]


def _describe(link: Any, names: dict[int, str], addresses: tuple[str, ...]) -> Interface:
    info = link.get_attr("IFLA_LINKINFO")
    kind = (info.get_attr("IFLA_INFO_KIND") if info is not None else None) or "-"
    data = info.get_attr("IFLA_INFO_DATA") if info is not None else None
    details = ""
    if data is not None and kind == "vlan":
        details = f"VLAN {data.get_attr('IFLA_VLAN_ID')} of {names.get(link.get_attr('IFLA_LINK'), '?')}"
    elif data is not None and kind == "vxlan":
        details = f"VXLAN {data.get_attr('IFLA_VXLAN_ID')}"
    elif data is not None and kind == "bridge" and data.get_attr("IFLA_BR_VLAN_FILTERING"):
        details = "filters VLANs"
    return Interface(
        name=str(link.get_attr("IFLA_IFNAME")),
        kind="tap" if kind == "tun" else kind,
        up=link.get_attr("IFLA_OPERSTATE") == "UP" or bool(link["flags"] & 1),
        master=names.get(link.get_attr("IFLA_MASTER"), ""),
        addresses=addresses,
        details=details,
    )
