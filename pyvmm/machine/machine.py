"""A machine: what `pc.build` assembled, run, stopped, reset and taken apart."""

from __future__ import annotations

import _thread
import os
import time

from pyvmm.config import MachineConfig
from pyvmm.cpu.state import CpuState
from pyvmm.errors import PyvmmError
from pyvmm.machine import pc
from pyvmm.native import lib
from pyvmm.record import record, replace
from pyvmm.threads import Flag, Worker

TYPE_CHECKING = False
if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterable, Iterator
    from types import TracebackType
    from typing import Any, Literal, Self

    from pyvmm.display.screen import Screen
    from pyvmm.engine import ExitReason, Vcpu, VmExit

    RunReason = Literal[
        "poweroff", "exit", "reset", "shutdown", "halted", "stopped", "timeout", "breakpoint", "failed"
    ]


@record(frozen=True, slots=True)
class RunResult:
    """Why `Machine.run` returned.

    Attributes
    ----------
    reason
        ``"poweroff"`` (ACPI S5), ``"exit"`` (the exit port), ``"reset"`` (the guest asked for it), ``"shutdown"``
        (triple fault), ``"halted"`` (HLT with interrupts off), ``"stopped"`` (`Machine.stop`), ``"timeout"``,
        ``"breakpoint"``, or ``"failed"`` (the engine cannot go on; `exit.text` says why).
    code
        The exit port's code, (value << 1) | 1; otherwise 0.
    exit
        The last exit.
    """

    reason: RunReason
    code: int
    exit: VmExit


