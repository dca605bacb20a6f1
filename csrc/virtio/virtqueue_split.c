/* The split ring, virtio 1.2 §2.7. */
#include "virtio/virtqueue_internal.h"

static uint64_t avail_bytes(const Virtqueue *queue) { return 6 + 2ull * queue->size; }
static uint64_t used_bytes(const Virtqueue *queue) { return 6 + 8ull * queue->size; }

/* used_event and avail_event, §2.7.7.1 and §2.7.10. */
static uint16_t *used_event(const Virtqueue *queue) { return &queue->avail->ring[queue->size]; }
static uint16_t *avail_event(const Virtqueue *queue) { return (uint16_t *)&queue->used->ring[queue->size]; }

static int split_enable(Virtqueue *queue)
{
    if (queue->size & (queue->size - 1))
        return virtqueue_fault(queue, EINVAL, "queue size is not a power of two");
    if (queue->desc_gpa % 16 || queue->avail_gpa % 2 || queue->used_gpa % 4) /* §2.7 */
        return virtqueue_fault(queue, EINVAL, "ring address is not aligned");
    queue->desc =
        guest_memory_ptr(queue->memory, queue->desc_gpa, sizeof(VirtqDesc) * (uint64_t)queue->size, false);
    queue->avail = guest_memory_ptr(queue->memory, queue->avail_gpa, avail_bytes(queue), false);
    queue->used = guest_memory_ptr(queue->memory, queue->used_gpa, used_bytes(queue), true);
    if (!queue->desc || !queue->avail || !queue->used)
        return virtqueue_fault(queue, EFAULT, "ring is not in RAM");
    return 0;
}

static uint16_t avail_idx(const Virtqueue *queue) { return __atomic_load_n(&queue->avail->idx, __ATOMIC_ACQUIRE); }

static bool split_is_empty(const Virtqueue *queue) { return avail_idx(queue) == queue->last_avail; }

/* Where a walk is: the ring's own table, or an indirect one. */
typedef struct Walk {
    const VirtqDesc *table;
    uint32_t entries;
    uint32_t index;
    bool indirect;
} Walk;

static int enter_indirect(Virtqueue *queue, Walk *walk, const VirtqDesc *desc)
{
    if (walk->indirect)
        return virtqueue_fault(queue, EINVAL, "indirect descriptor in an indirect table");
    const VirtqDesc *table = virtqueue_indirect_table(queue, desc);
    if (!table)
        return -EINVAL;
    *walk = (Walk){.table = table, .entries = desc->len / sizeof(VirtqDesc), .indirect = true};
    return 0;
}

static int walk_chain(VirtqBuilder *builder)
{
    Virtqueue *queue = builder->queue;
    Walk walk = {.table = queue->desc, .entries = queue->size, .index = builder->chain->token.id};
    for (;;) {
        if (walk.index >= walk.entries)
            return virtqueue_fault(queue, EINVAL, "descriptor index is beyond its table");
        VirtqDesc desc = virtqueue_copy_desc(&walk.table[walk.index]);
        bool enters = desc.flags & VIRTQ_DESC_F_INDIRECT;
        int result = enters ? enter_indirect(queue, &walk, &desc) : virtqueue_add_buffer(builder, &desc);
        if (result < 0)
            return result;
        if (enters)
            continue;
        if (!(desc.flags & VIRTQ_DESC_F_NEXT))
            return 1;
        walk.index = desc.next;
    }
}

static int split_pop(VirtqBuilder *builder)
{
    Virtqueue *queue = builder->queue;
    uint16_t waiting = (uint16_t)(avail_idx(queue) - queue->last_avail);
    if (waiting > queue->size)
        return virtqueue_fault(queue, EINVAL, "available index is ahead by more than the queue's size");
    builder->chain->token.id =
        __atomic_load_n(&queue->avail->ring[queue->last_avail & (queue->size - 1)], __ATOMIC_RELAXED);
    int result = walk_chain(builder);
    if (result == 1)
        queue->last_avail++;
    return result;
}

static void split_unpop(Virtqueue *queue, uint16_t descriptors) { queue->last_avail -= descriptors; }

static void split_push(Virtqueue *queue, VirtqToken token, uint32_t written)
{
    VirtqUsedElem *elem = &queue->used->ring[queue->next_used & (queue->size - 1)];
    *elem = (VirtqUsedElem){.id = token.id, .len = written};
    queue->next_used++;
}

static bool split_publish(Virtqueue *queue)
{
    __atomic_store_n(&queue->used->idx, queue->next_used, __ATOMIC_RELEASE);
    guest_memory_written(queue->memory, queue->used_gpa, used_bytes(queue));
    __atomic_thread_fence(__ATOMIC_SEQ_CST); /* the index before the driver's wish */
    if (!queue->event_idx)
        return !(__atomic_load_n(&queue->avail->flags, __ATOMIC_RELAXED) & VIRTQ_AVAIL_F_NO_INTERRUPT);
    uint16_t event = __atomic_load_n(used_event(queue), __ATOMIC_RELAXED);
    bool wanted = !queue->signalled_valid || virtqueue_event_passed(event, queue->next_used, queue->signalled);
    queue->signalled = queue->next_used;
    queue->signalled_valid = true;
    return wanted;
}

static void set_no_notify(Virtqueue *queue, bool on)
{
    __atomic_store_n(&queue->used->flags, on ? VIRTQ_USED_F_NO_NOTIFY : 0, __ATOMIC_RELAXED);
    guest_memory_written(queue->memory, queue->used_gpa, sizeof(uint16_t));
}

static void split_disable_notify(Virtqueue *queue)
{
    /* With event index, an avail_event that is not moved on asks for nothing (§2.7.10.2); flags stay 0. */
    if (!queue->event_idx && !queue->notify_disabled)
        set_no_notify(queue, true);
}

static void split_enable_notify(Virtqueue *queue)
{
    if (queue->event_idx) {
        __atomic_store_n(avail_event(queue), queue->last_avail, __ATOMIC_RELAXED);
        guest_memory_written(queue->memory, queue->used_gpa + used_bytes(queue) - 2, sizeof(uint16_t));
    } else if (queue->notify_disabled) {
        set_no_notify(queue, false);
    }
}

const VirtqFormat virtqueue_split = {
    .enable = split_enable,
    .is_empty = split_is_empty,
    .pop = split_pop,
    .unpop = split_unpop,
    .push = split_push,
    .publish = split_publish,
    .disable_notify = split_disable_notify,
    .enable_notify = split_enable_notify,
};
