"""The caller's registers, as a ROM stub stacked them before it asked for a service (csrc/firmware/services.S).

A service reads and changes this frame in guest memory only; the stub's POP and IRET make the changes real. So the
vCPU's own registers need not be written, whatever the engine.
"""

from __future__ import annotations

import struct
from typing import Final

from pyvmm.firmware.platform import Memory
from pyvmm.firmware.rom import ACTION_POLL, ACTION_RETURN, ACTION_WAIT
from pyvmm.units import Gpa

_LAYOUT: Final = struct.Struct("<HHH8IHHH")
FRAME_SIZE: Final = _LAYOUT.size

CF: Final = 0x0001
ZF: Final = 0x0040
IF: Final = 0x0200


def _low16(name: str) -> property:
    def read(self: Frame) -> int:
        return int(getattr(self, name)) & 0xFFFF

    def write(self: Frame, value: int) -> None:
        setattr(self, name, int(getattr(self, name)) & 0xFFFF0000 | value & 0xFFFF)

    return property(read, write, doc=f"Low 16 bits of {name}.")


def _byte(name: str, shift: int) -> property:
    def read(self: Frame) -> int:
        return int(getattr(self, name)) >> shift & 0xFF

    def write(self: Frame, value: int) -> None:
        setattr(self, name, int(getattr(self, name)) & ~(0xFF << shift) | (value & 0xFF) << shift)

    return property(read, write, doc=f"Bits {shift} to {shift + 7} of {name}.")


class Frame:
    """Registers of the program that called INT n: `eax`..`edi`, `ds`, `es`, `cs`, `ip`, `flags`, and their parts."""

    __slots__ = (
        "action",
        "address",
        "cs",
        "ds",
        "eax",
        "ebp",
        "ebx",
        "ecx",
        "edi",
        "edx",
        "es",
        "esi",
        "esp",
        "flags",
        "ip",
    )

    def __init__(self, memory: Memory, address: int) -> None:
        self.address = Gpa(address)
        (
            self.action,
            self.es,
            self.ds,
            self.edi,
            self.esi,
            self.ebp,
            self.esp,
            self.ebx,
            self.edx,
            self.ecx,
            self.eax,
            self.ip,
            self.cs,
            self.flags,
        ) = _LAYOUT.unpack(memory.read(self.address, FRAME_SIZE))

    def store(self, memory: Memory) -> None:
        """Write it back, for the stub to load."""
        memory.write(
            self.address,
            _LAYOUT.pack(
                self.action,
                self.es,
                self.ds,
                self.edi,
                self.esi,
                self.ebp,
                self.esp,
                self.ebx,
                self.edx,
                self.ecx,
                self.eax,
                self.ip,
                self.cs,
                self.flags,
            ),
        )

    ax = _low16("eax")
    bx = _low16("ebx")
    cx = _low16("ecx")
    dx = _low16("edx")
    si = _low16("esi")
    di = _low16("edi")
    bp = _low16("ebp")
    al, ah = _byte("eax", 0), _byte("eax", 8)
    bl, bh = _byte("ebx", 0), _byte("ebx", 8)
    cl, ch = _byte("ecx", 0), _byte("ecx", 8)
    dl, dh = _byte("edx", 0), _byte("edx", 8)

    @property
    def carry(self) -> bool:
        """CF as the caller will see it: set means that the call failed."""
        return bool(self.flags & CF)

    @carry.setter
    def carry(self, on: bool) -> None:
        self.flags = self.flags | CF if on else self.flags & ~CF

    @property
    def zero(self) -> bool:
        return bool(self.flags & ZF)

    @zero.setter
    def zero(self, on: bool) -> None:
        self.flags = self.flags | ZF if on else self.flags & ~ZF

    def fail(self, code: int) -> None:
        """CF set, error code in AH."""
        self.ah = code
        self.carry = True

    def done(self, code: int = 0) -> None:
        """CF clear, `code` in AH."""
        self.ah = code
        self.carry = False

    def wait(self) -> None:
        """Ask again after the next interrupt."""
        self.action = ACTION_WAIT

    def poll(self) -> None:
        """Ask again at once, with a window for interrupts."""
        self.action = ACTION_POLL

    @property
    def waits(self) -> bool:
        return int(self.action) != ACTION_RETURN


def linear(segment: int, offset: int) -> Gpa:
    """Real-mode address (Intel SDM 3A §21.1.1)."""
    return Gpa((segment << 4) + (offset & 0xFFFF))
