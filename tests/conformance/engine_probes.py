"""What an engine can do: a small guest on that engine decides. Nothing here asks which host or engine it is.

``surface-*``, ``step``, ``*breakpoints``, ``tsc-rate`` and ``virtual-clock`` are abilities of the engine; the others
are the CPU's, told by CPUID or by running a guest that needs them.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from functools import cache

from pyvmm.engine import Engine, ExitReason
from pyvmm.errors import PyvmmError
from pyvmm.kvm.engine import KvmEngine
from pyvmm.kvm.system import System
from pyvmm.machine.switch import cpuid_of
from tests.conformance.engine_rig import (
    CODE,
    CS64,
    EOI,
    GP,
    IRQ_BASE,
    NM,
    UD,
    USER_VECTOR,
    Mode,
    Rig,
    assemble,
)


def _cpuid(leaf: int, register: str, bit: int) -> Callable[[Engine], bool]:
    def probe(engine: Engine) -> bool:
        with closing(Rig(engine)) as rig:
            state = rig.finish("long", f"mov eax, {leaf}; xor ecx, ecx; cpuid; hlt")
            return bool(getattr(state, register) >> bit & 1)

    return probe


def _mode(mode: Mode) -> Callable[[Engine], bool]:
    def probe(engine: Engine) -> bool:
        with closing(Rig(engine)) as rig:
            try:
                return rig.fault(mode, "mov ax, 0x1234; nop; ud2").vector == UD
            except (PyvmmError, AssertionError):
                return False

    return probe


def _v86(engine: Engine) -> bool:
    """Segments are paragraphs, and CLI at IOPL 0 faults (SDM vol. 3A §20.2.1, §20.2.7)."""
    with closing(Rig(engine)) as rig:
        try:
            fault = rig.fault("v86", "mov ax, 0x1111; mov gs, ax; cli; ud2")
        except (PyvmmError, AssertionError):
            return False
        return (fault.vector, fault.ip) == (GP, 5)


def _surfaces(reason: ExitReason, program: str) -> Callable[[Engine], bool]:
    def probe(engine: Engine) -> bool:
        with closing(Rig(engine)) as rig:
            rig.start("long", program, cr0=0x80010039)
            rig.on(NM, UD, action=1)
            try:
                return rig.run([reason]).reason is reason
            except AssertionError:
                return False

    return probe


def _ring_3(program: str, vector: int, **registers: int) -> Callable[[Engine], bool]:
    """A program of 64-bit ring 3 whose first exception or interrupt is this one."""

    def probe(engine: Engine) -> bool:
        with closing(Rig(engine)) as rig:
            try:
                return rig.fault("long", program, cpl=3, **registers).vector == vector
            except (PyvmmError, AssertionError):
                return False

    return probe


def _syscall(engine: Engine) -> bool:
    """SYSCALL enters ring 0: LSTAR's code does what only ring 0 may."""
    with closing(Rig(engine)) as rig:
        rig.memory.load(0x20800, assemble("mov rax, cr0; hlt", 64, 0x20800))
        star = CS64 << 32 | 0x1B << 48
        rig.start("long", "syscall", cpl=3, star=star, lstar=0x20800)
        return rig.run().reason is ExitReason.HLT and not rig.faults


def _interrupt_window(engine: Engine) -> bool:
    """An interrupt that waits is taken as soon as the guest can take it, and not some instructions later."""
    with closing(Rig(engine)) as rig:
        rig.interrupts()
        rig.on(IRQ_BASE + 5, action=EOI)
        rig.board.irq_line(5).raise_()
        rig.start("long", "sti; nop; nop; nop; cli; hlt")
        rig.run()
        return [fault.ip for fault in rig.faults] == [CODE + 2]


def _ring_3_breakpoints(engine: Engine) -> bool:
    with closing(Rig(engine)) as rig:
        base = rig.start("long", "nop; nop; ud2", cpl=3)
        try:
            rig.vcpu.breakpoints = (base + 1,)
            return rig.run().rip == base + 1
        except PyvmmError:
            return False


def _many_breakpoints(engine: Engine) -> bool:
    with closing(Rig(engine)) as rig:
        try:
            rig.vcpu.breakpoints = tuple(range(CODE, CODE + 64))
        except PyvmmError:
            return False
        return True


def _tsc_rate(engine: Engine) -> bool:
    with closing(Rig(engine, tsc_hz=1_500_000_000)) as rig:
        return rig.board.tsc_hz == 1_500_000_000


def _tsc_set(engine: Engine) -> bool:
    """A TSC of zero at the clock's zero: what RDTSC gives is then the clock's time."""
    with closing(Rig(engine)) as rig:
        state = rig.finish("long", "rdtsc; hlt")
        return (state.rdx << 32 | state.rax) < (rig.board.clock.now + 60 * 10**9) * rig.board.tsc_hz // 10**9


