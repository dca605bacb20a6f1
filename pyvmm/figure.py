"""matplotlib's figures without pyplot: no window, no global state, and a notebook shows them.

A notebook shows a plain `matplotlib.figure.Figure` only after somebody has imported pyplot, and a line of text
otherwise.
"""

from __future__ import annotations

from functools import cache
from io import BytesIO
from typing import TYPE_CHECKING

from pyvmm.errors import PyvmmError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def new_figure(width: float, height: float, extra: str = "notebooks") -> Figure:
    """An empty figure.

    Parameters
    ----------
    width, height
        In inches.
    extra
        Of pyvmm, that matplotlib comes with; for the error.

    Raises
    ------
    PyvmmError
        matplotlib is not installed.
    """
    try:
        kind = _shown()
    except ImportError:
        raise PyvmmError(f"a figure needs matplotlib: pip install 'pyvmm-lab[{extra}]'") from None
    return kind(figsize=(width, height), layout="constrained", facecolor="white")


@cache
def _shown() -> type[Figure]:
    from matplotlib.figure import Figure

    class ShownFigure(Figure):  # type: ignore[misc, unused-ignore]
        """A figure that is its own picture in a notebook."""

        def _repr_png_(self) -> bytes:
            data = BytesIO()
            self.savefig(data, format="png", dpi=100)
            return data.getvalue()

    return ShownFigure
