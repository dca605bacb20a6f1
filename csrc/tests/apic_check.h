/* For tests of the APICs: registers by their offsets, as a driver that has only the manual would use them. */
#ifndef PYVMM_TESTS_APIC_CHECK_H
#define PYVMM_TESTS_APIC_CHECK_H

#include "device_check.h"
#include "irq/i8259.h"
#include "irq/ioapic.h"
#include "irq/lapic.h"

enum {
    SVR_ON = 0x1ff,
    LVT_MASK = 1 << 16,
    LVT_IS_PERIODIC = 1 << 17,
    LVT_IS_DEADLINE = 2 << 17,
    ICR_ASSERTED = 1 << 14,
    ICR_SELF = 1 << 18,
    ICR_ALL = 2 << 18,
    ICR_OTHERS = 3 << 18,
    RTE_LEVEL = 1 << 15,
    RTE_IRR = 1 << 14,
    RTE_MASK = 1 << 16,
};

static inline uint32_t reg(Lapic *lapic, uint32_t offset)
{
    return (uint32_t)device_read(lapic_device(lapic), 0, offset, 4);
}

static inline void set_reg(Lapic *lapic, uint32_t offset, uint32_t value)
{
    device_write(lapic_device(lapic), 0, offset, 4, value);
}

static inline bool has_bit(Lapic *lapic, uint32_t first, uint8_t vector)
{
    return reg(lapic, first + (vector >> 5) * 16u) >> (vector & 31) & 1;
}

static inline Lapic *make_lapic(Board *board, uint32_t id)
{
    Error error = {0};
    Lapic *lapic = lapic_new(board, id, &error);
    CHECK(lapic);
    set_reg(lapic, LAPIC_SVR, SVR_ON);
    return lapic;
}

static inline void drop_lapic(Lapic *lapic) { device_free(lapic_device(lapic)); }

static inline uint64_t msr(Lapic *lapic, uint32_t index)
{
    uint64_t value = 0;
    CHECK(lapic_read_msr(lapic, index, &value));
    return value;
}

/* Read after the write that shows it, §11.5.3. */
static inline uint32_t errors(Lapic *lapic)
{
    set_reg(lapic, LAPIC_ESR, 0);
    return reg(lapic, LAPIC_ESR);
}

/* Acknowledge and end; -1 when there is nothing. */
static inline int serve(Board *board, Lapic *lapic)
{
    int vector = intr_pin_acknowledge(&board->intr);
    if (vector >= 0)
        set_reg(lapic, LAPIC_EOI, 0);
    return vector;
}

#endif
