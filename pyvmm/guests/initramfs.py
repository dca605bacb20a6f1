"""A small Linux user space in an initramfs: the host's static busybox and one init script.

The archive is the kernel's "newc" cpio (Linux Documentation/driver-api/early-userspace/buffer-format.rst), written here
so that device nodes need no root and two builds are equal byte for byte. Left out: hard links, checksums (newc crc).
"""

from __future__ import annotations

import gzip
import stat
from collections.abc import Mapping
from pathlib import Path

from pyvmm.guests.tools import GuestBuildError, find_tool

# Prints a line UP once the kernel has handed over, then gives a shell on the console; its exit powers the machine off.
BUSYBOX_INIT = """\
#!/bin/sh
/bin/busybox --install -s /bin
export PATH=/bin HOME=/ PS1='guest# '
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev 2>/dev/null
echo
echo UP
setsid cttyhack sh
poweroff -f
"""


def _entry(number: int, name: str, mode: int, data: bytes, device: tuple[int, int]) -> bytes:
    """Return one newc entry: header of 13 hex words, name and data, each padded to 4 bytes."""
    words = (number, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(name.encode()) + 1, 0)
    head = b"070701" + b"".join(b"%08X" % word for word in words) + name.encode() + b"\0"
    return head + b"\0" * (-len(head) % 4) + data + b"\0" * (-len(data) % 4)


class Cpio:
    """A newc archive in the making; names are relative to the root, without a leading slash."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def _add(self, name: str, mode: int, data: bytes = b"", device: tuple[int, int] = (0, 0)) -> None:
        self._parts.append(_entry(len(self._parts) + 1, name, mode, data, device))

    def folder(self, name: str, mode: int = 0o755) -> None:
        """Add a folder; its parent must have been added before."""
        self._add(name, stat.S_IFDIR | mode)

    def file(self, name: str, data: bytes, mode: int = 0o644) -> None:
        """Add a regular file."""
        if len(data) > 0xFFFFFFFF:
            raise GuestBuildError(f"{name}: newc files end at 4 GiB")
        self._add(name, stat.S_IFREG | mode, data)

    def link(self, name: str, target: str) -> None:
        """Add a symbolic link."""
        self._add(name, stat.S_IFLNK | 0o777, target.encode())

    def device(self, name: str, major: int, minor: int, mode: int = 0o600) -> None:
        """Add a character device."""
        self._add(name, stat.S_IFCHR | mode, device=(major, minor))

    def data(self) -> bytes:
        """Return the archive with its trailer."""
        return b"".join(self._parts) + _entry(0, "TRAILER!!!", 0, b"", (0, 0))


def is_static_elf(data: bytes) -> bool:
    """Tell whether an ELF64 program has no PT_INTERP, that is, needs no libraries (System V ABI, program header)."""
    if data[:5] != b"\x7fELF\x02" or len(data) < 64:
        return False
    table = int.from_bytes(data[32:40], "little")
    size, count = int.from_bytes(data[54:56], "little"), int.from_bytes(data[56:58], "little")
    return all(data[table + i * size : table + i * size + 4] != b"\x03\0\0\0" for i in range(count))


def build_initramfs(
    out: Path,
    init: str = BUSYBOX_INIT,
    *,
    files: Mapping[str, bytes] | None = None,
    busybox: Path | None = None,
    compress: bool = True,
) -> Path:
    """Write a gzipped initramfs of busybox and `init`, and return its path.

    Parameters
    ----------
    init
        Script that the kernel starts as process 1. Only ``/bin/busybox`` and ``/bin/sh`` are there at first.
    files
        More files by absolute path; executable when they start with ``#!`` or as ELF.
    busybox
        A static busybox; the host's own by default.

    Raises
    ------
    GuestBuildError
        No static busybox on the host.
    """
    program = busybox or Path(find_tool("busybox") or "/bin/busybox")
    if not program.is_file():
        raise GuestBuildError("missing busybox: apt-get install busybox-static")
    code = program.read_bytes()
    if not is_static_elf(code):
        raise GuestBuildError(f"{program} needs shared libraries: apt-get install busybox-static")
    archive = Cpio()
    for name in ("bin", "dev", "etc", "proc", "root", "sys", "tmp"):
        archive.folder(name)
    archive.device("dev/console", 5, 1)
    archive.device("dev/null", 1, 3, 0o666)
    archive.file("bin/busybox", code, 0o755)
    archive.link("bin/sh", "busybox")
    archive.file("init", init.encode(), 0o755)
    made = {"bin", "dev", "etc", "proc", "root", "sys", "tmp"}
    for name, data in (files or {}).items():
        path = Path(name.lstrip("/"))
        for parent in reversed(path.parents[:-1]):
            if str(parent) not in made:
                archive.folder(str(parent))
                made.add(str(parent))
        archive.file(str(path), data, 0o755 if data[:2] == b"#!" or data[:4] == b"\x7fELF" else 0o644)
    data = archive.data()
    out.write_bytes(gzip.compress(data, 6, mtime=0) if compress else data)
    return out
