"""``pyvmm run`` on a pseudo-terminal, as a user has it: keys, escapes, signals, exit codes, a clean terminal after."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pexpect
import pytest

from pyvmm.asm import assemble
from pyvmm.cli import exit_codes
from pyvmm.cli.run import builtin_disk
from pyvmm.kvm import KvmEngine

pytestmark = pytest.mark.timeout(300)

RUN = [sys.executable, "-m", "pyvmm.cli.main", "run", "--engine", "translator"]
PROMPT = "guest> "
QUIT = "\x01x"
# Boot sectors: what they do is in their names. What follows the code is zeros: an empty IDT, at 0x7c40.
SECTORS = {
    "spin": "cli\nagain: jmp again",
    "exit_code": "mov dx, 0x501; mov al, 0x10; out dx, al\nagain: jmp again",
    "reset": "mov al, 0xfe; out 0x64, al\nagain: jmp again",
    "triple_fault": "cli; xor ax, ax; mov ds, ax; lidt [0x7c40]; int 0x20",
    "hang": "cli; hlt",
    "debug": "mov al, 'D'; out 0xe9, al; mov dx, 0x501; mov al, 0x10; out dx, al",
    # Prints >, then echoes COM1 by polling, up to ~; ends with code 33.
    "echo": """
        mov al, '>'
    put:
        mov dx, 0x3f8
        out dx, al
        inc dx; inc dx; inc dx; inc dx; inc dx
    full:
        in al, dx
        test al, 0x20
        jz full
    empty:
        in al, dx
        test al, 1
        jz empty
        mov dx, 0x3f8
        in al, dx
        cmp al, '~'
        jne put
        mov dx, 0x501
        mov al, 0x10
        out dx, al
    """,
}

Spawn = Callable[..., "pexpect.spawn[str]"]


@pytest.fixture
def sector(tmp_path: Path) -> Callable[[str], Path]:
    """A function that makes a raw disk whose boot sector is one of SECTORS."""

    def make(name: str) -> Path:
        code = assemble(SECTORS[name], bits=16, address=0x7C00)
        path = tmp_path / f"{name}.img"
        path.write_bytes(code.ljust(510, b"\0") + b"\x55\xaa" + bytes(63 * 512))
        return path

    return make


def attend_signals() -> None:
    """As under a shell that somebody types into, also where the tests run with nohup or in the background."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)


@pytest.fixture
def spawn() -> Iterator[Spawn]:
    """Start ``pyvmm run`` on a terminal of 24 x 100; what is left at the end of a test is killed."""
    children: list[Any] = []

    def start(*words: object) -> Any:
        child = pexpect.spawn(
            RUN[0],
            [*RUN[1:], *map(str, words)],
            encoding="utf-8",
            timeout=120,
            dimensions=(24, 100),
            echo=True,
            preexec_fn=attend_signals,
        )
        child.settings = termios.tcgetattr(child.child_fd)
        children.append(child)
        return child

    yield start
    for child in children:
        child.close(force=True)


def ended(child: Any) -> int:
    """Wait for the end; the exit code. The terminal must be as it was found."""
    child.expect(pexpect.EOF)
    child.wait()
    assert child.signalstatus is None
    return int(child.exitstatus)


def is_raw(child: Any) -> bool:
    return not termios.tcgetattr(child.child_fd)[3] & termios.ICANON


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Wait for something that has no output to wait for."""
    for _ in range(1200):
        if condition():
            return
        time.sleep(0.05)
    pytest.fail(f"never {what}")


def command(child: Any, line: str, answer: str) -> None:
    """Type a line at the guest's prompt and wait for its answer and the next prompt."""
    child.send(line + "\r")
    child.expect(answer)
    child.expect(PROMPT)


def test_builtin_guest_shell(spawn: Spawn, record_exercised: Callable[..., None]) -> None:
    child = spawn()
    child.expect(PROMPT)
    assert is_raw(child)
    command(child, "help", "poweroff")
    command(child, "mem", r"(?i)memory|RAM|map")
    command(child, "echo terminal-$$", r"terminal-\$\$\r\n")
    child.send("poweroff\r")
    assert ended(child) == exit_codes.OK
    record_exercised(engine="translator", guest="built-in guest, by hand")


