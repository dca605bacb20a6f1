"""Code in ring 3 of the host's own CPU: each piece in a child process, whose registers at the trap come back.

As a program (``python native.py``) it reads a JSON list of pieces from standard input and writes the list of results:
it forks for each piece, and has no other threads. The child maps the piece at BASE, points SIGSEGV, SIGILL, SIGBUS,
SIGTRAP and SIGFPE at a handler in machine code, and jumps to it: in 64-bit mode, or by a far return to Linux's 32-bit
code segment in compatibility mode. The handler copies the registers of its ucontext (the trap number is among them,
arch/x86 sigcontext) to a shared page and leaves. A piece ends with UD2.

Left out: anything but Linux on x86-64.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import signal
import struct
import subprocess
import sys
from typing import NamedTuple

BASE, SIZE = 0x10000000, 0x10000
SCRATCH, STACK, HANDLER, ALTERNATE, RESULT = (
    BASE + offset for offset in (0x6000, 0x8000, 0x9000, 0xA000, 0xF000)
)
CS64, CS32, SS, KERNEL_DS = 0x33, 0x23, 0x2B, 0x18
"""Linux's selectors (arch/x86/include/asm/segment.h)."""

_REGISTERS = (
    23  # r8-r15, rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp, rip, eflags, cs..., err, trapno, oldmask, cr2
)
_RAX, _RIP, _ERR, _TRAPNO = 13, 16, 19, 20
_GREGS = 40  # uc_flags, uc_link, uc_stack
_SA_SIGINFO, _SA_ONSTACK = 4, 0x08000000


class NativeResult(NamedTuple):
    """How a piece ended: vector and instruction pointer of the trap, and RAX there. Vector -1: it was killed."""

    vector: int
    error: int
    rip: int
    rax: int


def run(pieces: list[tuple[bytes, int]]) -> list[NativeResult] | str:
    """Run each (code, bits) in a child; or why that is not possible here."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return f"the host is {sys.platform} on {platform.machine()}"
    told = json.dumps([(code.hex(), bits) for code, bits in pieces])
    done = subprocess.run([sys.executable, __file__], input=told, capture_output=True, text=True, timeout=120)
    if done.returncode:
        return done.stderr.strip().splitlines()[-1]
    return [NativeResult(*row) for row in json.loads(done.stdout)]


def _handler() -> bytes:
    """Stores signal and registers, and leaves: System V ABI, the ucontext is in RDX."""
    return (
        b"\x48\xb8" + struct.pack("<Q", RESULT)  # mov rax, RESULT
        + b"\x48\x89\x38"  # mov [rax], rdi
        + b"\x48\x8d\x72" + bytes([_GREGS])  # lea rsi, [rdx + 40]
        + b"\x48\x8d\x78\x08"  # lea rdi, [rax + 8]
        + b"\xb9" + struct.pack("<I", _REGISTERS)  # mov ecx, 23
        + b"\xfc\xf3\x48\xa5"  # cld; rep movsq
        + b"\x31\xff\xb8\xe7\x00\x00\x00\x0f\x05"  # xor edi, edi; mov eax, exit_group; syscall
    )  # fmt: skip


def _entry(bits: int) -> bytes:
    """Onto the piece's stack, with flat data segments, and to BASE."""
    stack = b"\x48\xbc" + struct.pack("<Q", STACK)  # mov rsp, STACK
    if bits == 64:
        return stack + b"\x48\xb8" + struct.pack("<Q", BASE) + b"\xff\xe0"  # mov rax, BASE; jmp rax
    segments = b"\xb8" + struct.pack("<I", SS) + b"\x8e\xd8\x8e\xc0"  # mov eax, SS; mov ds, eax; mov es, eax
    return (
        stack + segments + b"\x6a" + bytes([CS32]) + b"\x68" + struct.pack("<I", BASE) + b"\x48\xcb"
    )  # retfq


def _child(libc: ctypes.CDLL, code: bytes, bits: int) -> None:
    """Never comes back."""
    ctypes.memmove(BASE, code, len(code))
    handler = _handler()
    entry = _entry(bits)
    ctypes.memmove(HANDLER, handler, len(handler))
    ctypes.memmove(HANDLER + 0x100, entry, len(entry))
    stack = struct.pack("<QiiQ", ALTERNATE, 0, 0, RESULT - ALTERNATE)
    libc.sigaltstack(stack, None)
    action = struct.pack("<Q128siiQ", HANDLER, bytes(128), _SA_SIGINFO | _SA_ONSTACK, 0, 0)
    for number in (signal.SIGSEGV, signal.SIGILL, signal.SIGBUS, signal.SIGTRAP, signal.SIGFPE):
        libc.sigaction(int(number), action, None)
    signal.alarm(5)
    ctypes.CFUNCTYPE(None)(HANDLER + 0x100)()


def main() -> None:
    """Read pieces, write results."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [
        ctypes.c_void_p,
        ctypes.c_size_t,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_long,
    ]
    shared_anonymous_noreplace = 0x01 | 0x20 | 0x100000
    if libc.mmap(BASE, SIZE, 7, shared_anonymous_noreplace, -1, 0) != BASE:
        sys.exit(f"the host maps no executable page at {BASE:#x}: {os.strerror(ctypes.get_errno())}")
    results = []
    for code, bits in json.load(sys.stdin):
        ctypes.memset(BASE, 0, SIZE)
        child = os.fork()
        if child == 0:
            try:
                _child(libc, bytes.fromhex(code), bits)
            finally:
                os._exit(1)
        _, status = os.waitpid(child, 0)
        words = struct.unpack(f"<{1 + _REGISTERS}Q", ctypes.string_at(RESULT, 8 * (1 + _REGISTERS)))
        if words[0] == 0:
            results.append((-1, status, 0, 0))
        else:
            results.append((words[1 + _TRAPNO], words[1 + _ERR], words[1 + _RIP], words[1 + _RAX]))
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    main()
