"""The local APIC of a vCPU, and the I/O APIC (csrc/irq/lapic.c, csrc/irq/ioapic.c)."""

from __future__ import annotations

from pyvmm.devices.base import NativeDevice
from pyvmm.errors import DeviceError
from pyvmm.native import check_pointer, lib, new_error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.board import Board


class Lapic(NativeDevice):
    """Takes interrupts by messages, and drives its vCPU's INTR pin. Make it after the `Pic`, whose output is its LINT0.

    `registers.regs` is its page by the offsets of Intel SDM 3A table 11-1; `register` reads one by offset.

    Parameters
    ----------
    id
        Initial APIC ID, 0 to 254. The one with ID 0 is the bootstrap processor's, and puts its page on the board's
        memory bus at 0xfee00000, where the guest may move it.

    Raises
    ------
    DeviceError
        The ID is taken or out of range, or something else is at 0xfee00000.
    """

    def __init__(self, board: Board, id: int = 0) -> None:
        error = new_error()
        lapic = check_pointer(lib.lapic_new(board.pointer, id, error), error, exception=DeviceError)
        super().__init__(lib.lapic_device(lapic), state="LapicState")
        self.id = id

    def register(self, offset: int) -> int:
        """The 32-bit register at an offset of the page."""
        return int.from_bytes(self.registers.regs[offset : offset + 4], "little")


class IoApic(NativeDevice):
    """24 interrupt inputs: GSI n is input n, except for ISA IRQ 0. Its one region is its page of registers.

    `registers.redirection` are the entries of the redirection table (Intel 82093AA section 3.2.4).

    Parameters
    ----------
    isa_irq0_pin
        Input of ISA IRQ 0.
    """

    def __init__(self, board: Board, isa_irq0_pin: int) -> None:
        error = new_error()
        pointer = lib.ioapic_new(board.pointer, board.pointer.irqs, isa_irq0_pin, error)
        super().__init__(check_pointer(pointer, error, exception=DeviceError), state="IoApicState")