def test_progress_line_is_gone_when_the_guest_speaks(spawn: Spawn) -> None:
    child = spawn()
    child.expect(PROMPT)
    text = child.before
    start = text.index("starting: ")
    # Carriage return and erase-in-line come after each progress line and before anything of the guest's.
    last = max(match.end() for match in re.finditer(r"(?:starting|running): [^\r\n]*", text))
    assert start < last
    assert text[last:].startswith("\r\x1b[K")
    child.send(QUIT)
    assert ended(child) == exit_codes.INTERRUPTED


def test_help_and_prompt(spawn: Spawn) -> None:
    child = spawn()
    child.expect(PROMPT)
    child.send("\x01h")
    child.expect("Ctrl-A X")
    child.send("\x01c")
    child.expect(r"\(pyvmm\) ")
    assert not is_raw(child)
    for line, answer in (
        ("status", "running; up"),
        ("regs", r"rip [0-9a-f]{16}"),
        ("mem 0xffff0 16", r"0x00000ffff0  ea"),
        ("pause", "paused"),
        ("status", "paused; up"),
        ("resume", "running"),
        ("nonsense", "no such command"),
    ):
        child.sendline(line)
        child.expect(answer)
        child.expect(r"\(pyvmm\) ")
    child.sendline("")
    wait_until(lambda: is_raw(child), "raw again")
    command(child, "echo back", "back\r\n")
    child.send("\x01c")
    child.expect(r"\(pyvmm\) ")
    child.sendline("quit")
    assert ended(child) == exit_codes.INTERRUPTED


def test_reset_from_the_prompt(spawn: Spawn) -> None:
    child = spawn()
    child.expect(PROMPT)
    child.send("\x01c")
    child.expect(r"\(pyvmm\) ")
    child.sendline("reset")
    child.sendline("")
    child.expect(PROMPT)
    command(child, "echo again", "again\r\n")
    child.send(QUIT)
    assert ended(child) == exit_codes.INTERRUPTED


def test_control_keys_are_the_guests(spawn: Spawn) -> None:
    child = spawn()
    child.expect(PROMPT)
    child.send("half a line\x03")  # Ctrl-C: the guest's shell drops the line, pyvmm goes on
    child.expect(PROMPT)
    child.send("\x1a\x1c")
    command(child, "\x15echo alive", "alive\r\n")
    child.send(QUIT)
    assert ended(child) == exit_codes.INTERRUPTED


@pytest.mark.parametrize("engine", ["translator", "kvm"])
def test_quit_while_the_guest_loops_with_interrupts_off(
    spawn: Spawn, sector: Callable[[str], Path], engine: str
) -> None:
    if engine == "kvm" and not KvmEngine().availability().usable:
        pytest.skip(f"no KVM here: {KvmEngine().availability().reason}")
    child = spawn("--engine", engine, sector("spin"), "--format", "raw")
    wait_until(lambda: is_raw(child), "raw")
    child.send(QUIT)
    assert ended(child) == exit_codes.INTERRUPTED


def test_a_triple_fault_is_explained(sector: Callable[[str], Path]) -> None:
    done = run_without_terminal(
        "--no-reboot", "--format", "raw", sector("triple_fault"), stdin=subprocess.DEVNULL
    )
    assert done.returncode == exit_codes.GUEST_STOPPED
    text = done.stderr.decode()
    assert "triple fault at " in text
    assert "fault: #DF" in text
    assert "beyond the IDT's limit 0x0" in text


def test_a_signal_that_comes_twice_is_one(spawn: Spawn) -> None:
    """timeout(1) signals the process and then its group: the machine is closed all the same."""
    child = spawn()
    child.expect(PROMPT)
    child.kill(signal.SIGTERM)
    time.sleep(0.02)
    child.kill(signal.SIGTERM)
    assert child.expect(["did not stop", pexpect.EOF]) == 1
    child.wait()  # the second may find the handlers gone, at the very end
    assert (child.exitstatus, child.signalstatus) in ((128 + signal.SIGTERM, None), (None, signal.SIGTERM))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT])
