"""A guest that changes engines again and again: a computation with a known answer, timer interrupts, a shell.

The guest computes in ring 3, where every KVM runs it on the processor, and takes a timer's interrupts in ring 0: the
PIT's by the 8259s, or the local APIC's own. It
steps a linear congruential generator, and sums its values in a general register, in a table in memory, and in an XMM
register; counts in x87; and compares each TSC with the one before. The generator has a closed form, so that the answer
is computed here for any number of steps, by squaring a matrix.

``PYVMM_FLIP_SECONDS`` says how long (6); `python -m tests.boot.test_engine_flip` runs 30 s and prints figures.
"""

from __future__ import annotations

import os
import shutil
import struct
import threading
import time
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import pytest

from pyvmm.asm import assemble
from pyvmm.config import DiskConfig
from pyvmm.cpu.state import CpuState
from pyvmm.engine import ExitReason
from pyvmm.errors import PyvmmError
from pyvmm.kvm import KvmEngine
from pyvmm.machine.machine import Machine
from pyvmm.machine.switch import ENGINES

SECONDS = float(os.environ.get("PYVMM_FLIP_SECONDS", "6"))
PERIOD = 0.1
MULTIPLIER, INCREMENT, SEED = 6364136223846793005, 1442695040888963407, 42
MASK = (1 << 64) - 1

BASE = 0x1000000  # 16 MiB: nothing else is there
CODE, USER, IDT, GDT, TSS, PML4 = (BASE + 0x1000 * n for n in range(6))
PDPT, PD, STACK, DATA, TABLE = BASE + 0x6000, BASE + 0x7000, BASE + 0x9000, BASE + 0xA000, BASE + 0xB000
TIMERS = ("pit", "lapic")
APIC_TABLE, APIC = BASE + 0x10000, 0xFEE00000  # its page directory; Intel SDM 3A table 11-1
APIC_EOI, APIC_SVR, APIC_TIMER, APIC_COUNT, APIC_DIVIDE = (
    APIC + n for n in (0xB0, 0xF0, 0x320, 0x380, 0x3E0)
)
STOP, TICKS, BACKWARDS, STEPS, RESULT = (DATA + 64 * n for n in range(5))

END_OF_INTERRUPT = {
    "pit": "mov al, 0x20; out 0x20, al",
    "lapic": f"mov ecx, {APIC_EOI}; xor eax, eax; mov dword ptr [rcx], eax",
}
KERNEL = f"""
    push rax
    push rcx
    mov ecx, {TICKS}
    inc qword ptr [rcx]
    %s
    pop rcx
    pop rax
    iretq
"""
PROGRAM = f"""
    mov r8, {SEED}
    xor r9d, r9d
    xor r10d, r10d
    xor r11d, r11d
    pxor xmm0, xmm0
    fninit
    fld1
    fldz
    movabs r12, {MULTIPLIER}
    movabs r13, {INCREMENT}
    mov r14d, {TABLE}
    mov r15d, {DATA}
step:
    imul r8, r12
    add r8, r13
    add r9, r8
    mov eax, r8d
    shr eax, 23
    add qword ptr [r14 + rax*8], r8
    movq xmm1, r8
    paddq xmm0, xmm1
    fadd st(0), st(1)
    rdtsc
    shl rdx, 32
    or rax, rdx
    cmp rax, r11
    jae later
    inc qword ptr [r15 + {BACKWARDS - DATA}]
later:
    mov r11, rax
    inc r10
    cmp byte ptr [r15], 0
    je step
    mov qword ptr [r15 + {STEPS - DATA}], r10
    mov qword ptr [r15 + {RESULT - DATA}], r8
    mov qword ptr [r15 + {RESULT - DATA} + 8], r9
    movdqu [r15 + {RESULT - DATA} + 16], xmm0
    fistp qword ptr [r15 + {RESULT - DATA} + 32]
    int3
"""


Matrix = tuple[tuple[int, ...], ...]


