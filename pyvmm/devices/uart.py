"""The 16550A serial port (csrc/devices/uart16550.c), and `SerialPort`: the far end of its line."""

from __future__ import annotations

import _thread
import time

from pyvmm.devices.base import NativeDevice
from pyvmm.native import ffi, lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from pyvmm.board import Board
    from pyvmm.display.serial import CharSink
    from pyvmm.irq import IrqLine

    class Line(Protocol):
        """Where a `SerialPort` types: a COM port, or a port of a virtio console."""

        def receive(self, data: bytes) -> int: ...
        def receive_break(self) -> None: ...

    class Runner(Protocol):
        """What `SerialPort` needs of a machine."""

        @property
        def running(self) -> bool: ...
        def wait_for(self, done: Callable[[], bool], timeout: float) -> bool: ...


class Uart(NativeDevice):
    """A COM port. Region 0: 8 ports.

    Parameters
    ----------
    board
        The machine's wires.
    irq
        Its interrupt, gated by OUT2 as on the PC.
    sink
        Where transmitted bytes go; None for a line with nothing at its end. It must be closed after the UART.
    """

    def __init__(self, board: Board, irq: IrqLine, sink: CharSink | None = None) -> None:
        self.sink = sink
        pointer = sink.pointer if sink is not None else ffi.NULL
        super().__init__(lib.uart16550_new(board.pointer, irq.pointer, pointer), state="Uart16550State")

    def receive(self, data: bytes) -> int:
        """Bytes arrive on the line, from any thread; returns how many were taken (the host's queue holds 4096)."""
        return int(lib.uart16550_receive(self.pointer, data, len(data)))

    def receive_break(self) -> None:
        """A break condition arrives, after what is queued."""
        lib.uart16550_receive_break(self.pointer)

    @property
    def receive_room(self) -> int:
        """How many bytes `receive` would take now."""
        return int(lib.uart16550_receive_room(self.pointer))


class SerialPort:
    """The other end of a guest's serial line: what it wrote, and typing to it.

    `runner` is the machine that `expect` runs; the machine sets it.
    """

    def __init__(self, uart: Line, sink: CharSink) -> None:
        self.uart = uart
        self.sink = sink
        self.runner: Runner | None = None
        self._unsent = bytearray()
        self._seen = bytearray()
        self._lock = _thread.allocate_lock()

    def read(self, size: int | None = None) -> bytes:
        """What the guest wrote since the last call, up to `size` bytes."""
        self._seen += self.sink.read()
        data = bytes(self._seen[:size])
        del self._seen[:size]
        return data

    def read_text(self) -> str:
        """The same as text; bytes that are not UTF-8 become U+FFFD."""
        return self.read().decode(errors="replace")

    def send(self, data: bytes | str) -> None:
        """Type to the guest, from any thread.

        What the line has no room for (it holds 4096 bytes) is kept and goes when the guest has read some: at once while
        the machine runs on another thread, otherwise during the next `expect`.
        """
        with self._lock:
            self._unsent += data.encode() if isinstance(data, str) else data
        while not self._feed() and self.runner is not None and self.runner.running:
            time.sleep(0.002)

    def _feed(self) -> bool:
        with self._lock:
            del self._unsent[: self.uart.receive(bytes(self._unsent))]
            return not self._unsent

    def expect(self, pattern: bytes | str, timeout: float = 30.0) -> bytes:
        """Run the machine until the guest has written `pattern` (a regular expression), and return all up to its end.

        Raises
        ------
        TimeoutError
            It did not come within `timeout` seconds of wall time, or the guest ended; the message has what came.
        """
        import re

        if self.runner is None:
            raise RuntimeError("this serial port has no machine to run")
        regex = re.compile(pattern.encode() if isinstance(pattern, str) else pattern)

        def found() -> bool:
            self._feed()
            self._seen += self.sink.read()
            return regex.search(self._seen) is not None

        if not self.runner.wait_for(found, timeout):
            raise TimeoutError(
                f"{regex.pattern!r} did not come; the guest wrote {bytes(self._seen[-400:])!r}"
            )
        match = regex.search(self._seen)
        assert match is not None
        data = bytes(self._seen[: match.end()])
        del self._seen[: match.end()]
        return data

    def send_break(self) -> None:
        """The line's break: SysRq on a Linux console."""
        self.uart.receive_break()

    def drain(self) -> None:
        """Write out what waits for a descriptor."""
        self.sink.drain()

    @property
    def bytes_sent(self) -> int:
        """Bytes that the guest ever wrote."""
        return self.sink.total

    def __repr__(self) -> str:
        return f"SerialPort({self.bytes_sent} bytes written, {self.sink.waiting} to read)"
