"""``pyvmm trace``: run a guest and record its exits; a table while it runs, the totals at the end, and a file."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

from pyvmm.cli import exit_codes
from pyvmm.cli.options import add_options, parse_timeout
from pyvmm.errors import ConfigError, PyvmmError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm.cli.notice import Notice
    from pyvmm.config import MachineConfig
    from pyvmm.machine.machine import Machine
    from pyvmm.trace import Recorder, Recording, Symbols


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``pyvmm trace``."""
    parser = subparsers.add_parser(
        "trace",
        help="run a guest and say why it left guest code, where, and what that cost",
        description="Run a guest as `pyvmm run` does, and record every exit. On a terminal a live table is shown, what"
        " is typed goes to the guest, and Ctrl-C ends it; the record is kept. Otherwise the guest has the terminal.",
    )
    group = parser.add_argument_group("trace")
    group.add_argument(
        "--top", type=int, default=10, metavar="N", help="sites in the table (default %(default)s)"
    )
    group.add_argument("--out", metavar="FILE", help="keep the recording there")
    group.add_argument("--show", metavar="FILE", help="show a recording, and run nothing")
    group.add_argument(
        "--symbols", metavar="FILE", help="System.map, vmlinux, bzImage or a copy of /proc/kallsyms"
        " (default: what the guest's kernel has in memory)",
    )  # fmt: skip
    group.add_argument("--explain", action="store_true", help="explain each of the top sites at the end")
    group.add_argument(
        "--heat-map",
        metavar="PNG",
        help="draw address by reason by time (any name that matplotlib can write)",
    )
    group.add_argument("--histogram", metavar="PNG", help="draw what answering cost")
    group.add_argument(
        "--no-live", action="store_true", help="no table while it runs: the guest has the terminal"
    )
    group.add_argument(
        "--events", type=int, default=1 << 16, metavar="N", help="newest exits to keep one by one (default %(default)s)"
    )  # fmt: skip
    add_options(parser)


def run(options: argparse.Namespace) -> int:
    """Run the guest, or show a file; the exit code is the guest's (`pyvmm.cli.exit_codes`)."""
    if not 1 <= options.top <= 1000:
        raise ConfigError(f"--top {options.top}: 1 to 1000 sites; write --top 10")
    if not 1 <= options.events <= 1 << 24:
        raise ConfigError(f"--events {options.events}: 1 to {1 << 24} exits; write --events 65536")
    for option in ("out", "heat_map", "histogram"):
        path = getattr(options, option)
        folder = os.path.dirname(path or "") or "."
        if path is not None and not os.path.isdir(folder):
            raise ConfigError(f"--{option.replace('_', '-')} {path}: there is no folder {folder}")
    if options.heat_map or options.histogram:
        import importlib.util

        if importlib.util.find_spec("matplotlib") is None:
            raise ConfigError("--heat-map and --histogram need matplotlib: pip install 'pyvmm-lab[plots]'")
    if options.show is not None:
        from pyvmm.trace import load

        if options.explain:
            raise ConfigError("--explain needs the guest's memory: it goes with a run, not with --show")
        recording = load(options.show)
        print(recording.table(options.top))
        _draw(recording, options)
        return exit_codes.OK
    return _Trace(options).run()


class _Trace:
    """One run that is recorded."""

    def __init__(self, options: argparse.Namespace) -> None:
        from pyvmm.trace import Symbols

        self.options = options
        self.symbols: Symbols | None = Symbols.from_file(options.symbols) if options.symbols else None
        self.recorder: Recorder | None = None

    def run(self) -> int:
        from pyvmm.cli.notice import Notice
        from pyvmm.cli.run import configure, run_machine

        options = self.options
        notice = Notice(options.quiet)
        timeout = parse_timeout(options.timeout)
        config = configure(options, notice)
        live = not options.no_live and config.serial == "stdio" and sys.stdout.isatty() and sys.stdin.isatty()
        if live:
            return self._run_live(config, notice, timeout)
        return run_machine(config, notice, options, timeout, watch=self._watch)

    def _watch(self, machine: Machine) -> Callable[[], object]:
        from pyvmm.trace import Recorder

        self.recorder = Recorder(machine, events=self.options.events)
        return lambda: self._finish(machine)

    def _run_live(self, config: MachineConfig, notice: Notice, timeout: float | None) -> int:
        from pyvmm.cli.live import KeptNotice, Live
        from pyvmm.cli.run import raise_descriptors, settle_format
        from pyvmm.cli.runner import Runner
        from pyvmm.machine.machine import Machine

        config.serial = "buffer"
        for disk in config.disks:
            settle_format(disk, notice)
        if config.shares:
            raise_descriptors()
        notice.progress("starting ...")
        with Machine(config) as machine:
            notice.erase()
            finish = self._watch(machine)
            assert self.recorder is not None
            kept = KeptNotice(notice)
            runner = Runner(machine, kept, reboot=not self.options.no_reboot, timeout=timeout)
            with Live(machine, self.recorder, self.options.top) as live:
                code = live.run(runner)
            kept.release()
            finish()
        return code

    def _finish(self, machine: Machine) -> None:
        """The report, and what was asked to be kept: the machine stands still and is still there."""
        assert self.recorder is not None
        self.recorder.symbols = self._find_symbols(machine)
        recording = self.recorder.stop()
        options = self.options
        print(f"\n{recording.table(options.top)}")
        if options.explain:
            from pyvmm.trace import explain

            for site in recording.sites[: options.top]:
                print(f"\n{explain(site, machine, symbols=self.recorder.symbols)}")
        if options.out is not None:
            recording.save(options.out)
            print(f"recorded in {options.out}: pyvmm trace --show {options.out}")
        _draw(recording, options)

    def _find_symbols(self, machine: Machine) -> Symbols | None:
        """The file's, moved to where the guest's kernel is; else the guest's own."""
        from pyvmm.trace import Symbols

        assert self.recorder is not None
        own = self.recorder.symbols or Symbols.from_memory(machine.memory)
        if self.symbols is None:
            return own
        for name in ("_text", "_stext"):
            if (
                own is not None
                and (address := own.address(name)) is not None
                and self.symbols.address(name) is not None
            ):
                return self.symbols.at(name, address)
        return self.symbols


def _draw(recording: Recording, options: argparse.Namespace) -> None:
    for path, figure in ((options.heat_map, recording.heat_map), (options.histogram, recording.histogram)):
        if path is not None:
            try:
                figure().savefig(path)
            except ValueError as error:  # a format that matplotlib does not know
                raise PyvmmError(f"{path}: {error}") from None
            print(f"drawn in {path}")
