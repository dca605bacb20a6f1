/*
 * Snippets of ring 0 code, one or a few for each instruction that a monitor emulates: csrc/tests/test_monitor.c
 * runs each on an engine alone and under a monitor. They leave what they saw in registers and memory, and never use
 * what reads privileged state without a trap (PUSHF, SGDT, MOV from CS): there a deprivileged kernel *is* wrong.
 */
#ifndef PYVMM_TESTS_MONITOR_SNIPPETS_H
#define PYVMM_TESTS_MONITOR_SNIPPETS_H

#include "tests/monitor_rig.h"

typedef struct Snippet {
    const char *name; /* "~...": not on KVM, for the reason that is given there; "%...": not under translation */
    const uint8_t *code, *end, *fault; /* `fault` and what follows: of MANUAL */
    uint64_t vector, error;
} Snippet;

/* In order, between the linker's symbols of that section. */
#define SNIPPET_WITH(name, text, expected)                                                                         \
    __asm__(".pushsection .rodata\n"                                                                               \
            "971: .asciz \"" name "\"\n"                                                                           \
            "972:\n" text "\n"                                                                                     \
            "973:\n"                                                                                               \
            ".popsection\n"                                                                                        \
            ".pushsection snippets, \"aw\"\n"                                                                      \
            ".balign 8\n"                                                                                          \
            ".quad 971b, 972b, 973b, " expected "\n"                                                               \
            ".popsection\n");
#define SNIPPET(name, text) SNIPPET_WITH(name, text, "0, 0, 0")
/* Where the translator departs from the manual: the first exception is to be this one, of the instruction at label
 * 9, and all the rest the same under every technique. */
#define MANUAL(name, vector, error, text) SNIPPET_WITH(name, text, "9b, " vector ", " error)
extern const Snippet __start_snippets[], __stop_snippets[];

/* To ring 3 with interrupts off; RAX is lost. */
#define TO_USER                                                                                                    \
    "pushq $" N(RIG_USER_SS) "\n pushq $" N(RIG_USER_STACK) "\n pushq $2\n pushq $" N(                             \
        RIG_USER_CS) "\n"                                                                                          \
                     "leaq 1f(%rip), %rax\n pushq %rax\n iretq\n 1:\n"
#define WRMSR(msr, high, low) "movl $" msr ", %ecx\n movl $" high ", %edx\n movl $" low ", %eax\n wrmsr\n"
#define RDMSR(msr)            "movl $" msr ", %ecx\n rdmsr\n"

SNIPPET("nothing", "nop")

/* ---- control and debug registers ---- */
SNIPPET("mov cr0", "movq %cr0, %rax\n movq %rax, %rbx\n xorq $0x50000, %rax\n movq %rax, %cr0\n movq %cr0, %rcx")
SNIPPET("mov cr0, high half", "movq %cr0, %rax\n btsq $40, %rax\n movq %rax, %cr0")
SNIPPET("mov cr0, PG without PE", "movq %cr0, %rax\n andq $~1, %rax\n movq %rax, %cr0")
SNIPPET("mov cr0, NW without CD", "movq %cr0, %rax\n btsq $29, %rax\n movq %rax, %cr0")
SNIPPET("mov cr0, CD and NW",
        "movq %cr0, %rax\n orl $0x60000000, %eax\n movq %rax, %cr0\n movq %cr0, %rbx\n wbinvd")
SNIPPET("mov cr0, without ET", "movq %cr0, %rax\n btrq $4, %rax\n movq %rax, %cr0\n movq %cr0, %rbx")
MANUAL("mov cr0, without PG", "13", "0", "movq %cr0, %rax\n btrq $31, %rax\n  9: movq %rax, %cr0")
SNIPPET("mov cr1", ".byte 0x0f, 0x20, 0xc8")
SNIPPET("mov to cr5", ".byte 0x0f, 0x22, 0xe8")
SNIPPET("mov cr2", "movq $0x123456789abcdef0, %rax\n movq %rax, %cr2\n movq %cr2, %r15")
SNIPPET("mov cr3", "movq %cr3, %r9\n movq %r9, %cr3\n movq %cr3, %rcx")
SNIPPET("mov cr3, cache bits", "movq %cr3, %rax\n orq $0x18, %rax\n movq %rax, %cr3\n movq %cr3, %rcx")
SNIPPET(
    "mov cr3, low bits",
    "movq %cr3, %rax\n orl $0xfe7, %eax\n movq %rax, %cr3\n movq %cr3, %rcx\n andl $~0xfe7, %eax\n movq %rax, %cr3")
SNIPPET("mov cr3, beyond the physical address", "movq %cr3, %rax\n btsq $51, %rax\n movq %rax, %cr3")
SNIPPET("mov cr3, bit 63", "movq %cr3, %rax\n btsq $63, %rax\n movq %rax, %cr3")
SNIPPET("mov cr3, other tables",
        "movl $0x100000, %edi\n movl $" N(RIG_PML4) ", %esi\n movl $512, %ecx\n rep movsq\n"
                                                    "movl $0x100000, %eax\n movq %rax, %cr3\n movq " N(
                                                        RIG_DATA) ", %rbx\n"
                                                                  "movl $" N(RIG_PML4) ", %eax\n movq %rax, %cr3")
SNIPPET("mov cr4", "movq %cr4, %rax\n orq $0x80, %rax\n movq %rax, %cr4\n movq %cr4, %rcx\n"
                   "andq $~0x80, %rax\n movq %rax, %cr4")
SNIPPET("mov cr4, without PAE", "movq %cr4, %rax\n andq $~0x20, %rax\n movq %rax, %cr4")
SNIPPET("mov cr4, reserved bit", "movq %cr4, %rax\n btsq $30, %rax\n movq %rax, %cr4")
SNIPPET("mov cr4, LA57", "movq %cr4, %rax\n btsq $12, %rax\n movq %rax, %cr4")
SNIPPET("mov cr4, high half", "movq %cr4, %rax\n btsq $33, %rax\n movq %rax, %cr4")
SNIPPET("mov cr4, VMXE", "movq %cr4, %rax\n btsq $13, %rax\n movq %rax, %cr4")
SNIPPET("mov cr8", "movl $5, %eax\n movq %rax, %cr8\n movq %cr8, %rbx\n movl $0, %eax\n movq %rax, %cr8")
SNIPPET("mov cr8, r12", "movl $9, %r12d\n movq %r12, %cr8\n movq %cr8, %r13")
SNIPPET("mov cr8, too much", "movl $16, %eax\n movq %rax, %cr8")
SNIPPET("mov cr8, far too much", "movl $1, %eax\n rorq $1, %rax\n movq %rax, %cr8")
SNIPPET("mov dr", "movl $0x1234, %eax\n movq %rax, %dr0\n movq %rax, %dr3\n movq %dr3, %rbx\n movq %dr6, %rcx\n"
                  "movq %dr7, %rdx\n movq %dr1, %rsi")
SNIPPET("mov dr4, dr5", "movq %dr6, %rax\n movl $0x400, %ebx\n movq %rbx, %db5\n movq %db4, %rcx\n movq %db5, %rdx")
SNIPPET("mov dr4, DE", "movq %cr4, %rax\n orl $8, %eax\n movq %rax, %cr4\n movq %db4, %rcx")
SNIPPET("mov to dr5, DE", "movq %cr4, %rax\n orl $8, %eax\n movq %rax, %cr4\n movq %rcx, %db5")
SNIPPET("mov dr6", "xorl %eax, %eax\n movq %rax, %dr6\n movq %dr6, %rbx\n movl $0xffffefff, %eax\n movq %rax, "
                   "%dr6\n movq %dr6, %rcx\n movl $0xffff0ff0, %eax\n movq %rax, %dr6")
