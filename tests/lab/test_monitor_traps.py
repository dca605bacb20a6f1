"""Traps of the lab's monitors, explained by the object that explains any engine's exits (pyvmm/lab/traps.py)."""

from __future__ import annotations

from collections import Counter

import pytest

from pyvmm.errors import PyvmmError
from pyvmm.exits import ExitReason
from pyvmm.lab.boot import LabKernel
from pyvmm.lab.monitor import Monitor
from pyvmm.lab.runner import usable_engines
from pyvmm.lab.traps import MonitorExit
from pyvmm.machine.machine import Machine
from pyvmm.trace import Explanation, explain

TECHNIQUES = ("trap-and-emulate", "translation", "paravirtual")
COUNT = 20
Seen = list[tuple[MonitorExit, Explanation]]


def watched(technique: str, line: str, engine: str) -> tuple[Seen, dict[str, int]]:
    """Every trap of a run with its explanation, and what the monitor counted."""
    kernel = LabKernel.open(paravirt=technique == "paravirtual")
    names = kernel.code_symbols()
    with Machine(memory=64 << 20, engine=engine, irqchip="user", serial="buffer") as machine:
        monitor = Monitor(machine, technique)
        monitor.prepare(kernel, command_line=line)
        seen = [(trap, explain(trap, machine, symbols=names)) for trap in monitor.traps()]
        assert monitor.end is None
        assert kernel.report(machine.memory).state == "done"
        return seen, monitor.counters.exits


@pytest.mark.parametrize("engine", usable_engines())
@pytest.mark.parametrize("technique", TECHNIQUES)
def test_each_trap_is_seen_once_and_explained(technique: str, engine: str) -> None:
    seen, counted = watched(technique, f"workload=syscall count={COUNT}", engine)
    counted.pop("start", None)
    assert Counter(trap.kind for trap, _ in seen) == counted
    for trap, words in seen:
        assert trap.cycles > 0
        for text in (
            words.title,
            words.where,
            words.why,
            words.answer,
            words.cost,
            words.instead,
            words.section,
        ):
            assert text, (trap, words)
        assert words.ring == f"virtual CPL {trap.cpl} ({'program' if trap.cpl else 'kernel'}), real CPL 3"
    calls = [words for trap, words in seen if trap.kind == "syscall"]
    assert len(calls) >= COUNT
    assert {words.instruction for words in calls} == {"syscall"}
    assert all("emulated on the virtual CPU: SYSCALL" in words.answer for words in calls)


@pytest.mark.parametrize("engine", usable_engines())
@pytest.mark.parametrize(
    ("technique", "kind"), [("trap-and-emulate", "privileged"), ("translation", "callout")]
)
def test_where_the_kernel_was_and_which_device_it_wanted(technique: str, kind: str, engine: str) -> None:
    """RIP is the guest's even where what runs is its translation."""
    seen, _ = watched(technique, f"workload=in count={COUNT}", engine)
    reads = [(trap, words) for trap, words in seen if trap.reason is ExitReason.IO and not trap.is_write]
    assert len(reads) >= COUNT
    trap, words = reads[-1]
    assert (trap.kind, trap.cpl) == (kind, 0)
    assert words.title.startswith("IN 0x")
    assert words.instruction.startswith("in ")
    assert words.where == f"{trap.rip:#x}  {LabKernel.open().symbol_at(trap.rip)}"
    assert words.answer.startswith("emulated on the virtual CPU: IN; the device answered 0x")
    written = [trap.value for trap, _ in seen if trap.is_write and trap.address == 0x3F8]
    assert b"workload" in bytes(written) or b"lab" in bytes(written)


@pytest.mark.parametrize("engine", usable_engines())
def test_a_hypercall_by_its_name_and_a_traced_store(engine: str) -> None:
    paravirtual, _ = watched("paravirtual", f"workload=ptemod count={COUNT}", engine)
    titles = {words.title for _, words in paravirtual}
    assert {"hypercall 0, shared", "hypercall 11, exit"} <= titles
    assert {words.instruction for trap, words in paravirtual if trap.kind == "hypercall"} == {"int 0x82"}
    plain, _ = watched("trap-and-emulate", f"workload=ptemod count={COUNT}", engine)
    stores = [words for trap, words in plain if trap.kind == "trace"]
    assert stores
    assert any("emulated on the virtual CPU: MOV" in words.answer for words in stores)
    assert all("queue" in words.instead for words in stores)


def test_looked_at_for_a_while_and_run_on() -> None:
    with Machine(memory=64 << 20, engine="translator", irqchip="user", serial="buffer") as machine:
        kernel, monitor = LabKernel.open(), Monitor(machine)
        monitor.prepare(kernel, command_line=f"workload=syscall count={COUNT}")
        traps = monitor.traps()
        first = [next(traps) for _ in range(5)]
        traps.close()
        assert len({trap.rip for trap in first}) > 1
        assert machine.run(60).reason == "exit"
        assert kernel.report(machine.memory).state == "done"
    with pytest.raises(PyvmmError, match="closed"):
        next(monitor.traps())
