"""`pyvmm.lab.threads` and `guest_ram`: a machine as its host sees it."""

from __future__ import annotations

import os
import threading

import pytest

from pyvmm import Machine, assemble
from pyvmm.lab import guest_ram, threads

MIB = 1 << 20


def test_a_vcpu_is_a_thread() -> None:
    with Machine(memory=64 * MIB, serial="null") as machine:
        machine.memory.load(0x7C00, assemble("again: jmp again", bits=16, address=0x7C00))
        state = machine.vcpu.state
        state.set_real_mode(cs=0, ip=0x7C00)
        machine.vcpu.state = state
        assert "vcpu-0" not in {each.name for each in threads()}
        running = threading.Thread(target=machine.run, args=(60,))
        running.start()
        try:
            while not (
                found := [each for each in threads(os.getpid()) if each.name == "vcpu-0" and each.user > 0.1]
            ):
                pass
        finally:
            machine.stop()
            running.join()
        (vcpu,) = found
        assert vcpu.cpu >= vcpu.user
        assert 0 <= vcpu.processor < (os.cpu_count() or 1)
        assert "vcpu-0" in str(vcpu)
    assert threads()[0].tid == os.getpid()


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
