"""Sockets between the host and a Debian guest, by the guest's own vmw_vsock_virtio_transport."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pyvmm import Machine
from pyvmm.config import VsockConfig
from pyvmm.guests.cached import cached_kernel
from pyvmm.guests.initramfs import BUSYBOX_INIT, build_initramfs
from pyvmm.guests.modules import load_order, module_path, with_modules
from tests.boot.guests import need
from tests.conftest import RecordExercised

pytestmark = pytest.mark.boot

ECHO, HOST = 7, 9
TIMEOUT = 240


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """Debian's cloud kernel, and in its initramfs a static program that echoes on port ECHO."""
    need("apt-get", "dpkg-deb", "busybox", "gcc")
    folder = tmp_path_factory.mktemp("vsock")
    program = folder / "vsock"
    source = Path(__file__).with_name("vsock_guest.c")
    subprocess.run(["gcc", "-static", "-O2", "-Wall", "-Werror", source, "-o", program], check=True)
    kernel = cached_kernel()
    modules = load_order(kernel, ["virtio_pci", "vmw_vsock_virtio_transport"])
    files = {module_path(name): data for name, data in modules.items()}
    init = with_modules(BUSYBOX_INIT, modules)
    build_initramfs(folder / "initramfs.gz", init, files={**files, "/vsock": program.read_bytes()})
    with Machine(
        engine=os.environ.get("PYVMM_TEST_ENGINE", "auto"),  # type: ignore[arg-type]
        memory=256 << 20,
        kernel=kernel,
        initrd=folder / "initramfs.gz",
        append="console=ttyS0 quiet",
        serial="buffer",
        vga="none",
        vsock=VsockConfig(folder / "v", cid=33),
    ) as made:
        made.serial.expect(r"guest# ", timeout=600)
        made.serial.send(f"/vsock echo {ECHO} &\n")
        made.serial.expect("vsock: listening", timeout=TIMEOUT)
        yield made


class Running:
    """The machine runs on a thread of its own while the test is the host's program."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.thread = threading.Thread(target=machine.run)

    def __enter__(self) -> Machine:
        self.thread.start()
        return self.machine

    def __exit__(self, *_: object) -> None:
        self.machine.stop()
        self.thread.join()


def echoed(connection: socket.socket, data: bytes) -> bytes:
    """Send all of it and then no more, reading meanwhile: what came back until the end."""

    def send() -> None:
        with contextlib.suppress(OSError):  # reset: what came back tells
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)

    sender = threading.Thread(target=send)
    sender.start()
    got = bytearray()
    while block := connection.recv(1 << 16):
        got += block
    sender.join()
    return bytes(got)


def sent_until_it_stands(connection: socket.socket, data: bytes) -> int:
    """How many bytes were taken before none was for the connection's time-out."""
    sent = 0
    try:
        while sent < len(data):
            sent += connection.send(data[sent : sent + (1 << 16)])
    except TimeoutError:
        pass
    return sent


def test_host_connects(machine: Machine, record_exercised: RecordExercised) -> None:
    """Megabytes there and back, half-closed in between; and nobody where nobody listens."""
    data = hashlib.shake_256(b"host").digest(8 << 20)
    with Running(machine), machine.vsock.connect(ECHO, timeout=TIMEOUT) as connection:
        assert echoed(connection, data) == data
        with pytest.raises(ConnectionRefusedError, match="port 8"):
            machine.vsock.connect(8, timeout=TIMEOUT)
    counters = machine.vsock.counters
    assert (counters.by_host, counters.resets) == (1, 0)
    assert counters.bytes_to_guest == counters.bytes_from_guest == len(data)
    assert not machine.vsock.queue_counters.faults
    record_exercised(engine=machine.engine_name, guest="Debian's cloud kernel, vsock")


def test_guest_connects(machine: Machine) -> None:
    size = 6_000_000
    with machine.vsock.listen(HOST) as listener:
        listener.settimeout(TIMEOUT)

        def host() -> int:
            connection, _ = listener.accept()
            count = 0
            with connection:
                while block := connection.recv(1 << 16):
                    connection.sendall(block)
                    count += len(block)
            return count

        with ThreadPoolExecutor(1) as pool:
            counted = pool.submit(host)
            machine.serial.send(f"/vsock send {HOST} {size}\n")
            machine.serial.expect(f"vsock: {size} bytes came back", timeout=TIMEOUT)
            assert counted.result() == size
        machine.serial.send("/vsock send 10 1\n")
        machine.serial.expect("vsock: connect: Connection reset by peer", timeout=TIMEOUT)


def test_neither_side_reads_for_a_while(machine: Machine) -> None:
    """The guest's echo stands still when nobody reads it, and so does who writes to it; nothing is lost."""
    data = hashlib.shake_256(b"slow").digest(4 << 20)
    with Running(machine), machine.vsock.connect(ECHO, timeout=TIMEOUT) as connection:
        connection.settimeout(1)
        sent = sent_until_it_stands(connection, data)
        assert 0 < sent < len(data)
        connection.settimeout(TIMEOUT)
        assert echoed(connection, data[sent:]) == data


def test_many_at_once(machine: Machine) -> None:
    def one(number: int) -> bool:
        data = hashlib.shake_256(bytes([number])).digest(100_000 + number)
        with machine.vsock.connect(ECHO, timeout=TIMEOUT) as connection:
            return echoed(connection, data) == data

    with Running(machine), ThreadPoolExecutor(24) as pool:
        assert all(pool.map(one, range(48)))


def test_the_host_goes_in_the_middle(machine: Machine) -> None:
    """The guest is told, and the next connection is as good as the first."""
    machine.serial.send(f"/vsock cut {HOST + 1}\n")
    with machine.vsock.listen(HOST + 1) as listener, ThreadPoolExecutor(1) as pool:
        listener.settimeout(TIMEOUT)

        def cut() -> None:
            connection, _ = listener.accept()
            with connection:
                assert len(connection.recv(1 << 16)) > 0

        done = pool.submit(cut)
        machine.serial.expect("vsock: gone: (Broken pipe|Connection reset)", timeout=TIMEOUT)
        done.result()
    with Running(machine), machine.vsock.connect(ECHO, timeout=TIMEOUT) as connection:
        assert echoed(connection, b"once more") == b"once more"


def answer_of(machine: Machine) -> bytes:
    """What a new connection to the guest's echo gives; nothing where it is reset."""
    try:
        with machine.vsock.connect(ECHO, timeout=TIMEOUT) as connection:
            return echoed(connection, b"after it")
    except (ConnectionError, TimeoutError):
        return b""


def test_restored_under_load(machine: Machine) -> None:
    """Restoring the device resets its connections on both sides; the guest's listener goes on."""
    with Running(machine):
        connection = machine.vsock.connect(ECHO, timeout=TIMEOUT)
        connection.sendall(bytes(1 << 16))
    with connection:
        machine.vsock.restore(machine.vsock.save())
        with Running(machine):
            try:
                while connection.recv(1 << 16):
                    pass
            except ConnectionResetError:
                pass
            # Until the guest has dealt with the event it resets whatever is connected, this one too.
            end = time.monotonic() + TIMEOUT
            while (answer := answer_of(machine)) != b"after it" and time.monotonic() < end:
                time.sleep(0.1)
            assert answer == b"after it"
