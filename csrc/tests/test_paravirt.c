/*
 * The paravirtual interface without an engine (paravirt_model.h): guests of random bytes, and what each hypercall
 * refuses. What a real guest sees is tests/lab/test_paravirt.py's.
 */
#include "tests/paravirt_model.h"

enum { GUESTS = 150 };

/* One after the other, as long as there are bytes: most guests soon do what ends them. */
static void test_random(void)
{
    LabCounters sum = {0};
    unsigned guests = 0, ended = 0;
    PvModel *model = pv_new();
    for (uint32_t seed = 1; guests < GUESTS; seed++) {
        uint8_t bytes[PV_INPUT];
        uint64_t state = seed;
        for (size_t i = 0; i < sizeof bytes; i++)
            bytes[i] = (uint8_t)((state = state * 6364136223846793005u + 1442695040888963407u) >> 56);
        for (Input input = {bytes, sizeof bytes}; input.left; guests++) {
            pv_start(model);
            pv_run(model, &input);
            LabCounters one = monitor_counters(model->monitor);
            ended += model->ended;
            for (unsigned i = 0; i < LAB_HC_COUNT; i++)
                sum.hypercalls[i] += one.hypercalls[i];
            for (unsigned i = 0; i < LAB_REASON_COUNT; i++)
                sum.exits[i] += one.exits[i];
            sum.injected_interrupts += one.injected_interrupts;
        }
    }
    pv_free(model);
    /* The bytes are not of one kind of guest only. */
    for (unsigned i = 0; i < LAB_HC_COUNT; i++)
        CHECK(sum.hypercalls[i]);
    CHECK(sum.exits[LAB_FILL] && sum.exits[LAB_TRACE] && sum.exits[LAB_INTERRUPT] && sum.exits[LAB_PRIVILEGED]);
    CHECK(sum.injected_interrupts && ended);
}

static PvModel *guest(void)
{
    PvModel *model = pv_new();
    CHECK_EQ(pv_call(model, LAB_HC_SHARED, PV_SHARED, 0), 0);
    return model;
}

static int64_t update(PvModel *model, uint64_t entry, uint64_t value)
{
    LabShared *shared = paravirt_of(model->monitor)->shared;
    shared->queue[0] = (LabMmuUpdate){entry, value};
    shared->queued = 1;
    return pv_call(model, LAB_HC_FLUSH, 0, 0);
}

static const uint64_t NOT_RAM[] = {PV_END,   PV_END + LAB_SHADOW, PV_END + LAB_SIZE, 0xfee00000, 1ull << 40,
                                   LAB_BASE, 0xfffffffffffff000};

