"""Options of the machine itself: its type, accelerator, processor, memory, clock and name."""

from __future__ import annotations

import re

from pyvmm.cli.qemu.words import refuse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

    from pyvmm.cli.qemu.plan import Plan
    from pyvmm.cli.qemu.words import Handler, Values

_PC = re.compile(r"pc|pc-i440fx-(?:(\d+)\.(\d+)|rhel[\d.]+|[a-z]+)|pc-(\d+)\.(\d+)|rhel[67]\.\d+\.\d+")
_PREFERS_CORES = (6, 2)
"""The first version of QEMU's machines that makes cores of what ``-smp`` leaves open."""
_SUFFIXES = {"": 20, "b": 0, "k": 10, "m": 20, "g": 30, "t": 40}
_ALIGNMENT = 8192
"""QEMU rounds RAM up to this."""
_OTHER_MACHINES = ("q35", "microvm", "isapc", "none", "x-remote", "xenfv", "xenpv")


def set_machine(plan: Plan, values: Values) -> str | None:
    """``-M``: every PC with the 440FX and PIIX3 is the one PC that there is here."""
    name = values.get("type", "pc")
    match = _PC.fullmatch(name)
    if match is None:
        other = name in _OTHER_MACHINES or "q35" in name
        if name == "microvm":
            raise refuse(
                "-M microvm", "not by QEMU's words", "write pyvmm run --machine microvm --kernel FILE"
            )
        why = "this machine is not in pyvmm, which has the 440FX PC" if other else "not a machine of QEMU's"
        raise refuse(f"-M {name}", why, "write -M pc")
    version = [int(number) for number in match.groups() if number is not None]
    plan.machine = name
    plan.prefer_sockets = name != "pc" and (not version or tuple(version) < _PREFERS_CORES)
    if "accel" in values:
        plan.machine_accelerators = _accelerators("-M accel=", values["accel"].split(":"))
    _set_irqchip(plan, values)
    plan.no_hpet = plan.no_hpet or values.get("hpet") == "off"
    if name == "pc":
        return None
    return (
        f"the same PC as -M pc; only what -smp leaves open is {'sockets' if plan.prefer_sockets else 'cores'}"
    )


def _set_irqchip(plan: Plan, values: Values) -> None:
    if "kernel_irqchip" in values:
        plan.irqchip = {"on": "kernel", "off": "user"}.get(values["kernel_irqchip"], "split")


def _accelerators(what: str, names: list[str]) -> list[str]:
    for name in names:
        if name not in ("kvm", "tcg"):
            raise refuse(f"{what}{name}", "not an accelerator of pyvmm's", "write kvm, tcg or kvm:tcg")
    return names


def add_accelerator(plan: Plan, values: Values) -> None:
    """``-accel``: each one is tried after those before it."""
    if "accel" not in values:
        raise refuse("-accel", "it names no accelerator", "write -accel kvm or -accel tcg")
    plan.accelerators += _accelerators("-accel ", values["accel"].split(":"))
    _set_irqchip(plan, values)


def enable_kvm(plan: Plan, values: Values) -> None:
    """``-enable-kvm`` is ``-accel kvm``."""
    plan.accelerators.append("kvm")


def engine(plan: Plan) -> Literal["auto", "translator", "kvm"]:
    """What the accelerators come to. QEMU without any takes TCG."""
    if plan.accelerators and plan.machine_accelerators:
        raise refuse("-accel", "it does not go with -M accel=", "write one of them")
    names = list(dict.fromkeys(plan.accelerators or plan.machine_accelerators or ["tcg"]))
    if names == ["kvm"]:
        found: Literal["auto", "translator", "kvm"] = "kvm"
    else:
        found = "auto" if names[0] == "kvm" else "translator"
    cpus = plan.topology.count if plan.topology is not None else 1
    if found == "translator":
        if cpus > 1:
            raise refuse(f"-smp {cpus}", "the translator, QEMU's TCG, has one vCPU here", "add -enable-kvm")
        if plan.irqchip in ("kernel", "split"):
            value = "on" if plan.irqchip == "kernel" else "split"
            raise refuse(
                f"-M kernel_irqchip={value}", "it goes with KVM", "add -enable-kvm, or leave it away"
            )
        if plan.processor == "host":
            raise refuse("-cpu host", "it goes with KVM", "add -enable-kvm, or write -cpu max")
    return found


def set_processor(plan: Plan, values: Values) -> str | None:
    """``-cpu``: the engine's own processor is the only one, so that models of others would be a lie."""
    model, *features = values[""].split(",")
    if features:
        raise refuse(f"-cpu {model},{features[0]}", "single features cannot be set", f"write -cpu {model}")
    if model not in ("host", "max", "qemu64", "kvm64"):
        raise refuse(
            f"-cpu {model}",
            "other processors' models are not in pyvmm, whose guest sees the engine's own",
            "write -cpu max, or with KVM -cpu host",
        )
    plan.processor = model
    if model in ("host", "max"):
        return None
    plan.notes.append(f"-cpu {model}: the guest sees the engine's own processor, which can do more")
    return "the engine's own processor, which can do more; a note says so"


