/*
 * The local APIC once more, written from the Intel SDM 3A chapter 11 by who did not write the device: errors,
 * priorities, software disable, the timer's modes, and what the local pins do. x2APIC and messages are in
 * test_apic_messages.c, the I/O APIC and MSI-X in test_apic_wires.c.
 */
#include "apic_check.h"

/* §11.5.3: ESR shows by a write what was found since the one before; its interrupt comes once per write. */
static void test_errors(void)
{
    Board *board = test_board();
    Lapic *lapic = make_lapic(board, 0);
    set_reg(lapic, LAPIC_LVT_ERROR, 0xe0);
    for (uint32_t vector = 0; vector < 16; vector++) {
        set_reg(lapic, LAPIC_ICR, ICR_SELF | ICR_ASSERTED | vector);
        CHECK_EQ(reg(lapic, LAPIC_ESR), vector ? 0x20 : 0); /* what the last write showed */
        CHECK_EQ(serve(board, lapic), 0xe0);
        set_reg(lapic, LAPIC_ICR, ICR_SELF | ICR_ASSERTED | vector);
        CHECK_EQ(serve(board, lapic), -1); /* not again before ESR is written */
        CHECK_EQ(errors(lapic), 0x20);
        if (vector == 15)
            CHECK_EQ(errors(lapic), 0);
    }
    /* Received, and generated here by an entry of the table. */
    CHECK_EQ(board_msi(board, 0xfee00000, 5), 0);
    CHECK_EQ(errors(lapic), 0x40);
    CHECK_EQ(serve(board, lapic), 0xe0);
    set_reg(lapic, LAPIC_LVT_TIMER, 0x0e);
    set_reg(lapic, LAPIC_TIMER_INITIAL, 10);
    pass(board, 100);
    CHECK_EQ(errors(lapic), 0x40);
    CHECK_EQ(serve(board, lapic), 0xe0);
    for (uint32_t word = 0; word < 8; word++)
        CHECK_EQ(reg(lapic, LAPIC_IRR + 16 * word), 0);
    /* Holes in the page: a read and a write each are an error; the write-only and read-only ones are not. */
    static const uint32_t HOLES[] = {0x00, 0x10, 0x40, 0x70, 0x290, 0x2f0, 0x3a0, 0x3d0, 0x3f0, 0x400, 0xff0};
    for (size_t i = 0; i < ARRAY_SIZE(HOLES); i++) {
        CHECK_EQ(reg(lapic, HOLES[i]), 0);
        CHECK_EQ(errors(lapic), 0x80);
        set_reg(lapic, HOLES[i], UINT32_MAX);
        CHECK_EQ(errors(lapic), 0x80);
    }
    static const uint32_t READ_ONLY[] = {LAPIC_VERSION, LAPIC_PPR, LAPIC_ISR,
                                         LAPIC_TMR,     LAPIC_IRR, LAPIC_TIMER_CURRENT};
    for (size_t i = 0; i < ARRAY_SIZE(READ_ONLY); i++) {
        uint32_t before = reg(lapic, READ_ONLY[i]);
        set_reg(lapic, READ_ONLY[i], ~before);
        CHECK_EQ(reg(lapic, READ_ONLY[i]), before);
        CHECK_EQ(errors(lapic), 0);
    }
    /* An error's own entry may be illegal too, and is masked as others are. */
    while (serve(board, lapic) >= 0)
        continue;
    set_reg(lapic, LAPIC_LVT_ERROR, 0x03);
    set_reg(lapic, LAPIC_ICR, ICR_SELF | ICR_ASSERTED);
    CHECK_EQ(errors(lapic), 0x60);
    set_reg(lapic, LAPIC_LVT_ERROR, LVT_MASK | 0xe0);
    set_reg(lapic, LAPIC_ICR, ICR_SELF | ICR_ASSERTED);
    CHECK_EQ(serve(board, lapic), -1);
    CHECK_EQ(errors(lapic), 0x20); /* collected all the same */
    drop_lapic(lapic);
    board_free(board);
}

