"""Keys of a PC keyboard: their codes in scan code set 2, and which of them make a character on a keyboard layout.

Sources: IBM PS/2 Hardware Interface Technical Reference (1988), "Keyboard", scan code set 2; names of keys are those of
QEMU's ``sendkey``. Layouts are the national ones of a 102-key keyboard without dead keys: a character that needs one is
not on the layout.
"""

from __future__ import annotations

from pyvmm.errors import ConfigError
from pyvmm.record import record

BREAK = 0xF0
EXTENDED = 0xE0

_ROWS = (
    ("grave_accent 1 2 3 4 5 6 7 8 9 0 minus equal", "0e 16 1e 26 25 2e 36 3d 3e 46 45 4e 55"),
    ("q w e r t y u i o p bracket_left bracket_right", "15 1d 24 2d 2c 35 3c 43 44 4d 54 5b"),
    ("a s d f g h j k l semicolon apostrophe backslash", "1c 1b 23 2b 34 33 3b 42 4b 4c 52 5d"),
    ("less z x c v b n m comma dot slash", "61 1a 22 21 2a 32 31 3a 41 49 4a"),
    ("f1 f2 f3 f4 f5 f6 f7 f8 f9 f10 f11 f12", "05 06 04 0c 03 0b 83 0a 01 09 78 07"),
    ("esc backspace tab caps_lock ret shift shift_r ctrl alt spc", "76 66 0d 58 5a 12 59 14 11 29"),
    ("num_lock scroll_lock kp_multiply kp_subtract kp_add kp_decimal", "77 7e 7c 7b 79 71"),
    ("kp_0 kp_1 kp_2 kp_3 kp_4 kp_5 kp_6 kp_7 kp_8 kp_9", "70 69 72 7a 6b 73 74 6c 75 7d"),
)
_EXTENDED_ROWS = (
    ("ctrl_r alt_r meta_l meta_r menu kp_divide kp_enter", "14 11 1f 27 2f 4a 5a"),
    ("insert delete home end pgup pgdn up down left right", "70 71 6c 69 7d 7a 75 72 6b 74"),
)


def _codes() -> dict[str, bytes]:
    found = {}
    for prefix, rows in ((b"", _ROWS), (bytes((EXTENDED,)), _EXTENDED_ROWS)):
        for names, codes in rows:
            for name, code in zip(names.split(), bytes.fromhex(codes), strict=True):
                found[name] = prefix + bytes((code,))
    return found


KEYS = _codes()
"""Make code of each key by name; Pause and Print Screen, which send sequences, are not among them."""

ALIASES = {
    "return": "ret",
    "enter": "ret",
    "space": "spc",
    "escape": "esc",
    "del": "delete",
    "ins": "insert",
    "control": "ctrl",
    "altgr": "alt_r",
    "meta": "meta_l",
    "super": "meta_l",
}


def make(name: str) -> bytes:
    """Code that the keyboard sends when the key goes down.

    Raises
    ------
    ConfigError
        There is no key of that name.
    """
    name = ALIASES.get(name, name)
    if name not in KEYS:
        raise ConfigError(f"key {name!r}: there is none; names are those of QEMU's sendkey, e.g. ctrl-alt-f2")
    return KEYS[name]


def release(name: str) -> bytes:
    """Code that it sends when the key comes up. Errors as `make`."""
    code = make(name)
    return code[:-1] + bytes((BREAK, code[-1]))


@record(frozen=True, slots=True)
class Stroke:
    """How a character is typed: a key, with Shift or AltGr held."""

    key: str
    shift: bool = False
    altgr: bool = False

    @property
    def modifiers(self) -> tuple[str, ...]:
        """Keys that are held."""
        return (("shift",) if self.shift else ()) + (("alt_r",) if self.altgr else ())


_PLACES = [name for names, _ in _ROWS[:4] for name in names.split()]
# Plain, with Shift, with AltGr; one character a key in the order of _PLACES, blank where the key makes none.
_LAYOUTS = {
    "us": (
        "`1234567890-=qwertyuiop[]asdfghjkl;'\\<zxcvbnm,./",
        '~!@#$%^&*()_+QWERTYUIOP{}ASDFGHJKL:"|>ZXCVBNM<>?',
        "",
    ),
    "uk": (
        "`1234567890-=qwertyuiop[]asdfghjkl;'#\\zxcvbnm,./",
        '¬!"£$%^&*()_+QWERTYUIOP{}ASDFGHJKL:@~|ZXCVBNM<>?',
        "¦   €    ",
    ),
    "de": (
        " 1234567890ß qwertzuiopü+asdfghjklöä#<yxcvbnm,.-",
        "°!\"§$%&/()=? QWERTZUIOPÜ*ASDFGHJKLÖÄ'>YXCVBNM;:_",
        "  ²³   {[]}\\ @ €        ~            |      µ   ",
    ),
    "fr": (
        "²&é\"'(-è_çà)=azertyuiop $qsdfghjklmù*<wxcvbn,;:!",
        " 1234567890°+AZERTYUIOP £QSDFGHJKLM%µ>WXCVBN?./§",
        "  ~#{[|`\\^@]}  €          ¤                    ",
    ),
}
LAYOUTS = tuple(_LAYOUTS)


def strokes(layout: str) -> dict[str, Stroke]:
    """How to type each character of a layout.

    Raises
    ------
    ConfigError
        There is no layout of that name.
    """
    if layout not in _LAYOUTS:
        raise ConfigError(f"keyboard layout {layout!r}: choose one of {', '.join(LAYOUTS)}")
    found = {
        "\n": Stroke("ret"),
        "\r": Stroke("ret"),
        "\t": Stroke("tab"),
        "\b": Stroke("backspace"),
        "\x7f": Stroke("backspace"),
        "\x1b": Stroke("esc"),
        " ": Stroke("spc"),
    }
    for level, text in enumerate(_LAYOUTS[layout]):
        for place, character in zip(_PLACES, text, strict=False):
            if character != " ":
                found.setdefault(character, Stroke(place, shift=level == 1, altgr=level == 2))
    return found
