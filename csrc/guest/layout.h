/*
 * Addresses and selectors that assembly and C share. Everything else of the memory map is found at run time.
 *
 *   physical      0x007c00  boot sector (the BIOS puts it there)
 *                 0x010000  boot image as the boot sector reads it: setup.S, then the kernel
 *                 0x100000  the kernel, linked and run there (kernel.ld)
 *   virtual       0 .. 4G   RAM, mapped one to one for the supervisor only (but page 0: null pointers fault)
 *                 USER_BASE the ring 3 program, its stack and the gate page (PML4 entry 1)
 *                 PHYS_WINDOW  device registers and firmware tables, mapped on demand (PML4 entry 2)
 */
#ifndef GUEST_LAYOUT_H
#define GUEST_LAYOUT_H

#define BOOT_IMAGE_SEGMENT 0x1000
#define BOOT_IMAGE_BASE    0x10000
#define BOOT_IMAGE_MAGIC   0x474d5650 /* "PVMG" at offset 4 of the boot image */
#define BOOT_IMAGE_LIMIT   0x70000    /* the boot image must end below 0x80000: the EBDA is above */
#define KERNEL_BASE        0x100000

#define COM1 0x3f8

#define PVH_MAGIC      0x336ec578 /* hvm_start_info.magic */
#define PVH_MEMMAP_MAX 64

/* The order is the one that SYSCALL and SYSRET demand of STAR (Intel SDM 3A §5.8.8). */
#define SEL_KERNEL_CODE 0x08
#define SEL_KERNEL_DATA 0x10
#define SEL_USER_DATA   (0x18 | 3)
#define SEL_USER_CODE   (0x20 | 3)
#define SEL_TSS         0x28
#define SEL_BOOT_CODE32 0x38

#define VECTOR_IRQ_BASE 0x20
#define VECTOR_INT80    0x80
#define VECTOR_SYSCALL  0x100 /* not a CPU vector: marks a frame built by syscall_entry */

#define USER_BASE      0x8000000000
#define USER_STACK_TOP (USER_BASE + 0x100000)
#define USER_GATE      (USER_BASE + 0x1ff000)
#define USER_END       (USER_BASE + 0x200000)
#define PHYS_WINDOW    0x10000000000

/* System calls: number in RAX, arguments in RDI and RSI, answer in RAX; RCX and R11 are lost. */
#define SYS_EXIT  0
#define SYS_WRITE 1
#define SYS_TICKS 2
#define SYS_PROBE 3

/* The doors from ring 3 into the kernel, bits of the mask that the ring 3 program gets. */
#define DOOR_SYSCALL 1
#define DOOR_INT80   2
#define DOOR_INT3    4

#endif
