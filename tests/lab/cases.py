"""A guest snippet for each row of `pyvmm.cpu.instructions.TABLE`: what a kernel does with it, what shows the result.

A snippet is text for keystone with names in braces, filled in for width, ring and place:

- ``a``, ``b``, ``c``, ``d`` and ``sp`` are registers of the width, ``w`` its letter (``q`` or ``d``), ``m`` scratch
  memory, ``stack`` where the stack begins, ``next`` the address after the instruction;
- ``kernel_data`` is a data segment of ring 0, ``user_cs`` and ``user_ss`` are ring 3's, ``own_cs`` and ``own_ss`` the
  current ones, ``far_cs`` code that any ring may go to by JMP and CALL (a conforming segment of ring 0), ``tss`` a TSS
  that may be loaded.

After ``after``, EAX holds what the instruction showed or did.
"""

from __future__ import annotations

from dataclasses import dataclass

from pyvmm.cpu.instructions import CR4_FSGSBASE

CR4_OSXSAVE = 1 << 18
IF, IOPL = 0x200, 0x3000
BOTH, ONLY_32, ONLY_64 = (32, 64), (32,), (64,)


@dataclass(frozen=True)
class Case:
    """One snippet.

    Attributes
    ----------
    row, form
        Which row of the table it is for, and which form where there are several.
    setup, instruction, after
        Before, the one that counts, and after it.
    bits
        Widths that it exists in.
    flags, cr4
        RFLAGS and bits of CR4 that it needs.
    gate
        It goes through the gate of this vector, whose handler returns; the result is then the CS in its frame.
    native
        The snippet for the host's CPU, where another is needed: as a rule for what Linux answers. None: not run there.
    machine
        Whether a virtual machine has it; otherwise only the host's CPU is asked.
    also
        Other results that the manual allows.
    """

    row: str
    instruction: str
    after: str = ""
    setup: str = ""
    form: str = ""
    bits: tuple[int, ...] = BOTH
    flags: int = 2
    cr4: int = 0
    gate: int | None = None
    native: str | None = ""
    machine: bool = True
    also: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The row's name, with the form."""
        return f"{self.row}, {self.form}" if self.form else self.row


_FAR = "mov dword ptr [{m}], {next}; mov word ptr [{m}+4], {far_cs}; mov ebx, {m}"
_FLAGS = "pushf{w}; pop {a}; and eax, 0x200"
_LOAD = "mov dword ptr [{m}], 0; mov word ptr [{m}+4], {kernel_data}; mov ebx, {m}"
_TABLE = "mov word ptr [{m}], {limit}; mov dword ptr [{m}+2], {table}; mov dword ptr [{m}+6], 0"
_RETURN = (
    "sub {sp}, 16; mov dword ptr [{sp}], {next}; mov dword ptr [{sp}+4], {user_cs}; "
    "mov dword ptr [{sp}+8], {stack}-64; mov dword ptr [{sp}+12], {user_ss}"
)
_RING = "mov ebx, cs"
_RING_CHANGED = "mov eax, cs; xor eax, ebx; and eax, 3"
_TIME = "mov eax, 1"  # the value is another each time; that it is shown at all is the result

