/*
 * Split virtqueues as the device sees them: chains out of the available ring, used elements back, and who may wait
 * without being told.
 *
 * Source: virtio 1.2 §2.7 (the split ring), §2.7.5.3 (indirect descriptors), §2.7.7 and §2.7.10 (notification
 * suppression). Left out: the packed ring (§2.8), queue reset, more than 1024 entries.
 *
 * Everything in the rings is the guest's and may change while it is read: a descriptor is copied once, then
 * checked. The caller serialises calls on one queue (the device's lock).
 */
#ifndef PYVMM_VIRTIO_VIRTQUEUE_H
#define PYVMM_VIRTIO_VIRTQUEUE_H

#include <sys/uio.h>

#include "memory/memory.h"

#define VIRTQ_MAX_SIZE 1024

enum VirtqDescFlags { VIRTQ_DESC_F_NEXT = 1, VIRTQ_DESC_F_WRITE = 2, VIRTQ_DESC_F_INDIRECT = 4 };
enum { VIRTQ_AVAIL_F_NO_INTERRUPT = 1, VIRTQ_USED_F_NO_NOTIFY = 1 };

typedef struct VirtqDesc {
    uint64_t addr; /* guest physical */
    uint32_t len;
    uint16_t flags;
    uint16_t next;
} VirtqDesc;

typedef struct VirtqAvail { /* the driver's: §2.7.6; used_event follows the ring */
    uint16_t flags;
    uint16_t idx;
    uint16_t ring[];
} VirtqAvail;

typedef struct VirtqUsedElem {
    uint32_t id;
    uint32_t len;
} VirtqUsedElem;

typedef struct VirtqUsed { /* the device's: §2.7.8; avail_event follows the ring */
    uint16_t flags;
    uint16_t idx;
    VirtqUsedElem ring[];
} VirtqUsed;

typedef struct Virtqueue {
    GuestMemory *memory;
    uint16_t max_size; /* what the device offers; also the longest chain it takes */
    uint16_t size;     /* what the driver chose: a power of two */
    bool enabled;
    bool event_idx; /* VIRTIO_F_EVENT_IDX negotiated */
    bool indirect;  /* VIRTIO_F_INDIRECT_DESC negotiated */
    bool notify_disabled;
    bool signalled_valid; /* `signalled` means something */
    gpa_t desc_gpa, avail_gpa, used_gpa;
    const VirtqDesc *desc; /* host addresses, valid while enabled: RAM never moves */
    VirtqAvail *avail;
    VirtqUsed *used;
    uint16_t last_avail; /* next entry of the available ring */
    uint16_t next_used;  /* next entry of the used ring; what is not published yet is ahead of used->idx */
    uint16_t signalled;  /* used index at the last interrupt */
    const char *fault;   /* why pop said -EINVAL */
} Virtqueue;

/* One piece of a buffer in host memory, and where the guest has it. */
typedef struct VirtqSegment {
    struct iovec iov;
    gpa_t gpa;
} VirtqSegment;

/* How a taken chain is named when it is given back: §2.7.8, §2.8.6. */
typedef struct VirtqToken {
    uint16_t id;          /* of its head descriptor; packed ring: the buffer ID */
    uint16_t descriptors; /* of the ring that it occupies: 1 where the table is indirect, and in a split ring */
} VirtqToken;

typedef struct VirtqChain {
    VirtqToken token;
    uint32_t readable; /* segments that the device reads: the first ones */
    uint32_t writable; /* segments that it writes: they follow */
    uint64_t readable_bytes;
    uint64_t writable_bytes;
} VirtqChain;

void virtqueue_init(Virtqueue *queue, GuestMemory *memory, uint16_t max_size);
void virtqueue_reset(Virtqueue *queue);

/* Where the rings are, by themselves (modern), or one page-aligned block (legacy, §2.7.2). */
void virtqueue_set_legacy_address(Virtqueue *queue, gpa_t base);
/* Check size, alignment and addresses and translate them. -EINVAL or -EFAULT with `fault` set. */
int virtqueue_enable(Virtqueue *queue);

bool virtqueue_is_empty(const Virtqueue *queue);
/* Take the next chain: 1, or 0 when there is none, or -EINVAL with `fault` set when it is malformed, or -ENOSPC
 * when it needs more than `capacity` segments (it is not taken). */
int virtqueue_pop(Virtqueue *queue, VirtqChain *chain, VirtqSegment *segments, uint32_t capacity);
/* Leave the chain that was taken last for later: it is the next one again. Several: the last one first. */
void virtqueue_unpop(Virtqueue *queue, VirtqToken token);

/* Fill the next used element; the driver sees nothing before virtqueue_publish(). */
void virtqueue_push(Virtqueue *queue, VirtqToken token, uint32_t written);
/* Returns whether the driver wants an interrupt for what was published. */
bool virtqueue_publish(Virtqueue *queue);

void virtqueue_disable_notify(Virtqueue *queue);
/* Returns true when something arrived meanwhile: the caller goes on (§2.7.10). */
bool virtqueue_enable_notify(Virtqueue *queue);

/* For restore: indices as saved. */
void virtqueue_set_indices(Virtqueue *queue, uint16_t last_avail, uint16_t next_used);

#endif
