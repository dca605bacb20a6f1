"""Several machines in one process and thread, machines made and thrown away, and who may call what."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Callable
from pathlib import Path

from pyvmm.engine import Engine, ExitReason
from tests.conformance.engine_rig import DATA, PF_, SKIP, Rig, needs

MakeRig = Callable[..., Rig]

WORK = f"""
    mov ebp, {DATA}; mov ecx, 3000; xor eax, eax
    l: add eax, ecx; rol eax, 5; xor eax, esi; mov dword ptr [rbp], eax
    lea r12, [rip+there]; mov edx, dword ptr [0x50000000]
    there: inc byte ptr [rip+patch+1]; jmp patch; patch: mov bl, 0; add al, bl
    test cl, 31; jnz m; out 0xe0, eax; m: dec ecx; jnz l; hlt"""


def prepare(rig: Rig, seed: int) -> None:
    """Page faults, self-modifying code, device accesses, arithmetic: everything that uses state of the engine."""
    rig.on(PF_, action=SKIP)
    rig.start("long", WORK, rsi=seed)
    rig.memory.load(0x9000, b"\x41\xff\xe4")  # jmp r12
    rig.resume_at(0x9000)


@needs("long")
def test_two_machines_at_once(make_rig: MakeRig) -> None:
    """Each in its own thread gives what it gives alone."""
    alone = []
    for seed in (1, 2):
        rig = make_rig()
        prepare(rig, seed)
        rig.run()
        alone.append((rig.sink.written, rig.vcpu.state.rax))
    assert alone[0] != alone[1]
    rigs = [make_rig() for _ in range(4)]
    failures: list[BaseException] = []
    barrier = threading.Barrier(len(rigs))

    def work(rig: Rig, seed: int) -> None:
        try:
            for _ in range(2):
                rig.forget()
                rig.sink.log.clear()
                prepare(rig, seed)
                barrier.wait(20)
                assert rig.run().reason is ExitReason.HLT
                assert (rig.sink.written, rig.vcpu.state.rax) == alone[seed - 1]
        except BaseException as error:
            failures.append(error)
            barrier.abort()

    threads = [threading.Thread(target=work, args=(rig, n % 2 + 1)) for n, rig in enumerate(rigs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures[0]


@needs("long")
def test_machine_moves_between_threads(rig: Rig) -> None:
    """Run by one thread, then by another."""
    rig.start("long", "l: inc rbx; out 0xe0, al; jmp l", rbx=0)
    rig.sink.on_write = lambda offset, value: rig.vcpu.kick()
    for expected in range(1, 6):
        thread = threading.Thread(target=rig.run)
        thread.start()
        thread.join()
        assert rig.vcpu.state.rbx == expected


@needs("long")
def test_machine_inside_a_device_of_another(make_rig: MakeRig) -> None:
    """A device of one machine runs a second one on the same thread; both go on right."""
    outer, inner = make_rig(), make_rig()
    results = []

    def run_inner(offset: int, value: int) -> None:
        results.append(inner.finish("pm32", "mov eax, ebx; imul eax, eax; int 0x30", rbx=value).eax)

    outer.sink.on_write = run_inner
    state = outer.finish(
        "long", "mov ecx, 5; l: mov eax, ecx; out 0xe0, eax; add edx, eax; dec ecx; jnz l; hlt", rdx=0
    )
    assert results == [25, 16, 9, 4, 1]
    assert state.edx == 15
    assert inner.vectors == [0x30] * 5


def test_hundred_machines_leave_nothing(engine: Engine) -> None:
    """File descriptors and memory are given back."""
    fds = Path("/proc/self/fd")

    def make() -> None:
        rig = Rig(engine)
        rig.finish("long", f"mov ebx, {DATA}; mov dword ptr [rbx], 1; hlt")
        rig.close()

    for _ in range(5):
        make()
    gc.collect()
    before, resident = len(list(fds.iterdir())), _resident()
    for _ in range(100):
        make()
    gc.collect()
    assert len(list(fds.iterdir())) <= before
    assert _resident() - resident < 64 << 20


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def test_close_while_halted(make_rig: MakeRig) -> None:
    """A kick ends a sleeping run on another thread; then the machine can be closed."""
    rig = make_rig()
    rig.interrupts()
    rig.start("pm32", "sti; l: hlt; jmp l")
    thread = threading.Thread(target=rig.run)
    thread.start()
    while not rig.vcpu.exit_counts.get(ExitReason.HLT):
        pass
    rig.vcpu.kick()
    thread.join()
