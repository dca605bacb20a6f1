"""A bare machine for testing engines: RAM, ROM, one vCPU, a device that notes what is done to it, and handlers.

The same rig serves every engine. A test says what it needs of one (`needs`), and a probe on that engine decides.
Handlers in the guest note every exception and interrupt: what the CPU pushed, CR2, DR6 and the stack pointer.
What they do
then is set by vector: end the program, go on where the frame says, or go on at a given address. A program ends with HLT
while interrupts are off.

Left out: more than one vCPU, hardware tasks.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any, Literal, NamedTuple, TypeVar

import pytest

import pyvmm
from pyvmm.board import Board
from pyvmm.cpu.state import CODE_16, CODE_32, CODE_64, CR0_PG, DATA_16, DATA_32, CpuState
from pyvmm.devices.apic import Lapic
from pyvmm.devices.base import Device
from pyvmm.devices.pic import Pic
from pyvmm.engine import Engine, EngineVm, ExitReason, Vcpu, VmExit
from tests.conformance.engine_tables import PageTables, gate_32, gate_64, gdt

Mode = Literal["real", "pm16", "pm32", "paging32", "pae", "long", "compat", "v86"]
MODE_CAPABILITIES = {
    "real": "real", "pm16": "protected-16", "pm32": "protected-32", "paging32": "paging-32", "pae": "paging-pae",
    "long": "long", "compat": "compatibility", "v86": "virtual-8086",
}  # fmt: skip
"""What an engine needs for each (`engine_probes`)."""
FLAT_32: tuple[Mode, ...] = ("pm32", "paging32", "pae")

# Guest memory. All of the first megabyte is mapped to itself wherever paging is on.
GDT, IDT_32, IDT_64, TSS, LDT = 0x1000, 0x1800, 0x2000, 0x3000, 0x5800
IO_BITMAP = 0x88
TSS_LIMIT = IO_BITMAP + 8192
IST_STACK, STACK = 0x6800, 0x7000
ACTIONS, RESUME = 0x7D00, 0x7E00
CODE = 0x8000
HANDLERS_16, HANDLERS_32, HANDLERS_64 = 0xC000, 0xD000, 0xE000
LOG, LOG_ENTRY, LOG_END = 0xF000, 80, 0xFFA0
USER_CODE, USER_STACK, USER_END = 0x20000, 0x38000, 0x40000
DATA = 0x50000
MMIO_WINDOW, ROM = 0xC0000, 0xF0000
HIGH = 0x100000
TABLES, TABLES_END = 0x300000, 0x400000
RAM_END = 0x1000000
MMIO = 0xE0000000

PORT = 0xE0
IRQ_BASE = 0x20
USER_VECTOR, TRAP_VECTOR = 0x30, 0x31
VECTORS = 0x34
STUB = 16

CS64, DS0, CS32_3, DS3, CS64_3, CS32, CS16, DS16, TR, LDTR = (
    8,
    0x10,
    0x1B,
    0x23,
    0x2B,
    0x30,
    0x38,
    0x40,
    0x48,
    0x58,
)
ABSENT_DATA, ABSENT_CODE, SHORT_DATA, READ_ONLY_DATA, SPARE = 0x68, 0x70, 0x78, 0x80, 0x88

HALT, CONTINUE, SKIP, EOI = range(4)
"""What a handler does after noting: HLT for good, IRET, IRET to `Rig.resume_at`, or end of interrupt and IRET."""

CF, PF, AF, ZF, SF, TF, IF, DF, OF = (1 << bit for bit in (0, 2, 4, 6, 7, 8, 9, 10, 11))
RF, VM, AC = 1 << 16, 1 << 17, 1 << 18

DE, DB, NMI, BP, OF_, BR, UD, NM, DF_, TS, NP, SS, GP, PF_, MF, AC_, XM = (
    0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13, 14, 16, 17, 19,
)  # fmt: skip
PUSHES_ERROR = {DF_, TS, NP, SS, GP, PF_, AC_}


class Fault(NamedTuple):
    """What a handler saw: the CPU's frame (SP and SS only after a change of ring, or in 64-bit mode), and registers."""

    vector: int
    error: int
    ip: int
    cs: int
    flags: int
    sp: int
    ss: int
    cr2: int
    frame: int
    dr6: int


