"""Small pieces of x86 code from text and back: keystone assembles, capstone decodes.

Intel syntax; ``;`` separates statements, ``#`` and ``//`` begin a comment, labels end in a colon, and the
directives of GNU as that keystone knows work (``.byte``, ``.ascii``, ``.org``, ``.align``, ``.set``). For labs,
tests and traces: whole guests are built by GNU as (csrc/guest, csrc/firmware). Left out: several sections, linking,
AT&T syntax.
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pyvmm.errors import PyvmmError

if TYPE_CHECKING:
    import keystone

Bits = Literal[16, 32, 64]

_SYMBOL_MISSING = 144  # KS_ERR_ASM_SYMBOL_MISSING: the one error that may be cured by a later line
# A string or a character, kept; or a comment. keystone itself takes `nop # text` for an operand.
_COMMENT = re.compile(r"""("(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])')|(?:#|//).*""")


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
        symbol = _missing_symbol(assembler, source) if error.errno == _SYMBOL_MISSING else ""
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


def _missing_symbol(assembler: keystone.Ks, lines: list[str]) -> str:
    """Ask keystone which symbol it looks for. The assembler is of no use afterwards: it then reads 10 as 0x10."""
    import keystone

    missing: list[str] = []

    def note(symbol: bytes, _value: object) -> bool:
        missing.append(symbol.decode(errors="replace"))
        return False

    assembler.sym_resolver = note
    with contextlib.suppress(keystone.KsError):
        assembler.asm("\n".join(lines))
    return missing[0] if missing else ""


def _line_with_symbol(lines: list[str], symbol: str) -> int:
    word = re.compile(rf"(?<![\w.$]){re.escape(symbol)}(?![\w.$])")
    return next((number for number, line in enumerate(lines, 1) if word.search(line)), 0)
