#include <stdio.h>
#include <stdlib.h>

#include "virtio/virtio_blk.h"

#define SECTOR         512u
#define HEADER_BYTES   16u
#define BATCH_REQUESTS 64u
#define BATCH_SEGMENTS 1024u /* IOV_MAX: a batch can become one host call */
/* A chain's buffers, and a few more where buffers lie across memslots. */
#define CHAIN_SEGMENTS    (VIRTIO_BLK_MAX_QUEUE_SIZE + 16u)
#define MAX_RANGE_SECTORS (1u << 22) /* of one discard or write-zeroes segment: 2 GiB */
#define MAX_RANGES        32u
#define PHYSICAL_BLOCK    4096u /* the host's page cache */

typedef struct Request {
    VirtqToken token;
    uint8_t status;
    uint32_t type;
    uint64_t sector;
    uint64_t bytes;    /* of data */
    uint64_t writable; /* bytes of the chain that the device may write: data and status */
    uint32_t first;    /* its data's segments in VirtioBlk.data */
    uint32_t count;
    uint8_t *status_ptr; /* in guest memory */
    gpa_t status_gpa;
} Request;

typedef struct VirtioBlk {
    VirtioDevice virtio;
    BlockImage *image;
    char serial[VIRTIO_BLK_ID_BYTES];
    VirtioBlkCounters counters;
    /* The batch: filled under the lock, worked on without it. */
    uint64_t capacity;  /* sectors */
    bool write_through; /* its writes are flushed before they complete */
    uint32_t host_calls;
    uint32_t count; /* requests, and segments of their data */
    uint32_t segments;
    Request requests[BATCH_REQUESTS];
    struct iovec data[BATCH_SEGMENTS];
    gpa_t data_gpa[BATCH_SEGMENTS];
    VirtqSegment chain[CHAIN_SEGMENTS];
} VirtioBlk;

static VirtioBlk *blk_of(VirtioDevice *device) { return container_of(device, VirtioBlk, virtio); }

/* Taking requests: lock held
 * ----------------------------------------------------------------------------------------------- */

/* Copy the first bytes of `count` segments to `out`. */
static void gather(void *out, const VirtqSegment *segments, uint32_t count, size_t bytes)
{
    uint8_t *to = out;
    for (uint32_t i = 0; i < count && bytes; i++) {
        size_t n = MIN(bytes, segments[i].iov.iov_len);
        memcpy(to, segments[i].iov.iov_base, n);
        to += n;
        bytes -= n;
    }
}

/* Append the bytes [skip, skip + bytes) of `count` segments to the batch's data. */
static void add_data(VirtioBlk *blk, Request *request, const VirtqSegment *segments, uint32_t count, uint64_t skip,
                     uint64_t bytes)
{
    request->first = blk->segments;
    request->bytes = bytes;
    for (uint32_t i = 0; i < count && bytes; i++) {
        uint64_t length = segments[i].iov.iov_len, from = MIN(skip, length), n = MIN(bytes, length - from);
        skip -= from;
        bytes -= n;
        if (n == 0)
            continue;
        blk->data[blk->segments] = (struct iovec){(uint8_t *)segments[i].iov.iov_base + from, n};
        blk->data_gpa[blk->segments++] = segments[i].gpa + from;
    }
    request->count = blk->segments - request->first;
}

static bool device_reads(uint32_t type)
{
    return type == VIRTIO_BLK_T_OUT || type == VIRTIO_BLK_T_DISCARD || type == VIRTIO_BLK_T_WRITE_ZEROES;
}

/* A chain is a header of 16 readable bytes, data, and a status byte that comes last, laid out in any way
 * (§5.2.6.4). */
