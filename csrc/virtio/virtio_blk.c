#include <stdio.h>
#include <stdlib.h>

#include "virtio/virtio_blk_internal.h"

#define PHYSICAL_BLOCK 4096u /* the host's page cache */

static VirtioBlk *blk_of(VirtioDevice *device) { return container_of(device, VirtioBlk, virtio); }

/* ---- Completing them: lock held ----------------------------------------------------------------------------- */

static void count_request(VirtioBlkCounters *counters, const BlkRequest *request)
{
    counters->errors += request->status != VIRTIO_BLK_S_OK;
    if (request->type == VIRTIO_BLK_T_IN) {
        counters->reads++;
        counters->bytes_read += request->status ? 0 : request->bytes;
    } else if (request->type == VIRTIO_BLK_T_OUT) {
        counters->writes++;
        counters->bytes_written += request->status ? 0 : request->bytes;
    } else if (request->type == VIRTIO_BLK_T_FLUSH) {
        counters->flushes++;
    } else {
        counters->others++;
    }
}

/* A request failed that the machine stops for: it and those after it are the driver's next ones again, and nobody
 * takes them before virtio_blk_go_on. */
static void put_back(VirtioBlk *blk, VirtioQueue *queue, const BlkBatch *batch)
{
    if (batch->keep == batch->count)
        return;
    for (uint32_t i = batch->count; i > batch->keep; i--)
        virtqueue_unpop(&queue->ring, batch->requests[i - 1].token);
    Board *board = blk->virtio.owner->board;
    const BlkRequest *failed = &batch->requests[batch->keep];
    blk->stopped_by = failed->error;
    blk->virtio.halted = true;
    event_log_add(board->log,
                  "virtio-blk: %s at sector %llu: %s: the machine stops, and tries it again when it goes on",
                  failed->type == VIRTIO_BLK_T_IN ? "read" : "write", (unsigned long long)failed->sector,
                  strerror(-failed->error));
    board_request(board, SYSTEM_IO_ERROR, (uint32_t)-failed->error);
}

static void complete_batch(VirtioBlk *blk, VirtioQueue *queue, BlkBatch *batch)
{
    for (uint32_t i = 0; i < batch->keep; i++) {
        virtqueue_push(&queue->ring, batch->requests[i].token, blk_bytes_written(&batch->requests[i]));
        count_request(&blk->counters, &batch->requests[i]);
    }
    blk->counters.batches++;
    blk->counters.host_calls += batch->host_calls;
    if (unlikely(batch->recording)) {
        blk_record_batch(blk, queue, batch);
        return;
    }
    if (batch->keep == batch->count)
        virtio_publish_soon(&blk->virtio, queue, batch->keep);
    else
        virtio_publish(&blk->virtio, queue); /* the machine stops */
}

/* §5.2.5, §5.2.6.2: a cache exists for a driver that can flush it, unless it chose otherwise. */
static bool is_write_through(const VirtioDevice *device)
{
    if (virtio_has(device, VIRTIO_BLK_F_CONFIG_WCE))
        return !device->config[BLK_CONFIG_WRITEBACK];
    return !virtio_has(device, VIRTIO_BLK_F_FLUSH);
}

/* One batch; false when there was nothing. */
static bool run_batch(VirtioDevice *device, VirtioQueue *queue)
{
    VirtioBlk *blk = blk_of(device);
    BlkBatch *batch = &blk->batches[queue->index];
    const char *why = blk_take_batch(batch, &queue->ring);
    if (batch->count) {
        batch->write_through = is_write_through(device);
        virtio_begin_io(device);
        blk_do_batch(batch);
        virtio_end_io(device);
        complete_batch(blk, queue, batch);
        put_back(blk, queue, batch);
    }
    if (why)
        virtio_fail(device, queue, why);
    return batch->count != 0;
}

static void blk_run(VirtioDevice *device, VirtioQueue *queue) { virtio_serve(device, queue, run_batch); }

