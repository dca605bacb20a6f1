/*
 * The HPET once more, from the IA-PC HPET specification 1.0a by who did not write the device: what drivers do to
 * the registers, in accesses of both sizes, and when interrupts come.
 */
#include "device_check.h"
#include "devices/hpet.h"

enum { CONFIG = 0x10, STATUS = 0x20, COUNTER = 0xf0, T0 = 0x100, T1 = 0x120, T2 = 0x140, COMPARE = 8 };
enum { ON = 1, LEGACY = 2, LEVEL = 2, ENABLE = 4, PERIODIC = 8, SET = 0x40, WIDTH_32 = 0x100 };

typedef struct Setup {
    Board *board;
    Device *hpet;
    EdgeCounter irq[24];
    IrqLine *pit, *rtc;
} Setup;

static void wire(void *opaque, uint32_t gsi, bool level)
{
    Setup *s = opaque;
    edge_counter_sink(&s->irq[gsi], gsi, level);
}

static void setup(Setup *s)
{
    *s = (Setup){.board = test_board()};
    for (uint32_t i = 0; i < 24; i++)
        s->irq[i].gsi = i;
    CHECK_EQ(irq_router_add_sink(s->board->irqs, wire, s), 0);
    s->pit = irq_line_new(s->board->irqs, 0), s->rtc = irq_line_new(s->board->irqs, 8);
    s->hpet = hpet_new(s->board, s->pit, s->rtc);
    CHECK(s->hpet);
}

static void done(Setup *s)
{
    device_free(s->hpet);
    board_free(s->board);
}

static uint64_t get(Setup *s, uint64_t at) { return device_read(s->hpet, 0, at, 8); }
static void put4(Setup *s, uint64_t at, uint64_t value) { device_write(s->hpet, 0, at, 4, value); }

/* 64 bits, as a CPU or as a bridge that has 32 lines writes them (§2.4.7). */
static void put(Setup *s, bool split, uint64_t at, uint64_t value)
{
    if (!split) {
        device_write(s->hpet, 0, at, 8, value);
        return;
    }
    put4(s, at, value & UINT32_MAX);
    put4(s, at + 4, value >> 32);
}

static void ticks(Setup *s, uint64_t count) { pass(s->board, count * HPET_TICK_NS); }

/* §2.3.4 to §2.3.7. */
static void test_main_counter(void)
{
    Setup s;
    setup(&s);
    uint64_t id = get(&s, 0);
    CHECK_EQ(id >> 32, 10000000); /* femtoseconds of a tick; at most 05f5e100h */
    CHECK_EQ(id >> 8 & 31, HPET_TIMERS - 1);
    CHECK(id & 1 << 13);     /* 64 bits */
    CHECK(id & 1 << 15);     /* can replace PIT and RTC */
    CHECK((id & 0xff) != 0); /* "must not be 00h" */
    put(&s, false, 0, 0);
    CHECK_EQ(get(&s, 0), id);
    for (unsigned split = 0; split < 2; split++) {
        put4(&s, CONFIG, 0);
        put(&s, split, COUNTER, 0xfffffff0ull + ((uint64_t)split << 40));
        ticks(&s, 1000);
        CHECK_EQ(get(&s, COUNTER), 0xfffffff0ull + ((uint64_t)split << 40)); /* halted */
        put4(&s, CONFIG, ON);
        ticks(&s, 0x20);
        CHECK_EQ(get(&s, COUNTER), 0x100000010ull + ((uint64_t)split << 40));
        CHECK_EQ(device_read(s.hpet, 0, COUNTER, 4), 0x10);
        CHECK_EQ(device_read(s.hpet, 0, COUNTER + 4, 4), 1 + (split << 8));
        check_save_restore(s.hpet);
        ticks(&s, 5);
        CHECK_EQ(get(&s, COUNTER) & 0xff, 0x15);
    }
    put4(&s, CONFIG, 0xfffffffc);
    CHECK_EQ(get(&s, CONFIG), 0); /* reserved bits */
    done(&s);
}

