#include <stdlib.h>

#include "virtio/virtio_9p.h"

/* A chain's buffers, and a few more where buffers lie across memslots. */
#define CHAIN_SEGMENTS (VIRTIO_9P_QUEUE_SIZE + 16u)
#define BATCH_REQUESTS 16u
_Static_assert(CHAIN_SEGMENTS <= P9_MAX_SEGMENTS, "a chain is a message");

typedef struct Virtio9p {
    VirtioDevice virtio;
    P9Server *server;    /* between begin_io and end_io, or with the lock and no I/O */
    P9Counters counters; /* with the lock */
    VirtqSegment chain[CHAIN_SEGMENTS];
    struct iovec iov[CHAIN_SEGMENTS];
} Virtio9p;

static Virtio9p *nine_of(VirtioDevice *device) { return container_of(device, Virtio9p, virtio); }

/* Tell memory's listeners of the reply, before the driver can see it. */
static void tell_written(Virtio9p *nine, const VirtqChain *chain, size_t bytes)
{
    GuestMemory *memory = nine->virtio.owner->board->memory;
    const VirtqSegment *segment = nine->chain + chain->readable;
    for (uint32_t i = 0; i < chain->writable && bytes; i++) {
        size_t n = MIN(bytes, segment[i].iov.iov_len);
        guest_memory_written(memory, segment[i].gpa, n);
        bytes -= n;
    }
}

static size_t handle(Virtio9p *nine, const VirtqChain *chain)
{
    for (uint32_t i = 0; i < chain->readable + chain->writable; i++)
        nine->iov[i] = nine->chain[i].iov;
    virtio_begin_io(&nine->virtio);
    size_t bytes =
        p9_server_handle(nine->server, nine->iov, chain->readable, nine->iov + chain->readable, chain->writable);
    tell_written(nine, chain, bytes);
    virtio_end_io(&nine->virtio);
    p9_server_counters(nine->server, &nine->counters);
    return bytes;
}

/* Some requests; false when there was none. */
static bool run_batch(VirtioDevice *device, VirtioQueue *queue)
{
    Virtio9p *nine = nine_of(device);
    uint32_t done = 0;
    const char *why = NULL;
    while (done < BATCH_REQUESTS && !why && virtio_queue_is_live(queue)) {
        VirtqChain chain;
        int result = virtqueue_pop(&queue->ring, &chain, nine->chain, CHAIN_SEGMENTS);
        if (result == 0)
            break;
        if (result < 0) {
            why = result == -ENOSPC ? "buffers are in too many pieces" : queue->ring.fault;
            break;
        }
        size_t bytes = handle(nine, &chain);
        if (bytes == 0)
            why = "request without a whole header, or without room for a reply";
        virtqueue_push(&queue->ring, chain.token, (uint32_t)bytes);
        virtio_publish(device, queue);
        done++;
    }
    if (why)
        virtio_fail(device, queue, why);
    return done != 0;
}

static void nine_run(VirtioDevice *device, VirtioQueue *queue) { virtio_serve(device, queue, run_batch); }

static void nine_reset(VirtioDevice *device)
{
    Virtio9p *nine = nine_of(device);
    p9_server_reset(nine->server);
    p9_server_counters(nine->server, &nine->counters);
}

static void nine_save(VirtioDevice *device, void *state)
{
    Virtio9p *nine = nine_of(device);
    Virtio9pState own = {.fids = nine->counters.fids, .msize = p9_server_msize(nine->server)};
    memcpy(state, &own, sizeof own);
}

static int nine_restore(VirtioDevice *device, const void *state)
{
    (void)device;
    Virtio9pState own;
    memcpy(&own, state, sizeof own);
    return own.fids ? -EINVAL : 0; /* a driver without fids begins with Tversion */
}

static void nine_destroy(VirtioDevice *device) { p9_server_free(nine_of(device)->server); }

static const VirtioClass nine_class = {
    .name = "virtio-9p",
    .id = 9,
    .pci_class = 0x018000, /* mass storage, other */
    .transitional_id = 0x1009,
    .run = nine_run,
    .reset = nine_reset,
    .state_size = sizeof(Virtio9pState),
    .save = nine_save,
    .restore = nine_restore,
    .destroy = nine_destroy,
};

Device *virtio_9p_new(Board *board, const VirtioPlace *place, const Virtio9pOptions *options, Error *error)
{
    size_t length = strnlen(options->tag, VIRTIO_9P_TAG_MAX + 1);
    if (length == 0 || length > VIRTIO_9P_TAG_MAX) {
        error_set(error, EINVAL, "share %s: its tag has to have 1 to %u bytes", options->path, VIRTIO_9P_TAG_MAX);
        return NULL;
    }
    P9Options server = {.path = options->path,
                        .security = options->security,
                        .read_only = options->read_only,
                        .max_descriptors = options->max_descriptors};
    Virtio9p *nine = calloc(1, sizeof *nine);
    if (!nine) {
        error_set(error, ENOMEM, "no host memory for virtio-9p");
        return NULL;
    }
    nine->server = p9_server_new(&server, error);
    if (!nine->server) {
        free(nine);
        return NULL;
    }
    VirtioSetup setup = {.features = VIRTIO_9P_F_MOUNT_TAG,
                         .config_size = (uint32_t)(2 + length),
                         .queue_count = 1,
                         .queue_size = VIRTIO_9P_QUEUE_SIZE};
    virtio_init(&nine->virtio, &nine_class, &setup);
    store_le16(nine->virtio.config, (uint16_t)length);
    memcpy(nine->virtio.config + 2, options->tag, length);
    p9_server_counters(nine->server, &nine->counters);
    return virtio_place(board, &nine->virtio, place, error);
}

void virtio_9p_counters(Device *device, P9Counters *counters)
{
    Virtio9p *nine = nine_of(virtio_of(device));
    pthread_mutex_lock(&device->lock);
    *counters = nine->counters;
    pthread_mutex_unlock(&device->lock);
}
