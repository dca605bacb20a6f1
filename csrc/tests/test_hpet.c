/* IA-PC HPET specification 1.0a: counter, one-shot and periodic timers, 32-bit mode, routes, levels, FSB, legacy.
 */
#include "device_check.h"
#include "devices/hpet.h"

enum { CAPABILITIES = 0x00, CONFIG = 0x10, STATUS = 0x20, COUNTER = 0xf0 };
enum { ENABLE = 1, LEGACY = 2 };
enum { LEVEL = 0x02, INTERRUPT = 0x04, PERIODIC = 0x08, VALUE_SET = 0x40, MODE_32 = 0x100, FSB = 0x4000 };

typedef struct Setup {
    Board *board;
    Device *hpet;
    IrqLine *pit, *rtc;
    EdgeCounter irq[24];
    uint32_t messages;
    uint64_t address;
    uint32_t data;
} Setup;

static int on_message(void *opaque, uint64_t address, uint32_t data)
{
    Setup *s = opaque;
    s->messages++;
    s->address = address;
    s->data = data;
    return 1;
}

static void on_line(void *opaque, uint32_t gsi, bool level)
{
    Setup *s = opaque;
    edge_counter_sink(&s->irq[gsi], gsi, level);
}

static Setup *setup(void)
{
    Setup *s = calloc(1, sizeof *s);
    CHECK(s);
    s->board = test_board();
    for (uint32_t gsi = 0; gsi < 24; gsi++)
        s->irq[gsi].gsi = gsi;
    irq_router_add_sink(s->board->irqs, on_line, s);
    s->board->msi = on_message;
    s->board->msi_irqchip = s;
    s->pit = irq_line_new(s->board->irqs, 0);
    s->rtc = irq_line_new(s->board->irqs, 8);
    s->hpet = hpet_new(s->board, s->pit, s->rtc);
    CHECK(s->hpet);
    return s;
}

static void done(Setup *s)
{
    device_free(s->hpet);
    board_free(s->board);
    free(s);
}

static uint64_t get(Setup *s, uint64_t offset) { return device_read(s->hpet, 0, offset, 8); }
static void put(Setup *s, uint64_t offset, uint64_t value) { device_write(s->hpet, 0, offset, 8, value); }
static uint64_t config_of(unsigned timer) { return 0x100 + 0x20 * timer; }
static uint64_t comparator_of(unsigned timer) { return 0x108 + 0x20 * timer; }
static uint64_t fsb_of(unsigned timer) { return 0x110 + 0x20 * timer; }
static uint64_t route(unsigned input) { return (uint64_t)input << 9; }
static void ticks(Setup *s, uint64_t count) { pass(s->board, count * HPET_TICK_NS); }

static void capabilities(void)
{
    Setup *s = setup();
    uint64_t value = get(s, CAPABILITIES);
    CHECK_EQ(value >> 32, 10000000); /* femtoseconds in a tick: at most 100 ns (§2.3.4) */
    CHECK_EQ(value >> 16 & 0xffff, 0x8086);
    CHECK_EQ(value & 0xffff, 0xa201); /* legacy capable, 64 bits, last timer is 2, revision 1 */
    CHECK_EQ(device_read(s->hpet, 0, 4, 4), 10000000);
    put(s, CAPABILITIES, UINT64_MAX);
    CHECK_EQ(get(s, CAPABILITIES), value);
    for (unsigned i = 0; i < 3; i++) {
        CHECK_EQ(get(s, config_of(i)), 0x00f0000000008030); /* FSB, 64 bits, periodic; nothing on */
        CHECK_EQ(get(s, comparator_of(i)), UINT64_MAX);
    }
    CHECK_EQ(get(s, 0x160), 0); /* no fourth timer */
    done(s);
}

