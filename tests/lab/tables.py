"""The experiment's tables: for a terminal, and for docs/rings.md."""

from __future__ import annotations

from pathlib import Path

from pyvmm.cpu.instructions import Kind
from tests.conformance.engine_probes import has
from tests.conformance.engine_variants import availability, variant
from tests.lab.cases import CASES, Case
from tests.lab.experiment import ROWS, expected, measure, measure_native, modes, settings

PAGE = Path(__file__).resolve().parents[2] / "docs" / "rings.md"
SHORT = {"protected": "32", "compatibility": "compat", "long": "64"}


def cell(results: dict[tuple[str, str], str]) -> str:
    """Words by (setting, mode) in few: one where all modes agree, and each control bit's that changes something."""
    parts = []
    plain = ""
    for setting in dict.fromkeys(name for name, _ in results):
        words: dict[str, list[str]] = {}
        for (name, mode), word in results.items():
            if name == setting:
                words.setdefault(word, []).append(SHORT[mode])
        text = ", ".join(
            word if len(words) == 1 else f"{word} ({'+'.join(where)})" for word, where in words.items()
        )
        if not setting:
            plain = text
            parts.append(text)
        elif text != plain:
            parts.append(f"{setting}: {text}")
    return "; ".join(parts)


def by_name() -> dict[str, list[Case]]:
    """Cases that are one line of a table: forms for two widths go together."""
    found: dict[str, list[Case]] = {}
    for case in CASES:
        found.setdefault(case.name, []).append(case)
    return found


def measured(engine: str, cases: list[Case]) -> str:
    """A cell of an engine that can run here."""
    return cell(
        {
            (setting.name, mode): measure(engine, case, mode, setting)
            for case in cases if case.machine
            for setting in settings(case) for mode in modes(case)
        }
    )  # fmt: skip


def modelled(cases: list[Case], amd: bool = False) -> str:
    """A cell of the model."""
    return cell(
        {
            (setting.name, mode): expected(case, mode, setting, amd=amd)
            for case in cases for setting in settings(case) for mode in modes(case)
        }
    )  # fmt: skip


def on_the_host(cases: list[Case]) -> str:
    """A cell of the host's own CPU."""
    results = measure_native()
    if isinstance(results, str):
        return "not run"
    found = {
        ("", mode): results[case, mode] for case in cases for mode in modes(case) if (case, mode) in results
    }
    return cell(found) if found else "not run"


def engines() -> list[str]:
    """Those that can run here, without the translator's slow tier."""
    return [name for name in ("translator", "kvm", "kvm+hand-over") if availability(name).usable]


def comparison() -> list[list[str]]:
    """Model, engines and host beside each other; the first row is the heading."""
    rows = [["instruction", "model", *engines(), "host, ring 3"]]
    for name, cases in by_name().items():
        cells = [measured(engine, cases) or "-" for engine in engines()]
        rows.append([name, modelled(cases), *cells, on_the_host(cases)])
    return rows


def as_text(rows: list[list[str]]) -> list[str]:
    """Columns for a terminal; a cell that is as the model's is shown as =."""
    shown = [
        rows[0],
        *([*row[:2], *("=" if each == row[1] else each for each in row[2:])] for row in rows[1:]),
    ]
    widths = [max(len(row[n]) for row in shown) for n in range(len(shown[0]))]
    return [
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in shown
    ]


def _markdown(rows: list[list[str]]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in rows]
    lines.insert(1, f"|{'---|' * len(rows[0])}")
    return "\n".join(lines)


def lesson_table() -> str:
    """The page's table: what the translator did, with class, reason and section from the model."""
    rows = [["instruction", "class", "in ring 3", "reveals, changes", "Intel SDM"]]
    for name, cases in by_name().items():
        row = ROWS[cases[0].row]
        kind = row.kind.value if row.kind is not Kind.SENSITIVE else f"{row.kind.value} ({row.sensitivity})"
        star = " *" if row.robin_irvine else ""
        run = measured("translator", cases)
        told = run or f"({modelled(cases)})"
        if run and run not in (modelled(cases, has(variant("translator"), "amd")), *cases[0].also):
            told += " †"
        rows.append([f"{name}{star}", kind, told, row.what, row.section])
    return _markdown(rows)


def host_table() -> str:
    """The page's second table: only the lines in which somebody does not do as the model says."""
    rows = comparison()
    kept = [row for row in rows[1:] if any(each not in (row[1], "-", "not run") for each in row[3:-1])]
    return _markdown([row[:-1] for row in [rows[0], *kept]])


def section(name: str, page: str) -> str:
    """What stands between the page's markers of that name."""
    begin, end = f"<!-- {name} -->\n", f"\n<!-- end of {name} -->"
    return page.split(begin, 1)[1].split(end, 1)[0]


def with_section(name: str, page: str, text: str) -> str:
    """The page with that section replaced."""
    begin, end = f"<!-- {name} -->\n", f"\n<!-- end of {name} -->"
    return page.split(begin, 1)[0] + begin + text + end + page.split(end, 1)[1]
