"""INT 11h, 12h and 15h: equipment, memory sizes, A20, block moves, delays.

Sources: RBIL INT 11, 12, 15; IBM PS/2 and PC BIOS Interface Technical Reference (1987), INT 15h; ACPI 6.4 §15.1
(E820h).
Left out: AH=89h (enter protected mode), 83h (event wait), 53h (APM: answered as not there), C2h (pointing device),
cassette functions.
"""

from __future__ import annotations

from typing import Final

from pyvmm.boot.e820 import E820_RAM, E820Entry
from pyvmm.errors import GuestError
from pyvmm.firmware import bda
from pyvmm.firmware.frame import Frame, linear
from pyvmm.firmware.group import ServiceGroup, function
from pyvmm.firmware.platform import Platform
from pyvmm.machine import layout
from pyvmm.units import KIB, MIB, Gpa

_SMAP: Final = 0x534D4150
_CONFIGURATION_TABLE: Final = 0xE6F5
_BIOS_SEGMENT: Final = layout.BIOS_BASE >> 4
_A20_GATE: Final = 0x02
"""Port 92h bit 1."""
_TICK_NS: Final = 54_925_400
_MAX_MOVE: Final = 0x8000
"""Words: INT 15/AH=87h."""


class System(ServiceGroup):
    """Memory sizes come from the same E820 map that the guest can ask for."""

    def __init__(self, platform: Platform, memory_map: list[E820Entry]) -> None:
        super().__init__(platform)
        self.memory_map = memory_map
        self._deadline: int | None = None

    def reset(self) -> None:
        self._deadline = None

    def _extended_bytes(self, end: int) -> int:
        """RAM from 1 MiB up to the first hole, or to `end`."""
        for entry in self.memory_map:
            if entry.kind == E820_RAM and entry.base == layout.HIGH_MEMORY_BASE:
                return min(entry.base + entry.size, end) - layout.HIGH_MEMORY_BASE
        return 0

    @function(0x11, source="INT 11")
    def equipment(self, frame: Frame) -> None:
        frame.ax = self.platform.bda16(bda.EQUIPMENT)

    @function(0x12, source="INT 12")
    def base_memory(self, frame: Frame) -> None:
        frame.ax = self.platform.bda16(bda.MEMORY_KIB)

    @function(0x15, 0x2400, 0x2401, source="INT 15/AX=2400h, 2401h")
    def set_a20(self, frame: Frame) -> None:
        port = layout.SYSTEM_CONTROL_A
        value = self.platform.pio.read(port, 1) & ~(_A20_GATE | 1)
        self.platform.pio.write(port, 1, value | (_A20_GATE if frame.al else 0))
        frame.done()

    @function(0x15, 0x2402, source="INT 15/AX=2402h")
    def get_a20(self, frame: Frame) -> None:
        frame.al = int(bool(self.platform.pio.read(layout.SYSTEM_CONTROL_A, 1) & _A20_GATE))
        frame.done()

    @function(0x15, 0x2403, source="INT 15/AX=2403h")
    def a20_support(self, frame: Frame) -> None:
        """By keyboard controller and by port 92h."""
        frame.bx = 0x0003
        frame.done()

    @function(0x15, 0x4F, source="INT 15/AH=4Fh")
    def keyboard_intercept(self, frame: Frame) -> None:
        """Nobody hooked it: CF stays set, the scan code is taken as it is."""
        frame.carry = True

    @function(0x15, 0x53, source="INT 15/AH=53h; APM 1.2 §4.6")
    def apm(self, frame: Frame) -> None:
        """APM is not present (error 86h); power is ACPI's."""
        frame.fail(0x86)

    @function(0x15, 0x86, source="INT 15/AH=86h")
    def wait(self, frame: Frame) -> None:
        """CX:DX microseconds: asleep while more than a tick is left and the timer can wake us."""
        now = self.platform.now_ns()
        if self._deadline is None:
            self._deadline = now + (frame.cx << 16 | frame.dx) * 1000
        left = self._deadline - now
        if left <= 0:
            self._deadline = None
            frame.done()
        elif (
            left > 2 * _TICK_NS and not self.platform.pio.read(layout.PIC_MASTER + 1, 1) & 1 << layout.IRQ_PIT
        ):
            frame.wait()
        else:
            frame.poll()

    @function(0x15, 0x87, source="INT 15/AH=87h")
    def block_move(self, frame: Frame) -> None:
        """CX words between the bases of descriptors 10h (source) and 18h (destination) of the table at ES:SI."""
        memory = self.platform.memory
        table = memory.read(linear(frame.es, frame.si), 0x30)
        if frame.cx > _MAX_MOVE:
            frame.fail(0x02)
            return
        source, target = (
            Gpa(int.from_bytes(table[at + 2 : at + 5], "little") | table[at + 7] << 24) for at in (0x10, 0x18)
        )
        try:
            memory.write(target, memory.read(source, frame.cx * 2))
        except GuestError:
            frame.fail(0x02)  # "exception interrupt": the addresses are not RAM
        else:
            frame.done()

    @function(0x15, 0x88, source="INT 15/AH=88h")
    def extended_memory(self, frame: Frame) -> None:
        """KiB above 1 MiB, at most 63 MiB (callers add one and shift)."""
        frame.ax = min(self._extended_bytes(64 * MIB), 63 * MIB) // KIB
        frame.carry = False

    @function(0x15, 0x90, 0x91, source="INT 15/AH=90h, 91h")
    def device_hooks(self, frame: Frame) -> None:
        """Device busy, device post: hooks for multitasking that nobody took."""
        frame.done()

    @function(0x15, 0xC0, source="INT 15/AH=C0h")
    def configuration(self, frame: Frame) -> None:
        frame.es, frame.bx = _BIOS_SEGMENT, _CONFIGURATION_TABLE
        frame.done()

    @function(0x15, 0xC1, source="INT 15/AH=C1h")
    def ebda(self, frame: Frame) -> None:
        frame.es = self.platform.bda16(bda.EBDA_SEGMENT)
        frame.carry = False

    @function(0x15, 0xE801, source="INT 15/AX=E801h")
    def memory_e801(self, frame: Frame) -> None:
        """AX, CX: KiB from 1 to 16 MiB; BX, DX: 64 KiB blocks from 16 MiB to 4 GiB."""
        extended = self._extended_bytes(4096 * MIB)
        low = min(extended, 15 * MIB)
        frame.ax = frame.cx = low // KIB
        frame.bx = frame.dx = (extended - low) // (64 * KIB)
        frame.carry = False

    @function(0x15, 0xE820, source="INT 15/AX=E820h; ACPI 6.4 §15.1")
    def memory_e820(self, frame: Frame) -> None:
        """One entry a call, EBX the continuation."""
        index, room = frame.ebx, frame.ecx
        if frame.edx != _SMAP or room < 20 or index >= len(self.memory_map):
            frame.fail(0x86)
            return
        self.platform.memory.write(linear(frame.es, frame.di), self.memory_map[index].pack())
        frame.eax, frame.ecx = _SMAP, 20
        frame.ebx = index + 1 if index + 1 < len(self.memory_map) else 0
        frame.carry = False