CASES = (
    Case("SGDT", "sgdt [{m}]", "mov eax, dword ptr [{m}+2]"),
    Case("SIDT", "sidt [{m}]", "mov eax, dword ptr [{m}+2]"),
    Case("SLDT", "sldt ax", "movzx eax, ax"),
    Case("SMSW", "smsw ax", "movzx eax, ax"),
    Case("PUSHF", "pushf{w}", "pop {a}; and eax, 0x3200", flags=2 | IF),
    Case("POPF", "popf{w}", _FLAGS, "push 0x202"),
    Case("LAR", "lar eax, ecx", "", "mov ecx, {kernel_data}; xor eax, eax"),
    Case("LSL", "lsl eax, ecx", "", "mov ecx, {kernel_data}; xor eax, eax"),
    Case("VERR", "verr cx", "mov eax, 0; setz al", "mov ecx, {kernel_data}"),
    Case("VERW", "verw cx", "mov eax, 0; setz al", "mov ecx, {kernel_data}"),
    Case("POP Sreg", "pop fs", "mov eax, fs", "push {kernel_data}"),
    Case("PUSH Sreg", "push cs", "pop eax; and eax, 3", form="CS", bits=ONLY_32),
    Case("PUSH Sreg", "push fs", "pop rax; and eax, 3", form="FS", bits=ONLY_64),
    Case("CALL far", ".byte 0xff, 0x1b", "mov eax, dword ptr [{sp}+4]; and eax, 3", _FAR),
    Case("JMP far", ".byte 0xff, 0x2b", "mov eax, cs; and eax, 3", _FAR),
    Case("INT n", "int 0x30", gate=0x30, native="int 0x80"),
    Case("RET far", ".byte 0xcb", "mov eax, esp; sub eax, {stack}", _RETURN),
    Case("STR", "str ax", "movzx eax, ax"),
    Case("MOV from Sreg", "mov eax, cs", "and eax, 3"),
    Case("MOV to Sreg", "mov fs, cx", "mov eax, fs", "mov ecx, {kernel_data}"),
    Case("IRET", "iretd", _FLAGS, "pushfd; or dword ptr [esp], 0x200; push {own_cs}; push {next}", bits=ONLY_32),
    Case("IRET", "iretq", _FLAGS, "push {own_ss}; push {stack}; pushfq; or dword ptr [rsp], 0x200; push {own_cs}; "
         "push {next}", bits=ONLY_64),
    Case("INT3", "int3", gate=3),
    Case("INTO", "into", "", "mov al, 0x7f; add al, 1", bits=ONLY_32, gate=4),
    Case("INT1", ".byte 0xf1", gate=1),
    Case("LDS LES", ".byte 0xc4, 0x03", "mov eax, es", _LOAD, "LES", ONLY_32),
    Case("LFS LGS LSS", ".byte 0x0f, 0xb4, 0x03", "mov eax, fs", _LOAD, "LFS"),
    Case("SYSCALL", "syscall", _RING_CHANGED, _RING, bits=ONLY_64, native="mov eax, 39; syscall"),
    Case("SYSENTER", "sysenter", _RING_CHANGED, _RING, native=None),
    Case("CPUID", "cpuid", "mov eax, ebx", "xor eax, eax"),
    Case("RDTSC", "rdtsc", _TIME),
    Case("RDTSCP", "rdtscp", _TIME),
    Case("XGETBV", "xgetbv", "", "xor ecx, ecx", cr4=CR4_OSXSAVE),
    Case("RDFSBASE RDGSBASE", ".byte 0xf3, 0x0f, 0xae, 0xc0", form="RDFSBASE", bits=ONLY_64),
    Case("WRFSBASE WRGSBASE", ".byte 0xf3, 0x0f, 0xae, 0xd0", "mov eax, 1", "xor eax, eax", "WRFSBASE", ONLY_64),
    Case("CLI", "cli", _FLAGS, flags=2 | IF),
    Case("STI", "sti", _FLAGS),
    Case("IN", "in al, 0xe0", "movzx eax, al"),
    Case("OUT", "out 0xe0, al", "mov eax, 1"),
    Case("INS", "insb", "movzx eax, byte ptr [{m}]", "mov edi, {m}; mov edx, 0xe0"),
    Case("OUTS", "outsb", "mov eax, 1", "mov esi, {m}; mov edx, 0xe0"),
    Case("LGDT", "lgdt [{m}]", "mov eax, 1", _TABLE.replace("{table}", "{gdt}").replace("{limit}", "0xff")),
    Case("LIDT", "lidt [{m}]", "mov eax, 1", _TABLE.replace("{table}", "{idt}").replace("{limit}", "{idt_limit}")),
    Case("LLDT", "lldt cx", "mov eax, 1", "xor ecx, ecx"),
    Case("LTR", "ltr cx", "mov eax, 1", "mov ecx, {tss}"),
    Case("LMSW", "lmsw cx", "mov eax, 1", "mov ecx, 0x33"),
    Case("MOV CRn", "mov {a}, cr0", "mov eax, 1", form="from CR0"),
    Case("MOV CRn", "mov cr2, {a}", "mov eax, 1", form="to CR2"),
    Case("MOV CRn", "mov rax, cr8", "mov eax, 1", form="from CR8", bits=ONLY_64),
    Case("MOV DRn", "mov {a}, dr7", "mov eax, 1", form="from DR7"),
    Case("MOV DRn", "mov dr0, {a}", "mov eax, 1", form="to DR0"),
    Case("CLTS", "clts", "mov eax, 1"),
    Case("HLT", "hlt"),
    Case("INVD", "invd", "mov eax, 1"),
    Case("WBINVD", "wbinvd", "mov eax, 1"),
    Case("INVLPG", "invlpg [{m}]", "mov eax, 1"),
    Case("RDMSR", "rdmsr", _TIME, "mov ecx, 0x10"),
    Case("WRMSR", "wrmsr", "mov eax, 1", "mov ecx, 0x174; xor eax, eax; xor edx, edx"),
    Case("RDPMC", "rdpmc", _TIME, "xor ecx, ecx", also=("#GP in ring 0 too",)),  # no such counter
    Case("SWAPGS", "swapgs", "mov eax, 1", bits=ONLY_64),
    Case("SYSRET", ".byte 0x48, 0x0f, 0x07", "mov eax, 1", "mov ecx, {next}; mov r11d, 2", bits=ONLY_64),
    Case("SYSEXIT", ".byte 0x48, 0x0f, 0x35", "mov eax, 1", "mov edx, {next}; mov ecx, {stack}", bits=ONLY_64),
    Case("SYSEXIT", ".byte 0x0f, 0x35", "mov eax, 1", "mov edx, {next}; mov ecx, {stack}", bits=ONLY_32),
    Case("XSETBV", "xsetbv", "mov eax, 1", "xor ecx, ecx; xor edx, edx; mov eax, 3", cr4=CR4_OSXSAVE),
    Case("RDPID", ".byte 0xf3, 0x0f, 0xc7, 0xf8", machine=False),
    Case("INVPCID", ".byte 0x66, 0x0f, 0x38, 0x82, 0x03", "", "mov ebx, {m}; xor eax, eax", machine=False),
    Case("XRSTORS", ".byte 0x0f, 0xc7, 0x1b", "", "mov ebx, {m}", machine=False),
    Case("XSAVES", ".byte 0x0f, 0xc7, 0x2b", "", "mov ebx, {m}", machine=False),
    Case("MONITOR", "monitor", "", "mov eax, {m}; xor ecx, ecx; xor edx, edx", machine=False),
    Case("MWAIT", "mwait", "", "xor eax, eax; xor ecx, ecx", machine=False),
    Case("CLAC", "clac", machine=False),
    Case("STAC", "stac", machine=False),
    Case("VMX", ".byte 0x0f, 0x01, 0xc4", form="VMXOFF", machine=False),
    Case("SVM", ".byte 0x0f, 0x01, 0xdc", form="STGI", machine=False),
)  # fmt: skip

NOT_RUN = {"VMCALL VMMCALL": "it would call the hypervisor below the host"}
"""Rows without a case, and why."""

NATIVE_CR4 = CR4_FSGSBASE
"""What Linux sets, of the bits that matter (arch/x86/kernel/cpu/common.c), beside UMIP where the CPU has it."""
