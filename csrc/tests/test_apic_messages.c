/*
 * Messages between local APICs, written from the Intel SDM 3A §11.6, §11.11 and §11.12 by who did not write the
 * device: destinations, delivery modes, x2APIC's registers, the modes of IA32_APIC_BASE, and MSI.
 */
#include "apic_check.h"

enum { COUNT = 4, X2APIC_ON = APIC_BASE_ENABLE | APIC_BASE_EXTD };

typedef struct Heard {
    uint32_t nmi, init, startup, page;
} Heard;

static void hear_nmi(void *heard) { ((Heard *)heard)->nmi++; }
static void hear_init(void *heard) { ((Heard *)heard)->init++; }

static void hear_startup(void *heard, uint8_t page)
{
    ((Heard *)heard)->startup++;
    ((Heard *)heard)->page = page;
}

typedef struct Bench {
    Board *board;
    Lapic *lapic[COUNT];
    Heard heard[COUNT];
} Bench;

static void bench_make(Bench *bench)
{
    *bench = (Bench){.board = test_board()};
    for (uint32_t id = 0; id < COUNT; id++) {
        bench->lapic[id] = make_lapic(bench->board, id);
        lapic_connect(bench->lapic[id], &(LapicCpu){hear_nmi, hear_init, hear_startup, &bench->heard[id]});
    }
}

static void bench_drop(Bench *bench)
{
    for (uint32_t id = COUNT; id-- > 0;)
        drop_lapic(bench->lapic[id]);
    board_free(bench->board);
}

/* Bit n: number n has that vector pending. Takes it away. */
static uint32_t who(Bench *bench, uint8_t vector)
{
    uint32_t mask = 0;
    for (uint32_t id = 0; id < COUNT; id++)
        if (has_bit(bench->lapic[id], LAPIC_IRR, vector)) {
            mask |= 1u << id;
            CHECK_EQ(lapic_acknowledge(bench->lapic[id]), vector);
            if (lapic_base(bench->lapic[id]) & APIC_BASE_EXTD)
                CHECK(lapic_write_msr(bench->lapic[id], 0x80b, 0));
            else
                set_reg(bench->lapic[id], LAPIC_EOI, 0);
        }
    return mask;
}

static void send(Bench *bench, uint32_t from, uint32_t destination, uint32_t low)
{
    set_reg(bench->lapic[from], LAPIC_ICR_HIGH, destination << 24);
    set_reg(bench->lapic[from], LAPIC_ICR, low | ICR_ASSERTED);
}

/* §11.6.2.1 and §11.6.2.2 */
static void test_destinations(void)
{
    Bench bench;
    bench_make(&bench);
    for (uint32_t to = 0; to < 256; to++) {
        send(&bench, 2, to, 0x40);
        CHECK_EQ(who(&bench, 0x40), to == 255 ? 15u : to < COUNT ? 1u << to : 0);
    }
    for (uint32_t id = 0; id < COUNT; id++) {
        set_reg(bench.lapic[id], LAPIC_LDR, 1u << (24 + id) | 0xffffff);
        CHECK_EQ(reg(bench.lapic[id], LAPIC_LDR), 1u << (24 + id)); /* the rest is reserved */
    }
    for (uint32_t to = 0; to < 256; to++) { /* flat: any common bit */
        send(&bench, 1, to, 0x841);
        CHECK_EQ(who(&bench, 0x41), to & 15);
    }
    for (uint32_t id = 0; id < COUNT; id++) { /* cluster: 0 has 1 and 2, 5 has 4 and 8 */
        set_reg(bench.lapic[id], LAPIC_DFR, 0);
        CHECK_EQ(reg(bench.lapic[id], LAPIC_DFR), 0x0fffffff);
        set_reg(bench.lapic[id], LAPIC_LDR, ((id < 2 ? 0u : 0x50u) | 1u << id) << 24);
    }
    for (uint32_t to = 0; to < 256; to++) {
        uint32_t cluster = to >> 4, expected = cluster == 0 ? to & 3 : cluster == 5 ? to & 12 : 0;
        send(&bench, 3, to, 0x842);
        CHECK_EQ(who(&bench, 0x42), to == 255 ? 15 : expected);
    }
    send(&bench, 1, 0, ICR_SELF | 0x43);
    CHECK_EQ(who(&bench, 0x43), 2);
    send(&bench, 1, 0, ICR_ALL | 0x43);
    CHECK_EQ(who(&bench, 0x43), 15);
    send(&bench, 1, 0, ICR_OTHERS | 0x43);
    CHECK_EQ(who(&bench, 0x43), 13);
    set_reg(bench.lapic[2], LAPIC_ID, 0x77000000); /* §11.4.6: software may change it */
    send(&bench, 0, 2, 0x44);
    CHECK_EQ(who(&bench, 0x44), 0);
    send(&bench, 0, 0x77, 0x44);
    CHECK_EQ(who(&bench, 0x44), 4);
    bench_drop(&bench);
}

