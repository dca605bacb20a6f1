"""`pyvmm.notebook`: exercises and predictions; never an exception for what the reader wrote."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pyvmm.notebook import compare, exercise


def check(double: Callable[[int], int]) -> None:
    for number in (0, 1, 7):
        answer = double(number)
        assert answer == 2 * number, f"double({number}) is not {answer}"


def unwritten(number: int) -> int:
    raise NotImplementedError


@pytest.mark.parametrize(
    ("answer", "status", "message"),
    [
        (..., "open", "write your answer"),
        (unwritten, "open", "write your answer"),
        (lambda n: n, "not yet", "double(1) is not 1"),
        (lambda n: n.nothing, "not yet", "it raised AttributeError"),
        (None, "not yet", "it raised TypeError"),
        (lambda n: n + n, "right", "well done"),
    ],
)
def test_exercise(answer: object, status: str, message: str) -> None:
    outcome = exercise(check, answer, praise="well done")
    assert outcome.status == status
    assert str(outcome).startswith(f"{status}: ")
    assert message in str(outcome)
    assert bool(outcome) is (status == "right")
    assert status in outcome._repr_html_()


def test_an_assertion_without_words() -> None:
    def wordless(answer: int) -> None:
        assert answer == 1

    assert (
        exercise(wordless, 2).message.startswith("the check found it wrong")
        or "assert" in exercise(wordless, 2).message
    )


def test_predictions() -> None:
    assert compare(..., "#GP").status == "open"
    assert compare("#PF", "#GP").message == "you said #PF, it is #GP"
    assert compare(5, 5)
    outcome = compare({"cli": "trap", "<b>": ...}, {"cli": "trap", "<b>": "runs"})
    assert (outcome.status, outcome.message) == ("not yet", "1 of 2 as predicted")
    assert "<b>: runs, you said –" in str(outcome)
    assert "<code style='color: #111111; background: none'>&lt;b&gt;" in outcome._repr_html_()
    assert compare({"cli": ...}, {"cli": "trap"}).status == "open"
    assert compare({"cli": "trap"}, {"cli": "trap"}).status == "right"
    assert compare({"share": 55, "name": "a"}, {"share": 50, "name": "a"}, within=10).status == "right"
    assert compare(39, 50, within=10).status == "not yet"
