"""What the BIOS sees of the machine it runs on: memory, ports, a clock and the drives. Protocols, so that tests can
give their own.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from pyvmm.firmware import bda
from pyvmm.machine import layout
from pyvmm.units import Gpa

if TYPE_CHECKING:
    from pyvmm.config import DiskInterface

logger = logging.getLogger("pyvmm.firmware")


class Memory(Protocol):
    """Guest physical memory (`pyvmm.memory.GuestMemory`)."""

    def read(self, gpa: Gpa, size: int) -> bytes: ...
    def write(self, gpa: Gpa, data: bytes) -> None: ...
    def load(self, gpa: Gpa, data: bytes) -> None: ...


class PortBus(Protocol):
    """The port address space."""

    def read(self, port: int, size: int) -> int: ...
    def write(self, port: int, size: int, value: int) -> None: ...
    def write_string(self, port: int, size: int, data: bytes) -> None: ...


class Image(Protocol):
    """A disk image: bytes in, bytes out. Raises `OSError` or a `PyvmmError` when the host fails."""

    @property
    def size(self) -> int: ...
    @property
    def read_only(self) -> bool: ...
    def pread(self, length: int, offset: int) -> bytes: ...
    def pwrite(self, data: bytes, offset: int) -> object: ...


class SegmentRegister(Protocol):
    @property
    def base(self) -> int: ...


class Registers(Protocol):
    """The few registers of `pyvmm.cpu.state.CpuState` that the BIOS needs."""

    @property
    def rsp(self) -> int: ...
    @property
    def ss(self) -> SegmentRegister: ...

    def set_real_mode(self, cs: int, ip: int) -> None: ...


@dataclass(slots=True)
class Drive:
    """One configured drive, as INT 13h will offer it.

    Attributes
    ----------
    name
        What the user calls it (the path): used in messages.
    interface
        ``"virtio"`` or ``"ide"`` (a hard disk either way), ``"cdrom"`` or ``"floppy"``.
    """

    name: str
    image: Image
    interface: DiskInterface = "virtio"


@dataclass(slots=True)
class Platform:
    """Everything that the service groups share."""

    memory: Memory
    pio: PortBus
    memory_size: int
    now_ns: Callable[[], int]
    seen: set[str] = field(default_factory=set)

    def log_once(self, text: str) -> None:
        if text not in self.seen:
            self.seen.add(text)
            logger.info("%s", text)

    # The BIOS data area -------------------------------------------------------------------------------------------
    def bda8(self, offset: int) -> int:
        return self.memory.read(Gpa(bda.BASE + offset), 1)[0]

    def bda16(self, offset: int) -> int:
        return int.from_bytes(self.memory.read(Gpa(bda.BASE + offset), 2), "little")

    def bda32(self, offset: int) -> int:
        return int.from_bytes(self.memory.read(Gpa(bda.BASE + offset), 4), "little")

    def set_bda8(self, offset: int, value: int) -> None:
        self.memory.write(Gpa(bda.BASE + offset), bytes((value & 0xFF,)))

    def set_bda16(self, offset: int, value: int) -> None:
        self.memory.write(Gpa(bda.BASE + offset), (value & 0xFFFF).to_bytes(2, "little"))

    def set_bda32(self, offset: int, value: int) -> None:
        self.memory.write(Gpa(bda.BASE + offset), (value & 0xFFFFFFFF).to_bytes(4, "little"))

    # CMOS RAM (MC146818) --------------------------------------------------------------------------------------------
    def cmos(self, register: int) -> int:
        self.pio.write(layout.RTC, 1, register)
        return self.pio.read(layout.RTC + 1, 1)

    def set_cmos(self, register: int, value: int) -> None:
        self.pio.write(layout.RTC, 1, register)
        self.pio.write(layout.RTC + 1, 1, value)
