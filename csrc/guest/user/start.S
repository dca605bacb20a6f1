/* The ring 3 program's entry, and the three ways to make a system call (numbers and registers: layout.h). */
#include "../layout.h"

    .section .text.start, "ax", @progbits
    .globl user_start
user_start:                             /* RDI: mask of open doors, RSI: how to end */
    call user_main
    movq %rax, %rdi
    movl $SYS_EXIT, %eax
    int3
    ud2

/* int64_t call_*(number, arg0, arg1) */
    .text
    .globl call_syscall, call_int80, call_int3
call_syscall:
    movq %rdi, %rax
    movq %rsi, %rdi
    movq %rdx, %rsi
    syscall
    ret
call_int80:
    movq %rdi, %rax
    movq %rsi, %rdi
    movq %rdx, %rsi
    int $VECTOR_INT80
    ret
call_int3:
    movq %rdi, %rax
    movq %rsi, %rdi
    movq %rdx, %rsi
    int3
    ret
