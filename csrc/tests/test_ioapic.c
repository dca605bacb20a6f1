/* The I/O APIC from the 82093AA datasheet: redirection, edge and level, remote IRR, masks, and EOI by both ways. */
#include "device_check.h"
#include "irq/ioapic.h"
#include "irq/lapic.h"

enum { LEVEL = 1 << 15, REMOTE_IRR = 1 << 14, MASKED = 1 << 16 };

typedef struct Bench {
    Board *board;
    Lapic *lapic;
    Device *ioapic;
} Bench;

static Bench bench_new(void)
{
    Error error = {0};
    Bench bench = {.board = test_board()};
    bench.lapic = lapic_new(bench.board, 0, &error);
    bench.ioapic = ioapic_new(bench.board, bench.board->irqs, 2, &error);
    CHECK(bench.lapic && bench.ioapic);
    device_write(lapic_device(bench.lapic), 0, LAPIC_SVR, 4, 0x1ff);
    return bench;
}

static void bench_free(Bench *bench)
{
    device_free(bench->ioapic);
    device_free(lapic_device(bench->lapic));
    board_free(bench->board);
}

static uint32_t rd(Bench *bench, uint8_t index)
{
    device_write(bench->ioapic, 0, IOAPIC_REGSEL, 4, index);
    return (uint32_t)device_read(bench->ioapic, 0, IOAPIC_WINDOW, 4);
}

static void wr(Bench *bench, uint8_t index, uint32_t value)
{
    device_write(bench->ioapic, 0, IOAPIC_REGSEL, 4, index);
    device_write(bench->ioapic, 0, IOAPIC_WINDOW, 4, value);
}

static void route(Bench *bench, uint32_t pin, uint32_t low)
{
    wr(bench, (uint8_t)(IOAPIC_INDEX_TABLE + 2 * pin + 1), 0);
    wr(bench, (uint8_t)(IOAPIC_INDEX_TABLE + 2 * pin), low);
}

static uint32_t entry(Bench *bench, uint32_t pin) { return rd(bench, (uint8_t)(IOAPIC_INDEX_TABLE + 2 * pin)); }

static int acknowledge(Bench *bench) { return intr_pin_acknowledge(&bench->board->intr); }

static void eoi(Bench *bench) { device_write(lapic_device(bench->lapic), 0, LAPIC_EOI, 4, 0); }

/* §3.2: after reset every input is masked. */
static void test_registers(void)
{
    Bench bench = bench_new();
    CHECK_EQ(rd(&bench, IOAPIC_INDEX_VERSION), 0x00170020);
    wr(&bench, IOAPIC_INDEX_VERSION, 0);
    CHECK_EQ(rd(&bench, IOAPIC_INDEX_VERSION), 0x00170020);
    wr(&bench, IOAPIC_INDEX_ID, UINT32_MAX);
    CHECK_EQ(rd(&bench, IOAPIC_INDEX_ID), 0x0f000000);
    CHECK_EQ(rd(&bench, IOAPIC_INDEX_ARBITRATION), 0x0f000000);
    for (uint32_t pin = 0; pin < IOAPIC_PINS; pin++)
        CHECK_EQ(entry(&bench, pin), MASKED);
    wr(&bench, IOAPIC_INDEX_TABLE, UINT32_MAX);
    CHECK_EQ(entry(&bench, 0), 0x1afff); /* delivery status and remote IRR are read-only */
    wr(&bench, IOAPIC_INDEX_TABLE + 1, UINT32_MAX);
    CHECK_EQ(rd(&bench, IOAPIC_INDEX_TABLE + 1), 0xff000000);
    CHECK_EQ(rd(&bench, 0x40), 0); /* no such register */
    wr(&bench, 0xff, 1);
    check_save_restore(bench.ioapic);
    bench_free(&bench);
}

static void test_edge(void)
{
    Bench bench = bench_new();
    IrqLine *line = irq_line_new(bench.board->irqs, 4), *timer = irq_line_new(bench.board->irqs, 0);
    IrqLine *cascade = irq_line_new(bench.board->irqs, 2);
    irq_line_pulse(line);
    route(&bench, 4, 0x44); /* an edge on a masked input is lost */
    CHECK_EQ(acknowledge(&bench), -1);
    irq_line_set(line, true);
    CHECK_EQ(acknowledge(&bench), 0x44);
    eoi(&bench);
    CHECK_EQ(acknowledge(&bench), -1); /* the level stays: no new edge */
    CHECK_EQ(entry(&bench, 4), 0x44);
    irq_line_set(line, false);
    irq_line_set(line, true);
    CHECK_EQ(acknowledge(&bench), 0x44);
    eoi(&bench);
    route(&bench, 2, 0x42);
    irq_line_pulse(cascade); /* GSI 2 is nothing here */
    CHECK_EQ(acknowledge(&bench), -1);
    irq_line_pulse(timer); /* ISA IRQ 0 is on input 2 */
    CHECK_EQ(acknowledge(&bench), 0x42);
    bench_free(&bench);
}

