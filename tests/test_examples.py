"""Every numbered example runs from an empty folder, and shows what it says it shows."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"

SHOWS = {
    "01_builtin_guest.py": ["guest> ", "the guest ended: poweroff"],
    "02_python_device.py": ["the guest read 1 4 9 16 25", "exit code 33"],
    "03_exits_one_by_one.py": ["exits by reason", "0x03f8"],
    "04_a_virtio_device.py": ["the driver got b'HELLO FROM THE GUEST'", "DRIVER_OK"],
}


def test_each_example_has_its_expectation() -> None:
    assert {path.name for path in EXAMPLES.glob("[0-9]*.py")} == set(SHOWS)


@pytest.mark.parametrize("name", sorted(SHOWS))
def test_example(name: str, tmp_path: Path, record_exercised: Callable[..., None]) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for text in SHOWS[name]:
        assert text in done.stdout
    record_exercised(engine="translator", guest=f"examples/{name}")
