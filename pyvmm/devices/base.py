"""Devices: `Device` is a device written in Python, `NativeDevice` the Python face of one written in C.

A device knows offsets in its regions and its interrupt line; where the regions are on a bus is the machine's business.
A subclass of a C device that overrides `pio_read` and so on is called in place of the C functions, and may call up.
"""

from __future__ import annotations

from pyvmm.errors import DeviceError
from pyvmm.native import check_pointer, ffi, lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, ClassVar

    from pyvmm.board import Board
    from pyvmm.bus import Bus


class Device:
    """A device written in Python.

    Override `pio_read` and `pio_write` (or `mmio_read`, `mmio_write`); put it on a bus with
    ``machine.pio.add(port, size, device)``. They are called on the vCPU's thread. An exception in one is kept, ends the
    run, and is raised by ``machine.run()``; the guest reads all ones.
    """

    name: str = ""
    state_version: ClassVar[int] = 1

    def __init__(self) -> None:
        self.name = self.name or type(self).__name__
        self._handles: list[Any] = []

    def pio_read(self, region: int, offset: int, size: int) -> int:
        """The guest reads `size` bytes (1, 2 or 4) at `offset` of a port region."""
        return (1 << (8 * size)) - 1

    def pio_write(self, region: int, offset: int, size: int, value: int) -> None:
        """The guest writes."""

    def mmio_read(self, region: int, offset: int, size: int) -> int:
        """The guest reads 1, 2, 4 or 8 bytes of a memory-mapped region."""
        return (1 << (8 * size)) - 1

    def mmio_write(self, region: int, offset: int, size: int, value: int) -> None:
        """The guest writes."""

    def reset(self) -> None:
        """Power-on values."""

    def save(self) -> Any:
        """The device's state: anything that `restore` takes back; None for a device without state."""
        return None

    def restore(self, state: Any) -> None:
        """Take back what `save` gave."""

    def close(self) -> None:
        """Give back what the device holds of the host."""

    def map_region(self, bus: Bus, base: int, size: int, region: int, error: Any) -> int:
        """Put a region on a bus through the trampoline; 0 or -errno with `error` filled. Called by ``bus.add``."""
        handle = ffi.new_handle(_Trampoline(self, bus.kind == "pio", bus._owner))
        self._handles.append(handle)  # lives as long as the device
        return int(
            lib.bus_add(
                bus.pointer,
                base,
                size,
                _TRAMPOLINE_OPS,
                handle,
                region,
                ffi.NULL,
                self.name.encode()[:27],
                error,
            )
        )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"


class _Trampoline:
    """What the C bus calls back: a device, which pair of its methods, and where an exception goes."""

    __slots__ = ("board", "read", "write")

    def __init__(self, device: Device, is_pio: bool, board: Any) -> None:
        self.read = device.pio_read if is_pio else device.mmio_read
        self.write = device.pio_write if is_pio else device.mmio_write
        self.board: Board = board


@ffi.def_extern(error=0xFFFFFFFFFFFFFFFF)  # type: ignore[untyped-decorator]
def python_device_read(handle: Any, region: int, offset: int, size: int) -> int:
    trampoline: _Trampoline = ffi.from_handle(handle)
    try:
        return int(trampoline.read(region, offset, size)) & ((1 << (8 * size)) - 1)
    except BaseException as error:
        trampoline.board.fault(error)
        return (1 << (8 * size)) - 1


@ffi.def_extern()  # type: ignore[untyped-decorator]
def python_device_write(handle: Any, region: int, offset: int, size: int, value: int) -> None:
    trampoline: _Trampoline = ffi.from_handle(handle)
    try:
        trampoline.write(region, offset, size, value)
    except BaseException as error:
        trampoline.board.fault(error)


_TRAMPOLINE_OPS = ffi.new("DeviceOps *", {"read": lib.python_device_read, "write": lib.python_device_write})


