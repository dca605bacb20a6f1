"""`pyvmm.cpu.classify`: any bytes, in any mode."""

from __future__ import annotations

import sys
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

import pyvmm
from pyvmm.cpu import TABLE, Kind, classifier, classify
from pyvmm.cpu.instructions import (
    CR4_FSGSBASE,
    CR4_PCE,
    CR4_PVI,
    CR4_TSD,
    CR4_UMIP,
    CR4_VME,
    MODES,
    ROBIN_IRVINE,
)

UD, GP = 6, 13

# text, width, the table's row, kind, vector in ring 3 with IOPL 0
CASES = [
    ("sgdt [ebx]", 32, "SGDT", Kind.SENSITIVE, None),
    ("smsw ax", 64, "SMSW", Kind.SENSITIVE, None),
    ("popfq", 64, "POPF", Kind.SENSITIVE, None),
    ("push ds", 32, "PUSH Sreg", Kind.SENSITIVE, None),
    ("push fs", 64, "PUSH Sreg", Kind.SENSITIVE, None),
    ("pop gs", 64, "POP Sreg", Kind.SENSITIVE, GP),
    ("mov ax, cs", 32, "MOV from Sreg", Kind.SENSITIVE, None),
    ("mov ds, ax", 32, "MOV to Sreg", Kind.SENSITIVE, GP),
    ("mov rax, cr3", 64, "MOV CRn", Kind.PRIVILEGED, GP),
    ("mov dr7, eax", 32, "MOV DRn", Kind.PRIVILEGED, GP),
    (".byte 0xff, 0x1b", 64, "CALL far", Kind.SENSITIVE, None),
    (".byte 0xff, 0x2b", 32, "JMP far", Kind.SENSITIVE, None),
    (".byte 0x9a, 0, 0, 0, 0, 8, 0", 32, "CALL far", Kind.SENSITIVE, None),
    ("retf", 32, "RET far", Kind.SENSITIVE, None),
    ("int 0x80", 64, "INT n", Kind.SENSITIVE, None),
    ("iretq", 64, "IRET", Kind.SENSITIVE, None),
    ("cli", 64, "CLI", Kind.IOPL_SENSITIVE, GP),
    ("rep insb", 64, "INS", Kind.IOPL_SENSITIVE, GP),
    ("out dx, al", 32, "OUT", Kind.IOPL_SENSITIVE, GP),
    ("lgdt [rbx]", 64, "LGDT", Kind.PRIVILEGED, GP),
    ("swapgs", 64, "SWAPGS", Kind.PRIVILEGED, GP),
    ("clac", 64, "CLAC", Kind.PRIVILEGED, UD),
    ("rdtsc", 64, "RDTSC", Kind.SENSITIVE, None),
    ("rdpmc", 64, "RDPMC", Kind.PRIVILEGED, GP),
]  # fmt: skip
INNOCUOUS = [
    "push rax", "pop rax", "call 0x10", "jmp 0x10", "ret", "mov rax, rbx", "mov eax, [rbx]", "call [rbx]", "jmp rax",
    "add eax, 1", "rep movsb", "movsd xmm0, [rax]", "lea rax, [rbx]", "nop",
]  # fmt: skip


@pytest.mark.parametrize(("text", "bits", "name", "kind", "vector"), CASES)
def test_rows(text: str, bits: int, name: str, kind: Kind, vector: int | None) -> None:
    found = classify(pyvmm.assemble(text, bits=bits), "long" if bits == 64 else "protected")
    assert (found.row and found.row.name, found.kind, found.trap) == (name, kind, vector)
    assert found.section == found.row.section
    assert found.traps == (vector is not None)


@pytest.mark.parametrize("text", INNOCUOUS)
def test_innocuous(text: str) -> None:
    found = classify(pyvmm.assemble(text), "64-bit")
    assert (found.kind, found.row, found.trap) == (Kind.INNOCUOUS, None, None)


def test_robin_and_irvines_list() -> None:
    """17 instructions, as always quoted, are 18 mnemonics; each has a row, and no other row claims to be on it."""
    assert len(ROBIN_IRVINE) == len(set(ROBIN_IRVINE)) == 18
    rows = {row.robin_irvine for row in TABLE if row.robin_irvine}
    assert rows == set(ROBIN_IRVINE)
    assert all(row.kind is Kind.SENSITIVE for row in TABLE if row.robin_irvine)


