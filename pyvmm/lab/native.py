"""The kernel's compute loop (csrc/guest/lab/user/loop.h) on the host's own processor: what ring 3 costs with no guest.

The same four instructions, assembled here, in a child process that maps and calls them: the value must be the guest's.
Cycles are those of the TSC (Intel SDM vol. 3B §18.17): its rate is measured over the loop, beside the host's clock, so
that CPU time, of a guest too, can be told in cycles. A core that is faster or slower at the moment than its TSC takes
others of its own.

Left out: hosts other than Linux on x86-64.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from typing import NamedTuple

from pyvmm.asm import assemble
from pyvmm.errors import PyvmmError

_LOOP = """
    mov eax, 1
    mov rcx, rdi
    movabs rdx, 6364136223846793005
    movabs rsi, 1442695040888963407
turn:
    imul rax, rdx
    add rax, rsi
    dec rcx
    jnz turn
    ret
"""

_RDTSC = """
    rdtsc
    shl rdx, 32
    or rax, rdx
    ret
"""

_CHILD = """
import ctypes, json, mmap, sys, time
code, rdtsc, count = bytes.fromhex(sys.argv[1]), bytes.fromhex(sys.argv[2]), int(sys.argv[3])
memory = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
memory.write(code.ljust(64) + rdtsc)
address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
call = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_uint64)(address)
cycles = ctypes.CFUNCTYPE(ctypes.c_uint64)(address + 64)
call(1), cycles()
began = time.process_time_ns()
clock, tsc = time.monotonic_ns(), cycles()
value = call(count)
clock, tsc = time.monotonic_ns() - clock, cycles() - tsc
print(json.dumps([value, time.process_time_ns() - began, tsc * 10**9 / clock]))
"""


class NativeLoop(NamedTuple):
    """What the loop computed, the CPU seconds that it took, and the host's TSC in hertz.

    The rate is as exact as the loop is long: within a thousandth for a tenth of a second.
    """

    value: int
    cpu: float
    tsc_hz: float


def loop(count: int) -> NativeLoop:
    """Run `count` turns on the host.

    Raises
    ------
    ValueError
        `count` is not from 1 to 2**40.
    PyvmmError
        The host is no Linux on x86-64, or lets no process execute what it has written.
    """
    if not 1 <= count <= 1 << 40:
        raise ValueError(f"count is {count}: 1 to 2**40")
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise PyvmmError(
            f"the native loop needs Linux on x86-64; this is {sys.platform} on {platform.machine()}"
        )
    command = [sys.executable, "-c", _CHILD, assemble(_LOOP).hex(), assemble(_RDTSC).hex(), str(count)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"]
        raise PyvmmError(f"the native loop cannot run: {lines[-1]}")
    value, nanoseconds, tsc_hz = json.loads(done.stdout)
    return NativeLoop(value, nanoseconds / 1e9, tsc_hz)
