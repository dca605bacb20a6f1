"""virtio console device: consoles and named ports (csrc/virtio/virtio_console.c; virtio 1.2 §5.3)."""

from __future__ import annotations

from pyvmm.devices.virtio.base import VirtioDevice
from pyvmm.errors import DeviceError
from pyvmm.native import check_pointer, ffi, lib, new_error
from pyvmm.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, Final

    from pyvmm.board import Board
    from pyvmm.devices.virtio.base import Place
    from pyvmm.display.serial import CharSink

MAX_PORTS: Final = 16
NAME_BYTES: Final = 63
CONSOLE: Final = {0: "SIZE", 1: "MULTIPORT", 2: "EMERG_WRITE"}


class CharSocket:
    """A listening Unix socket with one client at a time: the host's end of a port.

    Raises
    ------
    DeviceError
        Somebody listens there, the path cannot be made, or the machine's clock is virtual.
    """

    def __init__(self, board: Board, path: str) -> None:
        error = new_error()
        pointer = lib.char_socket_new(board.pointer, path.encode(), error)
        self.pointer: Any = check_pointer(pointer, error, exception=DeviceError)
        self.path = path
        self._board = board  # outlives the C object

    @property
    def connected(self) -> bool:
        """Whether a client is there."""
        return bool(lib.char_socket_is_connected(self.pointer))

    def close(self) -> None:
        """Free the C side and remove the path; the device must be gone."""
        if self.pointer is not None:
            lib.char_socket_free(self.pointer)
            self.pointer = None


@record(slots=True)
class PortSetup:
    """What a port of a `VirtioConsole` is made with: a name, and where its characters go."""

    name: str = ""
    is_console: bool = False
    sink: CharSink | None = None
    socket: CharSocket | None = None


class ConsolePort:
    """One port, as the host has it."""

    def __init__(self, console: VirtioConsole, index: int, setup: PortSetup) -> None:
        self.console = console
        self.index = index
        self.name = setup.name
        self.sink = setup.sink
        self.socket = setup.socket

    def receive(self, data: bytes) -> int:
        """Bytes for the guest, from any thread; returns how many were taken (4096 wait at most)."""
        return int(lib.virtio_console_receive(self.console.pointer, self.index, data, len(data)))

    def receive_break(self) -> None:
        """A virtio console has no break."""
        raise DeviceError("a virtio console has no break condition; use COM1's send_break")

    def _status(self) -> Any:
        status = ffi.new("VirtioConsolePortStatus *")
        lib.virtio_console_port_status(self.console.pointer, self.index, status)
        return status

    @property
    def receive_room(self) -> int:
        """How many bytes `receive` would take now."""
        return int(self._status().room)

    @property
    def guest_open(self) -> bool:
        """Whether somebody in the guest has it open."""
        return bool(self._status().guest_open)

    @property
    def host_open(self) -> bool:
        """Whether the guest is told that somebody is at this end. A port with a socket follows its client."""
        return bool(self._status().host_open)

    @host_open.setter
    def host_open(self, value: bool) -> None:
        lib.virtio_console_set_open(self.console.pointer, self.index, value)

    @property
    def counts(self) -> tuple[int, int]:
        """Bytes that came from the guest, and that went to it."""
        status = self._status()
        return int(status.from_guest), int(status.to_guest)

    def __repr__(self) -> str:
        return f"<ConsolePort {self.index} {self.name}>"


class VirtioConsole(VirtioDevice):
    """Up to 16 ports of characters.

    Parameters
    ----------
    place
        Where it stands.
    ports
        What each is; the first is the only one for a driver without MULTIPORT. Sinks and sockets are closed after
        the device.

    Raises
    ------
    DeviceError
        Too many ports, a name that is too long or there twice, or the place is taken.
    """

    feature_bits = CONSOLE

    def __init__(self, board: Board, place: Place, ports: Sequence[PortSetup]) -> None:
        names = [port.name for port in ports if port.name]
        for name in names:
            if len(name.encode()) > NAME_BYTES or "\0" in name or names.count(name) > 1:
                raise DeviceError(
                    f"virtio-console port {name!r}: a name is {NAME_BYTES} bytes at most, and each is there once"
                )
        if not 1 <= len(ports) <= MAX_PORTS:
            raise DeviceError(f"virtio-console: {len(ports)} ports; it has 1 to {MAX_PORTS}")
        error = new_error()
        options = ffi.new("VirtioConsoleOptions *")
        options.port_count = len(ports)
        for native, port in zip(options.ports, ports, strict=False):
            native.name, native.is_console = port.name.encode(), port.is_console
            native.sink = ffi.NULL if port.sink is None else port.sink.pointer
            native.socket = ffi.NULL if port.socket is None else port.socket.pointer
        pointer = lib.virtio_console_new(board.pointer, place.native(board), options, error)
        super().__init__(check_pointer(pointer, error, exception=DeviceError), place)
        self.ports = [ConsolePort(self, index, port) for index, port in enumerate(ports)]

    def resize(self, columns: int, rows: int) -> None:
        """The terminal of its consoles has this size, 0 to 65535 each; 0 by 0: not known."""
        if not (0 <= columns < 1 << 16 and 0 <= rows < 1 << 16):
            raise DeviceError(f"a terminal of {columns} by {rows}: 0 to 65535 each")
        lib.virtio_console_resize(self.pointer, columns, rows)
