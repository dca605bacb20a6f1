"""Rings: who may load which segment, go through which gate, touch which port and which page.

Each check takes the numbers that the processor compares and answers with a `Check`: allowed or not, the exception
if not, and why. The sections are the Intel SDM's (volume 3A chapter 5 unless another is named). A smaller number is
more privilege: CPL is the ring of the running code (the RPL of CS), DPL the ring that a descriptor belongs to, RPL the
ring in whose name a selector is used.

Left out: task gates and task switches, SMM, VMX, supervisor shadow stacks, protection keys, limits (`Descriptor.limit`
is there to compare with).
"""

from __future__ import annotations

from dataclasses import dataclass

TS, NP, SS, GP, PF = 10, 11, 12, 13, 14
VECTOR_NAMES = {6: "#UD", 7: "#NM", TS: "#TS", NP: "#NP", SS: "#SS", GP: "#GP", PF: "#PF"}
"""Exceptions that a privilege check, or an instruction that is not there, gives (SDM 3A table 6-1)."""


@dataclass(frozen=True, slots=True)
class Check:
    """What a check came to; true when the access is allowed.

    Attributes
    ----------
    allowed
        Whether the processor goes on.
    why
        The comparison that decided, with its numbers.
    section
        Where the SDM says so.
    vector
        The exception otherwise.
    cpl
        The ring in which execution goes on, where that is the point of the access.
    """

    allowed: bool
    why: str
    section: str
    vector: int | None = None
    cpl: int | None = None

    def __bool__(self) -> bool:
        return self.allowed

    def __str__(self) -> str:
        ring = f", to ring {self.cpl}" if self.cpl is not None else ""
        result = f"allowed{ring}" if self.allowed else VECTOR_NAMES.get(self.vector or 0, "refused")
        return f"{result}: {self.why} (SDM {self.section})"


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A segment or gate descriptor, taken apart (3A §3.4.5, §5.8.3, §6.11).

    For a gate, `base` is the offset that it leads to and `limit` the selector.
    """

    type: int
    is_segment: bool
    dpl: int
    present: bool
    base: int = 0
    limit: int = 0

    @classmethod
    def parse(cls, raw: bytes | int) -> Descriptor:
        """Of 8 bytes as they lie in a GDT, an LDT or an IDT (of 64-bit gates, the first 8).

        Raises
        ------
        ValueError
            When there are fewer than 8 bytes.
        """
        if isinstance(raw, bytes):
            if len(raw) < 8:
                raise ValueError(f"a descriptor has 8 bytes, not {len(raw)}")
            raw = int.from_bytes(raw[:8], "little")
        kind, is_segment = raw >> 40 & 15, bool(raw >> 44 & 1)
        dpl, present = raw >> 45 & 3, bool(raw >> 47 & 1)
        if not is_segment and kind & 4:  # call, interrupt, trap and task gates
            offset = raw & 0xFFFF | raw >> 32 & 0xFFFF0000
            return cls(kind, False, dpl, present, offset, raw >> 16 & 0xFFFF)
        limit = raw & 0xFFFF | raw >> 32 & 0xF0000
        if raw >> 55 & 1:
            limit = limit << 12 | 0xFFF
        return cls(kind, is_segment, dpl, present, raw >> 16 & 0xFFFFFF | raw >> 32 & 0xFF000000, limit)

    @property
    def is_code(self) -> bool:
        """A code segment."""
        return self.is_segment and bool(self.type & 8)

    @property
    def is_conforming(self) -> bool:
        """Code that runs in its caller's ring."""
        return self.is_code and bool(self.type & 4)

    @property
    def is_readable(self) -> bool:
        """Data, or code that may be read."""
        return self.is_segment and (not self.is_code or bool(self.type & 2))

    @property
    def is_writable(self) -> bool:
        """Data that may be written."""
        return self.is_segment and not self.is_code and bool(self.type & 2)


def load_data_segment(cpl: int, selector: int, descriptor: Descriptor | None) -> Check:
    """MOV, POP, LDS and so on into DS, ES, FS or GS (§5.6). `descriptor` None: a null selector, always allowed."""
    section = "3A §5.6"
    if selector & ~3 == 0:
        return Check(True, "a null selector may be loaded; using it faults", section)
    if descriptor is None or not descriptor.is_readable:
        return Check(False, "not a data segment or readable code", section, GP)
    rpl = selector & 3
    if not descriptor.is_conforming and descriptor.dpl < max(cpl, rpl):
        return Check(False, f"DPL {descriptor.dpl} < max(CPL {cpl}, RPL {rpl})", section, GP)
    if not descriptor.present:
        return Check(False, "the segment is not present", section, NP)
    if descriptor.is_conforming:
        return Check(True, "conforming code may be read from every ring", section)
    return Check(True, f"DPL {descriptor.dpl} >= max(CPL {cpl}, RPL {rpl})", section)


