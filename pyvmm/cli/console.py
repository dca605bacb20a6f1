"""The thread between the user and the guest: keys to COM1, escapes to us, signals to an orderly end.

The machine's thread sits in C, where Python's signal handlers do not run; so signals come here, through the descriptor
of `signal.set_wakeup_fd`. Output goes the other way without us: the C I/O thread writes it.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
import time
from typing import TYPE_CHECKING

from pyvmm.cli import exit_codes
from pyvmm.cli.prompt import Prompt
from pyvmm.cli.terminal import HELP, EscapeFilter, Key, Terminal
from pyvmm.threads import name_this_thread

if TYPE_CHECKING:
    from types import FrameType

    from pyvmm.cli.notice import Notice
    from pyvmm.cli.runner import Runner
    from pyvmm.display.serial import CharSink

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
STOPPING = (signal.SIGTSTP, signal.SIGCONT)
GRACE_SECONDS = 5.0
"""How long an ended machine may take to stop before the process is ended under it."""
RETRY_MS = 10
"""How soon bytes are offered again to a guest that had no room for them."""
DEBUG_MS = 50
"""How often the debug console is looked at, when it is shown."""
MAX_UNSENT = 1 << 20
"""Typed bytes that wait for the guest; what comes beyond them is lost, as on a line without flow control."""
AGAIN_SECONDS = 2.0
"""A second Ctrl-A X within this time ends the process at once."""
SAME_SECONDS = 0.3
"""What comes sooner is the first one again: timeout(1) signals the process, and then its group."""


class Console:
    """Reads standard input and signals until the machine ends.

    Parameters
    ----------
    runner
        The running machine.
    terminal, notice
        The user's side.
    send_input
        False when COM1 is not connected to the terminal: keys other than escapes are dropped.
    debug
        What the guest writes to its debug console, to be shown on standard error; None to leave it.
    prompt
        Begin with the prompt, on a terminal.
    """

    def __init__(
        self,
        runner: Runner,
        terminal: Terminal,
        notice: Notice,
        *,
        send_input: bool = True,
        debug: CharSink | None = None,
        prompt: bool = False,
    ) -> None:
        self._runner = runner
        self._terminal = terminal
        self._notice = notice
        self._send_input = send_input
        self._debug = debug
        self._begin_with_prompt = prompt
        self._filter = EscapeFilter()
        self._prompt: Prompt | None = None
        self._quit_at = -AGAIN_SECONDS
        self._unsent = bytearray()
        self._wakeup, self._signals = os.pipe()
        os.set_blocking(self._signals, False)
        self._old_handlers: dict[signal.Signals, object] = {}
        self._old_fd = -1
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="pyvmm-console", daemon=True)

    def __enter__(self) -> Console:
        if threading.current_thread() is threading.main_thread():
            self._old_fd = signal.set_wakeup_fd(self._signals, warn_on_full_buffer=False)
            for number in (*ENDING, *STOPPING, signal.SIGWINCH):
                if signal.getsignal(number) is not signal.SIG_IGN:  # nohup(1), or a shell's background job
                    self._old_handlers[number] = signal.signal(number, _noted)
        self._terminal.enter()
        self._resize()
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._closed.set()
        os.write(self._signals, b"\0")
        self._thread.join(timeout=1.0)
        self._terminal.close()
        self._show_debug()
        for number, handler in self._old_handlers.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        if self._old_handlers:
            signal.set_wakeup_fd(self._old_fd)
        if not self._thread.is_alive():
            os.close(self._wakeup)
            os.close(self._signals)

    def _loop(self) -> None:
        name_this_thread("console")
        if self._begin_with_prompt and self._terminal.is_tty:
            self._open_prompt()
        poll = select.poll()
        poll.register(self._wakeup, select.POLLIN)
        poll.register(self._terminal.fd, select.POLLIN)
        reading = open_ = True
        while not self._closed.is_set():
            for fd, _ in poll.poll(RETRY_MS if self._unsent else DEBUG_MS if self._debug else None):
                if fd == self._wakeup:
                    for number in os.read(self._wakeup, 64):
                        self._signal(number)
                elif not self._read():
                    poll.unregister(self._terminal.fd)
                    reading = open_ = False
            self._feed()
            self._show_debug()
            # A pipe waits until the guest has read; a terminal is read on, for the sake of its escapes.
            if open_ and reading != (self._terminal.is_tty or not self._unsent):
                reading = not reading
                if reading:
                    poll.register(self._terminal.fd, select.POLLIN)
                else:
                    poll.unregister(self._terminal.fd)

    def _read(self) -> bool:
        """Take what was typed; False at the end of input, which does not end the guest."""
        try:
            data = os.read(self._terminal.fd, 4096)
        except OSError:
            data = b""
        if not data and self._terminal.is_tty and self._prompt is None:
            self._quit(128 + signal.SIGHUP, "hang-up")  # a raw terminal has no other end of input
            return False
        if self._prompt is not None:
            self._prompt_line(data)
        elif not self._terminal.is_tty:
            self._send(data)  # a pipe has no escapes: its bytes are the guest's
        else:
            self._keys(data)
        return bool(data) or self._terminal.is_tty

    def _keys(self, data: bytes) -> None:
        for key, text in self._filter.feed(data):
            match key:
                case Key.SEND:
                    self._send(text)
                case Key.HELP:
                    self._show("\n" + HELP)
                case Key.QUIT:
                    self._quit(exit_codes.INTERRUPTED, "Ctrl-A X")
                case Key.PROMPT:
                    self._open_prompt()

    def _send(self, data: bytes) -> None:
        if self._send_input:
            self._unsent += data[: MAX_UNSENT - len(self._unsent)]
            self._feed()

    def _feed(self) -> None:
        """Hand over what the guest's serial port has room for; never wait: Ctrl-A X must work under a hung guest."""
        if self._unsent:
            del self._unsent[: self._runner.machine.console.uart.receive(bytes(self._unsent))]

    def _show_debug(self) -> None:
        if self._debug is not None and (data := self._debug.read()):
            self._show(data.decode(errors="replace"))

    def _open_prompt(self) -> None:
        self._terminal.leave()
        self._prompt = Prompt(self._runner)
        self._show(
            "\nThe guest is still running. help lists the commands, an empty line goes back.\n(pyvmm) "
        )

    def _close_prompt(self) -> None:
        self._prompt = None
        if self._runner.paused:
            self._show("still paused: Ctrl-A C, resume\n")
        self._terminal.enter()

    def _prompt_line(self, data: bytes) -> None:
        """One line from the prompt, where the terminal edits lines itself; no data is Ctrl-D."""
        line = data.decode(errors="replace").strip().lower()
        if line.startswith("\x01"):
            line = {"x": "quit", "h": "help"}.get(line[1:], "c")
        if line in ("", "c", "cont", "continue"):
            self._close_prompt()
        elif line in ("q", "quit", "exit"):
            self._quit(exit_codes.INTERRUPTED, "quit")
        else:
            assert self._prompt is not None
            self._show(self._prompt.execute(line) + "(pyvmm) ")

    def _show(self, text: str) -> None:
        """Write to the terminal, raw or not."""
        self._notice.erase()
        with contextlib.suppress(OSError):
            os.write(2, text.replace("\n", "\r\n").encode())

    def _quit(self, code: int, reason: str) -> None:
        """End the machine; at the second time, or when it does not stop, end the process."""
        now = time.monotonic()
        since = now - self._quit_at
        if since < SAME_SECONDS:
            return
        if since < AGAIN_SECONDS:
            self._end_process(code)
        self._quit_at = now
        watchdog = threading.Timer(GRACE_SECONDS, self._end_process, (code,))
        watchdog.daemon = True
        watchdog.start()
        self._runner.quit(code)
        self._notice.say(f"ended by {reason}")

    def _end_process(self, code: int) -> None:
        if self._closed.is_set():
            return
        self._terminal.close()
        self._notice.error("the machine did not stop; ended without closing its disks")
        os._exit(code)

    def _resize(self) -> None:
        """The guest's virtio console has the size of our terminal."""
        if self._send_input and self._terminal.is_tty:
            with contextlib.suppress(OSError):
                self._runner.machine.resize_terminal(*os.get_terminal_size(self._terminal.fd))

    def _signal(self, number: int) -> None:
        if number in ENDING:
            if number == signal.SIGINT and self._prompt is not None:
                self._show("\n")
                self._close_prompt()
            else:
                self._quit(128 + number, signal.Signals(number).name)
        elif number == signal.SIGWINCH:
            self._resize()
        elif number == signal.SIGTSTP:
            # Give the terminal back, stop as the sender wished, and take it again when continued.
            self._terminal.leave()
            os.kill(os.getpid(), signal.SIGSTOP)
        elif number == signal.SIGCONT and self._prompt is None and self._terminal.in_foreground:
            self._terminal.enter()


def _noted(number: int, frame: FrameType | None) -> None:
    """A handler that does nothing: its byte in the wake-up pipe does the work."""
