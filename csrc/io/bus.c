#include <stdio.h>
#include <stdlib.h>

#include "io/bus.h"

#define PORT_COUNT 65536
#define SEEN_SLOTS 512 /* addresses remembered as already logged */

struct Bus {
    uint32_t sequence; /* odd while a writer changes the table */
    uint32_t count;
    enum BusKind kind;
    EventLog *log;
    pthread_mutex_t writer;
    uint64_t unmapped;
    uint64_t seen[SEEN_SLOTS];
    BusRange ranges[BUS_MAX_RANGES]; /* sorted by base */
    uint8_t port_to_range[];         /* BUS_PIO: index + 1 of the range that holds a port, 0 = none */
};

Bus *bus_new(enum BusKind kind, EventLog *log)
{
    Bus *bus = calloc(1, sizeof *bus + (kind == BUS_PIO ? PORT_COUNT : 0));
    if (!bus)
        return NULL;
    bus->kind = kind;
    bus->log = log;
    pthread_mutex_init(&bus->writer, NULL);
    return bus;
}

void bus_free(Bus *bus)
{
    if (!bus)
        return;
    pthread_mutex_destroy(&bus->writer);
    free(bus);
}

static void index_ports(Bus *bus)
{
    if (bus->kind != BUS_PIO)
        return;
    memset(bus->port_to_range, 0, PORT_COUNT);
    for (uint32_t i = 0; i < bus->count; i++)
        memset(bus->port_to_range + bus->ranges[i].base, (int)i + 1, bus->ranges[i].size);
}

