"""Host CPU of a virtio disk's requests, under pyvmm's translator and under QEMU's TCG.

Run by ``./dev bench block``. The same kernel, initramfs, image contents, cache mode and job: a small static program
(block_guest.c) that keeps DEPTH requests of O_DIRECT in flight until COUNT are done. Three machines run at once and are
idle but for the one whose turn it is: pyvmm, QEMU with its block layer on the main thread, and QEMU with an iothread.
Jobs go round in turns (pyvmm, QEMU, QEMU, pyvmm, ...), so a slow minute of the host hits all of them.

The figure is the CPU seconds of the whole process, guest code and all, between two readings of its CPU-time clock:
before the job, when the guest waits for a line on its serial port, and when it has said that it is done. What is
printed is microseconds for each request, the median of the runs: how many requests guest and disk do in one go depends
on how they meet, and the least of a few runs would be the luckiest meeting. At least 1.2 times QEMU's requests for each
CPU second is a ratio of at most 0.83.
"""

from __future__ import annotations

import argparse
import os
import selectors
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from commands import pyvmm, qemu
from common import BenchmarkError, ratio
from idle import cpu_seconds

from pyvmm.guests.cached import cached_kernel
from pyvmm.guests.initramfs import BUSYBOX_INIT, build_initramfs
from pyvmm.guests.modules import load_order, module_path, with_modules
from pyvmm.guests.tools import GuestBuildError, require_tools

GOAL = 0.83
APPEND = "console=ttyS0 quiet mitigations=off"
DISK_MIB = 256
FORMATS = ("raw", "qcow2")
PROGRAM = "/bin/block_guest"
INIT = BUSYBOX_INIT.replace(
    "setsid cttyhack sh\n", "stty -echo\necho GO\nwhile read -r line; do $line; done\n"
)
HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Job:
    """One pattern: `bytes` in each request, `depth` of them at once, `count` in all."""

    way: str
    order: str
    bytes: int
    depth: int
    count: int

    @property
    def name(self) -> str:
        """Of the ratio."""
        return f"{self.order}{self.way}-{self.bytes >> 10}k-q{self.depth}"

    def words(self, device: str) -> str:
        """The guest's command."""
        return f"{PROGRAM} {device} {self.way} {self.order} {self.bytes} {self.depth} {self.count}"


JOBS = tuple(
    Job(way, order, size, depth, count)
    for order, size in (("rand", 4096), ("seq", 65536))
    for way in ("read", "write")
    for depth, count in ((1, 6000), (16, 12000))
)


