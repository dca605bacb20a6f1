"""Our own lines beside a guest's output."""

from __future__ import annotations

import os
import sys


class Notice:
    """Our own lines, on standard error: a progress line that vanishes, and notes that stay.

    Parameters
    ----------
    quiet
        Say nothing.
    """

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet
        self.shown = False
        """The progress line is on the screen."""
        self._tty = sys.stderr.isatty()
        self._shared = False  # the guest writes to the same terminal, and may have left the cursor anywhere

    def progress(self, text: str) -> None:
        """Show `text` in place of what was shown before; only on a terminal."""
        if self.quiet or not self._tty:
            return
        columns = 80
        try:  # noqa: SIM105 - contextlib is slow to import
            columns = os.get_terminal_size(sys.stderr.fileno()).columns
        except OSError:
            pass  # a terminal that does not say
        self._write(f"\r\x1b[K{text[: max(columns - 1, 10)]}")
        self.shown = True

    def hand_over(self) -> bytes:
        """What takes the progress line away: for somebody else to write, in front of what he writes first."""
        erase = b"\r\x1b[K" if self.shown else b""
        self.shown = False
        self._shared = True
        return erase

    def take_back(self) -> None:
        """He wrote nothing: the line is still there, and ours again."""
        self.shown = self._tty and not self.quiet
        self._shared = False

    def erase(self) -> None:
        """Take the progress line away."""
        if self.shown:
            self.shown = False
            self._write("\r\x1b[K")

    def say(self, text: str) -> None:
        """Print one line that stays, on a line of its own."""
        self.erase()
        if not self.quiet:
            self.error(text)

    def error(self, text: str) -> None:
        """Print one line, quiet or not."""
        self.erase()
        begin = "\r\n" if self._tty and self._shared else ""
        end = "\r\n" if self._tty else "\n"
        self._write(f"{begin}pyvmm: {text}{end}")

    @staticmethod
    def _write(text: str) -> None:
        try:
            sys.stderr.write(text)
            sys.stderr.flush()
        except OSError:
            # The terminal was hung up. What stays in the buffer would make Python's own end an error.
            sys.stderr = open(os.devnull, "w")  # noqa: SIM115
