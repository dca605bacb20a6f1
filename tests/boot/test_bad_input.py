"""What ``pyvmm run`` says of bad files: one line that names the file, exit code 1, and the file untouched."""

from __future__ import annotations

import hashlib
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pyvmm.block import create_image, open_image

RUN = [
    sys.executable,
    "-m",
    "pyvmm.cli.main",
    "run",
    "--engine",
    "translator",
    "-m",
    "64M",
    "--timeout",
    "60",
]


def qcow2(path: Path) -> bytearray:
    create_image(path, "qcow2", 16 << 20)
    with open_image(path, "qcow2") as image:
        image.pwrite(b"data" * 1024, 0)
    return bytearray(path.read_bytes())


def changed(offset: int, fmt: str, value: int) -> Callable[[Path], None]:
    """A qcow2 with one header field changed (QEMU docs/interop/qcow2.txt, "Header")."""

    def make(path: Path) -> None:
        data = qcow2(path)
        struct.pack_into(fmt, data, offset, value)
        path.write_bytes(data)

    return make


def truncated(path: Path) -> None:
    path.write_bytes(qcow2(path)[:70])


def overlay_of_nothing(path: Path) -> None:
    base = path.with_name("base.qcow2")
    qcow2(base)
    create_image(path, "qcow2", None, backing_file=str(base), backing_format="qcow2")
    base.unlink()


def no_signature(path: Path) -> None:
    path.write_bytes(bytes(1 << 20))


BAD_DISKS: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "bad magic": (changed(0, ">I", 0x51464900), "qcow2", "magic"),
    "version": (changed(4, ">I", 9), "qcow2", "version"),
    "cluster bits": (changed(20, ">I", 40), "qcow2", "cluster"),
    "absurd size": (changed(24, ">Q", 1 << 62), "qcow2", "size"),
    "L1 beyond the file": (changed(40, ">Q", 1 << 40), "qcow2", "L1"),
    "L1 not aligned": (changed(40, ">Q", 0x30001), "qcow2", "L1"),
    "refcount table beyond the file": (changed(48, ">Q", 1 << 40), "qcow2", "refcount"),
    "truncated": (truncated, "qcow2", "header"),
    "missing backing file": (overlay_of_nothing, "qcow2", "base.qcow2"),
    "no boot signature": (no_signature, "raw", "55AA"),
}


def refused(*arguments: str | Path) -> str:
    """Run, and return the one line that it must print."""
    done = subprocess.run(
        [*RUN, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        timeout=120,
    )
    assert done.returncode == 1, (done.returncode, done.stdout, done.stderr)
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    return lines[0]


@pytest.mark.parametrize("name", BAD_DISKS)
def test_bad_disk(tmp_path: Path, name: str) -> None:
    make, disk_format, word = BAD_DISKS[name]
    path = tmp_path / "disk.img"
    make(path)
    before = hashlib.sha256(path.read_bytes()).hexdigest()
    line = refused(path, "--format", disk_format)
    assert "disk.img" in line
    assert word.lower() in line.lower(), line
    assert hashlib.sha256(path.read_bytes()).hexdigest() == before


def test_missing_disk(tmp_path: Path) -> None:
    assert "nothing.qcow2" in refused(tmp_path / "nothing.qcow2")


def test_a_disk_in_use(tmp_path: Path) -> None:
    path = tmp_path / "disk.qcow2"
    before = qcow2(path)
    with open_image(path, "qcow2"):
        line = refused(path)
    assert "disk.qcow2" in line
    assert "use" in line
    assert str(os.getpid()) in line
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("content", "word"),
    [(b"", "empty"), (b"not a kernel" * 100, "not a kernel"), (b"\x7fELF" + bytes(200), "ELF")],
)
def test_a_kernel_that_is_none(tmp_path: Path, content: bytes, word: str) -> None:
    path = tmp_path / "kernel.bin"
    path.write_bytes(content)
    line = refused("--kernel", path)
    assert "kernel.bin" in line
    assert word.lower() in line.lower(), line
