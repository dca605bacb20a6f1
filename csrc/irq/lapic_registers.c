/* The registers of a local APIC, by their offsets in the page (SDM 3A §11.4 and table 11-1). */
#include "irq/lapic_internal.h"

/* Version 0x14 is an integrated APIC; LVT entries 0..5; EOI broadcasts can be suppressed (§11.4.8). */
#define VERSION_VALUE 0x01050014u
#define RESET_SVR     0xffu
#define RESET_LVT     ((uint32_t)LVT_MASKED)
#define VIRTUAL_WIRE  0x700u /* ExtINT, not masked: see lapic.h */

bool lapic_register_exists(uint32_t offset)
{
    switch (offset) {
    case LAPIC_ID:
    case LAPIC_VERSION:
    case LAPIC_TPR:
    case LAPIC_APR:
    case LAPIC_PPR:
    case LAPIC_EOI:
    case LAPIC_RRD:
    case LAPIC_LDR:
    case LAPIC_DFR:
    case LAPIC_SVR:
    case LAPIC_ESR:
    case LAPIC_ICR:
    case LAPIC_ICR_HIGH:
    case LAPIC_LVT_TIMER:
    case LAPIC_LVT_THERMAL:
    case LAPIC_LVT_PERFORMANCE:
    case LAPIC_LVT_LINT0:
    case LAPIC_LVT_LINT1:
    case LAPIC_LVT_ERROR:
    case LAPIC_TIMER_INITIAL:
    case LAPIC_TIMER_CURRENT:
    case LAPIC_TIMER_DIVIDE:
        return true;
    default:
        return offset >= LAPIC_ISR && offset < LAPIC_ESR && offset % 16 == 0;
    }
}

uint32_t lapic_writable_bits(uint32_t offset)
{
    switch (offset) {
    case LAPIC_TPR:
        return 0xff;
    case LAPIC_SVR:
        return 0xff | SVR_ENABLE | SVR_SUPPRESS_BROADCAST;
    case LAPIC_ICR:
        return 0xccfff;
    case LAPIC_LVT_TIMER:
        return 0x700ff;
    case LAPIC_LVT_THERMAL:
    case LAPIC_LVT_PERFORMANCE:
        return 0x107ff;
    case LAPIC_LVT_LINT0:
    case LAPIC_LVT_LINT1:
        return 0x1a7ff;
    case LAPIC_LVT_ERROR:
        return 0x100ff;
    case LAPIC_TIMER_INITIAL:
        return UINT32_MAX;
    case LAPIC_TIMER_DIVIDE:
        return 0xb;
    default:
        return 0;
    }
}

uint32_t lapic_read_only_bits(uint32_t offset)
{
    if (offset == LAPIC_LVT_LINT0 || offset == LAPIC_LVT_LINT1)
        return LVT_PENDING | LVT_REMOTE_IRR;
    return offset == LAPIC_ICR || (offset >= LAPIC_LVT_TIMER && offset <= LAPIC_LVT_ERROR) ? LVT_PENDING : 0;
}

uint32_t lapic_read_register_locked(Lapic *lapic, uint32_t offset)
{
    switch (offset) {
    case LAPIC_PPR:
        return lapic_ppr_locked(lapic);
    case LAPIC_TIMER_CURRENT:
        return lapic_timer_current_locked(lapic);
    case LAPIC_APR: /* arbitration and remote read ended with the P6's bus */
    case LAPIC_RRD:
    case LAPIC_EOI:
        return 0;
    default:
        return lapic_get(lapic, offset);
    }
}

/* §11.4.7.2: software disable masks every LVT entry, and keeps it masked. */
static void write_svr(Lapic *lapic, uint32_t value)
{
    lapic_set(lapic, LAPIC_SVR, value & lapic_writable_bits(LAPIC_SVR));
    if (value & SVR_ENABLE)
        return;
    for (uint32_t lvt = LAPIC_LVT_THERMAL; lvt <= LAPIC_LVT_ERROR; lvt += 16)
        lapic_set(lapic, lvt, lapic_get(lapic, lvt) | LVT_MASKED);
    lapic_timer_write_lvt_locked(lapic, lapic_get(lapic, LAPIC_LVT_TIMER) | LVT_MASKED);
}

