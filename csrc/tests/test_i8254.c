/* Intel 8254 datasheet (231164): the six modes, BCD, latches, read-back, gate; and what a late host makes of
 * periods. */
#include "device_check.h"
#include "devices/i8254.h"

typedef struct Setup {
    Board *board;
    Device *pit;
    EdgeCounter irq;
} Setup;

static Setup *setup(void)
{
    Setup *s = calloc(1, sizeof *s);
    CHECK(s);
    s->board = test_board();
    irq_router_add_sink(s->board->irqs, edge_counter_sink, &s->irq);
    s->pit = i8254_new(s->board, irq_line_new(s->board->irqs, 0));
    CHECK(s->pit);
    return s;
}

static void done(Setup *s)
{
    device_free(s->pit);
    board_free(s->board);
    free(s);
}

/* Pass up to the start of the n-th tick from the machine's start. */
static void to_tick(Setup *s, uint64_t tick)
{
    uint64_t at = clock_ticks_to_ns(tick, I8254_HZ);
    CHECK(at >= clock_now(s->board->clock));
    pass(s->board, at - clock_now(s->board->clock));
}

static void program(Setup *s, unsigned channel, uint8_t control, uint16_t count)
{
    out8(s->pit, 0, 3, (uint8_t)(channel << 6 | control));
    if (control & 0x10)
        out8(s->pit, 0, channel, (uint8_t)count);
    if (control & 0x20)
        out8(s->pit, 0, channel, (uint8_t)(count >> 8));
}

static unsigned latched(Setup *s, unsigned channel)
{
    out8(s->pit, 0, 3, (uint8_t)(channel << 6));
    unsigned low = in8(s->pit, 0, channel);
    return low | (unsigned)in8(s->pit, 0, channel) << 8;
}

static unsigned status(Setup *s, unsigned channel)
{
    out8(s->pit, 0, 3, (uint8_t)(0xe0 | 2u << channel));
    return in8(s->pit, 0, channel);
}

static void mode0(void)
{
    Setup *s = setup();
    program(s, 0, 0x30, 100);     /* at tick 0; loaded at tick 1 */
    CHECK_EQ(status(s, 0), 0x70); /* OUT low, NULL COUNT */
    to_tick(s, 1);
    CHECK_EQ(status(s, 0), 0x30);
    CHECK_EQ(latched(s, 0), 100);
    to_tick(s, 51);
    CHECK_EQ(latched(s, 0), 50);
    to_tick(s, 100);
    CHECK_EQ(s->irq.edges, 0);
    to_tick(s, 101); /* N + 1 pulses after the write */
    CHECK_EQ(s->irq.edges, 1);
    CHECK_EQ(status(s, 0), 0xb0);
    to_tick(s, 103);
    CHECK_EQ(latched(s, 0), 0xfffe); /* counts on */
    to_tick(s, 200000);
    CHECK_EQ(s->irq.edges, 1);
    out8(s->pit, 0, 0, 10); /* the first byte of a new count stops it and lowers OUT */
    CHECK_EQ(s->irq.level, 0);
    to_tick(s, 300000);
    CHECK_EQ(s->irq.edges, 1);
    out8(s->pit, 0, 0, 0);
    to_tick(s, 300011);
    CHECK_EQ(s->irq.edges, 2);
    done(s);
}

static void mode0_gate(void)
{
    Setup *s = setup();
    i8254_set_gate(s->pit, 2, true);
    program(s, 2, 0x30, 100);
    to_tick(s, 41);
    i8254_set_gate(s->pit, 2, false);
    to_tick(s, 1000);
    CHECK_EQ(latched(s, 2), 60);
    i8254_set_gate(s->pit, 2, true);
    to_tick(s, 1059);
    CHECK_EQ(i8254_out(s->pit, 2), 0);
    to_tick(s, 1060);
    CHECK_EQ(i8254_out(s->pit, 2), 1);
    done(s);
}

static void mode1(void)
{
    Setup *s = setup();
    program(s, 2, 0x32, 50);
    to_tick(s, 10);
    CHECK_EQ(i8254_out(s->pit, 2), 1); /* waits for the trigger */
    i8254_set_gate(s->pit, 2, true);
    to_tick(s, 11);
    CHECK_EQ(i8254_out(s->pit, 2), 0);
    to_tick(s, 40);
    i8254_set_gate(s->pit, 2, false);
    i8254_set_gate(s->pit, 2, true); /* retriggered: 50 more from tick 41 */
    to_tick(s, 90);
    CHECK_EQ(i8254_out(s->pit, 2), 0);
    to_tick(s, 91);
    CHECK_EQ(i8254_out(s->pit, 2), 1);
    to_tick(s, 200000);
    CHECK_EQ(i8254_out(s->pit, 2), 1);
    done(s);
}

