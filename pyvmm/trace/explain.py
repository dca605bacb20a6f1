"""Any exit, explained: where the guest was, why it left, what was answered, what it cost, and how it could be avoided.

An exit is anything with `Exit`'s attributes: a `pyvmm.exits.VmExit` of either engine, an event or a site of a
recording, or an exit of somebody else's monitor (`pyvmm.lab.traps.MonitorExit`), which may say by itself why it left
(`title`, `why`, `answer`, `instead`, `section`, `ring`) and which instruction it was (`data`).

Left out: stack traces; the instruction of user code that was recorded earlier, since its address space may be gone.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any, Protocol, cast

from pyvmm.errors import GuestError, PyvmmError
from pyvmm.exits import EXCEPTION_NAMES, ExitReason, SystemRequest
from pyvmm.trace.hardware import msr_instead, msr_name, msr_section, place_of
from pyvmm.units import counted

if TYPE_CHECKING:
    from pyvmm.asm import Instruction
    from pyvmm.cpu.state import CpuState
    from pyvmm.machine.machine import Machine
    from pyvmm.trace.symbols import Symbols

_MAX_INSTRUCTION = 15
_NOT_COUNTED = "; the way out of guest code and back is not counted"
_BITS = {"long": 64, "compatibility": 32, "protected": 32}


class Exit(Protocol):
    """What `explain` needs of an exit; `cpl`, `mode`, `cycles`, `vcpu`, `count` and the words are looked for, too."""

    @property
    def reason(self) -> ExitReason: ...
    @property
    def address(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def is_write(self) -> bool: ...
    @property
    def value(self) -> int: ...
    @property
    def handled(self) -> bool: ...
    @property
    def rip(self) -> int: ...
    @property
    def vector(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Explanation:
    """One exit in words; ``print()`` it, or end a notebook's cell with it.

    Attributes
    ----------
    title
        What happened, in a few words.
    where
        Address with its symbol, or whose code it is.
    instruction
        Disassembled, empty when it cannot be read; `data` has its bytes.
    ring
        CPL and mode in words.
    why
        Why the guest could not do it by itself.
    answer
        What was emulated, and what the guest was given.
    cost
        Cycles of the host, as far as measured.
    instead
        What a paravirtual guest does.
    section
        Of the Intel SDM or the device's specification.
    """

    title: str
    where: str
    instruction: str
    data: bytes
    ring: str
    why: str
    answer: str
    cost: str
    instead: str
    section: str

    def rows(self) -> list[tuple[str, str]]:
        """(heading, text), without what is not known."""
        code = f"{self.data.hex(' ')}   {self.instruction}" if self.instruction else ""
        rows = [
            ("where", self.where),
            ("instruction", code),
            ("ring", self.ring),
            ("why", self.why),
            ("answer", self.answer),
            ("cost", self.cost),
            ("paravirtual", self.instead),
            ("see", self.section),
        ]
        return [row for row in rows if row[1]]

    def __str__(self) -> str:
        return "\n".join([self.title, *(f"  {head:<12} {text}" for head, text in self.rows())])

    def _repr_html_(self) -> str:
        cell = (
            "style='text-align: left; vertical-align: top; padding: 2px 12px; color: #111; background: #fff'"
        )
        rows = [f"<th {cell}>{escape(head)}</th><td {cell}>{escape(text)}</td>" for head, text in self.rows()]
        body = "".join(f"<tr>{row}</tr>" for row in rows)
        caption = (
            "caption-side: top; text-align: left; font-weight: bold; color: #111111; background: #ffffff"
        )
        return f"<table><caption style='{caption}'>{escape(self.title)}</caption>{body}</table>"


def explain(exit_: Exit, machine: Machine | None = None, *, symbols: Symbols | None = None) -> Explanation:
    """Explain an exit.

    Parameters
    ----------
    exit_
        See `Exit`. One that was surfaced is best explained before the guest goes on: its registers are still there.
    machine
        Whose it is: for names of devices and the instruction's bytes. None: what the exit says by itself.
    symbols
        Names for addresses; `Symbols.from_memory(machine.memory)` has a Linux guest's own.
    """
    cpl, mode = getattr(exit_, "cpl", None), str(getattr(exit_, "mode", ""))
    state = _state(exit_, machine)
    if not exit_.rip and bool(getattr(exit_, "count", 0)):
        cpl = None  # a site of many places: whoever ran
    elif cpl is None and state is not None:
        cpl, mode = state.cpl, state.mode
    address, text, data = _instruction(exit_, machine, state, cpl, mode)
    words = _words(exit_, machine)
    return Explanation(
        title=words["title"],
        where=where(address, cpl, mode, symbols),
        instruction=text,
        data=data,
        ring=str(getattr(exit_, "ring", ""))
        or ("" if cpl is None else f"CPL {cpl}, {mode} mode" + _ring_note(cpl, mode)),
        why=words["why"],
        answer=words["answer"],
        cost=_cost(exit_),
        instead=words["instead"],
        section=words["section"],
    )


def where(rip: int, cpl: int | None, mode: str, symbols: Symbols | None) -> str:
    """An address for people: symbol and offset, or whose code it is."""
    name = symbols.name(rip) if symbols is not None else ""
    if name:
        return f"{rip:#x}  {name}"
    if not rip:
        return "between instructions: wherever the guest was"
    if cpl == 3 and mode != "virtual-8086":
        return f"{rip:#x}  user code"
    if mode == "real":
        return f"{rip:#x}  real mode: firmware, boot loader or a kernel's first steps"
    if rip >> 47 == 0x1FFFF:
        return f"{rip:#x}  kernel code" + (" without a symbol (a module?)" if symbols is not None else "")
    return f"{rip:#x}"


def _ring_note(cpl: int, mode: str) -> str:
    if mode == "real":
        return " (no rings)"
    return {0: " (kernel)", 3: " (user)"}.get(cpl, "")


def _state(exit_: Exit, machine: Machine | None) -> CpuState | None:
    """The vCPU's registers, when they can be had now."""
    if machine is None:
        return None
    try:
        return machine.vcpus[getattr(exit_, "vcpu", 0)].state
    except (PyvmmError, IndexError):  # it runs
        return None


