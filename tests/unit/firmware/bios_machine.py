"""A machine of Python only for the services: RAM, a few ports, and a caller that makes the frame a stub would."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace

from pyvmm.errors import GuestError
from pyvmm.firmware.bios import Bios
from pyvmm.firmware.frame import FRAME_SIZE, Frame
from pyvmm.firmware.platform import Drive
from pyvmm.firmware.rom import ACTION_RETURN, ROM_CODE, ROM_SIGNATURE, SERVICE_POST, Rom, parse
from pyvmm.machine import layout
from pyvmm.units import MIB

STACK = 0x7000


class FakeMemory:
    """RAM with the VGA window left out, as on the machine."""

    def __init__(self, size: int) -> None:
        self.ram = bytearray(size)

    def _check(self, gpa: int, size: int) -> None:
        if gpa < 0 or gpa + size > len(self.ram) or (gpa < 0xC0000 and gpa + size > layout.VGA_WINDOW):
            raise GuestError(f"{gpa:#x}+{size:#x} is not RAM")

    def read(self, gpa: int, size: int) -> bytes:
        self._check(gpa, size)
        return bytes(self.ram[gpa : gpa + size])

    def write(self, gpa: int, data: bytes) -> None:
        self._check(gpa, len(data))
        self.ram[gpa : gpa + len(data)] = data

    load = write


class FakePci:
    """One function's configuration space: BAR number to size mask (as read back after writing ones)."""

    def __init__(self, device: int, bars: dict[int, int], pin: int = 1, identity: int = 0x10011AF4) -> None:
        self.device = device
        self.space = bytearray(256)
        self.space[0:4] = identity.to_bytes(4, "little")
        self.space[8:12] = (0x01000000).to_bytes(4, "little")
        self.space[0x3D] = pin
        self.bars = bars
        for index, mask in bars.items():
            self.space[0x10 + 4 * index] = mask & 0x0F
        self.decoding_while_sizing = False

    def write(self, register: int, data: bytes) -> None:
        if 0x10 <= register < 0x28:
            mask = self.bars.get((register - 0x10) // 4, 0)
            kind = mask & (1 if mask & 1 else 0x0F) if register in (0x10 + 4 * i for i in self.bars) else 0
            value = int.from_bytes(data, "little") & mask | kind
            if data == b"\xff\xff\xff\xff" and self.space[4] & 3:
                self.decoding_while_sizing = True
            data = value.to_bytes(4, "little")
        self.space[register : register + len(data)] = data


class FakePorts:
    """CMOS, a UART, port 92h, ELCR and PCI configuration mechanism 1; the rest reads as all ones and is recorded."""

    def __init__(self) -> None:
        self.cmos = bytearray(128)
        self.cmos[0x0B] = 0x02
        self.cmos_index = 0
        self.uart = bytearray(8)
        self.sent = bytearray()
        self.typed = bytearray()
        self.a20 = 0
        self.pci: list[FakePci] = []
        self.config_address = 0
        self.elcr = bytearray(2)
        self.masks = {layout.PIC_MASTER + 1: 0xFF, layout.PIC_SLAVE + 1: 0xFF}
        self.writes: list[tuple[int, int, int]] = []

    def _function(self) -> FakePci | None:
        address = self.config_address
        if not address >> 31 or address >> 16 & 0xFF or address >> 8 & 7:
            return None
        return next((p for p in self.pci if p.device == address >> 11 & 31), None)

    def read(self, port: int, size: int) -> int:
        com1 = layout.COM_PORTS[0]
        if port == layout.RTC + 1:
            return self.cmos[self.cmos_index]
        if port == com1:
            return self.typed.pop(0)
        if port == com1 + 5:
            return 0x60 | bool(self.typed)
        if port == com1 + 2:
            return 0xC1 if self.uart[2] & 1 else 0x01
        if com1 < port < com1 + 8:
            return self.uart[port - com1]
        if port == layout.SYSTEM_CONTROL_A:
            return self.a20
        if port in self.masks:
            return self.masks[port]
        if port in (layout.PIC_ELCR, layout.PIC_ELCR + 1):
            return self.elcr[port - layout.PIC_ELCR]
        if layout.PCI_CONFIG_DATA <= port < layout.PCI_CONFIG_DATA + 4:
            function = self._function()
            if function is not None:
                at = (self.config_address & 0xFC) + port - layout.PCI_CONFIG_DATA
                return int.from_bytes(function.space[at : at + size], "little")
        return (1 << 8 * size) - 1

    def write_string(self, port: int, size: int, data: bytes) -> None:
        for at in range(0, len(data), size):
            self.write(port, size, int.from_bytes(data[at : at + size], "little"))

    def write(self, port: int, size: int, value: int) -> None:
        com1 = layout.COM_PORTS[0]
        self.writes.append((port, size, value))
        if port == layout.RTC:
            self.cmos_index = value & 0x7F
        elif port == layout.RTC + 1:
            self.cmos[self.cmos_index] = value
        elif port == com1 and not self.uart[3] & 0x80:
            self.sent.append(value)
        elif com1 < port < com1 + 8 and not (port == com1 + 1 and self.uart[3] & 0x80):
            self.uart[port - com1] = value
        elif port == layout.SYSTEM_CONTROL_A:
            self.a20 = value
        elif port in self.masks:
            self.masks[port] = value
        elif port in (layout.PIC_ELCR, layout.PIC_ELCR + 1):
            self.elcr[port - layout.PIC_ELCR] = value
        elif port == layout.PCI_CONFIG_ADDRESS:
            self.config_address = value
        elif layout.PCI_CONFIG_DATA <= port < layout.PCI_CONFIG_DATA + 4:
            function = self._function()
            if function is not None:
                at = (self.config_address & 0xFC) + port - layout.PCI_CONFIG_DATA
                function.write(at, value.to_bytes(size, "little"))


@dataclass
class FakeImage:
    data: bytearray
    read_only: bool = False

    @property
    def size(self) -> int:
        return len(self.data)

    def pread(self, size: int, offset: int) -> bytes:
        return bytes(self.data[offset : offset + size]).ljust(size, b"\0")

    def pwrite(self, data: bytes, offset: int) -> None:
        self.data[offset : offset + len(data)] = data


def empty_rom() -> Rom:
    """A ROM with a vector table and no code: the services need no more."""
    data = bytearray(0x10000)
    data[ROM_CODE : ROM_CODE + 16] = (
        ROM_SIGNATURE + layout.FIRMWARE_SERVICE.to_bytes(2, "little") + b"\x01\x00\x13\x00\x34\xc1"
    )
    return parse(bytes(data))


@dataclass
class Caller:
    """The guest: memory, ports and the BIOS, after POST."""

    drives: list[Drive] = field(default_factory=list)
    order: str = "cda"
    memory_size: int = 64 * MIB
    console: bool = True
    pci: list[FakePci] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.memory = FakeMemory(self.memory_size)
        self.ports = FakePorts()
        self.ports.pci = self.pci
        self.now = 0
        self.bios = Bios(
            self.memory,
            self.ports,
            memory_size=self.memory_size,
            disks=self.drives,
            boot_order=self.order,
            serial_console=self.console,
            now_ns=lambda: self.now,
            rom_image=empty_rom(),
        )
        self.bios.install()
        self.service(SERVICE_POST)

    def service(self, number: int, **registers: int) -> Frame:
        """Make a frame, have the service answered, and return the frame as the stub would find it."""
        self.memory.write(STACK, bytes(FRAME_SIZE))
        frame = Frame(self.memory, STACK)
        frame.action = ACTION_RETURN
        for name, value in registers.items():
            setattr(frame, name, value)
        frame.store(self.memory)
        self.bios.service(number, SimpleNamespace(rsp=STACK, ss=SimpleNamespace(base=0)))
        return Frame(self.memory, STACK)

    def type(self, data: bytes) -> None:
        self.ports.typed += data

    @property
    def sent(self) -> str:
        return self.ports.sent.decode()

    def print(self, text: str) -> None:
        for character in text.encode("cp437"):
            self.service(0x10, ax=0x0E00 | character, bx=7)
