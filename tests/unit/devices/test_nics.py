"""Network cards in Python: what they refuse, and what they show."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pyvmm import Machine
from pyvmm.board import Board
from pyvmm.config import NetworkConfig
from pyvmm.devices.e1000 import E1000
from pyvmm.devices.pci import PciBus
from pyvmm.errors import ConfigError, DeviceError
from pyvmm.net.custom import Nothing

MAC = bytes.fromhex("525400123456")


@pytest.fixture
def board() -> Iterator[Board]:
    """One on a virtual clock."""
    made = Board("virtual")
    yield made
    made.close()


def test_e1000_refuses_what_it_cannot_be(board: Board) -> None:
    bus, network = PciBus(board), Nothing()
    with pytest.raises(DeviceError, match="not open"):
        E1000(board, bus, 3, network, MAC)
    network.open(board, board.worker("net-0"))
    try:
        with pytest.raises(DeviceError, match="slot 32"):
            E1000(board, bus, 32, network, MAC)
        with pytest.raises(DeviceError, match="not a station's"):
            E1000(board, bus, 3, network, b"\1" + MAC[1:])
        with pytest.raises(DeviceError, match="address of one card"):
            E1000(board, bus, 3, network, MAC[:5])
        card = E1000(board, bus, 3, network, MAC)
        try:
            assert card.mac == "52:54:00:12:34:56"
            assert card.counters.tx_frames == card.counters.faults == 0
            assert card.registers.registers.phy[2] == 0x141
            with pytest.raises(DeviceError, match="has a NIC already"):
                E1000(board, bus, 4, network, MAC)
        finally:
            card.close()
        E1000(board, bus, 4, network, MAC).close()  # the cable is free again
    finally:
        network.close()
        bus.close()


def test_a_machine_has_its_cards_in_order() -> None:
    cards = [
        NetworkConfig(Nothing(), model="e1000", place=9),
        NetworkConfig(Nothing(), mtu=9000, mac="2:0:0:0:0:1"),
    ]
    with Machine(serial="null", clock="virtual", networks=cards) as machine:
        first, second = machine.nics
        assert isinstance(first, E1000)
        assert first.slot == 9
        assert first.backend is cards[0].backend
        assert (first.mac, second.mac) == ("52:54:00:12:34:56", "02:00:00:00:00:01")
        assert second.name == "net1"


@pytest.mark.parametrize(
    ("config", "why"),
    [
        (NetworkConfig(Nothing(), model="e1000", mtu=1400), "mtu and features are for model=virtio"),
        (NetworkConfig(Nothing(), model="ne2000"), "not a network card"),
        (NetworkConfig(Nothing(), mac="1:2:3"), "not an address"),
    ],
)
def test_a_card_that_cannot_be_is_one_line(config: NetworkConfig, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        Machine(serial="null", networks=[config])
    assert config.backend.pointer is None  # closed with the machine that did not come to be
