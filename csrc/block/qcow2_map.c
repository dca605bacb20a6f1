/* From guest offset to host offset: L1, L2, and what an L2 entry says [L1 table, L2 table, Standard/Compressed
 * Cluster Descriptor]. */
#include <stdlib.h>

#include "block/qcow2.h"

int qcow2_entry_type(const Qcow2 *q, uint64_t entry)
{
    if (entry & QCOW2_COMPRESSED)
        return QCOW2_COMPRESSED_CLUSTER;
    if (q->version >= 3 && entry & QCOW2_ZERO)
        return entry & QCOW2_OFFSET_MASK ? QCOW2_ZERO_ALLOCATED : QCOW2_ZERO_PLAIN;
    return entry & QCOW2_OFFSET_MASK ? QCOW2_NORMAL : QCOW2_UNALLOCATED;
}

void qcow2_compressed_range(const Qcow2 *q, uint64_t entry, uint64_t *offset, uint64_t *length)
{
    unsigned shift = 62 - (q->cluster_bits - 8);
    uint64_t sectors = (entry & ~(QCOW2_COMPRESSED | QCOW2_COPIED)) >> shift;
    *offset = entry & ((1ull << shift) - 1);
    *length = (sectors + 1) * 512 - (*offset & 511);
}

/* The slice with the L2 entry of `offset`; *slot is NULL where there is no L2 table. */
int qcow2_l2_slot(Qcow2 *q, uint64_t offset, Qcow2Slot **slot, uint32_t *index)
{
    uint64_t l1_index = offset >> (q->cluster_bits + q->l2_bits);
    *slot = NULL;
    if (l1_index >= q->l1_size)
        return image_fault(q->image, "L1 table has no entry %llu", (unsigned long long)l1_index);
    uint64_t table = q->l1[l1_index] & QCOW2_OFFSET_MASK;
    uint64_t in_table = (offset >> q->cluster_bits) & ((1ull << q->l2_bits) - 1);
    *index = (uint32_t)(in_table % qcow2_l2_slice_entries(q));
    if (!table)
        return 0;
    if (table & (q->cluster_size - 1) || table >> q->cluster_bits >= q->file_end)
        return image_fault(q->image, "L1 entry %llu at offset %#llx: L2 table offset %#llx is %s",
                           (unsigned long long)l1_index, (unsigned long long)(q->l1_offset + l1_index * 8),
                           (unsigned long long)table,
                           table & (q->cluster_size - 1) ? "unaligned" : "beyond the file");
    return qcow2_cache_get(q, &q->l2_cache, table + (in_table - *index) * 8, slot);
}

static int check_entry(Qcow2 *q, uint64_t offset, uint64_t entry, int type)
{
    uint64_t host = entry & QCOW2_OFFSET_MASK;
    const char *problem = NULL;
    if (type == QCOW2_COMPRESSED_CLUSTER) {
        uint64_t length;
        qcow2_compressed_range(q, entry, &host, &length);
        problem = host >> q->cluster_bits >= q->file_end ? "beyond the file" : NULL;
    } else if (type == QCOW2_NORMAL || type == QCOW2_ZERO_ALLOCATED) {
        problem = host & (q->cluster_size - 1)             ? "unaligned"
                  : host >> q->cluster_bits >= q->file_end ? "beyond the file"
                                                           : NULL;
    }
    if (!problem)
        return 0;
    return image_fault(q->image, "L2 entry %#llx of guest offset %#llx: cluster offset %#llx is %s",
                       (unsigned long long)entry, (unsigned long long)qcow2_start_of_cluster(q, offset),
                       (unsigned long long)host, problem);
}

