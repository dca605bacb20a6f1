"""The lab's kernel under a technique, for some work: what it took, counted.

`run` is one machine from start to end; `compare` runs the same work under each technique and engine that this host has
and sets the costs beside each other, without the kernel's start and end. The techniques:

``bare``
    The kernel has ring 0 of the engine to itself: the translator's, or KVM's.
``hardware``
    The same on a KVM with VT-x or SVM below it: hardware assistance.
``trap-and-emulate``
    The kernel runs in ring 3, and a monitor that owns ring 0 emulates what traps (Popek and Goldberg 1974).
``translation``
    The same monitor rewrites the kernel's code before it runs (Adams and Agesen 2006 call it a software VMM).
``paravirtual``
    The kernel is built to ask a monitor for what it would be caught at (Barham et al. 2003; docs/paravirt.md).

Left out: more than one vCPU; kernels of others.
"""

from __future__ import annotations

import os
import tempfile
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pyvmm.config import DiskConfig
from pyvmm.errors import EngineError, PyvmmError
from pyvmm.lab.boot import LabKernel, prepare
from pyvmm.lab.results import Comparison, Result
from pyvmm.machine.machine import Machine
from pyvmm.native import ffi, lib

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import Any, Literal

    from pyvmm.lab.boot import LabReport
    from pyvmm.lab.monitor import Monitor
    from pyvmm.machine.machine import RunResult

    EngineName = Literal["auto", "translator", "kvm"]

TECHNIQUES = ("bare", "hardware", "trap-and-emulate", "translation", "paravirtual")
"""All of them; `usable` says which this host has."""

WORKLOADS = {
    "syscall": "a null system call from a program",
    "in": "IN from a port that nothing answers",
    "cr8wr": "a write to CR8, the task priority",
    "callret": "a call by pointer and its return, in the kernel",
    "pgfault": "a page of a program's, given at the first touch",
    "divzero": "a division by zero of a program's",
    "ptemod": "a page table entry, changed in batches of 16",
    "switch": "a switch between two processes",
    "fork": "a process with a copy of its parent's address space, and its end",
    "timer": "a timer interrupt, with two processes that compute",
    "disk": "a read of 4 KiB from an IDE disk, by PIO",
    "virtio": "a read of 4 KiB from a virtio disk",
    "loop": "a turn of a program's loop that only computes",
}
"""What the kernel can be asked for beside ``"checks"``: one operation of each (csrc/guest/lab/workloads.c)."""

SCALE = {"callret": 100.0, "loop": 10_000.0, "fork": 0.02, "disk": 0.05, "virtio": 0.05}
"""How many operations `compare` does instead of one, of those that are much shorter or longer than others."""

MEMORY = 64 << 20
RAM_END = 48 << 20
"""Of the machine, and the kernel's: what is above belongs to the monitor, or to nobody."""

_TIMER_HZ = 10_000
_DISKS: dict[str, Literal["ide", "virtio"]] = {"disk": "ide", "virtio": "virtio"}
_DISK_SECTORS = 4096
_SHOWN = ("IO", "MMIO", "HLT", "CPUID", "MSR")
"""The engine's exits that a bare guest is left for. Exceptions and interrupts are the processor's own work."""


def usable(engine: str) -> tuple[str, ...]:
    """The techniques that can be tried on an engine here.

    Raises
    ------
    EngineError
        The engine cannot run here.
    """
    from pyvmm.machine.engines import choose_engine

    found = choose_engine(engine).availability()
    if not found.usable:
        raise EngineError(f"{engine}: {found.reason}")
    first = "hardware" if engine == "kvm" and _has_hardware() else "bare"
    return (first, *(name for name in TECHNIQUES[2:] if lib.lab_technique(name.encode()) != ffi.NULL))


def usable_engines() -> tuple[EngineName, ...]:
    """The engines that can run here."""
    from pyvmm.machine.engines import choose_engine

    names: tuple[EngineName, ...] = ("translator", "kvm")
    return tuple(name for name in names if choose_engine(name).availability().usable)


def _has_hardware() -> bool:
    from pyvmm.kvm.probe import probe

    return probe().ring0_native


