#include "virtio/virtio_view.h"

static void copy_split(const Virtqueue *ring, VirtioQueueView *view)
{
    uint16_t size = ring->size;
    memcpy(view->desc, ring->desc, size * sizeof view->desc[0]);
    memcpy(view->avail, ring->avail->ring, size * sizeof view->avail[0]);
    memcpy(view->used, ring->used->ring, size * sizeof view->used[0]);
    view->driver_flags = ring->avail->flags;
    view->driver_index = __atomic_load_n(&ring->avail->idx, __ATOMIC_ACQUIRE);
    view->device_flags = ring->used->flags;
    view->device_index = ring->used->idx;
    if (!ring->event_idx)
        return;
    view->driver_event = ring->avail->ring[size];
    memcpy(&view->device_event, &ring->used->ring[size], sizeof view->device_event);
}

static void copy_packed(const Virtqueue *ring, VirtioQueueView *view)
{
    memcpy(view->packed_desc, ring->ring, ring->size * sizeof view->packed_desc[0]);
    view->driver_flags = ring->driver_event->flags;
    view->driver_event = ring->driver_event->offset_wrap;
    view->device_flags = ring->device_event->flags;
    view->device_event = ring->device_event->offset_wrap;
}

int virtio_queue_view(Device *device, uint32_t index, VirtioQueueView *view)
{
    const VirtioDevice *virtio = virtio_of(device);
    memset(view, 0, sizeof *view);
    if (index >= virtio->queue_count)
        return -ENOENT;
    pthread_mutex_lock(&device->lock);
    const Virtqueue *ring = &virtio->queues[index].ring;
    view->desc_gpa = ring->desc_gpa;
    view->driver_gpa = ring->avail_gpa;
    view->device_gpa = ring->used_gpa;
    view->size = ring->size;
    view->max_size = ring->max_size;
    view->last_avail = ring->last_avail;
    view->next_used = ring->next_used;
    view->enabled = ring->enabled;
    view->packed = virtio_has(virtio, VIRTIO_F_RING_PACKED);
    view->event_idx = ring->event_idx;
    view->indirect = ring->indirect;
    view->in_order = ring->in_order;
    view->avail_wrap = ring->avail_wrap;
    view->used_wrap = ring->used_wrap;
    if (ring->enabled && view->packed)
        copy_packed(ring, view);
    else if (ring->enabled)
        copy_split(ring, view);
    pthread_mutex_unlock(&device->lock);
    return 0;
}

int virtio_queue_table(Device *device, uint64_t gpa, uint32_t count, VirtqDesc *table)
{
    if (count > VIRTQ_MAX_SIZE)
        return -EINVAL;
    const void *from = guest_memory_ptr(device->board->memory, gpa, count * sizeof table[0], false);
    if (!from)
        return -EFAULT;
    memcpy(table, from, count * sizeof table[0]);
    return 0;
}

uint32_t virtio_queue_count(Device *device) { return virtio_of(device)->queue_count; }
