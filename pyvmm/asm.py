"""Small pieces of x86 code from text and back: keystone assembles, capstone decodes.

Intel syntax; ``;`` separates statements, ``#`` and ``//`` begin a comment, labels end in a colon, and the
directives of GNU as that keystone knows work (``.byte``, ``.ascii``, ``.org``, ``.align``, ``.set``). For labs,
tests and traces: whole guests are built by GNU as (csrc/guest, csrc/firmware). Left out: several sections, linking,
AT&T syntax.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pyvmm.errors import PyvmmError

if TYPE_CHECKING:
    import keystone

Bits = Literal[16, 32, 64]

_SYMBOL_MISSING = 144  # KS_ERR_ASM_SYMBOL_MISSING: the one error that may be cured by a later line
_STRING = re.compile(r"""("(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])')""")  # or a character
# A string, kept; or a comment. keystone itself takes `nop # text` for an operand.
_COMMENT = re.compile(_STRING.pattern + r"|(?:#|//).*")


class AssemblyError(PyvmmError):
    """The text is not x86 assembly.

    Attributes
    ----------
    line
        The line at fault, counted from 1; 0 when it cannot be told.
    """

    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.line = line


@dataclass(frozen=True, slots=True)
class Instruction:
    """One decoded instruction. Bytes that are none appear one at a time with the mnemonic ``.byte``."""

    address: int
    data: bytes
    mnemonic: str
    operands: str

    @property
    def size(self) -> int:
        """Length in bytes, 1 to 15."""
        return len(self.data)

    @property
    def text(self) -> str:
        """``"mov eax, 1"``."""
        return f"{self.mnemonic} {self.operands}".rstrip()

    def __str__(self) -> str:
        return f"{self.address:#010x}  {self.data.hex(' '):<30}  {self.text}"


def assemble(text: str, *, bits: Bits = 64, address: int = 0) -> bytes:
    """Machine code of `text`.

    Parameters
    ----------
    text
        Intel syntax, one or more statements.
    bits
        Mode that the code runs in: 16, 32 or 64.
    address
        Where the first byte will be: labels count from here.

    Raises
    ------
    AssemblyError
        Naming the first line that is at fault.
    ValueError
        When `bits` is not 16, 32 or 64.

    Examples
    --------
    >>> assemble("mov al, 'A'; out 0xe9, al; hlt", bits=16).hex()
    'b041e6e9f4'
    """
    import keystone

    modes = {16: keystone.KS_MODE_16, 32: keystone.KS_MODE_32, 64: keystone.KS_MODE_64}
    if bits not in modes:
        raise ValueError(f"bits is {bits!r}: it must be 16, 32 or 64")
    assembler = keystone.Ks(keystone.KS_ARCH_X86, modes[bits])
    source = [_COMMENT.sub(lambda match: match[1] or "", line) for line in text.splitlines()]
    try:
        code, _ = assembler.asm("\n".join(source), address, as_bytes=True)
    except keystone.KsError as error:
        reason = re.sub(r"\s*\(KS_ERR_\w+\)", "", str(error.message)).lower()
        number = _line_refused(assembler, source, address)
        symbol = _missing_symbol(modes[bits], source) if error.errno == _SYMBOL_MISSING else ""
        if symbol:
            reason = f"no label or symbol {symbol!r}"
            number = _line_with_symbol(source, symbol)
        where = f"line {number}: {source[number - 1].strip()}" if number else "assembly"
        raise AssemblyError(f"{where}: {reason}", number) from None
    return bytes(code or b"")


def disassemble(data: bytes | bytearray | memoryview, address: int = 0, bits: Bits = 64) -> list[Instruction]:
    """Instructions in `data`, from the first byte to the last.

    Parameters
    ----------
    data
        Machine code.
    address
        Where its first byte is: targets of jumps are shown as addresses.
    bits
        Mode that the code runs in: 16, 32 or 64.

    Raises
    ------
    ValueError
        When `bits` is not 16, 32 or 64.
    """
    import capstone

    modes = {16: capstone.CS_MODE_16, 32: capstone.CS_MODE_32, 64: capstone.CS_MODE_64}
    if bits not in modes:
        raise ValueError(f"bits is {bits!r}: it must be 16, 32 or 64")
    decoder = capstone.Cs(capstone.CS_ARCH_X86, modes[bits])
    decoder.skipdata = True
    raw = bytes(data)
    return [
        Instruction(start, raw[start - address : start - address + size], mnemonic, operands)
        for start, size, mnemonic, operands in decoder.disasm_lite(raw, address)
    ]


def _line_refused(assembler: keystone.Ks, lines: list[str], address: int) -> int:
    """Assemble ever longer beginnings: keystone does not report the line itself."""
    import keystone

    for number in range(1, len(lines) + 1):
        try:
            assembler.asm("\n".join(lines[:number]), address)
        except keystone.KsError as error:
            if error.errno != _SYMBOL_MISSING:
                return number
    return 0


def _missing_symbol(bits: int, lines: list[str]) -> str:
    """The first word that, as the target of a jump, is a symbol to keystone, and that no line defines.

    keystone's own answer, a resolver that it asks, is of no use: every assembler of the process that is made after
    such a question may read 10 as 0x10.
    """
    import keystone

    text = "\n".join(_STRING.sub('""', line) for line in lines)
    defined = set(re.findall(r"([\w.$]+)\s*:", text)) | set(re.findall(r"\.set\s+([\w.$]+)", text))
    words: list[str] = re.findall(r"(?<![\w.$])[A-Za-z_.$][\w.$]*", text)
    for word in dict.fromkeys(words):
        if word in defined:
            continue
        try:
            keystone.Ks(keystone.KS_ARCH_X86, bits).asm(f"jmp {word}")
        except keystone.KsError as error:
            if error.errno == _SYMBOL_MISSING and _is_operand(word, text):
                return word
    return ""


def _is_operand(word: str, text: str) -> bool:
    """Whether `word` stands anywhere but first in a statement, where mnemonics and directives are."""
    statements = (re.sub(r"^(\s*[\w.$]+\s*:)*\s*", "", part) for part in re.split(r"[;\n]", text))
    return any(
        re.search(rf"\s.*(?<![\w.$]){re.escape(word)}(?![\w.$])", statement) for statement in statements
    )


def _line_with_symbol(lines: list[str], symbol: str) -> int:
    word = re.compile(rf"(?<![\w.$]){re.escape(symbol)}(?![\w.$])")
    return next((number for number, line in enumerate(lines, 1) if word.search(_STRING.sub('""', line))), 0)