/* The longest run at `offset` that is of one kind and, where it has host clusters, contiguous in the file. */
int qcow2_map(Qcow2 *q, uint64_t offset, uint64_t length, Qcow2Extent *extent)
{
    uint64_t end = offset + length, at = offset;
    uint64_t table_span = q->cluster_size << q->l2_bits;
    Qcow2Slot *slot = NULL;
    uint32_t index = 0, slice_entries = qcow2_l2_slice_entries(q);
    *extent = (Qcow2Extent){.type = -1};
    while (at < end) {
        if (!slot || ++index == slice_entries) {
            int result = qcow2_l2_slot(q, at, &slot, &index);
            if (result)
                return extent->type < 0 ? result : 0;
        }
        uint64_t entry = slot ? load_be64(slot->data + index * 8) : 0;
        int type = qcow2_entry_type(q, entry);
        bool copied = entry & QCOW2_COPIED, hosted = type == QCOW2_NORMAL || type == QCOW2_ZERO_ALLOCATED;
        uint64_t host = hosted ? entry & QCOW2_OFFSET_MASK : 0;
        if (extent->type < 0) {
            int result = check_entry(q, at, entry, type);
            if (result)
                return result;
            uint64_t inside = at & (q->cluster_size - 1);
            *extent = (Qcow2Extent){.type = type, .copied = copied, .entry = entry, .host = host + inside};
        } else if (type != extent->type || type == QCOW2_COMPRESSED_CLUSTER ||
                   (hosted && (copied != extent->copied || host != extent->host + (at - offset) ||
                               host >> q->cluster_bits >= q->file_end))) {
            break;
        }
        at = slot ? qcow2_start_of_cluster(q, at) + q->cluster_size : (at / table_span + 1) * table_span;
        extent->length = MIN(at, end) - offset;
    }
    return 0;
}

/* ---- making an L2 table ours ---- */

static int fill_table(Qcow2 *q, uint64_t from, uint64_t to, bool fresh)
{
    int64_t size = file_size(q->file);
    int result = 0;
    qcow2_cache_forget(&q->l2_cache, to, q->cluster_size);
    if (from) {
        void *data;
        if (posix_memalign(&data, QCOW2_SLICE, MAX(q->cluster_size, (uint64_t)QCOW2_SLICE)))
            return -ENOMEM;
        for (uint64_t at = 0; at < q->cluster_size && !result; at += q->l2_cache.slice) {
            Qcow2Slot *slot; /* through the cache: it may be newer than the file */
            result = qcow2_cache_get(q, &q->l2_cache, from + at, &slot);
            if (!result)
                memcpy((char *)data + at, slot->data, q->l2_cache.slice);
        }
        if (!result)
            result = file_pwrite(q->file, data, q->cluster_size, to);
        free(data);
    } else if (fresh && size >= 0 && (uint64_t)size < to + q->cluster_size) {
        result =
            file_truncate(q->file, to + q->cluster_size); /* reads as zeros, and no table ends beyond the file */
    } else if (!fresh) {
        result = file_zero_range(q->file, to, q->cluster_size, false);
    }
    q->unsynced = true;
    return result;
}

int qcow2_l2_writable(Qcow2 *q, uint64_t offset)
{
    uint64_t l1_index = offset >> (q->cluster_bits + q->l2_bits), table;
    if (l1_index >= q->l1_size)
        return image_fault(q->image, "L1 table has no entry %llu", (unsigned long long)l1_index);
    uint64_t old = q->l1[l1_index];
    if (old & QCOW2_COPIED && old & QCOW2_OFFSET_MASK)
        return 0;
    uint64_t file_end = q->file_end;
    int64_t got = qcow2_alloc(q, 1, true, &table);
    if (got < 0)
        return (int)got;
    int result =
        fill_table(q, old & QCOW2_OFFSET_MASK, table, q->file->regular && table >> q->cluster_bits >= file_end);
    if (result) {
        qcow2_free_now(q, table, 1);
        return result;
    }
    q->l1[l1_index] = table | QCOW2_COPIED;
    q->l1_dirty_low = MIN(q->l1_dirty_low, (uint32_t)l1_index);
    q->l1_dirty_high = MAX(q->l1_dirty_high, (uint32_t)l1_index + 1);
    return old & QCOW2_OFFSET_MASK ? qcow2_free_later(q, old & QCOW2_OFFSET_MASK, 1, false) : 0;
}

int qcow2_release(Qcow2 *q, uint64_t entry, bool punch)
{
    switch (qcow2_entry_type(q, entry)) {
    case QCOW2_NORMAL:
    case QCOW2_ZERO_ALLOCATED:
        return qcow2_free_later(q, entry & QCOW2_OFFSET_MASK, 1, punch);
    case QCOW2_COMPRESSED_CLUSTER: {
        uint64_t offset, length;
        qcow2_compressed_range(q, entry, &offset, &length);
        uint64_t first = offset >> q->cluster_bits, last = (offset + length - 1) >> q->cluster_bits;
        pthread_mutex_lock(&q->codec.lock);
        q->codec.entry = 0;
        pthread_mutex_unlock(&q->codec.lock);
        q->compressed_next = 0;
        return qcow2_free_later(q, first << q->cluster_bits, last - first + 1, false);
    }
    default:
        return 0;
    }
}