def run(
    technique: str,
    workload: str = "checks",
    count: int = 1000,
    engine: EngineName = "translator",
    *,
    door: str = "auto",
    options: str = "",
    kernel: LabKernel | None = None,
    timeout: float = 120.0,
) -> Result:
    """Run the lab's kernel from its start to its end.

    Parameters
    ----------
    technique
        One of `TECHNIQUES`.
    workload
        One of `WORKLOADS`, or ``"checks"``.
    count
        How many operations.
    engine
        ``"translator"``, ``"kvm"`` or ``"auto"``.
    door
        How programs call the kernel: ``"syscall"``, ``"int80"``, ``"int3"``, or ``"auto"``, the first that is open.
    options
        More words for the kernel's command line (csrc/guest/lab/start.c).
    kernel
        Another build of the kernel.
    timeout
        Seconds of wall time after which the run is given up.

    Raises
    ------
    ValueError
        There is no such technique or workload, or `count` is less than 1.
    EngineError
        The engine cannot run here; or it is not KVM with hardware below it, where that is asked for.
    PyvmmError
        No disk could be made for the workloads ``"disk"`` and ``"virtio"``.
    """
    if technique not in TECHNIQUES:
        raise ValueError(f"technique {technique!r}: there are {', '.join(TECHNIQUES)}")
    if workload != "checks" and workload not in WORKLOADS:
        raise ValueError(f"workload {workload!r}: there are checks, {', '.join(WORKLOADS)}")
    if count < 1:
        raise ValueError(f"count is {count}: at least 1")
    if technique == "hardware":
        if engine == "translator" or not _has_hardware():
            raise EngineError(
                "hardware assistance is engine kvm with VT-x or SVM below it; technique bare runs on what there is"
            )
        engine = "kvm"
    kernel = kernel or LabKernel.open(paravirt=technique == "paravirtual")
    name = "disk" if workload in _DISKS else workload
    own = (
        f"hz={_TIMER_HZ}" if workload == "timer" else f"disk={_DISKS[workload]}" if workload in _DISKS else ""
    )
    line = " ".join(filter(None, (f"workload={name} count={count} door={door}", own, options)))
    with _machine(engine, _DISKS.get(workload)) as machine:
        attempt = _start(machine, technique, kernel, line)
        began = time.process_time()
        left = machine.run(timeout=timeout)
        cpu = time.process_time() - began
        return attempt(left, cpu, technique, workload, count)


def compare(
    techniques: Sequence[str] = (),
    workloads: Sequence[str] = (),
    count: int = 10_000,
    engines: Sequence[EngineName] = ("translator",),
    *,
    counts: dict[str, int] | None = None,
    progress: Callable[[str], object] | None = None,
) -> Comparison:
    """Run the same work under each technique; what is told is beyond a run of one operation, so without the start.

    Parameters
    ----------
    techniques, workloads
        Which; empty for all that this host has.
    count
        Operations of each workload; times `SCALE`.
    engines
        Which; see `usable_engines`.
    counts
        Counts of some workloads, instead.
    progress
        Called with a line of text before each run.

    Raises
    ------
    ValueError, EngineError
        As `run`.
    """
    results = []
    for engine in engines:
        for technique in techniques or usable(engine):
            for workload in workloads or WORKLOADS:
                wanted = (counts or {}).get(workload, max(round(count * SCALE.get(workload, 1)), 1))
                if progress is not None:
                    progress(f"{engine}, {technique}: {wanted} x {workload}")
                results.append(cost(technique, workload, wanted, engine))
    return Comparison(tuple(results), tuple(_notes(engines)))


def cost(technique: str, workload: str, count: int = 1000, engine: EngineName = "translator") -> Result:
    """`run`, less a run of one operation: what `count` operations take by themselves."""
    whole = run(technique, workload, count + 1, engine)
    return whole.less(run(technique, workload, 1, engine)) if whole.ok else whole


def _notes(engines: Iterable[str]) -> Iterator[str]:
    if "kvm" in engines and not _has_hardware():
        yield (
            "kvm: this host's KVM has no VT-x or SVM below it. It interprets ring 0 and runs ring 3 directly:"
            " bare is not hardware assistance here."
        )


# One run --------------------------------------------------------------------------------------------------------------


@contextmanager
def _machine(engine: EngineName, interface: Literal["ide", "virtio"] | None) -> Iterator[Machine]:
    """The machine, with a disk for who reads one."""
    with tempfile.TemporaryDirectory(prefix="pyvmm-lab-") as folder:
        disks = []
        if interface is not None:
            path = os.path.join(folder, "disk.raw")
            write_disk(path)
            disks.append(DiskConfig(path, interface, "raw", read_only=True))
        with Machine(
            memory=MEMORY, engine=engine, irqchip="user", serial="buffer", vga="none", disks=disks, name="lab"
        ) as machine:
            yield machine