def load_stack_segment(
    cpl: int, selector: int, descriptor: Descriptor | None, *, long: bool = False
) -> Check:
    """MOV or POP into SS (§5.7): CPL, RPL and DPL must be one. `long`: in 64-bit mode, where rings 0-2 take null."""
    section, rpl = "3A §5.7", selector & 3
    if selector & ~3 == 0:
        allowed = long and cpl < 3 and rpl == cpl
        why = "a null SS, in 64-bit mode below ring 3 (3A §5.4.1.1)" if allowed else "SS must not be null"
        return Check(allowed, why, section, None if allowed else GP)
    if descriptor is None or not descriptor.is_writable:
        return Check(False, "not a writable data segment", section, GP)
    if not cpl == rpl == descriptor.dpl:
        return Check(False, f"CPL {cpl}, RPL {rpl} and DPL {descriptor.dpl} are not one", section, GP)
    if not descriptor.present:
        return Check(False, "the stack segment is not present", section, SS)
    return Check(True, f"CPL, RPL and DPL are {cpl}", section)


def far_transfer(cpl: int, selector: int, code: Descriptor | None) -> Check:
    """JMP or CALL straight to a code segment (§5.8.1): never to another ring."""
    section, rpl = "3A §5.8.1", selector & 3
    if selector & ~3 == 0 or code is None or not code.is_code:
        return Check(False, "not a code segment", section, GP)
    if code.is_conforming:
        if code.dpl > cpl:
            return Check(False, f"conforming, DPL {code.dpl} > CPL {cpl}", section, GP)
        why = f"conforming, DPL {code.dpl} <= CPL {cpl}: the code runs in its caller's ring"
    elif rpl > cpl or code.dpl != cpl:
        return Check(False, f"RPL {rpl} > CPL {cpl} or DPL {code.dpl} is not CPL {cpl}", section, GP)
    else:
        why = f"DPL {code.dpl} is CPL, RPL {rpl} <= CPL"
    if not code.present:
        return Check(False, "the segment is not present", section, NP)
    return Check(True, why, section, cpl=cpl)


def call_gate(cpl: int, rpl: int, gate: Descriptor, code: Descriptor, *, jump: bool = False) -> Check:
    """CALL, or JMP when `jump`, through a call gate (§5.8.4): the way into an inner ring."""
    section = "3A §5.8.4"
    if gate.dpl < max(cpl, rpl):
        return Check(False, f"gate's DPL {gate.dpl} < max(CPL {cpl}, RPL {rpl})", section, GP)
    if not gate.present:
        return Check(False, "the gate is not present", section, NP)
    if not code.is_code or code.dpl > cpl:
        return Check(
            False, f"not code, or its DPL {code.dpl} > CPL {cpl}: gates lead inwards only", section, GP
        )
    if jump and not code.is_conforming and code.dpl != cpl:
        return Check(False, f"JMP does not change rings: DPL {code.dpl}, CPL {cpl}", section, GP)
    if not code.present:
        return Check(False, "the code segment is not present", section, NP)
    ring = cpl if code.is_conforming else code.dpl
    return Check(True, f"gate's DPL {gate.dpl} >= CPL {cpl}, code's DPL {code.dpl} <= CPL", section, cpl=ring)


def interrupt_gate(cpl: int, gate: Descriptor, code: Descriptor, *, software: bool) -> Check:
    """Through the IDT (§6.12.1.1). The gate's DPL counts only for INT n, INT3 and INTO (`software`)."""
    section = "3A §6.12.1.1"
    if software and gate.dpl < cpl:
        return Check(False, f"INT n: gate's DPL {gate.dpl} < CPL {cpl}", section, GP)
    if not gate.present:
        return Check(False, "the gate is not present", section, NP)
    if not code.is_code or code.dpl > cpl:
        return Check(False, f"the handler's DPL {code.dpl} > CPL {cpl}", section, GP)
    if not code.present:
        return Check(False, "the handler's segment is not present", section, NP)
    ring = cpl if code.is_conforming else code.dpl
    why = f"gate's DPL {gate.dpl} >= CPL {cpl}" if software else "the gate's DPL does not count"
    return Check(True, f"{why}, handler's DPL {code.dpl}", section, cpl=ring)


