"""Options of ``pyvmm run``: declared once, checked, and turned into a `MachineConfig`.

Every complaint is a `ConfigError` of one line that begins with the option as the user wrote it and ends with what to
write instead.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any, cast

from pyvmm.config import CacheMode, DiskConfig, DiskInterface, MachineConfig

MIN_MEMORY = 1 << 20
MAX_MEMORY = 256 << 30
PAGE = 4096
CACHES = ("writeback", "none", "writethrough", "unsafe")
FORMATS = ("raw", "qcow2")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``pyvmm run``."""
    parser.add_argument("drive", nargs="?", metavar="DISK", help="hard disk image; none: the built-in guest")
    machine = parser.add_argument_group("machine")
    machine.add_argument(
        "-m", "--memory", default="256M", metavar="SIZE", help="RAM, e.g. 512M (default %(default)s)"
    )
    machine.add_argument("--cpus", type=int, default=1, metavar="N", help="vCPUs (default 1)")
    machine.add_argument(
        "--engine",
        choices=("auto", "translator", "kvm"),
        default="auto",
        help="what runs guest code (default auto)",
    )
    machine.add_argument(
        "--clock",
        choices=("realtime", "virtual"),
        default="realtime",
        help="time follows the host, or the guest's progress so that a run repeats (default realtime)",
    )
    disks = parser.add_argument_group("disks")
    disks.add_argument("--format", choices=FORMATS, help="format of DISK (default: qcow2 is recognised)")
    disks.add_argument(
        "--cache", choices=CACHES, default="writeback", help="host caching (default writeback)"
    )
    disks.add_argument(
        "--snapshot", action="store_true", help="throw away what the guest writes to its disks"
    )
    disks.add_argument("--read-only", action="store_true", help="the guest cannot write to DISK")
    disks.add_argument(
        "--disk",
        action="append",
        default=[],
        metavar="path=FILE[,format=F][,cache=C][,readonly][,snapshot]",
        help="one more hard disk (may be repeated)",
    )
    disks.add_argument("--cdrom", metavar="ISO", help="CD image")
    disks.add_argument("--floppy", metavar="IMG", help="floppy image")
    boot = parser.add_argument_group("boot")
    boot.add_argument(
        "--boot", default="cda", metavar="ORDER", help="what the BIOS tries: c disk, d CD, a floppy"
    )
    boot.add_argument("--kernel", metavar="FILE", help="load this kernel: bzImage, PVH ELF or multiboot")
    boot.add_argument("--initrd", metavar="FILE", help="initial RAM disk for --kernel")
    boot.add_argument("--append", metavar="TEXT", help="command line for --kernel")
    boot.add_argument("--firmware", default="pyvmm", metavar="pyvmm|FILE", help="BIOS (default: pyvmm's own)")
    run = parser.add_argument_group("running")
    run.add_argument(
        "--serial",
        default="stdio",
        metavar="stdio|null|file:PATH",
        help="where COM1 goes (default: this terminal)",
    )
    run.add_argument("--debug-console", action="store_true", help="show what the guest writes to port 0xE9")
    run.add_argument(
        "--no-reboot", action="store_true", help="end instead of resetting the guest (exit code 3)"
    )
    run.add_argument("--timeout", metavar="SECONDS", help="end after this long (exit code 124)")
    run.add_argument("-q", "--quiet", action="store_true", help="no progress line, no notes; errors only")
    run.add_argument(
        "-v", "--verbose", action="store_true", help="say which engine ran and what the guest did"
    )


def machine_config(options: argparse.Namespace) -> MachineConfig:
    """Check the options and build the machine's configuration.

    Raises
    ------
    ConfigError
        Naming the option that cannot be honoured.
    """
    if not 1 <= options.cpus <= 255:
        raise _wrong("--cpus", options.cpus, "a PC has 1 to 255 vCPUs", "--cpus 1")
    if options.initrd is not None and options.kernel is None:
        raise _wrong("--initrd", options.initrd, "it needs a kernel to go with", "--kernel FILE")
    if options.append is not None and options.kernel is None:
        raise _wrong("--append", options.append, "only a kernel has a command line", "--kernel FILE")
    if not options.boot or set(options.boot) - set("cda") or len(set(options.boot)) != len(options.boot):
        raise _wrong(
            "--boot",
            options.boot,
            "the letters are c (hard disk), d (CD), a (floppy), each once",
            "--boot dc",
        )
    return MachineConfig(
        memory=parse_memory(options.memory),
        cpus=options.cpus,
        engine=options.engine,
        clock=options.clock,
        disks=_disks(options),
        boot_order=options.boot,
        kernel=_file("--kernel", options.kernel),
        initrd=_file("--initrd", options.initrd),
        append=options.append or "",
        firmware=options.firmware
        if options.firmware == "pyvmm"
        else _required("--firmware", options.firmware),
        serial=parse_serial(options.serial),
    )


