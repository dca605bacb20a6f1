"""A machine: what `pc.build` assembled, run, stopped, reset and taken apart."""

from __future__ import annotations

import _thread
import atexit
import os
import time
from _weakref import ref

from pyvmm.config import MachineConfig
from pyvmm.devices.uart import SerialPort
from pyvmm.errors import ConfigError, PyvmmError
from pyvmm.native import lib
from pyvmm.record import record, replace
from pyvmm.threads import Flag, Worker

TYPE_CHECKING = False
if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterable, Iterator
    from types import TracebackType
    from typing import Any, Literal, Self

    from pyvmm.autopsy import Report
    from pyvmm.devices.i8042 import I8042
    from pyvmm.devices.virtio import VirtioDevice
    from pyvmm.devices.virtio.balloon import VirtioBalloon
    from pyvmm.devices.virtio.input import Inputs
    from pyvmm.devices.virtio.vsock import VirtioVsock
    from pyvmm.display.input import Keyboard, Mouse
    from pyvmm.display.picture import Picture
    from pyvmm.display.screen import Screen
    from pyvmm.display.vnc import VncServer
    from pyvmm.engine import ExitReason, Vcpu, VmExit
    from pyvmm.machine.events import EventKind, Events
    from pyvmm.machine.network import Nic
    from pyvmm.machine.pc import Pc
    from pyvmm.machine.switch import SecondEngine

    RunReason = Literal[
        "poweroff",
        "exit",
        "reset",
        "shutdown",
        "halted",
        "stopped",
        "timeout",
        "breakpoint",
        "io-error",
        "failed",
    ]


@record(frozen=True, slots=True)
class RunResult:
    """Why `Machine.run` returned.

    Attributes
    ----------
    reason
        ``"poweroff"`` (ACPI S5), ``"exit"`` (the exit port), ``"reset"`` (the guest asked for it), ``"shutdown"``
        (triple fault), ``"halted"`` (HLT with interrupts off), ``"stopped"`` (`Machine.stop`), ``"timeout"``,
        ``"breakpoint"``, ``"io-error"`` (the host failed a disk that is to stop for it: the next run tries the request
        again), or ``"failed"`` (the engine cannot go on; `exit.text` says why).
    code
        The exit port's code, (value << 1) | 1; of an I/O error its errno; otherwise 0.
    exit
        The last exit, and of which vCPU.
    """

    reason: RunReason
    code: int
    exit: VmExit

    def __str__(self) -> str:
        return f"{self.reason}{f' {self.code}' if self.code else ''}; the last exit: {self.exit}"


