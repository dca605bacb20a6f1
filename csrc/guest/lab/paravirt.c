/* What the paravirtual kernel keeps: the page it shares with its monitor, and page table updates until they are
 * sent. */
#include "lab_kernel.h"

#ifdef LAB_PARAVIRT

LabShared lab_shared_page __attribute__((aligned(4096)));
static uint32_t level_lines;

static void queue_add(uint64_t entry, uint64_t value)
{
    if (lab_shared.queued == LAB_QUEUE)
        paging_commit();
    volatile LabMmuUpdate *update = &lab_shared.queue[lab_shared.queued];
    update->entry = entry;
    update->value = value;
    lab_shared.queued++;
}

void pte_set(uint64_t *entry, uint64_t value) { queue_add((uint64_t)entry, value); }

void table_release(void *table) { queue_add((uint64_t)table | LAB_MMU_RELEASE, 0); }

void address_space_load(uint64_t root, uint64_t stack_top) { queue_add(root | LAB_MMU_ADDRESS, stack_top); }

void paging_commit(void)
{
    if (lab_shared.queued && hypercall(LAB_HC_FLUSH, 0, 0, 0))
        lab_exit(LAB_FAULT); /* the monitor refused one of the kernel's own tables */
}

/* The 8259A is the monitor's, and a line is an event. */
void pic_init(void) {}

void pic_unmask(unsigned irq)
{
    if (irq != LAB_EVENT_TIMER)
        hypercall(LAB_HC_IRQ, irq, LAB_IRQ_ON | (level_lines >> irq & 1 ? LAB_IRQ_LEVEL : 0), 0);
}

void pic_set_level(unsigned irq) { level_lines |= 1u << irq; }

bool pic_spurious(unsigned irq)
{
    (void)irq;
    return false;
}

void pic_end_of_interrupt(unsigned irq) { (void)irq; }

#endif
