"""Which engine `auto` takes, why, and what is refused, by what a probe remembered of a device."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pyvmm import Machine
from pyvmm.errors import ConfigError, EngineError
from pyvmm.kvm import remembered
from pyvmm.kvm.engine import KvmEngine
from pyvmm.machine import engines
from pyvmm.machine.engines import choose, kvm_verdict

GOOD = [("good", "True"), ("text", "ring 0 runs on the processor: 0.4 ns an instruction")]
BAD = [("good", "False"), ("text", "ring 0 is interpreted (550 ns an instruction)")]


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A file in place of /dev/kvm, of which nothing is known yet; the engine behind it is never asked to run."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(engines, "kvm", lambda: KvmEngine(path))
    path = tmp_path / "kvm"
    path.touch()
    return str(path)


def test_auto_takes_a_good_kvm(device: str) -> None:
    remembered.store(device, GOOD)
    choice = choose("auto", cpus=4, device=device)
    assert (choice.engine.name, choice.warning) == ("kvm", "")
    assert "0.4 ns" in choice.reason


def test_auto_goes_on_without_a_kvm_that_fails_now(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was good when it was measured."""

    def busy() -> KvmEngine:
        raise EngineError("--engine kvm: KVM_CREATE_VM: Device or resource busy")

    remembered.store(device, GOOD)
    monkeypatch.setattr(engines, "kvm", busy)
    choice = choose("auto", device=device)
    assert choice.engine.name == "translator"
    assert choice.reason == "KVM_CREATE_VM: Device or resource busy"


def test_auto_takes_the_translator_and_says_why(device: str) -> None:
    remembered.store(device, BAD)
    choice = choose("auto", device=device)
    assert choice.engine.name == "translator"
    assert choice.reason == f"{device}: ring 0 is interpreted (550 ns an instruction)"


def test_a_virtual_clock_is_the_translators(device: str) -> None:
    remembered.store(device, GOOD)
    choice = choose("auto", clock="virtual", device=device)
    assert choice.engine.name == "translator"
    assert "virtual clock" in choice.reason


def test_more_than_one_vcpu_needs_kvm(device: str) -> None:
    remembered.store(device, BAD)
    with pytest.raises(EngineError, match=r"^--cpus 4: only KVM .* interpreted .*--cpus 1, or --engine kvm"):
        choose("auto", cpus=4, device=device)


def test_a_name_is_obeyed_with_a_warning(device: str) -> None:
    remembered.store(device, BAD)
    choice = choose("kvm", device=device)
    assert choice.engine.name == "kvm"
    assert "interpreted" in choice.warning
    assert "\n" not in choice.warning
    remembered.store(device, GOOD)
    assert not choose("kvm", device=device).warning
    assert choose("translator", device=device).engine.name == "translator"


def test_no_device(tmp_path: Path) -> None:
    good, why = kvm_verdict(str(tmp_path / "none"))
    assert not good
    assert why.startswith("there is no ")
    assert choose("auto", device=str(tmp_path / "none")).engine.name == "translator"


def test_no_permission(device: str) -> None:
    """As a user who may not open it: `auto` goes on without, the engine says what to do."""
    os.chmod(device, 0)
    user = os.geteuid()
    os.chmod(Path(device).parent, 0o755)
    if user == 0:
        os.seteuid(65534)
    try:
        if os.access(device, os.R_OK, effective_ids=True):
            pytest.skip("this user may open everything")
        good, why = kvm_verdict(device)
        usable, reason = KvmEngine(device).availability()
    finally:
        os.seteuid(user)
    if "denied" not in why:
        pytest.skip(f"this user cannot reach the file's folder: {why}")
    assert not good
    assert not usable
    assert "permission denied; join the group kvm" in reason
    assert "join the group kvm" in why


def test_a_device_that_is_not_kvm() -> None:
    usable, reason = KvmEngine("/dev/null").availability()
    assert not usable
    assert "it is not the KVM device" in reason


def test_unknown_name(device: str) -> None:
    with pytest.raises(ConfigError, match=r"engine warp: .*auto, kvm, translator"):
        choose("warp", device=device)


def test_machine_says_why() -> None:
    with Machine(memory=16 << 20, serial="buffer") as machine:
        assert machine.engine_reason
        assert "\n" not in machine.engine_reason
    with Machine(memory=16 << 20, serial="buffer", engine="translator") as machine:
        assert machine.engine_reason == "asked for by name"


def test_without_a_device_nothing_of_kvm_is_imported(tmp_path: Path) -> None:
    program = f"""
import sys
from pyvmm.machine.engines import kvm_verdict
kvm_verdict({str(tmp_path / "none")!r})
print(*[name for name in sys.modules if name.startswith("pyvmm.kvm")])
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.split() == []
