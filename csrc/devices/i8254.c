#include <stdlib.h>

#include "devices/i8254.h"

typedef I8254ChannelState Channel;

#define MIN_PERIOD_NS 20000 /* of interrupts: as the local APIC's timer */

typedef struct I8254 {
    Device device;
    IrqLine *irq;
    Timer *timer;
    I8254State state;
} I8254;

enum { RW_LSB = 1, RW_MSB = 2, RW_BOTH = 3 };

static unsigned mode_of(const Channel *c) { return (c->control >> 1) & 7; }
static unsigned access_of(const Channel *c) { return (c->control >> 4) & 3; }
static bool is_bcd(const Channel *c) { return c->control & 1; }

static uint64_t tick_now(I8254 *pit) { return clock_ns_to_ticks(clock_now(pit->device.board->clock), I8254_HZ); }

/* The count register's value as a number of ticks: 0 is the largest count (8254 "Write operations"). */
static uint32_t reload_ticks(const Channel *c)
{
    if (!is_bcd(c))
        return c->reload ? c->reload : 0x10000;
    uint32_t value = 0, weight = 1;
    for (uint32_t digits = c->reload; digits; digits >>= 4, weight *= 10)
        value += (digits & 0xf) * weight;
    return value ? value : 10000;
}

static uint16_t as_register(const Channel *c, uint64_t value)
{
    if (!is_bcd(c))
        return (uint16_t)value;
    value %= 10000;
    return (uint16_t)(value % 10 | value / 10 % 10 << 4 | value / 100 % 10 << 8 | value / 1000 << 12);
}

/* Ticks counted since the load; 0 while the load itself is still to come. */
static uint64_t elapsed(const Channel *c, uint64_t now)
{
    if (c->phase != I8254_COUNTING)
        return c->elapsed;
    return c->elapsed + (now > c->start ? now - c->start : 0);
}

/* Mode 3's halves: an odd count is high one tick longer than low (8254 "Mode 3"). */
static uint64_t half_length(const Channel *c) { return c->out ? (c->count + 1) / 2 : c->count / 2; }

/* The end of a cycle (mode 2) or half-cycle (mode 3): the next begins at `boundary`, perhaps with a new count. */
static void begin_cycle(Channel *c, uint64_t boundary)
{
    c->start = boundary;
    if (c->reload_pending) {
        c->count = reload_ticks(c);
        c->reload_pending = 0;
    }
}

/* Mode 2: OUT is low in the last tick of each cycle. Returns whether it rose. */
static bool sync_rate_generator(Channel *c, uint64_t now)
{
    bool rose = false;
    if (now >= c->start + c->count) {
        rose = c->count > 1;
        begin_cycle(c, c->start + c->count);
        if (now >= c->start + c->count) {
            c->start += (now - c->start) / c->count * c->count;
            rose |= c->count > 1;
        }
    }
    c->out = now < c->start || now - c->start != c->count - 1;
    return rose;
}

/* Mode 3. Returns whether OUT rose. */
static bool sync_square_wave(Channel *c, uint64_t now)
{
    if (c->count < 2 || now < c->start)
        return false;
    bool rose = false;
    if (now >= c->start + half_length(c)) { /* the first boundary may bring a new count */
        begin_cycle(c, c->start + half_length(c));
        c->out = !c->out;
        rose = c->out;
    }
    if (c->count < 2)
        return rose;
    if (now >= c->start + c->count) { /* whole cycles leave OUT as it is */
        c->start += (now - c->start) / c->count * c->count;
        rose = true;
    }
    if (now >= c->start + half_length(c)) {
        c->start += half_length(c);
        c->out = !c->out;
        rose |= c->out;
    }
    return rose;
}

/* Bring OUT and the cycle up to `now`. Returns whether OUT rose since the last time. */
static bool channel_sync(Channel *c, uint64_t now)
{
    if (c->phase == I8254_STOPPED && mode_of(c) == 4 && !c->out && now > c->start) { /* GATE stops no strobe */
        c->fired = c->out = 1;
        return true;
    }
    if (c->phase != I8254_COUNTING)
        return false;
    bool was = c->out;
    uint64_t counted = elapsed(c, now);
    switch (mode_of(c)) {
    case 0:
        c->out = c->out || counted >= c->count;
        return c->out && !was;
    case 1:
        if (c->fired || now < c->start)
            return false;
        c->out = c->fired = counted >= c->count;
        return c->fired;
    case 2:
        return sync_rate_generator(c, now);
    case 3:
        return sync_square_wave(c, now);
    default: /* 4 and 5: a strobe of one tick */
        if (c->fired)
            return false;
        c->fired = counted > c->count;
        c->out = counted != c->count;
        return c->fired;
    }
}