/* §11.8.3.1: every class of TPR against every class in service. */
static void test_processor_priority(void)
{
    Board *board = test_board();
    Lapic *lapic = make_lapic(board, 0);
    for (uint32_t serving = 0; serving < 16; serving++) {
        uint8_t vector = (uint8_t)(serving << 4 | 5);
        if (serving) {
            CHECK_EQ(board_msi(board, 0xfee00000, vector), 1);
            CHECK_EQ(intr_pin_acknowledge(&board->intr), vector);
        }
        for (uint32_t tpr = 0; tpr < 256; tpr++) {
            set_reg(lapic, LAPIC_TPR, tpr);
            uint32_t ppr = reg(lapic, LAPIC_PPR);
            CHECK_EQ(ppr >> 4, MAX(tpr >> 4, serving));
            if (tpr >> 4 > serving)
                CHECK_EQ(ppr & 15, tpr & 15);
            if (tpr >> 4 < serving)
                CHECK_EQ(ppr & 15, 0);
            CHECK_EQ(lapic_cr8(lapic), tpr >> 4);
        }
        set_reg(lapic, LAPIC_TPR, 0);
        if (serving)
            set_reg(lapic, LAPIC_EOI, 0);
    }
    /* A class is taken when it is above PPR's; class 15 of TPR holds all of them back. */
    for (uint32_t vector = 16; vector < 256; vector++)
        for (uint32_t class = 0; class < 16; class ++) {
            set_reg(lapic, LAPIC_TPR, class << 4);
            board_msi(board, 0xfee00000, vector);
            bool taken = vector >> 4 > class;
            CHECK_EQ(intr_pin_level(&board->intr), taken);
            CHECK_EQ(intr_pin_acknowledge(&board->intr), taken ? (int)vector : -1);
            set_reg(lapic, LAPIC_TPR, 0);
            CHECK_EQ(intr_pin_level(&board->intr), !taken);
            CHECK_EQ(intr_pin_acknowledge(&board->intr), taken ? -1 : (int)vector);
            set_reg(lapic, LAPIC_EOI, 0);
        }
    drop_lapic(lapic);
    board_free(board);
}

/* §11.8.4: of each vector one in service and one that waits; more are lost. EOI ends the highest in service. */
static void test_nesting(void)
{
    Board *board = test_board();
    Lapic *lapic = make_lapic(board, 0);
    for (int i = 0; i < 4; i++) {
        CHECK_EQ(board_msi(board, 0xfee00000, 0x33), 1);
        if (i == 0)
            CHECK_EQ(intr_pin_acknowledge(&board->intr), 0x33);
    }
    CHECK(has_bit(lapic, LAPIC_ISR, 0x33) && has_bit(lapic, LAPIC_IRR, 0x33));
    set_reg(lapic, LAPIC_EOI, 0);
    CHECK_EQ(serve(board, lapic), 0x33);
    CHECK_EQ(serve(board, lapic), -1);
    static const uint8_t RISING[] = {0x1f, 0x20, 0x31, 0x4e, 0x80, 0xff};
    for (size_t i = 0; i < ARRAY_SIZE(RISING); i++) {
        board_msi(board, 0xfee00000, RISING[i]);
        CHECK_EQ(intr_pin_acknowledge(&board->intr), RISING[i]);
    }
    for (size_t i = ARRAY_SIZE(RISING); i-- > 0;) {
        CHECK_EQ(reg(lapic, LAPIC_PPR), RISING[i] & 0xf0);
        set_reg(lapic, LAPIC_EOI, 0);
        CHECK(!has_bit(lapic, LAPIC_ISR, RISING[i]));
    }
    CHECK_EQ(reg(lapic, LAPIC_PPR), 0);
    /* TMR tells level from edge, from the last acceptance on; level needs assert. */
    CHECK_EQ(board_msi(board, 0xfee00000, 0xc041), 1);
    CHECK(has_bit(lapic, LAPIC_TMR, 0x41));
    CHECK_EQ(board_msi(board, 0xfee00000, 0x8042), 0);
    CHECK(!has_bit(lapic, LAPIC_IRR, 0x42));
    CHECK_EQ(board_msi(board, 0xfee00000, 0x4041), 1);
    CHECK(!has_bit(lapic, LAPIC_TMR, 0x41));
    check_save_restore(lapic_device(lapic));
    CHECK_EQ(serve(board, lapic), 0x41);
    drop_lapic(lapic);
    board_free(board);
}

