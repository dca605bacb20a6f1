/*
 * Device RAM: memory of a device (a frame buffer) that the guest reaches as RAM, without an exit.
 *
 * Unlike a memslot it comes and goes while vCPUs run, as a base address register is programmed. It is a comfort:
 * the device answers the same addresses on the bus with the same bytes, so an engine that has not mapped it yet, or
 * cannot, changes nothing but speed. After a removal no vCPU reaches the bytes any more once it has gone on to its
 * next exit: at once for the vCPU that moved the register. The list is the board's, so that it outlives an engine.
 *
 * Left out: devices do not reach it (DMA into a frame buffer is -EFAULT), it keeps no dirty bitmap, and code in it
 * is not translated ahead.
 *
 * Lock order: a device's lock may be held; the list's own lock is held around the engine's call.
 */
#ifndef PYVMM_MEMORY_DEVICE_RAM_H
#define PYVMM_MEMORY_DEVICE_RAM_H

#include "memory/memory.h"

#define DEVICE_RAM_MAX 8

typedef struct DeviceRam {
    gpa_t gpa;
    uint64_t size; /* both multiples of the page size */
    uint8_t *hva;
} DeviceRam;

/* The engine's: `number` is below DEVICE_RAM_MAX and stays the same until it is taken back. 0 or -errno; what it
 * refuses goes to the bus. */
typedef int (*DeviceRamSet)(void *engine, uint32_t number, const DeviceRam *ram, bool add);

typedef struct DeviceRams DeviceRams;

DeviceRams *device_rams_new(void);
void device_rams_free(DeviceRams *list);

/* For devices. -EINVAL (alignment, end of the address space), -EEXIST where a memslot or another one is, -ENOSPC.
 */
int device_ram_add(DeviceRams *list, const GuestMemory *memory, const DeviceRam *ram);
int device_ram_remove(DeviceRams *list, gpa_t gpa); /* the one that begins there; -ENOENT */

/* For engines: the host's address of the byte at `gpa`, or NULL. Any thread. */
uint8_t *device_ram_find(DeviceRams *list, gpa_t gpa);
/* For engines: attach hands every entry over, after the engine before has given it back. `set` NULL detaches. */
void device_rams_attach(DeviceRams *list, DeviceRamSet set, void *engine);

#endif
