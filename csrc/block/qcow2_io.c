/*
 * Reading and writing guest data. What is allocated and ours alone moves in one call outside the lock, and changes
 * no metadata; anything else is allocated, completed with what the cluster showed before (copy on write), and only
 * then mapped.
 */
#include <stdlib.h>

#include "block/qcow2.h"

/* ---- read ---- */

static int read_compressed(Qcow2 *q, uint64_t entry, uint64_t inside, const struct iovec *iov, int iovcnt,
                           size_t skip, size_t length)
{
    int result = 0;
    pthread_mutex_lock(&q->codec.lock);
    if (q->codec.entry != entry) {
        uint64_t offset, in_length;
        Error error = {0};
        qcow2_compressed_range(q, entry, &offset, &in_length);
        void *in = malloc(in_length);
        q->codec.entry = 0;
        if (!q->codec.cluster)
            q->codec.cluster = malloc(q->cluster_size);
        result = in && q->codec.cluster ? file_pread(q->file, in, in_length, offset) : -ENOMEM;
        if (!result)
            result = qcow2_decompress(q->compression, q->codec.cluster, q->cluster_size, in, in_length, &error);
        free(in);
        if (!result)
            q->codec.entry = entry;
        else if (error.text[0])
            image_fault(q->image, "compressed cluster at offset %#llx: %s", (unsigned long long)offset, error.text);
    }
    if (!result)
        iov_from_buffer(iov, iovcnt, skip, q->codec.cluster + inside, length);
    pthread_mutex_unlock(&q->codec.lock);
    return result;
}

static int read_backing(Qcow2 *q, const struct iovec *iov, int iovcnt, size_t skip, size_t length, uint64_t offset)
{
    BlockImage *backing = q->image->backing;
    uint64_t size = backing ? backing->size : 0;
    size_t there = offset < size ? (size_t)MIN((uint64_t)length, size - offset) : 0;
    if (there) {
        struct iovec part[iovcnt];
        int count = iov_slice(part, iov, iovcnt, skip, there);
        int result = block_preadv(backing, part, count, offset);
        if (result)
            return result;
    }
    iov_zero(iov, iovcnt, skip + there, length - there);
    return 0;
}

static int read_extent(Qcow2 *q, const Qcow2Extent *extent, const struct iovec *iov, int iovcnt, size_t skip,
                       uint64_t offset)
{
    size_t length = (size_t)extent->length;
    switch (extent->type) {
    case QCOW2_UNALLOCATED:
        return read_backing(q, iov, iovcnt, skip, length, offset);
    case QCOW2_NORMAL: {
        struct iovec part[iovcnt];
        int count = iov_slice(part, iov, iovcnt, skip, length);
        return file_preadv(q->file, part, count, extent->host);
    }
    case QCOW2_COMPRESSED_CLUSTER:
        return read_compressed(q, extent->entry, offset & (q->cluster_size - 1), iov, iovcnt, skip, length);
    default:
        iov_zero(iov, iovcnt, skip, length);
        return 0;
    }
}

int qcow2_preadv(BlockImage *image, const struct iovec *iov, int iovcnt, uint64_t offset)
{
    Qcow2 *q = image->state;
    size_t total = iov_length(iov, iovcnt);
    for (size_t done = 0; done < total;) {
        Qcow2Extent extent;
        pthread_mutex_lock(&image->lock);
        int result = qcow2_map(q, offset + done, total - done, &extent);
        if (!result)
            pthread_rwlock_rdlock(&q->transfers);
        pthread_mutex_unlock(&image->lock);
        if (result)
            return result;
        result = read_extent(q, &extent, iov, iovcnt, done, offset + done);
        pthread_rwlock_unlock(&q->transfers);
        if (result)
            return result;
        done += (size_t)extent.length;
    }
    return 0;
}

/* What a cluster shows now, for copy on write: the lock is held; beyond the end of the disk are zeros. */
static int read_locked(Qcow2 *q, void *data, size_t length, uint64_t offset)
{
    struct iovec iov = {data, length};
    size_t inside = offset < q->image->size ? (size_t)MIN((uint64_t)length, q->image->size - offset) : 0;
    memset((char *)data + inside, 0, length - inside);
    for (size_t done = 0; done < inside;) {
        Qcow2Extent extent;
        int result = qcow2_map(q, offset + done, inside - done, &extent);
        if (!result)
            result = read_extent(q, &extent, &iov, 1, done, offset + done);
        if (result)
            return result;
        done += (size_t)extent.length;
    }
    return 0;
}

/* ---- write ---- */

/* One allocating write: clusters [first, first+count) of the guest go to `host`. */
typedef struct Allocation {
    uint64_t start; /* guest offset of the first cluster */
    uint64_t host;
    uint64_t count; /* clusters, all in one L2 slice */
    bool fresh;     /* never written: reads as zeros */
    bool in_place;  /* an allocated zero cluster gets its data back */
    uint64_t old[QCOW2_SLICE / 8];
} Allocation;

