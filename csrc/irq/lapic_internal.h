/* What the files of the local APIC (lapic*.c) and the bus (apic_bus.c) share. The bus's lock is held in all of it.
 */
#ifndef PYVMM_IRQ_LAPIC_INTERNAL_H
#define PYVMM_IRQ_LAPIC_INTERNAL_H

#include "irq/lapic.h"

enum {
    SVR_ENABLE = 1 << 8,
    SVR_SUPPRESS_BROADCAST = 1 << 12,
    LVT_PENDING = 1 << 12, /* delivery status */
    LVT_REMOTE_IRR = 1 << 14,
    LVT_LEVEL = 1 << 15,
    LVT_MASKED = 1 << 16,
    TIMER_MODE_SHIFT = 17,
    TIMER_ONE_SHOT = 0,
    TIMER_PERIODIC = 1,
    TIMER_TSC_DEADLINE = 2,
    /* ESR, SDM 3A figure 11-9 */
    ERROR_SEND_VECTOR = 1 << 5,
    ERROR_RECEIVE_VECTOR = 1 << 6,
    ERROR_REGISTER = 1 << 7,
};

struct Lapic {
    Device device;
    ApicBus *bus;
    IntrPin *pin; /* NULL: nobody listens */
    uint32_t id;  /* initial APIC ID */
    bool x2apic_allowed;
    uint64_t base;   /* IA32_APIC_BASE; stored atomically: engines look at it without the lock */
    uint64_t mapped; /* where the page is on the MMIO bus, 0 = nowhere */
    uint8_t regs[LAPIC_REGS_SIZE];
    uint32_t errors;
    bool extint;
    LapicCpu cpu;
    /* lapic_timer.c */
    Timer *timer;
    uint64_t deadline; /* when the count reaches 0 next, in ns; CLOCK_NEVER: stopped */
    uint64_t tsc_deadline;
    uint64_t tsc_offset;
};

static inline uint32_t lapic_get(const Lapic *lapic, uint32_t offset)
{
    uint32_t value;
    memcpy(&value, lapic->regs + offset, sizeof value);
    return value;
}

static inline void lapic_set(Lapic *lapic, uint32_t offset, uint32_t value)
{
    memcpy(lapic->regs + offset, &value, sizeof value);
}

/* Bits of ISR, TMR and IRR: 8 registers of 32 bits, 16 bytes apart. */
static inline uint32_t lapic_bit_word(uint32_t first, uint8_t vector) { return first + (vector >> 5) * 16u; }

static inline bool lapic_test_bit(const Lapic *lapic, uint32_t first, uint8_t vector)
{
    return lapic_get(lapic, lapic_bit_word(first, vector)) >> (vector & 31) & 1;
}

static inline void lapic_put_bit(Lapic *lapic, uint32_t first, uint8_t vector, bool on)
{
    uint32_t offset = lapic_bit_word(first, vector), bit = 1u << (vector & 31), word = lapic_get(lapic, offset);
    lapic_set(lapic, offset, on ? word | bit : word & ~bit);
}

static inline bool lapic_enabled_locked(const Lapic *lapic) { return lapic->base & APIC_BASE_ENABLE; }

static inline bool lapic_is_x2apic(const Lapic *lapic) { return lapic->base & APIC_BASE_EXTD; }

/* lapic_deliver.c: interrupts in and out */
bool lapic_is_meant_locked(const Lapic *lapic, const ApicMessage *message);
bool lapic_accepts_locked(const Lapic *lapic);                           /* enabled by hardware and software */
uint32_t lapic_deliver_locked(Lapic *lapic, const ApicMessage *message); /* 1: accepted */
void lapic_fire_lvt_locked(Lapic *lapic, uint32_t lvt);
void lapic_serve_lint0_locked(Lapic *lapic, bool rose); /* the 8259 pair's output, where it is no ExtINT */
void lapic_error_locked(Lapic *lapic, uint32_t error);
void lapic_eoi_locked(Lapic *lapic);
uint8_t lapic_ppr_locked(const Lapic *lapic);
void lapic_update_pin_locked(Lapic *lapic);
int lapic_take_vector_locked(Lapic *lapic); /* the acknowledge cycle's part: -1 when there is none */
bool lapic_passes_extint_locked(const Lapic *lapic);
void lapic_send_locked(Lapic *lapic, uint32_t low, uint32_t destination);

/* lapic_registers.c: what both interfaces read and write */
uint32_t lapic_read_register_locked(Lapic *lapic, uint32_t offset);
void lapic_write_register_locked(Lapic *lapic, uint32_t offset, uint32_t value);
bool lapic_register_exists(uint32_t offset);
uint32_t lapic_writable_bits(uint32_t offset);
uint32_t lapic_read_only_bits(uint32_t offset); /* a write of them is ignored; what is in neither is reserved */
void lapic_reset_registers_locked(Lapic *lapic);
void lapic_init_registers_locked(Lapic *lapic); /* by INIT: the ID stays */

/* lapic_base.c: modes */
bool lapic_write_base_locked(Lapic *lapic, uint64_t base, bool from_host);
void lapic_place_locked(Lapic *lapic); /* the page goes where the base says */
bool lapic_base_is_legal(const Lapic *lapic, uint64_t base);
void lapic_set_x2apic_ids_locked(Lapic *lapic);

/* lapic_timer.c */
int lapic_timer_init(Lapic *lapic);
void lapic_timer_stop_locked(Lapic *lapic);
void lapic_timer_write_initial_locked(Lapic *lapic);
void lapic_timer_write_divide_locked(Lapic *lapic, uint32_t value);
void lapic_timer_write_lvt_locked(Lapic *lapic, uint32_t value);
void lapic_timer_write_tsc_deadline_locked(Lapic *lapic, uint64_t tsc);
void lapic_timer_settle_locked(Lapic *lapic); /* what ran out while masked is over */
uint64_t lapic_timer_tsc_deadline_locked(Lapic *lapic);
void lapic_timer_arm_locked(Lapic *lapic); /* after a restore, or when the TSC moved */
uint32_t lapic_timer_current_locked(const Lapic *lapic);
uint32_t lapic_timer_mode_locked(const Lapic *lapic);

#endif
