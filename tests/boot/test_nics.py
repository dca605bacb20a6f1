"""Linux's virtio_net and e1000 drivers on user networking: DHCP, ping, big transfers both ways with checksums, ports
forwarded in; bind and unbind, resets under load, a cable that is pulled, a peer that goes away."""

from __future__ import annotations

import concurrent.futures
import ctypes
import functools
import hashlib
import http.server
import os
import random
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pyvmm import Machine
from pyvmm.config import NetworkConfig
from pyvmm.devices.e1000 import E1000
from pyvmm.devices.virtio.net import VirtioNet
from pyvmm.guests.cached import cached_initramfs, cached_kernel
from pyvmm.net.backend import NetBackend
from pyvmm.net.tap import Tap
from pyvmm.net.user import User, availability
from tests.boot.guests import need
from tests.boot.shell import Shell

pytestmark = [pytest.mark.boot, pytest.mark.timeout(600)]

MIB = 1 << 20
MODELS = {
    "virtio": ("cloud", ("virtio_pci", "virtio_net")),
    "e1000": ("generic", ("e1000",)),
}
LEASE = """\
case $1 in bound|renew) ip addr add $ip/$mask dev $interface; ip route add default via $router; \
echo nameserver $dns > /etc/resolv.conf;; esac
"""


class Guest(Shell):
    """A guest with a shell on its serial line and one network card."""

    @property
    def nic(self) -> VirtioNet | E1000:
        """Its card."""
        return self.machine.nics[0]

    @property
    def network(self) -> User:
        """What its cable goes to."""
        network = self.nic.backend
        assert isinstance(network, User)
        return network

    def dhcp(self) -> None:
        """An address, a route and a name server."""
        self.run(f"printf '#!/bin/sh\\n%s' '{LEASE}' > /tmp/lease; chmod +x /tmp/lease")
        self.run("ip link set eth0 up; udhcpc -i eth0 -n -q -t 20 -T 1 -s /tmp/lease 2>&1")


def files_of(model: str) -> tuple[Path, Path]:
    """Kernel and initramfs; fetched and made where they are not there."""
    need("busybox")
    flavour, modules = MODELS[model]
    return cached_kernel(flavour), cached_initramfs(modules=modules, flavour=flavour)


@contextmanager
def booted(
    model: str, *hostfwd: str, features: dict[str, bool] | None = None, network: NetBackend | None = None
) -> Iterator[Guest]:
    """A guest at its shell, on user networking if nothing else is said."""
    usable, reason = availability()
    if not usable and network is None:
        pytest.skip(reason)
    kernel, initrd = files_of(model)
    with Machine(
        memory=256 * MIB,
        kernel=kernel,
        initrd=initrd,
        append="console=ttyS0 quiet",
        networks=[NetworkConfig(network or User(hostfwd=hostfwd), model=model, features=features)],
        serial="buffer",
        engine="translator",
    ) as machine:
        yield Guest(machine)


