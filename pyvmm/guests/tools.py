"""The host's tools that guests are made with: found or named with their package, run with their output kept.

A tool that fails is reported in one line with the last thing it said; its whole output is in the log file that the
line names.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from pyvmm.errors import PyvmmError

# Where each tool comes from on Debian and Ubuntu.
PACKAGE_OF = {
    "apt-cache": "apt",
    "apt-get": "apt",
    "busybox": "busybox-static",
    "chroot": "coreutils",
    "debootstrap": "debootstrap",
    "dpkg-deb": "dpkg",
    "mke2fs": "e2fsprogs",
    "qemu-img": "qemu-utils",
    "qemu-system-x86_64": "qemu-system-x86",
}

_SBIN = ("/usr/local/sbin", "/usr/sbin", "/sbin")


class GuestBuildError(PyvmmError):
    """A guest could not be made; the message is one line and says what to do next."""


def find_tool(name: str) -> str | None:
    """Return the path of a tool, looking in the sbin folders too, which a user's PATH often leaves out."""
    path = os.environ.get("PATH", os.defpath)
    return shutil.which(name, path=os.pathsep.join((path, *_SBIN)))


def require_tools(names: Iterable[str]) -> dict[str, str]:
    """Return ``{name: path}`` for every tool.

    Raises
    ------
    GuestBuildError
        Naming all missing tools and the packages that have them.
    """
    found = {name: find_tool(name) for name in names}
    missing = sorted(name for name, path in found.items() if path is None)
    if missing:
        packages = " ".join(sorted({PACKAGE_OF.get(name, name) for name in missing}))
        raise GuestBuildError(f"missing {', '.join(missing)}: apt-get install {packages}")
    return {name: path for name, path in found.items() if path is not None}


def run_logged(
    argv: Sequence[str | os.PathLike[str]],
    log: Path,
    *,
    stdin: str | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> str:
    """Run a tool, append its output to `log`, and return what it wrote to standard output.

    Raises
    ------
    GuestBuildError
        When the tool cannot be started or exits with another code than 0.
    """
    command = [os.fspath(word) for word in argv]
    with log.open("ab") as out:
        out.write(f"$ {' '.join(command)}\n".encode())
        out.flush()
        try:
            done = subprocess.run(
                command,
                input=None if stdin is None else stdin.encode(),
                stdin=subprocess.DEVNULL if stdin is None else None,
                capture_output=True,
                env=None if env is None else dict(env),
                cwd=cwd,
                check=False,
            )
        except OSError as error:
            raise GuestBuildError(f"{command[0]}: {error.strerror}") from error
        out.write(done.stdout + done.stderr)
    if done.returncode != 0:
        raise GuestBuildError(
            f"{Path(command[0]).name} failed ({done.returncode}): {last_line(log)} (see {log})"
        )
    return done.stdout.decode(errors="replace")


def last_line(log: Path) -> str:
    """Return the last line of a log that is not blank."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines()]
    return next((line for line in reversed(lines) if line), "no output")


class Progress:
    """Lines that tell a user how far a long job is, each with the seconds since its start."""

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet
        self.started = time.monotonic()

    def say(self, text: str) -> None:
        """Print one line."""
        if not self.quiet:
            print(f"[{time.monotonic() - self.started:5.0f} s] {text}", flush=True)


def cache_directory() -> Path:
    """Return the folder where fetched packages are kept: ``$XDG_CACHE_HOME/pyvmm``, or ``~/.cache/pyvmm``."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "pyvmm"
