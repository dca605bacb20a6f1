/*
 * What the split and the packed ring share (virtqueue.c), and what each is asked for.
 */
#ifndef PYVMM_VIRTIO_VIRTQUEUE_INTERNAL_H
#define PYVMM_VIRTIO_VIRTQUEUE_INTERNAL_H

#include "virtio/virtqueue.h"

/* A chain being taken: what was found of it so far, and where its segments go. */
typedef struct VirtqBuilder {
    Virtqueue *queue;
    VirtqChain *chain;
    VirtqSegment *segments;
    uint32_t capacity;
    uint32_t length; /* descriptors so far */
} VirtqBuilder;

/* Keeps why, returns -code. */
int virtqueue_fault(Virtqueue *queue, int code, const char *why);
/* Append one buffer: 0, -EINVAL with the fault set, or -ENOSPC. */
int virtqueue_add_buffer(VirtqBuilder *builder, const VirtqDesc *desc);
/* The table that a descriptor with VIRTQ_DESC_F_INDIRECT refers to, in the ring's own format; NULL with the fault
 * set. */
const void *virtqueue_indirect_table(Virtqueue *queue, const VirtqDesc *desc);
/* One copy of a descriptor that the driver may be changing: what is checked is what is used. */
static inline VirtqDesc virtqueue_copy_desc(const VirtqDesc *from)
{
    VirtqDesc desc;
    memcpy(&desc, from, sizeof desc);
    __asm__ volatile("" : "+m"(desc));
    return desc;
}

/* Did the position pass `event` on its way from `before` to `now`? §2.7.7.2 */
static inline bool virtqueue_event_passed(uint16_t event, uint16_t now, uint16_t before)
{
    return (uint16_t)(now - event - 1) < (uint16_t)(now - before);
}

/* One format of ring. The comments of virtqueue.h say what each does. */
typedef struct VirtqFormat {
    int (*enable)(Virtqueue *queue);
    bool (*is_empty)(const Virtqueue *queue);
    int (*pop)(VirtqBuilder *builder); /* 1 or an error: it is not empty */
    void (*unpop)(Virtqueue *queue, uint16_t descriptors);
    void (*push)(Virtqueue *queue, VirtqToken token, uint32_t written);
    bool (*publish)(Virtqueue *queue);
    void (*disable_notify)(Virtqueue *queue);
    void (*enable_notify)(Virtqueue *queue);
} VirtqFormat;

extern const VirtqFormat virtqueue_split, virtqueue_packed;

#endif