def _instruction(
    exit_: Exit, machine: Machine | None, state: CpuState | None, cpl: int | None, mode: str
) -> tuple[int, str, bytes]:
    """Address, text and bytes of the instruction at the exit, through the guest's page tables."""
    rip = exit_.rip
    if own := getattr(exit_, "data", b""):
        from pyvmm.asm import disassemble

        first = disassemble(own, rip, cast(Any, _BITS.get(mode, 16)))[0]
        return rip, first.text, first.data
    if machine is None or state is None or not rip:
        return rip, "", b""
    if cpl == 3 and bool(
        getattr(exit_, "count", 0)
    ):  # a site of a recording: of another address space, perhaps
        return rip, "", b""
    from pyvmm.asm import disassemble

    def at(address: int) -> Instruction | None:
        code = read_code(machine, state, address, _MAX_INSTRUCTION)
        return disassemble(code, address, cast(Any, _BITS.get(mode, 16)))[0] if code else None

    found = at(rip)
    if (exit_.reason is ExitReason.HLT or _is_out(exit_)) and not (found and _does(found, exit_)):
        # RIP is the next one's: always after HLT, and after OUT where KVM's own interpreter did it.
        before = (at(rip - size) for size in range(min(4, rip), 0, -1))
        fits = (each for each in before if each and each.address + each.size == rip)
        found = next((each for each in fits if _does(each, exit_)), None)
    return (found.address, found.text, found.data) if found else (rip, "", b"")


def _is_out(exit_: Exit) -> bool:
    """It wrote to a port."""
    return exit_.reason is ExitReason.IO and exit_.is_write


def _does(instruction: Instruction, exit_: Exit) -> bool:
    """An instruction is what an exit of reason HLT, or a write to a port, can come from."""
    if exit_.reason is ExitReason.HLT:
        return instruction.mnemonic == "hlt"
    port = instruction.operands.split(",")[0]
    return instruction.mnemonic.endswith(("outsb", "outsw", "outsd")) or (
        instruction.mnemonic == "out" and (port == "dx" or int(port, 0) == exit_.address)
    )


def read_code(machine: Machine, state: CpuState, address: int, size: int) -> bytes:
    """Up to `size` bytes at a linear address, as far as they are mapped and memory."""
    from pyvmm.mmu import walk

    data, limit = b"", 1 << (64 if state.efer & 1 << 10 else 32)
    while size and 0 <= address < limit:
        part = min(size, 4096 - address % 4096)
        physical = walk(machine.memory, state, address).physical
        if physical is None:
            break
        try:
            data += machine.memory.read(physical, part)
        except GuestError:
            break
        address, size = address + part, size - part
    return data


