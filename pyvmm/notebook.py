"""For lessons in notebooks: predictions that are compared with what happened, and exercises that check an answer.

An exercise's check is an ordinary function with assertions; it runs the reader's code. `exercise` says ``open`` while
there is no answer, ``not yet`` with the reason, or ``right``, and never raises for a wrong answer: the rest of the
notebook goes on. The lessons are in examples/notebooks/.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Callable

_COLOURS = {"open": "#8a6d00", "not yet": "#b3261e", "right": "#1b6e2d"}


@dataclass(frozen=True, slots=True)
class Row:
    """One entry of a comparison: its name, what was predicted and what was found, as text, and whether they agree."""

    name: str
    predicted: str
    found: str
    right: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a check came to; a notebook's cell that ends with it shows it.

    Attributes
    ----------
    status
        ``"open"`` (no answer yet), ``"not yet"`` or ``"right"``.
    message
        Why.
    rows
        Of a comparison entry by entry.
    """

    status: Literal["open", "not yet", "right"]
    message: str
    rows: tuple[Row, ...] = field(default=())

    def __bool__(self) -> bool:
        return self.status == "right"

    def __str__(self) -> str:
        lines = [f"  {row.name}: {row.found}, you said {row.predicted}" for row in self.rows]
        return "\n".join([f"{self.status}: {self.message}", *lines])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        style = (
            f"border-left: 6px solid {_COLOURS[self.status]}; background: #ffffff; color: #111111; "
            "padding: 6px 12px; font-size: 14px"
        )
        table = ""
        if self.rows:
            cell = "style='text-align: left; padding: 2px 12px; color: #111111; background: {}'"
            heads = "".join(f"<th {cell.format('#ffffff')}>{head}</th>" for head in ("", "you said", "it is"))
            body = "".join(
                f"<tr><td {cell.format('#ffffff')}><code style='color: #111111; background: none'>{escape(row.name)}"
                f"</code></td><td {cell.format('#ffffff')}>{escape(row.predicted)}</td>"
                f"<td {cell.format('#cfe8cf' if row.right else '#f4d58d')}>{escape(row.found)}</td></tr>"
                for row in self.rows
            )
            table = f"<table><tr>{heads}</tr>{body}</table>"
        return f"<div style='{style}'><b>{self.status}</b>: {escape(self.message)}{table}</div>"


def exercise(check: Callable[..., object], *answers: object, praise: str = "the check passed") -> Outcome:
    """Run the check of an exercise on the reader's answer.

    Parameters
    ----------
    check
        Is called with the answers. It raises AssertionError, with a sentence, for a wrong one.
    answers
        Functions or values. ``...`` is no answer, and neither is a function that raises NotImplementedError.
    praise
        What is said of a right one.

    Returns
    -------
    Outcome
        Any other exception is ``"not yet"`` too, with its name: most often it is the answer's.
    """
    if any(answer is ... for answer in answers):
        return Outcome("open", "write your answer in the cell above, run it, then run this one again")
    try:
        check(*answers)
    except NotImplementedError:
        return Outcome("open", "write your answer in the cell above, run it, then run this one again")
    except AssertionError as error:
        return Outcome("not yet", str(error) or "the check found it wrong")
    except Exception as error:
        return Outcome("not yet", f"it raised {type(error).__name__}: {error}")
    return Outcome("right", praise)


def compare(prediction: Any, found: Any, *, within: float = 0.0) -> Outcome:
    """What the reader predicted beside what happened.

    Parameters
    ----------
    prediction
        ``...`` when none was made.
    found
        What the machine did. Mappings are compared entry by entry.
    within
        How far a number may be off.
    """

    def same(guess: Any, value: Any) -> bool:
        numbers = isinstance(guess, int | float) and isinstance(value, int | float)
        return bool(abs(guess - value) <= within if numbers else guess == value)

    if isinstance(prediction, dict) and isinstance(found, dict):
        guesses = [(name, prediction.get(name, ...), value) for name, value in found.items()]
        rows = tuple(
            Row(str(name), _words(guess), _words(value), same(guess, value)) for name, guess, value in guesses
        )
        made = sum(value is not ... for value in prediction.values())
        good = sum(row.right for row in rows)
        if not made:
            return Outcome("open", "no prediction", rows)
        return Outcome(
            "right" if good == len(found) else "not yet", f"{good} of {len(found)} as predicted", rows
        )
    if prediction is ...:
        return Outcome("open", f"no prediction; it is {_words(found)}")
    if same(prediction, found):
        return Outcome("right", f"it is {_words(found)}")
    return Outcome("not yet", f"you said {_words(prediction)}, it is {_words(found)}")


def _words(value: object) -> str:
    if value is ...:
        return "–"
    return value if isinstance(value, str) else repr(value)
