/*
 * The lab's system calls and programs: number in RAX, arguments in RDI, RSI, RDX, answer in RAX; RCX and R11 are
 * lost.
 */
#ifndef GUEST_LAB_USER_H
#define GUEST_LAB_USER_H

#define LAB_SYS_EXIT    0 /* result; as ../../layout.h's */
#define LAB_SYS_WRITE   1 /* text, size */
#define LAB_SYS_NULL    2
#define LAB_SYS_YIELD   4
#define LAB_SYS_TRIM    5  /* gives the heap back; how many pages */
#define LAB_SYS_FORK    6  /* 0 in the child; its number in the parent, or 0 there too when there is no room */
#define LAB_SYS_WAIT    7  /* child; its result */
#define LAB_SYS_READ    8  /* LBA, page: 4 KiB from the disk */
#define LAB_SYS_REPORT  9  /* operations, cycles, value: added to the workload's result */
#define LAB_SYS_PROTECT 10 /* count: toggles W of the heap's first PROTECT_PAGES in turn; answers TSC cycles */

#define PROTECT_PAGES 16u
#define HEAP_WINDOW   256u /* pages that PROGRAM_PGFAULT touches before it gives them back */

/* What a program does: its first argument; the second is a count, the third the door (../../layout.h). */
#define PROGRAM_HELLO   0
#define PROGRAM_SYSCALL 1
#define PROGRAM_PGFAULT 2
#define PROGRAM_PTEMOD  3
#define PROGRAM_DIVZERO 4
#define PROGRAM_YIELD   5
#define PROGRAM_SPIN    6 /* computes until it is ended, at most count times SPIN_TURNS turns */
#define PROGRAM_DISK    7 /* count reads; the first LBA follows from nothing: 0 */
#define PROGRAM_FORK    8
#define PROGRAM_LOOP    9

#define SPIN_TURNS 20000000ul

#endif
