"""``pyvmm doctor``: each finding has its line, and each bad one says what to do."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

import pyvmm
from pyvmm.cli import doctor
from pyvmm.kvm.probe import ProbeResult

NATIVE = ProbeResult(True, (), 0.4, 0.4, 1.2, True, True, True, True)


@pytest.fixture(autouse=True)
def version(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package need not be installed."""
    monkeypatch.setitem(vars(pyvmm), "__version__", "0")


@pytest.mark.parametrize(
    ("flags", "modules", "processor", "module"),
    [
        ("vmx sse", ["kvm", "kvm_intel"], "", ""),
        ("vmx", [], "", "modprobe kvm_intel"),
        ("svm", ["kvm"], "", "modprobe kvm_amd"),
        ("sse hypervisor", ["kvm"], "nested virtualisation", ""),
        ("sse", [], "firmware", ""),
    ],
)
def test_host(tmp_path: Path, flags: str, modules: list[str], processor: str, module: str) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor : 0\nflags\t\t: fpu {flags}\n")
    for name in modules:
        (tmp_path / "module" / name).mkdir(parents=True)
    first, second = doctor.host_checks(str(tmp_path / "cpuinfo"), str(tmp_path / "module"))
    assert first.good == (not processor)
    assert processor in first.advice
    assert second.good == any(name in modules for name in ("kvm_intel", "kvm_amd"))
    assert module in second.advice


def test_a_good_host_needs_nothing() -> None:
    checks = [check for check in doctor.kvm_checks(NATIVE) if check.name not in ("capabilities", "vCPUs")]
    assert all(check.good and not check.advice for check in checks)


def test_every_failing_line_says_what_to_do() -> None:
    reasons = (
        "ring 0 is interpreted",
        "no INT3 in ring 0 (never ends)",
        "no INT 80h from ring 3 (exception)",
    )
    checks = doctor.kvm_checks(ProbeResult(True, reasons, 550.0, 0.4, 9.0))
    failing = [check for check in checks if not check.good]
    assert {"ring 0", "32-bit paging", "INT3 in ring 0", "SYSCALL from ring 3", "INT 80h from ring 3"} <= {
        check.name for check in failing
    }
    assert all(check.advice for check in failing)
    assert next(check.found for check in checks if check.name == "INT 80h from ring 3") == reasons[2]


def test_no_device() -> None:
    (check,) = doctor.kvm_checks(ProbeResult(False, ("/dev/kvm: no such file; load the module",)))
    assert (check.good, check.found, check.advice) == (False, "/dev/kvm: no such file", "load the module")


def test_json_and_table(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert doctor.run(argparse.Namespace(json=True)) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["auto"]["engine"] in ("kvm", "translator")
    assert {check["name"] for check in report["checks"]} >= {"translator", "processor", "modules", "/dev/kvm"}
    assert doctor.run(argparse.Namespace(json=False)) == 0
    text = capsys.readouterr().out
    assert "--engine auto takes" in text
    for name in ("translator", "processor", "/dev/kvm"):
        assert name in text
