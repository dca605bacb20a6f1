#include <stdlib.h>

#include "virtio/virtio.h"

#define ROUNDS_PER_CALLBACK 4u
#define MAX_UNPUBLISHED     16u

/* ---- Making and freeing ------------------------------------------------------------------------------------- */

void virtio_init(VirtioDevice *device, const VirtioClass *class, const VirtioSetup *setup)
{
    device->class = class;
    device->device_features = setup->features | VIRTIO_RING_FEATURES | VIRTIO_F_VERSION_1;
    device->config_size = setup->config_size;
    device->queue_count = setup->queue_count;
    pthread_cond_init(&device->idle, NULL);
    for (uint32_t i = 0; i < device->queue_count; i++) {
        VirtioQueue *queue = &device->queues[i];
        queue->device = device;
        queue->index = i;
        queue->ring.max_size = queue->ring.size = setup->queue_size;
    }
}

/* Asked without the lock, too: another thread's value is never this one's. */
static bool is_in_notification(const VirtioDevice *device)
{
    return __atomic_load_n(&device->kicker, __ATOMIC_RELAXED) == (uintptr_t)pthread_self();
}

/* The notifier's callback: on the I/O thread, or inside virtio_notify() on the thread that holds the lock. */
static void queue_ready(void *opaque)
{
    VirtioQueue *queue = opaque;
    VirtioDevice *device = queue->device;
    bool holds_lock = is_in_notification(device);
    if (!holds_lock)
        pthread_mutex_lock(&device->owner->lock);
    bool kept = device->lock_kept; /* one queue's run may notify another */
    device->lock_kept = holds_lock;
    if (virtio_queue_is_live(queue))
        device->class->run(device, queue);
    device->lock_kept = kept;
    if (!holds_lock)
        pthread_mutex_unlock(&device->owner->lock);
}

int virtio_attach(VirtioDevice *device, Device *owner, const VirtioTransport *transport, IoThread *io)
{
    device->owner = owner;
    device->transport = transport;
    for (uint32_t i = 0; i < device->queue_count; i++) {
        VirtioQueue *queue = &device->queues[i];
        virtqueue_init(&queue->ring, owner->board->memory, queue->ring.max_size);
        queue->notifier = io_notifier_new(queue->io ? queue->io : io, queue_ready, queue);
        if (!queue->notifier)
            return -ENOMEM;
    }
    return 0;
}

void virtio_free(VirtioDevice *device)
{
    if (!device)
        return;
    if (device->class->stop)
        device->class->stop(device);
    for (uint32_t i = 0; i < device->queue_count; i++) {
        io_notifier_free(device->queues[i].notifier);
        virtqueue_reset(&device->queues[i].ring);
    }
    if (device->class->destroy)
        device->class->destroy(device);
    pthread_cond_destroy(&device->idle);
    free(device);
}

/* ---- Running a queue ---------------------------------------------------------------------------------------- */

bool virtio_queue_is_live(const VirtioQueue *queue)
{
    const VirtioDevice *device = queue->device;
    bool legacy = device->device_features & VIRTIO_F_ANY_LAYOUT && !virtio_has(device, VIRTIO_F_VERSION_1);
    uint8_t need = VIRTIO_STATUS_DRIVER_OK | (legacy ? 0 : VIRTIO_STATUS_FEATURES_OK);
    return queue->ring.enabled && !device->draining && !device->halted && (device->status & need) == need &&
           !(device->status & VIRTIO_STATUS_NEEDS_RESET) && device->transport->may_dma(device->owner);
}

void virtio_begin_io(VirtioDevice *device)
{
    device->io_active++;
    if (!is_in_notification(device))
        pthread_mutex_unlock(&device->owner->lock);
}

void virtio_end_io(VirtioDevice *device)
{
    if (!is_in_notification(device))
        pthread_mutex_lock(&device->owner->lock);
    device->io_active--;
    pthread_cond_broadcast(&device->idle);
}

