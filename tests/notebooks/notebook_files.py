"""The form in which notebooks are kept: no outputs, numbered cells, one way of writing JSON; a diff can be read.

As a program: ``python tests/notebooks/notebook_files.py [--check]`` rewrites examples/notebooks/*.ipynb, or names what
is not in that form. ``./dev format`` and ``./dev lint`` call it. Standard library only.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "notebooks"
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
KEPT = ("shows", "tags")
"""``shows``: what the cell's output must have in it, for the tests; ``tags``: ``exercise`` and ``check``."""


def stripped(notebook: dict[str, Any]) -> dict[str, Any]:
    """The notebook without what a run left in it; of a cell's metadata only `KEPT` stays."""
    cells = []
    for number, cell in enumerate(notebook["cells"]):
        metadata = cell.get("metadata", {})
        kept = {
            "cell_type": cell["cell_type"],
            "id": f"cell-{number:02}",
            "metadata": {name: sorted(metadata[name]) for name in KEPT if metadata.get(name)},
            "source": "".join(cell["source"]).splitlines(keepends=True),
        }
        if cell["cell_type"] == "code":
            kept |= {"execution_count": None, "outputs": []}
        cells.append(dict(sorted(kept.items())))
    return {"cells": cells, "metadata": METADATA, "nbformat": 4, "nbformat_minor": 5}


def text_of(notebook: dict[str, Any]) -> str:
    """As it is written to the file."""
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def problem(path: Path) -> str | None:
    """What is wrong with a file, in one line; None when nothing is."""
    text = path.read_text(encoding="utf-8")
    try:
        notebook = json.loads(text)
        wanted = text_of(stripped(notebook))
    except (ValueError, KeyError, TypeError) as error:
        return f"{path.name}: it is no notebook: {error!r}"
    for cell in notebook["cells"]:
        if cell.get("outputs"):
            return f"{path.name}: cell {cell.get('id')} has output; ./dev format takes it out"
    return None if text == wanted else f"{path.name}: not in the form that ./dev format gives it"


def main(arguments: list[str]) -> int:
    """Rewrite all notebooks, or check them."""
    paths = sorted(FOLDER.glob("*.ipynb"))
    if "--check" in arguments:
        problems = [found for path in paths if (found := problem(path))]
        print("\n".join(problems or [f"{len(paths)} notebooks are clean"]))
        return 1 if problems else 0
    for path in paths:
        path.write_text(text_of(stripped(json.loads(path.read_text(encoding="utf-8")))), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
