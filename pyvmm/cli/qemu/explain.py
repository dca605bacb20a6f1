"""``pyvmm qemu-kvm --explain``: a command line as a table."""

from __future__ import annotations

from pyvmm.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


@record(frozen=True)
class Row:
    """One option, or one name in its value."""

    written: str
    meaning: str
    does: str
    where: str = ""


def print_rows(rows: Sequence[Row], notes: Sequence[str]) -> None:
    """The table, and the notes below it. A pipe gets lines that are not cut."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = 200
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("option", overflow="fold", ratio=3)
    table.add_column("means", overflow="fold", ratio=3)
    table.add_column("in pyvmm", overflow="fold", ratio=4)
    table.add_column("code", overflow="fold", ratio=3)
    for row in rows:
        table.add_row(row.written, row.meaning, row.does, row.where)
    console.print(table)
    for note in notes:
        console.print(f"note: {note}")
