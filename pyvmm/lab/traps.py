"""A monitor's traps one by one, for `pyvmm.trace.explain`: the same words for exits of the lab as for any engine's.

>>> monitor = Monitor(machine, "trap-and-emulate")                              # doctest: +SKIP
>>> monitor.prepare(kernel, command_line="workload=syscall count=10")           # doctest: +SKIP
>>> for trap in monitor.traps():                                                # doctest: +SKIP
...     print(explain(trap, machine, symbols=kernel.code_symbols()))

Left out: which of the guest's registers a trap changed; a recording of a monitor's traps (their counts are `Counters`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyvmm.asm import disassemble
from pyvmm.exits import EXCEPTION_NAMES, ExitReason
from pyvmm.units import counted

if TYPE_CHECKING:
    from pyvmm.asm import Instruction
    from pyvmm.lab.monitor import Counters

HYPERCALLS = (
    "shared", "traps", "stack", "flush", "address", "iret", "block", "events", "irq", "timer", "console", "exit",
)  # fmt: skip
"""Their names by number (csrc/guest/lab/hypercall.h)."""


@dataclass(frozen=True, slots=True)
class MonitorExit:
    """One trap that a monitor answered; the attributes are those of `pyvmm.trace.Exit`.

    Attributes
    ----------
    kind
        Why the monitor had its turn, as in `Counters.exits`: ``"privileged"``, ``"shadow fill"``, ``"hypercall"``...
    reason
        The same as an engine would call it: IO for IN and OUT, INTERRUPT, else EXCEPTION.
    rip
        Where the guest was: of translated code, what it was translated from.
    cpl, mode
        The *virtual* ring; the real one is 3.
    vector, address, value
        Of the real exception: its number, CR2 and error code. For IO the port and what went over it.
    emulated
        Instructions that were done on the virtual CPU, by mnemonic.
    cycles
        Of the host's TSC, from the stub's OUT to its return.
    data
        Bytes of the instruction.
    title, why, answer, instead, section, ring
        In words; empty where those for the reason do.
    """

    kind: str
    reason: ExitReason
    rip: int
    cpl: int
    vector: int
    address: int
    value: int
    size: int
    is_write: bool
    handled: bool
    emulated: dict[str, int]
    cycles: int
    data: bytes
    title: str
    why: str
    answer: str
    instead: str
    section: str
    ring: str
    mode: str = "long"
    vcpu: int = 0


@dataclass(frozen=True, slots=True)
class Trap:
    """What C kept of one (csrc/lab/monitor.h, LabExit)."""

    kind: str
    rip: int
    cr2: int
    error: int
    cycles: int
    rax: int
    rdx: int
    result: int
    vector: int
    cpl: int
    data: bytes


def monitor_exit(trap: Trap, before: Counters, after: Counters) -> MonitorExit:
    """Put a trap into words, by what the monitor's counters say that it did."""
    instruction = _decoded(trap)
    emulated = _more(before.emulated, after.emulated)
    exceptions, interrupts = (
        after.exceptions - before.exceptions,
        after.interrupts - before.interrupts,
    )
    port = _port(trap, instruction) if trap.kind in ("privileged", "callout") and not exceptions else None
    reason = ExitReason.EXCEPTION if trap.kind != "interrupt" else ExitReason.INTERRUPT
    address, value, size, is_write = (trap.cr2 if trap.vector == 14 else 0), trap.error, 0, False
    if port is not None:
        reason, (address, size, is_write) = ExitReason.IO, port
        value = (trap.rax if is_write else trap.result) & (1 << 8 * size) - 1
    title, why, instead, section = _words(trap, instruction)
    answer = _answer(trap, emulated, exceptions, interrupts, _more(before.translation, after.translation))
    if port is not None:
        text = f"{value:#0{2 * size + 2}x} ({counted(size, 'byte')})"
        answer += f"; {text} was given to the device" if is_write else f"; the device answered {text}"
    return MonitorExit(
        kind=trap.kind, reason=reason, rip=trap.rip, cpl=trap.cpl, vector=trap.vector, address=address, value=value,
        size=size, is_write=is_write, handled=True, emulated=emulated, cycles=trap.cycles, data=trap.data,
        title="" if port is not None else title,
        why=why,
        answer=answer,
        instead="" if port is not None else instead,
        section=section,
        ring=f"virtual CPL {trap.cpl} ({'program' if trap.cpl == 3 else 'kernel'}), real CPL 3",
    )  # fmt: skip


