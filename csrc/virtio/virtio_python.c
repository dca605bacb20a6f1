#include <stdlib.h>

#include "virtio/virtio_chain.h"
#include "virtio/virtio_python.h"

#define CHAIN_SEGMENTS (VIRTQ_MAX_SIZE + 16u)

typedef struct Request {
    struct Request *next;
    VirtioQueue *queue;
    uint64_t ticket;
    VirtqChain chain;
    bool answered; /* while it was handed out: completed after that */
    uint32_t written;
    VirtqSegment segments[]; /* all of the chain's */
} Request;

typedef struct VirtioPython {
    VirtioDevice virtio;
    VirtioClass class; /* named after what Python makes of it */
    VirtioPythonOptions options;
    uint64_t tickets;
    uint32_t pending;
    Request *requests;
    uintptr_t runner; /* thread that is handing one out; its lock is given up, or kept: `lock_kept` */
    VirtqSegment chain[CHAIN_SEGMENTS];
} VirtioPython;

static VirtioPython *python_of(VirtioDevice *device) { return container_of(device, VirtioPython, virtio); }

static Request *find(VirtioPython *python, uint64_t ticket)
{
    for (Request *request = python->requests; request; request = request->next)
        if (request->ticket == ticket)
            return request;
    return NULL;
}

static void forget(VirtioPython *python, Request *request)
{
    Request **link = &python->requests;
    while (*link != request)
        link = &(*link)->next;
    *link = request->next;
    python->pending--;
    free(request);
}

static void complete(VirtioPython *python, Request *request)
{
    VirtioQueue *queue = request->queue;
    if (virtio_queue_is_live(queue)) {
        virtqueue_push(&queue->ring, request->chain.token, request->written);
        virtio_publish(&python->virtio, queue);
    }
    forget(python, request);
}

/* What was answered while a request was handed out, be it this one or an older one. */
static void complete_answered(VirtioPython *python)
{
    for (Request *request = python->requests, *next; request; request = next) {
        next = request->next;
        if (request->answered)
            complete(python, request);
    }
}

/* NULL with the device failed, or out of host memory. */
static Request *new_request(VirtioPython *python, VirtioQueue *queue, const VirtqChain *chain)
{
    uint32_t count = chain->readable + chain->writable;
    Request *request = NULL;
    if (python->pending < VIRTIO_PYTHON_MAX_PENDING)
        request = calloc(1, sizeof *request + count * sizeof(VirtqSegment));
    if (!request) {
        virtio_fail(&python->virtio, queue, "more requests are under way than the device keeps");
        return NULL;
    }
    memcpy(request->segments, python->chain, count * sizeof(VirtqSegment));
    request->queue = queue;
    request->chain = *chain;
    request->ticket = ++python->tickets;
    request->next = python->requests;
    python->requests = request;
    python->pending++;
    return request;
}

static bool hand_out(VirtioDevice *device, VirtioQueue *queue)
{
    VirtioPython *python = python_of(device);
    VirtqChain chain;
    int result = virtqueue_pop(&queue->ring, &chain, python->chain, CHAIN_SEGMENTS);
    if (result == 0)
        return false;
    const char *why = result == -ENOSPC ? "buffers are in too many pieces" : result < 0 ? queue->ring.fault : NULL;
    if (!why && chain.readable_bytes > VIRTIO_PYTHON_MAX_BYTES)
        why = "a request of more than 16 MiB";
    uint8_t *data = why ? NULL : malloc(MAX(chain.readable_bytes, 1u));
    if (!data) {
        virtio_fail(device, queue, why ? why : "no host memory for a request");
        return false;
    }
    Request *request = new_request(python, queue, &chain);
    if (request) {
        uint64_t ticket = request->ticket;
        size_t size = virtio_chain_read(request->segments, &chain, 0, data, chain.readable_bytes);
        __atomic_store_n(&python->runner, (uintptr_t)pthread_self(), __ATOMIC_RELAXED);
        virtio_begin_io(device);
        python->options.request(python->options.handle, queue->index, ticket, data, size, chain.writable_bytes);
        virtio_end_io(device);
        __atomic_store_n(&python->runner, 0, __ATOMIC_RELAXED);
        complete_answered(python);
    }
    free(data);
    return virtio_queue_is_live(queue);
}

