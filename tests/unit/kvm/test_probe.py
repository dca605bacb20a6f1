"""The probe: what it finds agrees with itself, and its cache is of this boot only."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pyvmm.kvm import probe as probing
from pyvmm.kvm.probe import ProbeResult, probe
from pyvmm.kvm.system import System


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache directory of the test's own; returns the probe's file in it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "pyvmm" / "kvm-probe.json"


def test_a_device_that_is_missing_is_a_result(cache: Path) -> None:
    result = probe("/nonexistent")
    assert not result.usable
    assert not result.good
    assert "modprobe" in str(result)
    assert not cache.exists(), "only what was measured is kept"


def test_probe_of_this_host(system: System, cache: Path) -> None:
    result = probe(cached=False)
    assert result.usable
    assert result.ring0_ns is not None
    assert result.exit_us is not None
    assert result.good == (not result.reasons)
    if not result.ring0_native:
        assert any("ring 0 is interpreted" in reason for reason in result.reasons)
    for found, name in (
        (result.paging_32bit, "32-bit paging"),
        (result.int3_ring0, "INT3"),
        (result.syscall_ring3, "SYSCALL"),
        (result.int80_ring3, "INT 80h"),
    ):
        assert found == (not any(name in reason for reason in result.reasons))
    assert probe() == result, "the second one comes from the cache"
    assert json.loads(cache.read_text())["result"]["usable"]


def test_cache_of_another_boot_is_not_used(
    system: System, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.parent.mkdir()
    cache.write_text(json.dumps({"key": "another boot", "result": {"usable": True, "reasons": []}}))
    calls = []

    def measure(device: object) -> ProbeResult:
        calls.append(device)
        return ProbeResult(True, ("measured",), ring0_ns=1.0)

    monkeypatch.setattr(probing, "_measure", measure)
    assert probe().reasons == ("measured",)
    assert probe().reasons == ("measured",)
    assert len(calls) == 1


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"key": 1}', "\x00", '{"key": "K", "result": {"reasons": 5}}']
)
def test_damaged_cache_is_measured_anew(
    system: System, cache: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setattr(probing, "_measure", lambda device: ProbeResult(True, ("measured",)))
    key = probing._cache_key("/dev/kvm")
    assert key is not None
    cache.parent.mkdir()
    cache.write_text(text.replace('"K"', json.dumps(key)))
    assert probe().reasons == ("measured",)


def test_a_guest_that_never_ends(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "TIMEOUT", 0.02)
    reasons: list[str] = []

    def endless(opened: System) -> object:
        with probing._Guest(opened, b"\xeb\xfe") as guest:
            guest.enter_long_mode(ring3=False)
            return guest.run()

    assert not probing._try(system, endless, "a loop", reasons)  # type: ignore[arg-type]
    assert reasons == ["no a loop (it never ends)"]
