"""What every test may use; and the last lines of a run: engines and guests that ran, and what was skipped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

# A slow host is no failure: no example has a deadline.
settings.register_profile("pyvmm", deadline=None)
settings.load_profile("pyvmm")

ROOT = Path(__file__).resolve().parent.parent

_EXERCISED = pytest.StashKey[Counter[tuple[str, str]]]()

RecordExercised = Callable[..., None]


def pytest_configure(config: pytest.Config) -> None:
    """Start the list of what was exercised."""
    config.stash[_EXERCISED] = Counter()


@pytest.fixture
def record_exercised(request: pytest.FixtureRequest) -> RecordExercised:
    """``record_exercised(engine="translator", guest="built-in guest")``: a test says what it ran, once it did."""

    def record(*, engine: str, guest: str) -> None:
        request.config.stash[_EXERCISED][engine, guest] += 1

    return record


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the engines and guests that were exercised, and skipped tests counted by reason."""
    terminalreporter.section("engines and guests exercised")
    exercised = config.stash[_EXERCISED]
    for (engine, guest), count in sorted(exercised.items()):
        terminalreporter.line(f"{engine:<12} {guest:<40} {count} tests")
    if not exercised:
        terminalreporter.line("none")
    skipped = Counter(_reason(report) for report in terminalreporter.stats.get("skipped", []))
    terminalreporter.line(f"skipped: {sum(skipped.values())} tests")
    for reason, count in sorted(skipped.items()):
        terminalreporter.line(f"  {count} x {reason}")


def _reason(report: pytest.TestReport) -> str:
    where = report.longrepr
    text = where[2] if isinstance(where, tuple) else str(where)
    return text.removeprefix("Skipped: ")
