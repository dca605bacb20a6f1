"""`pyvmm.svg`: pictures are XML, on a white ground of their own."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree as ET

from pyvmm.svg import Svg, grid


def tags(picture: ET.Element) -> list[str]:
    return [each.tag.rpartition("}")[2] for each in picture]


def test_shapes(tmp_path: Path) -> None:
    picture = Svg(100, 50)
    picture.rectangle(1, 2, 3, 4, "red", "a < b")
    picture.arrow(0, 0, 30, 40)
    picture.text(5, 5, "x & y", bold=True)
    picture.arc((50, 25), (10, 20), (0, 0.25), "blue")
    picture.save(tmp_path / "picture.svg")
    root = ET.parse(tmp_path / "picture.svg").getroot()
    assert tags(root) == ["rect", "rect", "line", "polygon", "text", "path"]
    assert root[0].get("fill") == "white"
    assert root[1][0].text == "a < b"
    assert root[4].text == "x & y"


def test_grid() -> None:
    picture = ET.fromstring(
        str(grid(["one", "two"], ["a", "b"], {("one", "a"): "yes"}, {"yes": "green"}, title="All"))
    )
    assert [each.text for each in picture.iter() if each.tag.endswith("text")] == [
        "All",
        "a",
        "b",
        "one",
        "yes",
        "two",
    ]
    assert [each.get("fill") for each in picture.iter() if each.tag.endswith("rect")] == ["white", "green"]
    assert str(grid([], [], {}, {})).startswith("<svg")
