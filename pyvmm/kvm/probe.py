"""What a KVM is worth, measured: speed by a spinning guest, and CPU modes by tiny guests that need them.

A /dev/kvm may interpret ring 0 (no hardware virtualisation below it): then it is slower than a translator by two orders
of magnitude, and some things that kernels need do not exist. So nothing here asks for names; each probe is a guest in a
throw-away VM that reports by a port, with a timer armed, because some cases never return from KVM_RUN. Speed is thread
CPU time, the best of a few runs, as the difference of two lengths, so that the cost of the exit cancels.

The result is kept per boot of the host (`pyvmm.kvm.remembered`).
"""

from __future__ import annotations

import mmap
import os
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from pyvmm.errors import EngineError
from pyvmm.kvm import remembered
from pyvmm.kvm.constants import KvmExitReason
from pyvmm.kvm.ioctl import KvmError, Record
from pyvmm.kvm.system import System
from pyvmm.kvm.vcpu import InternalErrorExit, IoExit, KvmExit, Vcpu
from pyvmm.native import lib

NATIVE_NS_PER_INSTRUCTION = 20.0
"""Above it ring 0 is interpreted: hardware is below 2 ns, interpreters seen so far above 500."""
TIMEOUT = 0.25
"""Seconds for one guest; those that work need microseconds."""

_SPINS, _MORE_SPINS, _ROUNDS, _EXITS = 300, 100_000, 5, 50
_PORT_GOOD, _PORT_BAD = 0x77, 0x76

# The guest's memory: one identity-mapped slot from 0.
_SIZE = 0x20000
_CODE, _IDT, _GDT, _TSS = 0x1000, 0x2000, 0x3000, 0x4000
_GOOD, _BAD = 0x5000, 0x5100
_STACK_0, _STACK_3 = 0x7000, 0x9000
_PML4, _PDPT, _PD = 0x10000, 0x11000, 0x12000
_CS0, _DS0, _DS3, _CS3, _TR = 0x08, 0x10, 0x23, 0x2B, 0x30

_OUT_GOOD = bytes([0xE6, _PORT_GOOD, 0xF4])  # out PORT, al; hlt
_OUT_BAD = bytes([0xE6, _PORT_BAD, 0xF4])
_SPIN = b"\xff\xc9\x75\xfc"  # l: dec ecx; jnz l


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What was found. Times are nanoseconds or microseconds of CPU time; None: it could not be measured.

    Attributes
    ----------
    usable
        The device opens and runs a guest at all.
    reasons
        One line for each thing that is missing; for an unusable device what to do.
    ring0_ns, ring3_ns
        Nanoseconds an instruction of 64-bit code.
    exit_us
        Microseconds of a port write that leaves to user space, entry included.
    paging_32bit, int3_ring0, syscall_ring3, int80_ring3
        32-bit paging; INT3 in ring 0; SYSCALL and INT 80h from 64-bit ring 3 that arrive in ring 0.
    seconds
        Wall time of the probe.
    """

    usable: bool
    reasons: tuple[str, ...]
    ring0_ns: float | None = None
    ring3_ns: float | None = None
    exit_us: float | None = None
    paging_32bit: bool = False
    int3_ring0: bool = False
    syscall_ring3: bool = False
    int80_ring3: bool = False
    seconds: float = 0.0

    @property
    def ring0_native(self) -> bool:
        """Ring 0 runs on the processor."""
        return self.ring0_ns is not None and self.ring0_ns < NATIVE_NS_PER_INSTRUCTION

    @property
    def good(self) -> bool:
        """Everything that a stock operating system needs, at the processor's speed."""
        return (
            self.usable
            and self.ring0_native
            and self.paging_32bit
            and self.int3_ring0
            and self.syscall_ring3
            and self.int80_ring3
        )

    @property
    def summary(self) -> str:
        """One line: what it is worth, or the first thing that is missing."""
        more = len(self.reasons) - 1
        if self.good or not self.reasons:
            return str(self)
        return f"{self.reasons[0]}{f', and {more} more' if more > 0 else ''}"

    def __str__(self) -> str:
        if self.good:
            return f"ring 0 runs on the processor: {self.ring0_ns:.1f} ns an instruction, {self.exit_us:.1f} us an exit"
        return "; ".join(self.reasons)


