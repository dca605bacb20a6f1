"""Figures that a notebook can show."""

from __future__ import annotations

import sys

import pytest

from pyvmm.errors import PyvmmError
from pyvmm.figure import _shown, new_figure


def test_a_notebook_has_a_picture_without_pyplot() -> None:
    """IPython asks for this method, when no formatter of pyplot's is there."""
    pytest.importorskip("matplotlib")
    figure = new_figure(2, 1)
    figure.add_subplot().plot([1, 2])
    png = figure._repr_png_()  # type: ignore[attr-defined]
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    assert (int.from_bytes(png[16:20], "big"), int.from_bytes(png[20:24], "big")) == (200, 100)
    assert type(figure) is type(new_figure(1, 1))


def test_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    _shown.cache_clear()
    with pytest.raises(PyvmmError, match=r"^a figure needs matplotlib: pip install 'pyvmm-lab\[plots\]'$"):
        new_figure(1, 1, "plots")
