/*
 * virtio socket device: stream sockets between the guest and programs of the host, by Unix sockets
 * (vsock/vsock_hub.h).
 *
 * Source: virtio 1.2 §5.10. Offered: STREAM. Left out: SEQPACKET. Everything is done on the device's I/O thread
 * with its lock held: all of the host's sockets are non-blocking, and in one epoll set that the thread watches. On
 * a virtual clock there is no thread, and the host's sockets are looked at only when the guest sends or offers
 * buffers.
 *
 * Saved state: connections are not in it. A restored driver is sent a transport reset event (§5.10.6.7), and its
 * sockets say ECONNRESET.
 */
#ifndef PYVMM_VIRTIO_VIRTIO_VSOCK_H
#define PYVMM_VIRTIO_VIRTIO_VSOCK_H

#include "virtio/virtio_place.h"
#include "vsock/vsock_hub.h"

#define VIRTIO_VSOCK_F_STREAM   1ull
#define VIRTIO_VSOCK_QUEUE_SIZE 128

enum VirtioVsockQueue { VIRTIO_VSOCK_RX = 0, VIRTIO_VSOCK_TX = 1, VIRTIO_VSOCK_EVENT = 2, VIRTIO_VSOCK_QUEUES = 3 };
enum VirtioVsockEvent { VIRTIO_VSOCK_EVENT_TRANSPORT_RESET = 0 };

typedef struct VirtioVsockState {
    uint8_t reset_owed; /* a transport reset event has to be sent once this is restored */
} VirtioVsockState;

/* `path` is the socket that programs connect to, PATH_PORT those that they listen on; the text is not kept. */
Device *virtio_vsock_new(Board *board, const VirtioPlace *place, const char *path, uint32_t guest_cid,
                         Error *error);
void virtio_vsock_counters(Device *device, VsockCounters *counters);

#endif