def probe(device: str | os.PathLike[str] = "/dev/kvm", *, cached: bool = True) -> ProbeResult:
    """Probe a KVM device, or tell what was found earlier since the host booted.

    Never raises for what the device is: that is in the result.
    """
    path = os.fspath(device)
    if cached:
        found = _result(remembered.load(path))
        if found is not None:
            return found
    result = _measure(device)
    if result.usable:
        remembered.store(path, _lines(result))
    return result


def _measure(device: str | os.PathLike[str]) -> ProbeResult:
    begin = time.monotonic()
    try:
        system = System(device)
    except EngineError as error:
        return ProbeResult(False, (str(error),))
    with system:
        reasons: list[str] = []
        try:
            ring0 = _spin(system, ring3=False)
            ring3 = _spin(system, ring3=True)
            exit_us = _exit_cost(system)
        except EngineError as error:
            return ProbeResult(False, (f"{os.fspath(device)}: a first guest does not run: {error}",))
        if ring0 is None:
            reasons.append("64-bit code in ring 0 does not run")
        elif ring0 >= NATIVE_NS_PER_INSTRUCTION:
            reasons.append(
                f"ring 0 is interpreted ({ring0:.0f} ns an instruction; hardware needs less than 2)"
            )
        found = {
            "paging_32bit": _try(system, _paging_32bit, "32-bit paging", reasons),
            "int3_ring0": _try(system, _int3_ring0, "INT3 in ring 0", reasons),
            "syscall_ring3": _try(system, _syscall_ring3, "SYSCALL from ring 3 to ring 0", reasons),
            "int80_ring3": _try(system, _int80_ring3, "INT 80h from ring 3", reasons),
        }
    return ProbeResult(True, tuple(reasons), ring0, ring3, exit_us, **found, seconds=time.monotonic() - begin)


# Guests --------------------------------------------------------------------------------------------------------


class _Guest:
    """A throw-away VM with one vCPU and a page of code."""

    def __init__(self, system: System, code: bytes) -> None:
        self.vm = system.create_vm()
        self.memory: mmap.mmap = self.vm.add_memory(0, _SIZE)
        self.vcpu: Vcpu = self.vm.create_vcpu(0)
        self.vcpu.cpuid2 = system.supported_cpuid
        self.memory[_CODE : _CODE + len(code)] = code
        self.memory[_GOOD : _GOOD + len(_OUT_GOOD)] = _OUT_GOOD
        self.memory[_BAD : _BAD + len(_OUT_BAD)] = _OUT_BAD

    def __enter__(self) -> _Guest:
        return self

    def __exit__(self, *_: object) -> None:
        self.vm.close()

    def run(self) -> KvmExit:
        """Until an exit; INTR when the time is over."""
        timer = threading.Timer(TIMEOUT, self.vcpu.kick)
        timer.daemon = True
        timer.start()
        try:
            return self.vcpu.run()
        finally:
            timer.cancel()
            timer.join()
            self.vcpu.immediate_exit = False

    def set_gate(self, vector: int, handler: int, *, dpl: int = 0) -> None:
        """A 64-bit interrupt gate (Intel SDM 3A §6.14.1)."""
        gate = struct.pack("<HHBBHII", handler & 0xFFFF, _CS0, 0, 0x8E | dpl << 5, handler >> 16, 0, 0)
        self.memory[_IDT + 16 * vector : _IDT + 16 * vector + 16] = gate

    def enter_long_mode(self, *, ring3: bool, registers: dict[str, int] | None = None) -> None:
        """64-bit mode at _CODE: one user-accessible 2 MiB page, a GDT, a TSS with a stack, every vector to _BAD."""
        memory = self.memory
        for table, entry in ((_PML4, _PDPT | 7), (_PDPT, _PD | 7), (_PD, 0x87)):
            memory[table : table + 8] = struct.pack("<Q", entry)
        gdt = (0, 0x00AF9B000000FFFF, 0x00CF93000000FFFF, 0, 0x00CFF3000000FFFF, 0x00AFFB000000FFFF)
        tss = 0x67 | (_TSS & 0xFFFFFF) << 16 | 0x8B << 40
        memory[_GDT : _GDT + 64] = struct.pack("<8Q", *gdt, tss, 0)
        memory[_TSS + 4 : _TSS + 12] = struct.pack("<Q", _STACK_0)
        memory[_TSS + 0x66 : _TSS + 0x68] = struct.pack("<H", 0x68)
        for vector in range(32):
            self.set_gate(vector, _BAD)
        sregs = self.vcpu.sregs
        cpl = 3 if ring3 else 0
        _segment(sregs.cs, _CS3 if ring3 else _CS0, 0xB, cpl, long=True)
        for name in ("ss", "ds", "es"):
            _segment(getattr(sregs, name), _DS3 if ring3 else _DS0, 0x3, cpl)
        _segment(sregs.tr, _TR, 0xB, 0, system=True)
        sregs.tr.base, sregs.tr.limit, sregs.tr.g = _TSS, 0x67, 0
        sregs.gdt.base, sregs.gdt.limit = _GDT, 63
        sregs.idt.base, sregs.idt.limit = _IDT, 0xFFF
        sregs.cr0, sregs.cr3, sregs.cr4, sregs.efer = 0x80050033, _PML4, 0x20, 0x501
        self.vcpu.sregs = sregs
        self.vcpu.set_regs(rip=_CODE, rsp=_STACK_3 if ring3 else _STACK_0, rflags=2, **(registers or {}))


