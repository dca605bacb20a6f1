/*
 * GDT, LDT, TSS, and the one CPU's data behind GS (Intel SDM 3A §3.4, §3.5, §7.7). RSP0 in the TSS is the stack for
 * traps from ring 3; SYSCALL finds the same one by SWAPGS. The LDT is there for the checks: SLDT shall have an
 * answer. A paravirtual kernel has none of this: its stack is told to the monitor, selectors are the monitor's
 * affair.
 */
#include "lab_kernel.h"

#define MSR_KERNEL_GS_BASE 0xc0000102

typedef struct __attribute__((packed)) Tss {
    uint32_t reserved0;
    uint64_t rsp[3];
    uint64_t reserved1;
    uint64_t ist[7];
    uint64_t reserved2;
    uint16_t reserved3, io_bitmap;
} Tss;
_Static_assert(sizeof(Tss) == 104, "64-bit TSS");

#ifdef LAB_PARAVIRT

void segments_init(void) { kernel_stack_set((uint64_t)kernel_stack_top); }

void kernel_stack_set(uint64_t top) { hypercall(LAB_HC_STACK, top, 0, 0); }

uint64_t segments_gdt(void) { return 0; }

#else

static Tss tss;
static uint8_t ist_stack[4096] __attribute__((aligned(16)));
static uint64_t table[11] __attribute__((aligned(16))) = {
    0,
    0x00af9b000000ffff, /* 08 kernel code, L = 1 */
    0x00cf93000000ffff, /* 10 kernel data */
    0x00cff3000000ffff, /* 18 user data, DPL 3 */
    0x00affb000000ffff, /* 20 user code, DPL 3, L = 1 */
    0,                  /* 28 TSS, 16 bytes */
    0,
    0, /* 38 unused */
    0, /* 40 LDT, 16 bytes */
    0,
    0x0040930000000fff, /* 50 kernel data, 4 KiB */
};
static uint64_t ldt[2] = {0, 0x00cf93000000ffff};
static struct {
    uint64_t kernel_rsp, user_rsp; /* GS:0 and GS:8 in trap.S */
} cpu;

static void system_descriptor(unsigned selector, uint64_t base, uint64_t limit, uint64_t type)
{
    table[selector / 8] = limit | (base & 0xffffff) << 16 | (0x80 | type) << 40 | (base >> 24 & 0xff) << 56;
    table[selector / 8 + 1] = base >> 32;
}

void segments_init(void)
{
    tss.ist[IST_DOUBLE_FAULT - 1] = (uint64_t)(ist_stack + sizeof(ist_stack));
    tss.io_bitmap = sizeof(tss); /* beyond the limit: no port is open to ring 3 */
    system_descriptor(SEL_TSS, (uint64_t)&tss, sizeof(tss) - 1, 9);
    system_descriptor(SEL_LDT, (uint64_t)ldt, sizeof(ldt) - 1, 2);
    TablePointer pointer = {.limit = sizeof(table) - 1, .base = (uint64_t)table};
    lgdt(&pointer);
    /* CS by a far return, the others by MOV: until now they were the loader's. */
    __asm__ volatile("pushq %0; leaq 1f(%%rip), %%rax; pushq %%rax; lretq; 1:"
                     "mov %1, %%ss; mov %1, %%ds; mov %1, %%es; mov %2, %%fs; mov %2, %%gs"
                     :
                     : "i"(SEL_KERNEL_CODE), "r"(SEL_KERNEL_DATA), "r"(0)
                     : "rax", "memory");
    ltr(SEL_TSS);
    __asm__ volatile("lldt %w0" : : "r"(SEL_LDT));
    wrmsr(MSR_KERNEL_GS_BASE, (uint64_t)&cpu);
    kernel_stack_set((uint64_t)kernel_stack_top);
}

void kernel_stack_set(uint64_t top)
{
    tss.rsp[0] = top;
    cpu.kernel_rsp = top;
}

uint64_t segments_gdt(void) { return (uint64_t)table; }

#endif