static void mode2(void)
{
    Setup *s = setup();
    program(s, 0, 0x34, 1000);
    CHECK_EQ(s->irq.edges, 1); /* the control word takes OUT high */
    to_tick(s, 1);
    CHECK_EQ(latched(s, 0), 1000);
    to_tick(s, 1000);
    CHECK_EQ(latched(s, 0), 1);
    CHECK_EQ(status(s, 0) & 0x80, 0); /* low for one tick */
    to_tick(s, 1001);
    CHECK_EQ(s->irq.edges, 2);
    CHECK_EQ(status(s, 0) & 0x80, 0x80);
    CHECK_EQ(latched(s, 0), 1000);
    out8(s->pit, 0, 0, 0xf4), out8(s->pit, 0, 0, 0x01); /* 500, from the next cycle on */
    CHECK_EQ(status(s, 0) & 0x40, 0x40);
    to_tick(s, 2000);
    CHECK_EQ(s->irq.edges, 2);
    to_tick(s, 2001);
    CHECK_EQ(s->irq.edges, 3);
    CHECK_EQ(status(s, 0) & 0x40, 0);
    to_tick(s, 2501);
    CHECK_EQ(s->irq.edges, 4);
    done(s);
}

static void no_drift(void)
{
    Setup *s = setup();
    program(s, 0, 0x34, 1193); /* 999.8 us */
    to_tick(s, 1 + 1193ull * 3600 * 10 - 1);
    CHECK_EQ(s->irq.edges, 36000);
    to_tick(s, 1 + 1193ull * 3600 * 10);
    CHECK_EQ(s->irq.edges, 36001);
    done(s);
}

static void late_host(void)
{
    Setup *s = setup();
    program(s, 0, 0x34, 1000);
    clock_advance(s->board->clock,
                  clock_ticks_to_ns(1 + 1000 * 500 + 300, I8254_HZ)); /* nobody ran timers for 500 periods */
    clock_run_timers(s->board->clock);
    CHECK_EQ(s->irq.edges, 2);    /* coalesced into one */
    CHECK_EQ(latched(s, 0), 700); /* and in phase */
    to_tick(s, 1 + 1000 * 501);
    CHECK_EQ(s->irq.edges, 3);
    done(s);
}

static void mode3(void)
{
    Setup *s = setup();
    program(s, 0, 0x36, 10);
    to_tick(s, 1);
    CHECK_EQ(latched(s, 0), 10);
    to_tick(s, 3);
    CHECK_EQ(latched(s, 0), 6); /* by twos */
    CHECK_EQ(status(s, 0) & 0x80, 0x80);
    to_tick(s, 6);
    CHECK_EQ(status(s, 0) & 0x80, 0);
    CHECK_EQ(latched(s, 0), 10);
    to_tick(s, 10);
    CHECK_EQ(s->irq.edges, 1);
    to_tick(s, 11);
    CHECK_EQ(s->irq.edges, 2);
    program(s, 2, 0x36, 5);
    i8254_set_gate(s->pit, 2, true); /* odd: high 3, low 2; loaded at 12 */
    static const uint8_t expected[] = {1, 1, 1, 0, 0, 1, 1, 1, 0, 0};
    for (unsigned i = 0; i < sizeof expected; i++) {
        to_tick(s, 12 + i);
        CHECK_EQ(i8254_out(s->pit, 2), expected[i]);
    }
    i8254_set_gate(s->pit, 2, false);
    CHECK_EQ(i8254_out(s->pit, 2), 1); /* gate low forces OUT high */
    done(s);
}

static void mode3_half_reload(void)
{
    Setup *s = setup();
    i8254_set_gate(s->pit, 2, true);
    program(s, 2, 0x36, 100);
    to_tick(s, 21);
    out8(s->pit, 0, 2, 20), out8(s->pit, 0, 2, 0); /* taken at the end of the half that runs */
    to_tick(s, 50);
    CHECK_EQ(i8254_out(s->pit, 2), 1);
    to_tick(s, 51);
    CHECK_EQ(i8254_out(s->pit, 2), 0);
    to_tick(s, 60);
    CHECK_EQ(i8254_out(s->pit, 2), 0);
    to_tick(s, 61);
    CHECK_EQ(i8254_out(s->pit, 2), 1);
    done(s);
}

static void mode4(void)
{
    Setup *s = setup();
    program(s, 0, 0x38, 100);
    CHECK_EQ(s->irq.edges, 1);
    to_tick(s, 101);
    CHECK_EQ(status(s, 0) & 0x80, 0); /* strobe */
    CHECK_EQ(s->irq.edges, 1);
    to_tick(s, 102);
    CHECK_EQ(status(s, 0) & 0x80, 0x80);
    CHECK_EQ(s->irq.edges, 2);
    to_tick(s, 300000);
    CHECK_EQ(s->irq.edges, 2); /* once */
    done(s);
}

static void mode5(void)
{
    Setup *s = setup();
    program(s, 2, 0x3a, 100);
    to_tick(s, 500);
    i8254_set_gate(s->pit, 2, true); /* loaded at 501 */
    to_tick(s, 600);
    CHECK_EQ(i8254_out(s->pit, 2), 1);
    to_tick(s, 601);
    CHECK_EQ(i8254_out(s->pit, 2), 0);
    to_tick(s, 602);
    CHECK_EQ(i8254_out(s->pit, 2), 1);
    done(s);
}

