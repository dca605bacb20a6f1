"""Bulk TCP between a guest and its host by user networking and virtio-net, beside QEMU's TCG.

The same kernel, initramfs and program (net_guest.c) on both, in turns. A transfer's figure is the CPU time of the whole
process (all threads) from the moment that the guest's connection is there until the last byte has arrived, per MiB; the
host's end is in the benchmark's own process and not counted. Each transfer is taken several times in one run of the
machine, and the least one counts. A benchmark asserts nothing. Usage: ``./dev bench net [--mib 256]``.
"""

from __future__ import annotations

import argparse
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from commands import pyvmm, qemu
from common import BenchmarkError, ratio
from idle import cpu_seconds

from pyvmm.guests.cached import cached_kernel
from pyvmm.guests.initramfs import build_initramfs
from pyvmm.guests.modules import load_order, module_path, with_modules
from pyvmm.guests.tools import GuestBuildError, require_tools

HERE = Path(__file__).resolve().parent
GOAL = 1.0
MIB = 1 << 20
DIRECTIONS = {"to the guest": "r", "from the guest": "s"}
INIT = """\
#!/bin/sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t devtmpfs devtmpfs /dev 2>/dev/null
echo UP
ip link set lo up
ip addr add 10.0.2.15/24 dev eth0
ip link set eth0 up
sleep 1
/net 10.0.2.2 $(sed 's/.*port=//; s/ .*//' /proc/cmdline)
poweroff -f
"""


class Run:
    """A machine that has booted and waits for orders on a port of ours."""

    def __init__(self, argv: Sequence[str], server: socket.socket) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `close`
        self._server = server
        self.process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=self._errors, stderr=subprocess.STDOUT
        )

    def _connection(self) -> socket.socket:
        try:
            connection, _ = self._server.accept()
        except TimeoutError:
            self._errors.seek(0)
            raise BenchmarkError(f"no connection from the guest: {self._errors.read()[-300:]!r}") from None
        connection.settimeout(300)
        return connection

    def transfer(self, direction: str, size: int) -> tuple[float, float]:
        """CPU seconds of the machine, and wall seconds, for one transfer of `size` bytes."""
        with self._connection() as connection:
            data = memoryview(bytes(MIB))
            cpu, started = cpu_seconds(self.process.pid), time.monotonic()
            connection.sendall(f"{direction}{size}".encode().ljust(16, b"\0"))
            left = size
            if direction == "r":
                while left:
                    left -= connection.send(data[: min(left, MIB)])
                left = 1
            while left:
                got = len(connection.recv(MIB))
                if not got:
                    raise BenchmarkError("the guest closed the connection amid a transfer")
                left -= got
            return cpu_seconds(self.process.pid) - cpu, time.monotonic() - started

    def close(self) -> None:
        """Tell the guest to end, and wait for it."""
        try:
            with self._connection() as connection:
                connection.sendall(b"q".ljust(16, b"\0"))
            self.process.wait(30)
        except (BenchmarkError, OSError, subprocess.TimeoutExpired):
            pass
        self.process.kill()
        self.process.wait()
        self._errors.close()


def build_program(folder: Path) -> bytes:
    """The guest's program, static."""
    output = folder / "net"
    subprocess.run(["gcc", "-O2", "-static", HERE / "net_guest.c", "-o", output], check=True)
    return output.read_bytes()


def initramfs(folder: Path) -> Path:
    """One with the program and the drivers."""
    modules = load_order(cached_kernel("cloud"), ("virtio_pci", "virtio_net"))
    files = {module_path(name): data for name, data in modules.items()} | {"/net": build_program(folder)}
    return build_initramfs(folder / "initramfs.gz", with_modules(INIT, modules), files=files)


def command_lines(kernel: Path, initrd: Path, port: int) -> dict[str, list[str]]:
    """How each machine is started."""
    append = f"console=ttyS0 quiet mitigations=off port={port}"  # the same work on both: QEMU's processor has others
    ours = pyvmm("translator", "--kernel", kernel, "--initrd", initrd, "--append", append, net="user")
    peer = qemu("-netdev", "user,id=n0", "-device", "virtio-net-pci,netdev=n0,romfile=")
    peer = [word for index, word in enumerate(peer) if "-nic" not in peer[max(0, index - 1) : index + 1]]
    return {"ours": ours, "peer": [*peer, "-kernel", str(kernel), "-initrd", str(initrd), "-append", append]}


def measure(make: Callable[[int], dict[str, list[str]]], size: int, runs: int, only: str) -> None:
    """Take turns, and print the least of each."""
    best: dict[tuple[str, str], tuple[float, float]] = {}
    for index in range(runs):
        for name in ("ours", "peer") if not only else (only,):
            with socket.create_server(("127.0.0.1", 0)) as server:
                server.settimeout(120)
                run = Run(make(server.getsockname()[1])[name], server)
                try:
                    for what, direction in DIRECTIONS.items():
                        for _ in range(3):
                            cpu, wall = run.transfer(direction, size)
                            mib = size / MIB
                            key = name, what
                            best[key] = min(best.get(key, (float("inf"), 0.0)), (cpu / mib, wall / mib))
                            print(
                                f"  run {index + 1}, {name}, {what}: {mib / cpu:.1f} MiB for a CPU second,"
                                f" {mib / wall:.1f} MiB/s",
                                file=sys.stderr,
                                flush=True,
                            )
                finally:
                    run.close()
    for what in DIRECTIONS if not only else ():
        ours, peer = best["ours", what], best["peer", what]
        note = f"{1 / ours[1]:.0f} and {1 / peer[1]:.0f} MiB/s"
        ratio(
            f"net.cpu.{what.replace(' ', '_')}",
            ours[0] * 1000,
            peer[0] * 1000,
            GOAL,
            unit="ms/MiB",
            note=note,
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it."""
    parser = argparse.ArgumentParser(prog="net.py", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--mib", type=int, default=256, help="MiB of each transfer (default 256)")
    parser.add_argument("--runs", type=int, default=2, help="starts of each machine (default 2)")
    parser.add_argument("--only", choices=("ours", "peer"), default="", help="one of them, without a ratio")
    options = parser.parse_args(arguments)
    try:
        require_tools(["qemu-system-x86_64", "gcc"])
        kernel = cached_kernel("cloud")
        with tempfile.TemporaryDirectory() as folder:
            initrd = initramfs(Path(folder))
            make = partial(command_lines, kernel, initrd)
            measure(make, options.mib * MIB, options.runs, options.only)
    except (GuestBuildError, BenchmarkError) as error:
        print(f"net.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
