"""That the translator passed its self-tests: remembered, since they take 2 ms of every start.

What they find out depends on the extension and on the host, so they are run again for another extension (path, size
and time of change of its file) and after another boot of the host (``boot_id``, random(4)). One small file for each
installation, in ``$XDG_CACHE_HOME/pyvmm`` or ``~/.cache/pyvmm``. Whoever cannot read or write it runs the tests each
time.
"""

from __future__ import annotations

import os

from pyvmm.native import extension_path

BOOT_ID = "/proc/sys/kernel/random/boot_id"


def is_remembered() -> bool:
    """Whether this very extension passed since the host was booted."""
    try:
        path, wanted = _record()
        with open(path, "rb") as file:
            return file.read(4096) == wanted
    except OSError:
        return False


def remember() -> None:
    """Note that it passed now."""
    try:
        path, content = _record()
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        scratch = f"{path}.{os.getpid()}"
        with open(scratch, "wb") as file:
            file.write(content)
        os.replace(scratch, path)
    except OSError:
        pass  # a read-only home: the tests run at each start


def _record() -> tuple[str, bytes]:
    """The file for this installation, and what it says when the tests passed."""
    extension = extension_path()
    found = os.stat(extension)
    with open(BOOT_ID, "rb") as file:
        boot = file.read(64).decode().strip()
    folder = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    name = f"translator-tested-{found.st_dev:x}-{found.st_ino:x}"
    content = f"{extension} {found.st_size} {found.st_mtime_ns} {boot}\n"
    return os.path.join(folder, "pyvmm", name), os.fsencode(content)