static void change_begin(Bus *bus)
{
    pthread_mutex_lock(&bus->writer);
    __atomic_store_n(&bus->sequence, bus->sequence + 1, __ATOMIC_RELAXED);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

static void change_end(Bus *bus)
{
    __atomic_store_n(&bus->sequence, bus->sequence + 1, __ATOMIC_RELEASE);
    pthread_mutex_unlock(&bus->writer);
}

static int insert(Bus *bus, const BusRange *range, Error *error)
{
    if (bus->count == BUS_MAX_RANGES)
        return error_set(error, ENOSPC, "%s: the bus already has %d ranges", range->name, BUS_MAX_RANGES);
    uint32_t at = 0;
    for (; at < bus->count && bus->ranges[at].base < range->base; at++)
        continue;
    const BusRange *before = at ? &bus->ranges[at - 1] : NULL;
    const BusRange *after = at < bus->count ? &bus->ranges[at] : NULL;
    const BusRange *other = NULL;
    if (before && before->base + before->size > range->base)
        other = before;
    else if (after && range->base + range->size > after->base)
        other = after;
    if (other)
        return error_set(error, EEXIST, "%s at %#llx-%#llx overlaps %s at %#llx-%#llx", range->name,
                         (unsigned long long)range->base, (unsigned long long)(range->base + range->size - 1),
                         other->name, (unsigned long long)other->base,
                         (unsigned long long)(other->base + other->size - 1));
    memmove(&bus->ranges[at + 1], &bus->ranges[at], (bus->count - at) * sizeof *range);
    bus->ranges[at] = *range;
    bus->count++;
    index_ports(bus);
    return 0;
}

int bus_add(Bus *bus, uint64_t base, uint64_t size, const DeviceOps *ops, void *device, uint32_t region,
            pthread_mutex_t *lock, const char *name, Error *error)
{
    uint64_t limit = bus->kind == BUS_PIO ? PORT_COUNT : UINT64_MAX;
    if (size == 0 || base >= limit || size > limit - base)
        return error_set(error, EINVAL, "%s: range %#llx + %#llx is not in the address space", name,
                         (unsigned long long)base, (unsigned long long)size);
    BusRange range = {.base = base, .size = size, .ops = ops, .device = device, .lock = lock, .region = region};
    snprintf(range.name, sizeof range.name, "%s", name);
    change_begin(bus);
    int result = insert(bus, &range, error);
    change_end(bus);
    return result;
}

int bus_remove(Bus *bus, uint64_t base)
{
    int result = -ENOENT;
    change_begin(bus);
    for (uint32_t i = 0; i < bus->count; i++) {
        if (bus->ranges[i].base != base)
            continue;
        bus->count--;
        memmove(&bus->ranges[i], &bus->ranges[i + 1], (bus->count - i) * sizeof bus->ranges[0]);
        index_ports(bus);
        result = 0;
        break;
    }
    change_end(bus);
    return result;
}

static const BusRange *find_range(const Bus *bus, uint64_t address)
{
    if (bus->kind == BUS_PIO) {
        uint8_t index = address < PORT_COUNT ? __atomic_load_n(&bus->port_to_range[address], __ATOMIC_RELAXED) : 0;
        return index ? &bus->ranges[index - 1] : NULL;
    }
    uint32_t low = 0, high = __atomic_load_n(&bus->count, __ATOMIC_RELAXED);
    while (low < high) {
        uint32_t middle = (low + high) / 2;
        const BusRange *range = &bus->ranges[middle];
        if (address < range->base)
            high = middle;
        else if (address - range->base >= range->size)
            low = middle + 1;
        else
            return range;
    }
    return NULL;
}

/* A consistent copy of the range at `address`, whatever writers do meanwhile. */
static bool look_up(const Bus *bus, uint64_t address, BusRange *found)
{
    for (;;) {
        uint32_t before = __atomic_load_n(&bus->sequence, __ATOMIC_ACQUIRE);
        if (likely(!(before & 1))) {
            const BusRange *range = find_range(bus, address);
            if (range) {
                found->base = range->base;
                found->ops = range->ops;
                found->device = range->device;
                found->lock = range->lock;
                found->region = range->region;
            }
            __atomic_thread_fence(__ATOMIC_ACQUIRE);
            if (likely(__atomic_load_n(&bus->sequence, __ATOMIC_RELAXED) == before))
                return range != NULL;
        }
        __builtin_ia32_pause();
    }
}

static void note_unmapped(Bus *bus, uint64_t address, uint32_t size, const char *verb)
{
    __atomic_fetch_add(&bus->unmapped, 1, __ATOMIC_RELAXED);
    uint64_t key = address * 2 + 1 + (verb[0] == 'w'); /* never 0 */
    uint64_t *slot = &bus->seen[(key * 0x9e3779b97f4a7c15ull) >> 55];
    if (__atomic_exchange_n(slot, key, __ATOMIC_RELAXED) != key)
        event_log_add(bus->log, "%s: nobody answers a %u-byte %s at %#llx", bus->kind == BUS_PIO ? "port" : "mmio",
                      size, verb, (unsigned long long)address);
}

static uint64_t ones(uint32_t size) { return size >= 8 ? UINT64_MAX : (1ull << (size * 8)) - 1; }

bool bus_read(Bus *bus, uint64_t address, uint32_t size, uint64_t *value)
{
    BusRange range;
    if (!look_up(bus, address, &range)) {
        *value = ones(size);
        note_unmapped(bus, address, size, "read");
        return false;
    }
    if (!range.ops->read) {
        *value = ones(size);
        return true;
    }
    if (range.lock)
        pthread_mutex_lock(range.lock);
    *value = range.ops->read(range.device, range.region, address - range.base, size) & ones(size);
    if (range.lock)
        pthread_mutex_unlock(range.lock);
    return true;
}

bool bus_write(Bus *bus, uint64_t address, uint32_t size, uint64_t value)
{
    BusRange range;
    if (!look_up(bus, address, &range)) {
        note_unmapped(bus, address, size, "write");
        return false;
    }
    if (!range.ops->write)
        return true;
    if (range.lock)
        pthread_mutex_lock(range.lock);
    range.ops->write(range.device, range.region, address - range.base, size, value & ones(size));
    if (range.lock)
        pthread_mutex_unlock(range.lock);
    return true;
}

bool bus_write_string(Bus *bus, uint64_t address, uint32_t size, const void *data, size_t count)
{
    bool answered = true;
    for (size_t i = 0; i < count; i++) {
        uint64_t value = 0;
        memcpy(&value, (const uint8_t *)data + i * size, size);
        answered &= bus_write(bus, address, size, value);
    }
    return answered;
}

size_t bus_ranges(Bus *bus, BusRange *ranges, size_t capacity)
{
    pthread_mutex_lock(&bus->writer);
    size_t count = MIN(capacity, bus->count);
    memcpy(ranges, bus->ranges, count * sizeof *ranges);
    pthread_mutex_unlock(&bus->writer);
    return count;
}

uint64_t bus_unmapped_count(const Bus *bus) { return __atomic_load_n(&bus->unmapped, __ATOMIC_RELAXED); }
