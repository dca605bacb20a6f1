"""Two Linux guests on taps of one bridge, in a network namespace that the test makes: files with checksums between them
and from the host, VLAN tags of their own, a tap taken away under load; the same inside a VLAN of the bridge, where the
host's kernel has those. And what ``pyvmm run`` says when it gets no tap.

Left out: the e1000, whose driver is not in Debian's cloud kernel (test_nics.py has it on a tap); routes off the host.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pyvmm.config import NetworkConfig
from pyvmm.errors import NetError
from pyvmm.guests.cached import cached_initramfs
from pyvmm.net import Tap, host
from tests.boot.guests import need
from tests.boot.shell import LISTENS, running
from tests.boot.test_network import MIB, TIMEOUT, Guest, start
from tests.boot.test_nics import in_own_network, served

pytestmark = [pytest.mark.boot, pytest.mark.timeout(600)]

BRIDGE, TAPS = "pvbr", ("pvtap1", "pvtap2")
HOST, GUESTS = "192.168.88.1", ("192.168.88.11", "192.168.88.12")
OWN_TAG, BRIDGE_TAG = 11, 10


def steps_of_network(vlan: bool) -> list[host.Step]:
    """A bridge with two taps and an address of the host; with `vlan` in VLAN 10 of a bridge that filters."""
    cidr = f"{HOST}/24"
    steps = host.make_bridge(BRIDGE, vlan_filtering=vlan, cidr=None if vlan else cidr)
    for tap in TAPS:
        steps += host.make_tap(tap, bridge=BRIDGE)
        if vlan:
            steps += host.join_vlan(tap, BRIDGE_TAG, untagged=True) + host.join_vlan(tap, OWN_TAG)
    if vlan:
        steps += host.join_vlan(BRIDGE, BRIDGE_TAG, bridge=True) + host.make_vlan(
            BRIDGE, BRIDGE_TAG, cidr=cidr
        )
    return steps


def make_network(vlan: bool) -> None:
    """Make it in this thread's namespace, or skip where the kernel has not what it needs."""
    with open("/proc/thread-self/net/dev") as lines:
        here = {line.split(":")[0].strip() for line in lines if ":" in line}
    assert {interface.name for interface in host.show()} == here  # pyroute2 is where this thread is
    try:
        host.run(steps_of_network(vlan))
    except NetError as error:
        if "this kernel has no such thing" not in str(error):
            raise
        pytest.skip(str(error))


class Drain:
    """Reads what one peer sends, and counts it."""

    def __init__(self) -> None:
        self.received = 0
        self.socket = socket.create_server((HOST, 0))
        self.port = self.socket.getsockname()[1]
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self) -> None:
        peer, _ = self.socket.accept()
        self.peer = peer
        while data := peer.recv(65536):
            self.received += len(data)

    def close(self) -> None:
        """End it, with its connection."""
        self.peer.shutdown(socket.SHUT_RDWR)
        self.thread.join(TIMEOUT)
        self.peer.close()
        self.socket.close()


