#include <pthread.h>
#include <stdlib.h>
#include <time.h>

#include "engine/engine.h"
#include "engine/exit_trace.h"

enum { FIRST_SITES = 1024, MAX_BANDS = 512, BAND_SLOTS = 1024 };
#define FIRST_BUCKET_NS (1ull << 20)
#define PAGE_MASK       (~0xfffull)

_Static_assert(sizeof(ExitEvent) == 40 && sizeof(ExitSite) == 72 && sizeof(ExitBand) == 528,
               "the recorded file's layouts");
_Static_assert(EXIT_FAIL < EXIT_TRACE_REASONS, "a row for each reason");

struct ExitTrace {
    pthread_mutex_t lock;
    Clock *clock;
    ExitEvent *events;
    uint32_t event_capacity;
    ExitSite *sites; /* open addressing, linear probing; count 0: free */
    uint32_t site_slots, site_count, site_limit;
    ExitSite merged[EXIT_TRACE_REASONS];
    ExitBand *bands;
    uint16_t band_slots[BAND_SLOTS]; /* index + 1 of a band */
    uint32_t band_count;
    ExitBand merged_bands[EXIT_TRACE_REASONS];
    ExitTraceSummary summary;
};

static uint64_t host_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000ull + (uint64_t)now.tv_nsec;
}

ExitTrace *exit_trace_new(Clock *clock, uint32_t events, uint32_t sites, Error *error)
{
    if (!events || events > 1u << 24 || sites < 64 || sites > 1u << 20) {
        error_set(error, EINVAL, "a trace has 1 to %u events and 64 to %u sites", 1u << 24, 1u << 20);
        return NULL;
    }
    ExitTrace *trace = calloc(1, sizeof *trace);
    if (trace) {
        trace->events = calloc(events, sizeof *trace->events);
        trace->sites = calloc(FIRST_SITES, sizeof *trace->sites);
        trace->bands = calloc(MAX_BANDS, sizeof *trace->bands);
    }
    if (!trace || !trace->events || !trace->sites || !trace->bands) {
        exit_trace_free(trace);
        error_set(error, ENOMEM, "no host memory for a trace of %u events", events);
        return NULL;
    }
    pthread_mutex_init(&trace->lock, NULL);
    trace->clock = clock;
    trace->event_capacity = events;
    trace->site_slots = FIRST_SITES;
    trace->site_limit = sites;
    trace->summary = (ExitTraceSummary){.began = clock_now(clock),
                                        .tsc_began = exit_trace_cycles(),
                                        .host_began = host_ns(),
                                        .bucket_ns = FIRST_BUCKET_NS};
    return trace;
}

void exit_trace_free(ExitTrace *trace)
{
    if (!trace)
        return;
    if (trace->clock)
        pthread_mutex_destroy(&trace->lock);
    free(trace->events);
    free(trace->sites);
    free(trace->bands);
    free(trace);
}

static uint64_t hash(uint64_t a, uint64_t b, uint64_t c)
{
    uint64_t x = (a ^ b << 32 ^ b >> 32 ^ c << 56) * 0x9e3779b97f4a7c15ull;
    return (x ^ x >> 29) * 0xbf58476d1ce4e5b9ull >> 20;
}

/* Sites ----------------------------------------------------------------------------------------------------------
 */

static bool same_site(const ExitSite *a, const ExitSite *b)
{
    return a->rip == b->rip && a->address == b->address && a->reason == b->reason && a->flags == b->flags &&
           a->vector == b->vector && a->kind == b->kind;
}

/* The slot of this key, or the free one where it belongs. */
static ExitSite *site_slot(ExitSite *sites, uint32_t slots, const ExitSite *key)
{
    uint64_t at = hash(key->rip, key->address, (uint64_t)key->flags << 16 | key->vector << 8 | key->reason);
    for (;; at++) {
        ExitSite *site = &sites[at & (slots - 1)];
        if (!site->count || same_site(site, key))
            return site;
    }
}