class Machine:
    """A PC.

    >>> machine = Machine(memory=64 << 20, disks=[DiskConfig(Path("disk.qcow2"))])   # doctest: +SKIP
    >>> machine.run()                                                                 # doctest: +SKIP
    RunResult(reason='poweroff', code=0, ...)

    Parameters
    ----------
    config
        What it is made of; keyword arguments replace its fields.

    Attributes
    ----------
    memory, pio, mmio, clock
        The board's memory, buses and clock.
    vcpus, vcpu
        All virtual CPUs; the first one.
    devices
        Every device by name.
    firmware
        The BIOS, or None when a ROM of somebody else's, or a kernel, is run directly.
    serial
        COM1's other end: ``send``, ``read``, ``expect``.

    Raises
    ------
    ConfigError, ImageError, BootError, EngineError
        One line that names the option or file, and what to do.
    """

    def __init__(self, config: MachineConfig | None = None, **fields: Any) -> None:
        self.config = replace(config or MachineConfig(), **fields)
        self._parts = pc.build(self.config)
        board = self._parts.board
        self.board = board
        self.memory = board.memory
        self.pio = board.pio
        self.mmio = board.mmio
        self.clock = board.clock
        self.vcpus: list[Vcpu] = self._parts.vm.vcpus
        self.vcpu = self.vcpus[0]
        self.devices = self._parts.devices
        self.firmware = self._parts.firmware
        self.serial = self._parts.serial
        self.serial.runner = self
        self.images = self._parts.images
        self.engine_name = self._parts.vm.name
        self._stop = Flag()
        self._busy = _thread.allocate_lock()
        self._life = _thread.RLock()  # held while the vCPU is kicked, so that it is not freed meanwhile
        self._process = os.getpid()
        self._users: set[int] = set()  # threads that run the vCPU, or wait for that
        self._nudged = False
        self._closed = False
        try:
            self._parts.start(self.vcpu)
        except BaseException:
            self.close()
            raise

    # Running ---------------------------------------------------------------------------------------------------------

    def run(
        self, timeout: float | None = None, *, meanwhile: Callable[[], object] | None = None
    ) -> RunResult:
        """Run the guest until it ends, or until `stop`.

        The vCPU has a thread of its own, so that Ctrl-C works here; a KeyboardInterrupt stops the guest and is raised.

        Parameters
        ----------
        timeout
            Seconds of wall time; None for no limit. The machine can go on afterwards.
        meanwhile
            Called once on this thread when the vCPU's thread has been started: for what the guest need not wait for.

        Raises
        ------
        BootError
            The BIOS found nothing to boot.
        Exception
            What a Python device raised.
        """
        with self._running():
            outcome: list[RunResult | BaseException] = []

            def vcpu_main() -> None:
                self._users.add(_thread.get_ident())
                try:
                    outcome.append(self._run_loop(worker))
                except BaseException as error:
                    outcome.append(error)

            worker = Worker(vcpu_main, f"vcpu-{self.vcpu.index}")
            self._begin()
            timed_out = stopped_here = False
            try:
                worker.start()  # Ctrl-C may come in here too
                if meanwhile is not None:
                    meanwhile()
                worker.settled()
                if not worker.wait(timeout):
                    timed_out = stopped_here = True
                    self.stop()
                    worker.wait()
            except BaseException:
                stopped_here = True
                self.stop()
                worker.settled()
                worker.wait(None if worker.started else 1.0)
                raise
            finally:
                if stopped_here and not any(
                    isinstance(o, RunResult) and o.reason == "stopped" for o in outcome
                ):
                    self._stop.clear()  # the guest ended by itself: the next run is not to stop for this
                self._end()
            result = outcome[0]
            if isinstance(result, BaseException):
                raise result
            return replace(result, reason="timeout") if timed_out and result.reason == "stopped" else result

    def exits(self, reasons: Iterable[ExitReason] | None = None) -> Iterator[VmExit]:
        """Run, and see each exit: teaching mode, by the same loop.

        Each exit has been answered when it is seen. Iteration ends with the guest (its last exit is seen) or with the
        loop around it. Runs on the calling thread.

        Parameters
        ----------
        reasons
            Which exits to see, all by default; those that end a run are always seen.
        """
        import threading

        from pyvmm.exits import ALL_REASONS, ExitReason, SystemRequest

        wanted = tuple(ALL_REASONS if reasons is None else reasons)
        self._begin()
        over = threading.Event()
        if threading.current_thread() is threading.main_thread():
            threading.Thread(target=self._nudge, args=(over,), name="nudge", daemon=True).start()
        try:
            while True:
                with self._running():
                    exit_ = self.vcpu.run(wanted)
                    if exit_.reason is ExitReason.SYSTEM and exit_.request is SystemRequest.FIRMWARE:
                        self._service(exit_.code)
                        if ExitReason.SYSTEM not in wanted:
                            continue
                self._raise_fault()
                if exit_.reason is ExitReason.SYSTEM and exit_.request is SystemRequest.FAULT:
                    continue
                if exit_.reason is ExitReason.KICK and self._nudged and not self._stop.is_set():
                    self._nudged = False
                    continue
                yield exit_
                if self._judge(exit_) is not None:
                    return
        finally:
            over.set()
            if self._busy.acquire(blocking=False):  # else somebody else runs it now
                try:
                    if not self._closed:
                        self._end()
                finally:
                    self._busy.release()

    def _running(self) -> _Turn:
        """This thread has the vCPU to itself."""
        if _thread.get_ident() in self._users:
            raise PyvmmError(
                "the machine is running and this thread waits for it: stop() it, then use it again"
            )
        return _Turn(self)

    def _nudge(self, over: threading.Event) -> None:
        """Bring the main thread back to the interpreter now and then: it handles Ctrl-C only there."""
        while not over.wait(0.1):
            with self._life:
                if self._closed:
                    return
                self._nudged = True
                self.vcpu.kick()

    def stop(self) -> None:
        """Make `run` return ``"stopped"``, from any thread. Not lost when given before `run`; nothing once closed."""
        with self._life:
            if not self._closed:
                self._stop.set()
                self.vcpu.kick()

    @property
    def screen(self) -> Screen:
        """What the guest shows: text and pictures.

        Raises
        ------
        PyvmmError
            The machine was made without a display.
        """
        from pyvmm.devices.vga import Vga
        from pyvmm.display.screen import Screen

        vga = self.devices.get("vga")
        if not isinstance(vga, Vga):
            raise PyvmmError('this machine has no display: make it with vga="std"')
        return Screen(vga)

    @property
    def running(self) -> bool:
        """Whether `run` is active on some thread."""
        return self._busy.locked()

    def _check_usable(self) -> None:
        if self._closed:
            raise PyvmmError("this machine is closed; make another one")
        if os.getpid() != self._process:
            raise PyvmmError(
                "this machine belongs to the process that forked this one; make another one here"
            )

    def _begin(self) -> None:
        self._check_usable()
        self.board.start_io()
        self.clock.resume()

    def _end(self) -> None:
        self.clock.pause()
        self.serial.drain()

    def _run_loop(self, worker: Worker) -> RunResult:
        """The vCPU's thread. Only what is rare comes here from C: BIOS calls, and the end."""
        firmware, system = int(lib.SYSTEM_FIRMWARE), int(lib.EXIT_SYSTEM)
        while True:
            reason, request, code = self.vcpu.run_quick()
            worker.settle()
            if reason == system and request == firmware:
                self._service(code)
                continue
            result = self._judge(self.vcpu.last_exit)
            if result is not None:
                return result

    def _judge(self, exit_: VmExit) -> RunResult | None:
        """What an exit means for the run; None to go on."""
        from pyvmm.exits import ExitReason

        self._raise_fault()  # also when another request came before the device's
        match exit_.reason:
            case ExitReason.KICK:
                if self._stop.is_set():
                    self._stop.clear()
                    return RunResult("stopped", 0, exit_)
                return None
            case ExitReason.SHUTDOWN:
                return RunResult("shutdown", 0, exit_)
            case ExitReason.DEBUG:
                return RunResult("breakpoint", 0, exit_)
            case ExitReason.FAIL:
                return RunResult("failed", 0, exit_)
            case ExitReason.HLT if not exit_.value >> 9 & 1:
                return RunResult("halted", 0, exit_)
            case ExitReason.SYSTEM:
                return self._judge_request(exit_)
            case _:
                return None

    def _judge_request(self, exit_: VmExit) -> RunResult | None:
        from pyvmm.exits import SystemRequest

        match exit_.request:
            case SystemRequest.POWEROFF:
                return RunResult("poweroff", 0, exit_)
            case SystemRequest.EXIT:
                return RunResult("exit", exit_.code, exit_)
            case SystemRequest.RESET:
                return RunResult("reset", 0, exit_)
        return None

    def _raise_fault(self) -> None:
        error = self.board.take_fault()
        if error is not None:
            raise error

    def _service(self, number: int) -> None:
        """A BIOS call. A guest without the BIOS that writes to its port is told nothing, as by any unused port."""
        if self.firmware is not None:
            self.firmware.service(number, self.vcpu.state)

    # Taking apart ---------------------------------------------------------------------------------------------------

    def reset(self) -> None:
        """Push the reset button: every device and the vCPU at their power-on values, then firmware or kernel anew.

        Raises
        ------
        PyvmmError
            The machine is running.
        """
        self._check_usable()
        if self._busy.locked():
            raise PyvmmError("the machine is running: stop it, then reset it")
        self._parts.reset()
        self.vcpu.state = CpuState()
        self._parts.start(self.vcpu)

    def messages(self) -> list[str]:
        """What the guest did wrong since the last call, one line per cause."""
        return self.board.messages()

    def wait_for(self, done: Callable[[], bool], timeout: float) -> bool:
        """Run until ``done()`` is true, looking every 10 ms; False when `timeout` seconds or the guest ended first."""
        end = time.monotonic() + timeout
        while not done():
            left = end - time.monotonic()
            if left <= 0:
                return False
            result = self.run(timeout=min(left, 0.01))
            if result.reason != "timeout":
                return done()
        return True

    def close(self) -> None:
        """Stop and free everything: disks are flushed and unlocked. A closed machine cannot run again.

        A process that was forked leaves the machine to its parent.

        Raises
        ------
        PyvmmError
            A device of the running machine called it, or a signal handler during `run`.
        """
        if self._closed or os.getpid() != self._process:
            return
        if _thread.get_ident() in self._users:
            raise PyvmmError("the machine is running and this thread waits for it: stop() it, then close it")
        with self._life:
            if self._closed:
                return
            self._stop.set()
            self.vcpu.kick()
            self._closed = True
        with self._busy:  # until a run on another thread has ended
            self._parts.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_closed"):
            self.close()

    def __repr__(self) -> str:
        return f"Machine({self.config.name}, {self.engine_name}, {self.config.memory >> 20} MiB)"


class _Turn:
    """`Machine._running`: one thread at a time."""

    __slots__ = ("_machine",)

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def __enter__(self) -> None:
        machine = self._machine
        machine._busy.acquire()
        try:
            machine._check_usable()
            machine._users.add(_thread.get_ident())
        except BaseException:
            machine._busy.release()
            raise

    def __exit__(self, *error: object) -> None:
        self._machine._users.clear()
        self._machine._busy.release()
