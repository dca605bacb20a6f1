"""benchmarks/common.py: what is measured, what is printed, and that a run which fails is not taken for a fast one."""

from __future__ import annotations

import sys

import pytest

from benchmarks.common import BenchmarkError, Comparison, Usage, compare, ratio, run_measured, run_until

# Burns CPU in a thread beside the main one, and touches 64 MiB.
WORK = """
import sys, threading, time
memory = bytearray(64 << 20)
memory[::4096] = b"x" * len(memory[::4096])
def burn():
    end = time.thread_time() + 0.2
    while time.thread_time() < end: pass
threads = [threading.Thread(target=burn) for _ in range(2)]
[t.start() for t in threads]; [t.join() for t in threads]
sys.stdout.write("mar"); sys.stdout.flush(); sys.stdout.write("ker"); sys.stdout.flush()
"""


def test_usage_has_all_threads_and_peak_memory() -> None:
    """CPU of every thread counts, and the peak of resident memory, whether a run ends or is killed at its marker."""
    ended = run_measured([sys.executable, "-c", WORK])
    killed = run_until(
        [sys.executable, "-c", WORK + "\nimport time; time.sleep(1000)"], b"marker", timeout=60
    )
    for usage in (ended, killed):
        assert usage.cpu >= 0.4
        assert usage.wall > 0
        assert usage.rss >= 64 << 10


def test_failed_runs_are_errors() -> None:
    """A wrong exit code, an end before the marker and silence are told apart, with the last words."""
    with pytest.raises(BenchmarkError, match="ended with 3: it broke"):
        run_measured([sys.executable, "-c", "import sys; sys.exit(print('it broke') or 3)"])
    with pytest.raises(BenchmarkError, match="ended with 4: it broke"):
        run_until(
            [sys.executable, "-c", "import sys; print('it broke', file=sys.stderr); sys.exit(4)"], b"marker"
        )
    with pytest.raises(BenchmarkError, match="gave no b'marker' in 1 s"):
        run_until([sys.executable, "-c", "import time; time.sleep(1000)"], b"marker", timeout=1)


def test_runs_take_turns() -> None:
    """Ours and the peer alternate; CPU is the minimum and memory the median."""
    order: list[str] = []
    ours = iter([Usage(3.0, 3.5, 1024), Usage(2.0, 2.5, 4096), Usage(4.0, 4.5, 2048)])

    def one(name: str, usage: Usage) -> Usage:
        order.append(name)
        return usage

    taken = compare(lambda: one("ours", next(ours)), lambda: one("peer", Usage(1.0, 1.5, 1024)), 3)
    assert order == ["ours", "peer"] * 3
    assert taken.cpu() == (2.0, 1.0)
    assert taken.wall() == (2.5, 1.5)
    assert taken.rss() == (2.0, 1.0)
    assert isinstance(taken, Comparison)


def test_ratio_line(capsys: pytest.CaptureFixture[str]) -> None:
    """A line for people, then the ratio with three decimals and its goal."""
    assert ratio("boot-kernel-cpu", 6.0, 4.0, 1.2) == 1.5
    first, second = capsys.readouterr().out.splitlines()
    assert "6.000 s" in first
    assert "4.000 s" in first
    assert second == "ratio boot-kernel-cpu 1.500 1.2"