def test_signals_end_it_and_restore_the_terminal(spawn: Spawn, number: signal.Signals) -> None:
    child = spawn("--quiet")
    child.expect(PROMPT)
    assert is_raw(child)
    # A process in front of ours would see the terminal cooked again: so does our end of it, before the child is gone.
    child.kill(number)
    assert ended(child) == 128 + number


def test_stop_and_continue(spawn: Spawn) -> None:
    child = spawn()
    child.expect(PROMPT)
    child.kill(signal.SIGTSTP)

    def stopped() -> bool:
        return Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"

    wait_until(stopped, "stopped")
    assert not is_raw(child)
    child.kill(signal.SIGCONT)
    wait_until(lambda: is_raw(child), "raw again")
    command(child, "echo continued", "continued\r\n")
    child.send(QUIT)
    assert ended(child) == exit_codes.INTERRUPTED


def test_terminal_is_restored(sector: Callable[[str], Path], tmp_path: Path) -> None:
    """A shell in front: its stty sees the same settings before and after, whatever ended the machine."""
    run = " ".join(RUN)
    script = (
        "stty -a > before; "
        f"{run} -q --format raw exit_code.img; echo code $? >> codes; stty -a > after1; "
        f"{run} -q --format raw --timeout 1 spin.img; echo code $? >> codes; stty -a > after2; "
        f"{run} -q --no-reboot --format raw reset.img; echo code $? >> codes; stty -a > after3; "
        f"{run} -q --no-reboot --format raw triple_fault.img; echo code $? >> codes; stty -a > after4"
    )
    for name in ("exit_code", "spin", "reset", "triple_fault"):
        sector(name)
    child = pexpect.spawn("/bin/sh", ["-c", script], encoding="utf-8", timeout=200, cwd=str(tmp_path))
    child.expect(pexpect.EOF)
    child.close()
    codes = [0x10 << 1 | 1, exit_codes.TIMEOUT, exit_codes.GUEST_STOPPED, exit_codes.GUEST_STOPPED]
    assert (tmp_path / "codes").read_text().split() == [
        word for code in codes for word in ("code", str(code))
    ]
    for number in range(1, 5):
        assert (tmp_path / f"after{number}").read_text() == (tmp_path / "before").read_text()


def run_without_terminal(*words: object, stdin: Any, **keywords: Any) -> subprocess.CompletedProcess[bytes]:
    command_line = [*RUN, *map(str, words)]
    return subprocess.run(
        command_line, stdin=stdin, capture_output=True, timeout=200, check=False, **keywords
    )


