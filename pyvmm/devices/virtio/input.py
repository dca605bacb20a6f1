"""virtio keyboard, mouse and tablet (csrc/virtio/virtio_input.c; virtio 1.2 §5.8)."""

from __future__ import annotations

from pyvmm.devices.virtio.base import VirtioDevice
from pyvmm.errors import DeviceError
from pyvmm.native import check_pointer, ffi, lib, new_error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Final

    from pyvmm.board import Board
    from pyvmm.devices.i8042 import I8042
    from pyvmm.devices.virtio.base import Place

KINDS: Final = ("keyboard", "mouse", "tablet")
EV_KEY, EV_REL, EV_ABS = 1, 2, 3
REL_X, REL_Y, REL_WHEEL = 0, 1, 8
ABS_X, ABS_Y = 0, 1
ABS_MAX: Final = 32767
BTN_LEFT: Final = 0x110
_BUTTONS: Final = (
    0x110,
    0x111,
    0x112,
    0x113,
    0x114,
)  # left, right, middle, side, extra: as `Mouse` has its bits

# evdev codes of the keys, each row counting up from its first (input-event-codes.h); names as in display/keys.py.
_ROWS: Final = (
    (
        1,
        "esc 1 2 3 4 5 6 7 8 9 0 minus equal backspace tab q w e r t y u i o p bracket_left bracket_right ret",
    ),
    (
        29,
        "ctrl a s d f g h j k l semicolon apostrophe grave_accent shift backslash z x c v b n m comma dot slash",
    ),
    (54, "shift_r kp_multiply alt spc caps_lock f1 f2 f3 f4 f5 f6 f7 f8 f9 f10 num_lock scroll_lock"),
    (71, "kp_7 kp_8 kp_9 kp_subtract kp_4 kp_5 kp_6 kp_add kp_1 kp_2 kp_3 kp_0 kp_decimal"),
    (86, "less f11 f12"),
    (96, "kp_enter ctrl_r kp_divide"),
    (100, "alt_r"),
    (102, "home up pgup left right end down pgdn insert delete"),
    (125, "meta_l meta_r menu"),
)


def evdev_codes() -> dict[str, int]:
    """The evdev code of each key by name."""
    return {name: first + index for first, names in _ROWS for index, name in enumerate(names.split())}


class VirtioInput(VirtioDevice):
    """A keyboard, mouse or tablet of Linux's evdev kind.

    Parameters
    ----------
    kind
        ``"keyboard"``, ``"mouse"`` (it moves by counts) or ``"tablet"`` (it is at a place of the screen).

    Raises
    ------
    DeviceError
        No such kind, or the place is taken.
    """

    def __init__(self, board: Board, place: Place, kind: str) -> None:
        if kind not in KINDS:
            raise DeviceError(f"virtio-input {kind!r}: choose one of {', '.join(KINDS)}")
        error = new_error()
        pointer = lib.virtio_input_new(board.pointer, place.native(board), KINDS.index(kind), error)
        super().__init__(check_pointer(pointer, error, exception=DeviceError), place)
        self.kind = kind
        self._keys: dict[bytes, int] = {}
        self._buttons = 0

    @property
    def ready(self) -> bool:
        """Whether a driver reads it."""
        return "DRIVER_OK" in self.status

    @property
    def leds(self) -> int:
        """LEDs that the driver has lit: bit 0 num, 1 caps, 2 scroll lock."""
        return int(lib.virtio_input_leds(self.pointer))

    def send(self, events: Sequence[tuple[int, int, int]]) -> bool:
        """One report of (type, code, value), at most 16; False when the driver does not read them."""
        native = ffi.new("VirtioInputEvent[]", max(1, len(events)))
        for index, (kind, code, value) in enumerate(events):
            native[index].type, native[index].code, native[index].value = kind, code, value & 0xFFFFFFFF
        return int(lib.virtio_input_send(self.pointer, native, len(events))) == 0

    def key(self, codes: bytes) -> bool:
        """A key's make or break code in scan code set 2, as a PS/2 keyboard has it; False: send it again later."""
        if not self._keys:
            from pyvmm.display.keys import KEYS

            evdev = evdev_codes()
            self._keys = {code: evdev[name] for name, code in KEYS.items()}
        make = codes.replace(b"\xf0", b"")
        code = self._keys.get(make)
        return code is None or self.send([(EV_KEY, code, int(make == codes))])

    def mouse(self, dx: int, dy: int, dz: int, buttons: int) -> None:
        """A mouse's movement: counts right and down, of the wheel towards the user, and its buttons as bits."""
        events = [
            (EV_REL, code, value) for code, value in ((REL_X, dx), (REL_Y, dy), (REL_WHEEL, -dz)) if value
        ]
        self._report(events, buttons)

    def point(self, x: float, y: float, wheel: int, buttons: int) -> None:
        """A tablet's place: 0.0 to 1.0 of the screen from the left and from the top."""
        place = [
            (EV_ABS, axis, round(max(0.0, min(1.0, at)) * ABS_MAX)) for axis, at in ((ABS_X, x), (ABS_Y, y))
        ]
        self._report(place + ([(EV_REL, REL_WHEEL, -wheel)] if wheel else []), buttons)

    def _report(self, events: list[tuple[int, int, int]], buttons: int) -> None:
        changed = buttons ^ self._buttons
        events += [
            (EV_KEY, code, buttons >> bit & 1) for bit, code in enumerate(_BUTTONS) if changed >> bit & 1
        ]
        if events and self.send(events):
            self._buttons = buttons


class Inputs:
    """What is typed and pointed goes to the virtio devices while the guest drives them, else to the PS/2 ones."""

    def __init__(
        self,
        ps2: I8042,
        keyboard: VirtioInput | None = None,
        mouse: VirtioInput | None = None,
        tablet: VirtioInput | None = None,
    ) -> None:
        self._ps2 = ps2
        self._keyboard = keyboard
        self._mouse = mouse
        self._tablet = tablet

    def key(self, codes: bytes) -> bool:
        """As `I8042.key`."""
        device = self._keyboard
        return device.key(codes) if device is not None and device.ready else self._ps2.key(codes)

    def mouse(self, dx: int, dy: int, dz: int, buttons: int) -> None:
        """As `I8042.mouse`."""
        device = self._mouse
        (device if device is not None and device.ready else self._ps2).mouse(dx, dy, dz, buttons)

    def point(self, x: float, y: float, wheel: int, buttons: int) -> bool:
        """The tablet's `VirtioInput.point`; False when there is none that the guest drives."""
        device = self._tablet
        if device is None or not device.ready:
            return False
        device.point(x, y, wheel, buttons)
        return True
