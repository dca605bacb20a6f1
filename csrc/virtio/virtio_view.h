/*
 * A look at a queue as it lies in guest memory: a copy, taken with the device's lock held. Nothing that driver or
 * device go by is written, and the driver may be writing meanwhile, as it may while a device reads.
 */
#ifndef PYVMM_VIRTIO_VIRTIO_VIEW_H
#define PYVMM_VIRTIO_VIRTIO_VIEW_H

#include "virtio/virtio.h"

typedef struct VirtioQueueView {
    uint64_t desc_gpa, driver_gpa, device_gpa;
    uint16_t size, max_size;
    uint16_t last_avail, next_used; /* the device's own positions */
    /* Split: flags, idx and used_event of the available ring, then flags, idx and avail_event of the used ring.
     * Packed: flags and offset with wrap counter of each event structure; `index` is 0. */
    uint16_t driver_flags, driver_index, driver_event;
    uint16_t device_flags, device_index, device_event;
    uint8_t enabled, packed, event_idx, indirect, in_order, avail_wrap, used_wrap;
    union {
        VirtqDesc desc[VIRTQ_MAX_SIZE];
        VirtqPackedDesc packed_desc[VIRTQ_MAX_SIZE];
    };
    uint16_t avail[VIRTQ_MAX_SIZE]; /* split */
    VirtqUsedElem used[VIRTQ_MAX_SIZE];
} VirtioQueueView;

/* -ENOENT: there is no such queue. A queue that the driver has not enabled has no rings to copy. */
int virtio_queue_view(Device *device, uint32_t index, VirtioQueueView *view);
/* An indirect table of a split or packed ring. -EINVAL: more than VIRTQ_MAX_SIZE entries; -EFAULT: not in RAM. */
int virtio_queue_table(Device *device, uint64_t gpa, uint32_t count, VirtqDesc *table);
uint32_t virtio_queue_count(Device *device);

#endif
