"""One kernel, four techniques: the same work under each, and the classic results, by counts.

For every engine that can run here, each technique does each workload; what each operation took is printed at the end of
the run, and docs/techniques.md has the translator's. Times are printed and never asserted: a busy host has others.
A KVM that interprets ring 0 (`engine_variants.interprets`) does the same work, less of it.
``PYVMM_WRITE_DOCS=1`` writes the page's tables from this run.
"""

from __future__ import annotations

import doctest
import os
import re
from dataclasses import replace
from functools import cache

import pytest

from pyvmm.errors import PyvmmError
from pyvmm.lab import native
from pyvmm.lab.checks import USES, deceived
from pyvmm.lab.results import PACED, Comparison, Result, time_of
from pyvmm.lab.runner import TECHNIQUES, WORKLOADS, cost, run, usable
from tests.conformance.engine_variants import availability, interprets
from tests.lab import tables, technique_tables

ENGINES = ("translator", "kvm")
COUNTS = {
    "syscall": 10_000,
    "in": 10_000,
    "cr8wr": 10_000,
    "callret": 100_000,
    "pgfault": 10_000,
    "divzero": 10_000,
    "ptemod": 10_000,
    "switch": 10_000,
    "fork": 100,
    "timer": 10_000,
    "disk": 10_000 if os.environ.get("PYVMM_TEST_LONG") == "1" else 1_000,
    "virtio": 10_000 if os.environ.get("PYVMM_TEST_LONG") == "1" else 1_000,
    "loop": 10_000_000,
}
FEW = {"fork": 4, "disk": 20, "virtio": 20, "loop": 10_000_000, "callret": 2_000}
"""Where ring 0 is interpreted."""
RUNS = 5
"""Of which the least is a figure of the page's, where one run's noise would be seen."""
TURNS = 100_000_000
"""Of the loop that the host runs, too."""
WAITED = 0.6
"""A virtio disk on a busy host is not done when the guest looks: it waits, which is some exits more for each read."""
MONITORED = ("trap-and-emulate", "translation", "paravirtual")


def _here(engine: str, technique: str) -> str:
    """The technique as this engine has it, or the test ends."""
    found, reason = availability(engine)
    if not found:
        pytest.skip(f"{engine}: {reason}")
    names = usable(engine)
    if technique == "bare":
        return names[0]
    if technique not in names:
        pytest.skip(f"{technique}: not in this build")
    return technique


def _count(engine: str, workload: str) -> int:
    return FEW.get(workload, 500) if interprets(engine) else COUNTS[workload]


@cache
def measured(engine: str, technique: str, workload: str) -> Result:
    """What that many operations take by themselves."""
    return cost(technique, workload, _count(engine, workload), engine)  # type: ignore[arg-type]


@cache
def checked(engine: str, technique: str) -> Result:
    """The checks of sensitive instructions."""
    return run(technique, "checks", engine=engine)  # type: ignore[arg-type]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("workload", COUNTS)
@pytest.mark.parametrize("technique", ["bare", *MONITORED])
def test_the_same_work(technique: str, workload: str, engine: str, request: pytest.FixtureRequest) -> None:
    """Each technique does all of it, and the guest computes the same."""
    name = _here(engine, technique)
    result = measured(engine, name, workload)
    assert result.ok, str(result)
    request.node.user_properties.append((technique_tables.PROPERTY, technique_tables.packed(result)))
    assert result.operations == _count(engine, workload)
    if workload in ("ptemod", "fork", "disk", "virtio", "loop", "pgfault", "syscall"):
        assert result.value == measured("translator", "bare", workload).value or interprets(engine)
    if technique == "bare":
        assert not result.emulated
        assert not result.hypercalls
        assert not result.shadow
    if technique == "paravirtual":
        assert result.hypercalls or workload in ("in", "callret", "loop", "cr8wr", "pgfault")
    else:
        assert not result.hypercalls


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("technique", ["bare", *MONITORED])
def test_sensitive_instructions(technique: str, engine: str, request: pytest.FixtureRequest) -> None:
    """Trap-and-emulate deceives the kernel exactly where `pyvmm.cpu`'s table says; the others never do."""
    name = _here(engine, technique)
    result = checked(engine, name)
    assert not result.end, result.end
    request.node.user_properties.append((technique_tables.PROPERTY, technique_tables.packed(result)))
    names = [check.name for check in result.checks]
    if technique == "paravirtual":
        assert names == ["pushf_off", "pushf_on", "popf_on", "popf_off"]
    else:
        assert names == list(USES)
    predicted = {check for check in names if deceived(check)} if technique == "trap-and-emulate" else set()
    if set(result.wrong) != predicted and interprets(engine):
        pytest.xfail(f"{engine}: interpreter: differs in {sorted(set(result.wrong) ^ predicted)}")
    assert set(result.wrong) == predicted, "\n".join(map(str, result.checks))


