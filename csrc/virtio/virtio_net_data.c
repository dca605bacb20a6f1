/* Frames between the rings and the backend, virtio 1.2 §5.1.6.1 to §5.1.6.4. */
#include "virtio/virtio_net_internal.h"

#define TX_BATCH       64u
#define TX_ROUNDS      4u /* batches before the I/O thread's other work has its turn */
#define RX_UNPUBLISHED 16u

static uint32_t header_bytes(const VirtioNet *net)
{
    return virtio_has(&net->virtio, VIRTIO_NET_F_MRG_RXBUF | VIRTIO_F_VERSION_1) ? VIRTIO_NET_HDR
                                                                                 : VIRTIO_NET_HDR_LEGACY;
}

/* ---- From the guest ----------------------------------------------------------------------------------------- */

/* Split a chain's bytes into the header and the frame's pieces. Returns how many those are. */
static uint32_t take_header(VirtioNet *net, const VirtqChain *chain, NetHeader *header)
{
    uint8_t bytes[VIRTIO_NET_HDR] = {0};
    uint32_t size = header_bytes(net), have = 0, pieces = 0;
    for (uint32_t i = 0; i < chain->readable; i++) {
        struct iovec iov = net->tx_chain[i].iov;
        size_t n = MIN(iov.iov_len, size - have);
        memcpy(bytes + have, iov.iov_base, n);
        have += (uint32_t)n;
        if (iov.iov_len > n)
            net->tx_iov[pieces++] = (struct iovec){(uint8_t *)iov.iov_base + n, iov.iov_len - n};
    }
    memcpy(header, bytes, sizeof *header);
    return pieces;
}

enum Sent { SENT, SENT_LATER, SENT_NEVER };

/* One chain, lock held and given up meanwhile. */
static enum Sent send_chain(VirtioNet *net, const VirtqChain *chain)
{
    NetHeader header;
    if (chain->readable_bytes < header_bytes(net))
        return SENT_NEVER;
    uint64_t length = chain->readable_bytes - header_bytes(net);
    uint32_t pieces = take_header(net, chain, &header);
    int result = -EINVAL;
    if (length >= NET_ETHERNET && length <= NET_FRAME_MAX) {
        virtio_begin_io(&net->virtio);
        result = net_backend_send(net->backend, net->tx_iov, pieces, &header);
        virtio_end_io(&net->virtio);
    }
    if (result == -EAGAIN) {
        net->counters.tx_waits++;
        return SENT_LATER;
    }
    if (result < 0) {
        net->counters.tx_drops++;
        return SENT;
    }
    net->counters.tx_frames++;
    net->counters.tx_bytes += length;
    net->counters.tx_gso += header.gso_type != NET_GSO_NONE;
    return SENT;
}

/* Returns how many chains were done; 0 also when the backend has no room. */
static uint32_t tx_batch(VirtioNet *net, VirtioQueue *queue)
{
    uint32_t done = 0;
    const char *why = NULL;
    while (done < TX_BATCH && virtio_queue_is_live(queue)) {
        VirtqChain chain;
        int result = virtqueue_pop(&queue->ring, &chain, net->tx_chain, ARRAY_SIZE(net->tx_chain));
        if (result == 0)
            break;
        if (result < 0) {
            why = result == -ENOSPC ? "frame in too many pieces" : queue->ring.fault;
            break;
        }
        enum Sent sent = send_chain(net, &chain);
        if (sent == SENT_LATER) {
            virtqueue_unpop(&queue->ring, chain.token);
            net->tx_blocked = true;
            break;
        }
        if (sent == SENT_NEVER) {
            why = "frame without a whole header";
            break;
        }
        virtqueue_push(&queue->ring, chain.token, 0);
        done++;
    }
    if (done)
        virtio_publish(&net->virtio, queue);
    if (why)
        virtio_fail(&net->virtio, queue, why);
    return done;
}

