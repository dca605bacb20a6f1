"""The keyboard controller with its PS/2 keyboard (csrc/devices/i8042.c)."""

from __future__ import annotations

from pyvmm.devices.base import NativeDevice
from pyvmm.native import lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.board import Board
    from pyvmm.irq import IrqLine


class I8042(NativeDevice):
    """Keyboard, mouse, A20 and reset."""

    DATA, COMMAND = 0, 1
    """Regions, of 1 port each: 0x60 and 0x64 on the PC."""

    def __init__(self, board: Board, keyboard: IrqLine, aux: IrqLine) -> None:
        super().__init__(lib.i8042_new(board.pointer, keyboard.pointer, aux.pointer), state="I8042State")

    def key(self, codes: bytes) -> bool:
        """One key event, from any thread.

        Parameters
        ----------
        codes
            A make or break code in scan code set 2, as the keyboard sends it: ``b"\\x1c"`` is A pressed,
            ``b"\\xf0\\x1c"`` A released.

        Returns
        -------
        bool
            False when the guest has scanning switched off, or the keyboard's buffer is full.
        """
        return int(lib.i8042_key(self.pointer, codes, len(codes))) == 0

    @property
    def leds(self) -> int:
        """Bit 0 scroll lock, 1 num lock, 2 caps lock."""
        return int(lib.i8042_leds(self.pointer))

    def mouse(self, dx: int, dy: int, dz: int, buttons: int) -> None:
        """The mouse moves, from any thread.

        Parameters
        ----------
        dx, dy, dz
            Counts to the right, down, and of the wheel towards the user.
        buttons
            Bit 0 left, 1 right, 2 middle, 3 and 4 the side's.
        """
        limit = 1 << 20
        dx, dy, dz = (max(-limit, min(limit, value)) for value in (dx, dy, dz))
        lib.i8042_mouse(self.pointer, dx, dy, dz, buttons & 0x1F)
