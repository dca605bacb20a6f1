"""Options of ``pyvmm run``: declared once, checked, and turned into a `MachineConfig`.

Every complaint is a `ConfigError` of one line that begins with the option as the user wrote it and ends with what to
write instead.
"""

from __future__ import annotations

import os

from pyvmm.config import DiskConfig, MachineConfig

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any, Literal

    from pyvmm.config import (
        BalloonConfig,
        NetworkConfig,
        PortConfig,
        RngConfig,
        ShareConfig,
        StrPath,
        VsockConfig,
    )

MIN_MEMORY = 1 << 20
MAX_MEMORY = 256 << 30
PAGE = 4096
CACHES = ("writeback", "none", "writethrough", "unsafe")
FORMATS = ("raw", "qcow2")
INTERFACES = ("virtio", "ide")
ON_ERROR = ("report", "stop", "enospc")


class Option:
    """One option of ``pyvmm run``: what argparse is told of it, as data.

    Attributes
    ----------
    names
        As written; the first long one, without dashes, is the attribute. None of them begins with a dash: a positional.
    action
        ``"store"``, ``"store_true"`` or ``"append"``.
    group
        Heading in the help; empty for none.
    """

    __slots__ = ("action", "attribute", "choices", "default", "group", "help", "integer", "metavar", "names")

    def __init__(
        self,
        group: str,
        *names: str,
        help: str = "",
        metavar: str | None = None,
        default: Any = None,
        choices: tuple[str, ...] | None = None,
        action: str = "store",
        integer: bool = False,
    ) -> None:
        self.group = group
        self.names = names
        self.help = help
        self.metavar = metavar
        self.default = False if action == "store_true" else default
        self.choices = choices
        self.action = action
        self.integer = integer
        self.attribute = (
            next((name for name in names if name[:2] == "--"), names[0]).lstrip("-").replace("-", "_")
        )


