"""The PC: `build` reads from top to bottom as the board is populated.

RAM, interrupt controllers and clocks, the small ports, serial line, PCI with its bridges, disks, ACPI tables, firmware
or kernel, engine and vCPU. Addresses and interrupt numbers are in `layout`; what a device does is in its own file.
"""

from __future__ import annotations

import os
import time

from pyvmm.board import Board
from pyvmm.config import DiskConfig, MachineConfig
from pyvmm.devices.acpi_pm import AcpiPm
from pyvmm.devices.apic import IoApic, Lapic
from pyvmm.devices.base import Device
from pyvmm.devices.dma import Dma
from pyvmm.devices.hpet import Hpet
from pyvmm.devices.i8042 import I8042
from pyvmm.devices.pci import HostBridge, IsaBridge, PciBus, PowerManagement
from pyvmm.devices.pic import Pic
from pyvmm.devices.pit import Pit
from pyvmm.devices.ports import (
    DebugConsole,
    ExitPort,
    FirmwarePort,
    NmiAndSpeaker,
    PostCode,
    ResetControl,
    SystemControlA,
)
from pyvmm.devices.rtc import Rtc
from pyvmm.devices.uart import SerialPort, Uart
from pyvmm.display.serial import CharSink
from pyvmm.engine import EngineVm, Vcpu
from pyvmm.errors import BootError, ConfigError, DeviceError
from pyvmm.machine import layout
from pyvmm.machine.engines import Choice, choose
from pyvmm.machine.places import boot_paths, boot_rank, ide_places, virtio_slots
from pyvmm.memory import GuestMemory
from pyvmm.units import KIB, Gpa, format_size

# What only some machines need (images, BIOS, loaders, virtio) is imported where it is used: a start is quicker without.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeVar

    from pyvmm.block import Image
    from pyvmm.board import IoThread
    from pyvmm.boot.acpi import AcpiTables
    from pyvmm.devices.vga import Vga
    from pyvmm.devices.virtio import VirtioBlk
    from pyvmm.devices.virtio.base import Place
    from pyvmm.devices.virtio.console import CharSocket, ConsolePort
    from pyvmm.firmware.bios import Bios
    from pyvmm.irq import IrqLine
    from pyvmm.net.backend import NetBackend

    D = TypeVar("D", bound=Device)

VIRTUAL_EPOCH_NS = 1_767_225_600 * 1_000_000_000
"""A virtual clock starts at 2026-01-01 00:00 UTC, so that a run repeats."""
DEFAULT_TSC_HZ = 1_000_000_000
"""The TSC counts the clock's own nanoseconds: every clock of the machine then agrees to the last digit."""
MAX_ROM = 16 << 20
OVMF_WHOLE = ("/usr/share/ovmf/OVMF.fd", "/usr/share/qemu/OVMF.fd")
"""UEFI firmware with room for its variables, which it then keeps in RAM."""
OVMF_CODE = ("/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_CODE.fd")
"""The same without: they are in a flash of their own (``--pflash``)."""
VGA_BIOSES = ("/usr/share/seabios/vgabios-stdvga.bin", "/usr/share/qemu/vgabios-stdvga.bin")
"""Where distributions keep the VGA BIOS that belongs to SeaBIOS."""


