/* Interrupts into a local APIC and out of it: acceptance, priorities, acknowledge, EOI, IPIs (SDM 3A §11.5 to
 * §11.8). */
#include "irq/lapic_internal.h"

#define DFR_CLUSTER 0x0fffffffu /* model bits 0000; flat is 1111 */

enum { ICR_LOGICAL = 1 << 11, ICR_ASSERT = 1 << 14, ICR_LEVEL = 1 << 15 };
enum { SHORTHAND_NONE, SHORTHAND_SELF, SHORTHAND_ALL, SHORTHAND_OTHERS };

/* ---- Destinations, §11.6.2 ---------------------------------------------------------------------------------- */

static bool physical_match(const Lapic *lapic, const ApicMessage *message)
{
    if (message->destination == (message->wide ? UINT32_MAX : 0xff))
        return true;
    uint32_t id = lapic_get(lapic, LAPIC_ID);
    return message->destination == (lapic_is_x2apic(lapic) ? id : id >> 24);
}

static bool logical_match(const Lapic *lapic, const ApicMessage *message)
{
    uint32_t destination = message->destination, ldr = lapic_get(lapic, LAPIC_LDR);
    if (destination == (message->wide ? UINT32_MAX : 0xff))
        return true;
    if (lapic_is_x2apic(lapic)) /* §11.12.10.2: cluster in the upper half, one bit each in the lower */
        return ldr >> 16 == destination >> 16 && ldr & destination & 0xffff;
    ldr >>= 24;
    if (destination > 0xff)
        return false;
    if (lapic_get(lapic, LAPIC_DFR) == DFR_CLUSTER)
        return ((ldr ^ destination) & 0xf0) == 0 && ldr & destination & 0x0f;
    return ldr & destination;
}

bool lapic_is_meant_locked(const Lapic *lapic, const ApicMessage *message)
{
    if (!lapic_enabled_locked(lapic))
        return false;
    return message->logical ? logical_match(lapic, message) : physical_match(lapic, message);
}

bool lapic_accepts_locked(const Lapic *lapic)
{
    return lapic_enabled_locked(lapic) && lapic_get(lapic, LAPIC_SVR) & SVR_ENABLE;
}

/* ---- Priorities, §11.8.3 ------------------------------------------------------------------------------------ */

/* The highest vector of ISR or IRR, or -1. */
static int highest(const Lapic *lapic, uint32_t first)
{
    for (int word = 7; word >= 0; word--) {
        uint32_t bits = lapic_get(lapic, first + (uint32_t)word * 16);
        if (bits)
            return word * 32 + 31 - __builtin_clz(bits);
    }
    return -1;
}

uint8_t lapic_ppr_locked(const Lapic *lapic)
{
    uint8_t tpr = (uint8_t)lapic_get(lapic, LAPIC_TPR);
    int serving = highest(lapic, LAPIC_ISR);
    uint8_t serving_class = serving < 0 ? 0 : serving & 0xf0;
    return (tpr & 0xf0) >= serving_class ? tpr : serving_class;
}

/* The vector that the CPU should take now, or -1. */
static int deliverable(const Lapic *lapic)
{
    if (!lapic_enabled_locked(lapic))
        return -1;
    int vector = highest(lapic, LAPIC_IRR);
    return vector >= 0 && (vector & 0xf0) > (lapic_ppr_locked(lapic) & 0xf0) ? vector : -1;
}

bool lapic_passes_extint_locked(const Lapic *lapic)
{
    if (!lapic->extint)
        return false;
    if (!lapic_enabled_locked(lapic))
        return true; /* §11.4.3: as a processor without a local APIC, LINT0 is INTR */
    uint32_t lint0 = lapic_get(lapic, LAPIC_LVT_LINT0);
    return !(lint0 & LVT_MASKED) && (lint0 >> 8 & 7) == APIC_EXTINT;
}

void lapic_update_pin_locked(Lapic *lapic)
{
    if (lapic->pin)
        intr_pin_set(lapic->pin, deliverable(lapic) >= 0 || lapic_passes_extint_locked(lapic));
}

int lapic_take_vector_locked(Lapic *lapic)
{
    int vector = deliverable(lapic);
    if (vector >= 0) {
        lapic_put_bit(lapic, LAPIC_IRR, (uint8_t)vector, false);
        lapic_put_bit(lapic, LAPIC_ISR, (uint8_t)vector, true);
    }
    lapic_update_pin_locked(lapic);
    return vector;
}

void lapic_eoi_locked(Lapic *lapic)
{
    int vector = highest(lapic, LAPIC_ISR);
    if (vector < 0)
        return;
    lapic_put_bit(lapic, LAPIC_ISR, (uint8_t)vector, false);
    bool broadcast = lapic_test_bit(lapic, LAPIC_TMR, (uint8_t)vector) &&
                     !(lapic_get(lapic, LAPIC_SVR) & SVR_SUPPRESS_BROADCAST);
    uint32_t lint0 = lapic_get(lapic, LAPIC_LVT_LINT0);
    if (lint0 & LVT_REMOTE_IRR && (uint8_t)lint0 == vector) {
        lapic_set(lapic, LAPIC_LVT_LINT0, lint0 & ~(uint32_t)LVT_REMOTE_IRR);
        lapic_serve_lint0_locked(lapic, false);
    }
    lapic_update_pin_locked(lapic);
    if (broadcast)
        apic_bus_eoi_locked(lapic->bus, (uint8_t)vector);
}

/* ---- Acceptance, §11.5.3 and §11.8.4 ------------------------------------------------------------------------ */

