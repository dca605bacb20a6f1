"""Which of the kernel's checks must go wrong under trap-and-emulate: a prediction from `pyvmm.cpu`'s table alone.

Each check (csrc/guest/lab/checks.c) uses instructions as a kernel does. It can be right in ring 3 when each of them
traps, so that the monitor may answer. Beside those that the table has as trapping, the monitor of csrc/lab catches two
kinds by how it sets up the processor: none of the guest's selectors is in its GDT, so that a far transfer to one is #GP
(Intel SDM 3A §5.8), and its gates have DPL 0, so that INT n is (§6.12.1.1).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyvmm.cpu.instructions import TABLE

if TYPE_CHECKING:
    from pyvmm.cpu.instructions import Row

USES = {
    "pushf_off": ("PUSHF",),
    "pushf_on": ("PUSHF",),
    "popf_on": ("PUSHF", "POPF"),
    "popf_off": ("PUSHF", "POPF"),
    "sgdt": ("SGDT",),
    "sidt": ("SIDT",),
    "sldt": ("SLDT",),
    "str": ("STR",),
    "smsw": ("SMSW",),
    "lar": ("LAR",),
    "lsl": ("LSL",),
    "verr": ("VERR",),
    "verw": ("VERW",),
    "mov_from_cs": ("MOV from Sreg",),
    "mov_from_ss": ("MOV from Sreg",),
    "mov_to_ds": ("MOV to Sreg", "MOV from Sreg"),
    "push_fs": ("MOV to Sreg", "PUSH Sreg"),
    "pop_gs": ("POP Sreg", "MOV from Sreg"),
    "call_far": ("CALL far",),
    "jmp_far": ("JMP far",),
    "ret_far": ("RET far",),
    "int_n": ("INT n",),
    "iret": ("IRET",),
    "cr3": ("MOV CRn",),
    "cr8": ("MOV CRn",),
    "star": ("RDMSR",),
}
"""Each check's sensitive instructions, by their rows in `pyvmm.cpu.TABLE`."""

CAUGHT = frozenset({"CALL far", "JMP far", "RET far", "IRET", "INT n"})
"""That trap by what the monitor has put into GDT and IDT."""

LUCKY = {
    "pushf_on": "the monitor's own IF is always set, and so should the kernel's be",
}
"""Not trapped, and right for once."""

_ROWS = {row.name: row for row in TABLE}


def rows(check: str) -> tuple[Row, ...]:
    """The instructions of a check.

    Raises
    ------
    KeyError
        There is no such check.
    """
    return tuple(_ROWS[name] for name in USES[check])


def untrapped(check: str, *, cr4: int = 0) -> tuple[Row, ...]:
    """Those of them that a monitor does not get to see in 64-bit ring 3; `cr4` may have UMIP."""
    return tuple(row for row in rows(check) if row.trap("long", cr4=cr4) is None and row.name not in CAUGHT)


def deceived(check: str, *, cr4: int = 0) -> bool:
    """Whether a kernel in ring 3 must get a wrong answer under trap-and-emulate."""
    return bool(untrapped(check, cr4=cr4)) and check not in LUCKY
