"""docs/bios.md lists every function that the BIOS answers."""

from __future__ import annotations

from pathlib import Path

from pyvmm.firmware.bios import Bios

DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "bios.md"


def test_every_function_is_listed() -> None:
    text = DOCUMENT.read_text()
    missing = {
        f"{info.source}: {method}"
        for info, method in Bios.functions()
        if f"| {info.source} | `{method}` |" not in text
    }
    assert not missing
