"""``pyvmm doctor``: what this host can run, how fast, and what to do about each thing that it cannot.

The KVM part is measured anew each time (`pyvmm.kvm.probe`), and kept for the starts that follow.
"""

from __future__ import annotations

import os
import platform
import shutil
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from pyvmm.cli import exit_codes

if TYPE_CHECKING:
    import argparse

    from pyvmm.kvm.probe import ProbeResult

DEVICE = "/dev/kvm"
# What else the project's commands use, and what for.
TOOLS = {
    "qemu-img": "compare disk images (qemu-utils)",
    "qemu-system-x86_64": "the peer of the benchmarks (qemu-system-x86)",
    "debootstrap": "make a Debian disk (debootstrap)",
}
# Capabilities that make the engine quicker or more exact, and what follows when one is missing.
CAPABILITIES = {
    "IRQCHIP": "one vCPU only",
    "IRQFD": "device interrupts cost more",
    "IOEVENTFD": "virtio kicks cost more",
    "SYNC_REGS": "exits that Python sees cost more",
    "READONLY_MEM": "the guest can write to its ROM",
    "TSC_CONTROL": "the guest's TSC has the host's rate",
    "X86_USER_SPACE_MSR": "unknown MSRs are #GP",
    "EXIT_ON_EMULATION_FAILURE": "a refused instruction is told without its bytes",
}
INTERPRETED = (
    "no hardware virtualisation below this KVM; kernels crawl: run the translator, or ask for a host with it"
)


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the report: what was looked at, whether it is good, what was found, and what to do if it is not."""

    name: str
    good: bool
    found: str
    advice: str = ""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``pyvmm doctor``."""
    parser = subparsers.add_parser(
        "doctor",
        help="say what this host can run, and how fast",
        description="Probe the engines of this host, and say which one --engine auto takes and why.",
    )
    parser.add_argument("--json", action="store_true", help="print the report as one JSON object")


def run(options: argparse.Namespace) -> int:
    """Print the report; exit code 0 when at least one engine can be used."""
    import pyvmm
    from pyvmm.errors import EngineError
    from pyvmm.kvm.probe import probe
    from pyvmm.machine.engines import choose, retest, translator

    retest()
    usable, reason = translator().availability()
    checks = [
        Check("translator", usable, reason, "" if usable else "report it with this line"),
        *host_checks(),
    ]
    result = probe(DEVICE, cached=False)
    checks += kvm_checks(result)
    try:
        choice = choose("auto")
        auto, why, code = choice.engine.name, choice.reason, exit_codes.OK
    except EngineError as error:
        auto, why, code = "none", str(error), exit_codes.ENGINE
    host = {
        "pyvmm": pyvmm.__version__,
        "python": platform.python_version(),
        "kernel": platform.release(),
        "cpus": os.cpu_count(),
        "free_memory_mib": os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20,
    }
    tools = {name: shutil.which(name) is not None for name in TOOLS}
    if getattr(options, "json", False):
        import json

        report = {"host": host, "checks": [asdict(check) for check in checks], "kvm": asdict(result)}
        print(json.dumps({**report, "auto": {"engine": auto, "why": why}, "tools": tools}, indent=2))
    else:
        _print(host, checks, f"{auto}: {why}", tools)
    return code