SNIPPET("mov dr7", "xorl %eax, %eax\n movq %rax, %dr7\n movq %dr7, %rbx\n movl $0xdc00, %eax\n movq %rax, %dr7\n "
                   "movq %dr7, %rcx\n movl $0x400, %eax\n movq %rax, %dr7")
MANUAL("mov dr6, high half", "13", "0", "movq $-1, %rax\n 9: movq %rax, %dr6")
MANUAL("mov dr7, high half", "13", "0", "btsq $40, %rax\n 9: movq %rax, %dr7")
SNIPPET("mov dr0, all bits", "movq $-2, %rax\n movq %rax, %dr0\n movq %dr0, %rbx")
MANUAL("mov dr7, GD", "1", "0", "movl $0x2400, %eax\n movq %rax, %dr7\n 9: movq %dr0, %rbx")
SNIPPET("mov dr8", ".byte 0x44, 0x0f, 0x21, 0xc0")
SNIPPET("clts", "movq %cr0, %rax\n orq $8, %rax\n movq %rax, %cr0\n movq %cr0, %rbx\n clts\n movq %cr0, %rcx")
SNIPPET("lmsw", "movl $0xb, %eax\n lmsw %ax\n movq %cr0, %rbx\n clts")
SNIPPET("lmsw cannot clear PE", "movl $2, %eax\n lmsw %ax\n movq %cr0, %rbx")
SNIPPET("lmsw of memory", "movw $0x3, " N(RIG_DATA) "\n lmsw " N(RIG_DATA) "\n movq %cr0, %rbx")
/* Ring 3 of a KVM without VT-x or SVM has TS clear. */
SNIPPET("~TS makes FPU instructions fault", "movq %cr0, %rax\n orq $8, %rax\n movq %rax, %cr0\n fninit")

/* ---- descriptor tables ---- */
SNIPPET("lgdt", "movw $0x7f, " N(RIG_DATA) "\n movq $" N(RIG_GDT) ", " N(RIG_DATA) "+2\n lgdt " N(RIG_DATA))
SNIPPET("lidt", "movw $0xeff, " N(RIG_DATA) "\n movq $" N(RIG_IDT) ", " N(RIG_DATA) "+2\n lidt " N(RIG_DATA))
SNIPPET("lidt, an absent page", "lidt " N(RIG_ABSENT))
MANUAL("lgdt, not canonical", "13", "0",
       "movw $0x7f, " N(RIG_DATA) "\n btsq $60, %rax\n movq %rax, " N(RIG_DATA) "+2\n 9: lgdt " N(RIG_DATA))
MANUAL("lidt, not canonical", "13", "0",
       "movw $0x7f, " N(RIG_DATA) "\n btsq $60, %rax\n movq %rax, " N(RIG_DATA) "+2\n 9: lidt " N(RIG_DATA))
SNIPPET("lgdt of a register", ".byte 0x0f, 0x01, 0xd0")
SNIPPET("lgdt, its operand not canonical", "btsq $60, %rax\n lgdt (%rax)")
SNIPPET("lldt", "movl $" N(RIG_LDTR) ", %eax\n lldt %ax\n movl $" N(RIG_LDT_DATA) ", %eax\n movl %eax, %ds")
SNIPPET("lldt null", "xorl %eax, %eax\n lldt %ax")
SNIPPET("lldt of a data segment", "movl $" N(RIG_SS) ", %eax\n lldt %ax")
SNIPPET("lldt beyond the limit", "movl $0x200, %eax\n lldt %ax")
SNIPPET("ltr",
        "andb $~2, " N(RIG_GDT) "+0x2d\n movl $" N(RIG_TR) ", %eax\n ltr %ax\n movzbl " N(RIG_GDT) "+0x2d, %ebx")
SNIPPET("ltr of memory", "andb $~2, " N(RIG_GDT) "+0x2d\n movw $" N(RIG_TR) ", " N(RIG_DATA) "\n ltr " N(RIG_DATA))
SNIPPET("ltr of a busy TSS", "orb $2, " N(RIG_GDT) "+0x2d\n movl $" N(RIG_TR) ", %eax\n ltr %ax")
MANUAL("ltr null", "13", "0", "xorl %eax, %eax\n 9: ltr %ax")
MANUAL("ltr null, RPL 3", "13", "0", "movl $3, %eax\n 9: ltr %ax")
SNIPPET("ltr not present", "andb $~0x82, " N(RIG_GDT) "+0x2d\n movl $" N(RIG_TR) ", %eax\n ltr %ax")
MANUAL("ltr, a base that is not canonical", "13", "0x28",
       "andb $~2, " N(RIG_GDT) "+0x2d\n movl $0x00800000, " N(RIG_GDT) "+0x30\n movl $" N(
           RIG_TR) ", %eax\n 9: ltr %ax")
MANUAL("lldt, a base that is not canonical", "13", "0x38",
       "movl $0x00800000, " N(RIG_GDT) "+0x40\n movl $" N(RIG_LDTR) ", %eax\n 9: lldt %ax")
SNIPPET("ltr of the LDT", "movl $" N(RIG_LDT_DATA) ", %eax\n ltr %ax")
SNIPPET("lldt not present", "andb $0x7f, " N(RIG_GDT) "+0x3d\n movl $" N(RIG_LDTR) ", %eax\n lldt %ax")

/* ---- caches and TLB ---- */
SNIPPET("invlpg", "invlpg " N(RIG_DATA) "\n movq " N(RIG_DATA) ", %rax")
SNIPPET("invd, wbinvd", "invd\n wbinvd")
SNIPPET("invlpg, not canonical", "btsq $60, %rax\n invlpg (%rax)")
SNIPPET("invlpg of a register", ".byte 0x0f, 0x01, 0xfa")

/* ---- model-specific registers ---- */
SNIPPET("efer", RDMSR("0xc0000080") "movl %eax, %ebx\n orl $1, %eax\n wrmsr\n rdmsr")
SNIPPET("efer, reserved bit", RDMSR("0xc0000080") "btsl $5, %eax\n wrmsr")
SNIPPET("efer, high half", RDMSR("0xc0000080") "btsl $3, %edx\n wrmsr")
SNIPPET("efer, LMA clear", RDMSR("0xc0000080") "btrl $10, %eax\n wrmsr\n rdmsr")
SNIPPET("efer, LME clear", RDMSR("0xc0000080") "btrl $8, %eax\n wrmsr\n rdmsr")
SNIPPET(
    "efer, NXE clear and set",
    RDMSR(
        "0xc0000080") "btrl $11, %eax\n wrmsr\n movl %eax, %ebx\n rdmsr\n movl %eax, %esi\n btsl $11, %eax\n wrmsr")
SNIPPET("efer, NXE clear and XD set", RDMSR("0xc0000080") "btrl $11, %eax\n wrmsr\n btsq $63, " N(
                                          RIG_PT) "+0x70*8\n invlpg " N(RIG_DATA) "\n movq " N(RIG_DATA) ", %rbx")