def _cpuid_obeyed(engine: Engine) -> bool:
    """The guest sees what KVM was told to show: here, no machine checks."""
    if not isinstance(getattr(engine, "kvm", engine), KvmEngine):
        return True  # CPUID is our own
    mce = 1 << 7
    with System() as system, system.create_vm() as vm:
        vcpu = vm.create_vcpu(0)
        wanted = system.supported_cpuid
        vcpu.cpuid2 = [
            replace(entry, edx=entry.edx & ~mce) if entry.function == 1 else entry for entry in wanted
        ]
        return not any(entry.edx & mce for entry in vcpu.cpuid2 if entry.function == 1)


def _step(engine: Engine) -> bool:
    with closing(Rig(engine)) as rig:
        rig.start("long", "nop; hlt")
        try:
            return rig.vcpu.step().reason is ExitReason.DEBUG
        except PyvmmError:
            return False


def _breakpoints(engine: Engine) -> bool:
    with closing(Rig(engine)) as rig:
        base = rig.start("long", "nop; nop; hlt")
        try:
            rig.vcpu.breakpoints = (base + 1,)
            return rig.run().reason is ExitReason.DEBUG
        except PyvmmError:
            return False


def _virtual_clock(engine: Engine) -> bool:
    try:
        with closing(Rig(engine, "virtual")) as rig:
            rig.finish("long", "mov ecx, 10000; l: dec ecx; jnz l; hlt")
            return rig.board.clock.now > 0
    except PyvmmError:
        return False


def _apic_feature(bit: int) -> Callable[[Engine], bool]:
    """Bit of leaf 1's ECX on a board with a local APIC, as the engine was told to show it."""

    def probe(engine: Engine) -> bool:
        with closing(Rig(engine, apic=True)) as rig:
            return bool(cpuid_of(rig.vcpu)[1, 0].ecx >> bit & 1)

    return probe


def _amd(engine: Engine) -> bool:
    with closing(Rig(engine)) as rig:
        return int(rig.finish("long", "xor eax, eax; cpuid; hlt").ecx) == int.from_bytes(b"cAMD", "little")


PROBES: dict[str, Callable[[Engine], bool]] = {
    "real": _mode("real"),
    "protected-16": _mode("pm16"),
    "protected-32": _mode("pm32"),
    "virtual-8086": _v86,
    "paging-32": _mode("paging32"),
    "paging-pae": _mode("pae"),
    "long": _mode("long"),
    "compatibility": _mode("compat"),
    "nx": _cpuid(0x80000001, "edx", 20),
    "1g-pages": _cpuid(0x80000001, "edx", 26),
    "smep": _cpuid(7, "ebx", 7),
    "smap": _cpuid(7, "ebx", 20),
    "umip": _cpuid(7, "ecx", 2),
    "rdtscp": _cpuid(0x80000001, "edx", 27),
    "sse4.2": _cpuid(1, "ecx", 20),
    "popcnt": _cpuid(1, "ecx", 23),
    "lzcnt": _cpuid(0x80000001, "ecx", 5),
    "bmi1": _cpuid(7, "ebx", 3),
    "bmi2": _cpuid(7, "ebx", 8),
    "aes": _cpuid(1, "ecx", 25),
    "fsgsbase": _cpuid(7, "ebx", 0),
    "xsave": _cpuid(1, "ecx", 26),
    "int-from-ring-3": _ring_3("int 0x30", USER_VECTOR),
    "syscall-to-ring-0": _syscall,
    "iopl": _ring_3("out 0xe0, al; ud2", UD, rflags=0x3002),
    "interrupt-window": _interrupt_window,
    "tsc-rate": _tsc_rate,
    "tsc-set": _tsc_set,
    "cpuid-obeyed": _cpuid_obeyed,
    "x2apic": _apic_feature(21),
    "tsc-deadline": _apic_feature(24),
    "amd": _amd,
    "intel": lambda engine: not _amd(engine),
    "virtual-clock": _virtual_clock,
    "step": _step,
    "breakpoints": _breakpoints,
    "ring-3-breakpoints": _ring_3_breakpoints,
    "many-breakpoints": _many_breakpoints,
    "surface-io": _surfaces(ExitReason.IO, "out 0xe0, al; cli; hlt"),
    "surface-mmio": _surfaces(ExitReason.MMIO, "mov eax, dword ptr [0xc0000]; cli; hlt"),
    "surface-cpuid": _surfaces(ExitReason.CPUID, "cpuid; hlt"),
    "surface-msr": _surfaces(ExitReason.MSR, "mov ecx, 0x10; rdmsr; hlt"),
    "surface-exception": _surfaces(ExitReason.EXCEPTION, "fldz; hlt"),
    "surface-interrupt": _surfaces(ExitReason.INTERRUPT, "int 0x30; hlt"),
}


@cache
def has(engine: Engine, capability: str) -> bool:
    """Whether `engine` has it."""
    return PROBES[capability](engine)