static const char *parse(VirtioBlk *blk, const VirtqChain *chain, Request *request)
{
    if (chain->readable_bytes < HEADER_BYTES)
        return "request without a whole header";
    if (chain->writable_bytes < 1)
        return "request without a status byte";
    uint8_t header[HEADER_BYTES];
    gather(header, blk->chain, chain->readable, HEADER_BYTES);
    const VirtqSegment *writable = blk->chain + chain->readable;
    const VirtqSegment *last = writable + chain->writable - 1;
    *request = (Request){
        .token = chain->token,
        .type = load_le32(header),
        .sector = load_le64(header + 8),
        .writable = chain->writable_bytes,
        .status_ptr = (uint8_t *)last->iov.iov_base + last->iov.iov_len - 1,
        .status_gpa = last->gpa + last->iov.iov_len - 1,
    };
    if (device_reads(request->type))
        add_data(blk, request, blk->chain, chain->readable, HEADER_BYTES, chain->readable_bytes - HEADER_BYTES);
    else
        add_data(blk, request, writable, chain->writable, 0, chain->writable_bytes - 1);
    return NULL;
}

/* Fill the batch. Returns why the queue is broken, if it is: what was taken before that still counts. */
static const char *take_batch(VirtioBlk *blk, Virtqueue *ring)
{
    blk->count = blk->segments = blk->host_calls = 0;
    blk->capacity = load_le64(blk->virtio.config + BLK_CONFIG_CAPACITY);
    while (blk->count < BATCH_REQUESTS && BATCH_SEGMENTS - blk->segments >= CHAIN_SEGMENTS) {
        VirtqChain chain;
        int result = virtqueue_pop(ring, &chain, blk->chain, CHAIN_SEGMENTS);
        if (result == 0)
            break;
        if (result < 0)
            return result == -ENOSPC ? "buffers are in too many pieces" : ring->fault;
        const char *why = parse(blk, &chain, &blk->requests[blk->count]);
        if (why)
            return why;
        blk->count++;
    }
    return NULL;
}

/* Doing them: no lock
 * ------------------------------------------------------------------------------------------------------ */

static bool in_range(const VirtioBlk *blk, uint64_t sector, uint64_t sectors)
{
    return sector <= blk->capacity && sectors <= blk->capacity - sector;
}

static bool is_transfer(const VirtioBlk *blk, const Request *request)
{
    return request->type <= VIRTIO_BLK_T_OUT && request->bytes % SECTOR == 0 &&
           in_range(blk, request->sector, request->bytes / SECTOR);
}

static int transfer(VirtioBlk *blk, const Request *request, uint32_t segments)
{
    if (segments == 0)
        return 0;
    blk->host_calls++;
    const struct iovec *iov = blk->data + request->first;
    uint64_t offset = request->sector * SECTOR;
    return request->type == VIRTIO_BLK_T_IN ? block_preadv(blk->image, iov, (int)segments, offset)
                                            : block_pwritev(blk->image, iov, (int)segments, offset);
}

/* The run of requests from `index` that continue each other on disk, done by one call. Returns how many. */
static uint32_t do_transfers(VirtioBlk *blk, uint32_t index)
{
    Request *first = &blk->requests[index];
    uint64_t next = first->sector + first->bytes / SECTOR;
    uint32_t count = 1, segments = first->count;
    for (; index + count < blk->count; count++) {
        const Request *request = &blk->requests[index + count];
        if (request->type != first->type || request->sector != next || !is_transfer(blk, request))
            break;
        next += request->bytes / SECTOR;
        segments += request->count;
    }
    bool failed = transfer(blk, first, segments) < 0;
    for (uint32_t i = 0; failed && i < count; i++) /* each by itself, to know which it is */
        if (transfer(blk, &first[i], first[i].count) < 0)
            first[i].status = VIRTIO_BLK_S_IOERR;
    return count;
}

