/*
 * The IDT (Intel SDM 3A §6.10-6.14), or the monitor's trap table, and the one place where every exception,
 * interrupt and system call arrives. An exception in the kernel that nobody expects is told on the console and in
 * the report, and ends the machine.
 */
#include "lab_kernel.h"

#define IDT_ENTRIES    256
#define GATE_INTERRUPT 0x8e /* present, 64-bit interrupt gate: IF is cleared on entry */
#define GATE_DPL3      0x60
#define IRQ_LINES      16

extern char trap_stubs[], trap_stub_int80[], trap_stub_intn[], trap_failed[];
extern uint64_t trap_try_rsp;
void lab_trap(TrapFrame *frame);

static IrqHandler irq_handlers[IRQ_LINES];
volatile uint64_t trap_intn_count, trap_intn_cs;

void trap_set_irq(unsigned irq, IrqHandler handler)
{
    if (irq >= IRQ_LINES)
        return;
    irq_handlers[irq] = handler;
    pic_unmask(irq);
}

static void irq_call(unsigned irq)
{
    lab_report.interrupts++;
    if (irq_handlers[irq])
        irq_handlers[irq]();
}

#ifdef LAB_PARAVIRT

extern char trap_stub_event[], syscall_entry[];

void trap_init(void)
{
    LabTrap traps[24];
    unsigned n = 0;
    for (unsigned v = 0; v < 20; v++)
        if (v != 2 && v != 8 && v != 9 && v != 15 && v != 18) /* not the guest's, or not to be survived */
            traps[n++] = (LabTrap){v, v == 3, (uint64_t)trap_stubs + 16 * v};
    traps[n++] = (LabTrap){VECTOR_INT80, 1, (uint64_t)trap_stub_int80};
    traps[n++] = (LabTrap){LAB_TRAP_SYSCALL, 1, (uint64_t)syscall_entry};
    traps[n++] = (LabTrap){LAB_TRAP_EVENT, 0, (uint64_t)trap_stub_event};
    hypercall(LAB_HC_TRAPS, (uint64_t)traps, n, 0);
}

uint64_t trap_idt(void) { return 0; }

static bool trap_interrupt(uint64_t vector)
{
    if (vector != LAB_TRAP_EVENT)
        return false;
    uint32_t pending = __atomic_exchange_n(&lab_shared.pending, 0, __ATOMIC_SEQ_CST);
    for (unsigned i = 0; i < IRQ_LINES; i++)
        if (pending >> i & 1)
            irq_call(i);
    lab_shared.served |= pending & ~(1u << LAB_EVENT_TIMER); /* the way out is a hypercall */
    return true;
}

#else

typedef struct IdtEntry {
    uint16_t offset_low, selector;
    uint8_t ist, type;
    uint16_t offset_middle;
    uint32_t offset_high, reserved;
} IdtEntry;
_Static_assert(sizeof(IdtEntry) == 16, "64-bit gate descriptor");

static IdtEntry idt[IDT_ENTRIES] __attribute__((aligned(16)));

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
    for (unsigned v = 0; v < VECTOR_IRQ_BASE + IRQ_LINES; v++)
        idt_set(v, trap_stubs + 16 * v, v == 8 ? IST_DOUBLE_FAULT : 0, GATE_INTERRUPT | (v == 3 ? GATE_DPL3 : 0));
    idt_set(VECTOR_INTN, trap_stub_intn, 0, GATE_INTERRUPT);
    idt_set(VECTOR_INT80, trap_stub_int80, 0, GATE_INTERRUPT | GATE_DPL3);
    TablePointer pointer = {.limit = sizeof(idt) - 1, .base = (uint64_t)idt};
    lidt(&pointer);
}

uint64_t trap_idt(void) { return (uint64_t)idt; }

static bool trap_interrupt(uint64_t vector)
{
    if (vector < VECTOR_IRQ_BASE || vector >= VECTOR_IRQ_BASE + IRQ_LINES)
        return false;
    unsigned irq = (unsigned)vector - VECTOR_IRQ_BASE;
    if (!pic_spurious(irq)) {
        irq_call(irq);
        pic_end_of_interrupt(irq);
    }
    return true;
}

#endif

static void trap_fatal(const TrapFrame *frame)
{
    lab_report.state = LAB_FAILED;
    lab_report.fault_vector = frame->vector;
    lab_report.fault_rip = frame->rip;
    lab_report.fault_error = frame->error;
    lab_report.fault_address = frame->vector == 14 ? fault_address() : 0;
    print("lab: exception %lu in the kernel, error %lx, rip %lx, cs %lx, rsp %lx, address %lx\n", frame->vector,
          frame->error, frame->rip, frame->cs, frame->rsp, lab_report.fault_address);
    lab_exit(LAB_FAULT);
}

static void kernel_trap(TrapFrame *frame)
{
    if (frame->vector == VECTOR_INTN) {
        trap_intn_count++;
        trap_intn_cs = frame->cs;
    } else if (trap_try_rsp) {
        frame->rax = LAB_CHECK_FAULT | frame->vector;
        frame->rip = (uint64_t)trap_failed;
        frame->rsp = trap_try_rsp;
    } else {
        trap_fatal(frame);
    }
}

void lab_trap(TrapFrame *frame)
{
    bool from_user = (frame->cs & 3) == 3;
    if (trap_interrupt(frame->vector))
        ;
    else if (from_user && (frame->vector == VECTOR_SYSCALL || frame->vector == VECTOR_INT80 || frame->vector == 3))
        syscall_dispatch(frame);
    else if (from_user)
        syscall_fault(frame);
    else if (frame->vector == 3 && process_current)
        syscall_dispatch(frame); /* the gate page's INT3 in ring 0: only while the doors are tried */
    else
        kernel_trap(frame);
    if (from_user && process_resched)
        process_yield();
    /* SYSRETQ takes RIP from RCX; beyond the program's half it would fault in ring 0 on the program's stack. */
    if (frame->vector == VECTOR_SYSCALL && frame->rip >= 1ul << 47)
        frame->vector = 0;
}