/* The tick of the next rising edge, or CLOCK_NEVER. The channel is in sync. */
static uint64_t next_rise(const Channel *c)
{
    if (c->phase != I8254_COUNTING)
        return CLOCK_NEVER;
    uint64_t origin = c->start - c->elapsed;
    switch (mode_of(c)) {
    case 0:
        return c->out ? CLOCK_NEVER : origin + c->count;
    case 1: /* OUT may still be high: a trigger takes effect at the next tick */
        return c->fired ? CLOCK_NEVER : origin + c->count;
    case 2:
        return c->count > 1 || c->reload_pending ? c->start + c->count : CLOCK_NEVER;
    case 3: {
        uint64_t boundary = c->start + half_length(c);
        uint64_t next = c->reload_pending ? reload_ticks(c) : c->count;
        if (c->count < 2)
            return CLOCK_NEVER;
        return c->out ? boundary + next / 2 : boundary;
    }
    default:
        return c->fired ? CLOCK_NEVER : origin + c->count + 1;
    }
}

/* 8254 "Mode definitions": what the counting element holds. */
static uint16_t counter_value(const Channel *c, uint64_t now)
{
    if (!c->written || !c->count)
        return c->reload;
    uint64_t counted = elapsed(c, now);
    uint64_t modulus = is_bcd(c) ? 10000 : 0x10000;
    switch (mode_of(c)) {
    case 2:
        return as_register(c, c->count - counted % c->count);
    case 3:
        if (c->count < 2)
            return as_register(c, c->count);
        return as_register(c, (c->count & ~1u) - 2 * (counted % half_length(c)));
    default: /* counts on below zero */
        return as_register(c, c->count + modulus * 2 - counted % modulus);
    }
}

/* The next clock pulse loads the counting element: what is written before it is loaded with it. */
static bool is_loading(const Channel *c, uint64_t now)
{
    return c->phase != I8254_IDLE && !c->elapsed && now < c->start;
}

/* NULL COUNT: what was written is not in the counting element yet (8254 figure 12). */
static uint8_t status_byte(const Channel *c, uint64_t now)
{
    bool null_count = !c->written || c->reload_pending || c->phase == I8254_IDLE || is_loading(c, now);
    return (uint8_t)(c->out << 7 | null_count << 6 | c->control);
}

/* Load the count register into the counting element at the next clock pulse. */
static void channel_load(Channel *c, uint64_t now)
{
    unsigned mode = mode_of(c);
    c->count = reload_ticks(c);
    c->elapsed = 0;
    c->fired = 0;
    c->reload_pending = 0;
    c->start = now + 1;
    c->phase = mode != 1 && mode != 5 && !c->gate ? I8254_STOPPED : I8254_COUNTING;
}

static void channel_count_written(Channel *c, uint64_t now)
{
    c->written = 1;
    switch (mode_of(c)) {
    case 0:
        c->out = 0;
        channel_load(c, now);
        break;
    case 1:
    case 5: /* waits for the trigger; a count that runs is left alone */
        if (is_loading(c, now))
            channel_load(c, now);
        else
            c->reload_pending = 1;
        break;
    case 4:
        c->out = 1;
        channel_load(c, now);
        break;
    default:
        if (c->phase != I8254_IDLE && c->count > 1 && !is_loading(c, now))
            c->reload_pending = 1;
        else
            channel_load(c, now);
    }
}

static void channel_write(Channel *c, uint8_t value, uint64_t now)
{
    switch (access_of(c)) {
    case RW_LSB:
        c->reload = value;
        break;
    case RW_MSB:
        c->reload = (uint16_t)(value << 8);
        break;
    case RW_BOTH:
        if (!c->write_msb) {
            c->write_lsb = value;
            c->write_msb = 1;
            if (mode_of(c) == 0) { /* the first byte stops the count and OUT falls (8254 "Mode 0") */
                c->elapsed = elapsed(c, now);
                c->phase = c->phase == I8254_IDLE ? I8254_IDLE : I8254_STOPPED;
                c->out = 0;
            }
            return;
        }
        c->write_msb = 0;
        c->reload = (uint16_t)(value << 8 | c->write_lsb);
        break;
    default:
        return; /* no control word yet */
    }
    channel_count_written(c, now);
}

