"""`pyvmm.trace.explain` and `Recorder`: exits of a real guest in words, on each engine."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pyvmm import Machine, assemble
from pyvmm.errors import EngineError, PyvmmError
from pyvmm.exits import ExitReason
from pyvmm.trace import Explanation, Recorder, Symbols, explain
from tests.conformance.engine_variants import availability

MIB = 1 << 20
PROGRAM = """
start:
    mov al, 0x41
    mov dx, 0x3f8
    out dx, al
    in al, 0x71
read_nothing:
    mov dx, 0x3000
    in ax, dx
    xor eax, eax
    cpuid
    mov dx, 0x501
    xor al, al
    out dx, al
    hlt
"""


@pytest.fixture(params=["translator", "kvm"])
def machine(request: pytest.FixtureRequest) -> Iterator[Machine]:
    usable, reason = availability(request.param)
    if not usable:
        pytest.skip(f"{request.param}: {reason}")
    with Machine(memory=16 * MIB, serial="buffer", engine=request.param) as made:
        made.memory.load(0x7C00, assemble(PROGRAM, bits=16, address=0x7C00))
        state = made.vcpu.state
        state.set_real_mode(cs=0, ip=0x7C00)
        made.vcpu.state = state
        yield made


def explained(machine: Machine) -> list[Explanation]:
    symbols = Symbols([(0x7C00, "start"), (0x7C08, "read_nothing")], "the program")
    return [
        explain(exit_, machine, symbols=symbols) for exit_ in machine.exits([ExitReason.IO, ExitReason.CPUID])
    ]


def test_each_has_where_ring_why_answer_cost_and_instead(machine: Machine) -> None:
    console, clock, nobody, *_ = found = explained(machine)
    assert console.title == "OUT 0x3f8, 16550 UART, transmitter holding (THR)"
    assert console.where == "0x7c05  start+0x5"
    assert (console.instruction, console.data) == ("out dx, al", b"\xee")
    assert console.ring == "CPL 0, real mode (no rings)"
    assert "IN and OUT leave guest code" in console.why
    assert console.answer == "0x41 (1 byte) was given to the device"
    assert "host TSC cycles to answer it" in console.cost
    assert "a virtio console" in console.instead
    assert "16550D §8" in console.section
    assert "Intel SDM 3C" in console.section
    assert clock.title == "IN 0x71, real-time clock, data"
    assert clock.answer.startswith("the device answered 0x")
    assert "kvmclock" in clock.instead
    assert nobody.title == "IN 0x3000, nobody"
    assert nobody.where == "0x7c0b  read_nothing+0x3"
    assert nobody.answer.startswith("nobody answers there: all ones")
    text = str(console)
    assert [line.split()[0] for line in text.splitlines()[1:]] == [
        "where", "instruction", "ring", "why", "answer", "cost", "paravirtual", "see",
    ]  # fmt: skip
    assert "<table>" in console._repr_html_()
    assert any(each.title.startswith("CPUID leaf 0x0") for each in found) or machine.engine_name == "kvm"


def test_alone_an_exit_says_what_it_knows(machine: Machine) -> None:
    exit_ = next(iter(machine.exits([ExitReason.IO])))
    alone = explain(exit_)
    assert alone.title == "OUT 0x3f8"
    assert alone.instruction == ""
    assert alone.where.startswith(("0x7c05 ", "0x7c06 "))  # of the next instruction, where KVM says so


def test_a_site_of_a_recording(machine: Machine) -> None:
    with Recorder(machine) as recorder:
        assert machine.run(30).reason == "exit"
        recording = recorder.recording()
    titles = [explain(site, machine).title for site in recording.sites]
    assert "OUT 0x3f8, 16550 UART, transmitter holding (THR)" in titles
    (console,) = [site for site in recording.sites if site.address == 0x3F8 and site.is_write]
    words = explain(console, machine)
    assert (words.where, words.instruction) == (
        "0x7c05  real mode: firmware, boot loader or a kernel's first steps",
        "out dx, al",
    )


def test_one_recorder_at_a_time_and_only_while_it_stands(machine: Machine) -> None:
    recorder = Recorder(machine)
    with pytest.raises(EngineError, match="being recorded already"):
        Recorder(machine)
    first = recorder.stop()
    assert recorder.stop() is first
    with pytest.raises(PyvmmError, match="1 to 16777216 events"):
        Recorder(machine, events=0)
    with Recorder(machine) as again:
        machine.run(30)
    assert again.recording().total > 0
    assert first.total == 0


def test_a_recording_outlives_its_machine() -> None:
    with Machine(memory=16 * MIB, serial="null", engine="translator") as machine:
        recorder = Recorder(machine)
        machine.memory.load(0x7C00, assemble(PROGRAM, bits=16, address=0x7C00))
        state = machine.vcpu.state
        state.set_real_mode(cs=0, ip=0x7C00)
        machine.vcpu.state = state
        machine.run(30)
    assert recorder.recording().counts[ExitReason.IO] >= 4


def test_a_reset_and_another_engine_are_recorded_through() -> None:
    """Counts go on: what a machine does to its vCPUs is not the recorder's end."""
    with Machine(memory=16 * MIB, serial="null", engine="translator") as machine:
        with Recorder(machine) as recorder:
            for _ in range(2):
                machine.memory.load(0x7C00, assemble(PROGRAM, bits=16, address=0x7C00))
                state = machine.vcpu.state
                state.set_real_mode(cs=0, ip=0x7C00)
                machine.vcpu.state = state
                machine.run(30)
                machine.reset()
        (console,) = [site for site in recorder.recording().sites if site.address == 0x3F8 and site.is_write]
        assert console.count == 2
