"""A machine that is paused and resumed hundreds of times while all its devices move data at once: nothing is lost.

Linux with virtio-net on user networking and on a tap, an e1000, two virtio disks, vsock and a virtio console port, each
with a transfer each way whose bytes are checked; meanwhile the machine is run for random moments, by all the ways that
there are: a time-out, `Machine.stop` from another thread, and the serial line's `expect`. What comes from the host
while nothing runs must find its way later: a notification or an interrupt that is lost in between stalls a transfer.

PYVMM_TEST_LONG=1: eight times as much data, PYVMM_TEST_SEED another order of moments.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pyvmm import Machine
from pyvmm.config import DiskConfig, NetworkConfig, PortConfig, VsockConfig
from pyvmm.guests.cached import cached_kernel
from pyvmm.guests.initramfs import BUSYBOX_INIT, build_initramfs
from pyvmm.guests.modules import load_order, module_path, with_modules
from pyvmm.net import Tap, User
from pyvmm.net.user import availability
from tests.boot.guests import need
from tests.boot.shell import Shell
from tests.boot.test_nics import in_own_network

pytestmark = [pytest.mark.boot, pytest.mark.timeout(900)]

MIB = 1 << 20
SIZE = MIB * (8 if os.environ.get("PYVMM_TEST_LONG") else 1)
SEED = int(os.environ.get("PYVMM_TEST_SEED", "5"))
TIMEOUT = 300
ECHO = 7
GO = "until [ -e /tmp/go ]; do sleep 0.1; done"
MODULES = ["virtio_pci", "virtio_net", "virtio_blk", "virtio_console", "e1000", "vmw_vsock_virtio_transport"]


def contents_of(name: str) -> bytes:
    return random.Random(name).randbytes(SIZE)


def digest_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Transfers:
    """The host's ends, each on a thread; what each of them found is a digest, or None until it has ended."""

    def __init__(self) -> None:
        self.found: dict[str, str | None] = {}
        self._threads: list[threading.Thread] = []

    def start(self, name: str, work: Callable[[], bytes]) -> None:
        self.found[name] = None

        def main() -> None:
            self.found[name] = digest_of(work())

        self._threads.append(threading.Thread(target=main, name=name, daemon=True))
        self._threads[-1].start()

    @property
    def pending(self) -> list[str]:
        return [thread.name for thread in self._threads if thread.is_alive()]


def received(connection: socket.socket, size: int | None = None) -> bytes:
    """All until its end, or until there are as many."""
    data = bytearray()
    while (size is None or len(data) < size) and (block := connection.recv(65536)):
        data += block
    return bytes(data)


def take(server: socket.socket) -> bytes:
    with server, server.accept()[0] as connection:
        return received(connection)


def give(server: socket.socket, data: bytes) -> bytes:
    with server, server.accept()[0] as connection:
        connection.sendall(data)
    return data


def echoed(connection: socket.socket, data: bytes) -> bytes:
    """What comes back of what is sent, both at once."""
    with connection:
        sender = threading.Thread(target=connection.sendall, args=(data,), daemon=True)
        sender.start()
        got = received(connection, len(data))
        sender.join()
    return got


@contextlib.contextmanager
def booted(folder: Path, kernel: Path) -> Iterator[Shell]:
    """Debian's generic kernel with all of it."""
    program = folder / "vsock"
    source = Path(__file__).with_name("vsock_guest.c")
    subprocess.run(["gcc", "-static", "-O2", "-Wall", "-Werror", source, "-o", program], check=True)
    modules = load_order(kernel, MODULES)
    files = {module_path(name): data for name, data in modules.items()}
    build_initramfs(
        folder / "initramfs.gz",
        with_modules(BUSYBOX_INIT, modules),
        files={**files, "/vsock": program.read_bytes()},
    )
    (folder / "read.img").write_bytes(contents_of("disk"))
    (folder / "written.img").write_bytes(bytes(SIZE))
    with Machine(
        memory=256 * MIB,
        kernel=kernel,
        initrd=folder / "initramfs.gz",
        append="console=ttyS0 quiet",
        serial="buffer",
        vga="none",
        engine="translator",
        disks=[DiskConfig(folder / name, format="raw") for name in ("read.img", "written.img")],
        networks=[
            NetworkConfig(User(["tcp:127.0.0.1:0-:7"])),
            NetworkConfig(Tap("pvpause")),
            NetworkConfig(User(net="10.0.3.0/24"), model="e1000"),
        ],
        ports=[PortConfig("echo", f"unix:{folder / 'echo'}")],
        vsock=VsockConfig(folder / "v", cid=33),
    ) as machine:
        yield Shell(machine)


def start_network(guest: Shell, transfers: Transfers, name: str, host: str, local: str) -> None:
    """A file each way; `local`: the host's own address that `host` is."""
    up, down = socket.create_server((local, 0)), socket.create_server((local, 0))
    transfers.start(f"{name}-sent", lambda: take(up))
    transfers.start(f"{name}-given", lambda: give(down, contents_of(name)))
    guest.start(f"{GO}; nc {host} {up.getsockname()[1]} < /tmp/data")
    guest.start(
        f"{GO}; nc {host} {down.getsockname()[1]} > /tmp/{name}; sha256sum /tmp/{name} > /tmp/{name}.sum"
    )