def _print(host: dict[str, Any], checks: list[Check], auto: str, tools: dict[str, bool]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    console.print(
        f"pyvmm {host['pyvmm']}, Python {host['python']}, Linux {host['kernel']},"
        f" {host['cpus']} CPUs, {host['free_memory_mib']} MiB of memory free"
    )
    table = Table("check", "", "found", "what to do", box=None, pad_edge=False)
    for check in checks:
        table.add_row(
            check.name,
            "ok" if check.good else "no",
            check.found,
            check.advice,
            style="" if check.good else "bold",
        )
    console.print(table)
    console.print(f"--engine auto takes {auto}")
    table = Table("optional tool", "found", "what for", box=None, pad_edge=False)
    for name, found in tools.items():
        table.add_row(name, "yes" if found else "no", TOOLS[name])
    console.print(table)


def host_checks(cpuinfo: str = "/proc/cpuinfo", modules: str = "/sys/module") -> list[Check]:
    """The processor's virtualisation and KVM's modules."""
    flags = _cpu_flags(cpuinfo)
    extension = "VT-x" if "vmx" in flags else "SVM" if "svm" in flags else ""
    if extension:
        processor = Check("processor", True, f"has {extension}")
    elif "hypervisor" in flags:
        advice = (
            "this host is a virtual machine: have nested virtualisation switched on for it, by its own host"
            " (kvm_intel or kvm_amd with nested=1)"
        )
        processor = Check("processor", False, "neither VT-x nor SVM, and a hypervisor below", advice)
    else:
        processor = Check(
            "processor", False, "neither VT-x nor SVM", "switch virtualisation on in the firmware's setup"
        )
    loaded = sorted(name for name in _listdir(modules) if name.startswith("kvm"))
    hardware = [name for name in loaded if name in ("kvm_intel", "kvm_amd")]
    module = "kvm_amd" if extension == "SVM" else "kvm_intel"
    advice = f"modprobe {module}" if extension and not hardware else ""  # else the processor's line says it
    return [processor, Check("modules", bool(hardware), " ".join(loaded) or "no KVM module", advice)]


def kvm_checks(result: ProbeResult) -> list[Check]:
    """The probe, line by line."""
    if not result.usable:
        text, _, advice = "; ".join(result.reasons).partition("; ")
        return [Check(DEVICE, False, text, advice)]
    ring3 = result.ring3_ns
    native3 = ring3 is not None and ring3 < 20
    checks = [
        Check(DEVICE, True, "opens, and runs a guest"),
        *_capability_checks(),
        Check(
            "ring 0",
            result.ring0_native,
            _time(result.ring0_ns, "ns an instruction"),
            "" if result.ring0_native else INTERPRETED,
        ),
        Check("ring 3", native3, _time(ring3, "ns an instruction"), "" if native3 else INTERPRETED),
        Check("exit", result.exit_us is not None, _time(result.exit_us, "us, OUT to user space and back")),
    ]
    functions = (
        ("32-bit paging", result.paging_32bit, "32-bit kernels do not run here under KVM"),
        ("INT3 in ring 0", result.int3_ring0, "Linux tests it at start-up: hand-over, or the translator"),
        ("SYSCALL from ring 3", result.syscall_ring3, "64-bit programs make no system calls here under KVM"),
        ("INT 80h from ring 3", result.int80_ring3, "32-bit programs make no system calls here under KVM"),
    )
    for name, good, meaning in functions:
        why = next((reason for reason in result.reasons if reason.startswith(f"no {name}")), "does not work")
        checks.append(Check(name, good, "works" if good else why, "" if good else meaning))
    return checks


def _capability_checks() -> list[Check]:
    from pyvmm.errors import EngineError
    from pyvmm.kvm.system import System

    try:
        with System(DEVICE) as system:
            missing = [name for name in CAPABILITIES if not system.check_extension(name)]
            most, best = system.check_extension("MAX_VCPUS"), system.check_extension("NR_VCPUS")
    except EngineError:
        return []
    lost = "; ".join(f"no {name}: {CAPABILITIES[name]}" for name in missing)
    return [
        Check(
            "capabilities", not missing, f"{len(CAPABILITIES) - len(missing)} of {len(CAPABILITIES)}", lost
        ),
        Check("vCPUs", True, f"up to {most}, {best} recommended"),
    ]


def _time(value: float | None, unit: str) -> str:
    return "could not be measured" if value is None else f"{value:.3g} {unit}"


def _cpu_flags(cpuinfo: str) -> set[str]:
    try:
        with open(cpuinfo) as file:
            for line in file:
                if line.startswith("flags"):
                    return set(line.partition(":")[2].split())
    except OSError:
        pass
    return set()


def _listdir(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except OSError:
        return []
