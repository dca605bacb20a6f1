#include "virtio/virtqueue.h"

#define LEGACY_ALIGN 4096ull /* §2.7.2 */

static uint64_t avail_bytes(const Virtqueue *queue) { return 6 + 2ull * queue->size; }
static uint64_t used_bytes(const Virtqueue *queue) { return 6 + 8ull * queue->size; }

/* used_event and avail_event, §2.7.7.1 and §2.7.10. */
static uint16_t *used_event(const Virtqueue *queue) { return &queue->avail->ring[queue->size]; }
static uint16_t *avail_event(const Virtqueue *queue) { return (uint16_t *)&queue->used->ring[queue->size]; }

void virtqueue_init(Virtqueue *queue, GuestMemory *memory, uint16_t max_size)
{
    *queue = (Virtqueue){.memory = memory, .max_size = max_size, .size = max_size};
}

void virtqueue_reset(Virtqueue *queue) { virtqueue_init(queue, queue->memory, queue->max_size); }

void virtqueue_set_legacy_address(Virtqueue *queue, gpa_t base)
{
    queue->desc_gpa = base;
    queue->avail_gpa = base + sizeof(VirtqDesc) * (uint64_t)queue->size;
    queue->used_gpa = (queue->avail_gpa + avail_bytes(queue) + LEGACY_ALIGN - 1) & ~(LEGACY_ALIGN - 1);
}

static int fault(Virtqueue *queue, int code, const char *why)
{
    queue->fault = why;
    return -code;
}

int virtqueue_enable(Virtqueue *queue)
{
    if (queue->size == 0 || queue->size > queue->max_size || (queue->size & (queue->size - 1)))
        return fault(queue, EINVAL, "queue size is not a power of two within the device's limit");
    if (queue->desc_gpa % 16 || queue->avail_gpa % 2 || queue->used_gpa % 4) /* §2.7 */
        return fault(queue, EINVAL, "ring address is not aligned");
    queue->desc =
        guest_memory_ptr(queue->memory, queue->desc_gpa, sizeof(VirtqDesc) * (uint64_t)queue->size, false);
    queue->avail = guest_memory_ptr(queue->memory, queue->avail_gpa, avail_bytes(queue), false);
    queue->used = guest_memory_ptr(queue->memory, queue->used_gpa, used_bytes(queue), true);
    if (!queue->desc || !queue->avail || !queue->used)
        return fault(queue, EFAULT, "ring is not in RAM");
    queue->enabled = true;
    return 0;
}

void virtqueue_set_indices(Virtqueue *queue, uint16_t last_avail, uint16_t next_used)
{
    queue->last_avail = last_avail;
    queue->next_used = next_used;
    queue->signalled_valid = false;
}

static uint16_t avail_idx(const Virtqueue *queue) { return __atomic_load_n(&queue->avail->idx, __ATOMIC_ACQUIRE); }

bool virtqueue_is_empty(const Virtqueue *queue) { return avail_idx(queue) == queue->last_avail; }

/* Translate one buffer, cut where memslots meet. Returns the segments used, -EFAULT, or -ENOSPC. */
static int map_buffer(const GuestMemory *memory, gpa_t gpa, uint64_t len, bool writable, VirtqSegment *segments,
                      uint32_t capacity)
{
    uint32_t count = 0;
    while (len) {
        const Memslot *slot = guest_memory_find(memory, gpa);
        if (!slot || (writable && slot->flags & MEMSLOT_READ_ONLY))
            return -EFAULT;
        if (count == capacity)
            return -ENOSPC;
        uint64_t offset = gpa - slot->gpa, n = MIN(len, slot->size - offset);
        segments[count++] = (VirtqSegment){.iov = {slot->hva + offset, n}, .gpa = gpa};
        gpa += n;
        len -= n;
    }
    return (int)count;
}

/* Where a walk is: the ring's own table, or an indirect one. */
typedef struct Walk {
    const VirtqDesc *table;
    uint32_t entries;
    uint32_t index;
    bool indirect;
} Walk;

/* §2.7.5.3.2: the descriptor refers to a table; the write flag of it is ignored. */
static int enter_indirect(Virtqueue *queue, Walk *walk, const VirtqDesc *desc)
{
    if (!queue->indirect)
        return fault(queue, EINVAL, "indirect descriptor was not negotiated");
    if (walk->indirect)
        return fault(queue, EINVAL, "indirect descriptor in an indirect table");
    if (desc->flags & VIRTQ_DESC_F_NEXT)
        return fault(queue, EINVAL, "indirect descriptor with a next one");
    if (desc->len == 0 || desc->len % sizeof(VirtqDesc))
        return fault(queue, EINVAL, "indirect table's length is not a multiple of 16");
    walk->table = guest_memory_ptr(queue->memory, desc->addr, desc->len, false);
    if (!walk->table)
        return fault(queue, EINVAL, "indirect table is not in RAM");
    walk->entries = desc->len / sizeof(VirtqDesc);
    walk->index = 0;
    walk->indirect = true;
    return 0;
}

