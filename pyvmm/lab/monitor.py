"""A monitor between a guest's kernel and the machine (csrc/lab/monitor.h): trap-and-emulate, and what is built on it.

The kernel and its programs run in ring 3 of the machine's engine; a stub in the top of the machine's RAM has ring 0,
and the monitor, which it calls at each trap, does on a virtual CPU what the kernel wanted.

>>> with Machine(memory=64 << 20, engine="translator", irqchip="user", serial="buffer") as machine:   # doctest: +SKIP
...     monitor = Monitor(machine, "trap-and-emulate")
...     monitor.prepare(LabKernel.open(), command_line="workload=syscall count=1000")
...     machine.run()
...     print(monitor.counters)

Left out: more than one vCPU, guests that start or go outside 64-bit mode, snapshots of a machine with a monitor.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pyvmm.asm import disassemble
from pyvmm.errors import PyvmmError
from pyvmm.mmu.shadow import Shadow
from pyvmm.native import check_pointer, ffi, lib, new_error

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyvmm.cpu.state import CpuState
    from pyvmm.lab.boot import LabKernel
    from pyvmm.lab.translation import Translation
    from pyvmm.lab.traps import MonitorExit, Trap
    from pyvmm.machine.events import MachineEvent
    from pyvmm.machine.machine import Machine

MONITOR_SIZE = 16 << 20
"""Bytes of RAM that a monitor takes from the top of the machine's."""


@dataclass(frozen=True, slots=True)
class Counters:
    """What a monitor did since its guest started. What never came is left out.

    Attributes
    ----------
    exits
        How often the monitor had its turn, by reason.
    cycles
        The host's TSC cycles that it took for them, by reason: from the stub's OUT to its return.
    emulated
        Instructions done on the virtual CPU, by mnemonic.
    hypercalls
        By number (docs/paravirt.md).
    exceptions, interrupts
        Delivered through the guest's own IDT.
    translation
        ``blocks`` translated, ``chained`` jumps, ``flushes`` of the cache: of binary translation.
    """

    exits: dict[str, int]
    cycles: dict[str, int]
    emulated: dict[str, int]
    hypercalls: dict[int, int]
    exceptions: int
    interrupts: int
    translation: dict[str, int]

    def __str__(self) -> str:
        rows = [f"{'reason':<20}{'exits':>10}{'cycles each':>14}"]
        for reason, count in sorted(self.exits.items(), key=lambda row: -row[1]):
            rows.append(f"{reason:<20}{count:>10}{self.cycles.get(reason, 0) // count:>14}")
        if self.emulated:
            pairs = sorted(self.emulated.items(), key=lambda row: -row[1])
            rows.append("emulated: " + ", ".join(f"{name} {count}" for name, count in pairs))
        if self.hypercalls:
            rows.append("hypercalls: " + ", ".join(f"{n}: {count}" for n, count in self.hypercalls.items()))
        return "\n".join(rows)


@dataclass(frozen=True, slots=True)
class End:
    """Why a guest could not go on under a monitor.

    Attributes
    ----------
    why
        One line.
    rip
        Where the guest was.
    instruction
        What stands there, disassembled; empty when it cannot be read or decoded.
    """

    why: str
    rip: int
    instruction: str

    def __str__(self) -> str:
        what = f" ({self.instruction})" if self.instruction else ""
        return f"{self.why}, at {self.rip:#x}{what}"