class Sink(Device):
    """Notes every access as ("in" or "out", offset, size, value); reads give `memory`, or what `answers` holds."""

    name = "sink"

    def __init__(self) -> None:
        super().__init__()
        self.log: list[tuple[str, int, int, int]] = []
        self.answers: list[int] = []
        self.memory = b""
        self.on_read: Callable[[], None] = lambda: None
        self.on_write: Callable[[int, int], None] | None = None

    def pio_read(self, region: int, offset: int, size: int) -> int:
        value = 0x8877665544332211 & ((1 << 8 * size) - 1)
        if self.memory:
            value = int.from_bytes(self.memory[offset : offset + size], "little")
        elif self.answers:
            value = self.answers.pop(0)
        self.log.append(("in", offset, size, value))
        self.on_read()
        return value

    def pio_write(self, region: int, offset: int, size: int, value: int) -> None:
        self.log.append(("out", offset, size, value))
        if self.on_write is not None:
            self.on_write(offset, value)

    mmio_read, mmio_write = pio_read, pio_write

    @property
    def bytes_written(self) -> dict[int, int]:
        """Every byte stored, by offset: the same however an engine splits an access."""
        return {
            offset + n: value >> 8 * n & 0xFF
            for kind, offset, size, value in self.log if kind == "out"
            for n in range(size)
        }  # fmt: skip

    @property
    def written(self) -> list[int]:
        """The values of all writes, in order."""
        return [value for kind, _, _, value in self.log if kind == "out"]