static void write_lvt(Lapic *lapic, uint32_t offset, uint32_t value)
{
    value &= lapic_writable_bits(offset);
    if (offset == LAPIC_LVT_LINT0 && value & LVT_LEVEL)
        value |= lapic_get(lapic, offset) & LVT_REMOTE_IRR;
    if (!(lapic_get(lapic, LAPIC_SVR) & SVR_ENABLE))
        value |= LVT_MASKED;
    if (offset == LAPIC_LVT_TIMER)
        lapic_timer_write_lvt_locked(lapic, value);
    else
        lapic_set(lapic, offset, value);
    if (offset == LAPIC_LVT_LINT0)
        lapic_serve_lint0_locked(lapic, false);
}

void lapic_write_register_locked(Lapic *lapic, uint32_t offset, uint32_t value)
{
    bool x2apic = lapic_is_x2apic(lapic);
    switch (offset) {
    case LAPIC_ID: /* the manual discourages it, and allows it (§11.4.6) */
        if (!x2apic)
            lapic_set(lapic, offset, value & 0xff000000);
        break;
    case LAPIC_TPR:
        lapic_set(lapic, offset, value & 0xff);
        break;
    case LAPIC_EOI:
        lapic_eoi_locked(lapic);
        break;
    case LAPIC_LDR:
        if (!x2apic)
            lapic_set(lapic, offset, value & 0xff000000);
        break;
    case LAPIC_DFR:
        if (!x2apic)
            lapic_set(lapic, offset, value | 0x0fffffff);
        break;
    case LAPIC_SVR:
        write_svr(lapic, value);
        break;
    case LAPIC_ESR: /* §11.5.3: a write shows what was detected since the one before, and rearms the LVT */
        lapic_set(lapic, offset, lapic->errors);
        lapic->errors = 0;
        break;
    case LAPIC_ICR:
        value &= lapic_writable_bits(LAPIC_ICR);
        lapic_set(lapic, offset, value);
        lapic_send_locked(lapic, value,
                          x2apic ? lapic_get(lapic, LAPIC_ICR_HIGH) : lapic_get(lapic, LAPIC_ICR_HIGH) >> 24);
        break;
    case LAPIC_ICR_HIGH:
        lapic_set(lapic, offset, x2apic ? value : value & 0xff000000);
        break;
    case LAPIC_TIMER_INITIAL:
        if (lapic_timer_mode_locked(lapic) == TIMER_TSC_DEADLINE)
            break; /* §11.5.4.1: ignored */
        lapic_set(lapic, offset, value);
        lapic_timer_write_initial_locked(lapic);
        break;
    case LAPIC_TIMER_DIVIDE:
        lapic_timer_write_divide_locked(lapic, value & lapic_writable_bits(LAPIC_TIMER_DIVIDE));
        break;
    default:
        if (offset >= LAPIC_LVT_TIMER && offset <= LAPIC_LVT_ERROR)
            write_lvt(lapic, offset, value);
    }
    lapic_update_pin_locked(lapic);
}

/* §11.4.7.1. IA32_APIC_BASE is not part of it. */
void lapic_reset_registers_locked(Lapic *lapic)
{
    memset(lapic->regs, 0, sizeof lapic->regs);
    lapic->errors = 0;
    lapic_timer_stop_locked(lapic);
    lapic_set(lapic, LAPIC_ID, lapic->id << 24);
    lapic_set(lapic, LAPIC_VERSION, VERSION_VALUE);
    lapic_set(lapic, LAPIC_DFR, UINT32_MAX);
    lapic_set(lapic, LAPIC_SVR, RESET_SVR);
    for (uint32_t lvt = LAPIC_LVT_TIMER; lvt <= LAPIC_LVT_ERROR; lvt += 16)
        lapic_set(lapic, lvt, RESET_LVT);
    if (lapic->base & APIC_BASE_BSP)
        lapic_set(lapic, LAPIC_LVT_LINT0, VIRTUAL_WIRE);
    lapic_update_pin_locked(lapic);
}

/* §11.4.7.3: as reset, but for the ID and the mode. */
void lapic_init_registers_locked(Lapic *lapic)
{
    uint32_t id = lapic_get(lapic, LAPIC_ID);
    lapic_reset_registers_locked(lapic);
    lapic_set(lapic, LAPIC_ID, id);
    if (lapic_is_x2apic(lapic))
        lapic_set_x2apic_ids_locked(lapic);
}
