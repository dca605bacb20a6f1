/* MC146818A datasheet: formats, setting the time, update cycle, the three interrupts, memory. */
#include "device_check.h"
#include "devices/mc146818.h"

enum { A = 10, B = 11, C = 12, D = 13 };
#define SECOND NS_PER_SECOND
/* 2024-02-28 23:59:58 UTC, a Wednesday */
#define EPOCH_SECONDS 1709164798ll

typedef struct Setup {
    Board *board;
    Device *rtc;
    EdgeCounter irq;
} Setup;

static Setup *setup(void)
{
    Setup *s = calloc(1, sizeof *s);
    CHECK(s);
    s->board = test_board();
    clock_set_epoch_ns(s->board->clock, EPOCH_SECONDS * (int64_t)SECOND);
    s->irq.gsi = 8;
    irq_router_add_sink(s->board->irqs, edge_counter_sink, &s->irq);
    s->rtc = mc146818_new(s->board, irq_line_new(s->board->irqs, 8));
    CHECK(s->rtc);
    return s;
}

static void done(Setup *s)
{
    device_free(s->rtc);
    board_free(s->board);
    free(s);
}

static uint8_t get(Setup *s, uint8_t reg)
{
    out8(s->rtc, 0, 0, reg);
    return in8(s->rtc, 0, 1);
}

static void set(Setup *s, uint8_t reg, uint8_t value)
{
    out8(s->rtc, 0, 0, reg);
    out8(s->rtc, 0, 1, value);
}

static void check_time(Setup *s, unsigned century, unsigned year, unsigned month, unsigned day, unsigned weekday,
                       unsigned hour, unsigned minute, unsigned second)
{
    CHECK_EQ(get(s, 0), second);
    CHECK_EQ(get(s, 2), minute);
    CHECK_EQ(get(s, 4), hour);
    CHECK_EQ(get(s, 6), weekday);
    CHECK_EQ(get(s, 7), day);
    CHECK_EQ(get(s, 8), month);
    CHECK_EQ(get(s, 9), year);
    CHECK_EQ(get(s, 0x32), century);
}

static void formats(void)
{
    Setup *s = setup();
    check_time(s, 0x20, 0x24, 0x02, 0x28, 4, 0x23, 0x59, 0x58);
    pass(s->board, 2 * SECOND); /* a leap year */
    check_time(s, 0x20, 0x24, 0x02, 0x29, 5, 0x00, 0x00, 0x00);
    set(s, B, 0x00); /* 12 hours */
    CHECK_EQ(get(s, 4), 0x12);
    pass(s->board, 13 * 3600 * SECOND);
    CHECK_EQ(get(s, 4), 0x81);
    set(s, B, 0x06); /* binary, 24 hours */
    check_time(s, 20, 24, 2, 29, 5, 13, 0, 0);
    CHECK_EQ(get(s, D), 0x80);
    CHECK_EQ(in8(s->rtc, 0, 0), 0xff);
    done(s);
}

static void setting(void)
{
    Setup *s = setup();
    set(s, B, 0x82);
    pass(s->board, 10 * SECOND);
    check_time(s, 0x20, 0x24, 0x02, 0x28, 4, 0x23, 0x59, 0x58); /* held */
    set(s, 0, 0x59), set(s, 2, 0x59), set(s, 4, 0x23), set(s, 7, 0x31), set(s, 8, 0x12), set(s, 9, 0x99);
    set(s, 0x32, 0x19);
    set(s, B, 0x02);
    check_time(s, 0x19, 0x99, 0x12, 0x31, 6, 0x23, 0x59, 0x59);
    pass(s->board, SECOND);
    check_time(s, 0x20, 0x00, 0x01, 0x01, 7, 0x00, 0x00, 0x00);
    set(s, 4, 0x07); /* without SET */
    pass(s->board, SECOND);
    check_time(s, 0x20, 0x00, 0x01, 0x01, 7, 0x07, 0x00, 0x01);
    device_reset(s->rtc); /* the battery keeps it */
    CHECK_EQ(get(s, 4), 0x07);
    done(s);
}

