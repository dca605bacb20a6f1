/*
 * Virtqueues as the device sees them: chains out of the ring, used ones back, and who may wait without being told.
 *
 * Source: virtio 1.2 §2.7 (the split ring), §2.8 (the packed ring), §2.7.5.3 and §2.8.7 (indirect descriptors),
 * §2.7.7, §2.7.10 and §2.8.10 (notification suppression), §2.9 and §2.7.9 (in-order use). Left out: more than 1024
 * entries.
 *
 * Everything in the rings is the driver's and may change while it is read: a descriptor is copied once, then
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

enum VirtqPackedFlags { VIRTQ_PACKED_AVAIL = 1 << 7, VIRTQ_PACKED_USED = 1 << 15 }; /* beside VirtqDescFlags */

typedef struct VirtqPackedDesc { /* §2.8.13: available and used ones, in one ring */
    uint64_t addr;
    uint32_t len;
    uint16_t id;
    uint16_t flags;
} VirtqPackedDesc;

enum VirtqEventFlags { VIRTQ_EVENT_ENABLE = 0, VIRTQ_EVENT_DISABLE = 1, VIRTQ_EVENT_DESC = 2 };

typedef struct VirtqEventSuppress { /* §2.8.14: the driver's for interrupts, the device's for notifications */
    uint16_t offset_wrap;           /* position in bits 0 to 14, wrap counter in bit 15 */
    uint16_t flags;                 /* bits 0 and 1 */
} VirtqEventSuppress;

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

/* How a taken chain is named when it is given back: §2.7.8, §2.8.6. */
typedef struct VirtqToken {
    uint16_t id;          /* split ring: the head descriptor; packed ring: the buffer ID */
    uint16_t descriptors; /* of the packed ring that it occupies; split ring: 1 */
    uint16_t order;       /* how many were taken before it, modulo 2^16 */
} VirtqToken;

/* What waits for those before it, where the driver wants buffers used in order. */
typedef struct VirtqPending {
    VirtqToken token;
    uint32_t written;
    bool ready;
} VirtqPending;

typedef struct VirtqFormat VirtqFormat;

typedef struct Virtqueue {
    const VirtqFormat *format; /* split or packed */
    GuestMemory *memory;
    uint16_t max_size; /* what the device offers; also the longest chain it takes */
    uint16_t size;     /* what the driver chose: a power of two in a split ring */
    bool enabled;
    bool event_idx; /* VIRTIO_F_EVENT_IDX negotiated */
    bool indirect;  /* VIRTIO_F_INDIRECT_DESC negotiated */
    bool in_order;  /* VIRTIO_F_IN_ORDER negotiated */
    bool notify_disabled;
    bool signalled_valid; /* `signalled` means something */
    /* Descriptor area, driver area (available ring or its events), device area (used ring or its events), §2.6 */
    gpa_t desc_gpa, avail_gpa, used_gpa;
    union { /* host addresses, valid while enabled: RAM never moves */
        struct {
            const VirtqDesc *desc;
            VirtqAvail *avail;
            VirtqUsed *used;
        };
        struct {
            VirtqPackedDesc *ring;
            const VirtqEventSuppress *driver_event;
            VirtqEventSuppress *device_event;
        };
    };
    uint16_t last_avail; /* split: next entry of the available ring; packed: next descriptor */
    uint16_t next_used;  /* split: next entry of the used ring, ahead of used->idx; packed: next descriptor */
    bool avail_wrap, used_wrap;     /* packed: the wrap counters, §2.8.1 */
    uint16_t signalled;             /* split: used index at the last interrupt; packed: descriptors used since */
    uint16_t held_slot, held_flags; /* packed: the first used descriptor not published yet */
    bool held;
    uint16_t next_order; /* of the next chain taken, and of the next one given back */
    uint16_t next_given;
    VirtqPending *pending; /* in order: VIRTQ_MAX_SIZE of them, by `order` */
    const char *fault;     /* why pop said -EINVAL */
} Virtqueue;

/* One piece of a buffer in host memory, and where the guest has it. */
typedef struct VirtqSegment {
    struct iovec iov;
    gpa_t gpa;
} VirtqSegment;

typedef struct VirtqChain {
    VirtqToken token;
    uint32_t readable; /* segments that the device reads: the first ones */
    uint32_t writable; /* segments that it writes: they follow */
    uint64_t readable_bytes;
    uint64_t writable_bytes;
} VirtqChain;

void virtqueue_init(Virtqueue *queue, GuestMemory *memory, uint16_t max_size);
/* As it was after init; also before its memory goes. */
void virtqueue_reset(Virtqueue *queue);
/* Which format, as negotiated; before enabling. */
void virtqueue_set_packed(Virtqueue *queue, bool packed);
bool virtqueue_is_packed(const Virtqueue *queue);

/* Where the rings are, by themselves (modern), or one page-aligned block (legacy, §2.7.2). */
void virtqueue_set_legacy_address(Virtqueue *queue, gpa_t base);
/* Check size, alignment and addresses and translate them. -EINVAL, -EFAULT or -ENOMEM with `fault` set. */
int virtqueue_enable(Virtqueue *queue);

bool virtqueue_is_empty(const Virtqueue *queue);
/* Take the next chain: 1, or 0 when there is none, or -EINVAL with `fault` set when it is malformed, or -ENOSPC
 * when it needs more than `capacity` segments (it is not taken). */
int virtqueue_pop(Virtqueue *queue, VirtqChain *chain, VirtqSegment *segments, uint32_t capacity);
/* Leave the chain that was taken last for later: it is the next one again. Several: the last one first. */
void virtqueue_unpop(Virtqueue *queue, VirtqToken token);

/* Give a chain back; the driver sees nothing before virtqueue_publish(). In order, it waits for those before it. */
void virtqueue_push(Virtqueue *queue, VirtqToken token, uint32_t written);
/* Returns whether the driver wants an interrupt for what was published. */
bool virtqueue_publish(Virtqueue *queue);

void virtqueue_disable_notify(Virtqueue *queue);
/* Returns true when something arrived meanwhile: the caller goes on (§2.7.10). */
bool virtqueue_enable_notify(Virtqueue *queue);

/* For save and restore: the positions; packed: with their wrap counters in bit 15. */
uint16_t virtqueue_last_avail(const Virtqueue *queue);
uint16_t virtqueue_next_used(const Virtqueue *queue);
int virtqueue_set_indices(Virtqueue *queue, uint16_t last_avail, uint16_t next_used); /* -EINVAL: out of range */

#endif
