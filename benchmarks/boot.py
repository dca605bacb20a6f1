"""Boot a kernel and a Debian disk under pyvmm and under QEMU's TCG: CPU seconds, peak memory, start-up time.

Run by ``./dev bench boot``. Both get the same files, kernel command line and memory, one vCPU, and QEMU no device that
pyvmm's PC lacks (no network card, no VGA), so that the guests do the same work. The guests are made once and kept in
``$PYVMM_GUEST_CACHE`` (pyvmm.guests.cached).

microvm The same kernel and initramfs on both programs' ``microvm``.
kernel  Debian's cloud kernel and a busybox initramfs, until its init prints UP.
disk    The whole Debian disk, on a new overlay each time: firmware, GRUB with its menu's wait, Linux, systemd, login.
start   From exec to the guest's first instruction, as in start.py, beside ``-M pc`` alone.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from commands import pyvmm, qemu
from common import BenchmarkError, Comparison, Usage, compare, ratio, run_until
from start import bench_start

from pyvmm.guests.cached import cached_debian_disk, cached_initramfs, cached_kernel
from pyvmm.guests.tools import GuestBuildError, require_tools

APPEND = "console=ttyS0"
MICROVM_APPEND = "console=ttyS0 tsc_early_khz=1000000"
"""A TSC of 1 GHz, as both say: on QEMU's microvm the kernel has no other clock to find that out by, and hangs."""


def report(name: str, runs: Comparison, cpu_goal: float) -> None:
    """Print the ratios of CPU seconds and of peak memory."""
    ours, peer = runs.wall()
    count = len(runs.ours)
    print(f"{name}: wall pyvmm {ours:.3f} s, qemu {peer:.3f} s (minimum of {count})")
    ratio(f"{name}-cpu", *runs.cpu(), cpu_goal, unit="s CPU", note=f"minimum of {count}")
    ratio(f"{name}-rss", *runs.rss(), 1.0, unit="MiB", note=f"peak resident, median of {count}")


def bench_kernel(engine: str, runs: int) -> None:
    """Kernel and initramfs to the init's marker."""
    kernel, initrd = cached_kernel(), cached_initramfs()
    ours = pyvmm(engine, "--kernel", kernel, "--initrd", initrd, "--append", APPEND)
    peer = qemu("-kernel", kernel, "-initrd", initrd, "-append", APPEND)
    marker = b"\nUP"
    taken = compare(lambda: run_until(ours, marker), lambda: run_until(peer, marker), runs, "kernel")
    report("boot-kernel", taken, 1.2)


def bench_microvm(engine: str, runs: int) -> None:
    """The same on a machine without PCI."""
    kernel, initrd = cached_kernel(), cached_initramfs()
    words = ("--kernel", kernel, "--initrd", initrd, "--append", MICROVM_APPEND)
    ours = pyvmm(engine, "--machine", "microvm", *words)
    peer = qemu("-kernel", kernel, "-initrd", initrd, "-append", MICROVM_APPEND, machine="microvm,acpi=on")
    marker = b"\nUP"
    taken = compare(lambda: run_until(ours, marker), lambda: run_until(peer, marker), runs, "microvm")
    report("boot-microvm", taken, 1.0)


def bench_disk(engine: str, runs: int) -> None:
    """The whole disk to its login prompt."""
    base = cached_debian_disk()
    with tempfile.TemporaryDirectory(prefix="pyvmm-bench-") as scratch:
        overlay = Path(scratch) / "overlay.qcow2"

        def fresh() -> None:
            overlay.unlink(missing_ok=True)
            create = ["qemu-img", "create", "-q", "-f", "qcow2", "-b", str(base), "-F", "qcow2", str(overlay)]
            subprocess.run(create, check=True)

        def boot(argv: list[str]) -> Usage:
            fresh()
            return run_until(argv, b"login: ")

        ours = pyvmm(engine, overlay)
        peer = qemu("-drive", f"file={overlay},if=virtio,format=qcow2")
        taken = compare(lambda: boot(ours), lambda: boot(peer), runs, "disk")
    report("boot-disk", taken, 1.2)


def bench_first_instruction(engine: str, runs: int) -> None:
    """From exec to the first guest instruction, beside the same PC: the first part of ``./dev bench start``."""
    bench_start(engine, runs, ("pc",))


def main() -> int:
    """Run what is asked for; a guest that cannot be made is said in one line and passed over."""
    parser = argparse.ArgumentParser(prog="boot.py", description="Boot benchmarks against QEMU's TCG.")
    parser.add_argument("--runs", type=int, default=3, help="of each, in turns (default 3)")
    parser.add_argument(
        "--only", choices=("kernel", "microvm", "disk", "start"), action="append", help="may be repeated"
    )
    parser.add_argument(
        "--engine", "--accel", default="translator", help="pyvmm's engine (default %(default)s)"
    )
    options = parser.parse_args()
    if options.runs < 1:
        parser.error("--runs: at least 1")
    failed = 0
    parts = {
        "start": bench_first_instruction,
        "kernel": bench_kernel,
        "microvm": bench_microvm,
        "disk": bench_disk,
    }
    for name, part in parts.items():
        if options.only and name not in options.only:
            continue
        try:
            require_tools(["qemu-system-x86_64", "qemu-img"])
            part(options.engine, options.runs)
        except (GuestBuildError, BenchmarkError) as error:
            print(f"boot.py: {name}: {error}", file=sys.stderr)
            failed += 1
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
