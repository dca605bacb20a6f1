"""The probe: what it finds agrees with itself, and its cache is of this boot only."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyvmm.kvm import probe as probing
from pyvmm.kvm import remembered
from pyvmm.kvm.probe import ProbeResult, probe
from pyvmm.kvm.system import System


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache directory of the test's own; returns the probe's file in it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "pyvmm" / "kvm-probe"


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
    assert "usable True" in cache.read_text()


def test_what_is_remembered_is_of_this_boot_and_device(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = tmp_path / "kvm"
    device.touch()
    calls = []

    def measure(device: object) -> ProbeResult:
        calls.append(device)
        return ProbeResult(True, ("a", "b"), ring0_ns=1.5, int80_ring3=True)

    monkeypatch.setattr(probing, "_measure", measure)
    assert probe(device) == probe(device) == ProbeResult(True, ("a", "b"), ring0_ns=1.5, int80_ring3=True)
    assert len(calls) == 1
    boot = tmp_path / "boot_id"
    boot.write_text("another\n")
    monkeypatch.setattr(remembered, "BOOT_ID", str(boot))
    probe(device)
    assert len(calls) == 2
    modules = tmp_path / "modules"
    (modules / "kvm_other").mkdir(parents=True)
    monkeypatch.setattr(remembered, "MODULES", str(modules))
    probe(device)
    assert len(calls) == 3
    device.rename(tmp_path / "old")
    device.touch()
    probe(device)
    assert len(calls) == 4
    probe(device, cached=False)
    assert len(calls) == 5


@pytest.mark.parametrize(
    "text",
    [b"", b"\xff\xfe", b"KEY", b"KEY\nend\n", b"KEY\ngood True\n", b"KEY\ngood True\nusable maybe\nend\n"],
)
def test_damaged_cache_is_measured_anew(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, text: bytes
) -> None:
    monkeypatch.setattr(probing, "_measure", lambda device: ProbeResult(True, ("measured",)))
    device = tmp_path / "kvm"
    device.touch()
    key = remembered.cache_key(str(device))
    assert key is not None
    cache.parent.mkdir()
    cache.write_bytes(text.replace(b"KEY", key.encode()))
    assert probe(device).reasons == ("measured",)


def test_a_home_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(probing, "_measure", lambda device: ProbeResult(True, ("measured",)))
    assert probe(tmp_path / "file").reasons == ("measured",)


def test_a_guest_that_never_ends(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "TIMEOUT", 0.02)
    reasons: list[str] = []

    def endless(opened: System) -> object:
        with probing._Guest(opened, b"\xeb\xfe") as guest:
            guest.enter_long_mode(ring3=False)
            return guest.run()

    assert not probing._try(system, endless, "a loop", reasons)  # type: ignore[arg-type]
    assert reasons == ["no a loop (it never ends)"]
