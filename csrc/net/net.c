#include <stdlib.h>

#include "net/net_backend.h"
#include "net/net_offload.h"

/* Queues of frames
 * ------------------------------------------------------------------------------------------------------------------
 */

static void queue_init(NetQueue *queue) { *queue = (NetQueue){.last = &queue->first}; }

static void queue_append(NetQueue *queue, NetFrame *frame)
{
    frame->next = NULL;
    *queue->last = frame;
    queue->last = &frame->next;
    queue->frames++;
    queue->bytes += frame->length;
}

static NetFrame *queue_take(NetQueue *queue)
{
    NetFrame *frame = queue->first;
    if (!frame)
        return NULL;
    queue->first = frame->next;
    if (!queue->first)
        queue->last = &queue->first;
    queue->frames--;
    queue->bytes -= frame->length;
    return frame;
}

/* All of `from` goes behind what `to` has. */
static void queue_move(NetQueue *to, NetQueue *from)
{
    if (!from->first)
        return;
    *to->last = from->first;
    to->last = from->last;
    to->frames += from->frames;
    to->bytes += from->bytes;
    queue_init(from);
}

static void queue_clear(NetQueue *queue)
{
    for (NetFrame *frame; (frame = queue_take(queue));)
        free(frame);
}

static void gather(uint8_t *to, const struct iovec *iov, uint32_t count)
{
    for (uint32_t i = 0; i < count; to += iov[i++].iov_len)
        memcpy(to, iov[i].iov_base, iov[i].iov_len);
}

static bool queue_copy(NetQueue *queue, const struct iovec *iov, uint32_t count, const NetHeader *header)
{
    size_t length = net_length(iov, count);
    if (queue->frames >= NET_QUEUE_FRAMES || queue->bytes + length > NET_QUEUE_BYTES)
        return false;
    NetFrame *frame = malloc(sizeof *frame + length);
    if (!frame)
        return false;
    frame->header = *header;
    frame->length = (uint32_t)length;
    gather(frame->bytes, iov, count);
    queue_append(queue, frame);
    return true;
}