def far_return(cpl: int, selector: int, code: Descriptor | None) -> Check:
    """RET far or IRET to a code segment (§5.8.6): to the same ring or outwards."""
    section, rpl = "3A §5.8.6", selector & 3
    if selector & ~3 == 0 or code is None or not code.is_code:
        return Check(False, "not a code segment", section, GP)
    if rpl < cpl:
        return Check(False, f"RPL {rpl} < CPL {cpl}: returns do not lead inwards", section, GP)
    if code.dpl != rpl and not (code.is_conforming and code.dpl <= rpl):
        return Check(False, f"DPL {code.dpl} does not fit RPL {rpl}", section, GP)
    if not code.present:
        return Check(False, "the segment is not present", section, NP)
    return Check(True, f"RPL {rpl} >= CPL {cpl}, DPL {code.dpl}", section, cpl=rpl)


def port_access(
    cpl: int, iopl: int, port: int, size: int = 1, *, bitmap: bytes | None = None, virtual_8086: bool = False
) -> Check:
    """IN, OUT, INS and OUTS (vol. 1 §19.5): IOPL first, then one bit for each byte of the port in the TSS.

    Parameters
    ----------
    bitmap
        The TSS's I/O permission bit map from its first byte on; None where the TSS has none. Ports
        beyond it are refused.
    virtual_8086
        In that mode IOPL does not count.
    """
    section = "vol. 1 §19.5"
    if cpl <= iopl and not virtual_8086:
        return Check(True, f"CPL {cpl} <= IOPL {iopl}", section)
    above = "virtual-8086 mode" if virtual_8086 else f"CPL {cpl} > IOPL {iopl}"
    if bitmap is None:
        return Check(False, f"{above}, and the TSS has no I/O bit map", section, GP)
    for number in range(port, port + size):
        if number // 8 >= len(bitmap) or bitmap[number // 8] >> number % 8 & 1:
            return Check(
                False, f"{above}, and port {number:#x} is not open in the TSS's bit map", section, GP
            )
    return Check(True, f"{above}, but the TSS's bit map opens the port", section)


def interrupt_flag(cpl: int, iopl: int, *, virtual_interrupts: bool = False) -> Check:
    """CLI and STI (§6.8.1). `virtual_interrupts`: CR4.PVI, where ring 3 changes VIF and not IF (3B §20.4)."""
    if cpl <= iopl:
        return Check(True, f"CPL {cpl} <= IOPL {iopl}", "3A §6.8.1")
    if virtual_interrupts and cpl == 3:
        return Check(True, "CR4.PVI: VIF changes, not IF", "3B §20.4")
    return Check(False, f"CPL {cpl} > IOPL {iopl}", "3A §6.8.1", GP)


def page_access(
    cpl: int,
    *,
    user: bool,
    writable: bool = True,
    executable: bool = True,
    write: bool = False,
    fetch: bool = False,
    wp: bool = True,
    smep: bool = False,
    smap: bool = False,
    ac: bool = False,
) -> Check:
    """An access to a present page (3A §4.6.1). Paging knows two rings: user is 3, supervisor 0 to 2.

    Parameters
    ----------
    user, writable, executable
        U/S and R/W set, XD clear in every entry of the walk.
    write, fetch
        What the access is; neither: a read.
    wp, smep, smap, ac
        CR0.WP, CR4.SMEP, CR4.SMAP, EFLAGS.AC.
    """
    section = "3A §4.6.1"

    def refused(why: str) -> Check:
        return Check(False, why, section, PF)

    if fetch and not executable:
        return refused("an instruction from a page with XD set")
    if cpl == 3:
        if not user:
            return refused("ring 3 and a supervisor page")
        if write and not writable:
            return refused("a write to a read-only page")
        return Check(True, "ring 3 and a user page", section)
    if user and fetch and smep:
        return refused("CR4.SMEP: the supervisor runs no code of user pages")
    if user and not fetch and smap and not ac:
        return refused("CR4.SMAP: the supervisor touches user data only while EFLAGS.AC is set")
    if write and not writable and wp:
        return refused("CR0.WP: a write to a read-only page, in any ring")
    return Check(True, f"ring {cpl} is supervisor", section)
