#include <stdlib.h>
#include <sys/epoll.h>

#include "virtio/virtio_vsock.h"

#define CHAIN_SEGMENTS (VIRTIO_VSOCK_QUEUE_SIZE + 16u)
#define TURN_PACKETS   256u /* of one queue before the I/O thread's other work has its turn */
#define EVENT_BYTES    4u   /* struct virtio_vsock_event, §5.10.6.7 */

typedef struct VirtioVsock {
    VirtioDevice virtio;
    VsockHub *hub;
    IoThread *io;
    bool watched;    /* the hub's descriptor, by the I/O thread */
    bool stalled;    /* packets of the guest wait until replies have gone */
    bool reset_owed; /* the event */
    VirtqSegment chain[CHAIN_SEGMENTS];
    struct iovec iov[CHAIN_SEGMENTS];
} VirtioVsock;

static VirtioVsock *vsock_of(VirtioDevice *device) { return container_of(device, VirtioVsock, virtio); }

static VirtioQueue *queue_of(VirtioVsock *vsock, enum VirtioVsockQueue index)
{
    return &vsock->virtio.queues[index];
}

/* On the vCPU's own thread the turn is not given up, so a ring that feeds itself must end somewhere. */
static uint32_t turn(const VirtioDevice *device) { return device->lock_kept ? 2u * VIRTQ_MAX_SIZE : TURN_PACKETS; }

static void next_turn(VirtioDevice *device, const VirtioQueue *queue)
{
    if (!device->lock_kept)
        virtio_notify(device, queue->index);
}

/* The next chain; false: none, or the queue is broken and the driver was told. */
static bool take(VirtioVsock *vsock, VirtioQueue *queue, VirtqChain *chain)
{
    int result = virtqueue_pop(&queue->ring, chain, vsock->chain, CHAIN_SEGMENTS);
    if (result < 0)
        virtio_fail(&vsock->virtio, queue,
                    result == -ENOSPC ? "buffers are in too many pieces" : queue->ring.fault);
    return result > 0;
}

/* The bytes of `count` segments from `skip` on, in vsock->iov; returns how many pieces. */
static uint32_t slice(VirtioVsock *vsock, const VirtqSegment *segments, uint32_t count, size_t skip)
{
    uint32_t used = 0;
    for (uint32_t i = 0; i < count; i++) {
        size_t from = MIN(skip, segments[i].iov.iov_len);
        skip -= from;
        if (segments[i].iov.iov_len > from)
            vsock->iov[used++] =
                (struct iovec){(uint8_t *)segments[i].iov.iov_base + from, segments[i].iov.iov_len - from};
    }
    return used;
}

/* ---- To the guest ------------------------------------------------------------------------------------------- */

/* The first bytes of the segments become `from`, and memory's listeners are told of `written` of them. */
static void put(VirtioVsock *vsock, const VirtqSegment *segments, uint32_t count, const void *from, size_t bytes,
                size_t written)
{
    GuestMemory *memory = vsock->virtio.owner->board->memory;
    for (uint32_t i = 0; i < count && written; i++) {
        size_t length = segments[i].iov.iov_len, head = MIN(bytes, length), n = MIN(written, length);
        memcpy(segments[i].iov.iov_base, from, head);
        guest_memory_written(memory, segments[i].gpa, n);
        from = (const uint8_t *)from + head;
        bytes -= head;
        written -= n;
    }
}

/* One packet into a receive buffer: false when there is no buffer (or a broken one), or no packet after all. */
static bool send_packet(VirtioVsock *vsock, VirtioQueue *queue, bool *starved)
{
    VirtqChain chain;
    *starved = !take(vsock, queue, &chain);
    if (*starved)
        return false;
    if (chain.readable || chain.writable_bytes < VSOCK_HEADER_BYTES) {
        virtio_fail(&vsock->virtio, queue, "receive buffer without room for a header, or to be read");
        return false;
    }
    VsockHeader header;
    uint32_t pieces = slice(vsock, vsock->chain, chain.writable, VSOCK_HEADER_BYTES);
    if (!vsock_hub_send(vsock->hub, &header, vsock->iov, pieces)) {
        virtqueue_unpop(&queue->ring, chain.token);
        return false;
    }
    size_t bytes = VSOCK_HEADER_BYTES + header.len;
    put(vsock, vsock->chain, chain.writable, &header, VSOCK_HEADER_BYTES, bytes);
    virtqueue_push(&queue->ring, chain.token, (uint32_t)bytes);
    return true;
}

