"""The report of a vCPU that cannot go on, whichever engine it is of (`Machine.report`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyvmm import autopsy
from pyvmm.exits import ExitReason
from pyvmm.kvm import report as kvm
from pyvmm.native import ffi, lib

if TYPE_CHECKING:
    from pyvmm.engine import Vcpu
    from pyvmm.memory import GuestMemory


def report_of(vcpu: Vcpu, memory: GuestMemory) -> autopsy.Report | None:
    """What its last exit was about; None when it was no failure."""
    if vcpu.last_exit.reason not in (ExitReason.SHUTDOWN, ExitReason.FAIL):
        return None
    told = kvm.report(vcpu, memory)
    if told is not None or vcpu.last_exit.reason is not ExitReason.SHUTDOWN:
        return told
    table = ffi.new("TranslatorFault[4]")
    count = lib.translator_faults(vcpu.pointer, table)
    chain = tuple(
        autopsy.Fault(
            fault.vector,
            fault.rip,
            fault.error if fault.has_error else None,
            fault.cr2,
            bool(fault.in_delivery),
        )
        for fault in table[0:count]
    )
    return autopsy.triple_fault(vcpu.state, memory, chain)
