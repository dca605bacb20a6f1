"""Keys by name and by character, and the keyboard and mouse that are operated from Python."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pyvmm.display import keys
from pyvmm.display.input import Keyboard, Mouse
from pyvmm.errors import ConfigError, PyvmmError


class Keys:
    """A keyboard that takes some codes, then none until it is waited for."""

    def __init__(self, room: int = 1000) -> None:
        self.codes: list[bytes] = []
        self.room = room
        self.waits = 0

    def key(self, codes: bytes) -> bool:
        if not self.room:
            return False
        self.room -= 1
        self.codes.append(codes)
        return True

    def wait(self, done: Callable[[], bool], timeout: float) -> bool:
        self.waits += 1
        self.room += 1
        return done()


def keyboard(device: Keys, layout: str = "us") -> Keyboard:
    return Keyboard(device, device.wait, layout)


def test_typing_presses_and_releases() -> None:
    device = Keys()
    keyboard(device).type("aA\n")
    a, shift, ret = b"\x1c", b"\x12", b"\x5a"
    assert device.codes == [
        a, b"\xf0" + a, shift, a, b"\xf0" + a, b"\xf0" + shift, ret, b"\xf0" + ret,
    ]  # fmt: skip


def test_combination_of_extended_keys() -> None:
    device = Keys()
    keyboard(device).press("ctrl-alt-delete")
    assert device.codes == [b"\x14", b"\x11", b"\xe0\x71", b"\xe0\xf0\x71", b"\xf0\x11", b"\xf0\x14"]


def test_a_full_keyboard_is_waited_for() -> None:
    device = Keys(room=3)
    keyboard(device).type("abc")
    assert len(device.codes) == 6
    assert device.waits == 3


def test_a_guest_that_never_reads() -> None:
    device = Keys(room=0)
    with pytest.raises(PyvmmError, match="does not read its keyboard"):
        Keyboard(device, lambda done, timeout: False).type("a")


@pytest.mark.parametrize(
    ("layout", "text", "strokes"),
    [
        ("us", 'z-@"', [("z", ()), ("minus", ()), ("2", ("shift",)), ("apostrophe", ("shift",))]),
        ("uk", '@"#~', [("apostrophe", ("shift",)), ("2", ("shift",)), ("backslash", ()), ("backslash", ("shift",))]),
        ("de", "zy@ö", [("y", ()), ("z", ()), ("q", ("alt_r",)), ("semicolon", ())]),
        ("fr", "aq1m", [("q", ()), ("a", ()), ("1", ("shift",)), ("semicolon", ())]),
    ],
)  # fmt: skip
def test_layouts(layout: str, text: str, strokes: list[tuple[str, tuple[str, ...]]]) -> None:
    known = keys.strokes(layout)
    assert [(known[c].key, known[c].modifiers) for c in text] == strokes


@pytest.mark.parametrize("layout", keys.LAYOUTS)
def test_every_key_of_a_layout_is_a_key(layout: str) -> None:
    known = keys.strokes(layout)
    assert all(len(keys.make(stroke.key)) == 1 for stroke in known.values())
    if layout != "de":  # ^ and ` are dead keys there
        assert {chr(code) for code in range(0x21, 0x7F)} - set(known) <= set("^`~")
    chosen = [
        (stroke.key, stroke.modifiers) for character, stroke in known.items() if character.isprintable()
    ]
    assert len(chosen) == len(set(chosen)), "no two characters share a stroke"


def test_no_two_keys_have_one_code() -> None:
    assert len(set(keys.KEYS.values())) == len(keys.KEYS)


def test_mistakes_are_named() -> None:
    device = Keys()
    with pytest.raises(ConfigError, match="layout 'us' has no key for 'é'"):
        keyboard(device).type("né")
    with pytest.raises(ConfigError, match="key 'hyper'"):
        keyboard(device).press("ctrl-hyper")
    with pytest.raises(ConfigError, match="choose one of us, uk"):
        keyboard(device, "xx")
    assert device.codes == []


def test_mouse() -> None:
    seen: list[tuple[int, int, int, int]] = []

    class Device:
        def mouse(self, dx: int, dy: int, dz: int, buttons: int) -> None:
            seen.append((dx, dy, dz, buttons))

    mouse = Mouse(Device())
    mouse.down("right")
    mouse.move(3, -4, 1)
    mouse.up("right")
    assert seen == [(0, 0, 0, 2), (3, -4, 1, 2), (0, 0, 0, 0)]
    with pytest.raises(ConfigError, match="mouse button 'tail'"):
        mouse.down("tail")
