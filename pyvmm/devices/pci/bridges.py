"""The chip set's PCI functions (csrc/devices/pci_bridges.c)."""

from __future__ import annotations

from pyvmm.devices.base import NativeDevice
from pyvmm.errors import DeviceError
from pyvmm.native import check_pointer, lib, new_error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.board import Board
    from pyvmm.devices.pci.bus import PciBus
    from pyvmm.irq import IrqLine


class HostBridge(NativeDevice):
    """82441FX, 8086:1237. PAM, DRB and SMRAM registers read back as written; memory stays as it is."""

    def __init__(self, board: Board, pci: PciBus, slot: int = 0) -> None:
        error = new_error()
        pointer = lib.i440fx_new(board.pointer, pci.bus, slot << 3, error)
        super().__init__(check_pointer(pointer, error, exception=DeviceError), state="PciBridgeState")


class IsaBridge(NativeDevice):
    """PIIX3, 8086:7000: its PIRQRC registers (0x60 to 0x63) send the four links to interrupt lines."""

    def __init__(self, board: Board, pci: PciBus, slot: int) -> None:
        error = new_error()
        pointer = lib.piix3_isa_new(board.pointer, pci.bus, slot << 3, error)
        super().__init__(check_pointer(pointer, error, exception=DeviceError), state="PciBridgeState")


class PowerManagement(NativeDevice):
    """PIIX4's function 3, 8086:7113 (csrc/devices/piix4_pm.c).

    PMBASE says where the power management registers are, and cannot be moved. The SMBus host controller, with nobody on
    its bus, is where the guest puts it by SMBBA.

    Parameters
    ----------
    pm_base
        First port, a multiple of 64.
    irq
        Where the SMBus may interrupt: IRQ 9.
    """

    def __init__(
        self, board: Board, pci: PciBus, slot: int, pm_base: int, irq: IrqLine, function: int = 3
    ) -> None:
        if pm_base % 64 or not 0 < pm_base < 0x10000:
            raise DeviceError(f"PIIX4 PMBASE {pm_base:#x} is not a multiple of 64 below 0x10000")
        error = new_error()
        pointer = lib.piix4_pm_new(board.pointer, pci.bus, slot << 3 | function, pm_base, irq.pointer, error)
        super().__init__(check_pointer(pointer, error, exception=DeviceError), state="Piix4PmState")