@contextmanager
def served(folder: Path, host: str = "127.0.0.1") -> Iterator[int]:
    """A web server of the host; its port."""
    handler = functools.partial(_Quiet, directory=os.fspath(folder))
    with http.server.ThreadingHTTPServer((host, 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


class Sink:
    """A port of the host that takes one connection and keeps its checksum."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        self._server = socket.create_server((host, 0))
        self.port = self._server.getsockname()[1]
        self.digest = ""
        self._thread = threading.Thread(target=self._take)
        self._thread.start()

    def _take(self) -> None:
        found = hashlib.sha256()
        with self._server.accept()[0] as connection:
            while data := connection.recv(MIB):
                found.update(data)
        self.digest = found.hexdigest()

    def result(self) -> str:
        """Once all is there."""
        self._thread.join(120)
        self._server.close()
        return self.digest


class Echo:
    """A client of a forwarded port, which tries until somebody answers (a machine runs while Python waits for it)."""

    QUESTION = b"is anybody there?\n" * 1000

    def __init__(self, port: int) -> None:
        self.answer = b""
        self._port = port
        self._thread = threading.Thread(target=self._ask)
        self._thread.start()

    def _ask(self) -> None:
        for _ in range(200):
            try:
                with socket.create_connection(("127.0.0.1", self._port), timeout=60) as connection:
                    connection.sendall(self.QUESTION)
                    while len(self.answer) < len(self.QUESTION):
                        data = connection.recv(65536)
                        if not data:
                            break
                        self.answer += data
            except ConnectionError:
                pass
            if self.answer:
                return
            time.sleep(0.1)

    def result(self) -> bytes:
        """What came back."""
        self._thread.join(120)
        return self.answer


@pytest.mark.parametrize("model", MODELS)
def test_linux_uses_it(
    exercised: Callable[[str], None], guest_cache: Path, tmp_path: Path, model: str
) -> None:
    """Each thing that a user does with a network, and what was sent is what came."""
    size = 24 * MIB if model == "virtio" else 6 * MIB
    contents = random.Random(5).randbytes(size)
    (tmp_path / "big").write_bytes(contents)
    digest = hashlib.sha256(contents).hexdigest()
    with booted(model, "tcp:127.0.0.1:0-:7") as guest, served(tmp_path) as port:
        guest.dhcp()
        assert "10.0.2.15" in guest.run("ip addr show dev eth0")
        assert "52:54:00:12:34:56" in guest.run("cat /sys/class/net/eth0/address")
        assert "3 packets received" in guest.run("ping -c 3 -W 5 10.0.2.2")
        assert digest in guest.run(f"wget -q -O /tmp/big http://10.0.2.2:{port}/big; sha256sum /tmp/big")
        sent, sink = 4 * MIB, Sink()  # busybox writes a KiB at a time
        guest.run(f"head -c {sent} /tmp/big | nc 10.0.2.2 {sink.port}")
        assert sink.result() == hashlib.sha256(contents[:sent]).hexdigest()
        echo = Echo(guest.network.forwarded[0])
        guest.run("nc -l -p 7 -e cat")  # ends when the connection does
        assert echo.result() == Echo.QUESTION
        nic = guest.nic
        assert nic.counters.tx_drops == nic.counters.rx_drops == 0
        if isinstance(nic, VirtioNet):
            assert {"CSUM", "HOST_TSO4", "GUEST_TSO4", "MRG_RXBUF", "CTRL_VQ"} <= set(nic.driver_features)
            assert nic.counters.rx_gso > 100
            assert nic.queue_counters.faults == nic.counters.command_errors == 0
        else:
            assert nic.counters.faults == 0
            assert nic.counters.tx_segmented > 0
            assert "1000" in guest.run("cat /sys/class/net/eth0/speed")
        # A cable that is pulled, and comes back.
        guest.network.link = False
        guest.run(
            "for i in $(seq 50); do [ $(cat /sys/class/net/eth0/carrier) = 0 ] && break; sleep 0.2; done"
        )
        assert "0" in guest.run("cat /sys/class/net/eth0/carrier").split()
        guest.network.link = True
        guest.run(
            "for i in $(seq 50); do [ $(cat /sys/class/net/eth0/carrier) = 1 ] && break; sleep 0.2; done"
        )
        assert "1 packets received" in guest.run("ping -c 1 -W 10 10.0.2.2")
    exercised(f"Linux {model} network card, user networking")


@pytest.mark.parametrize(
    "features", [{"RING_PACKED": True}, {"EVENT_IDX": False, "INDIRECT_DESC": False}], ids=["packed", "plain"]
)
def test_other_rings(
    exercised: Callable[[str], None], guest_cache: Path, tmp_path: Path, features: dict[str, bool]
) -> None:
    """The same bytes over packed rings, and over rings without any extra."""
    contents = random.Random(6).randbytes(4 * MIB)
    (tmp_path / "big").write_bytes(contents)
    digest = hashlib.sha256(contents).hexdigest()
    with booted("virtio", features=features) as guest, served(tmp_path) as port:
        guest.dhcp()
        assert digest in guest.run(f"wget -q -O /tmp/big http://10.0.2.2:{port}/big; sha256sum /tmp/big")
        sent, sink = 4 * MIB, Sink()  # busybox writes a KiB at a time
        guest.run(f"head -c {sent} /tmp/big | nc 10.0.2.2 {sink.port}")
        assert sink.result() == hashlib.sha256(contents[:sent]).hexdigest()
        nic = guest.nic
        assert isinstance(nic, VirtioNet)
        assert ("RING_PACKED" in nic.driver_features) is ("RING_PACKED" in features)
        assert nic.queue_counters.faults == 0
    exercised(f"Linux virtio network card, {', '.join(features)}")


def test_unbind_and_bind_under_load(exercised: Callable[[str], None], guest_cache: Path) -> None:
    """The driver leaves the device a hundred times, half of them while the other end floods it; then it still works."""
    with booted("virtio", "udp:127.0.0.1:0-:9") as guest, socket.socket(type=socket.SOCK_DGRAM) as flood:
        guest.dhcp()
        driver, setup = (
            "/sys/bus/virtio/drivers/virtio_net",
            "ip addr add 10.0.2.15/24 dev eth0; ip link set eth0 up",
        )
        guest.run(f"device=$(ls {driver} | grep virtio)")
        address, stop = ("127.0.0.1", guest.network.forwarded[0]), threading.Event()

        def keep_sending() -> None:
            while not stop.wait(0.0005):
                flood.sendto(bytes(1400), address)

        def cycle(count: int) -> None:
            guest.run(
                f"for i in $(seq {count}); do echo $device > {driver}/unbind && echo $device > {driver}/bind"
                f" && {setup}; done",
                300,
            )

        thread = threading.Thread(target=keep_sending)
        thread.start()
        try:
            cycle(50)
        finally:
            stop.set()
            thread.join()
        cycle(50)
        assert "3 packets received" in guest.run("sleep 1; ping -c 3 -W 10 10.0.2.2")
        nic = guest.nic
        assert isinstance(nic, VirtioNet)
        assert nic.queue_counters.faults == 0
        assert nic.counters.commands > 100
        assert nic.counters.rx_frames > 50
    exercised("virtio-net unbound and bound 100 times")


def test_peer_goes_away(exercised: Callable[[str], None], guest_cache: Path) -> None:
    """The host's end of a connection closes amid a transfer each way: the guest is told, and the network goes on."""
    with booted("virtio") as guest, socket.create_server(("127.0.0.1", 0)) as server:
        guest.dhcp()
        port = server.getsockname()[1]

        def close_early() -> None:
            with server.accept()[0] as connection:
                connection.recv(100000)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # a reset

        for command in (f"cat /dev/zero | nc 10.0.2.2 {port}", f"echo x | nc 10.0.2.2 {port} > /dev/null"):
            thread = threading.Thread(target=close_early)
            thread.start()
            guest.run(f"{command}; true")
            thread.join(60)
        assert "1 packets received" in guest.run("ping -c 1 -W 10 10.0.2.2")
        assert guest.nic.counters.tx_drops == 0
    exercised("virtio-net: peers that go away")


CLONE_NEWNET = 0x40000000


def in_own_network(body: Callable[[], None]) -> None:
    """Run on a thread in a network namespace of its own: what it opens is there."""
    libc = ctypes.CDLL(None, use_errno=True)

    def run() -> str:
        if libc.unshare(CLONE_NEWNET) < 0 or not os.access("/dev/net/tun", os.W_OK):
            return "network namespaces and /dev/net/tun need root, or CAP_NET_ADMIN"
        body()
        return ""

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        if reason := pool.submit(run).result():
            pytest.skip(reason)


@pytest.mark.parametrize("model", MODELS)
def test_tap(exercised: Callable[[str], None], guest_cache: Path, tmp_path: Path, model: str) -> None:
    """Big transfers both ways over a tap interface; then it is taken away, and the guest goes on without a carrier."""
    need("ip")
    files_of(model)  # from a network that leads somewhere
    contents = random.Random(7).randbytes(4 * MIB)
    (tmp_path / "big").write_bytes(contents)
    digest, host = hashlib.sha256(contents).hexdigest(), "192.168.77.1"

    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True)

    def use() -> None:
        tap = Tap("pyvmm-test")
        with booted(model, network=tap) as guest:
            ip("addr", "add", f"{host}/24", "dev", tap.ifname)
            ip("link", "set", tap.ifname, "up")
            guest.run("ip addr add 192.168.77.2/24 dev eth0; ip link set eth0 up; sleep 1")
            assert "3 packets received" in guest.run(f"ping -c 3 -W 10 {host}")
            with served(tmp_path, host) as port:
                assert digest in guest.run(
                    f"wget -q -O /tmp/big http://{host}:{port}/big; sha256sum /tmp/big"
                )
            sink = Sink(host)
            guest.run(f"nc {host} {sink.port} < /tmp/big")
            assert sink.result() == digest
            ip("link", "del", tap.ifname)
            guest.run(
                "for i in $(seq 50); do [ $(cat /sys/class/net/eth0/carrier) = 0 ] && break; sleep 0.2; done"
            )
            assert "0" in guest.run("cat /sys/class/net/eth0/carrier").split()
            guest.run(f"! ping -c 1 -W 1 {host}")

    in_own_network(use)
    exercised(f"Linux {model} network card, tap")