void virtio_notify(VirtioDevice *device, uint32_t index)
{
    if (index >= device->queue_count || !device->queues[index].ring.enabled)
        return;
    uintptr_t outer = __atomic_exchange_n(&device->kicker, (uintptr_t)pthread_self(), __ATOMIC_RELAXED);
    io_notifier_kick(device->queues[index].notifier);
    __atomic_store_n(&device->kicker, outer, __ATOMIC_RELAXED);
}

void virtio_kick(VirtioDevice *device, uint32_t index)
{
    device->kicks++;
    if (unlikely(device->tell_kicks))
        device->class->kicked(device, index);
    virtio_notify(device, index);
}

bool virtio_wants_signals(const VirtioDevice *device, uint32_t index)
{
    return device->queues[index].ring.enabled && device->status & VIRTIO_STATUS_DRIVER_OK;
}

void virtio_counters(Device *owner, VirtioCounters *counters)
{
    const VirtioDevice *device = virtio_of(owner);
    pthread_mutex_lock(&owner->lock);
    *counters = (VirtioCounters){.interrupts = device->interrupts,
                                 .faults = device->faults,
                                 .kicks = device->kicks,
                                 .irqfd_interrupts = device->transport->irqfd_sent(owner)};
    for (uint32_t i = 0; i < device->queue_count; i++)
        counters->signals += io_notifier_signals(device->queues[i].notifier);
    pthread_mutex_unlock(&owner->lock);
}

uint64_t virtio_device_features(Device *device) { return virtio_of(device)->device_features; }

void virtio_notify_all(VirtioDevice *device)
{
    for (uint32_t i = 0; i < device->queue_count; i++)
        virtio_notify(device, i);
}

void virtio_publish(VirtioDevice *device, VirtioQueue *queue)
{
    queue->unpublished = 0;
    if (!queue->ring.enabled || !virtqueue_publish(&queue->ring)) /* taken away meanwhile: there is no ring */
        return;
    device->interrupts++;
    device->transport->interrupt_queue(device->owner, queue->index);
}

void virtio_publish_soon(VirtioDevice *device, VirtioQueue *queue, uint32_t pushed)
{
    queue->unpublished += pushed;
    if (queue->unpublished < MAX_UNPUBLISHED && virtio_queue_is_live(queue) && !virtqueue_is_empty(&queue->ring))
        return; /* virtio_serve is called on: it publishes at the latest */
    virtio_publish(device, queue);
}

static void publish_rest(VirtioDevice *device, VirtioQueue *queue)
{
    if (queue->unpublished)
        virtio_publish(device, queue);
}

/* In a notification that is answered on the vCPU's own thread the guest adds nothing meanwhile, so a ring that does
 * not end feeds itself. */
void virtio_serve(VirtioDevice *device, VirtioQueue *queue, VirtioBatch batch)
{
    uint32_t rounds = device->lock_kept ? 2u * VIRTQ_MAX_SIZE : ROUNDS_PER_CALLBACK;
    while (virtio_queue_is_live(queue)) {
        if (rounds-- == 0) {
            publish_rest(device, queue);
            if (device->lock_kept)
                virtio_fail(device, queue, "the available ring never ends");
            else
                virtio_notify(device, queue->index);
            return;
        }
        virtqueue_disable_notify(&queue->ring);
        if (batch(device, queue))
            continue;
        publish_rest(device, queue);
        if (!virtio_queue_is_live(queue) || !virtqueue_enable_notify(&queue->ring))
            return;
    }
    publish_rest(device, queue); /* it failed */
}

/* Wait until no chain is between begin_io and end_io. The lock is given up meanwhile: the runner takes it,
 * completes what it has, sees `draining` and stops, so what it left in the ring needs a kick. */
static void drain(VirtioDevice *device)
{
    if (!device->io_active)
        return;
    device->draining++; /* of several vCPUs that wait none starts it again for the others */
    while (device->io_active)
        pthread_cond_wait(&device->idle, &device->owner->lock);
    if (--device->draining == 0)
        virtio_notify_all(device);
}