def start_all(guest: Shell, transfers: Transfers, folder: Path) -> None:
    """Prepare every transfer; the guest's ends begin with /tmp/go (that of vsock must listen first)."""
    machine = guest.machine
    guest.run("for i in 0 1 2; do ip link set eth$i up; done; ip addr add 10.0.2.15/24 dev eth0")
    guest.run("ip addr add 192.168.78.2/24 dev eth1; ip addr add 10.0.3.15/24 dev eth2")
    start_network(guest, transfers, "net0", "10.0.2.2", "127.0.0.1")
    start_network(guest, transfers, "net1", "192.168.78.1", "192.168.78.1")
    start_network(guest, transfers, "net2", "10.0.3.2", "127.0.0.1")
    guest.start(f"{GO}; sha256sum /dev/vda > /tmp/vda.sum")
    guest.start(f"{GO}; dd if=/tmp/data of=/dev/vdb bs=8k conv=fsync; echo written > /tmp/vdb.sum")
    port = guest.run("cd /sys/class/virtio-ports; grep -l echo */name; cd /").split("/name")[0].split()[-1]
    guest.start(
        f"{GO}; while true; do cat <>/dev/{port} >&0; sleep 0.1; done"
    )  # it ends while nobody is at the host's end
    guest.start(f"/vsock echo {ECHO} > /tmp/vsock", until="[ -s /tmp/vsock ]")
    port_end = socket.socket(socket.AF_UNIX)
    port_end.connect(str(folder / "echo"))
    transfers.start("console", lambda: echoed(port_end, contents_of("console")))
    transfers.start(
        "vsock", lambda: echoed(machine.vsock.connect(ECHO, timeout=TIMEOUT), contents_of("vsock"))
    )


def pause_by_stop(machine: Machine, moment: float) -> None:
    thread = threading.Thread(target=machine.run)
    thread.start()
    time.sleep(moment)
    machine.stop()
    thread.join()


def pause_and_resume(guest: Shell, transfers: Transfers, rng: random.Random) -> int:
    """Until all transfers have ended; how often it was paused."""
    machine, pauses = guest.machine, 0
    end = time.monotonic() + TIMEOUT
    machine.serial.send("touch /tmp/go\r")
    while transfers.pending:
        assert time.monotonic() < end, f"stalled after {pauses} pauses: {transfers.pending}"
        moment = rng.choice((0.0, 0.0005, 0.003, 0.01)) * rng.random()
        way = rng.randrange(32)
        if way < 16:
            assert machine.run(timeout=moment).reason == "timeout"
            pauses += 1
        elif way < 31:
            pause_by_stop(machine, moment)
            pauses += 1
        else:
            machine.serial.send(f"echo tick-{pauses}-\r")
            machine.serial.expect(f"tick-{pauses}-\r", timeout=TIMEOUT)
        if rng.random() < 0.2:
            time.sleep(moment)  # the host goes on meanwhile
    return pauses


def test_nothing_is_lost(exercised: Callable[[str], None], guest_cache: Path, tmp_path: Path) -> None:
    need("busybox", "gcc", "ip")
    usable, reason = availability()
    if not usable:
        pytest.skip(reason)

    kernel = cached_kernel("generic")  # from a network that leads somewhere

    def use() -> None:
        for command in (
            "link set lo up",
            "tuntap add pvpause mode tap",
            "addr add 192.168.78.1/24 dev pvpause",
            "link set pvpause up",
        ):
            subprocess.run(["ip", *command.split()], check=True)
        with booted(tmp_path, kernel) as guest:
            transfers = Transfers()
            made = guest.run(f"head -c {SIZE} /dev/urandom > /tmp/data; sha256sum /tmp/data")
            sent = made.split("  /tmp/data")[0].split()[-1]
            start_all(guest, transfers, tmp_path)
            pauses = pause_and_resume(guest, transfers, random.Random(SEED))
            done = "until [ -s $i.sum ]; do sleep 0.1; done"
            sums = guest.run(f"cd /tmp; for i in net0 net1 net2 vda vdb; do {done}; done; cat *.sum")
            for name in ("net0", "net1", "net2"):
                assert transfers.found[f"{name}-sent"] == sent, name
                assert digest_of(contents_of(name)) in sums, name
            assert digest_of(contents_of("disk")) in sums
            assert digest_of((tmp_path / "written.img").read_bytes()) == sent
            for name in ("console", "vsock"):
                assert transfers.found[name] == digest_of(contents_of(name)), name
            assert not any(device.queue_counters.faults for device in guest.machine.virtio)
            print(f"{pauses} pauses")
            assert pauses > 100

    in_own_network(use)
    exercised("Linux, all devices, paused and resumed")
