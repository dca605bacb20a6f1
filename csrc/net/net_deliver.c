/* Frames for the guest, on the backend's I/O thread: in the form that its NIC takes, and kept while that has no
 * buffers. */
#include <stdlib.h>

#include "net/net_backend.h"
#include "net/net_offload.h"

/* Begin a call of the NIC: NULL when there is none. */
static const NetNicOps *begin_call(NetBackend *backend, void **nic)
{
    const NetNicOps *ops = backend->ops;
    *nic = backend->nic;
    backend->calling = ops != NULL;
    return ops;
}

static void end_call(NetBackend *backend)
{
    backend->calling = false;
    pthread_cond_broadcast(&backend->idle);
}

/* To the NIC, which takes what the frame needs: 0, also when it is lost, or -EAGAIN. */
static int give(NetBackend *backend, const struct iovec *iov, uint32_t count, const NetHeader *header)
{
    void *nic;
    int result = 0;
    pthread_mutex_lock(&backend->lock);
    uint32_t resumes;
    do {
        resumes = backend->resumes;
        const NetNicOps *ops = backend->cable_in ? begin_call(backend, &nic) : NULL;
        if (!ops) {
            backend->counters.rx_drops++;
            break;
        }
        pthread_mutex_unlock(&backend->lock);
        result = ops->receive(nic, iov, count, header);
        pthread_mutex_lock(&backend->lock);
        end_call(backend);
        if (result == 0) {
            backend->counters.rx_frames++;
            backend->counters.rx_bytes += net_length(iov, count);
        }
    } while (result == -EAGAIN && resumes != backend->resumes);
    if (result == -EAGAIN && !backend->rx_waiting) {
        backend->rx_waiting = true;
        backend->counters.rx_waits++;
    }
    pthread_mutex_unlock(&backend->lock);
    return result == -EAGAIN ? result : 0;
}

typedef struct Offer {
    NetBackend *backend;
    NetQueue *overflow; /* what the NIC had no buffers for */
} Offer;

static int offer_plain(Offer *offer, const struct iovec *iov, uint32_t count, const NetHeader *header)
{
    if (!offer->overflow->frames && give(offer->backend, iov, count, header) == 0)
        return 0;
    if (!net_queue_copy(offer->overflow, iov, count, header)) {
        pthread_mutex_lock(&offer->backend->lock);
        offer->backend->counters.rx_drops++;
        pthread_mutex_unlock(&offer->backend->lock);
    }
    return 0;
}

static int offer_piece(void *opaque, const struct iovec *iov, uint32_t count)
{
    static const NetHeader plain = {.flags = NET_DATA_VALID}; /* its checksum was made here */
    static const NetHeader bare = {0};
    Offer *offer = opaque;
    return offer_plain(offer, iov, count, offer->backend->nic_offloads & NET_OFFLOAD_CSUM ? &plain : &bare);
}

/* In the form that the NIC takes. */
static void offer_frame(Offer *offer, const struct iovec *iov, uint32_t count, const NetHeader *header)
{
    NetBackend *backend = offer->backend;
    pthread_mutex_lock(&backend->lock);
    uint32_t missing = net_header_needs(header) & ~backend->nic_offloads;
    bool knows_sums = backend->nic_offloads & NET_OFFLOAD_CSUM;
    backend->counters.segmented += header->gso_type && missing;
    backend->counters.checksummed += missing != 0;
    pthread_mutex_unlock(&backend->lock);
    NetHeader simple = *header;
    if (!missing) {
        if (!knows_sums)
            simple.flags = 0;
        offer_plain(offer, iov, count, &simple);
        return;
    }
    size_t length = net_length(iov, count);
    net_gather(backend->rx_scratch, iov, count);
    struct iovec whole = {backend->rx_scratch, length};
    int result = 0;
    if (header->gso_type) {
        result = net_segment(backend->rx_scratch, length, header, offer_piece, offer);
    } else {
        net_finish_checksum(backend->rx_scratch, length, header);
        offer_piece(offer, &whole, 1);
    }
    if (result < 0) {
        pthread_mutex_lock(&backend->lock);
        backend->counters.rx_drops++;
        pthread_mutex_unlock(&backend->lock);
    }
}

/* What the NIC had no buffers for goes before what came meanwhile. */
static void put_back(NetBackend *backend, NetQueue *overflow)
{
    if (!overflow->frames)
        return;
    net_queue_move(overflow, &backend->rx);
    net_queue_move(&backend->rx, overflow);
}

