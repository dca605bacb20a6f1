/*
 * The boot sector (MBR). The BIOS loads it at 0000:7c00 with the drive number in DL and jumps to it in real mode.
 * It reads the boot image (setup.S and the kernel, in the gap between the MBR and the first partition) to 1000:0000
 * by INT 13h: extensions (Enhanced Disk Drive specification 3.0 §3.1, functions 41h and 42h) or, on a floppy disk
 * or an old BIOS, by cylinder, head and sector (functions 08h and 02h). Messages go to INT 10h; what went
 * wrong also goes to COM1, line after line: a BIOS may mirror INT 10h there.
 *
 * mkdisk.py fills in `sectors_left`, the disk signature and the partition table.
 * Left out: a BPB, booting from a partition's own boot sector.
 */
#include "../layout.h"

    .code16
    .text
    .globl _start
_start:
    cli
    xorw %ax, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movw $0x7c00, %sp
    ljmp $0, $1f                        /* some BIOSes enter at 07c0:0000 */
1:  sti
    cld
    movb %dl, drive
    movw $message_loading, %si
    call print

    movb $0x41, %ah                     /* EDD: installation check */
    movw $0x55aa, %bx
    int $0x13
    jc read_chs
    cmpw $0xaa55, %bx
    jne read_chs
    testb $1, %cl                       /* bit 0: functions 42h-44h */
    jz read_chs

read_lba:
    movw sectors_left, %ax
    testw %ax, %ax
    jz loaded
    cmpw $64, %ax                       /* 32 KiB a call: never across a 64 KiB DMA boundary */
    jbe 1f
    movw $64, %ax
1:  movw %ax, packet_count
    movw $packet, %si
    movb drive, %dl
    movb $0x42, %ah                     /* EDD: extended read */
    int $0x13
    jc read_chs                         /* what is left may still be readable the old way */
    movw packet_count, %ax
    subw %ax, sectors_left
    addw %ax, packet_lba
    shlw $5, %ax                        /* 512 bytes are 32 paragraphs */
    addw %ax, packet_segment
    jmp read_lba

read_chs:
    movb drive, %dl
    xorw %di, %di
    movb $0x08, %ah                     /* drive parameters: CL 5-0 sectors, DH last head; ES:DI changes */
    int $0x13
    jc failed
    andw $0x3f, %cx
    jz failed
    movw %cx, sectors_per_track
    movzbw %dh, %dx
    incw %dx
    movw %dx, heads
next_sector:
    cmpw $0, sectors_left
    je loaded
    movw packet_lba, %ax
    xorw %dx, %dx
    divw sectors_per_track
    movw %dx, %cx
    incw %cx                            /* sectors count from 1 */
    xorw %dx, %dx
    divw heads
    movb %dl, %dh                       /* DH head */
    movb %al, %ch                       /* CH cylinder bits 7-0, CL bits 7-6 cylinder bits 9-8 */
    shlb $6, %ah
    orb %ah, %cl
    movb drive, %dl
    movw packet_segment, %es
    xorw %bx, %bx
    movw $3, %bp                        /* floppy motors need patience */
1:  movw $0x0201, %ax                   /* read one sector */
    int $0x13
    jnc 2f
    xorw %ax, %ax                       /* reset the drive, then once more */
    int $0x13
    decw %bp
    jnz 1b
    jmp failed
2:  incw packet_lba
    addw $32, packet_segment
    decw sectors_left
    jmp next_sector

loaded:
    movw $BOOT_IMAGE_SEGMENT, %ax
    movw %ax, %es
    cmpl $BOOT_IMAGE_MAGIC, %es:4
    jne no_image
    movb drive, %dl
    ljmp $BOOT_IMAGE_SEGMENT, $0

no_image:
    movw $message_image, %si
    jmp 1f
failed:
    movw $message_read, %si
1:  xorw %ax, %ax
    movw %ax, %ds
    pushw %si
    call print
    popw %si
next_byte:                              /* to COM1 */
    lodsb
    testb %al, %al
    jz 3f
    movb %al, %ah
    movw $COM1 + 5, %dx
    xorw %cx, %cx                       /* 65536 tries, then send anyway */
2:  inb %dx, %al
    testb $0x20, %al                    /* LSR.THRE */
    loopz 2b
    movb %ah, %al
    movw $COM1, %dx
    outb %al, %dx
    jmp next_byte
3:  hlt
    jmp 3b

print:                                  /* DS:SI, ends with a zero byte */
    lodsb
    testb %al, %al
    jz 1f
    pusha
    movw $0x0007, %bx
    movb $0x0e, %ah                     /* teletype */
    int $0x10
    popa
    jmp print
1:  ret

message_loading: .asciz "boot sector: loading the kernel\r\n"
message_read:    .asciz "boot sector: disk read error\r\n"
message_image:   .asciz "boot sector: no boot image after the MBR\r\n"

drive:              .byte 0
sectors_per_track:  .word 0
heads:              .word 0
    .balign 4
packet:                                 /* EDD disk address packet */
                    .byte 16, 0
packet_count:       .word 0
                    .word 0             /* offset */
packet_segment:     .word BOOT_IMAGE_SEGMENT
packet_lba:         .long 1, 0

    .org 0x1b0                          /* filled in by mkdisk.py */
sectors_left:       .word 0
    .org 0x1fe
                    .word 0xaa55