def set_memory(plan: Plan, values: Values) -> str:
    """``-m``: MiB where no unit is given."""
    text = values["size"]
    match = re.fullmatch(r"(\d{1,15})(?:\.(\d{1,9}))?([bkmgt]?)", text.lower())
    if match is None or not text.isascii():
        raise refuse(f"-m {text}", "not a size", "write for example -m 512 or -m 2G")
    whole, part, suffix = match.groups(default="")
    size = int(whole + part) * (1 << _SUFFIXES[suffix]) // 10 ** len(part)
    plan.memory = -(-size // _ALIGNMENT) * _ALIGNMENT
    if not 1 << 20 <= plan.memory <= 256 << 30:
        raise refuse(f"-m {text}", "a PC here has 1M to 256G", "write for example -m 512")
    from pyvmm.units import format_size

    return f"{format_size(plan.memory)} of RAM"


def set_smp(plan: Plan, values: Values) -> str:
    """``-smp``: vCPUs and their arrangement."""
    from pyvmm.cpu.topology import parse_smp

    text = ",".join(f"{name}={value}" for name, value in values.items())
    plan.topology = parse_smp(text, option="-smp", prefer_sockets=plan.prefer_sockets)
    ids = plan.topology.apic_ids()
    last = f" to {ids[-1]}" if len(ids) > 1 else ""
    return f"{len(ids)} vCPU{'s' if len(ids) > 1 else ''}: {plan.topology}; APIC IDs 0{last}"


def set_clock(plan: Plan, values: Values) -> str | None:
    """``-rtc``: what the real-time clock begins with."""
    base = values.get("base", "utc")
    if base not in ("utc", "localtime"):
        import datetime

        try:
            date = datetime.datetime.strptime(base, "%Y-%m-%dT%H:%M:%S" if "T" in base else "%Y-%m-%d")
        except ValueError:
            date = None
        if date is None or not 1970 <= date.year <= 2099:
            raise refuse(
                f"-rtc base={base}",
                "not a date from 1970 to 2099",
                "write utc, localtime, 2026-01-31 or 2026-01-31T12:00:00",
            )
    plan.rtc_base = base
    return None


def set_name(plan: Plan, values: Values) -> str:
    """``-name``: of the machine and of its process."""
    for key in ("guest", "process"):
        if key in values and not (values[key] and values[key].isprintable()):
            raise refuse(f"-name {key}={values[key]!r}", "not a name", "write for example -name vm1")
    plan.name = values.get("guest", plan.name)
    plan.process = values.get("process", plan.process)
    return (
        f"the process is {(plan.process or plan.name)[:15]!r} in top and ps; VNC clients show {plan.name!r}"
    )


def set_uuid(plan: Plan, values: Values) -> None:
    """``-uuid``."""
    from pyvmm.boot.smbios import parse_uuid

    text = values[""]
    try:
        parse_uuid(text)
    except ValueError:
        raise refuse(
            f"-uuid {text}", "not a UUID", "write for example -uuid 01234567-89ab-cdef-0123-456789abcdef"
        ) from None
    plan.uuid = text


def set_boot(plan: Plan, values: Values) -> str | None:
    """``-boot``: letters, as since the first PCs."""
    for key in ("order", "once"):
        letters = values.get(key, "")
        for letter in letters:
            if letter in "bnop":
                what = "second floppy drive" if letter == "b" else "network card"
                raise refuse(
                    f"-boot {key}={letters}", f"there is no {what} to boot from ({letter})", "use a, c, d"
                )
            if letter not in "acd" or letters.count(letter) > 1:
                raise refuse(
                    f"-boot {key}={letters}", f"{letter!r} is no letter, or is there twice", "use a, c, d"
                )
    plan.boot_order = values.get("order", plan.boot_order)
    plan.boot_once = values.get("once", plan.boot_once)
    if "menu" in values:
        plan.boot_menu = values["menu"] == "on"
    plan.boot_strict = values.get("strict", "off") == "on"
    return None


def boot_letters(plan: Plan, letters: str) -> str:
    """The whole order: what is not named is tried afterwards, unless ``strict=on``."""
    return letters if plan.boot_strict else letters + "".join(x for x in "cad" if x not in letters)


def set_flag(name: str) -> Handler:
    """A handler that sets an attribute of the plan to True."""

    def handler(plan: Plan, values: Values) -> None:
        setattr(plan, name, True)

    return handler


def set_action(plan: Plan, values: Values) -> None:
    """``-action``: what happens at a reset and at power-off."""
    if "reboot" in values:
        plan.no_reboot = values["reboot"] == "shutdown"
    if "shutdown" in values:
        plan.no_shutdown = values["shutdown"] == "pause"


def accept(plan: Plan, values: Values) -> None:
    """What is so already."""
