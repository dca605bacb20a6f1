"""The lab's tests are demonstrations: what they found is printed at the end of the run."""

from __future__ import annotations

import pytest

from tests.lab import experiment, tables


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The table of Popek and Goldberg's question, when its tests ran."""
    ran = any(
        "test_popek_goldberg.py" in report.nodeid
        for outcome in ("passed", "failed", "xfailed")
        for report in terminalreporter.stats.get(outcome, [])
    )
    if not ran:
        return
    terminalreporter.section("Popek and Goldberg: a kernel in ring 3 (=: as the model says)")
    for line in tables.as_text(tables.comparison()):
        terminalreporter.line(line)
    experiment.close_rigs()