def parse_memory(text: str) -> int:
    """Bytes of RAM meant by ``-m``: a bare number is bytes, so that ``-m 512`` is never taken for what it is not."""
    from pyvmm.units import format_size, parse_size

    try:
        size = parse_size(text)
    except (ValueError, OverflowError):
        raise _wrong("-m", text, "not a size", "-m 512M") from None
    if size < MIN_MEMORY:
        hint = f"-m {size}M" if text.strip().isdigit() and 16 <= size <= MAX_MEMORY >> 20 else "-m 512M"
        raise _wrong("-m", text, f"{size} bytes of RAM; a PC has at least 1 MiB", hint)
    if size > MAX_MEMORY:
        raise _wrong("-m", text, f"a PC here has at most {format_size(MAX_MEMORY)}", "-m 4G")
    if size % PAGE:
        raise _wrong(
            "-m", text, f"not a whole number of {PAGE}-byte pages", f"-m {-(-size // PAGE) * PAGE // 1024}K"
        )
    return size


def parse_serial(text: str) -> str:
    """Check the value of ``--serial``."""
    if text in ("stdio", "null") or (text.startswith("file:") and len(text) > len("file:")):
        return text
    raise _wrong(
        "--serial", text, "not a place for COM1", "--serial stdio, --serial null or --serial file:PATH"
    )


def parse_timeout(text: str | None) -> float | None:
    """Seconds of ``--timeout``; None without the option."""
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise _wrong("--timeout", text, "not a number of seconds above 0", "--timeout 60")
    return seconds


def parse_disk(text: str) -> DiskConfig:
    """Read one ``--disk path=FILE,format=qcow2,cache=none,readonly,snapshot``; a comma in a path is written twice."""
    values: dict[str, str | bool] = {}
    for part in text.replace(",,", "\0").split(","):
        key, equals, value = part.replace("\0", ",").partition("=")
        if key in values:
            raise _wrong("--disk", text, f"{key} is given twice", f"{key} once")
        if key in ("path", "format", "cache"):
            if not value:
                raise _wrong("--disk", text, f"{key} has no value", f"{key}=...")
            values[key] = value
        elif key in ("readonly", "snapshot", "read-only") and (not equals or value in ("on", "off")):
            values["readonly" if key == "read-only" else key] = value != "off"
        else:
            raise _wrong(
                "--disk", text, f"{part!r} is not known", "path=, format=, cache=, readonly or snapshot"
            )
    if "path" not in values:
        raise _wrong("--disk", text, "it names no file", "--disk path=FILE")
    if values.get("format", "raw") not in FORMATS:
        raise _wrong(
            "--disk", text, f"format {values['format']!r} is not known", "format=raw or format=qcow2"
        )
    if values.get("cache", "none") not in CACHES:
        raise _wrong(
            "--disk", text, f"cache {values['cache']!r} is not known", f"cache= one of {', '.join(CACHES)}"
        )
    return DiskConfig(
        path=_required("--disk", str(values["path"])),
        format=cast(Any, values.get("format")),
        cache=cast(CacheMode, values.get("cache", "writeback")),
        read_only=bool(values.get("readonly", False)),
        snapshot=bool(values.get("snapshot", False)),
    )


def _disks(options: argparse.Namespace) -> list[DiskConfig]:
    disks = []
    if options.drive is not None:
        disks.append(
            DiskConfig(
                path=_required("DISK", options.drive),
                format=options.format,
                cache=options.cache,
                read_only=options.read_only,
                snapshot=options.snapshot,
            )
        )
    for text in options.disk:
        disk = parse_disk(text)
        disk.snapshot = disk.snapshot or options.snapshot
        disks.append(disk)
    for option, name, interface in (
        ("--cdrom", options.cdrom, "cdrom"),
        ("--floppy", options.floppy, "floppy"),
    ):
        if name is not None:
            disks.append(
                DiskConfig(
                    path=_required(option, name),
                    interface=cast(DiskInterface, interface),
                    format="raw",
                    read_only=interface == "cdrom",
                    snapshot=options.snapshot and interface == "floppy",
                )
            )
    return disks


def _file(option: str, name: str | None) -> Path | None:
    return None if name is None else _required(option, name)


def _required(option: str, name: str) -> Path:
    from pyvmm.errors import PyvmmError

    path = Path(name)
    if not path.exists():
        raise PyvmmError(f"{'' if option == 'DISK' else option + ' '}{name}: no such file")
    if path.is_dir():
        raise PyvmmError(f"{'' if option == 'DISK' else option + ' '}{name}: is a directory, not an image")
    return path


def _wrong(option: str, value: object, why: str, instead: str) -> Exception:
    from pyvmm.errors import ConfigError

    return ConfigError(f"{option} {value}: {why}; write for example {instead}")
