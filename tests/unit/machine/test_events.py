"""`machine.events`: power-off, reset, exit and the button, taken, waited for and listened to."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from pyvmm import Machine
from pyvmm.devices.acpi_pm import AcpiPm
from pyvmm.errors import PyvmmError
from pyvmm.machine.events import KEPT, Events, MachineEvent

RESET = b"\xb0\x06\xba\xf9\x0c\xee\xeb\xfe"  # mov al, 6; mov dx, 0xcf9; out dx, al; jmp $
EXIT = b"\xb0\x03\xba\x01\x05\xee\xeb\xfe"  # port 0x501
POWEROFF = b"\xb8\x00\x20\xba\x04\x06\xef\xeb\xfe"  # SLP_EN to PM1_CNT; \_S5 is type 0
TRIPLE_FAULT = b"\x0f\x01\x1e\x00\x06\x0f\x0b"  # lidt of zeros, ud2


@pytest.fixture
def machine() -> Iterator[Machine]:
    with Machine(memory=16 << 20, serial="null") as made:
        yield made


def run(machine: Machine, code: bytes) -> str:
    machine.memory.load(0x7C00, code)
    machine.memory.load(0x600, bytes(8))
    state = machine.vcpu.state
    state.pointer.segment[1].selector = 0
    state.pointer.segment[1].base = 0
    state.pointer.rip = 0x7C00
    machine.vcpu.state = state
    return machine.run(timeout=30).reason


def kinds(machine: Machine) -> list[tuple[str, int]]:
    return [(event.kind, event.code) for event in machine.events.take()]


def test_what_the_guest_does(machine: Machine) -> None:
    assert run(machine, RESET) == "reset"  # nobody asked for events yet
    machine.reset()
    assert kinds(machine) == []
    assert run(machine, RESET) == "reset"
    machine.reset()
    assert run(machine, EXIT) == "exit"
    machine.reset()
    assert run(machine, TRIPLE_FAULT) == "shutdown"
    machine.reset()
    assert run(machine, POWEROFF) == "poweroff"
    button = ("reset-button", 0)
    assert kinds(machine) == [
        ("reset", 0), button, ("exit", 3 << 1 | 1), button, ("shutdown", 0), button, ("poweroff", 0),
    ]  # fmt: skip
    assert kinds(machine) == []


def test_the_power_button_reaches_the_guests_register(machine: Machine) -> None:
    events = machine.events
    device = machine.devices["acpi_pm"]
    assert isinstance(device, AcpiPm)
    machine.power_button()
    assert device.registers.pm1_sts & 0x100
    assert [event.kind for event in events.take()] == ["power-button"]
    machine.close()
    with pytest.raises(PyvmmError, match="closed"):
        machine.power_button()


def test_iteration_ends_with_the_machine(machine: Machine) -> None:
    events = machine.events
    seen: list[str] = []
    thread = threading.Thread(target=lambda: seen.extend(event.kind for event in events))
    thread.start()
    run(machine, EXIT)
    machine.close()
    thread.join(30)
    assert seen == ["exit", "closed"]
    assert events.wait() is None


def test_listeners(machine: Machine) -> None:
    seen: list[MachineEvent] = []
    end = machine.events.listen(seen.append)
    run(machine, EXIT)
    end()
    end()
    machine.reset()
    assert [event.kind for event in seen] == ["exit"]
    assert 0 < seen[0].time_ns <= machine.clock.now


def test_what_a_listener_raises_is_raised_by_run(machine: Machine) -> None:
    def refuse(event: MachineEvent) -> None:
        raise ValueError(event.kind)

    end = machine.events.listen(refuse)
    with pytest.raises(ValueError, match="exit"):
        run(machine, EXIT)
    end()


def test_nobody_takes_them() -> None:
    events = Events()
    for number in range(KEPT + 5):
        events.emit(MachineEvent("exit", 0, number))
    taken = events.take()
    assert (len(taken), taken[0].code) == (KEPT, 5)
    assert events.wait(timeout=0.01) is None