int virtio_python_answer(Device *device, uint64_t ticket, const uint8_t *data, size_t size)
{
    VirtioPython *python = python_of(virtio_of(device));
    bool inside = __atomic_load_n(&python->runner, __ATOMIC_RELAXED) == (uintptr_t)pthread_self();
    bool locked = inside && python->virtio.lock_kept; /* inside a notification, whose thread holds the lock */
    if (!locked)
        pthread_mutex_lock(&device->lock);
    Request *request = find(python, ticket);
    int result = request && !request->answered ? 0 : -ENOENT;
    if (result == 0) {
        request->written = (uint32_t)virtio_chain_write(device->board->memory, request->segments, &request->chain,
                                                        0, data, MIN(size, UINT32_MAX));
        request->answered = true;
        if (!inside)
            complete(python, request);
    }
    if (!locked)
        pthread_mutex_unlock(&device->lock);
    return result;
}

uint32_t virtio_python_pending(Device *device)
{
    pthread_mutex_lock(&device->lock);
    uint32_t pending = python_of(virtio_of(device))->pending;
    pthread_mutex_unlock(&device->lock);
    return pending;
}

int virtio_python_set_config(Device *device, uint32_t offset, const uint8_t *data, uint32_t size)
{
    VirtioDevice *virtio = virtio_of(device);
    if (offset > virtio->config_size || size > virtio->config_size - offset)
        return -EINVAL;
    pthread_mutex_lock(&device->lock);
    memcpy(virtio->config + offset, data, size);
    virtio_config_changed(virtio);
    pthread_mutex_unlock(&device->lock);
    return 0;
}

static void python_run(VirtioDevice *device, VirtioQueue *queue) { virtio_serve(device, queue, hand_out); }

/* Whoever answers one of these later is told that it is gone. */
static void python_reset(VirtioDevice *device)
{
    VirtioPython *python = python_of(device);
    while (python->requests)
        forget(python, python->requests);
}

/* §2.6.1: what was taken from the queue is the driver's again; the token means nothing to the ring that comes. */
static void python_queue_reset(VirtioDevice *device, VirtioQueue *queue)
{
    VirtioPython *python = python_of(device);
    for (Request *request = python->requests, *next; request; request = next) {
        next = request->next;
        if (request->queue == queue)
            forget(python, request);
    }
}

static const VirtioClass python_class = {.pci_class = 0x00ff00,
                                         .run = python_run,
                                         .reset = python_reset,
                                         .queue_reset = python_queue_reset,
                                         .destroy = python_reset};

Device *virtio_python_new(Board *board, const VirtioPlace *place, const VirtioPythonOptions *options, Error *error)
{
    uint32_t size = options->queue_size, count = options->queue_count;
    if (options->device_id < 1 || options->device_id > 63 || count < 1 || count > VIRTIO_MAX_QUEUES || size < 1 ||
        size > VIRTQ_MAX_SIZE || size & (size - 1) || options->config_size > VIRTIO_CONFIG_MAX) {
        error_set(
            error, EINVAL,
            "virtio device: its ID is 1 to 63, it has 1 to %d queues of 1 to %d (a power of two) and at most %d"
            " bytes of configuration",
            VIRTIO_MAX_QUEUES, VIRTQ_MAX_SIZE, VIRTIO_CONFIG_MAX);
        return NULL;
    }
    VirtioPython *python = calloc(1, sizeof *python);
    if (!python) {
        error_set(error, ENOMEM, "no host memory for a virtio device");
        return NULL;
    }
    python->options = *options;
    python->options.name[sizeof python->options.name - 1] = 0;
    python->class = python_class;
    python->class.name = python->options.name;
    python->class.id = options->device_id;
    VirtioSetup setup = {.features = options->features,
                         .config_size = options->config_size,
                         .queue_count = count,
                         .queue_size = (uint16_t)size};
    virtio_init(&python->virtio, &python->class, &setup);
    memcpy(python->virtio.config, options->config, options->config_size);
    return virtio_place(board, &python->virtio, place, error);
}
