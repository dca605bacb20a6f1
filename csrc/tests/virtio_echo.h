/* A virtio device for tests of what all of them share: it copies the readable bytes of a chain to the writable ones
 * and gives chains back in an order of its own. */
#ifndef PYVMM_TESTS_VIRTIO_ECHO_H
#define PYVMM_TESTS_VIRTIO_ECHO_H

#include <stdlib.h>

#include "virtio/virtio_chain.h"
#include "virtio/virtio_mmio.h"
#include "virtio/virtio_pci.h"

enum { ECHO_QUEUES = 2, ECHO_QUEUE_SIZE = 64, ECHO_BATCH = 8, ECHO_CONFIG = 8, ECHO_COPY = 256 };

typedef struct Echo Echo;

struct Echo {
    VirtioDevice virtio;
    uint32_t random;                            /* seed of the order; 0: as they come */
    void (*in_io)(Echo *echo, uint32_t queue);  /* lock given up (unless the queue runs inside a kick) */
    void (*in_run)(Echo *echo, uint32_t queue); /* lock held */
    uint64_t chains;
    VirtqSegment segments[ECHO_QUEUE_SIZE + 8];
    uint8_t copy[ECHO_COPY];
};

static inline Echo *echo_of(VirtioDevice *device) { return container_of(device, Echo, virtio); }

static inline uint32_t echo_random(Echo *echo, uint32_t below)
{
    echo->random = echo->random * 1664525 + 1013904223;
    return (echo->random >> 16) % below;
}

typedef struct EchoDone {
    VirtqToken token;
    uint32_t written;
} EchoDone;

/* As often as not a chain is left for later first: it has to come again. */
static inline int echo_pop(Echo *echo, Virtqueue *ring, VirtqChain *chain)
{
    int result = virtqueue_pop(ring, chain, echo->segments, ARRAY_SIZE(echo->segments));
    if (result == 1 && echo->random && echo_random(echo, 2)) {
        uint16_t position = virtqueue_last_avail(ring);
        virtqueue_unpop(ring, chain->token);
        result = virtqueue_pop(ring, chain, echo->segments, ARRAY_SIZE(echo->segments));
        if (result == 1 && virtqueue_last_avail(ring) != position)
            abort();
    }
    return result;
}

static inline bool echo_batch(VirtioDevice *device, VirtioQueue *queue)
{
    Echo *echo = echo_of(device);
    EchoDone done[ECHO_BATCH];
    uint32_t count = 0;
    const char *why = NULL;
    while (count < ECHO_BATCH) {
        VirtqChain chain;
        int result = echo_pop(echo, &queue->ring, &chain);
        if (result == 0)
            break;
        if (result < 0) {
            why = result == -ENOSPC ? "too many pieces" : queue->ring.fault;
            break;
        }
        size_t bytes = virtio_chain_read(echo->segments, &chain, 0, echo->copy, ECHO_COPY);
        bytes = virtio_chain_write(queue->ring.memory, echo->segments, &chain, 0, echo->copy, bytes);
        done[count++] = (EchoDone){chain.token, (uint32_t)bytes};
    }
    if (count && echo->in_io) {
        virtio_begin_io(device);
        echo->in_io(echo, queue->index);
        virtio_end_io(device);
    }
    for (uint32_t left = count; left; left--) {
        uint32_t at = echo->random ? echo_random(echo, left) : count - left;
        virtqueue_push(&queue->ring, done[at].token, done[at].written);
        if (echo->random)
            done[at] = done[left - 1];
    }
    echo->chains += count;
    if (count)
        virtio_publish(device, queue);
    if (why)
        virtio_fail(device, queue, why);
    return count != 0;
}

static inline void echo_run(VirtioDevice *device, VirtioQueue *queue)
{
    if (echo_of(device)->in_run)
        echo_of(device)->in_run(echo_of(device), queue->index);
    virtio_serve(device, queue, echo_batch);
}

static inline bool echo_config_write(VirtioDevice *device, uint32_t offset, uint8_t value)
{
    return offset < ECHO_CONFIG / 2;
}

static const VirtioClass echo_class = {
    .name = "virtio-echo",
    .id = 63,
    .pci_class = 0xff0000,
    .transitional_id = 0x103f,
    .run = echo_run,
    .config_write = echo_config_write,
};

/* NULL: see `error`. */
static inline Device *echo_new(Board *board, const VirtioPlace *place, Error *error)
{
    Echo *echo = calloc(1, sizeof *echo);
    VirtioSetup setup = {.config_size = ECHO_CONFIG, .queue_count = ECHO_QUEUES, .queue_size = ECHO_QUEUE_SIZE};
    virtio_init(&echo->virtio, &echo_class, &setup);
    return virtio_place(board, &echo->virtio, place, error);
}

#endif