class Pc:
    """The parts of a machine, in the order in which they were made; `close` frees them the other way."""

    vm: EngineVm  # the one that has the board
    serial: SerialPort
    timer_line: IrqLine  # the PIT's and the RTC's, which an HPET may take over
    clock_line: IrqLine
    console: SerialPort  # what the user types to: COM1's, or a virtio console's

    def __init__(self, config: MachineConfig, board: Board, choice: Choice) -> None:
        self.config = config
        self.choice = choice
        self.board = board
        self.devices: dict[str, Device] = {}
        self.sinks: list[CharSink] = []
        self.images: list[Image] = []
        self.networks: list[NetBackend] = []
        self.ports: dict[str, SerialPort | ConsolePort] = {}
        self.sockets: list[CharSocket] = []
        self.stopping: list[VirtioBlk] = []  # that may stop the machine when their host fails
        self.firmware: Bios | None = None
        self.rom: bytes | None = None
        self.acpi: AcpiTables | None = None
        self.tables: list[tuple[Gpa, bytes]] = []  # MP table and SMBIOS: those that are not ACPI's
        self._started = False
        self.vms: list[EngineVm] = []  # `vm`, and the one that it changes places with (machine/switch.py)
        topology = config.topology
        self.apic_ids = list(range(config.cpus)) if topology is None else topology.apic_ids()

    def add(self, name: str, device: D) -> D:
        """A device with its name on the board."""
        device.name = name
        self.devices[name] = device
        return device

    def command_line(self) -> str:
        """What a directly loaded kernel is told."""
        return self.config.append

    def try_again(self) -> None:
        """What disks stopped the machine for."""
        for disk in self.stopping:
            disk.go_on()

    def virtio_place(
        self, slot: int | None = None, *, io: IoThread | None = None, features: dict[str, bool] | None = None
    ) -> Place:
        """Where the next virtio device stands: PCI device number `slot`, or None for the first that is free.

        Raises
        ------
        ConfigError
            There is no more room.
        """
        from pyvmm.devices.virtio.base import PciPlace

        bus = self.devices["pci"]
        assert isinstance(bus, PciBus)
        if slot is None:
            try:
                slot = bus.free_slot(layout.PCI_FIRST_FREE_SLOT)
            except DeviceError:
                raise ConfigError("PCI has no room for another device; use fewer devices or disks") from None
        return PciPlace(bus, slot, io=io, features=features)

    def start(self, vcpu: Vcpu) -> None:
        """Load what runs first, and point the vCPU at it. Also after a reset."""
        memory = self.board.memory
        self._set_boot_order()
        if self.rom is not None:
            _load_rom(memory, self.rom)
            return  # in the state after RESET#, as it is
        from pyvmm.firmware.mtrr import set_memory_types

        for other in self.vm.vcpus[1:]:
            waiting = other.state
            set_memory_types(waiting)
            other.state = waiting
        state = vcpu.state
        set_memory_types(state)
        if self.config.kernel is not None:
            from pyvmm.boot.kernel import load_kernel
            from pyvmm.firmware.boot_screen import BootScreen

            assert self.acpi is not None
            for gpa, table in (*self.acpi.blobs, *self.tables):
                memory.load(gpa, table)
            if "pci" in self.devices:
                from pyvmm.firmware.pci_setup import assign_resources

                assign_resources(self.board.pio)
            vga = vga_of(self)
            if vga is not None:
                from pyvmm.firmware.vga import start_text_mode

                start_text_mode(self.board.pio, vga)
            entry = load_kernel(
                memory,
                self.config.kernel,
                memory_size=self.config.memory,
                initrd=self.config.initrd,
                append=self.command_line(),
                reserved=self.acpi.reserved,
                acpi_rsdp=self.acpi.rsdp_gpa,
                screen=BootScreen(self.board.pio, vga),
            )
            entry.apply(state)
        elif self.firmware is not None:
            self.firmware.reset(state)
        vcpu.state = state

    def _set_boot_order(self) -> None:
        """The first start may have an order of its own."""
        config, first = self.config, not self._started
        self._started = True
        if not config.boot_once:
            return
        order = config.boot_once if first else config.boot_order
        if self.firmware is not None:
            self.firmware.boot.order = order
        elif self.rom is not None:
            from pyvmm.firmware.seabios import boot_order_cmos

            rtc = self.devices["rtc"]
            assert isinstance(rtc, Rtc)
            for index, value in boot_order_cmos(order).items():
                rtc[index] = value

    def reset(self) -> None:
        """Every device at its power-on values."""
        for device in self.devices.values():
            device.reset()

    def close(self) -> None:
        """I/O threads first (their callbacks reach the engine), then engine, devices, sinks, images, board.

        All of it also when a device's `close` raises; the exception comes at the end.
        """
        from contextlib import ExitStack

        with ExitStack() as stack:  # runs from the last line up
            stack.callback(self.board.close)
            parts: list[Image | NetBackend | CharSink | CharSocket | Device] = [
                *self.images,
                *self.networks,
                *self.sinks,
                *self.sockets,
                *self.devices.values(),
            ]
            for part in parts:
                stack.callback(part.close)
            for sink in self.sinks:
                stack.callback(sink.drain)
            for vm in self.vms:
                stack.callback(vm.close)
            stack.callback(self.board.stop_io)


