"""The PIIX3's IDE function (csrc/devices/ide.c): disks and CD-ROM drives on two channels, by PIO and bus master."""

from __future__ import annotations

from pyvmm.devices.base import NativeDevice
from pyvmm.errors import DeviceError
from pyvmm.native import check_pointer, ffi, lib, new_error
from pyvmm.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Literal

    from pyvmm.block.image import Image
    from pyvmm.board import Board, IoThread
    from pyvmm.devices.pci.bus import PciBus
    from pyvmm.irq import IrqLine

PLACES = 4
SERIAL_BYTES = 20


@record(frozen=True, slots=True)
class IdeDrive:
    """A drive to put on a channel.

    Attributes
    ----------
    kind
        ``"disk"`` or ``"cdrom"``.
    image
        What it shows; None: a CD-ROM drive without a disc. A read-only image makes a write-protected disk.
    serial
        At most 20 ASCII characters; empty: one by its place.
    """

    kind: Literal["disk", "cdrom"]
    image: Image | None = None
    serial: str = ""


@record(frozen=True, slots=True)
class IdeCounters:
    """What a channel has done since it was made.

    `pio_blocks` are blocks of data that went through the data port, `dma_transfers` commands that the bus master
    served; `bytes_read` and `bytes_written` count the images' bytes, `errors` commands that ended with ERR.
    """

    commands: int
    packets: int
    pio_blocks: int
    dma_transfers: int
    bytes_read: int
    bytes_written: int
    errors: int
    interrupts: int


class Ide(NativeDevice):
    """Two IDE channels in compatibility mode. The images must stay open as long as it does.

    Its ports answer once firmware has set PCICMD.IOSE and the channel's IDETIM bit 15. ``ide.registers.channels[0]``
    has the primary channel: ``drives[0]`` the task file of device 0, ``transfer`` what is under way, ``master`` the
    bus master.

    Parameters
    ----------
    pci, slot
        It is function 1 of the ISA bridge's slot.
    irqs
        Interrupt lines of the primary and the secondary channel.
    drives
        Up to four: primary device 0 and 1, secondary device 0 and 1; None leaves a place empty.
    io
        The thread that reads and writes the images, from ``board.worker("ide")``. None: the board's own, where a slow
        image delays timers.

    Raises
    ------
    DeviceError
        More than four drives, a disk without an image, a serial number that is too long, or no room on the bus.
    """

    COMMAND = (0, 2)
    """Regions: command block (8 ports) of the primary and the secondary channel."""
    CONTROL = (1, 3)
    """Regions: alternate status and device control (1 port)."""

    def __init__(
        self,
        board: Board,
        pci: PciBus,
        slot: int,
        irqs: tuple[IrqLine, IrqLine],
        drives: Sequence[IdeDrive | None],
        function: int = 1,
        io: IoThread | None = None,
    ) -> None:
        if len(drives) > PLACES:
            raise DeviceError(f"ide: {len(drives)} drives: two channels have room for {PLACES}")
        options = ffi.new("IdeOptions *")
        for place, drive in zip(options.drives, drives, strict=False):
            if drive is None:
                continue
            if not drive.serial.isascii() or len(drive.serial) > SERIAL_BYTES or "\0" in drive.serial:
                raise DeviceError(f"ide serial {drive.serial!r}: at most {SERIAL_BYTES} ASCII characters")
            place.kind = lib.IDE_CDROM if drive.kind == "cdrom" else lib.IDE_DISK
            place.image = ffi.NULL if drive.image is None else drive.image.handle
            place.serial = drive.serial.encode()
        if io is not None:
            options.io = io.on(board)
        error = new_error()
        devfn = slot << 3 | function
        pointer = lib.ide_new(board.pointer, pci.bus, devfn, irqs[0].pointer, irqs[1].pointer, options, error)
        super().__init__(check_pointer(pointer, error, exception=DeviceError), state="IdeState")
        self.drives = [*drives] + [None] * (PLACES - len(drives))
        """What hangs on it: primary 0 and 1, secondary 0 and 1."""

    def counters(self, channel: int) -> IdeCounters:
        """What channel 0 (primary) or 1 has done."""
        native = ffi.new("IdeCounters *")
        lib.ide_counters(self.pointer, channel, native)
        return IdeCounters(**{name: int(getattr(native, name)) for name in IdeCounters.__match_args__})

    def insert(self, place: int, image: Image) -> None:
        """Put another disc into the CD-ROM drive at `place` (0 to 3); the tray closes. A locked tray does not stop it.

        Raises
        ------
        DeviceError
            There is no CD-ROM drive.
        """
        self._change(place, image)

    def eject(self, place: int) -> None:
        """Take the disc out of the CD-ROM drive at `place`."""
        self._change(place, None)

    def _change(self, place: int, image: Image | None) -> None:
        handle = ffi.NULL if image is None else image.handle
        drive = self.drives[place] if 0 <= place < PLACES else None
        if (
            drive is None
            or drive.kind != "cdrom"
            or lib.ide_change_medium(self.pointer, place // 2, place % 2, handle)
        ):
            raise DeviceError(f"ide: no CD-ROM drive at place {place}: `drives` lists what there is")
        self.drives[place] = IdeDrive("cdrom", image, drive.serial)
