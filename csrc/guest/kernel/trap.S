/*
 * The ways into and out of ring 0. Each IDT vector has a stub that leaves the same frame (TrapFrame in kernel.h) on
 * the stack: registers, vector, error code (0 where the CPU pushes none), and what the CPU pushed (Intel SDM 3A
 * §6.14). syscall_entry makes the same frame by hand, so one C function and one IRETQ serve every door.
 */
#include "../layout.h"

    .text
    .balign 16
    .globl trap_stubs
trap_stubs:                             /* 16 bytes each, vectors 0-47 */
    .irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31, \
            32,33,34,35,36,37,38,39,40,41,42,43,44,45,46,47
    .balign 16
    .if (\n == 8) || (\n >= 10 && \n <= 14) || (\n == 17) || (\n == 21) || (\n == 29) || (\n == 30)
    .else
    pushq $0
    .endif
    pushq $\n
    jmp trap_common
    .endr
    .balign 16
    .globl trap_stub_int80
trap_stub_int80:
    pushq $0
    pushq $VECTOR_INT80

trap_common:
    pushq %rax
    pushq %rbx
    pushq %rcx
    pushq %rdx
    pushq %rsi
    pushq %rdi
    pushq %rbp
    pushq %r8
    pushq %r9
    pushq %r10
    pushq %r11
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    cld
    movq %rsp, %rdi
    call trap_dispatch
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %r11
    popq %r10
    popq %r9
    popq %r8
    popq %rbp
    popq %rdi
    popq %rsi
    popq %rdx
    popq %rcx
    popq %rbx
    popq %rax
    addq $16, %rsp
    iretq

/*
 * SYSCALL (Intel SDM 3A §5.8.8) saves RIP in RCX and RFLAGS in R11, masks RFLAGS with SFMASK, and leaves RSP alone.
 * The return is by IRETQ like everything else: SYSRET to a non-canonical RCX would fault in ring 0 on the user's stack.
 */
    .globl syscall_entry
syscall_entry:
    movq %rsp, syscall_user_rsp(%rip)
    movq user_kernel_rsp(%rip), %rsp
    pushq $SEL_USER_DATA
    pushq syscall_user_rsp(%rip)
    pushq %r11
    pushq $SEL_USER_CODE
    pushq %rcx
    pushq $0
    pushq $VECTOR_SYSCALL
    jmp trap_common

/* long user_enter(rip, rsp, arg0, arg1): IRETQ to ring 3. Returns when user_leave is called from a trap. */
    .globl user_enter
user_enter:
    pushq %rbx
    pushq %rbp
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    subq $8, %rsp
    cli
    movq %rsp, user_kernel_rsp(%rip)
    movq %rsp, tss + 4(%rip)            /* RSP0: traps from ring 3 land below what was just saved */
    pushq $SEL_USER_DATA
    pushq %rsi
    pushq $0x202                        /* RFLAGS: IF; IOPL 0 */
    pushq $SEL_USER_CODE
    pushq %rdi
    movq %rdx, %rdi
    movq %rcx, %rsi
    xorl %eax, %eax                     /* the kernel's values are none of the program's business */
    xorl %ebx, %ebx
    xorl %ecx, %ecx
    xorl %edx, %edx
    xorl %ebp, %ebp
    xorl %r8d, %r8d
    xorl %r9d, %r9d
    xorl %r10d, %r10d
    xorl %r11d, %r11d
    xorl %r12d, %r12d
    xorl %r13d, %r13d
    xorl %r14d, %r14d
    xorl %r15d, %r15d
    iretq

/* void user_leave(long result): gives up the trap's stack and returns from user_enter. */
    .globl user_leave
user_leave:
    movq %rdi, %rax
    movq user_kernel_rsp(%rip), %rsp
    addq $8, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbp
    popq %rbx
    movl $SEL_KERNEL_DATA, %ecx         /* from ring 3 the CPU left a null SS (§6.14.3): legal, but untidy */
    movl %ecx, %ss
    sti
    ret

/* bool rdmsr_safe(msr, value *), bool wrmsr_safe(msr, value): trap.c sends a #GP at *_try to *_failed. */
    .globl rdmsr_safe, rdmsr_try, wrmsr_safe, wrmsr_try, msr_failed
rdmsr_safe:
    movl %edi, %ecx
rdmsr_try:
    rdmsr
    movl %eax, (%rsi)
    movl %edx, 4(%rsi)
    movl $1, %eax
    ret
wrmsr_safe:
    movl %edi, %ecx
    movl %esi, %eax
    movq %rsi, %rdx
    shrq $32, %rdx
wrmsr_try:
    wrmsr
    movl $1, %eax
    ret
msr_failed:
    xorl %eax, %eax
    ret

/* void stack_reset(void (*f)(void)): f never returns. */
    .globl stack_reset
stack_reset:
    movq $kernel_stack_top, %rsp
    xorl %ebp, %ebp
    pushq $0
    jmp *%rdi

/*
 * The gate page, mapped for ring 3 (readable, executable) at USER_GATE. There are CPUs, or rather hypervisors,
 * where SYSCALL goes to LSTAR and stays in ring 3: there LSTAR points to gate_bounce, whose INT3 does reach ring 0,
 * RCX and R11 intact. gate_probe is LSTAR while syscall_init finds out: it may run in either ring, and reads its
 * CPL from CS.
 */
    .section .gate, "ax", @progbits
    .globl gate_page, gate_bounce, gate_probe, gate_try_syscall, gate_try_int80, gate_try_int3
gate_page:
gate_bounce:
    int3
    ud2
gate_probe:
    movl %cs, %edx
    testb $3, %dl
    jnz gate_bounce
    movq $syscall_entry, %rdx
    jmp *%rdx
gate_try_syscall:
    movl $SYS_PROBE, %eax
    syscall
    jmp gate_exit
gate_try_int80:
    movl $SYS_PROBE, %eax
    int $VECTOR_INT80
    jmp gate_exit
gate_try_int3:
    movl $SYS_PROBE, %eax
    int3
gate_exit:
    xorl %edi, %edi
    movl $SYS_EXIT, %eax
    int3
    ud2

    .section .user, "a", @progbits
    .globl user_image, user_image_end
    .balign 4096
user_image:
    .incbin "user.bin"
    .balign 4096
user_image_end:

    .bss
    .balign 8
    .globl user_kernel_rsp
user_kernel_rsp:    .skip 8
syscall_user_rsp:   .skip 8