static void bcd_and_access(void)
{
    Setup *s = setup();
    program(s, 1, 0x35, 0x1000); /* BCD, mode 2 */
    to_tick(s, 2);
    CHECK_EQ(latched(s, 1), 0x0999);
    program(s, 1, 0x35, 0x0000); /* 10000 */
    to_tick(s, 3);
    CHECK_EQ(latched(s, 1), 0x0000);
    to_tick(s, 4);
    CHECK_EQ(latched(s, 1), 0x9999);
    program(s, 1, 0x14, 0x80); /* LSB only */
    to_tick(s, 5);
    CHECK_EQ(in8(s->pit, 0, 1), 0x80);
    to_tick(s, 6);
    CHECK_EQ(in8(s->pit, 0, 1), 0x7f);
    program(s, 1, 0x24, 0x8000); /* MSB only */
    to_tick(s, 8);
    CHECK_EQ(in8(s->pit, 0, 1), 0x7f);
    CHECK_EQ(in8(s->pit, 0, 3), 0xff);
    done(s);
}

static void latches(void)
{
    Setup *s = setup();
    program(s, 0, 0x34, 0x1234);
    to_tick(s, 1);
    out8(s->pit, 0, 3, 0x00); /* latch */
    to_tick(s, 11);
    out8(s->pit, 0, 3, 0x00); /* ignored: the first is not read yet */
    CHECK_EQ(in8(s->pit, 0, 0), 0x34);
    CHECK_EQ(in8(s->pit, 0, 0), 0x12);
    CHECK_EQ(in8(s->pit, 0, 0), 0x2a); /* live again */
    CHECK_EQ(in8(s->pit, 0, 0), 0x12);
    out8(s->pit, 0, 3, 0xc2); /* read back status and count of channel 0 */
    to_tick(s, 12);
    CHECK_EQ(in8(s->pit, 0, 0), 0xb4);
    CHECK_EQ(in8(s->pit, 0, 0), 0x2a);
    CHECK_EQ(in8(s->pit, 0, 0), 0x12);
    CHECK_EQ(in8(s->pit, 0, 0), 0x29);
    done(s);
}

static void illegal_counts(void)
{
    Setup *s = setup();
    program(s, 0, 0x34, 1);
    to_tick(s, 100000);
    program(s, 0, 0x36, 1);
    to_tick(s, 200000);
    CHECK_EQ(s->irq.edges, 1);
    out8(s->pit, 0, 0, 100), out8(s->pit, 0, 0, 0); /* a legal one takes over */
    to_tick(s, 200101);
    CHECK_EQ(s->irq.edges, 2);
    done(s);
}

static void state(void)
{
    Setup *s = setup();
    program(s, 0, 0x34, 1000);
    program(s, 1, 0x36, 77);
    i8254_set_gate(s->pit, 2, true);
    program(s, 2, 0x30, 50000);
    to_tick(s, 1500);
    out8(s->pit, 0, 3, 0x80);
    check_save_restore(s->pit);
    uint32_t edges = s->irq.edges;
    to_tick(s, 2000);
    CHECK_EQ(s->irq.edges, edges);
    to_tick(s, 2001);
    CHECK_EQ(s->irq.edges, edges + 1);
    CHECK_EQ(latched(s, 2), 50000 - 1499);
    I8254State bad;
    device_save(s->pit, &bad);
    bad.channel[0].start = UINT64_MAX;
    CHECK_EQ(device_restore(s->pit, &bad), -EINVAL);
    device_save(s->pit, &bad);
    bad.channel[1].count = 0;
    CHECK_EQ(device_restore(s->pit, &bad), -EINVAL);
    done(s);
}

/* A count of 2 is an edge each 1.7 us, which no host keeps up with: its timer fires seldom enough. */
static void a_fast_rate_wakes_the_host_seldom(void)
{
    Board *board = board_new(CLOCK_KIND_REALTIME, NULL);
    EdgeCounter counter = {.gsi = 0};
    irq_router_add_sink(board->irqs, edge_counter_sink, &counter);
    Device *pit = i8254_new(board, irq_line_new(board->irqs, 0));
    for (uint8_t control = 0x34; control <= 0x36; control += 2) { /* modes 2 and 3 */
        out8(pit, 0, 3, control), out8(pit, 0, 0, 2), out8(pit, 0, 0, 0);
        counter.edges = 0;
        uint64_t start = clock_now(board->clock);
        while (counter.edges < 200)
            clock_run_timers(board->clock);
        CHECK(clock_now(board->clock) - start >= 198 * 20000);
    }
    device_free(pit);
    board_free(board);
}

int main(void)
{
    RUN(mode0);
    RUN(mode0_gate);
    RUN(mode1);
    RUN(mode2);
    RUN(no_drift);
    RUN(late_host);
    RUN(mode3);
    RUN(mode3_half_reload);
    RUN(mode4);
    RUN(mode5);
    RUN(bcd_and_access);
    RUN(latches);
    RUN(illegal_counts);
    RUN(state);
    RUN(a_fast_rate_wakes_the_host_seldom);
    return 0;
}
