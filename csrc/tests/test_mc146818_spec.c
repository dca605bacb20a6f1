/*
 * The real-time clock once more, from the Motorola MC146818A datasheet (ADI1034) by who did not write the device:
 * formats, carries, SET, UIP, the update-ended, alarm and periodic interrupts, and RESET.
 */
#include "device_check.h"
#include "devices/mc146818.h"

enum { SECONDS, SECONDS_ALARM, MINUTES, MINUTES_ALARM, HOURS, HOURS_ALARM, WEEKDAY, DAY, MONTH, YEAR, A, B, C, D };
enum { SET = 0x80, PIE = 0x40, AIE = 0x20, UIE = 0x10, DM = 0x04, H24 = 0x02 };
enum { UIP = 0x80, IRQF = 0x80, PF = 0x40, AF = 0x20, UF = 0x10 };

#define MS 1000000ull
#define US 1000ull

typedef struct Setup {
    Board *board;
    Device *rtc;
    EdgeCounter irq;
} Setup;

static void put(Setup *s, uint8_t index, uint8_t value)
{
    out8(s->rtc, 0, 0, index);
    out8(s->rtc, 0, 1, value);
}

static uint8_t get(Setup *s, uint8_t index)
{
    out8(s->rtc, 0, 0, index);
    return in8(s->rtc, 0, 1);
}

static void setup(Setup *s)
{
    *s = (Setup){.board = test_board(), .irq.gsi = 8};
    CHECK_EQ(irq_router_add_sink(s->board->irqs, edge_counter_sink, &s->irq), 0);
    s->rtc = mc146818_new(s->board, irq_line_new(s->board->irqs, 8));
    CHECK(s->rtc);
    put(s, A, 0x20); /* the 32.768 kHz divider, no periodic rate */
    put(s, B, H24);
    get(s, C);
}

static void done(Setup *s)
{
    device_free(s->rtc);
    board_free(s->board);
}

/* In the format of register B. */
static uint8_t coded(uint8_t b, unsigned value) { return (uint8_t)(b & DM ? value : value / 10 << 4 | value % 10); }

static uint8_t coded_hour(uint8_t b, unsigned hour)
{
    if (b & H24)
        return coded(b, hour);
    return (uint8_t)(coded(b, hour % 12 ? hour % 12 : 12) | (hour >= 12 ? 0x80 : 0));
}

/* 2024-02-28 is a Wednesday (4). */
typedef struct Moment {
    unsigned year, month, day, weekday, hour, minute, second;
} Moment;

static void set_moment(Setup *s, uint8_t b, Moment m)
{
    put(s, B, SET | b);
    put(s, YEAR, coded(b, m.year % 100)), put(s, 0x32, coded(b, m.year / 100));
    put(s, MONTH, coded(b, m.month)), put(s, DAY, coded(b, m.day)), put(s, WEEKDAY, (uint8_t)m.weekday);
    put(s, HOURS, coded_hour(b, m.hour)), put(s, MINUTES, coded(b, m.minute)), put(s, SECONDS, coded(b, m.second));
    put(s, B, b);
}

static void check_moment(Setup *s, uint8_t b, Moment m)
{
    CHECK_EQ(get(s, SECONDS), coded(b, m.second));
    CHECK_EQ(get(s, MINUTES), coded(b, m.minute));
    CHECK_EQ(get(s, HOURS), coded_hour(b, m.hour));
    CHECK_EQ(get(s, DAY), coded(b, m.day));
    CHECK_EQ(get(s, MONTH), coded(b, m.month));
    CHECK_EQ(get(s, YEAR), coded(b, m.year % 100));
    CHECK_EQ(get(s, WEEKDAY), m.weekday);
}

