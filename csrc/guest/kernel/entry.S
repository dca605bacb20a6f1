/*
 * From 32-bit protected mode without paging into 64-bit C. Entered by boot/setup.S or by any PVH loader (`-kernel`
 * of pyvmm and QEMU): flat segments, interrupts off, EBX = physical address of hvm_start_info (Xen "x86/HVM direct
 * boot ABI"). The way in is that of Intel SDM 3A §9.8.5: PAE, CR3, EFER.LME, CR0.PG, then a far jump to a segment
 * with L = 1.
 *
 * The page tables made here map the first 1 GiB in 2 MiB pages; paging.c replaces them.
 * Left out: 32-bit kernels, CPUs without long mode (told on COM1), 5-level paging.
 */
#include "../layout.h"

    .section .note.pvh, "a", @note
    .balign 4
    .long 4, 4, 18                      /* name size, description size, XEN_ELFNOTE_PHYS32_ENTRY */
    .asciz "Xen"
    .long pvh_entry

    .section .text.entry, "ax", @progbits
    .code32
    .globl pvh_entry
pvh_entry:
    cli
    cld
    movl $boot_gdt_pointer, %eax        /* a PVH loader's own GDT may vanish */
    lgdt (%eax)
    ljmp $SEL_BOOT_CODE32, $1f
1:  movl $SEL_KERNEL_DATA, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss

    xorl %eax, %eax                     /* BSS */
    movl $kernel_data_end, %edi
    movl $kernel_end, %ecx
    subl %edi, %ecx
    shrl $2, %ecx
    rep stosl
    movl $kernel_stack_top, %esp
    movl %ebx, %ebp                     /* CPUID overwrites EBX */

    movl $0x80000000, %eax              /* Intel SDM 2A, CPUID: highest extended leaf, then long mode (EDX 29) */
    cpuid
    cmpl $0x80000001, %eax
    jb no_long_mode
    movl $0x80000001, %eax
    cpuid
    btl $29, %edx
    jnc no_long_mode
    movl %edx, %esi

    movl $(boot_pdpt + 3), boot_pml4    /* present, writable */
    movl $(boot_pd + 3), boot_pdpt
    movl $boot_pd, %edi
    movl $0x83, %eax                    /* present, writable, 2 MiB page */
1:  movl %eax, (%edi)
    addl $8, %edi
    addl $0x200000, %eax
    cmpl $0x40000083, %eax
    jne 1b

    movl %cr4, %eax
    orl $0x620, %eax                    /* PAE; OSFXSR and OSXMMEXCPT let ring 3 use SSE */
    movl %eax, %cr4
    movl $boot_pml4, %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx              /* IA32_EFER */
    rdmsr
    orl $0x101, %eax                    /* LME, SCE (SYSCALL) */
    btl $20, %esi                       /* CPUID: execute-disable */
    jnc 2f
    orl $0x800, %eax                    /* NXE */
2:  wrmsr
    movl %cr0, %eax
    andl $0x9ffffff3, %eax              /* caches on (CD, NW), no x87 emulation (EM), no lazy FPU (TS) */
    orl $0x80010023, %eax               /* PG, WP, NE, MP, PE */
    movl %eax, %cr0
    ljmp $SEL_KERNEL_CODE, $long_mode

no_long_mode:
    movl $no_long_mode_text, %esi
    movw $COM1, %dx
1:  lodsb
    testb %al, %al
    jz 2f
    outb %al, %dx
    jmp 1b
2:  hlt
    jmp 2b
no_long_mode_text:
    .asciz "kernel: this CPU has no long mode (CPUID 0x80000001 EDX bit 29)\r\n"

    .code64
long_mode:
    xorl %eax, %eax
    movl %eax, %fs
    movl %eax, %gs
    movl $kernel_stack_top, %esp
    movl %ebp, %edi
    xorl %ebp, %ebp
    call kernel_main
1:  hlt
    jmp 1b

    .data
    .balign 16
    .globl gdt
gdt:
    .quad 0
    .quad 0x00af9b000000ffff            /* 0x08 kernel code, L = 1 */
    .quad 0x00cf93000000ffff            /* 0x10 kernel data */
    .quad 0x00cff3000000ffff            /* 0x18 user data, DPL 3 */
    .quad 0x00affb000000ffff            /* 0x20 user code, DPL 3, L = 1 */
    .quad 0, 0                          /* 0x28 TSS: 16 bytes, written by segments.c */
    .quad 0x00cf9b000000ffff            /* 0x38 32-bit code for pvh_entry */
    .globl gdt_end
gdt_end:
boot_gdt_pointer:
    .word gdt_end - gdt - 1
    .long gdt
    .long 0

    .bss
    .balign 4096
boot_pml4:  .skip 4096
boot_pdpt:  .skip 4096
boot_pd:    .skip 4096
    .globl kernel_stack_guard, kernel_stack_top
kernel_stack_guard:                     /* never mapped by paging.c: a stack overflow is a #PF, then a #DF */
            .skip 4096
            .skip 12288
kernel_stack_top:
