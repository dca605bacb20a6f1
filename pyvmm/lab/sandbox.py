"""A page of code in a ring of one's choice, and everything that the processor does when it refuses: a trap to look at.

A `Sandbox` is a machine in 64-bit mode with what a processor needs to change rings (Intel SDM 3A §6.12, §6.14, §8.7):
a GDT with code and data of rings 0 and 3, a TSS with a stack for ring 0, an IDT of 256 gates, page tables. Whatever
goes through a gate stops the machine in ring 0, with the frame that the processor pushed still on the stack; Python is
the handler. `Sandbox.resume` goes back. The program is at `CODE`, `DATA` is for it to use, `SECRET` belongs to ring 0.

Left out: other modes than 64-bit mode (tests/lab has them), interrupts by devices, more than one vCPU.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Literal

from pyvmm.asm import assemble, disassemble
from pyvmm.cpu.classifier import classify
from pyvmm.cpu.rings import VECTOR_NAMES
from pyvmm.cpu.state import CR0_ET, CR0_NE, CR0_PE, CR0_PG, CR0_WP, CR4_PAE, CpuState
from pyvmm.errors import PyvmmError
from pyvmm.machine.machine import Machine
from pyvmm.svg import Svg

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType
    from typing import Self

    from pyvmm.engine import Vcpu
    from pyvmm.memory import GuestMemory

Ring = Literal[0, 3]

# Guest physical addresses; linear ones are the same, up to MAPPED.
GDT, IDT, TSS, STACK_0 = 0x1000, 0x2000, 0x3000, 0x8000
HANDLERS, SYSCALL_HANDLER = 0x9000, 0xA000
CODE, CODE_SIZE = 0x20000, 0x10000
DATA, STACK_3 = 0x30000, 0x40000
SECRET = 0x50000
PML4, PDPT, PD, PT = 0x60000, 0x61000, 0x62000, 0x63000
MAPPED = 0x200000
_RAM = 4 << 20

CS_0, DS_0, DS_3, CS_3, TR = 0x08, 0x10, 0x23, 0x2B, 0x30
_CODE, _DATA = 0xA09B, 0xC093  # attributes as `SegmentView` has them: present, accessed, flat
_TSS_LIMIT = 0x67
_PUSHES_ERROR = frozenset({8, 10, 11, 12, 13, 14, 17, 21})  # SDM 3A table 6-1
_NAMES = {0: "#DE", 1: "#DB", 3: "#BP", 4: "#OF", 8: "#DF", 16: "#MF", 17: "#AC", 19: "#XM", **VECTOR_NAMES}
_EFER_SCE, _EFER_LME, _EFER_LMA, _EFER_NXE = 1, 1 << 8, 1 << 10, 1 << 11
_IF = 1 << 9


@dataclass(frozen=True, slots=True)
class Stop:
    """Why a program stopped; ``print()`` it, or end a notebook's cell with it.

    Attributes
    ----------
    kind
        ``"trap"`` (through the IDT), ``"syscall"`` (SYSCALL), ``"halt"`` (HLT in ring 0), ``"end"`` (the program's) or
        ``"shutdown"`` (the processor could not deliver an exception: a triple fault).
    vector, error, cr2
        Of a trap; `error` None when the processor pushes none.
    rip, cs, rflags, rsp, ss
        Where the program was, as the frame says (SYSCALL: RCX and R11).
    ring
        In which it was.
    instruction, size
        What stands at `rip`, and its length in bytes. After SYSCALL, INT n and HLT `rip` is the next one already:
        then it is the one before.
    state
        All registers, as they are where the machine stopped: of a trap in ring 0.
    """

    kind: Literal["trap", "syscall", "halt", "end", "shutdown"]
    vector: int | None
    error: int | None
    rip: int
    cs: int
    rflags: int
    rsp: int
    ss: int
    cr2: int
    ring: int
    instruction: str
    size: int
    state: CpuState = field(repr=False)

    @property
    def name(self) -> str:
        """``"#GP"``, ``"vector 0x80"``, or the kind where it was no trap."""
        if self.vector is None:
            return self.kind
        return _NAMES.get(self.vector, f"vector {self.vector:#x}")

    def __str__(self) -> str:
        if self.kind == "end":
            return f"ran to its end in ring {self.ring}"
        error = "" if self.error is None else f", error code {self.error:#x}"
        address = f", address {self.cr2:#x}" if self.vector == 14 else ""
        return f"{self.name}{error}{address}: `{self.instruction}` at {self.rip:#x} in ring {self.ring}"

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}</pre>"

    def frame(self) -> Svg:
        """A picture of what the processor pushed on ring 0's stack (SDM 3A figure 6-9).

        Raises
        ------
        PyvmmError
            It was no trap: nothing was pushed.
        """
        if self.kind != "trap":
            raise PyvmmError(f"{self.name}: the processor pushed nothing; only a trap has a frame")
        cells = [
            ("SS", self.ss, f"the stack that it had: RPL {self.ss & 3}"),
            ("RSP", self.rsp, ""),
            ("RFLAGS", self.rflags, f"IF was {self.rflags >> 9 & 1}, IOPL {self.rflags >> 12 & 3}"),
            ("CS", self.cs, f"the low two bits are the ring: {self.cs & 3}"),
            ("RIP", self.rip, self.instruction),
        ]
        if self.error is not None:
            cells.append(("error code", self.error, _error_words(self.vector or 0, self.error)))
        top = int(self.state.rsp) + 8 * len(cells)
        picture = Svg(700, 40 + 26 * (len(cells) + 1), font_size=13)
        picture.text(
            8, 20, f"{self.name}: ring {self.ring} to ring 0, on the stack that the TSS names", bold=True
        )
        for n, (name, value, why) in enumerate(cells):
            y = 34 + 26 * n
            picture.text(88, y + 17, f"{top - 8 * (n + 1):#x}", anchor="end")
            picture.rectangle(96, y, 96, 24, "#c2d7f4", border="#7a8ba3")
            picture.text(144, y + 17, name, anchor="middle")
            picture.rectangle(192, y, 160, 24, "#eef3fb", border="#7a8ba3")
            picture.text(344, y + 17, f"{value:#x}", anchor="end")
            picture.text(362, y + 17, why)
        picture.text(144, 34 + 26 * len(cells) + 17, "RSP of ring 0 points here", anchor="middle")
        return picture


def _error_words(vector: int, error: int) -> str:
    """An error code in words: of a page fault (3A figure 4-12) or with a selector (3A figure 6-7)."""
    if vector == 14:
        words = ["a page that is there" if error & 1 else "no page", "written" if error & 2 else "read"]
        words.append("by ring 3" if error & 4 else "by the supervisor")
        return ", ".join(words + (["as an instruction"] if error & 16 else []))
    if error == 0:
        return "no selector had to do with it"
    table = "IDT entry" if error & 2 else "LDT entry" if error & 4 else "GDT entry"
    return f"{table} {error >> 3:#x}" + (", from outside" if error & 1 else "")


class Sandbox:
    """A program, and the machine that it is alone on.

    >>> with Sandbox("cli", ring=3) as box:                                        # doctest: +SKIP
    ...     print(box.run())
    #GP, error code 0x0: `cli` at 0x20000 in ring 3

    Parameters
    ----------
    program
        Assembly text, or machine code; at most 64 KiB. It ends by running past its last byte.
    ring
        0 or 3: where it begins.
    engine
        ``"translator"``, ``"kvm"`` or ``"auto"``.
    flags
        RFLAGS; 2 has interrupts off and IOPL 0.
    cr4
        More bits of CR4, such as `pyvmm.cpu.instructions.CR4_UMIP`.
    open_gates
        Vectors whose gate ring 3 may go through by INT n (DPL 3).

    Attributes
    ----------
    machine, memory, vcpu
        To look at and to change.
    code
        The machine code.
    last
        What `run` returned.

    Raises
    ------
    ValueError
        A ring that is neither 0 nor 3, or a program that is too long.
    AssemblyError
        The text is not x86 assembly.
    """

    CODE, DATA, SECRET = CODE, DATA, SECRET
    DATA_SELECTORS = (0x40, 0x48, 0x50, 0x58)
    """Of data segments with DPL 0, 1, 2 and 3; RPL 0."""

    def __init__(
        self,
        program: str | bytes,
        *,
        ring: int = 3,
        engine: Literal["translator", "kvm", "auto"] = "translator",
        flags: int = 2,
        cr4: int = 0,
        open_gates: Iterable[int] = (),
    ) -> None:
        if ring not in (0, 3):
            raise ValueError(f"ring is {ring}: the sandbox has 0 and 3")
        self.code = program if isinstance(program, bytes) else assemble(program, address=CODE)
        if not len(self.code) + 2 <= CODE_SIZE:
            raise ValueError(f"a program of {len(self.code)} bytes: there is room for {CODE_SIZE - 2}")
        self.end = CODE + len(self.code)
        self.machine = Machine(memory=_RAM, serial="null", engine=engine)
        self.memory: GuestMemory = self.machine.memory
        self.vcpu: Vcpu = self.machine.vcpu
        self.last: Stop | None = None
        _build(self.memory, frozenset(open_gates))
        self.memory.load(CODE, self.code + b"\x0f\x0b")  # UD2
        self.vcpu.state = _start(ring, flags, cr4)

    def run(self, timeout: float = 10.0) -> Stop:
        """Until it traps, calls, halts or ends.

        Raises
        ------
        PyvmmError
            It did none of these for `timeout` seconds, or the engine cannot go on.
        """
        result = self.machine.run(timeout=timeout)
        if result.reason == "shutdown":
            self.last = self._ended("shutdown", self.vcpu.state)
            return self.last
        if result.reason != "halted":
            why = result.exit.text or f"the machine ended by {result.reason!r}"
            raise PyvmmError(f"the program at {self.vcpu.state.rip:#x}: {why}")
        self.last = self._stop(self.vcpu.state)
        return self.last

    def resume(self, *, skip: bool = False, rip: int | None = None, rsp: int | None = None) -> None:
        """Go back to where the program was, with the registers that `vcpu.state` has now; `run` then goes on.

        Parameters
        ----------
        skip
            Behind the instruction that trapped: it has been emulated.
        rip, rsp
            Or somewhere else; with another stack pointer.

        Raises
        ------
        PyvmmError
            Nothing has trapped.
        """
        stop = self.last
        if stop is None or stop.kind in ("end", "shutdown"):
            raise PyvmmError(
                "there is nothing to go back to: run() first" if stop is None else "it has ended"
            )
        state = self.vcpu.state
        _set_ring(state, stop.ring)
        state.rsp, state.rflags = stop.rsp if rsp is None else rsp, stop.rflags
        state.rip = rip if rip is not None else stop.rip + (stop.size if skip else 0)
        state.halted = 0
        self.vcpu.state = state
        self.last = None

    def _stop(self, state: CpuState) -> Stop:
        """What the stubs and the stack tell."""
        at = int(state.rip) - 1  # of the HLT
        if at == SYSCALL_HANDLER:
            rip = int(state.rcx)
            text, size = self._instruction(rip - 2)
            return Stop("syscall", None, None, rip, CS_3, state.r11, state.rsp, DS_3, 0, 3, text, size, state)
        if not HANDLERS <= at < HANDLERS + 4 * 256:
            return self._ended("halt", state)
        vector, frame_at = (at - HANDLERS) // 4, int(state.rsp)
        error = None
        if vector in _PUSHES_ERROR:
            error, frame_at = self.memory.read_integer(frame_at, 8), frame_at + 8
        rip, cs, rflags, rsp, ss = (self.memory.read_integer(frame_at + 8 * n, 8) for n in range(5))
        ring = cs & 3
        if vector == 6 and rip == self.end:
            return Stop("end", None, None, rip, cs, rflags, rsp, ss, 0, ring, "", 0, state)
        behind = vector in (3, 4) or vector >= 32
        text, size = self._before(rip) if behind else self._instruction(rip)
        cr2 = int(state.cr2) if vector == 14 else 0
        return Stop(
            "trap", vector, error, rip, cs, rflags, rsp, ss, cr2, ring, text, 0 if behind else size, state
        )

    def _ended(self, kind: Literal["halt", "shutdown"], state: CpuState) -> Stop:
        """It left by no gate: the registers are its own. After HLT RIP is behind it."""
        rip = int(state.rip)
        text, size = self._instruction(rip - (kind == "halt"))
        frame = rip, state.cs.selector, state.rflags, state.rsp, state.ss.selector
        return Stop(kind, None, None, *frame, 0, int(state.cpl), text, size, state)

    def _instruction(self, address: int) -> tuple[str, int]:
        if not 0 <= address <= _RAM - 16:
            return "(no code)", 0
        first = disassemble(self.memory.read(address, 15), address)[0]
        return first.text, first.size

    def _before(self, address: int) -> tuple[str, int]:
        """The instruction that ends at an address, counted from the program's beginning."""
        for each in disassemble(self.code, CODE):
            if each.address + each.size == address:
                return each.text, each.size
        return "(an instruction before it)", 0

    def listing(self) -> str:
        """The program, disassembled."""
        return "\n".join(map(str, disassemble(self.memory.read(CODE, len(self.code)), CODE)))

    def close(self) -> None:
        """Free the machine."""
        self.machine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Sandbox: {len(self.code)} bytes, {self.last or 'not run yet'}>"


# Both rings -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RingComparison:
    """The same program in ring 0 and in ring 3.

    Attributes
    ----------
    ring_0, ring_3
        How each ended.
    results
        The watched register at the end of each; None where it did not get there.
    verdict
        For a kernel that a monitor runs in ring 3: ``"#GP"`` and the like, it traps, the monitor can step in;
        ``"differs"``, no trap and not what ring 0 gets; ``"leaks"``, no trap and what ring 0 gets, where an instruction
        on the way reveals the machine's state; ``"same"``, no trap and nothing to see; ``"absent"``, it traps in both.
    """

    program: str
    ring_0: Stop
    ring_3: Stop
    results: tuple[int | None, int | None]
    verdict: str

    @property
    def traps(self) -> bool:
        """Whether ring 3 traps where ring 0 does not."""
        return self.verdict.startswith(("#", "vector"))

    def __str__(self) -> str:
        values = [f"{value:#x}" if value is not None else str(stop) for value, stop in zip(
            self.results, (self.ring_0, self.ring_3), strict=True
        )]  # fmt: skip
        return f"{self.program}: {self.verdict}\n  ring 0: {values[0]}\n  ring 3: {values[1]}"

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}</pre>"


