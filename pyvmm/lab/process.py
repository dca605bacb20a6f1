"""A machine seen from the host: its threads and the memory that its RAM really takes, from /proc.

The source is proc(5): ``/proc/PID/task/TID/stat`` and ``/proc/PID/maps``; names of threads are those of
docs/process.md. Left out: other systems than Linux.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_STATES = {
    "R": "running",
    "S": "sleeping",
    "D": "waiting for a disk",
    "T": "stopped",
    "t": "traced",
    "Z": "ended",
}


@dataclass(frozen=True, slots=True)
class GuestThread:
    """One thread of a process.

    Attributes
    ----------
    tid, name
        Its number and name; a vCPU's is ``vcpu-0``.
    state
        ``"running"``, ``"sleeping"``, ``"stopped"`` and so on.
    user, system
        CPU seconds in user mode and in the host's kernel, to the hundredth.
    processor
        Which of the host's CPUs it ran on last.
    """

    tid: int
    name: str
    state: str
    user: float
    system: float
    processor: int

    @property
    def cpu(self) -> float:
        """CPU seconds in all."""
        return self.user + self.system

    def __str__(self) -> str:
        return f"{self.tid:>8}  {self.name:<16} {self.state:<10} CPU {self.processor:<3} {self.cpu:8.2f} s"


def threads(pid: int | None = None) -> list[GuestThread]:
    """Every thread of a process, the main thread first; of this one without a number.

    Raises
    ------
    ProcessLookupError
        There is no such process.
    """
    if pid is None:
        pid = os.getpid()
    folder = _PROC / str(pid) / "task"
    try:  # a thread's number may be below its process's: they are dealt out round and round
        numbers = sorted((int(each) for each in os.listdir(folder)), key=lambda tid: (tid != pid, tid))
    except FileNotFoundError:
        raise ProcessLookupError(f"there is no process {pid}") from None
    hertz = os.sysconf("SC_CLK_TCK")
    found = []
    for number in numbers:
        try:
            text = (folder / str(number) / "stat").read_text(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended since
        name, _, rest = text.partition("(")[2].rpartition(")")
        words = rest.split()  # from field 3 on
        state = _STATES.get(words[0], words[0])
        found.append(
            GuestThread(number, name, state, int(words[11]) / hertz, int(words[12]) / hertz, int(words[36]))
        )
    return found


def guest_ram(pid: int | None = None) -> dict[str, int]:
    """How much of each machine's RAM is really there, in bytes, by its mapping in /proc/PID/maps.

    Guest RAM is a memfd: the kernel gives it pages when the guest first touches them, and takes back what a balloon
    returns. What counts is the file's blocks, so that a page seen through two mappings counts once.

    Raises
    ------
    ProcessLookupError
        There is no such process.
    """
    folder = _PROC / str(os.getpid() if pid is None else pid)
    try:
        descriptors = os.listdir(folder / "fd")
    except FileNotFoundError:
        raise ProcessLookupError(f"there is no process {pid}") from None
    found: dict[str, int] = {}
    for number in descriptors:
        try:
            target = os.readlink(folder / "fd" / number)
            if target.startswith("/memfd:pyvmm"):
                file = os.stat(folder / "fd" / number)
                found[f"{target.removesuffix(' (deleted)')} inode {file.st_ino}"] = 512 * file.st_blocks
        except FileNotFoundError:
            continue  # closed since
    return found
