"""The microvm: a machine for quick starts, of what a kernel with virtio drivers needs and nothing else.

Interrupt controllers, timer, RTC, ACPI's power management, COM1, and virtio devices with memory-mapped registers
(virtio 1.2 §4.2). No PCI, display, keyboard controller, HPET or BIOS: a kernel is started directly, by Linux's boot
protocol, PVH or multiboot. Its devices are told by ACPI (LNRO0005), or on the command line for kernels that take
``virtio_mmio.device=`` (Linux with CONFIG_VIRTIO_MMIO_CMDLINE_DEVICES).
"""

from __future__ import annotations

from pyvmm.board import Board
from pyvmm.config import MachineConfig
from pyvmm.errors import ConfigError
from pyvmm.machine import layout
from pyvmm.machine.engines import choose
from pyvmm.machine.pc import (
    Pc,
    add_chipset,
    add_clock,
    add_disks,
    add_engine,
    add_memory,
    add_serial,
    add_virtio,
    check,
    smbios_structures,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from pyvmm.board import IoThread
    from pyvmm.devices.virtio.base import MmioPlace, VirtioDevice

MAX_DEVICES: Final = len(layout.VIRTIO_MMIO_GSIS)


class Microvm(Pc):
    """The parts of a microvm."""

    def virtio_place(
        self, slot: int | None = None, *, io: IoThread | None = None, features: dict[str, bool] | None = None
    ) -> MmioPlace:
        """The next window and line. `slot` is a PC's, and not looked at.

        Raises
        ------
        ConfigError
            There is no more room.
        """
        from pyvmm.devices.virtio.base import MmioPlace

        number = len(self.virtio_devices())
        if number == MAX_DEVICES:
            raise ConfigError(
                f"--machine microvm: it has room for {MAX_DEVICES} virtio devices; use pc for more"
            )
        lines = layout.VIRTIO_MMIO_GSIS if self.config.acpi else layout.VIRTIO_MMIO_ISA_IRQS
        return MmioPlace(
            layout.VIRTIO_MMIO_BASE + number * MmioPlace.SIZE, lines[number], io=io, features=features
        )

    def virtio_devices(self) -> list[VirtioDevice]:
        """In the order of their windows."""
        from pyvmm.devices.virtio.base import VirtioDevice

        return [device for device in self.devices.values() if isinstance(device, VirtioDevice)]

    def command_line(self) -> str:
        """The configured one, and without ACPI where the devices are."""
        if self.config.acpi:
            return self.config.append
        words = [self.config.append] if self.config.append else []
        for place in self._places():
            words.append(f"virtio_mmio.device={place.SIZE}@{place.address:#x}:{place.gsi}")
        return " ".join(words)

    def _places(self) -> list[MmioPlace]:
        from pyvmm.devices.virtio.base import MmioPlace

        places = [device.place for device in self.virtio_devices()]
        return [place for place in places if isinstance(place, MmioPlace)]


def build(config: MachineConfig) -> Microvm:
    """A whole microvm, not yet running.

    Raises
    ------
    ConfigError, ImageError, BootError, EngineError
        One line that names the option or file, and what to do.
    """
    check(config)
    check_microvm(config)
    choice = choose(config.engine, cpus=config.cpus, clock=config.clock)
    vm = Microvm(config, Board(config.clock), choice)
    try:
        add_memory(vm)
        add_clock(vm)
        add_chipset(vm)
        add_serial(vm)
        add_disks(vm)
        add_virtio(vm)
        map_virtio(vm)
        add_tables(vm)
        add_engine(vm)
        vm.reset()
    except BaseException:
        vm.close()
        raise
    return vm


def check_microvm(config: MachineConfig) -> None:
    """What a microvm does not have."""
    if config.kernel is None:
        raise ConfigError(
            "--machine microvm: it has no BIOS to boot a disk; add --kernel, or use --machine pc"
        )
    if config.firmware != "pyvmm":
        raise ConfigError("--firmware: a microvm starts its kernel without any; use --machine pc")
    for disk in config.disks:
        if disk.interface != "virtio":
            raise ConfigError(f"{disk.path}: a microvm has virtio disks only; use if=virtio or --machine pc")
        if disk.place is not None:
            raise ConfigError(f"{disk.path}: a microvm has no PCI device numbers; leave the place away")
    for network in config.networks:
        if network.model != "virtio" or network.place is not None:
            raise ConfigError(
                "--net: a microvm has no PCI; use model=virtio, without a place, or --machine pc"
            )


def map_virtio(vm: Microvm) -> None:
    """Each device's registers on the memory bus."""
    for device, place in zip(vm.virtio_devices(), vm._places(), strict=True):
        vm.board.mmio.add(place.address, place.SIZE, device)


def add_tables(vm: Microvm) -> None:
    """What the kernel is told of the machine: ACPI and SMBIOS, or the MP table and the command line."""
    from pyvmm.boot import acpi, mp, smbios

    config = vm.config
    if config.acpi:
        places = [(place.address, place.gsi) for place in vm._places()]
        vm.acpi = acpi.build_tables(config.memory, apic_ids=vm.apic_ids, hpet=False, virtio=places)
    else:
        vm.acpi = acpi.AcpiTables(None)
    vm.tables = [
        *mp.build_mp_table(vm.apic_ids, pci=False),
        *smbios.place(smbios_structures(vm)),
    ]
