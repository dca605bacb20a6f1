/* The recorder of exits: counts that lose nothing, merging, the ring, bands that halve, and readers beside a
 * writer. */
#include <pthread.h>
#include <stdlib.h>

#include "check.h"
#include "engine/engine.h"

enum { LONG0 = MODE_LONG << EXIT_TRACE_MODE_SHIFT, LONG3 = LONG0 | 3 };

static Clock *new_clock(void)
{
    Clock *clock = clock_new(CLOCK_KIND_VIRTUAL);
    CHECK(clock);
    return clock;
}

static ExitTrace *new_trace(Clock *clock, uint32_t events, uint32_t sites)
{
    Error error;
    ExitTrace *trace = exit_trace_new(clock, events, sites, &error);
    CHECK(trace);
    return trace;
}

static void add(ExitTrace *trace, uint32_t reason, uint64_t rip, uint64_t address, uint32_t privilege,
                uint32_t cycles)
{
    VmExit exit = {.reason = reason,
                   .size = 1,
                   .handled = 1,
                   .address = address,
                   .rip = rip,
                   .privilege = privilege | EXIT_PRIVILEGE_KNOWN,
                   .cycles = cycles};
    exit_trace_add(trace, &exit, exit_trace_cycles());
}

static uint64_t count_sites(ExitTrace *trace, size_t *rows)
{
    size_t capacity = exit_trace_sites(trace, NULL, 0), count;
    ExitSite *sites = NULL;
    uint64_t sum = 0;
    for (;; capacity = count) { /* a writer adds rows meanwhile */
        sites = realloc(sites, MAX(capacity, 1) * sizeof *sites);
        count = exit_trace_sites(trace, sites, capacity);
        if (count <= capacity)
            break;
    }
    for (size_t i = 0; i < count; i++)
        sum += sites[i].count;
    free(sites);
    *rows = count;
    return sum;
}

static void test_sites(void)
{
    Clock *clock = new_clock();
    ExitTrace *trace = new_trace(clock, 16, 64);
    size_t rows;
    for (int i = 0; i < 10; i++)
        add(trace, EXIT_IO, 0x1000, 0x3f8, LONG0, 100 + (uint32_t)i);
    ExitSite site;
    CHECK_EQ(exit_trace_sites(trace, &site, 1), 1);
    CHECK(site.rip == 0x1000 && site.address == 0x3f8 && site.count == 10 && site.cycles == 1045 &&
          site.max_cycles == 109);
    CHECK_EQ(site.flags, LONG0 | EXIT_TRACE_HANDLED);
    add(trace, EXIT_IO, 0x1000, 0x3f9, LONG0, 1);
    add(trace, EXIT_IO, 0x1001, 0x3f8, LONG0, 1);
    CHECK_EQ(count_sites(trace, &rows), 12);
    CHECK_EQ(rows, 3);
    /* Interrupts from outside come anywhere; user code counts by page; CR2 is not part of a site. */
    for (uint64_t i = 0; i < 4; i++)
        add(trace, EXIT_INTERRUPT, 0x5000 + i, 0, i & 1 ? LONG3 : LONG0, 0);
    for (uint64_t i = 0; i < 4; i++)
        add(trace, EXIT_EXCEPTION, 0x7000 + i, i << 12, LONG3, 0);
    CHECK_EQ(count_sites(trace, &rows), 20);
    CHECK_EQ(rows, 5);
    exit_trace_free(trace);
    clock_free(clock);
}

static void test_full_table(void)
{
    Clock *clock = new_clock();
    ExitTrace *trace = new_trace(clock, 1, 5000);
    for (uint64_t i = 0; i < 20000; i++)
        add(trace, i & 1 ? EXIT_IO : EXIT_MMIO, 0x1000 + 16 * i, i * 4096, LONG0, 1);
    size_t rows;
    CHECK_EQ(count_sites(trace, &rows), 20000);
    CHECK_EQ(rows, 5002);
    ExitTraceSummary summary;
    exit_trace_summary(trace, &summary);
    CHECK(summary.events == 20000 && summary.merged == 15000);
    CHECK(summary.counts[EXIT_IO] == 10000 && summary.counts[EXIT_MMIO] == 10000 &&
          summary.costs[EXIT_IO][0] == 10000);
    size_t count = exit_trace_bands(trace, NULL, 0);
    ExitBand *bands = calloc(count, sizeof *bands);
    uint64_t sum = 0;
    CHECK_EQ(exit_trace_bands(trace, bands, count), count);
    for (size_t i = 0; i < count; i++)
        for (size_t k = 0; k < EXIT_TRACE_BUCKETS; k++)
            sum += bands[i].counts[k];
    CHECK_EQ(sum, 20000);
    free(bands);
    exit_trace_free(trace);
    clock_free(clock);
}