/* Table 3 "Time, calendar and alarm data modes": each hour, 12 and 24, BCD and binary, and the carries. */
static void test_formats(void)
{
    Setup s;
    setup(&s);
    static const uint8_t FORMATS[] = {0, H24, DM, DM | H24};
    for (size_t i = 0; i < ARRAY_SIZE(FORMATS); i++) {
        uint8_t b = FORMATS[i];
        for (unsigned hour = 0; hour < 24; hour++) {
            set_moment(&s, b, (Moment){2023, 11, 14, 3, hour, 59, 59});
            check_moment(&s, b, (Moment){2023, 11, 14, 3, hour, 59, 59});
            pass(s.board, 1000 * MS);
            check_moment(
                &s, b, hour == 23 ? (Moment){2023, 11, 15, 4, 0, 0, 0} : (Moment){2023, 11, 14, 3, hour + 1, 0, 0});
        }
        static const Moment CARRIES[][2] = {
            {{2024, 2, 28, 4, 23, 59, 59}, {2024, 2, 29, 5, 0, 0, 0}},
            {{2024, 2, 29, 5, 23, 59, 59}, {2024, 3, 1, 6, 0, 0, 0}},
            {{2023, 2, 28, 3, 23, 59, 59}, {2023, 3, 1, 4, 0, 0, 0}},
            {{2023, 4, 30, 1, 23, 59, 59}, {2023, 5, 1, 2, 0, 0, 0}},
            {{2023, 12, 31, 1, 23, 59, 59}, {2024, 1, 1, 2, 0, 0, 0}},
            {{2022, 12, 31, 7, 23, 59, 59}, {2023, 1, 1, 1, 0, 0, 0}},
            {{1999, 12, 31, 6, 23, 59, 59}, {2000, 1, 1, 7, 0, 0, 0}},
        };
        for (size_t j = 0; j < ARRAY_SIZE(CARRIES); j++) {
            set_moment(&s, b, CARRIES[j][0]);
            pass(s.board, 1000 * MS);
            check_moment(&s, b, CARRIES[j][1]);
        }
        CHECK_EQ(get(&s, 0x32), coded(b, 20)); /* the AT's century byte has the format of the others */
    }
    done(&s);
}

/* "Register B", SET: no update while it is 1, whatever is written stays; it clears UIE. */
static void test_set(void)
{
    Setup s;
    setup(&s);
    set_moment(&s, H24, (Moment){2023, 11, 14, 3, 12, 30, 15});
    put(&s, B, H24 | UIE);
    pass(s.board, 1000 * MS);
    CHECK_EQ(s.irq.edges, 1);
    get(&s, C);
    put(&s, B, SET | H24 | UIE);
    CHECK_EQ(get(&s, B), SET | H24);
    uint8_t second = get(&s, SECONDS);
    for (int i = 0; i < 40; i++) {
        pass(s.board, 97 * MS);
        CHECK_EQ(get(&s, SECONDS), second);
        CHECK(!(get(&s, A) & UIP));
        CHECK(!(get(&s, C) & UF));
    }
    CHECK_EQ(s.irq.edges, 1);
    put(&s, SECONDS, 0x42);
    put(&s, B, H24);
    CHECK_EQ(get(&s, SECONDS), 0x42);
    pass(s.board, 1000 * MS);
    CHECK_EQ(get(&s, SECONDS), 0x43);
    CHECK_EQ(get(&s, MINUTES), 0x30);
    done(&s);
}

/* "Update cycle": UIP is up 244 us before; while it is down nothing changes for that long. */
static void test_update_in_progress(void)
{
    Setup s;
    setup(&s);
    unsigned changes = 0, seen = 0;
    uint8_t second = get(&s, SECONDS);
    uint64_t low_at = clock_now(s.board->clock), safe_until = 0;
    for (int i = 0; i < 60000; i++) {
        pass(s.board, 50 * US);
        uint64_t now = clock_now(s.board->clock);
        bool uip = get(&s, A) & UIP;
        bool changed = get(&s, SECONDS) != second;
        CHECK(!changed || now >= safe_until); /* no sooner than 244 us after UIP read 0 */
        if (changed)
            second = get(&s, SECONDS), changes++;
        if (!uip)
            low_at = now, safe_until = now + 244 * US;
        CHECK(now - low_at <= 2300 * US); /* 244 us and the update's 1984 us at most */
        seen += uip;
    }
    CHECK_EQ(changes, 3);
    CHECK(seen >= 3 * 4);
    /* UF comes at the end of the cycle: UIP is then 0 and there is nearly a second to read the time. */
    put(&s, B, H24 | UIE);
    get(&s, C);
    for (int i = 0; i < 3; i++) {
        unsigned edges = s.irq.edges;
        while (s.irq.edges == edges)
            pass(s.board, clock_next_deadline(s.board->clock) - clock_now(s.board->clock));
        CHECK(!(get(&s, A) & UIP));
        second = get(&s, SECONDS);
        CHECK_EQ(get(&s, C), IRQF | UF);
        pass(s.board, 997 * MS);
        CHECK_EQ(get(&s, SECONDS), second);
    }
    /* A divider chain that is held in reset does not update; half a second after its release it does. */
    put(&s, A, 0x70);
    second = get(&s, SECONDS);
    pass(s.board, 5000 * MS);
    CHECK_EQ(get(&s, SECONDS), second);
    CHECK(!(get(&s, A) & UIP));
    put(&s, A, 0x20);
    pass(s.board, 490 * MS);
    CHECK_EQ(get(&s, SECONDS), second);
    pass(s.board, 20 * MS);
    CHECK_EQ(get(&s, SECONDS), coded(H24, ((second >> 4) * 10u + (second & 15) + 1u) % 60));
    done(&s);
}

