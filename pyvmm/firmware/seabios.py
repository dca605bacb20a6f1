"""SeaBIOS: where the host keeps it, and what it is told of the machine (fw_cfg items and files, CMOS bytes).

Sources: SeaBIOS's "Runtime configuration" page (docs/Runtime_config), the fw_cfg specification, and RBIL's CMOS.LST for
the memory sizes. Its messages come out at port 0x402, which reads 0xE9 where somebody listens.
"""

from __future__ import annotations

from pyvmm.units import KIB, MIB

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from pyvmm.boot.acpi import AcpiTables

PATHS = (
    "/usr/share/seabios/bios-256k.bin",
    "/usr/share/qemu/bios-256k.bin",
    "/usr/share/seabios/bios.bin",
)
"""Where Debian and others install it; the first that is there is taken."""

FLOPPY_PATH = "/pci@i0cf8/isa@1/fdc@03f0/floppy@0"
_BOOT_DEVICES = {"a": 1, "c": 2, "d": 3}


def cmos(memory_size: int, above_4g: int, boot_order: str, cpus: int) -> dict[int, int]:
    """CMOS bytes by index: memory sizes, boot order, and how many vCPUs to expect.

    Parameters
    ----------
    memory_size
        RAM below 4 GiB, in bytes.
    above_4g
        RAM from 4 GiB on, in bytes.
    boot_order
        Up to three of the letters ``a``, ``c`` and ``d``.
    cpus
        vCPUs, 1 to 255.
    """
    extended = min(max(memory_size - MIB, 0) // KIB, 0xFFFF)
    high = min(max(memory_size - 16 * MIB, 0) // (64 * KIB), 0xFFFF)
    over = above_4g // (64 * KIB)
    return boot_order_cmos(boot_order) | {
        0x15: 640 & 0xFF,
        0x16: 640 >> 8,
        0x17: extended & 0xFF,
        0x18: extended >> 8,
        0x30: extended & 0xFF,
        0x31: extended >> 8,
        0x34: high & 0xFF,
        0x35: high >> 8,
        0x5B: over & 0xFF,
        0x5C: over >> 8 & 0xFF,
        0x5D: over >> 16 & 0xFF,
        0x5F: cpus - 1,
    }


def boot_order_cmos(boot_order: str) -> dict[int, int]:
    """The CMOS bytes of the boot order: up to three of the letters ``a``, ``c`` and ``d``."""
    order = [_BOOT_DEVICES[letter] for letter in boot_order[:3]] + [0, 0]
    return {0x3D: order[0] | order[1] << 4, 0x38: order[2] << 4 | 1}


def virtio_path(slot: int) -> str:
    """How SeaBIOS calls the virtio disk in a PCI slot."""
    return f"/pci@i0cf8/scsi@{slot:x}/disk@0,0"


def ide_path(slot: int, function: int, place: int) -> str:
    """How SeaBIOS calls the drive at 2 * channel + device of the IDE controller."""
    return f"/pci@i0cf8/ide@{slot:x},{function:x}/drive@{place >> 1:x}/disk@{place & 1:x}"


def items(memory_size: int, cpus: int, apic_id_limit: int, *, menu: bool = True) -> dict[int, bytes]:
    """fw_cfg items by key.

    Parameters
    ----------
    memory_size
        All RAM, in bytes.
    cpus
        vCPUs that are there from the start.
    apic_id_limit
        The highest APIC ID, plus 1: SeaBIOS's tables count by APIC ID.
    menu
        Whether to offer the boot menu.
    """
    from pyvmm.devices import fw_cfg

    return {
        fw_cfg.RAM_SIZE: memory_size.to_bytes(8, "little"),
        fw_cfg.NO_GRAPHIC: bytes(2),
        fw_cfg.CPU_COUNT: cpus.to_bytes(2, "little"),
        fw_cfg.MAX_CPUS: apic_id_limit.to_bytes(2, "little"),
        fw_cfg.BOOT_MENU: int(menu).to_bytes(2, "little"),
    }


def files(
    ram: Iterable[tuple[int, int]],
    tables: AcpiTables | None,
    *,
    serial_port: int | None,
    boot_paths: Iterable[str] = (),
) -> dict[str, bytes]:
    """fw_cfg files by name.

    Parameters
    ----------
    ram
        (start, bytes) of RAM, the first megabyte being part of the first range.
    tables
        ACPI tables to be placed by the firmware.
    serial_port
        First port of a UART that mirrors the text screen; None for none.
    boot_paths
        Drives to be tried first, in this order (`virtio_path`, `ide_path`, `FLOPPY_PATH`).
    """
    import struct

    from pyvmm.boot.e820 import E820_RAM
    from pyvmm.firmware.acpi_files import acpi_files

    found = {"etc/e820": b"".join(struct.pack("<QQI", start, size, E820_RAM) for start, size in ram)}
    found["etc/boot-fail-wait"] = (5000).to_bytes(4, "little")
    if serial_port is not None:
        found["etc/sercon-port"] = serial_port.to_bytes(8, "little")
    if paths := list(boot_paths):
        found["bootorder"] = "\n".join(paths).encode() + b"\0"
    if tables is not None:
        found |= acpi_files(tables)
    return found
