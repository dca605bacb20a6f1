"""Disks: ``-drive`` and its short forms, the devices that they are connected to, and what is left unconnected."""

from __future__ import annotations

import os

from pyvmm.cli.qemu import network, shares
from pyvmm.cli.qemu.plan import Drive
from pyvmm.cli.qemu.words import Sub, number, read, refuse
from pyvmm.config import DiskConfig

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.cli.qemu.plan import Plan
    from pyvmm.cli.qemu.words import Handler, Values

IDE_PLACES = 4
_MAX_BOOT_INDEX = 0x7FFFFFFF

_ID = Sub("id", "the device's name, for the monitor and -global", "nothing refers to it here")
_DRIVE = Sub("drive", "the id of the -drive that it shows the guest")
_BOOT_INDEX = Sub("bootindex", "the firmware tries devices in this order", "the BIOS's order, before -boot's")
_CHARDEV = Sub("chardev", "the id of the -chardev that is its other end")
_PORT_SIZES = tuple(f"{prefix}{size}" for prefix in ("", "0x", "0x0") for size in (1, 2, 4))
DEVICES: dict[str, tuple[str, tuple[Sub, ...]]] = {
    "virtio-blk-pci": (
        "a paravirtual disk on PCI",
        (
            _DRIVE,
            _ID,
            _BOOT_INDEX,
            Sub("bus", "the PCI bus it is plugged into", values=("pci.0", "pci"), instead="there is one, pci.0"),
            Sub("addr", "its PCI device number", "the same; without it the first that is free, from 3"),
            Sub("scsi", "SCSI commands through the disk", values=("off",), instead="write scsi=off"),
            Sub(
                "ioeventfd",
                "notifications wake the disk's thread without an exit",
                "so it is under KVM",
                values=("on",),
                instead="leave it away",
            ),
        ),
    ),
    "ide-hd": (
        "a disk on the IDE controller",
        (
            _DRIVE,
            _ID,
            _BOOT_INDEX,
            Sub("bus", "the channel", values=("ide.0", "ide.1")),
            Sub("unit", "0 master, 1 slave", values=("0", "1")),
        ),
    ),
    "virtio-serial-pci": ("the bus of virtconsole and virtserialport", (_ID,)),
    "virtconsole": ("a virtio console, Linux's hvc0", (_ID, _CHARDEV)),
    "virtserialport": (
        "a named port of characters",
        (_ID, _CHARDEV, Sub("name", "the guest's /dev/virtio-ports/NAME")),
    ),
    "virtio-balloon-pci": (
        "memory that the guest lends to the host",
        (
            _ID,
            Sub("deflate-on-oom", "the guest may take it back", "always so", values=("on",), instead="write on"),
            Sub("free-page-reporting", "it tells of unused pages", values=("on", "off")),
        ),
    ),
    "virtio-keyboard-pci": ("a virtio keyboard", (_ID,)),
    "virtio-mouse-pci": ("a virtio mouse", (_ID,)),
    "virtio-tablet-pci": ("an absolute pointer", (_ID,)),
    "virtio-rng-pci": ("random numbers of the host's", (_ID,)),
    "virtio-9p-pci": ("a folder of the host", (*shares.DEVICE_SUBS, _ID)),
    "VGA": ("the standard VGA", (_ID,)),
    "isa-debug-exit": (
        "a port that ends the machine with exit code (N << 1) | 1",
        (
            Sub("iobase", "its port", values=("0x501", "1281"), instead="write iobase=0x501"),
            Sub("iosize", "its width", "the low byte counts", values=_PORT_SIZES),
        ),
    ),
}  # fmt: skip
DEVICES["virtio-blk"] = DEVICES["virtio-blk-pci"]
for _card in network.CARDS:
    DEVICES[_card] = ("a paravirtual network card", (*network.DEVICE_SUBS, _ID))
DEVICES["virtio-balloon"] = DEVICES["virtio-balloon-pci"]
DEVICES["virtio-serial"] = DEVICES["virtio-serial-pci"]
DEVICES["ide-cd"] = ("a CD-ROM drive on the IDE controller", DEVICES["ide-hd"][1])