/* Table 5: all rates; PF is set without PIE too. */
static void test_periodic(void)
{
    Setup s;
    setup(&s);
    for (unsigned rate = 0; rate < 16; rate++) {
        unsigned hz = rate == 0 ? 0 : rate < 3 ? 512u >> rate : 65536u >> rate;
        put(&s, A, (uint8_t)(0x20 | rate));
        put(&s, B, H24);
        get(&s, C);
        pass(s.board, 1000 * MS);
        uint8_t flags = get(&s, C);
        CHECK_EQ(flags & (PF | IRQF), hz ? PF : 0);
        put(&s, B, H24 | PIE);
        unsigned before = s.irq.edges, edges = 0;
        uint64_t end = clock_now(s.board->clock) + 2000 * MS;
        while (clock_now(s.board->clock) < end) {
            uint64_t to = MIN(clock_next_deadline(s.board->clock), end);
            pass(s.board, to - clock_now(s.board->clock));
            if (s.irq.edges - before != edges) {
                edges = s.irq.edges - before;
                CHECK_EQ(get(&s, C) & (IRQF | PF), IRQF | PF);
                CHECK(!s.irq.level);
                CHECK_EQ(get(&s, C), 0);
            }
        }
        CHECK(edges + 1 >= 2 * hz && edges <= 2 * hz + 1);
        /* Nobody reads C: one edge, and the line stays up. */
        before = s.irq.edges;
        pass(s.board, 3000 * MS);
        CHECK_EQ(s.irq.edges - before, hz ? 1 : 0);
        CHECK_EQ(s.irq.level, hz != 0);
        put(&s, B, H24); /* IRQF is PF and PIE: without PIE the pin is released, PF stays */
        CHECK(!s.irq.level);
        CHECK_EQ(get(&s, C) & (PF | IRQF), hz ? PF : 0);
    }
    /* A flag that is there already interrupts when its enable comes. */
    put(&s, A, 0x26);
    pass(s.board, 1000 * MS);
    put(&s, B, H24 | PIE);
    CHECK(s.irq.level);
    CHECK_EQ(get(&s, C) & (IRQF | PF), IRQF | PF);
    CHECK(!s.irq.level);
    done(&s);
}

