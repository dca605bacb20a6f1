#include <stdlib.h>

#include "devices/hpet.h"

/* HPET §2.3: offsets. */
enum { CAPABILITIES = 0x00, CONFIG = 0x10, STATUS = 0x20, COUNTER = 0xf0, TIMERS = 0x100, TIMER_SIZE = 0x20 };
enum { TIMER_CONFIG = 0x00, TIMER_COMPARATOR = 0x08, TIMER_FSB = 0x10 };
enum { ENABLE = 1 << 0, LEGACY = 1 << 1 };
/* HPET §2.3.8: the low half of a timer's register. */
enum {
    LEVEL = 1 << 1,
    INTERRUPT = 1 << 2,
    PERIODIC = 1 << 3,
    PERIODIC_CAP = 1 << 4,
    SIZE_CAP = 1 << 5,
    VALUE_SET = 1 << 6,
    VALUE_SET_HIGH = 1 << 7, /* of saved states only: the upper half of the accumulator is still to be set */
    MODE_32 = 1 << 8,
    ROUTE_SHIFT = 9,
    ROUTE = 31 << ROUTE_SHIFT,
    FSB = 1 << 14,
    FSB_CAP = 1 << 15,
    WRITABLE = LEVEL | INTERRUPT | PERIODIC | VALUE_SET | MODE_32 | ROUTE | FSB,
};

#define TICK_FS      (HPET_TICK_NS * 1000000ull)
#define MIN_PERIOD   (HPET_MIN_PERIOD_NS / HPET_TICK_NS)
#define LONGEST_WAIT (1ull << 40) /* ticks, three hours: then looked at again */
#define NOT_ROUTED   IRQ_GSI_COUNT

typedef HpetTimerState Comparator;

typedef struct Hpet {
    Device device;
    IrqLine *lines[HPET_TIMERS];
    IrqLine *legacy[2]; /* the PIT's and the RTC's */
    uint32_t legacy_gsi[2];
    Timer *timer;
    HpetState state;
} Hpet;

static bool is_running(const Hpet *hpet) { return hpet->state.config & ENABLE; }

static uint64_t clock_ticks(Hpet *hpet) { return clock_now(hpet->device.board->clock) / HPET_TICK_NS; }

static uint64_t counter_now(Hpet *hpet) { return hpet->state.counter + (is_running(hpet) ? clock_ticks(hpet) : 0); }

static uint64_t width_mask(const Comparator *c) { return c->config & MODE_32 ? UINT32_MAX : UINT64_MAX; }

/* A message is an edge, whatever the type says (HPET §2.3.8, Tn_FSB_EN_CNF). */
static bool is_level(const Comparator *c) { return (c->config & (LEVEL | FSB)) == LEVEL; }

/* Ticks after `from` until the counter is next equal to the comparator: never 0. */
static uint64_t until_match(const Comparator *c, uint64_t from)
{
    uint64_t mask = width_mask(c), ticks = (c->comparator - from) & mask;
    if (ticks)
        return ticks;
    return mask == UINT64_MAX ? mask : mask + 1;
}

/* Whether the counter passed the comparator; a periodic one is then moved beyond `to` (HPET §2.3.9.2.2). */
static bool take_match(Comparator *c, uint64_t from, uint64_t to)
{
    uint64_t first = until_match(c, from);
    if (to - from < first)
        return false;
    if ((c->config & PERIODIC) && c->period)
        c->comparator = (c->comparator + (1 + (to - from - first) / c->period) * c->period) & width_mask(c);
    return true;
}

static void fire(Hpet *hpet, unsigned index)
{
    Comparator *c = &hpet->state.timers[index];
    if (is_level(c)) {
        hpet->state.status |= 1u << index; /* also when it does not interrupt */
        return;
    }
    if (!(c->config & INTERRUPT))
        return;
    if (c->config & FSB)
        board_msi(hpet->device.board, c->fsb >> 32, (uint32_t)c->fsb);
    else
        irq_line_pulse(hpet->lines[index]);
}

static void sync_matches(Hpet *hpet)
{
    if (!is_running(hpet))
        return;
    uint64_t now = counter_now(hpet);
    for (unsigned i = 0; i < HPET_TIMERS; i++)
        if (take_match(&hpet->state.timers[i], hpet->state.synced, now))
            fire(hpet, i);
    hpet->state.synced = now;
}

static uint32_t route_of(const Hpet *hpet, unsigned index)
{
    if ((hpet->state.config & LEGACY) && index < 2)
        return hpet->legacy_gsi[index];
    uint32_t gsi = (hpet->state.timers[index].config & ROUTE) >> ROUTE_SHIFT;
    return HPET_ROUTES >> gsi & 1 ? gsi : NOT_ROUTED;
}

static void drive_lines(Hpet *hpet)
{
    bool legacy = hpet->state.config & LEGACY;
    for (unsigned i = 0; i < 2; i++)
        irq_line_route(hpet->legacy[i], legacy ? NOT_ROUTED : hpet->legacy_gsi[i]);
    for (unsigned i = 0; i < HPET_TIMERS; i++) {
        const Comparator *c = &hpet->state.timers[i];
        irq_line_route(hpet->lines[i], route_of(hpet, i));
        irq_line_set(hpet->lines[i],
                     is_running(hpet) && is_level(c) && (c->config & INTERRUPT) && (hpet->state.status >> i & 1));
    }
}

