"""Every lesson of examples/notebooks runs, cell by cell, in a kernel; its exercises take the solution and nothing else.

Beside each notebook with exercises stands solutions/NAME.py, in parts that begin with ``# %% exercise N: solution`` or
``# %% exercise N: wrong, WHY``. All is run in one kernel: the notebook as it is, and behind each check the wrong
answers and the solution, each followed by the check again.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbclient
import nbformat
import pytest

from tests.boot.guests import need
from tests.notebooks.notebook_files import FOLDER, problem, stripped, text_of

NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
SOLUTIONS = FOLDER / "solutions"


def tags(cell: Any) -> list[str]:
    return list(cell.metadata.get("tags", []))


def answers(name: str) -> dict[int, list[tuple[str, str]]]:
    """(what it is, code) of each answer, by the exercise's number."""
    path = SOLUTIONS / f"{name}.py"
    found: dict[int, list[tuple[str, str]]] = {}
    if path.exists():
        parts = re.split(r"^# %% exercise (\d+): (.+)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
        for number, what, code in zip(parts[1::3], parts[2::3], parts[3::3], strict=True):
            found.setdefault(int(number), []).append((what, code))
    return found


def text_of_outputs(cell: Any) -> str:
    return "".join(
        output.get("text", "") + str(output.get("data", {}).get("text/plain", "")) for output in cell.outputs
    )


def with_answers(name: str, notebook: Any) -> tuple[Any, list[tuple[Any, str]]]:
    """The notebook with all answers behind its checks; and each check's cell with how it has to begin."""
    made, checks, given = [], [], answers(name)
    number = 0
    for cell in notebook.cells:
        made.append(cell)
        if "check" not in tags(cell):
            continue
        number += 1
        checks.append((cell, "open"))
        assert [what for what, _ in given.get(number, [])].count("solution") == 1, (
            f"exercise {number}: one solution"
        )
        assert len(given[number]) > 1, f"exercise {number} has no wrong answer"
        # The solution last: what follows in the notebook may build on it.
        for what, code in sorted(given[number], key=lambda each: each[0] == "solution"):
            again = nbformat.v4.new_code_cell(cell.source)
            made += [nbformat.v4.new_code_cell(code), again]
            checks.append((again, "right" if what == "solution" else "not yet"))
    assert number == len(given), f"solutions for {len(given)} exercises, the notebook has {number}"
    assert number == sum("exercise" in tags(cell) for cell in notebook.cells)
    return nbformat.v4.new_notebook(cells=made, metadata=notebook.metadata), checks


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook(path: Path, tmp_path: Path, record_exercised: Callable[..., None]) -> None:
    if path.stem.startswith("08") and len(os.sched_getaffinity(0)) < 2:
        pytest.skip("its exercise pins threads: two processors are needed")
    if path.stem.startswith("09"):
        need("apt-get", "dpkg-deb", "busybox")
    notebook, checks = with_answers(path.stem, nbformat.read(path, as_version=4))
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=300, resources=resources).execute()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            shown = text_of_outputs(cell)
            for words in cell.metadata.get("shows", []):
                assert words in shown, f"{words!r} is not in the output of:\n{cell.source}\n{shown}"
            for output in cell.outputs:
                assert output.output_type != "stream" or output.name == "stdout", f"{cell.source}\n{output}"
    for cell, expected in checks:
        shown = text_of_outputs(cell)
        assert shown.startswith(f"{expected}: "), f"{expected!r} was expected of\n{cell.source}\n{shown}"
    record_exercised(engine="translator", guest=f"examples/notebooks/{path.name}")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_kept_in_its_form(path: Path) -> None:
    assert problem(path) is None
    nbformat.validate(nbformat.read(path, as_version=4))


def test_form(tmp_path: Path) -> None:
    """Outputs, counts and other metadata are found, and taken out; tags stay."""
    cell = {
        "cell_type": "code",
        "execution_count": 3,
        "id": "8f3c",
        "metadata": {"tags": ["exercise"], "collapsed": False},
        "outputs": [{"output_type": "stream", "name": "stdout", "text": ["1\n"]}],
        "source": ["print(1)"],
    }
    path = tmp_path / "one.ipynb"
    path.write_text(json.dumps({"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))
    assert problem(path) == "one.ipynb: cell 8f3c has output; ./dev format takes it out"
    clean = stripped(json.loads(path.read_text()))
    assert clean["cells"][0]["outputs"] == []
    assert clean["cells"][0]["id"] == "cell-00"
    assert clean["cells"][0]["metadata"] == {"tags": ["exercise"]}
    path.write_text(text_of(clean))
    assert problem(path) is None
    path.write_text("{}")
    assert "it is no notebook" in str(problem(path))


def test_every_notebook_is_a_lesson() -> None:
    """Something to predict, something to see, an exercise, answers; and a line of the README, in order."""
    for path in NOTEBOOKS:
        notebook = nbformat.read(path, as_version=4)
        code = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
        assert "compare(prediction" in code, f"{path.name} asks for no prediction"
        assert any(tags(cell) == ["exercise"] for cell in notebook.cells), f"{path.name} has no exercise"
        assert re.search(r"Svg\(|grid\(|plt\.|figure\(|heat_map\(|_svg|picture", code), (
            f"{path.name} has no picture"
        )
        assert (SOLUTIONS / f"{path.stem}.py").exists(), f"{path.name} has no solutions"
    listed = re.findall(
        r"^\| \[\d\d [^]]*\]\((.*)\)", (FOLDER / "README.md").read_text("utf-8"), re.MULTILINE
    )
    assert listed == [path.name for path in NOTEBOOKS]


def test_every_solution_has_a_notebook() -> None:
    assert {path.stem for path in SOLUTIONS.glob("*.py")} <= {path.stem for path in NOTEBOOKS}
