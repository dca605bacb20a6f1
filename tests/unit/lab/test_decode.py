"""csrc/lab/decode.c against capstone: lengths and operands of what capstone takes for an instruction."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import capstone
import pytest
from capstone import x86

from pyvmm.native import ffi, lib

SIZE = 15
SEED = 20
_NAMES = ["RAX", "RCX", "RDX", "RBX", "RSP", "RBP", "RSI", "RDI", *(f"R{number}" for number in range(8, 16))]
_HALVES = [f"E{name[1:]}" if name[1].isalpha() else f"{name}D" for name in _NAMES]
REGISTERS = {
    getattr(x86, f"X86_REG_{name}"): number
    for names in (_NAMES, _HALVES)
    for number, name in enumerate(names)
}
NONE = 0xFF
PREFIXES = [
    b"",
    b"\x66",
    b"\x67",
    b"\xf2",
    b"\xf3",
    b"\x48",
    b"\x41",
    b"\x66\x45",
    b"\xf0",
    b"\x64",
    b"\x66\x4f",
    b"\x2e\x67",
]


def decode(code: bytes) -> tuple[int, Any]:
    """Decode; return length or -errno, and the Instruction."""
    instruction = ffi.new("Instruction *")
    return lib.instruction_decode(instruction, code, len(code)), instruction


def is_known_difference(code: bytes, ours: Any) -> bool:
    """Where capstone means another processor, or none."""
    prefixes, opcode = code[: ours.prefixes], code[ours.prefixes :]
    first, two = opcode[0], opcode[:2]
    if two in (b"\x0f\xb9", b"\x0f\xff"):
        return True  # UD1, UD0: they have a ModRM byte (Intel SDM 2B UD)
    if first in (0xC4, 0xC5, 0x62) and set(prefixes) & set(b"\x66\xf0\xf2\xf3"):
        return True  # #UD (SDM 2A 2.3.2 to 2.3.4)
    if 0x66 in prefixes and (
        first in (0xE8, 0xE9, 0xC2) or (first == 0x0F and opcode[1] >> 4 == 8) or two == b"\xc7\xf8"
    ):
        return (
            True  # near branches with 16-bit offsets are AMD's; and RET's operand is 16 bits with REX.W, too
        )
    # 3DNow!, SSE4a, XOP, VIA PadLock
    return two in (b"\x0f\x0f", b"\x0f\x78", b"\x0f\xa6", b"\x0f\xa7") or first == 0x8F


def compare(codes: Iterator[bytes]) -> tuple[int, list[str]]:
    """Return how many capstone decoded, and where the two differ."""
    engine = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    wrong, seen = [], 0
    for code in codes:
        theirs = next(engine.disasm_lite(code, 0, 1), None)
        length, ours = decode(code)
        if theirs is None:
            assert length <= SIZE
            continue
        seen += 1
        if theirs[1] != length and not is_known_difference(code, ours):
            wrong.append(f"{code.hex(' ')}: {length}, capstone {theirs[1]} ({theirs[2]} {theirs[3]})")
    return seen, wrong


def systematic() -> Iterator[bytes]:
    """Each opcode of each map, under each prefix, with each ModRM."""
    tail = bytes.fromhex("24 25 11 22 33 44 55 66 77 88 99 aa bb cc")
    for prefix in PREFIXES:
        for leader in (b"", b"\x0f", b"\x0f\x38", b"\x0f\x3a"):
            for opcode in range(256):
                for modrm in (
                    range(256) if opcode % 16 in (0, 3, 7, 15) else (0x00, 0x05, 0x44, 0x85, 0xC1, 0xF8)
                ):
                    yield (prefix + leader + bytes([opcode, modrm]) + tail)[:SIZE]


def vectors(count: int) -> Iterator[bytes]:
    """VEX and EVEX at random."""
    source = random.Random(SEED)
    for _ in range(count):
        tail = source.randbytes(SIZE)
        match source.randrange(3):
            case 0:
                head = bytes([0xC5, source.randrange(256)])
            case 1:
                head = bytes(
                    [0xC4, source.randrange(256) & 0xE0 | source.randint(1, 3), source.randrange(256)]
                )
            case _:
                map_number = source.choice((1, 2, 3, 5, 6))
                head = bytes(
                    [
                        0x62,
                        source.randrange(256) & 0xF0 | map_number,
                        source.randrange(256) | 4,
                        source.randrange(256),
                    ]
                )
        yield (head + tail)[:SIZE]


def anything(count: int) -> Iterator[bytes]:
    source = random.Random(SEED)
    for _ in range(count):
        yield source.randbytes(SIZE)


@pytest.mark.parametrize(
    ("codes", "least"),
    [(systematic(), 100_000), (vectors(200_000), 10_000), (anything(300_000), 100_000)],
    ids=["systematic", "vex and evex", "random"],
)
def test_lengths_are_capstones(codes: Iterator[bytes], least: int) -> None:
    seen, wrong = compare(codes)
    assert not wrong, f"{len(wrong)} of {seen}:\n" + "\n".join(wrong[:: max(1, len(wrong) // 60)])
    assert seen > least


def test_pieces_and_addresses_are_capstones() -> None:
    """Where displacement and immediate are, and what address the memory operand has."""
    engine = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    engine.detail = True
    source = random.Random(SEED)
    addresses = immediates = 0
    for code in anything(40_000):
        found = next(engine.disasm(code, 0x1000, 1), None)
        length, ours = decode(code)
        if found is None or found.size != length or is_known_difference(code, ours):
            continue
        if ours.imm_size and found.encoding.imm_offset and ours.opcode != 0xC8:
            immediates += 1
            assert (ours.imm_offset, ours.imm_size) == (found.encoding.imm_offset, found.encoding.imm_size), (
                code.hex(" ")
            )
        operand = next((o for o in found.operands if o.type == x86.X86_OP_MEM), None)
        if operand is None or not ours.has_modrm or ours.mod == 3 or ours.vex:
            continue
        addresses += 1
        gpr = [source.getrandbits(64) for _ in range(16)]
        mem = operand.mem
        expected = mem.disp
        if mem.base in (x86.X86_REG_RIP, x86.X86_REG_EIP):
            expected += 0x1000 + length
        elif mem.base:
            expected += gpr[REGISTERS[mem.base]]
        if mem.index and mem.index not in (x86.X86_REG_RIZ, x86.X86_REG_EIZ):
            expected += gpr[REGISTERS[mem.index]] * mem.scale
        mask = (1 << 8 * found.addr_size) - 1
        if ours.segment and set(code[: ours.prefixes]) & set(b"\x26\x2e\x36\x3e"):
            continue  # those mean nothing in 64-bit mode (SDM 2A 2.1.1); capstone lets them take FS and GS away
        segment = {x86.X86_REG_FS: 0x5000, x86.X86_REG_GS: 0x7000}.get(mem.segment, 0)
        address = lib.instruction_address(ours, ffi.new("uint64_t[16]", gpr), 0x1000, 0x5000, 0x7000)
        assert address == ((expected & mask) + segment) % 2**64, (
            f"{code.hex(' ')}: {found.mnemonic} {found.op_str}"
        )
    assert addresses > 8000
    assert immediates > 5000


@pytest.mark.parametrize(
    ("code", "result"),
    [
        (b"", -61),  # ENODATA
        (b"\x0f", -61),
        (b"\x48\x8b", -61),
        (b"\x66" * 14, -61),
        (b"\x66" * 15, -7),  # E2BIG: #GP
        (b"\x66" * 10 + b"\x81\x04\x25" + bytes(8), -7),
        (b"\x06", -84),  # EILSEQ: #UD
        (b"\x66" * 14 + b"\x90", 15),
    ],
)
def test_what_is_not_an_instruction(code: bytes, result: int) -> None:
    assert decode(code)[0] == result
