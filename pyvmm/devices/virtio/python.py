"""A whole virtio device in Python: subclass `PythonVirtioDevice` (csrc/virtio/virtio_python.c; virtio 1.2 §2)."""

from __future__ import annotations

from pyvmm.devices.virtio.base import VirtioDevice
from pyvmm.errors import DeviceError
from pyvmm.native import check, check_pointer, ffi, lib, new_error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, ClassVar

    from pyvmm.board import Board
    from pyvmm.devices.virtio.base import Place


class Later:
    """A request that is answered later: what `PythonVirtioDevice.later` gives."""

    def __init__(self, device: PythonVirtioDevice, ticket: int) -> None:
        self._device = device
        self._ticket = ticket

    def complete(self, answer: bytes = b"") -> bool:
        """Answer it, from any thread; False when the driver has reset the device meanwhile, or it is answered."""
        if self._device.pointer is None:
            return False
        return self._device._answer(self._ticket, answer)


class PythonVirtioDevice(VirtioDevice):
    """A virtio device whose requests a method answers.

    >>> class Shout(PythonVirtioDevice):
    ...     device_id = 42
    ...     def request(self, queue, data, room):
    ...         return data.upper()

    The rings, interrupts, features and both transports are C's; `request` sees bytes. It runs on the I/O thread of the
    device's place. An exception in it is kept, ends the run, and is raised by ``machine.run()``; the driver gets an
    empty answer.

    Parameters
    ----------
    board, place
        The machine's board, and where the device stands.

    Raises
    ------
    DeviceError
        A class attribute out of range, or the place is taken.
    """

    device_id: ClassVar[int] = 63
    """What kind of device it is, 1 to 63 (virtio 1.2 §5 lists those that are taken)."""
    queue_count: ClassVar[int] = 1
    queue_size: ClassVar[int] = 64
    features: ClassVar[int] = 0
    """Its own feature bits, 0 to 23; `feature_bits` gives them names."""
    config: bytes = b""
    """Its configuration space, at most 256 bytes, that the driver may read; `set_config` changes it."""

    def __init__(self, board: Board, place: Place) -> None:
        if self.features >> 24 or len(self.config) > 256:
            raise DeviceError(
                f"{type(self).__name__}: feature bits are 0 to 23, and 256 bytes of configuration"
            )
        error = new_error()
        options = ffi.new("VirtioPythonOptions *")
        options.name = (self.name or type(self).__name__).encode()[:31]
        options.device_id, options.features = self.device_id, self.features
        options.queue_count, options.queue_size = self.queue_count, self.queue_size
        options.config_size = len(self.config)
        ffi.memmove(options.config, self.config, len(self.config))
        self._handle = ffi.new_handle(self)
        self._board = board
        self._ticket = 0
        options.request, options.handle = lib.python_virtio_request, self._handle
        pointer = lib.virtio_python_new(board.pointer, place.native(board), options, error)
        super().__init__(check_pointer(pointer, error, exception=DeviceError), place)

    def request(self, queue: int, data: bytes, room: int) -> bytes | Later:
        """Answer one request.

        Parameters
        ----------
        queue
            Which queue it came by.
        data
            What the driver wrote.
        room
            How many bytes the answer may have; more are cut off.

        Returns
        -------
        bytes or Later
            The answer, or ``self.later()`` when it comes afterwards.
        """
        return b""

    def later(self) -> Later:
        """For `request`: this one is answered by ``complete()`` of what is returned here."""
        return Later(self, self._ticket)

    def set_config(self, data: bytes, offset: int = 0) -> None:
        """Change the configuration space, and tell the driver.

        Raises
        ------
        DeviceError
            It is not as large as that.
        """
        result = lib.virtio_python_set_config(self.pointer, offset, data, len(data))
        check(result, what=f"{self.name}: configuration", exception=DeviceError)
        self.config = self.config[:offset] + data + self.config[offset + len(data) :]

    @property
    def pending(self) -> int:
        """Requests that are not answered yet."""
        return int(lib.virtio_python_pending(self.pointer))

    def save(self) -> Any:
        """As any device; a request without an answer cannot be saved.

        Raises
        ------
        DeviceError
            There are such requests: answer them first.
        """
        if self.pending:
            raise DeviceError(
                f"{self.name}: {self.pending} requests have no answer yet; complete them, then save"
            )
        return super().save()

    def _answer(self, ticket: int, answer: bytes) -> bool:
        return int(lib.virtio_python_answer(self.pointer, ticket, answer, len(answer))) == 0

    def _serve(self, queue: int, ticket: int, data: bytes, room: int) -> None:
        self._ticket = ticket
        try:
            answer = self.request(queue, data, room)
            if not isinstance(answer, Later):
                self._answer(ticket, bytes(answer))
        except BaseException as error:
            self._board.fault(error)
            self._answer(ticket, b"")


@ffi.def_extern()  # type: ignore[untyped-decorator]
def python_virtio_request(handle: Any, queue: int, ticket: int, data: Any, size: int, room: int) -> None:
    device: PythonVirtioDevice = ffi.from_handle(handle)
    device._serve(queue, ticket, bytes(ffi.buffer(data, size)), room)