/* All that connections have to say, as far as there are buffers; more of them are waited for only when one is
 * wanted. */
static void send_packets(VirtioVsock *vsock)
{
    VirtioDevice *device = &vsock->virtio;
    VirtioQueue *queue = queue_of(vsock, VIRTIO_VSOCK_RX);
    uint32_t left = turn(device), sent = 0;
    bool starved = false;
    while (left && virtio_queue_is_live(queue) && vsock_hub_has_packet(vsock->hub)) {
        virtqueue_disable_notify(&queue->ring);
        if (send_packet(vsock, queue, &starved)) {
            left--;
            sent++;
        } else if (!starved || !virtio_queue_is_live(queue) || !virtqueue_enable_notify(&queue->ring)) {
            break;
        }
    }
    if (sent)
        virtio_publish(device, queue);
    if (left == 0)
        next_turn(device, queue);
}

/* ---- From the guest ----------------------------------------------------------------------------------------- */

static const char *receive_packet(VirtioVsock *vsock, const VirtqChain *chain)
{
    VsockHeader header;
    uint8_t *to = (uint8_t *)&header;
    size_t left = sizeof header;
    if (chain->readable_bytes < sizeof header)
        return "packet without a whole header";
    for (uint32_t i = 0; left; i++) {
        size_t n = MIN(left, vsock->chain[i].iov.iov_len);
        memcpy(to, vsock->chain[i].iov.iov_base, n);
        to += n;
        left -= n;
    }
    if (header.len > chain->readable_bytes - sizeof header)
        return "packet is shorter than its header says";
    uint32_t pieces = slice(vsock, vsock->chain, chain->readable, sizeof header);
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < pieces; i++) { /* what is behind the packet is not of it */
        vsock->iov[i].iov_len = MIN(vsock->iov[i].iov_len, header.len - bytes);
        bytes += vsock->iov[i].iov_len;
    }
    vsock_hub_receive(vsock->hub, &header, vsock->iov, pieces);
    return NULL;
}

/* §5.10.6.1: packets are left in the ring while replies to earlier ones find no room. */
static void receive_packets(VirtioVsock *vsock)
{
    VirtioDevice *device = &vsock->virtio;
    VirtioQueue *queue = queue_of(vsock, VIRTIO_VSOCK_TX);
    uint32_t left = turn(device), done = 0;
    const char *why = NULL;
    while (left && !why && virtio_queue_is_live(queue)) {
        VirtqChain chain;
        virtqueue_disable_notify(&queue->ring);
        vsock->stalled = vsock_hub_is_full(vsock->hub);
        if (vsock->stalled)
            break;
        if (take(vsock, queue, &chain)) {
            why = receive_packet(vsock, &chain);
            virtqueue_push(&queue->ring, chain.token, 0);
            left--;
            done++;
        } else if (!virtio_queue_is_live(queue) || !virtqueue_enable_notify(&queue->ring)) {
            break;
        }
    }
    if (done)
        virtio_publish(device, queue);
    if (why)
        virtio_fail(device, queue, why);
    if (left == 0)
        next_turn(device, queue);
}

/* Both ways until nothing moves: replies make room for packets that wait. */
static void move(VirtioVsock *vsock)
{
    send_packets(vsock);
    if (vsock->stalled && !vsock_hub_is_full(vsock->hub)) {
        receive_packets(vsock);
        send_packets(vsock);
    }
}

/* ---- Events: §5.10.6.7 -------------------------------------------------------------------------------------- */

static void send_event(VirtioVsock *vsock)
{
    static const uint8_t event[EVENT_BYTES] = {VIRTIO_VSOCK_EVENT_TRANSPORT_RESET};
    VirtioQueue *queue = queue_of(vsock, VIRTIO_VSOCK_EVENT);
    VirtqChain chain;
    if (!vsock->reset_owed || !virtio_queue_is_live(queue) || !take(vsock, queue, &chain))
        return;
    if (chain.writable_bytes < EVENT_BYTES) {
        virtio_fail(&vsock->virtio, queue, "event buffer without room for an event");
        return;
    }
    put(vsock, vsock->chain + chain.readable, chain.writable, event, EVENT_BYTES, EVENT_BYTES);
    virtqueue_push(&queue->ring, chain.token, EVENT_BYTES);
    virtio_publish(&vsock->virtio, queue);
    vsock->reset_owed = false;
}

/* ---- The device --------------------------------------------------------------------------------------------- */

