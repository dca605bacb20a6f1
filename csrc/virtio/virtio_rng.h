/*
 * virtio entropy device: random bytes of the host's for the guest.
 *
 * Source: virtio 1.2 §5.4. The bytes are getrandom(2)'s. `bytes_per_second` limits what a guest can draw: requests
 * wait in the ring until they can be answered whole, so a limit costs no memory and no request is refused. With a
 * seed the bytes are a fixed stream (SplitMix64) instead, so that a run on a virtual clock repeats: such a guest's
 * keys are not secret.
 */
#ifndef PYVMM_VIRTIO_VIRTIO_RNG_H
#define PYVMM_VIRTIO_VIRTIO_RNG_H

#include "virtio/virtio_place.h"

#define VIRTIO_RNG_QUEUE_SIZE 64

typedef struct VirtioRngOptions {
    uint64_t bytes_per_second; /* 0: no limit */
    bool seeded;
    uint64_t seed;
} VirtioRngOptions;

typedef struct VirtioRngCounters {
    uint64_t requests;
    uint64_t bytes;
    uint64_t waits; /* times that the limit made the driver wait */
} VirtioRngCounters;

Device *virtio_rng_new(Board *board, const VirtioPlace *place, const VirtioRngOptions *options, Error *error);
void virtio_rng_counters(Device *device, VirtioRngCounters *counters);

#endif
