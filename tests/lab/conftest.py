"""The lab's tests are demonstrations: what they found is printed at the end of the run."""

from __future__ import annotations

import pytest

from tests.lab import experiment, tables, technique_tables


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The table of Popek and Goldberg's question, and that of the techniques, of the tests that ran."""
    ran = [
        report
        for outcome in ("passed", "failed", "xfailed")
        for report in terminalreporter.stats.get(outcome, [])
    ]
    found, native = technique_tables.results_of(ran)
    if found or native:
        terminalreporter.section("one kernel, four techniques: what each operation takes")
        for line in technique_tables.summary(found, native):
            terminalreporter.line(line)
    if any("test_popek_goldberg.py" in report.nodeid for report in ran):
        terminalreporter.section("Popek and Goldberg: a kernel in ring 3 (=: as the model says)")
        for line in tables.as_text(tables.comparison()):
            terminalreporter.line(line)
        experiment.close_rigs()
