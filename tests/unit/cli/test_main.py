"""The command itself: light imports, one-line errors, documented exit codes. Each runs the real program."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from pyvmm.cli import exit_codes

ROOT = Path(__file__).resolve().parents[3]


def pyvmm(*words: object, **keywords: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pyvmm.cli.main", *map(str, words)]
    return subprocess.run(
        command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60, **keywords
    )  # type: ignore[call-overload, no-any-return]


def test_help_imports_little() -> None:
    code = (
        "import sys; from pyvmm.cli.main import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "print('MODULES', len(sys.modules), *sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    count, *names = done.stdout.partition("MODULES")[2].split()
    heavy = (
        "unicorn",
        "capstone",
        "keystone",
        "numpy",
        "rich",
        "zstandard",
        "cffi",
        "pyvmm.native",
        "pyvmm.machine",
    )
    assert not [name for name in heavy if name in names]
    bare = subprocess.run(
        [
            sys.executable,
            "-I",
            "-c",
            "import argparse, sys; argparse.ArgumentParser().format_help(); print(len(sys.modules))",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    # argparse's own imports and the editable installation's finder are there anyway; a dozen of ours at most.
    assert int(count) < int(bare.stdout) + 40, sorted(names)


@pytest.mark.parametrize("words", [["--help"], ["run", "--help"], ["image", "--help"], ["doctor", "--help"]])
def test_help(words: list[str]) -> None:
    done = pyvmm(*words)
    assert done.returncode == 0
    assert done.stdout.startswith("usage: ")
    assert done.stderr == ""


def test_version() -> None:
    done = pyvmm("--version")
    assert re.fullmatch(r"pyvmm \d+\.\d+\.\d+\S*\n", done.stdout)
    assert done.returncode == 0


def test_no_command_shows_help() -> None:
    done = pyvmm()
    assert done.returncode == exit_codes.USAGE
    assert "run a disk" in done.stdout


@pytest.mark.parametrize(
    ("words", "code", "begins"),
    [
        (["run", "-m", "3"], exit_codes.USAGE, "pyvmm: -m 3: 3 bytes of RAM; a PC has at least 1 MiB"),
        (["run", "--engine", "fast"], exit_codes.USAGE, "pyvmm: argument --engine: invalid choice: 'fast'"),
        (["run", "--colour"], exit_codes.USAGE, "pyvmm: unrecognized arguments: --colour"),
        (["walk"], exit_codes.USAGE, "pyvmm: argument COMMAND: invalid choice: 'walk'"),
        (["run", "/nowhere/disk.img"], exit_codes.ERROR, "pyvmm: /nowhere/disk.img: no such file"),
        (
            ["run", "--kernel", "/nowhere/vmlinuz"],
            exit_codes.ERROR,
            "pyvmm: --kernel /nowhere/vmlinuz: no such file",
        ),
    ],
)
def test_errors_are_one_line(words: list[str], code: int, begins: str) -> None:
    done = pyvmm(*words)
    assert done.stderr.startswith(begins), done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
    assert done.returncode == code


def test_exit_codes_are_documented() -> None:
    table = (ROOT / "docs" / "cli.md").read_text()
    documented = {int(code) for code in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)}
    ours = {value for name, value in vars(exit_codes).items() if name.isupper()}
    assert ours <= documented


def test_the_installed_command_imports_nothing_of_its_own() -> None:
    """bin/pyvmm, with this interpreter's path in its first line (docs/adr/0006)."""
    script = Path(sys.executable).with_name("pyvmm")
    if not script.exists():
        pytest.skip(f"pyvmm is not installed in this environment: no {script}")
    first, rest = script.read_text().split("\n", 1)
    assert first.startswith("#!/")
    assert rest == (ROOT / "bin" / "pyvmm").read_text().split("\n", 1)[1]
    done = subprocess.run([script, "--version"], capture_output=True, text=True, timeout=60, check=True)
    assert re.fullmatch(r"pyvmm \d+\.\d+\.\d+\S*\n", done.stdout)
