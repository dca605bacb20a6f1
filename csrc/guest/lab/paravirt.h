/*
 * The one layer in which the two builds differ: each operation is the instruction (Intel SDM 2A-2C) or, with
 * LAB_PARAVIRT, a word in the shared page or a hypercall (hypercall.h). The rest of the kernel knows of neither.
 */
#ifndef GUEST_LAB_PARAVIRT_H
#define GUEST_LAB_PARAVIRT_H

#include "../kernel/x86.h"
#include "hypercall.h"

#include <stdbool.h>

#ifdef LAB_PARAVIRT

#define PARAVIRT 1

static inline uint64_t irq_save(void)
{
    uint64_t was = lab_shared.events;
    cli();
    return was;
}

static inline void irq_restore(uint64_t was)
{
    if (was)
        sti();
    else
        cli();
}

static inline uint64_t fault_address(void) { return lab_shared.cr2; }

static inline void task_priority_set(uint64_t value) { *(volatile uint64_t *)&lab_shared.priority = value; }

/* Entries of live tables: queued until the next hypercall, the way back to a program at the latest. Before the
   kernel reads one again, or uses what it maps, it calls paging_commit(). */
void pte_set(uint64_t *entry, uint64_t value);
void table_release(void *table);
void paging_commit(void);

static inline void paging_flush(uint64_t va) { (void)va; }

/* Queued, too. The kernel is the same in every space; before it touches a program's memory, it calls
 * paging_commit(). */
void address_space_load(uint64_t root, uint64_t stack_top);

#else

#define PARAVIRT 0

static inline uint64_t irq_save(void)
{
    uint64_t was = rflags();
    cli();
    return was;
}

static inline void irq_restore(uint64_t was) { __asm__ volatile("pushq %0; popfq" : : "r"(was) : "memory", "cc"); }

static inline uint64_t fault_address(void) { return read_cr2(); }

static inline void task_priority_set(uint64_t value)
{
    __asm__ volatile("mov %0, %%cr8" : : "r"(value) : "memory");
}

static inline void pte_set(uint64_t *entry, uint64_t value) { *(volatile uint64_t *)entry = value; }

static inline void table_release(void *table) { (void)table; }

static inline void paging_commit(void) {}

static inline void paging_flush(uint64_t va) { invlpg(va); }

void kernel_stack_set(uint64_t top);

static inline void address_space_load(uint64_t root, uint64_t stack_top)
{
    if (stack_top)
        kernel_stack_set(stack_top);
    write_cr3(root);
}

#endif
#endif
