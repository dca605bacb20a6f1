/* A user network between its two files: net_user.c (descriptors, time, making) and net_user_frames.c. */
#ifndef PYVMM_NET_NET_USER_INTERNAL_H
#define PYVMM_NET_NET_USER_INTERNAL_H

#include "net/net_backend.h"
#include "net/net_slirp.h"
#include "net/net_user.h"
#include "net/net_user_options.h"

/* What a SYN's MSS is raised to. libslirp announces its window again when two of these are free, of 64 KiB: so many
 * leave it room to. */
#define USER_BIG_SEGMENTS 11u

typedef struct UserTimer {
    SlirpTimerCallback callback;
    void *opaque;
    int64_t at; /* of the host's CLOCK_MONOTONIC */
    struct UserTimer *next;
} UserTimer;

/* A descriptor of libslirp's, by its number. */
typedef struct UserWatch {
    uint32_t events; /* as the epoll set has it; 0: not in it */
    uint32_t next_events;
    uint32_t ready;
    uint32_t round; /* of refill() that wanted it last */
} UserWatch;

typedef struct NetUser {
    NetBackend base;
    SlirpLibrary library;
    const SlirpLibrary *slirp;
    Slirp *stack;
    bool plain;
    int epoll; /* of all of libslirp's sockets; the I/O thread watches it */
    int timer; /* of the host's time */
    int64_t armed;
    UserTimer *timers;
    bool dirty; /* frames went in since refill() */
    uint32_t round;
    UserWatch *watched;
    uint32_t slots;
    int *wanted, *last_wanted; /* descriptors of this round, and of the one before */
    uint32_t wanted_count, wanted_size, last_size;
    uint8_t frame[NET_FRAME_MAX]; /* from the guest */
    uint8_t whole[NET_FRAME_MAX]; /* for it, to be cut */
} NetUser;

/* Lock held. */
int net_user_to_slirp(NetBackend *backend, const struct iovec *iov, uint32_t count, const NetHeader *header);
ssize_t net_user_from_slirp(const void *frame, size_t length, void *opaque);

#endif
