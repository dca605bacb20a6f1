"""A recording as tables: plain text, and rich's for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

    from pyvmm.trace.recording import Recording, Site

_HEADS = ("exits", "share", "cycles each", "ring", "where", "what")


def site_rows(recording: Recording, top: int) -> list[tuple[str, ...]]:
    """Headings, then the top sites."""
    total = recording.total or 1
    rows: list[tuple[str, ...]] = [_HEADS]
    for site in recording.sites[:top]:
        rows.append(
            (
                f"{site.count}",
                f"{100 * site.count / total:.1f}%",
                f"{site.cycles // site.count}" if site.cycles else "-",
                _ring(site),
                recording.where(site),
                recording.describe(site),
            )
        )
    return rows


def _ring(site: Site) -> str:
    if not site.rip:
        return "-"
    return site.mode if site.mode in ("real", "virtual-8086") else str(site.cpl)


def total_rows(recording: Recording, *, by_device: bool) -> list[tuple[str, ...]]:
    """Headings, then a row for each device or reason."""
    hz = recording.tsc_hz
    if by_device:
        found = [(row.name, row.count, row.cycles) for row in recording.devices]
    else:
        cycles = recording.cycles
        found = [(reason.name, count, cycles.get(reason, 0)) for reason, count in recording.counts.items()]
        found.sort(key=lambda row: -row[1])
    rows: list[tuple[str, ...]] = [("device" if by_device else "reason", "exits", "cycles each", "ms in all")]
    for name, count, spent in found:
        each = f"{spent // count}" if spent and count else "-"
        rows.append((name, str(count), each, f"{spent * 1e3 / hz:.1f}" if hz and spent else "-"))
    return rows


def _columns(rows: list[tuple[str, ...]], right: int) -> list[str]:
    """Aligned text; the first `right` columns to the right, headings as the rest."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            (text.rjust if i < right else text.ljust)(width)
            for i, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def summary_line(recording: Recording) -> str:
    """``"54321 exits at 2100 sites in 3.2 s, ..."``."""
    engine = recording.meta.get("engine", "unknown")
    merged = f", {recording.merged} exits of further sites merged" if recording.merged else ""
    source = recording.meta.get("symbol_source") or "no symbols"
    sites = f"{recording.total} exits at {len(recording.sites)} sites"
    return f"{sites} in {recording.seconds:.1f} s of the machine's time{merged}; engine {engine}; {source}"


def cost_line(recording: Recording) -> str:
    """``"recording took 31 ms of 4.2 s CPU: 0.7%"``, or nothing when it is not known."""
    spent, own = float(recording.meta.get("cpu_seconds", 0)), recording.own_seconds
    if not own:
        return ""
    share = f" of {spent:.1f} s CPU: {100 * own / spent:.1f}%" if spent > own else ""
    return f"recording took {own * 1e3:.0f} ms{share}"


def plain(recording: Recording, top: int = 10) -> str:
    """The whole report."""
    lines = [summary_line(recording)]
    if cost := cost_line(recording):
        lines.append(cost)
    lines += ["", *_columns(site_rows(recording, top), 3), ""]
    for by_device in (False, True):
        rows = total_rows(recording, by_device=by_device)
        rows = [(*row[1:], row[0]) for row in rows]
        lines += [*_columns(rows, 3), ""]
    return "\n".join(lines[:-1])


def rich_table(recording: Recording, top: int) -> Table:
    """The top sites for a terminal."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=None, expand=True, box=None, pad_edge=False)
    for number, head in enumerate(_HEADS):
        table.add_column(head, justify="right" if number < 3 else "left", no_wrap=True, overflow="ellipsis",
                         ratio=3 if number == 4 else 4 if number == 5 else None)  # fmt: skip
    for row in site_rows(recording, top)[1:]:
        table.add_row(*(Text(text) for text in row))  # Text: what stands in brackets is no markup
    return table