def build(config: MachineConfig) -> Pc:
    """A whole PC, not yet running.

    Raises
    ------
    ConfigError, ImageError, BootError, EngineError
        One line that names the option or file, and what to do.
    """
    check(config)
    if not config.acpi:
        raise ConfigError("--machine: acpi=off goes with microvm; a pc's kernel takes acpi=off by --append")
    choice = choose(config.engine, cpus=config.cpus, clock=config.clock)
    board = Board(config.clock)
    pc = Pc(config, board, choice)
    try:
        add_memory(pc)
        add_clock(pc)
        add_chipset(pc)
        add_pc_chips(pc)
        add_serial(pc)
        add_pci(pc)
        add_display(pc)
        add_disks(pc)
        add_virtio(pc)
        add_firmware(pc)
        add_engine(pc)
        pc.reset()
    except BaseException:
        pc.close()
        raise
    return pc


def add_engine(pc: Pc) -> None:
    """The engine's VM and vCPUs; with ``cpu="common"`` both engines, showing what they have in common."""
    config = pc.config
    if config.cpu == "common":
        from pyvmm.machine.switch import build_common

        build_common(pc)
        return
    pc.vm = pc.choice.engine.create_vm(
        pc.board, cpus=config.cpus, irqchip=config.irqchip, topology=config.topology
    )
    pc.vms.append(pc.vm)
    for index in range(config.cpus):
        pc.vm.create_vcpu(index)


def check(config: MachineConfig) -> None:
    """Values that no machine can have, each with the option that sets it."""
    if config.memory % 4096:
        raise ConfigError(
            f"-m: {config.memory} bytes is not a whole number of 4 KiB pages; write for example -m 512M"
        )
    if not layout.MIN_MEMORY <= config.memory <= layout.MAX_MEMORY:
        raise ConfigError(
            f"-m: {format_size(config.memory)} is not between {format_size(layout.MIN_MEMORY)} and"
            f" {format_size(layout.MAX_MEMORY)}; write for example -m 512M"
        )
    if not 1 <= config.cpus <= 255:
        raise ConfigError(f"--cpus: {config.cpus} is not between 1 and 255; write 1")
    if config.topology is not None and config.topology.count != config.cpus:
        raise ConfigError(
            f"--smp: {config.topology} is {config.topology.count}, and there are {config.cpus} vCPUs"
        )
    if config.irqchip not in ("auto", "user", "split", "kernel"):
        raise ConfigError(f"--irqchip: {config.irqchip!r} is not auto, user, split or kernel")
    if config.initrd is not None and config.kernel is None:
        raise ConfigError("--initrd: goes with --kernel; a disk's own boot loader loads its initrd")
    if config.append and config.kernel is None:
        raise ConfigError("--append: goes with --kernel; a disk's own boot loader has the command line")
    if config.pflash is not None and (config.firmware == "pyvmm" or config.kernel is not None):
        raise ConfigError("--pflash: goes with UEFI firmware; add --firmware ovmf")
    for order in (config.boot_order, config.boot_once or "c"):
        if set(order) - set("acd") or not order:
            raise ConfigError(f"--boot: {order!r} is not made of c (hard disk), d (CD) and a (floppy)")
    if config.uuid is not None:
        from pyvmm.boot.smbios import parse_uuid

        try:
            parse_uuid(config.uuid)
        except ValueError:
            raise ConfigError(
                f"--uuid: {config.uuid!r} is not a UUID; write for example"
                " 12345678-9abc-def0-1234-56789abcdef0"
            ) from None
    if config.tsc_hz is not None and not 1_000_000 <= config.tsc_hz <= 100_000_000_000:
        raise ConfigError(f"tsc_hz: {config.tsc_hz} is not between 1 MHz and 100 GHz")