def add_drive(plan: Plan, values: Values) -> str | None:
    """``-drive``: checked here, connected in `connect`."""
    what = f"-drive file={values.get('file', '')}"
    if not values.get("file"):
        raise refuse(
            "-drive", "a drive without a file, which would be empty, is not in pyvmm", "write file=FILE"
        )
    kind = {"ide": "ide", "virtio": "virtio", "floppy": "floppy", "none": "none"}[values.get("if", "ide")]
    cdrom = values.get("media", "disk") == "cdrom"
    if cdrom and kind in ("virtio", "floppy"):
        raise refuse(f"{what},if={kind},media=cdrom", "CDs hang on IDE", "write if=ide")
    disk = DiskConfig(
        path=existing(what, values["file"]),
        format="raw" if cdrom and "format" not in values else values.get("format"),  # type: ignore[arg-type]
        cache=values.get("cache", "writeback"),  # type: ignore[arg-type] # the table has pyvmm's
        read_only=cdrom or values.get("readonly") == "on",
        snapshot=not cdrom and values.get("snapshot", "on" if plan.snapshot else "off") == "on",
        read_error=values.get("rerror", "report"),  # type: ignore[arg-type] # the table has pyvmm's
        write_error=values.get("werror", "report"),  # type: ignore[arg-type] # the table has pyvmm's
    )
    drive = Drive(what, disk, kind, values.get("id", ""), cdrom)
    if drive.id and any(other.id == drive.id for other in plan.drives):
        raise refuse(f"-drive id={drive.id}", "another drive has this id", "write another one")
    drive.place = _place(values, kind)
    plan.drives.append(drive)
    return None


def _place(values: Values, kind: str) -> int | None:
    """``index=``, or ``bus=`` and ``unit=``."""
    given = [key for key in ("index", "bus", "unit") if key in values]
    if not given:
        return None
    if kind not in ("ide", "floppy"):
        raise refuse(
            f"-drive if={kind},{given[0]}=", "it is for IDE drives", "leave it away, or use -device addr="
        )
    most = IDE_PLACES - 1 if kind == "ide" else 0
    if "index" in values:
        if len(given) > 1:
            raise refuse(f"-drive index=,{given[1]}=", "index says both bus and unit", "write one of them")
        return number("-drive index", values["index"], most)
    bus = number("-drive bus", values.get("bus", "0"), most >> 1)
    if "unit" not in values:
        raise refuse(f"-drive bus={bus}", "the unit is missing", f"write bus={bus},unit=0")
    return 2 * bus + number("-drive unit", values["unit"], most & 1)


def short_form(**fields: str) -> Handler:
    """A handler for ``-hda FILE`` and the like: the ``-drive`` that it stands for."""

    def handler(plan: Plan, values: Values) -> None:
        add_drive(plan, {"file": values[""], **fields})
        plan.drives[-1].written = values[""]

    return handler


def existing(what: str, path: str) -> str:
    """A file that is there, or one line that says so."""
    from pyvmm.errors import PyvmmError

    if "\0" in path or not os.path.exists(path):
        protocol = path.partition(":")[0]
        if protocol in ("nbd", "http", "https", "ssh", "fat", "json", "rbd", "iscsi", "vvfat", "host_device"):
            raise refuse(what, f"{protocol}: images are not in pyvmm", "use a file of this host")
        raise PyvmmError(f"{what}: no such file")
    if os.path.isdir(path):
        raise PyvmmError(f"{what}: is a directory, not an image")
    return path


def add_device(plan: Plan, values: Values) -> str | None:
    """``-device``: what the machine has, or can have."""
    name, _, rest = values[""].partition(",")
    if name not in DEVICES:
        why = "this network card is not in pyvmm" if _is_network(name) else "not in pyvmm"
        raise refuse(f"-device {name}", why, f"it has {', '.join(DEVICES)}")
    meaning, subs = DEVICES[name]
    properties = read(f"-device {name}", rest, subs) if rest else {}
    if network.is_card(name):
        return network.add_card(plan, name, properties)
    if name == "VGA":
        plan.vga = "std"
        return "the VGA that -vga std is"
    if name in ("virtio-balloon-pci", "virtio-balloon"):
        from pyvmm.config import BalloonConfig

        plan.balloon = BalloonConfig(reporting=properties.get("free-page-reporting") == "on")
        return "machine.balloon in Python"
    if name in ("virtio-keyboard-pci", "virtio-mouse-pci", "virtio-tablet-pci"):
        plan.inputs.append(name.split("-")[1])
        return "it has what is typed and pointed while the guest drives it"
    if name == "virtio-rng-pci":
        from pyvmm.config import RngConfig

        plan.rng = RngConfig()
        return "the host's entropy"
    if name == "virtio-9p-pci":
        return shares.add_device(plan, properties)
    if name in ("virtio-serial-pci", "virtio-serial"):
        return "there is one, where virtconsole and virtserialport are"
    if name in ("virtconsole", "virtserialport"):
        plan.console_ports.append((name, properties))
        return None
    if name == "isa-debug-exit":
        return "it is always there, at 0x501"
    if not properties.get("drive"):
        raise refuse(
            f"-device {name}", "it has no drive", f"write -device {name},drive=ID, the id of a -drive"
        )
    for key, most in (("bootindex", _MAX_BOOT_INDEX), ("addr", 31)):
        if key in properties:
            number(
                f"-device {name},{key}", _address(properties[key]) if key == "addr" else properties[key], most
            )
    plan.devices.append((name, properties))
    return f"{meaning}, showing the drive {properties['drive']}"