def _build(config: MachineConfig) -> Pc:
    """The parts of the machine that is asked for."""
    if config.machine == "microvm":
        from pyvmm.machine import microvm

        return microvm.build(config)
    if config.machine != "pc":
        raise ConfigError(f"--machine: {config.machine!r} is not pc or microvm")
    from pyvmm.machine import pc

    return pc.build(config)


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
    console
        The same of what the user types to: COM1, or the virtio console.
    ports
        The same of each named port; one that goes to a socket has no ``send`` but ``guest_open`` and ``socket``.
    engine_reason
        Why this engine was taken, in one line.
    warning
        One line on what was asked for and is unwise, or None.

    Raises
    ------
    ConfigError, ImageError, BootError, EngineError
        One line that names the option or file, and what to do.
    """

    def __init__(self, config: MachineConfig | None = None, **fields: Any) -> None:
        self.config = replace(config or MachineConfig(), **fields)
        self._parts = _build(self.config)
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
        self.console = self._parts.console
        self.ports = self._parts.ports
        for port in (self.serial, self.console, *self.ports.values()):
            if isinstance(port, SerialPort):
                port.runner = self
        self.images = self._parts.images
        self.engine_reason = self._parts.choice.reason
        self.warning = "; ".join(filter(None, (self._parts.choice.warning, self._parts.vm.warning))) or None
        self._stop = Flag()
        self._busy = _thread.allocate_lock()
        self._life = _thread.RLock()  # held while the vCPU is kicked, so that it is not freed meanwhile
        self._process = os.getpid()
        self._users: set[int] = set()  # threads that run a vCPU, or wait for that
        self._left: list[RunResult] = []  # how other vCPUs ended in the same run: for the runs that follow
        self._serving = _thread.allocate_lock()  # the BIOS serves one vCPU at a time
        self._nudged = False
        self._called_in = False  # a vCPU ended the run, and the others leave
        self._second: SecondEngine | None = None
        self._switch: _SwitchRequest | None = None
        self._switching = _thread.allocate_lock()
        self._closed = False
        self._at_exit = _closer(ref(self))
        atexit.register(self._at_exit)
        self._mouse: Mouse | None = None
        self._servers: list[VncServer] = []
        self._events: Events | None = None
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

        Each vCPU has a thread of its own, so that Ctrl-C works here; a KeyboardInterrupt stops the guest and is raised.
        What one vCPU ends with ends the run for all: they have all stopped when `run` returns. When several ended at
        once, each of the next runs returns with one of the other results, at once.

        Parameters
        ----------
        timeout
            Seconds of wall time; None for no limit. The machine can go on afterwards.
        meanwhile
            Called once on this thread when the vCPUs' threads have been started: for what the guest need not wait for.

        Raises
        ------
        BootError
            The BIOS found nothing to boot.
        Exception
            What a Python device raised.
        """
        with self._running():
            if self._left:
                return self._left.pop(0)
            outcome: list[RunResult | BaseException] = []
            workers: list[Worker] = []
            self._begin()
            timed_out = stopped_here = False
            try:
                for vcpu in self.vcpus:
                    workers.append(self._worker(vcpu, outcome))
                    workers[-1].start()  # Ctrl-C may come in here too
                if meanwhile is not None:
                    meanwhile()
                for worker in workers:
                    worker.settled()
                if not workers[0].wait(timeout):  # who ends calls in the others
                    timed_out = stopped_here = True
                    self.stop()
                for worker in workers:
                    worker.wait()
            except BaseException:
                stopped_here = True
                self.stop()
                for worker in workers:
                    worker.settled()
                    worker.wait(None if worker.started else 1.0)
                raise
            finally:
                if stopped_here and not any(
                    isinstance(o, RunResult) and o.reason == "stopped" for o in outcome
                ):
                    self._stop.clear()  # the guest ended by itself: the next run is not to stop for this
                self._end()
            result = self._first(outcome)
            return replace(result, reason="timeout") if timed_out and result.reason == "stopped" else result

    def exits(self, reasons: Iterable[ExitReason] | None = None) -> Iterator[VmExit]:
        """Run, and see each exit: teaching mode, by the same loop.

        Each exit has been answered when it is seen. Iteration ends with the guest (its last exit is seen) or with the
        loop around it. Runs on the calling thread.

        With several vCPUs each runs on a thread of its own, and exits are seen in the order in which they came
        (`VmExit.vcpu` says whose). The vCPU waits until the loop around this asks for the next exit, and may be looked
        at and changed until then; the others run on. The machine counts as running until the loop ends.

        Parameters
        ----------
        reasons
            Which exits to see, all by default; those that end a run are always seen.
        """
        import threading

        from pyvmm.exits import ALL_REASONS, INSIDE_A_RUN, ExitReason, SystemRequest

        wanted = tuple(ALL_REASONS if reasons is None else reasons)
        if len(self.vcpus) > 1:
            yield from self._exits_of_all(wanted)
            return
        self._begin()
        over = threading.Event()
        if threading.current_thread() is threading.main_thread():
            threading.Thread(target=self._nudge, args=(over,), name="nudge", daemon=True).start()
        try:
            while True:
                with self._running():
                    exit_ = self.vcpu.run(wanted)
                    if exit_.reason is ExitReason.SYSTEM and exit_.request is SystemRequest.FIRMWARE:
                        self._service(exit_.code, self.vcpu)
                        if ExitReason.SYSTEM not in wanted:
                            continue
                    if exit_.reason is ExitReason.FAIL and self._second_engine().lend(self.vcpu):
                        continue
                self._raise_fault()
                if exit_.reason is ExitReason.SYSTEM and exit_.request is SystemRequest.FAULT:
                    continue
                if exit_.reason is ExitReason.KICK and self._nudged and not self._stop.is_set():
                    self._nudged = False
                    continue
                yield exit_
                if exit_.reason not in INSIDE_A_RUN and self._judge(exit_) is not None:
                    return
        finally:
            over.set()
            if self._busy.acquire(blocking=False):  # else somebody else runs it now
                try:
                    if not self._closed:
                        self._end()
                finally:
                    self._busy.release()

    def _exits_of_all(self, wanted: tuple[ExitReason, ...]) -> Iterator[VmExit]:
        from pyvmm.exits import ExitReason, SystemRequest
        from pyvmm.machine.exit_queue import ExitQueue

        with self._running():
            self._begin()
            queue = ExitQueue(self._parts.vm, wanted, self._users)
            try:
                while True:
                    vcpu, exit_ = queue.take()
                    self._raise_fault()
                    if exit_.reason is ExitReason.SYSTEM:
                        if exit_.request is SystemRequest.FIRMWARE:
                            self._service(exit_.code, vcpu)
                            if ExitReason.SYSTEM not in wanted:
                                queue.go_on(vcpu)
                                continue
                        elif exit_.request is SystemRequest.FAULT:
                            queue.go_on(vcpu)
                            continue
                    yield exit_
                    if self._judge(exit_) is not None:
                        return
                    queue.go_on(vcpu)
            finally:
                for exit_ in queue.close():  # nobody saw them: those that end a run end the next one
                    if exit_.reason is not ExitReason.KICK and (result := self._judge(exit_)) is not None:
                        self._left.append(result)
                self._end()

    def _running(self) -> _Turn:
        """This thread has the vCPUs to itself."""
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

    def switch_engine(self, name: str) -> None:
        """Let the guest go on on another engine: ``"translator"`` or ``"kvm"``.

        Between runs it is done at once. While the machine runs on another thread, its vCPU leaves guest code, changes
        engine, and goes on; this returns when that is done. Both engines' sides are kept, so that the way back is
        cheap. `vcpus` stay the same objects; breakpoints and counters go along.

        Raises
        ------
        ConfigError
            There is no such engine.
        EngineError
            It cannot run here, or cannot be the processor that the guest was shown: why, and what to do. The machine
            goes on as before.
        PyvmmError
            The machine is closed, or a device of the running machine called.
        """
        if _thread.get_ident() in self._users:
            raise PyvmmError(
                "the machine is running and this thread waits for it: switch from another thread"
            )
        with self._switching:
            self._check_usable()
            request = self._switch = _SwitchRequest(name)
            # Who has the vCPU looks for a request when it leaves guest code, and once more when it has given the vCPU
            # back; if nobody has it, this thread does it.
            self._serve_switch()
            while not request.done.acquire(blocking=False):
                with self._life:
                    if not self._closed:
                        self._nudged = True
                        self.vcpu.kick()
                if request.done.acquire(timeout=0.05):
                    break
                self._serve_switch()
            if request.error is not None:
                raise request.error

    def _serve_switch(self) -> None:
        """Change engines if it is asked for and nobody has the vCPU."""
        while self._switch is not None and self._busy.acquire(blocking=False):
            try:
                self._perform_switch()
            finally:
                self._busy.release()

    def _perform_switch(self) -> None:
        """On the thread that has the vCPU: change engines if that is asked for."""
        request, self._switch = self._switch, None
        if request is None:
            return
        try:
            self._check_usable()
            with self._life:  # a kick in between would go to the wrong vCPU
                self._second_engine().switch(request.name)
        except Exception as error:
            request.error = error
        finally:
            request.done.release()

    def _second_engine(self) -> SecondEngine:
        if self._second is None:
            from pyvmm.machine.switch import SecondEngine

            self._second = SecondEngine(self._parts)
        return self._second

    @property
    def engine_name(self) -> str:
        """The engine that has the machine."""
        return self._parts.vm.name

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
    def vsock(self) -> VirtioVsock:
        """Sockets to the guest: ``connect(port)`` and ``listen(port)``.

        Raises
        ------
        PyvmmError
            The machine was made without them.
        """
        from pyvmm.devices.virtio.vsock import VirtioVsock

        vsock = self.devices.get("vsock")
        if not isinstance(vsock, VirtioVsock):
            raise PyvmmError('this machine has no vsock: make it with vsock=VsockConfig("/tmp/vm1.vsock")')
        return vsock

    def screenshot(self) -> Picture:
        """What the guest shows now, as a picture; a notebook shows it by itself. Saved by ``.save("screen.png")``.

        Raises
        ------
        PyvmmError
            The machine was made without a display.
        """
        return self.screen.picture()

    def power_button(self) -> None:
        """Press it, from any thread: the guest's system decides what to do, most shut down (ACPI fixed hardware).

        A guest without ACPI sees nothing of it.
        """
        from pyvmm.devices.acpi_pm import AcpiPm

        with self._life:
            self._check_usable()
            device = self.devices["acpi_pm"]
            assert isinstance(device, AcpiPm)
            device.power_button()
        self._emit("power-button")

    @property
    def nics(self) -> list[Nic]:
        """The network cards in order: `counters`, `mac`, and the `backend` at the other end of the cable."""
        devices = self._parts.devices
        return [devices[f"net{index}"] for index in range(len(self.config.networks))]  # type: ignore[misc]

    @property
    def events(self) -> Events:
        """Power-off, reset, exit and the power button, from the first use of this on."""
        if self._events is None:
            from pyvmm.machine.events import Events

            self._events = Events()
        return self._events

    @property
    def keyboard(self) -> Keyboard:
        """The keyboard, virtio or PS/2: ``machine.keyboard.type("text")``, on the layout of the configuration."""
        from pyvmm.display.input import Keyboard

        return Keyboard(self._inputs(), self._let_go_on, self.config.keyboard)

    @property
    def mouse(self) -> Mouse:
        """The mouse, virtio or PS/2."""
        if self._mouse is None:
            from pyvmm.display.input import Mouse

            self._mouse = Mouse(self._inputs())
        return self._mouse

    def resize_terminal(self, columns: int, rows: int) -> None:
        """The terminal of the virtio console has this size: the guest's programs are told. Nothing without one."""
        from pyvmm.devices.virtio.console import VirtioConsole

        device = self.devices.get("console")
        if isinstance(device, VirtioConsole):
            device.resize(columns, rows)

    @property
    def balloon(self) -> VirtioBalloon:
        """The memory balloon: ``machine.balloon.target = 128 << 20``, ``machine.balloon.stats``.

        Raises
        ------
        PyvmmError
            The machine was made without one.
        """
        from pyvmm.devices.virtio.balloon import VirtioBalloon

        device = self.devices.get("balloon")
        if not isinstance(device, VirtioBalloon):
            raise PyvmmError("this machine has no balloon: make it with balloon=BalloonConfig()")
        return device

    def serve_vnc(self, address: str = ":0", password: str | None = None) -> VncServer:
        """Show the screen to VNC clients, and take their keys and mouse.

        Parameters
        ----------
        address
            ``"[HOST]:DISPLAY"``, TCP port 5900 + DISPLAY; without a host only this computer can connect.
        password
            None: everybody who reaches the port may come in. Only 8 characters count, and nothing is encrypted.

        Returns
        -------
        VncServer
            Close it before the machine, or let `close` do it.

        Raises
        ------
        ConfigError
            The address cannot be used; or pycryptodome, which passwords need, is missing.
        """
        from pyvmm.display.vnc import VncServer, parse_address

        server = VncServer(
            self.screen,
            self._inputs(),
            self._inputs(),
            parse_address(address),
            password=password,
            layout=self.config.keyboard,
            name=self.config.name,
        )
        self._servers.append(server)
        return server

    def _inputs(self) -> I8042 | Inputs:
        """Where keys and the mouse go."""
        if not self.config.inputs:
            return self._i8042()
        from pyvmm.devices.virtio.input import Inputs, VirtioInput

        found = {
            kind: device
            for kind in self.config.inputs
            if isinstance(device := self.devices.get(f"virtio_{kind}"), VirtioInput)
        }
        return Inputs(self._i8042(), **found)

    def _i8042(self) -> I8042:
        from pyvmm.devices.i8042 import I8042

        device = self.devices.get("i8042")
        if not isinstance(device, I8042):
            raise PyvmmError('this machine has no keyboard controller: make it with machine="pc"')
        return device

    def _let_go_on(self, done: Callable[[], bool], timeout: float) -> bool:
        """Wait until ``done()``: beside a run on another thread, or by running the machine here."""
        if not self.running:
            return self.wait_for(done, timeout)
        end = time.monotonic() + timeout
        while not done():
            if time.monotonic() > end:
                return False
            time.sleep(0.002)
        return True

    @property
    def virtio(self) -> tuple[VirtioDevice, ...]:
        """The virtio devices, in the order in which they were made.

        >>> print(machine.virtio[0].queues[0])                                  # doctest: +SKIP
        """
        from pyvmm.devices.virtio import VirtioDevice

        return tuple(device for device in self.devices.values() if isinstance(device, VirtioDevice))

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
        self._called_in = False
        self._parts.vm.let_go()
        self.board.start_io()
        self.board.resume_io()
        self.clock.resume()
        self._parts.try_again()

    def _end(self) -> None:
        self._parts.vm.pause()
        self.clock.pause()
        self.board.pause_io()
        for sink in self._parts.sinks:
            sink.drain()

    def _worker(self, vcpu: Vcpu, outcome: list[RunResult | BaseException]) -> Worker:
        """A thread for a vCPU, which adds what it ends with to `outcome` and calls in the others."""

        def main() -> None:
            self._users.add(_thread.get_ident())
            vcpu.name_thread()
            try:
                result = self._run_loop(vcpu, worker)
                if result is not None:
                    outcome.append(result)
            except BaseException as error:
                outcome.append(error)
            finally:
                if len(self.vcpus) > 1:
                    self._called_in = True
                    self._parts.vm.call_in()

        worker = Worker(main, f"vcpu-{vcpu.index}")
        return worker

    def _run_loop(self, vcpu: Vcpu, worker: Worker) -> RunResult | None:
        """A vCPU's thread. Only what is rare comes here from C: BIOS calls, and the end. None: another vCPU ended."""
        firmware, system, kick = int(lib.SYSTEM_FIRMWARE), int(lib.EXIT_SYSTEM), int(lib.EXIT_KICK)
        fail = int(lib.EXIT_FAIL)
        while True:
            reason, request, code = vcpu.run_quick()
            worker.settle()
            if self._switch is not None:
                self._perform_switch()
            if reason == system and request == firmware:
                self._service(code, vcpu)
                continue
            if reason == kick and self._called_in:
                return None
            if reason == fail and self._second_engine().lend(vcpu):
                continue
            result = self._judge(vcpu.last_exit)
            if result is not None:
                return result

    def _first(self, outcome: list[RunResult | BaseException]) -> RunResult:
        """What the run ends with; other vCPUs' ends are kept."""
        errors = [end for end in outcome if isinstance(end, BaseException)]
        if errors:
            raise errors[0]
        first, *others = [end for end in outcome if isinstance(end, RunResult)]
        self._left += [end for end in others if end.reason != "stopped"]
        return first

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
                self._emit("shutdown")
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
                self._emit("poweroff")
                return RunResult("poweroff", 0, exit_)
            case SystemRequest.EXIT:
                self._emit("exit", exit_.code)
                return RunResult("exit", exit_.code, exit_)
            case SystemRequest.RESET:
                self._emit("reset")
                return RunResult("reset", 0, exit_)
            case SystemRequest.IO_ERROR:
                self._emit("io-error", exit_.code)
                return RunResult("io-error", exit_.code, exit_)
        return None

    def _emit(self, kind: EventKind, code: int = 0) -> None:
        if self._events is not None:
            from pyvmm.machine.events import MachineEvent

            self._events.emit(MachineEvent(kind, self.clock.now, code))

    def _raise_fault(self) -> None:
        error = self.board.take_fault()
        if error is not None:
            raise error

    def _service(self, number: int, vcpu: Vcpu) -> None:
        """A BIOS call. A guest without the BIOS that writes to its port is told nothing, as by any unused port."""
        if self.firmware is not None:
            with self._serving:
                self.firmware.service(number, vcpu.state)

    # Taking apart ---------------------------------------------------------------------------------------------------

    def reset(self) -> None:
        """Push the reset button: every device and vCPU at their power-on values, then firmware or kernel anew.

        Raises
        ------
        PyvmmError
            The machine is running.
        """
        self._check_usable()
        if self._busy.locked():
            raise PyvmmError("the machine is running: stop it, then reset it")
        self._emit("reset-button")
        self._left.clear()
        self._parts.reset()
        self._parts.vm.reset()
        self._parts.start(self.vcpu)

    def report(self, vcpu: Vcpu | None = None) -> Report | None:
        """What went wrong with a vCPU that ended a run as ``"failed"`` or ``"shutdown"``: an object, and text by str().

        Parameters
        ----------
        vcpu
            Which; the first by default.

        Returns
        -------
        Report or None
            None when its last exit was neither, or nothing more is known than the exit's own text.

        Raises
        ------
        EngineError
            The machine is running.
        """
        from pyvmm.machine.report import report_of

        return report_of(vcpu or self.vcpu, self.memory)

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
        atexit.unregister(self._at_exit)
        for server in self._servers:
            server.close()
        with self._busy:  # until a run on another thread has ended
            try:
                self._emit("closed")
            finally:
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


def _closer(machine: ref[Machine]) -> Callable[[], None]:
    """Closes it, if it is still there: a program may end without, and by then nothing can be imported any more."""

    def close() -> None:
        found = machine()
        if found is not None:
            found.close()

    return close


class _SwitchRequest:
    """`Machine.switch_engine`, on its way to the thread that has the vCPU."""

    __slots__ = ("done", "error", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.error: Exception | None = None
        self.done = _thread.allocate_lock()
        self.done.acquire()


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
        self._machine._perform_switch()
        self._machine._users.clear()
        self._machine._busy.release()
        self._machine._serve_switch()
