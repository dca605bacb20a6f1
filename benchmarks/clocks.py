"""Drift of each of a guest's clocks against the host's, idle and loaded, beside QEMU's TCG.

A small kernel (clocks_guest.c) counts PIT ticks and RTC updates by interrupts, and reads HPET, PM timer, TSC and
kvmclock, all at once whenever a byte is sent to it. The host's time of an answer is the middle between sending and
receiving, of the quickest of nine; so a row is good to about the printed uncertainty. "Busy guest" never halts; "busy
host" has as many spinning processes as processors, and a busy guest. QEMU's TCG has no kvmclock.

An interrupt that the host could not give in time is lost, as it is on a processor that is late: PIT and RTC rows count
those. A benchmark asserts nothing. Usage: ``./dev bench clocks [--seconds 60]``.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
PIT_HZ = 1_193_182 / 11932
"""Divisor of clocks_guest.c."""
RATES = {
    "PIT ticks": PIT_HZ,
    "RTC updates": 1.0,
    "HPET": 100e6,
    "ACPI PM timer": 3_579_545.0,
    "kvmclock": 1e9,
}
LINKER_SCRIPT = """
ENTRY(start)
SECTIONS { . = 0x100000; .all : { *(.multiboot) *(.text*) *(.rodata*) *(.data*) *(.bss*) } }
"""
LETTERS = {
    "p": "PIT ticks",
    "u": "RTC updates",
    "h": "HPET",
    "m": "ACPI PM timer",
    "t": "TSC",
    "k": "kvmclock",
}
PHASES = (("idle", "i", False), ("busy guest", "b", False), ("busy host", "b", True))


@dataclass(frozen=True)
class Sample:
    """Counts by clock, the host's time in seconds, and how far off that may be."""

    counts: dict[str, int]
    host: float
    uncertainty: float


class Guest:
    """A running guest behind a socket that is its COM1."""

    def __init__(self, line: socket.socket) -> None:
        self._line = line
        self._line.settimeout(60)

    def read_line(self) -> bytes:
        """One line, up to its end."""
        data = b""
        while not data.endswith(b"\n"):
            part = self._line.recv(1)
            if not part:
                raise RuntimeError(f"the guest ended after {data!r}")
            data += part
        return data

    def ask(self, byte: str = "r") -> Sample:
        """Send a byte and read the counts."""
        before = time.monotonic()
        self._line.sendall(byte.encode())
        text = self.read_line()
        after = time.monotonic()
        fields = [text[at : at + 17].decode() for at in range(0, 17 * len(LETTERS), 17)]
        counts = {LETTERS[field[0]]: int(field[1:], 16) for field in fields}
        return Sample(counts, (before + after) / 2, (after - before) / 2)

    def best(self) -> Sample:
        """The quickest answer of nine."""
        return min((self.ask() for _ in range(9)), key=lambda sample: sample.uncertainty)


def build(folder: Path) -> Path:
    """The guest's ELF file."""
    (folder / "guest.ld").write_text(LINKER_SCRIPT)
    output = folder / "clocks.elf"
    flags = [
        "-m32",
        "-O1",
        "-ffreestanding",
        "-fno-pic",
        "-no-pie",
        "-fno-stack-protector",
        "-fcf-protection=none",
    ]
    flags += [
        "-mno-sse",
        "-mno-mmx",
        "-nostdlib",
        "-static",
        "-Wl,--build-id=none,--no-warn-rwx-segments",
        "-Wl,-T",
    ]
    subprocess.run(["gcc", *flags, folder / "guest.ld", HERE / "clocks_guest.c", "-o", output], check=True)
    return output


@contextmanager
def started(argv: list[str]) -> Iterator[Guest]:
    """A process whose standard input and output are the guest's COM1."""
    ours, theirs = socket.socketpair()
    with ours, subprocess.Popen(argv, stdin=theirs, stdout=theirs, stderr=subprocess.DEVNULL) as process:
        theirs.close()
        try:
            guest = Guest(ours)
            while not guest.read_line().endswith(b"!\n"):
                pass
            yield guest
        finally:
            process.kill()


@contextmanager
def busy_host(wanted: bool) -> Iterator[None]:
    """As many spinning processes as processors."""
    count = (os.cpu_count() or 1) if wanted else 0
    burners = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()


def drift(first: Sample, last: Sample, tsc_hz: float) -> dict[str, float]:
    """Parts per million by which each clock was fast."""
    host = last.host - first.host
    rates = {**RATES, "TSC": tsc_hz}
    return {
        name: ((last.counts[name] - first.counts[name]) / rate / host - 1) * 1e6
        for name, rate in rates.items()
        if last.counts[name]  # 0: the guest has no such clock
    }


def measure(argv: list[str], seconds: float, tsc_hz: float | None) -> dict[str, dict[str, float]]:
    """Drift by phase and clock; without a known rate the TSC's is that of the idle phase."""
    rows: dict[str, dict[str, float]] = {}
    with started(argv) as guest:
        for phase, byte, load in PHASES:
            with busy_host(load):
                guest.ask(byte)
                first = guest.best()
                time.sleep(seconds)
                last = guest.best()
            if tsc_hz is None:
                tsc_hz = (last.counts["TSC"] - first.counts["TSC"]) / (last.host - first.host)
            rows[phase] = drift(first, last, tsc_hz)
            rows[phase]["uncertainty"] = (first.uncertainty + last.uncertainty) / seconds * 1e6
    return rows


def main() -> int:
    """Measure both and print one table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=60.0, help="of each phase (default 60)")
    parser.add_argument("--alone", action="store_true", help="without QEMU beside it")
    arguments = parser.parse_args()
    seconds = arguments.seconds
    with tempfile.TemporaryDirectory() as folder:
        kernel = str(build(Path(folder)))
        ours = [sys.executable, "-m", "pyvmm.cli.main", "run", "-q", "-m", "16M", "--engine", "translator"]
        qemu = ["qemu-system-x86_64", "-accel", "tcg", "-m", "16M", "-display", "none", "-serial", "stdio"]
        results = {"pyvmm": measure([*ours, "--kernel", kernel], seconds, 1e9)}
        if not arguments.alone:
            results["QEMU TCG"] = measure([*qemu, "-monitor", "none", "-kernel", kernel], seconds, None)
    print(f"parts per million fast (+) or slow (-) over {seconds:g} s\n")
    names = [*RATES, "TSC", "uncertainty"]
    print("| | | " + " | ".join(names) + " |")
    print("|---|---|" + "---|" * len(names))
    for who, phases in results.items():
        for phase, row in phases.items():
            print(
                f"| {who} | {phase} | "
                + " | ".join(f"{row[name]:+.0f}" if name in row else "-" for name in names)
                + " |"
            )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