OPTIONS = (
    Option(
        "",
        "drive",
        metavar="DISK",
        help="hard disk image; none: the built-in guest, unless --firmware is a file",
    ),
    Option(
        "machine",
        "-m",
        "--memory",
        default="256M",
        metavar="SIZE",
        help="RAM, e.g. 512M (default %(default)s)",
    ),
    Option("machine", "--cpus", integer=True, default=1, metavar="N", help="vCPUs (default 1)"),
    Option(
        "machine",
        "--smp",
        metavar="N[,sockets=S][,cores=C][,threads=T]",
        help="vCPUs and how they are arranged, as in QEMU (default: cores of one package)",
    ),
    Option("machine", "--uuid", metavar="UUID", help="the machine's UUID, as its SMBIOS table tells"),
    Option("machine", "--name", metavar="NAME", help="the machine's name, and the process's in top and ps"),
    Option(
        "machine",
        "--engine",
        choices=("auto", "translator", "kvm"),
        default="auto",
        help="what runs guest code (default auto)",
    ),
    Option(
        "machine",
        "--irqchip",
        choices=("auto", "user", "split", "kernel"),
        default="auto",
        help="who has the interrupt controllers under KVM (default auto: user with one vCPU, kernel with more)",
    ),
    Option(
        "machine",
        "--cpu",
        choices=("engine", "common"),
        default="engine",
        help="the engine's own processor, or what translator and KVM have in common (default engine)",
    ),
    Option(
        "machine",
        "--hand-over",
        choices=("auto", "on", "off"),
        default="auto",
        help="let the translator execute what KVM refuses (default auto: where KVM interprets ring 0)",
    ),
    Option(
        "machine",
        "--clock",
        choices=("realtime", "virtual"),
        default="realtime",
        help="time follows the host, or the guest's progress so that a run repeats (default realtime)",
    ),
    Option(
        "machine",
        "-M",
        "--machine",
        default="pc",
        metavar="pc|microvm[,acpi=off]",
        help="microvm: virtio without PCI, for a quick start of a --kernel (default pc)",
    ),
    Option(
        "machine",
        "--vga",
        choices=("std", "none"),
        default="std",
        help="display (default std: VGA with Bochs's VBE extension)",
    ),
    Option(
        "machine", "--hpet", choices=("on", "off"), default="on", help="high precision timers (default on)"
    ),
    Option(
        "machine",
        "--rtc",
        default="base=utc",
        metavar="base=utc|localtime|DATE",
        help="what the clock shows at the start; DATE as 2026-01-31T12:00:00 (default base=utc)",
    ),
    Option(
        "disks",
        "--interface",
        choices=INTERFACES,
        default="virtio",
        help="what DISK hangs on: virtio (default) or ide",
    ),
    Option(
        "machine",
        "--vnc",
        metavar="[HOST]:DISPLAY[,password-file=FILE]",
        help="show the screen to VNC clients, e.g. :0 (without HOST: to this computer's only)",
    ),
    Option("machine", "--keyboard", default="us", metavar="LAYOUT", help="us, uk, de or fr (default us)"),
    Option(
        "machine",
        "--balloon",
        metavar="on|SIZE",
        help="memory that the guest does not use goes back to the host; SIZE: it is to have no more",
    ),
    Option(
        "machine",
        "--input",
        metavar="keyboard,mouse,tablet",
        help="virtio input devices; a tablet is where VNC's pointer is",
    ),
    Option(
        "machine",
        "--rng",
        metavar="on|BYTES-PER-SECOND",
        help="random numbers of the host's for the guest, by virtio; limited to e.g. 64K a second",
    ),
    Option("disks", "--format", choices=FORMATS, help="format of DISK (default: qcow2 is recognised)"),
    Option("disks", "--cache", choices=CACHES, default="writeback", help="host caching (default writeback)"),
    Option("disks", "--snapshot", action="store_true", help="throw away what the guest writes to its disks"),
    Option("disks", "--read-only", action="store_true", help="the guest cannot write to DISK"),
    Option(
        "disks",
        "--disk",
        action="append",
        default=[],
        metavar="path=FILE[,if=I][,format=F][,cache=C][,readonly][,snapshot]",
        help="one more hard disk (may be repeated)",
    ),
    Option("disks", "--cdrom", metavar="ISO", help="CD image"),
    Option(
        "disks",
        "--floppy",
        action="append",
        default=[],
        metavar="IMG",
        help="floppy image (twice: the second drive's)",
    ),
    Option(
        "disks",
        "--share",
        action="append",
        default=[],
        metavar="PATH,tag=NAME[,readonly][,security=none|mapped]",
        help="a folder of this host, for the guest to mount by 9p (may be repeated)",
    ),
    Option(
        "machine",
        "--vsock",
        metavar="PATH[,cid=N]",
        help="sockets between host and guest, by the Unix sockets PATH and PATH_PORT",
    ),
    Option(
        "network",
        "--net",
        action="append",
        default=[],
        metavar="user|tap|socket|none[,OPTION=VALUE...]",
        help="a network card, e.g. user,hostfwd=tcp::2222-:22 or tap,ifname=tap0;"
        " also model=virtio or e1000, mac=, mtu=, capture=FILE.pcap"
        " (default: user, where libslirp is installed; may be repeated)",
    ),
    Option(
        "boot", "--boot", default="cda", metavar="ORDER", help="what the BIOS tries: c disk, d CD, a floppy"
    ),
    Option("boot", "--kernel", metavar="FILE", help="load this kernel: bzImage, PVH ELF or multiboot"),
    Option("boot", "--initrd", metavar="FILE", help="initial RAM disk for --kernel"),
    Option("boot", "--append", metavar="TEXT", help="command line for --kernel"),
    Option(
        "boot",
        "--firmware",
        default="pyvmm",
        metavar="pyvmm|seabios|ovmf|FILE",
        help="BIOS (default: pyvmm's own)",
    ),
    Option(
        "boot",
        "--pflash",
        metavar="FILE",
        help="UEFI variables: a copy of OVMF_VARS.fd, kept from run to run",
    ),
    Option(
        "running",
        "--serial",
        default="stdio",
        metavar="stdio|null|file:PATH",
        help="where COM1 goes (default: this terminal)",
    ),
    Option(
        "running",
        "--console",
        choices=("serial", "virtio"),
        default="serial",
        help="what is typed goes to COM1 (default) or to a virtio console, Linux's hvc0",
    ),
    Option(
        "running",
        "--port",
        action="append",
        default=[],
        metavar="name=NAME,to=unix:PATH|file:PATH",
        help="a named virtio port, the guest's /dev/virtio-ports/NAME (may be repeated)",
    ),
    Option("running", "--debug-console", action="store_true", help="show what the guest writes to port 0xE9"),
    Option(
        "running",
        "--no-reboot",
        action="store_true",
        help="end instead of resetting the guest (exit code 3)",
    ),
    Option("running", "--timeout", metavar="SECONDS", help="end after this long (exit code 124)"),
    Option("running", "-q", "--quiet", action="store_true", help="no progress line, no notes; errors only"),
    Option(
        "running", "-v", "--verbose", action="store_true", help="say which engine ran and what the guest did"
    ),
)
"""Every option of ``pyvmm run``: the one place where they are declared."""


class RunOptions:
    """The options' values by name, as argparse's Namespace has them."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.__dict__ = values

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...


def parse_quickly(words: list[str]) -> RunOptions | None:
    """Values of a plain command line of ``pyvmm run`` (without the word ``run``); None: ask argparse.

    Plain is: each option written out in full, its value in the next word or after ``=``. Importing argparse and
    building its parser costs a fifth of a whole start (docs/adr/0006), so it is left to what is not plain:
    abbreviations, ``-m512M``, help, and every error, for its message.
    """
    values: dict[str, Any] = {o.attribute: [] if o.action == "append" else o.default for o in OPTIONS}
    by_name = {name: option for option in OPTIONS for name in option.names if name[0] == "-"}
    seen_drive = False
    remaining = iter(words)
    for word in remaining:
        if not word or word == "-":
            return None
        if word[0] != "-":
            if seen_drive:
                return None
            values["drive"] = word
            seen_drive = True
            continue
        name, equals, value = word.partition("=")
        option = by_name.get(name)
        if option is None or (equals and name[:2] != "--"):
            return None
        if option.action == "store_true":
            if equals:
                return None
            values[option.attribute] = True
            continue
        if not equals:
            value = next(remaining, "")
            if value[:1] == "-":
                return None
        if value in ("", "--") or (option.choices is not None and value not in option.choices):
            return None
        if option.action == "append":
            values[option.attribute].append(value)
        elif option.integer:
            if not (value.isascii() and value.isdigit() and len(value) < 10):
                return None
            values[option.attribute] = int(value)
        else:
            values[option.attribute] = value
    return RunOptions(values)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options to argparse."""
    groups: dict[str, argparse._ActionsContainer] = {"": parser}
    for option in OPTIONS:
        if option.group not in groups:
            groups[option.group] = parser.add_argument_group(option.group)
        keywords: dict[str, Any] = {"help": option.help}
        if option.action != "store":
            keywords["action"] = option.action
        if option.action != "store_true":
            keywords |= {"default": option.default, "metavar": option.metavar}
            if option.choices is not None:
                keywords["choices"] = option.choices
        if option.integer:
            keywords["type"] = int
        if option.names[0][0] != "-":
            keywords["nargs"] = "?"
        groups[option.group].add_argument(*option.names, **keywords)


def machine_config(options: RunOptions | argparse.Namespace) -> MachineConfig:
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
    topology = None
    if options.smp is not None:
        from pyvmm.cpu.topology import parse_smp

        topology = parse_smp(options.smp)
        if options.cpus not in (1, topology.count):
            raise _wrong(
                "--cpus", options.cpus, f"--smp {options.smp} has {topology.count} vCPUs", "one of them"
            )
    machine, acpi = parse_machine(options.machine)
    return MachineConfig(
        machine=machine,
        acpi=acpi,
        memory=parse_memory(options.memory),
        cpus=options.cpus if topology is None else topology.count,
        topology=topology,
        name=_name(options.name),
        uuid=options.uuid,
        engine=options.engine,
        irqchip=options.irqchip,
        cpu=options.cpu,
        hand_over=options.hand_over,
        clock=options.clock,
        vga=options.vga,
        hpet=options.hpet == "on",
        rtc_base=parse_rtc(options.rtc),
        console=options.console,
        ports=[parse_port(text) for text in options.port],
        inputs=parse_input(options.input),
        balloon=parse_balloon(options.balloon, parse_memory(options.memory)),
        rng=parse_rng(options.rng),
        keyboard=options.keyboard,
        disks=_disks(options),
        shares=[parse_share(text) for text in options.share],
        vsock=None if options.vsock is None else parse_vsock(options.vsock),
        networks=_networks(options.net),
        boot_order=options.boot,
        kernel=_file("--kernel", options.kernel),
        initrd=_file("--initrd", options.initrd),
        append=options.append or "",
        firmware=options.firmware
        if options.firmware in ("pyvmm", "seabios", "ovmf")
        else _required("--firmware", options.firmware),
        pflash=_file("--pflash", options.pflash),
        serial=parse_serial(options.serial),
    )


