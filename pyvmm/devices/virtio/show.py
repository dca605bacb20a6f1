"""How a view of a virtqueue is shown: text, rich and HTML tables, and a picture (see `view`)."""

from __future__ import annotations

from html import escape

from pyvmm.svg import Svg

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any, Final, TypeAlias

    from pyvmm.devices.virtio.view import Descriptor, QueueView, State

    Table: TypeAlias = "tuple[str, tuple[str, ...], list[tuple[str, ...]]]"

FIRST: Final = 8
"""Descriptors of an idle packed ring that are shown."""
WRITE: Final = 2
COLOURS: Final = {"waiting": "#e8a33d", "taken": "#5b8fd6", "used": "#6fae6f", "": "#e4e4e4"}


def summary(view: QueueView) -> str:
    """Two lines."""
    if not view.enabled:
        return f"{view.name}: not set up by a driver, at most {view.max_size} descriptors"
    traits = [name for name in ("event_idx", "indirect", "in_order") if getattr(view, name)]
    kind = "packed" if view.packed else "split"
    places = "descriptors {:#x}, driver {:#x}, device {:#x}".format(*view.addresses)
    if view.packed:
        where = f"device takes at {view.last_avail} (wrap {view.avail_wrap:d}), "
        where += f"gives at {view.next_used} (wrap {view.used_wrap:d})"
    else:
        where = (
            f"avail.idx {view.avail_index}, device took up to {view.last_avail}, used.idx {view.used_index}"
        )
        if view.event_idx:
            where += f"; tell at avail {view.avail_event}, interrupt at used {view.used_event}"
    first = (
        f"{view.name}: {kind}, {view.size} descriptors{''.join(f', {trait}' for trait in traits)}; {places}"
    )
    return f"{first}\n{where}; {view.waiting} waiting, {view.in_device} in the device"


def tables(view: QueueView, *, every: bool = False) -> list[Table]:
    """Title, column names and rows of each table; `every`: the whole rings, not only what is new in them."""
    if not view.enabled:
        return []
    columns = ("descriptor", "address", "bytes", "flags", "next")
    if view.packed:
        shown = [d for d in view.descriptors if every or d.state in ("waiting", "taken")]
        rows = [
            (*row, str(d.id), d.state)
            for d in shown or view.descriptors[:FIRST]
            for row in _descriptor_rows([d])
        ]
        return [("descriptor ring", (*columns, "id", "state"), rows)]
    avail, used = view.avail(every=every), view.used(every=every)
    heads = dict.fromkeys(entry.head for entry in reversed(avail + used) if every or entry.state != "taken")
    chains: Sequence[Descriptor] = [d for head in heads for d in view.chain(head)]
    if every:
        chains = view.descriptors
    ring = ("position", "head", "state")
    return [
        ("available ring", ring, [(str(e.position), str(e.head), e.state) for e in avail]),
        ("used ring", (*ring, "written"), [(str(e.position), str(e.head), e.state, str(e.written)) for e in used]),
        ("descriptors", columns, list(_descriptor_rows(list(dict.fromkeys(chains))))),
    ]  # fmt: skip


def text(view: QueueView, *, every: bool = False) -> str:
    """All tables."""
    return "\n".join([summary(view), *(_text_table(*table) for table in tables(view, every=every))])


def rich(view: QueueView) -> Any:
    """For rich.print."""
    from rich.console import Group
    from rich.table import Table as RichTable

    made = []
    for title, columns, rows in tables(view):
        table = RichTable(*columns, title=title, title_justify="left")
        for row in rows:
            table.add_row(*row)
        made.append(table)
    return Group(summary(view), *made)


def html(view: QueueView) -> str:
    """For a notebook."""
    parts = [f"<pre>{escape(summary(view))}</pre>", str(svg(view)) if view.enabled else ""]
    for title, columns, rows in tables(view):
        head = "".join(f"<th>{escape(column)}</th>" for column in columns)
        body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
        parts.append(f"<table><caption>{escape(title)}</caption><tr>{head}</tr>{body}</table>")
    return "\n".join(parts)