def _cost(exit_: Exit) -> str:
    cycles, count = int(getattr(exit_, "cycles", 0)), int(getattr(exit_, "count", 0))
    if not cycles:
        return ""
    if count > 1:
        return (
            f"{cycles // count} host TSC cycles each to answer it, {cycles} for {count} of them{_NOT_COUNTED}"
        )
    return f"{cycles} host TSC cycles to answer it{_NOT_COUNTED}"


# Words -------------------------------------------------------------------------------------------------------------


def _words(exit_: Exit, machine: Machine | None) -> dict[str, str]:
    """Title, why, answer, instead and section; what the exit says of itself comes first."""
    found = _BY_REASON.get(exit_.reason, _other)(exit_, machine)
    for key in found:
        if own := getattr(exit_, key, None):
            found[key] = str(own)
    return found


def describe(exit_: Exit, machine: Machine | None = None) -> str:
    """The title alone: ``"OUT 0x21, 8259A, mask register (OCW1), master"``."""
    return _words(exit_, machine)["title"]


def device_of(exit_: Exit, machine: Machine | None = None) -> str:
    """Which device an exit went to, as the bus names it; ``"processor"`` when to none."""
    if exit_.reason not in (ExitReason.IO, ExitReason.MMIO):
        return "processor"
    ranges = _ranges(exit_, machine)
    return place_of(ranges, exit_.address, write=exit_.is_write)[0] or "nobody"


def _ranges(exit_: Exit, machine: Machine | None) -> Any:
    if machine is None:
        return ()
    return (machine.pio if exit_.reason is ExitReason.IO else machine.mmio).ranges


def _row(title: str, why: str, answer: str, instead: str, section: str) -> dict[str, str]:
    return {"title": title, "why": why, "answer": answer, "instead": instead, "section": section}


def _access(exit_: Exit, machine: Machine | None) -> dict[str, str]:
    port = exit_.reason is ExitReason.IO
    _, place, row = place_of(_ranges(exit_, machine), exit_.address, write=exit_.is_write)
    if machine is None:
        place = ""
    verb = ("OUT" if exit_.is_write else "IN") if port else "store to" if exit_.is_write else "load from"
    title = f"{verb} {exit_.address:#x}" + (f", {place}" if place else "")
    why = (
        "a port belongs to a device, and the device is in the monitor: IN and OUT leave guest code"
        if port
        else "no memory is there but a device's registers: the access faults in the second stage of translation, or is"
        " looked up by the translator"
    )
    digits = 2 * exit_.size
    if exit_.is_write:
        answer = f"{exit_.value:#0{digits + 2}x} ({counted(exit_.size, 'byte')}) was given to the device"
    else:
        answer = f"the device answered {exit_.value:#0{digits + 2}x} ({counted(exit_.size, 'byte')})"
    if not exit_.handled:
        answer = (
            "nobody answers there: the store was dropped"
            if exit_.is_write
            else "nobody answers there: all ones, as from a bus without a device"
        )
    own = "Intel SDM 3C §26.1.3 (I/O instructions)" if port else "Intel SDM 3C §29.3 (EPT)"
    section = f"{row.section}; {own}" if row else own
    return _row(title, why, answer, row.instead if row else "", section)


def _msr(exit_: Exit, machine: Machine | None) -> dict[str, str]:
    name = msr_name(exit_.address)
    title = f"{'WRMSR' if exit_.is_write else 'RDMSR'} {exit_.address:#x}" + (f", {name}" if name else "")
    answer = f"{'written' if exit_.is_write else 'read as'} {exit_.value:#x}"
    if not exit_.handled:
        answer = "no such register here: #GP(0)"
    why = "the register is the virtual processor's and not the host's: the monitor has to read or write its copy"
    return _row(
        title,
        why,
        answer,
        msr_instead(exit_.address),
        f"{msr_section(exit_.address)}; Intel SDM 3C §26.1.3 (RDMSR, WRMSR)",
    )


_WITH_SUBLEAVES = frozenset(
    (
        4,
        7,
        0xB,
        0xD,
        0xF,
        0x10,
        0x12,
        0x14,
        0x17,
        0x18,
        0x1B,
        0x1D,
        0x1F,
        0x20,
        0x23,
        0x24,
        0x8000001D,
        0x80000026,
    )
)  # the others do not look at ECX (Intel SDM 2A CPUID; AMD64 APM 3 appendix E)


