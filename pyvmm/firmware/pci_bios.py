"""INT 1Ah/AH=B1h: the PCI BIOS, 16-bit real-mode functions.

Source: PCI BIOS Specification 2.1, §4 (functions and return codes). Left out: the 32-bit entry point (no `_32_`
directory is there, so that nobody looks for it), special cycles (06h).
"""

from __future__ import annotations

import struct
from typing import Final

from pyvmm.firmware.frame import Frame, linear
from pyvmm.firmware.group import ServiceGroup, function
from pyvmm.firmware.pci_setup import CLASS, VENDOR, ConfigSpace, PciAddress, routing_entry
from pyvmm.firmware.platform import Platform
from pyvmm.machine import layout

_SUCCESSFUL, _UNSUPPORTED, _BAD_VENDOR, _NOT_FOUND, _BAD_REGISTER, _BUFFER_TOO_SMALL = (
    0x00,
    0x81,
    0x83,
    0x86,
    0x87,
    0x89,
)
_VERSION: Final = 0x0210
_MECHANISM_1: Final = 0x01
_SIGNATURE: Final = int.from_bytes(b"PCI ", "little")


class PciBios(ServiceGroup):
    """Reads and writes through ports, as any other software."""

    def __init__(self, platform: Platform) -> None:
        super().__init__(platform)
        self.config = ConfigSpace(platform.pio)

    def unsupported(self, interrupt: int, frame: Frame) -> None:
        """Functions of INT 1Ah that are not there: CF set; PCI's own say 81h."""
        if frame.ah == 0xB1:
            self.platform.log_once(f"BIOS: PCI BIOS function {frame.al:02X}h is not supported")
            frame.fail(_UNSUPPORTED)
        else:
            super().unsupported(interrupt, frame)

    @function(0x1A, 0xB101, source="PCI BIOS 2.1 §4.1.1, PCI BIOS present")
    def present(self, frame: Frame) -> None:
        frame.edx = _SIGNATURE
        frame.edi = 0
        frame.al, frame.bx, frame.cl = _MECHANISM_1, _VERSION, 0
        frame.done()

    @function(0x1A, 0xB102, source="PCI BIOS 2.1 §4.1.2, find PCI device")
    def find_device(self, frame: Frame) -> None:
        """CX device, DX vendor, SI index."""
        if frame.dx == 0xFFFF:
            frame.fail(_BAD_VENDOR)
        else:
            wanted = frame.cx << 16 | frame.dx
            self._find(
                frame, [at for at in self.config.functions() if self.config.read(at, VENDOR, 4) == wanted]
            )

    @function(0x1A, 0xB103, source="PCI BIOS 2.1 §4.1.3, find PCI class code")
    def find_class(self, frame: Frame) -> None:
        """ECX class code (3 bytes), SI index."""
        wanted = frame.ecx & 0xFFFFFF
        self._find(
            frame, [at for at in self.config.functions() if self.config.read(at, CLASS, 4) >> 8 == wanted]
        )

    @staticmethod
    def _find(frame: Frame, found: list[PciAddress]) -> None:
        if frame.si < len(found):
            frame.bh, frame.bl = found[frame.si].bus, found[frame.si].devfn
            frame.done()
        else:
            frame.fail(_NOT_FOUND)

    @function(
        0x1A,
        0xB108,
        0xB109,
        0xB10A,
        source="PCI BIOS 2.1 §4.2.1 to §4.2.3, read configuration byte, word, dword",
    )
    def read_config(self, frame: Frame) -> None:
        size = 1 << frame.al - 0x08
        if frame.di > 0xFF or frame.di & size - 1:
            frame.fail(_BAD_REGISTER)
            return
        value = self.config.read(self._address(frame), frame.di, size)
        if size == 1:
            frame.cl = value
        elif size == 2:
            frame.cx = value
        else:
            frame.ecx = value
        frame.done()

    @function(
        0x1A,
        0xB10B,
        0xB10C,
        0xB10D,
        source="PCI BIOS 2.1 §4.2.4 to §4.2.6, write configuration byte, word, dword",
    )
    def write_config(self, frame: Frame) -> None:
        size = 1 << frame.al - 0x0B
        if frame.di > 0xFF or frame.di & size - 1:
            frame.fail(_BAD_REGISTER)
            return
        self.config.write(self._address(frame), frame.di, size, frame.ecx & (1 << 8 * size) - 1)
        frame.done()

    @staticmethod
    def _address(frame: Frame) -> PciAddress:
        return PciAddress(frame.bh, frame.bl >> 3, frame.bl & 7)

    @function(0x1A, 0xB10E, source="PCI BIOS 2.1 §4.3.1, get PCI interrupt routing options")
    def routing_options(self, frame: Frame) -> None:
        """ES:DI: word size, far pointer of a buffer; slots' routing entries go there, BX gets the IRQs used by PCI
        alone.
        """
        memory = self.platform.memory
        at = linear(frame.es, frame.di)
        room, offset, segment = struct.unpack("<HHH", memory.read(at, 6))
        slots = sorted({f.device for f in self.config.functions()} - {layout.PCI_HOST_BRIDGE})
        table = b"".join(routing_entry(slot) for slot in slots)
        memory.write(at, struct.pack("<H", len(table)))
        if room < len(table):
            frame.fail(_BUFFER_TOO_SMALL)
            return
        memory.write(linear(segment, offset), table)
        frame.bx = sum(1 << irq for irq in set(layout.PCI_LINKS))
        frame.done()
