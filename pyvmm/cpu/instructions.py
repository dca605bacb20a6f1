"""The instructions that a virtual machine monitor has to care about, each with who may execute it and what it tells.

The words are those of Popek and Goldberg (1974): an instruction is *privileged* when it traps in user mode and does
not in supervisor mode; *control-sensitive* when it changes the machine's configuration; *behaviour-sensitive* when
what it does depends on it. Their theorem: a machine can be virtualised by trap-and-emulate when every sensitive
instruction is privileged. Robin and Irvine (2000) listed where the IA-32 breaks this. Their "seventeen instructions",
as the list is always quoted, are 18 mnemonics: SGDT SIDT SLDT SMSW PUSHF POPF, LAR LSL VERR VERW POP PUSH CALL JMP
INT n RET STR MOV. `Row.robin_irvine` marks them.

Sections are the Intel SDM's. Left out: SMX, SGX, user interrupts, shadow stacks and protection keys for supervisor
pages, which no guest of pyvmm has; data and code accesses as such (`rings.page_access`).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

UD, GP = 6, 13

CR4_VME, CR4_PVI, CR4_TSD, CR4_PCE, CR4_UMIP, CR4_FSGSBASE = 1 << 0, 1 << 1, 1 << 2, 1 << 8, 1 << 11, 1 << 16
"""Bits of CR4 that move an instruction from one class into another (3A §2.5)."""

MODES = ("real", "virtual-8086", "protected", "compatibility", "long")
"""As `pyvmm.CpuState.mode` names them; ``long`` is 64-bit mode."""


class Kind(Enum):
    """Which care an instruction needs."""

    INNOCUOUS = "innocuous"
    PRIVILEGED = "privileged"
    SENSITIVE = "sensitive"
    IOPL_SENSITIVE = "IOPL-sensitive"
    UNDEFINED = "undefined"


class Rule(Enum):
    """Who may execute it."""

    ANYONE = "every ring"
    RING_0 = "ring 0; #GP in others"
    RING_0_UD = "ring 0; #UD in others"
    IOPL = "CPL <= IOPL; #GP otherwise"
    PORTS = "CPL <= IOPL, or a port that the TSS's bit map opens; #GP otherwise"
    SELECTOR = "every ring, but a selector of an inner ring gives #GP"
    UMIP = "every ring; with CR4.UMIP ring 0, #GP in others"
    TSD = "every ring; with CR4.TSD ring 0, #GP in others"
    PCE = "ring 0, #GP in others; with CR4.PCE every ring"
    FSGSBASE = "with CR4.FSGSBASE every ring; without it none, #UD"


_BIT = {Rule.UMIP: CR4_UMIP, Rule.TSD: CR4_TSD, Rule.PCE: CR4_PCE, Rule.FSGSBASE: CR4_FSGSBASE}
_IF_INSTRUCTIONS = ("PUSHF", "POPF", "INT n", "IRET")

_ALL = frozenset(MODES)
_PROTECTED = frozenset({"protected", "compatibility", "long"})
_NOT_64 = _ALL - {"long"}
_ONLY_64 = frozenset({"long"})


@dataclass(frozen=True, slots=True)
class Row:
    """One instruction, or one form of it.

    Attributes
    ----------
    name
        The mnemonic, with what tells this form from others.
    mnemonics
        As capstone spells it.
    kind
        With CR4 as after a reset; `kind_at` for other values.
    sensitivity
        ``"control"``, ``"behaviour"``, both, or nothing.
    what
        What it reveals or changes.
    rule
        Who may.
    untrapped
        What a guest kernel in ring 3 gets where it does not trap: ``"leaks"`` (the same as ring 0 would: the host's
        state), ``"differs"`` (something else, silently) or ``"same"``.
    section
        Of the Intel SDM.
    modes
        Where it is an instruction at all; #UD in the others.
    robin_irvine
        Their name of it; empty when it is not on their list.
    operand
        Which operands make it this form: ``"sreg"``, ``"from sreg"``, ``"to sreg"``, ``"cr"``, ``"dr"``.
    """

    name: str
    mnemonics: tuple[str, ...]
    kind: Kind
    sensitivity: str
    what: str
    rule: Rule
    untrapped: str
    section: str
    modes: frozenset[str] = _ALL
    robin_irvine: str = ""
    operand: str = ""

    def trap(self, mode: str, *, cpl: int = 3, iopl: int = 0, cr4: int = 0) -> int | None:
        """The vector that it gives by privilege, or None.

        Operands are what a guest kernel uses: selectors of ring 0, ports that no bit map opens. CPL is 0 in real mode
        and 3 in virtual-8086 mode, whatever is asked. With CR4.VME, and CR4.PVI, the answer is for a guest whose
        redirection bit map leaves interrupts to the monitor.
        """
        cpl = {"real": 0, "virtual-8086": 3}.get(mode, cpl)
        if mode not in self.modes:
            return UD
        if mode == "virtual-8086" and self.name in _IF_INSTRUCTIONS and iopl < 3:
            return None if cr4 & CR4_VME and self.name != "INT n" else GP
        bit = cr4 & _BIT.get(self.rule, 0)
        match self.rule:
            case Rule.RING_0:
                refused = cpl > 0
            case Rule.RING_0_UD:
                return UD if cpl > 0 else None
            case Rule.IOPL:
                virtual = (mode == "virtual-8086" and cr4 & CR4_VME) or (
                    mode != "virtual-8086" and cr4 & CR4_PVI and cpl == 3
                )
                refused = cpl > iopl and not virtual
            case Rule.PORTS:
                refused = mode == "virtual-8086" or cpl > iopl
            case Rule.SELECTOR:
                refused = cpl > 0 and mode != "virtual-8086"
            case Rule.UMIP | Rule.TSD:
                refused = bool(bit) and cpl > 0
            case Rule.PCE:
                refused = not bit and cpl > 0
            case Rule.FSGSBASE:
                return None if bit else UD
            case _:
                refused = False
        return GP if refused else None

    def kind_at(self, cr4: int = 0) -> Kind:
        """`kind`, with these bits of CR4: UMIP and TSD make privileged what was sensitive, PCE the other way round."""
        bit = bool(cr4 & _BIT.get(self.rule, 0))
        if self.rule in (Rule.UMIP, Rule.TSD) and bit:
            return Kind.PRIVILEGED
        if self.rule is Rule.PCE and bit:
            return Kind.SENSITIVE
        return self.kind

    def in_ring_3(self, mode: str, *, iopl: int = 0, cr4: int = 0) -> str:
        """What a guest kernel in ring 3 meets: ``"#GP"``, ``"#UD"``, or `untrapped`."""
        vector = self.trap(mode, cpl=3, iopl=iopl, cr4=cr4)
        if vector is not None:
            return {UD: "#UD", GP: "#GP"}[vector]
        return (
            "same"
            if self.kind is Kind.IOPL_SENSITIVE or (iopl == 3 and self.name in ("POPF", "IRET"))
            else self.untrapped
        )


def _list(
    robin_irvine: str, name: str, mnemonics: str, sensitivity: str, what: str, section: str, untrapped: str,
    rule: Rule = Rule.ANYONE, modes: frozenset[str] = _ALL, operand: str = "",
) -> Row:  # fmt: skip
    """A row of Robin and Irvine's list, or sensitive for a like reason."""
    return Row(
        name, tuple(mnemonics.split()), Kind.SENSITIVE, sensitivity, what, rule, untrapped, section, modes,
        robin_irvine, operand,
    )  # fmt: skip


