"""The firmware configuration device: numbered items and named files that firmware reads through ports or by DMA.

Source: QEMU's specification "QEMU Firmware Configuration (fw_cfg) Device" (docs/specs/fw_cfg): selector at port 0x510,
data at 0x511, DMA address at 0x514, all numbers of the DMA interface and of the file directory big-endian.
Left out: writing to items (their DMA answers with an error), and the memory-mapped form of other architectures.
"""

from __future__ import annotations

from pyvmm.devices.base import Device
from pyvmm.errors import DeviceError, GuestError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pyvmm.board import Board

SIGNATURE, FEATURES = 0x0000, 0x0001
UUID, RAM_SIZE, NO_GRAPHIC, CPU_COUNT, MACHINE_ID = 0x0002, 0x0003, 0x0004, 0x0005, 0x0006
BOOT_MENU, MAX_CPUS, FILE_DIRECTORY = 0x000E, 0x000F, 0x0019
FIRST_FILE = 0x0020
LOCAL = 0x8000
"""Set in the keys of items that belong to one architecture; x86's begin at 0x8000."""

FEATURE_TRADITIONAL, FEATURE_DMA = 1, 2
DMA_SIGNATURE = b"QEMU CFG"
DMA_ERROR, DMA_READ, DMA_SKIP, DMA_SELECT, DMA_WRITE = 1, 2, 4, 8, 16
NAME_SIZE = 56
CHUNK = 64 << 10


class FwCfg(Device):
    """Items by key, and files by name.

    Parameters
    ----------
    board
        Its memory is where DMA goes.
    items
        Contents by key.
    files
        Contents by name (up to 55 ASCII characters); they get keys from 0x20 on, in order of name.
    provide
        Called with the device before the guest's first access: what is costly to make can be added then.

    Raises
    ------
    DeviceError
        A name that is too long, or a key that is not 16 bits.
    """

    REGION = 0
    SELECTOR, DATA, DMA_HIGH, DMA_LOW = 0, 1, 4, 8
    SIZE = 12
    name = "fw_cfg"

    def __init__(
        self,
        board: Board,
        items: Mapping[int, bytes] | None = None,
        files: Mapping[str, bytes] | None = None,
        provide: Callable[[FwCfg], None] | None = None,
    ) -> None:
        super().__init__()
        self._board = board
        self._provide = provide
        self.items: dict[int, bytes] = {
            SIGNATURE: b"QEMU",
            FEATURES: (FEATURE_TRADITIONAL | FEATURE_DMA).to_bytes(4, "little"),
        }
        self.files: dict[str, bytes] = {}
        self.add_items(items or {})
        self.add_files(files or {})
        self.reset()

    def add_items(self, items: Mapping[int, bytes]) -> None:
        """Add or replace numbered items."""
        for key, data in items.items():
            if not 0 <= key <= 0xFFFF:
                raise DeviceError(f"fw_cfg: key {key:#x} is not 16 bits")
            self.items[key] = bytes(data)

    def add_files(self, files: Mapping[str, bytes]) -> None:
        """Add or replace files; the directory and the keys follow."""
        for name in files:
            if not name.isascii() or not 0 < len(name) < NAME_SIZE:
                raise DeviceError(f"fw_cfg: {name!r} is not a name of 1 to {NAME_SIZE - 1} ASCII characters")
        for key in range(FIRST_FILE, FIRST_FILE + len(self.files)):
            del self.items[key]
        self.files = dict(sorted((self.files | {name: bytes(data) for name, data in files.items()}).items()))
        directory = bytearray(len(self.files).to_bytes(4, "big"))
        for key, (name, data) in enumerate(self.files.items(), FIRST_FILE):
            self.items[key] = data
            directory += len(data).to_bytes(4, "big") + key.to_bytes(2, "big") + bytes(2)
            directory += name.encode().ljust(NAME_SIZE, b"\0")
        self.items[FILE_DIRECTORY] = bytes(directory)

    def reset(self) -> None:
        """Nothing selected but the signature."""
        self._select(SIGNATURE)
        self._dma_high = 0

    def _select(self, key: int) -> None:
        self.key = key
        self.offset = 0

    def _take(self, count: int) -> bytes:
        """The next bytes of the selected item; zeros after its end."""
        if self._provide is not None:
            provide, self._provide = self._provide, None
            provide(self)
        data = self.items.get(self.key, b"")[self.offset : self.offset + count]
        self.offset = min(self.offset + count, 1 << 32)
        return data + bytes(count - len(data))

    def pio_read(self, region: int, offset: int, size: int) -> int:
        """One byte of the item, or the DMA signature."""
        if offset == self.DATA:
            return int.from_bytes(self._take(1), "little")
        if offset >= self.DMA_HIGH:
            at = offset - self.DMA_HIGH
            return int.from_bytes(DMA_SIGNATURE[at : at + size].ljust(size, b"\0"), "little")
        return 0

    def pio_write(self, region: int, offset: int, size: int, value: int) -> None:
        """Select an item, or start a DMA request."""
        if offset == self.SELECTOR and size == 2:
            self._select(value)
        elif offset in (self.DMA_HIGH, self.DMA_LOW) and size == 4:
            address = int.from_bytes(value.to_bytes(4, "little"), "big")
            if offset == self.DMA_HIGH:
                self._dma_high = address
            else:
                high, self._dma_high = self._dma_high, 0
                self._dma(high << 32 | address)

    def _dma(self, gpa: int) -> None:
        """Carry out the request at `gpa`: control (4 bytes), length (4), address (8); the answer is in control."""
        memory = self._board.memory
        try:
            request = memory.read(gpa, 16)
        except GuestError:
            return  # there is nowhere to say so
        control, length = int.from_bytes(request[:4], "big"), int.from_bytes(request[4:8], "big")
        if control & DMA_SELECT:
            self._select(control >> 16)
        answer = 0
        if control & DMA_READ:
            answer = self._copy(int.from_bytes(request[8:], "big"), length)
        elif control & DMA_WRITE:
            answer = DMA_ERROR
        elif control & DMA_SKIP:
            self.offset = min(self.offset + length, 1 << 32)
        try:
            memory.write(gpa, answer.to_bytes(4, "big"))
        except GuestError:
            return

    def _copy(self, gpa: int, length: int) -> int:
        """Copy the next `length` bytes to memory; the error bit when some of it is not RAM."""
        while length:
            count = min(length, CHUNK)
            try:
                self._board.memory.write(gpa, self._take(count))
            except (GuestError, OverflowError):
                return DMA_ERROR
            gpa, length = gpa + count, length - count
        return 0

    def save(self) -> tuple[int, int, int]:
        """Selected key, offset in it, and the upper half of a DMA address that was given and not yet used."""
        return self.key, self.offset, self._dma_high

    def restore(self, state: object) -> None:
        """Take back what `save` gave.

        Raises
        ------
        DeviceError
            It is not such a state.
        """
        match state:
            case (int(key), int(offset), int(high)) if (
                0 <= key < 1 << 16 and 0 <= offset <= 1 << 32 and 0 <= high < 1 << 32
            ):
                self.key, self.offset, self._dma_high = key, offset, high
            case _:
                raise DeviceError(f"{self.name}: the saved state has a field out of range")
