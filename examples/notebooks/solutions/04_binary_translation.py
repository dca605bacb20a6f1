"""Answers for 04_binary_translation.ipynb: one that its check must take, and some that it must refuse."""


# %% exercise 1: solution
def inline(instruction) -> str | None:
    """MOV changes no flags, and a constant needs no register."""
    value = {"cli": 0, "sti": 1}.get(instruction.mnemonic)
    return None if value is None else f"mov byte ptr [0x30F00], {value}"


# %% exercise 1: wrong, AND and OR change the arithmetic flags
def inline(instruction) -> str | None:
    """As one would write it in C."""
    return {"cli": "and byte ptr [0x30F00], 0", "sti": "or byte ptr [0x30F00], 1"}.get(instruction.mnemonic)


# %% exercise 1: wrong, it takes a register that belongs to the guest
def inline(instruction) -> str | None:
    """With the address in a register."""
    value = {"cli": 0, "sti": 1}.get(instruction.mnemonic)
    return None if value is None else f"mov edi, 0x30F00; mov byte ptr [rdi], {value}; mov edi, 0"


# %% exercise 1: wrong, it replaces nothing
def inline(instruction) -> str | None:
    """Leaves everything to callouts."""
    return None
