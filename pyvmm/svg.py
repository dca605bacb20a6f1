"""The little SVG that pyvmm's pictures are made of (SVG 1.1), without a library.

Every picture has a white ground of its own, so that its black text can be read on a dark page too. Left out: anything
that needs a style sheet or a script.
"""

from __future__ import annotations

from html import escape
from math import cos, pi, sin

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pyvmm.config import StrPath


class Svg:
    """A picture; a notebook shows it, `save` writes it to a file.

    Parameters
    ----------
    width, height
        In pixels.
    font_size
        Of its text, in pixels.
    """

    def __init__(self, width: float, height: float, *, font_size: float = 11) -> None:
        self._width, self._height, self._font_size = width, height, font_size
        self._parts: list[str] = []

    def rectangle(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        colour: str,
        title: str = "",
        *,
        border: str = "",
    ) -> None:
        """A filled box; `title` is shown where the mouse rests."""
        stroke = f' stroke="{border}"' if border else ""
        self._add(
            f'rect x="{x:.2f}" y="{y:.2f}" width="{width:.2f}" height="{height:.2f}" fill="{colour}"{stroke}',
            title,
        )

    def line(self, x: float, y: float, to_x: float, to_y: float, colour: str = "#888") -> None:
        """A thin line."""
        self._add(f'line x1="{x:.2f}" y1="{y:.2f}" x2="{to_x:.2f}" y2="{to_y:.2f}" stroke="{colour}"', "")

    def arrow(self, x: float, y: float, to_x: float, to_y: float, colour: str = "#444") -> None:
        """A line with a head at its second end."""
        length = max(((to_x - x) ** 2 + (to_y - y) ** 2) ** 0.5, 1e-9)
        along, across = ((to_x - x) / length, (to_y - y) / length), 3.5
        back = to_x - 8 * along[0], to_y - 8 * along[1]
        left = f"{back[0] - across * along[1]:.2f},{back[1] + across * along[0]:.2f}"
        right = f"{back[0] + across * along[1]:.2f},{back[1] - across * along[0]:.2f}"
        self.line(x, y, *back, colour)
        self._add(f'polygon points="{to_x:.2f},{to_y:.2f} {left} {right}" fill="{colour}"', "")

    def text(self, x: float, y: float, text: str, *, anchor: str = "start", bold: bool = False) -> None:
        """A line of text; `anchor` is what of it is at x: start, middle or end."""
        weight = ' font-weight="bold"' if bold else ""
        self._parts.append(
            f'<text x="{x:.2f}" y="{y:.2f}" text-anchor="{anchor}"{weight}>{escape(text)}</text>'
        )

    def arc(
        self,
        centre: tuple[float, float],
        radii: tuple[float, float],
        turns: tuple[float, float],
        colour: str,
        title: str = "",
    ) -> None:
        """A piece of a ring from one radius to another, between two angles in turns, clockwise from the top."""
        (x, y), (inner, outer), (begin, end) = centre, radii, turns

        def at(radius: float, turn: float) -> str:
            return f"{x + radius * sin(2 * pi * turn):.2f} {y - radius * cos(2 * pi * turn):.2f}"

        path = f"M{at(outer, begin)} A{outer} {outer} 0 0 1 {at(outer, end)} L{at(inner, end)} "
        path += f"A{inner} {inner} 0 0 0 {at(inner, begin)} Z"
        self._add(f'path d="{path}" fill="{colour}" stroke="white" stroke-width="0.5"', title)

    def _add(self, element: str, title: str) -> None:
        name = element.partition(" ")[0]
        self._parts.append(
            f"<{element}><title>{escape(title)}</title></{name}>" if title else f"<{element}/>"
        )

    def __str__(self) -> str:
        size = f'width="{self._width:g}" height="{self._height:g}" viewBox="0 0 {self._width:g} {self._height:g}"'
        font = f'font-family="monospace" font-size="{self._font_size:g}" fill="black"'
        head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} {font}>'
        return "\n".join((head, '<rect width="100%" height="100%" fill="white"/>', *self._parts, "</svg>"))

    def _repr_svg_(self) -> str:
        return str(self)

    def save(self, path: StrPath) -> None:
        """Write it to a file."""
        with open(path, "w", encoding="utf-8") as file:
            file.write(str(self))


def grid(
    rows: Sequence[str],
    columns: Sequence[str],
    cells: Mapping[tuple[str, str], str],
    colours: Mapping[str, str],
    *,
    title: str = "",
    cell_width: float = 110,
) -> Svg:
    """A table of words on coloured ground.

    Parameters
    ----------
    rows, columns
        Names, in order.
    cells
        The word at (row, column); where there is none, nothing is drawn.
    colours
        The ground of each word; of one that is not here, light grey.
    title
        Above the table.
    cell_width
        In pixels.
    """
    left, top = 16 + 8 * max(map(len, rows), default=0), 30 + (22 if title else 0)
    wide = max(left + cell_width * len(columns) + 8, 16 + 8 * len(title))
    picture = Svg(wide, top + 24 * len(rows) + 8, font_size=13)
    if title:
        picture.text(8, 20, title, bold=True)
    for n, column in enumerate(columns):
        picture.text(left + cell_width * (n + 0.5), top - 8, column, anchor="middle")
    for y, row in enumerate(rows):
        picture.text(left - 8, top + 24 * y + 16, row, anchor="end")
        for x, column in enumerate(columns):
            word = cells.get((row, column))
            if word is not None:
                at = left + cell_width * x, top + 24 * y
                picture.rectangle(
                    *at, cell_width - 3, 21, colours.get(word, "#eeeeee"), f"{row}, {column}: {word}"
                )
                picture.text(at[0] + (cell_width - 3) / 2, at[1] + 15, word, anchor="middle")
    return picture