static bool shows_zeros(const Qcow2 *q, uint64_t entry, uint64_t cluster_offset)
{
    int type = qcow2_entry_type(q, entry);
    if (type == QCOW2_UNALLOCATED)
        return !q->image->backing || cluster_offset >= q->image->backing->size;
    return type == QCOW2_ZERO_PLAIN || type == QCOW2_ZERO_ALLOCATED;
}

/* How many clusters from `offset` on, at most `most`, need a new place; remembers what they were. */
static int plan(Qcow2 *q, uint64_t offset, uint64_t most, Allocation *a)
{
    Qcow2Slot *slot;
    uint32_t index;
    int result = qcow2_l2_slot(q, offset, &slot, &index);
    if (result)
        return result;
    a->start = qcow2_start_of_cluster(q, offset);
    a->count = 0;
    a->in_place = false;
    while (a->count < most && index + a->count < qcow2_l2_slice_entries(q)) {
        uint64_t entry = load_be64(slot->data + (index + a->count) * 8);
        int type = qcow2_entry_type(q, entry);
        if (type == QCOW2_NORMAL && entry & QCOW2_COPIED)
            break;
        bool in_place = type == QCOW2_ZERO_ALLOCATED && entry & QCOW2_COPIED;
        if (in_place && a->count)
            break;
        a->old[a->count++] = entry;
        if (in_place) {
            a->in_place = true;
            a->host = entry & QCOW2_OFFSET_MASK;
            break;
        }
    }
    return 0;
}

static int take_clusters(Qcow2 *q, Allocation *a)
{
    if (a->in_place) {
        a->fresh = false;
        return qcow2_overlaps_metadata(q, a->host, q->cluster_size, true) ? -EIO : 0;
    }
    uint64_t file_end = q->file_end;
    int64_t got = qcow2_alloc(q, a->count, false, &a->host);
    if (got < 0)
        return (int)got;
    a->count = (uint64_t)got;
    a->fresh = q->file->regular && a->host >> q->cluster_bits >= file_end;
    return 0;
}

static int commit(Qcow2 *q, const Allocation *a)
{
    Qcow2Slot *slot;
    uint32_t index;
    int result = qcow2_l2_slot(q, a->start, &slot, &index);
    if (result)
        return result;
    for (uint64_t i = 0; i < a->count; i++)
        store_be64(slot->data + (index + i) * 8, (a->host + (i << q->cluster_bits)) | QCOW2_COPIED);
    qcow2_cache_dirty(&q->l2_cache, slot);
    for (uint64_t i = 0; i < a->count && !a->in_place && !result; i++)
        result = qcow2_release(q, a->old[i], false);
    return result;
}

static int write_parts(Qcow2 *q, struct iovec *parts, int count, uint64_t host)
{
    int result = 0;
    for (int at = 0; at < count && !result; at += BLOCK_IOV_MAX) {
        int some = MIN(count - at, BLOCK_IOV_MAX);
        result = file_pwritev(q->file, parts + at, some, host);
        host += iov_length(parts + at, some);
    }
    return result;
}

/* Data with what stands before and after it in its first and last cluster, in one call. */
static int write_with_edges(Qcow2 *q, const Allocation *a, const struct iovec *iov, int iovcnt, size_t skip,
                            uint64_t offset, size_t length)
{
    size_t head = (size_t)(offset - a->start);
    uint64_t span = a->count << q->cluster_bits, last = a->start + span - q->cluster_size;
    size_t tail = (size_t)(a->start + span - offset - length);
    bool skip_head = a->fresh && shows_zeros(q, a->old[0], a->start);
    bool skip_tail = a->fresh && shows_zeros(q, a->old[a->count - 1], last);
    struct iovec parts[iovcnt + 2];
    int count = 0, result = 0;
    char *edges = NULL;
    uint64_t host = a->host + (skip_head ? head : 0);

    if ((head && !skip_head) || (tail && !skip_tail)) {
        edges = malloc(head + tail);
        if (!edges)
            return -ENOMEM;
    }
    if (head && !skip_head) {
        result = read_locked(q, edges, head, a->start);
        parts[count++] = (struct iovec){edges, head};
    }
    count += iov_slice(parts + count, iov, iovcnt, skip, length);
    if (!result && tail && !skip_tail) {
        result = read_locked(q, edges + head, tail, offset + length);
        parts[count++] = (struct iovec){edges + head, tail};
    }
    if (!result)
        result = write_parts(q, parts, count, host);
    q->unsynced = true;
    free(edges);
    return result;
}