def test_every_row_is_said_completely() -> None:
    names = [row.name for row in TABLE]
    assert len(names) == len(set(names))
    for row in TABLE:
        assert row.what, row.name
        assert row.section.startswith(("vol.", "3C §", "AMD64 APM")), row.name
        assert row.modes <= set(MODES), row.name
        assert row.sensitivity, row.name
        assert row.untrapped in ("leaks", "differs", "same"), row.name


def test_control_register_bits() -> None:
    sgdt, rdtsc, rdpmc = (pyvmm.assemble(text) for text in ("sgdt [rbx]", "rdtsc", "rdpmc"))
    fs = pyvmm.assemble("rdfsbase rax")
    for code, bit in ((sgdt, CR4_UMIP), (rdtsc, CR4_TSD)):
        assert (classify(code, cr4=bit).kind, classify(code, cr4=bit).trap) == (Kind.PRIVILEGED, GP)
        assert classify(code, cr4=bit, cpl=0).trap is None
        assert classify(code).breaks_trap_and_emulate
    assert (classify(rdpmc, cr4=CR4_PCE).kind, classify(rdpmc, cr4=CR4_PCE).trap) == (Kind.SENSITIVE, None)
    assert classify(fs).trap == classify(fs, cpl=0).trap == UD
    assert classify(fs, cr4=CR4_FSGSBASE).trap is None


def test_iopl_and_virtual_8086_mode() -> None:
    """SDM 3A §6.8.1, 3B §20.2.7 and §20.3."""
    cli, pushf, out = (pyvmm.assemble(text, bits=16) for text in ("cli", "pushf", "out dx, al"))
    assert classify(cli, "protected", bits=16, iopl=3).trap is None
    assert classify(cli, "protected", bits=16, cr4=CR4_PVI).trap is None
    assert classify(pushf, "v86").trap == GP
    assert classify(pushf, "v86", iopl=3).trap is None
    assert classify(pushf, "v86", cr4=CR4_VME).trap is None
    assert classify(out, "v86", iopl=3).trap == GP, "only the bit map counts"
    assert classify(cli, "real").cpl == 0
    assert classify(pyvmm.assemble("sldt ax", bits=16), "real").trap == UD


def test_a_state_answers_for_itself() -> None:
    state = pyvmm.CpuState()
    state.set_long_mode(0, 0, cpl=3)
    assert classify(b"\x0f\x01\xe0", state).trap is None
    state.cr4 |= CR4_UMIP
    assert classify(b"\x0f\x01\xe0", state).trap == GP
    assert classify(b"\xfa", pyvmm.CpuState()).mode == "real"


def test_undecodable_and_cut_off() -> None:
    for code in (b"\x0f", b"\x0f\x04", b"\x66" * 20, pyvmm.assemble("ud2")):
        found = classify(code)
        assert (found.kind, found.trap) == (Kind.UNDEFINED, UD), code
        assert "undefined" in str(found) or "ud2" in str(found)


@pytest.mark.parametrize(
    ("code", "arguments", "message"),
    [
        (b"", {}, "no code"),
        (b"\x90", {"mode": "unreal"}, "must be one of"),
        (b"\x90", {"cpl": 4}, "0 to 3"),
        (b"\x90", {"mode": "long", "bits": 32}, "does not run"),
        (b"\x90", {"mode": "protected", "bits": 64}, "does not run"),
    ],
)
def test_what_cannot_be_asked(code: bytes, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        classify(code, **arguments)  # type: ignore[arg-type]


def test_without_capstone() -> None:
    classifier._decoder.cache_clear()
    with (
        mock.patch.dict(sys.modules, {"capstone": None}),
        pytest.raises(pyvmm.PyvmmError, match="pip install capstone"),
    ):
        classify(b"\x90")
    classifier._decoder.cache_clear()


@given(st.binary(min_size=1, max_size=20), st.sampled_from(MODES))
def test_any_bytes(code: bytes, mode: str) -> None:
    found = classify(code, mode)
    assert str(found)
    assert "<table>" in found._repr_html_()
    assert (found.row is None) == (found.kind in (Kind.INNOCUOUS, Kind.UNDEFINED))
    if mode == "real" and found.trap is not None:
        assert found.trap == UD, "real mode has no rings"


def test_str_and_html() -> None:
    found = classify(b"\x9d", "protected")
    assert str(found).startswith(
        "popfd: sensitive (control and behaviour), protected mode, ring 3: does not trap: IF"
    )
    assert "3A §2.3" in str(found)
    html = classify(pyvmm.assemble("mov fs, word ptr [rax]"))._repr_html_()
    assert "SDM" in html
    assert html.count("<tr>") == 5