/* §11.4.7.2: what software disable masks, keeps and lets through. */
static void test_software_disable(void)
{
    Board *board = test_board();
    Lapic *lapic = make_lapic(board, 0);
    board_msi(board, 0xfee00000, 0x41);
    board_msi(board, 0xfee00000, 0x52);
    CHECK_EQ(intr_pin_acknowledge(&board->intr), 0x52);
    set_reg(lapic, LAPIC_LVT_TIMER, LVT_IS_PERIODIC | 0x61);
    set_reg(lapic, LAPIC_TIMER_INITIAL, 1000000);
    for (uint32_t lvt = LAPIC_LVT_THERMAL; lvt <= LAPIC_LVT_ERROR; lvt += 16)
        set_reg(lapic, lvt, 0x62);
    set_reg(lapic, LAPIC_SVR, 0xff);
    for (uint32_t lvt = LAPIC_LVT_TIMER; lvt <= LAPIC_LVT_ERROR; lvt += 16) {
        CHECK(reg(lapic, lvt) & LVT_MASK);
        set_reg(lapic, lvt, reg(lapic, lvt) & ~(uint32_t)LVT_MASK);
        CHECK(reg(lapic, lvt) & LVT_MASK); /* attempts to clear it are ignored */
    }
    CHECK_EQ(board_msi(board, 0xfee00000, 0x70), 0);
    set_reg(lapic, LAPIC_ICR, ICR_SELF | ICR_ASSERTED | 0x71); /* sent, and accepted by nobody */
    pass(board, 3000000);
    CHECK(!has_bit(lapic, LAPIC_IRR, 0x61) && !has_bit(lapic, LAPIC_IRR, 0x71));
    /* IRR and ISR are held, and the CPU may take what is there. */
    CHECK(has_bit(lapic, LAPIC_ISR, 0x52) && has_bit(lapic, LAPIC_IRR, 0x41));
    set_reg(lapic, LAPIC_EOI, 0);
    CHECK_EQ(serve(board, lapic), 0x41);
    CHECK_EQ(board->nmi_pending, 0);
    CHECK_EQ(board_msi(board, 0xfee00000, 0x400), 1); /* NMI, INIT and startup come through */
    CHECK_EQ(board->nmi_pending, 1);
    set_reg(lapic, LAPIC_SVR, SVR_ON);
    for (uint32_t lvt = LAPIC_LVT_TIMER; lvt <= LAPIC_LVT_ERROR; lvt += 16)
        CHECK(reg(lapic, lvt) & LVT_MASK); /* software unmasks, nobody else */
    set_reg(lapic, LAPIC_LVT_TIMER, LVT_IS_PERIODIC | 0x61);
    pass(board, 1000000);
    CHECK_EQ(serve(board, lapic), 0x61);
    drop_lapic(lapic);
    board_free(board);
}