bool net_deliver(NetBackend *backend, const struct iovec *iov, uint32_t count, const NetHeader *header)
{
    static const NetHeader none = {0};
    header = header ? header : &none;
    size_t length = net_length(iov, count);
    pthread_mutex_lock(&backend->lock);
    if (net_header_check(header, length) < 0) {
        backend->counters.rx_drops++;
    } else if (backend->rx.frames || backend->rx_waiting) {
        net_queue_locked(backend, iov, count, header);
    } else {
        if (backend->capture)
            net_capture_frame(backend->capture, iov, count);
        pthread_mutex_unlock(&backend->lock);
        NetQueue overflow;
        net_queue_init(&overflow);
        offer_frame(&(Offer){backend, &overflow}, iov, count, header);
        pthread_mutex_lock(&backend->lock);
        put_back(backend, &overflow);
    }
    bool go_on = !backend->rx_waiting;
    backend->source_stopped |= !go_on;
    pthread_mutex_unlock(&backend->lock);
    return go_on;
}

bool net_queue_locked(NetBackend *backend, const struct iovec *iov, uint32_t count, const NetHeader *header)
{
    if (!backend->ops || !backend->cable_in || net_length(iov, count) > NET_FRAME_MAX ||
        !net_queue_copy(&backend->rx, iov, count, header)) {
        backend->counters.rx_drops++;
        return false;
    }
    if (backend->capture)
        net_capture_frame(backend->capture, iov, count);
    return true;
}

bool net_queue_is_full_locked(const NetBackend *backend)
{
    return backend->rx.frames >= NET_QUEUE_FRAMES / 2 || backend->rx.bytes >= NET_QUEUE_ENOUGH;
}

typedef void (*NicCall)(const NetNicOps *ops, void *nic);

static void call_received(const NetNicOps *ops, void *nic)
{
    if (ops->received)
        ops->received(nic);
}

static void call_writable(const NetNicOps *ops, void *nic)
{
    if (ops->writable)
        ops->writable(nic);
}

static void call_up(const NetNicOps *ops, void *nic)
{
    if (ops->link)
        ops->link(nic, true);
}

static void call_down(const NetNicOps *ops, void *nic)
{
    if (ops->link)
        ops->link(nic, false);
}

/* Lock held; given up for the call. */
static void call_nic(NetBackend *backend, NicCall call)
{
    void *nic;
    const NetNicOps *ops = begin_call(backend, &nic);
    if (!ops)
        return;
    pthread_mutex_unlock(&backend->lock);
    call(ops, nic);
    pthread_mutex_lock(&backend->lock);
    end_call(backend);
}

void net_delivered(NetBackend *backend)
{
    pthread_mutex_lock(&backend->lock);
    call_nic(backend, call_received);
    pthread_mutex_unlock(&backend->lock);
}

/* What was queued; true: the NIC got something. Lock held, and given up. */
static bool deliver_queue(NetBackend *backend)
{
    if (backend->rx_waiting || !backend->rx.frames)
        return false;
    NetQueue all, overflow;
    net_queue_init(&all);
    net_queue_init(&overflow);
    net_queue_move(&all, &backend->rx);
    pthread_mutex_unlock(&backend->lock);
    Offer offer = {backend, &overflow};
    for (NetFrame *frame; (frame = net_queue_take(&all));) {
        if (overflow.frames) {
            net_queue_append(&overflow, frame);
            continue;
        }
        struct iovec iov = {frame->bytes, frame->length};
        offer_frame(&offer, &iov, 1, &frame->header);
        free(frame);
    }
    pthread_mutex_lock(&backend->lock);
    put_back(backend, &overflow);
    return true;
}

void net_drain(NetBackend *backend)
{
    if (backend->class->work)
        backend->class->work(backend);
    pthread_mutex_lock(&backend->lock);
    bool up = backend->cable_in && backend->peer_up;
    if (up != backend->told_up) {
        backend->told_up = up;
        backend->counters.link_changes++;
        call_nic(backend, up ? call_up : call_down);
    }
    if (deliver_queue(backend))
        call_nic(backend, call_received);
    if (backend->room && net_send_rest_locked(backend) == 0) {
        backend->room = false;
        if (backend->tx_waiting) {
            backend->tx_waiting = false;
            call_nic(backend, call_writable);
        }
    }
    bool resume = backend->source_stopped && !backend->rx_waiting;
    if (resume)
        backend->source_stopped = false;
    pthread_mutex_unlock(&backend->lock);
    if (resume && backend->class->resume)
        backend->class->resume(backend);
}