# The classic results, on the translator -----------------------------------------------------------------------------


def _each(technique: str, workload: str, metric: str = "exits") -> float:
    return measured("translator", _here("translator", technique), workload).each(metric)


@pytest.mark.parametrize(
    ("workload", "factor"),
    [
        ("syscall", 1.8),
        ("ptemod", 20),
        ("pgfault", 2.5),
        ("switch", 2),
        ("fork", 1.5),
        ("timer", 1.5),
        ("disk", 1.3),
        ("virtio", 1.2),
    ],
)
def test_paravirtual_leaves_less_often_than_trap_and_emulate(workload: str, factor: float) -> None:
    """Barham et al. 2003: what is asked for in batches is not caught one by one."""
    assert _each("paravirtual", workload) * factor < _each("trap-and-emulate", workload)


def test_paravirtual_needs_nobody_for_its_task_priority() -> None:
    """A word in shared memory, in CR8's place."""
    assert _each("paravirtual", "cr8wr") < 0.05 < 1 <= _each("trap-and-emulate", "cr8wr")


@pytest.mark.parametrize("technique", ["bare", *MONITORED])
def test_a_disk_that_is_made_for_a_guest(technique: str) -> None:
    """The I/O side of the same lesson: whoever the kernel is, a ring in memory for IDE's ports."""
    assert _each(technique, "virtio") * 3 < _each(technique, "disk")


@pytest.mark.parametrize("workload", ["syscall", "cr8wr", "pgfault", "divzero", "ptemod", "switch"])
def test_a_kernel_that_knows_nothing_is_left_for_each_privileged_act(workload: str) -> None:
    """Under trap-and-emulate what costs nothing on a bare processor is at least one exit, and one emulation."""
    assert _each("bare", workload) < 0.05
    assert _each("trap-and-emulate", workload) >= 1
    assert _each("trap-and-emulate", workload, "emulated") >= 1


@pytest.mark.parametrize("technique", MONITORED)
@pytest.mark.parametrize("workload", ["callret", "loop"])
def test_direct_execution(workload: str, technique: str) -> None:
    """What no monitor has to know leaves nobody, in the kernel and in programs."""
    assert _each(technique, workload) < 0.05


def test_translation_does_inline_what_others_trap_for() -> None:
    """Adams and Agesen 2006: a write to CR8 becomes a store to the virtual CPU."""
    assert _each("translation", "cr8wr") < 0.05 < 1 <= _each("trap-and-emulate", "cr8wr")
    for workload in ("syscall", "in", "pgfault", "divzero", "ptemod", "switch"):
        assert _each("translation", workload) < _each("trap-and-emulate", workload) + 0.5, workload


def test_code_is_translated_once() -> None:
    """However often it runs: the cache's blocks do not grow with the work, nor do jumps that have to be looked up."""
    _here("translator", "translation")
    few, many = (run("translation", "callret", count).blocks for count in (10, 100_000))
    assert many["blocks"] < few["blocks"] + 10
    assert measured("translator", "translation", "callret").exits.get("translation miss", 0) < 10


def test_the_page_is_current() -> None:
    """docs/techniques.md shows the counts of the translator's run; its times are those of the host that wrote it."""
    names = [name for name in TECHNIQUES if name in usable("translator")]
    if len(names) < 1 + len(MONITORED) and os.environ.get("PYVMM_WRITE_DOCS") != "1":
        pytest.skip("not all techniques are in this build")
    comparison = Comparison(
        tuple(measured("translator", name, workload) for name in names for workload in COUNTS)
    )
    counts = technique_tables.counts_table(comparison, "translator", WORKLOADS)
    checks = technique_tables.checks_table([checked("translator", name) for name in names], USES)
    page = technique_tables.PAGE.read_text()
    if os.environ.get("PYVMM_WRITE_DOCS") == "1":
        page = tables.with_section("counts", page, counts)
        page = tables.with_section("checks", page, checks)
        page = tables.with_section("time", page, _time_table())
        page = tables.with_section("native", page, _native_table())
        technique_tables.PAGE.write_text(page)
    advice = "write it again: PYVMM_WRITE_DOCS=1 ./dev test tests/lab/test_techniques.py"
    assert tables.section("checks", page) == checks, advice
    shown, found = _figures(tables.section("counts", page)), _figures(counts)
    assert shown.keys() == found.keys(), advice
    for cell, figures in found.items():
        rel = WAITED if "virtio" in cell[0] else 0.25
        assert shown[cell] == pytest.approx(figures, rel=rel, abs=0.15), f"{cell}: {advice}"


