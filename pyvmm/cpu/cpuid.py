"""What CPUID tells a guest, as a table; what of it two processors have in common, and what one lacks.

Sources: Intel SDM vol. 2A, CPUID; AMD64 APM vol. 3 appendix E. Only leaves that say what software may use count as
features; names are given to those that people know, the others are called by leaf, register and bit.

Left out: leaves of more than the four subleaves that engines here show; features inside cache and topology leaves.
"""

from __future__ import annotations

from pyvmm.record import record, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

FEATURE_WORDS = (
    (1, 0, "ecx"), (1, 0, "edx"), (7, 0, "ebx"), (7, 0, "ecx"), (7, 0, "edx"), (0xD, 0, "eax"), (0xD, 1, "eax"),
    (0x40000101, 0, "eax"), (0x80000001, 0, "ecx"), (0x80000001, 0, "edx"), (0x80000008, 0, "ebx"),
)  # fmt: skip
"""(leaf, subleaf, register): each bit is something that software may use when it is set."""

NOT_FEATURES = {(1, 0, "ecx"): 1 << 27 | 1 << 31, (0x80000001, 0, "edx"): 0x0183F3FF}
"""Bits of those that say something else: OSXSAVE follows CR4; a hypervisor is there; copies of leaf 1 (AMD)."""

_KEPT = (
    0,
    1,
    2,
    7,
    0xD,
    0x15,
    0x40000000,
    0x40000010,
    0x40000100,
    0x40000101,
    *range(0x80000000, 0x80000009),
)
_SIZES = {
    (0xD, 0): ("ebx", "ecx"),
    (0x80000008, 0): ("eax",),
}  # registers that follow the poorer processor's features

_NAMES = {
    (1, "ecx"): {0: "SSE3", 1: "PCLMULQDQ", 3: "MONITOR", 9: "SSSE3", 12: "FMA", 13: "CMPXCHG16B", 17: "PCID",
                 19: "SSE4.1", 20: "SSE4.2", 21: "x2APIC", 22: "MOVBE", 23: "POPCNT", 24: "TSC deadline", 25: "AES",
                 26: "XSAVE", 28: "AVX", 29: "F16C", 30: "RDRAND"},
    (1, "edx"): {9: "local APIC", 12: "MTRR", 25: "SSE", 26: "SSE2"},
    (7, "ebx"): {0: "FSGSBASE", 3: "BMI1", 5: "AVX2", 7: "SMEP", 8: "BMI2", 9: "ERMS", 10: "INVPCID", 16: "AVX512F",
                 18: "RDSEED", 19: "ADX", 20: "SMAP", 23: "CLFLUSHOPT", 24: "CLWB", 29: "SHA"},
    (7, "ecx"): {2: "UMIP", 3: "PKU", 8: "GFNI", 9: "VAES", 16: "LA57", 22: "RDPID"},
    (0x80000001, "ecx"): {5: "LZCNT", 6: "SSE4a", 8: "PREFETCHW", 11: "XOP", 16: "FMA4", 21: "TBM"},
    (0x80000001, "edx"): {11: "SYSCALL", 20: "NX", 26: "1 GiB pages", 27: "RDTSCP", 29: "long mode"},
}  # fmt: skip


@record(frozen=True, slots=True)
class CpuidRow:
    """What CPUID answers for one leaf; `indexed`: for this `subleaf` only (ECX), else for any."""

    leaf: int
    subleaf: int
    indexed: bool
    eax: int
    ebx: int
    ecx: int
    edx: int


REGISTERS = ("eax", "ebx", "ecx", "edx")

CpuidTable = dict[tuple[int, int], CpuidRow]
"""By (leaf, subleaf); a leaf without subleaves has 0."""


def table_of(rows: Iterable[CpuidRow]) -> CpuidTable:
    """Rows by leaf and subleaf."""
    return {(row.leaf, row.subleaf if row.indexed else 0): row for row in rows}


def _word(table: CpuidTable, leaf: int, subleaf: int, register: str) -> int:
    row = table.get((leaf, subleaf))
    return 0 if row is None else getattr(row, register) & ~NOT_FEATURES.get((leaf, subleaf, register), 0)


def missing_features(shown: CpuidTable, available: CpuidTable) -> list[str]:
    """Names of what `shown` promises and `available` has not; sorted by leaf."""
    missing = []
    for leaf, subleaf, register in FEATURE_WORDS:
        lacking = _word(shown, leaf, subleaf, register) & ~_word(available, leaf, subleaf, register)
        names = _NAMES.get((leaf, register), {})
        for bit in range(32):
            if lacking >> bit & 1:
                missing.append(names.get(bit) or f"CPUID {leaf:#x} {register.upper()} bit {bit}")
    return missing


def common_table(base: CpuidTable, other: CpuidTable) -> CpuidTable:
    """A processor that both can be: `base`'s name and model, the features of both, and well-known leaves only."""
    result: CpuidTable = {}
    for (leaf, subleaf), row in base.items():
        if leaf not in _KEPT or subleaf > (1 if leaf == 0xD else 0):
            continue
        words: dict[str, int] = {}
        for word_leaf, word_subleaf, register in FEATURE_WORDS:
            if (word_leaf, word_subleaf) == (leaf, subleaf):
                ignored = NOT_FEATURES.get((leaf, subleaf, register), 0)
                theirs = other.get((leaf, subleaf))
                words[register] = getattr(row, register) & (
                    (0 if theirs is None else getattr(theirs, register)) | ignored
                )
        poorer = other.get((leaf, subleaf))
        for register in _SIZES.get((leaf, subleaf), ()):
            mine, its = getattr(row, register), 0 if poorer is None else getattr(poorer, register)
            words[register] = min(mine, its) if leaf == 0xD else mine & ~0xFF | min(mine & 0xFF, its & 0xFF)
        if leaf == 7:
            words["eax"] = 0  # no further subleaves
        result[leaf, subleaf] = CpuidRow(
            leaf, row.subleaf, row.indexed, *(words.get(name, getattr(row, name)) for name in REGISTERS)
        )
    last = max((leaf for leaf, _ in result if leaf < 0x40000000), default=0)
    result[0, 0] = replace(result[0, 0], eax=last)
    extended = max(leaf for leaf, _ in result if leaf >= 0x80000000)
    result[0x80000000, 0] = replace(result[0x80000000, 0], eax=extended)
    return result
