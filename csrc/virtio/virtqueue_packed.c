/*
 * The packed ring, virtio 1.2 §2.8: one ring of descriptors that driver and device both write, in which a
 * descriptor's flags say whose turn it is, by a bit that changes its meaning with each lap (the wrap counters,
 * §2.8.1).
 */
#include "virtio/virtqueue_internal.h"

#define AVAIL_USED  (VIRTQ_PACKED_AVAIL | VIRTQ_PACKED_USED)
#define EVENT_FLAGS 3u
#define WRAP        0x8000u

static uint64_t ring_bytes(const Virtqueue *queue) { return sizeof(VirtqPackedDesc) * (uint64_t)queue->size; }

static int packed_enable(Virtqueue *queue)
{
    if (queue->desc_gpa % 16 || queue->avail_gpa % 4 || queue->used_gpa % 4) /* §2.8 */
        return virtqueue_fault(queue, EINVAL, "ring address is not aligned");
    queue->ring = guest_memory_ptr(queue->memory, queue->desc_gpa, ring_bytes(queue), true);
    queue->driver_event = guest_memory_ptr(queue->memory, queue->avail_gpa, sizeof(VirtqEventSuppress), false);
    queue->device_event = guest_memory_ptr(queue->memory, queue->used_gpa, sizeof(VirtqEventSuppress), true);
    if (!queue->ring || !queue->driver_event || !queue->device_event)
        return virtqueue_fault(queue, EFAULT, "ring is not in RAM");
    return 0;
}

/* §2.8.1: available when the AVAIL bit is the driver's wrap counter and the USED bit is not. */
static bool packed_is_empty(const Virtqueue *queue)
{
    uint16_t flags = __atomic_load_n(&queue->ring[queue->last_avail].flags, __ATOMIC_ACQUIRE);
    bool avail = flags & VIRTQ_PACKED_AVAIL, used = flags & VIRTQ_PACKED_USED;
    return avail != queue->avail_wrap || used == queue->avail_wrap;
}

/* A descriptor of the ring; `id` is where the split ring has `next`. */
static VirtqDesc copy_packed(const VirtqPackedDesc *from, uint16_t *id)
{
    VirtqPackedDesc copy;
    memcpy(&copy, from, sizeof copy);
    __asm__ volatile("" : "+m"(copy));
    *id = copy.id;
    return (VirtqDesc){.addr = copy.addr, .len = copy.len, .flags = copy.flags};
}

/* §2.8.7: the table is read in order, all of it; flags but WRITE are reserved there. */
static int walk_table(VirtqBuilder *builder, const VirtqDesc *indirect)
{
    const VirtqPackedDesc *table = virtqueue_indirect_table(builder->queue, indirect);
    uint16_t id;
    if (!table)
        return -EINVAL;
    for (uint32_t i = 0; i < indirect->len / sizeof *table; i++) {
        VirtqDesc desc = copy_packed(&table[i], &id);
        int result = desc.flags & VIRTQ_DESC_F_INDIRECT
                         ? virtqueue_fault(builder->queue, EINVAL, "indirect descriptor in an indirect table")
                         : virtqueue_add_buffer(builder, &desc);
        if (result < 0)
            return result;
    }
    return 1;
}

/* §2.8.6: the descriptors of a list follow each other in the ring; the last one has the buffer ID. */
static int walk_list(VirtqBuilder *builder)
{
    const Virtqueue *queue = builder->queue;
    VirtqToken *token = &builder->chain->token;
    uint32_t position = queue->last_avail;
    for (token->descriptors = 1;; token->descriptors++) {
        VirtqDesc desc = copy_packed(&queue->ring[position], &token->id);
        bool indirect = desc.flags & VIRTQ_DESC_F_INDIRECT;
        if (indirect && token->descriptors > 1)
            return virtqueue_fault(builder->queue, EINVAL, "indirect descriptor in a list");
        int result = indirect ? walk_table(builder, &desc) : virtqueue_add_buffer(builder, &desc);
        if (result < 0)
            return result;
        if (indirect || !(desc.flags & VIRTQ_DESC_F_NEXT))
            return 1;
        if (token->descriptors == queue->size)
            return virtqueue_fault(builder->queue, EINVAL, "chain loops or is longer than the queue");
        position = position + 1 == queue->size ? 0 : position + 1;
    }
}

