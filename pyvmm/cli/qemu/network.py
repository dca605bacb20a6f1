"""Networks of a QEMU command line: ``-netdev``, ``-nic``, ``-device virtio-net-pci``, and ``-net`` with ``none``.

Left out: ``-net user`` and ``-net nic`` with their hubs, guestfwd, smb, vde, bridge's helper, vhost.
"""

from __future__ import annotations

from pyvmm.cli.network import OPTIONS, Pairs, make_backend, split
from pyvmm.cli.qemu.words import Sub, refuse
from pyvmm.config import NetworkConfig

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyvmm.cli.qemu.plan import Plan
    from pyvmm.cli.qemu.words import Values
    from pyvmm.net.backend import NetBackend

KINDS = {
    "user": "user networking, by libslirp",
    "tap": "a tap interface of the host",
    "socket": "a cable to another program",
    "stream": "a cable to another program",
    "dgram": "a cable of datagrams to another program",
}
MODELS = {
    "virtio": "virtio",
    "virtio-net-pci": "virtio",
    "virtio-net-pci-non-transitional": "virtio",
    "virtio-net": "virtio",
}
CARDS = tuple(name for name in MODELS if name != "virtio")
DEVICE_SUBS = (
    Sub("netdev", "the id of the -netdev that it is connected to"),
    Sub("mac", "its address"),
)
_OFF = {"tap": ("script", "downscript", "vhost"), "user": (), "socket": (), "stream": (), "dgram": ()}


class Netdev:
    """One ``-netdev`` or the network half of a ``-nic``."""

    def __init__(self, written: str, kind: str, backend: NetBackend) -> None:
        self.written = written
        self.kind = kind
        self.backend = backend
        self.connected = False


def _read(option: str, text: str, extra: tuple[str, ...]) -> tuple[str, NetBackend, dict[str, str]]:
    """The kind, its backend, and what `extra` names of the rest."""
    kind, _, rest = text.partition(",")
    kind = kind.removeprefix("type=")
    if kind not in KINDS:
        raise refuse(f"{option} {kind}", "not in pyvmm", f"it has {', '.join(KINDS)}")
    known = OPTIONS["socket" if kind in ("stream", "dgram") else kind]
    pairs = Pairs(f"{option} {kind}", (*known, *extra))
    rest_pairs = split(rest) if rest else []
    stream = dict(rest_pairs) if kind in ("stream", "dgram") else {}
    if stream:
        rest_pairs = _modern_addresses(option, kind, stream)
    for name, value in rest_pairs:
        if name in _OFF[kind]:
            if value not in ("no", "off"):
                off = "off" if name == "vhost" else "no"
                raise refuse(f"{option} {kind},{name}={value}", "not in pyvmm", f"write {name}={off}")
            continue
        pairs.add(name, value)
    values: dict[str, Any] = pairs.values
    own = {name: values.pop(name) for name in extra if name in values}
    return kind, make_backend("socket" if kind in ("stream", "dgram") else kind, values), own


def _modern_addresses(option: str, kind: str, given: dict[str, str]) -> list[tuple[str, str]]:
    """``addr.type=unix,addr.path=P`` and ``addr.type=inet,addr.host=H,addr.port=N`` as one word each."""
    server = given.pop("server", "off") == "on"
    ends = (
        {"addr": "listen" if server else "connect"}
        if kind == "stream"
        else {"remote": "remote", "local": "local"}
    )
    found = []
    for prefix, name in ends.items():
        type_ = given.pop(f"{prefix}.type", "")
        if type_ == "unix":
            found.append((name, f"unix:{given.pop(f'{prefix}.path', '')}"))
        elif type_ == "inet":
            found.append((name, f"{given.pop(f'{prefix}.host', '')}:{given.pop(f'{prefix}.port', '')}"))
        else:
            raise refuse(f"{option} {kind},{prefix}.type={type_}", "not in pyvmm", "write unix or inet")
    return [*found, *given.items()]


def add_netdev(plan: Plan, values: Values) -> str | None:
    """``-netdev``: a network with an id, for a ``-device``."""
    kind, backend, own = _read("-netdev", values[""], ("id",))
    if "id" not in own:
        raise refuse(
            f"-netdev {values['']}", "it has no id", "add id=NAME, and -device virtio-net-pci,netdev=NAME"
        )
    if own["id"] in plan.netdevs:
        raise refuse(f"-netdev id={own['id']}", "there are two of this id", "give each its own")
    plan.netdevs[own["id"]] = Netdev(values[""], kind, backend)
    return KINDS[kind]


def add_nic(plan: Plan, values: Values) -> str | None:
    """``-nic``: a network and its card in one."""
    if values[""] == "none":
        return "there is none"
    kind, backend, own = _read("-nic", values[""], ("id", "model", "mac"))
    model = own.get("model", "virtio")
    if model not in MODELS:
        raise refuse(f"-nic model={model}", "this card is not in pyvmm", f"write model={' or '.join(MODELS)}")
    if "model" not in own:
        plan.notes.append("-nic: the card is a virtio-net; QEMU's default is an e1000")
    plan.networks.append(NetworkConfig(backend, model=MODELS[model], mac=own.get("mac")))
    return f"{KINDS[kind]}, with a virtio-net card"


def is_card(name: str) -> bool:
    """Whether a ``-device`` is a network card that there is."""
    return name in CARDS


def add_card(plan: Plan, name: str, properties: Values) -> str:
    """``-device virtio-net-pci,netdev=ID``."""
    id_ = properties.get("netdev", "")
    netdev = plan.netdevs.get(id_)
    if netdev is None or netdev.connected:
        why = "no -netdev has this id" if netdev is None else "the network has a card already"
        raise refuse(f"-device {name},netdev={id_}", why, f"write -netdev user,id={id_ or 'n0'} before it")
    netdev.connected = True
    plan.networks.append(NetworkConfig(netdev.backend, model=MODELS[name], mac=properties.get("mac")))
    return f"a virtio-net card on {KINDS[netdev.kind]}"


def settle(plan: Plan) -> list[NetworkConfig]:
    """The machine's cards; a note for each network without one."""
    for id_, netdev in plan.netdevs.items():
        if not netdev.connected:
            plan.notes.append(
                f"-netdev {netdev.written}: no card has it; add -device virtio-net-pci,netdev={id_}"
            )
    return plan.networks