SNIPPET("fmask, high half", WRMSR("0xc0000084", "1", "0x700"))
SNIPPET("tsc_aux", WRMSR("0xc0000103", "0", "0x77") RDMSR("0xc0000103"))
SNIPPET("tsc_aux, high half", WRMSR("0xc0000103", "1", "0x77"))
SNIPPET("sysenter_eip, not canonical", WRMSR("0x176", "0x00800000", "0"))
SNIPPET("kernel gs base, not canonical", WRMSR("0xc0000102", "0x00800000", "0"))
SNIPPET("pat, a type that there is not", WRMSR("0x277", "0x00070406", "0x00070402"))
SNIPPET("pat, reserved bits", WRMSR("0x277", "0x00070406", "0x00070416"))
SNIPPET("an MSR that there is not, read", RDMSR("0x12345678"))
SNIPPET("an MSR that there is not, written", WRMSR("0x12345678", "0", "0"))
SNIPPET("apic base, reserved bits", WRMSR("0x1b", "0", "0xfee00904"))
SNIPPET("apic base, beyond the physical address", WRMSR("0x1b", "0x40000000", "0xfee00900"))
SNIPPET("star, lstar, cstar, fmask",
        WRMSR("0xc0000081", "0x00100008", "1") WRMSR("0xc0000082", "0x12", "0x3456789a")
            WRMSR("0xc0000083", "0", "0x77") WRMSR("0xc0000084", "0", "0x47700") RDMSR("0xc0000082"))
SNIPPET("lstar, not canonical", WRMSR("0xc0000082", "0x00800000", "0"))
SNIPPET("fs base", WRMSR("0xc0000100", "0", N(RIG_DATA)) "movq %fs:8, %rbx\n" RDMSR("0xc0000100"))
SNIPPET("gs base", WRMSR("0xc0000101", "0", N(RIG_DATA)) "movq %gs:16, %rbx\n" RDMSR("0xc0000101"))
SNIPPET("gs base, not canonical", WRMSR("0xc0000101", "0x80000000", "0"))
SNIPPET("swapgs",
        WRMSR("0xc0000101", "0", N(RIG_DATA))
            WRMSR("0xc0000102", "0",
                  N(RIG_USER_DATA)) "movq %gs:8, %rbx\n swapgs\n movq %gs:0x108, %rsi\n" RDMSR("0xc0000102"))
SNIPPET("an MSR in memory's segment",
        WRMSR("0xc0000100", "0", N(RIG_DATA)) "movl $0x20, %eax\n movq %fs:(%rax), %r8")
SNIPPET("pat", RDMSR("0x277") "movl %eax, %ebx\n xorl $0x01, %eax\n wrmsr\n rdmsr")
SNIPPET("sysenter registers",
        WRMSR("0x174", "0", "8") WRMSR("0x175", "0", "0x1000") WRMSR("0x176", "0", "0x2000") RDMSR("0x176"))

/* ---- SYSCALL and SYSRET ---- */
#define SYSCALLS(handler)                                                                                          \
    RDMSR("0xc0000080")                                                                                            \
    "orl $1, %eax\n wrmsr\n" WRMSR("0xc0000081", "0x00100008", "0")                                                \
        WRMSR("0xc0000084", "0", "0x700") "movl $0xc0000082, %ecx\n leaq " handler "(%rip), %rax\n"                \
                                          "movq %rax, %rdx\n shrq $32, %rdx\n wrmsr\n"
SNIPPET("syscall", SYSCALLS("2f") TO_USER "std\n syscall\n 2: movl $7, %r15d")
SNIPPET("syscall of ring 0", SYSCALLS("2f") "syscall\n nop\n 2: movl $7, %r15d")
/* Such a KVM's SYSCALL has overwritten RCX and R11 before the monitor sees it. */
SNIPPET("~syscall without SCE", "syscall")
SNIPPET("sysret", SYSCALLS("2f") "leaq 3f(%rip), %rcx\n movl $0x402, %r11d\n movl $" N(
                      RIG_USER_STACK) ", %esp\n"
                                      "sysretq\n 2: nop\n 3: movl $9, %r15d")
SNIPPET("sysret and syscall", SYSCALLS("2f") "leaq 3f(%rip), %rcx\n movl $2, %r11d\n sysretq\n"
                                             "3: movl $9, %r15d\n syscall\n 2: movl $8, %r14d")
SNIPPET("sysret of ring 3", SYSCALLS("2f") TO_USER "2: sysretq")
SNIPPET("sysret without SCE", "sysretq")
MANUAL("sysret, RCX not canonical", "13", "0",
       SYSCALLS("2f") "2: movq $0x800000000000, %rcx\n movl $2, %r11d\n 9: sysretq")
SNIPPET("sysret, all flags",
        SYSCALLS("2f") "leaq 3f(%rip), %rcx\n movl $0x243cd7, %r11d\n sysretq\n 2: nop\n 3: movl $9, %r15d")
SNIPPET("syscall, all flags in the mask",
        SYSCALLS("2f") WRMSR("0xc0000084", "0", "0x7fffffff") TO_USER "std\n stc\n syscall\n 2: movl $7, %r15d")
SNIPPET("sysenter, no CS", "sysenter")
SNIPPET("sysenter of ring 3, no CS", TO_USER "sysenter")
SNIPPET("~sysexit, no CS", "sysexit")
SNIPPET("~sysexit of ring 3", TO_USER "sysexit")
SNIPPET("sysenter of ring 3",
        WRMSR("0x174", "0", "8")
            WRMSR("0x175", "0",
                  N(RIG_STACK)) "movl $0x176, %ecx\n leaq 2f(%rip), %rax\n xorl %edx, %edx\n wrmsr\n" TO_USER
                                "std\n sysenter\n 2: movl $7, %r15d")
SNIPPET("~sysexit",
        WRMSR("0x174", "0",
              "8") "movl $" N(RIG_USER_STACK) ", %ecx\n leaq 2f(%rip), %rdx\n rex.w sysexit\n 2: movl $7, %r15d")

/* ---- interrupt flag, HLT, interrupts ---- */
SNIPPET("sti, cli", "sti\n nop\n cli")
SNIPPET("sti stays on", "sti")
SNIPPET("an interrupt waits for sti; hlt", "outb %al, $" N(RIG_IRQ_PORT) "\n movl $1, %ebx\n sti\n hlt\n cli")
SNIPPET("an interrupt that iretq lets in",
        "outb %al, $" N(RIG_IRQ_PORT) "\n pushq $" N(RIG_SS) "\n pushq $" N(
            RIG_STACK) "\n pushq $0x202\n"
                       "pushq $" N(RIG_CS) "\n leaq 1f(%rip), %rax\n pushq %rax\n iretq\n 1: cli")
SNIPPET("int n", "movl $3, %ebx\n int $0x40\n incl %ebx")
SNIPPET("int 3", "int3\n incl %ebx")
SNIPPET("int n of ring 3", TO_USER "int $0x40\n incl %ebx")
SNIPPET("int 3 of ring 3", TO_USER "int3\n incl %ebx")
SNIPPET("int n of ring 3, a gate of ring 0", TO_USER "int $0x30")
SNIPPET("int n of ring 3, an exception's gate", TO_USER "int $14")
SNIPPET("int n, beyond the limit",
        "movw $0x5ff, " N(RIG_DATA) "\n movq $" N(RIG_IDT) ", " N(RIG_DATA) "+2\n lidt " N(RIG_DATA) "\n int $0x60")
SNIPPET("int n, gate not present", "andb $0x7f, " N(RIG_IDT) "+0x405\n int $0x40")
SNIPPET("int n, no gate", "movb $0x80, " N(RIG_IDT) "+0x405\n int $0x40")
SNIPPET("int n, trap gate", "sti\n orb $1, " N(RIG_IDT) "+0x405\n int $0x40")
SNIPPET("int n, IST", "movb $1, " N(RIG_IDT) "+0x404\n int $0x40")
SNIPPET("int n, null selector", "movw $0, " N(RIG_IDT) "+0x402\n int $0x40")
SNIPPET("int n, data selector", "movw $" N(RIG_SS) ", " N(RIG_IDT) "+0x402\n int $0x40")
SNIPPET("int n, selector beyond the limit", "movw $0x208, " N(RIG_IDT) "+0x402\n int $0x40")
SNIPPET("int n, code of ring 3", "movw $" N(RIG_USER_CS) ", " N(RIG_IDT) "+0x402\n int $0x40")
SNIPPET("int n, 32-bit code", "movb $0xcf, " N(RIG_GDT) "+0x26\n movb $0x9b, " N(RIG_GDT) "+0x25\n movw $" N(
                                  RIG_USER_CS) ", " N(RIG_IDT) "+0x402\n int $0x40")