static void counter(void)
{
    Setup *s = setup();
    ticks(s, 100);
    CHECK_EQ(get(s, COUNTER), 0); /* halted */
    put(s, COUNTER, 0xfffffff0);
    put(s, CONFIG, ENABLE);
    ticks(s, 0x20);
    CHECK_EQ(get(s, COUNTER), 0x100000010);
    CHECK_EQ(device_read(s->hpet, 0, COUNTER, 4), 0x10);
    CHECK_EQ(device_read(s->hpet, 0, COUNTER + 4, 4), 1);
    put(s, COUNTER, 5); /* it runs: not taken */
    CHECK_EQ(get(s, COUNTER), 0x100000010);
    put(s, CONFIG, 0);
    ticks(s, 1000);
    CHECK_EQ(get(s, COUNTER), 0x100000010);
    device_write(s->hpet, 0, COUNTER + 4, 4, 7);
    CHECK_EQ(get(s, COUNTER), 0x700000010);
    put(s, CONFIG, ENABLE);
    ticks(s, 1);
    CHECK_EQ(get(s, COUNTER), 0x700000011);
    done(s);
}

static void one_shot(void)
{
    Setup *s = setup();
    put(s, config_of(0), INTERRUPT | route(20));
    put(s, comparator_of(0), 1000);
    ticks(s, 2000);
    CHECK_EQ(s->irq[20].edges, 0); /* halted */
    put(s, CONFIG, ENABLE);
    ticks(s, 999);
    CHECK_EQ(s->irq[20].edges, 0);
    ticks(s, 1);
    CHECK_EQ(s->irq[20].edges, 1);
    CHECK(!s->irq[20].level);
    CHECK_EQ(get(s, STATUS), 0); /* an edge leaves nothing behind */
    CHECK_EQ(get(s, comparator_of(0)), 1000);
    ticks(s, 1ull << 33);
    CHECK_EQ(s->irq[20].edges, 1);
    put(s, comparator_of(0), 5); /* past: not before the counter wraps */
    ticks(s, 1ull << 33);
    CHECK_EQ(s->irq[20].edges, 1);
    done(s);
}

static void wrap_of_32_bits(void)
{
    Setup *s = setup();
    put(s, config_of(1), INTERRUPT | MODE_32 | route(21));
    put(s, comparator_of(1), 0x500000100); /* the upper half is not there */
    CHECK_EQ(get(s, comparator_of(1)), 0x100);
    put(s, CONFIG, ENABLE);
    ticks(s, 0x100);
    CHECK_EQ(s->irq[21].edges, 1);
    ticks(s, 0xffffffff);
    CHECK_EQ(s->irq[21].edges, 1);
    ticks(s, 1); /* §2.3.9.2.1: a 32-bit timer interrupts again when the counter wraps */
    CHECK_EQ(s->irq[21].edges, 2);
    put(s, config_of(1), INTERRUPT | route(21));
    CHECK_EQ(get(s, comparator_of(1)), 0x100);
    done(s);
}

static void periodic(void)
{
    Setup *s = setup();
    put(s, config_of(0), INTERRUPT | PERIODIC | VALUE_SET | route(20));
    CHECK_EQ(get(s, config_of(0)) & VALUE_SET, 0);
    put(s, comparator_of(0), 0x12300); /* accumulator and period in one write */
    put(s, CONFIG, ENABLE);
    ticks(s, 0x12300);
    CHECK_EQ(s->irq[20].edges, 1);
    CHECK_EQ(get(s, comparator_of(0)), 0x24600);
    ticks(s, 0x12300);
    CHECK_EQ(s->irq[20].edges, 2);
    CHECK_EQ(get(s, comparator_of(0)), 0x36900);
    put(s, comparator_of(0), 5000); /* the next one stays, those after it are at the new rate */
    CHECK_EQ(get(s, comparator_of(0)), 0x36900);
    ticks(s, 0x12300);
    CHECK_EQ(s->irq[20].edges, 3);
    CHECK_EQ(get(s, comparator_of(0)), 0x36900 + 5000);
    ticks(s, 50000);
    CHECK_EQ(s->irq[20].edges, 13);
    done(s);
}

/* As Linux and others do it: first a first match, by VALUE_SET, then the period. */
static void periodic_from_another_first(void)
{
    Setup *s = setup();
    put(s, CONFIG, ENABLE);
    ticks(s, 12345);
    put(s, config_of(0), INTERRUPT | PERIODIC | VALUE_SET | MODE_32 | route(20));
    device_write(s->hpet, 0, comparator_of(0), 4, 12345 + 7000);
    device_write(s->hpet, 0, comparator_of(0), 4, 10000);
    ticks(s, 7000);
    CHECK_EQ(s->irq[20].edges, 1);
    ticks(s, 9999);
    CHECK_EQ(s->irq[20].edges, 1);
    ticks(s, 1);
    CHECK_EQ(s->irq[20].edges, 2);
    CHECK_EQ(get(s, comparator_of(0)), 12345 + 7000 + 20000);
    ticks(s, (1ull << 32)); /* beyond the wrap of the accumulator */
    CHECK_EQ(s->irq[20].edges, 2 + (1ull << 32) / 10000);
    done(s);
}

