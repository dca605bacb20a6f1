/*
 * The local APIC of one vCPU: xAPIC (a page of registers at IA32_APIC_BASE) and x2APIC (MSRs 0x800 to 0x8ff).
 *
 * Source: Intel SDM 3A chapter 11 (chapter 10 in editions before 2022), cited below as SDM 3A §11.x.
 *
 * As KVM's: after reset the first local APIC's LINT0 passes the 8259 pair through (LVT 0x700) although it is
 * disabled by software. The manual masks it and lets firmware program the virtual wire (MP specification 1.4
 * §3.6.2.2), without which a guest that knows no APIC would have no interrupts.
 *
 * Left out: SMI; CMCI; remote reads; extended INTs; the spurious vector is kept but never delivered, because an
 * engine takes an interrupt in one step in which it cannot be withdrawn. The NMI pin of the board (board_nmi) goes
 * through LINT1 when the guest unmasked that, and else straight to the CPU. On a page that the guest moves over
 * RAM, RAM answers.
 *
 * Lock: that of the ApicBus, see apic_bus.h. Functions without `_locked` in their names take it.
 */
#ifndef PYVMM_IRQ_LAPIC_H
#define PYVMM_IRQ_LAPIC_H

#include "devices/device.h"
#include "irq/apic_bus.h"

#define LAPIC_DEFAULT_BASE 0xfee00000ull
#define LAPIC_PAGE_SIZE    0x1000
#define LAPIC_REGS_SIZE    0x400         /* as struct kvm_lapic_state: what lies above is reserved */
#define LAPIC_TIMER_HZ     NS_PER_SECOND /* before the divider; CPUID leaves 0x15 and 0x40000010 say so */

enum { /* model-specific registers */
       MSR_IA32_APIC_BASE = 0x1b,
       MSR_IA32_TSC_DEADLINE = 0x6e0,
       MSR_X2APIC_FIRST = 0x800,
       MSR_X2APIC_LAST = 0x8ff,
       APIC_BASE_BSP = 1 << 8,
       APIC_BASE_EXTD = 1 << 10,
       APIC_BASE_ENABLE = 1 << 11,
};

/* Offsets in the page, SDM 3A table 11-1; an x2APIC register is MSR 0x800 + offset / 16. */
enum LapicRegister {
    LAPIC_ID = 0x20,
    LAPIC_VERSION = 0x30,
    LAPIC_TPR = 0x80,
    LAPIC_APR = 0x90,
    LAPIC_PPR = 0xa0,
    LAPIC_EOI = 0xb0,
    LAPIC_RRD = 0xc0,
    LAPIC_LDR = 0xd0,
    LAPIC_DFR = 0xe0,
    LAPIC_SVR = 0xf0,
    LAPIC_ISR = 0x100,
    LAPIC_TMR = 0x180,
    LAPIC_IRR = 0x200,
    LAPIC_ESR = 0x280,
    LAPIC_ICR = 0x300,
    LAPIC_ICR_HIGH = 0x310,
    LAPIC_LVT_TIMER = 0x320,
    LAPIC_LVT_THERMAL = 0x330,
    LAPIC_LVT_PERFORMANCE = 0x340,
    LAPIC_LVT_LINT0 = 0x350,
    LAPIC_LVT_LINT1 = 0x360,
    LAPIC_LVT_ERROR = 0x370,
    LAPIC_TIMER_INITIAL = 0x380,
    LAPIC_TIMER_CURRENT = 0x390,
    LAPIC_TIMER_DIVIDE = 0x3e0,
    LAPIC_SELF_IPI = 0x3f0,
};

#define LAPIC_STATE_VERSION 1
typedef struct LapicState {
    uint8_t regs[LAPIC_REGS_SIZE]; /* by SDM offsets: what KVM_GET_LAPIC and KVM_SET_LAPIC move */
    uint64_t apic_base;            /* IA32_APIC_BASE */
    uint64_t tsc_deadline;         /* IA32_TSC_DEADLINE, 0 = disarmed */
    uint64_t tsc_offset;           /* guest TSC = the board's clock in TSC ticks + this */
    uint64_t timer_deadline; /* when the count reaches 0 next, in ns of the board's clock; CLOCK_NEVER: stopped */
    uint32_t errors;         /* detected since ESR was last written */
    uint8_t extint;          /* level of LINT0: the 8259 pair's output */
    uint8_t reserved[3];
} LapicState;

/* What a vCPU does on messages that are no vectors. Any may be NULL; called with the bus's lock held, from any
 * thread. */
typedef struct LapicCpu {
    void (*nmi)(void *opaque);  /* NULL: an NMI edge of the board for vCPU 0, nobody for others */
    void (*init)(void *opaque); /* NULL: vCPU 0 asks for a reset of the machine */
    void (*startup)(void *opaque,
                    uint8_t vector); /* starts at vector << 12; NULL: ignored, as by a CPU that runs */
    void *opaque;
} LapicCpu;

/*
 * `id` is the initial APIC ID, 0..254. The one with ID 0 is the bootstrap processor's: it drives board->intr,
 * answers its acknowledge cycle, takes the 8259 pair's output, and its page is on the board's MMIO bus, where the
 * guest moves it. NULL with `error` filled: no memory, the ID is taken, or something else is at 0xfee00000.
 */
Lapic *lapic_new(Board *board, uint32_t id, Error *error);
Device *lapic_device(Lapic *lapic); /* for reset, save, restore and free; its region 0 is the page */
uint32_t lapic_id(const Lapic *lapic);
void lapic_connect(Lapic *lapic, const LapicCpu *cpu);
/* The INTR pin of a vCPU other than 0. */
void lapic_set_pin(Lapic *lapic, IntrPin *pin);
/* An engine that cannot show x2APIC to its guest: entering it is #GP, as where CPUID does not have it. */
void lapic_allow_x2apic(Lapic *lapic, bool allowed);

/* For engines: IA32_APIC_BASE, IA32_TSC_DEADLINE and the x2APIC registers. False: #GP(0). */
bool lapic_owns_msr(uint32_t index);
bool lapic_read_msr(Lapic *lapic, uint32_t index, uint64_t *value);
bool lapic_write_msr(Lapic *lapic, uint32_t index, uint64_t value);
uint64_t lapic_base(const Lapic *lapic);
/* As a host sets it: what is no legal combination is left alone. */
void lapic_set_base(Lapic *lapic, uint64_t base);
bool lapic_is_enabled(const Lapic *lapic); /* by IA32_APIC_BASE: CPUID's APIC bit */
/* CR8 is TPR[7:4], SDM 3A §11.8.6. */
uint8_t lapic_cr8(const Lapic *lapic);
void lapic_set_cr8(Lapic *lapic, uint8_t cr8);
/* The TSC was written: deadlines move. */
void lapic_set_tsc_offset(Lapic *lapic, uint64_t offset);

/* The CPU's acknowledge cycle: a vector, or -1 when there is nothing to take. */
int lapic_acknowledge(Lapic *lapic);

#endif