static void divider_reset(void)
{
    Setup *s = setup();
    pass(s->board, SECOND / 4);
    set(s, A, 0x76);
    pass(s->board, 5 * SECOND);
    CHECK_EQ(get(s, 0), 0x58);
    set(s, A, 0x26); /* the next update comes half a second later */
    pass(s->board, SECOND / 2 - 1);
    CHECK_EQ(get(s, 0), 0x58);
    pass(s->board, 1);
    CHECK_EQ(get(s, 0), 0x59);
    done(s);
}

static void update_in_progress(void)
{
    Setup *s = setup();
    CHECK_EQ(get(s, A), 0x26);
    pass(s->board, SECOND - 2228001);
    CHECK_EQ(get(s, A), 0x26);
    pass(s->board, 1);
    CHECK_EQ(get(s, A), 0xa6);
    pass(s->board, 2228000);
    CHECK_EQ(get(s, A), 0x26);
    set(s, B, 0x82);
    pass(s->board, SECOND - 1);
    CHECK_EQ(get(s, A), 0x26); /* SET clears UIP */
    done(s);
}

static void update_interrupt(void)
{
    Setup *s = setup();
    CHECK_EQ(clock_next_deadline(s->board->clock), CLOCK_NEVER); /* nothing enabled: no timer */
    set(s, B, 0x12);
    pass(s->board, SECOND - 1);
    CHECK_EQ(s->irq.edges, 0);
    pass(s->board, 1);
    CHECK_EQ(s->irq.edges, 1);
    pass(s->board, 5 * SECOND);
    CHECK_EQ(s->irq.edges, 1); /* until C is read */
    CHECK_EQ(get(s, C) & 0x90, 0x90);
    CHECK_EQ(s->irq.level, 0);
    CHECK_EQ(get(s, C), 0);
    pass(s->board, SECOND);
    CHECK_EQ(s->irq.edges, 2);
    set(s, B, 0x92);
    CHECK_EQ(get(s, B), 0x82); /* SET clears UIE */
    done(s);
}

static void periodic_interrupt(void)
{
    Setup *s = setup();
    set(s, B, 0x42);
    unsigned interrupts = 0;
    for (unsigned i = 0; i < 4096; i++) { /* 1024 Hz */
        pass(s->board, SECOND / 4096);
        interrupts += (get(s, C) & 0xc0) == 0xc0;
    }
    CHECK(interrupts >= 1023 && interrupts <= 1024);
    set(s, A, 0x21); /* rate 1 is 256 Hz */
    get(s, C);
    uint64_t now = clock_now(s->board->clock);
    uint64_t wait = clock_next_deadline(s->board->clock) - now;
    CHECK(wait <= SECOND / 256);
    pass(s->board, wait);
    CHECK_EQ(get(s, C) & 0x40, 0x40);
    CHECK_EQ((clock_next_deadline(s->board->clock) - clock_now(s->board->clock) + 50) / 100,
             39063); /* 3.90625 ms */
    set(s, A, 0x20); /* rate 0: none */
    get(s, C);
    CHECK_EQ(clock_next_deadline(s->board->clock), CLOCK_NEVER);
    done(s);
}

static void alarm_interrupt(void)
{
    Setup *s = setup();
    set(s, 1, 0x30), set(s, 3, 0x15), set(s, 5, 0x06);
    set(s, B, 0x22);
    uint64_t due = (2 + 6 * 3600 + 15 * 60 + 30) * SECOND;
    CHECK_EQ(clock_next_deadline(s->board->clock), due);
    pass(s->board, due);
    CHECK_EQ(s->irq.edges, 1);
    CHECK_EQ(get(s, C), 0xa0 | 0x50); /* the other flags come without being enabled */
    set(s, 5, 0xff);                  /* any hour */
    CHECK_EQ(clock_next_deadline(s->board->clock), due + 3600 * SECOND);
    set(s, 3, 0xc0), set(s, 1, 0xc0); /* every second */
    CHECK_EQ(clock_next_deadline(s->board->clock), due + SECOND);
    set(s, 1, 0x7a); /* no such second */
    set(s, C, 0xff);
    CHECK_EQ(clock_next_deadline(s->board->clock), CLOCK_NEVER);
    set(s, B, 0x20); /* 12 hours */
    set(s, 1, 0x00), set(s, 3, 0x00), set(s, 5, 0x81);
    CHECK_EQ(clock_next_deadline(s->board->clock), (2 + 13 * 3600) * SECOND);
    done(s);
}