/* §11.5.4: the count register in its modes, at its edges. */
static void test_timer_modes(void)
{
    Board *board = test_board();
    Lapic *lapic = make_lapic(board, 0);
    set_reg(lapic, LAPIC_TIMER_DIVIDE, 0xb);
    CHECK_EQ(reg(lapic, LAPIC_TIMER_CURRENT), 0);
    /* One-shot: a new count before the end replaces the old, and each fires once. */
    set_reg(lapic, LAPIC_LVT_TIMER, 0x50);
    set_reg(lapic, LAPIC_TIMER_INITIAL, 1000);
    pass(board, 999);
    CHECK_EQ(reg(lapic, LAPIC_TIMER_CURRENT), 1);
    set_reg(lapic, LAPIC_TIMER_INITIAL, 5000);
    pass(board, 4999);
    CHECK_EQ(serve(board, lapic), -1);
    pass(board, 1);
    CHECK_EQ(serve(board, lapic), 0x50);
    CHECK_EQ(reg(lapic, LAPIC_TIMER_CURRENT), 0);
    CHECK_EQ(reg(lapic, LAPIC_TIMER_INITIAL), 5000);
    pass(board, 100000);
    CHECK_EQ(serve(board, lapic), -1);
    set_reg(lapic, LAPIC_TIMER_INITIAL, 5000); /* the same value arms again */
    pass(board, 5000);
    CHECK_EQ(serve(board, lapic), 0x50);
    /* While the entry is masked it counts, and what ran out then is not made up for. */
    set_reg(lapic, LAPIC_LVT_TIMER, LVT_MASK | 0x50);
    set_reg(lapic, LAPIC_TIMER_INITIAL, 1000);
    pass(board, 400);
    CHECK_EQ(reg(lapic, LAPIC_TIMER_CURRENT), 600);
    pass(board, 700);
    set_reg(lapic, LAPIC_LVT_TIMER, 0x50);
    pass(board, 100000);
    CHECK_EQ(serve(board, lapic), -1);
    /* A change between one-shot and periodic does not disturb the count that runs. */
    set_reg(lapic, LAPIC_TIMER_INITIAL, 50000);
    pass(board, 20000);
    set_reg(lapic, LAPIC_LVT_TIMER, LVT_IS_PERIODIC | 0x51);
    CHECK_EQ(reg(lapic, LAPIC_TIMER_CURRENT), 30000);
    for (int i = 0; i < 3; i++) {
        pass(board, i ? 50000 : 30000);
        CHECK_EQ(serve(board, lapic), 0x51);
    }
    pass(board, 10000);
    set_reg(lapic, LAPIC_LVT_TIMER, 0x52);
    pass(board, 40000);
    CHECK_EQ(serve(board, lapic), 0x52);
    pass(board, 200000);
    CHECK_EQ(serve(board, lapic), -1);
    /* The largest count by the largest divider: nine minutes, to the tick. */
    set_reg(lapic, LAPIC_TIMER_DIVIDE, 0xa);
    set_reg(lapic, LAPIC_TIMER_INITIAL, UINT32_MAX);
    pass(board, 128ull * UINT32_MAX - 1);
    CHECK_EQ(reg(lapic, LAPIC_TIMER_CURRENT), 1);
    CHECK_EQ(serve(board, lapic), -1);
    pass(board, 1);
    CHECK_EQ(serve(board, lapic), 0x52);
    set_reg(lapic, LAPIC_TIMER_DIVIDE, UINT32_MAX); /* reserved bits */
    CHECK_EQ(reg(lapic, LAPIC_TIMER_DIVIDE), 0xb);
    drop_lapic(lapic);
    board_free(board);
}

/* §11.5.4: the state in the middle of a count, put back later, goes on as if nothing had been. */
static void test_timer_state(void)
{
    for (int periodic = 0; periodic < 2; periodic++) {
        Board *board = test_board();
        Lapic *lapic = make_lapic(board, 0);
        LapicState state;
        set_reg(lapic, LAPIC_TIMER_DIVIDE, 3); /* by 16 */
        set_reg(lapic, LAPIC_LVT_TIMER, (periodic ? LVT_IS_PERIODIC : 0) | 0x50u);
        set_reg(lapic, LAPIC_TIMER_INITIAL, 10000);
        pass(board, 60000);
        device_save(lapic_device(lapic), &state);
        CHECK_EQ(load_le32(state.regs + LAPIC_TIMER_CURRENT), 10000 - 60000 / 16);
        device_reset(lapic_device(lapic));
        CHECK_EQ(clock_next_deadline(board->clock), CLOCK_NEVER);
        CHECK_EQ(device_restore(lapic_device(lapic), &state), 0);
        pass(board, 99999);
        CHECK_EQ(serve(board, lapic), -1);
        pass(board, 1);
        CHECK_EQ(serve(board, lapic), 0x50);
        pass(board, 160000);
        CHECK_EQ(serve(board, lapic), periodic ? 0x50 : -1);
        drop_lapic(lapic);
        board_free(board);
    }
}