def typed_through_a_pipe(
    commands: bytes, *words: object, prompt: bytes = PROMPT.encode()
) -> tuple[int, bytes, bytes]:
    """Write `commands` to a pipe and close it as soon as the guest has prompted; exit code, output then, errors."""
    child = subprocess.Popen(
        [*RUN, *map(str, words)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert child.stdin is not None
    assert child.stdout is not None
    before = b""
    while prompt not in before:
        before += (more := os.read(child.stdout.fileno(), 4096))
        assert more, before
    output, errors = child.communicate(commands, timeout=120)
    return child.returncode, output.replace(b"\r", b""), errors


def test_a_pipe_is_typed_into_the_guest() -> None:
    """Its end is not the guest's end: everything typed is executed after it."""
    code, output, errors = typed_through_a_pipe(b"echo from a pipe\rpoweroff\r")
    assert b"\nfrom a pipe\n" in output
    assert code == exit_codes.OK
    assert errors == b""


def test_more_than_the_serial_port_holds_is_all_typed(sector: Callable[[str], Path]) -> None:
    """The queue of the port holds 4096 bytes: the pipe waits for the guest, which polls, and nothing is lost."""
    text = b"".join(b"line %d\n" % number for number in range(3000))
    code, output, _ = typed_through_a_pipe(text + b"~", sector("echo"), "--format", "raw", prompt=b">")
    assert code == 33
    assert output == text


def test_no_input_at_all() -> None:
    done = run_without_terminal("--timeout", "5", stdin=subprocess.DEVNULL)
    assert PROMPT.encode() in done.stdout
    assert done.returncode == exit_codes.TIMEOUT
    assert done.stderr.startswith(b"pyvmm: --timeout 5")


def test_auto_says_why_in_one_line(sector: Callable[[str], Path]) -> None:
    disk = sector("exit_code")
    done = run_without_terminal("--engine", "auto", "--format", "raw", disk, stdin=subprocess.DEVNULL)
    assert done.returncode == 33
    assert re.fullmatch(r"pyvmm: engine (kvm|translator): [^\n]+\n", done.stderr.decode())


def test_a_guessed_raw_format_is_warned_about(sector: Callable[[str], Path]) -> None:
    disk = sector("exit_code")
    done = run_without_terminal(disk, stdin=subprocess.DEVNULL)
    assert done.returncode == 33
    assert done.stderr.decode().count("\n") == 1
    assert done.stderr.decode().startswith(f"pyvmm: {disk}: format not given, taken for raw")
    quiet = run_without_terminal(disk, "--format", "raw", stdin=subprocess.DEVNULL)
    assert quiet.stderr == b""


def test_serial_to_a_file(tmp_path: Path) -> None:
    log = tmp_path / "serial.log"
    done = run_without_terminal("--serial", f"file:{log}", "--timeout", "5", stdin=subprocess.DEVNULL)
    assert PROMPT.encode() in log.read_bytes()
    assert done.stdout == b""


def test_builtin_disk_is_not_written() -> None:
    before = Path(builtin_disk().path).read_bytes()
    code, output, _ = typed_through_a_pipe(b"disk write 3000 hello\rdisk read 3000\rpoweroff\r")
    assert code == exit_codes.OK
    assert b"hello" in output.partition(b"disk read 3000")[2]
    assert Path(builtin_disk().path).read_bytes() == before


def test_a_guest_that_halts_for_good_is_said_so(sector: Callable[[str], Path]) -> None:
    done = run_without_terminal(sector("hang"), "--format", "raw", stdin=subprocess.DEVNULL)
    assert done.returncode == exit_codes.GUEST_STOPPED
    assert done.stderr == b"pyvmm: the guest halted with interrupts off: nothing can wake it; ended\n"


def test_a_disk_that_does_not_boot(tmp_path: Path) -> None:
    disk = tmp_path / "empty.img"
    disk.write_bytes(bytes(1 << 20))
    done = run_without_terminal(disk, "--format", "raw", stdin=subprocess.DEVNULL)
    assert done.returncode == exit_codes.ERROR
    assert done.stderr.decode().count("\n") == 1
    assert str(disk) in done.stderr.decode()
    assert disk.read_bytes() == bytes(1 << 20)


def test_debug_console_is_shown_when_asked_for(sector: Callable[[str], Path]) -> None:
    disk = sector("debug")
    shown = run_without_terminal(disk, "--format", "raw", "--debug-console", stdin=subprocess.DEVNULL)
    assert (shown.returncode, shown.stderr) == (33, b"D")
    hidden = run_without_terminal(disk, "--format", "raw", stdin=subprocess.DEVNULL)
    assert (hidden.returncode, hidden.stderr) == (33, b"")


@pytest.mark.parametrize("ignored", [False, True], ids=["SIGHUP", "no SIGHUP"])
def test_a_terminal_that_goes_away_ends_it(ignored: bool) -> None:
    """The window is closed: by the signal, or, where that is ignored (nohup), by the end of input."""
    pid, terminal = pty.fork()
    if pid == 0:
        if ignored:
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
        os.execv(RUN[0], [*RUN, "--timeout", "200"])
    seen = b""
    while PROMPT.encode() not in seen:
        seen += os.read(terminal, 4096)
    os.close(terminal)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 128 + signal.SIGHUP
