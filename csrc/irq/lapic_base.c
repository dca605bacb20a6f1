/* What engines ask of a local APIC: IA32_APIC_BASE and its modes, x2APIC's MSRs, CR8, acknowledge (SDM 3A §11.4,
 * §11.12). */
#include "irq/lapic_internal.h"

#define PAGE_FRAME 0xfffffff000ull /* 40 address bits: CPUID 0x80000008 */

/* IA32_APIC_BASE ------------------------------------------------------------------------------------------------
 */

/* On or off the MMIO bus. The first local APIC's page is all that one vCPU can see of them. */
void lapic_place_locked(Lapic *lapic)
{
    Board *board = lapic->device.board;
    bool wanted = lapic->base & APIC_BASE_BSP && lapic_enabled_locked(lapic) && !lapic_is_x2apic(lapic);
    uint64_t gpa = wanted ? lapic->base & PAGE_FRAME : 0;
    if (gpa == lapic->mapped)
        return;
    if (lapic->mapped)
        bus_remove(board->mmio, lapic->mapped);
    lapic->mapped = 0;
    Error error;
    if (!gpa)
        return;
    if (device_map(&lapic->device, board->mmio, gpa, LAPIC_PAGE_SIZE, 0, &error) == 0)
        lapic->mapped = gpa;
    else
        event_log_add(board->log, "local APIC: moved to where it cannot be: %s", error.text);
}

/* Figure 11-27: EXTD without EN is no mode, and x2APIC is entered from xAPIC and left for "disabled" only. */
bool lapic_base_is_legal(const Lapic *lapic, uint64_t base)
{
    bool enable = base & APIC_BASE_ENABLE, extended = base & APIC_BASE_EXTD;
    if (base & ~(PAGE_FRAME | APIC_BASE_ENABLE | APIC_BASE_EXTD | APIC_BASE_BSP))
        return false;
    return !extended || (enable && lapic->x2apic_allowed);
}

static bool transition_is_legal(const Lapic *lapic, uint64_t base)
{
    bool enable = base & APIC_BASE_ENABLE, extended = base & APIC_BASE_EXTD;
    if (lapic_is_x2apic(lapic))
        return extended || !enable;
    return !extended || lapic_enabled_locked(lapic);
}

/* §11.12.10.2: the logical ID follows from the ID. */
void lapic_set_x2apic_ids_locked(Lapic *lapic)
{
    lapic_set(lapic, LAPIC_ID, lapic->id);
    lapic_set(lapic, LAPIC_LDR, lapic->id >> 4 << 16 | 1u << (lapic->id & 15));
}

static void enter_x2apic(Lapic *lapic)
{
    lapic_set_x2apic_ids_locked(lapic);
    lapic_set(lapic, LAPIC_DFR, UINT32_MAX);
    lapic_set(lapic, LAPIC_ICR_HIGH, 0);
}

bool lapic_write_base_locked(Lapic *lapic, uint64_t base, bool from_host)
{
    if (!lapic_base_is_legal(lapic, base) || (!from_host && !transition_is_legal(lapic, base)))
        return false;
    base = (base & ~(uint64_t)APIC_BASE_BSP) | (lapic->base & APIC_BASE_BSP);
    uint64_t before = lapic->base;
    __atomic_store_n(&lapic->base, base, __ATOMIC_RELEASE);
    bool left_x2apic = before & APIC_BASE_EXTD && !(base & APIC_BASE_EXTD);
    if ((before & APIC_BASE_ENABLE && !(base & APIC_BASE_ENABLE)) || left_x2apic)
        lapic_reset_registers_locked(lapic); /* §11.4.3: its state is lost */
    if (base & APIC_BASE_EXTD && !(before & APIC_BASE_EXTD))
        enter_x2apic(lapic);
    lapic_place_locked(lapic);
    lapic_update_pin_locked(lapic);
    return true;
}

uint64_t lapic_base(const Lapic *lapic) { return __atomic_load_n(&lapic->base, __ATOMIC_ACQUIRE); }

bool lapic_is_enabled(const Lapic *lapic) { return lapic_base(lapic) & APIC_BASE_ENABLE; }

void lapic_set_base(Lapic *lapic, uint64_t base)
{
    apic_bus_lock(lapic->bus);
    if (base != lapic->base)
        lapic_write_base_locked(lapic, base, true);
    apic_bus_unlock(lapic->bus);
}

/* ---- x2APIC, §11.12.1.2 and table 11-6 ---------------------------------------------------------------------- */

