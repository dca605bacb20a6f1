"""ACPI fixed hardware: power button, S5 and the PM timer (csrc/devices/acpi_pm.c)."""

from __future__ import annotations

from pyvmm.devices.base import NativeDevice
from pyvmm.errors import DeviceError
from pyvmm.native import ffi, lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

    from pyvmm.board import Board
    from pyvmm.irq import IrqLine


class AcpiPm(NativeDevice):
    """PM1a event and control blocks, the PM timer, and the SMI command port.

    Parameters
    ----------
    board
        The machine's wires.
    sci
        System control interrupt: a level.
    s5_type
        SLP_TYP that means "off", 0 to 7: what the DSDT's ``\\_S5`` says.
    acpi_enable, acpi_disable
        Values of the SMI command port that switch ACPI mode, as in the FADT: 0 to 255, different.
    timer_bits
        24, or 32 with the FADT's TMR_VAL_EXT.

    Raises
    ------
    DeviceError
        A value out of range.
    """

    REGISTERS, SMI = 0, 1
    """Regions: 12 and 2 ports."""

    def __init__(
        self,
        board: Board,
        sci: IrqLine,
        *,
        s5_type: int,
        acpi_enable: int,
        acpi_disable: int,
        timer_bits: Literal[24, 32] = 32,
    ) -> None:
        values = (s5_type, acpi_enable, acpi_disable)
        if not all(0 <= value <= 0xFF for value in values) or s5_type > 7 or acpi_enable == acpi_disable:
            raise DeviceError(f"ACPI: S5 type {s5_type} must be 0 to 7, and the SMI commands different bytes")
        if timer_bits not in (24, 32):
            raise DeviceError(f"ACPI: the PM timer has 24 or 32 bits, not {timer_bits}")
        config = ffi.new("AcpiPmConfig *", (s5_type, acpi_enable, acpi_disable, timer_bits))
        super().__init__(lib.acpi_pm_new(board.pointer, sci.pointer, config), state="AcpiPmState")

    @property
    def timer(self) -> int:
        """The PM timer, 3.579545 MHz: what the guest reads."""
        return self.pio_read(self.REGISTERS, 8, 4)

    def power_button(self) -> None:
        """Press it; the guest decides what to do. From any thread."""
        lib.acpi_pm_power_button(self.pointer)
