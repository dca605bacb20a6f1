/*
 * The local APIC's timer (SDM 3A §11.5.4): one-shot, periodic, and TSC-deadline, over the board's clock.
 *
 * The current count is computed, never stored: `deadline` is when it reaches 0 next. A host timer is armed only
 * while the LVT entry is not masked. A period below MIN_PERIOD_NS fires that often at most; those between are lost,
 * as interrupts of one vector that are not taken in time are.
 */
#include "irq/lapic_internal.h"

#define MIN_PERIOD_NS 20000

uint32_t lapic_timer_mode_locked(const Lapic *lapic)
{
    return lapic_get(lapic, LAPIC_LVT_TIMER) >> TIMER_MODE_SHIFT & 3;
}

/* §11.5.4, figure 11-10: bits 0, 1 and 3; 7 divides by 1. */
static uint64_t ticks_to_ns(const Lapic *lapic, uint64_t ticks)
{
    uint32_t divide = lapic_get(lapic, LAPIC_TIMER_DIVIDE);
    uint32_t shift = ((divide & 3) + (divide >> 1 & 4) + 1) & 7;
    return clock_ticks_to_ns(ticks << shift, LAPIC_TIMER_HZ);
}

static uint64_t now_ns(const Lapic *lapic) { return clock_now(lapic->device.board->clock); }

static uint64_t period_ns(const Lapic *lapic) { return ticks_to_ns(lapic, lapic_get(lapic, LAPIC_TIMER_INITIAL)); }

uint32_t lapic_timer_current_locked(const Lapic *lapic)
{
    uint64_t now = now_ns(lapic), left, tick = ticks_to_ns(lapic, 1);
    if (lapic->deadline == CLOCK_NEVER || lapic_timer_mode_locked(lapic) == TIMER_TSC_DEADLINE)
        return 0;
    if (lapic->deadline > now) {
        left = lapic->deadline - now;
    } else {
        uint64_t period = period_ns(lapic);
        if (lapic_timer_mode_locked(lapic) != TIMER_PERIODIC || period == 0)
            return 0;
        left = period - (now - lapic->deadline) % period;
    }
    return (uint32_t)MIN((left + tick - 1) / tick, (uint64_t)lapic_get(lapic, LAPIC_TIMER_INITIAL));
}

/* When the guest's TSC reaches the deadline, on the board's clock. */
static uint64_t tsc_deadline_ns(const Lapic *lapic)
{
    uint64_t hz = lapic->device.board->tsc_hz, now = clock_ns_to_ticks(now_ns(lapic), hz) + lapic->tsc_offset;
    if (lapic->tsc_deadline <= now)
        return now_ns(lapic);
    uint64_t ns = clock_ticks_to_ns(lapic->tsc_deadline - lapic->tsc_offset, hz);
    /* An offset may have wrapped; what is centuries away never comes. */
    uint64_t left = clock_ticks_to_ns(MIN(lapic->tsc_deadline - now, (uint64_t)1 << 62), hz);
    return left > (uint64_t)1 << 60 ? CLOCK_NEVER : ns;
}

void lapic_timer_arm_locked(Lapic *lapic)
{
    uint32_t lvt = lapic_get(lapic, LAPIC_LVT_TIMER);
    if (lapic_timer_mode_locked(lapic) == TIMER_TSC_DEADLINE)
        lapic->deadline = lapic->tsc_deadline ? tsc_deadline_ns(lapic) : CLOCK_NEVER;
    if (lapic->deadline == CLOCK_NEVER || lvt & LVT_MASKED)
        timer_disarm(lapic->timer);
    else if (timer_deadline(lapic->timer) != lapic->deadline)
        timer_arm(lapic->timer, lapic->deadline);
}

void lapic_timer_stop_locked(Lapic *lapic)
{
    lapic->deadline = CLOCK_NEVER;
    lapic->tsc_deadline = 0;
    timer_disarm(lapic->timer);
}

