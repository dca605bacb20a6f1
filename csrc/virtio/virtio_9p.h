/*
 * virtio 9P device: a folder of the host, shared by messages of 9P2000.L (p9/p9_server.h).
 *
 * Source: virtio 1.2 §5 gives it the device ID 9 and no more; feature bit 0 and the configuration (a 16-bit length
 * and the tag that the guest mounts by) are as in Linux's include/uapi/linux/virtio_9p.h. A request is one chain:
 * the message in its readable buffers, room for the reply in the writable ones. File data goes between those and
 * the file without a copy.
 *
 * Saved state: that nothing is mounted. Descriptors of the host cannot be saved, so a state with fids is refused
 * (virtio_9p_counters says how many there are).
 */
#ifndef PYVMM_VIRTIO_VIRTIO_9P_H
#define PYVMM_VIRTIO_VIRTIO_9P_H

#include "p9/p9_server.h"
#include "virtio/virtio_place.h"

#define VIRTIO_9P_F_MOUNT_TAG 1ull
#define VIRTIO_9P_TAG_MAX     31
#define VIRTIO_9P_QUEUE_SIZE  128

typedef struct Virtio9pOptions {
    const char *path; /* of the folder; the text is not kept */
    const char *tag;  /* 1 to 31 bytes */
    enum P9Security security;
    bool read_only;
    uint32_t max_descriptors; /* 0: half of what the process may have */
} Virtio9pOptions;

typedef struct Virtio9pState {
    uint32_t fids; /* that the driver had */
    uint32_t msize;
} Virtio9pState;

Device *virtio_9p_new(Board *board, const VirtioPlace *place, const Virtio9pOptions *options, Error *error);
void virtio_9p_counters(Device *device, P9Counters *counters);

#endif