def _segment(
    segment: Record, selector: int, kind: int, dpl: int, *, long: bool = False, system: bool = False
) -> None:
    segment.base, segment.limit, segment.selector, segment.type = 0, 0xFFFFFFFF, selector, kind
    segment.present, segment.dpl, segment.s, segment.g, segment.unusable = 1, dpl, int(not system), 1, 0
    segment.l, segment.db = int(long), int(not long and not system)


# Speed ---------------------------------------------------------------------------------------------------------


def _spin(system: System, *, ring3: bool) -> float | None:
    """Nanoseconds an instruction of a two-instruction loop."""
    end = b"\x0f\x0b" if ring3 else _OUT_GOOD  # ring 3 may not use ports: ud2, whose handler does
    with _Guest(system, _SPIN + end) as guest:
        guest.enter_long_mode(ring3=ring3)
        guest.set_gate(6, _GOOD)
        sregs = guest.vcpu.sregs

        def best(count: int) -> int | None:
            times = []
            for _ in range(_ROUNDS):
                guest.vcpu.sregs = sregs
                guest.vcpu.set_regs(rip=_CODE, rcx=count, rflags=2, rsp=_STACK_3 if ring3 else _STACK_0)
                before = time.thread_time_ns()
                left = guest.run()
                times.append(time.thread_time_ns() - before)
                if not _is_good(left):
                    return None
                guest.vcpu.complete()
            return min(times)

        def difference(count: int) -> float | None:
            short, long = best(1), best(count)
            return None if short is None or long is None else max(0, long - short) / (2 * (count - 1))

        found = difference(_SPINS)
        if found is not None and found < 10 * NATIVE_NS_PER_INSTRUCTION:
            return difference(_MORE_SPINS)  # the first was hardly longer than what an exit's cost varies by
        return found


def _exit_cost(system: System) -> float | None:
    """Microseconds of one OUT that nobody answers."""
    loop = bytes([0xE6, _PORT_GOOD, 0xFF, 0xC9, 0x75, 0xFA, 0xF4])  # l: out PORT, al; dec ecx; jnz l; hlt
    with _Guest(system, loop) as guest:
        guest.enter_long_mode(ring3=False, registers={"rcx": _EXITS + 1})
        if not _is_good(guest.run()):
            return None
        fd, run = guest.vcpu.fd, lib.kvm_run
        before = time.thread_time_ns()
        for _ in range(_EXITS):
            run(fd)
        return (time.thread_time_ns() - before) / _EXITS / 1000


