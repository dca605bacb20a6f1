/* virtio-blk's requests: out of the ring, onto the image, into the guest's memory (virtio 1.2 §5.2.6). */
#include "virtio/virtio_blk_internal.h"

#define HEADER_BYTES 16u

/* ---- Taking requests: lock held ----------------------------------------------------------------------------- */

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
static void add_data(BlkBatch *batch, BlkRequest *request, const VirtqSegment *segments, uint32_t count,
                     uint64_t skip, uint64_t bytes)
{
    request->first = batch->segments;
    request->bytes = bytes;
    for (uint32_t i = 0; i < count && bytes; i++) {
        uint64_t length = segments[i].iov.iov_len, from = MIN(skip, length), n = MIN(bytes, length - from);
        skip -= from;
        bytes -= n;
        if (n == 0)
            continue;
        batch->data[batch->segments] = (struct iovec){(uint8_t *)segments[i].iov.iov_base + from, n};
        batch->data_gpa[batch->segments++] = segments[i].gpa + from;
    }
    request->count = batch->segments - request->first;
}

/* A chain is a header of 16 readable bytes, data, and a status byte that comes last, laid out in any way
 * (§5.2.6.4). */
static const char *parse(BlkBatch *batch, const VirtqChain *chain, BlkRequest *request)
{
    if (chain->readable_bytes < HEADER_BYTES)
        return "request without a whole header";
    if (chain->writable_bytes < 1)
        return "request without a status byte";
    uint8_t header[HEADER_BYTES];
    gather(header, batch->chain, chain->readable, HEADER_BYTES);
    const VirtqSegment *writable = batch->chain + chain->readable;
    const VirtqSegment *last = writable + chain->writable - 1;
    *request = (BlkRequest){
        .token = chain->token,
        .type = load_le32(header),
        .sector = load_le64(header + 8),
        .writable = chain->writable_bytes,
        .status_ptr = (uint8_t *)last->iov.iov_base + last->iov.iov_len - 1,
        .status_gpa = last->gpa + last->iov.iov_len - 1,
    };
    if (unlikely(batch->recording))
        request->pop_ns = blk_now();
    if (blk_device_reads(request->type))
        add_data(batch, request, batch->chain, chain->readable, HEADER_BYTES, chain->readable_bytes - HEADER_BYTES);
    else
        add_data(batch, request, writable, chain->writable, 0, chain->writable_bytes - 1);
    return NULL;
}

const char *blk_take_batch(BlkBatch *batch, Virtqueue *ring)
{
    batch->count = batch->segments = batch->host_calls = 0;
    batch->recording = batch->blk->recorder;
    batch->broken = NULL;
    batch->capacity = load_le64(batch->blk->virtio.config + BLK_CONFIG_CAPACITY);
    while (batch->count < BATCH_REQUESTS && BATCH_SEGMENTS - batch->segments >= CHAIN_SEGMENTS) {
        VirtqChain chain;
        int result = virtqueue_pop(ring, &chain, batch->chain, CHAIN_SEGMENTS);
        if (result == 0)
            break;
        if (result < 0)
            batch->broken = result == -ENOSPC ? "buffers are in too many pieces" : ring->fault;
        else
            batch->broken = parse(batch, &chain, &batch->requests[batch->count]);
        if (batch->broken)
            break;
        batch->count++;
    }
    return batch->broken;
}

/* ---- Doing them: no lock ------------------------------------------------------------------------------------ */

static bool in_range(const BlkBatch *batch, uint64_t sector, uint64_t sectors)
{
    return sector <= batch->capacity && sectors <= batch->capacity - sector;
}

static bool is_transfer(const BlkBatch *batch, const BlkRequest *request)
{
    return request->type <= VIRTIO_BLK_T_OUT && request->bytes % SECTOR == 0 &&
           in_range(batch, request->sector, request->bytes / SECTOR);
}

/* What the host said; returns the status. */
static uint8_t host_said(BlkRequest *request, int result)
{
    request->error = result;
    request->status = result < 0 ? VIRTIO_BLK_S_IOERR : VIRTIO_BLK_S_OK;
    return request->status;
}

static int transfer(BlkBatch *batch, const BlkRequest *request, uint32_t segments)
{
    if (segments == 0)
        return 0;
    batch->host_calls++;
    const struct iovec *iov = batch->data + request->first;
    uint64_t offset = request->sector * SECTOR;
    return request->type == VIRTIO_BLK_T_IN ? block_preadv(batch->blk->image, iov, (int)segments, offset)
                                            : block_pwritev(batch->blk->image, iov, (int)segments, offset);
}

