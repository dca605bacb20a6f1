/* The programs' entry and the three ways to make a system call. */
#include "../../layout.h"
#include "user.h"

    .section .text.start, "ax", @progbits
    .globl user_start
user_start:                             /* RDI: what to do, RSI: count, RDX: door */
    call user_main
    movq %rax, %rdi
    movl $LAB_SYS_EXIT, %eax
    int3
    ud2

/* int64_t call_*(number, a, b, c) */
    .text
    .globl call_syscall, call_int80, call_int3
    .macro arguments
    movq %rdi, %rax
    movq %rsi, %rdi
    movq %rdx, %rsi
    movq %rcx, %rdx
    .endm
call_syscall:
    arguments
    syscall
    ret
call_int80:
    arguments
    int $VECTOR_INT80
    ret
call_int3:
    arguments
    int3
    ret
