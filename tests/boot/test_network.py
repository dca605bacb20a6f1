"""Linux's virtio-net driver on every kind of network: DHCP, files both ways with their checksums, forwarded ports, two
machines on one cable, the cable pulled, and a capture of it all."""

from __future__ import annotations

import hashlib
import random
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pyvmm import Machine
from pyvmm.config import NetworkConfig
from pyvmm.devices.virtio.net import VirtioNet
from pyvmm.guests.cached import cached_initramfs
from pyvmm.net import Link, User
from pyvmm.net.user import availability
from tests.boot.guests import need
from tests.boot.shell import LISTENS, Shell, running

pytestmark = [pytest.mark.boot, pytest.mark.timeout(600)]

MIB = 1 << 20
TIMEOUT = 180


@pytest.fixture(scope="session")
def net_initramfs(guest_cache: Path, cloud_kernel: Path) -> Path:
    """A busybox initramfs that loads the driver of virtio network cards."""
    need("busybox")
    return cached_initramfs(modules=("virtio_pci", "virtio_net"))


@pytest.fixture
def libslirp() -> None:
    usable, reason = availability()
    if not usable:
        pytest.skip(reason)


class Guest(Shell):
    """A guest with a shell and one virtio network card."""

    def __init__(self, machine: Machine) -> None:
        super().__init__(machine)
        card = machine.devices["net0"]
        assert isinstance(card, VirtioNet)
        self.card = card
        self.run("ip link set lo up; ip link set eth0 up")


def start(kernel: Path, initramfs: Path, network: NetworkConfig) -> Machine:
    return Machine(
        memory=192 * MIB,
        kernel=kernel,
        initrd=initramfs,
        append="console=ttyS0 quiet",
        serial="buffer",
        engine="translator",
        networks=[network],
    )


class Server:
    """A web server of a few lines: GET sends `data`, anything else is read to its end."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.received = b""
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.done = threading.Event()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                peer, _ = self.socket.accept()
            except OSError:
                return
            with peer:
                first = peer.recv(65536)
                if first.startswith(b"GET"):
                    peer.sendall(
                        b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n" % len(self.data) + self.data
                    )
                    continue
                parts = [first]
                while part := peer.recv(65536):
                    parts.append(part)
                self.received = b"".join(parts)
                self.done.set()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server(random.Random(5).randbytes(4 * MIB))
    yield made
    made.socket.close()


def frames(path: Path) -> list[tuple[bool, int]]:
    """Of a capture: whether the guest sent it, and how long it was."""
    data, at, found = path.read_bytes(), 24, []
    while at < len(data):
        _, _, kept, length = struct.unpack_from("<IIII", data, at)
        found.append((data[at + 22 : at + 28] == bytes.fromhex("525400123456"), length))
        at += 16 + kept
    return found


@pytest.mark.usefixtures("libslirp")
def test_user_network(
    exercised: Callable[[str], None], cloud_kernel: Path, net_initramfs: Path, server: Server, tmp_path: Path
) -> None:
    capture = tmp_path / "user.pcap"
    net = User(["tcp:127.0.0.1:0-:7"])
    with start(cloud_kernel, net_initramfs, NetworkConfig(net, capture=capture)) as machine:
        guest = Guest(machine)
        assert "lease of 10.0.2.15 obtained from 10.0.2.2" in guest.run(
            "udhcpc -i eth0 -n -q -f -s /bin/true 2>&1"
        )
        guest.run("ip addr add 10.0.2.15/24 dev eth0; ip route add default via 10.0.2.2; ping -c 1 10.0.2.2")
        guest.run("ping -c 1 -s 4000 10.0.2.2")  # in fragments, both ways
        url = f"http://10.0.2.2:{server.port}/data"
        wanted = hashlib.sha256(server.data).hexdigest()
        assert wanted in guest.run(f"wget -q -O /tmp/data {url} && sha256sum /tmp/data")
        guest.run(f"nc 10.0.2.2 {server.port} < /tmp/data")
        assert server.done.wait(TIMEOUT)
        assert hashlib.sha256(server.received).hexdigest() == wanted

        guest.start("nc -l -p 7 -e cat", until=LISTENS.format(7))
        with (
            running(machine),
            socket.create_connection(("127.0.0.1", net.forwarded[0]), timeout=TIMEOUT) as peer,
        ):
            peer.sendall(b"from outside")
            assert peer.recv(100) == b"from outside"

        net.link = False
        guest.run("while [ $(cat /sys/class/net/eth0/carrier) = 1 ]; do sleep 0.1; done")
        net.link = True
        guest.run("while [ $(cat /sys/class/net/eth0/carrier) = 0 ]; do sleep 0.1; done; ping -c 1 10.0.2.2")

        driver = "/sys/bus/virtio/drivers/virtio_net"
        guest.run(f"cd {driver}; dev=$(basename $(echo virtio*)); echo $dev > unbind; echo $dev > bind; cd /")
        guest.run("ip link set eth0 up; ip addr add 10.0.2.15/24 dev eth0; ping -c 1 10.0.2.2")
        assert guest.card.queue_counters.faults == 0
        assert guest.card.counters.rx_gso > 10  # big frames went to the guest as they are
        assert net.counters.rx_drops == 0
        net.stop_capture()
    sent = [length for own, length in frames(capture) if own]
    assert max(sent) > 1514  # and came from it
    exercised("Linux virtio-net, user network")


def test_two_machines_on_a_cable(
    exercised: Callable[[str], None], cloud_kernel: Path, net_initramfs: Path
) -> None:
    """A file from one guest to the other, as it was; then one of them goes."""
    link = Link()
    one, two = (start(cloud_kernel, net_initramfs, NetworkConfig(end)) for end in link.ends)
    with two:
        with one:
            first, second = Guest(one), Guest(two)
            first.run("ip addr add 192.168.9.1/24 dev eth0")
            with running(one):
                second.run("ip addr add 192.168.9.2/24 dev eth0; ping -c 1 192.168.9.1")
            second.start("tail -f /dev/null | nc -l -p 9 > /tmp/got", until=LISTENS.format(9))
            lines = b"".join(b"%d\n" % number for number in range(1, 300001))
            # Lines of busybox's own, so that nothing has to come from the host.
            made = first.run("seq 1 300000 > /tmp/lines; sha256sum /tmp/lines")
            with running(two):
                first.run("dd if=/tmp/lines bs=64k 2>/dev/null | nc 192.168.9.2 9")
            got = second.run(
                f"while [ $(stat -c %s /tmp/got) -lt {len(lines)} ]; do sleep 0.1; done; sha256sum /tmp/got"
            )
            assert hashlib.sha256(lines).hexdigest() in made
            assert hashlib.sha256(lines).hexdigest() in got
            assert first.card.queue_counters.faults == second.card.queue_counters.faults == 0
            assert second.card.backend.counters.checksummed == 0  # nobody summed what no wire carried
        second.run("while [ $(cat /sys/class/net/eth0/carrier) = 1 ]; do sleep 0.1; done")
    exercised("Linux virtio-net, two machines on a cable")