/* §11.5.4.1 */
static void test_deadline(void)
{
    Board *board = test_board();
    Lapic *lapic = make_lapic(board, 0);
    board->tsc_hz = NS_PER_SECOND;
    set_reg(lapic, LAPIC_LVT_TIMER, 0x50);
    set_reg(lapic, LAPIC_TIMER_INITIAL, 1000);
    set_reg(lapic, LAPIC_LVT_TIMER, LVT_IS_DEADLINE | 0x50); /* disarms the count */
    pass(board, 5000);
    CHECK_EQ(serve(board, lapic), -1);
    CHECK_EQ(reg(lapic, LAPIC_TIMER_CURRENT), 0);
    CHECK(lapic_write_msr(lapic, MSR_IA32_TSC_DEADLINE, 6000));
    CHECK(lapic_write_msr(lapic, MSR_IA32_TSC_DEADLINE, 0)); /* 0 disarms */
    pass(board, 5000);
    CHECK_EQ(serve(board, lapic), -1);
    CHECK(lapic_write_msr(lapic, MSR_IA32_TSC_DEADLINE, 20000));
    CHECK(lapic_write_msr(lapic, MSR_IA32_TSC_DEADLINE, 12000)); /* the last one counts */
    pass(board, 2000);
    CHECK_EQ(serve(board, lapic), 0x50);
    CHECK_EQ(msr(lapic, MSR_IA32_TSC_DEADLINE), 0);
    pass(board, 20000);
    CHECK_EQ(serve(board, lapic), -1);
    CHECK(lapic_write_msr(lapic, MSR_IA32_TSC_DEADLINE, 30000)); /* in the past: at once */
    pass(board, 0);
    CHECK_EQ(serve(board, lapic), 0x50);
    /* Masked: it expires, and the register reads 0; unmasked later it is silent. */
    uint64_t now = clock_now(board->clock);
    set_reg(lapic, LAPIC_LVT_TIMER, LVT_MASK | LVT_IS_DEADLINE | 0x50);
    CHECK(lapic_write_msr(lapic, MSR_IA32_TSC_DEADLINE, now + 1000));
    CHECK_EQ(msr(lapic, MSR_IA32_TSC_DEADLINE), now + 1000);
    pass(board, 1000);
    CHECK_EQ(msr(lapic, MSR_IA32_TSC_DEADLINE), 0);
    lapic_set_tsc_offset(lapic, 1);
    CHECK(lapic_write_msr(lapic, MSR_IA32_TSC_DEADLINE, now + 2000));
    pass(board, 2000);
    lapic_set_tsc_offset(lapic, 0 - now); /* a TSC that is set back does not make it come again */
    set_reg(lapic, LAPIC_LVT_TIMER, LVT_IS_DEADLINE | 0x50);
    pass(board, now + 100000);
    CHECK_EQ(serve(board, lapic), -1);
    lapic_set_tsc_offset(lapic, 0);
    /* A mask that comes and goes before its time does not disarm; another mode does, and back is another change. */
    now = clock_now(board->clock);
    CHECK(lapic_write_msr(lapic, MSR_IA32_TSC_DEADLINE, now + 5000));
    set_reg(lapic, LAPIC_LVT_TIMER, LVT_MASK | LVT_IS_DEADLINE | 0x50);
    set_reg(lapic, LAPIC_LVT_TIMER, LVT_IS_DEADLINE | 0x53);
    LapicState state;
    device_save(lapic_device(lapic), &state);
    device_reset(lapic_device(lapic));
    CHECK_EQ(device_restore(lapic_device(lapic), &state), 0);
    pass(board, 4999);
    CHECK_EQ(serve(board, lapic), -1);
    pass(board, 1);
    CHECK_EQ(serve(board, lapic), 0x53);
    CHECK(lapic_write_msr(lapic, MSR_IA32_TSC_DEADLINE, now + 50000));
    set_reg(lapic, LAPIC_LVT_TIMER, LVT_IS_PERIODIC | 0x50);
    set_reg(lapic, LAPIC_LVT_TIMER, LVT_IS_DEADLINE | 0x50);
    CHECK_EQ(msr(lapic, MSR_IA32_TSC_DEADLINE), 0);
    pass(board, 100000);
    CHECK_EQ(serve(board, lapic), -1);
    drop_lapic(lapic);
    board_free(board);
}

