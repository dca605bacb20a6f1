"""What happens to a machine as a whole, for programs: power, reset, and the button.

A listener is called on the thread on which it happens, a vCPU's while the machine runs: it may look, and it may call
`Machine.stop`, but not run the machine. What it raises is raised by ``machine.run()``.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING

from pyvmm.record import record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Literal

    EventKind = Literal[
        "power-button", "poweroff", "reset", "shutdown", "exit", "reset-button", "io-error", "closed"
    ]

KEPT = 1024
"""Events that nobody took: the oldest is forgotten first."""


@record(frozen=True, slots=True)
class MachineEvent:
    """One event.

    Attributes
    ----------
    kind
        ``"power-button"`` (`Machine.power_button`), ``"poweroff"`` (the guest entered ACPI S5), ``"reset"`` (the guest
        asked for one), ``"shutdown"`` (triple fault), ``"exit"`` (exit port), ``"reset-button"`` (`Machine.reset`),
        ``"io-error"`` (a disk stopped the machine), ``"closed"``.
    time_ns
        The machine's clock.
    code
        The exit port's code; of an I/O error its errno; otherwise 0.
    """

    kind: EventKind
    time_ns: int
    code: int = 0


class Events:
    """Events since this was first asked for: take them, wait for them, iterate over them, or listen.

    >>> for event in machine.events:      # on a thread beside the run; ends when the machine is closed
    ...     print(event.kind)             # doctest: +SKIP
    """

    def __init__(self) -> None:
        self._queue: deque[MachineEvent] = deque(maxlen=KEPT)
        self._changed = threading.Condition()
        self._listeners: list[Callable[[MachineEvent], object]] = []
        self._closed = False

    def listen(self, listener: Callable[[MachineEvent], object]) -> Callable[[], None]:
        """Call `listener` with each event from now on; what is returned ends that."""
        with self._changed:
            self._listeners.append(listener)

        def end() -> None:
            with self._changed:
                if listener in self._listeners:
                    self._listeners.remove(listener)

        return end

    def take(self) -> list[MachineEvent]:
        """All events that nobody took yet, oldest first."""
        with self._changed:
            taken = list(self._queue)
            self._queue.clear()
        return taken

    def wait(self, timeout: float | None = None) -> MachineEvent | None:
        """The next event, when it comes; None after `timeout` seconds, or when there will be none."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closed, timeout)
            return self._queue.popleft() if self._queue else None

    def __iter__(self) -> Iterator[MachineEvent]:
        while (event := self.wait()) is not None:
            yield event

    def emit(self, event: MachineEvent) -> None:
        """For the machine: tell everybody."""
        with self._changed:
            self._queue.append(event)
            self._closed = self._closed or event.kind == "closed"
            self._changed.notify_all()
            listeners = list(self._listeners)
        for listener in listeners:
            listener(event)
