"""Answers for 01_rings_and_traps.ipynb: one that its check must take, and some that it must refuse."""


# %% exercise 1: solution
def may_load(cpl: int, rpl: int, dpl: int) -> bool:
    """Intel SDM 3A §5.6: the weaker of the two rings counts."""
    return max(cpl, rpl) <= dpl


# %% exercise 1: wrong, without the RPL a kernel could be talked into anything
def may_load(cpl: int, rpl: int, dpl: int) -> bool:
    """Looks at CPL only."""
    return cpl <= dpl


# %% exercise 1: wrong, the comparison is the other way round
def may_load(cpl: int, rpl: int, dpl: int) -> bool:
    """Takes a greater number for more privilege."""
    return max(cpl, rpl) >= dpl
