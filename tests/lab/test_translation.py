"""Binary translation: the lab's kernel by it, right where trap-and-emulate is wrong (docs/translation.md)."""

from __future__ import annotations

import doctest
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyvmm.errors import PyvmmError
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


@pytest.fixture(scope="module")
def machine(kernel: LabKernel) -> Iterator[tuple[Machine, Monitor]]:
    """One that has run all checks, and stands."""
    with Machine(memory=MEMORY, engine="translator", irqchip="user", serial="buffer") as made:
        monitor = Monitor(made, "translation")
        monitor.prepare(kernel, command_line="workload=checks")
        assert made.run(timeout=120).reason == "exit"
        yield made, monitor


def test_a_block_beside_the_guests_code(kernel: LabKernel, machine: tuple[Machine, Monitor]) -> None:
    """Each instruction of the guest has its row; what is sensitive is not in what runs."""
    made, monitor = machine
    start = kernel.symbols["save_while_off"]
    block = monitor.translation(start)
    assert block is not None
    guest = [row.guest for row in block.rows if row.guest]
    assert block.address == guest[0].address == start
    assert b"".join(each.data for each in guest) == made.memory.read(start, block.size)
    why = {row.guest.mnemonic: row.why for row in block.rows if row.guest}
    assert why["cli"] == why["sti"] == "iopl-sensitive: done on the virtual CPU"
    assert why["pushfq"] == "sensitive: done on the virtual CPU"
    assert why["pop"] == why["shr"] == "the same"
    assert block.rows[0].code == ("mov byte ptr [virtual IF], 0",)
    assert block.rows[-1].guest is None
    assert block.rows[-1].code[-1] == "jmp (the common look-up of targets)"
    assert not any(code.startswith(("cli", "sti")) for row in block.rows for code in row.code)
    assert str(block).splitlines()[0] == block.title
    assert "virtual IF" in block._repr_html_()


def test_every_block_can_be_shown(kernel: LabKernel, machine: tuple[Machine, Monitor]) -> None:
    """All that begin at a symbol: whole, with nothing sensitive left but what works on the virtual CPU's own."""
    _, monitor = machine
    shown = 0
    for address in kernel.symbols.values():
        block = monitor.translation(address)
        if block is None:
            continue
        shown += 1
        assert sum(row.guest.size for row in block.rows if row.guest) == block.size
        assert all(row.code for row in block.rows), str(block)
        assert not re.search(
            r"(?m) (sgdt|sidt|sldt|smsw|iret|lgdt|lidt|in|out|hlt) ",
            "".join(f" {code} " for row in block.rows for code in row.code),
        )
        assert str(block)
    assert shown > 50


def test_where_nothing_is_translated(kernel: LabKernel, machine: tuple[Machine, Monitor]) -> None:
    _, monitor = machine
    assert monitor.translation(0x10) is None
    with Machine(memory=MEMORY, engine="translator", irqchip="user", serial="buffer") as other:
        emulating = Monitor(other, "trap-and-emulate")
        assert emulating.translation(kernel.symbols["save_while_off"]) is None
    with pytest.raises(PyvmmError, match="the monitor is closed"):
        emulating.translation(0)


PAGE = Path(__file__).parents[2] / "docs" / "translation.md"


@pytest.mark.skipif(not PAGE.exists(), reason="docs/ is not beside the tests")
def test_the_lesson() -> None:
    """The blocks of docs/translation.md, in one run."""
    source = "\n".join(re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL))
    assert source.count(">>>") > 10
    test = doctest.DocTestParser().get_doctest(source, {}, PAGE.name, str(PAGE), 0)
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    assert runner.run(test).failed == 0
