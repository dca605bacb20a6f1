"""The busybox shell of a test's initramfs, on the serial line of a machine that Python holds."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pyvmm import Machine
from pyvmm.machine.machine import RunResult

TIMEOUT = 240


class Shell:
    """Linux at its shell on COM1, which does not echo."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        machine.serial.expect(r"\nUP\r+\n", timeout=TIMEOUT)
        self.run("stty -echo")

    def run(self, command: str, timeout: float = TIMEOUT) -> str:
        """Run a command that must succeed; what it printed."""
        self.machine.serial.send(f"{command}; echo done-$?\r")
        said = bytes(self.machine.serial.expect(r"done-\d+\r?\n", timeout=timeout)).decode(errors="replace")
        assert said.rstrip().endswith("done-0"), said
        return said

    def start(self, command: str, until: str = "true") -> None:
        """Start a command (without single quotes) that goes on by itself; returns once `until` succeeds.

        # Quirk: busybox 1.35's shell must have no children at its prompt. On a terminal without echo it reads lines by
        # a plain read(), which SIGCHLD interrupts, and it takes that for the end of its input: `sleep 1 & true` ends
        # the shell a second later, on the host too, and the init script powers the machine off. So what goes on is
        # the child of a subshell that has ended, in a session of its own.
        """
        self.run(
            f"(setsid sh -c '{command}' </dev/null >/dev/null 2>&1 &); until {until}; do sleep 0.1; done"
        )


LISTENS = "netstat -ltn | grep -q :{} "


@contextmanager
def running(machine: Machine) -> Iterator[Callable[[], bool]]:
    """The machine runs on a thread of its own, without anybody at its console; yields what tells whether it still does.

    A guest that ends meanwhile fails the test.
    """
    results: list[RunResult] = []
    thread = threading.Thread(target=lambda: results.append(machine.run()))
    thread.start()
    try:
        yield thread.is_alive
    finally:
        machine.stop()
        thread.join(TIMEOUT)
    assert [result.reason for result in results] == ["stopped"]