/* "Alarm": "don't care" codes C0 to FF make it every second, minute or hour. */
static void test_alarm(void)
{
    static const struct {
        uint8_t hours, minutes, seconds; /* 0xff: don't care */
        unsigned a_day;
    } CASES[] = {
        {6, 30, 15, 1},        {0xff, 30, 15, 24}, {0xff, 0xff, 15, 1440}, {0xff, 0xff, 0xff, 86400},
        {6, 0xff, 0xff, 3600}, {6, 30, 0xff, 60},  {6, 0xff, 15, 60},      {0xff, 30, 0xff, 24 * 60},
        {25, 0, 0, 0},
    };
    static const uint8_t DONT_CARE[] = {0xc0, 0xd5, 0xff};
    static const uint8_t FORMATS[] = {0, H24, DM, DM | H24};
    for (size_t i = 0; i < ARRAY_SIZE(CASES); i++) {
        Setup s;
        setup(&s);
        uint8_t b = FORMATS[i % 4], any = DONT_CARE[i % 3];
        if (CASES[i].hours == 25)
            b = DM | H24;
        set_moment(&s, b, (Moment){2023, 11, 14, 3, 20, 0, 0});
        put(&s, HOURS_ALARM, CASES[i].hours == 0xff ? any : coded_hour(b, CASES[i].hours));
        put(&s, MINUTES_ALARM, CASES[i].minutes == 0xff ? any : coded(b, CASES[i].minutes));
        put(&s, SECONDS_ALARM, CASES[i].seconds == 0xff ? any : coded(b, CASES[i].seconds));
        get(&s, C);
        put(&s, B, b | AIE);
        unsigned count = 0, edges = 0;
        uint64_t end = clock_now(s.board->clock) + 86400ull * 1000 * MS;
        while (clock_now(s.board->clock) < end) {
            uint64_t to = MIN(clock_next_deadline(s.board->clock), end);
            pass(s.board, to - clock_now(s.board->clock));
            if (s.irq.edges == edges)
                continue;
            edges = s.irq.edges;
            count++;
            if (CASES[i].seconds != 0xff)
                CHECK_EQ(get(&s, SECONDS), coded(b, CASES[i].seconds));
            if (CASES[i].minutes != 0xff)
                CHECK_EQ(get(&s, MINUTES), coded(b, CASES[i].minutes));
            if (CASES[i].hours != 0xff)
                CHECK_EQ(get(&s, HOURS), coded_hour(b, CASES[i].hours));
            CHECK_EQ(get(&s, C) & (IRQF | AF), IRQF | AF);
            if (count % 997 == 3)
                check_save_restore(s.rtc);
        }
        CHECK_EQ(count, CASES[i].a_day);
        done(&s);
    }
    /* Without AIE the flag is set all the same. */
    Setup s;
    setup(&s);
    set_moment(&s, H24, (Moment){2023, 11, 14, 3, 6, 30, 14});
    put(&s, HOURS_ALARM, 6), put(&s, MINUTES_ALARM, 0x30), put(&s, SECONDS_ALARM, 0x15);
    get(&s, C);
    pass(s.board, 900 * MS);
    CHECK(!(get(&s, C) & AF));
    pass(s.board, 600 * MS);
    CHECK_EQ(get(&s, C), AF | UF);
    CHECK_EQ(get(&s, C), 0);
    CHECK_EQ(s.irq.edges, 0);
    done(&s);
}

/* Registers that are read-only, memory, and what the RESET pin does. */
static void test_registers_and_reset(void)
{
    Setup s;
    setup(&s);
    CHECK_EQ(get(&s, D), 0x80); /* VRT: the battery is good */
    put(&s, D, 0), put(&s, C, 0xff), put(&s, A, 0xa6);
    CHECK_EQ(get(&s, D), 0x80);
    CHECK_EQ(get(&s, C), 0);
    CHECK_EQ(get(&s, A), 0x26);
    for (unsigned i = 14; i < 128; i++)
        if (i != 0x32)
            put(&s, (uint8_t)i, (uint8_t)(i * 7));
    set_moment(&s, DM, (Moment){2031, 7, 9, 4, 17, 5, 6});
    put(&s, SECONDS_ALARM, 0xff), put(&s, MINUTES_ALARM, 0xff), put(&s, HOURS_ALARM, 0xff);
    put(&s, B, DM | PIE | AIE | UIE | 8 | 1);
    CHECK_EQ(get(&s, B), DM | PIE | AIE | UIE | 8 | 1);
    pass(s.board, 1100 * MS);
    CHECK(s.irq.level);
    device_reset(s.rtc);
    CHECK(!s.irq.level);
    CHECK_EQ(get(&s, B), DM | 1); /* PIE, AIE, UIE and SQWE are cleared; DM, 24/12 and DSE are not */
    CHECK_EQ(get(&s, C), 0);
    CHECK_EQ(get(&s, A) & 0x7f, 0x26);
    CHECK_EQ(get(&s, SECONDS_ALARM), 0xff);
    check_moment(&s, DM, (Moment){2031, 7, 9, 4, 17, 5, 7}); /* the time goes on */
    for (unsigned i = 14; i < 128; i++)
        if (i != 0x32)
            CHECK_EQ(get(&s, (uint8_t)i), (uint8_t)(i * 7));
    out8(s.rtc, 0, 0, 0x80 | SECONDS); /* bit 7 of the index is the NMI mask */
    CHECK(mc146818_nmi_disabled(s.rtc));
    CHECK_EQ(in8(s.rtc, 0, 1), 7);
    out8(s.rtc, 0, 0, SECONDS);
    CHECK(!mc146818_nmi_disabled(s.rtc));
    done(&s);
}

int main(void)
{
    RUN(test_formats);
    RUN(test_set);
    RUN(test_update_in_progress);
    RUN(test_periodic);
    RUN(test_alarm);
    RUN(test_registers_and_reset);
    return 0;
}