def add_memory(pc: Pc) -> None:
    """RAM below and above the hole at 640 KiB and the PCI hole; the ROM, below 1 MiB and again below 4 GiB."""
    memory, config = pc.board.memory, pc.config
    memory.add(Gpa(0), layout.LOW_RAM_END)
    if config.kernel is None and config.firmware != "pyvmm":
        pc.rom = _read_rom(_find_rom(config.firmware, with_pflash=config.pflash is not None))
        memory.add(layout.OPTION_ROM_BASE, layout.HIGH_MEMORY_BASE - layout.OPTION_ROM_BASE)
        memory.add(Gpa(layout.ABOVE_4G_BASE - len(pc.rom)), len(pc.rom), read_only=True)
    else:
        memory.add(layout.OPTION_ROM_BASE, layout.BIOS_BASE - layout.OPTION_ROM_BASE)
        memory.add(layout.BIOS_BASE, layout.BIOS_SIZE, read_only=True)
        memory.alias(layout.BIOS_HIGH_BASE, layout.BIOS_BASE, layout.BIOS_SIZE, read_only=True)
    for start, size in layout.split_memory(config.memory):
        memory.add(start, size)


def add_clock(pc: Pc) -> None:
    """What time it is, and how fast the TSC counts."""
    board, config = pc.board, pc.config
    board.tsc_hz = config.tsc_hz or DEFAULT_TSC_HZ
    if config.clock == "virtual":
        board.clock.epoch_ns = VIRTUAL_EPOCH_NS
    if config.rtc_base == "localtime":
        board.clock.epoch_ns += time.localtime().tm_gmtoff * 1_000_000_000
    elif config.rtc_base != "utc":
        import datetime

        try:
            date = datetime.datetime.fromisoformat(config.rtc_base).replace(tzinfo=datetime.UTC)
        except ValueError:
            raise ConfigError(
                f"rtc_base: {config.rtc_base!r} is not utc, localtime, or a date like 2026-01-31T12:00:00"
            ) from None
        board.clock.epoch_ns = int(date.timestamp()) * 1_000_000_000 - board.clock.now


def add_chipset(pc: Pc) -> None:
    """Interrupt controllers, timer, real-time clock, power management, and the small ports: what every machine has."""
    board = pc.board
    pio = board.pio
    pic = pc.add("pic", Pic(board))
    pio.add(layout.PIC_MASTER, 2, pic, Pic.MASTER)
    pio.add(layout.PIC_SLAVE, 2, pic, Pic.SLAVE)
    pio.add(layout.PIC_ELCR, 2, pic, Pic.ELCR)
    for index, apic_id in enumerate(pc.apic_ids):
        pc.add(f"lapic{index}" if index else "lapic", Lapic(board, apic_id))
    io_apic = pc.add("ioapic", IoApic(board, layout.IO_APIC_TIMER_INPUT))
    board.mmio.add(layout.IO_APIC_BASE, layout.IO_APIC_SIZE, io_apic)
    pc.timer_line, pc.clock_line = board.irq_line(layout.IRQ_PIT), board.irq_line(layout.IRQ_RTC)
    pit = pc.add("pit", Pit(board, pc.timer_line))
    pio.add(layout.PIT, 4, pit)
    pio.add(layout.RTC, 4, pc.add("rtc", Rtc(board, pc.clock_line)))
    power = AcpiPm(
        board,
        board.irq_line(layout.IRQ_ACPI),
        s5_type=layout.ACPI_SLEEP_TYPE_S5,
        acpi_enable=layout.ACPI_ENABLE,
        acpi_disable=layout.ACPI_DISABLE,
        timer_bits=layout.ACPI_PM_TIMER_BITS,
    )
    pio.add(layout.ACPI_PM, 12, pc.add("acpi_pm", power), AcpiPm.REGISTERS)
    pio.add(layout.ACPI_SMI_COMMAND, 2, power, AcpiPm.SMI)
    pio.add(layout.NMI_AND_SPEAKER, 1, pc.add("port61", NmiAndSpeaker(board, pit)))
    pio.add(layout.SYSTEM_CONTROL_A, 1, pc.add("port92", SystemControlA(board)))
    pio.add(layout.POST_CODE, 1, pc.add("post_code", PostCode(board)))
    pio.add(layout.RESET_CONTROL, 1, pc.add("reset_control", ResetControl(board)))
    pio.add(layout.EXIT, 1, pc.add("exit_port", ExitPort(board)))
    if pc.config.firmware == "pyvmm":
        pio.add(layout.FIRMWARE_SERVICE, 2, pc.add("firmware_port", FirmwarePort(board)))


