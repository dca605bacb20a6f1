/*
 * The monitor's memory, as assembly (stub.S) and C see it.
 *
 * Physical: the top of the machine's RAM, from `guest_end` on. Linear: PML4 entry 511 of every address space that
 * the guest ever runs in shows the same bytes at LAB_BASE. What is marked u can be read by ring 3, what is marked x
 * be executed there; all else is ring 0's alone.
 *
 *    0x00000  stub: gates and common path (stub.S)
 *    0x02000  IDT, 256 gates
 *    0x03000  GDT: the monitor's selectors are its last ones, so that none of the guest's means anything
 *    0x04000  TSS
 *    0x05000  LabFrame: what a trap leaves, and what the monitor asks of the stub
 *    0x07000  u x  where SYSCALL lands on a KVM that lets it stay in ring 3
 *    0x08000  page tables of this slot: PDPT, PD, eight PTs (16 MiB)
 *    0x12000  the same without the user bit on what is for techniques
 *    0x20000  u    for techniques: 64 KiB of data that ring 3 may write
 *    0x40000  u x  for techniques: 7.75 MiB of code
 *   0x800000  shadow page tables (mmu/shadow.h)
 *  0x1000000  end
 */
#ifndef PYVMM_LAB_LAYOUT_H
#define PYVMM_LAB_LAYOUT_H

#define LAB_SLOT 511
#define LAB_BASE 0xffffff8000000000

#define LAB_STUB        0x00000
#define LAB_IDT         0x02000
#define LAB_GDT         0x03000
#define LAB_TSS         0x04000
#define LAB_FRAME       0x05000
#define LAB_LANDING     0x07000
#define LAB_TABLES      0x08000
#define LAB_USER_TABLES 0x12000
#define LAB_DATA        0x20000
#define LAB_DATA_SIZE   0x10000
#define LAB_CODE        0x40000
#define LAB_CODE_SIZE   0x7c0000
#define LAB_SHADOW      0x800000
#define LAB_SIZE        0x1000000

/* Selectors, at the end of a GDT of one page. */
#define LAB_CS       0xfc0
#define LAB_SS       0xfc8
#define LAB_GUEST_SS 0xfd3
#define LAB_GUEST_CS 0xfdb
#define LAB_TR       0xfe0

#define LAB_PORT 0x5e0 /* the stub writes here, and the monitor has its turn */

/* LabFrame.action: what the stub does before the guest runs. */
#define LAB_LOAD_CR3 0x01
#define LAB_LOAD_FS  0x02
#define LAB_LOAD_GS  0x04
#define LAB_LOAD_CR0 0x08
#define LAB_TOUCH    0x10 /* store the words that `touch` lists again (mmu/shadow.h) */
#define LAB_WAIT     0x20 /* sleep until an interrupt; does not come back */
#define LAB_STOP     0x40 /* for good */
#define LAB_INVLPG   0x80 /* of `page` */

/* Offsets in LabFrame. */
#define LAB_FRAME_ACTION 0x00
#define LAB_FRAME_CR3    0x08
#define LAB_FRAME_FS     0x10
#define LAB_FRAME_GS     0x18
#define LAB_FRAME_CR0    0x20
#define LAB_FRAME_COUNT  0x28
#define LAB_FRAME_TOUCH  0x30
#define LAB_TOUCHES      64
#define LAB_FRAME_PAGE   0x430
#define LAB_FRAME_TRAP   0x1000 /* LabTrapFrame ends here + its size: the stack of every gate (IST 1) */

#endif
