"""``pyvmm doctor``: one screen on what this host can run, with the reason for each thing that it cannot."""

from __future__ import annotations

import argparse
import os
import platform
import shutil

from pyvmm.cli import exit_codes

# What else the project's commands use, and what for.
TOOLS = {
    "qemu-img": "compare disk images (qemu-utils)",
    "qemu-system-x86_64": "the peer of the benchmarks (qemu-system-x86)",
    "debootstrap": "make a Debian disk (debootstrap)",
}


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``pyvmm doctor``."""
    subparsers.add_parser(
        "doctor",
        help="say what this host can run, and how fast",
        description="Probe the engines of this host, and say which one --engine auto takes and why.",
    )


def run(options: argparse.Namespace) -> int:
    """Print the report; exit code 0 when at least one engine can be used."""
    from rich.console import Console
    from rich.table import Table

    import pyvmm
    from pyvmm.errors import EngineError
    from pyvmm.machine.engines import choose_engine, engines, retest

    console = Console(highlight=False)
    console.print(
        f"pyvmm {pyvmm.__version__}, Python {platform.python_version()}, Linux {platform.release()},"
        f" {os.cpu_count()} CPUs, {_memory()} MiB of memory free"
    )
    retest()
    table = Table("engine", "usable", "why", box=None, pad_edge=False)
    for engine in engines():
        usable, reason = engine.availability()
        table.add_row(engine.name, "yes" if usable else "no", reason)
    console.print(table)
    try:
        console.print(f"--engine auto takes: {choose_engine('auto').name}")
        code = exit_codes.OK
    except EngineError as error:
        console.print(f"--engine auto: {error}")
        code = exit_codes.ENGINE
    tools = Table("optional tool", "found", "what for", box=None, pad_edge=False)
    for name, purpose in TOOLS.items():
        tools.add_row(name, "yes" if shutil.which(name) else "no", purpose)
    console.print(tools)
    return code


def _memory() -> int:
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20