static bool read_x2apic(Lapic *lapic, uint32_t offset, uint64_t *value)
{
    switch (offset) {
    case LAPIC_DFR:
    case LAPIC_APR:
    case LAPIC_RRD:
    case LAPIC_EOI:
    case LAPIC_ICR_HIGH:
    case LAPIC_SELF_IPI:
        return false;
    case LAPIC_ICR:
        *value = lapic_get(lapic, LAPIC_ICR) | (uint64_t)lapic_get(lapic, LAPIC_ICR_HIGH) << 32;
        return true;
    default:
        *value = lapic_register_exists(offset) ? lapic_read_register_locked(lapic, offset) : 0;
        return lapic_register_exists(offset);
    }
}

static bool write_x2apic(Lapic *lapic, uint32_t offset, uint64_t value)
{
    switch (offset) {
    case LAPIC_EOI:
    case LAPIC_ESR:
        if (value)
            return false;
        break;
    case LAPIC_SELF_IPI: /* §11.12.11 */
        if (value > 0xff)
            return false;
        lapic_send_locked(lapic, 1u << 18 | (uint32_t)value, 0);
        return true;
    case LAPIC_ICR:
        if ((uint32_t)value & ~(lapic_writable_bits(offset) | lapic_read_only_bits(offset)))
            return false;
        lapic_set(lapic, LAPIC_ICR_HIGH, (uint32_t)(value >> 32));
        break;
    case LAPIC_ICR_HIGH:
        return false;
    default:
        if (!lapic_writable_bits(offset) ||
            value & ~(uint64_t)(lapic_writable_bits(offset) | lapic_read_only_bits(offset)))
            return false;
    }
    lapic_write_register_locked(lapic, offset, (uint32_t)value);
    return true;
}

bool lapic_owns_msr(uint32_t index)
{
    return index == MSR_IA32_APIC_BASE || index == MSR_IA32_TSC_DEADLINE ||
           (index >= MSR_X2APIC_FIRST && index <= MSR_X2APIC_LAST);
}

bool lapic_read_msr(Lapic *lapic, uint32_t index, uint64_t *value)
{
    bool known = true;
    *value = 0;
    apic_bus_lock(lapic->bus);
    if (index == MSR_IA32_APIC_BASE)
        *value = lapic->base;
    else if (index == MSR_IA32_TSC_DEADLINE)
        *value = lapic_timer_tsc_deadline_locked(lapic);
    else
        known = lapic_is_x2apic(lapic) && lapic_owns_msr(index) &&
                read_x2apic(lapic, (index - MSR_X2APIC_FIRST) << 4, value);
    apic_bus_unlock(lapic->bus);
    return known;
}

bool lapic_write_msr(Lapic *lapic, uint32_t index, uint64_t value)
{
    bool known = true;
    apic_bus_lock(lapic->bus);
    if (index == MSR_IA32_APIC_BASE)
        known = lapic_write_base_locked(lapic, value, false);
    else if (index == MSR_IA32_TSC_DEADLINE)
        lapic_timer_write_tsc_deadline_locked(lapic, value);
    else
        known = lapic_is_x2apic(lapic) && lapic_owns_msr(index) &&
                write_x2apic(lapic, (index - MSR_X2APIC_FIRST) << 4, value);
    apic_bus_unlock(lapic->bus);
    return known;
}

/* The CPU's side --------------------------------------------------------------------------------------------------
 */

uint8_t lapic_cr8(const Lapic *lapic)
{
    uint8_t tpr = __atomic_load_n(&lapic->regs[LAPIC_TPR], __ATOMIC_RELAXED);
    return tpr >> 4;
}

void lapic_set_cr8(Lapic *lapic, uint8_t cr8)
{
    apic_bus_lock(lapic->bus);
    lapic_set(lapic, LAPIC_TPR, (uint32_t)(cr8 & 15) << 4);
    lapic_update_pin_locked(lapic);
    apic_bus_unlock(lapic->bus);
}

void lapic_set_tsc_offset(Lapic *lapic, uint64_t offset)
{
    apic_bus_lock(lapic->bus);
    if (lapic->tsc_offset != offset) {
        lapic_timer_settle_locked(lapic);
        lapic->tsc_offset = offset;
        lapic_timer_arm_locked(lapic);
    }
    apic_bus_unlock(lapic->bus);
}

/* A vector of its own first; what the 8259 pair has waits for the next cycle. */
int lapic_acknowledge(Lapic *lapic)
{
    apic_bus_lock(lapic->bus);
    int vector = lapic_take_vector_locked(lapic);
    bool extint = vector < 0 && lapic_passes_extint_locked(lapic);
    apic_bus_unlock(lapic->bus);
    return extint ? ext_int_acknowledge(&lapic->device.board->extint) : vector;
}
