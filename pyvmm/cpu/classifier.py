"""What class an instruction is in: innocuous, privileged, sensitive or IOPL-sensitive, and why (`instructions.TABLE`).

Decoding is capstone's. What it does not know as an instruction is ``undefined``: a processor may know it.

Left out: prefixes that make an instruction #UD (LOCK where it may not be), and what an operand's address does.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from html import escape
from typing import TYPE_CHECKING, Any

from pyvmm.cpu.instructions import MODES, TABLE, UD, Kind, Row
from pyvmm.cpu.rings import VECTOR_NAMES
from pyvmm.cpu.state import CpuState
from pyvmm.errors import PyvmmError

if TYPE_CHECKING:
    import capstone

_BITS = {"real": 16, "virtual-8086": 16, "protected": 32, "compatibility": 32, "long": 64}
_ALIASES = {"64-bit": "long", "v86": "virtual-8086"}


@dataclass(frozen=True, slots=True)
class Classification:
    """What is known of one instruction in one mode; ``print()`` it, or end a notebook's cell with it.

    Attributes
    ----------
    text, data
        The instruction as text and as bytes. Without bytes that are one, text is ``(undefined)``.
    mode
        One of `instructions.MODES`.
    kind
        Its class, with CR4 as given to `classify`.
    sensitivity
        ``"control"``, ``"behaviour"``, both or nothing.
    why
        In one sentence.
    section
        Of the Intel SDM; empty for what is innocuous.
    row
        The row of the table, or None.
    trap
        The vector that it gives at `cpl`, or None.
    """

    text: str
    data: bytes
    mode: str
    kind: Kind
    sensitivity: str
    why: str
    section: str
    trap: int | None
    cpl: int
    row: Row | None = field(default=None, repr=False)

    @property
    def traps(self) -> bool:
        """Whether it traps at `cpl` (by default ring 3)."""
        return self.trap is not None

    @property
    def breaks_trap_and_emulate(self) -> bool:
        """Sensitive, and no trap in ring 3: what Popek and Goldberg's condition forbids."""
        return self.kind is Kind.SENSITIVE and self.trap is None

    @property
    def _class(self) -> str:
        return f"{self.kind.value} ({self.sensitivity})" if self.sensitivity else self.kind.value

    @property
    def _ring(self) -> str:
        name = VECTOR_NAMES.get(self.trap or 0, "")
        return f"ring {self.cpl}: {'traps, ' + name if self.traps else 'does not trap'}"

    def __str__(self) -> str:
        section = f" (SDM {self.section})" if self.section else ""
        return f"{self.text}: {self._class}, {self.mode} mode, {self._ring}: {self.why}{section}"

    def _repr_html_(self) -> str:
        rows = {
            "instruction": f"<code>{escape(self.text)}</code> &nbsp;<code>{self.data.hex(' ')}</code>",
            "class": escape(self._class),
            f"{escape(self.mode)} mode": escape(self._ring),
            "why": escape(self.why),
            "Intel SDM": escape(self.section) or "&ndash;",
        }
        cells = "".join(
            f"<tr><th style='text-align:left'>{name}</th><td style='text-align:left'>{value}</td></tr>"
            for name, value in rows.items()
        )
        return f"<table>{cells}</table>"


