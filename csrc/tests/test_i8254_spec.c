/*
 * The 8254 once more, from the Intel 8254 datasheet (231164) by who did not write the device: a model that takes
 * every CLK pulse by itself, as the datasheet's "Mode Definitions" tell it, runs beside the device through random
 * counts, gates, control words and latches. What the datasheet leaves open is not compared: the counting element
 * before its first load, and a new count of which one byte is written when a cycle ends. What i8254.h says is done
 * a pulse early is so in the model too.
 */
#include "device_check.h"
#include "devices/i8254.h"

typedef struct Model {
    unsigned mode, rw;
    bool bcd, out, gate, null, written, trigger, loaded, fired, odd, halted;
    bool load;       /* the next pulse loads */
    unsigned cr, ce; /* wide: 65536 or 10000 where the register shows 0 */
    unsigned edges;
} Model;

typedef struct Setup {
    Board *board;
    Device *pit;
    EdgeCounter irq;
    uint64_t tick;
    uint32_t first_seed, seed;
    Model model[3];
} Setup;

static uint32_t chance(Setup *s, uint32_t below)
{
    s->seed = s->seed * 1664525u + 1013904223u;
    return (s->seed >> 8) % below;
}

static void setup(Setup *s, uint32_t seed)
{
    *s = (Setup){.board = test_board(), .seed = seed, .first_seed = seed};
    CHECK_EQ(irq_router_add_sink(s->board->irqs, edge_counter_sink, &s->irq), 0);
    s->pit = i8254_new(s->board, irq_line_new(s->board->irqs, 0));
    CHECK(s->pit);
}

static void done(Setup *s)
{
    device_free(s->pit);
    board_free(s->board);
}

static unsigned span(const Model *m) { return m->bcd ? 10000 : 65536; }

static void model_out(Model *m, bool level)
{
    m->edges += level && !m->out;
    m->out = level;
}

static void model_load(Model *m)
{
    m->ce = m->mode == 3 ? m->cr & ~1u : m->cr;
    m->odd = m->cr & 1;
    m->load = m->trigger = m->null = m->fired = false;
    m->loaded = true;
}

static void model_count(Model *m) { m->ce = (m->ce ? m->ce : span(m)) - 1; }

/* The falling edge of CLK. */
static void model_pulse(Model *m)
{
    bool trigger = m->trigger;
    m->trigger = false;
    switch (m->mode) {
    case 0:
        if (m->load)
            model_load(m);
        else if (m->gate && !m->halted && m->loaded) {
            model_count(m);
            if (!m->ce)
                model_out(m, true);
        }
        break;
    case 1:
        if (trigger) {
            model_load(m);
            model_out(m, false);
        } else if (m->loaded) {
            model_count(m);
            if (!m->ce)
                model_out(m, true);
        }
        break;
    case 2:
        if (trigger || m->load) {
            model_load(m);
            model_out(m, true);
        } else if (m->gate && m->loaded) {
            if (m->ce == 1) {
                model_load(m);
                model_out(m, true);
            } else {
                m->ce--;
                model_out(m, m->ce != 1);
            }
        }
        break;
    case 3:
        if (trigger || m->load) {
            model_load(m);
            model_out(m, true);
        } else if (m->gate && m->loaded) {
            if (!m->ce || (m->ce == 2 && !(m->odd && m->out))) {
                model_load(m);
                model_out(m, !m->out);
            } else
                m->ce -= 2;
        }
        break;
    default:
        if (m->mode == 4 ? m->load : trigger) {
            model_load(m);
            model_out(m, true);
        } else {
            model_out(m, true);
            if (m->loaded && (m->gate || m->mode == 5)) {
                model_count(m);
                if (!m->ce && !m->fired) {
                    model_out(m, false);
                    m->fired = true;
                }
            }
        }
    }
}

