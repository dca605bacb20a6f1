"""INT 09h and INT 16h: the keyboard, and a serial terminal's keys with it.

Sources: RBIL INT 09 and INT 16; IBM PS/2 and PC BIOS Interface Technical Reference (1987), INT 09h, INT 16h; MEMORY.LST
40:17 to 40:3E. The buffer is the classic ring of 16 words in the BIOS data area, so a program that looks there by
itself finds the keys.
Left out: the Pause key's stop, Alt + keypad characters, INT 15h/AH=85h (SysReq), setting the keyboard's LEDs.
"""

from __future__ import annotations

from typing import Final

from pyvmm.firmware import bda, keymap
from pyvmm.firmware.frame import Frame
from pyvmm.firmware.group import ServiceGroup, function
from pyvmm.firmware.platform import Platform
from pyvmm.firmware.terminal import SerialConsole
from pyvmm.firmware.video import Video
from pyvmm.machine import layout

# 40:17
_RIGHT_SHIFT, _LEFT_SHIFT, _CTRL, _ALT, _SCROLL, _NUM, _CAPS, _INSERT = (1 << bit for bit in range(8))
_HELD: Final = {0x36: _RIGHT_SHIFT, 0x2A: _LEFT_SHIFT, 0x1D: _CTRL, 0x38: _ALT}
_LOCKS: Final = {0x3A: _CAPS, 0x45: _NUM, 0x46: _SCROLL}
_ESCAPE_NS: Final = 100_000_000
"""An ESC with nothing behind it for that long is the Escape key."""
_SPIN_NS: Final = 1_000_000
_SPIN_POLLS: Final = 256
_FOLLOW_BREAK, _FOLLOW_PRINT = 0x1B, 0x05


