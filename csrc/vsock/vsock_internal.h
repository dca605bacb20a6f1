/* Connections of a hub: what vsock_hub.c and vsock_connection.c share. */
#ifndef PYVMM_VSOCK_INTERNAL_H
#define PYVMM_VSOCK_INTERNAL_H

#include "vsock/vsock_hub.h"

#define VSOCK_BUCKETS   256u
#define VSOCK_STRAYS    256u /* resets that wait for room: of packets that belong to no connection */
#define VSOCK_MAX_DATA  (64u << 10)
#define VSOCK_NO_INDEX  UINT32_MAX
#define VSOCK_LINE_MAX  32u        /* "CONNECT 4294967295\n" and some room */
#define VSOCK_HOST_PORT (1u << 30) /* the first one of connections that the host asks for */

enum VsockState {
    VSOCK_FREE,
    VSOCK_HANDSHAKE,   /* a program has connected and has not said where to */
    VSOCK_REQUESTED,   /* the guest was asked */
    VSOCK_ESTABLISHED, /* with shutdowns, or without */
    VSOCK_RESETTING,   /* the program's socket is closed; the guest has to be told */
    VSOCK_DRAINING,    /* the guest has ended it; the program has not taken all of it */
    VSOCK_GONE,        /* over, and still in the queue of those that have something to send */
};

enum VsockPending { /* packets that a connection has to send */
                    VSOCK_PENDING_RST = 1,
                    VSOCK_PENDING_REQUEST = 2,
                    VSOCK_PENDING_RESPONSE = 4,
                    VSOCK_PENDING_SHUTDOWN = 8,
                    VSOCK_PENDING_CREDIT_REQUEST = 16,
                    VSOCK_PENDING_CREDIT_UPDATE = 32,
};

typedef struct VsockConnection {
    enum VsockState state;
    int fd;
    uint32_t guest_port, host_port;
    uint32_t generation;      /* of this place in the table: tells an old event of epoll's from a new one */
    uint32_t next;            /* in its bucket */
    uint32_t next_ready;      /* in the queue of those that have something to send */
    bool queued;              /* there */
    bool can_read, can_write; /* the program's socket, until it says EAGAIN */
    bool hung_up;             /* the program has closed it altogether */
    bool ended;               /* nothing more comes from the program */
    bool deaf;                /* nothing more is taken by it */
    bool credit_asked;
    uint8_t pending;
    uint8_t guest_shutdown, host_shutdown; /* enum VsockShutdown: what was said by each */
    /* §5.10.6.3: the guest's buffer, what we sent, and what it has taken. */
    uint32_t peer_buf_alloc, peer_fwd_cnt, tx_cnt;
    /* And ours: received, handed on, and what the guest knows of that. */
    uint32_t rx_cnt, fwd_cnt, told_fwd_cnt;
    uint8_t *buffer; /* a ring of VSOCK_BUFFER bytes, while anything is in it */
    uint32_t head, used;
} VsockConnection;

typedef struct VsockStray {
    uint64_t host_cid;
    uint32_t guest_port, host_port;
    uint16_t type;
} VsockStray;

struct VsockHub {
    char path[VSOCK_MAX_PATH];
    uint32_t guest_cid;
    int epoll, listener;
    uint32_t next_port;
    uint32_t buckets[VSOCK_BUCKETS];
    uint32_t ready_first, ready_last;
    VsockStray strays[VSOCK_STRAYS];
    uint32_t stray_first, stray_count;
    VsockCounters counters;
    VsockConnection connections[VSOCK_MAX_CONNECTIONS];
};

static inline uint32_t vsock_index(const VsockHub *hub, const VsockConnection *connection)
{
    return (uint32_t)(connection - hub->connections);
}

/* vsock_connection.c */
VsockConnection *vsock_find(VsockHub *hub, uint32_t guest_port, uint32_t host_port);
/* Takes `fd` over; NULL, and it is closed, when there is no room. It is not found before vsock_name(). */
VsockConnection *vsock_connection_new(VsockHub *hub, int fd, enum VsockState state);
void vsock_name(VsockHub *hub, VsockConnection *connection, uint32_t guest_port, uint32_t host_port);
void vsock_connection_free(VsockHub *hub, VsockConnection *connection);
/* What every packet of the guest's says of its buffer. */
void vsock_take_credit(VsockConnection *connection, const VsockHeader *header);
/* Put it among those that have something to send, if it has. */
void vsock_make_ready(VsockHub *hub, VsockConnection *connection);
void vsock_pend(VsockHub *hub, VsockConnection *connection, enum VsockPending what);
/* The guest has ended it, and its ports may be used again; the program still gets what is in the buffer. */
void vsock_drain(VsockHub *hub, VsockConnection *connection);
/* The program has gone: tell the guest, when nothing of it is left to be read. */
void vsock_hung_up(VsockHub *hub, VsockConnection *connection);
/* Close the program's socket, and tell the guest. */
void vsock_reset(VsockHub *hub, VsockConnection *connection);
/* The guest's data: to the program, or into the buffer. */
void vsock_take_data(VsockHub *hub, VsockConnection *connection, const struct iovec *data, uint32_t count,
                     uint32_t bytes);
/* What is in the buffer, as far as the program takes it; ends the connection when it was the last. */
void vsock_flush(VsockHub *hub, VsockConnection *connection);
/* One packet of it: false when it has none after all. */
bool vsock_connection_send(VsockHub *hub, VsockConnection *connection, VsockHeader *header,
                           const struct iovec *data, uint32_t count);
#endif
