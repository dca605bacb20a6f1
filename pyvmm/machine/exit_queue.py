"""Exits of several vCPUs, one after another: what `Machine.exits` is with more than one vCPU."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable

from pyvmm.engine import EngineVm, Vcpu
from pyvmm.exits import ExitReason, VmExit

Item = tuple[Vcpu, "VmExit | BaseException"]


class ExitQueue:
    """Runs every vCPU of a VM on a thread of its own; their exits come in the order in which they happened.

    A vCPU that left waits until `go_on`. Who looks may read and change its state until then.

    Parameters
    ----------
    vm
        Whose vCPUs run, from now on.
    surface
        The exits that are wanted, beside those that always come.
    users
        Where the threads' identifiers are noted.
    """

    def __init__(self, vm: EngineVm, surface: Iterable[ExitReason], users: set[int]) -> None:
        self._vm = vm
        self._surface = tuple(surface)
        self._users = users
        self._exits: queue.SimpleQueue[Item] = queue.SimpleQueue()
        self._gates = {vcpu.index: threading.Semaphore(0) for vcpu in vm.vcpus}
        self._over = False
        self._threads = [
            threading.Thread(target=self._run, args=(vcpu,), name=f"vcpu-{vcpu.index}", daemon=True)
            for vcpu in vm.vcpus
        ]
        for thread in self._threads:
            thread.start()

    def take(self) -> tuple[Vcpu, VmExit]:
        """The next exit, when there is one; raises what a vCPU's run raised."""
        vcpu, exit_ = self._exits.get()
        if isinstance(exit_, BaseException):
            raise exit_
        return vcpu, exit_

    def go_on(self, vcpu: Vcpu) -> None:
        """Let a vCPU run on whose exit was taken."""
        self._gates[vcpu.index].release()

    def close(self) -> list[VmExit]:
        """Stop all of them; the exits that nobody took."""
        self._over = True
        self._vm.call_in()
        for gate in self._gates.values():
            gate.release()
        for thread in self._threads:
            thread.join()
        untaken = []
        while not self._exits.empty():
            _, exit_ = self._exits.get()
            if isinstance(exit_, VmExit):
                untaken.append(exit_)
        return untaken

    def _run(self, vcpu: Vcpu) -> None:
        self._users.add(threading.get_ident())
        vcpu.name_thread()
        while not self._over:
            try:
                exit_: VmExit | BaseException = vcpu.run(self._surface)
            except BaseException as error:
                exit_ = error
            if self._over and isinstance(exit_, VmExit) and exit_.reason is ExitReason.KICK:
                return
            self._exits.put((vcpu, exit_))
            self._gates[vcpu.index].acquire()
