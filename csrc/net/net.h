/*
 * A network backend (the host's side: libslirp, tap, a socket) and the NIC that is connected to it.
 *
 * Source: virtio 1.2 §5.1.6 for NetHeader, which travels with every frame in both directions, so that big (GSO)
 * frames and unfinished checksums pass through whole. A frame is an Ethernet frame without its FCS, at most
 * NET_FRAME_MAX bytes. Frames shorter than 60 bytes are not padded here: a NIC that must, does.
 *
 * Threads and locks, for who writes a NIC:
 * - A backend has one I/O thread, net_backend_io(): a worker of the board ("net-0") that the NIC shares (a virtio
 *   NIC gives it to its queues). Backends outlive their NIC, as images do.
 * - net_backend_send(), _resume(), _set_offloads() and the counters may be called from any thread, with the NIC's
 *   lock held or not: lock order device > backend. They never call the NIC. A NIC's sends are one after another.
 * - NetNicOps are called on that I/O thread only, with no lock of the backend held, so they take the NIC's lock
 *   themselves; never from inside a call of the NIC. They may call send and resume. Where no I/O thread runs
 *   (virtual clock) they are called from a timer of the clock: on the vCPU's thread, again with no lock held.
 * - net_connect() and net_disconnect(): before the I/O thread has started, or from any thread but it, without the
 *   NIC's lock; disconnect waits for an operation of the NIC that is running.
 * - A NIC that sends from another thread than that I/O thread holds its lock meanwhile: else `writable` could come
 *   between -EAGAIN and its remembering it.
 * - Pausing the board (board_pause_io) pauses backends: their sources are not read. What comes stays with the host.
 *
 * A NIC may send any frame with any header that net_header_check() takes: what the backend cannot is done in
 * software before (net/net_offload.h), and likewise a NIC is given only what it said by net_backend_set_offloads().
 */
#ifndef PYVMM_NET_NET_H
#define PYVMM_NET_NET_H

#include <sys/uio.h>

#include "common/common.h"
#include "io/board.h"

/* IPv4's largest packet, an Ethernet header and two VLAN tags, rounded up. */
#define NET_FRAME_MAX 65560u
#define NET_ETHERNET  14u
#define NET_MTU       1500u
#define NET_MAX_SEGMENTS                                                                                           \
    272u /* of a frame given to send or receive: a chain of 256 and where it crosses memslots */

enum NetHeaderFlags { NET_NEEDS_CSUM = 1, NET_DATA_VALID = 2 };

enum NetGsoType {
    NET_GSO_NONE = 0,
    NET_GSO_TCPV4 = 1,
    NET_GSO_UDP = 3, /* to be cut into IP fragments */
    NET_GSO_TCPV6 = 4,
    NET_GSO_UDP_L4 = 5, /* to be cut into datagrams */
    NET_GSO_ECN = 0x80, /* with TCP: the first segment only has CWR */
};

/* struct virtio_net_hdr without num_buffers: the same 10 bytes, little-endian. */
typedef struct NetHeader {
    uint8_t flags;    /* NetHeaderFlags */
    uint8_t gso_type; /* NetGsoType */
    uint16_t hdr_len; /* bytes of all headers: a hint only, never believed */
    uint16_t gso_size;
    uint16_t csum_start;  /* NEEDS_CSUM: sum from here to the end of the frame... */
    uint16_t csum_offset; /* ...and store it so many bytes after csum_start */
} NetHeader;

/* What a side takes beside plain frames with finished checksums and at most MTU bytes. */
enum NetOffload {
    NET_OFFLOAD_CSUM = 1, /* NEEDS_CSUM; the others need it */
    NET_OFFLOAD_TSO4 = 2,
    NET_OFFLOAD_TSO6 = 4,
    NET_OFFLOAD_ECN = 8, /* with TSO */
    NET_OFFLOAD_UFO = 16,
    NET_OFFLOAD_USO = 32,
};