def compare_rings(
    program: str,
    *,
    result: str = "rax",
    engine: Literal["translator", "kvm", "auto"] = "translator",
    flags: int = 2,
    cr4: int = 0,
    open_gates: Iterable[int] = (),
) -> RingComparison:
    """Run a program in ring 0 and in ring 3, and say what a monitor makes of the difference.

    Parameters
    ----------
    program
        Assembly text. The instruction in question, and what brings what it showed into `result`.
    result
        The register that is compared at the end; `Sandbox` has the others.
    engine, flags, cr4, open_gates
        As for `Sandbox`.
    """
    gates = tuple(open_gates)
    stops = []
    for ring in (0, 3):
        with Sandbox(program, ring=ring, engine=engine, flags=flags, cr4=cr4, open_gates=gates) as box:
            stops.append(box.run())
            code = box.code
    ring_0, ring_3 = stops
    values = [int(getattr(stop.state, result)) if stop.kind in ("end", "halt") else None for stop in stops]
    if ring_0.kind == "trap" and ring_0.vector in _NAMES:
        verdict = "absent" if ring_3.vector == ring_0.vector else "only ring 3"
    elif ring_3.kind == "trap" and ring_0.vector != ring_3.vector:
        verdict = ring_3.name
    elif (values[0], ring_0.cs & 3) != (values[1], ring_0.cs & 3) or ring_3.kind != ring_0.kind:
        verdict = "differs"
    else:
        shown = [classify(each.data, cr4=cr4) for each in disassemble(code, CODE)]
        verdict = "leaks" if any("behaviour" in each.sensitivity for each in shown) else "same"
    return RingComparison(program.strip(), ring_0, ring_3, (values[0], values[1]), verdict)


