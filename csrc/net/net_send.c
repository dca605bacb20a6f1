/* Frames from the guest, in the form that the backend takes. */
#include <stdlib.h>

#include "net/net_backend.h"
#include "net/net_offload.h"

int net_send_rest_locked(NetBackend *backend)
{
    while (backend->tx.first) {
        struct iovec iov = {backend->tx.first->bytes, backend->tx.first->length};
        if (backend->class->send(backend, &iov, 1, &backend->tx.first->header) == -EAGAIN)
            return -EAGAIN;
        free(net_queue_take(&backend->tx));
    }
    return 0;
}

static int send_piece(void *opaque, const struct iovec *iov, uint32_t count)
{
    static const NetHeader none = {0};
    NetBackend *backend = opaque;
    int result = backend->tx.frames ? -EAGAIN : backend->class->send(backend, iov, count, &none);
    if (result == -EAGAIN && !net_queue_copy(&backend->tx, iov, count, &none))
        backend->counters.tx_drops++;
    return 0;
}

/* Lock held: do in software what the class does not take. */
static int send_adapted(NetBackend *backend, const struct iovec *iov, uint32_t count, const NetHeader *header)
{
    static const NetHeader none = {0};
    size_t length = net_length(iov, count);
    net_gather(backend->scratch, iov, count);
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
    int result = net_send_rest_locked(backend);
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