static void test_ring(void)
{
    Clock *clock = new_clock();
    ExitTrace *trace = new_trace(clock, 4, 64);
    ExitEvent events[8];
    for (uint64_t i = 0; i < 3; i++)
        add(trace, EXIT_IO, i, 0, LONG0, 1);
    CHECK_EQ(exit_trace_events(trace, events, 8), 3);
    CHECK(events[0].rip == 0 && events[2].rip == 2);
    for (uint64_t i = 3; i < 11; i++)
        add(trace, EXIT_IO, i, 0, LONG0, 1);
    CHECK_EQ(exit_trace_events(trace, events, 8), 4);
    CHECK(events[0].rip == 7 && events[3].rip == 10);
    CHECK_EQ(exit_trace_events(trace, events, 2), 4); /* the newest two */
    CHECK(events[0].rip == 9 && events[1].rip == 10);
    exit_trace_free(trace);
    clock_free(clock);
}

/* The width of a bucket doubles until everything is inside, and nothing is lost on the way. */
static void test_bands(void)
{
    Clock *clock = new_clock();
    ExitTrace *trace = new_trace(clock, 1, 64);
    for (int i = 0; i < 1000; i++) {
        add(trace, EXIT_IO, 0x1000, 0x80, LONG0, 1);
        clock_advance(clock, 10000000);
    }
    ExitTraceSummary summary;
    exit_trace_summary(trace, &summary);
    CHECK_EQ(summary.bucket_ns, 1ull << 27); /* 128 of 2^26 ns are 8.6 s, 10 s went by */
    ExitBand band;
    CHECK_EQ(exit_trace_bands(trace, &band, 1), 1);
    uint64_t sum = 0;
    for (size_t i = 0; i < EXIT_TRACE_BUCKETS; i++)
        sum += band.counts[i];
    CHECK(sum == 1000 && band.counts[0] == 14 && band.counts[80] == 0);
    clock_advance(clock, 1ull << 62);
    add(trace, EXIT_IO, 0x1000, 0x80, LONG0, 1);
    CHECK_EQ(exit_trace_bands(trace, &band, 1), 1);
    CHECK_EQ(band.counts[0], 1000);
    exit_trace_free(trace);
    clock_free(clock);
}

static void test_wrong_sizes(void)
{
    Clock *clock = new_clock();
    Error error;
    CHECK(!exit_trace_new(clock, 0, 64, &error) && error.code == EINVAL);
    CHECK(!exit_trace_new(clock, 1, 63, &error) && !exit_trace_new(clock, 1u << 25, 64, &error));
    CHECK(!exit_trace_new(clock, 1, 1u << 21, &error));
    exit_trace_free(NULL);
    clock_free(clock);
}

static void *write_many(void *opaque)
{
    for (uint64_t i = 0; i < 50000; i++)
        add(opaque, EXIT_IO, i % 3000, i % 7, LONG0, 1);
    return NULL;
}

static void test_reader(void)
{
    Clock *clock = new_clock();
    ExitTrace *trace = new_trace(clock, 64, 1u << 16);
    pthread_t writer;
    CHECK(!pthread_create(&writer, NULL, write_many, trace));
    uint64_t before = 0, now = 0;
    while (now < 50000) {
        size_t rows;
        now = count_sites(trace, &rows);
        CHECK(now >= before);
        before = now;
    }
    pthread_join(writer, NULL);
    exit_trace_free(trace);
    clock_free(clock);
}

int main(void)
{
    RUN(test_sites);
    RUN(test_full_table);
    RUN(test_ring);
    RUN(test_bands);
    RUN(test_wrong_sizes);
    RUN(test_reader);
    return 0;
}
