"""`pyvmm.lab.run` and `compare` with nobody between kernel and engine; what monitors do is in tests/lab."""

from __future__ import annotations

import pytest

from pyvmm.errors import EngineError
from pyvmm.lab import compare, native, run
from pyvmm.lab.runner import SCALE, TECHNIQUES, WORKLOADS, usable, usable_engines


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("ring 1",), "technique 'ring 1': there are bare, hardware"),
        (("bare", "fly"), "workload 'fly': there are checks, syscall"),
        (("bare", "in", 0), "count is 0: at least 1"),
    ],
)
def test_what_cannot_be_asked_for(arguments: tuple[str, ...], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        run(*arguments)


def test_hardware_is_not_the_translator() -> None:
    with pytest.raises(EngineError, match="hardware assistance is engine kvm with VT-x or SVM"):
        run("hardware", "in", 1)


def test_each_workload_does_what_it_was_asked_for() -> None:
    counts = {**dict.fromkeys(WORKLOADS, 4), "in": 1000}  # the console's port is asked more or less often
    found = compare(["bare"], counts=counts)
    assert found.workloads == tuple(WORKLOADS)
    for result in found.results:
        assert result.ok, str(result)
        assert result.operations == counts[result.workload]
        assert not result.emulated
        assert not result.hypercalls
    assert found.get("in", "bare").exits["io"] >= 900
    assert found.get("disk", "bare").exits["io"] >= 4 * 4096 / 2 / 256
    assert found.get("virtio", "bare").exits["mmio"] >= 4


def test_the_notes_and_the_names() -> None:
    assert "translator" in usable_engines()
    assert usable("translator")[0] == "bare"
    assert set(usable("translator")) <= set(TECHNIQUES)
    assert set(SCALE) <= set(WORKLOADS)
    assert compare(["bare"], ["in"], 1).notes == ()


def test_progress_is_told() -> None:
    lines: list[str] = []
    compare(["bare"], ["in", "fork"], 100, progress=lines.append)
    assert lines == ["translator, bare: 100 x in", "translator, bare: 2 x fork"]


def test_a_kernel_that_does_not_end_is_given_up() -> None:
    result = run("bare", "loop", 10**12, timeout=0.5)
    assert result.status == "ended"
    assert "given up after the time-out, at " in result.end


def test_a_door_that_is_not_there() -> None:
    result = run("bare", "syscall", 1, door="window")
    assert (result.status, result.operations) == ("failed", 0)
    assert "the door is closed here" in result.console


def test_the_hosts_own_loop_computes_the_guests_value() -> None:
    host = native.loop(12345)
    assert host.value == run("bare", "loop", 12345).value
    assert host.cpu > 0
    assert 1e8 < native.loop(10_000_000).tsc_hz < 1e11
    with pytest.raises(ValueError, match="count is 0"):
        native.loop(0)