static void pulses(Setup *s, unsigned count)
{
    while (count--) {
        uint64_t at = clock_ticks_to_ns(++s->tick, I8254_HZ);
        pass(s->board, at - clock_now(s->board->clock));
        for (unsigned i = 0; i < 3; i++)
            model_pulse(&s->model[i]);
    }
}

/* `mode` may be 6 or 7, which are 2 and 3: "don't care" bits. */
static void control(Setup *s, unsigned channel, unsigned rw, unsigned mode, bool bcd)
{
    out8(s->pit, 0, 3, (uint8_t)(channel << 6 | rw << 4 | mode << 1 | bcd));
    Model *m = &s->model[channel];
    bool gate = m->gate, out = m->out;
    *m = (Model){.mode = mode > 5 ? mode - 4 : mode,
                 .rw = rw,
                 .bcd = bcd,
                 .gate = gate,
                 .out = out,
                 .null = true,
                 .edges = m->edges};
    model_out(m, m->mode != 0);
}

static uint16_t as_register(const Model *m, unsigned value)
{
    value %= span(m);
    return (uint16_t)(m->bcd ? value / 1000 << 12 | value / 100 % 10 << 8 | value / 10 % 10 << 4 | value % 10
                             : value);
}

/* A value that the channel's format can hold. */
static unsigned fit(const Model *m, unsigned value)
{
    unsigned base = m->bcd ? 100 : 256;
    value %= span(m);
    if (m->rw == 1)
        value %= base;
    if (m->rw == 2)
        value -= value % base;
    if (value == 1 && (m->mode == 2 || m->mode == 3))
        value = 2; /* 1 is illegal there */
    return value;
}

static void count(Setup *s, unsigned channel, unsigned value)
{
    Model *m = &s->model[channel];
    value = fit(m, value);
    uint16_t bits = as_register(m, value);
    if (m->rw != 2)
        out8(s->pit, 0, channel, (uint8_t)bits);
    if (m->mode == 0)
        model_out(m, false);
    if (m->rw != 1)
        out8(s->pit, 0, channel, (uint8_t)(bits >> 8));
    m->cr = value ? value : span(m);
    m->null = true;
    m->halted = false;
    if (m->mode == 4)
        model_out(m, true);
    m->load = m->mode == 0 || m->mode == 4 || ((m->mode == 2 || m->mode == 3) && (!m->written || m->load));
    m->written = true;
}

static void gate(Setup *s, unsigned channel, bool level)
{
    Model *m = &s->model[channel];
    i8254_set_gate(s->pit, channel, level);
    m->trigger |= level && !m->gate && m->written;
    if (!level && (m->mode == 2 || m->mode == 3) && m->written)
        model_out(m, true);
    if (level && !m->gate && m->mode == 5 && m->written)
        model_out(m, true);
    m->gate = level;
}

static uint16_t read_count(Setup *s, unsigned channel)
{
    unsigned rw = s->model[channel].rw, value = 0;
    if (rw != 2)
        value = in8(s->pit, 0, channel);
    if (rw != 1)
        value |= (unsigned)in8(s->pit, 0, channel) << 8;
    return (uint16_t)value;
}

static uint16_t model_count_register(const Model *m)
{
    uint16_t value = as_register(m, m->ce);
    return m->rw == 1 ? value & 0xff : m->rw == 2 ? value & 0xff00 : value;
}

static uint8_t model_status(const Model *m)
{
    return (uint8_t)(m->out << 7 | m->null << 6 | m->rw << 4 | m->mode << 1 | m->bcd);
}

