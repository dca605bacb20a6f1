"""The live table of ``pyvmm trace``: exits as they come, the guest's last lines, and keys that go to the guest.

The machine runs on the calling thread; a thread of its own draws, reads keys and feeds the guest. Ctrl-C, SIGTERM and
SIGHUP end the run in order. Left out: colours of the guest's console, and its escape sequences, which are dropped.
"""

from __future__ import annotations

import os
import re
import select
import signal
import sys
import termios
import threading
import time
from typing import TYPE_CHECKING

from pyvmm.cli import exit_codes
from pyvmm.cli.notice import Notice
from pyvmm.exits import ExitReason

if TYPE_CHECKING:
    from types import FrameType, TracebackType
    from typing import NoReturn

    from rich.console import RenderableType

    from pyvmm.cli.runner import Runner
    from pyvmm.machine.machine import Machine
    from pyvmm.trace import Recorder, Recording

REFRESH = 0.5
"""Seconds between two pictures."""
_SYMBOLS_EVERY = 4.0
"""Seconds between two searches for a kernel's symbols, until there are some."""
_LINES = 8
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b[@-Z\\-_]|[\x00-\x08\x0b-\x1f\x7f]")


class KeptNotice(Notice):
    """A `Notice` whose lines wait until the live table is gone."""

    def __init__(self, notice: Notice) -> None:
        super().__init__(notice.quiet)
        self._notice = notice
        self._lines: list[tuple[bool, str]] = []

    def say(self, text: str) -> None:
        """Keep a line that stays."""
        self._lines.append((False, text))

    def error(self, text: str) -> None:
        """Keep a line that is said quiet or not."""
        self._lines.append((True, text))

    def release(self) -> None:
        """Say them."""
        for error, text in self._lines:
            (self._notice.error if error else self._notice.say)(text)
        self._lines.clear()


class _Ended(BaseException):
    """A signal that ends the run."""

    def __init__(self, number: int) -> None:
        self.code = 128 + number


def _end(number: int, frame: FrameType | None) -> NoReturn:
    raise _Ended(number)


class Live:
    """The table on the terminal for a `with` block; standard input and output are terminals."""

    def __init__(self, machine: Machine, recorder: Recorder, top: int) -> None:
        self._machine = machine
        self._recorder = recorder
        self._top = top
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="trace", daemon=True)
        self._console = ""
        self._rate: tuple[float, int] = (time.monotonic(), 0)

    def __enter__(self) -> Live:
        from rich.live import Live as RichLive

        self._fd = sys.stdin.fileno()
        self._modes = termios.tcgetattr(self._fd)
        modes = termios.tcgetattr(self._fd)
        modes[0] &= ~(termios.ICRNL | termios.IXON)
        modes[3] &= ~(termios.ICANON | termios.ECHO)
        for key in (termios.VSUSP, termios.VQUIT):  # for the guest; only Ctrl-C is ours
            modes[6][key] = b"\0"
        self._live = RichLive(screen=True, auto_refresh=False)
        self._live.start()
        termios.tcsetattr(self._fd, termios.TCSANOW, modes)
        self._handlers = {number: signal.signal(number, _end) for number in (signal.SIGTERM, signal.SIGHUP)}
        self._thread.start()
        return self

    def run(self, runner: Runner) -> int:
        """Run to the end, the guest's or Ctrl-C's; return the exit code."""
        try:
            return runner.run()
        except KeyboardInterrupt:
            return exit_codes.INTERRUPTED
        except _Ended as ended:
            return ended.code

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._closed.set()
        self._thread.join()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        termios.tcsetattr(self._fd, termios.TCSANOW, self._modes)
        self._live.stop()

    def _loop(self) -> None:
        due = looked = 0.0
        while not self._closed.is_set():
            self._keys()
            now = time.monotonic()
            if now < due:
                continue
            recording = self._recorder.recording()
            if self._recorder.symbols is None and now - looked > _SYMBOLS_EVERY and _runs_a_kernel(recording):
                self._recorder.find_symbols()
                looked = time.monotonic()
            try:
                self._live.update(self._picture(recording), refresh=True)
            except OSError:  # the terminal was hung up: SIGHUP ends the run
                return
            due = time.monotonic() + REFRESH

    def _keys(self) -> None:
        """Wait a moment for keys; what is typed goes to the guest."""
        ready, _, _ = select.select([self._fd], [], [], 0.05)
        if ready:
            try:
                data = os.read(self._fd, 1024)
            except OSError:
                data = b""
            if data:
                self._machine.console.send(data)
            else:
                self._closed.wait(0.05)

    def _picture(self, recording: Recording) -> RenderableType:
        from rich.console import Group
        from rich.rule import Rule
        from rich.text import Text

        from pyvmm.trace.table import cost_line, rich_table

        then, before = self._rate
        now = time.monotonic()
        self._rate = now, recording.total
        rate = (recording.total - before) / max(now - then, 1e-3)
        counts = sorted(recording.counts.items(), key=lambda row: -row[1])
        by_reason = "  ".join(f"{reason.name} {count}" for reason, count in counts)
        devices = "  ".join(f"{row.name} {row.count}" for row in recording.devices[:8])
        self._console = (self._console + self._machine.console.read_text())[-4000:]
        lines = _CONTROL.sub("", self._console.replace("\r", "")).split("\n")[-_LINES:]
        engine = recording.meta["engine"]
        head = f"pyvmm trace: {recording.total} exits, {rate:.0f} a second; engine {engine}; Ctrl-C ends"
        return Group(
            Text(head, style="bold", no_wrap=True, overflow="ellipsis"),
            Text(by_reason, no_wrap=True, overflow="ellipsis"),
            Text(devices, no_wrap=True, overflow="ellipsis"),
            Text(cost_line(recording), style="dim", no_wrap=True, overflow="ellipsis"),
            Text(),
            rich_table(recording, self._top),
            Rule("the guest's console"),
            *(Text(line, no_wrap=True, overflow="ellipsis") for line in lines),
        )


def _runs_a_kernel(recording: Recording) -> bool:
    """Code of the kernel's half was seen, in 64-bit mode."""
    return any(
        site.mode == "long" and site.rip >> 47 == 0x1FFFF and site.reason is not ExitReason.KICK
        for site in recording.sites[:50]
    )
