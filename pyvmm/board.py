"""The board: memory, buses, clock and interrupt lines, as one C object that every device is given (csrc/io/board.h)."""

from __future__ import annotations

import _thread

from pyvmm.bus import Bus
from pyvmm.clock import Clock
from pyvmm.irq import IrqLine
from pyvmm.memory import GuestMemory
from pyvmm.native import check, check_pointer, ffi, lib, new_error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Literal


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
        """Start the I/O thread (a no-op on a virtual clock, where everything is synchronous)."""
        error = new_error()
        check(lib.io_thread_start(self.pointer.io, error), error)

    def stop_io(self) -> None:
        """Stop the I/O thread and wait for it."""
        lib.io_thread_stop(self.pointer.io)

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