/* Twice as many slots; false: as many as there may be, or no memory. */
static bool grow_sites(ExitTrace *trace)
{
    uint32_t slots = trace->site_slots * 2;
    ExitSite *sites = calloc(slots, sizeof *sites);
    if (!sites)
        return false;
    for (uint32_t i = 0; i < trace->site_slots; i++)
        if (trace->sites[i].count)
            *site_slot(sites, slots, &trace->sites[i]) = trace->sites[i];
    free(trace->sites);
    trace->sites = sites;
    trace->site_slots = slots;
    return true;
}

static ExitSite *find_site(ExitTrace *trace, const ExitSite *key)
{
    ExitSite *site = site_slot(trace->sites, trace->site_slots, key);
    if (likely(site->count))
        return site;
    if (trace->site_count < trace->site_limit &&
        (trace->site_count < trace->site_slots / 4 * 3 || grow_sites(trace))) {
        trace->site_count++;
        site = site_slot(trace->sites, trace->site_slots, key);
    } else {
        trace->summary.merged++;
        site = &trace->merged[key->reason];
    }
    if (!site->count) {
        bool merged = site == &trace->merged[key->reason];
        *site = merged ? (ExitSite){.reason = key->reason, .kind = EXIT_TRACE_MERGED} : *key;
    }
    return site;
}

/* What an exit counts as; see the header for what is merged. */
static ExitSite site_key(const ExitEvent *event)
{
    ExitSite key = {.rip = event->rip,
                    .address = event->address,
                    .reason = event->reason,
                    .flags = event->flags,
                    .size = event->size,
                    .vector = event->vector};
    uint32_t mode = event->flags >> EXIT_TRACE_MODE_SHIFT & 7;
    if (event->reason == EXIT_EXCEPTION || event->reason == EXIT_SYSTEM)
        key.address = 0; /* CR2 */
    if (event->reason == EXIT_INTERRUPT && !(event->flags & EXIT_TRACE_SOFTWARE)) {
        key.rip = 0;
        key.flags = EXIT_TRACE_HANDLED;
    } else if ((event->flags & 3) == 3 && mode >= MODE_PROTECTED16 && event->rip) {
        key.rip &= PAGE_MASK;
        key.kind = EXIT_TRACE_PAGE;
    }
    return key;
}

static void count_site(ExitTrace *trace, const ExitEvent *event)
{
    ExitSite key = site_key(event), *site = find_site(trace, &key);
    if (!site->count)
        site->first = event->time;
    site->last = event->time;
    site->count++;
    site->cycles += event->cycles;
    site->max_cycles = MAX(site->max_cycles, event->cycles);
    site->value = event->value;
}

/* Bands ----------------------------------------------------------------------------------------------------------
 */

static uint64_t band_address(const ExitEvent *event)
{
    switch (event->reason) {
    case EXIT_MMIO:
        return event->address & PAGE_MASK;
    case EXIT_INTERRUPT:
    case EXIT_EXCEPTION:
        return event->vector;
    case EXIT_IO:
    case EXIT_MSR:
    case EXIT_CPUID:
        return event->address;
    default:
        return 0;
    }
}

static ExitBand *find_band(ExitTrace *trace, uint32_t reason, uint64_t address)
{
    for (uint64_t at = hash(address, reason, 0);; at++) {
        uint16_t *slot = &trace->band_slots[at & (BAND_SLOTS - 1)];
        if (*slot) {
            ExitBand *band = &trace->bands[*slot - 1];
            if (band->address == address && band->reason == reason)
                return band;
        } else if (trace->band_count < MAX_BANDS) {
            ExitBand *band = &trace->bands[trace->band_count];
            *slot = (uint16_t)++trace->band_count;
            band->address = address;
            band->reason = reason;
            return band;
        } else {
            ExitBand *band = &trace->merged_bands[reason];
            band->reason = reason;
            band->kind = EXIT_TRACE_MERGED;
            return band;
        }
    }
}

static void halve(ExitBand *band)
{
    for (uint32_t i = 0; i < EXIT_TRACE_BUCKETS / 2; i++)
        band->counts[i] = band->counts[2 * i] + band->counts[2 * i + 1];
    memset(&band->counts[EXIT_TRACE_BUCKETS / 2], 0, sizeof band->counts / 2);
}