def classify(
    code: bytes | bytearray | memoryview,
    mode: str | CpuState = "long",
    *,
    bits: int | None = None,
    cpl: int = 3,
    iopl: int = 0,
    cr4: int = 0,
) -> Classification:
    """The class of the first instruction in `code`.

    Parameters
    ----------
    code
        Machine code; 15 bytes are enough for any instruction.
    mode
        One of ``"real"``, ``"virtual-8086"``, ``"protected"``, ``"compatibility"`` and ``"long"`` (or ``"64-bit"``),
        or a `CpuState`, which then answers for CPL, IOPL, CR4 and the code's width too.
    bits
        Width of the code: 16, 32 or 64. Without it that of the mode; 32 for protected and compatibility mode.
    cpl, iopl, cr4
        For what the processor does: by default what a kernel meets that a monitor runs in ring 3.

    Raises
    ------
    ValueError
        Without code, or for a mode, width or ring that does not exist.
    PyvmmError
        When capstone is not installed.

    Examples
    --------
    >>> from pyvmm.cpu import classify
    >>> print(classify(bytes.fromhex("9d")).kind)
    Kind.SENSITIVE
    """
    if isinstance(mode, CpuState):
        state = mode
        mode, bits = state.mode, bits or state.code_bits
        cpl, iopl, cr4 = state.cpl, state.rflags >> 12 & 3, state.cr4
    mode = _ALIASES.get(mode, mode)
    if mode not in MODES:
        raise ValueError(f"mode is {mode!r}: it must be one of {', '.join(MODES)}")
    if not 0 <= cpl <= 3 or not 0 <= iopl <= 3:
        raise ValueError(f"CPL {cpl} and IOPL {iopl} must be 0 to 3")
    cpl = {"real": 0, "virtual-8086": 3}.get(mode, cpl)
    width = _BITS[mode] if bits is None else bits
    if width not in (16, 32, 64) or (width == 64) != (mode == "long"):
        raise ValueError(f"code of {width} bits does not run in {mode} mode")
    raw = bytes(code[:15])
    if not raw:
        raise ValueError("no code to classify")
    instruction = next(_decoder(width).disasm(raw, 0, 1), None)
    if instruction is None:
        why = "no instruction begins with these bytes, or it is cut off"
        return Classification("(undefined)", raw, mode, Kind.UNDEFINED, "", why, "vol. 2B UD", UD, cpl)
    text, data = f"{instruction.mnemonic} {instruction.op_str}".rstrip(), bytes(instruction.bytes)
    row = _row_of(instruction)
    if instruction.mnemonic in ("ud0", "ud1", "ud2"):
        why = "it is there to be no instruction, in every ring"
        return Classification(text, data, mode, Kind.UNDEFINED, "", why, "vol. 2B UD", UD, cpl)
    if row is None:
        why = "it neither shows nor changes how the machine is set up"
        return Classification(text, data, mode, Kind.INNOCUOUS, "", why, "", None, cpl)
    trap = row.trap(mode, cpl=cpl, iopl=iopl, cr4=cr4)
    kind = row.kind_at(cr4)
    return Classification(
        text, data, mode, kind, row.sensitivity, _why(row, mode, kind), row.section, trap, cpl, row
    )


def _why(row: Row, mode: str, kind: Kind) -> str:
    if mode not in row.modes:
        return f"{row.name} is no instruction in {mode} mode"
    verb = {"control": "changes", "behaviour": "reveals"}.get(row.sensitivity, "reveals or changes")
    if kind is Kind.SENSITIVE:
        return f"{row.what}; {row.rule.value}"
    return f"{verb} {row.what}; {row.rule.value}"


@cache
def _decoder(bits: int) -> capstone.Cs:
    try:
        import capstone
    except ImportError:
        raise PyvmmError(
            "instructions are decoded by capstone, which is not installed: pip install capstone"
        ) from None
    modes = {16: capstone.CS_MODE_16, 32: capstone.CS_MODE_32, 64: capstone.CS_MODE_64}
    decoder = capstone.Cs(capstone.CS_ARCH_X86, modes[bits])
    decoder.detail = True
    return decoder


@cache
def _rows() -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in TABLE:
        for mnemonic in row.mnemonics:
            found.setdefault(mnemonic, []).append(row)
    return found


def _row_of(instruction: Any) -> Row | None:
    """The row whose mnemonic and operands these are."""
    mnemonic = instruction.mnemonic.split()[-1]  # after rep, lock, notrack
    if instruction.opcode[0] == 0xFF and instruction.modrm >> 3 & 7 in (3, 5):  # capstone: plain call and jmp
        mnemonic = "lcall" if instruction.modrm >> 3 & 7 == 3 else "ljmp"
    for row in _rows().get(mnemonic, ()):
        if _has(instruction, row.operand):
            return row
    return None


def _has(instruction: Any, operand: str) -> bool:
    if not operand:
        return True
    names = [_register(instruction, each) for each in instruction.operands]
    match operand:
        case "sreg":
            return any(_is_segment(name) for name in names)
        case "from sreg":
            return _is_segment(names[-1])
        case "to sreg":
            return _is_segment(names[0])
        case kind:
            return any(name[:2] == kind and name[2:].isdigit() for name in names)


def _is_segment(name: str) -> bool:
    return name in ("es", "cs", "ss", "ds", "fs", "gs")


def _register(instruction: Any, operand: Any) -> str:
    """Name of a register operand; nothing for others."""
    from capstone import x86

    return str(instruction.reg_name(operand.reg)) if operand.type == x86.X86_OP_REG else ""
