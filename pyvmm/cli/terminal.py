"""The user's terminal under a guest: raw mode that is always undone, and the Ctrl-A escapes.

Raw mode is that of termios(3) `cfmakeraw`, output included: a guest's line feed is a line feed, as on a
serial line. The escapes are those that users of serial consoles know: Ctrl-A and a letter.
"""

from __future__ import annotations

import atexit
import contextlib
import enum
import os
import termios
import threading
from collections.abc import Iterator
from typing import Any

ESCAPE = 0x01  # Ctrl-A

HELP = """\
Ctrl-A X   quit: end the machine at once
Ctrl-A C   prompt: status, regs, mem, pause, reset...
Ctrl-A A   send Ctrl-A to the guest (also Ctrl-A Ctrl-A)
Ctrl-A H   this help
"""

# Colours off, cursor visible, wrapping on: what a guest may have left behind in the terminal.
_RESET_SCREEN = b"\x1b[0m\x1b[?25h\x1b[?7h"


class Key(enum.Enum):
    """What the user asked for."""

    SEND = enum.auto()
    QUIT = enum.auto()
    HELP = enum.auto()
    PROMPT = enum.auto()


_COMMANDS = {ord("x"): Key.QUIT, ord("h"): Key.HELP, ord("?"): Key.HELP, ord("c"): Key.PROMPT}


class EscapeFilter:
    """Splits what is typed into bytes for the guest and commands for us; an escape may be cut anywhere by read(2)."""

    def __init__(self) -> None:
        self._escaped = False

    def feed(self, data: bytes) -> Iterator[tuple[Key, bytes]]:
        """Yield what `data` means, in order. An unknown letter after Ctrl-A gives help and sends nothing."""
        plain = bytearray()
        for byte in data:
            if not self._escaped:
                if byte == ESCAPE:
                    self._escaped = True
                else:
                    plain.append(byte)
                continue
            self._escaped = False
            if byte in (ESCAPE, ord("a"), ord("A")):
                plain.append(ESCAPE)
                continue
            if plain:
                yield Key.SEND, bytes(plain)
                plain.clear()
            letter = byte | 0x20 if 0x41 <= byte <= 0x5A else byte
            # Ctrl-A Ctrl-X, with the finger still on Ctrl, means Ctrl-A X.
            letter = letter + 0x60 if 0x01 <= letter <= 0x1A else letter
            yield _COMMANDS.get(letter, Key.HELP), b""
        if plain:
            yield Key.SEND, bytes(plain)


class Terminal:
    """Raw mode of one terminal, entered and left any number of times, and left for certain at the end.

    Parameters
    ----------
    fd
        The descriptor that keys are read from. When it is no terminal, `is_tty` is False and nothing else happens.
    """

    def __init__(self, fd: int = 0) -> None:
        self.fd = fd
        self._saved: list[Any] | None = None
        self._raw = False
        self._lock = threading.RLock()
        try:
            self._saved = termios.tcgetattr(fd)
        except (termios.error, ValueError, OSError):
            return
        atexit.register(self.close)

    @property
    def is_tty(self) -> bool:
        """Whether there is a terminal at all."""
        return self._saved is not None

    @property
    def in_foreground(self) -> bool:
        """Whether this process may change the terminal without being stopped (tcsetattr(3), SIGTTOU)."""
        try:
            return os.tcgetpgrp(self.fd) == os.getpgrp()
        except OSError:
            return False

    def enter(self) -> None:
        """Go to raw mode: every key, Ctrl-C and Ctrl-Z too, is the guest's."""
        with self._lock:
            if self._saved is None:
                return
            mode = termios.tcgetattr(self.fd)
            mode[0] &= ~(
                termios.IGNBRK
                | termios.BRKINT
                | termios.PARMRK
                | termios.ISTRIP
                | termios.INLCR
                | termios.IGNCR
                | termios.ICRNL
                | termios.IXON
            )
            mode[1] &= ~termios.OPOST
            mode[2] = mode[2] & ~(termios.CSIZE | termios.PARENB) | termios.CS8
            mode[3] &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG | termios.IEXTEN)
            mode[6][termios.VMIN] = 1
            mode[6][termios.VTIME] = 0
            termios.tcsetattr(self.fd, termios.TCSANOW, mode)
            self._raw = True

    def leave(self) -> None:
        """Put the terminal back as it was found. Does nothing when it is."""
        with self._lock:
            if self._saved is None or not self._raw:
                return
            self._raw = False
            with contextlib.suppress(termios.error, OSError):
                termios.tcsetattr(self.fd, termios.TCSANOW, self._saved)

    def close(self) -> None:
        """Leave raw mode and clean up colours and cursor after the guest. Safe to call twice, and at exit."""
        with self._lock:
            was_raw = self._raw
            self.leave()
            atexit.unregister(self.close)
            if was_raw and os.isatty(1):
                with contextlib.suppress(OSError):
                    os.write(1, _RESET_SCREEN)