def add_pc_chips(pc: Pc) -> None:
    """DMA and keyboard controllers, and the HPET, which takes the timer's and the clock's lines when told to."""
    board, pio = pc.board, pc.board.pio
    dma = pc.add("dma", Dma(board))
    pio.add(layout.DMA_MASTER, 16, dma, Dma.MASTER)
    pio.add(layout.DMA_SLAVE, 32, dma, Dma.SLAVE)
    pio.add(layout.DMA_PAGES, 15, dma, Dma.PAGES)
    if pc.config.hpet:
        board.mmio.add(
            layout.HPET_BASE, layout.HPET_SIZE, pc.add("hpet", Hpet(board, pc.timer_line, pc.clock_line))
        )
    keyboard = I8042(board, board.irq_line(layout.IRQ_KEYBOARD), board.irq_line(layout.IRQ_MOUSE))
    pio.add(layout.I8042_DATA, 1, pc.add("i8042", keyboard), I8042.DATA)
    pio.add(layout.I8042_COMMAND, 1, keyboard, I8042.COMMAND)


def add_serial(pc: Pc) -> None:
    """COM1, and the debug console beside it."""
    board, target = pc.board, pc.config.serial
    sink = open_sink(board, target)
    pc.sinks.append(sink)
    uart = pc.add("com1", Uart(board, board.irq_line(layout.IRQ_COM[0]), sink))
    board.pio.add(layout.COM_PORTS[0], 8, uart)
    pc.serial = pc.console = SerialPort(uart, sink)
    debug = CharSink(board)
    pc.sinks.append(debug)
    board.pio.add(layout.DEBUG_CONSOLE, 1, pc.add("debug_console", DebugConsole(board, debug)))


def open_sink(board: Board, target: str, option: str = "--serial") -> CharSink:
    """A stream of the guest's to the terminal, a buffer, nothing or a file."""
    if target == "stdio":
        return CharSink(board, fd=1, capture=0)
    if target in ("buffer", "null"):
        return CharSink(board) if target == "buffer" else CharSink(board, capture=0)
    kind, _, path = target.partition(":")
    if kind != "file" or not path:
        raise ConfigError(f"{option}: {target!r} is not stdio, null, buffer or file:PATH")
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise ConfigError(f"{option}: {path}: {error.strerror}") from None
    try:
        return CharSink(board, fd=fd, capture=0)
    finally:
        os.close(fd)


def add_pci(pc: Pc) -> None:
    """The root bus behind configuration mechanism 1, the host bridge, and the ISA bridge with power management."""
    board = pc.board
    bus = pc.add("pci", PciBus(board))
    board.pio.add(layout.PCI_CONFIG_ADDRESS, 1, bus, PciBus.ADDRESS)
    board.pio.add(layout.PCI_CONFIG_DATA, 4, bus, PciBus.DATA)
    pc.add("host_bridge", HostBridge(board, bus, layout.PCI_HOST_BRIDGE))
    pc.add("isa_bridge", IsaBridge(board, bus, layout.PCI_ISA_BRIDGE))
    irq = board.irq_line(layout.IRQ_ACPI)
    pc.add("power", PowerManagement(board, bus, layout.PCI_ISA_BRIDGE, layout.ACPI_PM, irq))


