"""KVM as an engine: whether it can run here, and a machine over a board."""

from __future__ import annotations

import os

from pyvmm.engine import Availability, EngineVm
from pyvmm.errors import EngineError
from pyvmm.native import check_pointer, ffi, lib, new_error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.board import Board
    from pyvmm.config import Irqchip
    from pyvmm.cpu.topology import Topology

DEVICE = "/dev/kvm"


class KvmEngine:
    """The engine over one KVM device.

    Parameters
    ----------
    device
        The device file; another path is for tests.
    reserved_pages
        Guest physical address of four pages without memory, which KVM needs on older VT-x (csrc/kvm/kvm.h); None: KVM's
        own choice.
    """

    name = "kvm"

    def __init__(self, device: str | os.PathLike[str] = DEVICE, *, reserved_pages: int | None = None) -> None:
        self.device = os.fspath(device)
        self.reserved_pages = reserved_pages

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

    def create_vm(
        self, board: Board, *, cpus: int = 1, irqchip: Irqchip = "auto", topology: Topology | None = None
    ) -> EngineVm:
        """A machine over the board, for so many vCPUs: cores of one package, or arranged as `topology` has them.

        Raises
        ------
        EngineError
            There is no KVM, no permission, an old kernel, a memslot that KVM refuses, a virtual clock, more vCPUs than
            KVM has, or than pyvmm's own interrupt controllers serve.
        """
        if irqchip == "auto":
            irqchip = "kernel" if cpus > 1 else "user"
        places = {"user": lib.IRQCHIP_USER, "split": lib.IRQCHIP_SPLIT, "kernel": lib.IRQCHIP_KERNEL}
        options = ffi.new("KvmOptions *")
        options.irqchip = places[irqchip]
        options.topology = (
            (1, cpus, 1) if topology is None else (topology.sockets, topology.cores, topology.threads)
        )
        options.reserved_pages = self.reserved_pages or 0
        error = new_error()
        pointer = check_pointer(
            lib.kvm_vm_new(board.pointer, os.fsencode(self.device), options, error),
            error,
            exception=EngineError,
        )
        vm = EngineVm(pointer, self.name, self, board)
        recommended = int(lib.kvm_vm_recommended_vcpus(pointer))
        if cpus > recommended:
            vm.warning = f"--cpus {cpus}: this KVM recommends at most {recommended} vCPUs; more are slow"
        return vm