def wait_until(happened: Callable[[], bool], runs: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + TIMEOUT
    while not happened():
        assert runs(), f"the guest has ended; {what}"
        assert time.monotonic() < end, what
        time.sleep(0.02)


@contextmanager
def guests(kernel: Path, initramfs: Path) -> Iterator[tuple[Guest, Guest]]:
    """Two guests with an address each."""
    one, two = (start(kernel, initramfs, NetworkConfig(Tap(tap))) for tap in TAPS)
    with one, two:
        with running(two):
            first = Guest(one)
        with running(one):
            second = Guest(two)
        for guest, own in zip((first, second), GUESTS, strict=True):
            guest.run(f"ip addr add {own}/24 dev eth0")
        yield first, second


def copy_file(first: Guest, second: Guest, to: str, digest: str) -> None:
    """/tmp/big of the first guest to the second, which must get it as it was."""
    second.run("rm -f /tmp/got")
    second.start("tail -f /dev/null | nc -l -p 9 > /tmp/got", until=LISTENS.format(9))
    with running(second.machine):
        first.run(f"nc {to} 9 < /tmp/big")
    got = f"while [ $(stat -c %s /tmp/got) -lt {4 * MIB} ]; do sleep 0.1; done; sha256sum /tmp/got"
    assert digest in second.run(got)


def tag_frames(first: Guest, second: Guest) -> None:
    """Both guests in a VLAN of theirs, whose tags pass through the taps and the bridge."""
    for number, guest in enumerate((first, second), 1):
        guest.run(
            f"ip link add link eth0 name tagged type vlan id {OWN_TAG}; ip link set tagged up;"
            f" ip addr add 192.168.89.{number}/24 dev tagged"
        )
    with running(second.machine):
        assert "3 packets received" in first.run("ping -c 3 -i 0.2 -W 10 192.168.89.2")


def take_tap_away(first: Guest, second: Guest) -> None:
    """Under load: the second guest loses its carrier and goes on, the first still reaches the host."""
    drain, before = Drain(), second.card.backend.counters
    assert before.link
    second.start(f"cat /dev/zero | nc {HOST} {drain.port}")
    with running(second.machine) as runs:
        wait_until(lambda: drain.received > MIB, runs, "nothing came from the guest")
        host.run(host.remove(TAPS[1]))
        wait_until(lambda: not second.card.backend.link, runs, "the tap is gone, its link is up")
    second.run("while [ $(cat /sys/class/net/eth0/carrier) = 1 ]; do sleep 0.1; done")
    assert second.card.backend.counters.link_changes == before.link_changes + 1
    second.run(f"! ping -c 1 -W 1 {HOST} && kill $(pidof nc)")
    # The bridge has the lowest address of its ports (Linux net/bridge/br_stp_if.c), so it may have another one now.
    first.run("ip neigh flush dev eth0")
    assert "3 packets received" in first.run(f"ping -c 3 -i 0.2 -W 10 {HOST}")
    drain.close()


@pytest.mark.parametrize("vlan", [False, True], ids=["bridge", "vlan"])
def test_two_machines_on_a_bridge(
    exercised: Callable[[str], None], cloud_kernel: Path, guest_cache: Path, tmp_path: Path, vlan: bool
) -> None:
    need("busybox")
    pytest.importorskip("pyroute2", reason="pyroute2 is not installed")
    contents = random.Random(11).randbytes(4 * MIB)
    (tmp_path / "big").write_bytes(contents)
    digest = hashlib.sha256(contents).hexdigest()

    def use() -> None:
        make_network(vlan)
        initramfs = cached_initramfs(modules=("virtio_pci", "virtio_net", "8021q"))
        with guests(cloud_kernel, initramfs) as (first, second):
            for guest in (first, second):
                assert "3 packets received" in guest.run(f"ping -c 3 -i 0.2 -W 10 {HOST}")
            with running(second.machine):
                assert "3 packets received" in first.run(f"ping -c 3 -i 0.2 -W 10 {GUESTS[1]}")
            with served(tmp_path, HOST) as port:
                url = f"http://{HOST}:{port}/big"
                assert digest in first.run(f"wget -q -O /tmp/big {url}; sha256sum /tmp/big")
            copy_file(first, second, GUESTS[1], digest)
            tag_frames(first, second)
            assert second.card.counters.rx_gso > 10  # big frames crossed both taps as they are
            take_tap_away(first, second)
            assert first.card.queue_counters.faults == second.card.queue_counters.faults == 0

    in_own_network(use)
    exercised(f"Linux virtio-net, two machines on {'a VLAN of a bridge' if vlan else 'a bridge'}")


def run_with_tap(name: str, *before: str) -> str:
    """What ``pyvmm run`` with this tap says on standard error."""
    words = ["run", "--engine", "translator", "--net", f"tap,ifname={name}", "--serial", "stdio"]
    argv = [*before, sys.executable, "-m", "pyvmm.cli.main", *words]
    done = subprocess.run(
        argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TIMEOUT, check=False
    )
    assert done.returncode == 1
    return done.stderr


def test_tap_that_is_not_there() -> None:
    """Without root nobody can make it: one line, with what to do."""
    drop = []
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("root, and no setpriv to be somebody else")
        drop = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
    if not os.access("/dev/net/tun", os.W_OK):
        pytest.skip("no /dev/net/tun that one may open")
    said = run_with_tap("pvmissing", *drop)
    assert "ifname=pvmissing: Operation not permitted: have root make it for you: pyvmm net tap" in said
    assert said.count("\n") == 1


def test_tap_that_is_something_else() -> None:
    """An interface that is no tap."""
    if not os.access("/dev/net/tun", os.W_OK):
        pytest.skip("no /dev/net/tun that one may open")
    said = run_with_tap("lo")
    assert "ifname=lo: Invalid argument: take a name that is no other interface's" in said
    assert said.count("\n") == 1