/* §11.6.2.4 and table 11-4: to one of those meant, that has the lowest priority; also by "all but self". */
static void test_lowest_priority(void)
{
    Bench bench;
    bench_make(&bench);
    for (uint32_t id = 0; id < COUNT; id++) {
        set_reg(bench.lapic[id], LAPIC_LDR, 1u << (24 + id));
        set_reg(bench.lapic[id], LAPIC_TPR, (id == 1 ? 2u : 8u) << 4);
    }
    for (uint32_t to = 1; to < 16; to++) {
        send(&bench, 0, to, 0x9f0);
        uint32_t taken = who(&bench, 0xf0);
        CHECK(taken && !(taken & (taken - 1)) && taken & to);
        CHECK(!(to & 2) || taken == 2);
    }
    for (uint32_t from = 0; from < COUNT; from++) {
        send(&bench, from, 0, ICR_OTHERS | 0x1f1);
        uint32_t taken = who(&bench, 0xf1);
        CHECK(taken && !(taken & (taken - 1)) && !(taken & 1u << from));
        CHECK(from == 1 || taken == 2);
    }
    set_reg(bench.lapic[1], LAPIC_SVR, 0xff); /* disabled by software: not asked */
    send(&bench, 0, 15, 0x9f2);
    CHECK(!(who(&bench, 0xf2) & 2));
    /* Equals take turns: over many messages all have had one. */
    uint32_t all = 0;
    for (int i = 0; i < 12; i++) {
        send(&bench, 0, 13, 0x9f3);
        all |= who(&bench, 0xf3);
    }
    CHECK_EQ(all, 13);
    bench_drop(&bench);
}

/* §11.6.1: messages that are no vectors; §11.4.7.3: what INIT leaves of a local APIC. */
static void test_modes(void)
{
    Bench bench;
    bench_make(&bench);
    send(&bench, 0, 0, ICR_OTHERS | 0x400);
    for (uint32_t id = 0; id < COUNT; id++)
        CHECK_EQ(bench.heard[id].nmi, id != 0);
    set_reg(bench.lapic[2], LAPIC_ID, 9u << 24);
    set_reg(bench.lapic[2], LAPIC_TPR, 0x20);
    set_reg(bench.lapic[2], LAPIC_LVT_TIMER, LVT_IS_PERIODIC | 0x60);
    set_reg(bench.lapic[2], LAPIC_TIMER_INITIAL, 1000);
    send(&bench, 0, 9, 0x50);
    send(&bench, 0, 9, 0x500);
    CHECK_EQ(bench.heard[2].init, 1);
    CHECK_EQ(reg(bench.lapic[2], LAPIC_ID), 9u << 24); /* stays */
    CHECK_EQ(reg(bench.lapic[2], LAPIC_TPR), 0);
    CHECK_EQ(reg(bench.lapic[2], LAPIC_SVR), 0xff);
    CHECK_EQ(reg(bench.lapic[2], LAPIC_LVT_TIMER), LVT_MASK);
    CHECK(!has_bit(bench.lapic[2], LAPIC_IRR, 0x50));
    CHECK_EQ(clock_next_deadline(bench.board->clock), CLOCK_NEVER);
    send(&bench, 0, 9, 0x69f); /* startup reaches an APIC that is disabled by software */
    CHECK(bench.heard[2].startup == 1 && bench.heard[2].page == 0x9f);
    set_reg(bench.lapic[0], LAPIC_ICR, 0x8500 | ICR_ALL); /* INIT level de-assert: nothing */
    CHECK(bench.heard[0].init == 0 && bench.heard[2].init == 1);
    /* Reserved modes, and those without a receiver here, do nothing at all. */
    for (uint32_t mode = 0; mode < 8; mode++) {
        if (mode != 2 && mode != 3 && mode != 7)
            continue;
        send(&bench, 0, 1, mode << 8 | 0x51);
        CHECK_EQ(who(&bench, 0x51), 0);
    }
    CHECK(bench.heard[1].nmi == 1 && bench.heard[1].init == 0 && bench.heard[1].startup == 0);
    bench_drop(&bench);
}