def add_display(pc: Pc) -> None:
    """A VGA; firmware other than our own finds a VGA BIOS in its ROM, where the host has one."""
    if pc.config.vga == "none":
        return
    from pyvmm.devices.vga import Vga

    board, bus = pc.board, pc.devices["pci"]
    assert isinstance(bus, PciBus)
    vga = pc.add("vga", Vga(board, bus, layout.PCI_VGA, _find_vga_bios() if pc.rom is not None else None))
    board.pio.add(layout.VGA_PORTS, 0x30, vga, Vga.PORTS)
    board.pio.add(layout.VGA_DISPI, 4, vga, Vga.DISPI)
    board.mmio.add(layout.VGA_WINDOW, layout.VGA_WINDOW_SIZE, vga, Vga.WINDOW)


def vga_of(pc: Pc) -> Vga | None:
    """The machine's VGA, if it has one."""
    vga = pc.devices.get("vga")
    if vga is None:
        return None
    from pyvmm.devices.vga import Vga

    return vga if isinstance(vga, Vga) else None


def _find_vga_bios() -> bytes | None:
    for path in VGA_BIOSES:
        try:
            with open(path, "rb") as file:
                return file.read(MAX_ROM)
        except OSError:
            continue
    return None


def _check_disk(disk: DiskConfig) -> None:
    """What images and devices cannot know."""
    path = os.fsdecode(disk.path)
    if disk.interface != "virtio" and (disk.read_error, disk.write_error) != ("report", "report"):
        raise ConfigError(
            f"{path}: only a virtio disk stops the machine when its host fails; use virtio, or report errors"
        )
    if not 1 <= disk.threads <= disk.queues <= 64:
        raise ConfigError(
            f"{path}: {disk.queues} queues, {disk.threads} threads: 1 to 64, no more threads than queues"
        )


def add_disks(pc: Pc) -> None:
    """Open every image; hard disks are virtio-blk functions or IDE drives, CDs IDE drives, floppies on the FDC.

    Each virtio disk, and the IDE function, has an I/O thread: one that waits for its host delays neither the timers nor
    another disk.
    """
    if not pc.config.disks:
        return
    from pyvmm.block import open_image
    from pyvmm.devices.virtio import VirtioBlk

    slots = virtio_slots(pc.config.disks)
    for disk in pc.config.disks:
        _check_disk(disk)
        image = open_image(
            disk.path,
            disk.format,
            cache=disk.cache,
            read_only=disk.read_only or disk.interface == "cdrom",
            snapshot=disk.snapshot,
        )
        pc.images.append(image)
        if disk.interface == "virtio":
            index = sum(name.startswith("disk") for name in pc.devices)
            threads = [pc.board.worker(f"blk-{index}" + (f".{n}" if n else "")) for n in range(disk.threads)]
            place = pc.virtio_place(slots.pop(0), io=threads[0], features=disk.features)
            device = VirtioBlk(
                pc.board,
                place,
                image,
                serial=disk.serial,
                queues=disk.queues,
                threads=threads,
                read_error=disk.read_error,
                write_error=disk.write_error,
            )
            pc.add(f"disk{index}", device)
            if disk.read_error != "report" or disk.write_error != "report":
                pc.stopping.append(device)
    if any(disk.interface in ("ide", "cdrom") for disk in pc.config.disks):
        add_ide(pc)
    if any(disk.interface == "floppy" for disk in pc.config.disks):
        add_floppies(pc)


def add_virtio(pc: Pc) -> None:
    """The network cards and the other virtio functions, if there are any."""
    config = pc.config
    if config.networks:
        from pyvmm.machine.network import add_networks

        add_networks(pc)
    wanted = (
        config.shares,
        config.ports,
        config.rng,
        config.balloon,
        config.inputs,
        config.vsock,
        config.console == "virtio",
    )
    if any(option not in (None, False, []) for option in wanted):
        from pyvmm.machine.virtio import add_devices

        add_devices(pc)


