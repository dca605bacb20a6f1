"""The session with the built-in guest's shell, as data: what is typed and what must be answered.

Any machine that boots the guest's disk can be tried with it; test_builtin_guest_qemu.py does it with QEMU. The machine
needs a virtio block device, COM1 on the terminal and an ACPI S5 that ends the process.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import pexpect

PROMPT = r"guest> "
CRASH_SURVIVED = r"The shell starts again on a fresh stack\."
WRITE_LBA = 2100
WRITE_TEXT = "written by the built-in guest"


@dataclass(frozen=True)
class Step:
    """One line typed at the prompt.

    Parameters
    ----------
    command
        The keys.
    expect
        Regular expressions that must follow in this order before the next prompt.
    enter
        Whether Return is pressed after the keys.
    """

    command: str
    expect: tuple[str, ...] = ()
    enter: bool = True


def crash(kind: str, *expect: str) -> Step:
    """Return the step of `crash KIND`, whose report must name what `expect` says and be survived."""
    return Step(f"crash {kind}", (*expect, r"rax [0-9a-f]{16} rbx", r"cr0 [0-9a-f]+ cr2", CRASH_SURVIVED))


def ring3(ending: str, *expect: str) -> Step:
    """Return the step of `ring3 ENDING`: greetings through the open doors, then `expect`."""
    return Step(
        f"ring3 {ending}",
        (
            r"\[ring 0\] IRETQ to ring 3 at 8000000000",
            r"\[ring 3\] CS [0-9a-f]+: CPL 3, code at 80000[0-9a-f]+",
            r"\[ring 3\] hello by INT3: \d+ TSC cycles",
            r"\[ring 3\] SSE2: 1 \+ 1/2 \+ 1/4 \+ \.\.\. = 2\.000",
            r"answers -14 \(EFAULT\)",
            *expect,
        ),
    )


BOOT = (
    r"kernel: in 64-bit mode, starting",
    r"pyvmm built-in guest \d+\.\d+",
    r"memory +\d+ MiB usable",
    r"doors +SYSCALL (to ring 0|stays in ring 3 \(bounced by INT3\)), ",
    r"INT 80h (to ring 0|refused \(#UD\)), INT3 to ring 0",
    r"PCI +[1-9]\d* functions",
)
BOOT_DISK = (*BOOT, r"disk +virtio-blk, 8192 KiB")

BASIC = (
    Step("help", (r"help +", r"poweroff +", r"Keys: arrows")),
    Step(
        "mem",
        (
            r"memory map from the firmware",
            r"000000100000 - [0-9a-f]+ +\d+ KiB +usable",
            r"page_alloc gave [0-9a-f]+",
        ),
    ),
    Step(
        "pages", (r"r-x kernel", r"r-- kernel", r"2048 KiB pages, rw- kernel", r"r-x user", r"NX on, WP on")
    ),
    Step(
        "pages 0x100000",
        (
            r"PML4E \[  0\]",
            r"PDPTE \[  0\]",
            r"PDE ",
            r"PTE +\[256\]",
            r"physical 100000,.*read-only, executable",
        ),
    ),
    Step(
        "pages 0x200000",
        (r"PDE +\[  1\] = [08]000000000200.* PS", r"page of 2048 KiB; ring 0 only, writable, not executable"),
    ),
    Step("pages 0x10", (r"not mapped: PTE is not present",)),
    Step("pages 0x8000000000000000", (r"not canonical",)),
    Step("pages zebra", (r"not an address: zebra",)),
    Step("pci", (r"[1-9]\d* PCI functions", r"class 060000 host bridge")),
    Step("cpuid", (r"vendor \S+, family \d+", r"features:.* nx.* lm")),
    Step("cpuid 0x80000000", (r"CPUID 80000000\.0: eax 8000",)),
    Step("ticks", (r"timer: \d+ ticks at 100 Hz", r" 0: \d+", r"measured over 20 ticks +[1-9]\d*\.\d+ MHz")),
    Step("date", (r"20\d\d-[01]\d-[0-3]\d [0-2]\d:[0-5]\d:[0-5]\d",)),
    Step("uptime", (r"up \d+:\d\d:\d\d\.\d\d",)),
    Step("echo  one   two", (r"\none two\r",)),
    Step("nonsense", (r"nonsense: no such command",)),
    Step("ecko\x7f\x7fho edited", (r"\nedited\r",)),
    Step("cho home\x1b[He\x1b[F!", (r"\nhome!\r",)),
    Step("echo lost\x03", (r"\^C",), enter=False),
    Step("echo kept", (r"\nkept\r",)),
    Step("\x1b[A", (r"echo kept\r+\nkept\r",)),
    Step("up\t", (r"up \d+:",)),
)

RINGS = (
    ring3(
        "",
        r"now a privileged instruction: HLT",
        r"exception 13, #GP",
        r"Explained: HLT",
        r"CPL must be 0",
        r"back in the kernel",
    ),
    ring3("cli", r"exception 13, #GP", r"Explained: CLI"),
    ring3("cr3", r"exception 13, #GP", r"Explained: a two-byte opcode"),
    ring3("out", r"exception 13, #GP", r"Explained: OUT"),
    ring3("peek", r"exception 14, #PF", r"CR2 = 0000000000100000: read by ring 3", r"belongs to the kernel"),
    ring3(
        "null", r"exception 14, #PF", r"CR2 = 0000000000000000: write by ring 3", r"nothing is mapped there"
    ),
    ring3("nx", r"exception 14, #PF", r"instruction fetch by ring 3", r"NX is set"),
    ring3("none", r"\[ring 0\] back in the kernel: the program returned 0"),
    Step("ring3 sing", (r"is one of: hlt",)),
)

CRASHES = (
    crash(
        "pf",
        r"exception 14, #PF page fault, in ring 0",
        r"CR2 = 0000000000000010: write by ring 0, no page there",
    ),
    crash("gp", r"exception 13, #GP", r"in ring 0"),
    crash("ud", r"exception 6, #UD invalid opcode, in ring 0"),
    crash("de", r"exception 0, #DE divide error, in ring 0"),
    crash(
        "df",
        r"exception 8, #DF double fault, in ring 0",
        r"own stack \(IST 1\)",
        r"the guard page below the kernel stack",
    ),
    Step("crash what", (r"crash pf +page fault", r"crash triple +triple fault")),
    Step("echo alive", (r"\nalive\r",)),
)

DISK = (
    Step("disk", (r"virtio-blk at 00:", r"size: 16384 sectors", r"FLUSH\+", r"requests \d+, interrupts \d+")),
    Step("disk read 0", (r"LBA 0:", r"000  fa 31 c0", r"55 aa")),
    Step("disk read 2048", (r"54 68 69 73 20 69 73",)),
    Step(
        f"disk write {WRITE_LBA} {WRITE_TEXT}",
        (rf"LBA {WRITE_LBA}: {len(WRITE_TEXT)} bytes of text written and flushed",),
    ),
    Step(f"disk read {WRITE_LBA}", (r"77 72 69 74 74 65 6e", r"written by the b")),
    Step("disk write 1 overwritten", (r"LBA 1 is outside partition 1 \(2048 to 16383\)",)),
    Step("disk read 16384", (r"beyond the end \(16384 sectors\)",)),
    Step("disk read 18446744073709551616", (r"not a number",)),
    Step("disk sum 16380 5", (r"beyond the end",)),
    Step("disk sum 2048 16", (r"CRC-32 of 16 sectors from LBA 2048: [0-9a-f]{8}",)),
    Step("disk format", (r"usage: disk",)),
)

SESSION = (*BASIC, *DISK, *RINGS, *CRASHES)


def expect_boot(child: pexpect.spawn[str], lines: Sequence[str] = BOOT_DISK, timeout: float = 60) -> None:
    """Wait for the lines of the start and the first prompt."""
    for line in lines:
        child.expect(line, timeout=timeout)
    child.expect(PROMPT, timeout=timeout)


def check(step: Step, answer: str) -> None:
    """Raise AssertionError when `answer` lacks one of the step's expressions, or has them in another order."""
    at = 0
    for pattern in step.expect:
        match = re.compile(pattern).search(answer, at)
        assert match, f"`{step.command}`: no {pattern!r} after offset {at} in:\n{answer}"
        at = match.end()


def run_session(
    child: pexpect.spawn[str], steps: Sequence[Step] = SESSION, timeout: float = 60
) -> dict[str, str]:
    """Type each step and check its answer; the guest must stand at its prompt, and does so again afterwards.

    Returns
    -------
    dict
        The answers by command.

    Raises
    ------
    AssertionError
        An answer is not the expected one.
    pexpect.TIMEOUT, pexpect.EOF
        The prompt did not come back within `timeout` seconds, or the machine ended.
    """
    answers = {}
    for step in steps:
        child.send(step.command + ("\r" if step.enter else ""))
        child.expect(rf"\r\n{PROMPT}", timeout=timeout)
        answers[step.command] = answer = (child.before or "") + "\r\n"
        check(step, answer)
    return answers


def power_off(child: pexpect.spawn[str], timeout: float = 60) -> int | None:
    """Type `poweroff`, wait for the machine to end and return its exit code."""
    child.send("poweroff\r")
    child.expect(r"Good bye\.", timeout=timeout)
    child.expect(pexpect.EOF, timeout=timeout)
    child.close()
    status: int | None = child.exitstatus
    return status
