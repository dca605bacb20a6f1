"""Runs a machine on the calling thread, and lets other threads ask for things while it runs.

A request is a function: the guest is stopped, the function runs on the machine's own thread, and the guest goes on.
"""

from __future__ import annotations

import _thread
import time

from pyvmm.cli import exit_codes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pyvmm.cli.notice import Notice
    from pyvmm.machine.machine import Machine, RunResult


class Runner:
    """The life of one machine, from its first instruction to the command's exit code.

    Parameters
    ----------
    machine
        Built and not yet run.
    notice
        Where notes go.
    reboot
        Reset the machine when the guest asks for it, or has triple-faulted; otherwise end.
    timeout
        Seconds of wall time until the end; None: for ever.
    shutdown
        End when the guest powers off; otherwise pause, and `resume` switches it on again.
    paused
        Wait for `resume` before the first instruction.
    """

    def __init__(
        self,
        machine: Machine,
        notice: Notice,
        *,
        reboot: bool = True,
        timeout: float | None = None,
        shutdown: bool = True,
        paused: bool = False,
    ) -> None:
        self.machine = machine
        self.paused = paused
        self.resets = 0
        self.started = time.monotonic()
        self._notice = notice
        self._reboot = reboot
        self._shutdown = shutdown
        self._off = False
        self._deadline = None if timeout is None else self.started + timeout
        self._timeout = timeout
        self._requests: list[_Request] = []
        self._lock = _thread.allocate_lock()
        self._bell = _thread.allocate_lock()  # taken; given back by whoever wants a paused machine to look up
        self._bell.acquire()
        self._exit_code: int | None = None
        self._ended = False

    def run(self, meanwhile: Callable[[], object] | None = None) -> int:
        """Run until the guest ends, somebody quits or the time is over; return the exit code.

        `meanwhile` is called once, here, as soon as the guest runs.
        """
        try:
            return self._run(meanwhile)
        finally:
            with self._lock:
                self._ended = True
                left = list(self._requests)
                self._requests.clear()
            for request in left:
                request.done.set()

    def quit(self, code: int) -> None:
        """End the run with `code`. From any thread, and from a signal's helper."""
        with self._lock:
            if self._exit_code is None:
                self._exit_code = code
            self._ring()
        self.machine.stop()

    def call(self, function: Callable[[], Any], timeout: float = 5.0) -> Any:
        """Run `function` on the machine's thread with the guest stopped, and return what it returns.

        Raises
        ------
        TimeoutError
            When the machine has ended, or does not stop within `timeout` seconds.
        """
        request = _Request(function)
        with self._lock:
            if self._ended:
                raise TimeoutError("the machine has ended")
            self._requests.append(request)
            self._ring()
        self.machine.stop()
        if not request.done.wait(timeout) or not request.ran:
            raise TimeoutError("the machine did not stop to answer")
        if request.error is not None:
            raise request.error
        return request.result

    def pause(self) -> None:
        """Stop the guest until `resume()`."""
        self.call(lambda: setattr(self, "paused", True))

    def resume(self) -> None:
        """Let the guest go on; switch it on when it is off."""

        def go_on() -> None:
            if self._off:
                self.machine.reset()
            self.paused = self._off = False

        self.call(go_on)

    def reset(self) -> None:
        """Push the reset button."""
        self.call(self.machine.reset)

    def _ring(self) -> None:
        if self._bell.locked():
            self._bell.release()

    def _run(self, meanwhile: Callable[[], object] | None) -> int:
        while True:
            self._serve()
            if self._exit_code is not None:
                return self._exit_code
            left = None if self._deadline is None else self._deadline - time.monotonic()
            if left is not None and left <= 0:
                self._notice.say(f"--timeout {self._timeout:g}: time is over, the guest was ended")
                return exit_codes.TIMEOUT
            if self.paused:
                if meanwhile is not None:
                    meanwhile()  # somebody must be able to say resume
                    meanwhile = None
                    continue
                self._bell.acquire(timeout=-1 if left is None else min(left, _thread.TIMEOUT_MAX))
                continue
            first, meanwhile = meanwhile, None
            code = self._judge(self.machine.run(timeout=left, meanwhile=first))
            if code is not None:
                return code

    def _serve(self) -> None:
        while True:
            with self._lock:
                if not self._requests:
                    return
                request = self._requests.pop(0)
            request.run()

    def _judge(self, result: RunResult) -> int | None:
        """Exit code that a result of `Machine.run` means; None to go on."""
        match result.reason:
            case "poweroff" if self._shutdown:
                return exit_codes.OK
            case "poweroff":
                self.paused = self._off = True
                self._notice.say(
                    "the guest powered off; Ctrl-A C, resume switches it on again, Ctrl-A X ends"
                )
                return None
            case "exit":
                return int(result.code) & 0xFF
            case "reset" | "shutdown":
                what = "triple-faulted" if result.reason == "shutdown" else "asked for a reset"
                if not self._reboot:
                    self._notice.say(f"the guest {what}; ended because of --no-reboot")
                    if result.reason == "shutdown":
                        self._tell_report(result)
                    return exit_codes.GUEST_STOPPED
                if result.reason == "shutdown":
                    self._notice.say(
                        f"the guest {what}; resetting it (--no-reboot ends instead, with a report)"
                    )
                self.resets += 1
                self.machine.reset()
                return None
            case "stopped" | "timeout":
                return None
            case "io-error":
                import os

                self.paused = True
                self._notice.say(
                    f"a disk failed: {os.strerror(result.code)}; the guest is paused: make room, then Ctrl-A C, resume"
                )
                return None
            case "halted":
                self._notice.say("the guest halted with interrupts off: nothing can wake it; ended")
                return exit_codes.GUEST_STOPPED
            case reason:
                self._notice.error(f"the machine {reason} at {result.exit.rip:#x}: {result.exit}")
                self._tell_report(result)
                return exit_codes.ENGINE

    def _tell_report(self, result: RunResult) -> None:
        """What went wrong, in full, where more is known than the exit's own line."""
        report = self.machine.report(self.machine.vcpus[result.exit.vcpu])
        if report is not None:
            for line in str(report).split("\n"):
                self._notice.say(line)


class _Request:
    """A function to run on the machine's thread, and what came of it."""

    def __init__(self, function: Callable[[], Any]) -> None:
        import threading

        self.function = function
        self.result: Any = None
        self.error: BaseException | None = None
        self.ran = False
        self.done = threading.Event()

    def run(self) -> None:
        try:
            self.result = self.function()
        except Exception as error:
            self.error = error
        self.ran = True
        self.done.set()