static void latch_count(Channel *c, uint64_t now)
{
    if (c->latched)
        return; /* the first latch is kept until it is read (8254 "Counter latch command") */
    c->output_latch = counter_value(c, now);
    c->latched = access_of(c) == RW_BOTH ? 2 : 1;
}

static uint8_t channel_read(Channel *c, uint64_t now)
{
    if (c->status_latched) {
        c->status_latched = 0;
        return c->status_latch;
    }
    uint16_t value = c->latched ? c->output_latch : counter_value(c, now);
    if (c->latched)
        c->latched--;
    bool msb = access_of(c) == RW_MSB;
    if (access_of(c) == RW_BOTH) {
        msb = c->read_msb;
        c->read_msb = !c->read_msb;
    }
    return (uint8_t)(msb ? value >> 8 : value);
}

static void channel_control(Channel *c, uint8_t value)
{
    unsigned mode = (value >> 1) & 7;
    if (mode > 5) /* M2 is a "don't care" for modes 2 and 3 */
        value &= ~0x08;
    uint8_t gate = c->gate;
    *c = (Channel){.control = value & 0x3f, .gate = gate, .out = mode != 0};
}

/* 8254 "Read-back command": the bits that say "do it" are low. */
static void read_back(I8254 *pit, uint8_t value, uint64_t now)
{
    for (unsigned i = 0; i < 3; i++) {
        Channel *c = &pit->state.channel[i];
        if (!(value & (2u << i)))
            continue;
        if (!(value & 0x20))
            latch_count(c, now);
        if (!(value & 0x10) && !c->status_latched) {
            c->status_latch = status_byte(c, now);
            c->status_latched = 1;
        }
    }
}

static Channel *sync_channel(I8254 *pit, unsigned index, uint64_t now)
{
    Channel *c = &pit->state.channel[index];
    if (channel_sync(c, now) && index == 0) {
        irq_line_set(pit->irq, false);
        irq_line_set(pit->irq, true);
    }
    return c;
}

static void sync_all(I8254 *pit, uint64_t now)
{
    for (unsigned i = 0; i < 3; i++)
        sync_channel(pit, i, now);
}

/* A period below MIN_PERIOD_NS interrupts that often at most: the edges between are lost, as they are on a wire
 * that nobody looks at in time. */
static uint64_t earliest_ns(const I8254 *pit)
{
    const Channel *c = &pit->state.channel[0];
    bool periodic = mode_of(c) == 2 || mode_of(c) == 3;
    if (!periodic || clock_kind(pit->device.board->clock) == CLOCK_KIND_VIRTUAL ||
        clock_ticks_to_ns(c->count, I8254_HZ) >= MIN_PERIOD_NS)
        return 0;
    return clock_now(pit->device.board->clock) + MIN_PERIOD_NS;
}

/* Channel 0's wire and timer after a change of its programming. */
static void drive_irq(I8254 *pit)
{
    const Channel *c = &pit->state.channel[0];
    unsigned mode = mode_of(c);
    irq_line_set(pit->irq, c->out || mode == 2 || mode == 3);
    uint64_t tick = next_rise(c);
    if (tick == CLOCK_NEVER)
        timer_disarm(pit->timer);
    else
        timer_arm(pit->timer, MAX(clock_ticks_to_ns(tick, I8254_HZ), earliest_ns(pit)));
}

static void i8254_expired(void *opaque)
{
    I8254 *pit = opaque;
    pthread_mutex_lock(&pit->device.lock);
    sync_all(pit, tick_now(pit));
    drive_irq(pit);
    pthread_mutex_unlock(&pit->device.lock);
}

static uint64_t i8254_read(void *opaque, uint32_t region, uint64_t offset, uint32_t size)
{
    I8254 *pit = opaque;
    if (offset > 2)
        return 0xff; /* the control word register cannot be read: the bus floats */
    uint64_t now = tick_now(pit);
    return channel_read(sync_channel(pit, (unsigned)offset, now), now);
}

static void i8254_write(void *opaque, uint32_t region, uint64_t offset, uint32_t size, uint64_t value)
{
    I8254 *pit = opaque;
    uint64_t now = tick_now(pit);
    uint8_t byte = (uint8_t)value;
    sync_all(pit, now);
    if (offset < 3)
        channel_write(&pit->state.channel[offset], byte, now);
    else if (offset > 3)
        return;
    else if (byte >> 6 == 3)
        read_back(pit, byte, now);
    else if (!(byte & 0x30))
        latch_count(&pit->state.channel[byte >> 6], now);
    else
        channel_control(&pit->state.channel[byte >> 6], byte);
    drive_irq(pit);
}

