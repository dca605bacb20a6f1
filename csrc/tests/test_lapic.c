/* The local APIC from the Intel SDM 3A, chapter 11: what a driver that has only the manual may rely on. */
#include "device_check.h"
#include "irq/i8259.h"
#include "irq/lapic.h"

enum { SVR_ON = 0x1ff };

static uint32_t rd(Lapic *lapic, uint32_t reg) { return (uint32_t)device_read(lapic_device(lapic), 0, reg, 4); }

static void wr(Lapic *lapic, uint32_t reg, uint32_t value) { device_write(lapic_device(lapic), 0, reg, 4, value); }

static bool isr(Lapic *lapic, uint8_t vector)
{
    return rd(lapic, LAPIC_ISR + (vector >> 5) * 16u) >> (vector & 31) & 1;
}

static bool irr(Lapic *lapic, uint8_t vector)
{
    return rd(lapic, LAPIC_IRR + (vector >> 5) * 16u) >> (vector & 31) & 1;
}

static Lapic *new_lapic(Board *board, uint32_t id)
{
    Error error = {0};
    Lapic *lapic = lapic_new(board, id, &error);
    CHECK(lapic);
    wr(lapic, LAPIC_SVR, SVR_ON);
    return lapic;
}

static void msi(Board *board, uint32_t destination, uint8_t vector)
{
    CHECK_EQ(board_msi(board, 0xfee00000 | destination << 12, vector), 1);
}

/* §11.4.7.1 */
static void test_reset_values(void)
{
    Board *board = test_board();
    Error error = {0};
    Lapic *lapic = lapic_new(board, 0, &error);
    CHECK(lapic && !lapic_new(board, 0, &error) && error.code == EEXIST);
    CHECK(!lapic_new(board, 255, &error));
    CHECK_EQ(rd(lapic, LAPIC_VERSION) & 0xff, 0x14);
    CHECK_EQ(rd(lapic, LAPIC_VERSION) >> 16 & 0xff, 5);
    CHECK_EQ(rd(lapic, LAPIC_SVR), 0xff);
    CHECK_EQ(rd(lapic, LAPIC_DFR), UINT32_MAX);
    CHECK_EQ(rd(lapic, LAPIC_LVT_TIMER), 0x10000);
    CHECK_EQ(rd(lapic, LAPIC_LVT_LINT0), 0x700); /* see lapic.h */
    CHECK_EQ(rd(lapic, LAPIC_LVT_LINT1), 0x10000);
    CHECK_EQ(rd(lapic, LAPIC_TPR), 0);
    CHECK_EQ(lapic_base(lapic), 0xfee00900);
    /* Disabled by software: nothing is accepted, and no entry can be unmasked (§11.4.7.2). */
    CHECK_EQ(board_msi(board, 0xfee00000, 0x40), 0);
    wr(lapic, LAPIC_LVT_ERROR, 0x40);
    CHECK_EQ(rd(lapic, LAPIC_LVT_ERROR), 0x10040);
    device_free(lapic_device(lapic));
    board_free(board);
}

/* §11.8.3: classes, TPR, PPR, nesting, EOI */
static void test_priorities(void)
{
    Board *board = test_board();
    Lapic *lapic = new_lapic(board, 0);
    msi(board, 0, 0x41);
    msi(board, 0, 0x52);
    CHECK(intr_pin_level(&board->intr));
    CHECK_EQ(intr_pin_acknowledge(&board->intr), 0x52);
    CHECK(isr(lapic, 0x52) && !irr(lapic, 0x52) && irr(lapic, 0x41));
    CHECK(!intr_pin_level(&board->intr)); /* 0x41 is less urgent */
    CHECK_EQ(rd(lapic, LAPIC_PPR), 0x50);
    msi(board, 0, 0x5f); /* the same class waits */
    CHECK(!intr_pin_level(&board->intr));
    msi(board, 0, 0x60);
    CHECK_EQ(intr_pin_acknowledge(&board->intr), 0x60);
    wr(lapic, LAPIC_EOI, 0);
    CHECK(!isr(lapic, 0x60) && isr(lapic, 0x52));
    wr(lapic, LAPIC_EOI, 0);
    CHECK_EQ(intr_pin_acknowledge(&board->intr), 0x5f);
    wr(lapic, LAPIC_EOI, 0);
    wr(lapic, LAPIC_TPR, 0x4f);
    CHECK_EQ(rd(lapic, LAPIC_PPR), 0x4f);
    CHECK(!intr_pin_level(&board->intr));
    CHECK_EQ(intr_pin_acknowledge(&board->intr), -1);
    CHECK_EQ(lapic_cr8(lapic), 4);
    lapic_set_cr8(lapic, 3);
    CHECK_EQ(rd(lapic, LAPIC_TPR), 0x30);
    CHECK_EQ(intr_pin_acknowledge(&board->intr), 0x41);
    wr(lapic, LAPIC_EOI, 0);
    wr(lapic, LAPIC_EOI, 0); /* nothing in service: nothing happens */
    check_save_restore(lapic_device(lapic));
    device_free(lapic_device(lapic));
    board_free(board);
}

/* The 8259 pair behind LINT0, and straight to the pin without a local APIC. */
static void test_virtual_wire(void)
{
    Board *board = test_board();
    Device *pic = i8259_new(board, board->irqs);
    IrqLine *line = irq_line_new(board->irqs, 1);
    Lapic *lapic = new_lapic(board, 0);
    out8(pic, 0, 0, 0x11), out8(pic, 0, 1, 0x20), out8(pic, 0, 1, 4), out8(pic, 0, 1, 1), out8(pic, 0, 1, 0);
    irq_line_pulse(line);
    CHECK(intr_pin_level(&board->intr));
    msi(board, 0, 0x80);
    CHECK_EQ(intr_pin_acknowledge(&board->intr), 0x80); /* the APIC's own first */
    CHECK_EQ(intr_pin_acknowledge(&board->intr), 0x21); /* whatever its priority */
    CHECK(!intr_pin_level(&board->intr));
    wr(lapic, LAPIC_EOI, 0);
    out8(pic, 0, 0, 0x20);
    wr(lapic, LAPIC_LVT_LINT0, 0x10700);
    irq_line_pulse(line);
    CHECK(!intr_pin_level(&board->intr));
    CHECK(lapic_write_msr(lapic, MSR_IA32_APIC_BASE, 0xfee00100)); /* off: as if it were not there */
    CHECK(intr_pin_level(&board->intr));
    CHECK_EQ(intr_pin_acknowledge(&board->intr), 0x21);
    out8(pic, 0, 0, 0x20);
    device_free(lapic_device(lapic));
    irq_line_pulse(line);
    CHECK_EQ(intr_pin_acknowledge(&board->intr), 0x21);
    device_free(pic);
    CHECK_EQ(intr_pin_acknowledge(&board->intr), -1);
    board_free(board);
}

int main(void)
{
    test_reset_values();
    test_priorities();
    test_virtual_wire();
    return 0;
}
