"""pyvmm.threads: the same promises with and without `threading`."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pyvmm.threads import Flag, Worker, name_process, name_this_thread


def test_flag() -> None:
    flag = Flag()
    assert not flag.is_set()
    flag.set()
    assert flag.is_set()
    flag.clear()
    assert not flag.is_set()


def test_a_worker_is_a_named_daemon_where_threading_is_imported() -> None:
    seen: list[threading.Thread] = []
    worker = Worker(lambda: seen.append(threading.current_thread()), "vcpu-7")
    assert not worker.started
    worker.start()
    assert worker.wait(10)
    assert worker.wait(0)
    assert worker.started
    assert (seen[0].name, seen[0].daemon) == ("vcpu-7", True)


def test_settle_waits_for_settled() -> None:
    steps: list[str] = []

    def work() -> None:
        worker.settle()
        steps.append("worker")

    worker = Worker(work, "worker")
    worker.start()
    assert not worker.wait(0.05)
    steps.append("main")
    worker.settled()
    worker.settled()
    assert worker.wait(10)
    assert steps == ["main", "worker"]


WITHOUT_THREADING = """
import sys
sys.path[:0] = {path!r}
sys.modules.pop("threading", None)
import _thread
from pyvmm.threads import Worker
idents = []
def work():
    idents.append(_thread.get_ident())
    worker.settle()
    import threading
    idents.append(threading.main_thread().ident)
worker = Worker(work, "worker")
worker.start()
assert "threading" not in sys.modules
worker.settled()
assert worker.wait(10)
assert idents[0] != _thread.get_ident(), "a thread of its own"
assert idents[1] == _thread.get_ident(), "threading knows the main thread"
"""


def test_the_main_thread_stays_the_main_thread() -> None:
    import pyvmm

    path = [str(folder).rpartition("/")[0] for folder in pyvmm.__path__]
    code = WITHOUT_THREADING.format(path=path)
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("timeout", [0.0, 0.01, -1.0])
def test_waiting_ends(timeout: float) -> None:
    worker = Worker(lambda: worker.settle(), "worker")
    worker.start()
    assert not worker.wait(timeout)
    worker.settled()
    assert worker.wait(10)


def test_names_are_the_kernels() -> None:
    """What `ps` and `top -H` read, cut to 15 bytes and never in the middle of a character."""
    before = Path("/proc/self/comm").read_text().rstrip("\n")
    found: list[str] = []

    def work() -> None:
        name_this_thread("vnc")
        found.append(Path(f"/proc/self/task/{threading.get_native_id()}/comm").read_text())

    try:
        name_process("vm1")
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        assert (found, Path("/proc/self/comm").read_text()) == (["vnc\n"], "vm1\n")
        name_process("a machine of name")
        assert Path("/proc/self/comm").read_text() == "a machine of na\n"
        name_process("12345678901234\N{LATIN SMALL LETTER U WITH DIAERESIS}")
        assert Path("/proc/self/comm").read_text() == "12345678901234\n"
    finally:
        name_process(before)