/* Periodic: the next multiple of the period that lies ahead. */
static uint64_t next_period(const Lapic *lapic, uint64_t now)
{
    uint64_t period = period_ns(lapic);
    if (period == 0)
        return CLOCK_NEVER;
    uint64_t earliest = now + (period < MIN_PERIOD_NS ? MIN_PERIOD_NS : 1);
    uint64_t missed = (earliest - lapic->deadline + period - 1) / period;
    return lapic->deadline + missed * period;
}

/* On the clock's thread. The guest may have changed everything since the deadline was armed. */
static void expired(void *opaque)
{
    Lapic *lapic = opaque;
    apic_bus_lock(lapic->bus);
    uint64_t now = now_ns(lapic);
    if (lapic->deadline <= now) {
        uint32_t mode = lapic_timer_mode_locked(lapic);
        lapic->deadline = mode == TIMER_PERIODIC ? next_period(lapic, now) : CLOCK_NEVER;
        if (mode == TIMER_TSC_DEADLINE)
            lapic->tsc_deadline = 0;
        lapic_fire_lvt_locked(lapic, LAPIC_LVT_TIMER);
    }
    lapic_timer_arm_locked(lapic);
    apic_bus_unlock(lapic->bus);
}

int lapic_timer_init(Lapic *lapic)
{
    lapic->deadline = CLOCK_NEVER;
    lapic->timer = timer_new(lapic->device.board->clock, expired, lapic);
    return lapic->timer ? 0 : -ENOMEM;
}

/* A count that ran out while the entry was masked asks for nothing, and a periodic one goes on. */
void lapic_timer_settle_locked(Lapic *lapic)
{
    uint64_t now = now_ns(lapic);
    if (lapic->deadline > now || !(lapic_get(lapic, LAPIC_LVT_TIMER) & LVT_MASKED))
        return;
    if (lapic_timer_mode_locked(lapic) == TIMER_PERIODIC)
        lapic->deadline = next_period(lapic, now);
    else
        lapic_timer_stop_locked(lapic);
}

void lapic_timer_write_initial_locked(Lapic *lapic)
{
    uint32_t initial = lapic_get(lapic, LAPIC_TIMER_INITIAL);
    lapic->deadline = initial ? now_ns(lapic) + period_ns(lapic) : CLOCK_NEVER;
    lapic_timer_arm_locked(lapic);
}

void lapic_timer_write_divide_locked(Lapic *lapic, uint32_t value)
{
    lapic_timer_settle_locked(lapic);
    uint32_t left = lapic_timer_current_locked(lapic);
    lapic_set(lapic, LAPIC_TIMER_DIVIDE, value);
    if (left)
        lapic->deadline = now_ns(lapic) + ticks_to_ns(lapic, left);
    lapic_timer_arm_locked(lapic);
}

/* §11.5.4.1: into and out of TSC-deadline mode the timer is disarmed. */
void lapic_timer_write_lvt_locked(Lapic *lapic, uint32_t value)
{
    uint32_t before = lapic_timer_mode_locked(lapic), after = value >> TIMER_MODE_SHIFT & 3;
    lapic_timer_settle_locked(lapic);
    if (before != after && (before == TIMER_TSC_DEADLINE || after == TIMER_TSC_DEADLINE))
        lapic_timer_stop_locked(lapic);
    lapic_set(lapic, LAPIC_LVT_TIMER, value);
    lapic_timer_arm_locked(lapic);
}

/* §11.5.4.1: 0 once the time has come, whether the entry is masked or not. */
uint64_t lapic_timer_tsc_deadline_locked(Lapic *lapic)
{
    lapic_timer_settle_locked(lapic);
    return lapic->tsc_deadline;
}

/* §11.5.4.1: without effect in the other modes. */
void lapic_timer_write_tsc_deadline_locked(Lapic *lapic, uint64_t tsc)
{
    if (lapic_timer_mode_locked(lapic) != TIMER_TSC_DEADLINE)
        return;
    lapic->tsc_deadline = tsc;
    lapic_timer_arm_locked(lapic);
}