class Rig:
    """One machine. `start` a program in a mode, then `run` it."""

    def __init__(
        self,
        engine: Engine,
        clock: Literal["realtime", "virtual"] = "realtime",
        tsc_hz: int | None = None,
        apic: bool = False,
    ) -> None:
        self.require: Callable[[str], None] = lambda capability: None
        self.refused: Callable[[str], None] = lambda instruction: None
        self.board = Board(clock)
        if tsc_hz is not None:
            self.board.tsc_hz = tsc_hz
        self.sink, self.mmio_sink = Sink(), Sink()
        self.pic: Pic | None = None
        self.devices: list[Device] = []
        memory = self.memory = self.board.memory
        memory.add(0, MMIO_WINDOW)
        memory.add(ROM, 0x10000, read_only=True)
        memory.add(HIGH, RAM_END - HIGH)
        memory.load(ROM, bytes(range(256)) * 256)
        self.board.pio.add(PORT, 8, self.sink)
        self.board.mmio.add(MMIO_WINDOW, 0x10000, self.mmio_sink)
        self.board.mmio.add(MMIO, 0x10000, self.mmio_sink)
        self.apic: Lapic | None = Lapic(self.board) if apic else None  # before the vCPU: CPUID tells of it
        self.vm: EngineVm = engine.create_vm(self.board)
        self.vcpu: Vcpu = self.vm.create_vcpu(0)
        self.tables = PageTables(memory, "long", TABLES, TABLES_END)
        self._install()

    # Before a run ----------------------------------------------------------------------------------------------------

    def _install(self) -> None:
        memory = self.memory
        for base, code in (
            (HANDLERS_16, handlers(16)),
            (HANDLERS_32, handlers(32)),
            (HANDLERS_64, handlers(64)),
        ):
            memory.load(base, code)
        ivt, idt_32, idt_64 = bytearray(), bytearray(), bytearray()
        for vector in range(256):
            present = vector < VECTORS
            ring = 3 if vector in (BP, OF_, USER_VECTOR, TRAP_VECTOR) else 0
            trap = vector == TRAP_VECTOR
            ivt += struct.pack("<HH", HANDLERS_16 + STUB * vector, 0) if present else bytes(4)
            idt_32 += gate_32(HANDLERS_32 + STUB * vector, CS32, ring, trap) if present else bytes(8)
            idt_64 += gate_64(HANDLERS_64 + STUB * vector, CS64, ring, trap) if present else bytes(16)
        memory.load(0, ivt)
        memory.load(IDT_32, idt_32)
        memory.load(IDT_64, idt_64)
        memory.write_u32(LOG, LOG + 16)

    def set_tss(self, long: bool) -> None:
        """Stacks for rings 0 (and IST 1), and an I/O bitmap that refuses all ports."""
        tss = bytearray(TSS_LIMIT + 1)
        if long:
            struct.pack_into("<Q", tss, 4, STACK)
            struct.pack_into("<Q", tss, 0x24, IST_STACK)
        else:
            struct.pack_into("<II", tss, 4, STACK, DS0)
        struct.pack_into("<H", tss, 0x66, IO_BITMAP)
        tss[IO_BITMAP:] = b"\xff" * (len(tss) - IO_BITMAP)
        self.memory.load(TSS, tss)
        self.memory.load(GDT, gdt(TSS, TSS_LIMIT, LDT, 0xFF))

    def allow_port(self, port: int, count: int = 1) -> None:
        """Clear bits of the I/O bitmap."""
        for number in range(port, port + count):
            at = TSS + IO_BITMAP + number // 8
            self.memory.write_u8(at, self.memory.read_u8(at) & ~(1 << number % 8))

    def on(self, *vectors: int, action: int) -> None:
        """What the handlers of these vectors do."""
        for vector in vectors:
            self.memory.write_u8(ACTIONS + vector, action)

    def resume_at(self, address: int) -> None:
        """Where `SKIP` goes on."""
        self.memory.write_u32(RESUME, address)

    def start(self, mode: Mode, program: str | bytes, *, cpl: int = 0, **registers: int) -> int:
        """Load a program and point the vCPU at it; returns where it lies. `registers` are set last."""
        base = USER_CODE if cpl == 3 or mode == "v86" else CODE
        code = program if isinstance(program, bytes) else assemble(program, BITS[mode], base)
        self.memory.load(base, code)
        self.vcpu.state = self.state(mode, base, cpl, **registers)
        return base

    def state(self, mode: Mode, ip: int, cpl: int = 0, **registers: int) -> CpuState:
        """The registers that `start` gives the vCPU; prepares page tables, GDT and TSS."""
        self.require(MODE_CAPABILITIES[mode])
        s = CpuState()
        s.cr0 = 0x10033 if mode != "real" else 0x10
        s.idtr.base, s.idtr.limit = (IDT_32, 0x7FF)
        s.gdtr.base, s.gdtr.limit = GDT, 0xFF
        s.cr4 = 0x600
        s.rip, s.rsp, s.rflags = ip, STACK - 0x100, 2
        long = mode in ("long", "compat")
        self.set_tss(long)
        s.tr.set(TR, TSS, TSS_LIMIT, 0x8B)
        s.ldtr.set(0, 0, 0, 0x10082)
        if mode == "real":
            s.idtr.base, s.idtr.limit = 0, 0x3FF
            _segments(s, 0, 0, CODE_16, DATA_16, 0xFFFF)
        elif mode == "v86":
            s.rflags |= VM
            _segments(s, 0, 0, 0xF3, 0xF3, 0xFFFF)
            for name in ("cs", "ds", "es", "ss"):
                getattr(s, name).set(USER_CODE >> 4, USER_CODE, 0xFFFF, 0xF3)
            s.rip, s.rsp = ip - USER_CODE, 0xF000
        elif mode == "pm16":
            _segments(s, CS16, DS16, CODE_16, DATA_16, 0xFFFF)
        elif cpl:
            code, bits = (CS64_3, CODE_64) if mode == "long" else (CS32_3, CODE_32)
            _segments(s, code, DS3, bits | 0x60, DATA_32 | 0x60, 0xFFFFFFFF)
            s.rsp = USER_STACK
        else:
            code, bits = (CS64, CODE_64) if mode == "long" else (CS32, CODE_32)
            _segments(s, code, DS0, bits, DATA_32, 0xFFFFFFFF)
        if mode in ("paging32", "pae", "long", "compat"):
            self.page("long" if long else mode)
            s.cr3 = self.tables.root
            s.cr0 |= CR0_PG
            s.cr4 |= 0x10 if mode == "paging32" else 0x20
            s.efer = 0xD01 if long else 0x800 if mode == "pae" else 0
        if long:
            s.idtr.base, s.idtr.limit = IDT_64, 0xFFF
        for name, value in registers.items():
            setattr(s, name, value)
        return s

    def page(self, kind: str) -> PageTables:
        """Fresh tables: the first 2 MiB are themselves, ring 3 may have USER_CODE to USER_END."""
        tables = self.tables = PageTables(self.memory, kind, TABLES, TABLES_END)
        tables.map(0, 0, USER_CODE, "PW")
        tables.map(USER_CODE, USER_CODE, USER_END - USER_CODE, "PWU")
        tables.map(USER_END, USER_END, 0x200000 - USER_END, "PW")
        tables.map(TABLES, TABLES, TABLES_END - TABLES, "PW")
        tables.map(MMIO, MMIO, 0x2000, "PW")
        return tables

    def interrupts(self) -> Pic:
        """A pair of 8259s at IRQ_BASE with every line open; ICW1-4 as in the 8259A datasheet."""
        self.pic = Pic(self.board)
        self.devices.append(self.pic)
        self.board.pio.add(0x20, 2, self.pic, Pic.MASTER)
        self.board.pio.add(0xA0, 2, self.pic, Pic.SLAVE)
        for port, words in ((0x20, (0x11, IRQ_BASE, 4, 1, 0)), (0xA0, (0x11, IRQ_BASE + 8, 2, 1, 0))):
            self.board.pio.write(port, 1, words[0])
            for word in words[1:]:
                self.board.pio.write(port + 1, 1, word)
        return self.pic

    # Running ---------------------------------------------------------------------------------------------------------

    def run(self, surface: Iterable[ExitReason] = (), seconds: float = 20) -> VmExit:
        """Until the program ends, or an exit that is asked for. A program that does not end fails the test."""
        late = threading.Event()

        def end() -> None:
            late.set()
            self.vcpu.kick()

        watchdog = threading.Timer(seconds, end)
        watchdog.start()
        try:
            while True:
                exit_ = self.vcpu.run(surface)
                assert not late.is_set(), f"the guest does not end; {self.faults[:4]}\n{self.vcpu.state!r}"
                if exit_.reason is ExitReason.FAIL:
                    self._explain(exit_)
                    raise AssertionError(exit_.text)
                fault = self.board.take_fault()
                if fault is not None:
                    raise fault
                return exit_
        finally:
            watchdog.cancel()

    def step(self) -> VmExit:
        """One instruction, as `Vcpu.step`."""
        exit_ = self.vcpu.step()
        if exit_.reason is ExitReason.FAIL:
            self._explain(exit_)
        return exit_

    def _explain(self, exit_: VmExit) -> None:
        """Tell `refused` of an instruction that the engine will not execute."""
        if "cannot emulate the instruction" in exit_.text:
            state = self.vcpu.state
            code = bytes.fromhex(exit_.text.partition("begins ")[2])
            first = pyvmm.disassemble(code, state.rip, bits=state.code_bits)[0]
            self.refused(
                f"{' '.join(first.text.split()[:2])} in {state.mode} mode, ring {state.cpl}"
                if first.text.startswith(("lock", ".byte"))
                else f"{first.text.split()[0]} in {state.mode} mode, ring {state.cpl}"
            )

    def finish(self, mode: Mode, program: str | bytes, *, cpl: int = 0, **registers: int) -> CpuState:
        """`start`, run to the end, and the registers there."""
        self.start(mode, program, cpl=cpl, **registers)
        exit_ = self.run()
        assert exit_.reason is ExitReason.HLT, f"{exit_}; {self.faults[:4]}"
        return self.vcpu.state

    def fault(self, mode: Mode, program: str | bytes, *, cpl: int = 0, **registers: int) -> Fault:
        """`finish` a program that ends in a handler: what the first one saw."""
        self.finish(mode, program, cpl=cpl, **registers)
        assert self.faults, f"nothing faulted\n{self.vcpu.state!r}"
        return self.faults[0]

    @property
    def faults(self) -> list[Fault]:
        """What all handlers saw, oldest first."""
        end = self.memory.read_u32(LOG)
        raw = self.memory.read(LOG + 16, end - LOG - 16)
        return [Fault(*row) for row in struct.iter_unpack("<10Q", raw)]

    def forget(self) -> None:
        """Empty the handlers' log."""
        self.memory.load(LOG, bytes(LOG_END - LOG + LOG_ENTRY))
        self.memory.write_u32(LOG, LOG + 16)

    @property
    def vectors(self) -> list[int]:
        """The vectors of `faults`."""
        return [fault.vector for fault in self.faults]

    def close(self) -> None:
        """Engine first, then devices and board."""
        self.vm.close()
        self.board.stop_io()
        if self.apic is not None:
            self.apic.close()
        for device in self.devices:
            device.close()
        self.board.close()


BITS: dict[Mode, Literal[16, 32, 64]] = {
    "real": 16, "v86": 16, "pm16": 16, "pm32": 32, "paging32": 32, "pae": 32, "compat": 32, "long": 64,
}  # fmt: skip


def _segments(s: CpuState, code: int, data: int, code_bits: int, data_bits: int, limit: int) -> None:
    s.cs.set(code, 0, limit, code_bits)
    for name in ("ds", "es", "ss", "fs", "gs"):
        getattr(s, name).set(data, 0, limit, data_bits)


@cache
def assemble(text: str, bits: Literal[16, 32, 64], address: int = 0) -> bytes:
    """`pyvmm.assemble`, remembered: the same program runs on several engines."""
    return pyvmm.assemble(text, bits=bits, address=address)


def far_jump(bits: Literal[16, 32], selector: int, offset: int) -> str:
    """JMP ptr16:16 or ptr16:32 as a directive: keystone does not take it."""
    form = "<BHH" if bits == 16 else "<BIH"
    return ".byte " + ",".join(map(str, struct.pack(form, 0xEA, offset, selector)))


@cache
def handlers(bits: Literal[16, 32, 64]) -> bytes:
    """STUB bytes a vector that push its number, then the code that notes and acts (the module's docstring)."""
    base = {16: HANDLERS_16, 32: HANDLERS_32, 64: HANDLERS_64}[bits]
    common = base + STUB * VECTORS
    stubs = bytearray()
    for vector in range(VECTORS):
        stub = b"" if bits == 16 or vector in PUSHES_ERROR else b"\x6a\x00"
        stub += bytes((0x6A, vector))
        jump = common - (base + len(stubs) + len(stub))
        stub += struct.pack("<Bh", 0xE9, jump - 3) if bits == 16 else struct.pack("<Bi", 0xE9, jump - 5)
        stubs += stub.ljust(STUB, b"\x90")
    return bytes(stubs) + assemble(_HANDLER[bits], bits, common)