/* A position moved on by at most one lap. */
static uint16_t advance(const Virtqueue *queue, uint16_t position, uint16_t count, bool *wrap)
{
    uint32_t next = (uint32_t)position + count;
    if (next < queue->size)
        return (uint16_t)next;
    *wrap = !*wrap;
    return (uint16_t)(next - queue->size);
}

static int packed_pop(VirtqBuilder *builder)
{
    Virtqueue *queue = builder->queue;
    int result = walk_list(builder);
    if (result == 1)
        queue->last_avail =
            advance(queue, queue->last_avail, builder->chain->token.descriptors, &queue->avail_wrap);
    return result;
}

static void packed_unpop(Virtqueue *queue, uint16_t descriptors)
{
    if (descriptors > queue->last_avail) { /* it began in the lap before */
        queue->last_avail += queue->size;
        queue->avail_wrap = !queue->avail_wrap;
    }
    queue->last_avail -= descriptors;
}

/* §2.8.6, §2.8.23: one used descriptor for the whole list. The driver looks at used descriptors in their order, so
 * holding back the flags of the first holds back all. */
static void packed_push(Virtqueue *queue, VirtqToken token, uint32_t written)
{
    VirtqPackedDesc *desc = &queue->ring[queue->next_used];
    uint16_t flags = (uint16_t)((queue->used_wrap ? AVAIL_USED : 0) | (written ? VIRTQ_DESC_F_WRITE : 0));
    desc->id = token.id;
    desc->len = written;
    if (queue->held) {
        __atomic_store_n(&desc->flags, flags, __ATOMIC_RELEASE);
    } else {
        queue->held = true;
        queue->held_slot = queue->next_used;
        queue->held_flags = flags;
    }
    queue->next_used = advance(queue, queue->next_used, token.descriptors, &queue->used_wrap);
    queue->signalled = (uint16_t)MIN(queue->signalled + token.descriptors, queue->size);
}

/* §2.8.10: is the position that the driver asks about among the `signalled` descriptors used since the last time?
 */
static bool event_reached(const Virtqueue *queue, uint16_t offset_wrap)
{
    int32_t now = queue->next_used, event = offset_wrap & ~WRAP;
    if ((bool)(offset_wrap & WRAP) != queue->used_wrap)
        now += queue->size;
    return now - event >= 1 && now - event <= queue->signalled;
}

static bool packed_publish(Virtqueue *queue)
{
    if (queue->held)
        __atomic_store_n(&queue->ring[queue->held_slot].flags, queue->held_flags, __ATOMIC_RELEASE);
    queue->held = false;
    guest_memory_written(queue->memory, queue->desc_gpa, ring_bytes(queue));
    __atomic_thread_fence(__ATOMIC_SEQ_CST); /* the flags before the driver's wish */
    uint16_t flags = __atomic_load_n(&queue->driver_event->flags, __ATOMIC_ACQUIRE) & EVENT_FLAGS;
    bool wanted = flags != VIRTQ_EVENT_DISABLE;
    if (flags == VIRTQ_EVENT_DESC && queue->event_idx && queue->signalled_valid)
        wanted = event_reached(queue, __atomic_load_n(&queue->driver_event->offset_wrap, __ATOMIC_RELAXED));
    queue->signalled_valid = true;
    queue->signalled = 0;
    return wanted;
}

static void write_event(Virtqueue *queue, uint16_t flags)
{
    __atomic_store_n(&queue->device_event->flags, flags, __ATOMIC_RELEASE);
    guest_memory_written(queue->memory, queue->used_gpa, sizeof(VirtqEventSuppress));
}

static void packed_disable_notify(Virtqueue *queue)
{
    /* As in the split ring: an event position that is not moved on asks for nothing. */
    if (!queue->event_idx && !queue->notify_disabled)
        write_event(queue, VIRTQ_EVENT_DISABLE);
}

static void packed_enable_notify(Virtqueue *queue)
{
    if (!queue->event_idx) {
        if (queue->notify_disabled)
            write_event(queue, VIRTQ_EVENT_ENABLE);
        return;
    }
    __atomic_store_n(&queue->device_event->offset_wrap, virtqueue_last_avail(queue), __ATOMIC_RELAXED);
    write_event(queue, VIRTQ_EVENT_DESC);
}

const VirtqFormat virtqueue_packed = {
    .enable = packed_enable,
    .is_empty = packed_is_empty,
    .pop = packed_pop,
    .unpop = packed_unpop,
    .push = packed_push,
    .publish = packed_publish,
    .disable_notify = packed_disable_notify,
    .enable_notify = packed_enable_notify,
};