def _is_network(name: str) -> bool:
    return name.startswith(("e1000", "virtio-net", "rtl8139", "ne2k", "pcnet", "vmxnet", "i8255"))


def _address(text: str) -> str:
    """A PCI address as libvirt writes it: hexadecimal, with ``.0`` for the function."""
    text = text.removesuffix(".0")
    return text if text[:2].lower() == "0x" else f"0x{text}"


def connect(plan: Plan) -> list[DiskConfig]:
    """Every drive at its place: the machine's disks, in the order in which firmware numbers them.

    Raises
    ------
    ConfigError
        Two drives at one place, a device without its drive, a drive with two devices.
    """
    ide: dict[int, Drive] = {}
    rest: list[Drive] = []
    for drive in plan.drives:
        if drive.kind == "ide":
            _connect_ide(drive, drive.place, ide)
        elif drive.kind != "none":
            drive.disk.interface = "virtio" if drive.kind == "virtio" else "floppy"
            drive.connected = True
            rest.append(drive)
    if sum(drive.kind == "floppy" for drive in plan.drives) > 2:
        raise refuse("-drive if=floppy", "there are two floppy drives", "write two of them")
    for name, properties in plan.devices:
        drive = _drive_of(plan, name, properties["drive"])
        if "bootindex" in properties:
            drive.disk.boot_index = number("bootindex", properties["bootindex"], _MAX_BOOT_INDEX)
        if name in ("ide-hd", "ide-cd"):
            drive.cdrom = name == "ide-cd"
            drive.disk.read_only = drive.disk.read_only or drive.cdrom
            drive.disk.snapshot = drive.disk.snapshot and not drive.cdrom
            _connect_ide(drive, _ide_place(name, properties), ide)
        else:
            drive.disk.interface = "virtio"
            if "addr" in properties:
                drive.disk.place = number("addr", _address(properties["addr"]), 31)
            drive.connected = True
            rest.append(drive)
    left = [drive for drive in plan.drives if not drive.connected]
    if left and not (ide or rest) and plan.kernel is None:
        _connect_for_boot(plan, left)
        return [drive.disk for drive in left]
    for drive in plan.drives:
        if not drive.connected:
            name = drive.id or "NAME"
            id_ = "" if drive.id else f"id={name} and "
            plan.notes.append(
                f"{drive.written}: if=none connects it to nothing, here as in QEMU;"
                f" add {id_}-device virtio-blk-pci,drive={name}"
            )
    return [drive.disk for drive in [*(ide[place] for place in sorted(ide)), *rest]]


def _connect_for_boot(plan: Plan, left: list[Drive]) -> None:
    """Drives with if=none and no -device, and nothing else to boot: connected after all, which QEMU would not do.

    A command line that boots something in QEMU never comes here.
    """
    for drive in left:
        drive.disk.interface = "cdrom" if drive.cdrom else "virtio"
        drive.connected = True
        device = "ide-cd" if drive.cdrom else "virtio-blk-pci"
        plan.notes.append(
            f"{drive.written}: if=none connects it to nothing in QEMU; with nothing else to boot it is connected here,"
            f" as by -device {device},drive={drive.id or 'NAME'}"
        )


def _drive_of(plan: Plan, device: str, id_: str) -> Drive:
    drive = next((drive for drive in plan.drives if drive.id == id_), None)
    if drive is None:
        raise refuse(
            f"-device {device},drive={id_}", "no -drive has this id", f"add -drive file=...,if=none,id={id_}"
        )
    if drive.connected:
        why = (
            "the drive is connected already" if drive.kind == "none" else f"if={drive.kind} has connected it"
        )
        raise refuse(f"-device {device},drive={id_}", why, "write if=none, and one -device for each drive")
    return drive


def _ide_place(name: str, properties: Values) -> int | None:
    if "bus" not in properties and "unit" not in properties:
        return None
    if "unit" not in properties or "bus" not in properties:
        raise refuse(f"-device {name}", "bus and unit go together", "write for example bus=ide.0,unit=1")
    return 2 * int(properties["bus"][-1]) + int(properties["unit"])


def _connect_ide(drive: Drive, place: int | None, ide: dict[int, Drive]) -> None:
    free = [number for number in range(IDE_PLACES) if number not in ide]
    if place is None:
        place = free[0] if free else None
    if place not in free:
        where = "the IDE controller has four drives" if place is None else f"IDE has a drive at index {place}"
        raise refuse(drive.written, where, "use another index, or if=virtio")
    ide[place] = drive
    drive.disk.interface = "cdrom" if drive.cdrom else "ide"
    drive.disk.place = place
    drive.connected = True
