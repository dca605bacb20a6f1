/*
 * ACPI's fixed hardware once more, from the ACPI specification 6.4 §4.8.3 by who did not write the device: status
 * bits that are cleared by writing 1, enables, the SCI, the power management timer's carry, and sleeping.
 */
#include "device_check.h"
#include "devices/acpi_pm.h"

enum { STS = 0, EN = 2, CNT = 4, TMR = 8 };
enum { TMR_STS = 1, PWRBTN = 0x100, SCI_EN = 1, SLP_EN = 0x2000 };
enum { S5 = 3, ENABLE = 0xa0, DISABLE = 0xa1 };

typedef struct Setup {
    Board *board;
    Device *pm;
    EdgeCounter sci;
} Setup;

static uint32_t get(Setup *s, unsigned at, unsigned size)
{
    return (uint32_t)device_read(s->pm, ACPI_PM_REGION_REGISTERS, at, size);
}

static void put(Setup *s, unsigned at, uint16_t value)
{
    device_write(s->pm, ACPI_PM_REGION_REGISTERS, at, 2, value);
}

static void smi(Setup *s, uint8_t value) { out8(s->pm, ACPI_PM_REGION_SMI, 0, value); }

static void setup(Setup *s, uint8_t bits)
{
    *s = (Setup){.board = test_board(), .sci.gsi = 9};
    CHECK_EQ(irq_router_add_sink(s->board->irqs, edge_counter_sink, &s->sci), 0);
    AcpiPmConfig config = {S5, ENABLE, DISABLE, bits};
    s->pm = acpi_pm_new(s->board, irq_line_new(s->board->irqs, 9), &config);
    CHECK(s->pm);
}

static void done(Setup *s)
{
    device_free(s->pm);
    board_free(s->board);
}

/* §4.8.3.1, §4.8.2.5: each status bit by itself; the SCI is a level: status and enable while SCI_EN is 1. */
static void test_events(void)
{
    Setup s;
    setup(&s, 24);
    CHECK_EQ(get(&s, CNT, 2) & SCI_EN, 0);
    smi(&s, ENABLE);
    CHECK_EQ(get(&s, CNT, 2) & SCI_EN, SCI_EN);
    acpi_pm_power_button(s.pm);
    CHECK_EQ(get(&s, STS, 2) & PWRBTN, PWRBTN);
    CHECK(!s.sci.level); /* not enabled */
    put(&s, EN, PWRBTN);
    CHECK(s.sci.level); /* an event of before counts */
    put(&s, STS, (uint16_t)~PWRBTN);
    CHECK_EQ(get(&s, STS, 2) & PWRBTN, PWRBTN);
    put(&s, STS, 0);
    CHECK(s.sci.level);
    put(&s, STS, PWRBTN);
    CHECK_EQ(get(&s, STS, 2) & PWRBTN, 0);
    CHECK(!s.sci.level);
    put(&s, STS, 0xffff); /* 1 sets nothing */
    CHECK_EQ(get(&s, STS, 2) & PWRBTN, 0);
    acpi_pm_power_button(s.pm);
    CHECK(s.sci.level);
    check_save_restore(s.pm);
    CHECK(s.sci.level);
    put(&s, EN, 0);
    CHECK(!s.sci.level);
    put(&s, EN, PWRBTN);
    smi(&s, DISABLE);
    CHECK_EQ(get(&s, CNT, 2) & SCI_EN, 0);
    CHECK(!s.sci.level); /* legacy mode: it would be an SMI */
    smi(&s, ENABLE);
    CHECK(s.sci.level);
    /* Accesses by bytes, as OSPM may make them (§4.8.3): only that byte is written. */
    out8(s.pm, ACPI_PM_REGION_REGISTERS, STS, 0xff);
    CHECK_EQ(get(&s, STS, 2) & PWRBTN, PWRBTN);
    out8(s.pm, ACPI_PM_REGION_REGISTERS, EN, 0);
    CHECK_EQ(get(&s, EN, 2), PWRBTN);
    CHECK_EQ(in8(s.pm, ACPI_PM_REGION_REGISTERS, EN + 1), 1);
    out8(s.pm, ACPI_PM_REGION_REGISTERS, STS + 1, 1);
    CHECK_EQ(get(&s, STS, 2) & PWRBTN, 0);
    /* Both registers at once: 32 bits, as a block. */
    acpi_pm_power_button(s.pm);
    CHECK_EQ(get(&s, STS, 4) & (PWRBTN | PWRBTN << 16), PWRBTN | PWRBTN << 16);
    device_reset(s.pm);
    CHECK_EQ(get(&s, EN, 2), 0);
    CHECK(!s.sci.level);
    done(&s);
}

