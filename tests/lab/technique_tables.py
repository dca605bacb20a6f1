"""What the tests of the techniques found: carried to the run's end, shown there, and written to docs/techniques.md.

A result crosses processes (pytest-xdist) as a property of its test's report, in plain types.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pyvmm.lab.boot import CheckResult
from pyvmm.lab.results import Comparison, Result, as_columns
from pyvmm.lab.runner import TECHNIQUES, WORKLOADS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "techniques.md"
PROPERTY = "lab-technique"
NATIVE = "lab-native"
HOST = "the host"
_COUNTED = ("exits", "emulated", "shadow", "hypercalls", "blocks")


def packed(result: Result) -> dict[str, Any]:
    """A result for `user_properties`."""
    told = asdict(result)
    del told["console"]
    return {**told, "checks": [[check.name, check.expected, check.seen] for check in result.checks]}


def unpacked(told: Mapping[str, Any]) -> Result:
    """The same back."""
    return Result(**{**told, "checks": tuple(CheckResult(*check) for check in told["checks"])})


def results_of(reports: Iterable[Any]) -> tuple[list[Result], list[list[Any]]]:
    """All results of a run's reports, and the lines of the native comparison."""
    found, native = [], []
    for report in reports:
        for name, value in getattr(report, "user_properties", ()):
            if name == PROPERTY:
                found.append(unpacked(value))
            if name == NATIVE:
                native.append(list(value))
    return found, native


def summary(found: list[Result], native: list[list[Any]]) -> list[str]:
    """Lines for a terminal: what each operation takes, which checks go wrong, and the loop beside the host's own."""
    order = [*WORKLOADS, "checks"]
    found = sorted(
        found,
        key=lambda r: (r.engine != "translator", TECHNIQUES.index(r.technique), order.index(r.workload)),
    )
    work = Comparison(tuple(result for result in found if result.workload != "checks"))
    lines = str(work).splitlines() if work.results else []
    checks = [result for result in found if result.workload == "checks"]
    if checks:
        rows = [["checks that deceive the kernel", "", ""]]
        for result in checks:
            wrong = f"{len(result.wrong)} of {len(result.checks)}"
            rows.append([f"  {result.technique}, {result.engine}", wrong, " ".join(result.wrong)])
        width = [max(len(row[n]) for row in rows) for n in (0, 1)]
        lines += ["", *(f"{a.ljust(width[0])}  {b.rjust(width[1])}  {c}".rstrip() for a, b, c in rows)]
    if native:
        rows = [["a program's loop", "cycles a turn", "ns a turn", "of the host's"]]
        for who, cycles, ns, ratio in least_of(native):
            rows.append([str(who), f"{cycles:.2f}", f"{ns:.3f}", f"{ratio:.2f}"])
        lines += ["", *as_columns([["", "", "", ""], *rows])[1:]]
    return lines


def least_of(native: Iterable[list[Any]]) -> list[list[Any]]:
    """One line for each who ran the loop, the cheapest, with its share of the host's; the host comes first."""
    found: dict[str, list[Any]] = {}
    for who, cycles, ns in native:
        if who not in found or ns < found[who][2]:
            found[who] = [who, cycles, ns]
    order = [HOST, *(f"{name}, {engine}" for engine in ("translator", "kvm") for name in TECHNIQUES)]
    return [[*found[who], found[who][2] / found[HOST][2]] for who in order if who in found]


# docs/techniques.md ---------------------------------------------------------------------------------------------------


def _cell(result: Result) -> str:
    parts = []
    for metric, word in (("exits", ""), ("emulated", " emulated"), ("hypercalls", " hypercalls")):
        value = result.each(metric)
        if metric == "exits" or value >= 0.05:
            parts.append(f"{rounded(value)}{word}")
    return ", ".join(parts)


def rounded(value: float) -> str:
    """Of counts that differ a little from run to run: two figures."""
    if value < 0.05:
        return "0"
    return f"{value:.1f}" if value < 9.95 else f"{value:.2g}" if value < 99.5 else f"{round(value, -1):.0f}"


def counts_table(comparison: Comparison, engine: str, words: Mapping[str, str]) -> str:
    """Markdown: exits of each operation under each technique."""
    techniques = [t for t in comparison.techniques if any(r.technique == t for r in comparison.results)]
    lines = [f"| operation | {' | '.join(techniques)} |", f"|---|{'---|' * len(techniques)}"]
    for workload in comparison.workloads:
        cells = [_cell(comparison.get(workload, technique, engine)) for technique in techniques]
        lines.append(f"| `{workload}`: {words[workload]} | {' | '.join(cells)} |")
    return "\n".join(lines)


def checks_table(results: Iterable[Result], uses: Mapping[str, tuple[str, ...]]) -> str:
    """Markdown: each check, what it uses, and under which techniques it is right."""
    found = list(results)
    lines = [
        f"| check | uses | {' | '.join(result.technique for result in found)} |",
        f"|---|---|{'---|' * len(found)}",
    ]
    for name, instructions in uses.items():
        cells = []
        for result in found:
            check = next((each for each in result.checks if each.name == name), None)
            cells.append("-" if check is None else "right" if check.right else "**wrong**")
        lines.append(f"| {name} | {', '.join(instructions)} | {' | '.join(cells)} |")
    return "\n".join(lines)
