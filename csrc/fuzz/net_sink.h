/* A network backend for fuzzing NICs: it looks at both ends of what it is given, and is full from time to time. */
#ifndef PYVMM_FUZZ_NET_SINK_H
#define PYVMM_FUZZ_NET_SINK_H

#include <stdlib.h>

#include "net/net_backend.h"

typedef struct NetSink {
    NetBackend base;
    bool full;
    uint64_t sent;
    uint32_t sum;
} NetSink;

static inline int net_sink_send(NetBackend *backend, const struct iovec *iov, uint32_t count,
                                const NetHeader *header)
{
    NetSink *sink = (NetSink *)backend;
    if (sink->full)
        return -EAGAIN;
    sink->sent++;
    sink->sum += header->flags + header->gso_size;
    for (uint32_t i = 0; i < count; i++)
        if (iov[i].iov_len)
            sink->sum +=
                ((const uint8_t *)iov[i].iov_base)[0] + ((const uint8_t *)iov[i].iov_base)[iov[i].iov_len - 1];
    return 0;
}

static inline void net_sink_free(NetBackend *backend)
{
    net_base_destroy(backend);
    free(backend);
}

static const NetBackendClass net_sink_class = {.name = "sink", .send = net_sink_send, .free = net_sink_free};

static inline NetSink *net_sink_new(Board *board, uint32_t offloads)
{
    NetSink *sink = calloc(1, sizeof *sink);
    if (!sink || net_base_init(&sink->base, &net_sink_class, board, board->io, NULL) < 0)
        abort();
    sink->base.offloads = offloads;
    return sink;
}

static inline void net_sink_set_full(NetSink *sink, bool full)
{
    pthread_mutex_lock(&sink->base.lock);
    sink->full = full;
    if (!full)
        net_room_locked(&sink->base);
    pthread_mutex_unlock(&sink->base.lock);
}

/* A frame of any length and header to the guest, and what waits for the clock. */
static inline void net_sink_deliver(NetSink *sink, uint32_t length, const NetHeader *header, const uint8_t to[6])
{
    static const uint8_t zeros[NET_FRAME_MAX];
    struct iovec iov[2] = {{(void *)(uintptr_t)to, 6}, {(void *)(uintptr_t)zeros, length % (NET_FRAME_MAX - 6)}};
    net_deliver(&sink->base, iov, iov[1].iov_len ? 2 : 1, header);
    net_delivered(&sink->base);
    clock_advance(sink->base.board->clock, 1000);
    clock_run_timers(sink->base.board->clock);
}

#endif
