"""Popek and Goldberg's question, asked of a processor: each snippet in ring 0 and in ring 3, and what is different.

`measure` runs a case on an engine of the conformance suite's rig, `measure_native` all of them on the host's CPU (ring
3 only).
The words for what comes out, seen from a guest kernel that a monitor runs in ring 3:

- ``#GP``, ``#UD``: it traps; a monitor can step in;
- ``differs``: no trap, and not what ring 0 would get: the kernel goes wrong without knowing it;
- ``leaks``: no trap, and what ring 0 would get: the host's state, not the guest's;
- ``same``: no trap, and done as by ring 0;
- ``absent``: #UD in both rings.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

from pyvmm.cpu import TABLE, Row
from pyvmm.cpu.instructions import (
    CR4_FSGSBASE,
    CR4_PCE,
    CR4_TSD,
    CR4_UMIP,
    Kind,
    Rule,
)
from pyvmm.engine import ExitReason
from pyvmm.errors import PyvmmError
from tests.conformance.engine_probes import has
from tests.conformance.engine_rig import (
    BITS,
    CONTINUE,
    CS32,
    CS32_3,
    CS64,
    CS64_3,
    DS0,
    DS3,
    GDT,
    IDT_32,
    IDT_64,
    LDT,
    LDTR,
    MODE_CAPABILITIES,
    SPARE,
    TSS,
    TSS_LIMIT,
    USER_CODE,
    USER_STACK,
    USER_VECTOR,
    Mode,
    Rig,
    assemble,
)
from tests.conformance.engine_tables import descriptor
from tests.conformance.engine_variants import variant
from tests.lab import native
from tests.lab.cases import CASES, CR4_OSXSAVE, Case

UD = 6
SCRATCH = 0x30000
NEW_TSS = 0x90
RIG_MODES: dict[str, Mode] = {"protected": "pm32", "compatibility": "compat", "long": "long"}
"""The model's names for modes that have rings, and the rig's."""

ROWS: dict[str, Row] = {row.name: row for row in TABLE}


class Setting(NamedTuple):
    """Control bits that an instruction is tried with."""

    name: str
    cr4: int = 0
    iopl: int = 0


class Outcome(NamedTuple):
    """One run: the vector of the trap, or what EAX held at the end."""

    vector: int | None
    value: int = 0


class RefusedError(Exception):
    """The engine has not got the mode or will not execute the instruction."""


def settings(case: Case) -> list[Setting]:
    """The settings in which an instruction is worth trying."""
    row = ROWS[case.row]
    found = [Setting("")]
    match row.rule:
        case Rule.UMIP:
            found.append(Setting("UMIP", CR4_UMIP))
        case Rule.TSD:
            found.append(Setting("TSD", CR4_TSD))
        case Rule.PCE:
            found.append(Setting("PCE", CR4_PCE))
        case Rule.FSGSBASE:
            found.append(Setting("FSGSBASE", CR4_FSGSBASE))
    if row.kind is Kind.IOPL_SENSITIVE or row.name in ("PUSHF", "POPF", "IRET"):
        found.append(Setting("IOPL 3", iopl=3))
    return found


def needs(case: Case, setting: Setting) -> list[str]:
    """What a processor must tell of by CPUID (`engine_probes`)."""
    wanted = {"UMIP": "umip", "FSGSBASE": "fsgsbase"}
    found = [wanted[setting.name]] if setting.name in wanted else []
    if case.cr4 & CR4_OSXSAVE:
        found.append("xsave")
    return [*found, "rdtscp"] if case.row == "RDTSCP" else found


def modes(case: Case) -> list[str]:
    """The modes with rings in which it is an instruction."""
    return [mode for mode in RIG_MODES if mode in ROWS[case.row].modes and BITS[RIG_MODES[mode]] in case.bits]


# A snippet ------------------------------------------------------------------------------------------------------------


class Program(NamedTuple):
    """Machine code: where the instruction is, where the UD2 after everything."""

    code: bytes
    instruction: int
    end: int


def program(case: Case, bits: int, base: int, places: dict[str, int]) -> Program:
    """Fill a case in. `next` is known only after a first assembly; a stand-in of the same length serves for that."""
    long = bits == 64
    names: dict[str, Any] = {name: ("r" if long else "e") + name + "x" for name in "abcd"}
    names |= {"sp": "rsp" if long else "esp", "w": "q" if long else "d"} | places
    width: Any = bits

    def part(text: str, at: int, next_: int) -> bytes:
        return assemble(text.format(next=next_, **names), width, at) if text else b""

    start = base + len(part(case.setup, base, 0x12345678))
    instruction = part(case.instruction, start, 0)
    setup = part(case.setup, base, start + len(instruction))
    after = part(case.after, start + len(instruction), 0)
    code = setup + instruction + after
    return Program(code + b"\x0f\x0b", base + len(setup), base + len(code))


# On an engine ---------------------------------------------------------------------------------------------------------


@cache
def rig(engine: str) -> Rig:
    """One machine for each engine."""
    made = Rig(variant(engine))
    for vector in (1, 3, 4, USER_VECTOR):
        made.on(vector, action=CONTINUE)
    return made


def close_rigs() -> None:
    """Close what `rig` made."""
    for engine in list(_used):
        rig(engine).close()
    _used.clear()
    rig.cache_clear()


_used: set[str] = set()


def run(engine: str, case: Case, mode: str, cpl: int, setting: Setting) -> Outcome:
    """One run of one case.

    Raises
    ------
    RefusedError
        With the reason.
    """
    rig_mode = RIG_MODES[mode]
    for capability in (MODE_CAPABILITIES[rig_mode], *needs(case, setting)):
        if not has(variant(engine), capability):
            raise RefusedError(f"no {capability}")
    _used.add(engine)
    machine = rig(engine)
    bits, long = BITS[rig_mode], mode != "protected"
    own_cs = ((CS64, CS64_3) if bits == 64 else (CS32, CS32_3))[cpl == 3]
    places = {
        "m": SCRATCH, "stack": USER_STACK, "kernel_data": DS0, "user_ss": DS3, "far_cs": SPARE, "tss": NEW_TSS,
        "user_cs": CS64_3 if bits == 64 else CS32_3, "own_cs": own_cs, "own_ss": DS3 if cpl else DS0,
        "gdt": GDT, "idt": IDT_64 if long else IDT_32, "idt_limit": 0xFFF if long else 0x7FF,
    }  # fmt: skip
    code = program(case, bits, USER_CODE, places)
    machine.forget()
    state = machine.state(rig_mode, USER_CODE, cpl)
    conforming = descriptor(0, 0xFFFFF, 0x9F, 0xA if bits == 64 else 0xC)
    machine.memory.load(GDT + SPARE, conforming + descriptor(TSS, TSS_LIMIT, 0x89, 0) + bytes(8))
    machine.memory.load(USER_CODE, code.code)
    state.rsp, state.rflags = USER_STACK, case.flags | setting.iopl << 12
    state.cr4 |= case.cr4 | setting.cr4
    state.ldtr.set(LDTR, LDT, 0xFF, 0x82)
    state.star, state.lstar = CS64 << 32 | 0x1B << 48, code.end - len(_after(case, bits, places, code))
    state.sysenter_cs, state.sysenter_eip, state.sysenter_esp = CS64, state.lstar, USER_STACK
    machine.vcpu.state = state
    try:
        exit_ = machine.run()
    except (AssertionError, PyvmmError) as error:
        machine.close()
        rig.cache_clear()
        refused = "cannot emulate" in str(error)
        raise RefusedError("refused" if refused else str(error).splitlines()[0]) from None
    return _outcome(machine, case, code, exit_.reason)


def _after(case: Case, bits: int, places: dict[str, int], code: Program) -> bytes:
    """The bytes between the instruction and the end."""
    length = (
        len(program(Case(case.row, case.instruction, setup=case.setup), bits, USER_CODE, places).code) - 2
    )
    return code.code[length:-2]


def _outcome(machine: Rig, case: Case, code: Program, reason: ExitReason) -> Outcome:
    faults = machine.faults
    if not faults:
        assert case.row == "HLT", f"{case.name}: the program ended by {reason}"
        return Outcome(None)
    first = faults[0]
    if case.gate is not None and first.vector == case.gate:
        return Outcome(None, first.cs & 3)
    if first.vector == UD and first.ip == code.end:
        return Outcome(None, int(machine.vcpu.state.eax))
    assert first.ip == code.instruction, f"{case.name}: its frame breaks, {first}"
    return Outcome(first.vector)


def verdict(row: Row, ring_0: Outcome, ring_3: Outcome) -> str:
    """What the difference between two runs means."""
    if ring_0.vector is not None:
        both = ring_0.vector == ring_3.vector
        return (
            {UD: "absent", 13: "#GP in ring 0 too"}.get(ring_0.vector, f"#{ring_0.vector}")
            if both
            else "only ring 3"
        )
    if ring_3.vector is not None:
        return {6: "#UD", 13: "#GP"}.get(ring_3.vector, f"vector {ring_3.vector}")
    if ring_0.value != ring_3.value:
        return "differs"
    return "leaks" if row.sensitivity == "behaviour" else "same"


@cache
def measure(engine: str, case: Case, mode: str, setting: Setting) -> str:
    """What comes out, in the module's words; a reason in brackets where it cannot be known."""
    try:
        ring_0, ring_3 = (run(engine, case, mode, cpl, setting) for cpl in (0, 3))
    except RefusedError as error:
        return f"({error})"
    return verdict(ROWS[case.row], ring_0, ring_3)


