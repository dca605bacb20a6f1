/* A NIC for tests of network backends: it keeps what it receives, and can have no buffers. */
#ifndef PYVMM_TESTS_NET_NIC_H
#define PYVMM_TESTS_NET_NIC_H

#include <pthread.h>
#include <time.h>

#include "net/net.h"
#include "tests/check.h"

#define NIC_FRAMES 4096

typedef struct NicFrame {
    NetHeader header;
    uint32_t length;
    uint8_t *bytes;
} NicFrame;

typedef struct TestNic {
    NetBackend *backend;
    pthread_mutex_t lock;
    NicFrame frames[NIC_FRAMES];
    uint32_t count, taken; /* received, and looked at by the test */
    uint32_t refused, batches, writable, links;
    bool full, up, on_io; /* on_io: each call came on the backend's thread */
} TestNic;

static inline int nic_receive(void *opaque, const struct iovec *iov, uint32_t count, const NetHeader *header)
{
    TestNic *nic = opaque;
    pthread_mutex_lock(&nic->lock);
    int result = nic->full ? -EAGAIN : 0;
    nic->refused += nic->full;
    if (result == 0) {
        CHECK(nic->count < NIC_FRAMES);
        NicFrame *frame = &nic->frames[nic->count++];
        frame->header = *header;
        frame->length = 0;
        frame->bytes = malloc(NET_FRAME_MAX);
        for (uint32_t i = 0; i < count; frame->length += (uint32_t)iov[i++].iov_len)
            memcpy(frame->bytes + frame->length, iov[i].iov_base, iov[i].iov_len);
    }
    nic->on_io &= io_thread_is_current(net_backend_io(nic->backend));
    pthread_mutex_unlock(&nic->lock);
    return result;
}

static inline void nic_received(void *opaque)
{
    __atomic_fetch_add(&((TestNic *)opaque)->batches, 1, __ATOMIC_SEQ_CST);
}
static inline void nic_writable(void *opaque)
{
    __atomic_fetch_add(&((TestNic *)opaque)->writable, 1, __ATOMIC_SEQ_CST);
}

static inline void nic_link(void *opaque, bool up)
{
    TestNic *nic = opaque;
    __atomic_store_n(&nic->up, up, __ATOMIC_SEQ_CST);
    __atomic_fetch_add(&nic->links, 1, __ATOMIC_SEQ_CST);
}

static const NetNicOps nic_ops = {nic_receive, nic_received, nic_writable, nic_link};

static inline TestNic *nic_new(NetBackend *backend, uint32_t offloads)
{
    TestNic *nic = calloc(1, sizeof *nic);
    nic->backend = backend;
    nic->on_io = nic->up = true;
    pthread_mutex_init(&nic->lock, NULL);
    CHECK_EQ(net_connect(backend, &nic_ops, nic), 0);
    net_backend_set_offloads(backend, offloads);
    return nic;
}

static inline void nic_free(TestNic *nic)
{
    net_disconnect(nic->backend);
    for (uint32_t i = 0; i < nic->count; i++)
        free(nic->frames[i].bytes);
    free(nic);
}

static inline void nic_set_full(TestNic *nic, bool full)
{
    pthread_mutex_lock(&nic->lock);
    nic->full = full;
    pthread_mutex_unlock(&nic->lock);
    if (!full)
        net_backend_resume(nic->backend);
}

static inline void nap(void) { nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL); }

/* The next frame, or NULL when none comes for `patience` milliseconds. */
static inline const NicFrame *nic_next(TestNic *nic, int patience)
{
    for (int i = 0; i < patience; i++) {
        pthread_mutex_lock(&nic->lock);
        const NicFrame *frame = nic->taken < nic->count ? &nic->frames[nic->taken++] : NULL;
        pthread_mutex_unlock(&nic->lock);
        if (frame)
            return frame;
        net_backend_poll(nic->backend);
        nap();
    }
    return NULL;
}

#define WAIT_FOR(condition)                                                                                        \
    do {                                                                                                           \
        for (int wait_ = 0; !(condition) && wait_ < 10000; wait_++)                                                \
            nap();                                                                                                 \
        CHECK(condition);                                                                                          \
    } while (0)

#endif