# What a processor needs -----------------------------------------------------------------------------------------------


def _build(memory: GuestMemory, open_gates: frozenset[int]) -> None:
    """Descriptor tables, handlers and page tables."""

    def segment(access: int, flags: int, limit: int = 0xFFFFF, base: int = 0) -> bytes:
        value = limit & 0xFFFF | base << 16 | access << 40 | (limit >> 16) << 48 | flags << 52
        return struct.pack("<Q", value)

    memory.load(
        GDT,
        bytes(8)
        + segment(0x9B, 0xA)  # 08: code, ring 0
        + segment(0x93, 0xC)  # 10: data, ring 0
        + segment(0xFB, 0xC)  # 18: 32-bit code, ring 3 (where SYSRET looks for it)
        + segment(0xF3, 0xC)  # 20: data, ring 3
        + segment(0xFB, 0xA)  # 28: code, ring 3
        + segment(0x8B, 0, _TSS_LIMIT, TSS)  # 30: TSS, busy
        + bytes(8)
        + b"".join(segment(0x93 | dpl << 5, 0xC) for dpl in range(4)),  # 40, 48, 50, 58: DATA_SELECTORS
    )
    tss = bytearray(_TSS_LIMIT + 1)
    struct.pack_into("<Q", tss, 4, STACK_0)
    struct.pack_into("<H", tss, 0x66, _TSS_LIMIT + 1)  # no I/O bit map: no port for ring 3
    memory.load(TSS, tss)
    gates = b"".join(
        struct.pack("<HHHHII", HANDLERS + 4 * n, CS_0, 0x8E00 | (0x6000 if n in open_gates else 0), 0, 0, 0)
        for n in range(256)
    )
    memory.load(IDT, gates)
    memory.load(HANDLERS, b"\xf4\xeb\xfd\x90" * 256)  # HLT; JMP to it; NOP
    memory.load(SYSCALL_HANDLER, b"\xf4\xeb\xfd")
    for table, target in ((PML4, PDPT), (PDPT, PD), (PD, PT)):
        memory.write_integer(table, 8, target | 7)
    user = range(CODE, STACK_3, 0x1000)
    memory.load(
        PT, b"".join(struct.pack("<Q", at | (7 if at in user else 3)) for at in range(0, MAPPED, 0x1000))
    )
    memory.load(SECRET, b"for ring 0 only\0")