def expected(case: Case, mode: str, setting: Setting, *, amd: bool = False) -> str:
    """What the model says. It is Intel's: AMD's processors have no SYSENTER and SYSEXIT in 64-bit mode (APM vol. 3)."""
    row = ROWS[case.row]
    if amd and mode == "long" and case.row in ("SYSENTER", "SYSEXIT"):
        return "absent"
    found = row.in_ring_3(mode, iopl=setting.iopl, cr4=setting.cr4 | case.cr4)
    absent = row.trap(mode, cpl=0, iopl=setting.iopl, cr4=setting.cr4 | case.cr4) == UD
    return "absent" if absent else found


# On the host's CPU ----------------------------------------------------------------------------------------------------


@cache
def measure_native() -> dict[tuple[Case, str], str] | str:
    """Every case in ring 3 of the host: ``#GP``, ``#UD``, or ``runs``; or why none can be run."""
    wanted: list[tuple[Case, str, Program]] = []
    for case in CASES:
        if case.native is None:
            continue
        for mode, bits in (("compatibility", 32), ("long", 64)):
            if mode in modes(case):
                own = native.CS64 if bits == 64 else native.CS32
                places = {
                    "m": native.SCRATCH, "stack": native.STACK, "kernel_data": native.KERNEL_DS, "far_cs": own,
                    "user_cs": own, "own_cs": own, "user_ss": native.SS, "own_ss": native.SS, "tss": 0x40,
                    "gdt": 0, "idt": 0, "idt_limit": 0,
                }  # fmt: skip
                snippet = Case(case.row, case.native or case.instruction, case.after, case.setup)
                wanted.append((case, mode, program(snippet, bits, native.BASE, places)))
    results = native.run([(made.code, 64 if mode == "long" else 32) for _, mode, made in wanted])
    if isinstance(results, str):
        return results
    return {
        (case, mode): _native_verdict(case, made, result)
        for (case, mode, made), result in zip(wanted, results, strict=True)
    }


def _native_verdict(case: Case, made: Program, result: native.NativeResult) -> str:
    if result.vector == -1:
        return "killed"
    if result.vector == UD and result.rip == made.end:
        return "runs"
    if case.gate is not None and result.rip > made.instruction:
        return "runs"  # through the host's gate, to Linux's handler
    return {6: "#UD", 13: "#GP"}.get(result.vector, f"vector {result.vector}")


def native_tables() -> dict[str, int]:
    """What SGDT and SIDT give as base on the host, in 64-bit mode."""
    found = {}
    for name in ("SGDT", "SIDT"):
        text = f"{name.lower()} [{native.SCRATCH}]; mov rax, qword ptr [{native.SCRATCH}+2]; ud2"
        results = native.run([(assemble(text, 64, native.BASE), 64)])
        if not isinstance(results, str) and results[0].vector == UD:
            found[name] = results[0].rax
    return found
