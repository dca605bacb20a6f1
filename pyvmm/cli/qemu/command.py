"""``pyvmm qemu-kvm ARGS...``: a QEMU command line, run or explained.

The exit codes are pyvmm's (`pyvmm.cli.exit_codes`). Differences to QEMU that are not in the table of options: the
firmware is pyvmm's BIOS unless ``-bios`` says otherwise; without a window COM1 is on the terminal; there is no network
card, floppy controller or empty CD drive by default; a machine with nothing to boot ends in one line.
"""

from __future__ import annotations

import re

from pyvmm.cli.notice import Notice
from pyvmm.cli.qemu import drives, machine, network, output, shares
from pyvmm.cli.qemu.explain import Row, print_rows
from pyvmm.cli.qemu.plan import Plan
from pyvmm.cli.qemu.refused import REFUSED, refusal
from pyvmm.cli.qemu.table import BY_NAME, OPTIONS
from pyvmm.cli.qemu.words import Option, read, refuse
from pyvmm.errors import BootError, ConfigError, EngineError, PyvmmError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from pyvmm.cli.options import RunOptions
    from pyvmm.config import MachineConfig

SUMMARY = "run a QEMU command line, or --explain it"
_FIRST = ("M", "machine", "netdev", "snapshot")
"""Read before the others, which depend on them."""
_QEMU_NAMES = (
    (r"--cpus", "-smp"),
    (r"--engine kvm", "-enable-kvm"),
    (r"--engine auto", "-accel kvm:tcg"),
    (r"--engine translator", "-accel tcg"),
    (r"--irqchip kernel", "-M kernel_irqchip=on"),
    (r"--irqchip split", "-M kernel_irqchip=split"),
    (r"--irqchip user", "-M kernel_irqchip=off"),
    (r"--firmware", "-bios"),
    (r"--share", "-virtfs"),
    (r"--(kernel|initrd|append|vnc|serial|boot|smp)", r"-\1"),
)
"""Options of ``pyvmm run`` in messages, and what they are called here."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """For ``pyvmm --help``: this command reads its words by itself."""
    subparsers.add_parser("qemu-kvm", help=SUMMARY, add_help=False)


def run(options: RunOptions | argparse.Namespace) -> int:
    """Run the command line in ``options.words``."""
    words = [word for word in options.words if word not in ("--explain", "-explain")]
    if any(word in ("-h", "-help", "--help", "-?") for word in words):
        print(help_text(), end="")
        return 0
    if any(word in ("-version", "--version") for word in words):
        from pyvmm import __version__

        print(f"pyvmm {__version__}")
        return 0
    try:
        if len(words) != len(options.words):
            return explain(words)
        return _run(words)
    except (ConfigError, EngineError) as error:
        raise type(error)(in_qemu_words(str(error))) from None


class _Notice(Notice):
    """Notes with QEMU's names of options."""

    def say(self, text: str) -> None:
        super().say(in_qemu_words(text))


def in_qemu_words(text: str) -> str:
    """A message about the options of ``pyvmm run``, with QEMU's names."""
    for pattern, name in _QEMU_NAMES:
        text = re.sub(pattern, name, text)
    return text


def _run(words: Sequence[str]) -> int:
    from pyvmm.cli.options import RunOptions
    from pyvmm.cli.run import run_machine
    from pyvmm.threads import name_process

    plan = Plan()
    for option, name, value in parse(words):
        _apply(plan, option, name, value)
    notice = _Notice(False)
    try:
        config = settle(plan)
    finally:
        for note in plan.notes:
            notice.say(note)
    if plan.process or plan.name:
        name_process(plan.process or plan.name)
    how = {
        "serial": config.serial,
        "vnc": plan.vnc,
        "no_reboot": plan.no_reboot,
        "debug_console": plan.debug_console,
        "quiet": False,
        "verbose": False,
    }
    return run_machine(
        config,
        notice,
        RunOptions(how),
        shutdown=not plan.no_shutdown,
        paused=plan.paused,
        prompt=plan.monitor == "stdio",
    )


def parse(words: Sequence[str]) -> list[tuple[Option, str, str | None]]:
    """Each option, its name as written without dashes, and its value; those that others depend on come first.

    Raises
    ------
    ConfigError
        An option that is not in pyvmm, or wants a value.
    """
    found: list[tuple[Option, str, str | None]] = []
    for name, value in _pairs(words):
        if name not in BY_NAME:
            raise refusal(name, value)
        found.append((BY_NAME[name], name, value))
    return sorted(found, key=lambda item: item[1] not in _FIRST)


def _pairs(words: Sequence[str]) -> list[tuple[str, str | None]]:
    """Names without dashes, and their values. A word without a dash is a disk, ``-hda``'s."""
    pairs: list[tuple[str, str | None]] = []
    remaining = iter(words)
    for word in remaining:
        if not word.startswith("-") or word == "-":
            pairs.append(("hda", word))
            continue
        name = word[2:] if word.startswith("--") else word[1:]
        wants = bool(BY_NAME[name].argument) if name in BY_NAME else REFUSED.get(name, (False,))[0]
        if not wants:
            pairs.append((name, None))
            continue
        value = next(remaining, None)
        if value is None:
            raise refuse(f"-{name}", "its value is missing", "write it after the option")
        pairs.append((name, value))
    return pairs


def _apply(plan: Plan, option: Option, name: str, value: str | None) -> tuple[dict[str, str], str]:
    """Do what the option says; its value's parts, and what was done."""
    values = (
        read(f"-{name}", value, option.subs, option.first)
        if option.subs and value is not None
        else {"": value or ""}
    )
    return values, option.handler(plan, values) or option.does


def settle(plan: Plan) -> MachineConfig:
    """The configuration that the options come to.

    Raises
    ------
    ConfigError
        Options that do not go together.
    BootError
        Nothing is there to be booted.
    """
    from pyvmm.config import MachineConfig

    engine = machine.engine(plan)
    disks = drives.connect(plan)
    own_bios = plan.firmware == "pyvmm"
    for option, value in (("-initrd", plan.initrd), ("-append", plan.append)):
        if value is not None and plan.kernel is None:
            raise refuse(f"{option} {value}", "it goes with a kernel", "add -kernel FILE")
    if plan.kernel is not None and not own_bios:
        raise refuse("-bios", "a kernel that is loaded directly needs no firmware", "write -kernel or -bios")
    if plan.boot_menu and own_bios:
        raise refuse("-boot menu=on", "pyvmm's BIOS has no menu", "add -bios seabios, or leave it away")
    if not disks and plan.kernel is None and own_bios and not plan.paused:
        raise BootError(
            "nothing to boot: there is no disk, CD, floppy or kernel; add -drive file=DISK,if=virtio"
        )
    if not plan.display and not plan.no_defaults:
        plan.notes.append("no window here: COM1 is on this terminal, -vnc :0 shows the screen")
    return MachineConfig(
        memory=plan.memory,
        cpus=1 if plan.topology is None else plan.topology.count,
        topology=plan.topology,
        engine=engine,
        irqchip=plan.irqchip or "auto",  # type: ignore[arg-type] # one of four
        disks=disks,
        networks=network.settle(plan),
        boot_order=_boot_order(plan),
        boot_once=machine.boot_letters(plan, plan.boot_once) if plan.boot_once else "",
        boot_menu=bool(plan.boot_menu),
        kernel=plan.kernel,
        initrd=plan.initrd,
        append=plan.append or "",
        firmware=plan.firmware,
        serial=output.place_of_serial(plan),
        bios_serial=plan.display in ("", "nographic"),
        rtc_base=plan.rtc_base,
        vga=plan.vga or ("none" if plan.no_defaults else "std"),  # type: ignore[arg-type] # one of two
        hpet=not plan.no_hpet,
        console="virtio" if any(name == "virtconsole" for name, _ in plan.console_ports) else "serial",
        ports=output.ports(plan),
        inputs=plan.inputs,  # type: ignore[arg-type] # three names of the table
        balloon=plan.balloon,
        rng=plan.rng,
        shares=shares.connect(plan),
        keyboard=plan.keyboard,
        pflash=plan.pflash,
        uuid=plan.uuid,
        name=plan.name or "pyvmm",
    )


def _boot_order(plan: Plan) -> str:
    """``-boot``'s letters; without it the kind of the lowest bootindex is first."""
    if plan.boot_order:
        return machine.boot_letters(plan, plan.boot_order)
    first = sorted(
        (drive.disk.boot_index, {"cdrom": "d", "floppy": "a"}.get(drive.disk.interface, "c"))
        for drive in plan.drives
        if drive.connected and drive.disk.boot_index is not None
    )
    return machine.boot_letters(plan, "".join(dict.fromkeys(letter for _, letter in first)) or "cad")


def explain(words: Sequence[str]) -> int:
    """Print what each option means and what is done with it; exit code 2 when one is refused."""
    pairs = _pairs(words)
    found: dict[int, list[Row]] = {}
    plan = Plan()
    refused = 0
    for place in sorted(range(len(pairs)), key=lambda place: pairs[place][0] not in _FIRST):
        name, value = pairs[place]
        rows = found[place] = []
        written = f"-{name}" if value is None else f"-{name} {value}"
        option = BY_NAME.get(name)
        try:
            if option is None:
                raise refusal(name, value)
            values, does = _apply(plan, option, name, value)
        except PyvmmError as error:
            refused += 1
            meaning = "" if option is None else option.meaning
            rows.append(Row(written, meaning, f"REFUSED: {in_qemu_words(str(error))}"))
            continue
        rows.append(Row(written, option.meaning, does, option.where))
        rows += _parts(option, values)
    try:
        settle(plan)
    except PyvmmError as error:
        refused += 1
        plan.notes.append(f"REFUSED: {in_qemu_words(str(error))}")
    print_rows([row for place in sorted(found) for row in found[place]], plan.notes)
    return 2 if refused else 0


def _parts(option: Option, values: dict[str, str]) -> list[Row]:
    """A row for each name in the value."""
    subs = option.subs
    if "device" in option.names:
        name, _, rest = values[""].partition(",")
        subs = drives.DEVICES[name][1]
        values = read("-device", rest, subs) if rest else {}
    by_name = {sub.names[0]: sub for sub in subs}
    if not by_name or (len(values) == 1 and option.first in values):
        return []
    return [
        Row(f"  {key}={value}", by_name[key].meaning, by_name[key].done_with(value))
        for key, value in values.items()
    ]


def help_text() -> str:
    """What ``pyvmm qemu-kvm --help`` prints."""
    lines = [
        "usage: pyvmm qemu-kvm [--explain] [DISK] OPTIONS...",
        "",
        "Runs a QEMU command line; what pyvmm does not have is refused by name. --explain says what each option means.",
        "",
    ]
    for option in OPTIONS:
        left = f"  -{', -'.join(option.names)} {option.argument}".rstrip()
        lines.append(
            f"{left:<40} {option.meaning}" if len(left) < 40 else f"{left}\n{'':<40} {option.meaning}"
        )
    return "\n".join([*lines, ""])