/* Of a backend, as the guest sees the directions: tx leaves the guest. Drops are frames. */
typedef struct NetCounters {
    uint64_t tx_frames; /* a GSO frame is one */
    uint64_t tx_bytes;
    uint64_t tx_drops;   /* the host's side did not take it, or the link was down */
    uint64_t tx_invalid; /* a header that contradicts its frame */
    uint64_t rx_frames;
    uint64_t rx_bytes;
    uint64_t rx_drops;    /* the queue for a NIC without buffers was full, no NIC, or the link was down */
    uint64_t rx_waits;    /* the NIC had no buffers */
    uint64_t tx_waits;    /* the backend had no room */
    uint64_t segmented;   /* GSO frames cut in software, either way */
    uint64_t checksummed; /* checksums finished in software */
    uint64_t link_changes;
    uint32_t rx_queued; /* frames that wait for the NIC now */
    bool link;
} NetCounters;

typedef struct NetBackend NetBackend;

/* The NIC's. All but `receive` may be NULL. */
typedef struct NetNicOps {
    /* A frame for the guest: 0 taken (or dropped by the NIC: filtered, not enabled), -EAGAIN: no buffers now. The
     * backend then keeps it, stops reading its source, and goes on after net_backend_resume(). `header` is never
     * NULL; the bytes are the NIC's only during the call. */
    int (*receive)(void *nic, const struct iovec *iov, uint32_t count, const NetHeader *header);
    /* All that there was for now has been received: the time for one interrupt for the batch. */
    void (*received)(void *nic);
    /* There is room again after a send that gave -EAGAIN. */
    void (*writable)(void *nic);
    /* The carrier came or went. */
    void (*link)(void *nic, bool up);
} NetNicOps;

/* -EBUSY: another NIC is there. Sets the NIC's offloads to none. */
int net_connect(NetBackend *backend, const NetNicOps *ops, void *nic);
void net_disconnect(NetBackend *backend);

/*
 * A frame from the guest. `header` NULL: all zero. Returns
 *   0        taken (or lost on the way, as on a wire),
 *   -EAGAIN  full: keep the frame, and send it again after NetNicOps.writable,
 *   -errno   dropped and counted: -EINVAL the header contradicts the frame, -ENOLINK the link is down, other.
 * A NIC treats every result but -EAGAIN as sent.
 */
int net_backend_send(NetBackend *backend, const struct iovec *iov, uint32_t count, const NetHeader *header);
/* After a batch of sends: backends that gather (a socket, libslirp) do their part now rather than soon. Optional.
 */
void net_backend_flush(NetBackend *backend);
/* The NIC has buffers again. Cheap when nothing waits. */
void net_backend_resume(NetBackend *backend);
/* What the NIC takes from now on: as the driver negotiated; 0 at reset. */
void net_backend_set_offloads(NetBackend *backend, uint32_t offloads);
/* What the backend takes as it is. The rest is done in software, so a NIC may offer all of NetOffload to its driver
 * in any case: one big frame through the guest's stack is cheaper than 44 small ones. */
uint32_t net_backend_offloads(const NetBackend *backend);

IoThread *net_backend_io(const NetBackend *backend);
const char *net_backend_name(const NetBackend *backend); /* "user", "tap", ... */
bool net_backend_link(NetBackend *backend);              /* is there a carrier? */
/* Pull or plug the cable by hand (monitor, tests): the NIC is told; a backend whose peer is gone stays down. */
void net_backend_set_link(NetBackend *backend, bool up);
void net_backend_counters(NetBackend *backend, NetCounters *counters);
/* One look at everything, on the caller's thread, when no I/O thread runs. */
void net_backend_poll(NetBackend *backend);
/* Without a NIC, and with its I/O thread stopped or from another thread. */
void net_backend_free(NetBackend *backend);

/* Record every frame in both directions in a libpcap file (net/net_capture.h). Replaces an earlier one. */
int net_backend_capture(NetBackend *backend, const char *path, uint32_t snaplen, Error *error);
int net_backend_capture_stop(NetBackend *backend, Error *error); /* flushes and closes; says if the disk was full */

#endif
