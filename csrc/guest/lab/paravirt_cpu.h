/* The paravirtual kernel's interrupt flag and its hypercall (hypercall.h); kernel/x86.h has them as instructions.
 */
#ifndef GUEST_LAB_PARAVIRT_CPU_H
#define GUEST_LAB_PARAVIRT_CPU_H

#include "hypercall.h"

extern LabShared lab_shared_page;
#define lab_shared (*(volatile LabShared *)&lab_shared_page)

static inline int64_t hypercall(uint64_t number, uint64_t a, uint64_t b, uint64_t c)
{
    int64_t answer;
    __asm__ volatile("int %1"
                     : "=a"(answer)
                     : "i"(LAB_HYPERCALL_VECTOR), "0"(number), "D"(a), "S"(b), "d"(c)
                     : "memory");
    return answer;
}

static inline void cli(void)
{
    lab_shared.events = 0;
    __asm__ volatile("" : : : "memory");
}

static inline void sti(void)
{
    __asm__ volatile("" : : : "memory");
    lab_shared.events = 1;
    if (lab_shared.pending)
        hypercall(LAB_HC_EVENTS, 0, 0, 0);
}

static inline void sti_hlt(void) { hypercall(LAB_HC_BLOCK, 0, 0, 0); }

#endif
