"""The built-in guest under ``pyvmm run``: the same session as under QEMU, by the BIOS and by ``--kernel``."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pexpect
import pytest

from pyvmm.cli.run import builtin_disk
from tests.boot import builtin_session as session
from tests.conftest import RecordExercised

pytestmark = pytest.mark.boot

RUN = ("-m", "pyvmm.cli.main", "run", "-m", "128M", "--engine", "translator")


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """Return a copy of the packaged disk that may be written."""
    return Path(shutil.copy(builtin_disk().path, tmp_path / "disk.qcow2"))


def start(*options: str) -> pexpect.spawn[str]:
    return pexpect.spawn(sys.executable, [*RUN, *options], encoding="utf-8", timeout=120)


@pytest.mark.parametrize("way", ["bios", "kernel"])
def test_session(disk: Path, way: str, record_exercised: RecordExercised) -> None:
    """Every command of the shell; what it wrote is in the image, which is clean."""
    kernel = disk.parent / "guest-kernel.elf"
    shutil.copy(Path(builtin_disk().path).parent / "guest-kernel.elf", kernel)
    child = start(str(disk), *(["--kernel", str(kernel)] if way == "kernel" else []))
    session.expect_boot(child)
    session.run_session(child)
    assert session.power_off(child) == 0
    raw = disk.with_suffix(".raw")
    subprocess.run(["qemu-img", "convert", "-O", "raw", disk, raw], check=True)
    sector = raw.read_bytes()[session.WRITE_LBA * 512 :][:512]
    assert sector.startswith(session.WRITE_TEXT.encode())
    assert subprocess.run(["qemu-img", "check", "-q", disk], check=False).returncode == 0
    record_exercised(engine="translator", guest=f"built-in guest, {way}")


@pytest.mark.parametrize("command", ["reboot", "crash triple"])
def test_reset(disk: Path, command: str) -> None:
    """The guest resets the machine, and starts again."""
    child = start(str(disk))
    session.expect_boot(child)
    child.send(f"{command}\r")
    session.expect_boot(child)
    assert session.power_off(child) == 0