/* §4.8.3.3: 3.579545 MHz, and TMR_STS whenever the top bit changes. */
static void test_timer(void)
{
    for (uint8_t bits = 24; bits <= 32; bits += 8) {
        Setup s;
        setup(&s, bits);
        uint64_t mask = (1ull << bits) - 1;
        uint64_t half_ns = clock_ticks_to_ns(1ull << (bits - 1), ACPI_PM_TIMER_HZ);
        for (unsigned i = 0; i < 50; i++) {
            uint64_t ticks = clock_ns_to_ticks(clock_now(s.board->clock), ACPI_PM_TIMER_HZ);
            CHECK_EQ(get(&s, TMR, 4), ticks & mask);
            pass(s.board, 77777777 * (bits == 32 ? 300ull : 1));
        }
        put(&s, TMR, 0), device_write(s.pm, ACPI_PM_REGION_REGISTERS, TMR, 4, 0);
        CHECK_EQ(get(&s, TMR, 4), clock_ns_to_ticks(clock_now(s.board->clock), ACPI_PM_TIMER_HZ) & mask);
        /* To a change of the top bit, and then one interrupt for each. */
        pass(s.board, half_ns - clock_now(s.board->clock) % half_ns + 1000);
        put(&s, STS, TMR_STS);
        CHECK_EQ(get(&s, STS, 2) & TMR_STS, 0);
        smi(&s, ENABLE);
        put(&s, EN, TMR_STS);
        unsigned edges = s.sci.edges;
        for (unsigned i = 1; i <= 6; i++) {
            bool top = get(&s, TMR, 4) >> (bits - 1) & 1;
            pass(s.board, half_ns - 3000);
            CHECK_EQ(s.sci.edges, edges + i - 1);
            CHECK_EQ(get(&s, TMR, 4) >> (bits - 1) & 1, top);
            pass(s.board, 3000);
            CHECK_EQ(s.sci.edges, edges + i);
            CHECK_EQ(get(&s, TMR, 4) >> (bits - 1) & 1, !top);
            CHECK_EQ(get(&s, STS, 2) & TMR_STS, TMR_STS);
            if (i == 3)
                check_save_restore(s.pm), edges = s.sci.edges - i; /* the line went down and up */
            put(&s, STS, TMR_STS);
            CHECK(!s.sci.level);
        }
        put(&s, EN, 0); /* the status comes without the enable */
        pass(s.board, half_ns);
        CHECK_EQ(get(&s, STS, 2) & TMR_STS, TMR_STS);
        done(&s);
    }
}

/* §4.8.3.2: SLP_EN is write-only and begins what SLP_TYP says. */
static void test_sleep(void)
{
    Setup s;
    setup(&s, 24);
    smi(&s, ENABLE);
    uint32_t code;
    for (uint16_t type = 0; type < 8; type++) {
        put(&s, CNT, (uint16_t)(type << 10 | SCI_EN));
        CHECK_EQ(get(&s, CNT, 2) & (7 << 10 | SCI_EN), type << 10 | SCI_EN);
        CHECK_EQ(board_take_request(s.board, &code), SYSTEM_NONE);
    }
    for (uint16_t type = 0; type < 8; type++) {
        put(&s, CNT, (uint16_t)(type << 10 | SLP_EN | SCI_EN));
        CHECK_EQ(board_take_request(s.board, &code), type == S5 ? SYSTEM_POWEROFF : SYSTEM_NONE);
        CHECK_EQ(get(&s, CNT, 2) & SLP_EN, 0);
    }
    /* As Linux does it: the high byte's bits first without, then with SLP_EN. */
    put(&s, CNT, S5 << 10 | SCI_EN);
    put(&s, CNT, S5 << 10 | SCI_EN | SLP_EN);
    CHECK_EQ(board_take_request(s.board, &code), SYSTEM_POWEROFF);
    out8(s.pm, ACPI_PM_REGION_REGISTERS, CNT + 1, (S5 << 10 | SLP_EN) >> 8);
    CHECK_EQ(board_take_request(s.board, &code), SYSTEM_POWEROFF);
    CHECK_EQ(get(&s, CNT, 2) & SCI_EN, SCI_EN);
    done(&s);
}

int main(void)
{
    RUN(test_events);
    RUN(test_timer);
    RUN(test_sleep);
    return 0;
}