/* §5.2.6: segments of sector (64 bits), count (32 bits), flags (32 bits; bit 0: unmap). */
static uint8_t do_ranges(VirtioBlk *blk, const Request *request)
{
    uint8_t ranges[MAX_RANGES * 16];
    bool discard = request->type == VIRTIO_BLK_T_DISCARD;
    if (!(blk->virtio.device_features & (discard ? VIRTIO_BLK_F_DISCARD : VIRTIO_BLK_F_WRITE_ZEROES)))
        return block_is_read_only(blk->image) ? VIRTIO_BLK_S_IOERR : VIRTIO_BLK_S_UNSUPP;
    if (request->bytes == 0 || request->bytes % 16 || request->bytes > sizeof ranges)
        return VIRTIO_BLK_S_IOERR;
    uint8_t *to = ranges;
    for (uint32_t i = 0; i < request->count; to += blk->data[request->first + i++].iov_len)
        memcpy(to, blk->data[request->first + i].iov_base, blk->data[request->first + i].iov_len);
    for (const uint8_t *range = ranges; range < to; range += 16) { /* refuse all, or do all */
        uint32_t flags = load_le32(range + 12);
        if (flags & ~(discard ? 0u : 1u))
            return VIRTIO_BLK_S_UNSUPP;
        if (load_le32(range + 8) > MAX_RANGE_SECTORS || !in_range(blk, load_le64(range), load_le32(range + 8)))
            return VIRTIO_BLK_S_IOERR;
    }
    for (const uint8_t *range = ranges; range < to; range += 16) {
        uint64_t offset = load_le64(range) * SECTOR, length = (uint64_t)load_le32(range + 8) * SECTOR;
        int result = discard ? block_discard(blk->image, offset, length)
                             : block_write_zeroes(blk->image, offset, length, load_le32(range + 12) & 1);
        if (result < 0)
            return VIRTIO_BLK_S_IOERR;
    }
    return VIRTIO_BLK_S_OK;
}

static uint8_t do_get_id(VirtioBlk *blk, const Request *request)
{
    size_t done = 0;
    for (uint32_t i = 0; i < request->count && done < VIRTIO_BLK_ID_BYTES; i++) {
        const struct iovec *iov = &blk->data[request->first + i];
        size_t n = MIN(iov->iov_len, VIRTIO_BLK_ID_BYTES - done);
        memcpy(iov->iov_base, blk->serial + done, n);
        done += n;
    }
    return VIRTIO_BLK_S_OK;
}

static uint8_t do_other(VirtioBlk *blk, const Request *request)
{
    switch (request->type) {
    case VIRTIO_BLK_T_IN:
    case VIRTIO_BLK_T_OUT:
        return VIRTIO_BLK_S_IOERR; /* beyond the disk, or no whole sectors */
    case VIRTIO_BLK_T_FLUSH:
        return block_flush(blk->image) < 0 ? VIRTIO_BLK_S_IOERR : VIRTIO_BLK_S_OK;
    case VIRTIO_BLK_T_GET_ID:
        return do_get_id(blk, request);
    case VIRTIO_BLK_T_DISCARD:
    case VIRTIO_BLK_T_WRITE_ZEROES:
        return do_ranges(blk, request);
    default:
        return VIRTIO_BLK_S_UNSUPP;
    }
}

static bool changes_disk(const Request *request)
{
    return device_reads(request->type) && request->status == VIRTIO_BLK_S_OK;
}

static void do_batch(VirtioBlk *blk)
{
    bool changed = false;
    for (uint32_t i = 0; i < blk->count;) {
        if (is_transfer(blk, &blk->requests[i])) {
            i += do_transfers(blk, i);
        } else {
            blk->requests[i].status = do_other(blk, &blk->requests[i]);
            i++;
        }
    }
    for (uint32_t i = 0; i < blk->count; i++)
        changed |= changes_disk(&blk->requests[i]);
    if (!blk->write_through || !changed || block_flush(blk->image) == 0)
        return;
    for (uint32_t i = 0; i < blk->count; i++)
        if (changes_disk(&blk->requests[i]))
            blk->requests[i].status = VIRTIO_BLK_S_IOERR;
}

/* How many bytes, from the first writable one on, are sure to be written (§2.7.8.2). */
static uint32_t bytes_written(const Request *request)
{
    bool whole = request->writable == 1 || (request->type == VIRTIO_BLK_T_IN && request->status == VIRTIO_BLK_S_OK);
    if (request->type == VIRTIO_BLK_T_GET_ID)
        whole = request->bytes <= VIRTIO_BLK_ID_BYTES;
    if (whole)
        return (uint32_t)MIN(request->writable, UINT32_MAX);
    return request->type == VIRTIO_BLK_T_GET_ID ? VIRTIO_BLK_ID_BYTES : 0;
}

