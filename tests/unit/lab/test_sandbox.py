"""`pyvmm.lab.Sandbox`: traps seen with their frames, emulated and resumed; both rings compared."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest

from pyvmm.cpu.instructions import CR4_UMIP
from pyvmm.errors import PyvmmError
from pyvmm.lab import Sandbox, Stop, compare_rings


def stop_of(program: str, ring: int = 3, **options: object) -> Stop:
    with Sandbox(program, ring=ring, **options) as box:
        return box.run()


@pytest.mark.parametrize("ring", [0, 3])
def test_a_program_that_ends(ring: int) -> None:
    stop = stop_of("mov eax, cs; mov ebx, 5", ring)
    assert (stop.kind, stop.ring, stop.name) == ("end", ring, "end")
    assert (stop.state.eax & 3, stop.state.ebx) == (ring, 5)
    assert str(stop) == f"ran to its end in ring {ring}"


@pytest.mark.parametrize(
    ("program", "name", "error", "behind"),
    [
        ("cli", "#GP", 0, False),
        ("hlt", "#GP", 0, False),
        ("ud2", "#UD", None, False),
        ("int3", "#BP", None, True),
        ("int 0x80", "vector 0x80", None, True),
        ("int 0x81", "#GP", 0x81 * 8 + 2, False),
        (f"mov rax, [{Sandbox.SECRET}]", "#PF", 5, False),
        (f"mov [{Sandbox.SECRET}], rax", "#PF", 7, False),
        ("mov rax, [0x7000000]", "#PF", 4, False),
        ("xor ecx, ecx; div ecx", "#DE", None, False),
    ],
)
def test_traps(program: str, name: str, error: int | None, behind: bool) -> None:
    with Sandbox(f"mov edi, 9; {program}; nop", open_gates=[3, 0x80]) as box:
        stop = box.run()
        first = box.end - 1 - stop.size
        assert (stop.kind, stop.name, stop.error, stop.ring) == ("trap", name, error, 3)
        assert stop.rip == (box.end - 1 if behind else first)
        assert stop.state.edi == 9
        assert stop.state.cpl == 0
        assert stop.instruction.split()[0].removesuffix("abs") in program
        picture = ET.fromstring(str(stop.frame()))
        assert len([each for each in picture.iter() if each.tag.endswith("rect")]) == (
            13 if error is not None else 11
        )
        assert name in str(stop)


def test_ways_to_stop_that_are_no_traps() -> None:
    assert stop_of("hlt", 0).kind == "halt"
    assert stop_of("mov rsp, 0x7000000; mov rax, [rsp]", 0).kind == "shutdown"  # no stack for the frame
    with Sandbox("syscall; mov eax, 7") as box:
        stop = box.run()
        assert (stop.kind, stop.instruction, stop.rip) == ("syscall", "syscall", box.CODE + 2)
        with pytest.raises(PyvmmError, match="the processor pushed nothing"):
            stop.frame()
        box.resume()
        assert box.run().state.eax == 7
        with pytest.raises(PyvmmError, match="it has ended"):
            box.resume()


def test_python_emulates() -> None:
    with Sandbox("in al, 0x60; mov ebx, eax") as box:
        with pytest.raises(PyvmmError, match="nothing to go back to"):
            box.resume()
        assert box.run().name == "#GP"
        box.resume()  # as it was: it traps again
        assert box.run().name == "#GP"
        state = box.vcpu.state
        state.al = 0x42
        box.vcpu.state = state
        box.resume(skip=True, rsp=box.DATA + 0x800)
        assert box.run().state.ebx == 0x42
        assert box.last.rsp == box.DATA + 0x800
        assert "in al, 0x60" in box.listing()


def test_a_program_that_does_not_end() -> None:
    with (
        Sandbox("again: jmp again") as box,
        pytest.raises(PyvmmError, match="the machine ended by 'timeout'"),
    ):
        box.run(timeout=0.05)


def test_what_cannot_be() -> None:
    with pytest.raises(ValueError, match="ring is 1"):
        Sandbox("nop", ring=1)
    with pytest.raises(ValueError, match="a program of 65536 bytes"):
        Sandbox(bytes(65536))


@pytest.mark.parametrize(
    ("program", "options", "verdict"),
    [
        ("cli", {}, "#GP"),
        ("hlt", {}, "#GP"),
        ("mov rax, cr0", {}, "#GP"),
        ("mov eax, cs", {}, "differs"),
        ("push 0x202; popfq; pushfq; pop rax; and eax, 0x200", {}, "differs"),
        ("smsw eax", {}, "leaks"),
        ("smsw eax", {"cr4": CR4_UMIP}, "#GP"),
        ("mov eax, 1", {}, "same"),
        ("ud2", {}, "absent"),
        ("int 0x80", {"open_gates": [0x80]}, "vector 0x80"),
    ],
)
def test_comparison(program: str, options: dict[str, object], verdict: str) -> None:
    made = compare_rings(program, **options)
    if program == "int 0x80":
        assert made.ring_0.vector == made.ring_3.vector == 0x80
    else:
        assert made.verdict == verdict
        assert made.traps == verdict.startswith("#")
        assert verdict in str(made)
