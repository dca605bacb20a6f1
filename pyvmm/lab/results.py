"""What a run under one technique took, and several of them beside each other.

Counts are the same things under every technique, so that they can be compared: `Result.exits` is how often the guest
was left. Where nobody is below the guest's kernel but the engine, that is an exit of the engine which pyvmm saw (a KVM
answers more inside the host's kernel, and tells nobody); where a monitor owns ring 0, it is an entry to the monitor.
CPU seconds are the whole process's, so they mean something when nothing else runs in it.

Left out: statistics over several runs. Times are one run's, and depend on the host; counts do not.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from html import escape
from typing import TYPE_CHECKING

from pyvmm.errors import PyvmmError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from matplotlib.figure import Figure

    from pyvmm.lab.boot import CheckResult

METRICS = {
    "exits": "exits",
    "emulated": "instructions emulated",
    "shadow": "shadow faults",
    "hypercalls": "hypercalls",
    "cycles": "guest TSC cycles",
    "cpu": "CPU seconds of the host",
}
"""What `Result.total` and `Result.each` can tell, in words."""

_COUNTED = ("exits", "emulated", "shadow", "hypercalls", "blocks")


def _difference(more: Mapping[str, int], less: Mapping[str, int]) -> dict[str, int]:
    left = {name: max(count - less.get(name, 0), 0) for name, count in more.items()}
    return {name: count for name, count in left.items() if count}


@dataclass(frozen=True, slots=True)
class Result:
    """One workload under one technique.

    Attributes
    ----------
    technique, engine, workload, count
        What was asked for.
    operations
        That were done.
    cycles
        Of the guest's TSC, from the first operation to the last.
    value
        What the guest computed: the same under every technique that is right.
    cpu
        CPU seconds of this process, user and system.
    exits
        How often the guest was left, by reason.
    exit_cycles
        The host's TSC cycles that a monitor took for them, by reason.
    emulated
        Instructions of the guest's kernel that a monitor executed for it, by mnemonic.
    shadow
        Work on shadow page tables, by kind.
    hypercalls
        By name.
    blocks
        Of a translating monitor: what became of blocks of code, by kind.
    interrupts
        That arrived in the guest's kernel.
    checks
        What the workload ``"checks"`` asked of sensitive instructions, and what they answered.
    status
        ``"ok"``; what the kernel says instead (``"absent"``, ``"stuck"``, ``"fault"``, ``"no memory"``); or
        ``"ended"``, when the kernel did not come to its own end.
    end
        Then: why, with where it was.
    console
        What it wrote to its serial port.
    """

    technique: str
    engine: str
    workload: str
    count: int
    operations: int = 0
    cycles: int = 0
    value: int = 0
    cpu: float = 0.0
    exits: Mapping[str, int] = field(default_factory=dict)
    exit_cycles: Mapping[str, int] = field(default_factory=dict)
    emulated: Mapping[str, int] = field(default_factory=dict)
    shadow: Mapping[str, int] = field(default_factory=dict)
    hypercalls: Mapping[str, int] = field(default_factory=dict)
    blocks: Mapping[str, int] = field(default_factory=dict)
    interrupts: int = 0
    checks: tuple[CheckResult, ...] = ()
    status: str = "ok"
    end: str = ""
    console: str = field(default="", repr=False)

    @property
    def ok(self) -> bool:
        """Whether the workload was done."""
        return self.status == "ok"

    @property
    def wrong(self) -> tuple[str, ...]:
        """Names of the checks in which the guest's kernel was deceived."""
        return tuple(check.name for check in self.checks if not check.right)

    def total(self, metric: str) -> float:
        """The sum of one of `METRICS`.

        Raises
        ------
        ValueError
            There is no such metric.
        """
        if metric not in METRICS:
            raise ValueError(f"metric {metric!r}: there are {', '.join(METRICS)}")
        value = getattr(self, metric)
        return float(value if metric in ("cycles", "cpu") else sum(value.values()))

    def each(self, metric: str) -> float:
        """One of `METRICS` for each operation; 0 when none was done."""
        return self.total(metric) / self.operations if self.operations else 0.0

    def less(self, start: Result) -> Result:
        """What this run took beyond another one, with fewer operations: without the kernel's start and end.

        Raises
        ------
        ValueError
            They are not of the same workload under the same technique and engine.
        """
        names = ("technique", "engine", "workload")
        if any(getattr(self, name) != getattr(start, name) for name in names):
            raise ValueError(
                "two runs of the same workload, technique and engine have a difference, others have not"
            )
        return replace(
            self,
            count=max(self.count - start.count, 0),
            operations=max(self.operations - start.operations, 0),
            cycles=max(self.cycles - start.cycles, 0),
            cpu=max(self.cpu - start.cpu, 0.0),
            interrupts=max(self.interrupts - start.interrupts, 0),
            exits=_difference(self.exits, start.exits),
            exit_cycles=_difference(self.exit_cycles, start.exit_cycles),
            emulated=_difference(self.emulated, start.emulated),
            shadow=_difference(self.shadow, start.shadow),
            hypercalls=_difference(self.hypercalls, start.hypercalls),
            blocks=_difference(self.blocks, start.blocks),
        )

    def __str__(self) -> str:
        lines = [f"{self.workload}, {self.technique} on {self.engine}: {self.operations} operations"]
        if self.operations and self.workload not in PACED:
            lines[0] += f", {time_of(self)} us of CPU each"
        if not self.ok:
            lines[0] += f"; {self.status}: {self.end}" if self.end else f"; {self.status}"
        for name in _COUNTED:
            counts: Mapping[str, int] = getattr(self, name)
            if counts:
                ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
                taken = self.exit_cycles if name == "exits" else {}
                told = [
                    f"{what} {count}" + (f" ({taken[what] // count} cycles)" if what in taken else "")
                    for what, count in ordered
                ]
                lines += _listed(f"  {name:<10} {sum(counts.values()):>9}: ", told)
        if self.checks:
            lines.append(f"  checks     {len(self.checks):>9}: {len(self.wrong)} wrong")
            lines += [f"    {check}" for check in self.checks if not check.right]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}</pre>"