static void test_what_is_refused(void)
{
    static const struct {
        uint64_t number, a, b;
        int64_t answer;
    } calls[] = {
        {LAB_HC_SHARED, PV_SHARED + 8, 0, -LAB_EINVAL},
        {LAB_HC_TRAPS, PV_LISTS, LAB_TRAPS_MAX + 1, -LAB_E2BIG},
        {LAB_HC_TRAPS, PV_LISTS, UINT64_MAX, -LAB_E2BIG},
        {LAB_HC_TRAPS, UINT64_MAX - 8, 1, -LAB_EFAULT},
        {LAB_HC_TRAPS, 1ull << 63, 1, -LAB_EFAULT},
        {LAB_HC_TRAPS, LAB_BASE + LAB_FRAME, 1, -LAB_EFAULT},
        {LAB_HC_STACK, PV_STACK + 8, 0, -LAB_EINVAL},
        {LAB_HC_STACK, 1ull << 63, 0, -LAB_EINVAL},
        {LAB_HC_ADDRESS, PV_TABLES + 8, 0, -LAB_EINVAL},
        {LAB_HC_ADDRESS, PV_TABLES, 8, -LAB_EINVAL},
        {LAB_HC_IRQ, 0, 1, -LAB_EINVAL},
        {LAB_HC_IRQ, 2, 1, -LAB_EINVAL},
        {LAB_HC_IRQ, 16, 1, -LAB_EINVAL},
        {LAB_HC_IRQ, 1ull << 32 | 5, 1, -LAB_EINVAL},
        {LAB_HC_IRQ, 5, 4, -LAB_EINVAL},
        {LAB_HC_TIMER, LAB_TIMER_MIN_NS - 1, 0, -LAB_EINVAL},
        {LAB_HC_TIMER, LAB_TIMER_MAX_NS + 1, 1, -LAB_EINVAL},
        {LAB_HC_TIMER, LAB_TIMER_MIN_NS, 2, -LAB_EINVAL},
        {LAB_HC_CONSOLE, PV_LISTS, LAB_CONSOLE_MAX + 1, -LAB_E2BIG},
        {LAB_HC_CONSOLE, PV_LISTS, UINT64_MAX, -LAB_E2BIG},
        {LAB_HC_CONSOLE, LAB_BASE, 1, -LAB_EFAULT},
        {LAB_HC_EXIT, 128, 0, -LAB_EINVAL},
        {LAB_HC_COUNT, 0, 0, -LAB_ENOSYS},
        {UINT64_MAX, 0, 0, -LAB_ENOSYS},
    };
    PvModel *model = guest();
    for (size_t i = 0; i < ARRAY_SIZE(calls); i++) {
        int64_t answer = pv_call(model, calls[i].number, calls[i].a, calls[i].b);
        if (answer != calls[i].answer)
            fprintf(stderr, "hypercall %llu(%#llx, %#llx)\n", (unsigned long long)calls[i].number,
                    (unsigned long long)calls[i].a, (unsigned long long)calls[i].b);
        CHECK_EQ(answer, calls[i].answer);
    }
    for (size_t i = 0; i < ARRAY_SIZE(NOT_RAM); i++) {
        CHECK_EQ(pv_call(model, LAB_HC_SHARED, NOT_RAM[i], 0), -LAB_EFAULT);
        CHECK_EQ(pv_call(model, LAB_HC_ADDRESS, NOT_RAM[i], 0), -LAB_EFAULT);
        CHECK_EQ(update(model, NOT_RAM[i], 7), -LAB_EFAULT);
        CHECK_EQ(update(model, NOT_RAM[i] | LAB_MMU_RELEASE, 0), -LAB_EFAULT);
        CHECK_EQ(update(model, NOT_RAM[i] | LAB_MMU_ADDRESS, 0), -LAB_EFAULT);
    }
    CHECK_EQ(update(model, PV_TABLES | LAB_MMU_RELEASE, 1), -LAB_EINVAL);
    CHECK_EQ(update(model, PV_TABLES + 4, 0), -LAB_EINVAL);
    paravirt_of(model->monitor)->shared->queued = LAB_QUEUE + 1;
    CHECK_EQ(pv_call(model, LAB_HC_FLUSH, 0, 0), -LAB_E2BIG);
    CHECK_EQ(pv_call(model, LAB_HC_FLUSH, 0, 0), 0);
    CHECK(!model->ended);
    pv_free(model);
}

/* Hypercalls that come in ring 3 are the program's: none is done. */
static void test_a_program_may_not_call(void)
{
    PvModel *model = guest();
    LabIret iret = {.rip = PV_CODE, .cs = LAB_CS_USER, .rflags = 2, .rsp = PV_STACK, .ss = LAB_SS_USER};
    memcpy(model->ram + PV_LISTS, &iret, sizeof iret);
    for (gpa_t table = PV_TABLES; table < PV_TABLES + 3 * GUEST_PAGE_SIZE; table += GUEST_PAGE_SIZE)
        CHECK_EQ(update(model, table, (table + GUEST_PAGE_SIZE) | 7), 0);
    CHECK_EQ(update(model, PV_TABLES + 3 * GUEST_PAGE_SIZE + PV_CODE / 512, PV_CODE | 7), 0);
    model->cpu.gpr[REG_RSP] = PV_LISTS;
    pv_call(model, LAB_HC_IRET, 0, 0);
    CHECK_EQ(model->monitor->cpu.cpl, 3);
    for (uint64_t number = 0; number < LAB_HC_COUNT; number++)
        CHECK_EQ(pv_call(model, number, PV_SHARED, 0), -LAB_EPERM);
    CHECK_EQ(model->monitor->cpu.cpl, 3);
    CHECK_EQ(paravirt_of(model->monitor)->shared_gpa, PV_SHARED);
    pv_free(model);
}

/* Entries to the monitor's memory are taken, as any are, and an access through them is the end. */
static void test_tables_that_lead_to_the_monitor(void)
{
    static const struct {
        gpa_t entry;
        uint64_t value;
    } cases[] = {
        {PV_TABLES + 3 * GUEST_PAGE_SIZE, PV_END | 7},                /* a page */
        {PV_TABLES + 3 * GUEST_PAGE_SIZE, (PV_END + LAB_SHADOW) | 7}, /* its shadow of this table, perhaps */
        {PV_TABLES + 2 * GUEST_PAGE_SIZE, PV_END | PTE_PS | 7},       /* 2 MiB */
        {PV_TABLES + 2 * GUEST_PAGE_SIZE, (PV_END + LAB_TABLES) | 7}, /* the monitor's own table as one */
        {PV_TABLES, (PV_END + LAB_TABLES) | 7},
    };
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        PvModel *model = guest();
        pv_access(model, 0, false, 0); /* there was something before */
        CHECK_EQ(update(model, cases[i].entry, cases[i].value), 0);
        if (!model->ended)
            pv_access(model, 0, true, 0x1234);
        CHECK(model->ended);
        CHECK(strstr(model->monitor->end.text, "no RAM") || strstr(model->monitor->end.text, "monitor"));
        pv_free(model);
    }
    PvModel *model = guest(); /* its slot: what is there is not the guest's */
    CHECK_EQ(update(model, PV_TABLES + 511 * 8, (PV_TABLES + GUEST_PAGE_SIZE) | 7), 0);
    pv_access(model, LAB_BASE, true, 0x1234);
    CHECK(model->ended);
    pv_free(model);
}

