"""The little SVG that pictures of queues and time lines are made of (SVG 1.1), without a library."""

from __future__ import annotations

from html import escape
from math import cos, pi, sin

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.config import StrPath


class Svg:
    """A picture; a notebook shows it, `save` writes it to a file.

    Parameters
    ----------
    width, height
        In pixels.
    """

    def __init__(self, width: float, height: float) -> None:
        self._width, self._height = width, height
        self._parts: list[str] = []

    def rectangle(
        self, x: float, y: float, width: float, height: float, colour: str, title: str = ""
    ) -> None:
        """A filled box; `title` is shown where the mouse rests."""
        self._add(
            f'rect x="{x:.2f}" y="{y:.2f}" width="{width:.2f}" height="{height:.2f}" fill="{colour}"', title
        )

    def line(self, x: float, y: float, to_x: float, to_y: float, colour: str = "#888") -> None:
        """A thin line."""
        self._add(f'line x1="{x:.2f}" y1="{y:.2f}" x2="{to_x:.2f}" y2="{to_y:.2f}" stroke="{colour}"', "")

    def text(self, x: float, y: float, text: str, *, anchor: str = "start") -> None:
        """A line of text; `anchor` is what of it is at x: start, middle or end."""
        self._parts.append(f'<text x="{x:.2f}" y="{y:.2f}" text-anchor="{anchor}">{escape(text)}</text>')

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
        head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="monospace" font-size="11" fill="black">'
        return "\n".join((head, *self._parts, "</svg>"))

    def _repr_svg_(self) -> str:
        return str(self)

    def save(self, path: StrPath) -> None:
        """Write it to a file."""
        with open(path, "w", encoding="utf-8") as file:
            file.write(str(self))