/* Not virtio_serve(): a ring that the backend has no room for is not empty, and yet not looked at again. */
void virtio_net_run_tx(VirtioNet *net, VirtioQueue *queue)
{
    uint32_t rounds = net->virtio.lock_kept ? 2u * VIRTQ_MAX_SIZE : TX_ROUNDS;
    bool any = false;
    while (virtio_queue_is_live(queue) && !net->tx_blocked) {
        if (rounds-- == 0) {
            if (net->virtio.lock_kept)
                virtio_fail(&net->virtio, queue, "the available ring never ends");
            else
                virtio_notify(&net->virtio, queue->index);
            break;
        }
        virtqueue_disable_notify(&queue->ring);
        if (tx_batch(net, queue)) {
            any = true;
            continue;
        }
        if (!virtio_queue_is_live(queue) || net->tx_blocked || !virtqueue_enable_notify(&queue->ring))
            break;
    }
    if (any) {
        virtio_begin_io(&net->virtio);
        net_backend_flush(net->backend);
        virtio_end_io(&net->virtio);
    }
}

static void writable(void *opaque)
{
    VirtioNet *net = opaque;
    pthread_mutex_lock(&net->virtio.owner->lock);
    net->tx_blocked = false;
    virtio_notify(&net->virtio, VIRTIO_NET_TX);
    pthread_mutex_unlock(&net->virtio.owner->lock);
}

/* ---- To the guest ------------------------------------------------------------------------------------------- */

/* The frame as it is copied out: its header, then its pieces. */
typedef struct Source {
    const struct iovec *iov;
    uint32_t count;
    size_t offset; /* in the first one */
} Source;

static size_t copy_from(Source *source, uint8_t *to, size_t bytes)
{
    size_t done = 0;
    while (done < bytes && source->count) {
        size_t n = MIN(bytes - done, source->iov->iov_len - source->offset);
        memcpy(to + done, (const uint8_t *)source->iov->iov_base + source->offset, n);
        done += n;
        source->offset += n;
        if (source->offset == source->iov->iov_len) {
            source->iov++;
            source->count--;
            source->offset = 0;
        }
    }
    return done;
}

/* Where num_buffers is in guest memory: two bytes, anywhere. */
typedef struct NumBuffers {
    uint8_t *byte[2];
} NumBuffers;

/* Fill the writable segments of a chain. `skip` bytes of them were filled before. Returns the bytes filled now. */
static size_t fill_chain(VirtioNet *net, const VirtqChain *chain, const uint8_t *header, uint32_t header_size,
                         Source *source, NumBuffers *num_buffers)
{
    GuestMemory *memory = net->virtio.owner->board->memory;
    size_t at = 0;
    for (uint32_t i = 0; i < chain->writable; i++) {
        const VirtqSegment *segment = &net->rx_chain[chain->readable + i];
        uint8_t *to = segment->iov.iov_base;
        size_t room = segment->iov.iov_len, n = 0;
        for (; n < room && at + n < header_size; n++) {
            if (at + n >= VIRTIO_NET_HDR_NUM_BUFFERS)
                num_buffers->byte[at + n - VIRTIO_NET_HDR_NUM_BUFFERS] = to + n;
            to[n] = header[at + n];
        }
        n += copy_from(source, to + n, room - n);
        guest_memory_written(memory, segment->gpa, n);
        at += n;
        if (!source->count)
            break;
    }
    return at;
}

static void rx_publish(VirtioNet *net)
{
    if (net->rx_unpublished)
        virtio_publish(&net->virtio, &net->virtio.queues[VIRTIO_NET_RX]);
    net->rx_unpublished = 0;
}

static void put_back(VirtioNet *net, Virtqueue *ring, uint32_t taken)
{
    while (taken)
        virtqueue_unpop(ring, net->rx_tokens[--taken]);
}

/* The next buffer: 1, 0 when the driver is to tell us of more, -EINVAL when the device now needs a reset. */
static int next_buffer(VirtioNet *net, VirtioQueue *queue, uint32_t taken, VirtqChain *chain)
{
    const char *why = NULL;
    for (;;) {
        int result = virtqueue_pop(&queue->ring, chain, net->rx_chain, ARRAY_SIZE(net->rx_chain));
        if (result == 0) {
            /* Ask before the buffers taken so far are put back: it is for those after them. */
            if (!virtqueue_enable_notify(&queue->ring))
                return 0;
            virtqueue_disable_notify(&queue->ring);
            continue;
        }
        if (result < 0)
            why = result == -ENOSPC ? "receive buffer in too many pieces" : queue->ring.fault;
        else if (chain->writable_bytes < (taken ? 1 : header_bytes(net))) /* §5.1.6.3.1 */
            why = "receive buffer without room for its header";
        else if (taken == queue->ring.size)
            why = "more receive buffers than the ring has";
        if (!why)
            return 1;
        virtio_fail(&net->virtio, queue, why);
        return -EINVAL;
    }
}

