"""KVM as an engine: whether it can run here, and a machine over a board."""

from __future__ import annotations

import os

from pyvmm.engine import Availability, EngineVm
from pyvmm.errors import EngineError
from pyvmm.native import check_pointer, lib, new_error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.board import Board

DEVICE = "/dev/kvm"


class KvmEngine:
    """The engine over one KVM device.

    Parameters
    ----------
    device
        The device file; another path is for tests.
    """

    name = "kvm"

    def __init__(self, device: str | os.PathLike[str] = DEVICE) -> None:
        self.device = os.fspath(device)

    def availability(self) -> Availability:
        """Open the device, check the API and the capabilities that the engine needs, and make an empty machine.

        How fast it is, and which CPU modes it has, is another question: `pyvmm.kvm.probe`.
        """
        from pyvmm.board import Board

        board = Board()
        try:
            self.create_vm(board).close()
        except EngineError as error:
            return Availability(False, str(error))
        finally:
            board.close()
        return Availability(True, f"{self.device}, KVM API version 12")

    def create_vm(self, board: Board) -> EngineVm:
        """A machine over the board.

        Raises
        ------
        EngineError
            There is no KVM, no permission, an old kernel, a memslot that KVM refuses, or a virtual clock.
        """
        error = new_error()
        pointer = check_pointer(
            lib.kvm_vm_new(board.pointer, os.fsencode(self.device), error), error, exception=EngineError
        )
        return EngineVm(pointer, self.name, (self, board))
