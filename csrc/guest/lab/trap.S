/*
 * The ways into and out of the kernel. Every stub leaves a TrapFrame (../kernel/kernel.h) on the stack: registers,
 * vector, error code (0 where the CPU pushes none), and what the CPU pushed (Intel SDM 3A §6.14). Back it goes by
 * SYSRETQ, when SYSCALL was the way in, or by IRETQ; with LAB_PARAVIRT by the IRET hypercall.
 *
 * The program's image and the gate page, which programs see too, are here as well.
 */
#include "../layout.h"
#include "hypercall.h"

#define FRAME_RAX     112               /* offsets in TrapFrame */
#define FRAME_VECTOR  120

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
    .globl trap_stub_int80, trap_stub_intn
trap_stub_intn:
    pushq $0
    pushq $0x81
    jmp trap_common
    .balign 16
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
    call lab_trap
    .globl trap_return
trap_return:
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
#ifdef LAB_PARAVIRT
    movl $LAB_HC_IRET, %eax             /* RSP at LabIret: RAX, vector, error, and the CPU's part */
    int $LAB_HYPERCALL_VECTOR
    ud2                                 /* the monitor refused the frame */

    .balign 16
    .globl trap_stub_event
trap_stub_event:
    pushq $0
    pushq $LAB_TRAP_EVENT
    jmp trap_common

    .globl syscall_entry
syscall_entry:                          /* on the kernel's stack already, with a frame */
    pushq $0
    pushq $VECTOR_SYSCALL
    jmp trap_common
#else
    cmpl $VECTOR_SYSCALL, FRAME_VECTOR - FRAME_RAX(%rsp)
    je 1f
    popq %rax
    addq $16, %rsp
    iretq
1:  popq %rax                           /* lab_trap made sure that RIP is the program's */
    movq 16(%rsp), %rcx                 /* RIP */
    movq 32(%rsp), %r11                 /* RFLAGS */
    movq 40(%rsp), %rsp
    sysretq

/* SYSCALL (Intel SDM 3A §5.8.8) saves RIP in RCX and RFLAGS in R11, and leaves RSP alone; GS finds the kernel's. */
    .globl syscall_entry
syscall_entry:
    swapgs
    movq %rsp, %gs:8
    movq %gs:0, %rsp
    pushq $SEL_USER_DATA
    pushq %gs:8
    pushq %r11
    pushq $SEL_USER_CODE
    pushq %rcx
    swapgs
    pushq $0
    pushq $VECTOR_SYSCALL
    jmp trap_common
#endif

/* void switch_stacks(uint64_t *save, uint64_t load) */
    .globl switch_stacks
switch_stacks:
    pushq %rbx
    pushq %rbp
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbp
    popq %rbx
    ret

/* uint64_t trap_try(f, argument): lab_trap goes on at trap_failed, on trap_try_rsp, when f is stopped. */
    .globl trap_try, trap_failed
trap_try:
    pushq %rbx
    pushq %rbp
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    subq $8, %rsp
    movq %rsp, trap_try_rsp(%rip)
    movq %rdi, %rax
    movq %rsi, %rdi
    call *%rax
    xorl %eax, %eax
trap_failed:                            /* RAX: what happened */
    movq $0, trap_try_rsp(%rip)
    addq $8, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbp
    popq %rbx
    ret

/*
 * Mapped for ring 3 at USER_GATE. Where SYSCALL goes to LSTAR but stays in ring 3 (some hosts without hardware
 * virtualisation), LSTAR is gate_bounce: its INT3 does reach the kernel, RCX and R11 intact. While syscall.c finds
 * out, LSTAR is gate_bounce anywhere, and the frame's CS tells.
 */
    .section .gate, "ax", @progbits
    .globl gate_page, gate_bounce, gate_try_syscall, gate_try_int80, gate_try_int3
gate_page:
gate_bounce:
    int3
    ud2
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
    .incbin "lab-user.bin"
    .balign 4096
user_image_end:

    .bss
    .balign 8
    .globl trap_try_rsp
trap_try_rsp:       .skip 8
