/*
 * An Ethernet cable that is a socket: between two machines of one process, of one host, or of two hosts.
 *
 * Wire format on streams: each frame after its length, 4 bytes, big-endian, as QEMU's -netdev stream and socket
 * have it. A datagram or packet (-netdev dgram) is one frame. Nothing is encrypted or authenticated: a TCP or UDP
 * address other than the host's own is for networks that are trusted. What the peer sends is checked as a guest's
 * is.
 *
 * Addresses: "unix:PATH" or "HOST:PORT" ("[::1]:PORT", ":PORT" is this host; names are looked up once).
 */
#ifndef PYVMM_NET_NET_SOCKET_H
#define PYVMM_NET_NET_SOCKET_H

#include "net/net.h"

/* One of listen, connect, remote and fd. */
typedef struct NetSocketOptions {
    const char *listen;  /* stream: wait for one peer at a time; a path that no one listens on is taken over */
    const char *connect; /* stream */
    const char *remote;  /* datagrams: where to send */
    const char *local;   /* datagrams: where to receive; with `remote`, and needed */
    int fd; /* a connected stream, seqpacket or datagram socket, which the backend then owns; 0: none */
    uint32_t reconnect_ms; /* connect: try again so often, also at first; 0: fail at first, and stay down after */
    bool header; /* a NetHeader before each frame: both ends are this program's, and big frames stay whole */
} NetSocketOptions;

NetBackend *net_socket_new(Board *board, IoThread *io, const NetSocketOptions *options, Error *error);
/* Where it is bound, as an address above; for a listener on port 0. Returns its length, as snprintf(3). */
int net_socket_address(NetBackend *backend, char *text, size_t size);
/* Two ends of one cable (SOCK_SEQPACKET), for `fd` with `header`. */
int net_socket_pair(int ends[2]);

#endif
