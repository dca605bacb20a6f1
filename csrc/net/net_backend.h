/*
 * For who writes a backend: what it gives (NetBackendClass), and what it calls.
 *
 * `lock` is a leaf: under it no NIC is called, and no callback is waited for. A class's functions are called with
 * it held. Frames for the guest go to net_deliver() where the class has just read them on its I/O thread, else
 * (from inside send, or with the lock held) to net_queue_locked(), from where they are delivered on that thread
 * soon.
 */
#ifndef PYVMM_NET_NET_BACKEND_H
#define PYVMM_NET_NET_BACKEND_H

#include <pthread.h>

#include "net/net.h"
#include "net/net_capture.h"

/* What waits for a NIC without buffers: beyond either, frames are dropped. */
#define NET_QUEUE_FRAMES 1024u
#define NET_QUEUE_BYTES  (4u << 20)
/* From here on a backend stops reading its source. */
#define NET_QUEUE_ENOUGH (1u << 20)
/* How often the host is looked at on a virtual clock: its own nanoseconds. */
#define NET_POLL_NS 1000000u

typedef struct NetFrame {
    struct NetFrame *next;
    NetHeader header;
    uint32_t length;
    uint8_t bytes[];
} NetFrame;

typedef struct NetQueue {
    NetFrame *first, **last;
    uint32_t frames, bytes;
} NetQueue;

void net_queue_init(NetQueue *queue);
void net_queue_append(NetQueue *queue, NetFrame *frame);
NetFrame *net_queue_take(NetQueue *queue);         /* NULL: empty */
void net_queue_move(NetQueue *to, NetQueue *from); /* all of `from` goes behind what `to` has */
void net_queue_clear(NetQueue *queue);
/* A copy of a frame at the end; false: there are too many, or no memory. */
bool net_queue_copy(NetQueue *queue, const struct iovec *iov, uint32_t count, const NetHeader *header);

/* All but `send` and `free` may be NULL. */
typedef struct NetBackendClass {
    const char *name;
    /* Lock held; the frame needs no more than `offloads`. As net_backend_send(); after -EAGAIN the class calls
     * net_room_locked() when there is room. */
    int (*send)(NetBackend *backend, const struct iovec *iov, uint32_t count, const NetHeader *header);
    void (*flush)(NetBackend *backend); /* lock held: after a batch */
    /* On the I/O thread, lock not held: once after every wake, net_wake(), before what is queued is delivered. */
    void (*work)(NetBackend *backend);
    /* On the I/O thread, lock not held: the NIC takes frames again, after net_deliver() said false. */
    void (*resume)(NetBackend *backend);
    /* On the I/O thread or, without one, the clock's: look at the source. */
    void (*poll)(NetBackend *backend);
    void (*set_offloads)(NetBackend *backend, uint32_t offloads); /* lock held: what the NIC takes */
    void (*free)(
        NetBackend *backend); /* no NIC, no callback runs; frees `backend` itself after net_base_destroy() */
} NetBackendClass;

/* A backend's struct begins with this. */
struct NetBackend {
    const NetBackendClass *class;
    Board *board;
    IoThread *io;
    IoNotifier *notifier;
    Timer *timer;         /* where no I/O thread runs */
    pthread_mutex_t lock; /* guards all below */
    pthread_cond_t idle;  /* `calling` became false */
    const NetNicOps *ops;
    void *nic;
    bool calling;      /* an operation of the NIC runs */
    uint32_t offloads; /* what the class takes */
    uint32_t nic_offloads;
    bool peer_up;        /* the class says: net_peer_locked() */
    bool cable_in;       /* net_backend_set_link() */
    bool told_up;        /* what the NIC knows */
    bool rx_waiting;     /* the NIC had no buffers */
    bool source_stopped; /* net_deliver() has said false */
    bool tx_waiting;     /* send has said -EAGAIN */
    uint32_t resumes;    /* by the NIC: one that comes while it says -EAGAIN is not lost */
    bool room;           /* the class has room again */
    NetQueue rx, tx;     /* for the NIC; pieces of a frame whose first ones the class took */
    NetCounters counters;
    NetCapture *capture;
    uint8_t *scratch;    /* NET_FRAME_MAX: a frame from the guest in one piece */
    uint8_t *rx_scratch; /* and one for it; on the I/O thread only */
};

/* The link is up and `offloads` none until the class says otherwise. On failure everything is given back. */
int net_base_init(NetBackend *backend, const NetBackendClass *class, Board *board, IoThread *io, Error *error);
void net_base_destroy(NetBackend *backend);

/* A frame that was read: on the I/O thread, lock not held. false: the NIC has no room, stop reading until `resume`.
 * The frame is taken in any case. */
bool net_deliver(NetBackend *backend, const struct iovec *iov, uint32_t count, const NetHeader *header);
/* After a batch of net_deliver(). */
void net_delivered(NetBackend *backend);
/* Any thread, lock held. Full: dropped and counted, false. */
bool net_queue_locked(NetBackend *backend, const struct iovec *iov, uint32_t count, const NetHeader *header);
bool net_queue_is_full_locked(const NetBackend *backend); /* enough waits: stop reading */

/* On the I/O thread, lock not held: all that waits for it, now. */
void net_drain(NetBackend *backend);
void net_wake(NetBackend *backend);                 /* any thread: `work` and delivery soon */
void net_room_locked(NetBackend *backend);          /* after send gave -EAGAIN */
void net_peer_locked(NetBackend *backend, bool up); /* the other end came or went */

/* Lock held: pieces of a cut frame that the class had no room for. 0, or -EAGAIN. */
int net_send_rest_locked(NetBackend *backend);

static inline size_t net_length(const struct iovec *iov, uint32_t count)
{
    size_t length = 0;
    for (uint32_t i = 0; i < count; i++)
        length += iov[i].iov_len;
    return length;
}

static inline void net_gather(uint8_t *to, const struct iovec *iov, uint32_t count)
{
    for (uint32_t i = 0; i < count; to += iov[i++].iov_len)
        memcpy(to, iov[i].iov_base, iov[i].iov_len);
}

#endif