def _name(text: str | None) -> str:
    if text is None:
        return "pyvmm"
    if not text or not text.isprintable():
        raise _wrong("--name", repr(text), "not a name", "--name vm1")
    return text


def _networks(texts: list[str]) -> list[NetworkConfig]:
    if not texts:
        return []
    from pyvmm.cli.network import parse_networks

    return parse_networks(texts)


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


def parse_port(text: str) -> PortConfig:
    """Read one ``--port name=NAME,to=unix:PATH``; a path's commas are doubled."""
    from pyvmm.config import PortConfig

    example = "--port name=org.example.agent,to=unix:agent.sock"
    values: dict[str, str] = {}
    for part in text.replace(",,", "\0").split(","):
        key, _, value = part.replace("\0", ",").partition("=")
        if key not in ("name", "to") or not value or key in values:
            raise _wrong("--port", text, f"{part!r} is not one name= and one to=", example)
        values[key] = value
    kind, _, path = values.get("to", "").partition(":")
    if len(values) < 2 or kind not in ("unix", "file") or not path:
        raise _wrong("--port", text, "it has a name and goes to unix:PATH or file:PATH", example)
    return PortConfig(values["name"], values["to"])


def parse_balloon(text: str | None, memory: int) -> BalloonConfig | None:
    """Read ``--balloon on`` or ``--balloon SIZE``."""
    if text is None or text == "off":
        return None
    from pyvmm.config import BalloonConfig
    from pyvmm.units import parse_size

    if text == "on":
        return BalloonConfig()
    try:
        target = parse_size(text)
    except (ValueError, OverflowError):
        target = 0
    if not MIN_MEMORY <= target <= memory:
        raise _wrong(
            "--balloon", text, "not a part of the machine's memory", "--balloon on or --balloon 128M"
        )
    return BalloonConfig(target=target)


def parse_input(text: str | None) -> list[Literal["keyboard", "mouse", "tablet"]]:
    """Read ``--input keyboard,tablet``."""
    words = [] if text is None else text.split(",")
    for word in words:
        if word not in ("keyboard", "mouse", "tablet"):
            raise _wrong("--input", text, f"{word!r} is not one of them", "--input keyboard,tablet")
    return words  # type: ignore[return-value] # as checked


def parse_rng(text: str | None) -> RngConfig | None:
    """Read ``--rng on`` or ``--rng BYTES-PER-SECOND``."""
    if text is None or text == "off":
        return None
    from pyvmm.config import RngConfig
    from pyvmm.units import parse_size

    if text == "on":
        return RngConfig()
    try:
        rate = parse_size(text)
    except (ValueError, OverflowError):
        rate = 0
    if not 1 <= rate <= MAX_MEMORY:
        raise _wrong("--rng", text, "not a number of bytes a second", "--rng on or --rng 64K")
    return RngConfig(bytes_per_second=rate)


def parse_serial(text: str) -> str:
    """Check the value of ``--serial``."""
    if text in ("stdio", "null") or (text.startswith("file:") and len(text) > len("file:")):
        return text
    raise _wrong(
        "--serial", text, "not a place for COM1", "--serial stdio, --serial null or --serial file:PATH"
    )


def parse_rtc(text: str) -> str:
    """What ``--rtc base=...`` says: ``utc``, ``localtime``, or a date in ISO 8601 that is one."""
    example = "--rtc base=utc, --rtc base=localtime or --rtc base=2026-01-31T12:00:00"
    key, _, base = text.partition("=")
    if key != "base" or not base:
        raise _wrong("--rtc", text, "only base= can be set", example)
    if base not in ("utc", "localtime"):
        from datetime import datetime

        try:
            year = datetime.fromisoformat(base).year
        except ValueError:
            raise _wrong("--rtc", text, "not a date", example) from None
        if not 1970 <= year <= 2099:
            raise _wrong("--rtc", text, "a real-time clock shows the years 1970 to 2099", example)
    return base


