/*
 * The lab's own way in (lab.h): 64-bit mode, RDI = physical address of LabBoot. The PVH way is ../kernel/entry.S, which
 * ends in kernel_main (start.c).
 */
    .section .text.lab, "ax", @progbits
    .code64
    .globl lab_entry
lab_entry:
    movq $kernel_stack_top, %rsp
    xorl %ebp, %ebp
    call lab_main
    ud2