/* §2.1.2: the device says that it is in a state from which only a reset leads out. */
void virtio_fail(VirtioDevice *device, const VirtioQueue *queue, const char *why)
{
    device->faults++;
    event_log_add(device->owner->board->log, "%s queue %u: %s: the driver must reset the device",
                  device->class->name, queue->index, why);
    if (device->status & VIRTIO_STATUS_NEEDS_RESET)
        return;
    device->status |= VIRTIO_STATUS_NEEDS_RESET;
    if (device->status & VIRTIO_STATUS_DRIVER_OK)
        device->transport->interrupt_config(device->owner);
}

static void set_ring_features(const VirtioDevice *device, VirtioQueue *queue)
{
    queue->ring.event_idx = virtio_has(device, VIRTIO_F_EVENT_IDX);
    queue->ring.indirect = virtio_has(device, VIRTIO_F_INDIRECT_DESC);
    if (queue->ring.enabled) /* too late for another format */
        return;
    queue->ring.in_order = virtio_has(device, VIRTIO_F_IN_ORDER);
    virtqueue_set_packed(&queue->ring, virtio_has(device, VIRTIO_F_RING_PACKED));
}

void virtio_enable_queue(VirtioDevice *device, uint32_t index)
{
    VirtioQueue *queue = &device->queues[index];
    set_ring_features(device, queue);
    if (virtqueue_enable(&queue->ring) < 0)
        virtio_fail(device, queue, queue->ring.fault);
}

void virtio_disable_queue(VirtioDevice *device, uint32_t index)
{
    drain(device);
    if (device->class->queue_reset)
        device->class->queue_reset(device, &device->queues[index]);
    virtqueue_reset(&device->queues[index].ring);
}

/* ---- Negotiation -------------------------------------------------------------------------------------------- */

void virtio_reset(VirtioDevice *device)
{
    drain(device);
    device->status = 0;
    device->driver_features = 0;
    for (uint32_t i = 0; i < device->queue_count; i++)
        virtqueue_reset(&device->queues[i].ring);
    if (device->class->reset)
        device->class->reset(device);
}

static void apply_features(VirtioDevice *device)
{
    for (uint32_t i = 0; i < device->queue_count; i++)
        set_ring_features(device, &device->queues[i]);
    if (device->class->features_changed)
        device->class->features_changed(device);
}

/* §3.1.1: queues come after the features (steps 5 and 7). One that stands already cannot change its format. */
static void check_formats(VirtioDevice *device)
{
    for (uint32_t i = 0; i < device->queue_count; i++) {
        Virtqueue *ring = &device->queues[i].ring;
        if (!ring->enabled || (virtqueue_is_packed(ring) == virtio_has(device, VIRTIO_F_RING_PACKED) &&
                               ring->in_order == virtio_has(device, VIRTIO_F_IN_ORDER)))
            continue;
        virtqueue_reset(ring); /* it was never live */
        virtio_fail(device, &device->queues[i], "enabled before its format was negotiated");
    }
}

void virtio_write_features(VirtioDevice *device, uint64_t features, bool legacy)
{
    if (device->status & (VIRTIO_STATUS_FEATURES_OK | VIRTIO_STATUS_DRIVER_OK))
        return;   /* §3.1.1: no more changes after step 5 */
    if (legacy) { /* §2.2.3: no way to refuse, so what was not offered is not taken */
        device->driver_features = features & device->device_features & UINT32_MAX;
        apply_features(device);
    } else {
        device->driver_features = features;
    }
}

void virtio_write_status(VirtioDevice *device, uint8_t status)
{
    if (status == 0) {
        virtio_reset(device);
        return;
    }
    uint8_t before = device->status;
    status = (uint8_t)((status & ~VIRTIO_STATUS_NEEDS_RESET) | before); /* §2.1.1: bits are only ever set */
    if ((status & ~before) & VIRTIO_STATUS_FEATURES_OK) {
        /* §2.2.2, §6.2: a subset of what was offered, and VERSION_1, which this interface is. */
        if (device->driver_features & ~device->device_features || !virtio_has(device, VIRTIO_F_VERSION_1)) {
            status &= (uint8_t)~VIRTIO_STATUS_FEATURES_OK;
        } else {
            apply_features(device);
            check_formats(device);
            status |= device->status;
        }
    }
    device->status = status;
    if ((status & ~before) & VIRTIO_STATUS_DRIVER_OK) {
        device->driver_features &= device->device_features;
        if (status & VIRTIO_STATUS_NEEDS_RESET)
            device->transport->interrupt_config(device->owner);
        if (device->class->driver_ok)
            device->class->driver_ok(device);
        virtio_notify_all(device);
    }
}