T = TypeVar("T", bound=Callable[..., Any])


def needs(*capabilities: str) -> Callable[[T], T]:
    """What an engine must be able to do for this test; a probe on the engine decides (`engine_probes.py`)."""

    def mark(function: T) -> T:
        function.needs = (*getattr(function, "needs", ()), *capabilities)  # type: ignore[attr-defined]
        return function

    return mark


def interpreted(what: str) -> pytest.MarkDecorator:
    """What a KVM that interprets ring 0 may do otherwise than a processor: there the test may fail."""
    return pytest.mark.interpreted(what)


def defect_of(engine: str, reason: str) -> Callable[[T], T]:
    """What is known to be wrong in the engine of that name: the test must fail there, and pass on every other."""

    def mark(function: T) -> T:
        function.defect = (engine, reason)  # type: ignore[attr-defined]
        return function

    return mark


def _noting(size: int, a: str, b: str, ip: int) -> str:
    """Copy vector, error code and frame from the stack to the log, then act. `ip`: offset of the pushed IP."""
    words = "\n".join(
        f"mov {a}, [{'r' if size == 8 else 'e'}sp+{ip + size * (number - 2)}]\n mov ss:[{b}+{8 * number}], {a}"
        for number in range(7)
    )
    sp = "rsp" if size == 8 else "esp"
    vector = ip - 2 * size
    pointer = f"dword ptr ss:[{LOG}]"
    return f"""
        push {a}; push {b}
        mov ebx, {pointer}
        {words}
        mov {a}, cr2; mov ss:[{b}+56], {a}
        lea {a}, [{sp}+{ip}]; mov ss:[{b}+64], {a}
        mov {a}, dr6; mov ss:[{b}+72], {a}
        cmp ebx, {LOG_END - LOG_ENTRY}; jae full
        add ebx, {LOG_ENTRY}; mov {pointer}, ebx
        full:
        mov {a}, [{sp}+{vector}]; movzx eax, byte ptr ss:[{a}+{ACTIONS}]
        cmp al, {HALT}; je halt
        cmp al, {EOI}; je eoi
        cmp al, {SKIP}; jne out
        mov eax, dword ptr ss:[{RESUME}]; mov [{sp}+{ip}], {a}
        jmp out
        eoi: mov al, 0x20; cmp dword ptr [{sp}+{vector}], {IRQ_BASE + 8}; jb master; out 0xa0, al
        master: out 0x20, al
        out: pop {b}; pop {a}; add {sp}, {2 * size}; {"iretq" if size == 8 else "iretd"}
        halt: pop {b}; pop {a}
        forever: cli; hlt; jmp forever
    """


