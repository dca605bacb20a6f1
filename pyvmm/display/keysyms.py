"""X keysyms, as VNC clients send them, to keys of a PC keyboard.

Source: RFC 6143 §7.5.4; the X Window System Protocol, appendix A "KEYSYM Encoding". Latin-1 characters are their own
keysyms, other characters 0x01000000 + code point.
"""

from __future__ import annotations

from pyvmm.display import keys

_NAMED = {
    0xFF08: "backspace",
    0xFF09: "tab",
    0xFE20: "tab",  # ISO_Left_Tab: Shift-Tab
    0xFF0D: "ret",
    0xFF13: "",  # Pause
    0xFF14: "scroll_lock",
    0xFF1B: "esc",
    0xFF50: "home",
    0xFF51: "left",
    0xFF52: "up",
    0xFF53: "right",
    0xFF54: "down",
    0xFF55: "pgup",
    0xFF56: "pgdn",
    0xFF57: "end",
    0xFF63: "insert",
    0xFF67: "menu",
    0xFF7F: "num_lock",
    0xFF8D: "kp_enter",
    0xFFAA: "kp_multiply",
    0xFFAB: "kp_add",
    0xFFAD: "kp_subtract",
    0xFFAE: "kp_decimal",
    0xFFAF: "kp_divide",
    0xFF95: "kp_7",
    0xFF96: "kp_4",
    0xFF97: "kp_8",
    0xFF98: "kp_6",
    0xFF99: "kp_2",
    0xFF9A: "kp_9",
    0xFF9B: "kp_3",
    0xFF9C: "kp_1",
    0xFF9D: "kp_5",
    0xFF9E: "kp_0",
    0xFF9F: "kp_decimal",
    0xFFE1: "shift",
    0xFFE2: "shift_r",
    0xFFE3: "ctrl",
    0xFFE4: "ctrl_r",
    0xFFE5: "caps_lock",
    0xFFE7: "meta_l",
    0xFFE8: "meta_r",
    0xFFE9: "alt",
    0xFFEA: "alt_r",
    0xFFEB: "meta_l",
    0xFFEC: "meta_r",
    0xFE03: "alt_r",  # ISO_Level3_Shift: AltGr
    0xFFFF: "delete",
}


class Keysyms:
    """Keysyms on one keyboard layout.

    Parameters
    ----------
    layout
        One of `keys.LAYOUTS`.
    """

    def __init__(self, layout: str) -> None:
        self._strokes = keys.strokes(layout)

    def key(self, keysym: int) -> str | None:
        """Name of the key that makes a keysym; None when the keyboard has none. Its modifiers come by themselves."""
        if keysym in _NAMED:
            return _NAMED[keysym] or None
        if 0xFFBE <= keysym <= 0xFFC9:
            return f"f{keysym - 0xFFBD}"
        if 0xFFB0 <= keysym <= 0xFFB9:
            return f"kp_{keysym - 0xFFB0}"
        code = keysym - 0x01000000 if keysym >> 24 == 1 else keysym
        if not (0x20 <= code <= 0xFF or (keysym >> 24 == 1 and code <= 0x10FFFF)):
            return None
        stroke = self._strokes.get(chr(code))
        return stroke.key if stroke is not None else None
