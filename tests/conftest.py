"""What every test may use; and the last lines of a run: engines and guests that ran, what an engine could not do here,
and what was skipped."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

# A slow host is no failure: no example has a deadline.
settings.register_profile("pyvmm", deadline=None)
settings.load_profile("pyvmm")

ROOT = Path(__file__).resolve().parent.parent

RecordExercised = Callable[..., None]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of many minutes run only when they are asked for."""
    if os.environ.get("PYVMM_TEST_LONG") != "1":
        for item in items:
            if item.get_closest_marker("long"):
                item.add_marker(pytest.mark.skip(reason="long: PYVMM_TEST_LONG=1 runs it"))


@pytest.fixture
def record_exercised(request: pytest.FixtureRequest) -> RecordExercised:
    """``record_exercised(engine="translator", guest="built-in guest")``: a test says what it ran, once it did."""

    def record(*, engine: str, guest: str) -> None:
        request.node.user_properties.append(
            ("exercised", (engine, guest))
        )  # of the report: it crosses processes

    return record


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the engines and guests that were exercised, and skipped tests counted by reason."""
    terminalreporter.section("engines and guests exercised")
    exercised = _exercised(terminalreporter)
    for (engine, guest), count in sorted(exercised.items()):
        terminalreporter.line(f"{engine:<12} {guest:<40} {count} tests")
    if not exercised:
        terminalreporter.line("none")
    _write_engines(terminalreporter)
    skipped = Counter(_reason(report) for report in terminalreporter.stats.get("skipped", []))
    terminalreporter.line(f"skipped: {sum(skipped.values())} tests")
    for reason, count in sorted(skipped.items()):
        terminalreporter.line(f"  {count} x {reason}")


def _exercised(terminalreporter: pytest.TerminalReporter) -> Counter[tuple[str, str]]:
    """How many tests said that they ran a guest on an engine. A test has several reports, the last with all it said."""
    said: dict[str, set[tuple[str, str]]] = {}
    for reports in terminalreporter.stats.values():
        for report in reports:
            for name, value in getattr(report, "user_properties", ()):
                if name == "exercised":
                    engine, guest = value
                    said.setdefault(report.nodeid, set()).add((engine, guest))
    return Counter(pair for pairs in said.values() for pair in pairs)


def _write_engines(terminalreporter: pytest.TerminalReporter) -> None:
    """Conformance, by engine: passed, failed, not possible on this host and for want of what, known defects."""
    kinds = {"passed": "passed", "failed": "failed", "error": "failed", "skipped": "missing", "xfailed": "defect",
             "xpassed": "passed"}  # fmt: skip
    rows: dict[str, dict[str, Counter[str]]] = {}
    for outcome, kind in kinds.items():
        for report in terminalreporter.stats.get(outcome, []):
            engine = dict(getattr(report, "user_properties", ())).get(
                "engine"
            )  # an error of collection has none
            if engine is None:
                continue
            row = rows.setdefault(str(engine), {name: Counter() for name in kinds.values()})
            why = getattr(report, "wasxfail", "") if kind == "defect" else ""
            if kind == "missing":
                why = _reason(report)
            row[kind][why.removeprefix(f"{engine}: ").removeprefix("has no ")] += 1
    if not rows:
        return
    terminalreporter.section("engine conformance on this host")
    terminalreporter.line(
        f"{'engine':<16} {'passed':>6} {'failed':>6} {'not possible here':>17} {'known defects':>13}"
    )
    for engine, row in sorted(rows.items()):
        passed, failed, missing, defects = (
            sum(row[k].values()) for k in ("passed", "failed", "missing", "defect")
        )
        terminalreporter.line(f"{engine:<16} {passed:>6} {failed:>6} {missing:>17} {defects:>13}")
    for kind, title in (("missing", "not possible here, for want of"), ("defect", "known defects")):
        for engine, row in sorted(rows.items()):
            if row[kind]:
                found = "; ".join(f"{why}: {count}" for why, count in row[kind].most_common())
                terminalreporter.line(f"{engine}, {title}: {found}")


def _reason(report: pytest.TestReport) -> str:
    where = report.longrepr
    text = where[2] if isinstance(where, tuple) else str(where)
    return text.removeprefix("Skipped: ")
