"""What recording every exit costs: a traced boot beside an untraced one, for pyvmm and for QEMU.

Run by ``./dev bench trace``. The guest is Debian's cloud kernel with a busybox initramfs, until its init prints UP; all
four ways get the same files, command line and memory, and take turns. pyvmm records by ``pyvmm trace`` (each exit
counted by site, the newest kept one by one), QEMU's TCG by its ``-trace`` events of device accesses
(``memory_region_ops_read`` and ``_write``, a line of text for each into a file): that is what it has for the question
which device a guest talks to. The figure is a slowdown, traced CPU seconds over untraced ones, of the same program.

trace-off   ``pyvmm run``, whose exits look whether somebody records, over ``qemu`` without ``-trace``.
trace-on    pyvmm's slowdown; the aim is 5 %.
trace-peer  pyvmm's slowdown over QEMU's.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from commands import pyvmm, qemu
from common import BenchmarkError, Usage, ratio, run_until

from pyvmm.guests.cached import cached_initramfs, cached_kernel
from pyvmm.guests.tools import GuestBuildError, require_tools

APPEND = "console=ttyS0"
MARKER = b"\nUP"
GOAL_OFF, GOAL_ON, GOAL_PEER = 1.2, 1.05, 1.0


def measure(ways: dict[str, list[str]], runs: int) -> dict[str, float]:
    """Least CPU seconds of each way; they take turns, to and fro."""
    taken: dict[str, list[Usage]] = {name: [] for name in ways}
    for number in range(runs):
        for name in list(ways)[:: -1 if number % 2 else 1]:
            taken[name].append(run_until(ways[name], MARKER))
    return {name: min(usage.cpu for usage in usages) for name, usages in taken.items()}


def bench(engine: str, runs: int) -> None:
    """Boot it four ways and print the ratios."""
    kernel, initrd = cached_kernel(), cached_initramfs()
    words = ("--kernel", kernel, "--initrd", initrd, "--append", APPEND)
    peer = qemu("-kernel", kernel, "-initrd", initrd, "-append", APPEND)
    untraced = pyvmm(engine, *words)
    with tempfile.TemporaryDirectory(prefix="pyvmm-bench-") as scratch:
        log = Path(scratch) / "qemu.log"
        events = [word for event in ("read", "write") for word in ("-trace", f"memory_region_ops_{event}")]
        cpu = measure(
            {
                "pyvmm": untraced,
                "traced": ["trace" if word == "run" else word for word in untraced],
                "qemu": peer,
                "qemu-traced": [*peer, *events, "-D", str(log)],
            },
            runs,
        )
        lines = log.read_bytes().count(b"\n") if log.exists() else 0
    ours, theirs = cpu["traced"] / cpu["pyvmm"], cpu["qemu-traced"] / cpu["qemu"]
    print(f"trace: QEMU's last log has {lines} lines; slowdown of pyvmm {ours:.3f}, of qemu {theirs:.3f}")
    note = f"minimum of {runs}"
    ratio("trace-off-cpu", cpu["pyvmm"], cpu["qemu"], GOAL_OFF, unit="s CPU", note=note)
    ratio("trace-on-cpu", cpu["traced"], cpu["pyvmm"], GOAL_ON, unit="s CPU", note=note, peer_name="untraced")
    ratio("trace-peer", ours, theirs, GOAL_PEER, unit="times untraced", note=note)


def main() -> int:
    """Run it; a guest that cannot be made is said in one line."""
    parser = argparse.ArgumentParser(prog="trace.py", description="What recording every exit costs.")
    parser.add_argument("--runs", type=int, default=5, help="of each, in turns (default 5)")
    parser.add_argument("--engine", default="translator", help="pyvmm's (default %(default)s)")
    options = parser.parse_args()
    if options.runs < 1:
        parser.error("--runs: at least 1")
    try:
        require_tools(["qemu-system-x86_64"])
        bench(options.engine, options.runs)
    except (BenchmarkError, GuestBuildError) as error:
        print(f"trace: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
