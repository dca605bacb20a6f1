"""`pyvmm.cpu.rings` beside a processor: every CPL, RPL and DPL, for loads of FS and SS, far jumps and far returns.

Rings 1 and 2 are not entered: the rig has stacks for 0 and 3.
"""

from __future__ import annotations

import struct
from itertools import product
from typing import Literal

import pytest

from pyvmm.cpu import rings
from pyvmm.cpu.rings import Check, Descriptor
from tests.conformance.engine_probes import has
from tests.conformance.engine_rig import (
    BITS,
    CS32,
    CS32_3,
    CS64,
    CS64_3,
    DS0,
    DS3,
    GDT,
    MODE_CAPABILITIES,
    SPARE,
    USER_CODE,
    USER_STACK,
    Mode,
    assemble,
)
from tests.conformance.engine_tables import descriptor
from tests.conformance.engine_variants import availability, interprets, variant
from tests.lab.experiment import Outcome, RefusedError, rig

UD = 6
KINDS = {"data": 3, "read-only": 1, "code": 0xB, "conforming": 0xF, "execute-only": 0x9}
SCRATCH = 0x30000
MODES: tuple[Mode, ...] = ("pm32", "long")
Act = Literal["load FS", "load SS", "jump", "return"]


def _program(act: Act, mode: Mode, selector: int) -> bytes:
    """The act, whose target or successor is the UD2 at the end; `selector` is in CX for loads."""
    bits = BITS[mode]
    if act.startswith("load"):
        return assemble(f"mov ecx, {selector}; mov {act[-2:].lower()}, cx; ud2", bits, USER_CODE)
    if act == "jump":
        text = (
            f"mov dword ptr [{SCRATCH}], 0x12345678; mov word ptr [{SCRATCH}+4], {selector}; "
            f"mov ebx, {SCRATCH}; .byte 0xff, 0x2b; ud2"
        )
    else:
        sp = "rsp" if bits == 64 else "esp"
        text = (
            f"mov dword ptr [{sp}], 0x12345678; mov dword ptr [{sp}+4], {selector}; "
            f"mov dword ptr [{sp}+8], {USER_STACK - 64}; mov dword ptr [{sp}+12], {DS3}; .byte 0xcb; ud2"
        )
    code = assemble(text, bits, USER_CODE)
    return code.replace(struct.pack("<I", 0x12345678), struct.pack("<I", USER_CODE + len(code) - 2))


def _run(engine: str, act: Act, mode: Mode, cpl: int, selector: int, raw: bytes) -> Outcome:
    """The vector, or the ring in which the UD2 at the end ran."""
    machine = rig(engine)
    machine.forget()
    state = machine.state(mode, USER_CODE, cpl)
    code = _program(act, mode, selector)
    machine.memory.load(USER_CODE, code)
    machine.memory.load(GDT + SPARE, raw)
    state.rsp = USER_STACK - 16
    machine.vcpu.state = state
    try:
        machine.run()
    except AssertionError as error:
        machine.close()
        rig.cache_clear()
        raise RefusedError("refuses it" if "cannot emulate" in str(error) else str(error)) from None
    fault = machine.faults[0]
    if fault.vector == UD and fault.ip == USER_CODE + len(code) - 2:
        assert fault.cs & ~3 in {CS64, CS64_3 & ~3, CS32, CS32_3 & ~3, SPARE}
        return Outcome(None, fault.cs & 3)
    return Outcome(fault.vector)


def _model(act: Act, mode: Mode, cpl: int, selector: int, segment: Descriptor | None) -> Check:
    match act:
        case "load FS":
            return rings.load_data_segment(cpl, selector, segment)
        case "load SS":
            return rings.load_stack_segment(cpl, selector, segment, long=mode == "long")
        case "jump":
            return rings.far_transfer(cpl, selector, segment)
        case _:
            return rings.far_return(cpl, selector, segment)


@pytest.mark.parametrize("engine", ["translator", "kvm"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("act", ["load FS", "load SS", "jump", "return"])
def test_every_combination(act: Act, mode: Mode, engine: str) -> None:
    usable, reason = availability(engine)
    if not usable:
        pytest.skip(f"{engine}: {reason}")
    if not has(variant(engine), MODE_CAPABILITIES[mode]):
        pytest.skip(f"{engine}: has no {MODE_CAPABILITIES[mode]}")
    wrong, tried = [], 0
    for cpl, rpl, dpl, kind, present in product((0, 3), range(4), range(4), KINDS, (True, False)):
        code = KINDS[kind] & 8
        access = KINDS[kind] | 0x10 | dpl << 5 | present << 7
        raw = descriptor(0, 0xFFFFF, access, 0xA if mode == "long" and code else 0xC)
        check = _model(act, mode, cpl, SPARE | rpl, Descriptor.parse(raw))
        if act == "return" and check and rpl not in (cpl, 3):
            continue  # to ring 1 or 2
        if not present and not (rpl == dpl == cpl):
            continue  # the privilege checks have been seen
        try:
            got = _run(engine, act, mode, cpl, SPARE | rpl, raw)
        except RefusedError as error:
            if not interprets(engine):
                raise
            pytest.skip(f"{engine}: {error}")
        tried += 1
        ring = check.cpl if check.cpl is not None else cpl
        if got.vector != check.vector or (check and got.value != ring):
            wrong.append(f"CPL {cpl} RPL {rpl} DPL {dpl} {kind}: {got}; the model: {check}")
    assert tried > 100
    if wrong and interprets(engine):
        pytest.xfail(f"{engine}: interpreter: {len(wrong)} of {tried}, {wrong[0]}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("cpl", [0, 3])
@pytest.mark.parametrize("rpl", [0, 3])
@pytest.mark.parametrize("act", ["load FS", "load SS"])
def test_null_selectors(act: Act, rpl: int, cpl: int, mode: Mode, request: pytest.FixtureRequest) -> None:
    if (act, rpl, cpl, mode) == ("load SS", 3, 0, "long"):
        reason = "Unicorn takes a null SS whose RPL is not CPL (SDM vol. 2B MOV, 64-bit mode exceptions)"
        request.applymarker(pytest.mark.xfail(strict=True, reason=f"translator: {reason}"))
    check = _model(act, mode, cpl, rpl, None)
    assert _run("translator", act, mode, cpl, rpl, bytes(8)).vector == check.vector, str(check)


def test_selectors_of_the_rig() -> None:
    """The rig's own segments by the model: what the snippets of the lab rely on."""
    machine = rig("translator")
    machine.state("long", USER_CODE, 0)

    def at(selector: int) -> Descriptor:
        return Descriptor.parse(machine.memory.read(GDT + (selector & ~7), 8))

    assert rings.far_return(0, CS64_3, at(CS64_3)).cpl == 3
    assert not rings.far_return(3, CS64, at(CS64))
    assert not rings.load_data_segment(3, DS0, at(DS0))
    assert rings.load_data_segment(0, DS3, at(DS3))