/* The run of requests from `index` that continue each other on disk, done by one call. Returns how many. */
static uint32_t do_transfers(BlkBatch *batch, uint32_t index)
{
    BlkRequest *first = &batch->requests[index];
    uint64_t next = first->sector + first->bytes / SECTOR;
    uint32_t count = 1, segments = first->count;
    for (; index + count < batch->count; count++) {
        const BlkRequest *request = &batch->requests[index + count];
        if (request->type != first->type || request->sector != next || !is_transfer(batch, request))
            break;
        next += request->bytes / SECTOR;
        segments += request->count;
    }
    bool failed = transfer(batch, first, segments) < 0;
    for (uint32_t i = 0; failed && i < count; i++) /* each by itself, to know which it is */
        host_said(&first[i], transfer(batch, &first[i], first[i].count));
    return count;
}

/* §5.2.6: segments of sector (64 bits), count (32 bits), flags (32 bits; bit 0: unmap). */
static uint8_t do_ranges(BlkBatch *batch, BlkRequest *request)
{
    uint8_t ranges[MAX_RANGES * 16];
    bool discard = request->type == VIRTIO_BLK_T_DISCARD;
    if (!(batch->blk->virtio.device_features & (discard ? VIRTIO_BLK_F_DISCARD : VIRTIO_BLK_F_WRITE_ZEROES)))
        return block_is_read_only(batch->blk->image) ? VIRTIO_BLK_S_IOERR : VIRTIO_BLK_S_UNSUPP;
    if (request->bytes == 0 || request->bytes % 16 || request->bytes > sizeof ranges)
        return VIRTIO_BLK_S_IOERR;
    uint8_t *to = ranges;
    for (uint32_t i = 0; i < request->count; to += batch->data[request->first + i++].iov_len)
        memcpy(to, batch->data[request->first + i].iov_base, batch->data[request->first + i].iov_len);
    for (const uint8_t *range = ranges; range < to; range += 16) { /* refuse all, or do all */
        uint32_t flags = load_le32(range + 12);
        if (flags & ~(discard ? 0u : 1u))
            return VIRTIO_BLK_S_UNSUPP;
        if (load_le32(range + 8) > MAX_RANGE_SECTORS || !in_range(batch, load_le64(range), load_le32(range + 8)))
            return VIRTIO_BLK_S_IOERR;
    }
    for (const uint8_t *range = ranges; range < to; range += 16) {
        uint64_t offset = load_le64(range) * SECTOR, length = (uint64_t)load_le32(range + 8) * SECTOR;
        int result = discard ? block_discard(batch->blk->image, offset, length)
                             : block_write_zeroes(batch->blk->image, offset, length, load_le32(range + 12) & 1);
        if (host_said(request, result))
            return VIRTIO_BLK_S_IOERR;
    }
    return VIRTIO_BLK_S_OK;
}

static uint8_t do_get_id(BlkBatch *batch, const BlkRequest *request)
{
    size_t done = 0;
    for (uint32_t i = 0; i < request->count && done < VIRTIO_BLK_ID_BYTES; i++) {
        const struct iovec *iov = &batch->data[request->first + i];
        size_t n = MIN(iov->iov_len, VIRTIO_BLK_ID_BYTES - done);
        memcpy(iov->iov_base, batch->blk->serial + done, n);
        done += n;
    }
    return VIRTIO_BLK_S_OK;
}

static uint8_t do_other(BlkBatch *batch, BlkRequest *request)
{
    switch (request->type) {
    case VIRTIO_BLK_T_IN:
    case VIRTIO_BLK_T_OUT:
        return VIRTIO_BLK_S_IOERR; /* beyond the disk, or no whole sectors */
    case VIRTIO_BLK_T_FLUSH:
        return host_said(request, block_flush(batch->blk->image));
    case VIRTIO_BLK_T_GET_ID:
        return do_get_id(batch, request);
    case VIRTIO_BLK_T_DISCARD:
    case VIRTIO_BLK_T_WRITE_ZEROES:
        return do_ranges(batch, request);
    default:
        return VIRTIO_BLK_S_UNSUPP;
    }
}

