"""The lab's kernel in ring 0 of our translator beside QEMU's TCG: CPU time of each operation, from the same ELF file.

Run by ``./dev bench lab``. Both start csrc/guest/lab's kernel by PVH, with one workload, and a run ends when its last
line is read. What is compared is the CPU time beyond a run of one operation, least of the runs, which take turns: so
start-up and kernel start are on neither side. The operations are Adams and Agesen's (2006) and a kernel's daily ones;
the disk is IDE by PIO on both. Then, with ``--techniques``, what each technique costs on our engine, without a peer.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from commands import pyvmm, qemu
from common import BenchmarkError, Usage, least, ratio, run_until, take_turns

from pyvmm.guests.tools import GuestBuildError, require_tools
from pyvmm.lab.boot import LabKernel
from pyvmm.lab.runner import WORKLOADS, compare, write_disk

END = b"lab: end 0"
COUNTS = {
    "syscall": 1_500_000,
    "in": 10_000_000,
    "cr8wr": 6_000_000,
    "callret": 30_000_000,
    "pgfault": 200_000,
    "divzero": 300_000,
    "ptemod": 4_000_000,
    "switch": 100_000,
    "fork": 10_000,
    "disk": 2_000,
    "loop": 300_000_000,
}
"""Each for some tenths of a second of ours, or more. The timer is left out: it lasts as long as its ticks."""


def _measure(argv: list[str]) -> Usage:
    return run_until(argv, END, timeout=300)


def bench(workload: str, count: int, runs: int, kernel: str, disk: Path) -> None:
    """Measure one workload; prints its figures and the ratio."""
    commands = {}
    for operations in (1, count):
        line = f"workload={workload} count={operations}"
        ours = ["--kernel", kernel, "--append", line]
        peer = ["-kernel", kernel, "-append", line]
        if workload == "disk":
            ours += ["--disk", f"path={disk},if=ide,format=raw,readonly"]
            peer += ["-drive", f"file={disk},if=ide,format=raw,snapshot=on"]
        commands[f"pyvmm {operations}"] = pyvmm("translator", *ours)
        commands[f"qemu {operations}"] = qemu(*peer)
    taken = take_turns(
        {name: lambda argv=argv: _measure(argv) for name, argv in commands.items()}, runs, workload
    )
    beyond = {}
    for who in ("pyvmm", "qemu"):
        start, whole = least(taken[f"{who} 1"])[0], least(taken[f"{who} {count}"])[0]
        beyond[who] = max(whole - start, 1e-9) / (count - 1) * 1e9
    ratio(
        f"lab-{workload}",
        beyond["pyvmm"],
        beyond["qemu"],
        1.0,
        unit="ns",
        note=f"CPU of {WORKLOADS[workload]}",
    )


def main() -> int:
    """Measure the workloads that are asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--workload", action="append", choices=tuple(COUNTS))
    parser.add_argument(
        "--techniques", action="store_true", help="the techniques' costs, instead of the ratios"
    )
    arguments = parser.parse_args()
    if arguments.techniques:
        print(
            compare(
                workloads=arguments.workload or (),
                count=10_000,
                progress=lambda line: print(line, file=sys.stderr),
            )
        )
        return 0
    try:
        require_tools(["qemu-system-x86_64"])
        with tempfile.TemporaryDirectory(prefix="pyvmm-bench-") as scratch:
            disk = Path(scratch) / "disk.raw"
            write_disk(str(disk))
            for workload in arguments.workload or COUNTS:
                bench(workload, COUNTS[workload], arguments.runs, LabKernel.open().path, disk)
    except (BenchmarkError, GuestBuildError) as error:
        print(f"bench lab: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