/* SDM 3A §11.11: figure 11-14's fields of the address, figure 11-15's of the data. */
static void test_msi(void)
{
    Bench bench;
    bench_make(&bench);
    Board *board = bench.board;
    for (uint32_t id = 0; id < COUNT; id++)
        set_reg(bench.lapic[id], LAPIC_LDR, 1u << (24 + id));
    for (uint32_t to = 0; to < 256; to++) {
        uint32_t physical = to == 255 ? 15u : to < COUNT ? 1u << to : 0;
        CHECK_EQ(board_msi(board, 0xfee00000 | to << 12, 0x40), __builtin_popcount(physical));
        CHECK_EQ(who(&bench, 0x40), physical);
        /* Redirection hint with a physical destination: that processor. */
        if (to != 255) {
            CHECK_EQ(board_msi(board, 0xfee00008 | to << 12, 0x40), __builtin_popcount(physical));
            CHECK_EQ(who(&bench, 0x40), physical);
        }
        /* With a logical one: one of the group. */
        uint32_t group = to == 255 ? 15 : to & 15;
        CHECK_EQ(board_msi(board, 0xfee0000c | to << 12, 0x41), group != 0);
        uint32_t taken = who(&bench, 0x41);
        CHECK((taken & ~group) == 0 && (group != 0) == (taken != 0) && !(taken & (taken - 1)));
    }
    /* Modes: fixed, lowest, NMI, INIT; 011b and 110b are reserved, a device starts no processor. */
    CHECK_EQ(board_msi(board, 0xfee01000, 0x400), 1);
    CHECK_EQ(bench.heard[1].nmi, 1);
    CHECK_EQ(board_msi(board, 0xfee01000, 0x69a), 0);
    CHECK_EQ(board_msi(board, 0xfee01000, 0x350), 0);
    CHECK_EQ(bench.heard[1].startup, 0);
    CHECK_EQ(board_msi(board, 0xfee01000, 0x500), 1);
    CHECK_EQ(bench.heard[1].init, 1);
    /* Only this megabyte, below 4 GiB, is messages; the upper half of the data says nothing. */
    CHECK(board_msi(board, 0x1fee00000, 0x42) < 0 && board_msi(board, 0xfef00000, 0x42) < 0 &&
          board_msi(board, 0xfedff000, 0x42) < 0);
    CHECK_EQ(who(&bench, 0x42), 0);
    CHECK_EQ(board_msi(board, 0xfee00000, 0xffff0000 | 0x43), 1);
    CHECK_EQ(who(&bench, 0x43), 1);
    bench_drop(&bench);
}

/* §11.12.1.2, table 11-6: each MSR that is there, readable and writable; any other is #GP. */
static void test_x2apic_map(void)
{
    Board *board = test_board();
    Lapic *lapic = make_lapic(board, 0);
    uint64_t value;
    for (uint32_t index = 0x800; index < 0x900; index++)
        CHECK(!lapic_read_msr(lapic, index, &value) && !lapic_write_msr(lapic, index, 0)); /* xAPIC mode */
    CHECK(lapic_write_msr(lapic, MSR_IA32_APIC_BASE, LAPIC_DEFAULT_BASE | X2APIC_ON | APIC_BASE_BSP));
    for (uint32_t index = 0x800; index < 0x900; index++) {
        bool readable = index == 0x802 || index == 0x803 || index == 0x808 || index == 0x80a || index == 0x80d ||
                        index == 0x80f || (index >= 0x810 && index <= 0x828) || index == 0x830 ||
                        (index >= 0x832 && index <= 0x839) || index == 0x83e;
        CHECK_EQ(lapic_read_msr(lapic, index, &value), readable);
        CHECK(!readable || index == 0x830 || value <= UINT32_MAX);
        /* 0x2f, CMCI, is not in this version's table. */
        bool writable = index == 0x808 || index == 0x80b || index == 0x80f || index == 0x828 || index == 0x830 ||
                        (index >= 0x832 && index <= 0x838) || index == 0x83e || index == 0x83f;
        CHECK_EQ(lapic_write_msr(lapic, index, 0), writable);
        if (index == 0x830) {
            CHECK(lapic_write_msr(lapic, index, UINT64_MAX << 32)); /* the whole upper half is destination */
            CHECK_EQ(msr(lapic, index) >> 32, UINT32_MAX);
        } else {
            CHECK(!lapic_write_msr(lapic, index, 1ull << 32));
        }
    }
    CHECK(lapic_write_msr(lapic, 0x828, 0));
    CHECK_EQ(msr(lapic, 0x828), 0x60 & msr(lapic, 0x828)); /* vector 0 was sent, and by SELF IPI; no bad register */
    drop_lapic(lapic);
    board_free(board);
}

/* §11.12.9 to §11.12.11 */
static void test_x2apic_messages(void)
{
    Bench bench;
    bench_make(&bench);
    Lapic *far = make_lapic(bench.board, 0x93);
    for (uint32_t id = 0; id < COUNT; id++)
        CHECK(lapic_write_msr(bench.lapic[id], MSR_IA32_APIC_BASE,
                              LAPIC_DEFAULT_BASE | X2APIC_ON | (id ? 0 : APIC_BASE_BSP)));
    CHECK(lapic_write_msr(far, MSR_IA32_APIC_BASE, LAPIC_DEFAULT_BASE | X2APIC_ON));
    CHECK_EQ(msr(far, 0x802), 0x93);
    CHECK_EQ(msr(far, 0x80d), 9u << 16 | 1 << 3); /* from the ID */
    CHECK_EQ(msr(far, 0x80f), SVR_ON);            /* kept over the change of mode */
    for (uint32_t to = 0; to < 6; to++) {
        CHECK(lapic_write_msr(bench.lapic[0], 0x830, (uint64_t)to << 32 | ICR_ASSERTED | 0x40));
        CHECK_EQ(who(&bench, 0x40), to < COUNT ? 1u << to : 0);
    }
    CHECK(lapic_write_msr(bench.lapic[0], 0x830, 0xffull << 32 | ICR_ASSERTED | 0x40));
    CHECK_EQ(who(&bench, 0x40), 0); /* 255 is an ID as any other */
    CHECK(lapic_write_msr(bench.lapic[0], 0x830, 0x93ull << 32 | ICR_ASSERTED | 0x40));
    CHECK_EQ(lapic_acknowledge(far), 0x40);
    for (uint32_t to = 0; to < 32; to++) { /* logical: cluster 0 */
        CHECK(lapic_write_msr(bench.lapic[0], 0x830, (uint64_t)to << 32 | ICR_ASSERTED | 0x841));
        CHECK_EQ(who(&bench, 0x41), to & 15);
    }
    CHECK(lapic_write_msr(bench.lapic[0], 0x830, 0x90008ull << 32 | ICR_ASSERTED | 0x851));
    CHECK_EQ(lapic_acknowledge(far), 0x51);
    CHECK(lapic_write_msr(bench.lapic[0], 0x830, UINT64_MAX << 32 | ICR_ASSERTED | 0x842));
    CHECK_EQ(who(&bench, 0x42), 15);
    CHECK_EQ(lapic_acknowledge(far), -1); /* 0x51 is in service, of a higher class */
    CHECK(msr(far, 0x822) >> 2 & 1);
    CHECK(lapic_write_msr(bench.lapic[3], 0x83f, 0x43));
    CHECK_EQ(who(&bench, 0x43), 8);
    CHECK(lapic_write_msr(bench.lapic[3], 0x83f, 0x0f)); /* no #GP: an error, §11.5.3 */
    CHECK(lapic_write_msr(bench.lapic[3], 0x828, 0));
    CHECK_EQ(msr(bench.lapic[3], 0x828), 0x20);
    /* INIT keeps the mode, and with it what follows from the ID. */
    CHECK(lapic_write_msr(bench.lapic[0], 0x830, 1ull << 32 | ICR_ASSERTED | 0x500));
    CHECK(bench.heard[1].init == 1 && msr(bench.lapic[1], 0x802) == 1 && msr(bench.lapic[1], 0x80d) == 2);
    CHECK_EQ(msr(bench.lapic[1], 0x80f), 0xff);
    /* The page is gone. */
    uint64_t value;
    CHECK(!bus_read(bench.board->mmio, LAPIC_DEFAULT_BASE + LAPIC_VERSION, 4, &value));
    drop_lapic(far);
    bench_drop(&bench);
}

