"""The VGA with Bochs's VBE extension (csrc/devices/vga.c)."""

from __future__ import annotations

from pyvmm.devices.base import NativeDevice
from pyvmm.errors import DeviceError
from pyvmm.native import check_pointer, ffi, lib, new_error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.board import Board
    from pyvmm.devices.pci.bus import PciBus

_CHUNK = 64 << 10
_KINDS = ("blank", "text", "graphics")


class VgaMode:
    """What the VGA shows: `kind` ("blank", "text" or "graphics"), sizes in pixels, columns and rows in cells.

    `cursor` is (row, column) in a text mode whose cursor is on and on the screen, else None.
    """

    __slots__ = (
        "bits_per_pixel",
        "cell_height",
        "cell_width",
        "columns",
        "cursor",
        "height",
        "kind",
        "rows",
        "width",
    )

    def __init__(self, device: object) -> None:
        mode = ffi.new("VgaMode *")
        lib.vga_mode(device, mode)
        self.kind: str = _KINDS[mode.kind]
        self.width = int(mode.width)
        self.height = int(mode.height)
        self.bits_per_pixel = int(mode.bits_per_pixel)
        self.columns = int(mode.columns)
        self.rows = int(mode.rows)
        self.cell_width = int(mode.cell_width)
        self.cell_height = int(mode.cell_height)
        self.cursor: tuple[int, int] | None = (
            (int(mode.cursor_row), int(mode.cursor_column)) if mode.cursor_visible else None
        )

    def __repr__(self) -> str:
        cells = f", {self.columns} x {self.rows} cells" if self.kind == "text" else ""
        return f"<VgaMode {self.kind} {self.width} x {self.height}, {self.bits_per_pixel} bits{cells}>"


class Vga(NativeDevice):
    """Text, planar, 256-colour and linear modes; PCI 1234:1111.

    Parameters
    ----------
    rom
        An option ROM with a VGA BIOS, for firmware that runs one; None for none.

    Raises
    ------
    DeviceError
        `rom` is not an option ROM, the slot is taken, or there is no memory.
    """

    PORTS, DISPI, WINDOW = 0, 1, 2

    def __init__(self, board: Board, pci: PciBus, slot: int, rom: bytes | None = None) -> None:
        error = new_error()
        pointer = lib.vga_new(
            board.pointer, pci.bus, slot << 3, ffi.NULL if rom is None else rom, len(rom or b""), error
        )
        super().__init__(check_pointer(pointer, error, exception=DeviceError), state="VGAState")

    @property
    def memory(self) -> memoryview:
        """All 16 MiB of video memory; planes are interleaved (csrc/devices/vga.h)."""
        return memoryview(ffi.buffer(lib.vga_memory(self.pointer), lib.VGA_MEMORY_SIZE))

    def mode(self) -> VgaMode:
        """What is shown now."""
        return VgaMode(self.pointer)

    def render(self, width: int, height: int, blink: bool = True) -> bytes | None:
        """The picture, 4 bytes a pixel (0x00RRGGBB, little-endian); None when its size is not this any more."""
        pixels = ffi.new("uint32_t[]", width * height)
        if lib.vga_render(self.pointer, pixels, width, height, blink) < 0:
            return None
        return bytes(ffi.buffer(pixels))

    def cells(self, columns: int, rows: int) -> memoryview | None:
        """Character and attribute bytes of each cell of a text mode; None when it is not of this size any more."""
        cells = ffi.new("uint16_t[]", columns * rows)
        if lib.vga_cells(self.pointer, cells, columns, rows) < 0:
            return None
        return memoryview(bytes(ffi.buffer(cells)))

    def save(self) -> bytes:
        """Registers as any device's, then video memory, each 64 KiB not all zero after its number (2 bytes)."""
        memory, zero = self.memory, bytes(_CHUNK)
        chunks = (memory[at : at + _CHUNK] for at in range(0, len(memory), _CHUNK))
        parts = [n.to_bytes(2, "little") + bytes(chunk) for n, chunk in enumerate(chunks) if chunk != zero]
        return super().save() + b"".join(parts)

    def restore(self, state: bytes) -> None:
        """Take back what `save` gave; see `NativeDevice.restore`."""
        start, memory = 4 + ffi.sizeof("VGAState"), self.memory
        rest = state[start:]
        numbers = [int.from_bytes(rest[at : at + 2], "little") for at in range(0, len(rest), 2 + _CHUNK)]
        if len(rest) % (2 + _CHUNK) or numbers != sorted(set(numbers) & set(range(len(memory) // _CHUNK))):
            raise DeviceError(f"{self.name}: the saved state's video memory is not whole")
        super().restore(state[:start])
        lib.vga_clear(self.pointer)
        for i, number in enumerate(numbers):
            at = i * (2 + _CHUNK) + 2
            memory[number * _CHUNK : (number + 1) * _CHUNK] = rest[at : at + _CHUNK]