/* Ticks from `synced` until this timer needs somebody to look; CLOCK_NEVER when nobody waits for it. */
static uint64_t until_needed(const Hpet *hpet, unsigned index)
{
    const Comparator *c = &hpet->state.timers[index];
    if (!(c->config & INTERRUPT) || (is_level(c) && (hpet->state.status >> index & 1)))
        return CLOCK_NEVER;
    uint64_t ticks = until_match(c, hpet->state.synced);
    if ((c->config & PERIODIC) && c->period && c->period < MIN_PERIOD)
        ticks = MAX(ticks, (uint64_t)MIN_PERIOD);
    return MIN(ticks, LONGEST_WAIT);
}

static void arm(Hpet *hpet)
{
    uint64_t ticks = CLOCK_NEVER;
    for (unsigned i = 0; is_running(hpet) && i < HPET_TIMERS; i++)
        ticks = MIN(ticks, until_needed(hpet, i));
    if (ticks == CLOCK_NEVER)
        timer_disarm(hpet->timer);
    else
        timer_arm(hpet->timer, (hpet->state.synced - hpet->state.counter + ticks) * HPET_TICK_NS);
}

static void hpet_update(Hpet *hpet)
{
    drive_lines(hpet);
    arm(hpet);
}

static void hpet_expired(void *opaque)
{
    Hpet *hpet = opaque;
    pthread_mutex_lock(&hpet->device.lock);
    sync_matches(hpet);
    hpet_update(hpet);
    pthread_mutex_unlock(&hpet->device.lock);
}

static uint64_t timer_register(const Comparator *c, uint64_t offset)
{
    switch (offset) {
    case TIMER_CONFIG:
        return (uint64_t)HPET_ROUTES << 32 | FSB_CAP | SIZE_CAP | PERIODIC_CAP |
               (c->config & WRITABLE & ~(uint64_t)VALUE_SET);
    case TIMER_COMPARATOR:
        return c->comparator;
    case TIMER_FSB:
        return c->fsb;
    default:
        return 0;
    }
}

static Comparator *timer_at(Hpet *hpet, uint64_t offset)
{
    uint64_t index = (offset - TIMERS) / TIMER_SIZE;
    return offset >= TIMERS && index < HPET_TIMERS ? &hpet->state.timers[index] : NULL;
}

static uint64_t register_value(Hpet *hpet, uint64_t offset)
{
    switch (offset) {
    case CAPABILITIES:
        return TICK_FS << 32 | HPET_BLOCK_ID;
    case CONFIG:
        return hpet->state.config;
    case STATUS:
        return hpet->state.status;
    case COUNTER:
        return counter_now(hpet);
    default: {
        const Comparator *c = timer_at(hpet, offset);
        return c ? timer_register(c, offset % TIMER_SIZE) : 0;
    }
    }
}

static uint64_t hpet_read(void *opaque, uint32_t region, uint64_t offset, uint32_t size)
{
    Hpet *hpet = opaque;
    if (offset >= TIMERS || (offset & ~7ull) == STATUS) {
        sync_matches(hpet);
        hpet_update(hpet);
    }
    return register_value(hpet, offset & ~7ull) >> (offset % 8 * 8);
}

static void write_config(Hpet *hpet, uint64_t value)
{
    HpetState *s = &hpet->state;
    uint64_t now = counter_now(hpet);
    bool was_running = is_running(hpet);
    s->config = value & (ENABLE | LEGACY);
    if (is_running(hpet) == was_running)
        return;
    s->counter = is_running(hpet) ? now - clock_ticks(hpet) : now;
    s->synced = now;
}

/* An input that there is not for it is not taken: software reads back what it got (HPET §2.3.8, Tn_INT_ROUTE_CNF).
 */
static void write_timer_config(Comparator *c, uint64_t value)
{
    uint64_t config = value & (WRITABLE | VALUE_SET_HIGH), route = (value & ROUTE) >> ROUTE_SHIFT;
    if (!(HPET_ROUTES >> route & 1))
        config = (config & ~(uint64_t)ROUTE) | (c->config & ROUTE);
    c->config = config;
    c->comparator &= width_mask(c);
    c->period &= width_mask(c);
}

/* In periodic mode it is the period; the accumulator only after VALUE_SET, which one write of each half uses up: 64
 * bits may come as two accesses (HPET §2.3.9.2.2, §2.4). */
static void write_comparator(Comparator *c, uint64_t value, uint64_t mask)
{
    uint64_t set = mask;
    if (c->config & PERIODIC) {
        c->period = ((c->period & ~mask) | (value & mask)) & width_mask(c);
        set &= (c->config & VALUE_SET ? UINT32_MAX : 0) | (c->config & VALUE_SET_HIGH ? ~(uint64_t)UINT32_MAX : 0);
    }
    c->comparator = ((c->comparator & ~set) | (value & set)) & width_mask(c);
    if (mask & UINT32_MAX)
        c->config &= ~(uint64_t)VALUE_SET;
    if (mask >> 32)
        c->config &= ~(uint64_t)VALUE_SET_HIGH;
}

