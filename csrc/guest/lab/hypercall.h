/*
 * The paravirtual interface between the lab kernel (built with LAB_PARAVIRT) and its monitor: numbers, structures
 * and rules, for both sides. docs/paravirt.md explains it. The idea is Xen's (Barham et al. 2003): the guest knows
 * that it is not alone, and asks for what it would otherwise have to be caught at. The ABI is this lab's own.
 *
 * A hypercall is `int 0x82` in the guest's kernel: number in RAX, arguments in RDI, RSI, RDX; the answer in RAX, 0
 * or more, or one of -LAB_E*. All other registers are kept. Every pointer is a virtual address of the guest's
 * kernel, every `gpa` a guest-physical one. A program's hypercall is -LAB_EPERM.
 *
 * Each hypercall first does what is queued in the shared page: page table updates, then lines that were served. An
 * update that is refused makes the hypercall's answer -LAB_EINVAL or -LAB_EFAULT; it is not done, and neither is
 * the rest of the queue.
 *
 * Traps arrive as on hardware (Intel SDM 3A §6.14): SS, RSP, RFLAGS, CS, RIP and, where there is one, the error
 * code on the kernel's stack; events off. In a frame CS says where it comes from: LAB_CS_KERNEL or LAB_CS_USER.
 * Paging is on, of 4 levels, with CR0.WP and EFER.NXE, before the first instruction and for good.
 */
#ifndef GUEST_LAB_HYPERCALL_H
#define GUEST_LAB_HYPERCALL_H

#define LAB_HYPERCALL_VECTOR 0x82

#define LAB_HC_SHARED  0  /* gpa of a page, from now on LabShared; the first call. All else is forgotten */
#define LAB_HC_TRAPS   1  /* LabTrap *, count: adds to the trap table */
#define LAB_HC_STACK   2  /* RSP for traps from programs, a multiple of 16 */
#define LAB_HC_FLUSH   3  /* nothing but the queue */
#define LAB_HC_ADDRESS 4  /* gpa of a PML4; RSP as LAB_HC_STACK, or 0: another address space */
#define LAB_HC_IRET    5  /* RSP points to a LabIret; comes back only with an error, events off */
#define LAB_HC_BLOCK   6  /* events on, and sleep until there is one */
#define LAB_HC_EVENTS  7  /* delivers what is pending, when events are on */
#define LAB_HC_IRQ     8  /* line 1-15 but 2, LAB_IRQ_*: its interrupts become events, or no longer */
#define LAB_HC_TIMER   9  /* ns until LAB_EVENT_TIMER comes, 1 for again and again or 0 for once; ns 0: never */
#define LAB_HC_CONSOLE 10 /* text, size up to LAB_CONSOLE_MAX */
#define LAB_HC_EXIT    11 /* status 0 to 127: ends the machine */
#define LAB_HC_COUNT   12

#define LAB_IRQ_ON    1
#define LAB_IRQ_LEVEL 2 /* level-triggered, as PCI's are; else by edges */

#define LAB_EPERM  1
#define LAB_E2BIG  7
#define LAB_EFAULT 14 /* a pointer that is not the kernel's, or not in RAM */
#define LAB_EBUSY  16
#define LAB_EINVAL 22
#define LAB_ENOSYS 38

#define LAB_CS_KERNEL 0x08
#define LAB_SS_KERNEL 0x10
#define LAB_SS_USER   0x1b
#define LAB_CS_USER   0x23

#define LAB_TRAPS_MAX    64
#define LAB_CONSOLE_MAX  4096
#define LAB_TRAP_SYSCALL 0x100 /* SYSCALL: RCX and R11 as on hardware, but on the kernel's stack, with a frame */
#define LAB_TRAP_EVENT   0x101 /* something is pending */
#define LAB_TRAP_VECTORS 0x102
#define LAB_TIMER_MIN_NS 50000
#define LAB_TIMER_MAX_NS 50000000
#define LAB_EVENT_TIMER  0 /* bit 0 of `pending`; the others are the 8259A's lines */
#define LAB_QUEUE        240

#ifndef __ASSEMBLER__
#include <stdint.h>

/*
 * One page table entry. The monitor keeps its shadow and the TLB in step, so no INVLPG follows. With
 * LAB_MMU_RELEASE in `entry`, that page is a table no more.
 */
typedef struct LabMmuUpdate {
    uint64_t entry; /* gpa of the entry, a multiple of 8; or of the page | LAB_MMU_* */
    uint64_t value; /* LAB_MMU_RELEASE: 0; LAB_MMU_ADDRESS: RSP as LAB_HC_STACK, or 0 */
} LabMmuUpdate;
#define LAB_MMU_RELEASE 1ul
#define LAB_MMU_ADDRESS 2ul

/*
 * The page that both see. The guest writes `events` at will, that is its CLI and STI. The monitor sets bits of
 * `pending` when a line or the timer interrupts; the guest takes them before it looks at what they stand for. Who
 * turns events on looks at `pending` afterwards, and asks for LAB_HC_EVENTS if it is not zero. A line that
 * interrupted is shut until the guest sets its bit in `served`.
 */
typedef struct LabShared {
    uint32_t events;  /* 1: deliver; the monitor clears it at each trap and sets it from RFLAGS.IF at LAB_HC_IRET */
    uint32_t pending; /* 1 << LAB_EVENT_TIMER, 1 << line */
    uint32_t served;  /* 1 << line; the monitor takes the bits */
    uint32_t queued;  /* of `queue`; the monitor sets it to 0 */
    uint64_t cr2;     /* of the last page fault */
    uint64_t priority; /* in CR8's place. The 8259A's interrupts are not held back by it (Intel SDM 3A §10.8.3.1) */
    uint64_t reserved[28];
    LabMmuUpdate queue[LAB_QUEUE];
} LabShared;

typedef struct LabTrap {
    uint32_t vector;  /* CPU vector, or LAB_TRAP_* */
    uint32_t user;    /* 1: programs may come by INT n */
    uint64_t handler; /* address in the kernel; 0 takes it out */
} LabTrap;

typedef struct LabIret {
    uint64_t rax, reserved[2]; /* the kernel's TrapFrame, from RAX on */
    uint64_t rip, cs, rflags, rsp, ss;
} LabIret;
#endif

#endif