/* §11.12.5 and figure 11-27: from each mode to each. */
static void test_base_transitions(void)
{
    enum { OFF, INVALID, XAPIC, X2APIC };
    static const uint64_t BITS[] = {0, APIC_BASE_EXTD, APIC_BASE_ENABLE, X2APIC_ON};
    static const bool LEGAL[4][4] = {[OFF] = {1, 0, 1, 0}, [XAPIC] = {1, 0, 1, 1}, [X2APIC] = {1, 0, 0, 1}};
    for (int from = OFF; from <= X2APIC; from++)
        for (int to = OFF; to <= X2APIC; to++) {
            if (from == INVALID)
                continue;
            Board *board = test_board();
            Lapic *lapic = make_lapic(board, 0);
            uint64_t base = LAPIC_DEFAULT_BASE | APIC_BASE_BSP;
            if (from != XAPIC)
                CHECK(lapic_write_msr(lapic, MSR_IA32_APIC_BASE, base | BITS[from]));
            CHECK_EQ(lapic_write_msr(lapic, MSR_IA32_APIC_BASE, base | BITS[to]), LEGAL[from][to]);
            CHECK_EQ(lapic_base(lapic), base | BITS[LEGAL[from][to] ? to : from]);
            CHECK_EQ(msr(lapic, MSR_IA32_APIC_BASE), lapic_base(lapic));
            check_save_restore(lapic_device(lapic));
            drop_lapic(lapic);
            board_free(board);
        }
    Board *board = test_board();
    Lapic *lapic = make_lapic(board, 0);
    for (uint32_t bit = 0; bit < 64; bit++) { /* reserved bits: 0-7, 9, and above MAXPHYADDR (40) */
        bool reserved = bit < 8 || bit == 9 || bit >= 40;
        uint64_t value = LAPIC_DEFAULT_BASE | APIC_BASE_BSP | APIC_BASE_ENABLE;
        if (bit == 8 || bit == 10 || bit == 11)
            continue;
        CHECK_EQ(lapic_write_msr(lapic, MSR_IA32_APIC_BASE, value ^ 1ull << bit), !reserved);
        CHECK(lapic_write_msr(lapic, MSR_IA32_APIC_BASE, value));
    }
    /* Disabled globally: nothing comes in, and what was there is lost. */
    set_reg(lapic, LAPIC_TPR, 0x70);
    board_msi(board, 0xfee00000, 0x90);
    CHECK(lapic_write_msr(lapic, MSR_IA32_APIC_BASE, LAPIC_DEFAULT_BASE | APIC_BASE_BSP));
    CHECK(!lapic_is_enabled(lapic) && !intr_pin_level(&board->intr));
    CHECK_EQ(board_msi(board, 0xfee00000, 0x90), 0);
    CHECK_EQ(board_msi(board, 0xfee00000, 0x400), 0);
    board_nmi(board); /* the pin is the processor's own then */
    CHECK_EQ(board->nmi_pending, 1);
    CHECK(lapic_write_msr(lapic, MSR_IA32_APIC_BASE, LAPIC_DEFAULT_BASE | APIC_BASE_BSP | APIC_BASE_ENABLE));
    CHECK(reg(lapic, LAPIC_TPR) == 0 && reg(lapic, LAPIC_SVR) == 0xff);
    CHECK(!has_bit(lapic, LAPIC_IRR, 0x90));
    drop_lapic(lapic);
    board_free(board);
}

int main(void)
{
    RUN(test_destinations);
    RUN(test_lowest_priority);
    RUN(test_modes);
    RUN(test_msi);
    RUN(test_x2apic_map);
    RUN(test_x2apic_messages);
    RUN(test_base_transitions);
    return 0;
}