/* ---- The device --------------------------------------------------------------------------------------------- */

static void set_capacity(VirtioBlk *blk)
{
    store_le64(blk->virtio.config + BLK_CONFIG_CAPACITY, block_size(blk->image) / SECTOR);
}

static void fill_config(VirtioBlk *blk, uint32_t queue_size, uint32_t block)
{
    uint8_t *config = blk->virtio.config;
    set_capacity(blk);
    store_le32(config + BLK_CONFIG_SEG_MAX, queue_size - 2); /* header and status are the other two */
    store_le32(config + BLK_CONFIG_BLK_SIZE, block);
    config[BLK_CONFIG_PHYSICAL_BLOCK_EXP] = (uint8_t)__builtin_ctz(PHYSICAL_BLOCK / block);
    store_le16(config + BLK_CONFIG_MIN_IO_SIZE, (uint16_t)(PHYSICAL_BLOCK / block));
    if (blk->virtio.device_features & VIRTIO_BLK_F_MQ)
        store_le16(config + BLK_CONFIG_NUM_QUEUES, (uint16_t)blk->virtio.queue_count);
    if (blk->virtio.device_features & VIRTIO_BLK_F_RO)
        return;
    config[BLK_CONFIG_WRITEBACK] = 1;
    store_le32(config + BLK_CONFIG_MAX_DISCARD_SECTORS, MAX_RANGE_SECTORS);
    store_le32(config + BLK_CONFIG_MAX_DISCARD_SEG, MAX_RANGES);
    store_le32(config + BLK_CONFIG_DISCARD_SECTOR_ALIGNMENT, block / SECTOR);
    store_le32(config + BLK_CONFIG_MAX_WRITE_ZEROES_SECTORS, MAX_RANGE_SECTORS);
    store_le32(config + BLK_CONFIG_MAX_WRITE_ZEROES_SEG, MAX_RANGES);
    config[BLK_CONFIG_WRITE_ZEROES_MAY_UNMAP] = 1;
}

static bool blk_config_write(VirtioDevice *device, uint32_t offset, uint8_t value)
{
    return offset == BLK_CONFIG_WRITEBACK && value <= 1 && virtio_has(device, VIRTIO_BLK_F_CONFIG_WCE);
}

static void blk_reset(VirtioDevice *device)
{
    device->halted = false;
    blk_of(device)->stopped_by = 0;
    device->config[BLK_CONFIG_WRITEBACK] = !(device->device_features & VIRTIO_BLK_F_RO);
}

static void blk_destroy(VirtioDevice *device)
{
    VirtioBlk *blk = blk_of(device);
    blk_record_free(blk);
    free(blk->batches);
}

static const VirtioClass blk_class = {
    .name = "virtio-blk",
    .id = 2,
    .pci_class = 0x010000, /* mass storage, SCSI: what drivers and firmware look for */
    .transitional_id = 0x1001,
    .run = blk_run,
    .kicked = blk_record_kick,
    .config_write = blk_config_write,
    .reset = blk_reset,
    .destroy = blk_destroy,
};

static bool is_power_of_two(uint32_t value, uint32_t least, uint32_t most)
{
    return value >= least && value <= most && !(value & (value - 1));
}

static bool check_options(const VirtioBlkOptions *options, Error *error)
{
    if (options->queue_size && !is_power_of_two(options->queue_size, 4, VIRTIO_BLK_MAX_QUEUE_SIZE))
        error_set(error, EINVAL, "virtio-blk: queue size %u is not a power of two from 4 to 256",
                  options->queue_size);
    else if (options->block_size && !is_power_of_two(options->block_size, SECTOR, PHYSICAL_BLOCK))
        error_set(error, EINVAL, "virtio-blk: block size %u is not a power of two from 512 to 4096",
                  options->block_size);
    else if (options->num_queues > VIRTIO_MAX_QUEUES)
        error_set(error, EINVAL, "virtio-blk: %u queues: 1 to %u", options->num_queues, VIRTIO_MAX_QUEUES);
    else if (options->on_read_error > VIRTIO_BLK_ON_ERROR_ENOSPC ||
             options->on_write_error > VIRTIO_BLK_ON_ERROR_ENOSPC)
        error_set(error, EINVAL, "virtio-blk: no such answer to errors: report, stop or enospc");
    else
        return true;
    return false;
}

