"""INT 1Ah, functions 00h to 07h: the tick count and the real-time clock. (B1h, the PCI BIOS, is pci_bios.py.)

Sources: RBIL INT 1A; IBM PS/2 and PC BIOS Interface Technical Reference (1987), INT 1Ah; MC146818 data sheet, registers
00h to 0Dh.
"""

from __future__ import annotations

from typing import Final

from pyvmm.firmware import bda
from pyvmm.firmware.frame import Frame
from pyvmm.firmware.group import ServiceGroup, function
from pyvmm.machine import layout

(
    _SECONDS,
    _SECONDS_ALARM,
    _MINUTES,
    _MINUTES_ALARM,
    _HOURS,
    _HOURS_ALARM,
    _WEEKDAY,
    _DAY,
    _MONTH,
    _YEAR,
    _A,
    _B,
) = range(12)
_CENTURY: Final = 0x32
_UPDATE_IN_PROGRESS: Final = 0x80
_B_SET, _B_ALARM, _B_BINARY, _B_24H = 0x80, 0x20, 0x04, 0x02
_PIT_HZ: Final = 1_193_182


class TimeOfDay(ServiceGroup):
    """Times are BCD, as the services give them, whatever format the clock is set to."""

    def reset(self) -> None:
        """Start the tick count at the time of day (POST)."""
        hours, minutes, seconds = (self._from_bcd(self._clock(r)) for r in (_HOURS, _MINUTES, _SECONDS))
        ticks = ((hours * 60 + minutes) * 60 + seconds) * _PIT_HZ // 65536
        self.platform.set_bda32(bda.TICKS, ticks)
        self.platform.set_bda8(bda.MIDNIGHT, 0)

    @staticmethod
    def _from_bcd(value: int) -> int:
        return (value >> 4) * 10 + (value & 0x0F)

    def _clock(self, register: int) -> int:
        """A time register in BCD and 24-hour form, read outside of an update."""
        p = self.platform
        for _ in range(1000):
            if not p.cmos(_A) & _UPDATE_IN_PROGRESS:
                break
        value, mode = p.cmos(register), p.cmos(_B)
        evening = register in (_HOURS, _HOURS_ALARM) and not mode & _B_24H and bool(value & 0x80)
        if register in (_HOURS, _HOURS_ALARM) and not mode & _B_24H:
            value &= 0x7F
        number = value if mode & _B_BINARY else self._from_bcd(value)
        if register in (_HOURS, _HOURS_ALARM) and not mode & _B_24H:
            number = number % 12 + (12 if evening else 0)
        return number // 10 % 10 << 4 | number % 10

    def _set_clock(self, values: dict[int, int]) -> None:
        """Set BCD time registers with updates stopped; the clock goes on in BCD and 24-hour form."""
        p = self.platform
        mode = p.cmos(_B) & ~_B_BINARY | _B_24H
        p.set_cmos(_B, mode | _B_SET)
        for register, value in values.items():
            p.set_cmos(register, value)
        p.set_cmos(_B, mode & ~_B_SET)

    @function(0x1A, 0x00, source="INT 1A/AH=00h")
    def get_ticks(self, frame: Frame) -> None:
        """CX:DX ticks since midnight; AL says whether midnight has passed since the last call."""
        ticks = self.platform.bda32(bda.TICKS)
        frame.cx, frame.dx = ticks >> 16, ticks & 0xFFFF
        frame.al = self.platform.bda8(bda.MIDNIGHT)
        self.platform.set_bda8(bda.MIDNIGHT, 0)
        frame.done()

    @function(0x1A, 0x01, source="INT 1A/AH=01h")
    def set_ticks(self, frame: Frame) -> None:
        self.platform.set_bda32(bda.TICKS, frame.cx << 16 | frame.dx)
        self.platform.set_bda8(bda.MIDNIGHT, 0)
        frame.done()

    @function(0x1A, 0x02, source="INT 1A/AH=02h")
    def get_time(self, frame: Frame) -> None:
        frame.ch, frame.cl, frame.dh = (self._clock(r) for r in (_HOURS, _MINUTES, _SECONDS))
        frame.dl = self.platform.cmos(_B) & 1
        frame.done()

    @function(0x1A, 0x03, source="INT 1A/AH=03h")
    def set_time(self, frame: Frame) -> None:
        self._set_clock({_HOURS: frame.ch, _MINUTES: frame.cl, _SECONDS: frame.dh})
        frame.done()

    @function(0x1A, 0x04, source="INT 1A/AH=04h")
    def get_date(self, frame: Frame) -> None:
        frame.cl, frame.dh, frame.dl = (self._clock(r) for r in (_YEAR, _MONTH, _DAY))
        frame.ch = self.platform.cmos(_CENTURY)
        frame.done()

    @function(0x1A, 0x05, source="INT 1A/AH=05h")
    def set_date(self, frame: Frame) -> None:
        self._set_clock({_YEAR: frame.cl, _MONTH: frame.dh, _DAY: frame.dl, _CENTURY: frame.ch})
        frame.done()

    @function(0x1A, 0x06, source="INT 1A/AH=06h")
    def set_alarm(self, frame: Frame) -> None:
        """INT 4Ah at that time each day; CF set when one is set already."""
        p = self.platform
        if p.cmos(_B) & _B_ALARM:
            frame.carry = True
            return
        self._set_clock({_HOURS_ALARM: frame.ch, _MINUTES_ALARM: frame.cl, _SECONDS_ALARM: frame.dh})
        p.set_cmos(_B, p.cmos(_B) | _B_ALARM)
        mask = layout.PIC_SLAVE + 1
        p.pio.write(mask, 1, p.pio.read(mask, 1) & ~(1 << layout.IRQ_RTC - 8))
        frame.done()

    @function(0x1A, 0x07, source="INT 1A/AH=07h")
    def cancel_alarm(self, frame: Frame) -> None:
        self.platform.set_cmos(_B, self.platform.cmos(_B) & ~_B_ALARM)
        frame.done()