/* A host that comes late, and a period too short for it: as many edges as there were looks, no more. */
static void late_and_short(void)
{
    Setup *s = setup();
    put(s, config_of(0), INTERRUPT | PERIODIC | VALUE_SET | route(20));
    put(s, comparator_of(0), 10000);
    put(s, CONFIG, ENABLE);
    clock_advance(s->board->clock, 95000 * HPET_TICK_NS);
    clock_run_timers(s->board->clock);
    CHECK_EQ(s->irq[20].edges, 1);
    CHECK_EQ(get(s, comparator_of(0)), 100000);
    put(s, config_of(0), INTERRUPT | PERIODIC | VALUE_SET | route(20));
    put(s, comparator_of(0), 100001);
    put(s, comparator_of(0), 1);
    uint32_t before = s->irq[20].edges;
    pass(s->board, 100 * HPET_MIN_PERIOD_NS);
    CHECK_EQ(s->irq[20].edges - before, 1 + (100 * 2000 - 5001) / 2000);
    done(s);
}

static void level(void)
{
    Setup *s = setup();
    put(s, CONFIG, ENABLE);
    put(s, config_of(2), LEVEL | INTERRUPT | route(23));
    put(s, comparator_of(2), 100);
    ticks(s, 100);
    CHECK(s->irq[23].level);
    CHECK_EQ(get(s, STATUS), 4);
    put(s, STATUS, 3); /* others' bits */
    CHECK(s->irq[23].level);
    put(s, config_of(2), LEVEL | route(23)); /* not enabled: the status stays */
    CHECK(!s->irq[23].level);
    put(s, config_of(2), LEVEL | INTERRUPT | route(22)); /* moved with its level */
    CHECK(s->irq[22].level);
    put(s, CONFIG, 0); /* halted: no interrupts at all (§2.3.5) */
    CHECK(!s->irq[22].level);
    put(s, CONFIG, ENABLE);
    CHECK(s->irq[22].level);
    device_write(s->hpet, 0, STATUS, 1, 4);
    CHECK(!s->irq[22].level);
    CHECK_EQ(get(s, STATUS), 0);
    put(s, config_of(2), LEVEL | route(22));
    put(s, comparator_of(2), 200);
    ticks(s, 200);
    CHECK_EQ(get(s, STATUS), 4); /* status without interrupt */
    CHECK(!s->irq[22].level);
    done(s);
}

static void routes(void)
{
    Setup *s = setup();
    for (unsigned input = 0; input < 32; input++) {
        put(s, config_of(0), route(20));
        put(s, config_of(0), route(input));
        bool there = get(s, config_of(0)) >> (32 + input) & 1;
        CHECK_EQ(get(s, config_of(0)) >> 9 & 31, there ? input : 20); /* not accepted: reads back as it was */
    }
    done(s);
}

static void messages(void)
{
    Setup *s = setup();
    put(s, fsb_of(1), 0xfee01000ull << 32 | 0x4123);
    CHECK_EQ(get(s, fsb_of(1)), 0xfee01000ull << 32 | 0x4123);
    put(s, config_of(1), FSB | INTERRUPT | LEVEL | PERIODIC | VALUE_SET | route(21));
    put(s, comparator_of(1), 4000);
    put(s, CONFIG, ENABLE);
    ticks(s, 12000);
    CHECK_EQ(s->messages, 3);
    CHECK_EQ(s->address, 0xfee01000);
    CHECK_EQ(s->data, 0x4123);
    CHECK_EQ(s->irq[21].edges, 0);
    CHECK_EQ(get(s, STATUS), 0);
    done(s);
}

