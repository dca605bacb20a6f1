"""Sizes, and the types that keep addresses apart.

`Gpa` guest physical, `Gva` guest virtual (linear), `Hva` host virtual, `Port` an I/O port: never a bare "address".
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final, NewType

    Gpa = NewType("Gpa", int)
    Gva = NewType("Gva", int)
    Hva = NewType("Hva", int)
    Port = NewType("Port", int)
else:
    Gpa = Gva = Hva = Port = int

KIB: Final = 1 << 10
MIB: Final = 1 << 20
GIB: Final = 1 << 30
TIB: Final = 1 << 40

_SUFFIXES: Final = {"": 1, "B": 1, "K": KIB, "M": MIB, "G": GIB, "T": TIB, "P": 1 << 50, "E": 1 << 60}
_SIZE: Final = r"\s*(\d+(?:\.\d+)?)\s*([BKMGTPE]?)(?:I?B)?\s*"


def parse_size(text: str | int, *, default_suffix: str = "") -> int:
    """Bytes meant by ``"512M"``, ``"1.5G"``, ``"64KiB"`` or a plain number.

    Parameters
    ----------
    text
        A number with an optional suffix, powers of 1024 as in QEMU's tools. An ``int`` is bytes.
    default_suffix
        What a bare number counts: ``"M"`` for the memory option, bytes otherwise.

    Raises
    ------
    ValueError
        When the text is not a size, or not a whole number of bytes.
    """
    if isinstance(text, int):
        return text
    number, suffix = text[:-1], text[-1:]
    if not (number.isdecimal() and suffix in ("K", "M", "G")):  # as nearly everybody writes it
        import re

        match = re.fullmatch(_SIZE, text, re.IGNORECASE)
        if match is None:
            raise ValueError(f"{text!r} is not a size (a number with an optional K, M, G or T)")
        number, suffix = match.groups()
    size = float(number) * _SUFFIXES[(suffix or default_suffix).upper()]
    if size != int(size):
        raise ValueError(f"{text!r} is not a whole number of bytes")
    return int(number) * _SUFFIXES[(suffix or default_suffix).upper()] if "." not in number else int(size)


def format_size(size: int) -> str:
    """``"512 MiB"``: the largest unit that keeps the number at 1 or more, with up to three significant digits."""
    value = float(size)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB", "PiB"):
        if abs(value) < 1024 or unit == "PiB":
            return f"{value:.3g} {unit}" if value < 1000 else f"{value:.0f} {unit}"
        value /= 1024
    raise AssertionError


def counted(number: int, one: str, more: str = "") -> str:
    """``"1 entry"``, ``"2 entries"``; `more` is `one` with an s unless given."""
    return f"{number} {one if number == 1 else more or one + 's'}"
