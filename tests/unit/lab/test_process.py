"""`pyvmm.lab.threads` and `guest_ram`: a machine as its host sees it."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from pyvmm import Machine, assemble
from pyvmm.lab import GuestThread, guest_ram, threads

MIB = 1 << 20


def test_a_vcpu_is_a_thread() -> None:
    with Machine(memory=64 * MIB, serial="null") as machine:
        machine.memory.load(0x7C00, assemble("again: jmp again", bits=16, address=0x7C00))
        state = machine.vcpu.state
        state.set_real_mode(cs=0, ip=0x7C00)
        machine.vcpu.state = state
        before = {each.tid for each in threads()}
        running = threading.Thread(target=machine.run, args=(60,))
        running.start()
        found: list[GuestThread] = []
        try:
            while running.is_alive() and not found:
                new = [each for each in threads(os.getpid()) if each.tid not in before]
                found = [each for each in new if each.name == "vcpu-0" and each.cpu > 0.1]
                running.join(0.01)
        finally:
            machine.stop()
            running.join()
        (vcpu,) = found
        assert vcpu.cpu >= vcpu.user
        assert vcpu.processor in os.sched_getaffinity(0)
        assert "vcpu-0" in str(vcpu)
    assert threads()[0].tid == os.getpid()


def test_the_main_thread_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers of threads go round at the kernel's pid_max: a process's later threads may have lower ones."""
    for number in (300, 32767, 310):
        (tmp_path / "32767/task" / str(number)).mkdir(parents=True)
        stat = f"{number} (python) S " + " ".join("0" for _ in range(50))
        (tmp_path / "32767/task" / str(number) / "stat").write_text(stat)
    monkeypatch.setattr("pyvmm.lab.process._PROC", tmp_path)
    assert [each.tid for each in threads(32767)] == [32767, 300, 310]


def test_ram_that_is_touched_is_there() -> None:
    before = guest_ram()
    with Machine(memory=64 * MIB, serial="null") as machine:
        (name,) = guest_ram().keys() - before.keys()
        untouched = guest_ram()[name]
        assert untouched < 8 * MIB
        machine.memory.load(16 * MIB, b"\xff" * (20 * MIB))
        assert 20 * MIB <= guest_ram()[name] - untouched < 22 * MIB


def test_no_such_process() -> None:
    with pytest.raises(ProcessLookupError):
        threads(2**22 + 1)
    with pytest.raises(ProcessLookupError):
        guest_ram(2**22 + 1)