/* §2.3.9.2.1: once, when they are equal; a comparator that lies behind waits for the counter to come round. */
static void test_one_shot(void)
{
    for (unsigned split = 0; split < 2; split++) {
        Setup s;
        setup(&s);
        put4(&s, T2, ENABLE | 20 << 9);
        put(&s, split, T2 + COMPARE, 0x180000000ull);
        put(&s, split, COUNTER, 0x17fffff00ull);
        put4(&s, CONFIG, ON);
        ticks(&s, 0xff);
        CHECK_EQ(s.irq[20].edges, 0);
        ticks(&s, 1);
        CHECK_EQ(s.irq[20].edges, 1);
        CHECK_EQ(get(&s, STATUS), 0); /* an edge does not set it */
        ticks(&s, 1000000);
        CHECK_EQ(s.irq[20].edges, 1);
        put(&s, split, T2 + COMPARE, get(&s, COUNTER) - 1);
        ticks(&s, 1ull << 34);
        CHECK_EQ(s.irq[20].edges, 1);
        put(&s, split, T2 + COMPARE, get(&s, COUNTER) + 5000);
        put4(&s, T2, 20 << 9); /* disabled */
        ticks(&s, 6000);
        CHECK_EQ(s.irq[20].edges, 1);
        /* 32 bits wide it comes round after 2^32 ticks. */
        put4(&s, T2, ENABLE | WIDTH_32 | 21 << 9);
        put4(&s, T2 + COMPARE, (get(&s, COUNTER) & UINT32_MAX) - 1);
        ticks(&s, (1ull << 32) - 2);
        CHECK_EQ(s.irq[21].edges, 0);
        ticks(&s, 1);
        CHECK_EQ(s.irq[21].edges, 1);
        ticks(&s, 1ull << 32);
        CHECK_EQ(s.irq[21].edges, 2);
        done(&s);
    }
}

/* §2.3.9.2.2: the specification's own sequence, by either size of access, and the one that Linux uses. */
static void test_periodic(void)
{
    for (unsigned way = 0; way < 4; way++) { /* bit 0: in halves; bit 1: 32 bits wide */
        Setup s;
        setup(&s);
        uint64_t period = 300000, width = way & 2 ? WIDTH_32 : 0;
        put4(&s, CONFIG, 0);
        put(&s, way & 1, COUNTER, 0);
        put4(&s, T0, ENABLE | PERIODIC | SET | width | 20 << 9);
        CHECK_EQ(get(&s, T0) & SET, 0); /* it reads as 0 */
        put(&s, way & 1, T0 + COMPARE, period);
        put4(&s, CONFIG, ON);
        for (uint64_t i = 1; i <= 5; i++) {
            ticks(&s, period - 1);
            CHECK_EQ(s.irq[20].edges, i - 1);
            ticks(&s, 1);
            CHECK_EQ(s.irq[20].edges, i);
            CHECK_EQ(get(&s, T0 + COMPARE), (i + 1) * period);
        }
        /* A new value without SET is the period after the next match. */
        put(&s, way & 1, T0 + COMPARE, 2 * period);
        CHECK_EQ(get(&s, T0 + COMPARE), 6 * period);
        ticks(&s, period);
        CHECK_EQ(s.irq[20].edges, 6);
        CHECK_EQ(get(&s, T0 + COMPARE), 8 * period);
        /* Linux: accumulator by SET, period by the second write of the low half. */
        put4(&s, T0, ENABLE | PERIODIC | SET | WIDTH_32 | 20 << 9);
        put4(&s, T0 + COMPARE, (get(&s, COUNTER) & UINT32_MAX) + 70000);
        put4(&s, T0 + COMPARE, 50000);
        ticks(&s, 70000);
        CHECK_EQ(s.irq[20].edges, 7);
        ticks(&s, 49999);
        CHECK_EQ(s.irq[20].edges, 7);
        ticks(&s, 1);
        CHECK_EQ(s.irq[20].edges, 8);
        check_save_restore(s.hpet);
        ticks(&s, 500000);
        CHECK_EQ(s.irq[20].edges, 18);
        done(&s);
    }
}

