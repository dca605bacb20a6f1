"""Answers for 09_what_a_boot_leaves_behind.ipynb: one that its check must take, and some that it must refuse."""

# %% exercise 1: solution
LINE = "console=ttyS0 quiet hpet=disable"


# %% exercise 1: wrong, the HPET is still measured
LINE = "console=ttyS0 quiet"


# %% exercise 1: wrong, without a console there is no UP either
LINE = "hpet=disable"
