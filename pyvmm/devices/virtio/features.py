"""Names of virtio's feature and status bits (virtio 1.2 §2.1, §5.1.3, §5.2.3, §6)."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final


RESERVED: Final = {
    24: "NOTIFY_ON_EMPTY",
    27: "ANY_LAYOUT",
    28: "INDIRECT_DESC",
    29: "EVENT_IDX",
    32: "VERSION_1",
    33: "ACCESS_PLATFORM",
    34: "RING_PACKED",
    35: "IN_ORDER",
    36: "ORDER_PLATFORM",
    37: "SR_IOV",
    38: "NOTIFICATION_DATA",
    40: "RING_RESET",
}

BLOCK: Final = {
    1: "SIZE_MAX",
    2: "SEG_MAX",
    4: "GEOMETRY",
    5: "RO",
    6: "BLK_SIZE",
    9: "FLUSH",
    10: "TOPOLOGY",
    11: "CONFIG_WCE",
    12: "MQ",
    13: "DISCARD",
    14: "WRITE_ZEROES",
    16: "SECURE_ERASE",
}

NET: Final = {
    0: "CSUM",
    1: "GUEST_CSUM",
    2: "CTRL_GUEST_OFFLOADS",
    3: "MTU",
    5: "MAC",
    7: "GUEST_TSO4",
    8: "GUEST_TSO6",
    9: "GUEST_ECN",
    10: "GUEST_UFO",
    11: "HOST_TSO4",
    12: "HOST_TSO6",
    13: "HOST_ECN",
    14: "HOST_UFO",
    15: "MRG_RXBUF",
    16: "STATUS",
    17: "CTRL_VQ",
    18: "CTRL_RX",
    19: "CTRL_VLAN",
    20: "CTRL_RX_EXTRA",
    21: "GUEST_ANNOUNCE",
    22: "MQ",
    23: "CTRL_MAC_ADDR",
}

SHARE: Final = {0: "MOUNT_TAG"}

SOCKET: Final = {0: "STREAM", 1: "SEQPACKET"}

STATUS: Final = {
    0: "ACKNOWLEDGE",
    1: "DRIVER",
    2: "DRIVER_OK",
    3: "FEATURES_OK",
    6: "DEVICE_NEEDS_RESET",
    7: "FAILED",
}


def _names(value: int, names: dict[int, str], prefix: str) -> tuple[str, ...]:
    return tuple(names.get(bit, f"{prefix}{bit}") for bit in range(value.bit_length()) if value >> bit & 1)


def feature_names(features: int, device: dict[int, str] = BLOCK) -> tuple[str, ...]:
    """The set bits of a feature word by name, lowest first; `device` names bits 0 to 23."""
    return _names(features, {**RESERVED, **device}, "bit ")


def status_names(status: int) -> tuple[str, ...]:
    """The set bits of a status byte by name."""
    return _names(status, STATUS, "bit ")
