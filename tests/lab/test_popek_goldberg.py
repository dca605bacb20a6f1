"""Popek and Goldberg (1974), run: is every sensitive instruction of the x86 privileged?

Each row of `pyvmm.cpu.instructions.TABLE` in ring 0 and ring 3, in all modes with rings, with the control bits that
matter to it:
on every engine, and in ring 3 of the host's own CPU. The model must agree with what happens.
``PYVMM_WRITE_DOCS=1`` writes the tables of docs/rings.md from this host's run.
"""

from __future__ import annotations

import doctest
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from pyvmm.cpu import TABLE, Kind
from pyvmm.cpu.instructions import CR4_UMIP, GP, ROBIN_IRVINE, UD, Rule
from tests.conformance.engine_probes import has
from tests.conformance.engine_variants import VARIANTS, availability, interprets, variant
from tests.lab import tables
from tests.lab.cases import CASES, NATIVE_CR4, NOT_RUN, Case
from tests.lab.experiment import (
    ROWS,
    Setting,
    expected,
    measure,
    measure_native,
    modes,
    native_tables,
    settings,
)

DEPARTURES = {
    ("translator", "INT1"): "Unicorn has no INT1 (0xf1): #UD (SDM vol. 2A, INT n/INTO/INT3/INT1)",
}
"""Known defects of an engine, by its name and the row: the test must fail there."""


def _id(case: Case) -> str:
    width = f"-{case.bits[0]}" if len(case.bits) == 1 and case.row in ("IRET", "SYSEXIT") else ""
    return case.name.replace(", ", "-").replace(" ", "-") + width


@pytest.mark.parametrize("engine", VARIANTS)
@pytest.mark.parametrize("case", [case for case in CASES if case.machine], ids=_id)
def test_ring_0_beside_ring_3(
    case: Case, engine: str, request: pytest.FixtureRequest, record_exercised: Callable[..., None]
) -> None:
    """What a guest kernel meets that a monitor runs in ring 3."""
    usable, reason = availability(engine)
    if not usable:
        pytest.skip(f"{engine}: {reason}")
    defect = DEPARTURES.get((variant(engine).name, case.row))
    if defect:
        request.applymarker(pytest.mark.xfail(strict=True, reason=f"{engine}: {defect}"))
    amd = has(variant(engine), "amd")
    known, wrong = 0, []
    for setting in settings(case):
        for mode in modes(case):
            got = measure(engine, case, mode, setting)
            want = expected(case, mode, setting, amd=amd)
            known += not got.startswith("(")
            if got != want and got not in case.also and not got.startswith("("):
                wrong.append(f"{mode}{' with ' + setting.name if setting.name else ''}: {got}, not {want}")
    record_exercised(engine=engine, guest="sensitive instructions")
    if wrong and interprets(engine):
        pytest.xfail(f"{engine}: interpreter: {'; '.join(wrong)}")
    assert not wrong, "; ".join(wrong)
    if not known:
        pytest.skip(f"{engine}: executes it in no mode")


def test_ring_3_of_the_host() -> None:
    """On the host's own CPU what must trap traps, and what must not does not."""
    results = measure_native()
    if isinstance(results, str):
        pytest.skip(results)
    wrong = []
    for (case, mode), got in results.items():
        row = ROWS[case.row]
        vector = row.trap(mode, cr4=NATIVE_CR4)
        want = {UD: {"#UD"}, GP: {"#GP"}, None: {"runs"}}[vector]
        if not case.machine or row.rule in (Rule.FSGSBASE, Rule.TSD):  # may be absent, or for Linux to decide
            want = want | {"#UD", "runs"} if vector is None else want | {"#UD"}
        if row.rule in (Rule.TSD, Rule.UMIP) or case.row == "INT n":
            want = want | {"#GP"}  # prctl(PR_SET_TSC); Linux that does not answer for UMIP; none of int 0x80
        if case.row == "SYSEXIT":
            want = want | {"#UD"}  # AMD's
        if got not in want:
            wrong.append(f"{case.name} in {mode} mode: {got}, not {' or '.join(sorted(want))}")
    assert not wrong, "; ".join(wrong)


def test_linux_answers_for_umip() -> None:
    """Where the host has UMIP, Linux catches SGDT's and SIDT's #GP and tells no secret (arch/x86/kernel/umip.c)."""
    if " umip" not in Path("/proc/cpuinfo").read_text().split("\n\n")[0]:
        pytest.skip("the host's CPU has no UMIP")
    found = native_tables()
    if not found:
        pytest.skip("no code can be run in ring 3 of the host")
    dummies = {"SGDT": 0xFFFFFFFFFFFE0000, "SIDT": 0xFFFFFFFFFFFF0000}
    assert found == {name: dummies[name] for name in found}


def test_every_row_is_tried() -> None:
    """A row of the model has a case, or a reason not to have one."""
    tried = {case.row for case in CASES}
    assert {row.name for row in TABLE} - tried == set(NOT_RUN)
    assert tried <= set(ROWS)


def test_the_classic_result() -> None:
    """The theorem's condition fails on the x86, by Robin and Irvine's list and nothing privileged; UMIP mends five."""
    silent, trapping = set(), set()
    for case in CASES:
        if not case.machine:
            continue
        words = {measure("translator", case, mode, Setting("")) for mode in modes(case)}
        row = ROWS[case.row]
        if row.robin_irvine:
            (trapping if words == {"#GP"} else silent).add(row.name)
        if row.kind is Kind.PRIVILEGED:
            assert words <= {"#GP", "absent", "#GP in ring 0 too"}, row.name
        if row.kind is Kind.IOPL_SENSITIVE:
            assert words == {"#GP"}, row.name
    assert trapping == {"POP Sreg", "MOV to Sreg"}, (
        "they trap where they are sensitive: for selectors of ring 0"
    )
    assert {ROWS[name].robin_irvine for name in silent} == set(ROBIN_IRVINE) - {"POP"}
    mended = {
        case.row for case in CASES
        if ROWS[case.row].rule is Rule.UMIP
        and {measure("translator", case, mode, Setting("UMIP", CR4_UMIP)) for mode in modes(case)} == {"#GP"}
    }  # fmt: skip
    assert mended == {"SGDT", "SIDT", "SLDT", "SMSW", "STR"}


def test_the_page_is_current() -> None:
    """docs/rings.md shows what the translator did in this run."""
    page = tables.PAGE.read_text()
    if os.environ.get("PYVMM_WRITE_DOCS") == "1":
        page = tables.with_section("table", page, tables.lesson_table())
        page = tables.with_section("host", page, tables.host_table())
        tables.PAGE.write_text(page)
    assert tables.section("table", page) == tables.lesson_table(), (
        "write it again: PYVMM_WRITE_DOCS=1 ./dev test tests/lab/test_popek_goldberg.py"
    )


def test_the_pages_examples() -> None:
    """Each Python block of docs/rings.md, as a doctest."""
    blocks = re.findall(r"```python\n(.*?)```", tables.PAGE.read_text(), re.DOTALL)
    assert len(blocks) == 2
    for number, block in enumerate(blocks):
        test = doctest.DocTestParser().get_doctest(block, {}, f"block {number}", str(tables.PAGE), 0)
        assert test.examples
        assert doctest.DocTestRunner().run(test).failed == 0
