"""One vCPU's architectural state, as any engine loads and saves it (csrc/engine/cpu_state.h).

Names are the Intel SDM's: volume 1 §3.4 for registers, volume 3A §2 and §3.4 for system registers and segments.
"""

from __future__ import annotations

from pyvmm.native import ffi, lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

GPR_NAMES = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", *(f"r{n}" for n in range(8, 16)))
"""General registers in encoding order."""

SEGMENT_NAMES = ("es", "cs", "ss", "ds", "fs", "gs")

CODE_16, DATA_16 = 0x009B, 0x0093
CODE_32, DATA_32 = 0xC09B, 0xC093
CODE_64 = 0xA09B

CR0_PE, CR0_ET, CR0_NE, CR0_WP, CR0_PG = 1 << 0, 1 << 4, 1 << 5, 1 << 16, 1 << 31
CR4_PAE = 1 << 5
EFER_LME, EFER_LMA, EFER_NXE = 1 << 8, 1 << 10, 1 << 11

_FLAGS = {"cf": 0, "pf": 2, "af": 4, "zf": 6, "sf": 7, "tf": 8, "if_": 9, "df": 10, "of": 11}


class SegmentView:
    """A segment register with its hidden part; assigning changes the state that it belongs to.

    `attributes`: bits 0-3 type, 4 S, 5-6 DPL, 7 P, 12 AVL, 13 L, 14 D/B, 15 G, 16 unusable. `limit` is in bytes.
    """

    __slots__ = ("_owner", "_segment")

    def __init__(self, segment: Any, owner: Any) -> None:
        object.__setattr__(self, "_segment", segment)
        object.__setattr__(self, "_owner", owner)  # keeps the struct alive

    selector: int
    base: int
    limit: int
    attributes: int

    def __getattr__(self, name: str) -> int:
        return int(getattr(self._segment, name))

    def __setattr__(self, name: str, value: int) -> None:
        setattr(self._segment, name, value)

    @property
    def dpl(self) -> int:
        """Descriptor privilege level; of SS it is the CPL."""
        return self.attributes >> 5 & 3

    def set(self, selector: int, base: int, limit: int, attributes: int) -> None:
        """All four at once."""
        self.selector, self.base, self.limit, self.attributes = selector, base, limit, attributes

    def __repr__(self) -> str:
        return f"{self.selector:#06x} base={self.base:#x} limit={self.limit:#x} attributes={self.attributes:#06x}"


class TableView:
    """GDTR or IDTR: `base` (linear address) and `limit` (bytes - 1)."""

    __slots__ = ("_owner", "_table")

    def __init__(self, table: Any, owner: Any) -> None:
        object.__setattr__(self, "_table", table)
        object.__setattr__(self, "_owner", owner)

    base: int
    limit: int

    def __getattr__(self, name: str) -> int:
        return int(getattr(self._table, name))

    def __setattr__(self, name: str, value: int) -> None:
        setattr(self._table, name, value)

    def __repr__(self) -> str:
        return f"base={self.base:#x} limit={self.limit:#x}"