class Guest:
    """A running guest behind its serial line."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._seen = bytearray()

    def expect(self, marker: bytes, timeout: float = 300.0) -> None:
        """Read up to a marker.

        Raises
        ------
        BenchmarkError
            It failed, or the marker did not come.
        """
        assert self._process.stdout is not None
        until = time.monotonic() + timeout
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while marker not in self._seen and b"FAILED" not in self._seen:
                if not selector.select(until - time.monotonic()):
                    break
                data = self._process.stdout.read(65536)
                if not data:
                    break
                self._seen += data
        at = self._seen.find(marker)
        if at < 0:
            last = self._seen.decode(errors="replace").splitlines()[-1:]
            raise BenchmarkError(f"the guest gave no {marker!r}: {last}")
        del self._seen[: at + len(marker)]

    def send(self, line: str) -> None:
        """Type a line."""
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")

    def run(self, job: Job, device: str) -> float:
        """Microseconds of CPU for each request."""
        self.send(job.words(device))
        self.expect(b"READY")
        time.sleep(0.05)
        before = cpu_seconds(self._process.pid)
        self.send("")
        self.expect(b"DONE")
        return (cpu_seconds(self._process.pid) - before) / job.count * 1e6


@contextmanager
def started(argv: list[str], errors: Path) -> Iterator[Guest]:
    """A guest at its prompt."""
    with (
        errors.open("wb") as log,
        subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, bufsize=0
        ) as process,
    ):
        try:
            guest = Guest(process)
            try:
                guest.expect(b"\nGO")
            except BenchmarkError as error:
                raise BenchmarkError(f"{argv[0]}: {error}; {errors.read_text().strip()[-300:]}") from None
            yield guest
        finally:
            process.kill()


def make_initramfs(folder: Path) -> Path:
    """An initramfs with the driver and the program."""
    program = folder / "block_guest"
    subprocess.run(["gcc", "-O2", "-static", "-o", program, HERE / "block_guest.c"], check=True)
    modules = load_order(cached_kernel(), ("virtio_pci", "virtio_blk"))
    files = {module_path(name): data for name, data in modules.items()} | {PROGRAM: program.read_bytes()}
    return build_initramfs(folder / "initramfs.gz", with_modules(INIT, modules), files=files)


def make_disks(folder: Path, name: str) -> list[Path]:
    """A raw and a qcow2 image of the same contents, all of it written."""
    raw, qcow2 = folder / f"{name}.raw", folder / f"{name}.qcow2"
    block = os.urandom(1 << 20)
    raw.write_bytes(block * DISK_MIB)
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(raw), str(qcow2)], check=True)
    return [raw, qcow2]


def command_lines(folder: Path, initrd: Path, engine: str, cache: str) -> dict[str, list[str]]:
    """How each machine is started."""
    boot = ["-kernel", cached_kernel(), "-initrd", initrd, "-append", APPEND]
    lines: dict[str, list[str]] = {}
    disks = make_disks(folder, "pyvmm")
    words = [
        word
        for disk, kind in zip(disks, FORMATS, strict=True)
        for word in ("--disk", f"path={disk},if=virtio,format={kind},cache={cache}")
    ]
    ours = ["--kernel", cached_kernel(), "--initrd", initrd, "--append", APPEND]
    lines["pyvmm"] = pyvmm(engine, *ours, *words)
    for name, device in (("qemu", ""), ("qemu-iothread", ",iothread=io0")):
        words = ["-object", "iothread,id=io0"] if device else []
        for index, (disk, kind) in enumerate(zip(make_disks(folder, name), FORMATS, strict=True)):
            drive = f"file={disk},format={kind},if=none,id=d{index},cache={cache},aio=threads,discard=unmap"
            words += ["-drive", drive, "-device", f"virtio-blk-pci,drive=d{index}{device}"]
        lines[name] = qemu(*boot, *words)
    return lines


def bench(options: argparse.Namespace) -> None:
    """All jobs on all machines, in turns."""
    jobs = [job for job in JOBS if not options.only or any(part in job.name for part in options.only)]
    with ExitStack() as stack:
        folder = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="pyvmm-bench-", dir=options.folder))
        )
        if shutil.disk_usage(folder).free < 8 * DISK_MIB << 20:
            raise BenchmarkError(f"{folder}: not 2 GiB free: use --folder")
        lines = command_lines(folder, make_initramfs(folder), options.engine, options.cache)
        lines = {name: line for name, line in lines.items() if name in (options.machine or lines)}
        guests = {
            name: stack.enter_context(started(line, folder / f"{name}.log")) for name, line in lines.items()
        }
        for kind in options.format or FORMATS:
            device = f"/dev/vd{'ab'[FORMATS.index(kind)]}"
            for job in jobs:
                found: dict[str, list[float]] = {name: [] for name in guests}
                for _ in range(options.runs):
                    for name, guest in guests.items():
                        found[name].append(guest.run(job, device))
                report(f"block-{kind}-{job.name}", found)


def report(name: str, found: dict[str, list[float]]) -> None:
    """Print the ratios against each peer."""
    middle = {machine: statistics.median(values) for machine, values in found.items()}
    if "pyvmm" not in middle or len(middle) == 1:
        print(
            f"{name}: {', '.join(f'{machine} {value:.1f} us' for machine, value in middle.items())}",
            flush=True,
        )
        return
    ours = middle.pop("pyvmm")
    for machine, value in middle.items():
        suffix = "" if machine == "qemu" else machine.removeprefix("qemu")
        ratio(f"{name}{suffix}", ours, value, GOAL, unit="us CPU a request", peer_name=machine)


def main() -> int:
    """Run what is asked for; a guest that cannot be made is said in one line."""
    parser = argparse.ArgumentParser(
        prog="block.py", description="CPU of a virtio disk's requests, beside QEMU."
    )
    parser.add_argument("--runs", type=int, default=5, help="of each, in turns (default 5)")
    parser.add_argument("--engine", default="translator", help="pyvmm's (default %(default)s)")
    parser.add_argument("--cache", default="writeback", help="of all (default %(default)s)")
    parser.add_argument("--folder", help="for the images (default: the temporary folder)")
    parser.add_argument(
        "--only", action="append", help="part of a job's name, such as randread; may be repeated"
    )
    parser.add_argument("--format", choices=FORMATS, action="append", help="may be repeated")
    parser.add_argument(
        "--machine", choices=("pyvmm", "qemu", "qemu-iothread"), action="append", help="may be repeated"
    )
    options = parser.parse_args()
    try:
        require_tools(["qemu-system-x86_64", "qemu-img", "gcc"])
        bench(options)
    except (GuestBuildError, BenchmarkError) as error:
        print(f"block.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
