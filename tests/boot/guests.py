"""Drive a virtual machine monitor as a user does: its command line on a terminal, what it prints, what one types.

A `Vmm` knows how to say "boot this disk" and "boot this kernel" to one program, a `Session` is one run of it under
pexpect. The same session functions run under pyvmm and under QEMU, which is how they are checked themselves:
``PYVMM_TEST_VMM=qemu`` puts QEMU in pyvmm's place.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pexpect
import pytest

# Seconds. They only end a test that hangs: a slow host is not a failure.
BOOT_TIMEOUT = 600
COMMAND_TIMEOUT = 240


@dataclass(frozen=True)
class Vmm:
    """A program that runs guests, by its command line."""

    name: str
    engine: str = "auto"

    def disk(self, path: Path, memory: int = 512, interface: str = "virtio") -> list[str]:
        """Return the command that boots a qcow2 with `memory` MiB, COM1 on the terminal."""
        if self.name == "pyvmm":
            words = [str(path), "--interface", interface, "--engine", self.engine]
            return [*_PYVMM, *words, "-m", f"{memory}M", "--serial", "stdio"]
        return [*_QEMU, "-m", str(memory), "-drive", f"file={path},if={interface},format=qcow2"]

    def kernel(self, kernel: Path, initrd: Path, append: str, memory: int = 512) -> list[str]:
        """Return the command that starts a kernel directly, with `memory` MiB."""
        if self.name == "pyvmm":
            files = ["--kernel", str(kernel), "--initrd", str(initrd), "--append", append]
            return [*_PYVMM, *files, "--engine", self.engine, "-m", f"{memory}M", "--serial", "stdio"]
        return [*_QEMU, "-m", str(memory), "-kernel", str(kernel), "-initrd", str(initrd), "-append", append]

    def virtio(self, disk: Path) -> list[str]:
        """Return the words that add a qcow2 disk on virtio."""
        if self.name == "pyvmm":
            return ["--disk", f"path={disk},if=virtio,format=qcow2"]
        return ["-drive", f"file={disk},if=virtio,format=qcow2"]

    def ide(self, disk: Path, iso: Path) -> list[str]:
        """Return the words that add a qcow2 disk and a disc on the IDE controller."""
        if self.name == "pyvmm":
            return ["--disk", f"path={disk},if=ide,format=qcow2", "--cdrom", str(iso)]
        return ["-drive", f"file={disk},if=ide,index=0,format=qcow2", "-cdrom", str(iso)]


_PYVMM = [sys.executable, "-m", "pyvmm.cli.main", "run"]
_QEMU = ["qemu-system-x86_64", "-no-user-config", "-accel", "tcg", "-M", "pc"]
_QEMU += ["-vga", "none", "-nic", "none", "-nographic"]


@dataclass(frozen=True)
class Result:
    """A command in the guest: its exit code and what it printed."""

    code: int
    output: str


class Session:
    """One run of a guest on a pseudo-terminal of 24 x 80, as pexpect makes them."""

    def __init__(self, argv: list[str], log: Path) -> None:
        self._log = log.open("w", encoding="utf-8")
        self._log.write(f"$ {' '.join(argv)}\n")
        self.child = pexpect.spawn(
            argv[0], argv[1:], encoding="utf-8", codec_errors="replace", timeout=BOOT_TIMEOUT, echo=False
        )
        self.child.logfile_read = self._log

    def expect(self, pattern: str, timeout: float = BOOT_TIMEOUT) -> re.Match[str]:
        """Wait for a pattern in what the guest prints; fail with the last lines when the run ends or hangs."""
        try:
            self.child.expect(pattern, timeout=timeout)
        except (pexpect.EOF, pexpect.TIMEOUT) as error:
            end = "ended" if isinstance(error, pexpect.EOF) else f"printed nothing like it in {timeout:.0f} s"
            tail = "\n".join((self.child.before or "").splitlines()[-25:])
            why = f"waiting for {pattern!r}, the run {end}; see {self._log.name}; last lines:\n{tail}"
            pytest.fail(why, pytrace=False)
        match = self.child.match
        assert isinstance(match, re.Match)
        return match

    def login(self, password: str = "pyvmm") -> None:
        """Log in as root at the prompt that comes, and make the shell plain: no colours, no wrapping, no echo."""
        self.expect("login: ")
        self.child.sendline("root")
        self.expect("[Pp]assword: ")
        self.child.sendline(password)
        self.expect(r"root@\S+# ")
        self.plain_shell()

    def plain_shell(self) -> None:
        """Turn off what a terminal for people adds to a shell's output."""
        self.child.sendline("export TERM=dumb PS1= PAGER=cat; stty -echo cols 1000")
        self.child.sendline("bind 'set enable-bracketed-paste off' 2>/dev/null")  # bash only
        self.run("true")

    def run(self, command: str, timeout: float = COMMAND_TIMEOUT) -> Result:
        """Run a shell command in the guest and return its exit code and output."""
        # Begin and end are written so that an echo of the line has neither.
        self.child.sendline(f"echo '<<''begin>>'; {command}; echo \"<<\"\"end $?>>\"")
        self.expect("<<begin>>\r+\n", timeout)
        match = self.expect(r"<<end (\d+)>>\r+\n", timeout)
        return Result(int(match[1]), (self.child.before or "").replace("\r", ""))

    def check(self, command: str, timeout: float = COMMAND_TIMEOUT) -> str:
        """Run a command that must exit with 0 and return its output."""
        result = self.run(command, timeout)
        assert result.code == 0, f"{command!r} exited with {result.code}: {result.output}"
        return result.output

    def poweroff(self, command: str = "poweroff") -> int:
        """Power the guest off and return the exit code of the program that ran it (negative: killed by a signal)."""
        self.child.sendline(command)
        return self.wait()

    def wait(self, timeout: float = BOOT_TIMEOUT) -> int:
        """Wait until the program ends by itself and return its exit code."""
        try:
            self.child.expect(pexpect.EOF, timeout=timeout)
        except pexpect.TIMEOUT:
            tail = "\n".join((self.child.before or "").splitlines()[-25:])
            pytest.fail(f"the guest did not end; see {self._log.name}; last lines:\n{tail}", pytrace=False)
        self.child.close()
        if self.child.exitstatus is not None:
            return int(self.child.exitstatus)
        return -int(self.child.signalstatus or 0)

    def close(self) -> None:
        """End the run whatever state it is in."""
        if self.child.isalive():
            self.child.kill(signal.SIGKILL)
            self.child.wait()  # close() gives a killed process only 0.1 s to give its memory back
        self.child.close(force=True)
        self._log.close()