/* Status always; the count by any of the ways to read it. */
static void compare(Setup *s, unsigned channel)
{
    const Model *m = &s->model[channel];
    out8(s->pit, 0, 3, (uint8_t)(0xe0 | 2u << channel));
    uint8_t status = in8(s->pit, 0, channel);
    uint8_t expected = model_status(m);
    if (m->trigger)
        status |= 0x40, expected |= 0x40;
    if (status != expected)
        fprintf(stderr, "mode %u rw %u bcd %d at tick %llu, seed %u\n", m->mode, m->rw, m->bcd,
                (unsigned long long)s->tick, s->first_seed);
    CHECK_EQ(status, expected);
    CHECK_EQ(i8254_out(s->pit, channel), m->out);
    if (!m->loaded || m->load || (m->trigger))
        return;
    uint16_t want = model_count_register(m), got;
    switch (chance(s, 3)) {
    case 0:
        got = read_count(s, channel);
        break;
    case 1:
        out8(s->pit, 0, 3, (uint8_t)(channel << 6));
        got = read_count(s, channel);
        break;
    default:
        out8(s->pit, 0, 3, (uint8_t)(0xd0 | 2u << channel));
        got = read_count(s, channel);
    }
    if (got != want)
        fprintf(stderr, "mode %u rw %u bcd %d at tick %llu, seed %u: cr %u, gate %d, null %d\n", m->mode, m->rw,
                m->bcd, (unsigned long long)s->tick, s->first_seed, m->cr, m->gate, m->null);
    CHECK_EQ(got, want);
}

static void resynchronise(Setup *s)
{
    I8254State state;
    device_save(s->pit, &state);
    device_reset(s->pit);
    CHECK_EQ(device_restore(s->pit, &state), 0);
}

/* All modes, formats and channels at random: with a gate that moves on channels 1 and 2. */
static void test_against_the_model(void)
{
    for (uint32_t seed = 1; seed <= 250; seed++) {
        Setup s;
        setup(&s, seed);
        for (unsigned channel = 0; channel < 3; channel++) {
            s.model[channel].gate = i8254_gate(s.pit, channel);
            gate(&s, channel, true);
            control(&s, channel, 1 + chance(&s, 3), chance(&s, 8), chance(&s, 2));
        }
        for (unsigned step = 0; step < 150; step++) {
            unsigned channel = chance(&s, 3);
            Model *m = &s.model[channel];
            switch (chance(&s, 12)) {
            case 0:
                control(&s, channel, 1 + chance(&s, 3), chance(&s, 8), chance(&s, 2));
                break;
            case 1:
            case 2:
                count(&s, channel, chance(&s, 4) ? chance(&s, 12) : chance(&s, 65536));
                break;
            case 3:
            case 4:
                gate(&s, channel, !m->gate);
                break;
            case 5:
                gate(&s, channel, false);
                gate(&s, channel, true);
                break;
            case 6:
                resynchronise(&s);
                break;
            case 7:
                pulses(&s, chance(&s, 300));
                break;
            default:
                pulses(&s, chance(&s, 6));
            }
            for (unsigned i = 0; i < 3; i++)
                compare(&s, i);
        }
        done(&s);
    }
}

/* Channel 0 as the PC has it: GATE high; each rise of OUT is an edge of IRQ 0. */
static void test_edges(void)
{
    for (uint32_t seed = 1; seed <= 60; seed++) {
        Setup s;
        setup(&s, seed);
        s.model[0].gate = true;
        for (unsigned mode = 0; mode < 6; mode++) {
            control(&s, 0, 3, mode, seed & 1);
            unsigned before = s.irq.edges, model = s.model[0].edges;
            for (unsigned i = 0; i < 30; i++) {
                if (i % 5 == 0)
                    count(&s, 0, 2 + chance(&s, 9));
                pulses(&s, 1 + chance(&s, 12));
                CHECK_EQ(s.irq.edges - before, s.model[0].edges - model);
            }
        }
        done(&s);
    }
}

