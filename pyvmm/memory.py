"""Guest physical memory as Python sees it: bytes, integers, memoryviews and numpy arrays over the machine's own RAM."""

from __future__ import annotations

from pyvmm.errors import GuestError
from pyvmm.native import check, ffi, lib, new_error
from pyvmm.record import record
from pyvmm.units import Gpa, format_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    import numpy as np

PAGE_SIZE = 4096


@record(frozen=True, slots=True)
class Memslot:
    """One contiguous piece of guest memory: `gpa` and `size` in bytes; `read_only` is ROM to the guest."""

    gpa: Gpa
    size: int
    read_only: bool

    @property
    def end(self) -> Gpa:
        """First address after the slot."""
        return Gpa(self.gpa + self.size)

    def __str__(self) -> str:
        kind = "ROM" if self.read_only else "RAM"
        return f"{self.gpa:#012x}-{self.end - 1:#012x} {kind} {format_size(self.size)}"


class GuestMemory:
    """The guest's RAM and ROM by guest physical address.

    ``memory[0x7c00:0x7e00]`` is bytes, ``memory[0x7c00] = 0xf4`` stores one. `write` behaves as a device's DMA does
    (ROM refuses it), `load` as a loader does. Both tell the engine, so that code translated from there is redone.
    """

    def __init__(self, pointer: Any, owner: object) -> None:
        self.pointer = pointer
        self._owner = owner  # keeps the C side alive

    def add(self, gpa: int, size: int, *, read_only: bool = False) -> None:
        """Add a memslot, before the machine has a vCPU. Both numbers are multiples of 4096.

        Raises
        ------
        GuestError
            It overlaps another slot (both are named), is not aligned, or the host has no memory for it.
        """
        error = new_error()
        check(
            lib.guest_memory_add(self.pointer, gpa, size, int(read_only), error), error, exception=GuestError
        )

    def alias(self, gpa: int, source: int, size: int, *, read_only: bool = False) -> None:
        """Show the same bytes as at `source` at a second address."""
        error = new_error()
        check(
            lib.guest_memory_alias(self.pointer, gpa, source, size, int(read_only), error),
            error,
            exception=GuestError,
        )

    @property
    def slots(self) -> list[Memslot]:
        """The memslots, in order of address."""
        return list(self._iterate())

    def _iterate(self) -> Iterator[Memslot]:
        for index in range(lib.guest_memory_slot_count(self.pointer)):
            slot = lib.guest_memory_slot(self.pointer, index)
            yield Memslot(Gpa(slot.gpa), slot.size, bool(slot.flags & 1))

    @property
    def size(self) -> int:
        """Bytes of RAM (ROM and aliases not counted)."""
        return sum(slot.size for slot in self.slots if not slot.read_only)

    def read(self, gpa: int, size: int) -> bytes:
        """`size` bytes at a guest physical address.

        Raises
        ------
        GuestError
            Some of the range is not memory.
        """
        buffer = bytearray(size)
        result = lib.guest_memory_read(self.pointer, gpa, ffi.from_buffer(buffer), size) if size else 0
        self._check(result, gpa, size, "read")
        return bytes(buffer)

    def write(self, gpa: int, data: bytes | bytearray | memoryview) -> None:
        """Store as a device would: all of it, or GuestError and nothing when some is not RAM."""
        view = ffi.from_buffer(data)
        self._check(lib.guest_memory_write(self.pointer, gpa, view, len(view)), gpa, len(view), "write")

    def load(self, gpa: int, data: bytes | bytearray | memoryview) -> None:
        """Store as a loader would: ROM too."""
        view = ffi.from_buffer(data)
        self._check(lib.guest_memory_load(self.pointer, gpa, view, len(view)), gpa, len(view), "load")

    @staticmethod
    def _check(result: int, gpa: int, size: int, verb: str) -> None:
        if result < 0:
            raise GuestError(f"cannot {verb} {size} bytes at {gpa:#x}: not all of it is guest memory")

    def view(self, gpa: int, size: int) -> memoryview:
        """Guest memory itself, without a copy: changes are seen by both sides at once.

        The range must lie in one memslot. After writing through it call `written`. The view stays good when the machine
        is closed: the host's memory goes with the last one.
        """
        pointer = lib.guest_memory_ptr(self.pointer, gpa, size, False)
        if pointer == ffi.NULL:
            raise GuestError(f"no memslot holds all of {gpa:#x}-{gpa + size - 1:#x}")
        memory = self.pointer
        lib.guest_memory_ref(memory)
        owned = ffi.gc(pointer, lambda _: lib.guest_memory_free(memory))
        return memoryview(ffi.buffer(owned, size))

    def written(self, gpa: int, size: int) -> None:
        """Say that [gpa, gpa + size) was written through a `view`."""
        lib.guest_memory_written(self.pointer, gpa, size)

    def array(self, gpa: int, shape: int | tuple[int, ...], dtype: Any = "u1") -> np.ndarray[Any, Any]:
        """A numpy array over guest memory, without a copy."""
        import numpy as np

        dimensions = (shape,) if isinstance(shape, int) else shape
        count = 1
        for length in dimensions:
            count *= length
        view = self.view(gpa, count * np.dtype(dtype).itemsize)
        return np.frombuffer(view, dtype=dtype).reshape(dimensions)

    def __getitem__(self, key: int | slice) -> Any:
        if isinstance(key, slice):
            start, stop = self._bounds(key)
            return self.read(start, stop - start)
        return self.read(key, 1)[0]

    def __setitem__(self, key: int | slice, value: int | bytes | bytearray | memoryview) -> None:
        if isinstance(key, slice):
            if isinstance(value, int):
                raise TypeError("a slice of guest memory takes bytes")
            start = key.start or 0
            if key.stop is not None and key.stop - start != len(value):
                raise ValueError(f"{key.stop - start} bytes are named and {len(value)} are given")
            self.load(start, value)
        elif isinstance(value, int):
            self.load(key, bytes([value]))
        else:
            raise TypeError("one address of guest memory takes an integer 0..255")

    @staticmethod
    def _bounds(key: slice) -> tuple[int, int]:
        if key.step not in (None, 1) or key.stop is None:
            raise ValueError("a slice of guest memory has a start, a stop and no step")
        return key.start or 0, key.stop

    def read_integer(self, gpa: int, size: int) -> int:
        """A little-endian unsigned integer of `size` bytes."""
        return int.from_bytes(self.read(gpa, size), "little")

    def write_integer(self, gpa: int, size: int, value: int) -> None:
        """Store the low `size` bytes of `value`, little-endian."""
        self.load(gpa, (value & ((1 << (8 * size)) - 1)).to_bytes(size, "little"))

    def read_u8(self, gpa: int) -> int:
        """One byte."""
        return self.read_integer(gpa, 1)

    def read_u16(self, gpa: int) -> int:
        """Two bytes, little-endian."""
        return self.read_integer(gpa, 2)

    def read_u32(self, gpa: int) -> int:
        """Four bytes, little-endian."""
        return self.read_integer(gpa, 4)

    def read_u64(self, gpa: int) -> int:
        """Eight bytes, little-endian."""
        return self.read_integer(gpa, 8)

    def write_u8(self, gpa: int, value: int) -> None:
        """One byte."""
        self.write_integer(gpa, 1, value)

    def write_u16(self, gpa: int, value: int) -> None:
        """Two bytes, little-endian."""
        self.write_integer(gpa, 2, value)

    def write_u32(self, gpa: int, value: int) -> None:
        """Four bytes, little-endian."""
        self.write_integer(gpa, 4, value)

    def write_u64(self, gpa: int, value: int) -> None:
        """Eight bytes, little-endian."""
        self.write_integer(gpa, 8, value)

    def take_dirty(self, slot: int) -> list[int]:
        """Page numbers (from the slot's start) written by the host since the last call, and forget them."""
        pages = self.slots[slot].size // PAGE_SIZE
        bitmap = ffi.new("uint64_t[]", (pages + 63) // 64)
        lib.guest_memory_take_dirty(self.pointer, slot, bitmap)
        return [64 * i + bit for i, word in enumerate(bitmap) if word for bit in range(64) if word >> bit & 1]

    def __repr__(self) -> str:
        return "GuestMemory(\n  " + "\n  ".join(map(str, self.slots)) + "\n)"