def add_ide(pc: Pc) -> None:
    """The IDE function: CDs from the second channel's device 0 on, disks from the first channel's."""
    from pyvmm.devices.ide import Ide, IdeDrive

    board, bus = pc.board, pc.devices["pci"]
    assert isinstance(bus, PciBus)
    drives: list[IdeDrive | None] = [None] * 4
    for place, index in ide_places(pc.config.disks).items():
        is_disk = pc.config.disks[index].interface == "ide"
        drives[place] = IdeDrive("disk" if is_disk else "cdrom", pc.images[index])
    irqs = board.irq_line(layout.IRQ_IDE[0]), board.irq_line(layout.IRQ_IDE[1])
    ide = pc.add(
        "ide",
        Ide(board, bus, layout.PCI_ISA_BRIDGE, irqs, drives, layout.PCI_IDE_FUNCTION, board.worker("ide")),
    )
    for channel in range(2):
        board.pio.add(layout.IDE_COMMAND[channel], 8, ide, Ide.COMMAND[channel])
        board.pio.add(layout.IDE_CONTROL[channel], 1, ide, Ide.CONTROL[channel])


def add_floppies(pc: Pc) -> None:
    """The floppy disk controller, with a drive for each image, and what CMOS says of them (RBIL CMOS.LST, byte 10h)."""
    from pyvmm.devices.fdc import DRIVES, Fdc, FloppyMedium
    from pyvmm.firmware.drives import floppy_format

    board, dma, rtc = pc.board, pc.devices["dma"], pc.devices["rtc"]
    assert isinstance(dma, Dma)
    assert isinstance(rtc, Rtc)
    media: list[FloppyMedium | None] = []
    for disk, image in zip(pc.config.disks, pc.images, strict=True):
        if disk.interface != "floppy":
            continue
        fmt = floppy_format(image, os.fspath(disk.path))
        shape = fmt.geometry
        media.append(FloppyMedium(image, shape.cylinders, shape.heads, shape.sectors, fmt.drive_type))
    if len(media) > DRIVES:
        raise ConfigError(f"--floppy: {len(media)} images: the controller has two drives; use fewer")
    fdc = pc.add(
        "fdc", Fdc(board, board.irq_line(layout.IRQ_FDC), dma, media, layout.DMA_FDC, board.worker("fdc"))
    )
    board.pio.add(layout.FDC, 6, fdc, Fdc.PORTS)
    board.pio.add(layout.FDC_RATE, 1, fdc, Fdc.RATE)
    types = [medium.cmos_type for medium in media if medium is not None] + [0]
    rtc[0x10] = types[0] << 4 | types[1]
    rtc[0x14] = rtc[0x14] & 0x3E | len(media) - 1 << 6 | 1


def add_firmware(pc: Pc) -> None:
    """ACPI, MP and SMBIOS tables, and the BIOS that hands them on (a directly loaded kernel gets them without it)."""
    config = pc.config
    if pc.rom is not None:
        if config.pflash is not None:
            add_pflash(pc)
        add_firmware_configuration(pc)
        return
    from pyvmm.boot import mp, smbios

    pc.acpi = acpi_tables(pc)
    pc.tables = [*mp.build_mp_table(pc.apic_ids), *smbios.place(smbios_structures(pc))]
    if config.kernel is not None:
        return
    from pyvmm.firmware.bios import Bios
    from pyvmm.firmware.platform import Drive

    pairs = sorted(zip(config.disks, pc.images, strict=True), key=lambda pair: boot_rank(pair[0]))
    drives = [Drive(str(disk.path), image, disk.interface) for disk, image in pairs]
    pc.firmware = Bios(
        pc.board.memory,
        pc.board.pio,
        memory_size=config.memory,
        disks=drives,
        boot_order=config.boot_order,
        serial_console=config.bios_serial,
        now_ns=lambda: pc.board.clock.now,
        tables=[*pc.acpi.blobs, *pc.tables],
        reserved=pc.acpi.reserved,
        display=vga_of(pc),
    )


def acpi_tables(pc: Pc) -> AcpiTables:
    """The tables that say what there is."""
    from pyvmm.boot import acpi

    config = pc.config
    return acpi.build_tables(
        config.memory,
        apic_ids=pc.apic_ids,
        vga=config.vga != "none",
        hpet=config.hpet,
        floppy="fdc" in pc.devices,
    )


