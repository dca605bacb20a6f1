"""``pyvmm lab`` as a user types it."""

from __future__ import annotations

import json
import sys

import pytest

from pyvmm.cli.main import main


def test_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["lab", "--technique", "bare", "--workload", "in", "--workload", "syscall", "--count", "50"])
        == 0
    )
    told = capsys.readouterr()
    lines = told.out.splitlines()
    assert lines[0].split() == ["translator", "bare"]
    assert [line.split()[0] for line in lines[2:4]] == ["in", "syscall"]
    assert [line.split(":")[0] for line in lines[5:]] == ["exits", "emulated", "<"]
    assert lines[2].split()[1:3] == ["1.0", "0"]
    assert told.err == ""


def test_details_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["lab", "--technique", "bare", "--workload", "in", "--count", "50"]
    assert main([*words, "--details"]) == 0
    assert "exits" in capsys.readouterr().out.split("\n\n")[2]
    assert main([*words, "--json"]) == 0
    (result,) = json.loads(capsys.readouterr().out)
    assert result["operations"] == 50
    assert result["exits"]["io"] >= 50


def test_checks(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lab", "--checks", "--technique", "bare"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["check", "bare"]
    assert {line.split()[1] for line in lines[2:] if line} == {"right"}


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--count", "0"], "argument --count: '0': a number from 1 to 1000000000"),
        (["--technique", "magic"], "argument --technique: invalid choice: 'magic'"),
    ],
)
def test_a_wrong_option(words: list[str], why: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["lab", *words])
    assert left.value.code == 2
    assert why in capsys.readouterr().err


def test_an_engine_that_is_no_hardware(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lab", "--technique", "hardware", "--workload", "in"]) == 4
    assert "hardware assistance is engine kvm" in capsys.readouterr().err


def test_an_error_has_a_line_of_its_own(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a terminal the line that tells how far it is is wiped before."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert main(["lab", "--technique", "hardware", "--workload", "in"]) == 4
    progress, _, error = capsys.readouterr().err.rpartition("\r\x1b[K")
    assert "hardware" in progress
    assert error.startswith("pyvmm: hardware assistance is engine kvm")