/* 240 updates that change one entry forth and back: the last one counts, and no INVLPG was needed. */
static void test_a_batch(void)
{
    PvModel *model = guest();
    gpa_t entry = PV_TABLES + 3 * GUEST_PAGE_SIZE + 8 * 33;
    LabShared *shared = paravirt_of(model->monitor)->shared;
    pv_access(model, 33 << 12, true, 1);
    uint64_t before = model->monitor->counters.exits[LAB_HYPERCALL];
    for (unsigned i = 0; i < LAB_QUEUE; i++)
        shared->queue[i] = (LabMmuUpdate){entry, (gpa_t)(40 + (i & 1)) << 12 | 7};
    shared->queued = LAB_QUEUE;
    CHECK_EQ(pv_call(model, LAB_HC_FLUSH, 0, 0), 0);
    CHECK_EQ(model->monitor->counters.exits[LAB_HYPERCALL], before + 1);
    pv_access(model, 33 << 12, true, 0x5151);
    CHECK_EQ(*(uint64_t *)(void *)(model->ram + (41 << 12)), 0x5151);
    CHECK_EQ(*(uint64_t *)(void *)(model->ram + (33 << 12)), 1);
    CHECK_EQ(update(model, entry, 0), 0);
    pv_access(model, 33 << 12, false, 0); /* no handler for it */
    CHECK(model->ended && strstr(model->monitor->end.text, "vector 14"));
    pv_free(model);
}

/* A guest that takes each tick late has a whole period before the next one; one that never does, is left alone. */
static void test_a_slow_guest_and_its_timer(void)
{
    PvModel *model = guest();
    LabShared *shared = paravirt_of(model->monitor)->shared;
    const uint64_t period = LAB_TIMER_MIN_NS;
    CHECK_EQ(pv_call(model, LAB_HC_TIMER, period, 1), 0);
    pv_time(model, 100 * period);
    CHECK_EQ(model->monitor->counters.exits[LAB_INTERRUPT], 1);
    CHECK_EQ(shared->pending, 1u << LAB_EVENT_TIMER);
    for (unsigned i = 1; i < 10; i++) {
        shared->pending = 0;
        CHECK_EQ(pv_call(model, LAB_HC_FLUSH, 0, 0), 0);
        pv_time(model, period / 2);
        CHECK_EQ(model->monitor->counters.exits[LAB_INTERRUPT], i);
        pv_time(model, 3 * period);
        CHECK_EQ(model->monitor->counters.exits[LAB_INTERRUPT], i + 1);
    }
    CHECK_EQ(pv_call(model, LAB_HC_TIMER, 0, 0), 0);
    shared->pending = 0;
    CHECK_EQ(pv_call(model, LAB_HC_FLUSH, 0, 0), 0);
    pv_time(model, 100 * period);
    CHECK_EQ(model->monitor->counters.exits[LAB_INTERRUPT], 10);
    CHECK_EQ(shared->pending, 0);
    pv_free(model);
}

static void test_hlt_is_no_way_to_sleep(void)
{
    PvModel *model = guest();
    model->cpu.rip = PV_CODE + 16 * 5;
    pv_trap(model, 13, 0, 0);
    CHECK(model->ended && strstr(model->monitor->end.text, "HLT in a paravirtual kernel"));
    pv_free(model);
}

static void test_exit(void)
{
    PvModel *model = guest();
    pv_call(model, LAB_HC_EXIT, 5, 0);
    CHECK(model->ended && !model->monitor->end.ended);
    bus_remove(model->board->pio, 0x501);
    pv_start(model);
    CHECK_EQ(pv_call(model, LAB_HC_SHARED, PV_SHARED, 0), 0);
    pv_call(model, LAB_HC_EXIT, 5, 0);
    CHECK(model->ended && strstr(model->monitor->end.text, "without an exit port"));
    pv_free(model);
}

int main(void)
{
    RUN(test_what_is_refused);
    RUN(test_a_program_may_not_call);
    RUN(test_tables_that_lead_to_the_monitor);
    RUN(test_a_batch);
    RUN(test_a_slow_guest_and_its_timer);
    RUN(test_exit);
    RUN(test_hlt_is_no_way_to_sleep);
    RUN(test_random);
    return 0;
}
