"""What every benchmark shares: CPU time, wall time and peak memory of a process, and ratios against a peer.

Figures are those of one process and the children it waited for: CPU seconds (user and system, all threads) from
wait4(2), wall seconds from just before the process is started, peak resident memory from ``VmHWM`` of proc(5). Ours and
the peer's runs take turns (A B A B ...), so that a slow minute of the host hits both; CPU and wall seconds are the
minimum of the runs, memory is the median.

A benchmark prints a line for people and then ``ratio NAME VALUE GOAL``: ours divided by the peer's; at most GOAL is the
aim. It asserts nothing. Left out: processes that a run starts and does not wait for.
"""

from __future__ import annotations

import os
import selectors
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


class BenchmarkError(Exception):
    """A run did not do what is measured; the message is one line and has the last words of the process."""


@dataclass(frozen=True)
class Usage:
    """What one run took: `cpu` and `wall` in seconds, `rss` the peak resident memory in KiB."""

    cpu: float
    wall: float
    rss: int


def peak_rss(pid: int) -> int:
    """Return VmHWM of a live process in KiB, 0 when the process has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")), 0)


def _reap(process: subprocess.Popen[bytes]) -> tuple[int, float, int]:
    """Wait for the process; return exit code, CPU seconds and ru_maxrss in KiB.

    ru_maxrss is never less than what this process had when it started the other (getrusage(2) counts from before
    exec), so VmHWM is preferred where the process is still alive.
    """
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, usage.ru_utime + usage.ru_stime, usage.ru_maxrss


def _tail(data: bytes) -> str:
    lines = [line.strip() for line in data.decode(errors="replace").splitlines()]
    return next((line for line in reversed(lines) if line), "no output")


def run_measured(argv: Sequence[str | os.PathLike[str]], *, exit_code: int | None = 0) -> Usage:
    """Run a process to its end.

    Raises
    ------
    BenchmarkError
        Another exit code than `exit_code` (None allows any).
    """
    with tempfile.TemporaryFile() as output:
        started = time.monotonic()
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
        code, cpu, rss = _reap(process)
        wall = time.monotonic() - started
        if exit_code is not None and code != exit_code:
            output.seek(0)
            raise BenchmarkError(f"{os.fspath(argv[0])} ended with {code}: {_tail(output.read())}")
    return Usage(cpu, wall, rss)


def run_until(
    argv: Sequence[str | os.PathLike[str]],
    marker: bytes,
    *,
    timeout: float = 600.0,
    at_marker: Callable[[int], object] | None = None,
    stop_at_marker: bool = True,
) -> Usage:
    """Run a process until `marker` appears on its standard output, then kill it; the usage is that up to then.

    Standard input is a pipe that stays open and empty.

    Parameters
    ----------
    at_marker
        Called with the process's id when the marker came; the process is stopped then, and lives.
    stop_at_marker
        False: it runs on while `at_marker` does. What it prints is not read then: no more than a pipe holds.

    Raises
    ------
    BenchmarkError
        The process ended, or `timeout` seconds passed, before the marker.
    """
    seen = bytearray()
    with tempfile.TemporaryFile() as errors:
        started = time.monotonic()
        process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, bufsize=0
        )
        assert process.stdin is not None
        assert process.stdout is not None
        found, wall = False, 0.0
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(process.stdout, selectors.EVENT_READ)
                while not found and selector.select(started + timeout - time.monotonic()):
                    data = process.stdout.read(65536)
                    if not data:
                        break
                    start = max(0, len(seen) - len(marker))
                    seen += data
                    found = marker in seen[start:]
                wall = time.monotonic() - started
            if found:
                if stop_at_marker:
                    os.kill(process.pid, signal.SIGSTOP)  # what it does from here on is not counted
                if at_marker is not None:
                    at_marker(process.pid)
        finally:
            hwm = peak_rss(process.pid)
            os.kill(process.pid, signal.SIGKILL)  # not reaped yet, so the id is still its own
            code, cpu, rss = _reap(process)
            process.stdin.close()
            process.stdout.close()
        if not found:
            errors.seek(0)
            why = (
                f"ended with {code}" if code != -signal.SIGKILL else f"gave no {marker!r} in {timeout:.0f} s"
            )
            command = " ".join(os.fspath(word) for word in argv[:4])
            raise BenchmarkError(f"{command}... {why}: {_tail(bytes(seen) + errors.read())}")
    return Usage(cpu, wall, hwm or rss)


@dataclass(frozen=True)
class Comparison:
    """The runs of ours and of the peer, taken in turns."""

    ours: tuple[Usage, ...]
    peer: tuple[Usage, ...]

    def cpu(self) -> tuple[float, float]:
        """Return the least CPU seconds of ours and of the peer's."""
        return min(run.cpu for run in self.ours), min(run.cpu for run in self.peer)

    def wall(self) -> tuple[float, float]:
        """Return the least wall seconds of ours and of the peer's."""
        return min(run.wall for run in self.ours), min(run.wall for run in self.peer)

    def rss(self) -> tuple[float, float]:
        """Return the median peak memory of ours and of the peer's, in MiB."""
        median = statistics.median
        return median(run.rss for run in self.ours) / 1024, median(run.rss for run in self.peer) / 1024


def compare(
    ours: Callable[[], Usage], peer: Callable[[], Usage], runs: int = 3, name: str = ""
) -> Comparison:
    """Run ours and the peer in turns, `runs` times each."""
    taken = take_turns({"ours": ours, "peer": peer}, runs, name)
    return Comparison(tuple(taken["ours"]), tuple(taken["peer"]))


def take_turns(
    candidates: Mapping[str, Callable[[], Usage]], runs: int = 3, name: str = ""
) -> dict[str, list[Usage]]:
    """Run every candidate in turns, `runs` times each."""
    taken: dict[str, list[Usage]] = {candidate: [] for candidate in candidates}
    for index in range(runs):
        for candidate, run in candidates.items():
            taken[candidate].append(run())
        last = [(candidate, usages[-1]) for candidate, usages in taken.items()]
        note = ", ".join(f"{candidate} {run.cpu:.3f} s CPU {run.wall:.3f} s wall" for candidate, run in last)
        print(f"  {name} run {index + 1} of {runs}: {note}", file=sys.stderr, flush=True)
    return taken


def least(usages: Sequence[Usage]) -> tuple[float, float]:
    """Return the least CPU seconds and the least wall seconds."""
    return min(run.cpu for run in usages), min(run.wall for run in usages)


def median_rss(usages: Sequence[Usage]) -> float:
    """Return the median peak memory in MiB."""
    return statistics.median(run.rss for run in usages) / 1024


def ratio(
    name: str,
    ours: float,
    peer: float,
    goal: float,
    *,
    unit: str = "s",
    note: str = "",
    peer_name: str = "qemu",
) -> float:
    """Print both figures, then ``ratio NAME VALUE GOAL``; return the value."""
    value = ours / peer if peer > 0 else float("inf")
    print(f"{name}: pyvmm {ours:.3f} {unit}, {peer_name} {peer:.3f} {unit}{f' ({note})' if note else ''}")
    print(f"ratio {name} {value:.3f} {goal}", flush=True)
    return value
