"""Command lines of pyvmm and QEMU for the same guest: one vCPU, as much memory, a serial line, no network, no VGA."""

from __future__ import annotations

import sys
from pathlib import Path

MEMORY_MIB = 512


def pyvmm(engine: str, *words: str | Path, net: str = "none") -> list[str]:
    """Return the command line of a pyvmm run; `net` as ``--net`` has it."""
    script = Path(sys.executable).with_name("pyvmm")  # what a user types, where it is installed
    program = [str(script)] if script.exists() else [sys.executable, "-m", "pyvmm.cli.main"]
    machine = [
        "-m",
        f"{MEMORY_MIB}M",
        "--vga",
        "none",
        "--net",
        net,
        "--serial",
        "stdio",
        f"--engine={engine}",
    ]
    return [*program, "run", *machine, *map(str, words)]


def qemu(*words: str | Path, machine: str = "pc", accel: str = "tcg") -> list[str]:
    """Return the command line of a QEMU run."""
    program = ["qemu-system-x86_64", "-no-user-config", "-no-reboot", "-accel", accel, "-M", machine]
    size = ["-m", str(MEMORY_MIB), "-smp", "1"]
    devices = ["-display", "none", "-vga", "none", "-nic", "none", "-monitor", "none", "-serial", "stdio"]
    return [*program, *size, *devices, *map(str, words)]