/* §5.1.6.4: into as many buffers as it needs, or the one there is. */
static int fill_buffers(VirtioNet *net, VirtioQueue *queue, Source *source, const NetHeader *header)
{
    uint8_t bytes[VIRTIO_NET_HDR];
    NumBuffers num_buffers = {{NULL, NULL}};
    uint32_t taken = 0, header_size = header_bytes(net);
    bool mergeable = virtio_has(&net->virtio, VIRTIO_NET_F_MRG_RXBUF);
    memcpy(bytes, header, sizeof *header);
    store_le16(bytes + VIRTIO_NET_HDR_NUM_BUFFERS, 1);
    do {
        VirtqChain chain;
        int result = next_buffer(net, queue, taken, &chain);
        if (result <= 0) {
            put_back(net, &queue->ring, taken);
            return result ? 0 : -EAGAIN;
        }
        net->rx_tokens[taken] = chain.token;
        net->rx_lengths[taken] =
            (uint32_t)fill_chain(net, &chain, bytes, taken ? 0 : header_size, source, &num_buffers);
        taken++;
    } while (mergeable && source->count);
    if (source->count) {
        put_back(net, &queue->ring, taken);
        net->counters.rx_drops++;
        return 0;
    }
    for (int i = 0; i < 2 && taken > 1; i++)
        *num_buffers.byte[i] = (uint8_t)(taken >> (8 * i));
    for (uint32_t i = 0; i < taken; i++)
        virtqueue_push(&queue->ring, net->rx_tokens[i], net->rx_lengths[i]);
    net->rx_unpublished++;
    return 1;
}

static int receive_locked(VirtioNet *net, const struct iovec *iov, uint32_t count, const NetHeader *header)
{
    VirtioQueue *queue = &net->virtio.queues[VIRTIO_NET_RX];
    if (net->virtio.draining)
        return -EAGAIN; /* the queue is looked at after */
    if (!virtio_queue_is_live(queue)) {
        net->counters.rx_drops++;
        return 0;
    }
    uint8_t start[18];
    size_t length = 0;
    Source source = {iov, count, 0};
    size_t have = copy_from(&source, start, sizeof start);
    if (!virtio_net_wants(net, start, have)) {
        net->counters.rx_filtered++;
        return 0;
    }
    for (uint32_t i = 0; i < count; i++)
        length += iov[i].iov_len;
    NetHeader shown = *header;
    if (!(net->state.guest_offloads & VIRTIO_NET_F_GUEST_CSUM))
        shown.flags = 0; /* §5.1.6.4.1: neither flag means anything to this driver */
    source = (Source){iov, count, 0};
    virtqueue_disable_notify(&queue->ring);
    int result = fill_buffers(net, queue, &source, &shown);
    if (result == -EAGAIN) {
        net->counters.rx_waits++;
        rx_publish(net);
    }
    if (result != 1)
        return result;
    net->counters.rx_frames++;
    net->counters.rx_bytes += length;
    net->counters.rx_gso += header->gso_type != NET_GSO_NONE;
    if (net->rx_unpublished == RX_UNPUBLISHED)
        rx_publish(net);
    return 0;
}

static int receive(void *opaque, const struct iovec *iov, uint32_t count, const NetHeader *header)
{
    VirtioNet *net = opaque;
    pthread_mutex_lock(&net->virtio.owner->lock);
    int result = receive_locked(net, iov, count, header);
    pthread_mutex_unlock(&net->virtio.owner->lock);
    return result;
}

static void received(void *opaque)
{
    VirtioNet *net = opaque;
    pthread_mutex_lock(&net->virtio.owner->lock);
    rx_publish(net);
    pthread_mutex_unlock(&net->virtio.owner->lock);
}

/* The driver added buffers. */
void virtio_net_run_rx(VirtioNet *net, VirtioQueue *queue)
{
    virtqueue_disable_notify(&queue->ring);
    net_backend_resume(net->backend);
}

static void link_changed(void *opaque, bool up)
{
    VirtioNet *net = opaque;
    (void)up;
    pthread_mutex_lock(&net->virtio.owner->lock);
    virtio_net_update_config(net);
    virtio_config_changed(&net->virtio);
    pthread_mutex_unlock(&net->virtio.owner->lock);
}

const NetNicOps virtio_net_ops = {
    .receive = receive, .received = received, .writable = writable, .link = link_changed};
