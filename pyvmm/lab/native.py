"""The kernel's compute loop (csrc/guest/lab/user/loop.h) on the host's own processor: what ring 3 costs with no guest.

The same four instructions, assembled here, in a child process that maps and calls them: the value must be the guest's.

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

_CHILD = """
import ctypes, json, mmap, sys, time
code, count = bytes.fromhex(sys.argv[1]), int(sys.argv[2])
memory = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
memory.write(code)
call = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_uint64)(ctypes.addressof(ctypes.c_char.from_buffer(memory)))
call(1)
began = time.process_time_ns()
value = call(count)
print(json.dumps([value, time.process_time_ns() - began]))
"""


class NativeLoop(NamedTuple):
    """What the loop computed, and the CPU seconds that it took."""

    value: int
    cpu: float


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
    command = [sys.executable, "-c", _CHILD, assemble(_LOOP).hex(), str(count)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"]
        raise PyvmmError(f"the native loop cannot run: {lines[-1]}")
    value, nanoseconds = json.loads(done.stdout)
    return NativeLoop(value, nanoseconds / 1e9)