def test_the_pages_examples() -> None:
    """Each Python block of docs/techniques.md, as a doctest."""
    blocks = re.findall(r"```python\n(.*?)```", technique_tables.PAGE.read_text(), re.DOTALL)
    assert blocks
    for number, block in enumerate(blocks):
        test = doctest.DocTestParser().get_doctest(
            block, {}, f"block {number}", str(technique_tables.PAGE), 0
        )
        assert test.examples
        assert doctest.DocTestRunner().run(test).failed == 0


def _time_table() -> str:
    """Microseconds of every engine that can run here, side by side."""
    pairs = [(name, engine) for engine in ENGINES if availability(engine).usable for name in usable(engine)]
    lines = [
        f"| operation | {' | '.join(f'{name}, {engine}' for name, engine in pairs)} |",
        f"|---|{'---|' * len(pairs)}",
    ]
    for workload in COUNTS:
        if workload in PACED or workload == "loop":  # the native comparison tells of it
            continue
        cells = []
        for name, engine in pairs:
            result = measured(engine, name, workload)
            if interprets(engine):  # few operations
                result = replace(result, cpu=_least_cpu(engine, name, workload, result.operations))
            cells.append(time_of(result))
        lines.append(f"| `{workload}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def _least_cpu(engine: str, technique: str, workload: str, count: int) -> float:
    """CPU seconds of that many operations: the least of some runs less the least start, since a busy host only adds."""
    taken = [
        [run(technique, workload, each, engine).cpu for _ in range(RUNS)]  # type: ignore[arg-type]
        for each in (count + 1, 1)
    ]
    return max(min(taken[0]) - min(taken[1]), 0.0)


def _native_table() -> str:
    """The loop beside the host's own."""
    host = min((native.loop(TURNS) for _ in range(RUNS)), key=lambda each: each.cpu)
    rows = [(technique_tables.HOST, host.cpu)]
    for engine in ENGINES:
        for name in usable(engine) if availability(engine).usable else ():
            rows.append((f"{name}, {engine}", _least_cpu(engine, name, "loop", TURNS)))
    lines = ["| | cycles a turn | ns a turn | of the host's |", "|---|---|---|---|"]
    for who, cpu in rows:
        each = cpu / TURNS
        lines.append(f"| {who} | {each * host.tsc_hz:.2f} | {each * 1e9:.2f} | {cpu / host.cpu:.2f} |")
    return "\n".join(lines)


def _figures(table: str) -> dict[tuple[str, str, str], float]:
    """Each figure of the page's table, by operation, technique and what is counted."""
    heading, _, *lines = table.splitlines()
    names = [cell.strip() for cell in heading.strip("|").split("|")]
    found = {}
    for line in lines:
        operation, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        for name, cell in zip(names[1:], cells, strict=True):
            for part in cell.split(", "):
                figure, _, what = part.partition(" ")
                found[operation.partition(":")[0], name, what] = float(figure)
    return found


# The same loop on the host -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("technique", ["bare", *MONITORED])
def test_a_programs_loop_beside_the_hosts_own(
    technique: str, engine: str, request: pytest.FixtureRequest
) -> None:
    """In one run: the host's processor, and ring 3 under each technique. Nobody has to do with it while it computes."""
    name = _here(engine, technique)
    try:
        host = native.loop(TURNS)
    except PyvmmError as error:
        pytest.skip(str(error))
    guest = cost(name, "loop", TURNS - 1, engine)  # type: ignore[arg-type]
    assert guest.ok, str(guest)
    assert guest.value == host.value
    assert sum(guest.emulated.values()) < TURNS / 10_000, "a program that computes is left alone"
    each, host_each = guest.cpu / guest.operations, host.cpu / TURNS
    told = [
        [technique_tables.HOST, host_each * host.tsc_hz, host_each * 1e9],
        [f"{name}, {engine}", each * host.tsc_hz, each * 1e9],
    ]
    request.node.user_properties += [(technique_tables.NATIVE, line) for line in told]