/* Tell memory's listeners of what was written, before the driver can see that it was. */
static void write_results(VirtioBlk *blk)
{
    GuestMemory *memory = blk->virtio.owner->board->memory;
    for (uint32_t i = 0; i < blk->count; i++) {
        const Request *request = &blk->requests[i];
        for (uint32_t s = 0; s < request->count && !device_reads(request->type); s++)
            guest_memory_written(memory, blk->data_gpa[request->first + s], blk->data[request->first + s].iov_len);
        *request->status_ptr = request->status;
        guest_memory_written(memory, request->status_gpa, 1);
    }
}

/* Completing them: lock held
 * ------------------------------------------------------------------------------------------------- */

static void count_request(VirtioBlkCounters *counters, const Request *request)
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

static void complete_batch(VirtioBlk *blk, VirtioQueue *queue)
{
    for (uint32_t i = 0; i < blk->count; i++) {
        virtqueue_push(&queue->ring, blk->requests[i].token, bytes_written(&blk->requests[i]));
        count_request(&blk->counters, &blk->requests[i]);
    }
    blk->counters.batches++;
    blk->counters.host_calls += blk->host_calls;
    virtio_publish(&blk->virtio, queue);
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
    const char *why = take_batch(blk, &queue->ring);
    if (blk->count) {
        blk->write_through = is_write_through(device);
        virtio_begin_io(device);
        do_batch(blk);
        write_results(blk);
        virtio_end_io(device);
        complete_batch(blk, queue);
    }
    if (why)
        virtio_fail(device, queue, why);
    return blk->count != 0;
}

static void blk_run(VirtioDevice *device, VirtioQueue *queue) { virtio_serve(device, queue, run_batch); }

/* The device
 * ------------------------------------------------------------------------------------------------------------------
 */

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
    device->config[BLK_CONFIG_WRITEBACK] = !(device->device_features & VIRTIO_BLK_F_RO);
}

static const VirtioClass blk_class = {
    .name = "virtio-blk",
    .id = 2,
    .pci_class = 0x010000, /* mass storage, SCSI: what drivers and firmware look for */
    .transitional_id = 0x1001,
    .run = blk_run,
    .config_write = blk_config_write,
    .reset = blk_reset,
};

static bool is_power_of_two(uint32_t value, uint32_t least, uint32_t most)
{
    return value >= least && value <= most && !(value & (value - 1));
}

Device *virtio_blk_new(Board *board, const VirtioPlace *place, BlockImage *image, const VirtioBlkOptions *options,
                       Error *error)
{
    static const VirtioBlkOptions defaults = {0};
    options = options ? options : &defaults;
    uint32_t queue_size = options->queue_size ? options->queue_size : VIRTIO_BLK_MAX_QUEUE_SIZE;
    uint32_t block = options->block_size ? options->block_size : SECTOR;
    if (!is_power_of_two(queue_size, 4, VIRTIO_BLK_MAX_QUEUE_SIZE)) {
        error_set(error, EINVAL, "virtio-blk: queue size %u is not a power of two from 4 to 256", queue_size);
        return NULL;
    }
    if (!is_power_of_two(block, SECTOR, PHYSICAL_BLOCK)) {
        error_set(error, EINVAL, "virtio-blk: block size %u is not a power of two from 512 to 4096", block);
        return NULL;
    }
    VirtioBlk *blk = calloc(1, sizeof *blk);
    if (!blk) {
        error_set(error, ENOMEM, "no host memory for virtio-blk");
        return NULL;
    }
    blk->image = image;
    memcpy(blk->serial, options->serial, strnlen(options->serial, VIRTIO_BLK_ID_BYTES));
    uint64_t features = VIRTIO_BLK_F_SEG_MAX | VIRTIO_BLK_F_BLK_SIZE | VIRTIO_BLK_F_TOPOLOGY | VIRTIO_BLK_F_FLUSH;
    features |= block_is_read_only(image)
                    ? VIRTIO_BLK_F_RO
                    : VIRTIO_BLK_F_CONFIG_WCE | VIRTIO_BLK_F_DISCARD | VIRTIO_BLK_F_WRITE_ZEROES;
    VirtioSetup setup = {
        .features = features, .config_size = BLK_CONFIG_SIZE, .queue_count = 1, .queue_size = (uint16_t)queue_size};
    virtio_init(&blk->virtio, &blk_class, &setup);
    fill_config(blk, queue_size, block);
    return virtio_place(board, &blk->virtio, place, error);
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
