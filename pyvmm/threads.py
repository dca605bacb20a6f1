"""A thread and a flag that do without `threading` until the guest runs.

`threading` imports `functools` and `collections`: 6 ms here, a tenth of a whole start (docs/adr/0006). Where it is
imported already, as in every notebook and test, `Worker` is one of its threads, with a name and all its hooks.

Left out: joining at the interpreter's exit; a worker is a daemon.
"""

from __future__ import annotations

import _thread
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


NAME_BYTES = 15
"""What the kernel keeps of a name: TASK_COMM_LEN less the zero (proc(5), /proc/pid/comm)."""


def name_process(name: str) -> None:
    """Call the process's first thread so, for `ps`, `top` and `pgrep`: the first 15 bytes of the name.

    Threads that begin later and have no name of their own inherit it.
    """
    _write_comm("/proc/self/comm", name)


def name_this_thread(name: str) -> None:
    """Call the calling thread so, for `top -H` and debuggers: the first 15 bytes of the name."""
    _write_comm(f"/proc/self/task/{_thread.get_native_id()}/comm", name)


def _write_comm(path: str, name: str) -> None:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return  # no /proc here: the name is a help, no need
    try:
        os.write(fd, name.encode()[:NAME_BYTES].decode(errors="ignore").encode())
    except OSError:
        pass
    finally:
        os.close(fd)


class Flag:
    """Up or down: `threading.Event` without waiting."""

    __slots__ = ("_up",)

    def __init__(self) -> None:
        self._up = False

    def set(self) -> None:
        """Put it up."""
        self._up = True

    def clear(self) -> None:
        """Take it down."""
        self._up = False

    def is_set(self) -> bool:
        """Whether it is up."""
        return self._up


class Worker:
    """Runs `function` once, on a thread of its own. It must not raise.

    The module `threading` takes the thread that imports it first for the process's main thread, so a worker must not be
    the one. Hence its `settle` waits until the thread that started it has called `settled`.
    """

    def __init__(self, function: Callable[[], None], name: str) -> None:
        self._function = function
        self._name = name
        self._done = _thread.allocate_lock()
        self._done.acquire()
        self._gate = _thread.allocate_lock()
        self._gate.acquire()
        self._begun = _thread.allocate_lock()
        self._begun.acquire()
        self.started = False

    def start(self) -> None:
        """Start it, and wait until it has begun: it then goes first into what does not need the GIL."""
        if (threading := sys.modules.get("threading")) is not None:
            threading.Thread(target=self._run, name=self._name, daemon=True).start()
        else:
            _thread.start_new_thread(self._run, ())
            self._begun.acquire()
        self.started = True

    def settled(self) -> None:
        """Let the worker run Python code of any kind. On the thread that started it; a second call does nothing."""
        import threading  # noqa: F401 - see the class

        if self._gate.locked():
            self._gate.release()

    def settle(self) -> None:
        """On the worker: wait until `settled` was called. To be done before anything may be imported."""
        with self._gate:
            pass

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for its end, for at most `timeout` seconds; signal handlers run meanwhile. Whether it has ended."""
        ended = self._done.acquire(timeout=-1 if timeout is None else min(max(timeout, 0.0), _LONGEST))
        if ended:
            self._done.release()
        return ended

    def _run(self) -> None:
        self.started = True
        self._begun.release()
        try:
            self._function()
        finally:
            self._done.release()


_LONGEST = _thread.TIMEOUT_MAX
