"""Exits as Python sees them: why guest code was left, and what a device asked of the machine (csrc/engine/engine.h).

A module of its own, since nothing needs it before the guest has run: enumerations and dataclasses are slow to make
(docs/adr/0006). `pyvmm.engine` hands its names on.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from pyvmm.native import ffi, lib


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
    IO_ERROR = lib.SYSTEM_IO_ERROR


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
    vcpu
        Index of the vCPU.
    cpl
        Privilege level at the exit, 0 to 3; None where the exit was not one of those asked for.
    mode
        One of `MODES`; empty when `cpl` is None.
    cycles
        Of the host's TSC, which answering it took; 0: it was not answered by anybody, or not measured.
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
    vcpu: int = 0
    cpl: int | None = field(default=None, compare=False)
    mode: str = field(default="", compare=False)
    cycles: int = field(default=0, compare=False)

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


# By number: calling an enumeration takes as long as reading five fields, and teaching mode comes here at every exit.
_REASONS = {reason.value: reason for reason in ExitReason}
_REQUESTS = {request.value: request for request in SystemRequest}
_FAIL = ExitReason.FAIL.value
MODES = ("real", "virtual-8086", "protected-16", "protected", "compatibility", "long")
"""By number (csrc/engine/exit_trace.h, enum ExitMode)."""
_KNOWN = int(lib.EXIT_PRIVILEGE_KNOWN)

INSIDE_A_RUN = frozenset(
    {
        ExitReason.IO,
        ExitReason.MMIO,
        ExitReason.INTERRUPT,
        ExitReason.EXCEPTION,
        ExitReason.CPUID,
        ExitReason.MSR,
    }
)
"""Reasons that never end a run."""


def exit_of(record: Any, vcpu: int = 0) -> VmExit:
    reason, privilege = record.reason, record.privilege
    return VmExit(
        _REASONS[reason],
        record.address,
        record.size,
        record.is_write != 0,
        record.value,
        record.handled != 0,
        record.rip,
        record.vector,
        record.has_error != 0,
        _REQUESTS[record.request],
        record.code,
        ffi.string(record.text).decode(errors="replace") if reason == _FAIL else "",
        vcpu,
        privilege & 3 if privilege & _KNOWN else None,
        MODES[privilege >> 2 & 7] if privilege & _KNOWN else "",
        record.cycles,
    )
