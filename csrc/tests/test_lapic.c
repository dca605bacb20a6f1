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

/* §11.6.2: who is meant. Three local APICs, one bus. */
static void test_destinations(void)
{
    Board *board = test_board();
    Lapic *lapic[3];
    for (uint32_t id = 0; id < 3; id++) {
        lapic[id] = new_lapic(board, id);
        wr(lapic[id], LAPIC_LDR, 1u << (24 + id));
    }
    CHECK_EQ(lapic_base(lapic[1]), 0xfee00800); /* no bootstrap processor */
    CHECK_EQ(board_msi(board, 0xfee02000, 0x41), 1);
    CHECK(irr(lapic[2], 0x41) && !irr(lapic[0], 0x41) && !irr(lapic[1], 0x41));
    CHECK_EQ(board_msi(board, 0xfeeff000, 0x42), 3); /* broadcast */
    CHECK_EQ(board_msi(board, 0xfee03000, 0x43), 0); /* nobody has that ID */
    CHECK_EQ(board_msi(board, 0xfee05004, 0x44), 2); /* logical, flat: 1 and 4 */
    CHECK(irr(lapic[0], 0x44) && !irr(lapic[1], 0x44) && irr(lapic[2], 0x44));
    /* Cluster model: cluster in the upper four bits, one bit each in the lower. */
    for (uint32_t id = 0; id < 3; id++) {
        wr(lapic[id], LAPIC_DFR, 0x0fffffff);
        wr(lapic[id], LAPIC_LDR, (id == 2 ? 0x21u : 0x10u | 1u << id) << 24);
    }
    CHECK_EQ(board_msi(board, 0xfee13004, 0x45), 2);
    CHECK(irr(lapic[0], 0x45) && irr(lapic[1], 0x45) && !irr(lapic[2], 0x45));
    CHECK_EQ(board_msi(board, 0xfee2f004, 0x46), 1);
    CHECK_EQ(board_msi(board, 0xfeeff004, 0x47), 3);
    /* Lowest priority: the one that does the least urgent work, and equals in turn. */
    wr(lapic[0], LAPIC_TPR, 0x80);
    CHECK_EQ(board_msi(board, 0xfee13004, 0x148), 1);
    CHECK(irr(lapic[1], 0x48) && !irr(lapic[0], 0x48));
    wr(lapic[0], LAPIC_TPR, 0);
    CHECK_EQ(board_msi(board, 0xfee13004, 0x149), 1);
    CHECK_EQ(board_msi(board, 0xfee13004, 0x14a), 1);
    CHECK(irr(lapic[0], 0x49) != irr(lapic[0], 0x4a));
    /* A message to memory is a store. */
    CHECK_EQ(board_msi(board, 0x1000, 1), -EFAULT);
    for (int id = 2; id >= 0; id--)
        device_free(lapic_device(lapic[id]));
    CHECK_EQ(board_msi(board, 0xfee00000, 0x40), -ENODEV);
    board_free(board);
}

typedef struct Seen {
    uint32_t nmi, init, startup;
} Seen;

static void see_nmi(void *seen) { ((Seen *)seen)->nmi++; }
static void see_init(void *seen) { ((Seen *)seen)->init++; }
static void see_startup(void *seen, uint8_t vector) { ((Seen *)seen)->startup = vector; }