SNIPPET("int n, conforming code",
        "movb $0x9f, " N(RIG_GDT) "+0x25\n movw $" N(RIG_USER_CS) ", " N(RIG_IDT) "+0x402\n" TO_USER
                                                                                  "int $0x40\n movl $5, %r15d")
SNIPPET("int n, code in the LDT",
        "movl $" N(RIG_LDTR) ", %eax\n lldt %ax\n movq " N(RIG_GDT) "+8, %rbx\n movq %rbx, " N(
            RIG_LDT) "+16\n movw $0x14, " N(RIG_IDT) "+0x402\n int $0x40\n movl $5, %r15d")
MANUAL("int n, the handler not canonical", "13", "0", "movl $0x00800000, " N(RIG_IDT) "+0x408\n 9: int $0x40")
SNIPPET("int n, a call gate", "movb $0x8c, " N(RIG_IDT) "+0x405\n int $0x40")
SNIPPET("an exception, gate not present", "andb $0x7f, " N(RIG_IDT) "+0x65\n ud2")
SNIPPET("a page fault, its gate not present",
        "movb $0, " N(RIG_IDT) "+0x84\n andb $0x7f, " N(RIG_IDT) "+0xe5\n movq " N(RIG_ABSENT) "+8, %rax")
SNIPPET("int n, IST beyond the TSS", "movw $0x2a, " N(RIG_GDT) "+0x28\n andb $~2, " N(RIG_GDT) "+0x2d\n movl $" N(
                                         RIG_TR) ", %eax\n ltr %ax\n movb $2, " N(RIG_IDT) "+0x404\n int $0x40")
MANUAL("int n, stack not canonical", "12", "0",
       "movb $2, " N(RIG_IDT) "+0x404\n btsq $60, %rax\n movq %rax, " N(RIG_TSS) "+0x2c\n 9: int $0x40")
SNIPPET("int n, flags of the handler", "pushq $0x40cd5\n popfq\n int $0x40\n cld\n pushq $2\n popfq")
/* To a handler without an IST: with one, the translator loads a null SS, against 3A §6.14.5. */
SNIPPET("double fault", "movb $0, " N(RIG_IDT) "+0x84\n movw $0x8f, " N(RIG_DATA) "\n movq $" N(RIG_IDT) ", " N(
                            RIG_DATA) "+2\n"
                                      "andb $0x7f, " N(RIG_IDT) "+0xd5\n lidt " N(RIG_DATA) "\n int $0x60")

/* ---- IRET and far transfers --------------------------------------------------------------------------------- */
#define IRET_TO(cs, ss, flags)                                                                                     \
    "pushq $" ss "\n pushq $" N(RIG_STACK) "-0x100\n pushq $" flags "\n pushq $" cs "\n"                           \
                                           "leaq 1f(%rip), %rax\n pushq %rax\n iretq\n 1: movl $5, %r15d"
SNIPPET("iretq", IRET_TO(N(RIG_CS), N(RIG_SS), "0x8d7"))
SNIPPET("iretq, IF", IRET_TO(N(RIG_CS), N(RIG_SS), "0x202"))
SNIPPET("iretq, IOPL", IRET_TO(N(RIG_CS), N(RIG_SS), "0x3002"))
SNIPPET("iretq, null SS", IRET_TO(N(RIG_CS), "0", "2"))
SNIPPET("iretq to ring 3", TO_USER "movl $5, %r15d")
SNIPPET("iretq to ring 3, null SS", IRET_TO(N(RIG_USER_CS), "3", "2"))
SNIPPET("iretq, null CS", IRET_TO("0", N(RIG_SS), "2"))
SNIPPET("iretq, data segment", IRET_TO(N(RIG_SS), N(RIG_SS), "2"))
SNIPPET("iretq, RPL is not DPL", IRET_TO("0x0b", N(RIG_SS), "2"))
SNIPPET("iretq, SS of another ring", IRET_TO(N(RIG_CS), N(RIG_USER_SS), "2"))
SNIPPET("iretq, beyond the limit", IRET_TO("0x208", N(RIG_SS), "2"))
MANUAL("iretq, RIP not canonical", "13", "0",
       "pushq $" N(RIG_SS) "\n pushq $" N(RIG_STACK) "\n pushq $2\n pushq $" N(
           RIG_CS) "\n movq $0x800000000000, %rax\n pushq %rax\n 9: iretq")
MANUAL("iretq to ring 3, RIP not canonical", "13", "0",
       "pushq $" N(RIG_USER_SS) "\n pushq $" N(RIG_USER_STACK) "\n pushq $2\n pushq $" N(
           RIG_USER_CS) "\n movq $0x800000000000, %rax\n pushq %rax\n 9: iretq")
SNIPPET(
    "iretq, RSP not canonical",
    "pushq $" N(RIG_SS) "\n btsq $60, %rax\n pushq %rax\n pushq $2\n pushq $" N(
        RIG_CS) "\n leaq 1f(%rip), %rax\n pushq %rax\n iretq\n 1: movq %rsp, %rbx\n movl $" N(RIG_STACK) ", %esp")
SNIPPET("iretq, NT", "pushq $0x4002\n popfq\n" IRET_TO(N(RIG_CS), N(RIG_SS), "2"))
SNIPPET("iretq, CS not present", "andb $0x7f, " N(RIG_GDT) "+0x25\n" IRET_TO(N(RIG_USER_CS), N(RIG_USER_SS), "2"))
MANUAL("iretq, SS not present", "12", "0x18",
       "andb $0x7f, " N(RIG_GDT) "+0x1d\n pushq $" N(RIG_USER_SS) "\n pushq $" N(
           RIG_USER_STACK) "\n pushq $2\n pushq $" N(RIG_USER_CS) "\n pushq %rax\n 9: iretq")
SNIPPET("iretq, SS is code", IRET_TO(N(RIG_CS), N(RIG_CS), "2"))
SNIPPET("iretq, SS beyond the limit", IRET_TO(N(RIG_CS), "0x208", "2"))
SNIPPET("iretq, all flags", IRET_TO(N(RIG_CS), N(RIG_SS), "0x243cd7"))
SNIPPET("iretq, virtual 8086 flags", IRET_TO(N(RIG_CS), N(RIG_SS), "0x1a0002"))
SNIPPET("iretq takes away ds", "movl $" N(RIG_SS) ", %eax\n movl %eax, %ds\n movl %eax, %fs\n movl $" N(
                                   RIG_USER_SS) ", %eax\n movl %eax, %es\n" TO_USER "movl $5, %r15d")
SNIPPET(
    "iretl",
    "movl $" N(RIG_STACK) "-64, %esp\n leaq 1f(%rip), %rax\n movl %eax, (%rsp)\n movl $" N(
        RIG_CS) ", 4(%rsp)\n movl $0x8d7, 8(%rsp)\n movl $" N(RIG_STACK) "-0x200, 12(%rsp)\n movl $" N(RIG_SS) ", "
                                                                                                               "16("
                                                                                                               "%rs"
                                                                                                               "p)"
                                                                                                               "\n "
                                                                                                               "ire"
                                                                                                               "t\n"
                                                                                                               " 1:"
                                                                                                               " mo"
                                                                                                               "vl "
                                                                                                               "$5,"
                                                                                                               " %"
                                                                                                               "r15"
                                                                                                               "d")