def write_disk(path: str) -> None:
    """A disk on which every sector says its number.

    Raises
    ------
    PyvmmError
        It cannot be written.
    """
    try:
        with open(path, "wb") as file:
            for sector in range(_DISK_SECTORS):
                file.write(sector.to_bytes(8, "little") * 64)
    except OSError as error:
        raise PyvmmError(f"{path}: {error.strerror}; the lab's disk needs 2 MiB there") from None


def _start(machine: Machine, technique: str, kernel: LabKernel, line: str) -> _Attempt:
    if technique in ("bare", "hardware"):
        prepare(machine, kernel, ram_end=RAM_END, command_line=line)
        return _Attempt(machine, kernel)
    from pyvmm.lab.monitor import Monitor

    monitor = Monitor(machine, technique)
    monitor.prepare(kernel, ram_end=RAM_END, command_line=line)
    return _Monitored(machine, kernel, monitor)


class _Attempt:
    """A kernel in a machine, with nobody between."""

    def __init__(self, machine: Machine, kernel: LabKernel) -> None:
        self.machine, self.kernel = machine, kernel

    def __call__(self, left: RunResult, cpu: float, technique: str, workload: str, count: int) -> Result:
        """What came of it."""
        report = self.kernel.report(self.machine.memory)
        end = "" if left.reason == "exit" and report.state != "running" else self.why(left, report)
        done = report.results[-1] if report.results else None
        console = self.machine.serial.read()
        return Result(
            technique,
            self.machine.engine_name,
            workload,
            count,
            operations=done.operations if done else len(report.checks),
            cycles=done.cycles if done else 0,
            value=done.value if done else 0,
            cpu=cpu,
            interrupts=report.interrupts,
            checks=report.checks,
            status="ended"
            if end
            else done.status
            if done
            else "ok"
            if report.state == "done"
            else report.state,
            end=end,
            console=(console if isinstance(console, bytes) else b"").decode("ascii", "replace"),
            **self.counted(),
        )

    def counted(self) -> dict[str, Any]:
        """The counters of `Result`."""
        exits = self.machine.vcpu.exit_counts
        return {"exits": {reason.name.lower(): exits[reason] for reason in exits if reason.name in _SHOWN}}

    def why(self, left: RunResult, report: LabReport) -> str:
        """Why it did not come to its own end, in one line."""
        where = self.kernel.symbol_at(int(self.machine.vcpu.state.linear_rip))
        if report.fault is not None:
            vector, rip, error, address = report.fault
            at = self.kernel.symbol_at(rip)
            return f"exception {vector} in the kernel at {at}, error {error:#x}, CR2 {address:#x}"
        match left.reason:
            case "timeout":
                return f"given up after the time-out, at {where}"
            case "halted":
                return f"HLT with interrupts off at {where}: nothing can wake it"
            case "shutdown" | "failed":
                told = self.machine.report()
                text = str(told) if told is not None else left.exit.text
                what = "triple fault" if left.reason == "shutdown" else "the engine cannot go on"
                return f"{what} at {where}: {text}"
        return f"the machine ended by {left.reason!r} at {where}"


class _Monitored(_Attempt):
    """The same with a monitor that has ring 0."""

    def __init__(self, machine: Machine, kernel: LabKernel, monitor: Monitor) -> None:
        super().__init__(machine, kernel)
        self.monitor = monitor

    def counted(self) -> dict[str, Any]:
        """The monitor's counters."""
        from pyvmm.lab.traps import HYPERCALLS

        done, shadow = self.monitor.counters, self.monitor.shadow.statistics
        faults = {"fill": shadow.fills, "guest fault": shadow.guest_faults, "trace": shadow.trace_faults}
        return {
            "exits": done.exits,
            "exit_cycles": done.cycles,
            "emulated": done.emulated,
            "shadow": {kind: count for kind, count in faults.items() if count},
            "hypercalls": {
                HYPERCALLS[n] if n < len(HYPERCALLS) else str(n): c for n, c in done.hypercalls.items()
            },
            "blocks": done.translation,
        }

    def why(self, left: RunResult, report: LabReport) -> str:
        """What the monitor says; it knows where the guest was, the machine's own registers are the stub's."""
        if self.monitor.end is not None:
            where = self.kernel.symbol_at(self.monitor.end.rip)
            return f"{self.monitor.end}" + ("" if where.startswith("0x") else f" in {where}")
        return super().why(left, report)
