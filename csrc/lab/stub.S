/*
 * All of the monitor that runs on the virtual machine's processor: 256 gates, one way to the host and back.
 *
 * A gate leaves vector and error code beside what the processor pushed; the common path saves the registers and CR2
 * (together: LabTrapFrame, virtual_cpu.h) and writes to LAB_PORT. What answers there is csrc/lab/monitor.c, on the same
 * thread, with this frame and the guest's memory before it. Then the guest goes on as the frame says.
 *
 * Copied to LAB_BASE + LAB_STUB: every address is relative. All gates use IST 1, so each trap finds the same stack
 * empty. Ring 0 here uses nothing that an interpreter of ring 0 code may lack: no SSE, no XSAVE, no INT.
 */
#include "lab/layout.h"

    .section .rodata
    .balign 16
    .globl lab_stub_start, lab_stub_resume, lab_stub_end
    .hidden lab_stub_start, lab_stub_resume, lab_stub_end
lab_stub_start:
    .set frame, lab_stub_start + LAB_FRAME

/*
 * Exceptions 8, 10 to 14, 17 and 21 push an error code (Intel SDM 3A table 6-1); an interrupt that a guest had sent to
 * such a vector does not, and `common` sees it by the stack, which the processor aligned. 16 bytes for each gate.
 */
    .set vector, 0
    .rept 256
    .balign 16
    .if (vector == 8) || ((vector >= 10) && (vector <= 14)) || (vector == 17) || (vector == 21)
    .else
    pushq $0
    .endif
    .byte 0x68                          /* pushq $vector, of 32 bits whatever its size */
    .long vector
    jmp common
    .set vector, vector + 1
    .endr
    .balign 16

common:
    testb $8, %spl
    jnz 1f
    pushq (%rsp)                        /* the vector; zero takes the place of the error code */
    movq $0, 8(%rsp)
1:  pushq %r15
    pushq %r14
    pushq %r13
    pushq %r12
    pushq %r11
    pushq %r10
    pushq %r9
    pushq %r8
    pushq %rdi
    pushq %rsi
    pushq %rbp
    pushq %rsp                          /* a place for the guest's, in the order of the encoding */
    pushq %rbx
    pushq %rdx
    pushq %rcx
    pushq %rax
    movq %cr2, %rax
    pushq %rax
    movl $LAB_PORT, %edx
    outl %eax, (%dx)

/* RSP points to the frame. A monitor's first guest instruction begins here, too. */
lab_stub_resume:
    movl frame + LAB_FRAME_ACTION(%rip), %ebx
    testl %ebx, %ebx
    jnz actions
back:
    addq $8, %rsp                       /* CR2 */
    popq %rax
    popq %rcx
    popq %rdx
    popq %rbx
    addq $8, %rsp
    popq %rbp
    popq %rsi
    popq %rdi
    popq %r8
    popq %r9
    popq %r10
    popq %r11
    popq %r12
    popq %r13
    popq %r14
    popq %r15
    addq $16, %rsp                      /* vector, error code */
    iretq

actions:
    testl $LAB_TOUCH, %ebx
    jz 2f
    cld
    leaq frame + LAB_FRAME_TOUCH(%rip), %rdx
    movq frame + LAB_FRAME_COUNT(%rip), %r8
1:  testq %r8, %r8
    jz 2f
    movq (%rdx), %rsi
    movq %rsi, %rdi
    movq 8(%rdx), %rcx
    rep movsq
    addq $16, %rdx
    decq %r8
    jmp 1b
2:  testl $LAB_LOAD_CR0, %ebx
    jz 3f
    movq frame + LAB_FRAME_CR0(%rip), %rax
    movq %rax, %cr0
3:  testl $LAB_LOAD_CR3, %ebx
    jz 4f
    movq frame + LAB_FRAME_CR3(%rip), %rax
    movq %rax, %cr3
4:  testl $LAB_LOAD_FS, %ebx
    jz 5f
    movl $0xc0000100, %ecx              /* IA32_FS_BASE */
    movl frame + LAB_FRAME_FS(%rip), %eax
    movl frame + LAB_FRAME_FS + 4(%rip), %edx
    wrmsr
5:  testl $LAB_LOAD_GS, %ebx
    jz 6f
    movl $0xc0000101, %ecx              /* IA32_GS_BASE */
    movl frame + LAB_FRAME_GS(%rip), %eax
    movl frame + LAB_FRAME_GS + 4(%rip), %edx
    wrmsr
6:  testl $LAB_INVLPG, %ebx
    jz 7f
    movq frame + LAB_FRAME_PAGE(%rip), %rax
    invlpg (%rax)
7:  testl $LAB_WAIT | LAB_STOP, %ebx
    jz back
    testl $LAB_STOP, %ebx
    jnz 9f
    sti                                 /* the interrupt finds the processor in ring 0 */
8:  hlt
    jmp 8b
9:  cli
    hlt
    jmp 9b
lab_stub_end:

    .section .note.GNU-stack, "", @progbits