static void set_request(Lapic *lapic, uint8_t vector, bool level)
{
    lapic_put_bit(lapic, LAPIC_TMR, vector, level);
    lapic_put_bit(lapic, LAPIC_IRR, vector, true);
    lapic_update_pin_locked(lapic);
}

/* §11.5.3: the error LVT fires once, until ESR is written. */
void lapic_error_locked(Lapic *lapic, uint32_t error)
{
    bool first = lapic->errors == 0;
    lapic->errors |= error;
    uint32_t lvt = lapic_get(lapic, LAPIC_LVT_ERROR);
    if (!first || lvt & LVT_MASKED || !lapic_accepts_locked(lapic))
        return;
    if ((uint8_t)lvt < 16)
        lapic->errors |= ERROR_RECEIVE_VECTOR;
    else
        set_request(lapic, (uint8_t)lvt, false);
}

static uint32_t accept_vector(Lapic *lapic, uint8_t vector, bool level)
{
    if (!lapic_accepts_locked(lapic))
        return 0;
    if (vector < 16) {
        lapic_error_locked(lapic, ERROR_RECEIVE_VECTOR);
        return 0;
    }
    set_request(lapic, vector, level);
    return 1;
}

static void accept_nmi(Lapic *lapic)
{
    if (lapic->cpu.nmi)
        lapic->cpu.nmi(lapic->cpu.opaque);
    else if (lapic->base & APIC_BASE_BSP)
        board_nmi_edge(lapic->device.board);
}

static void accept_init(Lapic *lapic)
{
    if (lapic->cpu.init) {
        lapic_init_registers_locked(lapic);
        lapic->cpu.init(lapic->cpu.opaque);
    } else if (lapic->base & APIC_BASE_BSP) {
        board_request(lapic->device.board, SYSTEM_RESET, 0);
    }
}

uint32_t lapic_deliver_locked(Lapic *lapic, const ApicMessage *message)
{
    if (!lapic_enabled_locked(lapic))
        return 0;
    switch (message->mode) {
    case APIC_FIXED:
    case APIC_LOWEST_PRIORITY:
        return accept_vector(lapic, message->vector, message->level);
    case APIC_NMI:
        accept_nmi(lapic);
        return 1;
    case APIC_INIT:
        accept_init(lapic);
        return 1;
    case APIC_STARTUP:
        if (lapic->cpu.startup)
            lapic->cpu.startup(lapic->cpu.opaque, message->vector);
        return 1;
    default: /* SMI: no system management mode; ExtINT goes by the 8259 pair's wire; the rest is reserved */
        return 0;
    }
}

/* §11.5.1: what a local source asks for, unless its entry masks it. */
void lapic_fire_lvt_locked(Lapic *lapic, uint32_t lvt)
{
    uint32_t entry = lapic_get(lapic, lvt), mode = entry >> 8 & 7;
    if (entry & LVT_MASKED || !lapic_enabled_locked(lapic))
        return;
    bool has_mode = lvt != LAPIC_LVT_TIMER && lvt != LAPIC_LVT_ERROR;
    if (!has_mode || mode == APIC_FIXED)
        accept_vector(lapic, (uint8_t)entry, false);
    else if (mode == APIC_NMI)
        accept_nmi(lapic);
    else if (mode == APIC_INIT)
        accept_init(lapic);
}

/* §11.5.1: a level-triggered entry (Fixed mode only) asks while the wire is up and the one before was handled. */
void lapic_serve_lint0_locked(Lapic *lapic, bool rose)
{
    uint32_t entry = lapic_get(lapic, LAPIC_LVT_LINT0), mode = entry >> 8 & 7;
    if (mode != APIC_FIXED || !(entry & LVT_LEVEL)) {
        if (rose)
            lapic_fire_lvt_locked(lapic, LAPIC_LVT_LINT0);
    } else if (lapic->extint && !(entry & (LVT_MASKED | LVT_REMOTE_IRR)) &&
               accept_vector(lapic, (uint8_t)entry, true)) {
        lapic_set(lapic, LAPIC_LVT_LINT0, entry | LVT_REMOTE_IRR);
    }
}

/* ---- Sending, §11.6.1 --------------------------------------------------------------------------------------- */

void lapic_send_locked(Lapic *lapic, uint32_t low, uint32_t destination)
{
    uint32_t shorthand = low >> 18 & 3;
    ApicMessage message = {
        .destination = destination,
        .vector = (uint8_t)low,
        .mode = low >> 8 & 7,
        .logical = low & ICR_LOGICAL,
        .wide = lapic_is_x2apic(lapic),
    };
    bool has_vector = message.mode == APIC_FIXED || message.mode == APIC_LOWEST_PRIORITY;
    if (has_vector && message.vector < 16) {
        lapic_error_locked(lapic, ERROR_SEND_VECTOR);
        return;
    }
    /* INIT level de-assert only set arbitration IDs, on processors of old; the other modes ignore the level bit. */
    if (message.mode == APIC_INIT && low & ICR_LEVEL && !(low & ICR_ASSERT))
        return;
    if (shorthand == SHORTHAND_SELF) {
        if (message.mode == APIC_FIXED) /* table 11-3: nothing else may go to self */
            lapic_deliver_locked(lapic, &message);
    } else if (shorthand == SHORTHAND_NONE) {
        apic_bus_deliver_locked(lapic->bus, &message);
    } else {
        apic_bus_broadcast_locked(lapic->bus, &message, shorthand == SHORTHAND_OTHERS ? lapic : NULL);
    }
}
