/*
 * The first part of the boot image: the last real-mode code. It opens A20, asks the BIOS for the memory map, enters
 * 32-bit protected mode, moves the kernel to 1 MiB and enters it as a PVH loader would (Xen "x86/HVM direct boot
 * ABI": EBX points to hvm_start_info). So the kernel has one entry, whether this disk or `-kernel` started it.
 *
 * A20: INT 15h 2401h, the 8042's output port, port 0x92, each followed by a test that looks at memory.
 * Memory: INT 15h E820h (ACPI 6.4 §15.1), else E801h, else 88h.
 * mkdisk.py fills in `kernel_bytes`. Left out: unreal mode, kernels above 448 KiB.
 */
#include "../layout.h"

#define SMAP 0x534d4150

    .code16
    .text
    .globl _start
_start:
    jmp start
    .org 4
                    .long BOOT_IMAGE_MAGIC
kernel_bytes:       .long 0             /* offset 8 */
setup_bytes:        .long setup_end     /* offset 12: the kernel follows */

start:
    cli
    movw %cs, %ax
    movw %ax, %ds
    movw %ax, %es
    xorw %bx, %bx
    movw %bx, %ss
    movw $0x7c00, %sp
    sti
    cld
    call a20_open
    jc no_a20
    call memory_map
    cmpl $0, memmap_entries
    je no_memory

    cli
    movb $0x80, %al                     /* NMI off while there is no IDT (CMOS index port bit 7) */
    outb %al, $0x70
    lgdtl gdt_pointer
    movl %cr0, %eax
    orb $1, %al                         /* CR0.PE: Intel SDM 3A §9.9.1 */
    movl %eax, %cr0
    ljmpl $0x08, $(BOOT_IMAGE_BASE + protected_mode)

no_a20:
    movw $message_a20, %si
    jmp 1f
no_memory:
    movw $message_memory, %si
1:  pushw %si
    call print
    popw %si
2:  lodsb                               /* and as a line of its own to COM1: a BIOS may mirror INT 10h there */
    testb %al, %al
    jz 3f
    movw $COM1, %dx
    outb %al, %dx
    jmp 2b
3:  hlt
    jmp 3b

/* ---- A20 ---------------------------------------------------------------------------------------------------- */
a20_open:                               /* CF = 1: closed for good */
    call a20_test
    jnc 9f
    movw $0x2401, %ax
    int $0x15
    call a20_test
    jnc 9f
    call kbd_wait                       /* 8042: command D1h, then the output port: bit 1 A20, bit 0 no reset */
    movb $0xd1, %al
    outb %al, $0x64
    call kbd_wait
    movb $0xdf, %al
    outb %al, $0x60
    call kbd_wait
    call a20_test
    jnc 9f
    inb $0x92, %al                      /* system control port A: bit 1 A20, bit 0 would reset */
    orb $2, %al
    andb $0xfe, %al
    outb %al, $0x92
    call a20_test
9:  ret

kbd_wait:                               /* until the input buffer is empty (status bit 1) */
    xorw %cx, %cx
1:  inb $0x64, %al
    testb $2, %al
    loopnz 1b
    ret

a20_test:                               /* 0000:0500 and ffff:0510 are one cell while A20 is closed */
    pushw %ds
    pushw %es
    xorw %ax, %ax
    movw %ax, %ds
    notw %ax
    movw %ax, %es
    movw $0x0500, %si
    movw $0x0510, %di
    movw $100, %cx                      /* the 8042 may take its time */
    pushw (%si)
1:  incw (%si)
    movw (%si), %ax
    outb %al, $0x80                     /* about a microsecond */
    cmpw %es:(%di), %ax
    jne 2f
    loop 1b
    stc
    jmp 3f
2:  clc
3:  popw (%si)
    popw %es
    popw %ds
    ret

/* ---- memory map --------------------------------------------------------------------------------------------- */
memory_map:
    xorl %ebx, %ebx
    movw $memmap, %di
1:  movl $0xe820, %eax
    movl $SMAP, %edx
    movl $20, %ecx
    int $0x15
    jc 3f
    cmpl $SMAP, %eax
    jne 3f
    movl 8(%di), %eax                   /* empty ranges say nothing */
    orl 12(%di), %eax
    jz 2f
    movl $0, 20(%di)
    addw $24, %di
    incl memmap_entries
    cmpl $PVH_MEMMAP_MAX, memmap_entries
    jae 3f
2:  testl %ebx, %ebx
    jnz 1b
3:  cmpl $0, memmap_entries
    jne 9f

    int $0x12                           /* no E820: KiB of conventional memory */
    movzwl %ax, %eax
    shll $10, %eax
    xorl %edx, %edx
    call memmap_add
    xorw %cx, %cx
    xorw %dx, %dx
    movw $0xe801, %ax                   /* KiB from 1 to 16 MiB, 64 KiB blocks above */
    int $0x15
    jc 5f
    testw %cx, %cx
    jnz 4f
    movw %ax, %cx
    movw %bx, %dx
4:  pushw %dx
    movzwl %cx, %eax
    shll $10, %eax
    movl $0x100000, %edx
    call memmap_add
    popw %ax
    movzwl %ax, %eax
    shll $16, %eax
    movl $0x1000000, %edx
    call memmap_add
    ret
5:  movb $0x88, %ah                     /* KiB above 1 MiB */
    int $0x15
    jc 9f
    movzwl %ax, %eax
    shll $10, %eax
    movl $0x100000, %edx
    call memmap_add
9:  ret

memmap_add:                             /* EAX bytes of RAM from EDX; the table is zero already */
    testl %eax, %eax
    jz 1f
    movl %edx, (%di)
    movl %eax, 8(%di)
    movl $1, 16(%di)
    addw $24, %di
    incl memmap_entries
1:  ret

print:                                  /* DS:SI to INT 10h */
    lodsb
    testb %al, %al
    jz 1f
    pusha
    movw $0x0007, %bx
    movb $0x0e, %ah
    int $0x10
    popa
    jmp print
1:  ret

message_a20:    .asciz "setup: address line A20 cannot be opened\r\n"
message_memory: .asciz "setup: the BIOS reports no memory (E820, E801, 88h)\r\n"

/* ---- protected mode ----------------------------------------------------------------------------------------- */
    .code32
protected_mode:
    movw $0x10, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movl $(BOOT_IMAGE_BASE + kernel_bytes), %ebp
    movl (%ebp), %ecx
    addl $3, %ecx
    shrl $2, %ecx
    movl 4(%ebp), %esi
    addl $BOOT_IMAGE_BASE, %esi
    movl $KERNEL_BASE, %edi
    rep movsl
    movl $(BOOT_IMAGE_BASE + start_info), %ebx
    movl $KERNEL_BASE, %eax
    jmp *%eax

    .balign 8
gdt:
    .quad 0
    .quad 0x00cf9b000000ffff            /* 0x08: code, base 0, 4 GiB, 32 bits, ring 0, accessed */
    .quad 0x00cf93000000ffff            /* 0x10: data */
gdt_pointer:
    .word gdt_pointer - gdt - 1
    .long BOOT_IMAGE_BASE + gdt

    .balign 8
start_info:                             /* hvm_start_info, version 1 */
                .long PVH_MAGIC, 1, 0, 0
                .quad 0                 /* modlist_paddr */
                .quad 0                 /* cmdline_paddr */
                .quad 0                 /* rsdp_paddr: the kernel looks for it itself */
                .quad BOOT_IMAGE_BASE + memmap
memmap_entries: .long 0, 0
memmap:         .fill PVH_MEMMAP_MAX * 24, 1, 0
    .balign 512
setup_end:
