"""Network backends in Python: what they are before, in and after a machine, and what they refuse."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pyvmm import Machine, MachineConfig
from pyvmm.cli.network import parse_network, parse_networks
from pyvmm.config import NetworkConfig
from pyvmm.devices.virtio.net import VirtioNet
from pyvmm.errors import ConfigError, NetError
from pyvmm.net import Custom, Link, NetBackend, Nothing, Socket, Tap, User
from pyvmm.net.user import availability

FRAME = bytes(range(60))


def machine(*backends: NetBackend, capture: Path | None = None) -> Machine:
    """A machine that halts at once, with these cards."""
    networks = [NetworkConfig(backend, capture=capture) for backend in backends]
    return Machine(MachineConfig(memory=1 << 20, serial="buffer", engine="translator", networks=networks))


def wait_for(condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.005)


def card(vm: Machine, index: int = 0) -> VirtioNet:
    device = vm.devices[f"net{index}"]
    assert isinstance(device, VirtioNet)
    return device


def test_names_are_there() -> None:
    import pyvmm.net

    for name in pyvmm.net.__all__:
        assert getattr(pyvmm.net, name).__name__ == name
    with pytest.raises(AttributeError):
        _ = pyvmm.net.Nonsense  # type: ignore[attr-defined]


def test_open_and_closed() -> None:
    backend = Nothing()
    with pytest.raises(NetError, match="not open"):
        _ = backend.counters
    with machine(backend) as vm:
        assert backend.link
        assert card(vm).backend is backend
        assert card(vm).counters.tx_frames == 0
        with pytest.raises(NetError, match="in use by another machine"):
            machine(backend)
        backend.link = False
        assert not backend.link
    with pytest.raises(NetError, match="not open"):
        backend.capture("x.pcap")
    with machine(backend):  # and again
        assert backend.counters.tx_frames == 0


def test_addresses() -> None:
    with machine(Nothing(), Nothing()) as vm:
        macs = [card(vm, index).mac for index in range(2)]
    assert macs[0] != macs[1]
    assert all(mac.startswith("52:54:00:") for mac in macs)
    config = MachineConfig(memory=1 << 20, serial="buffer", engine="translator")
    for mac, said in (
        ("52:54:00", "not an address"),
        ("01:00:5e:00:00:01", "one card"),
        ("x" * 17, "not an address"),
    ):
        config.networks = [NetworkConfig(Nothing(), mac=mac)]
        with pytest.raises(ConfigError, match=said):
            Machine(config)
    config.networks = [NetworkConfig(Nothing(), model="ne2k_isa")]
    with pytest.raises(ConfigError, match="model=ne2k_isa"):
        Machine(config)
    config.networks = [NetworkConfig(Nothing(), mac="52-54-0-1-2-3")]
    with Machine(config) as vm:
        assert card(vm).mac == "52:54:00:01:02:03"


def test_features_withheld() -> None:
    with machine(Nothing()) as vm:
        assert {"MAC", "CSUM", "HOST_TSO4", "MRG_RXBUF", "STATUS"} <= set(card(vm).offered_features)


def test_capture(tmp_path: Path) -> None:
    path = tmp_path / "frames.pcap"
    backend = Custom()
    with machine(backend, capture=path):
        assert backend.deliver(FRAME)
        backend.stop_capture()
        data = path.read_bytes()
        backend.capture(tmp_path / "short.pcap", snaplen=20)
        assert backend.deliver(FRAME)
        with pytest.raises(NetError, match="snaplen"):
            backend.capture(path, snaplen=1)
        with pytest.raises(NetError, match="No such file"):
            backend.capture(tmp_path / "none" / "x.pcap")
    magic, major, minor, _, _, _, kind = struct.unpack_from("<IHHiIII", data)
    assert (magic, major, minor, kind) == (0xA1B23C4D, 2, 4, 1)
    _, _, kept, length = struct.unpack_from("<IIII", data, 24)
    assert (kept, length, data[40:]) == (60, 60, FRAME)
    assert (tmp_path / "short.pcap").read_bytes()[40:] == FRAME[:20]


def test_custom_refuses_what_is_no_frame() -> None:
    backend = Custom()
    with machine(backend):
        for frame in (b"", b"x" * 13, b"x" * 65561):
            with pytest.raises(NetError, match="14 to 65560"):
                backend.deliver(frame)
        results = [backend.deliver(FRAME) for _ in range(5)]
        assert all(results)
    with pytest.raises(NetError, match="not open"):
        backend.deliver(FRAME)


def test_link_is_used_once() -> None:
    link = Link()
    with machine(link.ends[0]) as one, machine(link.ends[1]):
        assert card(one).backend.link
    with pytest.raises(NetError, match="make a new Link"):
        machine(link.ends[0])
    Link()  # never used: its descriptors are closed


def test_link_without_the_other_end() -> None:
    link = Link()
    with machine(link.ends[0]) as one:
        link.ends[1].__del__()
        link.ends[1].fd = None
        one.board.start_io()
        wait_for(lambda: not link.ends[0].link)


def test_socket_format() -> None:
    """QEMU's: length and frame, to a program of another kind."""
    backend = Socket(listen="127.0.0.1:0")
    with machine(backend) as vm:
        host, _, port = backend.address.rpartition(":")
        vm.board.start_io()
        with socket.create_connection((host, int(port)), timeout=20) as peer:
            wait_for(lambda: backend.link)
            peer.sendall(struct.pack(">I", len(FRAME)) + FRAME)
            wait_for(lambda: backend.counters.rx_frames == 1)
        wait_for(lambda: not backend.link)


def test_socket_refuses() -> None:
    for backend, said in (
        (Socket(), "one of listen="),
        (Socket(listen="here"), "HOST:PORT"),
        (Socket(connect="unix:/nonexistent/x", reconnect=0), "No such file"),
        (Socket(remote="unix:/tmp/x"), "local="),
        (Socket(listen="unix:a\0b"), "zero byte"),
    ):
        with pytest.raises(NetError, match=said):
            machine(backend)
    with pytest.raises(NetError, match="reconnect"):
        Socket(connect="unix:x", reconnect=-1)


def test_tap_refuses() -> None:
    with pytest.raises(NetError, match="ifname=much-too-long-a-name"):
        machine(Tap("much-too-long-a-name"))
    with socket.socket() as other, pytest.raises(NetError, match="not a tap"):
        machine(Tap(fd=other.fileno()))


@pytest.fixture
def libslirp() -> None:
    usable, reason = availability()
    if not usable:
        pytest.skip(reason)


@pytest.mark.usefixtures("libslirp")
def test_user() -> None:
    net = User(
        ["tcp:127.0.0.1:0-:22", "udp:127.0.0.1:0-:53"], hostname="calf", dnssearch=["a.test", "b.test"]
    )
    with machine(net) as vm:
        assert card(vm).mac == "52:54:00:12:34:56"
        assert net.version.startswith("4.")
        tcp, _ = net.forwarded
        assert f"{tcp}" in net.connections
        socket.create_connection(("127.0.0.1", tcp), timeout=20).close()
        other = net.add_hostfwd("tcp:127.0.0.1:0-:80")
        net.remove_hostfwd(f"tcp:127.0.0.1:{other}")
        with pytest.raises(NetError, match="no such forwarding"):
            net.remove_hostfwd(f"tcp:127.0.0.1:{other}")
        with pytest.raises(NetError, match="cannot listen on port"):
            net.add_hostfwd(f"tcp:127.0.0.1:{tcp}-:80")
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", tcp), timeout=20)


@pytest.mark.usefixtures("libslirp")
def test_user_refuses(tmp_path: Path) -> None:
    for net, said in (
        (User(net="10.0.2"), "net=10.0.2"),
        (User(dns="1.2.3.4"), "dns=1.2.3.4"),
        (User(["80:80"]), "hostfwd=80:80"),
        (User(tftp=tmp_path / "none"), "no such folder"),
        (User(ipv4=False, ipv6=False), "ipv4=off"),
    ):
        with pytest.raises(NetError, match=said):
            machine(net)
        assert net.pointer is None


def test_command_line() -> None:
    config = parse_network(
        "user,hostfwd=tcp::2222-:22,hostfwd=udp::53-:53,restrict=on,mac=52:54:0:0:0:1,capture=a,,b"
    )
    assert config is not None
    net = config.backend
    assert isinstance(net, User)
    assert (net.hostfwd, net.restrict) == (["tcp::2222-:22", "udp::53-:53"], True)
    assert (config.mac, config.capture, config.model) == ("52:54:0:0:0:1", "a,b", "virtio")
    tap = parse_network("tap,ifname=t0,vnet_hdr=off")
    assert tap is not None
    assert isinstance(tap.backend, Tap)
    assert (tap.backend.wanted, tap.backend.vnet_hdr) == ("t0", False)
    assert parse_network("none") is None
    assert parse_networks(["none"]) == []
    nothing = parse_network("none,capture=x.pcap")
    assert nothing is not None
    assert isinstance(nothing.backend, Nothing)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "lan",
            "user,foo=1",
            "user,restrict=maybe",
            "user,net=1,net=2",
            "user,hostname=",
            "tap,fd=x",
            "socket",
        ),
        *("user,model=rtl8139", "user,mac=1", "user,snaplen=1e3", "tap,hostfwd=tcp::1-:1"),
    ],
)
def test_command_line_refuses(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^(--net|mac=)"):
        parse_network(text)
    with pytest.raises(ConfigError, match="stands alone"):
        parse_networks(["none", "user"])