class NativeDevice(Device):
    """The Python face of a C device.

    Parameters
    ----------
    pointer
        What the C constructor returned.
    state
        Name of its State struct in csrc/pyvmm.cdef.h.
    """

    def __init__(self, pointer: Any, state: str) -> None:
        self.pointer = ffi.cast(
            "Device *", check_pointer(pointer, what=type(self).__name__, exception=DeviceError)
        )
        self.state_type = state
        self.name = self.name or ffi.string(lib.device_name(self.pointer)).decode()
        super().__init__()

    def map_region(self, bus: Bus, base: int, size: int, region: int, error: Any) -> int:
        """As in `Device`; straight to C unless a subclass overrides the access methods."""
        names = ("pio_read", "pio_write") if bus.kind == "pio" else ("mmio_read", "mmio_write")
        if any(getattr(type(self), name) is not getattr(NativeDevice, name) for name in names):
            return super().map_region(bus, base, size, region, error)
        return int(lib.device_map(self.pointer, bus.pointer, base, size, region, error))

    def pio_read(self, region: int, offset: int, size: int) -> int:
        """What the C device answers."""
        return int(lib.device_read(self.pointer, region, offset, size))

    def pio_write(self, region: int, offset: int, size: int, value: int) -> None:
        """Hand a write to the C device."""
        lib.device_write(self.pointer, region, offset, size, value)

    def mmio_read(self, region: int, offset: int, size: int) -> int:
        """What the C device answers."""
        return int(lib.device_read(self.pointer, region, offset, size))

    def mmio_write(self, region: int, offset: int, size: int, value: int) -> None:
        """Hand a write to the C device."""
        lib.device_write(self.pointer, region, offset, size, value)

    def reset(self) -> None:
        """Power-on values."""
        lib.device_reset(self.pointer)

    @property
    def registers(self) -> Any:
        """The device's registers by their datasheet names, as a frozen dataclass."""
        state = self._new_state()
        lib.device_save(self.pointer, state)
        return _to_dataclass(state[0], self.state_type)

    def _new_state(self) -> Any:
        state = ffi.new(f"{self.state_type} *")
        if ffi.sizeof(state[0]) != lib.device_state_size(self.pointer):
            raise DeviceError(f"{self.name}: {self.state_type} is not its State struct")
        return state

    def save(self) -> bytes:
        """The State struct: a version (4 bytes, little-endian), then its bytes."""
        state = self._new_state()
        lib.device_save(self.pointer, state)
        version = int(lib.device_state_version(self.pointer))
        return version.to_bytes(4, "little") + bytes(ffi.buffer(state))

    def restore(self, state: bytes) -> None:
        """Take back what `save` gave.

        Raises
        ------
        DeviceError
            Another version or size, or a field out of range; the device is as it was.
        """
        version = int(lib.device_state_version(self.pointer))
        record = self._new_state()
        if len(state) != 4 + ffi.sizeof(record[0]) or int.from_bytes(state[:4], "little") != version:
            raise DeviceError(f"{self.name}: this is not a state of version {version}")
        ffi.memmove(record, state[4:], len(state) - 4)
        if lib.device_restore(self.pointer, record) < 0:
            raise DeviceError(f"{self.name}: the saved state has a field out of range")

    def close(self) -> None:
        """Free the C device."""
        if self.pointer is not None:
            lib.device_free(self.pointer)
            self.pointer = None


def _to_python(value: Any, type_: Any) -> Any:
    if type_.kind == "array":
        if type_.item.kind == "primitive" and type_.item.cname in ("unsigned char", "uint8_t", "char"):
            return bytes(ffi.buffer(value))
        return tuple(_to_python(item, type_.item) for item in value)
    if type_.kind == "struct":
        return _to_dataclass(value, type_.cname)
    return value


def _to_dataclass(struct: Any, name: str) -> Any:
    import dataclasses

    fields = ffi.typeof(struct).fields
    made = dataclasses.make_dataclass(name, [field for field, _ in fields], frozen=True)
    return made(*(_to_python(getattr(struct, field), info.type) for field, info in fields))
