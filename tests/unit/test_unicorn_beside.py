"""A user's own ``import unicorn`` and the copy that is linked into pyvmm, in one process: neither sees the other.

Each order of importing is a process of its own. Both run instructions for which pyvmm replaces functions of its copy.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import struct, sys
for name in sys.argv[2:]:
    __import__(name)

import unicorn
from unicorn import x86_const as x86
from pyvmm import Machine
from pyvmm.translator import TranslatorEngine

# mov eax, 0x40000000; cpuid; mov esi, ebx; in al, 0x60; mov edi, eax; mov ecx, 0x1b; rdmsr; syscall; hlt
USER = bytes.fromhex("b800000040 0fa2 89de e460 89c7 b91b000000 0f32 0f05 f4")


def emulate():
    engine = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64)
    engine.mem_map(0x1000, 0x1000)
    engine.mem_write(0x1000, USER)
    seen = []
    engine.hook_add(unicorn.UC_HOOK_INSN, lambda uc, port, size, _: seen.append(port) or 7, None, 1, 0,
                    x86.UC_X86_INS_IN)
    engine.hook_add(unicorn.UC_HOOK_INSN, lambda uc, _: seen.append("syscall"), None, 1, 0, x86.UC_X86_INS_SYSCALL)
    engine.emu_start(0x1000, 0x1000 + len(USER))
    read = engine.reg_read
    return seen, read(x86.UC_X86_REG_ESI), read(x86.UC_X86_REG_EDI) & 0xFF, read(x86.UC_X86_REG_RIP)


def machine():
    with Machine(memory=1 << 20, firmware=sys.argv[1], serial="buffer", engine="translator") as guest:
        guest.run(timeout=60)
        return guest.serial.read_text()


alone = emulate()
assert alone[0] == [0x60, "syscall"] and alone[1] == 0 and alone[2] == 7, alone
for _ in range(2):
    assert machine() == "py"  # CPUID's signature (csrc/translator/cpuid.c)
    assert emulate() == alone
engine = TranslatorEngine(remember=False)
assert engine.availability().usable and engine.tier == "fast", engine.availability()
assert emulate() == alone
print("passed")
"""

# mov eax, 0x40000000; cpuid; mov dx, 0x3f8; mov eax, ebx; out dx, al; shr eax, 8; out dx, al; cli; hlt
GUEST = bytes.fromhex("66b800000040 0fa2 baf803 6689d8 ee 66c1e808 ee fa f4")


@pytest.mark.parametrize("order", [["unicorn", "pyvmm._native"], ["pyvmm._native", "unicorn"]])
def test_a_users_unicorn_is_untouched(order: list[str], tmp_path: Path) -> None:
    rom = bytearray(b"\xf4" * 0x10000)
    rom[: len(GUEST)] = GUEST
    rom[0xFFF0:0xFFF3] = b"\xe9\x0d\x00"  # jmp F000:0000
    (tmp_path / "rom").write_bytes(rom)
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "rom"), *order],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (run.returncode, run.stdout) == (0, "passed\n"), run.stderr


def test_no_name_of_the_library_leaves_the_extension() -> None:
    """Nothing another library could be bound to, and nothing that could be bound to another library."""
    from pyvmm import _native

    names = subprocess.run(
        ["nm", "-D", _native.__file__], capture_output=True, text=True, check=True
    ).stdout.split()
    defined = subprocess.run(
        ["nm", "-D", "--defined-only", _native.__file__], capture_output=True, text=True, check=True
    ).stdout.split()
    assert defined[2::3] == ["PyInit__native"]
    assert not [name for name in names if name.startswith("uc_") or name.endswith("_x86_64")]
