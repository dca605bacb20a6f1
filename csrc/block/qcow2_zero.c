/* Discard and write zeroes: whole clusters change their L2 entry, edges are written as zeros. */
#include <stdlib.h>

#include "block/qcow2.h"

typedef struct ZeroRequest {
    bool discard;   /* a hint: what cannot be dropped stays */
    bool may_unmap; /* give the host its space back */
} ZeroRequest;

/* What an entry becomes: *keep when it stays (or, *write, must be overwritten with zeros by hand). */
static uint64_t zeroed_entry(const Qcow2 *q, const ZeroRequest *request, uint64_t entry, bool *keep, bool *write)
{
    int type = qcow2_entry_type(q, entry);
    bool v3 = q->version >= 3;
    uint64_t nothing = q->has_backing || q->image->backing ? QCOW2_ZERO : 0;
    *keep = *write = false;
    if (request->discard) {
        *keep = type == QCOW2_UNALLOCATED || type == QCOW2_ZERO_PLAIN || (nothing && !v3);
        return nothing;
    }
    if (type == QCOW2_UNALLOCATED) {
        *write = nothing && !v3;
        *keep = !nothing;
        return nothing;
    }
    if (type == QCOW2_ZERO_PLAIN || (type == QCOW2_ZERO_ALLOCATED && !request->may_unmap)) {
        *keep = true;
        return entry;
    }
    if (type == QCOW2_NORMAL && !request->may_unmap && v3 && entry & QCOW2_COPIED)
        return entry | QCOW2_ZERO;
    *write = !v3 && (nothing || (type == QCOW2_NORMAL && !request->may_unmap));
    return nothing;
}

/* The clusters of one L2 slice; *clusters is how many were done; *write: the next one is to be written by hand. */
static int zero_slice(Qcow2 *q, const ZeroRequest *request, uint64_t offset, uint64_t *clusters, bool *write)
{
    Qcow2Slot *slot;
    uint32_t index;
    uint64_t most = *clusters, old[QCOW2_SLICE / 8];
    *clusters = 0;
    *write = false;
    int result = qcow2_l2_slot(q, offset, &slot, &index);
    if (result)
        return result;
    if (!slot) {
        bool keep;
        zeroed_entry(q, request, 0, &keep, write);
        if (keep || *write) { /* no table, nothing to change in it: up to its end */
            uint64_t in_table = (offset >> q->cluster_bits) & ((1ull << q->l2_bits) - 1);
            *clusters = *write ? 0 : MIN(most, (1ull << q->l2_bits) - in_table);
            return 0;
        }
    }
    result = qcow2_l2_writable(q, offset);
    if (!result)
        result = qcow2_l2_slot(q, offset, &slot, &index);
    if (result)
        return result;
    uint64_t released = 0;
    for (; *clusters < most && index < qcow2_l2_slice_entries(q); index++, ++*clusters) {
        bool keep;
        uint64_t entry = load_be64(slot->data + index * 8), changed = zeroed_entry(q, request, entry, &keep, write);
        if (*write)
            break;
        if (keep || changed == entry)
            continue;
        store_be64(slot->data + index * 8, changed);
        qcow2_cache_dirty(&q->l2_cache, slot);
        if ((changed & QCOW2_OFFSET_MASK) == 0)
            old[released++] = entry;
    }
    for (uint64_t i = 0; i < released && !result; i++)
        result = qcow2_release(q, old[i], true);
    return result;
}

static int write_zeros_by_hand(BlockImage *image, uint64_t offset, uint64_t length)
{
    Qcow2 *q = image->state;
    Qcow2Extent extent;
    while (length) { /* skip what shows zeros already */
        pthread_mutex_lock(&image->lock);
        int result = qcow2_map(q, offset, length, &extent);
        pthread_mutex_unlock(&image->lock);
        if (result)
            return result;
        bool zero = extent.type == QCOW2_ZERO_PLAIN || extent.type == QCOW2_ZERO_ALLOCATED ||
                    (extent.type == QCOW2_UNALLOCATED && !q->has_backing && !image->backing);
        if (!zero) {
            size_t piece = (size_t)MIN(extent.length, 1u << 20);
            void *zeros = calloc(1, piece);
            if (!zeros)
                return -ENOMEM;
            struct iovec iov = {zeros, piece};
            result = qcow2_pwritev(image, &iov, 1, offset);
            free(zeros);
            if (result)
                return result;
            extent.length = piece;
        }
        offset += extent.length;
        length -= extent.length;
    }
    return 0;
}

static int zero_clusters(BlockImage *image, const ZeroRequest *request, uint64_t offset, uint64_t end)
{
    Qcow2 *q = image->state;
    while (offset < end) {
        uint64_t clusters = qcow2_clusters(q, end - offset);
        bool write;
        pthread_mutex_lock(&image->lock);
        int result = q->broken ? -EIO : zero_slice(q, request, offset, &clusters, &write);
        pthread_mutex_unlock(&image->lock);
        offset += clusters << q->cluster_bits;
        if (!result && write) {
            uint64_t length = MIN(q->cluster_size, end - offset);
            result = write_zeros_by_hand(image, offset, length);
            offset += length;
        }
        if (result)
            return result;
    }
    return 0;
}

/* Whole clusters of the range; the disk's last cluster is whole when the range reaches its end. */
static void whole_clusters(const Qcow2 *q, uint64_t offset, uint64_t length, uint64_t *first, uint64_t *last)
{
    uint64_t end = offset + length;
    *first = qcow2_clusters(q, offset) << q->cluster_bits;
    *last = end == q->image->size ? end : qcow2_start_of_cluster(q, end);
    if (*last < *first)
        *first = *last = offset;
}

int qcow2_discard(BlockImage *image, uint64_t offset, uint64_t length)
{
    uint64_t first, last;
    whole_clusters(image->state, offset, length, &first, &last);
    return first < last ? zero_clusters(image, &(ZeroRequest){.discard = true}, first, last) : 0;
}

int qcow2_write_zeroes(BlockImage *image, uint64_t offset, uint64_t length, bool may_unmap)
{
    uint64_t first, last, end = offset + length;
    whole_clusters(image->state, offset, length, &first, &last);
    if (first >= last)
        return write_zeros_by_hand(image, offset, length);
    int result = write_zeros_by_hand(image, offset, first - offset);
    if (!result)
        result = zero_clusters(image, &(ZeroRequest){.may_unmap = may_unmap}, first, last);
    return result ? result : write_zeros_by_hand(image, last, end - last);
}