# Modes ---------------------------------------------------------------------------------------------------------


def _is_good(left: KvmExit) -> bool:
    return isinstance(left, IoExit) and left.port == _PORT_GOOD


def _paging_32bit(system: System) -> KvmExit:
    """CR0.PG without long mode, one 4 MiB page (Intel SDM 3A §4.3)."""
    with _Guest(system, _OUT_GOOD) as guest:
        guest.memory[_PML4 : _PML4 + 4] = struct.pack("<I", 0x87)
        sregs = guest.vcpu.sregs
        _segment(sregs.cs, _CS0, 0xB, 0)
        for name in ("ss", "ds", "es"):
            _segment(getattr(sregs, name), _DS0, 0x3, 0)
        sregs.cr0, sregs.cr3, sregs.cr4, sregs.efer = 0x80000011, _PML4, 0x10, 0
        guest.vcpu.sregs = sregs
        guest.vcpu.set_regs(rip=_CODE, rsp=_STACK_0, rflags=2)
        return guest.run()


def _int3_ring0(system: System) -> KvmExit:
    """INT3 in 64-bit ring 0: kernels use it at start-up."""
    with _Guest(system, b"\xcc") as guest:
        guest.enter_long_mode(ring3=False)
        guest.set_gate(3, _GOOD)
        return guest.run()


def _syscall_ring3(system: System) -> KvmExit:
    """SYSCALL from 64-bit ring 3: LSTAR's code uses a port, which only ring 0 may."""
    with _Guest(system, b"\x0f\x05") as guest:
        guest.enter_long_mode(ring3=True)
        wanted = {0xC0000081: _CS0 << 32 | 0x18 << 48, 0xC0000082: _GOOD, 0xC0000084: 0x200}
        if guest.vcpu.set_msrs(wanted) != len(wanted):
            return KvmExit(KvmExitReason.UNKNOWN)
        return guest.run()


def _int80_ring3(system: System) -> KvmExit:
    """INT 80h from 64-bit ring 3 through a gate of DPL 3."""
    with _Guest(system, b"\xcd\x80") as guest:
        guest.enter_long_mode(ring3=True)
        guest.set_gate(0x80, _GOOD, dpl=3)
        return guest.run()


def _try(system: System, guest: Callable[[System], KvmExit], name: str, reasons: list[str]) -> bool:
    try:
        left = guest(system)
    except KvmError as error:
        reasons.append(f"{name}: {error}")
        return False
    if _is_good(left):
        return True
    match left:
        case IoExit():
            how = "the guest gets an exception"
        case InternalErrorExit():
            how = "KVM cannot emulate it"
        case _ if left.reason is KvmExitReason.INTR:
            how = "it never ends"
        case _:
            how = f"exit {left.reason.name}"
    reasons.append(f"no {name} ({how})")
    return False


# Cache ---------------------------------------------------------------------------------------------------------


def _lines(result: ProbeResult) -> list[tuple[str, str]]:
    """A result as `remembered` keeps it. The first two are all that a start of a machine reads."""
    lines = [("good", str(result.good)), ("text", result.summary)]
    for field in fields(result):
        value = getattr(result, field.name)
        if field.name == "reasons":
            lines += [("reason", reason) for reason in value]
        else:
            lines.append((field.name, repr(value)))
    return lines


def _result(lines: list[tuple[str, str]] | None) -> ProbeResult | None:
    """The way back; None for what nobody stored."""
    if lines is None:
        return None
    values: dict[str, Any] = {}
    try:
        for field in fields(ProbeResult):
            if field.name == "reasons":
                values["reasons"] = tuple(value for name, value in lines if name == "reason")
            else:
                values[field.name] = _value(dict(lines)[field.name])
    except (KeyError, ValueError):
        return None
    return ProbeResult(**values)


def _value(text: str) -> bool | float | None:
    constants = {"True": True, "False": False, "None": None}
    return constants[text] if text in constants else float(text)