static void count_band(ExitTrace *trace, const ExitEvent *event)
{
    uint64_t since = event->time > trace->summary.began ? event->time - trace->summary.began : 0;
    while (since / trace->summary.bucket_ns >= EXIT_TRACE_BUCKETS) {
        for (uint32_t i = 0; i < trace->band_count; i++)
            halve(&trace->bands[i]);
        for (uint32_t i = 0; i < EXIT_TRACE_REASONS; i++)
            halve(&trace->merged_bands[i]);
        trace->summary.bucket_ns *= 2;
    }
    find_band(trace, event->reason, band_address(event))->counts[since / trace->summary.bucket_ns]++;
}

/* In and out -----------------------------------------------------------------------------------------------------
 */

void exit_trace_add(ExitTrace *trace, const VmExit *exit, uint64_t answered)
{
    ExitEvent event = {
        .time = clock_now(trace->clock),
        .rip = exit->rip,
        .address = exit->address,
        .value = exit->value,
        .cycles = exit->cycles,
        .reason = (uint8_t)(exit->reason % EXIT_TRACE_REASONS),
        .flags = (uint8_t)((exit->privilege & 0x1f) | (exit->is_write ? EXIT_TRACE_WRITE : 0) |
                           (exit->handled ? EXIT_TRACE_HANDLED : 0) |
                           (exit->reason == EXIT_INTERRUPT && exit->code ? EXIT_TRACE_SOFTWARE : 0)),
        .size = (uint8_t)exit->size,
        .vector = (uint8_t)(exit->reason == EXIT_SYSTEM ? exit->request : exit->vector),
    };
    pthread_mutex_lock(&trace->lock);
    trace->events[trace->summary.events++ % trace->event_capacity] = event;
    trace->summary.counts[event.reason]++;
    trace->summary.cycles[event.reason] += event.cycles;
    if (event.cycles)
        trace->summary.costs[event.reason][31 - __builtin_clz(event.cycles)]++;
    count_site(trace, &event);
    count_band(trace, &event);
    trace->summary.own_cycles += exit_trace_cycles() - answered;
    pthread_mutex_unlock(&trace->lock);
}

size_t exit_trace_events(ExitTrace *trace, ExitEvent *events, size_t capacity)
{
    pthread_mutex_lock(&trace->lock);
    uint64_t total = trace->summary.events;
    size_t kept = MIN(total, (uint64_t)trace->event_capacity), taken = MIN(kept, capacity);
    for (size_t i = 0; i < taken; i++)
        events[i] = trace->events[(total - taken + i) % trace->event_capacity];
    pthread_mutex_unlock(&trace->lock);
    return kept;
}

size_t exit_trace_sites(ExitTrace *trace, ExitSite *sites, size_t capacity)
{
    size_t count = 0;
    pthread_mutex_lock(&trace->lock);
    for (uint32_t i = 0; i < trace->site_slots; i++)
        if (trace->sites[i].count && count++ < capacity)
            sites[count - 1] = trace->sites[i];
    for (uint32_t i = 0; i < EXIT_TRACE_REASONS; i++)
        if (trace->merged[i].count && count++ < capacity)
            sites[count - 1] = trace->merged[i];
    pthread_mutex_unlock(&trace->lock);
    return count;
}

size_t exit_trace_bands(ExitTrace *trace, ExitBand *bands, size_t capacity)
{
    size_t count = 0;
    pthread_mutex_lock(&trace->lock);
    for (uint32_t i = 0; i < trace->band_count; i++)
        if (count++ < capacity)
            bands[count - 1] = trace->bands[i];
    for (uint32_t i = 0; i < EXIT_TRACE_REASONS; i++)
        if (trace->merged_bands[i].kind && count++ < capacity)
            bands[count - 1] = trace->merged_bands[i];
    pthread_mutex_unlock(&trace->lock);
    return count;
}

void exit_trace_summary(ExitTrace *trace, ExitTraceSummary *summary)
{
    pthread_mutex_lock(&trace->lock);
    trace->summary.now = clock_now(trace->clock);
    trace->summary.tsc_now = exit_trace_cycles();
    trace->summary.host_now = host_ns();
    *summary = trace->summary;
    pthread_mutex_unlock(&trace->lock);
}
