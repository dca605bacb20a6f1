"""A machine stopped, closed, dropped, forked or used from the wrong place: exceptions, never a crash or a hang."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from typing import Any

import pytest

from pyvmm import Machine
from pyvmm.devices.base import Device
from pyvmm.devices.pci.device import PciDevice
from pyvmm.engine import ExitReason
from pyvmm.errors import EngineError, GuestError, PyvmmError

SPIN = b"\xeb\xfe"  # jmp $
OUT_FOREVER = b"\xb0\x01\xba\x00\x03\xee\xeb\xfd"  # mov al, 1; mov dx, 0x300; out dx, al; jmp to the out
OUT_ONCE = b"\xb0\x01\xba\x00\x03\xee\xeb\xfe"
EXIT_THEN_OUT = b"\xb0\x01\xba\x01\x05\xee\xba\x00\x03\xee\xeb\xfe"  # the exit port, then 0x300, in one block
EXIT_FOREVER = b"\xb0\x01\xba\x01\x05\xee\xeb\xf8"


def machine(code: bytes = SPIN) -> Machine:
    made = Machine(memory=16 << 20)
    made.memory.load(0x7C00, code)
    state = made.vcpu.state
    state.pointer.segment[1].selector = 0
    state.pointer.segment[1].base = 0
    state.pointer.rip = 0x7C00
    made.vcpu.state = state
    return made


class Raiser(Device):
    def pio_read(self, region: int, offset: int, size: int) -> int:
        raise ValueError("boom")

    def pio_write(self, region: int, offset: int, size: int, value: int) -> None:
        raise ValueError("boom")


class Caller(Device):
    """Does something from inside an access."""

    def __init__(self, action: Any) -> None:
        super().__init__()
        self.action = action

    def pio_write(self, region: int, offset: int, size: int, value: int) -> None:
        self.action()


def test_the_bus_keeps_a_device_that_nobody_else_holds() -> None:
    writes = 0

    def count() -> None:
        nonlocal writes
        writes += 1

    with machine(OUT_FOREVER) as m:
        m.pio.add(0x300, 4, Caller(count))
        gc.collect()
        m.run(timeout=0.1)
    assert writes


def test_the_pci_bus_keeps_a_device_and_closes_it_first() -> None:
    with machine() as m:
        pci: Any = m.devices["pci"]
        device = PciDevice()
        pci.add(device, 20)
        assert pci[20]
    device.close()
    with pytest.raises(PyvmmError):
        _ = device.native


def test_a_view_outlives_its_machine() -> None:
    view = machine().memory.view(0x7C00, 2)
    gc.collect()
    assert bytes(view) == SPIN
    with machine() as m:
        array = m.memory.array(0x7C00, 2)
    array[0] = 0
    assert bytes(array) == b"\0" + SPIN[1:]


def test_what_is_left_of_a_closed_machine_refuses() -> None:
    m = machine()
    line, vcpu = m.board.irq_line(5), m.vcpu
    m.close()
    m.stop()
    m.close()
    assert m.messages() == []
    uses: list[Any] = [
        vcpu.run,
        vcpu.kick,
        lambda: m.memory.read(0, 4),
        lambda: m.pio.read(0x60, 1),
        lambda: m.clock.now,
    ]
    for use in [*uses, line.raise_, lambda: m.devices["pit"].save()]:
        with pytest.raises(TypeError):
            use()
    for run in (m.run, m.reset, lambda: next(m.exits())):
        with pytest.raises(PyvmmError, match="closed"):
            run()


def test_close_stops_a_run_on_another_thread() -> None:
    m = machine()
    reasons: list[str] = []
    started = threading.Event()

    def main() -> None:
        started.set()
        try:
            reasons.append(m.run().reason)
        except PyvmmError:
            reasons.append("closed first")

    thread = threading.Thread(target=main)
    thread.start()
    started.wait()
    time.sleep(0.05)
    m.close()
    thread.join()
    assert reasons[0] in ("stopped", "closed first")


def test_one_runner_at_a_time() -> None:
    with machine() as m:
        thread = threading.Thread(target=m.run)
        thread.start()
        while not m.vcpu.exit_counts.get(ExitReason.KICK):  # until it runs
            m.vcpu.kick()
            time.sleep(0.01)
        for use in (
            m.vcpu.run,
            m.vcpu.step,
            lambda: m.vcpu.state,
            lambda: setattr(m.vcpu, "breakpoints", [0]),
        ):
            with pytest.raises(EngineError, match="is running on another thread"):
                use()
        with pytest.raises(PyvmmError, match="is running"):
            m.reset()
        m.stop()
        thread.join()
        assert m.vcpu.registers.rip == 0x7C00


@pytest.mark.parametrize("name", ["run", "close", "reset"])
def test_a_device_cannot_run_or_close_its_machine(name: str) -> None:
    with machine(OUT_ONCE) as m:
        m.pio.add(0x300, 4, Caller(getattr(m, name)))
        with pytest.raises(PyvmmError, match="is running"):
            m.run(timeout=5)


def test_memory_is_complete_before_the_vcpu() -> None:
    with machine() as m, pytest.raises(GuestError, match="before the machine has a vCPU"):
        m.memory.add(0xA0000, 0x10000)


def test_a_device_that_raises_under_python_raises_there() -> None:
    with machine() as m:
        m.pio.add(0x300, 4, Raiser())
        for access in (lambda: m.pio.read(0x300, 1), lambda: m.pio.write(0x300, 1, 0)):
            with pytest.raises(ValueError, match="boom"):
                access()
        ended = m.run(timeout=0.05)
        assert ended.reason == "timeout"
        assert str(ended).startswith("timeout; the last exit: KICK at 0x")


def test_an_exception_is_not_lost_behind_another_request() -> None:
    with machine(EXIT_THEN_OUT) as m:
        m.pio.add(0x300, 4, Raiser())
        with pytest.raises(ValueError, match="boom"):
            m.run(timeout=5)
        assert m.run(timeout=0.05).reason == "timeout"


def test_a_time_out_that_came_too_late_stops_no_later_run() -> None:
    with machine(EXIT_FOREVER) as m:
        for _ in range(3000):
            assert m.run(timeout=1e-4).reason in ("exit", "timeout")


def test_close_goes_on_when_a_device_raises() -> None:
    class Bad(Device):
        def close(self) -> None:
            raise ValueError("mine")

    m = machine()
    m.devices["bad"] = Bad()
    with pytest.raises(ValueError, match="mine"):
        m.close()
    assert m.board.pointer is None


def test_a_forked_process_leaves_the_machine_to_its_parent() -> None:
    with machine() as m:
        m.run(timeout=0.01)
        child = os.fork()
        if child == 0:
            signal.alarm(10)
            m.close()
            try:
                m.run(timeout=0.01)
            except PyvmmError:
                os._exit(0)
            os._exit(1)
        assert os.waitpid(child, 0)[1] == 0
        assert m.run(timeout=0.01).reason == "timeout"


def test_ctrl_c_ends_exits() -> None:
    """The guest causes no exit at all."""
    program = (
        "import os, signal, threading\nfrom tests.unit.test_machine_lifetime import machine\n"
        "m = machine()\nthreading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()\n"
        "try:\n    for exit in m.exits(): print(exit)\nexcept KeyboardInterrupt:\n    print('interrupted')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == "interrupted\n", done.stderr


def test_a_program_may_end_without_closing() -> None:
    """In silence: closed before Python can import no more; also one that a thread still runs."""
    program = (
        "import threading, time\nfrom tests.unit.test_machine_lifetime import machine\n"
        "machines = [machine() for _ in range(3)]\nmachines[0].run(timeout=0.01)\nmachines[1].close()\n"
        "threading.Thread(target=machines[2].run, daemon=True).start()\ntime.sleep(0.2)\nprint('end')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "end\n", "")