/* §11.6.1: shorthands, NMI, INIT and startup; an NMI to the bootstrap processor is the board's. */
static void test_ipis(void)
{
    Board *board = test_board();
    Lapic *first = new_lapic(board, 0), *second = new_lapic(board, 1);
    Seen seen = {0};
    IntrPin pin = {0};
    lapic_connect(second, &(LapicCpu){see_nmi, see_init, see_startup, &seen});
    lapic_set_pin(second, &pin);
    wr(first, LAPIC_ICR_HIGH, 1u << 24);
    wr(first, LAPIC_ICR, 0x00004050);
    CHECK(irr(second, 0x50) && !irr(first, 0x50));
    CHECK(intr_pin_level(&pin) && !intr_pin_level(&board->intr));
    CHECK(!(rd(first, LAPIC_ICR) & 1 << 12)); /* sent */
    CHECK_EQ(lapic_acknowledge(second), 0x50);
    wr(first, LAPIC_ICR, 0x00044051); /* self */
    CHECK(irr(first, 0x51) && !irr(second, 0x51));
    wr(first, LAPIC_ICR, 0x000c4052); /* all but self */
    CHECK(!irr(first, 0x52) && irr(second, 0x52));
    wr(first, LAPIC_ICR, 0x00084053); /* all */
    CHECK(irr(first, 0x53) && irr(second, 0x53));
    wr(first, LAPIC_ICR, 0x000c4400);
    CHECK_EQ(seen.nmi, 1);
    wr(first, LAPIC_ICR, 0x000c4500);
    wr(first, LAPIC_ICR, 0x000c8500); /* de-assert: nothing */
    CHECK_EQ(seen.init, 1);
    wr(first, LAPIC_ICR, 0x000c469a);
    CHECK_EQ(seen.startup, 0x9a);
    CHECK_EQ(board->nmi_pending, 0);
    wr(second, LAPIC_ICR, 0x000c4400);
    CHECK_EQ(board->nmi_pending, 1);
    board_nmi(board); /* LINT1 is masked: straight to the CPU */
    CHECK_EQ(board->nmi_pending, 2);
    wr(first, LAPIC_LVT_LINT1, 0x060); /* a vector on that pin */
    board_nmi(board);
    CHECK(board->nmi_pending == 2 && irr(first, 0x60));
    wr(first, LAPIC_LVT_LINT1, 0x400);
    board_nmi(board);
    CHECK_EQ(board->nmi_pending, 3);
    /* What may not be sent, §11.5.3: an error, and a vector of its own for it. */
    wr(first, LAPIC_LVT_ERROR, 0x70);
    wr(first, LAPIC_ICR, 0x00044008);
    CHECK_EQ(rd(first, LAPIC_ESR), 0); /* shown by a write */
    wr(first, LAPIC_ESR, 0);
    CHECK_EQ(rd(first, LAPIC_ESR), 0x20);
    CHECK(irr(first, 0x70));
    wr(first, LAPIC_ESR, 0);
    CHECK_EQ(rd(first, LAPIC_ESR), 0);
    board_msi(board, 0xfee00000, 0x0f); /* and what may not be received */
    rd(first, 0x3f0);                   /* no register */
    wr(first, LAPIC_ESR, 0);
    CHECK_EQ(rd(first, LAPIC_ESR), 0xc0);
    check_save_restore(lapic_device(first));
    device_free(lapic_device(second));
    device_free(lapic_device(first));
    board_free(board);
}

static bool take(Board *board, Lapic *lapic, int vector)
{
    bool right = intr_pin_acknowledge(&board->intr) == vector;
    wr(lapic, LAPIC_EOI, 0);
    return right && intr_pin_acknowledge(&board->intr) == -1;
}

