"""Network cards: each with its backend on an I/O thread of its own (``net-0``, ...), and a capture where asked for."""

from __future__ import annotations

import os

from pyvmm.errors import ConfigError
from pyvmm.machine import layout

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeAlias

    from pyvmm.config import NetworkConfig
    from pyvmm.devices.e1000 import E1000
    from pyvmm.devices.virtio.net import VirtioNet
    from pyvmm.machine.pc import Pc

    Nic: TypeAlias = "VirtioNet | E1000"

MODELS = ("virtio", "e1000")
QEMU_MAC = 0x525400123456
"""QEMU's first card; those after it count up."""


def parse_mac(text: str) -> bytes:
    """Six bytes of ``"52:54:00:12:34:56"``.

    Raises
    ------
    ConfigError
        It is not such an address, or one of a group.
    """
    parts = text.replace("-", ":").split(":")
    try:
        mac = bytes(int(part, 16) for part in parts if 1 <= len(part) <= 2)
    except ValueError:
        mac = b""
    if len(mac) != 6 or len(parts) != 6:
        raise ConfigError(f"mac={text}: not an address; write for example 52:54:00:12:34:56")
    if mac[0] & 1 or not any(mac):
        raise ConfigError(
            f"mac={text}: not the address of one card: its first byte is even, and not all are 0"
        )
    return mac


def default_mac(pc: Pc, index: int, config: NetworkConfig) -> bytes:
    """QEMU's where nobody else can have it (or a run is to repeat), else a random one."""
    from pyvmm.net.user import User

    if isinstance(config.backend, User) or pc.config.clock == "virtual":
        return (QEMU_MAC + index).to_bytes(6, "big")
    return b"\x52\x54\x00" + os.urandom(3)


def add_networks(pc: Pc) -> None:
    """Open each backend and make its card.

    Raises
    ------
    ConfigError, NetError
        A card that there is not, or a network that the host does not have.
    """
    for index, config in enumerate(pc.config.networks):
        if config.model not in MODELS:
            raise ConfigError(f"model={config.model}: not a network card; write model={' or '.join(MODELS)}")
        mac = default_mac(pc, index, config) if config.mac is None else parse_mac(config.mac)
        backend = config.backend
        backend.open(pc.board, pc.board.worker(f"net-{index}"))
        pc.networks.append(backend)
        if config.capture is not None:
            backend.capture(config.capture, config.snaplen)
        pc.add(f"net{index}", make_card(pc, config, mac))


def make_card(pc: Pc, config: NetworkConfig, mac: bytes) -> Nic:
    """The card itself, at its own PCI device number or the first that is free.

    Raises
    ------
    ConfigError
        It is for a machine with PCI, or what was asked for is not for this model.
    DeviceError
        The place is taken, or a value out of range.
    """
    if config.model == "virtio":
        from pyvmm.devices.virtio.net import VirtioNet

        place = pc.virtio_place(config.place, features=config.features)
        return VirtioNet(pc.board, place, config.backend, mac, mtu=config.mtu)
    if config.mtu or config.features:
        raise ConfigError(f"model={config.model}: mtu and features are for model=virtio; leave them away")
    bus = pc.devices.get("pci")
    if bus is None:
        raise ConfigError(f"model={config.model}: this machine has no PCI; write model=virtio")
    from pyvmm.devices.e1000 import E1000
    from pyvmm.devices.pci import PciBus

    assert isinstance(bus, PciBus)
    slot = bus.free_slot(layout.PCI_FIRST_FREE_SLOT) if config.place is None else config.place
    return E1000(pc.board, bus, slot, config.backend, mac)
