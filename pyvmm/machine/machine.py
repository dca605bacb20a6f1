"""A machine: what `pc.build` assembled, run, stopped, reset and taken apart."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Literal, Self

from pyvmm.config import MachineConfig
from pyvmm.cpu.state import CpuState
from pyvmm.engine import ALL_REASONS, ExitReason, SystemRequest, Vcpu, VmExit
from pyvmm.errors import PyvmmError
from pyvmm.machine import pc

RunReason = Literal[
    "poweroff", "exit", "reset", "shutdown", "halted", "stopped", "timeout", "breakpoint", "failed"
]


@dataclass(frozen=True, slots=True)
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
        self._stop = threading.Event()
        self._busy = threading.Lock()
        self._closed = False
        self._parts.start(self.vcpu)

    # Running ---------------------------------------------------------------------------------------------------------

    def run(self, timeout: float | None = None) -> RunResult:
        """Run the guest until it ends, or until `stop`.

        The vCPU has a thread of its own, so that Ctrl-C works here; a KeyboardInterrupt stops the guest and is raised.

        Parameters
        ----------
        timeout
            Seconds of wall time; None for no limit. The machine can go on afterwards.

        Raises
        ------
        BootError
            The BIOS found nothing to boot.
        Exception
            What a Python device raised.
        """
        with self._busy:
            outcome: list[RunResult | BaseException] = []
            done = threading.Event()

            def vcpu_main() -> None:
                try:
                    outcome.append(self._run_loop())
                except BaseException as error:
                    outcome.append(error)
                finally:
                    done.set()

            thread = threading.Thread(target=vcpu_main, name=f"vcpu-{self.vcpu.index}", daemon=True)
            self._begin()
            thread.start()
            timed_out = False
            try:
                if not done.wait(timeout):
                    timed_out = True
                    self.stop()
                    done.wait()
            except BaseException:
                self.stop()
                done.wait()
                raise
            finally:
                thread.join()
                self._end()
            result = outcome[0]
            if isinstance(result, BaseException):
                raise result
            return replace(result, reason="timeout") if timed_out and result.reason == "stopped" else result

    def exits(self, reasons: Iterable[ExitReason] = ALL_REASONS) -> Iterator[VmExit]:
        """Run, and see each exit: teaching mode, by the same loop.

        Each exit has been answered when it is seen. Iteration ends with the guest (its last exit is seen) or with the
        loop around it. Runs on the calling thread.

        Parameters
        ----------
        reasons
            Which exits to see; those that end a run are always seen.
        """
        wanted = tuple(reasons)
        self._begin()
        try:
            while True:
                exit_ = self.vcpu.run(wanted)
                if exit_.reason is ExitReason.SYSTEM and exit_.request is SystemRequest.FIRMWARE:
                    self._service(exit_.code)
                    if ExitReason.SYSTEM in wanted:
                        yield exit_
                    continue
                if exit_.reason is ExitReason.SYSTEM and exit_.request is SystemRequest.FAULT:
                    self._raise_fault()
                yield exit_
                if self._judge(exit_) is not None:
                    return
        finally:
            self._end()

    def stop(self) -> None:
        """Make `run` return ``"stopped"``, from any thread. Not lost when given before `run`."""
        self._stop.set()
        self.vcpu.kick()

    @property
    def running(self) -> bool:
        """Whether `run` is active on some thread."""
        return self._busy.locked()

    def _begin(self) -> None:
        if self._closed:
            raise PyvmmError("this machine is closed; make another one")
        self.board.start_io()
        self.clock.resume()

    def _end(self) -> None:
        self.clock.pause()
        self.serial.drain()

    def _run_loop(self) -> RunResult:
        """The vCPU's thread. Only what is rare comes here from C: BIOS calls, and the end."""
        firmware, system = int(SystemRequest.FIRMWARE), int(ExitReason.SYSTEM)
        while True:
            reason, request, code = self.vcpu.run_quick()
            if reason == system and request == firmware:
                self._service(code)
                continue
            result = self._judge(self.vcpu.last_exit)
            if result is not None:
                return result

    def _judge(self, exit_: VmExit) -> RunResult | None:
        """What an exit means for the run; None to go on."""
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
        match exit_.request:
            case SystemRequest.POWEROFF:
                return RunResult("poweroff", 0, exit_)
            case SystemRequest.EXIT:
                return RunResult("exit", exit_.code, exit_)
            case SystemRequest.RESET:
                return RunResult("reset", 0, exit_)
            case SystemRequest.FAULT:
                self._raise_fault()
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
        """Push the reset button: every device and the vCPU at their power-on values, then firmware or kernel anew."""
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
        """Stop and free everything: disks are flushed and unlocked. A closed machine cannot run again."""
        if not self._closed:
            self._closed = True
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