/* §11.5.4: the count, the divider, one-shot and periodic, masks */
static void test_timer(void)
{
    Board *board = test_board();
    Lapic *lapic = new_lapic(board, 0);
    static const struct {
        uint32_t divide, by;
    } DIVIDERS[] = {{0, 2}, {1, 4}, {2, 8}, {3, 16}, {8, 32}, {9, 64}, {10, 128}, {11, 1}};
    for (size_t i = 0; i < ARRAY_SIZE(DIVIDERS); i++) {
        wr(lapic, LAPIC_TIMER_DIVIDE, DIVIDERS[i].divide);
        wr(lapic, LAPIC_LVT_TIMER, 0x40);
        wr(lapic, LAPIC_TIMER_INITIAL, 1000);
        CHECK_EQ(rd(lapic, LAPIC_TIMER_CURRENT), 1000);
        pass(board, 400ull * DIVIDERS[i].by);
        CHECK_EQ(rd(lapic, LAPIC_TIMER_CURRENT), 600);
        CHECK(!intr_pin_level(&board->intr));
        pass(board, 600ull * DIVIDERS[i].by);
        CHECK_EQ(rd(lapic, LAPIC_TIMER_CURRENT), 0);
        CHECK(take(board, lapic, 0x40));
    }
    pass(board, NS_PER_SECOND);
    CHECK(!intr_pin_level(&board->intr)); /* once */
    wr(lapic, LAPIC_LVT_TIMER, 0x20041);
    wr(lapic, LAPIC_TIMER_INITIAL, 1000000);
    for (int i = 0; i < 3; i++) {
        pass(board, 1000000);
        CHECK(take(board, lapic, 0x41));
    }
    pass(board, 500000);
    CHECK_EQ(rd(lapic, LAPIC_TIMER_CURRENT), 500000);
    wr(lapic, LAPIC_LVT_TIMER, 0x30041); /* masked: it counts on */
    CHECK_EQ(clock_next_deadline(board->clock), CLOCK_NEVER);
    pass(board, 2750000);
    CHECK_EQ(rd(lapic, LAPIC_TIMER_CURRENT), 750000);
    CHECK(!intr_pin_level(&board->intr));
    check_save_restore(lapic_device(lapic));
    wr(lapic, LAPIC_LVT_TIMER, 0x20041);
    pass(board, 749999);
    CHECK(!intr_pin_level(&board->intr));
    pass(board, 1);
    CHECK(take(board, lapic, 0x41));
    wr(lapic, LAPIC_TIMER_DIVIDE, 0); /* half as fast from here on */
    pass(board, 1000000);
    CHECK_EQ(rd(lapic, LAPIC_TIMER_CURRENT), 500000);
    wr(lapic, LAPIC_TIMER_INITIAL, 0); /* stops */
    CHECK_EQ(clock_next_deadline(board->clock), CLOCK_NEVER);
    wr(lapic, LAPIC_TIMER_INITIAL, 1); /* a period of 2 ns does not stop the world */
    pass(board, 1000000);
    CHECK_EQ(intr_pin_acknowledge(&board->intr), 0x41);
    wr(lapic, LAPIC_SVR, 0xff);
    CHECK_EQ(rd(lapic, LAPIC_LVT_TIMER), 0x30041);
    device_free(lapic_device(lapic));
    board_free(board);
}

/* §11.5.4.1 */
static void test_tsc_deadline(void)
{
    Board *board = test_board();
    Lapic *lapic = new_lapic(board, 0);
    uint64_t value;
    board->tsc_hz = 2500000000;
    CHECK(lapic_write_msr(lapic, MSR_IA32_TSC_DEADLINE, 1)); /* without effect in the other modes */
    CHECK(lapic_read_msr(lapic, MSR_IA32_TSC_DEADLINE, &value) && value == 0);
    wr(lapic, LAPIC_LVT_TIMER, 0x40050);
    wr(lapic, LAPIC_TIMER_INITIAL, 1000); /* ignored */
    CHECK_EQ(rd(lapic, LAPIC_TIMER_INITIAL), 0);
    lapic_set_tsc_offset(lapic, 1000000);
    CHECK(lapic_write_msr(lapic, MSR_IA32_TSC_DEADLINE, 1000000 + 2500));
    CHECK(lapic_read_msr(lapic, MSR_IA32_TSC_DEADLINE, &value) && value == 1002500);
    CHECK_EQ(rd(lapic, LAPIC_TIMER_CURRENT), 0);
    pass(board, 999);
    CHECK(!intr_pin_level(&board->intr));
    pass(board, 1);
    CHECK(take(board, lapic, 0x50));
    CHECK(lapic_read_msr(lapic, MSR_IA32_TSC_DEADLINE, &value) && value == 0); /* disarmed by firing */
    CHECK(lapic_write_msr(lapic, MSR_IA32_TSC_DEADLINE, 1));                   /* in the past: at once */
    pass(board, 0);
    CHECK(take(board, lapic, 0x50));
    CHECK(lapic_write_msr(lapic, MSR_IA32_TSC_DEADLINE, 1000000 + 250000));
    lapic_set_tsc_offset(lapic, 1000000 + 125000); /* the guest's TSC was set on */
    pass(board, 50000);
    CHECK(take(board, lapic, 0x50));
    CHECK(lapic_write_msr(lapic, MSR_IA32_TSC_DEADLINE, UINT64_MAX));
    CHECK_EQ(clock_next_deadline(board->clock), CLOCK_NEVER); /* in centuries */
    CHECK(lapic_write_msr(lapic, MSR_IA32_TSC_DEADLINE, 0));
    CHECK(lapic_write_msr(lapic, MSR_IA32_TSC_DEADLINE, 1ull << 40));
    check_save_restore(lapic_device(lapic));
    wr(lapic, LAPIC_LVT_TIMER, 0x50); /* leaving the mode disarms */
    CHECK_EQ(clock_next_deadline(board->clock), CLOCK_NEVER);
    device_free(lapic_device(lapic));
    board_free(board);
}

