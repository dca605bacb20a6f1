"""Engines as the rest of the house sees them: availability, a VM, vCPUs, exits. Each engine is a sibling package."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from pyvmm.cpu.state import CpuState
from pyvmm.errors import EngineError
from pyvmm.native import check, check_pointer, ffi, lib, new_error
from pyvmm.units import Gva

if TYPE_CHECKING:
    from pyvmm.board import Board


class ExitReason(IntEnum):
    """Why guest code was left (csrc/engine/engine.h)."""

    NONE = lib.EXIT_NONE
    IO = lib.EXIT_IO
    MMIO = lib.EXIT_MMIO
    HLT = lib.EXIT_HLT
    INTERRUPT = lib.EXIT_INTERRUPT
    EXCEPTION = lib.EXIT_EXCEPTION
    CPUID = lib.EXIT_CPUID
    MSR = lib.EXIT_MSR
    SHUTDOWN = lib.EXIT_SHUTDOWN
    SYSTEM = lib.EXIT_SYSTEM
    KICK = lib.EXIT_KICK
    DEBUG = lib.EXIT_DEBUG
    FAIL = lib.EXIT_FAIL


class SystemRequest(IntEnum):
    """What a device asked of the machine, in an exit of reason SYSTEM."""

    NONE = lib.SYSTEM_NONE
    RESET = lib.SYSTEM_RESET
    POWEROFF = lib.SYSTEM_POWEROFF
    EXIT = lib.SYSTEM_EXIT
    FIRMWARE = lib.SYSTEM_FIRMWARE
    FAULT = lib.SYSTEM_FAULT


ALL_REASONS = frozenset(ExitReason) - {ExitReason.NONE}

EXCEPTION_NAMES = {
    0: "#DE", 1: "#DB", 2: "NMI", 3: "#BP", 4: "#OF", 5: "#BR", 6: "#UD", 7: "#NM", 8: "#DF", 10: "#TS", 11: "#NP",
    12: "#SS", 13: "#GP", 14: "#PF", 16: "#MF", 17: "#AC", 18: "#MC", 19: "#XM",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class VmExit:
    """One exit. Fields that a reason does not use are 0.

    Attributes
    ----------
    reason
        Why.
    address
        Port (IO), guest physical address (MMIO), MSR index, CPUID leaf, or CR2 of a page fault.
    size
        Bytes of the access.
    is_write
        The guest wrote (OUT, store, WRMSR).
    value
        What was written, or what the guest was given; the error code of an exception; the subleaf of CPUID.
    handled
        A device answered.
    rip
        Linear address of the instruction; after HLT of the next one.
    vector
        Of an exception or interrupt.
    has_error
        The exception has an error code.
    request, code
        What a device asked of the machine, and its number. For an interrupt, code 1 means INT n.
    text
        In words, when the engine cannot go on.
    """

    reason: ExitReason
    address: int
    size: int
    is_write: bool
    value: int
    handled: bool
    rip: int
    vector: int
    has_error: bool
    request: SystemRequest
    code: int
    text: str

    def __str__(self) -> str:
        at = f"at {self.rip:#x}"
        match self.reason:
            case ExitReason.IO | ExitReason.MMIO:
                verb = (
                    ("OUT" if self.is_write else "IN")
                    if self.reason is ExitReason.IO
                    else ("store" if self.is_write else "load")
                )
                nobody = "" if self.handled else ", nobody answers"
                return f"{verb} {self.address:#x} size {self.size} value {self.value:#x} {at}{nobody}"
            case ExitReason.MSR:
                return f"{'WRMSR' if self.is_write else 'RDMSR'} {self.address:#x} value {self.value:#x} {at}"
            case ExitReason.CPUID:
                return f"CPUID leaf {self.address:#x} subleaf {self.value:#x} {at}"
            case ExitReason.EXCEPTION:
                error = f" error {self.value:#x}" if self.has_error else ""
                fault = f" address {self.address:#x}" if self.vector == 14 else ""
                return f"exception {EXCEPTION_NAMES.get(self.vector, self.vector)}{error}{fault} {at}"
            case ExitReason.INTERRUPT:
                kind = "software interrupt" if self.code else "interrupt"
                return f"{kind} vector {self.vector:#x} {at}"
            case ExitReason.SYSTEM:
                return f"system request {self.request.name.lower()} code {self.code}"
            case ExitReason.FAIL:
                return self.text
            case _:
                return f"{self.reason.name} {at}"


def _exit_of(record: Any) -> VmExit:
    return VmExit(
        reason=ExitReason(record.reason),
        address=record.address,
        size=record.size,
        is_write=bool(record.is_write),
        value=record.value,
        handled=bool(record.handled),
        rip=record.rip,
        vector=record.vector,
        has_error=bool(record.has_error),
        request=SystemRequest(record.request),
        code=record.code,
        text=ffi.string(record.text).decode(errors="replace"),
    )


class Vcpu:
    """One virtual CPU of a machine."""

    def __init__(self, pointer: Any, index: int, owner: object) -> None:
        self.pointer = pointer
        self.index = index
        self._owner = owner
        self._exit = ffi.new("VmExit *")
        self._breakpoints: tuple[int, ...] = ()

    def _check(self, result: int, what: str = "") -> None:
        if result == -errno.EBUSY:
            raise EngineError(f"vCPU {self.index} is running on another thread: stop the machine first")
        check(result, what=f"vCPU {self.index}{what}", exception=EngineError)

    def run(self, surface: Iterable[ExitReason] = ()) -> VmExit:
        """Run guest code until an exit of one of these reasons, or one that always ends a run.

        SHUTDOWN, SYSTEM, KICK, DEBUG and FAIL always do. Blocks without holding the GIL; `kick` from another thread
        ends it.
        """
        mask = 0
        for reason in surface:
            mask |= 1 << reason
        self._check(lib.vcpu_run(self.pointer, mask, self._exit))
        return _exit_of(self._exit)

    def run_quick(self) -> tuple[int, int, int]:
        """The same with nothing surfaced, as (reason, request, code): what the machine's loop needs, and no more."""
        self._check(lib.vcpu_run(self.pointer, 0, self._exit))
        return self._exit.reason, self._exit.request, self._exit.code

    @property
    def last_exit(self) -> VmExit:
        """The exit of the last run."""
        return _exit_of(self._exit)

    def step(self) -> VmExit:
        """Execute one instruction: an exit of reason DEBUG, or what the instruction did (HLT, SHUTDOWN...)."""
        self._check(lib.vcpu_step(self.pointer, self._exit))
        return _exit_of(self._exit)

    def kick(self) -> None:
        """Make `run` return an exit of reason KICK, from any thread; not lost when given before `run`."""
        lib.vcpu_kick(self.pointer)

    @property
    def state(self) -> CpuState:
        """A copy of all registers. Only while the vCPU does not run."""
        state = CpuState()
        self._check(lib.vcpu_get_state(self.pointer, state.pointer))
        return state

    @state.setter
    def state(self, state: CpuState) -> None:
        self._check(lib.vcpu_set_state(self.pointer, state.pointer))

    @property
    def registers(self) -> Registers:
        """Registers that can be read and assigned one by one: ``vcpu.registers.rax = 5``."""
        return Registers(self)

    @property
    def breakpoints(self) -> tuple[int, ...]:
        """Linear addresses at which execution stops, before the instruction, with an exit of reason DEBUG."""
        return self._breakpoints

    @breakpoints.setter
    def breakpoints(self, addresses: Iterable[int]) -> None:
        wanted = tuple(Gva(address) for address in addresses)
        table = ffi.new("uint64_t[]", wanted)
        result = lib.vcpu_set_breakpoints(self.pointer, table, len(wanted))
        self._check(result, f": {len(wanted)} breakpoints")
        self._breakpoints = wanted

    @property
    def exit_counts(self) -> dict[ExitReason, int]:
        """Exits since the vCPU was made, by reason, whether surfaced or not; reasons that never came are left out."""
        counters = ffi.new("ExitCounters *")
        lib.vcpu_counters(self.pointer, counters)
        return {reason: counters.exits[reason] for reason in ExitReason if counters.exits[reason]}

    def __repr__(self) -> str:
        return f"Vcpu({self.index})"