SNIPPET(
    "iretl to ring 3",
    "movl $" N(RIG_STACK) "-64, %esp\n leaq 1f(%rip), %rax\n movl %eax, (%rsp)\n movl $" N(
        RIG_USER_CS) ", 4(%rsp)\n movl $0x3202, 8(%rsp)\n movl $" N(RIG_USER_STACK) ", 12(%rsp)\n movl $" N(RIG_USER_SS) ", 16(%rsp)\n iret\n 1: movl $5, %r15d")
SNIPPET(
    "iretw",
    "movl $" N(RIG_STACK) "-64, %esp\n movw $0, (%rsp)\n movw $" N(
        RIG_CS) ", 2(%rsp)\n movw $0xcd7, 4(%rsp)\n movw $0x5555, 6(%rsp)\n movw $" N(RIG_SS) ", 8(%rsp)\n movw "
                                                                                              "$0x50cd, 0\n iretw")
SNIPPET("iretq of ring 3 to ring 0", TO_USER IRET_TO(N(RIG_CS), N(RIG_SS), "2"))
SNIPPET(
    "iretq of ring 3",
    TO_USER "pushq $" N(RIG_USER_SS) "\n pushq $" N(
        RIG_USER_STACK) "\n pushq $0x3202\n"
                        "pushq $" N(RIG_USER_CS) "\n leaq 2f(%rip), %rax\n pushq %rax\n iretq\n 2: movl $5, %r15d")
/* Processors differ in which word of the frame they read first. */
SNIPPET("~iretq, absent stack", "movl $" N(RIG_ABSENT) ", %esp\n iretq")
#define FAR_POINTER(selector)                                                                                      \
    "leaq 1f(%rip), %rax\n movq %rax, " N(RIG_DATA) "\n movw $" selector ", " N(RIG_DATA) "+8\n"
SNIPPET("far jump", FAR_POINTER(N(RIG_CS)) "rex.w ljmp *" N(RIG_DATA) "\n nop\n 1: movl $5, %r15d")
SNIPPET("far jump, 32 bits", "leaq 1f(%rip), %rax\n movl %eax, " N(RIG_DATA) "\n movw $" N(RIG_CS) ", " N(
                                 RIG_DATA) "+4\n"
                                           "ljmp *" N(RIG_DATA) "\n nop\n 1: movl $5, %r15d")
SNIPPET("far jump to a data segment", FAR_POINTER(N(RIG_SS)) "rex.w ljmp *" N(RIG_DATA) "\n 1: nop")
SNIPPET("far jump to ring 3", FAR_POINTER(N(RIG_USER_CS)) "rex.w ljmp *" N(RIG_DATA) "\n 1: nop")
SNIPPET("far jump, null", FAR_POINTER("0") "rex.w ljmp *" N(RIG_DATA) "\n 1: nop")
SNIPPET("far call", FAR_POINTER(N(RIG_CS)) "rex.w lcall *" N(RIG_DATA) "\n nop\n 1: popq %rbx\n popq %rsi")
SNIPPET("far call and return", FAR_POINTER(N(RIG_CS)) "rex.w lcall *" N(RIG_DATA) "\n jmp 2f\n 1: rex.w lret\n"
                                                                                  "2: movl $5, %r15d")
SNIPPET("far return, immediate", "subq $32, %rsp\n pushq $" N(RIG_CS) "\n leaq 1f(%rip), %rax\n pushq %rax\n"
                                                                      "rex.w lret $32\n 1: movl $5, %r15d")
SNIPPET("far return to ring 3",
        "pushq $" N(RIG_USER_SS) "\n pushq $" N(RIG_USER_STACK) "\n pushq $" N(
            RIG_USER_CS) "\n"
                         "leaq 1f(%rip), %rax\n pushq %rax\n rex.w lret\n 1: movl $5, %r15d")
SNIPPET("far return, null", "pushq $0\n pushq $0\n rex.w lret")
MANUAL("far return, RIP not canonical", "13", "0",
       "pushq $" N(RIG_CS) "\n movq $0x800000000000, %rax\n pushq %rax\n 9: rex.w lret")
SNIPPET("far return of ring 3 to ring 0",
        TO_USER "pushq $" N(RIG_CS) "\n leaq 1f(%rip), %rax\n pushq %rax\n rex.w lret\n 1: nop")
SNIPPET("far return, 32 bits", "subq $8, %rsp\n leaq 1f(%rip), %rax\n movl %eax, (%rsp)\n movl $" N(
                                   RIG_CS) ", 4(%rsp)\n lret\n 1: movl $5, %r15d")
SNIPPET(
    "far return to ring 3, immediate",
    "subq $64, %rsp\n movq $" N(RIG_USER_CS) ", 8(%rsp)\n leaq 1f(%rip), %rax\n movq %rax, (%rsp)\n movq $" N(
        RIG_USER_STACK) "-64, 32(%rsp)\n movq $" N(RIG_USER_SS) ", 40(%rsp)\n rex.w lret $16\n 1: movl $5, %r15d")
SNIPPET("far return to ring 3, SS of ring 0",
        "pushq $" N(RIG_SS) "\n pushq $" N(RIG_USER_STACK) "\n pushq $" N(
            RIG_USER_CS) "\n leaq 1f(%rip), %rax\n pushq %rax\n rex.w lret\n 1: movl $5, %r15d")
MANUAL("far jump, not canonical", "13", "0",
       FAR_POINTER(N(RIG_CS)) "movl $0x00800000, " N(RIG_DATA) "+4\n  9: rex.w ljmp *" N(RIG_DATA) "\n 1: nop")
MANUAL("far call, not canonical", "13", "0",
       FAR_POINTER(N(RIG_CS)) "movl $0x00800000, " N(RIG_DATA) "+4\n  9: rex.w lcall *" N(RIG_DATA) "\n 1: nop")
SNIPPET("far jump, conforming code", "movb $0x9f, " N(RIG_GDT) "+0x25\n" FAR_POINTER(
                                         N(RIG_USER_CS)) "rex.w ljmp *" N(RIG_DATA) "\n 1: movl $5, %r15d")
SNIPPET("far jump, not present", "movq " N(RIG_GDT) "+8, %rbx\n btrq $47, %rbx\n movq %rbx, " N(
                                     RIG_GDT) "+0x40\n" FAR_POINTER("0x40") "rex.w ljmp *" N(RIG_DATA) "\n 1: nop")
SNIPPET("far jump to a TSS", FAR_POINTER(N(RIG_TR)) "rex.w ljmp *" N(RIG_DATA) "\n 1: nop")
SNIPPET("far jump to ring 3 from ring 3",
        TO_USER "leaq 1f(%rip), %rax\n movq %rax, " N(RIG_USER_DATA) "\n movw $" N(RIG_USER_CS) ", " N(
            RIG_USER_DATA) "+8\n rex.w ljmp *" N(RIG_USER_DATA) "\n nop\n 1: movl $5, %r15d")
SNIPPET("far call, absent stack",
        FAR_POINTER(N(RIG_CS)) "movl $" N(RIG_ABSENT) "+8, %esp\n rex.w lcall *" N(RIG_DATA) "\n 1: nop")

