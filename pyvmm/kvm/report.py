"""What went wrong under KVM, as an object and as text: refused instructions, refused entries, triple faults.

KVM gives a number and sometimes a few bytes (api.rst 5); the rest is read from registers and guest memory: the
instruction, the device that it touches, the IDT through which exceptions should have gone (Intel SDM 3A §6.10 to
§6.15), and the stack. Left out: which exception came first in a triple fault; KVM does not tell.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pyvmm.cpu.state import CR0_PE, CpuState
from pyvmm.engine import EXCEPTION_NAMES, Vcpu
from pyvmm.errors import EngineError, GuestError
from pyvmm.kvm import ioctl
from pyvmm.kvm.constants import KvmExitReason
from pyvmm.native import ffi, lib

if TYPE_CHECKING:
    from pyvmm.memory import GuestMemory

MAX_INSTRUCTION = 15
STACK_WORDS = 8
_PAGE = 4096
_FAULTS = (6, 8, 10, 11, 12, 13, 14)
"""Exceptions that a failing delivery is made of: #UD as a usual first one, then the contributory ones and #DF."""
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


@dataclass(frozen=True, slots=True)
class Gate:
    """One vector's IDT entry, and what stops it; `problem` empty: it could have been delivered."""

    vector: int
    handler: str
    problem: str

    def __str__(self) -> str:
        name = EXCEPTION_NAMES.get(self.vector, f"vector {self.vector}")
        return f"{name:<4} {self.problem or f'-> {self.handler}'}"


@dataclass(frozen=True, slots=True)
class KvmReport:
    """Why KVM cannot go on.

    Attributes
    ----------
    reason
        KVM's exit reason.
    summary
        One line.
    causes
        What explains it, most likely first; may be empty.
    instruction
        The instruction at RIP, disassembled; empty if it cannot be read.
    code
        Its bytes and those after it.
    gates
        For a shutdown: the IDT entries of the exceptions concerned.
    stack
        Words from SS:RSP upwards, with their linear addresses.
    state
        All registers.
    data
        What KVM added to an internal error.
    """

    reason: KvmExitReason
    summary: str
    causes: tuple[str, ...]
    instruction: str
    code: bytes
    gates: tuple[Gate, ...]
    stack: tuple[tuple[int, int], ...]
    state: CpuState
    data: tuple[int, ...]

    def __str__(self) -> str:
        lines = [self.summary, *(f"  cause: {cause}" for cause in self.causes)]
        if self.instruction:
            lines.append(f"  code:  {self.code.hex(' ')}  {self.instruction}")
        lines += [f"  gate:  {gate}" for gate in self.gates]
        lines += [f"  stack: {address:#x}: {value:#x}" for address, value in self.stack]
        if self.data:
            lines.append(f"  data:  {' '.join(map(hex, self.data))}")
        return "\n".join((*lines, repr(self.state)))


def report(vcpu: Vcpu, memory: GuestMemory) -> KvmReport | None:
    """The last failure of a vCPU of the KVM engine; None when there was none since its state was last set.

    The vCPU must not run.
    """
    failure = ffi.new("KvmFailure *")
    if not lib.kvm_vcpu_failure(vcpu.pointer, failure):
        return None
    return _Reader(vcpu, memory).report(failure)