def _set_ring(state: CpuState, ring: int) -> None:
    state.cs.set(CS_3 if ring else CS_0, 0, 0xFFFFFFFF, _CODE | ring << 5)
    for name in ("ss", "ds", "es", "fs", "gs"):
        getattr(state, name).set(DS_3 if ring else DS_0, 0, 0xFFFFFFFF, _DATA | ring << 5)


def _start(ring: int, flags: int, cr4: int) -> CpuState:
    state = CpuState()
    state.cr0 = CR0_PE | CR0_ET | CR0_NE | CR0_WP | CR0_PG
    state.cr3, state.cr4 = PML4, CR4_PAE | 0x600 | cr4
    state.efer = _EFER_SCE | _EFER_LME | _EFER_LMA | _EFER_NXE
    state.star, state.lstar, state.fmask = CS_0 << 32 | 0x1B << 48, SYSCALL_HANDLER, _IF
    state.gdtr.base, state.gdtr.limit = GDT, 0x5F
    state.idtr.base, state.idtr.limit = IDT, 0xFFF
    state.tr.set(TR, TSS, _TSS_LIMIT, 0x8B)
    state.ldtr.set(0, 0, 0, 0x10082)
    _set_ring(state, ring)
    state.rip, state.rsp, state.rflags = CODE, STACK_3 if ring else STACK_0 - 0x400, flags | 2
    return state
