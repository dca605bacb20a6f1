"""pyvmm.cli.terminal: escapes wherever read(2) cuts them, raw mode that is undone, the progress line."""

from __future__ import annotations

import io
import os
import pty
import termios
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.cli.notice import Notice
from pyvmm.cli.terminal import EscapeFilter, Key, Terminal


def typed(*pieces: bytes) -> list[tuple[Key, bytes]]:
    filter_ = EscapeFilter()
    return [event for piece in pieces for event in filter_.feed(piece)]


@pytest.mark.parametrize(
    ("pieces", "events"),
    [
        ([b"ls\r"], [(Key.SEND, b"ls\r")]),
        ([b"\x03\x1a\x1c"], [(Key.SEND, b"\x03\x1a\x1c")]),
        ([b"ab\x01xcd"], [(Key.SEND, b"ab"), (Key.QUIT, b""), (Key.SEND, b"cd")]),
        ([b"ab\x01", b"X"], [(Key.SEND, b"ab"), (Key.QUIT, b"")]),
        ([b"\x01\x18"], [(Key.QUIT, b"")]),
        ([b"\x01h", b"\x01?"], [(Key.HELP, b""), (Key.HELP, b"")]),
        ([b"\x01c"], [(Key.PROMPT, b"")]),
        ([b"a\x01\x01b"], [(Key.SEND, b"a\x01b")]),
        ([b"a\x01Ab\x01a"], [(Key.SEND, b"a\x01b\x01")]),
        ([b"\x01z", b"z"], [(Key.HELP, b""), (Key.SEND, b"z")]),
    ],
)
def test_escapes(pieces: list[bytes], events: list[tuple[Key, bytes]]) -> None:
    assert typed(*pieces) == events


@given(st.binary(max_size=60), st.data())
def test_cutting_the_input_changes_nothing(data: bytes, draw: st.DataObject) -> None:
    cut = draw.draw(st.integers(0, len(data)))

    def joined(events: list[tuple[Key, bytes]]) -> list[object]:
        flat: list[object] = []
        for key, text in events:
            flat.extend(text if key is Key.SEND else [key])
        return flat

    assert joined(typed(data[:cut], data[cut:])) == joined(typed(data))


@pytest.fixture
def pseudo_terminal() -> Iterator[int]:
    master, slave = pty.openpty()
    yield slave
    os.close(master)
    os.close(slave)


def test_raw_mode_is_entered_and_left(pseudo_terminal: int) -> None:
    before = termios.tcgetattr(pseudo_terminal)
    terminal = Terminal(pseudo_terminal)
    assert terminal.is_tty
    terminal.enter()
    flags = termios.tcgetattr(pseudo_terminal)
    assert not flags[3] & (termios.ICANON | termios.ECHO | termios.ISIG)
    assert not flags[0] & (termios.ICRNL | termios.IXON)
    assert not flags[1] & termios.OPOST
    terminal.leave()
    assert termios.tcgetattr(pseudo_terminal) == before
    terminal.enter()
    terminal.close()
    terminal.close()
    assert termios.tcgetattr(pseudo_terminal) == before


def test_what_is_no_terminal_is_left_alone() -> None:
    read, write = os.pipe()
    terminal = Terminal(read)
    assert not terminal.is_tty
    terminal.enter()
    terminal.leave()
    terminal.close()
    os.close(read)
    os.close(write)


class FakeScreen(io.StringIO):
    def __init__(self, tty: bool) -> None:
        super().__init__()
        self._tty = tty

    def isatty(self) -> bool:
        return self._tty

    def fileno(self) -> int:
        raise OSError("no descriptor")


def test_progress_line_is_erased_before_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = FakeScreen(tty=True)
    monkeypatch.setattr("sys.stderr", screen)
    notice = Notice()
    notice.progress("starting: " + "x" * 200)
    assert len(screen.getvalue()) < 90
    notice.say("hello")
    assert screen.getvalue().endswith("\r\x1b[Kpyvmm: hello\r\n")


def test_progress_line_is_for_terminals_only(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = FakeScreen(tty=False)
    monkeypatch.setattr("sys.stderr", screen)
    Notice().progress("starting")
    Notice(quiet=True).say("a note")
    assert screen.getvalue() == ""
    Notice(quiet=True).error("an error")
    assert screen.getvalue() == "pyvmm: an error\n"
