"""Answers for 08_a_vm_is_a_process.ipynb: one that its check must take, and some that it must refuse."""

# %% exercise 1: solution
import os

from pyvmm.lab import threads


def pin(pid: int, processor: int) -> None:
    """By name: vcpu-0, vcpu-1, ..."""
    for each in threads(pid):
        if each.name.startswith("vcpu-"):
            os.sched_setaffinity(each.tid, {processor})


# %% exercise 1: wrong, the number of a process is that of its main thread, which pins that one
import os


def pin(pid: int, processor: int) -> None:
    """As `taskset -p PID` without -a does."""
    os.sched_setaffinity(pid, {processor})


# %% exercise 1: wrong, it pins the I/O threads with the others
import os

from pyvmm.lab import threads


def pin(pid: int, processor: int) -> None:
    """As `taskset -a -p PID` does."""
    for each in threads(pid):
        os.sched_setaffinity(each.tid, {processor})