def _cpuid(exit_: Exit, machine: Machine | None) -> dict[str, str]:
    subleaf = f", subleaf {exit_.value:#x}" if exit_.address in _WITH_SUBLEAVES else ""
    return _row(
        f"CPUID leaf {exit_.address:#x}{subleaf}",
        "it tells of the host's processor, and the guest has another: it always leaves under hardware assist",
        "the table of the virtual processor",
        "nothing: a guest asks at boot and keeps the answers; a program that asks often (as a serialising instruction)"
        " uses SERIALIZE or LFENCE",
        "Intel SDM 2A CPUID, 3C §26.1.2",
    )


def _halt(exit_: Exit, machine: Machine | None) -> dict[str, str]:
    return _row(
        "HLT",
        "the guest has nothing to do: the host may run somebody else",
        "the vCPU's thread sleeps until an interrupt comes" if exit_.value >> 9 & 1 else
        "interrupts are off: nothing but an NMI can wake it",
        "the same as a hypercall (block); or polling for a moment before it, where the next interrupt is near",
        "Intel SDM 2A HLT, 3C §26.1.3",
    )  # fmt: skip


def _exception(exit_: Exit, machine: Machine | None) -> dict[str, str]:
    name = EXCEPTION_NAMES.get(exit_.vector, f"vector {exit_.vector}")
    address = f", address {exit_.address:#x}" if exit_.vector == 14 and exit_.address else ""
    code = f", error code {exit_.value:#x}" if getattr(exit_, "has_error", False) else ""
    return _row(
        f"exception {name}{code}{address}",
        "the engine tells of exceptions before the guest's own handler runs; under hardware assist most of them stay in"
        " the guest",
        "delivered through the guest's IDT",
        "for page faults of a shadowed guest: page tables that are registered and updated in batches by hypercalls"
        if exit_.vector == 14
        else "nothing: it is the guest's own affair",
        "Intel SDM 3A §6.15, 3C §26.2",
    )


def _interrupt(exit_: Exit, machine: Machine | None) -> dict[str, str]:
    if getattr(exit_, "code", 0):
        return _row(
            f"INT {exit_.vector:#x}",
            "a software interrupt; the translator delivers it itself",
            "delivered through the guest's IDT",
            "SYSCALL, which a processor does alone",
            "Intel SDM 2A INT n, 3A §6.4.4",
        )
    return _row(
        f"interrupt, vector {exit_.vector:#x}",
        "a device wants the processor, and the guest has interrupts on",
        "acknowledged at the interrupt controller and delivered through the guest's IDT",
        "a pending bit in shared memory (event channels), looked at when the guest is entered anyway; posted interrupts"
        " where the processor has them",
        "Intel SDM 3A §6.3, 3C §27.6",
    )


def _system(exit_: Exit, machine: Machine | None) -> dict[str, str]:
    request = getattr(exit_, "request", None)
    if request is None and exit_.vector in set(SystemRequest):
        request = SystemRequest(exit_.vector)
    what = request.name.lower().replace("_", " ") if isinstance(request, SystemRequest) else "request"
    code = getattr(exit_, "code", 0)
    return _row(
        f"system request: {what}" + (f", {code:#x}" if code else ""),
        "a device asked something of the whole machine",
        "the run loop does it, or returns with it",
        "a hypercall",
        "csrc/io/board.h, enum SystemRequest",
    )


def _other(exit_: Exit, machine: Machine | None) -> dict[str, str]:
    title, why, answer = _REST.get(exit_.reason, (exit_.reason.name.lower(), "", ""))
    text = str(getattr(exit_, "text", ""))
    return _row(title, text or why, answer, "", "csrc/engine/engine.h, enum ExitReason")


_REST = {
    ExitReason.KICK: (
        "kick",
        "not the guest's doing: another thread wanted the vCPU to stop or to look",
        "the run loop looked",
    ),
    ExitReason.DEBUG: (
        "debug",
        "a breakpoint, or the end of a single step",
        "the run loop returns with it",
    ),
    ExitReason.SHUTDOWN: (
        "shutdown",
        "a triple fault: an exception, the exception in its delivery, and #DF all failed",
        "a PC resets itself",
    ),
    ExitReason.FAIL: ("failure", "the engine cannot go on", ""),
}

_BY_REASON = {
    ExitReason.IO: _access,
    ExitReason.MMIO: _access,
    ExitReason.MSR: _msr,
    ExitReason.CPUID: _cpuid,
    ExitReason.HLT: _halt,
    ExitReason.EXCEPTION: _exception,
    ExitReason.INTERRUPT: _interrupt,
    ExitReason.SYSTEM: _system,
}
