/* What the paravirtual kernel keeps: the page it shares with its monitor, and page table updates until they are
 * sent. */
#include "lab_kernel.h"

#ifdef LAB_PARAVIRT

#define BATCH 64u

uint8_t lab_shared_page[PAGE_SIZE] __attribute__((aligned(4096)));
static LabMmuUpdate batch[BATCH];
static unsigned batched;
static uint32_t level_lines;

static void batch_add(uint64_t entry, uint64_t value)
{
    if (batched == BATCH)
        paging_commit();
    batch[batched++] = (LabMmuUpdate){entry, value};
}

void pte_set(uint64_t *entry, uint64_t value) { batch_add((uint64_t)entry, value); }

void table_release(void *table) { batch_add((uint64_t)table | LAB_MMU_RELEASE, 0); }

void paging_commit(void)
{
    unsigned count = batched;
    batched = 0;
    if (count && hypercall(LAB_HC_MMU_UPDATE, (uint64_t)batch, count, 0) != (int64_t)count)
        lab_exit(LAB_FAULT); /* the monitor refused one of the kernel's own tables */
}

/* The 8259A is the monitor's. A line is an event; the monitor serves the chip, and LAB_HC_EOI is for both kinds. */
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
