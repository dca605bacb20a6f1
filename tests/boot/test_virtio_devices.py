"""virtio's smaller devices under stock Linux's own drivers, driven from Python as a user does."""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pyvmm import Machine
from pyvmm.config import BalloonConfig, PortConfig, RngConfig
from pyvmm.devices.uart import SerialPort
from pyvmm.devices.virtio import ConsolePort, VirtioInput, VirtioRng
from pyvmm.guests.cached import cached_initramfs
from pyvmm.native import lib
from tests.conftest import RecordExercised

pytestmark = [pytest.mark.boot, pytest.mark.timeout(600)]

APPEND = "console=ttyS0 quiet"
TIMEOUT = 240
"""Seconds; they only end a test that hangs."""


class Shell:
    """Linux's shell on COM1."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def run(self, command: str) -> str:
        """What a command prints."""
        self.machine.serial.send(f"echo '<<''<'\n{command}\necho '>>''>'\n")
        said = self.machine.serial.expect(r"<<<\r\n[\s\S]*>>>\r\n", TIMEOUT).decode(errors="replace")
        return said.rpartition("<<<\r\n")[2].removesuffix(">>>\r\n").replace("\r", "").strip()


@contextmanager
def linux(kernel: Path, *modules: str, append: str = APPEND, **fields: Any) -> Iterator[Shell]:
    """A machine whose Linux has loaded these drivers."""
    initrd = cached_initramfs(modules=("virtio_pci", *modules))
    with Machine(
        kernel=kernel, initrd=initrd, append=append, serial="buffer", memory=256 << 20, vga="none", **fields
    ) as machine:
        machine.serial.expect(r"\nUP\r+\n", TIMEOUT)
        machine.serial.expect(r"# ", TIMEOUT)
        machine.serial.send("PS1=; stty -echo\n")
        shell = Shell(machine)
        yield shell
        assert not [line for line in machine.messages() if "must reset" in line]


def test_entropy(cloud_kernel: Path, record_exercised: RecordExercised) -> None:
    """Linux's hwrng reads the host's bytes, and no faster than it may."""
    with linux(cloud_kernel, "virtio_rng", rng=RngConfig(bytes_per_second=20000)) as shell:
        assert shell.run("cat /sys/class/misc/hw_random/rng_current") == "virtio_rng.0"
        first, second = (shell.run("dd if=/dev/hwrng bs=512 count=4 2>/dev/null | md5sum") for _ in range(2))
        assert len(first.split()[0]) == 32
        assert first != second
        assert shell.run("dd if=/dev/hwrng bs=512 count=4 2>/dev/null | wc -c") == "2048"
        rng = shell.machine.devices["rng"]
        assert isinstance(rng, VirtioRng)
        counters = rng.counters
        assert counters.bytes >= 6144
        assert counters.bytes <= 20000 * (shell.machine.clock.now / 1e9 + 1)
        record_exercised(engine=shell.machine.engine_name, guest="Debian cloud kernel, virtio-rng")


def test_console_and_ports(cloud_kernel: Path, tmp_path: Path, record_exercised: RecordExercised) -> None:
    """hvc0 is a console of the terminal's size; named ports reach Python, a socket's client and a file."""
    path, log = tmp_path / "agent.sock", tmp_path / "log.txt"
    ports = [
        PortConfig("org.pyvmm.agent"),
        PortConfig("org.pyvmm.socket", f"unix:{path}"),
        PortConfig("org.pyvmm.log", f"file:{log}"),
    ]
    with linux(cloud_kernel, "virtio_console", console="virtio", ports=ports) as shell:
        machine = shell.machine
        names = shell.run(
            "cd /sys/class/virtio-ports; for p in *; do echo $p $(cat $p/name 2>/dev/null); done"
        )
        found = {
            words[1]: f"/dev/{words[0]}" for words in map(str.split, names.splitlines()) if len(words) > 1
        }
        assert set(found) == {port.name for port in ports}

        # A subshell's child: busybox's shell has none at its prompt (tests/boot/shell.py).
        shell.run("(setsid sh -c 'exec sh </dev/hvc0 >/dev/hvc0 2>&1' &)")
        machine.resize_terminal(132, 43)
        machine.console.send("stty size; echo on $(tty)\n")
        said = machine.console.expect(r"on /dev/hvc0", TIMEOUT)
        assert b"43 132" in said
        machine.resize_terminal(80, 25)
        machine.console.send("sleep 1; stty size\n")
        machine.console.expect(r"25 80", TIMEOUT)

        agent = machine.ports["org.pyvmm.agent"]
        assert isinstance(agent, SerialPort)
        assert isinstance(agent.uart, ConsolePort)
        assert not agent.uart.guest_open
        agent.send("to the guest\n")
        assert shell.run(f"head -n 1 {found['org.pyvmm.agent']}") == "to the guest"
        shell.run(f"((echo hello; cat) <>{found['org.pyvmm.agent']} >&0 &)")
        agent.expect(r"hello\n", TIMEOUT)
        assert agent.uart.guest_open
        agent.send("echoed\n")
        agent.expect("echoed\n", TIMEOUT)

        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            shell.run("sleep 1")
            client.sendall(b"by socket\n")
            assert shell.run(f"head -n 1 {found['org.pyvmm.socket']}") == "by socket"
            shell.run(f"(seq 1 100000 > {found['org.pyvmm.socket']} &)")
            got = bytearray()
            client.settimeout(0.01)
            while not got.endswith(b"\n100000\n"):
                machine.run(timeout=0.02)
                try:
                    got += client.recv(1 << 20)
                except TimeoutError:
                    continue
            assert got == b"".join(b"%d\n" % number for number in range(1, 100001))
        shell.run(f"echo to the file > {found['org.pyvmm.log']}; sleep 1")
        assert log.read_text() == "to the file\n"
        record_exercised(engine=machine.engine_name, guest="Debian cloud kernel, virtio-console")


def host_memory(machine: Machine) -> int:
    """Bytes of the host's memory that the guest's RAM takes."""
    return os.fstat(lib.guest_memory_fd(machine.board.pointer.memory)).st_blocks * 512


def test_balloon(cloud_kernel: Path, record_exercised: RecordExercised) -> None:
    """Memory that the guest filled and freed comes back by reporting, more by the balloon; and it all works again."""
    with linux(cloud_kernel, "virtio_balloon", balloon=BalloonConfig(stats_interval=0.5)) as shell:
        machine, balloon = shell.machine, shell.machine.balloon
        assert "PAGE_REPORTING" in balloon.driver_features
        shell.run("mount -t tmpfs none /tmp; dd if=/dev/zero of=/tmp/x bs=1M count=100 2>/dev/null")
        full = host_memory(machine)
        assert full > 100 << 20
        shell.run("rm /tmp/x")
        machine.wait_for(lambda: host_memory(machine) < full - (80 << 20), TIMEOUT)
        assert host_memory(machine) < full - (80 << 20)
        assert balloon.given_back[1] >= 80 << 20

        assert machine.wait_for(lambda: balloon.stats.get("count", 0) >= 3, TIMEOUT)
        assert 200 << 20 < balloon.stats["total_memory"] < 256 << 20
        free = balloon.stats["free_memory"]
        balloon.target = 128 << 20
        assert machine.wait_for(lambda: balloon.actual == 128 << 20, TIMEOUT)
        count = balloon.stats["count"]
        assert machine.wait_for(lambda: balloon.stats["count"] > count + 1, TIMEOUT)
        assert balloon.stats["free_memory"] < free - (100 << 20)
        assert host_memory(machine) < 128 << 20
        balloon.target = 256 << 20
        assert machine.wait_for(lambda: balloon.actual == 256 << 20, TIMEOUT)
        shell.run("dd if=/dev/urandom of=/tmp/x bs=1M count=50 2>/dev/null; cp /tmp/x /tmp/y")
        assert shell.run("cmp /tmp/x /tmp/y && echo same") == "same"
        record_exercised(engine=machine.engine_name, guest="Debian cloud kernel, virtio-balloon")


def test_input(cloud_kernel: Path, record_exercised: RecordExercised) -> None:
    """Linux's evdev has what was typed and pointed, and lights a LED."""
    modules = ("virtio_input", "evdev")
    with linux(cloud_kernel, *modules, inputs=["keyboard", "mouse", "tablet"]) as shell:
        machine = shell.machine
        listed = shell.run("cd /sys/class/input; for e in event*; do echo $e $(cat $e/device/name); done")
        events = {name: event for event, _, name in (line.partition(" ") for line in listed.splitlines())}
        for number, kind in enumerate(("keyboard", "mouse", "tablet"), 3):  # open before anything is typed
            device = events[f"pyvmm {kind}"]
            shell.run(f"exec {number}</dev/input/{device}; (cat <&{number} > /tmp/{kind} &)")

        def seen(kind: str, count: int) -> list[tuple[int, int, int]]:
            """Type, code and value of the events but for what ends a group, once there are as many."""
            found: list[tuple[int, int, int]] = []
            end = time.monotonic() + TIMEOUT
            while len(found) < count and time.monotonic() < end:
                text = shell.run(f'sleep 0.2; hexdump -v -e \'24/1 "%02x" "\\n"\' /tmp/{kind}')
                lines = [line for line in text.splitlines() if len(line) == 48]
                rows = [struct.unpack("<16xHHi", bytes.fromhex(line)) for line in lines]  # 16 bytes of time
                found = [(row[0], row[1], row[2]) for row in rows if row[0]]
            return found

        machine.keyboard.type("aB")
        keys = [(code, value) for kind, code, value in seen("keyboard", 6) if kind == 1]
        assert keys == [(30, 1), (30, 0), (42, 1), (48, 1), (48, 0), (42, 0)]
        machine.mouse.move(5, -3, 1)
        machine.mouse.down("right")
        assert seen("mouse", 4) == [(2, 0, 5), (2, 1, -3), (2, 8, -1), (1, 0x111, 1)]
        tablet = machine.devices["virtio_tablet"]
        assert isinstance(tablet, VirtioInput)
        tablet.point(0.5, 1.0, 0, 1)
        assert seen("tablet", 3) == [(3, 0, 16384), (3, 1, 32767), (1, 0x110, 1)]

        keyboard = machine.devices["virtio_keyboard"]
        assert isinstance(keyboard, VirtioInput)
        caps = "".join(f"\\{byte:03o}" for byte in bytes(16) + struct.pack("<HHi", 17, 1, 1))
        shell.run(f"printf '{caps}' > /dev/input/{events['pyvmm keyboard']}")
        assert machine.wait_for(lambda: keyboard.leds == 2, TIMEOUT)
        record_exercised(engine=machine.engine_name, guest="Debian cloud kernel, virtio-input")
