"""The machine's one clock (csrc/io/clock.h)."""

from __future__ import annotations

from pyvmm.native import lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Literal

NS_PER_SECOND = 1_000_000_000
NEVER = (1 << 64) - 1


class Clock:
    """Nanoseconds since the machine was made.

    ``realtime`` follows the host and stops while the machine is paused; ``virtual`` follows the guest's progress.
    """

    def __init__(self, pointer: Any, kind: Literal["realtime", "virtual"], owner: object) -> None:
        self.pointer = pointer
        self.kind = kind
        self._owner = owner

    @property
    def now(self) -> int:
        """Nanoseconds."""
        return int(lib.clock_now(self.pointer))

    @property
    def epoch_ns(self) -> int:
        """Unix time in nanoseconds at which the clock read 0: the base of the real-time clock."""
        return int(lib.clock_epoch_ns(self.pointer))

    @epoch_ns.setter
    def epoch_ns(self, value: int) -> None:
        lib.clock_set_epoch_ns(self.pointer, value)

    @property
    def next_deadline(self) -> int | None:
        """When the earliest timer is due, in nanoseconds; None without one."""
        deadline = int(lib.clock_next_deadline(self.pointer))
        return None if deadline == NEVER else deadline

    def pause(self) -> None:
        """Stop the time of a realtime clock."""
        lib.clock_pause(self.pointer)

    def resume(self) -> None:
        """Let it go on where it stopped."""
        lib.clock_resume(self.pointer)

    def advance(self, ns: int) -> None:
        """Move a virtual clock and fire what became due."""
        if self.kind != "virtual":
            raise ValueError("only a virtual clock can be moved; a realtime one follows the host")
        lib.clock_advance(self.pointer, ns)
        lib.clock_run_timers(self.pointer)

    def __repr__(self) -> str:
        return f"Clock({self.kind}, {self.now / NS_PER_SECOND:.6f} s)"
