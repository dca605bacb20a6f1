"""A guest that cannot go on, taken apart: the instruction, the IDT and the stack as the processor saw them.

Read from registers and guest memory, by a page walk of our own (Intel SDM 3A §4.3 to §4.5), because an engine's idea of
them may be what went wrong: the gates through which exceptions should have gone (§6.10 to §6.15), and the stack.
Left out: permissions of pages, task gates, handlers' privilege checks.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyvmm.cpu.state import CR0_PE, CR0_PG, CpuState
from pyvmm.errors import GuestError
from pyvmm.exits import EXCEPTION_NAMES

if TYPE_CHECKING:
    from pyvmm.memory import GuestMemory

MAX_INSTRUCTION = 15
STACK_WORDS = 8
_PAGE = 4096
_CR4_PSE, _CR4_PAE, _CR4_LA57 = 1 << 4, 1 << 5, 1 << 12
_PRESENT, _LARGE = 1, 1 << 7
FAULTS = (6, 8, 10, 11, 12, 13, 14)
"""Exceptions that a failing delivery is made of: #UD as a usual first one, then the contributory ones and #DF."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One exception on the way to a triple fault; `error` None: it has no error code."""

    vector: int
    rip: int
    error: int | None
    cr2: int
    in_delivery: bool

    def __str__(self) -> str:
        name = EXCEPTION_NAMES.get(self.vector, f"vector {self.vector}")
        error = "" if self.error is None else f"({self.error:#x})"
        address = f", address {self.cr2:#x}" if self.vector == 14 else ""
        how = "in the delivery of the one before" if self.in_delivery else f"at {self.rip:#x}"
        return f"{name}{error} {how}{address}"


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
class Report:
    """Why an engine cannot go on.

    Attributes
    ----------
    reason
        KVM's exit reason (`pyvmm.kvm.constants.KvmExitReason`), or ``"triple fault"``.
    summary
        One line.
    causes
        What explains it, most likely first; may be empty.
    instruction
        The instruction at RIP, disassembled; empty if it cannot be read.
    code
        Its bytes and those after it.
    chain
        The exceptions of a triple fault in their order, where the engine knows them.
    gates
        For a triple fault: the IDT entries of the exceptions concerned.
    stack
        Words from SS:RSP upwards, with their linear addresses.
    state
        All registers.
    data
        What KVM added to an internal error.
    """

    reason: object
    summary: str
    causes: tuple[str, ...]
    instruction: str
    code: bytes
    chain: tuple[Fault, ...]
    gates: tuple[Gate, ...]
    stack: tuple[tuple[int, int], ...]
    state: CpuState
    data: tuple[int, ...]

    def __str__(self) -> str:
        lines = [self.summary, *(f"  cause: {cause}" for cause in self.causes)]
        lines += [f"  fault: {fault}" for fault in self.chain]
        if self.instruction:
            lines.append(f"  code:  {self.code.hex(' ')}  {self.instruction}")
        lines += [f"  gate:  {gate}" for gate in self.gates]
        lines += [f"  stack: {address:#x}: {value:#x}" for address, value in self.stack]
        if self.data:
            lines.append(f"  data:  {' '.join(map(hex, self.data))}")
        return "\n".join((*lines, repr(self.state)))


class Reader:
    """The guest as it was when it failed."""

    def __init__(self, state: CpuState, memory: GuestMemory) -> None:
        self.memory = memory
        self.state = state

    # Memory ---------------------------------------------------------------------------------------------------

    def translate(self, gva: int) -> int | None:
        """Physical address; None: no page is mapped there."""
        state = self.state
        if not state.cr0 & CR0_PG:
            return gva & 0xFFFFFFFF
        wide = bool(state.cr4 & _CR4_PAE)
        if state.efer & 1 << 10:
            shifts: tuple[int, ...] = (48, 39, 30, 21, 12) if state.cr4 & _CR4_LA57 else (39, 30, 21, 12)
        else:
            gva &= 0xFFFFFFFF
            shifts = (30, 21, 12) if wide else (22, 12)
        table = state.cr3 & (0xFFFFFFFFFF000 if len(shifts) > 3 else 0xFFFFFFE0 if wide else 0xFFFFF000)
        for depth, shift in enumerate(shifts):
            index = gva >> shift & (0x1FF if wide else 0x3FF)
            try:
                raw = self.memory.read(table + index * (8 if wide else 4), 8 if wide else 4)
            except GuestError:
                return None
            entry = int.from_bytes(raw, "little")
            if not entry & _PRESENT:
                return None
            frame = entry & 0xFFFFFFFFFF000
            pdpte = len(shifts) == 3 and depth == 0
            pse = wide or bool(state.cr4 & _CR4_PSE)
            if shift == 12 or (entry & _LARGE and shift <= 30 and not pdpte and pse):
                if shift == 22:
                    frame = entry & 0xFFC00000 | (entry >> 13 & 0xFF) << 32  # PSE-36
                mask = (1 << shift) - 1
                return frame & ~mask | gva & mask
            table = frame
        return None

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


def triple_fault(state: CpuState, memory: GuestMemory, chain: tuple[Fault, ...] = ()) -> Report:
    """The report of a triple fault, from the registers at it and what the engine noted of its exceptions."""
    reader = Reader(state, memory)
    code = reader.read_upto(state.linear_rip, MAX_INSTRUCTION)
    instruction, size = reader.decode(code)
    vectors = tuple(dict.fromkeys((*(fault.vector for fault in chain), *(() if chain else FAULTS))))
    gates = tuple(reader.gate(vector) for vector in vectors)
    return Report(
        reason="triple fault",
        summary=f"triple fault at {state.linear_rip:#x} ({state.mode} mode, CPL {state.cpl}): an exception, the"
        " exception in its delivery, and #DF all failed",
        causes=tuple(reader.shutdown_causes(gates)),
        instruction=instruction,
        code=code[: size or len(code)],
        chain=chain,
        gates=gates,
        stack=tuple(reader.stack()),
        state=state,
        data=(),
    )