def expected(steps: int) -> tuple[int, int]:
    """The generator after `steps`, and the sum of its values: (x, s, 1) times a matrix to that power, modulo 2^64."""

    def times(a: Matrix, b: Matrix) -> Matrix:
        return tuple(
            tuple(sum(a[i][k] * b[k][j] for k in range(3)) & MASK for j in range(3)) for i in range(3)
        )

    power: Matrix = ((1, 0, 0), (0, 1, 0), (0, 0, 1))
    square: Matrix = ((MULTIPLIER, 0, INCREMENT), (MULTIPLIER, 1, INCREMENT), (0, 0, 1))
    while steps:
        if steps & 1:
            power = times(power, square)
        square = times(square, square)
        steps >>= 1
    x, s = ((row[0] * SEED + row[2]) & MASK for row in power[:2])
    return x, s


def load(machine: Machine, timer: str = "pit") -> None:
    """Tables, code and interrupt controllers; ring 3 may have all of the first 32 MiB."""
    memory, pio = machine.memory, machine.pio
    memory.load(BASE, bytes(0x20000))
    memory.write_u64(PML4, PDPT | 7)
    memory.write_u64(PDPT, PD | 7)
    for page in range(16):
        memory.write_u64(PD + 8 * page, page << 21 | 0x87)
    tss = struct.pack("<QHHI", 0x0000890000000067 | (TSS & 0xFFFFFF) << 16 | TSS >> 24 << 56, 0, 0, 0)
    flat = struct.pack("<QQQQQ", 0, 0xAF9B000000FFFF, 0xCF93000000FFFF, 0xCFF3000000FFFF, 0xAFFB000000FFFF)
    memory.load(GDT, flat + tss)
    memory.write_u64(TSS + 4, STACK)
    memory.write_u64(PDPT + 8 * (APIC >> 30), APIC_TABLE | 7)
    memory.write_u64(APIC_TABLE + 8 * (APIC >> 21 & 511), APIC & ~0x1FFFFF | 0x93)
    memory.load(CODE, assemble(KERNEL % END_OF_INTERRUPT[timer], bits=64, address=CODE))
    memory.load(CODE + 0x100, b"\xfa\xf4")  # INT3: cli; hlt
    memory.load(USER, assemble(PROGRAM, bits=64, address=USER))
    for vector, handler in ((3, CODE + 0x100), (0x20, CODE)):
        gate = struct.pack("<HHHHI", handler & 0xFFFF, 8, 0xEE00, handler >> 16, 0)
        memory.load(IDT + 16 * vector, gate)
    for port, value in ((0x20, 0x11), (0x21, 0x20), (0x21, 4), (0x21, 1), (0x21, 0xFE), (0xA1, 0xFF)):
        pio.write(port, 1, value)
    for port, value in ((0x43, 0x34), (0x40, 11932 & 0xFF), (0x40, 11932 >> 8)):  # 100 Hz
        pio.write(port, 1, value)
    if timer == "lapic":  # masked 8259s; periodic, 10 ms of a GHz, vector 0x20
        pio.write(0x21, 1, 0xFF)
        for address, word in (
            (APIC_SVR, 0x1FF), (APIC_DIVIDE, 0xB), (APIC_TIMER, 0x20020), (APIC_COUNT, 10_000_000),
        ):  # fmt: skip
            machine.board.mmio.write(address, 4, word)
    state = CpuState()
    state.set_long_mode(USER, PML4, rsp=STACK - 0x800, cpl=3)
    state.cs.selector, state.cr4, state.rflags = 0x23, 0x620, 0x202
    for name in ("ss", "ds", "es", "fs", "gs"):
        getattr(state, name).selector = 0x1B
    state.gdtr.base, state.gdtr.limit = GDT, 0x37
    state.idtr.base, state.idtr.limit = IDT, 0x20F
    state.tr.set(0x28, TSS, 0x67, 0x8B)
    state.apic_base = machine.vcpu.state.apic_base
    machine.vcpu.state = state


def make(disk: Path, first: str) -> Machine:
    """The built-in guest's machine, at its prompt, on `first`, showing a processor that both engines can be."""
    shutil.copy(str(files("pyvmm") / "data" / "builtin.qcow2"), disk)
    machine = Machine(
        memory=64 << 20,
        serial="buffer",
        engine=first,  # type: ignore[arg-type]
        cpu="common",
        disks=[DiskConfig(disk)],
    )
    machine.serial.expect("guest> ", timeout=60)
    return machine


