"""PCI functions written in Python: identity and BARs as class attributes, registers as methods.

The configuration space, the BARs' coming and going on the buses, and INTx# are C (csrc/devices/pci_python.c).
"""

from __future__ import annotations

from pyvmm.devices.base import Device, NativeDevice, _Trampoline
from pyvmm.devices.pci.function import PciFunction
from pyvmm.errors import DeviceError
from pyvmm.native import check_pointer, ffi, lib, new_error
from pyvmm.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, ClassVar

    from pyvmm.devices.pci.bus import PciBus


@record(frozen=True, slots=True)
class Bar:
    """What a base address register asks for.

    Attributes
    ----------
    size
        A power of two: ports (4 to 256), or bytes (16 up).
    io
        Ports instead of memory.
    wide
        A 64-bit address: takes the next index too.
    index
        Register 0 to 5; None: the next free one.
    """

    size: int
    io: bool = False
    wide: bool = False
    prefetchable: bool = False
    index: int | None = None

    @property
    def flags(self) -> int:
        """As in the register's low bits (PCI 3.0 §6.2.5.1)."""
        return (1 if self.io else 0) | (4 if self.wide else 0) | (8 if self.prefetchable else 0)


class PciDevice(Device):
    """A PCI function in Python. Put it on the bus with ``machine.pci.add(device, slot)``.

    Accesses to a BAR call `pio_read`, `pio_write` (ports) or `mmio_read`, `mmio_write` (memory) with the BAR's index as
    `region`. `raise_irq` and `lower_irq` drive its interrupt pin, which is a level.
    """

    vendor_id: ClassVar[int] = 0x1234
    device_id: ClassVar[int] = 0
    class_code: ClassVar[int] = 0xFF0000
    """24 bits: base class, sub-class, interface. 0xff0000: fits no class."""
    revision: ClassVar[int] = 0
    subsystem_vendor_id: ClassVar[int] = 0
    subsystem_id: ClassVar[int] = 0
    interrupt_pin: ClassVar[int] = 1
    """1 to 4: INTA# to INTD#; 0: none."""
    bars: ClassVar[tuple[Bar, ...]] = ()
    msi_vectors: ClassVar[int] = 0
    """Vectors of the MSI capability: a power of two up to 32; 0: not there."""
    msix_vectors: ClassVar[int] = 0
    """Vectors of the MSI-X capability, up to 64; 0: not there. Their table takes a BAR of its own."""

    def __init__(self) -> None:
        super().__init__()
        self._native: NativeDevice | None = None
        self._function: PciFunction | None = None

    def attach(self, pci: PciBus, slot: int, function: int = 0) -> None:
        """Called by ``pci.add``."""
        if self._native is not None:
            raise DeviceError(f"{self.name} is on a PCI bus already")
        if not (0 <= slot < 32 and 0 <= function < 8):
            raise DeviceError(
                f"{self.name}: PCI slot {slot} function {function}: slots are 0 to 31, functions 0 to 7"
            )
        error = new_error()
        bars = self._native_bars(pci)
        pointer = lib.pci_python_new(
            pci.board.pointer,
            pci.bus,
            slot << 3 | function,
            self.name.encode()[:27],
            self._identity(),
            bars,
            len(bars),
            ffi.new("PciPythonMessages *", (self.msi_vectors, self.msix_vectors, self._free_bar())),
            lib.python_device_read,
            lib.python_device_write,
            error,
        )
        self._native = NativeDevice(
            check_pointer(pointer, error, exception=DeviceError), state="PciPythonState"
        )
        self._function = PciFunction(pci.bus, slot << 3 | function)

    def _identity(self) -> Any:
        fields = (
            self.vendor_id,
            self.device_id,
            self.class_code,
            self.revision,
            self.subsystem_vendor_id,
            self.subsystem_id,
            self.interrupt_pin,
        )
        try:
            return ffi.new("PciIdentity *", fields)
        except OverflowError as error:
            raise DeviceError(f"{self.name}: a PCI identity register is out of range: {error}") from None

    def _native_bars(self, pci: PciBus) -> Any:
        rows = []
        index = 0
        for bar in self.bars:
            index = index if bar.index is None else bar.index
            handle = ffi.new_handle(_Trampoline(self, bar.io, pci.board))
            self._handles.append(handle)
            rows.append((index, bar.flags, bar.size, handle))
            index += 2 if bar.wide else 1
        return ffi.new("PciPythonBar[]", rows)

    def _free_bar(self) -> int:
        """The first register after those of `bars`."""
        index = 0
        for bar in self.bars:
            index = (index if bar.index is None else bar.index) + (2 if bar.wide else 1)
        return index

    @property
    def native(self) -> NativeDevice:
        """The C side: configuration space and interrupt.

        Raises
        ------
        DeviceError
            It is not on a bus yet.
        """
        if self._native is None:
            raise DeviceError(f"{self.name} is not on a PCI bus: machine.pci.add(device, slot)")
        return self._native

    @property
    def function(self) -> PciFunction:
        """Its configuration space."""
        if self._function is None:
            raise DeviceError(f"{self.name} is not on a PCI bus: machine.pci.add(device, slot)")
        return self._function

    def raise_irq(self) -> None:
        """Assert its interrupt pin."""
        lib.pci_python_set_intx(self.native.pointer, True)

    def lower_irq(self) -> None:
        """Take it back."""
        lib.pci_python_set_intx(self.native.pointer, False)

    def notify(self, vector: int = 0) -> bool:
        """Send a vector's message, by MSI-X or MSI, whichever the guest has enabled.

        A vector that MSI-X has masked is sent when it is unmasked.

        Returns
        -------
        bool
            False when the guest has enabled neither: it listens to the interrupt pin.
        """
        return bool(lib.pci_python_notify(self.native.pointer, vector))

    def reset(self) -> None:
        """Configuration space as at power-on: BARs off, no interrupt. A subclass calls up."""
        self.native.reset()

    def save(self) -> Any:
        """Configuration space. A subclass with registers of its own adds them."""
        return self.native.save()

    def restore(self, state: Any) -> None:
        """Take back what `save` gave."""
        self.native.restore(state)

    def close(self) -> None:
        """Off the bus."""
        if self._native is not None:
            self._native.close()
            self._native = self._function = None
