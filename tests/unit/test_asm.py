"""pyvmm.asm: code to bytes, bytes to code, and what is said of text that is none."""

from __future__ import annotations

import pytest

from pyvmm.asm import AssemblyError, Instruction, assemble, disassemble
from pyvmm.errors import PyvmmError


@pytest.mark.parametrize(
    ("bits", "text", "code"),
    [
        (16, "mov dx, 0x3f8; mov al, 'A'; out dx, al; hlt", "baf803b041eef4"),
        (32, "mov eax, 10\nnop  # ten and nothing", "b80a00000090"),
        (64, "again: dec ecx\n jnz again\n hlt", "ffc975fcf4"),
        (64, "syscall; iretq; swapgs", "0f0548cf0f01f8"),
        (64, '.byte 1, 2\n.ascii "hi"', "01026869"),
        (64, '.ascii "#//" // not a comment inside', "232f2f"),
        (64, "", ""),
    ],
)
def test_assemble(bits: int, text: str, code: str) -> None:
    assert assemble(text, bits=bits).hex() == code  # type: ignore[arg-type]


def test_labels_count_from_the_address() -> None:
    code = assemble("mov esi, text\nhlt\ntext: .byte 0", bits=32, address=0x7C00)
    assert code == bytes.fromhex("be067c0000f400")


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("nop\nnop\nbad eax\nnop", 3, "bad eax"),
        ("nop\njmp end\nmov eax, eax, eax\nend: nop", 3, "operand"),
        ("nop\nend: jmp nowhere\ncall there\nnop", 2, "'nowhere'"),
        ("out 0x540, al", 1, "out 0x540, al"),
        ("start: mov eax, [rbx + table]; .set limit, 5\nmov ecx, limit", 1, "'table'"),
        ('.ascii "jmp lost"\nadd rsp, 8\njz lost', 3, "'lost'"),
    ],
)
def test_error_names_the_line(text: str, line: int, words: str) -> None:
    with pytest.raises(AssemblyError) as caught:
        assemble(text)
    assert caught.value.line == line
    assert words in str(caught.value)
    assert f"line {line}" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, PyvmmError)


def test_numbers_stay_decimal_after_an_error() -> None:
    for _ in range(20):
        with pytest.raises(AssemblyError):
            assemble("jmp nowhere")
        assert {assemble("mov eax, 10").hex() for _ in range(20)} == {"b80a000000"}


def test_bits_are_checked() -> None:
    with pytest.raises(ValueError, match="16, 32 or 64"):
        assemble("nop", bits=8)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="16, 32 or 64"):
        disassemble(b"\x90", bits=8)  # type: ignore[arg-type]


def test_disassemble() -> None:
    first, second = disassemble(bytes.fromhex("ffc975fc"), 0x1000)
    assert first == Instruction(0x1000, b"\xff\xc9", "dec", "ecx")
    assert second.text == "jne 0x1000"
    assert second.size == 2
    assert "0x00001002" in str(second)


def test_disassemble_goes_on_after_bytes_that_are_no_instruction() -> None:
    listing = disassemble(bytes.fromhex("0690"), bits=64)
    assert [(i.mnemonic, i.size) for i in listing] == [(".byte", 1), ("nop", 1)]
    assert sum(i.size for i in disassemble(bytes(range(256)))) == 256


@pytest.mark.parametrize("bits", [16, 32, 64])
def test_round_trip(bits: int) -> None:
    text = "mov eax, 0x1234; xor ebx, ebx; cpuid; out 0x80, al; hlt"
    listing = disassemble(assemble(text, bits=bits), bits=bits)  # type: ignore[arg-type]
    assert assemble("; ".join(i.text for i in listing), bits=bits) == assemble(text, bits=bits)  # type: ignore[arg-type]