static void legacy_replacement(void)
{
    Setup *s = setup();
    irq_line_set(s->pit, true);
    CHECK(s->irq[0].level);
    put(s, config_of(0), INTERRUPT | route(20));
    put(s, config_of(1), INTERRUPT | route(21));
    put(s, config_of(2), INTERRUPT | route(22));
    for (unsigned i = 0; i < 3; i++)
        put(s, comparator_of(i), 100);
    put(s, CONFIG, ENABLE | LEGACY);
    CHECK(!s->irq[0].level); /* cut */
    irq_line_pulse(s->pit);
    irq_line_pulse(s->rtc);
    CHECK_EQ(s->irq[0].edges, 1);
    CHECK_EQ(s->irq[8].edges, 0);
    ticks(s, 100);
    CHECK_EQ(s->irq[0].edges, 2);
    CHECK_EQ(s->irq[8].edges, 1);
    CHECK_EQ(s->irq[20].edges + s->irq[21].edges, 0);
    CHECK_EQ(s->irq[22].edges, 1); /* has no legacy place */
    put(s, CONFIG, ENABLE);
    irq_line_pulse(s->rtc);
    CHECK_EQ(s->irq[8].edges, 2);
    put(s, CONFIG, LEGACY);
    device_reset(s->hpet);
    irq_line_pulse(s->pit);
    CHECK_EQ(s->irq[0].edges, 3);
    done(s);
}

static void accesses_of_all_sizes(void)
{
    Setup *s = setup();
    device_write(s->hpet, 0, comparator_of(0), 4, 0x11223344);
    device_write(s->hpet, 0, comparator_of(0) + 4, 4, 0x55667788);
    CHECK_EQ(get(s, comparator_of(0)), 0x5566778811223344);
    device_write(s->hpet, 0, comparator_of(0) + 3, 1, 0xaa);
    device_write(s->hpet, 0, comparator_of(0) + 6, 2, 0xbbcc);
    CHECK_EQ(get(s, comparator_of(0)), 0xbbcc7788aa223344);
    CHECK_EQ(device_read(s->hpet, 0, comparator_of(0) + 3, 1), 0xaa);
    uint64_t next = get(s, fsb_of(0));
    device_write(s->hpet, 0, comparator_of(0) + 4, 8, 0x99999999eeeeeeee); /* ends with the register */
    CHECK_EQ(get(s, comparator_of(0)), 0xeeeeeeeeaa223344);
    CHECK_EQ(get(s, fsb_of(0)), next);
    for (uint64_t offset = 0x160; offset < HPET_SIZE; offset += 8) {
        put(s, offset, UINT64_MAX);
        CHECK_EQ(get(s, offset), 0);
    }
    done(s);
}

static void save_and_restore(void)
{
    Setup *s = setup();
    put(s, config_of(0), INTERRUPT | PERIODIC | VALUE_SET | route(20));
    put(s, comparator_of(0), 5000);
    put(s, config_of(2), LEVEL | INTERRUPT | MODE_32 | route(23));
    put(s, comparator_of(2), 6000);
    put(s, CONFIG, ENABLE | LEGACY);
    ticks(s, 7000);
    check_save_restore(s->hpet);
    CHECK(s->irq[23].level);
    uint32_t before = s->irq[0].edges;
    ticks(s, 5000);
    CHECK_EQ(s->irq[0].edges, before + 1);
    HpetState state;
    device_save(s->hpet, &state);
    HpetState bad = state;
    bad.config = 4;
    CHECK_EQ(device_restore(s->hpet, &bad), -EINVAL);
    bad = state;
    bad.synced += 1000;
    CHECK_EQ(device_restore(s->hpet, &bad), -EINVAL);
    bad = state;
    bad.timers[2].comparator = 1ull << 32; /* of 32 bits */
    CHECK_EQ(device_restore(s->hpet, &bad), -EINVAL);
    bad = state;
    bad.timers[1].config = route(9);
    CHECK_EQ(device_restore(s->hpet, &bad), -EINVAL);
    CHECK_EQ(device_restore(s->hpet, &state), 0);
    done(s);
}

int main(void)
{
    capabilities();
    counter();
    one_shot();
    wrap_of_32_bits();
    periodic();
    periodic_from_another_first();
    late_and_short();
    level();
    routes();
    messages();
    legacy_replacement();
    accesses_of_all_sizes();
    save_and_restore();
    return 0;
}
