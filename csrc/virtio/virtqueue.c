#include <stdlib.h>

#include "virtio/virtqueue_internal.h"

#define LEGACY_ALIGN 4096ull /* §2.7.2 */

void virtqueue_init(Virtqueue *queue, GuestMemory *memory, uint16_t max_size)
{
    *queue = (Virtqueue){.format = &virtqueue_split,
                         .memory = memory,
                         .max_size = max_size,
                         .size = max_size,
                         .avail_wrap = true, /* §2.8.1 */
                         .used_wrap = true};
}

void virtqueue_reset(Virtqueue *queue)
{
    free(queue->pending);
    virtqueue_init(queue, queue->memory, queue->max_size);
}

void virtqueue_set_packed(Virtqueue *queue, bool packed)
{
    queue->format = packed ? &virtqueue_packed : &virtqueue_split;
}

bool virtqueue_is_packed(const Virtqueue *queue) { return queue->format == &virtqueue_packed; }

void virtqueue_set_legacy_address(Virtqueue *queue, gpa_t base)
{
    queue->desc_gpa = base;
    queue->avail_gpa = base + sizeof(VirtqDesc) * (uint64_t)queue->size;
    queue->used_gpa = (queue->avail_gpa + 6 + 2ull * queue->size + LEGACY_ALIGN - 1) & ~(LEGACY_ALIGN - 1);
}

int virtqueue_fault(Virtqueue *queue, int code, const char *why)
{
    queue->fault = why;
    return -code;
}

int virtqueue_enable(Virtqueue *queue)
{
    if (queue->size == 0 || queue->size > queue->max_size)
        return virtqueue_fault(queue, EINVAL, "queue size is not within the device's limit");
    int result = queue->format->enable(queue);
    if (result < 0)
        return result;
    if (queue->in_order && !queue->pending) {
        queue->pending = calloc(VIRTQ_MAX_SIZE, sizeof *queue->pending);
        if (!queue->pending)
            return virtqueue_fault(queue, ENOMEM, "no host memory for its order");
    }
    queue->enabled = true;
    return 0;
}

/* ---- Positions ---------------------------------------------------------------------------------------------- */

static uint16_t with_wrap(const Virtqueue *queue, uint16_t position, bool wrap)
{
    return virtqueue_is_packed(queue) ? (uint16_t)(position | wrap << 15) : position;
}

uint16_t virtqueue_last_avail(const Virtqueue *queue)
{
    return with_wrap(queue, queue->last_avail, queue->avail_wrap);
}

uint16_t virtqueue_next_used(const Virtqueue *queue)
{
    return with_wrap(queue, queue->next_used, queue->used_wrap);
}

int virtqueue_set_indices(Virtqueue *queue, uint16_t last_avail, uint16_t next_used)
{
    queue->signalled_valid = false;
    if (virtqueue_is_packed(queue)) {
        queue->avail_wrap = last_avail >> 15;
        queue->used_wrap = next_used >> 15;
        last_avail &= 0x7fff;
        next_used &= 0x7fff;
        if (last_avail >= queue->size || next_used >= queue->size)
            return -EINVAL;
    }
    queue->last_avail = last_avail;
    queue->next_used = next_used;
    return 0;
}

/* ---- Taking chains ------------------------------------------------------------------------------------------ */

bool virtqueue_is_empty(const Virtqueue *queue) { return queue->format->is_empty(queue); }

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

/* §2.7.5.3, §2.8.7: the write flag of the descriptor is ignored. */
const void *virtqueue_indirect_table(Virtqueue *queue, const VirtqDesc *desc)
{
    const void *table = NULL;
    if (!queue->indirect)
        virtqueue_fault(queue, EINVAL, "indirect descriptor was not negotiated");
    else if (desc->flags & VIRTQ_DESC_F_NEXT)
        virtqueue_fault(queue, EINVAL, "indirect descriptor with a next one");
    else if (desc->len == 0 || desc->len % sizeof(VirtqDesc))
        virtqueue_fault(queue, EINVAL, "indirect table's length is not a multiple of 16");
    else if (!(table = guest_memory_ptr(queue->memory, desc->addr, desc->len, false)))
        virtqueue_fault(queue, EINVAL, "indirect table is not in RAM");
    return table;
}

int virtqueue_add_buffer(VirtqBuilder *builder, const VirtqDesc *desc)
{
    Virtqueue *queue = builder->queue;
    VirtqChain *chain = builder->chain;
    bool writable = desc->flags & VIRTQ_DESC_F_WRITE;
    if (++builder->length > queue->max_size)
        return virtqueue_fault(queue, EINVAL, "chain loops or is longer than the queue");
    if (desc->len == 0)
        return virtqueue_fault(queue, EINVAL, "buffer of length 0");
    if (!writable && chain->writable)
        return virtqueue_fault(queue, EINVAL, "readable buffer after a writable one"); /* §2.7.4.2 */
    uint32_t used = chain->readable + chain->writable;
    int count = map_buffer(queue->memory, desc->addr, desc->len, writable, builder->segments + used,
                           builder->capacity - used);
    if (count == -EFAULT)
        return virtqueue_fault(queue, EINVAL,
                               writable ? "writable buffer is not in writable RAM" : "buffer is not in RAM");
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

int virtqueue_pop(Virtqueue *queue, VirtqChain *chain, VirtqSegment *segments, uint32_t capacity)
{
    if (virtqueue_is_empty(queue))
        return 0;
    *chain = (VirtqChain){.token = {.descriptors = 1, .order = queue->next_order}};
    VirtqBuilder builder = {.queue = queue, .chain = chain, .segments = segments, .capacity = capacity};
    int result = queue->format->pop(&builder);
    if (result == 1)
        queue->next_order++;
    return result;
}

void virtqueue_unpop(Virtqueue *queue, VirtqToken token)
{
    queue->format->unpop(queue, token.descriptors);
    queue->next_order--;
}

/* ---- Giving them back --------------------------------------------------------------------------------------- */

static VirtqPending *pending_at(Virtqueue *queue, uint16_t order)
{
    return &queue->pending[order % VIRTQ_MAX_SIZE];
}

void virtqueue_push(Virtqueue *queue, VirtqToken token, uint32_t written)
{
    if (!queue->in_order) {
        queue->format->push(queue, token, written);
        return;
    }
    *pending_at(queue, token.order) = (VirtqPending){.token = token, .written = written, .ready = true};
    for (VirtqPending *next; (next = pending_at(queue, queue->next_given))->ready; queue->next_given++) {
        queue->format->push(queue, next->token, next->written);
        next->ready = false;
    }
}

bool virtqueue_publish(Virtqueue *queue) { return queue->format->publish(queue); }

void virtqueue_disable_notify(Virtqueue *queue)
{
    queue->format->disable_notify(queue);
    queue->notify_disabled = true;
}

bool virtqueue_enable_notify(Virtqueue *queue)
{
    queue->format->enable_notify(queue);
    queue->notify_disabled = false;
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    return !virtqueue_is_empty(queue);
}