/* ---- segment registers ---- */
#define LOAD(selector, segment) "movl $" selector ", %eax\n movl %eax, %" segment "\n"
SNIPPET("mov to ds, es", LOAD(N(RIG_USER_SS), "ds") LOAD("0", "es") LOAD(N(RIG_BASED), "es"))
SNIPPET("mov to fs, gs", LOAD(N(RIG_BASED), "fs") LOAD(N(RIG_BASED), "gs") "movl $0, %fs:-0x12345600+" N(RIG_DATA))
SNIPPET("mov to gs, null", WRMSR("0xc0000101", "0", N(RIG_DATA)) LOAD(N(RIG_SS), "gs"))
SNIPPET("mov to ss", LOAD(N(RIG_SS), "ss"))
SNIPPET("mov to ss, null", LOAD("0", "ss"))
SNIPPET("mov to ss of ring 3, null", TO_USER LOAD("3", "ss"))
SNIPPET("mov to ss, RPL is not CPL", LOAD(N(RIG_SS) "+3", "ss"))
SNIPPET("mov to ss, read-only", "movb $0xf1, " N(RIG_GDT) "+0x1d\n" TO_USER LOAD(N(RIG_USER_SS), "ss"))
SNIPPET("mov to ds, execute-only code", "movb $0xf9, " N(RIG_GDT) "+0x25\n" LOAD(N(RIG_USER_CS), "ds"))
SNIPPET("mov to ds of ring 3, conforming code", "movb $0x9f, " N(RIG_GDT) "+0x25\n" TO_USER LOAD("0x20", "ds"))
SNIPPET("mov to ds, RPL 3 of ring 0's", LOAD(N(RIG_SS) "+3", "ds"))
SNIPPET("mov to segment 6", ".byte 0x8e, 0xf0")
SNIPPET("mov to segment 7", ".byte 0x8e, 0xf8")
SNIPPET("two interrupts wait",
        "outb %al, $" N(RIG_IRQ_PORT) "\n outb %al, $" N(RIG_IRQ_PORT) "+1\n sti\n hlt\n cli")
SNIPPET("two interrupts wait, the higher first",
        "outb %al, $" N(RIG_IRQ_PORT) "+1\n outb %al, $" N(RIG_IRQ_PORT) "\n sti\n hlt\n cli")
SNIPPET("sti and cli let none in", "outb %al, $" N(RIG_IRQ_PORT) "\n sti\n cli\n movl $5, %r15d\n sti\n hlt\n cli")
SNIPPET("lgs, not canonical", "btsq $60, %rax\n lgs (%rax), %ebx")
SNIPPET("pop fs, beyond the limit", "pushq $0x208\n popq %fs")
SNIPPET("pop fs, absent stack", "movl $" N(RIG_ABSENT) ", %esp\n popq %fs")
SNIPPET("lfs, not present", "movw $" N(RIG_NOT_HERE) ", " N(RIG_DATA) "+4\n lfs " N(RIG_DATA) ", %ebx")
SNIPPET("lfs, 16 bits", "movw $" N(RIG_USER_SS) ", " N(RIG_DATA) "+2\n lfs " N(RIG_DATA) ", %bx")
SNIPPET("mov to ss, of ring 3", LOAD(N(RIG_USER_SS), "ss"))
SNIPPET("mov to ds, not present", LOAD(N(RIG_NOT_HERE), "ds"))
SNIPPET("mov to ss, not present", LOAD(N(RIG_NOT_HERE), "ss"))
SNIPPET("mov to ds, beyond the limit", LOAD("0x208", "ds"))
/* Such a KVM runs ring 3 on its host's own GDT, and what ring 3 may load there does not trap. */
SNIPPET("~mov to ds, a TSS", LOAD(N(RIG_TR), "ds"))
SNIPPET("mov to ds, no LDT", LOAD(N(RIG_LDT_DATA), "ds"))
SNIPPET("mov to ds, code", LOAD(N(RIG_CS), "ds"))
SNIPPET("mov to ss, code", LOAD(N(RIG_CS), "ss"))
SNIPPET("mov to cs", ".byte 0x8e, 0xc8")
SNIPPET("mov to ds of memory", "movw $" N(RIG_USER_SS) ", " N(RIG_DATA) "\n movw " N(RIG_DATA) ", %ds")
SNIPPET("mov to ds of ring 3", TO_USER LOAD(N(RIG_USER_SS), "ds") LOAD(N(RIG_SS), "ds"))
SNIPPET("pop fs, gs", "pushq $" N(RIG_BASED) "\n popq %fs\n pushq $" N(RIG_USER_SS) "\n popq %gs\n movq %rsp, %rbx")
SNIPPET("pop fs, 16 bits", "pushw $" N(RIG_BASED) "\n popw %fs\n movq %rsp, %rbx")
SNIPPET("lss, lfs", "movl $0x12345678, " N(RIG_DATA) "\n movw $" N(RIG_USER_SS) ", " N(
                        RIG_DATA) "+4\n"
                                  "lfs " N(RIG_DATA) ", %ebx\n lgs " N(
                                      RIG_DATA) ", %edx\n"
                                                "movl $" N(RIG_STACK) "-64, " N(RIG_DATA) "\n movw $" N(
                                                    RIG_SS) ", " N(RIG_DATA) "+4\n lss " N(RIG_DATA) ", %esp")

/* ---- ports ---- */
SNIPPET("in", "inb $0x78, %al\n movq %rax, %rbx\n inw $0x78, %ax\n movq %rax, %rcx\n inl $0x78, %eax")
SNIPPET("in dx",
        "movl $0x79, %edx\n inb %dx, %al\n movq %rax, %rbx\n inw %dx, %ax\n movq %rax, %rcx\n inl %dx, %eax")
SNIPPET("in, nobody there", "movl $0x3000, %edx\n inw %dx, %ax")
SNIPPET("out", "outb %al, $0x78\n outw %ax, $0x78\n outl %eax, $0x78\n movl $0x79, %edx\n movl $0x11223344, %eax\n"
               "outb %al, %dx\n outw %ax, %dx")
SNIPPET("insb", "movl $" N(RIG_DATA) ", %edi\n movl $0x78, %edx\n insb\n insw\n insl")
SNIPPET("rep insw", "movl $" N(RIG_DATA) "+0xffd, %edi\n movl $0x78, %edx\n movl $5, %ecx\n rep insw")
SNIPPET("rep insl, downwards",
        "std\n movl $" N(RIG_DATA) "+64, %edi\n movl $0x78, %edx\n movl $5, %ecx\n rep insl\n cld")
SNIPPET("rep outsb", "movl $" N(RIG_DATA) "+0xffd, %esi\n movl $0x78, %edx\n movl $9, %ecx\n rep outsb")
SNIPPET("rep outsw, more than a piece",
        "movl $" N(RIG_DATA) ", %esi\n movl $0x78, %edx\n movl $3000, %ecx\n rep outsw")
SNIPPET("rep outsl, no count", "movl $" N(RIG_DATA) ", %esi\n movl $0x78, %edx\n xorl %ecx, %ecx\n rep outsl")
SNIPPET("outsb, fs",
        WRMSR("0xc0000100", "0", N(RIG_DATA)) "movl $3, %esi\n movl $0x78, %edx\n outsb %fs:(%rsi), %dx")
SNIPPET("rep outsl, 32-bit addresses",
        "movq $0xaaaaaaaa00000000+" N(RIG_DATA) ", %rsi\n movq $0xaaaaaaaa00000003, %rcx\n"
                                                "movl $0x78, %edx\n addr32 rep outsl %ds:(%esi), %dx")
SNIPPET("rep insb into an absent page",
        "movl $" N(RIG_ABSENT) "-3, %edi\n movl $0x78, %edx\n movl $9, %ecx\n rep insb")
