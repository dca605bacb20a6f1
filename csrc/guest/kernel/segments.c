/*
 * Segmentation, as little of it as long mode leaves: the TSS (Intel SDM 3A §7.7). Its RSP0 is the stack on which
 * the CPU enters ring 0 from ring 3 (trap.S sets it), its IST entries are stacks for exceptions that must not trust
 * RSP. The GDT itself is in entry.S.
 */
#include "kernel.h"
#include "x86.h"

typedef struct __attribute__((packed)) Tss {
    uint32_t reserved0;
    uint64_t rsp[3];
    uint64_t reserved1;
    uint64_t ist[7];
    uint64_t reserved2;
    uint16_t reserved3, io_bitmap;
} Tss;
_Static_assert(sizeof(Tss) == 104, "64-bit TSS");

extern uint64_t gdt[];
extern char gdt_end[];
extern Tss tss; /* named in trap.S, which writes RSP0 */
Tss tss;
static uint8_t ist_stacks[2][4096] __attribute__((aligned(16)));

void segments_init(void)
{
    uint64_t base = (uint64_t)&tss, limit = sizeof(tss) - 1;
    tss.ist[IST_DOUBLE_FAULT - 1] = (uint64_t)(ist_stacks[0] + sizeof(ist_stacks[0]));
    tss.ist[IST_NMI - 1] = (uint64_t)(ist_stacks[1] + sizeof(ist_stacks[1]));
    tss.rsp[0] = (uint64_t)kernel_stack_top;
    tss.io_bitmap = sizeof(tss); /* beyond the limit: no port is open to ring 3 */

    /* System descriptor of 16 bytes, type 9: available 64-bit TSS (§3.5, §7.2.3). */
    gdt[SEL_TSS / 8] = limit | (base & 0xffffff) << 16 | 0x89ul << 40 | (base >> 24 & 0xff) << 56;
    gdt[SEL_TSS / 8 + 1] = base >> 32;
    TablePointer pointer = {.limit = (uint16_t)(gdt_end - (char *)gdt - 1), .base = (uint64_t)gdt};
    lgdt(&pointer);
    ltr(SEL_TSS);
}