class Monitor:
    """A monitor for the first vCPU of a machine that has not run.

    Parameters
    ----------
    machine
        With one vCPU, interrupt controllers of its own (``irqchip="user"``) and at least 32 MiB.
    technique
        ``"trap-and-emulate"``, ``"translation"`` or ``"paravirtual"``.

    Raises
    ------
    ValueError
        There is no such technique.
    PyvmmError
        The machine has several vCPUs, too little memory, or a monitor.
    """

    def __init__(self, machine: Machine, technique: str = "trap-and-emulate") -> None:
        chosen = lib.lab_technique(technique.encode())
        if chosen == ffi.NULL:
            raise ValueError(f"technique {technique!r}: there is no monitor of that name")
        if len(machine.vcpus) != 1:
            raise PyvmmError(f"a monitor has one vCPU; this machine has {len(machine.vcpus)}")
        low = min(machine.config.memory, 1 << 30)
        self.guest_end = (low - MONITOR_SIZE) & ~0x1FFFFF
        if self.guest_end < MONITOR_SIZE:
            raise PyvmmError(f"a monitor needs a machine of 32 MiB or more; this one has {low >> 20} MiB")
        self.machine = machine
        self.technique = technique
        error = new_error()
        self._pointer = check_pointer(
            lib.monitor_new(machine.vcpu.pointer, self.guest_end, chosen, error), error, exception=PyvmmError
        )
        self._free = weakref.finalize(self, lib.monitor_free, self._pointer)
        self._last: tuple[Counters, End | None] | None = None
        machine.events.listen(self._machine_event)

    def start(self, state: CpuState) -> None:
        """Set the virtual CPU to `state` (64-bit mode with paging on), and the machine's to the stub's.

        Raises
        ------
        PyvmmError
            It is another mode, or page tables that cannot be shadowed.
        """
        self._check_open()
        error = new_error()
        result = lib.monitor_start(self._pointer, state.pointer, error)
        if result < 0:
            raise PyvmmError(ffi.string(error.text).decode(errors="replace"))

    def prepare(self, kernel: LabKernel, *, ram_end: int | None = None, command_line: str = "") -> None:
        """Load the lab's kernel and start it under this monitor: what `pyvmm.lab.boot.prepare` does without one."""
        from pyvmm.lab.boot import prepare

        end = self.guest_end if ram_end is None else ram_end
        prepare(self.machine, kernel, ram_end=end, command_line=command_line)
        self.start(self.machine.vcpu.state)

    def traps(self) -> Iterator[MonitorExit]:
        """Run, and see each trap once it is answered; `pyvmm.trace.explain` puts it into words.

        Iteration ends with the guest or with the loop around it; the machine can be run on. Runs on the calling thread.
        """
        from pyvmm.exits import ExitReason
        from pyvmm.lab.traps import monitor_exit

        self._check_open()
        lib.monitor_watch(self._pointer, True)
        try:
            before, seen = self.counters, 0
            for _ in self.machine.exits([ExitReason.IO]):
                last = lib.monitor_last_exit(self._pointer)
                if last.number == seen:
                    continue
                after, seen = self.counters, last.number
                yield monitor_exit(_trap(last), before, after)
                self._check_open()
                before = self.counters
        finally:
            if self._free.alive:
                lib.monitor_watch(self._pointer, False)

    def close(self) -> None:
        """Take the monitor away; its guest cannot go on. Closing the machine does it, too. Counters and end stay."""
        if self._free.alive:
            self._last = self.counters, self.end
            self._free()

    def _machine_event(self, event: MachineEvent) -> None:
        if event.kind == "closed":
            self.close()

    def _check_open(self) -> None:
        if not self._free.alive:
            raise PyvmmError("the monitor is closed: its machine is")

    @property
    def shadow(self) -> Shadow:
        """The shadow page tables, beside the guest's own."""
        self._check_open()
        return Shadow.of(self._pointer.shadow, self.machine.memory, 40, self)

    @property
    def counters(self) -> Counters:
        """What it did so far."""
        if self._last is not None:
            return self._last[0]
        c = lib.monitor_counters(self._pointer)
        reasons = [_name(lib.lab_reason_name(i)) for i in range(len(c.exits))]
        names = [_name(lib.lab_mnemonic_name(i)) for i in range(len(c.emulated))]
        return Counters(
            _table(reasons, c.exits),
            _table(reasons, c.cycles),
            _table([name.replace("_", " ").lower() for name in names], c.emulated),
            {number: count for number, count in enumerate(c.hypercalls) if count},
            c.injected_exceptions,
            c.injected_interrupts,
            {name: getattr(c, name) for name in ("blocks", "chained", "flushes") if getattr(c, name)},
        )

    @property
    def end(self) -> End | None:
        """Why the guest could not go on, or None while it can."""
        if self._last is not None:
            return self._last[1]
        found = lib.monitor_end(self._pointer)
        if not found.ended:
            return None
        code = bytes(found.instruction)[: found.size]
        decoded = next(iter(disassemble(code, found.rip)), None)
        text = decoded.text if decoded is not None and not decoded.mnemonic.startswith(".") else ""
        return End(ffi.string(found.text).decode(errors="replace"), found.rip, text)

    @property
    def virtual_cpu(self) -> Any:
        """The processor that the guest believes in: ``cr0``, ``cr3``, ``cpl``, ``interrupts`` (RFLAGS.IF), ``idtr``...

        A copy; csrc/lab/virtual_cpu.h has all names.
        """
        self._check_open()
        return lib.monitor_virtual_cpu(self._pointer)

    def translation(self, address: int) -> Translation | None:
        """The translated block that begins at a guest address, or else one that holds it; None: there is none.

        Only of a machine that does not run, and of the technique ``"translation"``.
        """
        from pyvmm.lab.translation import translation_of

        self._check_open()
        return translation_of(self, self._pointer, address)

    @property
    def paging_state(self) -> CpuState:
        """What of the virtual CPU says how its guest's addresses are translated: control registers, EFER and the ring.

        For ``monitor.shadow.side_by_side(monitor.paging_state, address)`` and ``pyvmm.mmu.walk``, while the machine
        does not run. RIP is the real one, in the monitor's slot when it is the monitor's turn or translated code.
        """
        from pyvmm.cpu.state import CpuState

        cpu, state = self.virtual_cpu, CpuState()
        state.set_long_mode(self.machine.vcpu.state.rip, cpu.cr3, cpl=cpu.cpl)
        state.cr0, state.cr4, state.efer = cpu.cr0, cpu.cr4, cpu.efer
        return state


def _name(text: Any) -> str:
    return str(ffi.string(text).decode())


def _trap(last: Any) -> Trap:
    from pyvmm.lab.traps import Trap

    return Trap(
        _name(lib.lab_reason_name(last.reason)), last.rip, last.cr2, last.error, last.cycles, last.rax, last.rdx,
        last.result, last.vector, last.cpl, bytes(last.instruction)[: last.size],
    )  # fmt: skip


def _table(names: list[str], values: Any) -> dict[str, int]:
    return {name: int(value) for name, value in zip(names, values, strict=True) if value}