class Keyboard(ServiceGroup):
    """Scan codes and serial input into the buffer, and out of it."""

    def __init__(self, platform: Platform, video: Video, console: SerialConsole | None) -> None:
        super().__init__(platform)
        self.video = video
        self.console = console
        self._typed = bytearray()
        self._escape_since = 0
        self._extended = False
        self._polls = 0
        self._last_poll = 0
        self._napping = False

    def reset(self) -> None:
        """An empty buffer at 40:1E."""
        p = self.platform
        for offset in (bda.KEYBOARD_HEAD, bda.KEYBOARD_TAIL, bda.KEYBOARD_START):
            p.set_bda16(offset, bda.KEYBOARD_BUFFER)
        p.set_bda16(bda.KEYBOARD_END, bda.KEYBOARD_BUFFER + bda.KEYBOARD_BUFFER_BYTES)
        p.set_bda8(bda.KEYBOARD_STATUS, 0x10)  # 101/102 keys
        self._typed.clear()
        self._polls = 0
        self._napping = False
        self._extended = False

    # The ring (40:1A head, 40:1C tail, between 40:80 and 40:82) -----------------------------------------------------
    def _ring(self) -> tuple[int, int, int, int]:
        """head, tail, start, end; put right when the guest left nonsense there."""
        p = self.platform
        start, end = p.bda16(bda.KEYBOARD_START), p.bda16(bda.KEYBOARD_END)
        if not (bda.KEYBOARD_BUFFER <= start < end and end - start >= 4 and (end - start) % 2 == 0):
            start, end = bda.KEYBOARD_BUFFER, bda.KEYBOARD_BUFFER + bda.KEYBOARD_BUFFER_BYTES
            p.set_bda16(bda.KEYBOARD_START, start)
            p.set_bda16(bda.KEYBOARD_END, end)
        head, tail = p.bda16(bda.KEYBOARD_HEAD), p.bda16(bda.KEYBOARD_TAIL)
        if not (start <= head < end and start <= tail < end):
            head = tail = start
            p.set_bda16(bda.KEYBOARD_HEAD, head)
            p.set_bda16(bda.KEYBOARD_TAIL, tail)
        return head, tail, start, end

    def push(self, code: int) -> bool:
        """Put a key code in; False when the buffer is full."""
        head, tail, start, end = self._ring()
        after = tail + 2 if tail + 2 < end else start
        if after == head:
            return False
        self.platform.set_bda16(tail, code)
        self.platform.set_bda16(bda.KEYBOARD_TAIL, after)
        return True

    def peek(self) -> int | None:
        """The next key code, or None."""
        head, tail, _, _ = self._ring()
        return None if head == tail else self.platform.bda16(head)

    def pop(self) -> int | None:
        """Take the next key code out."""
        head, tail, start, end = self._ring()
        if head == tail:
            return None
        self.platform.set_bda16(bda.KEYBOARD_HEAD, head + 2 if head + 2 < end else start)
        return self.platform.bda16(head)

    def _serial_input(self) -> None:
        """Turn what the serial terminal sent into key codes."""
        if self.console is None:
            return
        data = self.console.receive()
        now = self.platform.now_ns()
        if data:
            self._typed += data
            self._escape_since = now
        for code in keymap.decode_terminal(self._typed, final=now - self._escape_since > _ESCAPE_NS):
            self.push(code)

    # INT 09h ---------------------------------------------------------------------------------------------------------
    @function(0x09, source="INT 09, IRQ1")
    def scan_code(self, frame: Frame) -> None:
        """AL = scan code that the stub read. Answers in AL which interrupt the stub is to call: 1Bh, 05h, or 0."""
        scan, frame.al = frame.al, 0
        if scan in (0xE0, 0xE1):
            self._extended = scan == 0xE0
            return
        extended, self._extended = self._extended, False
        flags = self.platform.bda8(bda.SHIFT_FLAGS)
        make, scan = scan < 0x80, scan & 0x7F
        if scan in _HELD and not (extended and scan in (0x2A, 0x36)):
            flags = flags | _HELD[scan] if make else flags & ~_HELD[scan]
            self.platform.set_bda8(bda.SHIFT_FLAGS, flags)
        elif make:
            frame.al = self._make(scan, flags, extended)

    def _make(self, scan: int, flags: int, extended: bool) -> int:
        ctrl, alt = bool(flags & _CTRL), bool(flags & _ALT)
        if ctrl and alt and scan == 0x53:
            self.platform.set_bda16(bda.RESET_FLAG, 0x1234)
            self.platform.pio.write(layout.RESET_CONTROL, 1, 0x02)
            self.platform.pio.write(layout.RESET_CONTROL, 1, 0x06)
            return 0
        if ctrl and extended and scan == 0x46:
            head = self._ring()[2]
            self.platform.set_bda16(bda.KEYBOARD_HEAD, head)
            self.platform.set_bda16(bda.KEYBOARD_TAIL, head)
            self.platform.set_bda8(bda.BREAK_FLAG, 0x80)
            self.push(0)
            return _FOLLOW_BREAK
        if extended and scan == 0x37:
            return _FOLLOW_PRINT
        if scan in _LOCKS and not extended:
            self.platform.set_bda8(bda.SHIFT_FLAGS, flags ^ _LOCKS[scan])
            return 0
        if scan == 0x52:
            self.platform.set_bda8(bda.SHIFT_FLAGS, flags ^ _INSERT)
        code = keymap.encode(
            scan,
            shift=bool(flags & (_LEFT_SHIFT | _RIGHT_SHIFT)),
            ctrl=ctrl,
            alt=alt,
            caps=bool(flags & _CAPS),
            num=bool(flags & _NUM),
            extended=extended,
        )
        if code is not None:
            self.push(code)
        return 0

    # INT 16h ---------------------------------------------------------------------------------------------------------
    @staticmethod
    def _classic(code: int) -> int:
        """What the old functions make of an enhanced key: E0h prefixes go (INT 16/AH=00h)."""
        if code & 0xFF == 0xE0 and code >> 8:
            return code & 0xFF00
        if code >> 8 == 0xE0:
            return (0x35 if code & 0xFF == 0x2F else 0x1C) << 8 | code & 0xFF
        return code

    @staticmethod
    def _is_classic(code: int) -> bool:
        return code >> 8 < 0x85 or code >> 8 == 0xE0

    def _drop_enhanced(self) -> None:
        """Functions 00h and 01h discard keys that an 84-key keyboard has not (F11, F12...)."""
        while (code := self.peek()) is not None and not self._is_classic(code):
            self.pop()

    @function(0x16, 0x00, 0x10, source="INT 16/AH=00h, 10h")
    def read_key(self, frame: Frame) -> None:
        """Waits for a key; asleep until the next interrupt."""
        self._serial_input()
        if frame.ah == 0x00:
            self._drop_enhanced()
        code = self.pop()
        if code is None:
            if self.console is not None:
                self.console.cursor_moved(self.video.screen)
            frame.wait()
        else:
            frame.ax = self._classic(code) if frame.ah == 0x00 else code

    def busy(self) -> None:
        """The caller does something else than wait for a key."""
        self._polls = 0

    def _spins(self) -> bool:
        """Whether to sleep until the next interrupt: the caller does nothing but ask, without a pause.

        A boot menu would otherwise keep the host's CPU busy while it waits. Each call sleeps once at most, and only if
        the timer can end it.
        """
        now = self.platform.now_ns()
        if self._napping:
            self._napping = False
            self._last_poll = now
            return False
        self._polls = self._polls + 1 if now - self._last_poll < _SPIN_NS else 0
        self._last_poll = now
        if (
            self._polls < _SPIN_POLLS
            or self.platform.pio.read(layout.PIC_MASTER + 1, 1) & 1 << layout.IRQ_PIT
        ):
            return False
        self._napping = True
        return True

    @function(0x16, 0x01, 0x11, source="INT 16/AH=01h, 11h")
    def check_key(self, frame: Frame) -> None:
        """ZF set: none."""
        self._serial_input()
        if frame.ah == 0x01:
            self._drop_enhanced()
        code = self.peek()
        if code is None and self._spins():
            frame.wait()
            return
        frame.zero = code is None
        if code is not None:
            frame.ax = self._classic(code) if frame.ah == 0x01 else code

    @function(0x16, 0x02, source="INT 16/AH=02h")
    def shift_flags(self, frame: Frame) -> None:
        frame.al = self.platform.bda8(bda.SHIFT_FLAGS)

    @function(0x16, 0x03, source="INT 16/AH=03h")
    def typematic(self, frame: Frame) -> None:
        """Repeat rate: accepted; keys repeat at the host's rate."""

    @function(0x16, 0x05, source="INT 16/AH=05h")
    def store_key(self, frame: Frame) -> None:
        frame.al = 0 if self.push(frame.cx) else 1

    @function(0x16, 0x12, source="INT 16/AH=12h")
    def extended_shift_flags(self, frame: Frame) -> None:
        frame.al = self.platform.bda8(bda.SHIFT_FLAGS)
        frame.ah = self.platform.bda8(bda.SHIFT_FLAGS_2)

    def unsupported(self, interrupt: int, frame: Frame) -> None:
        self.platform.log_once(f"BIOS: INT {interrupt:02X}h AX={frame.ax:04X}h is not supported")
