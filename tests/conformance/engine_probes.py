"""What an engine can do: a small guest on that engine decides. Nothing here asks which host or engine it is.

``surface-*``, ``step``, ``breakpoints`` and ``virtual-clock`` are abilities of the engine;
the others are the CPU's, told
by CPUID or by running the mode.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from functools import cache

from pyvmm.engine import Engine, ExitReason
from pyvmm.errors import PyvmmError
from tests.conformance.engine_rig import NM, Mode, Rig


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
                rig.start(mode, "mov ax, 0x1234; int3")
                rig.run()
            except (PyvmmError, AssertionError):
                return False
            return bool(rig.faults)

    return probe


def _surfaces(reason: ExitReason, program: str) -> Callable[[Engine], bool]:
    def probe(engine: Engine) -> bool:
        with closing(Rig(engine)) as rig:
            rig.start("long", program, cr0=0x80010039)
            rig.on(NM, action=1)
            return rig.run([reason]).reason is reason

    return probe


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


def _amd(engine: Engine) -> bool:
    with closing(Rig(engine)) as rig:
        return int(rig.finish("long", "xor eax, eax; cpuid; hlt").ecx) == int.from_bytes(b"cAMD", "little")


PROBES: dict[str, Callable[[Engine], bool]] = {
    "real": _mode("real"),
    "protected-16": _mode("pm16"),
    "protected-32": _mode("pm32"),
    "virtual-8086": _mode("v86"),
    "paging-32": _mode("paging32"),
    "paging-pae": _mode("pae"),
    "long": _mode("long"),
    "compatibility": _mode("compat"),
    "nx": _cpuid(0x80000001, "edx", 20),
    "1g-pages": _cpuid(0x80000001, "edx", 26),
    "smep": _cpuid(7, "ebx", 7),
    "smap": _cpuid(7, "ebx", 20),
    "rdtscp": _cpuid(0x80000001, "edx", 27),
    "sse4.2": _cpuid(1, "ecx", 20),
    "amd": _amd,
    "intel": lambda engine: not _amd(engine),
    "virtual-clock": _virtual_clock,
    "step": _step,
    "breakpoints": _breakpoints,
    "surface-io": _surfaces(ExitReason.IO, "out 0xe0, al; cli; hlt"),
    "surface-mmio": _surfaces(ExitReason.MMIO, "mov eax, dword ptr [0xc0000]; cli; hlt"),
    "surface-cpuid": _surfaces(ExitReason.CPUID, "cpuid; hlt"),
    "surface-msr": _surfaces(ExitReason.MSR, "mov ecx, 0x10; rdmsr; hlt"),
    "surface-exception": _surfaces(ExitReason.EXCEPTION, "fldz; hlt"),
    "surface-interrupt": lambda engine: engine.name == "translator",
}


@cache
def has(engine: Engine, capability: str) -> bool:
    """Whether `engine` has it."""
    return PROBES[capability](engine)