def parse_timeout(text: str | None) -> float | None:
    """Seconds of ``--timeout``; None without the option."""
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise _wrong("--timeout", text, "not a number of seconds above 0", "--timeout 60")
    return seconds


def parse_machine(text: str) -> tuple[Literal["pc", "microvm"], bool]:
    """Read ``--machine microvm,acpi=off``: the machine, and whether it has ACPI tables."""
    name, *parts = text.split(",")
    if name not in ("pc", "microvm"):
        raise _wrong("--machine", text, f"{name!r} is not a machine", "--machine pc or --machine microvm")
    for part in parts:
        if part not in ("acpi=on", "acpi=off"):
            raise _wrong("--machine", text, f"{part!r} is not known", "acpi=on or acpi=off")
    return "microvm" if name == "microvm" else "pc", "acpi=off" not in parts


def parse_disk(text: str) -> DiskConfig:
    """Read one ``--disk path=FILE,if=ide,format=qcow2,cache=none,readonly,snapshot``; a path's commas are doubled."""
    values: dict[str, str | bool] = {}
    for part in text.replace(",,", "\0").split(","):
        key, equals, value = part.replace("\0", ",").partition("=")
        if key in values:
            raise _wrong("--disk", text, f"{key} is given twice", f"{key} once")
        if key in ("path", "if", "format", "cache", "serial", "queues", "threads", "werror", "rerror"):
            if not value:
                raise _wrong("--disk", text, f"{key} has no value", f"{key}=...")
            values[key] = value
        elif key in ("readonly", "snapshot", "read-only", "packed") and (
            not equals or value in ("on", "off")
        ):
            values["readonly" if key == "read-only" else key] = value != "off"
        else:
            raise _wrong(
                "--disk",
                text,
                f"{part!r} is not known",
                "path=, if=, format=, cache=, readonly, snapshot, packed, serial=, queues=, threads=, werror=, rerror=",
            )
    if "path" not in values:
        raise _wrong("--disk", text, "it names no file", "--disk path=FILE")
    if values.get("format", "raw") not in FORMATS:
        raise _wrong(
            "--disk", text, f"format {values['format']!r} is not known", "format=raw or format=qcow2"
        )
    if values.get("if", "virtio") not in INTERFACES:
        raise _wrong("--disk", text, f"interface {values['if']!r} is not known", "if=virtio or if=ide")
    if values.get("cache", "none") not in CACHES:
        raise _wrong(
            "--disk", text, f"cache {values['cache']!r} is not known", f"cache= one of {', '.join(CACHES)}"
        )
    if values.get("packed") and values.get("if") == "ide":
        raise _wrong("--disk", text, "an IDE disk has no ring to be packed", "if=virtio,packed")
    for key in ("werror", "rerror"):
        if values.get(key, "report") not in ON_ERROR:
            raise _wrong(
                "--disk", text, f"{key} {values[key]!r} is not known", f"{key}= {', '.join(ON_ERROR)}"
            )
    numbers = {key: _count(text, key, str(values.get(key, "1"))) for key in ("queues", "threads")}
    only = {"serial", "queues", "threads", "werror", "rerror"} & values.keys()
    if only and values.get("if") == "ide":
        raise _wrong("--disk", text, f"an IDE disk has no {sorted(only)[0]}", "if=virtio")
    return DiskConfig(
        path=_required("--disk", str(values["path"])),
        interface=values.get("if", "virtio"),  # type: ignore[arg-type] # one of INTERFACES
        format=values.get("format"),  # type: ignore[arg-type] # one of FORMATS
        cache=values.get("cache", "writeback"),  # type: ignore[arg-type] # one of CACHES
        read_only=bool(values.get("readonly", False)),
        snapshot=bool(values.get("snapshot", False)),
        features={"RING_PACKED": True} if values.get("packed") else None,
        serial=str(values.get("serial", "")),
        queues=numbers["queues"],
        threads=numbers["threads"],
        read_error=values.get("rerror", "report"),  # type: ignore[arg-type] # one of ON_ERROR
        write_error=values.get("werror", "report"),  # type: ignore[arg-type] # one of ON_ERROR
    )