def svg(view: QueueView) -> Svg:
    """The rings as rings, clockwise from the top: outside the available one, inside the used one; of a packed ring
    the one that there is. Chains that wait stand beside it."""
    picture = Svg(760, 310, font_size=12)
    centre = (220.0, 155.0)
    hands: list[tuple[int, str]]
    if view.packed:
        for d in view.descriptors:
            _cell(view.size, picture, centre, (90, 130), d.index, d.state, f"{d.index}: {d.flag_names}")
        hands = [(view.last_avail, "takes"), (view.next_used, "gives")]
    else:
        avail = {entry.position % view.size: entry for entry in view.avail(every=True)}
        used = {entry.position % view.size: entry for entry in view.used(every=True)}
        for place in range(view.size):
            for ring, radii in ((avail, (105, 130)), (used, (75, 100))):
                entry = ring.get(place)
                title = f"{place}: head {entry.head}, {entry.state}" if entry else f"{place}"
                _cell(view.size, picture, centre, radii, place, entry.state if entry else "", title)
        hands = [(view.avail_index, "avail.idx"), (view.last_avail, "taken"), (view.used_index, "used.idx")]
    _hands(view.size, picture, centre, hands)
    for n, line in enumerate((view.name, f"{view.waiting} waiting", f"{view.in_device} in device")):
        picture.text(centre[0], centre[1] - 10 + 15 * n, line, anchor="middle")
    for n, state in enumerate(("waiting", "taken", "used")):
        picture.rectangle(430 + 90 * n, 8, 10, 10, COLOURS[state])
        picture.text(444 + 90 * n, 17, state)
    for n, entry in enumerate([e for e in view.avail() if e.state == "waiting"][:10]):
        _draw_chain(view, picture, 430, 32 + 25 * n, entry.head)
    return picture


def _cell(
    size: int,
    picture: Svg,
    centre: tuple[float, float],
    radii: tuple[float, float],
    place: int,
    state: State,
    title: str,
) -> None:
    picture.arc(centre, radii, (place / size, (place + 1) / size), COLOURS[state], title)


def _hands(
    size: int, picture: Svg, centre: tuple[float, float], hands: list[tuple[int, str]], radius: float = 140
) -> None:
    """A line for each position, from the innermost ring outwards; those that are close to each other share a label."""
    from math import cos, pi, sin

    labels: list[tuple[float, list[str]]] = []
    for position, name in sorted((position % size, name) for position, name in hands):
        angle = 2 * pi * position / size
        x, y = sin(angle), -cos(angle)
        picture.line(
            centre[0] + 73 * x, centre[1] + 73 * y, centre[0] + radius * x, centre[1] + radius * y, "black"
        )
        near = next((names for at, names in labels if cos(angle - at) > 0.97), None)
        if near is None:
            labels.append((angle, [name]))
        else:
            near.append(name)
    for angle, names in labels:
        side = 4 if sin(angle) >= 0 else -4
        x, y = centre[0] + radius * sin(angle) + side, centre[1] - radius * cos(angle)
        top = min(max(y + 4 - 7 * (len(names) - 1), 12), 300 - 14 * (len(names) - 1))
        for n, name in enumerate(names):
            picture.text(x, top + 14 * n, name, anchor="start" if side > 0 else "end")


def _draw_chain(view: QueueView, picture: Svg, x: float, y: float, head: int) -> None:
    for descriptor in view.chain(head)[:6]:
        colour = "#f4c2c2" if descriptor.flags & WRITE else "#c2d7f4"
        picture.rectangle(
            x, y, 50, 18, colour, f"{descriptor.address:#x} {descriptor.length} {descriptor.flag_names}"
        )
        picture.text(x + 25, y + 13, f"{descriptor.index}:{descriptor.length}", anchor="middle")
        x += 54


def _descriptor_rows(descriptors: Sequence[Descriptor], indent: str = "") -> Iterator[tuple[str, ...]]:
    for d in descriptors:
        following = "" if d.next is None else str(d.next)
        yield f"{indent}{d.index}", f"{d.address:#x}", str(d.length), d.flag_names, following
        yield from _descriptor_rows(d.table, indent + "  ")


def _text_table(title: str, columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    widths = [max(len(row[n]) for row in [columns, *rows]) for n in range(len(columns))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in [columns, *rows]
    ]
    return "\n".join([f"{title}:" if rows else f"{title}: empty", *(f"  {line}" for line in lines if rows)])