static void write_timer(Comparator *c, uint64_t offset, uint64_t value, uint64_t mask)
{
    switch (offset) {
    case TIMER_CONFIG:
        value = (c->config & ~mask) | (value & mask & ~(uint64_t)VALUE_SET_HIGH);
        if (mask & VALUE_SET)
            value |= value & VALUE_SET ? VALUE_SET_HIGH : 0;
        write_timer_config(c, value);
        break;
    case TIMER_COMPARATOR:
        write_comparator(c, value, mask);
        break;
    case TIMER_FSB:
        c->fsb = (c->fsb & ~mask) | (value & mask);
        break;
    }
}

/* `mask`: the bytes of the register that are written. */
static void write_register(Hpet *hpet, uint64_t offset, uint64_t value, uint64_t mask)
{
    HpetState *s = &hpet->state;
    Comparator *c = timer_at(hpet, offset);
    switch (offset) {
    case CONFIG:
        write_config(hpet, (s->config & ~mask) | (value & mask));
        break;
    case STATUS:
        s->status &= ~(value & mask);
        break;
    case COUNTER: /* only while it is halted (HPET §2.3.7) */
        if (!is_running(hpet))
            s->counter = s->synced = (s->counter & ~mask) | (value & mask);
        break;
    default:
        if (c)
            write_timer(c, offset % TIMER_SIZE, value, mask);
    }
}

static void hpet_write(void *opaque, uint32_t region, uint64_t offset, uint32_t size, uint64_t value)
{
    Hpet *hpet = opaque;
    uint32_t shift = offset % 8 * 8;
    uint64_t mask = size >= 8 ? UINT64_MAX : (1ull << (size * 8)) - 1;
    sync_matches(hpet);
    write_register(hpet, offset & ~7ull, value << shift, mask << shift);
    hpet_update(hpet);
}

static void hpet_reset(Device *device)
{
    Hpet *hpet = container_of(device, Hpet, device);
    hpet->state = (HpetState){0};
    for (unsigned i = 0; i < HPET_TIMERS; i++)
        hpet->state.timers[i].comparator = UINT64_MAX;
    hpet_update(hpet);
}

static void hpet_destroy(Device *device)
{
    Hpet *hpet = container_of(device, Hpet, device);
    timer_free(hpet->timer);
}

static void hpet_save(Device *device, void *state)
{
    Hpet *hpet = container_of(device, Hpet, device);
    sync_matches(hpet);
    hpet_update(hpet);
    *(HpetState *)state = hpet->state;
}

static bool timer_is_valid(const Comparator *c)
{
    uint64_t route = (c->config & ROUTE) >> ROUTE_SHIFT;
    return !(c->config & ~(uint64_t)(WRITABLE | VALUE_SET_HIGH)) && (!route || HPET_ROUTES >> route & 1) &&
           c->comparator <= width_mask(c) && c->period <= width_mask(c);
}

static int hpet_restore(Device *device, const void *state)
{
    Hpet *hpet = container_of(device, Hpet, device);
    const HpetState *saved = state;
    if (saved->config & ~(uint64_t)(ENABLE | LEGACY) || saved->status >> HPET_TIMERS)
        return -EINVAL;
    for (unsigned i = 0; i < HPET_TIMERS; i++)
        if (!timer_is_valid(&saved->timers[i]))
            return -EINVAL;
    /* Time that was looked at is past, and not so long ago that it would not be a time of this clock. */
    if (saved->config & ENABLE ? saved->synced - saved->counter > clock_ticks(hpet)
                               : saved->synced != saved->counter)
        return -EINVAL;
    hpet->state = *saved;
    hpet_update(hpet);
    return 0;
}

static const DeviceClass hpet_class = {
    .name = "hpet",
    .ops = {hpet_read, hpet_write},
    .reset = hpet_reset,
    .destroy = hpet_destroy,
    .state_size = sizeof(HpetState),
    .state_version = HPET_STATE_VERSION,
    .save = hpet_save,
    .restore = hpet_restore,
};

Device *hpet_new(Board *board, IrqLine *pit, IrqLine *rtc)
{
    Hpet *hpet = calloc(1, sizeof *hpet);
    if (!hpet)
        return NULL;
    device_init(&hpet->device, &hpet_class, board);
    hpet->legacy[0] = pit;
    hpet->legacy[1] = rtc;
    hpet->timer = timer_new(board->clock, hpet_expired, hpet);
    bool complete = hpet->timer != NULL;
    for (unsigned i = 0; i < 2; i++)
        hpet->legacy_gsi[i] = irq_line_gsi(hpet->legacy[i]);
    for (unsigned i = 0; i < HPET_TIMERS; i++)
        complete &= (hpet->lines[i] = irq_line_new(board->irqs, NOT_ROUTED)) != NULL; /* freed with the router */
    if (!complete) {
        device_free(&hpet->device);
        return NULL;
    }
    hpet_reset(&hpet->device);
    return &hpet->device;
}