def _privileged(
    name: str, mnemonics: str, what: str, section: str, *, sensitivity: str = "control", rule: Rule = Rule.RING_0,
    modes: frozenset[str] = _ALL, operand: str = "",
) -> Row:  # fmt: skip
    return Row(
        name,
        tuple(mnemonics.split()),
        Kind.PRIVILEGED,
        sensitivity,
        what,
        rule,
        "leaks",
        section,
        modes,
        "",
        operand,
    )


def _iopl(name: str, mnemonics: str, what: str, section: str, rule: Rule) -> Row:
    return Row(name, tuple(mnemonics.split()), Kind.IOPL_SENSITIVE, "control", what, rule, "same", section)


_B, _C, _BC = "behaviour", "control", "control and behaviour"

TABLE: tuple[Row, ...] = (
    # Robin and Irvine: instructions that read or change sensitive registers
    _list("SGDT", "SGDT", "sgdt", _B, "where the host's GDT is", "vol. 2B SGDT, 3A §2.4.1", "leaks", Rule.UMIP),
    _list("SIDT", "SIDT", "sidt", _B, "where the host's IDT is", "vol. 2B SIDT, 3A §2.4.3", "leaks", Rule.UMIP),
    _list("SLDT", "SLDT", "sldt", _B, "the host's LDT selector",
          "vol. 2B SLDT, 3A §2.4.2", "leaks", Rule.UMIP, _PROTECTED),
    _list("SMSW", "SMSW", "smsw", _B, "the host's CR0: PE, MP, EM, TS (and more of it)",
          "vol. 2B SMSW, 3A §2.5", "leaks", Rule.UMIP),
    _list("PUSHF", "PUSHF", "pushf pushfd pushfq", _B, "the host's IF and IOPL", "vol. 2B PUSHF, 3A §2.3", "leaks"),
    _list("POPF", "POPF", "popf popfd popfq", _BC, "IF is kept above IOPL, IOPL above ring 0, without a word",
          "vol. 2B POPF, 3A §2.3", "differs"),
    # Robin and Irvine: instructions that refer to the protection system
    _list("LAR", "LAR", "lar", _B, "ZF tells whether this ring may see the segment",
          "vol. 2A LAR, 3A §5.10.1", "differs", modes=_PROTECTED),
    _list("LSL", "LSL", "lsl", _B, "ZF tells whether this ring may see the segment",
          "vol. 2A LSL, 3A §5.10.3", "differs", modes=_PROTECTED),
    _list("VERR", "VERR", "verr", _B, "ZF tells whether this ring may read the segment",
          "vol. 2C VERR, 3A §5.10.2", "differs", modes=_PROTECTED),
    _list("VERW", "VERW", "verw", _B, "ZF tells whether this ring may write the segment",
          "vol. 2C VERW, 3A §5.10.2", "differs", modes=_PROTECTED),
    _list("POP", "POP Sreg", "pop", _B, "a selector of ring 0 is refused above it",
          "vol. 2B POP, 3A §5.6, §5.7", "same", Rule.SELECTOR, operand="sreg"),
    _list("PUSH", "PUSH Sreg", "push", _B, "CPL in the low bits of CS and SS, the monitor's RPL in others",
          "vol. 2B PUSH, 3A §3.4.2", "differs", operand="sreg"),
    _list("CALL", "CALL far", "lcall", _BC, "checks DPL and CPL; pushes CS, and CPL with it",
          "vol. 2A CALL, 3A §5.8", "differs"),
    _list("JMP", "JMP far", "ljmp", _BC, "checks DPL and CPL; CS gets CPL in its low bits",
          "vol. 2A JMP, 3A §5.8", "differs"),
    _list("INT n", "INT n", "int", _BC,
          "through the host's IDT; another stack and another CS in the frame than from ring 0",
          "vol. 2A INT n, 3A §6.12.1.1", "differs"),
    _list("RET", "RET far", "retf retfq", _BC,
          "checks RPL and CPL; from ring 0 to 3 it pops SS and SP, from 3 to 3 it does not",
          "vol. 2B RET, 3A §5.8.6", "differs"),
    _list("STR", "STR", "str", _B, "the host's task register",
          "vol. 2B STR, 3A §2.4.4", "leaks", Rule.UMIP, _PROTECTED),
    _list("MOV", "MOV from Sreg", "mov", _B, "CPL in the low bits of CS and SS",
          "vol. 2B MOV, 3A §3.4.2", "differs", operand="from sreg"),
    _list("MOV", "MOV to Sreg", "mov", _B, "a selector of ring 0 is refused above it",
          "vol. 2B MOV, 3A §5.6, §5.7", "same", Rule.SELECTOR, operand="to sreg"),
    # Sensitive in the same way, and not on their list: later, rarer, or taken for granted
    _list("", "IRET", "iret iretd iretq", _BC, "IF and IOPL are kept as by POPF; checks RPL and CPL",
          "vol. 2A IRET, 3A §6.12.1", "differs"),
    _list("", "INT3", "int3", _BC, "as INT n, for vector 3", "vol. 2A INT n, 3A §6.12.1.1", "differs"),
    _list("", "INTO", "into", _BC, "as INT n, for vector 4",
          "vol. 2A INT n, 3A §6.12.1.1", "differs", modes=_NOT_64),
    _list("", "INT1", "int1", _BC, "#DB through the host's IDT, whatever the gate's DPL",
          "vol. 2A INT n, 3A §6.12.1.1", "differs"),
    _list("", "LDS LES", "lds les", _B, "a selector of ring 0 is refused above it",
          "vol. 2A LDS, 3A §5.6", "same", Rule.SELECTOR, _NOT_64),
    _list("", "LFS LGS LSS", "lfs lgs lss", _B, "a selector of ring 0 is refused above it",
          "vol. 2A LDS, 3A §5.6, §5.7", "same", Rule.SELECTOR),
    _list("", "SYSCALL", "syscall", _C, "enters the host's ring 0 at its LSTAR",
          "vol. 2B SYSCALL, 3A §5.8.8", "differs", modes=_ONLY_64),
    _list("", "SYSENTER", "sysenter", _C, "enters the host's ring 0 at its SYSENTER_EIP",
          "vol. 2B SYSENTER, 3A §5.8.7", "differs", modes=_ALL - {"real"}),
    _list("", "CPUID", "cpuid", _B, "the host's processor; some hosts can make it fault (MSR 140h)",
          "vol. 2A CPUID, vol. 4 §2.1", "leaks"),
    _list("", "RDTSC", "rdtsc", _B, "the host's time", "vol. 2B RDTSC, 3B §17.17", "leaks", Rule.TSD),
    _list("", "RDTSCP", "rdtscp", _B, "the host's time and processor",
          "vol. 2B RDTSCP, 3B §17.17", "leaks", Rule.TSD),
    _list("", "RDPID", "rdpid", _B, "the host's processor", "vol. 2B RDPID", "leaks"),
    _list("", "XGETBV", "xgetbv", _B, "the host's XCR0 (#UD while CR4.OSXSAVE is clear)",
          "vol. 2D XGETBV, 3A §2.6", "leaks"),
    _list("", "RDFSBASE RDGSBASE", "rdfsbase rdgsbase", _B, "the host's bases",
          "vol. 2B RDFSBASE, 3A §2.5", "leaks", Rule.FSGSBASE, _ONLY_64),
    _list("", "WRFSBASE WRGSBASE", "wrfsbase wrgsbase", _C, "bases that a monitor may keep for itself",
          "vol. 2D WRFSBASE, 3A §2.5", "same", Rule.FSGSBASE, _ONLY_64),
    _list("", "VMCALL VMMCALL", "vmcall vmmcall", _C,
          "calls the hypervisor below, where there is one; #UD where not",
          "3C §30.3", "differs"),
    # IOPL decides
    _iopl("CLI", "cli", "IF", "vol. 2A CLI, 3A §6.8.1", Rule.IOPL),
    _iopl("STI", "sti", "IF", "vol. 2B STI, 3A §6.8.1", Rule.IOPL),
    _iopl("IN", "in", "a device", "vol. 2A IN, vol. 1 §19.5", Rule.PORTS),
    _iopl("OUT", "out", "a device", "vol. 2B OUT, vol. 1 §19.5", Rule.PORTS),
    _iopl("INS", "insb insw insd", "a device", "vol. 2A INS, vol. 1 §19.5", Rule.PORTS),
    _iopl("OUTS", "outsb outsw outsd", "a device", "vol. 2B OUTS, vol. 1 §19.5", Rule.PORTS),
    # Privileged (3A §5.9)
    _privileged("LGDT", "lgdt", "GDTR", "vol. 2A LGDT, 3A §5.9"),
    _privileged("LIDT", "lidt", "IDTR", "vol. 2A LGDT, 3A §5.9"),
    _privileged("LLDT", "lldt", "LDTR", "vol. 2A LLDT, 3A §5.9", modes=_PROTECTED),
    _privileged("LTR", "ltr", "the task register", "vol. 2A LTR, 3A §5.9", modes=_PROTECTED),
    _privileged("LMSW", "lmsw", "CR0's low four bits", "vol. 2A LMSW, 3A §5.9"),
    _privileged("MOV CRn", "mov", "control registers, written or read",
          "vol. 2B MOV CRn, 3A §5.9", sensitivity=_BC, operand="cr"),
    _privileged("MOV DRn", "mov", "debug registers, written or read",
          "vol. 2B MOV DRn, 3A §5.9", sensitivity=_BC, operand="dr"),
    _privileged("CLTS", "clts", "CR0.TS", "vol. 2A CLTS, 3A §5.9"),
    _privileged("HLT", "hlt", "stops the processor", "vol. 2A HLT, 3A §5.9"),
    _privileged("INVD", "invd", "throws the caches away", "vol. 2A INVD, 3A §5.9"),
    _privileged("WBINVD", "wbinvd wbnoinvd", "writes the caches back", "vol. 2D WBINVD, 3A §5.9"),
    _privileged("INVLPG", "invlpg", "a TLB entry", "vol. 2A INVLPG, 3A §5.9"),
    _privileged("INVPCID", "invpcid", "TLB entries", "vol. 2A INVPCID", modes=_ALL - {"virtual-8086"}),
    _privileged("RDMSR", "rdmsr", "a model-specific register", "vol. 2B RDMSR, 3A §5.9", sensitivity=_B),
    _privileged("WRMSR", "wrmsr", "a model-specific register", "vol. 2D WRMSR, 3A §5.9"),
    _privileged("RDPMC", "rdpmc", "a performance counter", "vol. 2B RDPMC, 3A §5.9", sensitivity=_B, rule=Rule.PCE),
    _privileged("SWAPGS", "swapgs", "GS.base and KERNEL_GS_BASE", "vol. 2B SWAPGS, 3A §5.9", modes=_ONLY_64),
    _privileged("SYSRET", "sysret sysretq", "goes from ring 0 to ring 3",
          "vol. 2B SYSRET, 3A §5.8.8", modes=_ONLY_64),
    _privileged("SYSEXIT", "sysexit sysexitq", "goes from ring 0 to ring 3",
          "vol. 2B SYSEXIT, 3A §5.8.7", modes=_ALL - {"real"}),
    _privileged("XSETBV", "xsetbv", "XCR0", "vol. 2D XSETBV, 3A §2.6"),
    _privileged("XRSTORS", "xrstors xrstors64", "supervisor state components", "vol. 2D XRSTORS"),
    _privileged("XSAVES", "xsaves xsaves64", "supervisor state components", "vol. 2D XSAVES", sensitivity=_B),
    _privileged("MONITOR", "monitor", "arms a wait on an address", "vol. 2B MONITOR", rule=Rule.RING_0_UD),
    _privileged("MWAIT", "mwait", "stops the processor", "vol. 2B MWAIT", rule=Rule.RING_0_UD),
    _privileged("CLAC", "clac", "EFLAGS.AC, for SMAP",
          "vol. 2A CLAC", rule=Rule.RING_0_UD, modes=_ALL - {"virtual-8086"}),
    _privileged("STAC", "stac", "EFLAGS.AC, for SMAP",
          "vol. 2B STAC", rule=Rule.RING_0_UD, modes=_ALL - {"virtual-8086"}),
    _privileged("VMX",
          "vmxon vmxoff vmlaunch vmresume vmread vmwrite vmptrld vmptrst vmclear invept invvpid", "hardware assistance",
          "3C §30.3", modes=_PROTECTED),
    _privileged("SVM", "vmrun vmload vmsave stgi clgi skinit invlpga", "hardware assistance (AMD)",
          "AMD64 APM vol. 3 ch. 4", modes=_PROTECTED),
)  # fmt: skip
"""Everything that is not innocuous."""

ROBIN_IRVINE = (
    "SGDT", "SIDT", "SLDT", "SMSW", "PUSHF", "POPF", "LAR", "LSL", "VERR", "VERW", "POP", "PUSH", "CALL", "JMP",
    "INT n", "RET", "STR", "MOV",
)  # fmt: skip
"""Their list, in their order: 18 mnemonics, quoted everywhere as 17 instructions."""