static int write_allocating(Qcow2 *q, const struct iovec *iov, int iovcnt, size_t skip, uint64_t offset,
                            size_t *length)
{
    Allocation a;
    uint64_t inside = offset & (q->cluster_size - 1);
    if (q->broken)
        return -EIO;
    int result = qcow2_l2_writable(q, offset);
    if (!result)
        result = plan(q, offset, qcow2_clusters(q, inside + *length), &a);
    if (!result)
        result = take_clusters(q, &a);
    if (result)
        return result;
    *length = (size_t)MIN((uint64_t)*length, (a.count << q->cluster_bits) - inside);
    result = write_with_edges(q, &a, iov, iovcnt, skip, offset, *length);
    if (result) {
        if (!a.in_place)
            qcow2_free_now(q, a.host, a.count);
        return result;
    }
    return commit(q, &a);
}

int qcow2_pwritev(BlockImage *image, const struct iovec *iov, int iovcnt, uint64_t offset)
{
    Qcow2 *q = image->state;
    size_t total = iov_length(iov, iovcnt);
    for (size_t done = 0; done < total;) {
        Qcow2Extent extent;
        size_t length = total - done;
        pthread_mutex_lock(&image->lock);
        int result = q->broken ? -EIO : qcow2_map(q, offset + done, length, &extent);
        bool ours = !result && extent.type == QCOW2_NORMAL && extent.copied;
        if (ours && qcow2_overlaps_metadata(q, extent.host, extent.length, false)) {
            image_fault(image,
                        "guest offset %#llx is mapped onto metadata at offset %#llx: run `pyvmm image check`",
                        (unsigned long long)(offset + done), (unsigned long long)extent.host);
            result = qcow2_mark_corrupt(q);
        } else if (ours) {
            struct iovec part[iovcnt];
            length = (size_t)extent.length;
            pthread_rwlock_rdlock(&q->transfers);
            pthread_mutex_unlock(&image->lock);
            int count = iov_slice(part, iov, iovcnt, done, length);
            result = file_pwritev(q->file, part, count, extent.host);
            pthread_rwlock_unlock(&q->transfers);
            if (result)
                return result;
            done += length;
            continue;
        } else if (!result) {
            length = (size_t)extent.length;
            result = write_allocating(q, iov, iovcnt, done, offset + done, &length);
        }
        pthread_mutex_unlock(&image->lock);
        if (result)
            return result;
        done += length;
    }
    return 0;
}

/* ---- compressed write (convert -c) ---- */

/* Room for `length` bytes: behind the last compressed cluster where it fits, so that several share a host cluster.
 */
static int alloc_bytes(Qcow2 *q, uint64_t length, uint64_t *offset)
{
    uint64_t at = q->compressed_next, inside = at & (q->cluster_size - 1), fresh;
    uint64_t room = at && inside ? q->cluster_size - inside : 0;
    if (room >= length && !qcow2_refcount_add(q, at >> q->cluster_bits, 1)) {
        *offset = at;
        q->compressed_next = at + length;
        return 0;
    }
    int64_t got = qcow2_alloc(q, 1, true, &fresh); /* length is less than a cluster */
    if (got < 0)
        return (int)got;
    if (room && room < length && fresh == at + room && !qcow2_refcount_add(q, at >> q->cluster_bits, 1))
        *offset = at;
    else
        *offset = fresh;
    q->compressed_next = *offset + length;
    return 0;
}

int qcow2_write_compressed(BlockImage *image, uint64_t offset, const void *data, size_t length, Error *error)
{
    Qcow2 *q = image->state;
    uint8_t *plain = calloc(1, q->cluster_size), *out = malloc(q->cluster_size);
    int64_t packed = -ENOMEM;
    if (plain && out && length <= q->cluster_size) {
        memcpy(plain, data, length);
        packed = qcow2_compress(q->compression, out, q->cluster_size - 1, plain, q->cluster_size, error);
    }
    free(plain);
    if (packed < 0) {
        free(out);
        return (int)packed;
    }
    pthread_mutex_lock(&image->lock);
    Qcow2Slot *slot;
    uint32_t index;
    uint64_t host = 0;
    int result = q->broken ? -EIO : qcow2_l2_writable(q, offset);
    if (!result)
        result = alloc_bytes(q, (uint64_t)packed, &host);
    if (!result)
        result = file_pwrite(q->file, out, (size_t)packed, host);
    q->unsynced = true;
    if (!result)
        result = qcow2_l2_slot(q, offset, &slot, &index);
    if (!result) {
        uint64_t sectors = ((host + (uint64_t)packed - 1) >> 9) - (host >> 9);
        uint64_t old = load_be64(slot->data + index * 8);
        store_be64(slot->data + index * 8, QCOW2_COMPRESSED | sectors << (62 - (q->cluster_bits - 8)) | host);
        qcow2_cache_dirty(&q->l2_cache, slot);
        uint64_t next = q->compressed_next;
        result = qcow2_release(q, old, false);
        q->compressed_next = next;
    }
    pthread_mutex_unlock(&image->lock);
    free(out);
    return result;
}
