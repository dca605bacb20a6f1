/* A network backend for tests of NICs: it keeps what was sent, can be full, and delivers what the test gives it. */
#ifndef PYVMM_TESTS_NET_MOCK_H
#define PYVMM_TESTS_NET_MOCK_H

#include "device_check.h"
#include "net/net_backend.h"

typedef struct NetMock {
    NetBackend base;
    bool full;
    uint32_t sent, flushes;
    size_t length; /* of the last frame sent */
    NetHeader header;
    uint8_t frame[NET_FRAME_MAX];
} NetMock;

static inline int net_mock_send(NetBackend *backend, const struct iovec *iov, uint32_t count,
                                const NetHeader *header)
{
    NetMock *mock = (NetMock *)backend;
    if (mock->full)
        return -EAGAIN;
    mock->sent++;
    mock->length = 0;
    mock->header = *header;
    for (uint32_t i = 0; i < count; mock->length += iov[i++].iov_len)
        memcpy(mock->frame + mock->length, iov[i].iov_base, iov[i].iov_len);
    return 0;
}

static inline void net_mock_flush(NetBackend *backend) { ((NetMock *)backend)->flushes++; }

static inline void net_mock_free(NetBackend *backend)
{
    net_base_destroy(backend);
    free(backend);
}

static const NetBackendClass net_mock_class = {
    .name = "mock", .send = net_mock_send, .flush = net_mock_flush, .free = net_mock_free};

/* `offloads`: what it takes as it is. */
static inline NetMock *net_mock_new(Board *board, IoThread *io, uint32_t offloads)
{
    NetMock *mock = calloc(1, sizeof *mock);
    CHECK(mock);
    CHECK_EQ(net_base_init(&mock->base, &net_mock_class, board, io, NULL), 0);
    mock->base.offloads = offloads;
    return mock;
}

/* Let what waits for the clock's timer be done. */
static inline void net_mock_settle(NetMock *mock) { pass(mock->base.board, 1000); }

static inline void net_mock_set_full(NetMock *mock, bool full)
{
    pthread_mutex_lock(&mock->base.lock);
    mock->full = full;
    if (!full)
        net_room_locked(&mock->base);
    pthread_mutex_unlock(&mock->base.lock);
    net_mock_settle(mock);
}

static inline bool net_mock_deliver(NetMock *mock, const void *frame, size_t length, const NetHeader *header)
{
    struct iovec iov = {(void *)(uintptr_t)frame, length};
    bool more = net_deliver(&mock->base, &iov, 1, header);
    net_delivered(&mock->base);
    return more;
}

#endif
