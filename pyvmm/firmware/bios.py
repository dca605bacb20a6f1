"""The BIOS as one object: `machine.firmware`.

`install` puts the ROM and the tables of others into memory; `reset` points the vCPU at it; `service` answers what a
stub asks. Each group of services is a module of its own: video, palette, vbe, disk, system, keyboard, serial,
timeofday, pci_bios, boot. `calls` counts every call by (interrupt, AH), `screen` is what the guest shows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from pyvmm.boot.e820 import E820Entry, e820_map
from pyvmm.errors import ConfigError, GuestError
from pyvmm.firmware import drives, post, rom
from pyvmm.firmware.boot import Boot
from pyvmm.firmware.disk import Disk
from pyvmm.firmware.frame import Frame
from pyvmm.firmware.group import UNSUPPORTED, FunctionInfo, ServiceGroup
from pyvmm.firmware.keyboard import Keyboard
from pyvmm.firmware.pci_bios import PciBios
from pyvmm.firmware.platform import Drive, Memory, Platform, PortBus, Registers
from pyvmm.firmware.screen import Screen
from pyvmm.firmware.serial import SerialPorts
from pyvmm.firmware.system import System
from pyvmm.firmware.terminal import SerialConsole
from pyvmm.firmware.timeofday import TimeOfDay
from pyvmm.firmware.vga import VgaAdapter
from pyvmm.firmware.video import Video
from pyvmm.machine import layout
from pyvmm.units import Gpa

if TYPE_CHECKING:
    from pyvmm.firmware.vga import VideoMemory

_WAITING = frozenset({0x09, 0x15, 0x16, 0x1A})
"""Interrupts that a program which waits for a key may use all the same (15h for AH=4Fh, 1Ah to read the time)."""


class Bios:
    """The built-in firmware.

    Parameters
    ----------
    memory, pio
        The machine's memory and ports.
    memory_size
        Bytes of RAM, as configured.
    disks
        Drives in order: hard disks become 80h, 81h..., floppies 00h, 01h, CDs E0h, E1h...
    boot_order
        Letters ``c`` hard disk, ``d`` CD, ``a`` floppy, in the order in which they are tried.
    serial_console
        Mirror INT 10h text to COM1, and take its input for keys.
    now_ns
        The machine's clock, in nanoseconds.
    tables
        (address, bytes) of tables that others made (ACPI, MP...); `post.TABLE_AREA` is free for what must be in the
        BIOS segment.
    reserved
        Their ranges of RAM for the E820 map.
    rom_image
        Another ROM than the one that was built with the package.
    display
        The VGA, whose ports are at their usual place; None: text goes to the serial line only.

    Raises
    ------
    ConfigError
        When the ROM was built for another service port.
    ImageError
        When a floppy image is none.
    """

    def __init__(
        self,
        memory: Memory,
        pio: PortBus,
        *,
        memory_size: int,
        disks: Iterable[Drive] = (),
        boot_order: str = "cda",
        serial_console: bool = True,
        now_ns: Callable[[], int] = lambda: 0,
        tables: Sequence[tuple[Gpa, bytes]] = (),
        reserved: Sequence[E820Entry] = (),
        rom_image: rom.Rom | None = None,
        display: VideoMemory | None = None,
    ) -> None:
        self.rom = rom_image or rom.load()
        if self.rom.service_port != layout.FIRMWARE_SERVICE:
            raise ConfigError(
                f"bios.bin was built for service port {self.rom.service_port:#x}, the machine has "
                f"{layout.FIRMWARE_SERVICE:#x}: install the package again"
            )
        self.platform = Platform(memory, pio, memory_size, now_ns)
        self.tables = list(tables)
        self.memory_map = e820_map(memory_size, reserved)
        self.calls: Counter[tuple[int, int]] = Counter()
        self.configured = number_drives(disks)
        console = SerialConsole(pio, layout.COM_PORTS[0]) if serial_console else None
        adapter = None if display is None else VgaAdapter(pio, display)
        self.video = Video(self.platform, console, adapter)
        self.keyboard = Keyboard(self.platform, self.video, console)
        self.disk = Disk(self.platform, self.configured)
        self.system = System(self.platform, self.memory_map)
        self.serial = SerialPorts(self.platform)
        self.time = TimeOfDay(self.platform)
        self.pci = PciBios(self.platform)
        self.boot = Boot(self.platform, self.disk, self.video, boot_order)
        self.groups: dict[int, ServiceGroup] = {
            0x09: self.keyboard,
            0x10: self.video,
            0x11: self.system,
            0x12: self.system,
            0x13: self.disk,
            0x14: self.serial,
            0x15: self.system,
            0x16: self.keyboard,
            0x17: self.serial,
            0x18: self.boot,
            0x19: self.boot,
            0x1A: self.time,
        }
        self.by_function: dict[tuple[int, int], ServiceGroup] = {(0x1A, 0xB1): self.pci}
        """Groups that have one AH of an interrupt."""
        if adapter is not None:
            self._add_vga(adapter)

    def _add_vga(self, adapter: VgaAdapter) -> None:
        from pyvmm.firmware.palette import Fonts, Palette
        from pyvmm.firmware.vbe import VBE_MODES, Vbe
        from pyvmm.firmware.video_rom import ROM_SEGMENT, build

        self.by_function |= {
            (0x10, 0x10): Palette(self.platform, adapter),
            (0x10, 0x11): Fonts(self.platform, adapter, self.video),
            (0x10, 0x4F): Vbe(self.platform, adapter, self.video),
        }
        self.tables.append((Gpa(ROM_SEGMENT << 4), build(list(VBE_MODES))))

    @property
    def screen(self) -> Screen:
        """What INT 10h drew, without a VGA too: ``machine.firmware.screen.text()``."""
        return self.video.screen

    @staticmethod
    def functions() -> list[tuple[FunctionInfo, str]]:
        """Every function that is answered, and the method that does it, in order of number."""
        from pyvmm.firmware.palette import Fonts, Palette
        from pyvmm.firmware.vbe import Vbe

        groups: tuple[type[ServiceGroup], ...] = (
            Video,
            Palette,
            Fonts,
            Vbe,
            Keyboard,
            Disk,
            System,
            SerialPorts,
            TimeOfDay,
            PciBios,
            Boot,
        )
        rows = [
            (info, f"{group.__name__}.{name}") for group in groups for name, info in group.functions.values()
        ]
        return sorted(rows, key=lambda row: (row[0].interrupt, row[0].selector or 0))

    def install(self) -> None:
        """Put the ROM and the tables into memory. Again after each reset: the guest may have changed it."""
        self.platform.memory.load(layout.BIOS_BASE, self.rom.data)
        for address, data in self.tables:
            self.platform.memory.load(address, data)

    def reset(self, cpu: Registers) -> None:
        """The vCPU at the reset vector, the ROM fresh."""
        self.install()
        cpu.set_real_mode(0xF000, 0xFFF0)

    def service(self, number: int, cpu: Registers) -> None:
        """Answer a stub, by its stacked frame.

        Raises
        ------
        BootError
            When INT 19h finds nothing to boot: why, drive by drive.
        """
        try:
            frame = Frame(self.platform.memory, cpu.ss.base + (cpu.rsp & 0xFFFF))
            self._answer(number, frame)
            frame.store(self.platform.memory)
        except GuestError as error:
            self.platform.log_once(f"BIOS: service {number:#x}: the stack is not in RAM: {error}")

    def _answer(self, number: int, frame: Frame) -> None:
        if number == rom.SERVICE_POST:
            self._power_on(frame)
        elif number in (0x00, 0x06):
            self._exception(number, frame)
        else:
            self._interrupt(number, frame)

    def _interrupt(self, number: int, frame: Frame) -> None:
        group = self.groups.get(number)
        if group is None:
            self.platform.log_once(f"BIOS: no service {number:#x}")
            return
        group = self.by_function.get((number, frame.ah), group)
        key = (number, frame.ah)
        if number not in _WAITING:
            self.keyboard.busy()
        try:
            group.call(number, frame)
        except GuestError as error:
            self.platform.log_once(
                f"BIOS: INT {number:02X}h AX={key[1]:02X}xxh: its buffer is not in RAM: {error}"
            )
            frame.fail(UNSUPPORTED)
        if not frame.waits:
            self.calls[key] += 1

    def _power_on(self, frame: Frame) -> None:
        p = self.platform
        if post.resume_after_reset(p, frame):
            return
        post.write_vectors(p, self.rom)
        post.write_data_area(p, self.configured)
        post.set_up_chipset(p)
        post.write_cmos(p, self.configured)
        post.set_up_pci(p)
        for group in (
            self.video,
            self.keyboard,
            self.disk,
            self.system,
            self.serial,
            self.time,
            self.pci,
            self.boot,
        ):
            group.reset()

    def _exception(self, number: int, frame: Frame) -> None:
        """A fault in real mode that nobody handles: returning would run it again for ever, so the guest sleeps."""
        name = {0x00: "#DE, divide error", 0x06: "#UD, invalid opcode"}[number]
        self.platform.log_once(
            f"BIOS: {name} at {frame.cs:04X}:{frame.ip:04X}, not handled: the guest stops there"
        )
        frame.wait()


def number_drives(disks: Iterable[Drive]) -> list[drives.BiosDrive]:
    """BIOS drives of the configured ones: 80h.., 00h.., E0h.. by kind, in order."""
    makers = {
        "virtio": (0x80, drives.hard_disk),
        "ide": (0x80, drives.hard_disk),
        "floppy": (0x00, drives.floppy),
        "cdrom": (0xE0, drives.cdrom),
    }
    counts: Counter[int] = Counter()
    result = []
    for disk in disks:
        base, make = makers[disk.interface]
        result.append(make(base + counts[base], disk.name, disk.image))
        counts[base] += 1
    return result