/* For the guest: on the I/O thread
 * ----------------------------------------------------------------------------------------------------- */

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
    if (!queue_copy(offer->overflow, iov, count, header)) {
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
    gather(backend->rx_scratch, iov, count);
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
    queue_move(overflow, &backend->rx);
    queue_move(&backend->rx, overflow);
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
        queue_init(&overflow);
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
        !queue_copy(&backend->rx, iov, count, header)) {
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
    queue_init(&all);
    queue_init(&overflow);
    queue_move(&all, &backend->rx);
    pthread_mutex_unlock(&backend->lock);
    Offer offer = {backend, &overflow};
    for (NetFrame *frame; (frame = queue_take(&all));) {
        if (overflow.frames) {
            queue_append(&overflow, frame);
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

/* Lock held: what is left of a cut frame. 0, or -EAGAIN. */
static int send_rest(NetBackend *backend)
{
    while (backend->tx.first) {
        struct iovec iov = {backend->tx.first->bytes, backend->tx.first->length};
        if (backend->class->send(backend, &iov, 1, &backend->tx.first->header) == -EAGAIN)
            return -EAGAIN;
        free(queue_take(&backend->tx));
    }
    return 0;
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
    if (backend->room && send_rest(backend) == 0) {
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

static void on_notifier(void *opaque) { net_drain(opaque); }

/* Where no I/O thread runs. */
static void look(NetBackend *backend)
{
    if (backend->class->poll)
        backend->class->poll(backend);
    net_drain(backend);
}

static void on_timer(void *opaque)
{
    NetBackend *backend = opaque;
    pthread_mutex_lock(&backend->lock);
    bool connected = backend->ops;
    pthread_mutex_unlock(&backend->lock);
    if (connected && backend->class->poll)
        timer_arm(backend->timer, clock_now(backend->board->clock) + NET_POLL_NS);
    look(backend);
}

void net_wake(NetBackend *backend)
{
    if (backend->timer)
        timer_arm(backend->timer, clock_now(backend->board->clock));
    else
        io_notifier_post(backend->notifier);
}

void net_room_locked(NetBackend *backend)
{
    backend->room = true;
    net_wake(backend);
}

void net_peer_locked(NetBackend *backend, bool up)
{
    if (backend->peer_up == up)
        return;
    backend->peer_up = up;
    if (!up) {
        queue_clear(&backend->tx);
        backend->room = true; /* the NIC's next frames are lost, and its driver goes on */
    }
    net_wake(backend);
}

/* From the guest
 * ------------------------------------------------------------------------------------------------------------------
 */

static int send_piece(void *opaque, const struct iovec *iov, uint32_t count)
{
    static const NetHeader none = {0};
    NetBackend *backend = opaque;
    int result = backend->tx.frames ? -EAGAIN : backend->class->send(backend, iov, count, &none);
    if (result == -EAGAIN && !queue_copy(&backend->tx, iov, count, &none))
        backend->counters.tx_drops++;
    return 0;
}

/* Lock held: do in software what the class does not take. */
static int send_adapted(NetBackend *backend, const struct iovec *iov, uint32_t count, const NetHeader *header)
{
    static const NetHeader none = {0};
    size_t length = net_length(iov, count);
    gather(backend->scratch, iov, count);
    backend->counters.checksummed++;
    if (header->gso_type) {
        backend->counters.segmented++;
        return net_segment(backend->scratch, length, header, send_piece, backend);
    }
    net_finish_checksum(backend->scratch, length, header);
    struct iovec whole = {backend->scratch, length};
    return backend->class->send(backend, &whole, 1, &none);
}

static int send_locked(NetBackend *backend, const struct iovec *iov, uint32_t count, const NetHeader *header)
{
    size_t length = net_length(iov, count);
    if (!backend->cable_in || !backend->peer_up) {
        backend->counters.tx_drops++;
        return -ENOLINK;
    }
    if (net_header_check(header, length) < 0 || count > NET_MAX_SEGMENTS) {
        backend->counters.tx_invalid++;
        return -EINVAL;
    }
    int result = send_rest(backend);
    if (result == 0)
        result = net_header_needs(header) & ~backend->offloads ? send_adapted(backend, iov, count, header)
                                                               : backend->class->send(backend, iov, count, header);
    if (result == -EAGAIN) {
        backend->tx_waiting = true;
        backend->counters.tx_waits++;
    } else if (result == 0) {
        backend->counters.tx_frames++;
        backend->counters.tx_bytes += length;
        if (backend->capture)
            net_capture_frame(backend->capture, iov, count);
    } else if (result == -EINVAL) {
        backend->counters.tx_invalid++;
    } else {
        backend->counters.tx_drops++;
    }
    return result;
}

int net_backend_send(NetBackend *backend, const struct iovec *iov, uint32_t count, const NetHeader *header)
{
    static const NetHeader none = {0};
    pthread_mutex_lock(&backend->lock);
    int result = send_locked(backend, iov, count, header ? header : &none);
    pthread_mutex_unlock(&backend->lock);
    return result;
}

void net_backend_flush(NetBackend *backend)
{
    if (!backend->class->flush)
        return;
    pthread_mutex_lock(&backend->lock);
    backend->class->flush(backend);
    pthread_mutex_unlock(&backend->lock);
}

void net_backend_resume(NetBackend *backend)
{
    pthread_mutex_lock(&backend->lock);
    backend->resumes++;
    if (backend->rx_waiting) {
        backend->rx_waiting = false;
        net_wake(backend);
    }
    pthread_mutex_unlock(&backend->lock);
}

/* The rest of net.h
 * ---------------------------------------------------------------------------------------------------------------
 */

static void set_offloads_locked(NetBackend *backend, uint32_t offloads)
{
    backend->nic_offloads = offloads & NET_OFFLOAD_CSUM ? offloads : 0;
    if (backend->class->set_offloads)
        backend->class->set_offloads(backend, backend->nic_offloads);
}

void net_backend_set_offloads(NetBackend *backend, uint32_t offloads)
{
    pthread_mutex_lock(&backend->lock);
    set_offloads_locked(backend, offloads);
    pthread_mutex_unlock(&backend->lock);
}

int net_connect(NetBackend *backend, const NetNicOps *ops, void *nic)
{
    pthread_mutex_lock(&backend->lock);
    int result = backend->ops ? -EBUSY : 0;
    if (result == 0) {
        backend->ops = ops;
        backend->nic = nic;
        backend->rx_waiting = backend->tx_waiting = false;
        backend->told_up = backend->cable_in && backend->peer_up;
        set_offloads_locked(backend, 0);
        net_wake(backend);
    }
    pthread_mutex_unlock(&backend->lock);
    return result;
}

void net_disconnect(NetBackend *backend)
{
    pthread_mutex_lock(&backend->lock);
    backend->ops = NULL;
    backend->nic = NULL;
    while (backend->calling && !io_thread_is_current(backend->io))
        pthread_cond_wait(&backend->idle, &backend->lock);
    queue_clear(&backend->rx);
    backend->rx_waiting = backend->tx_waiting = false;
    set_offloads_locked(backend, 0);
    pthread_mutex_unlock(&backend->lock);
}

uint32_t net_backend_offloads(const NetBackend *backend) { return backend->offloads; }

IoThread *net_backend_io(const NetBackend *backend) { return backend->io; }

const char *net_backend_name(const NetBackend *backend) { return backend->class->name; }

bool net_backend_link(NetBackend *backend)
{
    pthread_mutex_lock(&backend->lock);
    bool up = backend->cable_in && backend->peer_up;
    pthread_mutex_unlock(&backend->lock);
    return up;
}

void net_backend_set_link(NetBackend *backend, bool up)
{
    pthread_mutex_lock(&backend->lock);
    backend->cable_in = up;
    if (!up)
        queue_clear(&backend->rx);
    net_wake(backend);
    pthread_mutex_unlock(&backend->lock);
}

void net_backend_counters(NetBackend *backend, NetCounters *counters)
{
    pthread_mutex_lock(&backend->lock);
    *counters = backend->counters;
    counters->rx_queued = backend->rx.frames;
    counters->link = backend->cable_in && backend->peer_up;
    pthread_mutex_unlock(&backend->lock);
}

void net_backend_poll(NetBackend *backend)
{
    if (!io_thread_running(backend->io))
        look(backend);
}

void net_backend_free(NetBackend *backend)
{
    if (backend)
        backend->class->free(backend);
}

int net_backend_capture(NetBackend *backend, const char *path, uint32_t snaplen, Error *error)
{
    NetCapture *capture = net_capture_open(path, snaplen, error);
    if (!capture)
        return error && error->code ? -error->code : -EIO;
    pthread_mutex_lock(&backend->lock);
    NetCapture *before = backend->capture;
    backend->capture = capture;
    pthread_mutex_unlock(&backend->lock);
    net_capture_close(before, NULL);
    return 0;
}

int net_backend_capture_stop(NetBackend *backend, Error *error)
{
    pthread_mutex_lock(&backend->lock);
    NetCapture *capture = backend->capture;
    backend->capture = NULL;
    pthread_mutex_unlock(&backend->lock);
    return net_capture_close(capture, error);
}

/* For classes
 * ------------------------------------------------------------------------------------------------------------------
 */

int net_base_init(NetBackend *backend, const NetBackendClass *class, Board *board, IoThread *io, Error *error)
{
    backend->class = class;
    backend->board = board;
    backend->io = io;
    backend->peer_up = backend->cable_in = backend->told_up = true;
    queue_init(&backend->rx);
    queue_init(&backend->tx);
    pthread_mutex_init(&backend->lock, NULL);
    pthread_cond_init(&backend->idle, NULL);
    bool virtual_clock = clock_kind(board->clock) == CLOCK_KIND_VIRTUAL;
    backend->scratch = malloc(NET_FRAME_MAX);
    backend->rx_scratch = malloc(NET_FRAME_MAX);
    backend->notifier = io_notifier_new(io, on_notifier, backend);
    backend->timer = virtual_clock ? timer_new(board->clock, on_timer, backend) : NULL;
    if (backend->scratch && backend->rx_scratch && backend->notifier && (backend->timer || !virtual_clock))
        return 0;
    net_base_destroy(backend);
    return error_set(error, ENOMEM, "no host memory for the network %s", class->name);
}

void net_base_destroy(NetBackend *backend)
{
    if (backend->timer)
        timer_free(backend->timer);
    io_notifier_free(backend->notifier);
    queue_clear(&backend->rx);
    queue_clear(&backend->tx);
    net_capture_close(backend->capture, NULL);
    free(backend->scratch);
    free(backend->rx_scratch);
    pthread_cond_destroy(&backend->idle);
    pthread_mutex_destroy(&backend->lock);
}
