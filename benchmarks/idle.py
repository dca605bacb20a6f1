"""Host CPU of an idle Linux guest, under pyvmm and under QEMU's TCG.

Run by ``./dev bench idle``. Both get the same files, kernel command line and memory, as in boot.py. A guest is taken to
its marker, left alone until its start is over, and then watched: CPU seconds are those of the whole process between two
readings of ``/proc/PID/stat`` (proc(5): utime and stime, all threads, in ticks of 10 ms). Runs take turns, the figure
is the median, as noise goes both ways here. The ratio's goal is 1.0.

init  Debian's cloud kernel and a busybox initramfs, whose only process waits in a shell.
disk  The whole Debian disk at its login prompt.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from boot import APPEND
from commands import pyvmm, qemu
from common import BenchmarkError, ratio, run_until

from pyvmm.guests.cached import cached_debian_disk, cached_initramfs, cached_kernel
from pyvmm.guests.tools import GuestBuildError, require_tools

SETTLE = {"init": 8.0, "disk": 30.0}
"""Seconds from the marker until the guest does nothing more of its own: systemd's late units, Linux's deferred work."""


_CPUCLOCK_SCHED = 2


def cpu_seconds(pid: int) -> float:
    """Return the CPU seconds that a live process has used, its ended threads too, in steps of nanoseconds.

    By its CPU-time clock; the identifier is the one that clock_getcpuclockid(3) makes of a PID on Linux.
    """
    return time.clock_gettime(~pid << 3 | _CPUCLOCK_SCHED)


def watch_idle(argv: list[str], marker: bytes, settle: float, seconds: float) -> float:
    """Return the CPU seconds for each second of an idle guest."""
    used = 0.0

    def watch(pid: int) -> None:
        nonlocal used
        time.sleep(settle)
        before, started = cpu_seconds(pid), time.monotonic()
        time.sleep(seconds)
        used = (cpu_seconds(pid) - before) / (time.monotonic() - started)

    run_until(argv, marker, at_marker=watch, stop_at_marker=False)
    return used


def report(
    name: str,
    ours: Callable[[], list[str]],
    peer: Callable[[], list[str]],
    marker: bytes,
    seconds: float,
    runs: int,
) -> None:
    """Watch both in turns and print the ratio."""
    found: dict[str, list[float]] = {"pyvmm": [], "qemu": []}
    for index in range(runs):
        for program, command in (("pyvmm", ours), ("qemu", peer)):
            found[program].append(watch_idle(command(), marker, SETTLE[name], seconds))
        last = ", ".join(f"{program} {1e3 * values[-1]:.1f} ms/s" for program, values in found.items())
        print(f"  idle {name} run {index + 1} of {runs}: {last}", file=sys.stderr, flush=True)
    medians = (1e3 * statistics.median(found[program]) for program in ("pyvmm", "qemu"))
    ratio(
        f"idle-{name}-cpu", *medians, 1.0, unit="ms CPU per s", note=f"median of {runs}, {seconds:.0f} s each"
    )


def bench_init(engine: str, seconds: float, runs: int) -> None:
    """A kernel and a shell."""
    kernel, initrd = cached_kernel(), cached_initramfs()
    ours = pyvmm(engine, "--kernel", kernel, "--initrd", initrd, "--append", APPEND)
    peer = qemu("-kernel", kernel, "-initrd", initrd, "-append", APPEND)
    report("init", lambda: ours, lambda: peer, b"\nUP", seconds, runs)


def bench_disk(engine: str, seconds: float, runs: int) -> None:
    """The whole disk."""
    base = cached_debian_disk()
    with tempfile.TemporaryDirectory(prefix="pyvmm-bench-") as scratch:
        overlay = Path(scratch) / "overlay.qcow2"

        def fresh(argv: list[str]) -> list[str]:
            overlay.unlink(missing_ok=True)
            create = ["qemu-img", "create", "-q", "-f", "qcow2", "-b", str(base), "-F", "qcow2", str(overlay)]
            subprocess.run(create, check=True)
            return argv

        ours = pyvmm(engine, overlay)
        peer = qemu("-drive", f"file={overlay},if=virtio,format=qcow2")
        report("disk", lambda: fresh(ours), lambda: fresh(peer), b"login: ", seconds, runs)


def main() -> int:
    """Run what is asked for; a guest that cannot be made is said in one line and passed over."""
    parser = argparse.ArgumentParser(
        prog="idle.py", description="Host CPU of an idle guest, beside QEMU's TCG."
    )
    parser.add_argument("--runs", type=int, default=3, help="of each, in turns (default 3)")
    parser.add_argument("--seconds", type=float, default=25.0, help="watched in each run (default 25)")
    parser.add_argument("--only", choices=("init", "disk"), action="append", help="may be repeated")
    parser.add_argument("--engine", "--accel", default="translator", help="pyvmm's (default %(default)s)")
    options = parser.parse_args()
    if options.runs < 1 or options.seconds < 1:
        parser.error("--runs, --seconds: at least 1")
    failed = 0
    for name, part in {"init": bench_init, "disk": bench_disk}.items():
        if options.only and name not in options.only:
            continue
        try:
            require_tools(["qemu-system-x86_64", "qemu-img"])
            part(options.engine, options.seconds, options.runs)
        except (GuestBuildError, BenchmarkError) as error:
            print(f"idle.py: {name}: {error}", file=sys.stderr)
            failed += 1
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