# The `boot` fixture: runs a guest for a `with` block.
Boot = Callable[[list[str]], contextlib.AbstractContextManager[Session]]


@contextlib.contextmanager
def booted(argv: list[str], log: Path) -> Iterator[Session]:
    """Run a guest for a `with` block."""
    session = Session(argv, log)
    try:
        yield session
    finally:
        session.close()


# What a guest writes, and what its SHA-256 must be: (file, shell command, contents made on the host).
def _numbers(count: int) -> bytes:
    return b"".join(b"%d\n" % number for number in range(1, count + 1))


WRITTEN: tuple[tuple[str, str, bytes], ...] = (
    ("numbers", "seq 1 300000 > {path}", _numbers(300000)),
    ("letters", "head -c 5000000 /dev/zero | tr '\\0' A > {path}", b"A" * 5000000),
    (
        "small",
        "for i in $(seq 1 200); do echo $i > {path}.$i; done; cat $(seq -f {path}.%g 1 200) > {path}",
        _numbers(200),
    ),
)


def write_files(session: Session, folder: str) -> None:
    """Write files of known contents into a folder of the guest and bring them to the disk."""
    session.check(f"mkdir -p {folder}")
    for name, command, _ in WRITTEN:
        session.check(command.format(path=f"{folder}/{name}"))
    session.check("sync")
    check_files(session, folder)


def check_files(session: Session, folder: str) -> None:
    """Read the files back in the guest, from the disk and not its page cache, and compare their SHA-256."""
    session.check("sync; echo 3 > /proc/sys/vm/drop_caches")
    for name, _, contents in WRITTEN:
        said = session.check(f"sha256sum {folder}/{name}").split()[0]
        assert said == hashlib.sha256(contents).hexdigest(), f"{folder}/{name}: not what was written"


def qemu_img(*words: str | Path) -> str:
    """Run qemu-img and return what it printed; it must exit with 0."""
    done = subprocess.run(["qemu-img", *map(str, words)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"qemu-img {words[0]}: {done.stdout}{done.stderr}"
    return done.stdout


def check_image(path: Path) -> None:
    """Fail unless qemu-img finds neither errors nor leaked clusters."""
    assert "No errors were found on the image." in qemu_img("check", "-f", "qcow2", path)


def need(*programs: str) -> None:
    """Skip a test that wants programs this host lacks."""
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))
    missing = [program for program in programs if shutil.which(program, path=path) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}")
