#include <stdlib.h>

#include "devices/device.h"

void device_init(Device *device, const DeviceClass *class, Board *board)
{
    device->class = class;
    device->board = board;
    pthread_mutex_init(&device->lock, NULL);
}

void device_free(Device *device)
{
    if (!device)
        return;
    if (device->class->destroy)
        device->class->destroy(device);
    pthread_mutex_destroy(&device->lock);
    free(device);
}

void device_reset(Device *device)
{
    pthread_mutex_lock(&device->lock);
    device->class->reset(device);
    pthread_mutex_unlock(&device->lock);
}

size_t device_state_size(const Device *device) { return device->class->state_size; }

uint32_t device_state_version(const Device *device) { return device->class->state_version; }

const char *device_name(const Device *device) { return device->class->name; }

void device_save(Device *device, void *state)
{
    memset(state, 0, device->class->state_size);
    pthread_mutex_lock(&device->lock);
    device->class->save(device, state);
    pthread_mutex_unlock(&device->lock);
}

int device_restore(Device *device, const void *state)
{
    pthread_mutex_lock(&device->lock);
    int result = device->class->restore(device, state);
    pthread_mutex_unlock(&device->lock);
    return result;
}

int device_map(Device *device, Bus *bus, uint64_t base, uint64_t size, uint32_t region, Error *error)
{
    return bus_add(bus, base, size, &device->class->ops, device, region, &device->lock, device->class->name, error);
}

uint64_t device_read(Device *device, uint32_t region, uint64_t offset, uint32_t size)
{
    uint64_t ones = size >= 8 ? UINT64_MAX : (1ull << (size * 8)) - 1;
    if (!device->class->ops.read)
        return ones;
    pthread_mutex_lock(&device->lock);
    uint64_t value = device->class->ops.read(device, region, offset, size);
    pthread_mutex_unlock(&device->lock);
    return value & ones;
}

void device_write(Device *device, uint32_t region, uint64_t offset, uint32_t size, uint64_t value)
{
    if (!device->class->ops.write)
        return;
    pthread_mutex_lock(&device->lock);
    device->class->ops.write(device, region, offset, size, value);
    pthread_mutex_unlock(&device->lock);
}
