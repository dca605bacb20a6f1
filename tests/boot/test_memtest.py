"""Memtest86+ from its CD: a guest that knows only the hardware. What it says is read from the screen."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from pyvmm import DiskConfig, Machine
from pyvmm.firmware import seabios

ISO = Path("/usr/lib/memtest86+/memtest86+x64.iso")
pytestmark = [
    pytest.mark.boot,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(not ISO.exists(), reason="Memtest86+ is missing: package memtest86+"),
]
TIMEOUT = 1800.0


def memtest(firmware: str) -> Machine:
    """A small machine with the CD in its drive."""
    if firmware == "seabios" and not any(Path(path).exists() for path in seabios.PATHS):
        pytest.skip("SeaBIOS is missing: package seabios")
    return Machine(
        memory=8 << 20,
        disks=[DiskConfig(ISO, "cdrom", "raw")],
        boot_order="d",
        firmware=firmware,
        serial="buffer",
    )


@pytest.mark.parametrize("firmware", ["pyvmm", "seabios"])
def test_the_first_tests_pass(firmware: str, record_property: Callable[[str, object], None]) -> None:
    """It finds memory and SMBIOS, and gets to the moving inversions without an error."""
    with memtest(firmware) as machine:
        assert machine.wait_for(lambda: re.search(r"Test #[3-9]", machine.screen.text()) is not None, TIMEOUT)
        text = machine.screen.text()
        assert "Memtest86+ v" in text
        assert re.search(r"Memory +: +8MB", text)
        assert re.search(r"Errors: 0\b", text)
        assert "pyvmm PC" in text, "the name of the machine in the SMBIOS table"
        record_property("engine", machine.engine_name)
        record_property("guest", f"Memtest86+, firmware {firmware}")


@pytest.mark.long
@pytest.mark.parametrize("firmware", ["pyvmm", "seabios"])
def test_one_pass(firmware: str, record_property: Callable[[str, object], None]) -> None:
    """All eleven tests of all memory, the bit fade test and its waiting (two minutes) included."""
    with memtest(firmware) as machine:
        assert machine.wait_for(lambda: re.search(r"Pass: +1", machine.screen.text()) is not None, TIMEOUT)
        assert re.search(r"Errors: 0\b", machine.screen.text())
        record_property("engine", machine.engine_name)
        record_property("guest", f"Memtest86+, one pass, firmware {firmware}")