/* "Counter Latch Command", "Read-Back Command": what is latched stays until it is read or programmed anew. */
static void test_latches(void)
{
    Setup s;
    setup(&s, 1);
    s.model[1].gate = s.model[2].gate = true;
    gate(&s, 2, true);
    control(&s, 1, 3, 2, false), count(&s, 1, 1000);
    control(&s, 2, 3, 2, false), count(&s, 2, 2000);
    pulses(&s, 11);
    out8(s.pit, 0, 3, 0x40);
    pulses(&s, 100);
    out8(s.pit, 0, 3, 0x40); /* a second latch before the read is ignored */
    CHECK_EQ(read_count(&s, 1), 990);
    CHECK_EQ(read_count(&s, 1), 890); /* then live */
    /* Read-back of both counters' counts and status: status comes first, later ones are ignored. */
    out8(s.pit, 0, 3, 0xcc);
    pulses(&s, 50);
    control(&s, 0, 3, 0, false); /* another counter's control word is nothing to these */
    out8(s.pit, 0, 3, 0xcc);
    CHECK_EQ(in8(s.pit, 0, 2), 0xb4);
    CHECK_EQ(read_count(&s, 2), 1890);
    CHECK_EQ(in8(s.pit, 0, 1), 0xb4);
    CHECK_EQ(read_count(&s, 1), 890);
    CHECK_EQ(read_count(&s, 1), 840);
    /* Between the two bytes of a read a count may be written: the two have their own flip-flops. */
    out8(s.pit, 0, 3, 0x40);
    uint16_t latched = (uint16_t)s.model[1].ce;
    CHECK_EQ(in8(s.pit, 0, 1), latched & 0xff);
    out8(s.pit, 0, 1, 0x34);
    CHECK_EQ(in8(s.pit, 0, 1), latched >> 8);
    out8(s.pit, 0, 1, 0x12);
    s.model[1].cr = 0x1234, s.model[1].null = true;
    compare(&s, 1);
    /* A control word throws the latch away, and both flip-flops begin with the low byte. */
    out8(s.pit, 0, 3, 0xc4); /* status and count of counter 1 */
    control(&s, 1, 3, 2, false), count(&s, 1, 0x4321);
    pulses(&s, 1);
    CHECK_EQ(read_count(&s, 1), 0x4321);
    in8(s.pit, 0, 1);
    out8(s.pit, 0, 1, 0x77); /* half a count */
    control(&s, 1, 3, 2, false), count(&s, 1, 0x4321);
    pulses(&s, 2);
    CHECK_EQ(read_count(&s, 1), 0x4320);
    /* Read-back of nothing, and bits for no counter. */
    out8(s.pit, 0, 3, 0xfe), out8(s.pit, 0, 3, 0xc0), out8(s.pit, 0, 3, 0xe1);
    CHECK_EQ(read_count(&s, 1), 0x4320);
    CHECK_EQ(in8(s.pit, 0, 3), in8(s.pit, 0, 3)); /* not a register: only that nothing happens */
    done(&s);
}

/* Mode 0: the first byte of two stops the count and lowers OUT at once; the second lets it go on. */
static void test_mode0_half_written(void)
{
    Setup s;
    setup(&s, 1);
    s.model[0].gate = true;
    control(&s, 0, 3, 0, false), count(&s, 0, 5);
    pulses(&s, 6);
    CHECK(i8254_out(s.pit, 0));
    out8(s.pit, 0, 0, 3);
    CHECK(!i8254_out(s.pit, 0));
    uint16_t held = read_count(&s, 0);
    pulses(&s, 40);
    CHECK_EQ(read_count(&s, 0), held);
    CHECK(!i8254_out(s.pit, 0));
    out8(s.pit, 0, 0, 0);
    pulses(&s, 1);
    CHECK_EQ(read_count(&s, 0), 3);
    pulses(&s, 2);
    CHECK(!i8254_out(s.pit, 0));
    pulses(&s, 1);
    CHECK(i8254_out(s.pit, 0));
    done(&s);
}

int main(void)
{
    RUN(test_against_the_model);
    RUN(test_edges);
    RUN(test_latches);
    RUN(test_mode0_half_written);
    return 0;
}
