"""Answers for 02_sensitive_instructions.ipynb: one that its check must take, and some that it must refuse."""

# %% exercise 1: solution
from pyvmm import disassemble
from pyvmm.cpu import classify


def must_rewrite(code: bytes) -> list[int]:
    """Decode from the beginning, and ask of each instruction."""
    return [each.address for each in disassemble(code) if classify(each.data).breaks_trap_and_emulate]


# %% exercise 1: wrong, it looks for bytes and finds them inside other instructions
def must_rewrite(code: bytes) -> list[int]:
    """Every PUSHF and POPF, or what looks like one."""
    return [offset for offset, byte in enumerate(code) if byte in (0x9C, 0x9D)]


# %% exercise 1: wrong, it rewrites what would have trapped anyway
from pyvmm import disassemble
from pyvmm.cpu import Kind, classify


def must_rewrite(code: bytes) -> list[int]:
    """Everything that is not innocuous."""
    return [each.address for each in disassemble(code) if classify(each.data).kind is not Kind.INNOCUOUS]