def _count(text: str, key: str, value: str) -> int:
    if not value.isdecimal() or not 1 <= int(value) <= 64:
        raise _wrong("--disk", text, f"{key} {value!r} is not 1 to 64", f"{key}=4")
    return int(value)


def parse_share(text: str) -> ShareConfig:
    """Read one ``--share PATH,tag=NAME,readonly,security=mapped``; a path's commas are doubled."""
    from pyvmm.config import ShareConfig

    example = "--share /srv/data,tag=data"
    path, *parts = (part.replace("\0", ",") for part in text.replace(",,", "\0").split(","))
    values: dict[str, str] = {}
    for part in parts:
        key, equals, value = part.partition("=")
        if key in ("readonly", "read-only") and (not equals or value in ("on", "off")):
            key, value = "readonly", value or "on"
        elif key not in ("tag", "security") or not value:
            raise _wrong("--share", text, f"{part!r} is not known", "tag=, readonly or security=")
        if key in values:
            raise _wrong("--share", text, f"{key} is given twice", f"{key} once")
        values[key] = value
    if not path or not os.path.isdir(path):
        from pyvmm.errors import PyvmmError

        raise PyvmmError(f"--share {path}: {'is not a folder' if os.path.exists(path) else 'no such folder'}")
    if "tag" not in values:
        raise _wrong("--share", text, "it has no tag for the guest to mount it by", example)
    if not 1 <= len(values["tag"].encode()) <= 31:
        raise _wrong("--share", text, "a tag has 1 to 31 bytes", example)
    if values.get("security", "none") not in ("none", "mapped"):
        raise _wrong("--share", text, f"security {values['security']!r} is not known", "security=mapped")
    return ShareConfig(
        path=path,
        tag=values["tag"],
        read_only=values.get("readonly") == "on",
        security=values.get("security", "none"),  # type: ignore[arg-type] # one of the two
    )


def parse_vsock(text: str) -> VsockConfig:
    """Read ``--vsock PATH,cid=N``; a path's commas are doubled."""
    from pyvmm.config import VsockConfig

    example = "--vsock /tmp/vm1.vsock"
    path, *parts = (part.replace("\0", ",") for part in text.replace(",,", "\0").split(","))
    if not path:
        raise _wrong("--vsock", text, "it names no socket", example)
    if len(parts) > 1 or (parts and not parts[0].startswith("cid=")):
        raise _wrong("--vsock", text, f"{parts[-1]!r} is not known", f"{example},cid=3")
    if not parts:
        return VsockConfig(path)
    digits = parts[0].removeprefix("cid=")
    cid = int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 11 else 0
    if not 3 <= cid <= 0xFFFFFFFE:
        raise _wrong("--vsock", text, "a guest's CID is 3 to 4294967294", f"{example},cid=3")
    return VsockConfig(path, cid)


def _disks(options: RunOptions | argparse.Namespace) -> list[DiskConfig]:
    disks = []
    if options.drive is not None:
        disks.append(
            DiskConfig(
                path=_required("DISK", options.drive),
                interface=options.interface,
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
        *(("--floppy", image, "floppy") for image in options.floppy),
    ):
        if name is not None:
            disks.append(
                DiskConfig(
                    path=_required(option, name),
                    interface=interface,  # type: ignore[arg-type] # one of the two above
                    format="raw",
                    read_only=interface == "cdrom",
                    snapshot=options.snapshot and interface == "floppy",
                )
            )
    return disks


def _file(option: str, name: str | None) -> StrPath | None:
    return None if name is None else _required(option, name)


def _required(option: str, name: str) -> StrPath:
    from pyvmm.errors import PyvmmError

    if not os.path.exists(name):
        raise PyvmmError(f"{'' if option == 'DISK' else option + ' '}{name}: no such file")
    if os.path.isdir(name):
        raise PyvmmError(f"{'' if option == 'DISK' else option + ' '}{name}: is a directory, not an image")
    return name


def _wrong(option: str, value: object, why: str, instead: str) -> Exception:
    from pyvmm.errors import ConfigError

    return ConfigError(f"{option} {value}: {why}; write for example {instead}")
