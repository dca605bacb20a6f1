"""Binary translation: the lab's kernel by it, right where trap-and-emulate is wrong (docs/translation.md)."""

from __future__ import annotations

import pytest

from pyvmm.lab.boot import LabKernel, LabReport
from pyvmm.lab.monitor import Monitor
from pyvmm.lab.runner import usable_engines
from pyvmm.machine.machine import Machine

MEMORY = 64 << 20
ENGINES = usable_engines()


@pytest.fixture(scope="module")
def kernel() -> LabKernel:
    return LabKernel.open()


def run(kernel: LabKernel, line: str, engine: str = "translator") -> tuple[LabReport, Monitor]:
    """Run the kernel under binary translation until it ends."""
    with Machine(memory=MEMORY, engine=engine, irqchip="user") as machine:
        monitor = Monitor(machine, "translation")
        monitor.prepare(kernel, command_line=line)
        left = machine.run(timeout=120)
        assert (left.reason, monitor.end) == ("exit", None)
        report = kernel.report(machine.memory)
        assert report.state == "done"
        return report, monitor


@pytest.mark.parametrize("engine", ENGINES)
def test_every_check_is_as_in_ring_0(kernel: LabKernel, engine: str) -> None:
    report, _monitor = run(kernel, "workload=checks", engine)
    assert {check.name: check.seen for check in report.checks} == {c.name: c.expected for c in report.checks}
    assert len(report.checks) == 26
