"""The guest's ring 0 code holds no instruction that an interpreted ring 0 refuses: seen in the binary, without KVM."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from pathlib import Path

import capstone
import pytest

from tests.boot.builtin_build import guest

__all__ = ["guest"]  # the fixture

pytestmark = pytest.mark.boot

REFUSED = re.compile(
    r"int|int1|int3|into|sysenter|rdtscp|invpcid|popcnt|crc32|andn|rorx|cmpxchg16b|ud1|xsave.*|xrstor.*|xgetbv|xsetbv|"
    r"lar|lsl|verr|verw|clac|stac|vmcall|vmmcall|emms|f\w+|v\w+|ldmxcsr|stmxcsr|movbe|rdpid|rdpmc|adcx|adox|bextr"
)
VECTOR_REGISTER = re.compile(r"\b([xyz]?mm\d+|st\(\d\))")
STT_NOTYPE, STT_FUNC = 0, 2


@dataclass(frozen=True)
class Symbol:
    """One entry of the ELF symbol table."""

    name: str
    kind: int
    section: int
    value: int
    size: int


def read_elf(data: bytes) -> tuple[bytes, int, int, list[Symbol]]:
    """Return .text, its address, its section number and the symbols of an ELF64 file (System V ABI, chapter 4)."""
    (table,) = struct.unpack_from("<Q", data, 40)
    size, count, names = struct.unpack_from("<HHH", data, 58)
    sections = [struct.unpack_from("<IIQQQQIIQQ", data, table + i * size) for i in range(count)]

    def text_at(offset: int) -> str:
        return data[offset : data.index(b"\0", offset)].decode()

    symbols: list[Symbol] = []
    text = (b"", 0, 0)
    for index, (name, kind, _, address, offset, length, link, *_rest) in enumerate(sections):
        if text_at(sections[names][4] + name) == ".text":
            text = (data[offset : offset + length], address, index)
        if kind == 2:  # SHT_SYMTAB
            for at in range(offset, offset + length, 24):
                label, info, _, section, value, extent = struct.unpack_from("<IBBHQQ", data, at)
                symbols.append(Symbol(text_at(sections[link][4] + label), info & 15, section, value, extent))
    return (*text, symbols)


def disassemble(code: bytes, address: int) -> list[str]:
    """Return the instructions as text."""
    engine = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    return [f"{at:x} {name} {operands}" for at, _, name, operands in engine.disasm_lite(code, address)]


def refused(lines: list[str]) -> list[str]:
    """Return those that an interpreted ring 0 would not execute."""
    return [
        line
        for line in lines
        if REFUSED.fullmatch(line.split()[1]) or VECTOR_REGISTER.search(line.partition(" ")[2])
    ]


def test_the_check_finds_what_it_looks_for() -> None:
    """INT3, INT 80h, POPCNT, PXOR, MOVD, FLD1, XGETBV and STAC are each found; ordinary code is not."""
    bad = "cc cd80 f30fb8c0 660fefc0 660f6ec0 d9e8 0f01d0 0f01cb"
    for code in bad.split():
        assert refused(disassemble(bytes.fromhex(code), 0)), code
    assert not refused(disassemble(bytes.fromhex("4889c7 0f0b f4 fb 48cf 0f30 f348ab"), 0))


def test_ring_0_has_no_refused_instruction(guest: Path) -> None:
    """Every C function and all of trap.S's ring 0 code."""
    text, base, section, symbols = read_elf((guest / "guest-kernel.elf").read_bytes())
    here = [symbol for symbol in symbols if symbol.section == section]
    functions = [symbol for symbol in here if symbol.kind == STT_FUNC and symbol.size]
    assert len(functions) > 100
    lines: list[str] = []
    for symbol in functions:
        start = symbol.value - base
        lines += disassemble(text[start : start + symbol.size], symbol.value)
    (stubs,) = (symbol for symbol in here if symbol.name == "trap_stubs")
    (last,) = (symbol for symbol in here if symbol.name == "stack_reset")
    assert last.value > stubs.value
    assembly = disassemble(text[stubs.value - base : last.value - base], stubs.value)
    assert any("iretq" in line for line in assembly)
    assert any("wrmsr" in line for line in assembly)
    assert len(lines) > 3000
    assert refused(lines + assembly) == []