# Beside each other ----------------------------------------------------------------------------------------------------


CPU_RESOLUTION = 0.005
"""Seconds: less than this is not told from the noise of a process's start."""


PACED = frozenset({"timer"})
"""Workloads that last as long as a clock says, whatever they cost."""


def _listed(head: str, items: Sequence[str], width: int = 110) -> list[str]:
    """Lines of items with commas, none of them longer than `width` if an item is not; below `head`."""
    lines = [head]
    for n, item in enumerate(items):
        piece = item + ("," if n < len(items) - 1 else "")
        if n and len(lines[-1]) + len(piece) > width:
            lines[-1] = lines[-1].rstrip()
            lines.append(" " * len(head))
        lines[-1] += piece + " "
    lines[-1] = lines[-1].rstrip()
    return lines


def _number(value: float) -> str:
    """Three figures, and no more zeros than they need."""
    figures = f"{value:.0f}" if value >= 99.5 else f"{value:.1f}" if value >= 9.95 else f"{value:.2f}"
    return f"{value:.2g}" if value < 0.0995 else figures


def time_of(result: Result) -> str:
    """CPU microseconds for each operation, or below what they are."""
    if result.workload in PACED:
        return "-"
    if result.cpu < CPU_RESOLUTION:
        return f"<{_number(CPU_RESOLUTION / result.operations * 1e6)}" if result.operations else "-"
    return _number(result.each("cpu") * 1e6)


def _count(value: float) -> str:
    """A count for each operation: what is less than a twentieth comes from the kernel's start and end."""
    return "0" if value < 0.05 else f"{value:.1f}" if value < 99.95 else f"{value:.0f}"


