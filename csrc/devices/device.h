/*
 * The one face of every C device: `Device` is the first member of each device's struct.
 *
 * A device knows offsets in its regions, its IrqLine and the Board's wires; where its regions are on a bus is
 * decided by the machine (pyvmm/machine/layout.py). The bus holds `lock` around ops; timers, I/O callbacks, reset,
 * save and restore take it themselves. `State` is a packed, versioned struct named in csrc/pyvmm.cdef.h: the
 * device's registers by their datasheet names, readable from Python.
 */
#ifndef PYVMM_DEVICES_DEVICE_H
#define PYVMM_DEVICES_DEVICE_H

#include <pthread.h>

#include "io/board.h"

typedef struct Device Device;

typedef struct DeviceClass {
    const char *name; /* "i8254" */
    DeviceOps ops;
    void (*reset)(Device *device);   /* power-on values; lock held */
    void (*destroy)(Device *device); /* frees all but the Device's own lock */
    size_t state_size;               /* sizeof the State struct */
    uint32_t state_version;
    void (*save)(Device *device, void *state);         /* lock held */
    int (*restore)(Device *device, const void *state); /* lock held; -EINVAL when a field is out of range */
} DeviceClass;

struct Device {
    const DeviceClass *class;
    Board *board;
    pthread_mutex_t lock;
};

/* For constructors: fills the header. */
void device_init(Device *device, const DeviceClass *class, Board *board);

void device_free(Device *device); /* destroy, then the lock and the memory; NULL is fine */
void device_reset(Device *device);
size_t device_state_size(const Device *device);
uint32_t device_state_version(const Device *device);
const char *device_name(const Device *device);
void device_save(Device *device, void *state);
int device_restore(Device *device, const void *state);

/* Put one of its regions on a bus. */
int device_map(Device *device, Bus *bus, uint64_t base, uint64_t size, uint32_t region, Error *error);
/* One access as the bus would make it: for tests and for Python subclasses that override and call up. */
uint64_t device_read(Device *device, uint32_t region, uint64_t offset, uint32_t size);
void device_write(Device *device, uint32_t region, uint64_t offset, uint32_t size, uint64_t value);

#endif
