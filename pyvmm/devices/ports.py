"""The PC's small ports, one device each (csrc/devices/ports.c): region 0 is one port, two for firmware services."""

from __future__ import annotations

from pyvmm.devices.base import NativeDevice
from pyvmm.native import ffi, lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.board import Board
    from pyvmm.display.serial import CharSink


class SystemControlA(NativeDevice):
    """Port 0x92: fast A20 (bit 1) and reset (bit 0)."""

    def __init__(self, board: Board) -> None:
        super().__init__(lib.port92_new(board.pointer), state="PortState")


class NmiAndSpeaker(NativeDevice):
    """Port 0x61: gate and output of the timer's channel 2, and the refresh bit that toggles every 15 µs."""

    def __init__(self, board: Board, pit: NativeDevice) -> None:
        self._pit = pit
        super().__init__(lib.port61_new(board.pointer, pit.pointer), state="PortState")


class PostCode(NativeDevice):
    """Port 0x80: ``registers.value`` is the last check-point code."""

    def __init__(self, board: Board) -> None:
        super().__init__(lib.post_code_new(board.pointer), state="PortState")


class DebugConsole(NativeDevice):
    """Port 0xE9: a byte written is a character printed; it reads as 0xE9."""

    def __init__(self, board: Board, sink: CharSink | None = None) -> None:
        self.sink = sink
        pointer = sink.pointer if sink is not None else ffi.NULL
        super().__init__(lib.debug_console_new(board.pointer, pointer), state="PortState")


class ExitPort(NativeDevice):
    """A write of N ends the machine with code ``(N << 1) | 1``."""

    def __init__(self, board: Board) -> None:
        super().__init__(lib.exit_port_new(board.pointer), state="PortState")


class ResetControl(NativeDevice):
    """Port 0xCF9: a rising bit 2 resets the machine."""

    def __init__(self, board: Board) -> None:
        super().__init__(lib.reset_control_new(board.pointer), state="PortState")


class FirmwarePort(NativeDevice):
    """Where the BIOS's stubs write a service number (16 bits): the run loop calls the firmware in Python."""

    def __init__(self, board: Board) -> None:
        super().__init__(lib.firmware_port_new(board.pointer), state="PortState")