/* §11.4.3 and figure 11-27: the modes, what is #GP, what is lost; the page comes, moves and goes. */
static void test_base(void)
{
    Board *board = test_board();
    Lapic *lapic = new_lapic(board, 0);
    uint64_t value;
    CHECK(bus_read(board->mmio, 0xfee00030, 4, &value) && (value & 0xff) == 0x14);
    static const uint64_t ILLEGAL[] = {0xfee00500, 0xfee00901, 0xfee00b00, 1ull << 40 | 0xfee00900};
    for (size_t i = 0; i < ARRAY_SIZE(ILLEGAL); i++)
        CHECK(!lapic_write_msr(lapic, MSR_IA32_APIC_BASE, ILLEGAL[i]));
    CHECK(lapic_write_msr(lapic, MSR_IA32_APIC_BASE, 0xd0000900)); /* moved */
    CHECK(!bus_read(board->mmio, 0xfee00030, 4, &value));
    CHECK(bus_read(board->mmio, 0xd0000030, 4, &value) && (value & 0xff) == 0x14);
    CHECK(lapic_write_msr(lapic, MSR_IA32_APIC_BASE, 0xfee00d00)); /* x2APIC */
    CHECK(!bus_read(board->mmio, 0xfee00030, 4, &value));
    CHECK(!lapic_write_msr(lapic, MSR_IA32_APIC_BASE, 0xfee00900)); /* not back */
    check_save_restore(lapic_device(lapic));
    CHECK(lapic_write_msr(lapic, MSR_IA32_APIC_BASE, 0xfee00100)); /* off */
    CHECK(!lapic_is_enabled(lapic));
    CHECK(!lapic_read_msr(lapic, 0x802, &value));
    CHECK_EQ(board_msi(board, 0xfee00000, 0x40), 0);
    CHECK(!lapic_write_msr(lapic, MSR_IA32_APIC_BASE, 0xfee00d00)); /* not at once */
    CHECK(lapic_write_msr(lapic, MSR_IA32_APIC_BASE, 0xfee00900));
    CHECK_EQ(rd(lapic, LAPIC_SVR), 0xff); /* as after reset */
    lapic_allow_x2apic(lapic, false);
    CHECK(!lapic_write_msr(lapic, MSR_IA32_APIC_BASE, 0xfee00d00));
    device_free(lapic_device(lapic));
    board_free(board);
}

