/*
 * Stream sockets between a guest and programs of the host: packets on one side, Unix sockets on the other. No
 * kernel module of the host is needed, and what carries the packets is not known here.
 *
 * Source: virtio 1.2 §5.10.6 (packets, credit, shutdown and reset of connections); the names of the host's sockets
 * are those of Firecracker's docs/vsock.md: a guest that connects to host port P reaches the program that listens
 * on PATH_P, and a program that connects to PATH and says "CONNECT P\n" reaches the guest's port P, and reads "OK
 * HOST_PORT\n" first. Left out: SEQPACKET.
 *
 * Everything in packets is the guest's. A connection has a buffer of VSOCK_BUFFER bytes for what its program does
 * not take yet; a guest that sends more than it was told there is room for is reset. Packets for the guest are not
 * queued: a connection is, once, and says what it has to say when there is room. One thread at a time calls.
 */
#ifndef PYVMM_VSOCK_HUB_H
#define PYVMM_VSOCK_HUB_H

#include <sys/uio.h>

#include "vsock/vsock_packet.h"

#define VSOCK_MAX_CONNECTIONS 512u
#define VSOCK_BUFFER          (128u << 10)
#define VSOCK_MAX_PATH        96u /* of the socket: a port of 10 digits is put behind it, in sun_path's 108 bytes */

typedef struct VsockCounters {
    uint64_t by_guest; /* connections that were established, by who asked for them */
    uint64_t by_host;
    uint64_t refused; /* asked for and not established, either way */
    uint64_t resets;  /* ended otherwise than by both sides' shutdown */
    uint64_t bytes_from_guest;
    uint64_t bytes_to_guest;
    uint64_t malformed;   /* packets that were dropped */
    uint32_t connections; /* now */
} VsockCounters;

typedef struct VsockHub VsockHub;

/* Listens on `path`. NULL with `error` filled: the path is too long, taken, or cannot be made. */
VsockHub *vsock_hub_new(const char *path, uint32_t guest_cid, Error *error);
void vsock_hub_free(VsockHub *hub); /* and removes the socket */
/* The guest forgot all: every connection ends. */
void vsock_hub_reset(VsockHub *hub);
void vsock_hub_counters(const VsockHub *hub, VsockCounters *counters);

/* A packet of the guest's; `data` has header->len bytes at least. */
void vsock_hub_receive(VsockHub *hub, const VsockHeader *header, const struct iovec *data, uint32_t count);
/* Too many replies wait for room: take no more of the guest's packets until some were sent. */
bool vsock_hub_is_full(const VsockHub *hub);
/* The next packet for the guest: true with `header` filled and header->len bytes in `data`, false when there is
 * none. */
bool vsock_hub_send(VsockHub *hub, VsockHeader *header, const struct iovec *data, uint32_t count);
bool vsock_hub_has_packet(const VsockHub *hub); /* perhaps: vsock_hub_send() knows */

/* An epoll descriptor: readable when vsock_hub_poll() has something to do. `accept`: the guest can be asked. */
int vsock_hub_fd(const VsockHub *hub);
void vsock_hub_poll(VsockHub *hub, bool accept);

#endif
