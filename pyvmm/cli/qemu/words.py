"""What an option is, and how its value is read: ``first,name=value,switch``, where a comma in a value is written twice.

Source: QEMU 7.2's manual, "Invocation", and its tests of option parsing. Unlike QEMU a name that is given twice is
refused: the last one would silently win there.
"""

from __future__ import annotations

from pyvmm.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm.cli.qemu.plan import Plan

    Values = dict[str, str]
    Handler = Callable[[Plan, Values], str | None]


class Sub:
    """A name in an option's value.

    Attributes
    ----------
    names
        As written, the first one being what handlers see.
    meaning
        What it means to QEMU's users.
    does
        What is done with it here, or for each value what is.
    values
        What it may be; None: the handler looks.
    instead
        What to do when it is something else.
    """

    __slots__ = ("does", "instead", "meaning", "names", "values")

    def __init__(
        self,
        names: str,
        meaning: str,
        does: str | dict[str, str] = "the same",
        *,
        values: tuple[str, ...] | None = None,
        instead: str = "",
    ) -> None:
        self.names = tuple(names.split())
        self.meaning = meaning
        self.does = does
        self.values = values
        self.instead = instead

    def done_with(self, value: str) -> str:
        """What is done with this value."""
        return self.does if isinstance(self.does, str) else self.does.get(value, "the same")


class Option:
    """An option that is understood.

    Attributes
    ----------
    names
        Without dashes.
    argument
        What its value is, for the help; empty: it has none.
    meaning, does
        What it means in the field, and what is done with it here. What the handler returns goes in place of `does`.
    where
        File and name of the code behind it.
    handler
        Changes the plan; given the value's parts by name.
    subs
        Names in the value; none: the value is one text, under the name ``""``.
    first
        What the value begins with when it has no name.
    """

    __slots__ = ("argument", "does", "first", "handler", "meaning", "names", "subs", "where")

    def __init__(
        self,
        names: str,
        argument: str,
        meaning: str,
        does: str,
        where: str,
        handler: Handler,
        *,
        subs: tuple[Sub, ...] = (),
        first: str = "",
    ) -> None:
        self.names = tuple(names.split())
        self.argument = argument
        self.meaning = meaning
        self.does = does
        self.where = where
        self.handler = handler
        self.subs = subs
        self.first = first


def refuse(what: str, why: str, instead: str) -> ConfigError:
    """The one line that a user reads: what was written, why it cannot be, what to write."""
    return ConfigError(f"{what}: {why}; {instead}")


def split(text: str) -> list[str]:
    """The parts between single commas."""
    return [part.replace("\0", ",") for part in text.replace("\0", "").replace(",,", "\0").split(",")]


def read(option: str, text: str, subs: tuple[Sub, ...], first: str = "") -> Values:
    """The parts of a value by name; a name alone is ``on``.

    Raises
    ------
    ConfigError
        A name that is not in `subs`, is given twice, or has a value that it cannot have.
    """
    by_name = {name: sub for sub in subs for name in sub.names}
    values: Values = {}
    for place, part in enumerate(split(text)):
        name, equals, value = part.partition("=")
        if not equals and place == 0 and first:
            name, value = first, part
        elif not equals:
            value = "on"
        sub = by_name.get(name)
        if sub is None:
            raise refuse(f"{option} {part}", "not in pyvmm", f"it has {', '.join(s.names[0] for s in subs)}")
        if sub.names[0] in values:
            raise refuse(f"{option} {part}", f"{sub.names[0]} is given twice", "write it once")
        if sub.values is not None and value not in sub.values:
            instead = sub.instead or f"write {' or '.join(f'{name}={word}' for word in sub.values)}"
            raise refuse(f"{option} {name}={value}", "not in pyvmm", instead)
        values[sub.names[0]] = value
    return values


def number(what: str, text: str, most: int) -> int:
    """A number from 0 to `most`, decimal or 0x."""
    digits = text[2:] if text[:2].lower() == "0x" else text
    if text.isascii() and text.isalnum() and len(text) < 12:
        try:
            value = int(digits, 16 if digits is not text else 10)
        except ValueError:
            value = -1
        if 0 <= value <= most:
            return value
    raise refuse(f"{what}={text}", f"not a number from 0 to {most}", f"write for example {what}=0")