/* The state between the two halves of a write is saved too; SET that is taken back is not used. */
static void test_value_set(void)
{
    Setup s;
    setup(&s);
    put4(&s, T1, PERIODIC | SET);
    put4(&s, T1 + COMPARE, 0x1000);
    HpetState state;
    device_save(s.hpet, &state);
    device_reset(s.hpet);
    CHECK_EQ(device_restore(s.hpet, &state), 0);
    put4(&s, T1 + COMPARE + 4, 7);
    CHECK_EQ(get(&s, T1 + COMPARE), 0x700001000ull);
    put(&s, false, T1 + COMPARE, 99);
    CHECK_EQ(get(&s, T1 + COMPARE), 0x700001000ull); /* used up */
    put4(&s, T1, PERIODIC | SET);
    put4(&s, T1, PERIODIC);
    put(&s, true, T1 + COMPARE, 99);
    CHECK_EQ(get(&s, T1 + COMPARE), 0x700001000ull);
    put4(&s, T1, 0xc0u);
    CHECK_EQ(get(&s, T1) & 0xcf, 0); /* reserved bits and SET read as 0 */
    done(&s);
}

/* §2.3.6: levels are held until 1 is written; without INT_ENB the status comes all the same. */
static void test_levels(void)
{
    Setup s;
    setup(&s);
    put4(&s, T1, LEVEL | ENABLE | 22 << 9);
    put4(&s, T2, LEVEL | 22 << 9);
    put(&s, false, T1 + COMPARE, 5000);
    put(&s, false, T2 + COMPARE, 6000);
    put4(&s, CONFIG, ON);
    ticks(&s, 5000);
    CHECK(s.irq[22].level);
    CHECK_EQ(get(&s, STATUS), 2);
    put4(&s, STATUS, 0xfffffffd);
    CHECK(s.irq[22].level);
    CHECK_EQ(get(&s, STATUS), 2);
    put4(&s, STATUS, 2);
    CHECK(!s.irq[22].level);
    ticks(&s, 1000);
    CHECK_EQ(get(&s, STATUS), 4);
    CHECK(!s.irq[22].level);
    done(&s);
}

/* §2.3.5 LEG_RT_CNF: IRQ 0 and 8 are theirs, wherever they are routed, and the PIT and RTC are cut. */
static void test_legacy_replacement(void)
{
    Setup s;
    setup(&s);
    put4(&s, T0, ENABLE | 20 << 9), put4(&s, T1, ENABLE | 21 << 9);
    put(&s, false, T0 + COMPARE, 3000), put(&s, false, T1 + COMPARE, 4000);
    put4(&s, CONFIG, LEGACY); /* without the main counter nothing counts */
    ticks(&s, 10000);
    CHECK_EQ(s.irq[0].edges + s.irq[8].edges, 0);
    put4(&s, CONFIG, LEGACY | ON);
    unsigned before = s.irq[0].edges;
    irq_line_pulse(s.pit);
    CHECK_EQ(s.irq[0].edges, before);
    ticks(&s, 4000);
    CHECK_EQ(s.irq[0].edges, before + 1);
    CHECK_EQ(s.irq[8].edges, 1);
    CHECK_EQ(s.irq[20].edges + s.irq[21].edges, 0);
    put4(&s, CONFIG, ON);
    irq_line_pulse(s.pit);
    CHECK_EQ(s.irq[0].edges, before + 2);
    done(&s);
}

int main(void)
{
    RUN(test_main_counter);
    RUN(test_one_shot);
    RUN(test_periodic);
    RUN(test_value_set);
    RUN(test_levels);
    RUN(test_legacy_replacement);
    return 0;
}
