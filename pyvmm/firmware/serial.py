"""INT 14h, serial ports, and INT 17h, printers (there are none).

Sources: RBIL INT 14, INT 17; IBM PS/2 and PC BIOS Interface Technical Reference (1987), INT 14h; 16550D §8.
Left out: the PS/2's extended initialisation (04h, 05h), FOSSIL drivers.
"""

from __future__ import annotations

from typing import Final

from pyvmm.firmware import bda
from pyvmm.firmware.frame import Frame
from pyvmm.firmware.group import ServiceGroup, function
from pyvmm.firmware.platform import Platform

_DIVISORS: Final = (1047, 768, 384, 192, 96, 48, 24, 12)
"""110 to 9600 baud, from 1.8432 MHz / 16."""
_LSR_DATA_READY, _LSR_THR_EMPTY = 0x01, 0x20
_TIMED_OUT: Final = 0x80


class SerialPorts(ServiceGroup):
    """The ports of 40:00, by number in DX."""

    def __init__(self, platform: Platform) -> None:
        super().__init__(platform)
        self._deadline: int | None = None

    def reset(self) -> None:
        self._deadline = None

    def _port(self, frame: Frame) -> int | None:
        port = self.platform.bda16(bda.COM_PORTS + 2 * frame.dx) if frame.dx < 4 else 0
        if not port:
            frame.ah = _TIMED_OUT
        return port or None

    def _status(self, port: int, frame: Frame) -> None:
        frame.ah = self.platform.pio.read(port + 5, 1) & 0x7F
        frame.al = self.platform.pio.read(port + 6, 1)

    @function(0x14, 0x00, source="INT 14/AH=00h")
    def initialize(self, frame: Frame) -> None:
        """AL: bits 5-7 baud rate, 3-4 parity, 2 stop bits, 0-1 word length."""
        port = self._port(frame)
        if port is None:
            return
        write = self.platform.pio.write
        divisor = _DIVISORS[frame.al >> 5]
        for offset, value in (
            (3, 0x80),
            (0, divisor & 0xFF),
            (1, divisor >> 8),
            (3, frame.al & 0x1F),
            (1, 0),
        ):
            write(port + offset, 1, value)
        self._status(port, frame)

    def _ready(self, port: int, bit: int, frame: Frame) -> bool:
        """Whether the line status shows `bit`; else waits as long as 40:7C allows (seconds), then AH bit 7 is set."""
        if self.platform.pio.read(port + 5, 1) & bit:
            self._deadline = None
            return True
        now = self.platform.now_ns()
        if self._deadline is None:
            self._deadline = now + max(self.platform.bda8(bda.COM_TIMEOUT + frame.dx), 1) * 1_000_000_000
        if now < self._deadline:
            frame.poll()
        else:
            self._deadline = None
            frame.ah = _TIMED_OUT | self.platform.pio.read(port + 5, 1) & 0x7F
        return False

    @function(0x14, 0x01, source="INT 14/AH=01h")
    def send(self, frame: Frame) -> None:
        port = self._port(frame)
        if port is not None and self._ready(port, _LSR_THR_EMPTY, frame):
            self.platform.pio.write(port, 1, frame.al)
            frame.ah = self.platform.pio.read(port + 5, 1) & 0x7F

    @function(0x14, 0x02, source="INT 14/AH=02h")
    def receive(self, frame: Frame) -> None:
        port = self._port(frame)
        if port is not None and self._ready(port, _LSR_DATA_READY, frame):
            frame.ah = self.platform.pio.read(port + 5, 1) & 0x1E
            frame.al = self.platform.pio.read(port, 1)

    @function(0x14, 0x03, source="INT 14/AH=03h")
    def status(self, frame: Frame) -> None:
        port = self._port(frame)
        if port is not None:
            self._status(port, frame)

    @function(0x17, 0x00, 0x01, 0x02, source="INT 17/AH=00h, 01h, 02h")
    def printer(self, frame: Frame) -> None:
        """No printer: timed out."""
        frame.ah = 0x01
