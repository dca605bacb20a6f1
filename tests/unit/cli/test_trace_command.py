"""``pyvmm trace`` as a user types it."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from pyvmm import assemble
from pyvmm.trace import load

GUESTS = 1
"""The guest's exit code: it writes 0 to the exit port, which QEMU's isa-debug-exit makes 2 * 0 + 1."""
PROGRAM = """
    xor ax, ax
    mov ds, ax
    mov cx, 50
again:
    mov al, 0x41
    mov dx, 0x3f8
    out dx, al
    loop again
    mov dx, 0x501
    xor al, al
    out dx, al
"""


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A disk whose boot sector writes to the serial port fifty times, and ends."""
    path = tmp_path / "disk.img"
    sector = assemble(PROGRAM, bits=16, address=0x7C00)
    path.write_bytes(sector + bytes(510 - len(sector)) + b"\x55\xaa" + bytes(1 << 20))
    return path


@dataclass
class Told:
    """What a command said."""

    code: int
    out: str
    err: str


def pyvmm(*words: str) -> Told:
    command = [sys.executable, "-m", "pyvmm.cli.main", *words]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
    return Told(done.returncode, done.stdout, done.stderr)


def trace(disk: Path, *words: str) -> Told:
    """The command with the options that make it a quiet machine."""
    quiet = ["--engine", "translator", "--format", "raw", "--net", "none", "--serial", "null"]
    return pyvmm("trace", *quiet, *words, str(disk))


def test_the_report(disk: Path, tmp_path: Path) -> None:
    out = tmp_path / "boot.trace"
    told = trace(disk, "--out", str(out), "--explain", "--top", "5")
    assert told.code == GUESTS, told
    lines = [line for line in told.out.splitlines() if line]
    head = lines[0]
    assert "exits at" in head
    assert "engine translator" in head
    assert "no symbols" in head
    heads = next(line for line in lines if line.split()[:2] == ["exits", "share"])
    assert heads.split() == ["exits", "share", "cycles", "each", "ring", "where", "what"]
    rows = [line for line in lines if line.endswith("OUT 0x3f8, 16550 UART, transmitter holding (THR)")]
    assert rows[0].split()[0] == "50"
    assert any(line.split()[-1:] == ["uart16550"] for line in lines)
    assert sum(line.startswith("  paravirtual") for line in lines) >= 3
    assert lines[-1] == f"recorded in {out}: pyvmm trace --show {out}"
    recording = load(out)
    (site,) = [site for site in recording.sites if site.address == 0x3F8 and site.is_write]
    assert (site.count, site.mode) == (50, "real")

    again = pyvmm("trace", "--show", str(out), "--top", "5")
    assert again.out.lstrip("\n").splitlines()[0] == head
    assert rows[0] in again.out.splitlines()


def test_figures(disk: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib (extra `plots`) is not installed")
    heat, costs = tmp_path / "heat.png", tmp_path / "costs.svg"
    told = trace(disk, "--heat-map", str(heat), "--histogram", str(costs))
    assert told.code == GUESTS, told
    assert heat.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert b"<svg" in costs.read_bytes()
    assert f"drawn in {heat}" in told.out
    told = trace(disk, "--heat-map", str(tmp_path / "heat.nothing"))
    assert told.code != 0
    assert "heat.nothing" in told.err
    assert told.err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--top", "0"], "--top 0: 1 to 1000 sites; write --top 10"),
        (["--events", "0"], "--events 0: 1 to 16777216 exits"),
        (["--out", "/no/such/folder/x"], "--out /no/such/folder/x: there is no folder /no/such/folder"),
        (["--show", "/no/such/file"], "/no/such/file"),
        (["--symbols", "/no/such/map"], "/no/such/map"),
        (["--show", "{disk}"], "offset 0: not a recording of pyvmm trace"),
        (["--symbols", "{disk}"], "is not `ADDRESS TYPE NAME`"),
        (["--show", "{disk}", "--explain"], "--explain needs the guest's memory"),
    ],
)
def test_what_is_wrong_is_one_line(words: list[str], why: str, disk: Path) -> None:
    told = trace(disk, *(word.format(disk=disk) for word in words))
    assert told.code != 0
    assert why in told.err
    assert told.err.count("\n") == 1


def test_a_damaged_recording_is_refused(disk: Path, tmp_path: Path) -> None:
    out = tmp_path / "boot.trace"
    assert trace(disk, "--out", str(out)).code == GUESTS
    out.write_bytes(out.read_bytes()[:-100])
    told = pyvmm("trace", "--show", str(out))
    assert told.code != 0
    assert told.err.startswith(f"pyvmm: {out}: truncated at offset ")