def smbios_structures(pc: Pc, *, with_bios: bool = True) -> list[bytes]:
    """What the machine says of itself."""
    from pyvmm.boot.smbios import build_structures

    config, topology = pc.config, pc.config.topology
    return build_structures(
        config.memory,
        sockets=1 if topology is None else topology.sockets,
        cores=config.cpus if topology is None else topology.cores,
        threads=1 if topology is None else topology.threads,
        name=config.name,
        uuid=config.uuid,
        with_bios=with_bios,
    )


def add_firmware_configuration(pc: Pc) -> None:
    """What a ROM of somebody else's is told of the machine: fw_cfg and CMOS; and where its messages go."""
    from pyvmm.devices.fw_cfg import FwCfg
    from pyvmm.firmware import seabios

    config, board = pc.config, pc.board
    below = min(config.memory, layout.PCI_HOLE_BASE)
    rtc = pc.devices["rtc"]
    assert isinstance(rtc, Rtc)
    for index, value in seabios.cmos(below, config.memory - below, config.boot_order, config.cpus).items():
        rtc[index] = value

    def provide(device: FwCfg) -> None:
        from pyvmm.boot.smbios import smbios_files

        pc.acpi = acpi_tables(pc)
        ram = [(0, below)] + (
            [(layout.ABOVE_4G_BASE, config.memory - below)] if config.memory > below else []
        )
        port = layout.COM_PORTS[0] if config.bios_serial else None
        limit = pc.apic_ids[-1] + 1
        device.add_items(seabios.items(config.memory, config.cpus, limit, menu=config.boot_menu))
        paths = boot_paths(config.disks)
        device.add_files(seabios.files(ram, pc.acpi, serial_port=port, boot_paths=paths))
        device.add_files(smbios_files(smbios_structures(pc, with_bios=False)))

    board.pio.add(layout.FW_CFG, FwCfg.SIZE, pc.add("fw_cfg", FwCfg(board, provide=provide)))
    sink = CharSink(board)
    pc.sinks.append(sink)
    board.pio.add(layout.FIRMWARE_DEBUG, 1, pc.add("firmware_debug", DebugConsole(board, sink)))


def add_pflash(pc: Pc) -> None:
    """UEFI's variables, in a file, right below the firmware: where OVMF is built to find them."""
    from pyvmm.devices.pflash import Pflash

    assert pc.rom is not None
    assert pc.config.pflash is not None
    flash = pc.add("pflash", Pflash(pc.board, pc.config.pflash))
    pc.board.mmio.add(layout.ABOVE_4G_BASE - len(pc.rom) - flash.size, flash.size, flash)


def _find_rom(name: str | os.PathLike[str], *, with_pflash: bool) -> str | os.PathLike[str]:
    """The file that ``--firmware NAME`` means."""
    paths: tuple[str, ...]
    if name == "seabios":
        from pyvmm.firmware import seabios

        paths = seabios.PATHS
    elif name == "ovmf":
        paths = OVMF_CODE if with_pflash else OVMF_WHOLE
    else:
        return name
    for path in paths:
        if os.path.exists(path):
            return path
    raise BootError(
        f"--firmware {name}: none of {', '.join(paths)} is there; install the package {name}, or give a path"
    )


def _read_rom(path: str | os.PathLike[str]) -> bytes:
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_ROM + 1)
    except OSError as error:
        raise BootError(f"--firmware: {os.fspath(path)}: {error.strerror}") from None
    if not data or len(data) % (64 * KIB) or len(data) > MAX_ROM:
        raise BootError(
            f"--firmware: {os.fspath(path)}: {len(data)} bytes; a ROM is a multiple of 64 KiB, up to 16 MiB"
        )
    return data


def _load_rom(memory: GuestMemory, rom: bytes) -> None:
    """The ROM ends at 4 GiB; its last 128 KiB are seen below 1 MiB too (PIIX3 BIOS decode, §2.2.9)."""
    low = rom[-min(len(rom), 128 * KIB) :]
    memory.load(layout.ABOVE_4G_BASE - len(rom), rom)
    memory.load(layout.HIGH_MEMORY_BASE - len(low), low)
