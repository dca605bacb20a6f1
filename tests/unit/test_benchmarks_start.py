"""benchmarks/start.py: what is guest RAM and what is not, and that its guest says its byte first of all."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from pyvmm.machine.machine import Machine

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"

SMAPS = """\
7f0000000000-7f0020000000 rw-p 00000000 00:00 0
Size:             524288 kB
Rss:                 640 kB
7f0100000000-7f0120000000 rwxp 00000000 00:00 0 [anon:code]
Size:             524288 kB
Rss:                2048 kB
7f0200000000-7f0210000000 rw-s 00000000 00:01 123   /memfd:pyvmm-ram (deleted)
Size:             262144 kB
Rss:                 128 kB
7f0300000000-7f0300001000 rw-p 00000000 00:00 0
Size:                  4 kB
Rss:                   4 kB
"""


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    for name in ("start", "commands", "common"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return __import__("start")


def test_guest_ram(start: ModuleType) -> None:
    assert start.guest_ram_in(SMAPS) == 640 + 128
    assert start.guest_ram_in("") == 0


def test_command_lines(start: ModuleType) -> None:
    from pyvmm.cli.options import parse_quickly

    words = start.pyvmm("kvm", "--firmware", "x.rom")
    quick = parse_quickly(words[words.index("run") + 1 :])
    assert quick is not None
    assert (quick.engine, quick.firmware, quick.memory) == ("kvm", "x.rom", f"{start.MEMORY_MIB}M")
    assert start.qemu("-bios", "x.rom", machine="microvm")[-2:] == ["-bios", "x.rom"]


def test_the_guest_says_its_byte_and_halts(start: ModuleType, tmp_path: Path) -> None:
    rom = start.write_rom(tmp_path / "first.rom")
    with Machine(memory=1 << 20, firmware=rom, serial="buffer", engine="translator") as machine:
        assert machine.run(timeout=30).reason == "halted"
        assert machine.serial.read() == start.FIRST_BYTE