static bool changes_disk(const BlkRequest *request)
{
    return blk_device_reads(request->type) && request->status == VIRTIO_BLK_S_OK;
}

/* Without a cache the driver's writes are on stable storage when they complete. */
static void write_through(BlkBatch *batch)
{
    bool changed = false;
    for (uint32_t i = 0; i < batch->count; i++)
        changed |= changes_disk(&batch->requests[i]);
    int result = changed ? block_flush(batch->blk->image) : 0;
    for (uint32_t i = 0; result < 0 && i < batch->count; i++)
        if (changes_disk(&batch->requests[i]))
            host_said(&batch->requests[i], result);
}

/* Is this a failure that the machine stops for? */
static bool stops_machine(const VirtioBlk *blk, const BlkRequest *request)
{
    enum VirtioBlkOnError policy = request->type == VIRTIO_BLK_T_IN ? blk->on_read_error : blk->on_write_error;
    return policy == VIRTIO_BLK_ON_ERROR_STOP ||
           (policy == VIRTIO_BLK_ON_ERROR_ENOSPC && request->error == -ENOSPC);
}

/* The requests before the first one that is tried again later are done; the others count as not begun, so some are
 * done twice, which the driver cannot tell: it has not seen them complete. A broken queue is not tried again. */
static void choose_kept(BlkBatch *batch)
{
    uint32_t i = 0;
    while (i < batch->count && !(batch->requests[i].error && stops_machine(batch->blk, &batch->requests[i])))
        i++;
    batch->keep = batch->broken ? batch->count : i;
}

static void stamp(BlkBatch *batch, uint32_t from, uint32_t to, uint64_t begin_ns)
{
    uint64_t end_ns = blk_now();
    for (uint32_t i = from; i < to; i++) {
        batch->requests[i].begin_ns = begin_ns;
        batch->requests[i].end_ns = end_ns;
        batch->requests[i].merged = to - from;
    }
}

static void do_requests(BlkBatch *batch)
{
    for (uint32_t i = 0; i < batch->count;) {
        uint32_t begin = i;
        uint64_t begin_ns = unlikely(batch->recording) ? blk_now() : 0;
        if (is_transfer(batch, &batch->requests[i])) {
            i += do_transfers(batch, i);
        } else {
            batch->requests[i].status = do_other(batch, &batch->requests[i]);
            i++;
        }
        if (unlikely(batch->recording))
            stamp(batch, begin, i, begin_ns);
    }
    if (batch->write_through)
        write_through(batch);
    choose_kept(batch);
}

uint32_t blk_bytes_written(const BlkRequest *request)
{
    bool whole = request->writable == 1 || (request->type == VIRTIO_BLK_T_IN && request->status == VIRTIO_BLK_S_OK);
    if (request->type == VIRTIO_BLK_T_GET_ID)
        whole = request->bytes <= VIRTIO_BLK_ID_BYTES;
    if (whole)
        return (uint32_t)MIN(request->writable, UINT32_MAX);
    return request->type == VIRTIO_BLK_T_GET_ID ? VIRTIO_BLK_ID_BYTES : 0;
}

/* Bytes of guest memory that the request may have changed beside its status; a read that failed: all of them. What
 * a request only names costs nothing. */
static uint64_t bytes_changed(const BlkBatch *batch, const BlkRequest *request)
{
    if (request->type == VIRTIO_BLK_T_GET_ID)
        return MIN(request->bytes, VIRTIO_BLK_ID_BYTES);
    return request->type == VIRTIO_BLK_T_IN && is_transfer(batch, request) ? request->bytes : 0;
}

/* Tell memory's listeners of what was written, before the driver can see that it was. */
static void write_results(BlkBatch *batch)
{
    GuestMemory *memory = batch->blk->virtio.owner->board->memory;
    for (uint32_t i = 0; i < batch->keep; i++) {
        const BlkRequest *request = &batch->requests[i];
        uint64_t left = bytes_changed(batch, request);
        for (uint32_t s = request->first; left; s++) {
            uint64_t n = MIN(left, batch->data[s].iov_len);
            guest_memory_written(memory, batch->data_gpa[s], n);
            left -= n;
        }
        *request->status_ptr = request->status;
        guest_memory_written(memory, request->status_gpa, 1);
    }
}

void blk_do_batch(BlkBatch *batch)
{
    do_requests(batch);
    write_results(batch);
}