class _Reader:
    """The guest as the failed vCPU saw it."""

    def __init__(self, vcpu: Vcpu, memory: GuestMemory) -> None:
        self.fd: int = lib.kvm_vcpu_fd(vcpu.pointer)
        self.memory = memory
        self.state = vcpu.state

    def report(self, failure: Any) -> KvmReport:
        reason = KvmExitReason(failure.exit_reason)
        told = bytes(failure.instruction[0 : failure.instruction_size])
        code = told or self.read_upto(self.state.linear_rip, MAX_INSTRUCTION)
        instruction, size = self.decode(code)
        causes: list[str] = []
        gates: tuple[Gate, ...] = ()
        at = f"at {self.state.linear_rip:#x} ({self.state.mode} mode, CPL {self.state.cpl})"
        match reason:
            case KvmExitReason.SHUTDOWN:
                gates = tuple(self.gate(vector) for vector in _FAULTS)
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
        return KvmReport(
            reason=reason,
            summary=summary,
            causes=tuple(causes),
            instruction=instruction,
            code=code[: size or len(code)],
            gates=gates,
            stack=tuple(self.stack()),
            state=self.state,
            data=tuple(failure.data[i] for i in range(failure.data_count)),
        )

    # Memory ---------------------------------------------------------------------------------------------------

    def translate(self, gva: int) -> int | None:
        """Physical address; None: no page is mapped there."""
        translation = ffi.new("struct kvm_translation *", {"linear_address": gva & (1 << 64) - 1})
        try:
            ioctl.call(self.fd, ioctl.TRANSLATE, translation, f"{gva:#x}")
        except EngineError:
            return None
        return int(translation.physical_address) if translation.valid else None

    def read(self, gva: int, size: int) -> bytes | None:
        """Bytes at a linear address; None when some are not mapped or not memory."""
        data = b""
        while size:
            part = min(size, _PAGE - gva % _PAGE)
            gpa = self.translate(gva)
            if gpa is None:
                return None
            try:
                data += self.memory.read(gpa, part)
            except GuestError:
                return None
            gva, size = gva + part, size - part
        return data

    def read_upto(self, gva: int, size: int) -> bytes:
        """As many as can be read."""
        data = self.read(gva, size)
        if data is None:
            data = self.read(gva, min(size, _PAGE - gva % _PAGE))
        return data or b""

    def stack(self) -> Iterable[tuple[int, int]]:
        bits = self.state.code_bits
        size = bits // 8
        offset = self.state.rsp & (1 << bits) - 1
        for i in range(STACK_WORDS):
            gva = (self.state.ss.base if bits < 64 else 0) + offset + i * size
            word = self.read(gva, size)
            if word is None:
                return
            yield gva, int.from_bytes(word, "little")

    # Instructions ----------------------------------------------------------------------------------------------

    def decode(self, code: bytes) -> tuple[str, int]:
        """(text, size) of the first instruction."""
        from pyvmm.asm import disassemble

        if not code:
            return "", 0
        bits = self.state.code_bits
        first = disassemble(code, self.state.rip, 64 if bits == 64 else 32 if bits == 32 else 16)[0]
        return first.text, len(first.data)

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

    def operand(self, code: bytes) -> int | None:
        """Physical address of a memory operand that lies in no memslot."""
        import capstone
        from capstone import x86

        modes = {16: capstone.CS_MODE_16, 32: capstone.CS_MODE_32, 64: capstone.CS_MODE_64}
        decoder = capstone.Cs(capstone.CS_ARCH_X86, modes[self.state.code_bits])
        decoder.detail = True
        decoded = next(decoder.disasm(code, self.state.rip, 1), None)
        if decoded is None:
            return None
        for operand in decoded.operands:
            if operand.type != x86.X86_OP_MEM or decoded.mnemonic in ("lea", "nop"):
                continue
            memory = operand.mem
            value = memory.disp
            for register, scale in ((memory.base, 1), (memory.index, memory.scale)):
                if register:
                    name = decoded.reg_name(register)
                    at = (
                        self.state.rip + decoded.size
                        if name in ("rip", "eip")
                        else getattr(self.state, name, 0)
                    )
                    value += at * scale
            segment = decoded.reg_name(memory.segment) if memory.segment else "ds"
            if self.state.code_bits < 64 or segment in ("fs", "gs"):
                value += getattr(self.state, segment).base
            gpa = self.translate(value)
            if gpa is not None and not any(slot.gpa <= gpa < slot.end for slot in self.memory.slots):
                return gpa
        return None

    # Exceptions -------------------------------------------------------------------------------------------------

    def gate(self, vector: int) -> Gate:
        """What an exception of this vector meets (SDM 3A §6.11, §6.14.1; real mode 20.1.4)."""
        state = self.state
        long = state.mode in ("long", "compatibility")
        size = 16 if long else 8 if state.cr0 & CR0_PE else 4
        where = state.idtr.base + vector * size
        if vector * size + size - 1 > state.idtr.limit:
            return Gate(vector, "", f"beyond the IDT's limit {state.idtr.limit:#x}")
        entry = self.read(where, size)
        if entry is None:
            return Gate(vector, "", f"the IDT entry at {where:#x} is not in memory")
        if size == 4:
            offset, selector = struct.unpack("<HH", entry)
            return Gate(vector, f"{selector:#06x}:{offset:#06x}", "")
        low, selector, kind, middle = struct.unpack_from("<HHHH", entry)
        offset = low | middle << 16 | (int.from_bytes(entry[8:12], "little") << 32 if long else 0)
        handler = f"{selector:#06x}:{offset:#x}"
        gate_type = kind >> 8 & 0x1F
        if not kind >> 15:
            return Gate(vector, handler, f"the IDT entry at {where:#x} is not present")
        if gate_type not in (0xE, 0xF) if long else gate_type not in (5, 6, 7, 0xE, 0xF):
            return Gate(vector, handler, f"the IDT entry at {where:#x} has type {gate_type:#x}, no gate")
        if gate_type == 5:
            return Gate(vector, f"task {selector:#06x}", "")
        return Gate(vector, handler, self.handler_problem(selector, offset, long=long))

    def handler_problem(self, selector: int, offset: int, *, long: bool) -> str:
        """Why the handler's code segment or first byte cannot be used; empty if they can."""
        state = self.state
        if selector & 4 or not selector >> 3:
            return f"its selector {selector:#x} is not of the GDT" if not selector >> 3 else ""
        if (selector | 7) > state.gdtr.limit:
            return f"its selector {selector:#x} is beyond the GDT's limit {state.gdtr.limit:#x}"
        raw = self.read(state.gdtr.base + (selector & ~7), 8)
        if raw is None:
            return f"the GDT entry of selector {selector:#x} is not in memory"
        access = raw[5]
        if access & 0x98 != 0x98:
            return f"its selector {selector:#x} is not present code (access byte {access:#04x})"
        if long and not raw[6] & 0x20:
            return f"its selector {selector:#x} is not 64-bit code"
        base = 0 if long else raw[2] | raw[3] << 8 | raw[4] << 16 | raw[7] << 24
        if self.translate(base + offset) is None:
            return f"its handler at {base + offset:#x} is not mapped"
        return ""

    def shutdown_causes(self, gates: tuple[Gate, ...]) -> Iterable[str]:
        state = self.state
        if state.mode == "real" and state.rip == 0xFFF0 and state.cs.base == 0xFFFF0000:
            yield "the registers are a reset processor's: SVM gives no others after a shutdown"
            return
        broken = [gate for gate in gates if gate.problem]
        if len(broken) == len(gates) and len({gate.problem for gate in gates}) == 1:
            yield f"no exception can be delivered: {gates[0].problem}"
        else:
            yield from (
                f"{EXCEPTION_NAMES[gate.vector]} cannot be delivered: {gate.problem}" for gate in broken
            )
        size = 8 if state.code_bits == 64 else 4
        top = (state.ss.base if size == 4 else 0) + state.rsp
        if state.cpl == 0 and self.read(top - size, size) is None:
            yield f"the stack at {top:#x} is not in memory: nothing can be pushed"
        if not self.read(state.linear_rip, 1):
            yield f"no code can be read at {state.linear_rip:#x}"
        if not broken and state.cr0 >> 31 and not state.efer >> 8 & 1:
            yield "32-bit paging is on: some KVMs have it in long mode only"

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