def flip(machine: Machine, seconds: float) -> dict[str, list[float]]:
    """Run, and change engines every `PERIOD` until the time is over: the seconds that each change took."""
    costs: dict[str, list[float]] = {name: [] for name in ENGINES}
    problems: list[Exception] = []

    def flipper() -> None:
        end = time.monotonic() + seconds
        try:
            while time.monotonic() < end:
                time.sleep(PERIOD)
                target = ENGINES[machine.engine_name == ENGINES[0]]
                began = time.perf_counter()
                machine.switch_engine(target)
                costs[target].append(time.perf_counter() - began)
        except Exception as error:
            problems.append(error)
        machine.memory.write_u8(STOP, 1)

    thread = threading.Thread(target=flipper)
    thread.start()
    result = machine.run(timeout=seconds * 10 + 60)
    thread.join()
    assert not problems, problems
    assert result.reason == "halted", result
    return costs


def check(machine: Machine) -> int:
    """The answers in registers, memory, XMM and x87 are those of as many steps as were made: their number."""
    memory = machine.memory
    steps = memory.read_u64(STEPS)
    x, total = expected(steps)
    assert steps > 0
    assert (memory.read_u64(RESULT), memory.read_u64(RESULT + 8)) == (x, total)
    assert sum(struct.unpack("<512Q", memory.read(TABLE, 4096))) & MASK == total
    assert memory.read_u64(RESULT + 16) == total
    assert memory.read_u64(RESULT + 32) == steps
    assert memory.read_u64(BACKWARDS) == 0, "the TSC went back"
    assert memory.read_u64(TICKS) > 10
    return steps


@pytest.fixture(autouse=True)
def needs_kvm() -> None:
    usable, reason = KvmEngine().availability()
    if not usable:
        pytest.skip(f"no KVM here: {reason}")


@pytest.fixture(params=ENGINES)
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Machine]:
    with make(tmp_path / "builtin.qcow2", request.param) as made:
        yield made


def test_expected() -> None:
    x, total = SEED, 0
    for steps in range(1, 50):
        x = (x * MULTIPLIER + INCREMENT) & MASK
        total = (total + x) & MASK
        assert expected(steps) == (x, total)


@pytest.mark.parametrize("timer", TIMERS)
def test_a_computation_flips_engines(machine: Machine, timer: str) -> None:
    load(machine, timer)
    costs = flip(machine, SECONDS / 2)
    check(machine)
    assert all(costs.values())


def test_a_shell_across_engines(machine: Machine) -> None:
    """The built-in guest answers on whichever engine it is; its disk and clock go on."""
    other = {ENGINES[0]: ENGINES[1], ENGINES[1]: ENGINES[0]}
    for _ in range(3):
        machine.switch_engine(other[machine.engine_name])
        machine.serial.send("ticks\n")
        assert b"measured over 20 ticks" in machine.serial.expect("guest> ", timeout=60)
        machine.serial.send("disk\n")
        machine.serial.expect("guest> ", timeout=60)
    counts = machine.vcpu.exit_counts
    assert counts[ExitReason.IO] > 100
    machine.serial.send("poweroff\n")
    assert machine.run(timeout=60).reason == "poweroff"


def test_switching_says_what_is_wrong(machine: Machine) -> None:
    with pytest.raises(PyvmmError, match="choose one of: translator, kvm"):
        machine.switch_engine("abacus")
    name = machine.engine_name
    machine.switch_engine(name)
    assert machine.engine_name == name
    machine.close()
    with pytest.raises(PyvmmError, match="closed"):
        machine.switch_engine(name)


def main() -> None:
    """30 s, with figures."""
    import statistics
    import tempfile

    seconds = float(os.environ.get("PYVMM_FLIP_SECONDS", "30"))
    with tempfile.TemporaryDirectory() as folder, make(Path(folder) / "disk.qcow2", "translator") as machine:
        load(machine)
        costs = flip(machine, seconds)
        steps = check(machine)
        ticks = machine.memory.read_u64(TICKS)
        print(
            f"{seconds:.0f} s: {steps} steps, the right answer; {ticks} timer interrupts; the TSC never went back"
        )
        for name, taken in costs.items():
            print(
                f"to {name}: {len(taken)} changes, median {statistics.median(taken) * 1e6:.0f} us, least"
                f" {min(taken) * 1e6:.0f} us, most {max(taken) * 1e6:.0f} us"
            )


if __name__ == "__main__":
    main()
