"""What went wrong under KVM, as an object and as text: refused instructions, refused entries, triple faults.

KVM gives a number and sometimes a few bytes (api.rst 5); the rest is read from registers and guest memory: the
instruction, the device that it touches, and what `pyvmm.autopsy` reads. Left out: which exception came first in a
triple fault; KVM does not tell.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from pyvmm.autopsy import FAULTS, MAX_INSTRUCTION, Gate, Reader, Report
from pyvmm.cpu.state import CR0_PE
from pyvmm.engine import Vcpu
from pyvmm.kvm.constants import KvmExitReason
from pyvmm.native import ffi, lib

if TYPE_CHECKING:
    from pyvmm.memory import GuestMemory

_SUBERRORS = {
    1: "its emulator does not know the instruction",
    2: "two exceptions came at once that cannot be merged",
    3: "the processor left in the middle of delivering an event",
    4: "the processor left for a reason that should never come",
}
# SDM 3C table C-1, "basic exit reasons" of failed entries.
_ENTRY_FAILURES = {
    33: "invalid guest state",
    34: "a failed load of MSRs",
    41: "a machine check",
}


def report(vcpu: Vcpu, memory: GuestMemory) -> Report | None:
    """The last failure of a vCPU of the KVM engine; None when there was none since its state was last set.

    The vCPU must not run.
    """
    failure = ffi.new("KvmFailure *")
    if not lib.kvm_vcpu_failure(vcpu.pointer, failure):
        return None
    return _Reader(vcpu.state, memory).report(failure)


class _Reader(Reader):
    """The guest as the failed vCPU saw it, and KVM's side of the story."""

    def report(self, failure: Any) -> Report:
        reason = KvmExitReason(failure.exit_reason)
        told = bytes(failure.instruction[0 : failure.instruction_size])
        code = told or self.read_upto(self.state.linear_rip, MAX_INSTRUCTION)
        instruction, size = self.decode(code)
        causes: list[str] = []
        gates: tuple[Gate, ...] = ()
        at = f"at {self.state.linear_rip:#x} ({self.state.mode} mode, CPL {self.state.cpl})"
        match reason:
            case KvmExitReason.SHUTDOWN:
                gates = tuple(self.gate(vector) for vector in FAULTS)
                causes += self.shutdown_causes(gates)
                summary = (
                    f"triple fault {at}: an exception, the exception in its delivery, and #DF all failed"
                )
            case KvmExitReason.INTERNAL_ERROR:
                meaning = _SUBERRORS.get(failure.suberror, "not documented")
                summary = f"KVM internal error {failure.suberror} {at}: {meaning}"
                if failure.suberror == 1:
                    causes += self.emulation_causes(code, instruction)
            case KvmExitReason.FAIL_ENTRY:
                basic = failure.entry_failure & 0xFFFF
                meaning = _ENTRY_FAILURES.get(basic, "see the processor's manual")
                summary = (
                    f"entry refused {at} by host CPU {failure.cpu}: {failure.entry_failure:#x}, {meaning}"
                )
                causes += self.entry_causes()
            case _:
                summary = f"KVM exit {reason.name} {at}, which the engine does not ask for"
        return Report(
            reason=reason,
            summary=summary,
            causes=tuple(causes),
            instruction=instruction,
            code=code[: size or len(code)],
            chain=(),
            gates=gates,
            stack=tuple(self.stack()),
            state=self.state,
            data=tuple(failure.data[i] for i in range(failure.data_count)),
        )

    def emulation_causes(self, code: bytes, instruction: str) -> Iterable[str]:
        """Why KVM emulated at all (it does so for device memory, for modes that hardware lacks, or for want of it)."""
        if not code:
            yield f"no code can be read at {self.state.linear_rip:#x}: a jump to nowhere"
            return
        gpa = self.operand(code)
        if gpa is not None:
            yield f"{instruction} accesses device memory at {gpa:#x}, with an instruction that is not for that"
        elif self.state.mode == "real":
            yield "this host's KVM interprets real mode (a processor without unrestricted guest, or none below)"
        elif self.state.cpl == 0:
            yield "this host's KVM interprets ring 0 (`pyvmm doctor` shows the probe); the translator runs it"

    def entry_causes(self) -> Iterable[str]:
        """Well-known things that VM entry refuses (SDM 3C §27.3.1)."""
        state = self.state
        if not state.rflags & 2:
            yield "RFLAGS bit 1 is 0"
        if state.cr0 >> 31 and not state.cr0 & CR0_PE:
            yield "CR0.PG without CR0.PE"
        if state.mode == "real" and any(
            getattr(state, name).base != getattr(state, name).selector << 4
            for name in ("cs", "ss", "ds", "es")
        ):
            yield "a real-mode segment whose base is not its selector times 16 (without unrestricted guest)"
        if state.tr.attributes & 0xF not in (3, 0xB):
            yield f"TR is not a busy TSS (type {state.tr.attributes & 0xF:#x})"
