"""What a probe found, kept for this boot of the host: read at every start of a machine, hence without any import.

One small file of lines ``name value``, in ``$XDG_CACHE_HOME/pyvmm`` or ``~/.cache/pyvmm``. Its first line tells what it
was measured on: the probe's version, the host's boot (``boot_id``, random(4): another kernel is another boot), the
device file, and the KVM modules that are loaded. Who cannot read or write it measures each time.
"""

from __future__ import annotations

import os

PROBE_VERSION = 2
BOOT_ID = "/proc/sys/kernel/random/boot_id"
MODULES = "/sys/module"


def cache_file() -> str:
    """Where it is kept."""
    folder = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(folder, "pyvmm", "kvm-probe")


def cache_key(device: str) -> str | None:
    """What a result holds for; None: it cannot be told, so do not keep any."""
    try:
        with open(BOOT_ID, "rb") as file:
            boot = file.read(64).decode().strip()
        node = os.stat(device)
        modules = sorted(name for name in os.listdir(MODULES) if name.startswith("kvm"))
    except OSError:
        return None
    return f"{PROBE_VERSION} {boot} {device} {node.st_rdev:x} {node.st_ino:x} {' '.join(modules)}"


def load(device: str) -> list[tuple[str, str]] | None:
    """The lines that were stored for this device and boot; None: measure."""
    key = cache_key(device)
    if key is None:
        return None
    try:
        with open(cache_file(), "rb") as file:
            lines = file.read(16384).decode().split("\n")
    except (OSError, ValueError):
        return None
    if lines[0] != key or lines[-2:] != ["end", ""]:
        return None
    pairs = [line.partition(" ") for line in lines[1:-2]]
    return [(name, value) for name, _, value in pairs]


def store(device: str, lines: list[tuple[str, str]]) -> None:
    """Keep them; a read-only home is no reason to fail."""
    key = cache_key(device)
    if key is None:
        return
    path = cache_file()
    scratch = f"{path}.{os.getpid()}"
    text = "".join(f"{name} {' '.join(value.split())}\n" for name, value in lines)
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        with open(scratch, "wb") as file:
            file.write(f"{key}\n{text}end\n".encode())
        os.replace(scratch, path)
    except OSError:
        try:  # noqa: SIM105 - contextlib is slow to import
            os.unlink(scratch)
        except OSError:
            pass
