/* ACPI 6.4 §4.8.3: events and SCI, control and S5, the PM timer and its carry, the SMI command port. */
#include "device_check.h"
#include "devices/acpi_pm.h"

enum { STS = 0, EN = 2, CNT = 4, TMR = 8, REG = ACPI_PM_REGION_REGISTERS, SMI = ACPI_PM_REGION_SMI };

typedef struct Setup {
    Board *board;
    Device *pm;
    IrqLine *sci;
} Setup;

static Setup setup(uint8_t timer_bits)
{
    Setup s = {.board = test_board()};
    s.sci = irq_line_new(s.board->irqs, 9);
    AcpiPmConfig config = {.s5_type = 5, .acpi_enable = 0xf1, .acpi_disable = 0xf0, .timer_bits = timer_bits};
    s.pm = acpi_pm_new(s.board, s.sci, &config);
    CHECK(s.pm);
    return s;
}

static void done(Setup *s)
{
    device_free(s->pm);
    board_free(s->board);
}

static uint32_t get(Setup *s, unsigned reg, unsigned size) { return (uint32_t)device_read(s->pm, REG, reg, size); }
static void set(Setup *s, unsigned reg, uint16_t value) { device_write(s->pm, REG, reg, 2, value); }

static void acpi_mode(void)
{
    Setup s = setup(32);
    CHECK_EQ(get(&s, CNT, 2), 0);
    out8(s.pm, SMI, 0, 0xf1);
    CHECK_EQ(get(&s, CNT, 2), 1);
    out8(s.pm, SMI, 0, 0xf0);
    CHECK_EQ(get(&s, CNT, 2), 0);
    out8(s.pm, SMI, 1, 0x77);
    CHECK_EQ(in8(s.pm, SMI, 0), 0xf0);
    CHECK_EQ(in8(s.pm, SMI, 1), 0x77);
    done(&s);
}

static void power_button(void)
{
    Setup s = setup(32);
    acpi_pm_power_button(s.pm);
    CHECK_EQ(get(&s, STS, 2), 0x100);
    set(&s, EN, 0x100);
    CHECK(!irq_line_level(s.sci)); /* not in ACPI mode */
    out8(s.pm, SMI, 0, 0xf1);
    CHECK(irq_line_level(s.sci));
    out8(s.pm, REG, STS, 0xff); /* the low byte only */
    CHECK(irq_line_level(s.sci));
    set(&s, STS, 0x100);
    CHECK(!irq_line_level(s.sci));
    CHECK_EQ(get(&s, STS, 4), 0x01000000);
    set(&s, EN, 0xffff);
    CHECK_EQ(get(&s, EN, 2), 0x0721); /* only bits that exist */
    done(&s);
}

static void sleep_states(void)
{
    Setup s = setup(32);
    uint32_t code;
    set(&s, CNT, 5 << 10 | 1);
    CHECK_EQ(board_take_request(s.board, &code), SYSTEM_NONE);
    set(&s, CNT, 3 << 10 | 0x2001);
    CHECK_EQ(board_take_request(s.board, &code), SYSTEM_NONE);
    char text[100];
    CHECK(event_log_take(s.board->log, text, sizeof text) > 0);
    set(&s, CNT, 5 << 10 | 0x2001);
    CHECK_EQ(board_take_request(s.board, &code), SYSTEM_POWEROFF);
    CHECK_EQ(get(&s, CNT, 2), 5 << 10 | 1); /* SLP_EN reads as 0 */
    out8(s.pm, REG, CNT + 1, 0x34);         /* SLP_TYP 5 and SLP_EN by the high byte alone */
    CHECK_EQ(board_take_request(s.board, &code), SYSTEM_POWEROFF);
    done(&s);
}

static void pm_timer(void)
{
    Setup s = setup(24);
    pass(s.board, NS_PER_SECOND);
    CHECK_EQ(get(&s, TMR, 4), 3579545);
    CHECK_EQ(get(&s, TMR + 1, 1), (3579545 >> 8) & 0xff);
    pass(s.board, 4 * NS_PER_SECOND);
    CHECK_EQ(get(&s, TMR, 4), 17897725 - (1 << 24)); /* wraps at 24 bits */
    CHECK_EQ(get(&s, STS, 2), 1);                    /* the top bit changed */
    set(&s, STS, 1);
    CHECK_EQ(get(&s, STS, 2), 0);
    CHECK_EQ(clock_next_deadline(s.board->clock), CLOCK_NEVER);
    out8(s.pm, SMI, 0, 0xf1);
    set(&s, EN, 1);
    uint64_t due = clock_ticks_to_ns(3 << 23, ACPI_PM_TIMER_HZ);
    CHECK_EQ(clock_next_deadline(s.board->clock), due);
    pass(s.board, due - clock_now(s.board->clock) - 1);
    CHECK(!irq_line_level(s.sci));
    pass(s.board, 1);
    CHECK(irq_line_level(s.sci));
    done(&s);
    s = setup(32);
    pass(s.board, 5 * NS_PER_SECOND);
    CHECK_EQ(get(&s, TMR, 4), 17897725);
    done(&s);
}

static void state(void)
{
    Setup s = setup(24);
    pass(s.board, 3 * NS_PER_SECOND);
    out8(s.pm, SMI, 0, 0xf1);
    set(&s, EN, 0x101);
    acpi_pm_power_button(s.pm);
    check_save_restore(s.pm);
    CHECK(irq_line_level(s.sci));
    AcpiPmState bad;
    device_save(s.pm, &bad);
    bad.timer_half = UINT64_MAX;
    CHECK_EQ(device_restore(s.pm, &bad), -EINVAL);
    AcpiPmConfig wrong = {.s5_type = 8, .acpi_enable = 1, .timer_bits = 24};
    CHECK(!acpi_pm_new(s.board, s.sci, &wrong));
    done(&s);
}

int main(void)
{
    RUN(acpi_mode);
    RUN(power_button);
    RUN(sleep_states);
    RUN(pm_timer);
    RUN(state);
    return 0;
}