static void test_level(void)
{
    Bench bench = bench_new();
    IrqLine *line = irq_line_new(bench.board->irqs, 10), *other = irq_line_new(bench.board->irqs, 10);
    irq_line_set(line, true);
    route(&bench, 10, LEVEL | 1 << 13 | 0x5a); /* asserted while masked: now it comes; polarity changes nothing */
    CHECK(entry(&bench, 10) & REMOTE_IRR);
    CHECK_EQ(acknowledge(&bench), 0x5a);
    irq_line_set(other, true); /* the input is up already */
    CHECK_EQ(acknowledge(&bench), -1);
    irq_line_set(line, false);
    eoi(&bench); /* the other still asks */
    CHECK_EQ(acknowledge(&bench), 0x5a);
    irq_line_set(other, false);
    eoi(&bench);
    CHECK(!(entry(&bench, 10) & REMOTE_IRR));
    CHECK_EQ(acknowledge(&bench), -1);
    check_save_restore(bench.ioapic);
    /* A mask holds it back, and lets it go on. */
    route(&bench, 10, MASKED | LEVEL | 0x5a);
    irq_line_set(line, true);
    CHECK_EQ(acknowledge(&bench), -1);
    route(&bench, 10, LEVEL | 0x5a);
    CHECK_EQ(acknowledge(&bench), 0x5a);
    /* EOI with its broadcast suppressed (SDM 3A §11.8.5), then by the I/O APIC's own register. */
    device_write(lapic_device(bench.lapic), 0, LAPIC_SVR, 4, 0x11ff);
    eoi(&bench);
    CHECK(entry(&bench, 10) & REMOTE_IRR);
    CHECK_EQ(acknowledge(&bench), -1);
    device_write(bench.ioapic, 0, IOAPIC_EOI, 4, 0x5b); /* another vector's */
    CHECK_EQ(acknowledge(&bench), -1);
    device_write(bench.ioapic, 0, IOAPIC_EOI, 4, 0x5a);
    CHECK_EQ(acknowledge(&bench), 0x5a);
    /* By turning the entry to edge and back. */
    irq_line_set(line, false);
    route(&bench, 10, MASKED | 0x5a);
    CHECK(!(entry(&bench, 10) & REMOTE_IRR));
    /* Nobody there to take it: remote IRR stays clear, and it is tried again when the entry is written. */
    device_write(lapic_device(bench.lapic), 0, LAPIC_SVR, 4, 0xff);
    irq_line_set(line, true);
    route(&bench, 10, LEVEL | 0x5a);
    CHECK(!(entry(&bench, 10) & REMOTE_IRR));
    bench_free(&bench);
}

static void test_modes(void)
{
    Bench bench = bench_new();
    IrqLine *line = irq_line_new(bench.board->irqs, 5);
    route(&bench, 5, LEVEL | 0x400); /* an NMI is an edge whatever the entry says */
    irq_line_set(line, true);
    CHECK_EQ(bench.board->nmi_pending, 1);
    CHECK(!(entry(&bench, 5) & REMOTE_IRR));
    device_write(lapic_device(bench.lapic), 0, LAPIC_LDR, 4, 4u << 24);
    wr(&bench, IOAPIC_INDEX_TABLE + 11, 6u << 24);
    irq_line_set(line, false);
    wr(&bench, IOAPIC_INDEX_TABLE + 10, 0x966); /* logical, lowest priority */
    irq_line_set(line, true);
    CHECK_EQ(acknowledge(&bench), 0x66);
    IoApicState state;
    device_save(bench.ioapic, &state);
    state.redirection[3] = 1ull << 20;
    CHECK_EQ(device_restore(bench.ioapic, &state), -EINVAL);
    bench_free(&bench);
}

int main(void)
{
    RUN(test_registers);
    RUN(test_edge);
    RUN(test_level);
    RUN(test_modes);
    return 0;
}