static int add_buffer(Virtqueue *queue, const VirtqDesc *desc, VirtqChain *chain, VirtqSegment *segments,
                      uint32_t capacity)
{
    bool writable = desc->flags & VIRTQ_DESC_F_WRITE;
    if (desc->len == 0)
        return fault(queue, EINVAL, "buffer of length 0");
    if (!writable && chain->writable)
        return fault(queue, EINVAL, "readable buffer after a writable one"); /* §2.7.4.2 */
    uint32_t used = chain->readable + chain->writable;
    int count = map_buffer(queue->memory, desc->addr, desc->len, writable, segments + used, capacity - used);
    if (count == -EFAULT)
        return fault(queue, EINVAL, writable ? "writable buffer is not in writable RAM" : "buffer is not in RAM");
    if (count < 0)
        return count;
    if (writable) {
        chain->writable += (uint32_t)count;
        chain->writable_bytes += desc->len;
    } else {
        chain->readable += (uint32_t)count;
        chain->readable_bytes += desc->len;
    }
    return 0;
}

static int walk_chain(Virtqueue *queue, VirtqChain *chain, VirtqSegment *segments, uint32_t capacity)
{
    Walk walk = {.table = queue->desc, .entries = queue->size, .index = chain->token.id};
    for (uint32_t length = 0;;) {
        if (walk.index >= walk.entries)
            return fault(queue, EINVAL, "descriptor index is beyond its table");
        VirtqDesc desc;
        memcpy(&desc, &walk.table[walk.index], sizeof desc);
        __asm__ volatile("" : "+m"(desc)); /* one copy: what was checked is what is used */
        int result;
        if (desc.flags & VIRTQ_DESC_F_INDIRECT) {
            result = enter_indirect(queue, &walk, &desc);
            if (result < 0)
                return result;
            continue;
        }
        if (++length > queue->max_size)
            return fault(queue, EINVAL, "chain loops or is longer than the queue");
        result = add_buffer(queue, &desc, chain, segments, capacity);
        if (result < 0)
            return result;
        if (!(desc.flags & VIRTQ_DESC_F_NEXT))
            return 1;
        walk.index = desc.next;
    }
}

int virtqueue_pop(Virtqueue *queue, VirtqChain *chain, VirtqSegment *segments, uint32_t capacity)
{
    uint16_t waiting = (uint16_t)(avail_idx(queue) - queue->last_avail);
    if (waiting == 0)
        return 0;
    if (waiting > queue->size)
        return fault(queue, EINVAL, "available index is ahead by more than the queue's size");
    uint16_t head = __atomic_load_n(&queue->avail->ring[queue->last_avail & (queue->size - 1)], __ATOMIC_RELAXED);
    *chain = (VirtqChain){.token = {.id = head, .descriptors = 1}};
    int result = walk_chain(queue, chain, segments, capacity);
    if (result == 1)
        queue->last_avail++;
    return result;
}

void virtqueue_unpop(Virtqueue *queue, VirtqToken token)
{
    queue->last_avail = (uint16_t)(queue->last_avail - token.descriptors);
}

void virtqueue_push(Virtqueue *queue, VirtqToken token, uint32_t written)
{
    VirtqUsedElem *elem = &queue->used->ring[queue->next_used & (queue->size - 1)];
    *elem = (VirtqUsedElem){.id = token.id, .len = written};
    queue->next_used++;
}

/* §2.7.7.2: did the index pass `event` on its way from `before` to `now`? */
static bool event_passed(uint16_t event, uint16_t now, uint16_t before)
{
    return (uint16_t)(now - event - 1) < (uint16_t)(now - before);
}

bool virtqueue_publish(Virtqueue *queue)
{
    __atomic_store_n(&queue->used->idx, queue->next_used, __ATOMIC_RELEASE);
    guest_memory_written(queue->memory, queue->used_gpa, used_bytes(queue));
    __atomic_thread_fence(__ATOMIC_SEQ_CST); /* the index before the driver's wish */
    if (!queue->event_idx)
        return !(__atomic_load_n(&queue->avail->flags, __ATOMIC_RELAXED) & VIRTQ_AVAIL_F_NO_INTERRUPT);
    uint16_t event = __atomic_load_n(used_event(queue), __ATOMIC_RELAXED);
    bool wanted = !queue->signalled_valid || event_passed(event, queue->next_used, queue->signalled);
    queue->signalled = queue->next_used;
    queue->signalled_valid = true;
    return wanted;
}

static void set_no_notify(Virtqueue *queue, bool on)
{
    __atomic_store_n(&queue->used->flags, on ? VIRTQ_USED_F_NO_NOTIFY : 0, __ATOMIC_RELAXED);
    guest_memory_written(queue->memory, queue->used_gpa, sizeof(uint16_t));
}

void virtqueue_disable_notify(Virtqueue *queue)
{
    /* With event index, an avail_event that is not moved on asks for nothing (§2.7.10.2); flags stay 0. */
    if (!queue->event_idx && !queue->notify_disabled)
        set_no_notify(queue, true);
    queue->notify_disabled = true;
}

bool virtqueue_enable_notify(Virtqueue *queue)
{
    if (queue->event_idx) {
        __atomic_store_n(avail_event(queue), queue->last_avail, __ATOMIC_RELAXED);
        guest_memory_written(queue->memory, queue->used_gpa + used_bytes(queue) - 2, sizeof(uint16_t));
    } else if (queue->notify_disabled) {
        set_no_notify(queue, false);
    }
    queue->notify_disabled = false;
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    return !virtqueue_is_empty(queue);
}
