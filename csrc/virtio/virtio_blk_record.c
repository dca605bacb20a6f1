/*
 * The recorder of a disk's requests: when each was asked for, taken, done and given back.
 *
 * A batch carries the times in its requests while somebody records, and files them here when it completes; without
 * a recorder each step asks one flag. Left out: notifications that came by eventfd, of which nobody knows the time;
 * the time of their I/O thread's waking is not theirs.
 */
#include <stdlib.h>
#include <time.h>

#include "virtio/virtio_blk_internal.h"

typedef struct BlkRecorder {
    uint64_t kick_ns[VIRTIO_MAX_QUEUES]; /* of the notification that no batch has answered yet; 0: none */
    uint64_t total;                      /* records filed so far */
    uint64_t taken;                      /* and taken or driven out */
    uint64_t lost;
    uint32_t capacity;
    VirtioBlkRecord records[];
} BlkRecorder;

static VirtioBlk *blk_of(Device *device) { return container_of(virtio_of(device), VirtioBlk, virtio); }

uint64_t blk_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * NS_PER_SECOND + (uint64_t)now.tv_nsec;
}

void blk_record_kick(VirtioDevice *device, uint32_t queue)
{
    BlkRecorder *recorder = container_of(device, VirtioBlk, virtio)->recorder;
    if (recorder && queue < device->queue_count && !recorder->kick_ns[queue])
        recorder->kick_ns[queue] = blk_now();
}

static void file_record(BlkRecorder *recorder, const VirtioBlkRecord *record)
{
    recorder->records[recorder->total++ % recorder->capacity] = *record;
    if (recorder->total - recorder->taken > recorder->capacity) {
        recorder->taken++;
        recorder->lost++;
    }
}

void blk_record_batch(VirtioBlk *blk, VirtioQueue *queue, const BlkBatch *batch)
{
    uint64_t used_ns = blk_now(), interrupts = blk->virtio.interrupts;
    virtio_publish(&blk->virtio, queue);
    uint64_t interrupt_ns = blk->virtio.interrupts == interrupts ? 0 : blk_now();
    BlkRecorder *recorder = blk->recorder;
    if (!recorder) /* stopped meanwhile */
        return;
    uint64_t *kick = &recorder->kick_ns[queue->index];
    uint64_t kick_ns = batch->count && *kick <= batch->requests[0].pop_ns ? *kick : 0;
    for (uint32_t i = 0; i < batch->keep; i++) {
        const BlkRequest *request = &batch->requests[i];
        VirtioBlkRecord record = {.kick_ns = kick_ns,
                                  .pop_ns = request->pop_ns,
                                  .begin_ns = request->begin_ns,
                                  .end_ns = request->end_ns,
                                  .used_ns = used_ns,
                                  .interrupt_ns = interrupt_ns,
                                  .sector = request->sector,
                                  .bytes = (uint32_t)MIN(request->bytes, UINT32_MAX),
                                  .type = request->type,
                                  .queue = (uint16_t)queue->index,
                                  .id = request->token.id,
                                  .merged = (uint16_t)request->merged,
                                  .status = request->status};
        file_record(recorder, &record);
    }
    if (kick_ns)
        *kick = 0;
}

void blk_record_free(VirtioBlk *blk)
{
    free(blk->recorder);
    blk->recorder = NULL;
    blk->virtio.tell_kicks = false;
}

int virtio_blk_record_start(Device *device, uint32_t capacity)
{
    VirtioBlk *blk = blk_of(device);
    if (capacity == 0)
        return -EINVAL;
    BlkRecorder *recorder = calloc(1, sizeof *recorder + (size_t)capacity * sizeof recorder->records[0]);
    if (!recorder)
        return -ENOMEM;
    recorder->capacity = capacity;
    pthread_mutex_lock(&device->lock);
    bool busy = blk->recorder;
    if (!busy) {
        blk->recorder = recorder;
        blk->virtio.tell_kicks = true;
    }
    pthread_mutex_unlock(&device->lock);
    if (busy)
        free(recorder);
    return busy ? -EBUSY : 0;
}

void virtio_blk_record_stop(Device *device)
{
    pthread_mutex_lock(&device->lock);
    blk_record_free(blk_of(device));
    pthread_mutex_unlock(&device->lock);
}

uint32_t virtio_blk_record_take(Device *device, VirtioBlkRecord *records, uint32_t count, uint64_t *lost)
{
    uint32_t taken = 0;
    pthread_mutex_lock(&device->lock);
    BlkRecorder *recorder = blk_of(device)->recorder;
    for (; recorder && taken < count && recorder->taken < recorder->total; taken++)
        records[taken] = recorder->records[recorder->taken++ % recorder->capacity];
    if (lost)
        *lost = recorder ? recorder->lost : 0;
    pthread_mutex_unlock(&device->lock);
    return taken;
}
