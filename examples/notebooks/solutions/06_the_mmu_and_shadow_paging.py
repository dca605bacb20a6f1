"""Answers for 06_the_mmu_and_shadow_paging.ipynb: one that its check must take, and some that it must refuse."""


# %% exercise 1: solution
def translate(read, cr3: int, address: int) -> int | None:
    """Intel SDM 3A §4.5."""
    table = cr3 & 0x000F_FFFF_FFFF_F000
    for shift in (39, 30, 21, 12):
        entry = read(table + 8 * (address >> shift & 0x1FF))
        if not entry & 1:
            return None
        base = entry & 0x000F_FFFF_FFFF_F000
        if shift == 12 or (shift < 39 and entry & 0x80):
            inside = (1 << shift) - 1
            return base & ~inside | address & inside
        table = base
    return None


# %% exercise 1: wrong, it knows no large pages
def translate(read, cr3: int, address: int) -> int | None:
    """Always four levels."""
    table = cr3 & 0x000F_FFFF_FFFF_F000
    for shift in (39, 30, 21, 12):
        try:
            entry = read(table + 8 * (address >> shift & 0x1FF))
        except Exception:
            return None
        if not entry & 1:
            return None
        table = entry & 0x000F_FFFF_FFFF_F000
    return table | address & 0xFFF


# %% exercise 1: wrong, XD stays in the address
def translate(read, cr3: int, address: int) -> int | None:
    """Clears the low bits only."""
    table = cr3 & ~0xFFF
    for shift in (39, 30, 21, 12):
        entry = read(table + 8 * (address >> shift & 0x1FF))
        if not entry & 1:
            return None
        if shift == 12 or (shift < 39 and entry & 0x80):
            inside = (1 << shift) - 1
            return entry & ~inside | address & inside
        table = entry & ~0xFFF
    return None


# %% exercise 1: wrong, it looks at the present bit of the last entry only
def translate(read, cr3: int, address: int) -> int | None:
    """Goes on through what is not there."""
    table = cr3 & 0x000F_FFFF_FFFF_F000
    for shift in (39, 30, 21, 12):
        entry = read(table + 8 * (address >> shift & 0x1FF))
        if shift == 12 or (shift < 39 and entry & 0x80):
            inside = (1 << shift) - 1
            return entry & 0x000F_FFFF_FFFF_F000 & ~inside | address & inside if entry & 1 else None
        table = entry & 0x000F_FFFF_FFFF_F000
    return None