def _decoded(trap: Trap) -> Instruction | None:
    found = next(iter(disassemble(trap.data, trap.rip)), None)
    return None if found is None or found.mnemonic.startswith(".") else found


def _more(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    return {name: count - before.get(name, 0) for name, count in after.items() if count > before.get(name, 0)}


def _port(trap: Trap, instruction: Instruction | None) -> tuple[int, int, bool] | None:
    """Port, size and direction of an IN or OUT; string instructions are told by their mnemonic alone."""
    if instruction is None or instruction.mnemonic not in ("in", "out"):
        return None
    first, second = (word.strip() for word in instruction.operands.split(","))
    out = instruction.mnemonic == "out"
    number, register = (first, second) if out else (second, first)
    port = trap.rdx & 0xFFFF if number == "dx" else int(number, 0)
    return port, {"al": 1, "ax": 2, "eax": 4}[register], out


_BY = {
    "callout": "it was translated into a call of the monitor, before it ever ran",
    "privileged": "it may not run in ring 3, where the kernel really is: #GP or #UD gave the monitor its turn",
}
_KINDS = {  # title, why, what a paravirtual guest does, and where it is written
    "start": ("the first entry", "the monitor begins", "the same", "csrc/lab/monitor.h"),
    "syscall": ("SYSCALL", "EFER.SCE is clear for real, so that the monitor sees it (#UD): the kernel that it is for is"
        " in ring 3 itself", "the same trap, but it arrives as a frame on the kernel's stack: no SYSRET to be emulated",
        "Intel SDM 2B SYSCALL; docs/techniques.md"),
    "int n": ("INT n", "the gate is in the guest's own IDT, which the processor does not know", "a trap table that the"
        " monitor has had from it: one look-up", "Intel SDM 2A INT n, 3A §6.12"),
    "shadow fill": ("page fault of the shadow", "the guest's tables map the page, and the shadow tables on which it"
        " runs did not yet, or with less rights", "the same, where tables are shadowed: it asks for updates in batches,"
        " but a shadow is filled as it is used", "csrc/mmu/shadow.h; Intel SDM 3A §4.7"),
    "trace": ("store into a traced page", "the page is a page table of the guest's (or code that was translated) and"
        " write-protected, so that its shadow is kept in step", "page table updates put into a queue, and done by one"
        " hypercall for all of them", "csrc/mmu/shadow.h; docs/paravirt.md"),
    "page fault": ("the guest's own page fault", "the guest's tables do not allow the access: it is for the guest's"
        " handler", "the same trap: its handler gets it from the monitor, too", "Intel SDM 3A §6.15 (#PF)"),
    "exception": ("the guest's own exception", "the handler is in the guest's own IDT, which the processor does not"
        " know", "a trap table that the monitor has had from it", "Intel SDM 3A §6.15"),
    "interrupt": ("interrupt of a device", "devices' interrupts are the monitor's: real IF is 1 whatever the guest's"
        " is", "a pending bit in a page that both see, and no acknowledgement at a controller",
        "Intel SDM 3A §6.3; docs/paravirt.md"),
    "hypercall": ("hypercall", "the kernel asks by INT 0x82 for what it would otherwise have to be caught at", "this is"
        " it", "docs/paravirt.md"),
    "translation miss": ("code that is not translated", "translated code reached an address of which there is no"
        " translation, or no jump to it yet", "nothing: its kernel runs as it was compiled", "docs/translation.md"),
    "translation check": ("interrupts on, and one waits", "translated code turned the virtual IF on: what waited is"
        " due", "a look at the pending bits when events are turned on, and one hypercall", "docs/translation.md"),
}  # fmt: skip
_FLAGS = {"cli", "sti", "pushf", "pushfq", "popf", "popfq"}
_INSTEAD = {
    "hlt": "a hypercall (block), which turns events on, too",
    "iretq": "a hypercall (iret), where it cannot return by itself",
    "sysretq": "a hypercall (iret)",
    "swapgs": "nothing: the monitor enters its kernel with the kernel's GS base",
    "invlpg": "nothing: the queue of page table updates flushes what it must",
    "rdmsr": "nothing: what the register says is in the page that both see",
    "wrmsr": "a hypercall for what the register is for: stack, address space, timer",
}


def _words(trap: Trap, instruction: Instruction | None) -> tuple[str, str, str, str]:
    """Title, why, what a paravirtual guest does, and section."""
    if trap.kind not in _BY:
        title, why, instead, section = _KINDS.get(trap.kind, (trap.kind, "", "", ""))
        if trap.kind == "hypercall":
            name = HYPERCALLS[trap.rax] if trap.rax < len(HYPERCALLS) else "that does not exist"
            title = f"hypercall {trap.rax}, {name}"
        elif trap.kind == "int n" and instruction is not None:
            title = instruction.text.upper().replace("0X", "0x")
        elif trap.kind in ("exception", "page fault"):
            title = f"{title}, {EXCEPTION_NAMES.get(trap.vector, f'vector {trap.vector}')}"
        elif trap.kind == "interrupt":
            title = f"{title}, vector {trap.vector:#x}"
        if trap.vector == 14 and trap.kind in ("shadow fill", "trace", "page fault"):
            title += f", address {trap.cr2:#x}, error code {trap.error:#x}"
        return title, why, instead, section
    mnemonic = instruction.mnemonic if instruction is not None else ""
    title = instruction.text if instruction is not None else "an instruction that cannot be read"
    if mnemonic in _FLAGS:
        instead = "a store into a page that both see: IF is a byte there"
    elif mnemonic == "mov" and "cr3" in title:
        instead = "a hypercall (address), or an entry in the queue of page table updates"
    else:
        instead = _INSTEAD.get(mnemonic, "a hypercall, or nothing: its state is the monitor's from the start")
    return title, _BY[trap.kind], instead, f"Intel SDM vol. 2, {mnemonic.upper()}; docs/rings.md"


def _answer(
    trap: Trap, emulated: dict[str, int], exceptions: int, interrupts: int, translation: dict[str, int]
) -> str:
    """What the monitor did, as its counters have it."""
    done = []
    if emulated:
        done.append("emulated on the virtual CPU: " + ", ".join(name.upper() for name in emulated))
    if trap.kind == "hypercall":
        result = trap.result - (1 << 64) if trap.result >> 63 else trap.result
        done.append("done" if trap.rax == HYPERCALLS.index("iret") else f"the monitor answered {result}")
    elif trap.kind == "shadow fill":
        done.append("the entry was made from the guest's, and the access goes on")
    elif trap.kind == "trace" and not emulated:
        done.append("the page is writable from now on, and its shadow made anew when the guest flushes")
    elif trap.kind == "syscall":
        done.append("the guest's kernel goes on at its entry")
    if translation.get("blocks"):
        done.append(f"{counted(translation['blocks'], 'block')} translated")
    if translation.get("chained"):
        done.append(f"{counted(translation['chained'], 'jump')} chained")
    if exceptions:
        done.append("an exception delivered through the guest's IDT")
    if interrupts:
        done.append("an interrupt delivered to the guest")
    elif trap.kind == "interrupt":
        done.append("it waits for the virtual IF")
    return "; ".join(done) or "the guest goes on"