/* 8254 figure 21, "Gate pin operations". */
static void channel_set_gate(Channel *c, bool level, uint64_t now)
{
    bool rises = level && !c->gate;
    c->gate = level;
    switch (mode_of(c)) {
    case 0:
    case 4:
        if (rises && c->phase == I8254_STOPPED && !c->write_msb) {
            c->start = MAX(now, c->start);
            c->phase = I8254_COUNTING;
        } else if (!level && c->phase == I8254_COUNTING) {
            c->elapsed = elapsed(c, now);
            c->start = MAX(now, c->start);
            c->phase = I8254_STOPPED;
        }
        break;
    case 1:
    case 5:
        if (rises && c->written)
            channel_load(c, now);
        break;
    default:
        if (!level) {
            c->elapsed = elapsed(c, now);
            c->out = 1;
            c->phase = c->phase == I8254_IDLE ? I8254_IDLE : I8254_STOPPED;
        } else if (rises && c->written) {
            channel_load(c, now);
        }
    }
}

void i8254_set_gate(Device *device, uint32_t channel, bool level)
{
    I8254 *pit = container_of(device, I8254, device);
    if (channel > 2)
        return;
    pthread_mutex_lock(&device->lock);
    Channel *c = &pit->state.channel[channel];
    if (c->gate != level) {
        uint64_t now = tick_now(pit);
        sync_all(pit, now);
        channel_set_gate(c, level, now);
        drive_irq(pit);
    }
    pthread_mutex_unlock(&device->lock);
}

bool i8254_out(Device *device, uint32_t channel)
{
    I8254 *pit = container_of(device, I8254, device);
    if (channel > 2)
        return false;
    pthread_mutex_lock(&device->lock);
    sync_all(pit, tick_now(pit));
    bool out = pit->state.channel[channel].out;
    pthread_mutex_unlock(&device->lock);
    return out;
}

bool i8254_gate(Device *device, uint32_t channel)
{
    I8254 *pit = container_of(device, I8254, device);
    return channel <= 2 && __atomic_load_n(&pit->state.channel[channel].gate, __ATOMIC_RELAXED);
}

/* The datasheet leaves power-on values undefined: here nothing counts and every OUT is low, so that no edge is
 * made. */
static void i8254_reset(Device *device)
{
    I8254 *pit = container_of(device, I8254, device);
    for (unsigned i = 0; i < 3; i++)
        pit->state.channel[i] = (Channel){.control = RW_BOTH << 4, .gate = i < 2};
    drive_irq(pit);
}

static void i8254_destroy(Device *device) { timer_free(container_of(device, I8254, device)->timer); }

static void i8254_save(Device *device, void *state)
{
    I8254 *pit = container_of(device, I8254, device);
    sync_all(pit, tick_now(pit));
    *(I8254State *)state = pit->state;
}

static bool channel_is_valid(const Channel *c)
{
    unsigned mode = mode_of(c);
    bool ranges = c->count <= 0x10000 && c->phase <= I8254_STOPPED && c->latched <= 2 && c->control < 0x40 &&
                  (c->out | c->gate | c->reload_pending | c->written | c->write_msb | c->read_msb) <= 1 && mode < 6;
    return ranges && (c->phase == I8254_IDLE || c->count) && c->elapsed < 1ull << 53 && c->start < 1ull << 53;
}

static int i8254_restore(Device *device, const void *state)
{
    I8254 *pit = container_of(device, I8254, device);
    const I8254State *saved = state;
    for (unsigned i = 0; i < 3; i++)
        if (!channel_is_valid(&saved->channel[i]))
            return -EINVAL;
    pit->state = *saved;
    drive_irq(pit);
    return 0;
}

static const DeviceClass i8254_class = {
    .name = "i8254",
    .ops = {i8254_read, i8254_write},
    .reset = i8254_reset,
    .destroy = i8254_destroy,
    .state_size = sizeof(I8254State),
    .state_version = I8254_STATE_VERSION,
    .save = i8254_save,
    .restore = i8254_restore,
};

Device *i8254_new(Board *board, IrqLine *irq)
{
    I8254 *pit = calloc(1, sizeof *pit);
    if (!pit)
        return NULL;
    device_init(&pit->device, &i8254_class, board);
    pit->irq = irq;
    pit->timer = timer_new(board->clock, i8254_expired, pit);
    if (!pit->timer) {
        device_free(&pit->device);
        return NULL;
    }
    i8254_reset(&pit->device);
    return &pit->device;
}
