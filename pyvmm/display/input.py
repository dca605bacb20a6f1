"""The keyboard and mouse in front of the machine: what a person would do with them, from Python."""

from __future__ import annotations

import time

from pyvmm.display import keys
from pyvmm.errors import ConfigError, PyvmmError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Protocol

    class KeySink(Protocol):
        """A keyboard device: takes a code of scan code set 2 whole, or says that it has no room."""

        def key(self, codes: bytes) -> bool: ...

    class MouseSink(Protocol):
        """A mouse device: movement in counts, right, down and wheel towards the user positive; buttons as bits."""

        def mouse(self, dx: int, dy: int, dz: int, buttons: int) -> None: ...


BUTTONS = {"left": 1, "right": 2, "middle": 4, "side": 8, "extra": 16}
PATIENCE = 10.0
"""Seconds that the guest may take to read one key."""


class Keyboard:
    """Types keys on the guest's keyboard.

    >>> machine.keyboard.type("ls -l\\n")            # doctest: +SKIP
    >>> machine.keyboard.press("ctrl-alt-delete")   # doctest: +SKIP

    Parameters
    ----------
    device
        The keyboard.
    wait
        ``wait(done, seconds)`` lets the guest go on until ``done()`` is true; False when that took too long.
    layout
        Layout that the guest believes the keyboard to have: one of `keys.LAYOUTS`.
    """

    def __init__(
        self, device: KeySink, wait: Callable[[Callable[[], bool], float], bool], layout: str = "us"
    ) -> None:
        self._device = device
        self._wait = wait
        self._strokes = keys.strokes(layout)
        self.layout = layout

    def type(self, text: str) -> None:
        """Type a text; returns when the guest's keyboard has taken all of it.

        Raises
        ------
        ConfigError
            A character is not on the layout; nothing was typed.
        PyvmmError
            The guest does not read its keyboard.
        """
        missing = sorted({character for character in text if character not in self._strokes})
        if missing:
            raise ConfigError(
                f"keyboard layout {self.layout!r} has no key for {''.join(missing)!r}; choose another layout"
            )
        for character in text:
            stroke = self._strokes[character]
            self._strike([*stroke.modifiers, stroke.key])

    def press(self, combination: str, seconds: float = 0.0) -> None:
        """Press keys together and release them: ``"a"``, ``"ctrl-alt-f2"``, ``"shift-minus"``.

        Parameters
        ----------
        combination
            Names of keys (those of QEMU's sendkey), joined by hyphens.
        seconds
            How long they are held.
        """
        self._strike(combination.split("-"), seconds)

    def down(self, key: str) -> None:
        """A key goes down, and stays there."""
        self._send([keys.make(key)])

    def up(self, key: str) -> None:
        """A key comes up."""
        self._send([keys.release(key)])

    def _strike(self, names: list[str], seconds: float = 0.0) -> None:
        makes, breaks = [keys.make(name) for name in names], [keys.release(name) for name in reversed(names)]
        self._send(makes)
        if seconds:
            end = time.monotonic() + seconds
            self._wait(lambda: time.monotonic() >= end, seconds + 1)
        self._send(breaks)

    def _send(self, codes: Iterable[bytes]) -> None:
        for code in codes:
            if not self._device.key(code) and not self._wait(
                lambda code=code: self._device.key(code),  # type: ignore[misc]
                PATIENCE,
            ):
                raise PyvmmError("the guest does not read its keyboard")


class Mouse:
    """Moves the guest's mouse and presses its buttons.

    Parameters
    ----------
    device
        The mouse.
    """

    def __init__(self, device: MouseSink) -> None:
        self._device = device
        self._buttons = 0

    def move(self, dx: int, dy: int, wheel: int = 0) -> None:
        """Move by so many counts to the right and down; turn the wheel towards the user."""
        self._device.mouse(dx, dy, wheel, self._buttons)

    def down(self, button: str = "left") -> None:
        """Press a button: left, right, middle, side or extra."""
        self.set_buttons(self._buttons | self._bit(button))

    def up(self, button: str = "left") -> None:
        """Release it."""
        self.set_buttons(self._buttons & ~self._bit(button))

    def set_buttons(self, buttons: int) -> None:
        """All buttons at once: bit 0 left, 1 right, 2 middle, 3 side, 4 extra."""
        self._buttons = buttons & 0x1F
        self._device.mouse(0, 0, 0, self._buttons)

    @staticmethod
    def _bit(button: str) -> int:
        if button not in BUTTONS:
            raise ConfigError(f"mouse button {button!r}: choose one of {', '.join(BUTTONS)}")
        return BUTTONS[button]
