"""The board: memory, buses, clock and interrupt lines, as one C object that every device is given (csrc/io/board.h)."""

from __future__ import annotations

import _thread

from pyvmm.bus import Bus
from pyvmm.clock import Clock
from pyvmm.errors import DeviceError
from pyvmm.irq import IrqLine
from pyvmm.memory import GuestMemory
from pyvmm.native import check, check_pointer, ffi, lib, new_error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Literal


class IoThread:
    """A thread that does devices' work: see `Board.worker`."""

    def __init__(self, pointer: Any, name: str, board: Board) -> None:
        self.pointer = pointer
        self.name = name
        self.board = board

    def on(self, board: Board) -> Any:
        """The C thread, for a device of `board`; DeviceError when it is another board's."""
        if self.board is not board:
            raise DeviceError(f"{self!r} belongs to another board")
        return self.pointer

    @property
    def running(self) -> bool:
        """Whether it was started; on a virtual clock it never is."""
        return self.board.pointer is not None and bool(lib.io_thread_running(self.pointer))

    def __repr__(self) -> str:
        return f"<IoThread {self.name}>"


class Board:
    """Wires without devices.

    Parameters
    ----------
    clock
        ``"realtime"`` or ``"virtual"``.
    """

    def __init__(self, clock: Literal["realtime", "virtual"] = "realtime") -> None:
        error = new_error()
        kind = lib.CLOCK_KIND_VIRTUAL if clock == "virtual" else lib.CLOCK_KIND_REALTIME
        self.pointer = check_pointer(lib.board_new(kind, error), error)
        self.memory = GuestMemory(self.pointer.memory, self)
        self.pio = Bus(self.pointer.pio, "pio", self)
        self.mmio = Bus(self.pointer.mmio, "mmio", self)
        self.clock = Clock(self.pointer.clock, clock, self)
        self.pending_exception: BaseException | None = None
        self._pending_thread = 0
        self._irq_lines: list[IrqLine] = []

    def irq_line(self, gsi: int) -> IrqLine:
        """A new source on a GSI."""
        line = IrqLine(check_pointer(lib.irq_line_new(self.pointer.irqs, gsi)), self)
        self._irq_lines.append(line)
        return line

    @property
    def tsc_hz(self) -> int:
        """Guest TSC frequency."""
        return int(self.pointer.tsc_hz)

    @tsc_hz.setter
    def tsc_hz(self, value: int) -> None:
        self.pointer.tsc_hz = value

    @property
    def a20(self) -> bool:
        """Whether address line 20 is let through."""
        return bool(self.pointer.a20)

    def start_io(self) -> None:
        """Start the I/O threads (a no-op on a virtual clock, where everything is synchronous)."""
        error = new_error()
        check(lib.board_start_io(self.pointer, error), error)

    def stop_io(self) -> None:
        """Stop the I/O threads and wait for them; what devices are asked meanwhile they do at once."""
        lib.board_stop_io(self.pointer)

    def pause_io(self) -> None:
        """Wait until no worker thread is at work, and let none begin before `resume_io`: what is asked waits."""
        lib.board_pause_io(self.pointer)

    def resume_io(self) -> None:
        """Let the worker threads go on."""
        lib.board_resume_io(self.pointer)

    def worker(self, name: str) -> IoThread:
        """A further I/O thread, for a device whose work may be slow. It lives as long as the board.

        Parameters
        ----------
        name
            What ``top -H`` shows: at most 15 bytes of ASCII.

        Raises
        ------
        DeviceError
            The name is too long, or the host has no descriptors left.
        """
        if not name.isascii() or not 1 <= len(name) <= 15 or "\0" in name:
            raise DeviceError(f"I/O thread {name!r}: its name is 1 to 15 ASCII characters")
        error = new_error()
        pointer = check_pointer(
            lib.board_add_worker(self.pointer, name.encode(), error), error, exception=DeviceError
        )
        return IoThread(pointer, name, self)

    @property
    def ioeventfds(self) -> tuple[int, int]:
        """Registers that are only notifications: how many devices offered, and how many the engine signals itself."""
        counts = ffi.new("IoEventFdCounts *")
        lib.ioeventfds_counts(self.pointer.ioeventfds, counts)
        return int(counts.entries), int(counts.active)

    @property
    def irqfds(self) -> tuple[int, int, int]:
        """Interrupt messages by eventfd: vectors that use it, those that the engine has, changes of its table."""
        counts = ffi.new("IrqFdCounts *")
        lib.irqfds_counts(self.pointer.irqfds, counts)
        return int(counts.entries), int(counts.active), int(counts.changes)

    def messages(self) -> list[str]:
        """What the guest did wrong since the last call, oldest first: each line once per cause."""
        if self.pointer is None:
            return []
        text = ffi.new("char[160]")
        lines = []
        while lib.event_log_take(self.pointer.log, text, 160):
            lines.append(ffi.string(text).decode(errors="replace"))
        return lines

    def fault(self, error: BaseException) -> None:
        """A Python device raised: keep the exception and make the run loop return."""
        if self.pending_exception is None:
            self.pending_exception = error
            self._pending_thread = _thread.get_ident()
        lib.board_request(self.pointer, lib.SYSTEM_FAULT, 0)

    def take_fault(self) -> BaseException | None:
        """The kept exception, once."""
        error, self.pending_exception = self.pending_exception, None
        return error

    def raise_own_fault(self) -> None:
        """Raise the kept exception when it came from an access that this thread made itself."""
        if self.pending_exception is not None and self._pending_thread == _thread.get_ident():
            error = self.take_fault()
            assert error is not None
            raise error

    def close(self) -> None:
        """Free the C side. Devices and engines must be gone; wires that Python still holds refuse to be used."""
        if self.pointer is not None:
            lib.board_free(self.pointer)
            self.pointer = None
            wires: list[Any] = [self.memory, self.pio, self.mmio, self.clock, *self._irq_lines]
            for wire in wires:
                wire.pointer = None

    def nmi(self) -> None:
        """Pull the non-maskable interrupt."""
        lib.board_nmi(self.pointer)