class Registers:
    """A vCPU's registers, live: each read loads the state, each assignment stores it."""

    def __init__(self, vcpu: Vcpu) -> None:
        self.__dict__["_vcpu"] = vcpu

    def __getattr__(self, name: str) -> Any:
        return getattr(self._vcpu.state, name)

    def __setattr__(self, name: str, value: int) -> None:
        state = self._vcpu.state
        setattr(state, name, value)
        self._vcpu.state = state

    def __repr__(self) -> str:
        return repr(self._vcpu.state)


class EngineVm:
    """A machine in an engine: makes vCPUs."""

    def __init__(self, pointer: Any, name: str, owner: object) -> None:
        self.pointer = pointer
        self.name = name
        self._owner = owner
        self.vcpus: list[Vcpu] = []

    def create_vcpu(self, index: int) -> Vcpu:
        """A vCPU in its reset state.

        Raises
        ------
        EngineError
            The engine has no more, or cannot take the machine's memory.
        """
        error = new_error()
        pointer = check_pointer(lib.vcpu_new(self.pointer, index, error), error, exception=EngineError)
        vcpu = Vcpu(pointer, index, self)
        self.vcpus.append(vcpu)
        return vcpu

    def __iter__(self) -> Iterator[Vcpu]:
        return iter(self.vcpus)

    def close(self) -> None:
        """Free the engine's side, vCPUs included."""
        if self.pointer is not None:
            lib.engine_vm_free(self.pointer)
            self.pointer = None
            for vcpu in self.vcpus:
                vcpu.pointer = None
            self.vcpus = []


class Availability(NamedTuple):
    """Whether an engine can run here, and why, in one line."""

    usable: bool
    reason: str


class Engine(Protocol):
    """What each engine package offers."""

    name: str

    def availability(self) -> Availability:
        """Try it, and say."""
        ...

    def create_vm(self, board: Board) -> EngineVm:
        """A machine over the board's memory and devices; memory must be complete."""
        ...