/* ---- Configuration space ------------------------------------------------------------------------------------ */

uint64_t virtio_config_read(const VirtioDevice *device, uint64_t offset, uint32_t size)
{
    uint64_t value = UINT64_MAX;
    if (offset < device->config_size)
        memcpy(&value, device->config + offset, MIN(size, device->config_size - offset));
    return value;
}

static void config_write_byte(VirtioDevice *device, uint32_t offset, uint8_t value)
{
    if (device->class->config_write && device->class->config_write(device, offset, value))
        device->config[offset] = value;
}

void virtio_config_write(VirtioDevice *device, uint64_t offset, uint32_t size, uint64_t value)
{
    for (uint32_t i = 0; i < size && offset + i < device->config_size; i++)
        config_write_byte(device, (uint32_t)offset + i, (uint8_t)(value >> (8 * i)));
}

void virtio_config_changed(VirtioDevice *device)
{
    device->generation++;
    if (device->status & VIRTIO_STATUS_DRIVER_OK)
        device->transport->interrupt_config(device->owner);
}

/* ---- Saved state -------------------------------------------------------------------------------------------- */

void virtio_save(VirtioDevice *device, VirtioState *state)
{
    drain(device);
    state->driver_features = device->driver_features;
    state->status = device->status;
    state->generation = device->generation;
    memcpy(state->config, device->config, sizeof state->config);
    if (device->class->save)
        device->class->save(device, state->own);
    for (uint32_t i = 0; i < device->queue_count; i++) {
        const Virtqueue *ring = &device->queues[i].ring;
        state->queues[i] = (VirtioQueueState){.desc = ring->desc_gpa,
                                              .driver = ring->avail_gpa,
                                              .device = ring->used_gpa,
                                              .size = ring->size,
                                              .last_avail = virtqueue_last_avail(ring),
                                              .next_used = virtqueue_next_used(ring),
                                              .enabled = ring->enabled};
    }
}

static int restore_queue(VirtioDevice *device, VirtioQueue *queue, const VirtioQueueState *state)
{
    Virtqueue *ring = &queue->ring;
    ring->desc_gpa = state->desc;
    ring->avail_gpa = state->driver;
    ring->used_gpa = state->device;
    ring->size = state->size;
    if (!state->enabled)
        return 0;
    if (virtqueue_enable(ring) < 0 || virtqueue_set_indices(ring, state->last_avail, state->next_used) < 0)
        return -EINVAL;
    ring->notify_disabled = true; /* so that the next run states it afresh */
    /* RAM may be restored after this: what waits in the ring is looked at when the I/O thread starts again. */
    if (clock_kind(device->owner->board->clock) == CLOCK_KIND_REALTIME)
        io_notifier_post(queue->notifier);
    return 0;
}

int virtio_restore(VirtioDevice *device, const VirtioState *state)
{
    virtio_reset(device);
    bool live = state->status & (VIRTIO_STATUS_FEATURES_OK | VIRTIO_STATUS_DRIVER_OK);
    if (live && state->driver_features & ~device->device_features)
        return -EINVAL; /* saved by a device that offered more */
    device->driver_features = state->driver_features;
    device->status = state->status;
    device->generation = state->generation;
    for (uint32_t i = 0; i < device->config_size; i++)
        if (state->config[i] != device->config[i]) /* what reads as it was written: no write is done twice */
            config_write_byte(device, i, state->config[i]);
    apply_features(device);
    if (device->class->restore && device->class->restore(device, state->own) < 0) {
        virtio_reset(device);
        return -EINVAL;
    }
    for (uint32_t i = 0; i < device->queue_count; i++)
        if (restore_queue(device, &device->queues[i], &state->queues[i]) < 0) {
            virtio_reset(device);
            return -EINVAL;
        }
    return 0;
}