SNIPPET("outsb of an absent page", "movl $" N(RIG_ABSENT) ", %esi\n movl $0x78, %edx\n outsb")
SNIPPET("in of ring 3", TO_USER "inb $0x78, %al")
SNIPPET("in of ring 3, the task's bit map",
        "movb $0xfe, " N(RIG_TSS) "+0x50+0x78/8\n movw $0x50, " N(RIG_TSS) "+0x66\n" TO_USER
                                                                           "inb $0x78, %al\n inb $0x79, %al")
SNIPPET("in of ring 3, two ports of the bit map",
        "movw $0xfcff, " N(RIG_TSS) "+0x50+0x70/8\n movw $0x50, " N(RIG_TSS) "+0x66\n" TO_USER
                                                                             "inb $0x79, %al\n inw $0x79, %ax")
SNIPPET("in of ring 3, beyond the bit map", "movw $0x60, " N(RIG_TSS) "+0x66\n" TO_USER "inb $0x78, %al")
SNIPPET("out of ring 3, the last byte of the bit map",
        "movw $0x59, " N(RIG_TSS) "+0x66\n" TO_USER "outb %al, $0x78")
SNIPPET("in of ring 3, IOPL", "pushq $" N(RIG_USER_SS) "\n pushq $" N(
                                  RIG_USER_STACK) "\n pushq $0x3002\n"
                                                  "pushq $" N(RIG_USER_CS) "\n leaq 1f(%rip), %rax\n pushq %rax\n "
                                                                           "iretq\n 1: inb $0x78, %al\n cli\n sti")

/* ---- what ring 3 may not do --------------------------------------------------------------------------------- */
SNIPPET("ring 3: hlt", TO_USER "hlt")
SNIPPET("ring 3: cli", TO_USER "cli")
SNIPPET("ring 3: sti", TO_USER "sti")
SNIPPET("ring 3: rdmsr", TO_USER "movl $0xc0000080, %ecx\n rdmsr")
SNIPPET("ring 3: wrmsr", TO_USER "movl $0xc0000080, %ecx\n wrmsr")
SNIPPET("ring 3: mov cr0", TO_USER "movq %cr0, %rax")
SNIPPET("ring 3: mov cr3", TO_USER "movq %rax, %cr3")
SNIPPET("ring 3: mov dr", TO_USER "movq %dr0, %rax")
SNIPPET("ring 3: clts", TO_USER "clts")
SNIPPET("ring 3: lmsw", TO_USER "lmsw %ax")
SNIPPET("ring 3: lgdt", TO_USER "lgdt " N(RIG_USER_DATA))
SNIPPET("ring 3: lidt", TO_USER "lidt " N(RIG_USER_DATA))
SNIPPET("ring 3: lldt", TO_USER "lldt %ax")
SNIPPET("ring 3: ltr", TO_USER "ltr %ax")
SNIPPET("ring 3: invlpg", TO_USER "invlpg " N(RIG_USER_DATA))
SNIPPET("ring 3: wbinvd", TO_USER "wbinvd")
SNIPPET("ring 3: swapgs", TO_USER "swapgs")
SNIPPET("ring 3: mov to cr8", TO_USER "movq %rax, %cr8")
SNIPPET("ring 3: mov to cr1", TO_USER ".byte 0x0f, 0x22, 0xc8")
SNIPPET("ring 3: mov dr8", TO_USER ".byte 0x44, 0x0f, 0x21, 0xc0")
SNIPPET("ring 3: invd", TO_USER "invd")
SNIPPET("ring 3: invlpg, absent", TO_USER "invlpg " N(RIG_ABSENT))
SNIPPET("ring 3: lgdt of an absent page", TO_USER "lgdt " N(RIG_ABSENT))
SNIPPET("ring 3: lldt of an absent page", TO_USER "lldt " N(RIG_ABSENT))
SNIPPET("ring 3: lmsw of an absent page", TO_USER "lmsw " N(RIG_ABSENT))
SNIPPET("ring 3: rdpmc", TO_USER "rdpmc")
SNIPPET("rdpmc", "xorl %ecx, %ecx\n rdpmc")
SNIPPET("~ring 3: vmcall", TO_USER "vmcall")
SNIPPET("~ring 3: monitor", TO_USER "monitor")
MANUAL("xsetbv", "6", "0", "xorl %ecx, %ecx\n 9: xsetbv")
SNIPPET("ring 3: xsetbv", TO_USER "xsetbv")
SNIPPET("clac", "clac")
SNIPPET("ring 3: stac", TO_USER "stac")
MANUAL("lock cli", "6", "0", "9: .byte 0xf0, 0xfa")
MANUAL("ring 3: lock cli", "6", "0", TO_USER "9: .byte 0xf0, 0xfa")
SNIPPET("rep cli", ".byte 0xf3, 0xfa")
SNIPPET("sgdt of a register", ".byte 0x0f, 0x01, 0xc0")
SNIPPET("0f 01 /5", ".byte 0x0f, 0x01, 0x2b")
SNIPPET("0f 00 /6", ".byte 0x0f, 0x00, 0xf0")
/* The translator reads memory before it asks for the port: OUTS from a device's memory reads that twice there. */
SNIPPET("~ring 3: outsb", TO_USER "movl $" N(RIG_USER_DATA) ", %esi\n outsb")

/* ---- exceptions --------------------------------------------------------------------------------------------- */
SNIPPET("#DE", "xorl %ecx, %ecx\n divl %ecx")
SNIPPET("#DE of ring 3", TO_USER "xorl %ecx, %ecx\n divl %ecx")
SNIPPET("#UD", "ud2")
SNIPPET("#UD of ring 3", TO_USER "ud2")
SNIPPET("no instruction", ".byte 0x06")
SNIPPET("too long an instruction", ".fill 15, 1, 0x66\n nop")
SNIPPET("#PF, read", "movq " N(RIG_ABSENT) "+8, %rax")
SNIPPET("#PF, write", "movq %rax, " N(RIG_ABSENT) "+16")
SNIPPET("#PF, fetch", "movl $" N(RIG_ABSENT) ", %eax\n jmp *%rax")
SNIPPET("#PF, write-protected", "movq %rax, " N(RIG_READ_ONLY))
SNIPPET("write-protected without WP",
        "movq %cr0, %rax\n andl $~0x10000, %eax\n movq %rax, %cr0\n movl $5, " N(RIG_READ_ONLY))
SNIPPET("#PF of ring 3, ring 0's page", TO_USER "movq " N(RIG_DATA) ", %rax")
SNIPPET("#PF of ring 3, write", TO_USER "movq %rax, " N(RIG_DATA))
SNIPPET("#PF of ring 3, absent", TO_USER "movq %rax, " N(RIG_ABSENT))
SNIPPET("#PF of ring 3, fetch", TO_USER "movl $" N(RIG_DATA) ", %eax\n jmp *%rax")
SNIPPET("#PF, no execution", "btsq $63, " N(RIG_PT) "+0x70*8\n movl $" N(RIG_DATA) ", %eax\n jmp *%rax")
SNIPPET("#PF, reserved bit", "btsq $51, " N(RIG_PT) "+0x70*8\n invlpg " N(RIG_DATA) "\n movq " N(RIG_DATA) ", %rax")
SNIPPET("#GP, not canonical", "movq $0x8000000000000000, %rax\n movq (%rax), %rbx")
SNIPPET("%single step", "pushq $0x102\n popfq\n nop")
SNIPPET("single step of ring 3",
        "pushq $" N(RIG_USER_SS) "\n pushq $" N(RIG_USER_STACK) "\n pushq $0x102\n pushq $" N(
            RIG_USER_CS) "\n leaq 1f(%rip), %rax\n pushq %rax\n iretq\n 1: nop\n nop\n")
