/*
 * An address space of devices: ports (0..0xffff) or memory-mapped registers.
 *
 * A device adds ranges; a look-up hands it the offset in its range, with the device's own lock held. Overlap is an
 * error that names both devices. What nobody answers reads as all ones and is logged once per address.
 * Ranges may come and go while vCPUs run (PCI BARs): readers take no lock (a sequence counter tells them to retry).
 */
#ifndef PYVMM_IO_BUS_H
#define PYVMM_IO_BUS_H

#include <pthread.h>

#include "common/common.h"
#include "io/event_log.h"

#define BUS_MAX_RANGES 255

/* `region` is the number that the device gave to the range; size is 1, 2, 4 or 8 bytes. */
typedef uint64_t (*BusRead)(void *device, uint32_t region, uint64_t offset, uint32_t size);
typedef void (*BusWrite)(void *device, uint32_t region, uint64_t offset, uint32_t size, uint64_t value);

typedef struct DeviceOps {
    BusRead read;   /* NULL: reads as all ones */
    BusWrite write; /* NULL: ignored */
} DeviceOps;

typedef struct BusRange {
    uint64_t base;
    uint64_t size;
    const DeviceOps *ops;
    void *device;
    pthread_mutex_t *lock; /* the device's; NULL for a device that locks by itself */
    uint32_t region;
    char name[28];
} BusRange;

typedef struct Bus Bus;

enum BusKind { BUS_PIO, BUS_MMIO };

Bus *bus_new(enum BusKind kind, EventLog *log);
void bus_free(Bus *bus);

int bus_add(Bus *bus, uint64_t base, uint64_t size, const DeviceOps *ops, void *device, uint32_t region,
            pthread_mutex_t *lock, const char *name, Error *error);
int bus_remove(Bus *bus, uint64_t base); /* -ENOENT when no range starts there */

/* Returns whether a device answered. An access that runs over the end of a range is answered by the first device.
 */
bool bus_read(Bus *bus, uint64_t address, uint32_t size, uint64_t *value);
bool bus_write(Bus *bus, uint64_t address, uint32_t size, uint64_t value);
/* `count` writes of `size` bytes (1, 2 or 4) to one address, in order, as REP OUTS makes them; little-endian in
 * `data`. */
bool bus_write_string(Bus *bus, uint64_t address, uint32_t size, const void *data, size_t count);

/* Snapshot of the ranges, for listings: returns how many were copied. */
size_t bus_ranges(Bus *bus, BusRange *ranges, size_t capacity);
uint64_t bus_unmapped_count(const Bus *bus);

#endif
