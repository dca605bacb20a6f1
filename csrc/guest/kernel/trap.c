/*
 * The IDT (Intel SDM 3A §6.10-6.14) and the one place where every exception, interrupt and system call arrives.
 * Gates for exceptions and IRQs have DPL 0: ring 3 cannot reach them by INT n. Two have DPL 3: vector 3 (INT3) and
 * 80h.
 */
#include "kernel.h"
#include "x86.h"

#define IDT_ENTRIES    256
#define GATE_INTERRUPT 0x8e /* present, 64-bit interrupt gate: IF is cleared on entry */
#define GATE_DPL3      0x60
#define IRQ_LINES      16
#define IRQ_SHARED     4

typedef struct IdtEntry {
    uint16_t offset_low, selector;
    uint8_t ist, type;
    uint16_t offset_middle;
    uint32_t offset_high, reserved;
} IdtEntry;
_Static_assert(sizeof(IdtEntry) == 16, "64-bit gate descriptor");

extern char trap_stubs[], trap_stub_int80[];
extern char rdmsr_try[], wrmsr_try[], msr_failed[];
void stack_reset(void (*f)(void)) __attribute__((noreturn));

static IdtEntry idt[IDT_ENTRIES] __attribute__((aligned(16)));
static IrqHandler irq_handlers[IRQ_LINES][IRQ_SHARED];
static volatile uint64_t irq_counts[IRQ_LINES];

static void idt_set(unsigned vector, const char *handler, uint8_t ist, uint8_t type)
{
    uint64_t address = (uint64_t)handler;
    idt[vector] = (IdtEntry){
        .offset_low = (uint16_t)address,
        .offset_middle = (uint16_t)(address >> 16),
        .offset_high = (uint32_t)(address >> 32),
        .selector = SEL_KERNEL_CODE,
        .ist = ist,
        .type = type,
    };
}

void trap_init(void)
{
    for (unsigned v = 0; v < VECTOR_IRQ_BASE + IRQ_LINES; v++) {
        uint8_t ist = v == 8 ? IST_DOUBLE_FAULT : v == 2 ? IST_NMI : 0;
        uint8_t dpl = v == 3 ? GATE_DPL3 : 0;
        idt_set(v, trap_stubs + 16 * v, ist, GATE_INTERRUPT | dpl);
    }
    idt_set(VECTOR_INT80, trap_stub_int80, 0, GATE_INTERRUPT | GATE_DPL3);
    TablePointer pointer = {.limit = sizeof(idt) - 1, .base = (uint64_t)idt};
    lidt(&pointer);
}

void trap_set_irq(unsigned irq, IrqHandler handler)
{
    if (irq >= IRQ_LINES)
        return;
    for (unsigned i = 0; i < IRQ_SHARED; i++) {
        if (!irq_handlers[irq][i]) {
            irq_handlers[irq][i] = handler;
            pic_unmask(irq);
            return;
        }
    }
}

uint64_t trap_irq_count(unsigned irq) { return irq < IRQ_LINES ? irq_counts[irq] : 0; }

static void trap_interrupt(unsigned irq)
{
    if (pic_spurious(irq))
        return;
    irq_counts[irq]++;
    for (unsigned i = 0; i < IRQ_SHARED && irq_handlers[irq][i]; i++)
        irq_handlers[irq][i]();
    pic_end_of_interrupt(irq);
}

void trap_dispatch(TrapFrame *frame)
{
    bool from_user = (frame->cs & 3) == 3;
    uint64_t vector = frame->vector;

    if (vector >= VECTOR_IRQ_BASE && vector < VECTOR_IRQ_BASE + IRQ_LINES) {
        trap_interrupt((unsigned)vector - VECTOR_IRQ_BASE);
        return;
    }
    if (from_user && (vector == VECTOR_SYSCALL || vector == VECTOR_INT80 || vector == 3)) {
        syscall_dispatch(frame);
        return;
    }
    if (!from_user && vector == 13 && (frame->rip == (uint64_t)rdmsr_try || frame->rip == (uint64_t)wrmsr_try)) {
        frame->rip = (uint64_t)msr_failed; /* an MSR that this CPU does not have: the caller asked to be told */
        return;
    }
    if (from_user && user_fault(frame))
        return;
    report_exception(frame);
    print("The shell starts again on a fresh stack.\n");
    stack_reset(shell_restart);
}