SNIPPET("%single step of an emulated instruction", "pushq $0x102\n popfq\n cli\n nop\n nop")
SNIPPET("~#GP, a jump that is not canonical", "btsq $60, %rax\n jmp *%rax")
SNIPPET("~#GP, a return that is not canonical", "btsq $60, %rax\n pushq %rax\n ret")
SNIPPET("~icebp", ".byte 0xf1")
SNIPPET("an exception in ring 3, absent stack", "movq $" N(RIG_ABSENT) ", " N(RIG_TSS) "+4\n" TO_USER "ud2")
SNIPPET("user data", TO_USER "incl " N(RIG_USER_DATA) "\n movq " N(RIG_USER_DATA) ", %rbx")

/* ---- page tables -------------------------------------------------------------------------------------------- */
#define PTE(page) N(RIG_PT) "+" N(page) "/4096*8"
SNIPPET("a page appears", "movq $0x"
                          "70003, " PTE(RIG_ABSENT) "\n movq " N(RIG_ABSENT) "+8, %rbx")
SNIPPET("a page goes", "movq " N(RIG_DATA) ", %rbx\n movq $0, " PTE(RIG_DATA) "\n invlpg " N(
                           RIG_DATA) "\n"
                                     "movq " N(RIG_DATA) ", %rcx")
SNIPPET("a page moves", "movq " N(RIG_DATA) ", %rbx\n movq $0x81003, " PTE(RIG_DATA) "\n invlpg " N(
                            RIG_DATA) "\n"
                                      "movq " N(RIG_DATA) ", %rcx")
SNIPPET("a page moves by mov cr3",
        "movq " N(RIG_DATA) ", %rbx\n movq $0x81003, " PTE(RIG_DATA) "\n movq %cr3, %rax\n"
                                                                     "movq %rax, %cr3\n movq " N(RIG_DATA) ", %rcx")
SNIPPET("accessed and dirty", "movl " PTE(RIG_DATA) ", %ebx\n movl " N(RIG_DATA) ", %eax\n movl " PTE(
                                  RIG_DATA) ", %ecx\n"
                                            "movl %eax, " N(RIG_DATA) "\n movl " PTE(RIG_DATA) ", %edx")
SNIPPET("accessed, cleared",
        "movl " N(RIG_DATA) ", %eax\n andl $~0x60, " PTE(RIG_DATA) "\n invlpg " N(
            RIG_DATA) "\n"
                      "movl " PTE(RIG_DATA) ", %ebx\n movl " N(RIG_DATA) ", %eax\n movl " PTE(RIG_DATA) ", %ecx")
/* The stores of csrc/lab/store.c; the table is in use, and flags are left. */
#define STORE(name, text)                                                                                          \
    SNIPPET(name,                                                                                                  \
            "movl " N(RIG_DATA) ", %eax\n movl $" PTE(RIG_DATA) ", %edi\n" text "\n lahf\n seto %bl\n"             \
                                                                "movq (%rdi), %r8\n movq (%rdi), %r9\n invlpg " N( \
                                                                    RIG_DATA) "\n movq " N(RIG_DATA) ", %r10")
STORE("pte: mov", "movl $0x82003, %ecx\n movq %rcx, (%rdi)")
STORE("pte: movl", "movl $0x82003, (%rdi)")
STORE("pte: movw", "movw $0x2003, (%rdi)")
STORE("pte: movb", "movb $0x03, (%rdi)")
STORE("pte: xchg", "movl $0x82003, %ecx\n xchgq %rcx, (%rdi)")
STORE("pte: lock cmpxchg", "movq (%rdi), %rax\n movl $0x83003, %ecx\n lock cmpxchgq %rcx, (%rdi)")
STORE("pte: lock cmpxchg, another", "movl $1, %eax\n movl $0x83003, %ecx\n lock cmpxchgq %rcx, (%rdi)")
STORE("pte: cmpxchg, 32 bits", "movq $-1, %rax\n movl (%rdi), %eax\n movl $0x83003, %ecx\n cmpxchgl %ecx, (%rdi)")
STORE("pte: cmpxchg, 32 bits, another", "movq $-1, %rax\n movl $0x83003, %ecx\n cmpxchgl %ecx, (%rdi)")
STORE("pte: and", "andq $~0x40, (%rdi)")
STORE("pte: or", "orl $0x200, (%rdi)")
STORE("pte: xor", "movl $0x1000, %ecx\n xorq %rcx, (%rdi)")
STORE("pte: add", "addq $0x1000, (%rdi)")
STORE("pte: add, carry and overflow", "movq $-1, %rcx\n addl %ecx, 4(%rdi)\n addl $1, 4(%rdi)")
STORE("pte: sub", "subl $0x1000, (%rdi)")
STORE("pte: adc", "stc\n adcl $0x1000, (%rdi)")
STORE("pte: inc, dec", "incl 4(%rdi)\n decl 4(%rdi)")
STORE("pte: neg, not", "notl 4(%rdi)\n notl 4(%rdi)\n negl 4(%rdi)")
STORE("pte: bts, btr", "lock btsq $9, (%rdi)\n btrq $6, (%rdi)\n movl $10, %ecx\n btcl %ecx, (%rdi)")
STORE("pte: bts beyond", "movl $64+9, %ecx\n btsq %rcx, (%rdi)")
STORE("pte: xadd", "movl $0x1000, %ecx\n lock xaddq %rcx, (%rdi)")
STORE("pte: movups", "movups (%rdi), %xmm0\n movups %xmm0, (%rdi)")
STORE("pte: rep stosq", "movl $" PTE(RIG_USER_DATA) ", %edi\n movq (%rdi), %rax\n movl $4, %ecx\n rep stosq")
STORE("pte: push", "movq %rsp, %rsi\n leaq 8(%rdi), %rsp\n pushq $0x"
                   "82003\n movq %rsi, %rsp")
STORE("pte: movs", "movl $" N(RIG_PT) "+0x400, %esi\n movsq\n subl $8, %edi")
SNIPPET("a table is made and used",
        "movl $0x200000, %edi\n movl $512, %ecx\n movl $0x83, %eax\n"
        "1: movq %rax, (%rdi)\n addq $0x200000, %rax\n andl $0x3fffff, %eax\n addq $8, %rdi\n decl %ecx\n jnz 1b\n"
        "movq $0x200003, " N(RIG_PDPT) "+8*5\n movabsq $0x140000000+" N(RIG_DATA) ", %rbx\n movq (%rbx), %rbx")
SNIPPET("a table is freed",
        "movl $0x200000, %edi\n movq $0x83, (%rdi)\n movq $0x200003, " N(
            RIG_PDPT) "+8*5\n"
                      "movabsq $0x140000000+" N(RIG_DATA) ", %rbx\n movq (%rbx), %rcx\n movq $0, " N(
                          RIG_PDPT) "+8*5\n"
                                    "movq %cr3, %rax\n movq %rax, %cr3\n movq $5, (%rdi)\n movq (%rbx), %rcx")

/* ---- devices in memory -------------------------------------------------------------------------------------- */
SNIPPET("mmio", "movl $" N(RIG_MMIO) ", %ebx\n movl (%rbx), %eax\n movl %eax, 8(%rbx)\n movw $5, 4(%rbx)")
SNIPPET("mmio, read by lmsw", "movl $" N(RIG_MMIO) ", %ebx\n lmsw (%rbx)\n movq %cr0, %rcx\n clts")

#endif
