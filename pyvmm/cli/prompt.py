"""The small prompt behind Ctrl-A C: look at a running machine, pause it, reset it, leave it.

The guest keeps running while the prompt is open, until ``pause``. Commands that read registers stop it for a moment.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from pyvmm.errors import PyvmmError

if TYPE_CHECKING:
    from pyvmm.cli.runner import Runner
    from pyvmm.cpu.state import CpuState

HELP = """\
status            is it running, for how long, how many exits
regs              registers
mem GPA [BYTES]   guest-physical memory (default 64 bytes, at most 4096)
dis [GPA] [N]     N instructions at RIP, or at a guest-physical address
pause, resume     stop the guest, let it go on
powerdown         press the power button: the guest shuts down if it likes
reset             push the reset button
quit              end the machine
c, empty line     back to the guest
"""

_GPR = (
    "rax",
    "rbx",
    "rcx",
    "rdx",
    "rsi",
    "rdi",
    "rbp",
    "rsp",
    "r8",
    "r9",
    "r10",
    "r11",
    "r12",
    "r13",
    "r14",
    "r15",
)


class Prompt:
    """Commands on one running machine.

    Parameters
    ----------
    runner
        What runs the machine.
    """

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._commands = {
            "help": self._help,
            "status": self._status,
            "regs": self._regs,
            "mem": self._mem,
            "dis": self._dis,
            "pause": self._pause,
            "resume": self._resume,
            "powerdown": self._powerdown,
            "reset": self._reset,
        }

    def execute(self, line: str) -> str:
        """Run one command line and return what to print; an error is text too, never an exception.

        A beginning that only one command has stands for it: ``st`` for ``status``.
        """
        word, *arguments = line.split()
        names = (
            [word] if word in self._commands else [name for name in self._commands if name.startswith(word)]
        )
        if len(names) != 1:
            return f"{word}: {'could be ' + ', '.join(names) if names else 'no such command'}; try help\n"
        try:
            return self._commands[names[0]](arguments)
        except (ValueError, TimeoutError, PyvmmError) as error:
            return f"{names[0]}: {error}\n"

    def _help(self, arguments: list[str]) -> str:
        return HELP

    def _status(self, arguments: list[str]) -> str:
        runner = self._runner
        state = "paused" if runner.paused else "running"
        seconds = time.monotonic() - runner.started
        return f"{state}; up {seconds:.1f} s; {runner.resets} resets\n"

    def _regs(self, arguments: list[str]) -> str:
        cpu = self._state()
        rows = [_GPR[i : i + 4] for i in range(0, len(_GPR), 4)]
        lines = ["  ".join(f"{name:>3} {getattr(cpu, name):016x}" for name in row) for row in rows]
        lines.append(f"rip {cpu.rip:016x}  rflags {cpu.rflags:08x}")
        lines.append(
            "  ".join(f"cr{n} {getattr(cpu, f'cr{n}'):x}" for n in (0, 2, 3, 4)) + f"  efer {cpu.efer:x}"
        )
        for name in ("cs", "ss", "ds", "es", "fs", "gs"):
            segment = getattr(cpu, name)
            lines.append(
                f"{name} {segment.selector:04x}  base {segment.base:016x}  limit {segment.limit:08x}"
                f"  attributes {segment.attributes:04x}"
            )
        return "\n".join(lines) + "\n"

    def _mem(self, arguments: list[str]) -> str:
        if not arguments:
            raise ValueError("which guest-physical address? write for example mem 0x7c00")
        start = _number(arguments[0])
        size = min(_number(arguments[1]) if len(arguments) > 1 else 64, 4096)
        data = self._runner.machine.memory.read(start, size)
        lines = []
        for offset in range(0, len(data), 16):
            row = data[offset : offset + 16]
            text = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in row)
            lines.append(f"{start + offset:#012x}  {row.hex(' '):<47}  {text}")
        return "\n".join(lines) + "\n"

    def _dis(self, arguments: list[str]) -> str:
        from pyvmm.asm import Bits, disassemble

        cpu = self._state()
        bits: Bits = 16
        if cpu.efer & 0x400 and cpu.cs.attributes & 0x2000:  # EFER.LMA and CS.L (Intel SDM 3A §2.2.1, §3.4.5)
            bits = 64
        elif cpu.cs.attributes & 0x4000:  # CS.D
            bits = 32
        count = _number(arguments[1]) if len(arguments) > 1 else 8
        if arguments:
            address = _number(arguments[0])
        elif cpu.cr0 & (1 << 31):
            raise ValueError("paging is on: give a guest-physical address")
        else:
            address = cpu.cs.base + cpu.rip
        code = self._runner.machine.memory.read(address, min(15 * count, 4096))
        return "\n".join(str(instruction) for instruction in disassemble(code, address, bits)[:count]) + "\n"

    def _pause(self, arguments: list[str]) -> str:
        self._runner.pause()
        return "paused; resume lets it go on\n"

    def _resume(self, arguments: list[str]) -> str:
        self._runner.resume()
        return "running\n"

    def _powerdown(self, arguments: list[str]) -> str:
        self._runner.machine.power_button()
        return "power button pressed; the guest decides\n"

    def _reset(self, arguments: list[str]) -> str:
        self._runner.reset()
        return "reset\n"

    def _state(self) -> CpuState:
        state: CpuState = self._runner.call(lambda: self._runner.machine.vcpu.state)
        return state


def _number(text: str) -> int:
    try:
        value = int(text, 0)
    except ValueError:
        raise ValueError(f"{text!r} is not a number; write for example 0x7c00") from None
    if not 0 <= value < 1 << 64:
        raise ValueError(f"{text} is not between 0 and 2^64")
    return value
