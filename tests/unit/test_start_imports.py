"""What ``pyvmm run`` has imported when the guest's first instruction is about to run (docs/adr/0006)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

# Asked in the run itself, where the vCPU's thread would be started. -I and a bare sys.path: what the environment's own
# .pth files import (an editable installation's finder, coverage) is not ours.
PROGRAM = """
import sys
before = set(sys.modules)
sys.path[:0] = {path!r}
import pyvmm
pyvmm.__path__[:] = {package!r}
from pyvmm.cli.main import main
from pyvmm.threads import Worker

def start(self):
    print(*sorted(set(sys.modules) - before))
    sys.stdout.flush()
    import os
    os._exit(0)

Worker.start = start
main({words!r})
"""

SLOW = {
    "argparse",
    "ast",
    "capstone",
    "collections",
    "contextlib",
    "dataclasses",
    "enum",
    "functools",
    "gettext",
    "importlib.metadata",
    "inspect",
    "json",
    "keystone",
    "logging",
    "numpy",
    "pathlib",
    "re",
    "rich",
    "shutil",
    "signal",
    "struct",
    "subprocess",
    "tempfile",
    "threading",
    "types",
    "typing",
    "zstandard",
}


@pytest.mark.parametrize("engine", ["translator", "kvm"])
def test_nothing_slow_is_imported_before_the_guest_runs(engine: str, tmp_path: Path) -> None:
    import _cffi_backend

    import pyvmm

    if engine == "kvm":
        from pyvmm.kvm import KvmEngine

        usable, reason = KvmEngine().availability()
        if not usable:
            pytest.skip(f"KVM cannot run here: {reason}")
    rom = tmp_path / "first.rom"
    rom.write_bytes(b"\xf4" * 65536)
    package = [str(folder) for folder in pyvmm.__path__]
    path = [str(Path(folder).parent) for folder in [*package, _cffi_backend.__file__]]
    words = ["run", "-m", "16M", "--engine", engine, "--firmware", str(rom), "--serial", "null"]
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", PROGRAM.format(path=path, package=package, words=words)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    imported = set(done.stdout.split())
    assert "pyvmm.machine.machine" in imported
    assert not imported & SLOW