/* §11.5.1: LINT0 by its delivery mode: ExtINT chains the 8259 pair, the others are this APIC's own. */
static void test_lint0(void)
{
    Board *board = test_board();
    Device *pic = i8259_new(board, board->irqs);
    IrqLine *line = irq_line_new(board->irqs, 3);
    Lapic *lapic = make_lapic(board, 0);
    out8(pic, 0, 0, 0x11), out8(pic, 0, 1, 0x20), out8(pic, 0, 1, 4), out8(pic, 0, 1, 1), out8(pic, 0, 1, 0);
    set_reg(lapic, LAPIC_TPR, 0xff); /* no priority holds ExtINT back */
    irq_line_pulse(line);
    CHECK_EQ(intr_pin_acknowledge(&board->intr), 0x23);
    for (uint32_t word = 0; word < 8; word++)
        CHECK_EQ(reg(lapic, LAPIC_ISR + 16 * word), 0); /* nor does it need this APIC's EOI */
    out8(pic, 0, 0, 0x20);
    set_reg(lapic, LAPIC_TPR, 0);
    /* Fixed and edge: each rise of the pair's output is this vector. The pair is asked by nobody. */
    set_reg(lapic, LAPIC_LVT_LINT0, 0x77);
    irq_line_pulse(line);
    CHECK_EQ(serve(board, lapic), 0x77);
    CHECK_EQ(serve(board, lapic), -1); /* the output is still up: no rise */
    out8(pic, 0, 0, 0x0c);             /* poll: acknowledged */
    CHECK_EQ(in8(pic, 0, 0), 0x83);
    out8(pic, 0, 0, 0x20);
    irq_line_pulse(line);
    CHECK_EQ(serve(board, lapic), 0x77);
    /* Level: as long as the output is up, each after the EOI of the one before, which remote IRR shows. */
    set_reg(lapic, LAPIC_LVT_LINT0, RTE_LEVEL | 0x78);
    CHECK_EQ(intr_pin_acknowledge(&board->intr), 0x78);
    CHECK(reg(lapic, LAPIC_LVT_LINT0) & RTE_IRR);
    CHECK(has_bit(lapic, LAPIC_TMR, 0x78));
    CHECK_EQ(intr_pin_acknowledge(&board->intr), -1);
    check_save_restore(lapic_device(lapic));
    set_reg(lapic, LAPIC_EOI, 0);
    CHECK_EQ(intr_pin_acknowledge(&board->intr), 0x78);
    out8(pic, 0, 0, 0x0c);
    CHECK_EQ(in8(pic, 0, 0), 0x83);
    out8(pic, 0, 0, 0x20);
    set_reg(lapic, LAPIC_EOI, 0);
    CHECK_EQ(intr_pin_acknowledge(&board->intr), -1);
    CHECK(!(reg(lapic, LAPIC_LVT_LINT0) & RTE_IRR));
    /* NMI, an edge whatever the trigger mode says. */
    set_reg(lapic, LAPIC_LVT_LINT0, RTE_LEVEL | 0x400);
    irq_line_pulse(line);
    CHECK_EQ(board->nmi_pending, 1);
    CHECK_EQ(intr_pin_acknowledge(&board->intr), -1);
    set_reg(lapic, LAPIC_LVT_LINT0, 0x700); /* back on the virtual wire: the level asks */
    CHECK_EQ(intr_pin_acknowledge(&board->intr), 0x23);
    drop_lapic(lapic);
    device_free(pic);
    board_free(board);
}

/* §11.4.1: 32 bits, aligned on 16 bytes; whatever else is done must leave registers as they were. */
static void test_access_sizes(void)
{
    Board *board = test_board();
    Lapic *lapic = make_lapic(board, 0);
    Device *device = lapic_device(lapic);
    LapicState before, after;
    set_reg(lapic, LAPIC_TPR, 0x30);
    device_save(device, &before);
    for (uint32_t offset = LAPIC_ID; offset <= LAPIC_TIMER_DIVIDE; offset++)
        for (uint32_t size = 1; size <= 8; size *= 2)
            if (offset % 16 || size != 4)
                device_write(device, 0, offset, size, UINT64_MAX);
    device_save(device, &after);
    before.errors = after.errors = 0;
    CHECK(!memcmp(&before, &after, sizeof before));
    CHECK_EQ(device_read(device, 0, LAPIC_VERSION, 1), 0x14);
    CHECK_EQ(device_read(device, 0, LAPIC_VERSION + 2, 1), 5);
    CHECK_EQ(device_read(device, 0, LAPIC_VERSION, 8), 0x01050014);
    CHECK_EQ(device_read(device, 0, LAPIC_VERSION + 8, 4), 0);
    drop_lapic(lapic);
    board_free(board);
}

int main(void)
{
    RUN(test_errors);
    RUN(test_processor_priority);
    RUN(test_nesting);
    RUN(test_software_disable);
    RUN(test_timer_modes);
    RUN(test_timer_state);
    RUN(test_deadline);
    RUN(test_lint0);
    RUN(test_access_sizes);
    return 0;
}