static uint64_t offered(const BlockImage *image, uint32_t queues)
{
    uint64_t features = VIRTIO_BLK_F_SEG_MAX | VIRTIO_BLK_F_BLK_SIZE | VIRTIO_BLK_F_TOPOLOGY | VIRTIO_BLK_F_FLUSH;
    features |= block_is_read_only(image)
                    ? VIRTIO_BLK_F_RO
                    : VIRTIO_BLK_F_CONFIG_WCE | VIRTIO_BLK_F_DISCARD | VIRTIO_BLK_F_WRITE_ZEROES;
    return queues > 1 ? features | VIRTIO_BLK_F_MQ : features;
}

Device *virtio_blk_new(Board *board, const VirtioPlace *place, BlockImage *image, const VirtioBlkOptions *options,
                       Error *error)
{
    static const VirtioBlkOptions defaults = {0};
    options = options ? options : &defaults;
    if (!check_options(options, error))
        return NULL;
    uint32_t queue_size = options->queue_size ? options->queue_size : VIRTIO_BLK_MAX_QUEUE_SIZE;
    uint32_t queues = options->num_queues ? options->num_queues : 1;
    VirtioBlk *blk = calloc(1, sizeof *blk);
    BlkBatch *batches = calloc(queues, sizeof *batches);
    if (!blk || !batches) {
        free(blk);
        free(batches);
        error_set(error, ENOMEM, "no host memory for virtio-blk");
        return NULL;
    }
    blk->image = image;
    blk->batches = batches;
    blk->on_read_error = options->on_read_error;
    blk->on_write_error = options->on_write_error;
    memcpy(blk->serial, options->serial, strnlen(options->serial, VIRTIO_BLK_ID_BYTES));
    VirtioSetup setup = {.features = offered(image, queues),
                         .config_size = BLK_CONFIG_SIZE,
                         .queue_count = queues,
                         .queue_size = (uint16_t)queue_size};
    virtio_init(&blk->virtio, &blk_class, &setup);
    for (uint32_t i = 0; i < queues; i++) {
        batches[i].blk = blk;
        if (options->io_count)
            blk->virtio.queues[i].io = options->io[i % options->io_count];
    }
    fill_config(blk, queue_size, options->block_size ? options->block_size : SECTOR);
    return virtio_place(board, &blk->virtio, place, error);
}

int virtio_blk_stopped_by(Device *device)
{
    pthread_mutex_lock(&device->lock);
    int error = blk_of(virtio_of(device))->stopped_by;
    pthread_mutex_unlock(&device->lock);
    return -error;
}

void virtio_blk_go_on(Device *device)
{
    VirtioBlk *blk = blk_of(virtio_of(device));
    pthread_mutex_lock(&device->lock);
    if (blk->virtio.halted) {
        blk->virtio.halted = false;
        blk->stopped_by = 0;
        virtio_notify_all(&blk->virtio);
    }
    pthread_mutex_unlock(&device->lock);
}

void virtio_blk_counters(Device *device, VirtioBlkCounters *counters)
{
    VirtioBlk *blk = blk_of(virtio_of(device));
    pthread_mutex_lock(&device->lock);
    *counters = blk->counters;
    pthread_mutex_unlock(&device->lock);
}

void virtio_blk_resized(Device *device)
{
    VirtioBlk *blk = blk_of(virtio_of(device));
    pthread_mutex_lock(&device->lock);
    set_capacity(blk);
    virtio_config_changed(&blk->virtio);
    pthread_mutex_unlock(&device->lock);
}