static void upper_memory(void)
{
    Setup *s = setup();
    for (unsigned i = 0; i < 128; i++) {
        out8(s->rtc, 0, 2, (uint8_t)i | (i & 1) << 7); /* bit 7 is nobody's */
        out8(s->rtc, 0, 3, (uint8_t)~i);
    }
    CHECK_EQ(in8(s->rtc, 0, 2), 0xff);
    device_write(s->rtc, 0, 2, 2, 0x5512); /* `out 0x72, ax` */
    CHECK_EQ(in8(s->rtc, 0, 3), 0x55);
    CHECK_EQ(mc146818_nvram(s->rtc, 128), 0xff);
    CHECK_EQ(mc146818_nvram(s->rtc, 255), 0x80);
    CHECK_EQ(mc146818_set_nvram(s->rtc, 128 + 0x32, 1), 0); /* no century there */
    CHECK_EQ(get(s, 0x32), 0x20);
    check_save_restore(s->rtc);
    device_reset(s->rtc);
    CHECK_EQ(mc146818_nvram(s->rtc, 128 + 0x12), 0x55);
    CHECK(!mc146818_nmi_disabled(s->rtc));
    done(s);
}

static void memory_and_nmi(void)
{
    Setup *s = setup();
    for (unsigned i = 14; i < 128; i++)
        if (i != 0x32)
            set(s, (uint8_t)i, (uint8_t)(i * 3));
    CHECK_EQ(mc146818_set_nvram(s->rtc, 0x10, 0x40), 0);
    CHECK_EQ(mc146818_set_nvram(s->rtc, 4, 1), -EINVAL);
    CHECK_EQ(mc146818_set_nvram(s->rtc, 256, 1), -EINVAL);
    device_reset(s->rtc);
    CHECK_EQ(get(s, 0x10), 0x40);
    CHECK_EQ(get(s, 0x7f), (0x7f * 3) & 0xff);
    CHECK_EQ(mc146818_nvram(s->rtc, 0x20), 0x60);
    CHECK(!mc146818_nmi_disabled(s->rtc));
    out8(s->rtc, 0, 0, 0x8f);
    CHECK(mc146818_nmi_disabled(s->rtc));
    CHECK_EQ(in8(s->rtc, 0, 1), 0x2d);
    done(s);
}

/* Values that no guest should write must not overflow anything (checked by the sanitizers). */
static void wild_values(void)
{
    Setup *s = setup();
    for (unsigned binary = 0; binary < 2; binary++) {
        set(s, B, binary ? 0x84 : 0x80);
        for (unsigned i = 0; i < 10; i++)
            set(s, (uint8_t)i, 0xff);
        set(s, 0x32, 0xff);
        set(s, B, binary ? 0x74 : 0x70);
        pass(s->board, 3 * SECOND);
        get(s, 9), get(s, C);
    }
    check_save_restore(s->rtc);
    done(s);
}

static void state(void)
{
    Setup *s = setup();
    set(s, B, 0x12);
    set(s, 9, 0x85);
    pass(s->board, SECOND / 2);
    /* Reset is a part of the check and clears what is not battery-backed; restoring brings it back. */
    check_save_restore(s->rtc);
    pass(s->board, SECOND / 2);
    CHECK_EQ(s->irq.edges, 1);
    CHECK_EQ(get(s, 9), 0x85);
    MC146818State bad;
    device_save(s->rtc, &bad);
    bad.offset_ns = INT64_MAX;
    CHECK_EQ(device_restore(s->rtc, &bad), -EINVAL);
    done(s);
}

int main(void)
{
    RUN(formats);
    RUN(setting);
    RUN(divider_reset);
    RUN(update_in_progress);
    RUN(update_interrupt);
    RUN(periodic_interrupt);
    RUN(alarm_interrupt);
    RUN(memory_and_nmi);
    RUN(upper_memory);
    RUN(wild_values);
    RUN(state);
    return 0;
}
