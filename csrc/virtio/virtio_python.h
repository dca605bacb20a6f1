/*
 * A virtio device whose requests are answered by somebody outside: a Python class.
 *
 * Source: virtio 1.2 §2 (what is common to all devices). A request is a chain: its readable bytes are handed out as
 * one piece, with how many bytes an answer may have; the answer is copied to its writable bytes, at once or later
 * and from any thread. Left out: driver writes to the configuration, requests of more than VIRTIO_PYTHON_MAX_BYTES
 * (the driver must reset the device), saved state of requests that have no answer yet (virtio_python_pending says
 * whether any).
 */
#ifndef PYVMM_VIRTIO_VIRTIO_PYTHON_H
#define PYVMM_VIRTIO_VIRTIO_PYTHON_H

#include "virtio/virtio_place.h"

#define VIRTIO_PYTHON_MAX_BYTES   (16u << 20)
#define VIRTIO_PYTHON_MAX_PENDING 4096u

/* Called without the device's lock where a thread of its own runs it. The answer may be given in here. */
typedef void (*VirtioPythonRequest)(void *handle, uint32_t queue, uint64_t ticket, const uint8_t *data, size_t size,
                                    uint64_t room);

typedef struct VirtioPythonOptions {
    char name[32];
    uint32_t device_id; /* 1 to 63, §5 */
    uint64_t features;  /* bits 0 to 23 and 50 to 63 */
    uint32_t queue_count;
    uint32_t queue_size; /* a power of two up to 1024 */
    uint32_t config_size;
    uint8_t config[VIRTIO_CONFIG_MAX];
    VirtioPythonRequest request;
    void *handle;
} VirtioPythonOptions;

Device *virtio_python_new(Board *board, const VirtioPlace *place, const VirtioPythonOptions *options, Error *error);
/* 0, or -ENOENT: the driver has reset the device meanwhile, or it is answered. What has no room is cut. */
int virtio_python_answer(Device *device, uint64_t ticket, const uint8_t *data, size_t size);
uint32_t virtio_python_pending(Device *device); /* requests without an answer */
/* Its configuration changes: the driver is told (§2.5). -EINVAL beyond its size. */
int virtio_python_set_config(Device *device, uint32_t offset, const uint8_t *data, uint32_t size);

#endif