static bool driver_is_ready(const VirtioVsock *vsock)
{
    return virtio_queue_is_live(&vsock->virtio.queues[VIRTIO_VSOCK_RX]) &&
           virtio_queue_is_live(&vsock->virtio.queues[VIRTIO_VSOCK_TX]);
}

static void vsock_run(VirtioDevice *device, VirtioQueue *queue)
{
    VirtioVsock *vsock = vsock_of(device);
    if (queue->index == VIRTIO_VSOCK_EVENT) {
        send_event(vsock);
        return;
    }
    if (device->lock_kept) /* no I/O thread runs */
        vsock_hub_poll(vsock->hub, driver_is_ready(vsock));
    if (queue->index == VIRTIO_VSOCK_TX)
        receive_packets(vsock);
    move(vsock);
}

/* The I/O thread: some of the host's sockets have something, or room. */
static void sockets_ready(void *opaque, uint32_t events)
{
    (void)events;
    VirtioVsock *vsock = opaque;
    pthread_mutex_t *lock = &vsock->virtio.owner->lock;
    pthread_mutex_lock(lock);
    vsock_hub_poll(vsock->hub, driver_is_ready(vsock));
    move(vsock);
    pthread_mutex_unlock(lock);
}

static void vsock_class_reset(VirtioDevice *device)
{
    VirtioVsock *vsock = vsock_of(device);
    vsock_hub_reset(vsock->hub);
    vsock->stalled = vsock->reset_owed = false;
}

static void vsock_save(VirtioDevice *device, void *state)
{
    const VirtioVsock *vsock = vsock_of(device);
    VirtioVsockState own = {.reset_owed = vsock->reset_owed || device->status & VIRTIO_STATUS_DRIVER_OK};
    memcpy(state, &own, sizeof own);
}

static int vsock_restore(VirtioDevice *device, const void *state)
{
    VirtioVsockState own;
    memcpy(&own, state, sizeof own);
    if (own.reset_owed > 1)
        return -EINVAL;
    vsock_of(device)->reset_owed = own.reset_owed;
    return 0;
}

static void vsock_stop(VirtioDevice *device)
{
    VirtioVsock *vsock = vsock_of(device);
    if (vsock->watched)
        io_watch_remove(vsock->io, vsock_hub_fd(vsock->hub));
}

static void vsock_destroy(VirtioDevice *device) { vsock_hub_free(vsock_of(device)->hub); }

static const VirtioClass vsock_class = {
    .name = "virtio-vsock",
    .id = 19,
    .pci_class = 0x078000, /* communication controller, other */
    .run = vsock_run,
    .reset = vsock_class_reset,
    .state_size = sizeof(VirtioVsockState),
    .save = vsock_save,
    .restore = vsock_restore,
    .stop = vsock_stop,
    .destroy = vsock_destroy,
};

Device *virtio_vsock_new(Board *board, const VirtioPlace *place, const char *path, uint32_t guest_cid, Error *error)
{
    VirtioVsock *vsock = calloc(1, sizeof *vsock);
    if (!vsock) {
        error_set(error, ENOMEM, "no host memory for virtio-vsock");
        return NULL;
    }
    vsock->hub = vsock_hub_new(path, guest_cid, error);
    if (!vsock->hub) {
        free(vsock);
        return NULL;
    }
    vsock->io = place->io ? place->io : board->io;
    VirtioSetup setup = {.features = VIRTIO_VSOCK_F_STREAM,
                         .config_size = 8,
                         .queue_count = VIRTIO_VSOCK_QUEUES,
                         .queue_size = VIRTIO_VSOCK_QUEUE_SIZE};
    virtio_init(&vsock->virtio, &vsock_class, &setup);
    store_le64(vsock->virtio.config, guest_cid); /* §5.10.4 */
    Device *device = virtio_place(board, &vsock->virtio, place, error);
    if (!device)
        return NULL;
    int result = io_watch_add(vsock->io, vsock_hub_fd(vsock->hub), EPOLLIN, sockets_ready, vsock);
    vsock->watched = result == 0;
    if (result < 0) {
        error_set(error, -result, "vsock: its sockets cannot be watched: %s", strerror(-result));
        device_free(device);
        return NULL;
    }
    return device;
}

void virtio_vsock_counters(Device *device, VsockCounters *counters)
{
    VirtioVsock *vsock = vsock_of(virtio_of(device));
    pthread_mutex_lock(&device->lock);
    vsock_hub_counters(vsock->hub, counters);
    pthread_mutex_unlock(&device->lock);
}