@dataclass(frozen=True, slots=True)
class Comparison:
    """Workloads under several techniques, for the same work: ``print()`` it, or end a notebook's cell with it.

    Attributes
    ----------
    results
        In the order in which they are shown.
    notes
        What a reader has to know about this host, one line each.
    """

    results: tuple[Result, ...]
    notes: tuple[str, ...] = ()

    @property
    def engines(self) -> tuple[str, ...]:
        """That ran, in order."""
        return tuple(dict.fromkeys(result.engine for result in self.results))

    @property
    def techniques(self) -> tuple[str, ...]:
        """That ran, in order."""
        return tuple(dict.fromkeys(result.technique for result in self.results))

    @property
    def workloads(self) -> tuple[str, ...]:
        """That ran, in order."""
        return tuple(dict.fromkeys(result.workload for result in self.results))

    def get(self, workload: str, technique: str, engine: str = "") -> Result:
        """One of the results; without an engine the first one's.

        Raises
        ------
        PyvmmError
            It is not among them.
        """
        for result in self.results:
            if (result.workload, result.technique) == (workload, technique) and engine in ("", result.engine):
                return result
        raise PyvmmError(f"{workload} was not run under {technique}{f' on {engine}' if engine else ''}")

    def _find(self, workload: str, technique: str, engine: str) -> Result | None:
        try:
            return self.get(workload, technique, engine)
        except PyvmmError:
            return None

    def rows(self, engine: str, metrics: Sequence[str] = ("exits", "emulated", "cpu")) -> list[list[str]]:
        """Cells for a table: two lines of headings, then a line for each workload. CPU time is in microseconds.

        What a technique did not do is ``-``, and a workload that ended otherwise than well has its status.
        """
        short = {"emulated": "emulated", "cpu": "us", "shadow": "shadow", "hypercalls": "calls"}
        techniques = [
            t for t in self.techniques if any(r.technique == t and r.engine == engine for r in self.results)
        ]
        heads = [engine], ["each operation"]
        for technique in techniques:
            heads[0].extend([technique, *[""] * (len(metrics) - 1)])
            heads[1].extend(short.get(metric, metric) for metric in metrics)
        rows: list[list[str]] = [*heads]
        for workload in self.workloads:
            row = [workload]
            for technique in techniques:
                row.extend(_cells(self._find(workload, technique, engine), metrics))
            if any(cell != "-" for cell in row[1:]):
                rows.append(row)
        return rows

    def __str__(self) -> str:
        parts = ["\n".join(as_columns(self.rows(engine))) for engine in self.engines]
        return "\n\n".join([*parts, *(["\n".join(self.notes)] if self.notes else [])])

    def _repr_html_(self) -> str:
        parts = []
        for engine in self.engines:
            first, second, *rest = self.rows(engine)
            span = next((n for n, cell in enumerate(first[2:], 1) if cell), len(first) - 1)
            top = "".join(f'<th colspan="{span}">{escape(cell)}</th>' for cell in first[1:] if cell)
            head = "".join(f"<th>{escape(cell)}</th>" for cell in second)
            body = "".join(
                f"<tr><th>{escape(row[0])}</th>"
                + "".join(f'<td style="text-align:right">{escape(cell)}</td>' for cell in row[1:])
                + "</tr>"
                for row in rest
            )
            parts.append(
                f"<table><thead><tr><th>{escape(first[0])}</th>{top}</tr><tr>{head}</tr></thead>"
                f"<tbody>{body}</tbody></table>"
            )
        return "".join(parts) + "".join(f"<p>{escape(note)}</p>" for note in self.notes)

    def figure(self, metric: str = "exits", engine: str = "") -> Figure:
        """Bars on a logarithmic scale, one group for each workload; as Adams and Agesen's figure has them.

        Parameters
        ----------
        metric
            One of `METRICS`, for each operation.
        engine
            The first one's by default.

        Raises
        ------
        PyvmmError
            matplotlib is not installed.
        ValueError
            There is no such metric.
        """
        from pyvmm.figure import new_figure

        engine = engine or self.engines[0]
        shown = [r for r in self.results if r.engine == engine and _told(r, metric)]
        workloads = [name for name in self.workloads if any(r.workload == name for r in shown)]
        techniques = [name for name in self.techniques if any(r.technique == name for r in shown)]
        figure = new_figure(max(6.0, 1.1 * len(workloads) + 2), 4)
        axes = figure.add_subplot()
        width = 0.8 / max(len(techniques), 1)
        for n, technique in enumerate(techniques):
            heights = []
            for workload in workloads:
                found = self._find(workload, technique, engine)
                heights.append(_told(found, metric))
            places = [at - 0.4 + width * (n + 0.5) for at in range(len(workloads))]
            bars = axes.bar(places, heights, width, label=technique)
            axes.bar_label(bars, [_number(height) if height else "" for height in heights], fontsize=7, rotation=90,
                           padding=2)  # fmt: skip
        axes.set_xticks(range(len(workloads)), workloads)
        axes.set_yscale("log")
        if shown:
            heights = [height for r in shown if (height := _told(r, metric))] or [1.0]
            # The smallest bar is seen to be one, the greatest has room for its label.
            axes.set_ylim(0.1 if metric != "cpu" else min(heights) / 3, 8 * max(heights))
        unit = "CPU time of the host, us" if metric == "cpu" else METRICS[metric]
        axes.set_ylabel(f"{unit} for each operation")
        axes.set_title(f"on {engine}")
        axes.legend(fontsize=8)
        return figure


def _told(result: Result | None, metric: str) -> float:
    """What a bar shows: 0 for what the table does not tell from nothing. CPU time is in microseconds."""
    if result is None or not result.ok:
        return 0.0
    if metric == "cpu":
        known = result.cpu >= CPU_RESOLUTION and result.workload not in PACED
        return result.each(metric) * 1e6 if known else 0.0
    value = result.each(metric)
    return value if value >= 0.05 else 0.0


def _cells(result: Result | None, metrics: Sequence[str]) -> list[str]:
    if result is None:
        return ["-"] * len(metrics)
    if not result.ok:
        return [result.status, *[""] * (len(metrics) - 1)]
    return [time_of(result) if metric == "cpu" else _count(result.each(metric)) for metric in metrics]


def as_columns(rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of text in columns: the first to the left, others to the right; a heading goes over its neighbours."""
    table = [list(row) for row in rows]
    count = max((len(row) for row in table), default=0)
    widths = [max((len(row[n]) for row in table[1:] if n < len(row)), default=0) for n in range(count)]
    for row in table[:1]:  # a heading may be as wide as the columns up to the next one
        starts = [n for n, cell in enumerate(row) if cell]
        for at, n in enumerate(starts):
            end = starts[at + 1] if at + 1 < len(starts) else count
            room = sum(widths[n:end]) + 2 * (end - n - 1)
            widths[end - 1] += max(0, len(row[n]) - room)
    lines = []
    for number, row in enumerate(table):
        line, n = "", 0
        while n < len(row):
            end = n + 1
            while number == 0 and end < len(row) and not row[end]:
                end += 1
            room = sum(widths[n:end]) + 2 * (end - n - 1)
            text = (
                row[n].ljust(room) if n == 0 else row[n].rjust(room) if end == n + 1 else row[n].center(room)
            )
            line += text + "  "
            n = end
        lines.append(line.rstrip())
    return lines