_HANDLER = {
    16: f"""
        push eax; push ebx; push bp; mov bp, sp
        mov ebx, dword ptr ss:[{LOG}]
        movzx eax, word ptr [bp+10]; mov dword ptr ss:[bx], eax
        movzx eax, word ptr [bp+12]; mov dword ptr ss:[bx+16], eax
        movzx eax, word ptr [bp+14]; mov dword ptr ss:[bx+24], eax
        movzx eax, word ptr [bp+16]; mov dword ptr ss:[bx+32], eax
        lea ax, [bp+12]; mov word ptr ss:[bx+64], ax
        mov eax, dr6; mov dword ptr ss:[bx+72], eax
        cmp bx, {LOG_END - LOG_ENTRY}; jae full
        add bx, {LOG_ENTRY}; mov dword ptr ss:[{LOG}], ebx
        full:
        mov bx, word ptr [bp+10]; movzx ax, byte ptr ss:[bx+{ACTIONS}]
        cmp al, {HALT}; je halt
        cmp al, {EOI}; je eoi
        cmp al, {SKIP}; jne out
        mov ax, word ptr ss:[{RESUME}]; mov word ptr [bp+12], ax
        jmp out
        eoi: mov al, 0x20; cmp bx, {IRQ_BASE + 8}; jb master; out 0xa0, al
        master: out 0x20, al
        out: pop bp; pop ebx; pop eax; add sp, 2; iret
        halt: pop bp; pop ebx; pop eax
        forever: cli; hlt; jmp forever
    """,
    32: _noting(4, "eax", "ebx", 16),
    64: _noting(8, "rax", "rbx", 32),
}
