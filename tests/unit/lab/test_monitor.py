"""The monitor in Python's hands; what it does to a kernel is tests/lab's subject."""

from __future__ import annotations

import pytest

from pyvmm import Machine
from pyvmm.errors import PyvmmError
from pyvmm.lab.boot import LabKernel
from pyvmm.lab.monitor import Monitor


def lab_machine(memory: int = 64 << 20) -> Machine:
    return Machine(memory=memory, engine="translator", irqchip="user", serial="buffer", vga="none")


def test_a_kernel_runs_to_its_end() -> None:
    kernel = LabKernel.open()
    with lab_machine() as machine:
        monitor = Monitor(machine)
        monitor.prepare(kernel, command_line="workload=syscall count=100 door=syscall")
        assert machine.run(timeout=60).reason == "exit"
        assert kernel.report(machine.memory)["syscall"].operations == 100
        assert monitor.end is None
        counters = monitor.counters
        assert counters.emulated["syscall"] >= 100
        assert counters.emulated["sysret"] >= 100
        assert counters.exits["syscall"] == counters.emulated["syscall"]
        assert monitor.virtual_cpu.cpl == 0
        assert monitor.shadow.statistics.faults > 0
    assert monitor.counters == counters
    with pytest.raises(PyvmmError, match="closed"):
        _ = monitor.shadow
    with pytest.raises(PyvmmError, match="closed"):
        _ = monitor.virtual_cpu


def test_it_goes_before_its_machine() -> None:
    with lab_machine() as machine:
        Monitor(machine).close()
        monitor = Monitor(machine)
        with pytest.raises(PyvmmError, match="0x5e0"):
            Monitor(machine)
        monitor.close()
        monitor.close()


def test_what_it_refuses() -> None:
    with lab_machine() as machine:
        with pytest.raises(ValueError, match="'binary'"):
            Monitor(machine, "binary")
        monitor = Monitor(machine)
        with pytest.raises(PyvmmError, match="64-bit mode"):
            monitor.start(machine.vcpu.state)
    with lab_machine(memory=24 << 20) as machine, pytest.raises(PyvmmError, match="32 MiB"):
        Monitor(machine)