class CpuState:
    """Everything that a vCPU is between two instructions.

    General registers by any of their names (``rax``, ``eax``, ``ax``, ``al``, ``ah``; a 32-bit name zeroes the upper
    half when it is assigned, as the CPU does), segments as `SegmentView`, control registers, MSRs that engines
    keep (memory types as ``mtrr_def_type``, ``mtrr_fixed`` and ``mtrr_variable``, of 11 and 16 numbers), and flags as
    ``cf``, ``zf``, ``if_`` and so on. A new one is in the state after RESET# (SDM 3A table 10-1).

    TSC and paravirtual clock run on while a state is kept: they are as of the board's clock at ``clock_ns``, or, when
    ``tsc`` was assigned, of the moment in which the state is loaded.
    """

    def __init__(self, pointer: Any = None) -> None:
        if pointer is None:
            pointer = ffi.new("CpuState *")
            lib.cpu_state_reset(pointer)
        self.__dict__["pointer"] = pointer

    def copy(self) -> CpuState:
        """An independent copy."""
        pointer = ffi.new("CpuState *")
        ffi.memmove(pointer, self.pointer, ffi.sizeof("CpuState"))
        return CpuState(pointer)

    if TYPE_CHECKING:
        cr0: int
        rflags: int

    def __getattr__(self, name: str) -> Any:
        register = _REGISTERS.get(name)
        if register is not None:
            index, shift, bits = register
            return self.pointer.gpr[index] >> shift & ((1 << bits) - 1)
        if name in _FLAGS:
            return self.pointer.rflags >> _FLAGS[name] & 1
        if name in SEGMENT_NAMES:
            return SegmentView(self.pointer.segment[SEGMENT_NAMES.index(name)], self.pointer)
        if name in ("ldtr", "tr"):
            return SegmentView(getattr(self.pointer, name), self.pointer)
        if name in ("gdtr", "idtr"):
            return TableView(getattr(self.pointer, name), self.pointer)
        if name in _SCALARS:
            return getattr(self.pointer, name)
        if name in _MTRR:
            return _mtrr_value(getattr(self.pointer.mtrr, _MTRR[name]))
        if name in _DEBUG:
            return self.pointer.dr[int(name[2:])]
        raise AttributeError(f"a vCPU has no register {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        register = _REGISTERS.get(name)
        if register is not None:
            index, shift, bits = register
            mask = (1 << bits) - 1
            keep = 0 if bits >= 32 else self.pointer.gpr[index] & ~(mask << shift)
            self.pointer.gpr[index] = keep | (value & mask) << shift
        elif name in _FLAGS:
            bit = 1 << _FLAGS[name]
            self.pointer.rflags = self.pointer.rflags | bit if value else self.pointer.rflags & ~bit
        elif name in _SCALARS:
            setattr(self.pointer, name, value)
            if name == "tsc":
                self.pointer.clock_ns = 0  # the value is for the moment in which it is loaded
        elif name in _DEBUG:
            self.pointer.dr[int(name[2:])] = value
        elif name in _MTRR:
            setattr(self.pointer.mtrr, _MTRR[name], value)
        else:
            raise AttributeError(f"a vCPU has no register {name!r} that can be assigned")

    @property
    def cpl(self) -> int:
        """Current privilege level, 0..3 (0 in real mode, 3 in virtual-8086 mode)."""
        if not self.cr0 & CR0_PE:
            return 0
        return 3 if self.rflags & (1 << 17) else self.ss.dpl

    @property
    def mode(self) -> str:
        """``"real"``, ``"protected"``, ``"virtual-8086"``, ``"long"`` or ``"compatibility"``."""
        if not self.cr0 & CR0_PE:
            return "real"
        if self.efer & EFER_LMA:
            return "long" if self.cs.attributes & (1 << 13) else "compatibility"
        return "virtual-8086" if self.rflags & (1 << 17) else "protected"

    @property
    def code_bits(self) -> int:
        """Default operand size of the code at CS:RIP: 16, 32 or 64."""
        if self.mode == "long":
            return 64
        return 32 if self.cs.attributes & (1 << 14) else 16

    @property
    def linear_rip(self) -> int:
        """CS.base + RIP."""
        return int(self.cs.base + self.rip) & (1 << 64) - 1

    def set_real_mode(self, cs: int, ip: int, *, ss: int = 0, sp: int = 0) -> None:
        """Real mode at CS:IP with 64 KiB segments; DS and ES as CS is."""
        self.cr0 = self.cr0 & ~(CR0_PE | CR0_PG)
        self.cr4 = 0
        self.efer = 0
        for name, selector in (("cs", cs), ("ds", cs), ("es", cs), ("fs", cs), ("gs", cs), ("ss", ss)):
            attributes = CODE_16 if name == "cs" else DATA_16
            getattr(self, name).set(selector, selector << 4, 0xFFFF, attributes)
        self.idtr.base, self.idtr.limit = 0, 0x3FF
        self.rip, self.rsp, self.rflags = ip, sp, 2

    def set_flat_protected_mode(self, eip: int, *, esp: int = 0, cpl: int = 0) -> None:
        """32-bit protected mode, no paging, flat segments (selectors 8 and 16, no GDT behind them)."""
        self.cr0 = (self.cr0 | CR0_PE | CR0_ET) & ~CR0_PG
        self.cr4, self.efer = 0, 0
        self._set_flat(CODE_32, cpl)
        self.rip, self.rsp, self.rflags = eip, esp, 2

    def set_long_mode(self, rip: int, cr3: int, *, rsp: int = 0, cpl: int = 0) -> None:
        """64-bit mode with paging by the tables at `cr3`, flat segments."""
        self.cr3 = cr3
        self.cr4 = self.cr4 | CR4_PAE
        self.efer = self.efer | EFER_LME | EFER_LMA
        self.cr0 = self.cr0 | CR0_PE | CR0_ET | CR0_PG
        self._set_flat(CODE_64, cpl)
        self.rip, self.rsp, self.rflags = rip, rsp, 2

    def _set_flat(self, code: int, cpl: int) -> None:
        dpl = cpl << 5
        self.cs.set(8 | cpl, 0, 0xFFFFFFFF, code | dpl)
        for name in ("ss", "ds", "es", "fs", "gs"):
            getattr(self, name).set(16 | cpl, 0, 0xFFFFFFFF, DATA_32 | dpl)

    def __repr__(self) -> str:
        rows = []
        for start in range(0, 16, 4):
            names = GPR_NAMES[start : start + 4]
            rows.append("  ".join(f"{name:>3}={getattr(self, name):016x}" for name in names))
        set_flags = " ".join(name.strip("_").upper() for name in _FLAGS if getattr(self, name))
        rows.append(
            f"rip={self.rip:016x}  rflags={self.rflags:08x} [{set_flags}]  {self.mode} mode, CPL {self.cpl}"
        )
        rows.append(
            f"cr0={self.cr0:08x} cr2={self.cr2:x} cr3={self.cr3:x} cr4={self.cr4:x} efer={self.efer:x}"
        )
        rows += [f" {name}={getattr(self, name)!r}" for name in (*SEGMENT_NAMES, "tr", "ldtr")]
        return "\n".join(rows)


def _register_names() -> dict[str, tuple[int, int, int]]:
    """Every name of a general register: (index, shift, bits)."""
    names = {}
    for index, name in enumerate(GPR_NAMES):
        names[name] = (index, 0, 64)
        if index >= 8:
            names.update({f"{name}d": (index, 0, 32), f"{name}w": (index, 0, 16), f"{name}b": (index, 0, 8)})
            continue
        short = name[1:]
        names[f"e{short}"] = (index, 0, 32)
        names[short] = (index, 0, 16)
        if index < 4:
            names[f"{short[0]}l"] = (index, 0, 8)
            names[f"{short[0]}h"] = (index, 8, 8)
        else:
            names[f"{short}l"] = (index, 0, 8)
    return names


def _mtrr_value(value: Any) -> int | list[int]:
    return value if isinstance(value, int) else list(value)


_REGISTERS = _register_names()
_MTRR = {"mtrr_def_type": "def_type", "mtrr_fixed": "fixed", "mtrr_variable": "variable"}
_DEBUG = frozenset(f"dr{n}" for n in range(8))
_SCALARS = frozenset(
    {
        *("rip", "rflags", "cr0", "cr2", "cr3", "cr4", "cr8", "xcr0", "efer", "apic_base", "pat"),
        *("star", "lstar", "cstar", "fmask", "kernel_gs_base", "sysenter_cs", "sysenter_esp", "sysenter_eip"),
        *("tsc", "tsc_aux", "misc_enable", "kvm_system_time", "kvm_wall_clock", "kvm_clock", "clock_ns"),
        *("halted", "wait_for_sipi", "interrupt_shadow", "nmi_blocked", "nmi_pending"),
        *("pending_exception", "pending_has_error", "pending_error"),
    }
)