/* §11.12: registers as MSRs, what is not there or reserved is #GP. */
static void test_x2apic(void)
{
    Board *board = test_board();
    Lapic *first = new_lapic(board, 0), *lapic = new_lapic(board, 0x25);
    uint64_t value;
    CHECK(!lapic_read_msr(lapic, 0x802, &value)); /* xAPIC mode */
    CHECK(lapic_write_msr(first, MSR_IA32_APIC_BASE, 0xfee00d00));
    CHECK(lapic_write_msr(lapic, MSR_IA32_APIC_BASE, 0xfee00c00));
    CHECK(lapic_read_msr(lapic, 0x802, &value) && value == 0x25);
    CHECK(lapic_read_msr(lapic, 0x80d, &value) && value == 0x20020); /* cluster 2, bit 5 */
    CHECK(lapic_write_msr(lapic, 0x80f, SVR_ON));
    CHECK(lapic_write_msr(first, 0x830, 0x25ull << 32 | 0x4060));
    CHECK(lapic_read_msr(lapic, 0x823, &value) && value == 1); /* IRR 0x60 */
    CHECK(lapic_write_msr(first, 0x830, 0x20020ull << 32 | 0x4861));
    CHECK(lapic_read_msr(lapic, 0x823, &value) && value == 3);
    CHECK(lapic_write_msr(first, 0x830, 0xffffffffull << 32 | 0x4062));
    CHECK(lapic_read_msr(lapic, 0x823, &value) && value == 7);
    CHECK(lapic_write_msr(lapic, 0x83f, 0x63)); /* self IPI */
    CHECK(lapic_read_msr(lapic, 0x823, &value) && value == 15);
    CHECK_EQ(lapic_acknowledge(lapic), 0x63);
    CHECK(!lapic_write_msr(lapic, 0x80b, 1)); /* EOI of other than 0 */
    CHECK(lapic_write_msr(lapic, 0x80b, 0));
    CHECK(lapic_write_msr(lapic, 0x808, 0x50) && lapic_cr8(lapic) == 5);
    CHECK(lapic_write_msr(lapic, 0x835, 0x5700)); /* read-only bits do no harm */
    CHECK(lapic_read_msr(lapic, 0x835, &value) && value == 0x700);
    CHECK(board_msi(board, 0xfee25000, 0x64) == 1 && board_msi(board, 0xfeeff000, 0x65) == 2);
    static const uint32_t UNREADABLE[] = {0x800, 0x809, 0x80b, 0x80c, 0x80e, 0x82f, 0x831, 0x83f, 0x8ff};
    for (size_t i = 0; i < ARRAY_SIZE(UNREADABLE); i++)
        CHECK(!lapic_read_msr(lapic, UNREADABLE[i], &value));
    static const struct {
        uint32_t index;
        uint64_t value;
    } REFUSED[] = {{0x802, 0}, {0x803, 0},  {0x808, 0x100},   {0x80a, 0},       {0x80d, 0},     {0x80f, 0x2ff},
                   {0x810, 0}, {0x828, 1},  {0x830, 1 << 20}, {0x832, 1 << 19}, {0x837, 0x700}, {0x838, 1ull << 32},
                   {0x839, 0}, {0x83e, 16}, {0x83f, 0x100},   {0x831, 0},       {0x80e, 0}};
    for (size_t i = 0; i < ARRAY_SIZE(REFUSED); i++)
        CHECK(!lapic_write_msr(lapic, REFUSED[i].index, REFUSED[i].value));
    check_save_restore(lapic_device(lapic));
    device_free(lapic_device(lapic));
    device_free(lapic_device(first));
    board_free(board);
}

/* What no guest could have left behind is refused. */
static void test_spoiled_state(void)
{
    Board *board = test_board();
    Lapic *lapic = new_lapic(board, 0);
    LapicState good, state;
    device_save(lapic_device(lapic), &good);
    for (int i = 0; i < 6; i++) {
        state = good;
        switch (i) {
        case 0:
            state.apic_base |= 1;
            break;
        case 1:
            state.apic_base &= ~(uint64_t)APIC_BASE_BSP;
            break;
        case 2:
            store_le32(state.regs + LAPIC_IRR, 1);
            break;
        case 3:
            store_le32(state.regs + LAPIC_LVT_TIMER, UINT32_MAX);
            break;
        case 4:
            store_le32(state.regs + LAPIC_TPR, 0x100);
            break;
        case 5:
            state.errors = 0x100;
        }
        CHECK_EQ(device_restore(lapic_device(lapic), &state), -EINVAL);
    }
    CHECK_EQ(device_restore(lapic_device(lapic), &good), 0);
    device_free(lapic_device(lapic));
    board_free(board);
}

int main(void)
{
    RUN(test_reset_values);
    RUN(test_priorities);
    RUN(test_virtual_wire);
    RUN(test_destinations);
    RUN(test_ipis);
    RUN(test_timer);
    RUN(test_tsc_deadline);
    RUN(test_base);
    RUN(test_x2apic);
    RUN(test_spoiled_state);
    return 0;
}
