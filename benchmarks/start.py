"""From exec to the guest's first instruction: CPU and wall seconds, and memory over guest RAM, beside QEMU's.

Run by ``./dev bench start``. The guest is a firmware ROM whose reset vector writes one byte to the serial port; a run
ends when that byte can be read. No BIOS runs on any side: compared is the start of the program itself. Each of
pyvmm's engines is compared with the better one of QEMU's ``-M microvm`` and ``-M pc`` on the matching accelerator
(the translator with TCG, KVM with KVM), in turns. pyvmm opens its built-in disk besides, as always without DISK.

Memory is the peak resident set less the guest RAM in it.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from commands import MEMORY_MIB, pyvmm, qemu
from common import BenchmarkError, Usage, least, median_rss, ratio, run_until, take_turns

from pyvmm.guests.tools import GuestBuildError, require_tools

FIRST_BYTE = b"\xa7"  # in no message of either program
# At F000:FFF0, where the 8086 starts: mov dx, 0x3f8; mov al, 0xa7; out dx, al; cli; hlt; jmp to the hlt.
RESET_CODE = bytes.fromhex("ba f803 b0 a7 ee fa f4 ebfd".replace(" ", ""))

ACCELERATORS = {"translator": "tcg", "kvm": "kvm"}
MACHINES = ("microvm", "pc")


def guest_ram_in(smaps: str) -> int:
    """Return the resident guest RAM in KiB of a process: pyvmm's by its memfd's name, QEMU's by its size.

    Parameters
    ----------
    smaps
        Text of /proc/PID/smaps (proc(5)).
    """
    total = 0
    is_ram = False
    size = 0
    for line in smaps.splitlines():
        key, *words = line.split()
        if re.fullmatch(r"[0-9a-f]+-[0-9a-f]+", key):
            is_ram = "memfd:pyvmm-ram" in line
            anonymous = len(words) == 4
        elif key == "Size:":
            size = int(words[0])
            is_ram = is_ram or (anonymous and size == MEMORY_MIB << 10)
        elif key == "Rss:" and is_ram:
            total += int(words[0])
    return total


def resident_guest_ram(pid: int) -> int:
    """Return the same of a live process."""
    return guest_ram_in(Path(f"/proc/{pid}/smaps").read_text())


def write_rom(path: Path) -> Path:
    """Write the guest: 64 KiB."""
    rom = bytearray(b"\xf4" * 65536)
    rom[0xFFF0 : 0xFFF0 + len(RESET_CODE)] = RESET_CODE
    path.write_bytes(rom)
    return path


def bench_start(engine: str, runs: int, machines: tuple[str, ...] = MACHINES) -> None:
    """Measure one engine; prints its figures, and the ratios to the better one of QEMU's machines."""
    ours = f"pyvmm {engine}"
    with tempfile.TemporaryDirectory(prefix="pyvmm-bench-") as scratch:
        rom = write_rom(Path(scratch) / "first.rom")
        commands = {ours: pyvmm(engine, "--firmware", rom)}
        for machine in machines:
            command = qemu("-bios", rom, machine=machine, accel=ACCELERATORS.get(engine, "tcg"))
            commands[f"qemu {machine}"] = command
        over_ram: dict[str, list[int]] = {name: [] for name in commands}

        def start(name: str) -> Usage:
            ram: list[int] = []
            usage = run_until(
                commands[name],
                FIRST_BYTE,
                timeout=30,
                at_marker=lambda pid: ram.append(resident_guest_ram(pid)),
            )
            over_ram[name].append(usage.rss - ram[0])
            return usage

        candidates: dict[str, Callable[[], Usage]] = {name: partial(start, name) for name in commands}
        taken = take_turns(candidates, runs, f"start {engine}")
    memory = {name: sorted(sizes)[len(sizes) // 2] / 1024 for name, sizes in over_ram.items()}
    for name, usages in taken.items():
        cpu, wall = least(usages)
        print(
            f"start: {name:16} {cpu:.3f} s CPU, {wall:.3f} s wall (minimum of {runs}),"
            f" {median_rss(usages):.1f} MiB peak, {memory[name]:.1f} MiB of it not guest RAM (median)"
        )
    peers = [name for name in taken if name != ours]
    quick = min(peers, key=lambda name: least(taken[name])[0])
    small = min(peers, key=lambda name: memory[name])
    mine, theirs = least(taken[ours])[0], least(taken[quick])[0]
    note = f"minimum of {runs}"
    ratio(f"start-{engine}-cpu", mine, theirs, 1.0, unit="s CPU", note=note, peer_name=quick)
    ratio(f"start-{engine}-memory", memory[ours], memory[small], 1.0, unit="MiB", peer_name=small)


def main() -> int:
    """Measure the engines that this host has; one that it lacks is said in one line."""
    parser = argparse.ArgumentParser(prog="start.py", description="Exec to first instruction, beside QEMU.")
    parser.add_argument("--runs", type=int, default=25, help="of each, in turns (default %(default)s)")
    parser.add_argument(
        "--engine", choices=ACCELERATORS, action="append", help="may be repeated (default all)"
    )
    options = parser.parse_args()
    if options.runs < 1:
        parser.error("--runs: at least 1")
    failed = 0
    for engine in options.engine or ACCELERATORS:
        try:
            require_tools(["qemu-system-x86_64"])
            if engine == "kvm":
                from pyvmm.kvm import KvmEngine

                usable, reason = KvmEngine().availability()
                if not usable:
                    print(f"start: KVM left out: {reason}")
                    continue
            bench_start(engine, options.runs)
        except (GuestBuildError, BenchmarkError) as error:
            print(f"start.py: {engine}: {error}", file=sys.stderr)
            failed += 1
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
