"""What binary translation made of a block of guest code (csrc/lab/translate.h), to look at: docs/translation.md.

Left out: blocks that were dropped, and the common routines that all blocks jump to.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from pyvmm.asm import Instruction, disassemble
from pyvmm.cpu import classify
from pyvmm.cpu.instructions import Kind
from pyvmm.native import ffi, lib
from pyvmm.trace.explain import read_code

if TYPE_CHECKING:
    from pyvmm.lab.monitor import Monitor

_CONTROL = frozenset(("call", "ret", "jmp", "loop", "loope", "loopne", "jrcxz", "jecxz"))
_SEGMENTS = ("ES", "CS", "SS", "DS", "FS", "GS")
_FIELDS = {
    "rax": "guest's RAX", "rcx": "guest's RCX", "rdx": "guest's RDX", "rsp": "guest's RSP",
    "scratch": "guest's scratch register", "target": "target, a guest address", "jump": "target's code",
    "value": "value", "zero": "zero", "pending": "an interrupt waits", "interrupts": "virtual IF",
    "iopl": "virtual IOPL", "tr": "virtual TR", "ldtr": "virtual LDTR",
}  # fmt: skip
_RELATIVE = re.compile(r"\[rip ([+-]) (0x[0-9a-f]+|\d+)\]")


@dataclass(frozen=True, slots=True)
class Rewritten:
    """One guest instruction, and what runs in its place.

    Attributes
    ----------
    guest
        The instruction; None: the way out of the block at its end.
    code
        What was emitted, in order; memory of the virtual CPU by name.
    why
        Why it is not the same, or ``"the same"``.
    """

    guest: Instruction | None
    code: tuple[str, ...]
    why: str


@dataclass(frozen=True, slots=True)
class Translation:
    """A translated block; ``print()`` it for guest and code side by side.

    Attributes
    ----------
    address, size
        Of the guest's code: linear address, bytes.
    code_address, code_size
        Of the emitted code, in the monitor's memory.
    exits, chained
        Jumps out of it to known places, and how many of them lead straight to translated code by now.
    rows
        In the guest's order.
    """

    address: int
    size: int
    code_address: int
    code_size: int
    exits: int
    chained: int
    rows: tuple[Rewritten, ...]

    @property
    def title(self) -> str:
        """``"0x101950: 15 bytes of the guest became 145, ..."``."""
        chained = f", {self.chained} of {self.exits} exits chained" if self.exits else ""
        became = f"{self.size} bytes of the guest became {self.code_size} at {self.code_address:#x}"
        return f"{self.address:#x}: {became}{chained}"

    def _cells(self) -> list[tuple[str, str, str]]:
        cells = []
        for row in self.rows:
            guest = f"{row.guest.address:#x}  {row.guest.text}" if row.guest else "(the end)"
            for number, code in enumerate(row.code or ("",)):
                cells.append((guest, code, row.why) if number == 0 else ("", code, ""))
        return cells

    def __str__(self) -> str:
        cells = self._cells()
        widths = [max(len(row[column]) for row in cells) for column in (0, 1)]
        lines = [f"  {guest:<{widths[0]}}  {code:<{widths[1]}}  {why}".rstrip() for guest, code, why in cells]
        return "\n".join([self.title, *lines])

    def _repr_html_(self) -> str:
        look = "text-align: left; color: #111111; background: #ffffff"
        cell = f"style='{look}; padding: 1px 12px; font-family: monospace'"
        rows = ["".join(f"<td {cell}>{escape(text)}</td>" for text in row) for row in self._cells()]
        heads = "".join(f"<th {cell}>{text}</th>" for text in ("the guest's", "what runs", "why"))
        caption = f"<caption style='{look}'>{escape(self.title)}</caption>"
        body = "".join(f"<tr>{row}</tr>" for row in rows)
        return f"<table>{caption}<tr>{heads}</tr>{body}</table>"


def translation_of(monitor: Monitor, pointer: Any, address: int) -> Translation | None:
    """See `Monitor.translation`."""
    view = ffi.new("TranslationView *")
    if not lib.lab_translation(pointer, address, view):
        return None
    data = ffi.new("uint8_t[]", view.code_size)
    lib.lab_translation_code(pointer, view.rip, data, view.code_size)
    room = int(view.code_size)
    places, owners = ffi.new("uint64_t[]", room), ffi.new("uint64_t[]", room)
    count = lib.lab_translation_places(pointer, view.rip, places, owners, room)
    owner_of = {int(places[i]): int(owners[i]) for i in range(count)}
    source = read_code(monitor.machine, monitor.paging_state, view.rip, view.size)
    guest = {each.address: each for each in disassemble(source, view.rip)}
    emitted: dict[int | None, list[Instruction]] = {}
    owner: int | None = None
    for each in _instructions(bytes(ffi.buffer(data)), int(view.code), owner_of):
        if each.address in owner_of:
            at = owner_of[each.address]
            owner = at if at in guest else None
        emitted.setdefault(owner, []).append(each)
    rows = [_row(each, emitted.get(each.address, []), view) for each in guest.values()]
    if None in emitted:
        ways = tuple(_named(each, view) for each in emitted[None])
        rows.append(Rewritten(None, ways, "the way to the next block"))
    return Translation(
        int(view.rip),
        int(view.size),
        int(view.code),
        int(view.code_size),
        int(view.exits),
        int(view.linked),
        tuple(rows),
    )


def _instructions(code: bytes, address: int, places: dict[int, int]) -> list[Instruction]:
    """Emitted instructions: each at its place. Between the last of a stretch and the next are literals: addresses."""
    found: list[Instruction] = []
    starts = sorted(at for at in places if address <= at < address + len(code))
    for start, end in zip(starts, [*starts[1:], address + len(code)], strict=True):
        piece = disassemble(code[start - address : end - address], start)
        for each in piece:
            found.append(each)
            if each.mnemonic == "ud2":  # what is behind it is data
                break
    return found


def _row(guest: Instruction, code: list[Instruction], view: Any) -> Rewritten:
    data = b"".join(each.data for each in code)
    texts = tuple(_named(each, view) for each in code)
    if data == guest.data:
        return Rewritten(guest, texts, "the same")
    found = classify(guest.data)
    kind = found.kind.name.lower().replace("_", "-")
    if found.kind is Kind.INNOCUOUS and data.endswith(guest.data):
        return Rewritten(guest, texts, "the same, once no interrupt waits")
    if guest.mnemonic in _CONTROL or guest.mnemonic.startswith("j"):
        why = "control stays in translated code"
    elif "[rip " in guest.operands:
        why = "RIP is another here"
    elif any(each.mnemonic == "ud2" for each in code) and len(code) == 1:
        why = f"{kind}: the monitor does it"
    else:
        why = f"{kind}: done on the virtual CPU"
    return Rewritten(guest, texts, why)


def _named(instruction: Instruction, view: Any) -> str:
    """Its text, with the virtual CPU's fields by name, and jumps by their distance from the block's start."""
    page, start, size = int(view.page), int(view.code), int(view.code_size)

    def name(match: re.Match[str]) -> str:
        offset = int(match[2], 0) * (-1 if match[1] == "-" else 1)
        field = _field(instruction.address + instruction.size + offset - page)
        return f"[{field}]" if field else match[0]

    if instruction.mnemonic == "ud2":
        return "ud2  (calls the monitor)"
    if instruction.mnemonic.startswith("j") and instruction.operands.startswith("0x"):
        target = int(instruction.operands, 16)
        place = f"+{target - start:#x}" if 0 <= target - start < size else "(the common look-up of targets)"
        return f"{instruction.mnemonic} {place}"
    return _RELATIVE.sub(name, instruction.text)


def _field(offset: int) -> str:
    for name, title in _FIELDS.items():
        if ffi.offsetof("TranslatorPage", name) <= offset < ffi.offsetof("TranslatorPage", name) + 8:
            return title
    for name, count in (("cr", 9), ("selector", 6)):
        number, rest = divmod(offset - ffi.offsetof("TranslatorPage", name), 8)
        if 0 <= number < count and rest < 8:
            return f"virtual CR{number}" if name == "cr" else f"virtual {_SEGMENTS[number]}"
    return ""
