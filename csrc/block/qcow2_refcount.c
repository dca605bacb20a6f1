/*
 * Refcounts and the allocation of clusters [Host cluster management]. A refcount block that does not exist stands
 * for free clusters; the first allocation among them makes the block, and a longer refcount table when that is
 * full.
 */
#include <stdlib.h>

#include "block/qcow2.h"

enum { FREES_MAX = 65536, OVERLAP_SCAN_MAX = 65536, USED_BEYOND_MAX = 1 << 20 };

uint64_t qcow2_refcount_load(const uint8_t *block, uint64_t index, uint32_t order)
{
    switch (order) {
    case 0:
        return block[index / 8] >> (index % 8) & 1;
    case 1:
        return block[index / 4] >> (index % 4 * 2) & 3;
    case 2:
        return block[index / 2] >> (index % 2 * 4) & 15;
    case 3:
        return block[index];
    case 4:
        return load_be16(block + index * 2);
    case 5:
        return load_be32(block + index * 4);
    default:
        return load_be64(block + index * 8);
    }
}

static void store_bits(uint8_t *byte, unsigned shift, uint8_t mask, uint64_t value)
{
    *byte = (uint8_t)((*byte & ~(mask << shift)) | (value & mask) << shift);
}

void qcow2_refcount_store(uint8_t *block, uint64_t index, uint32_t order, uint64_t value)
{
    switch (order) {
    case 0:
        store_bits(&block[index / 8], index % 8, 1, value);
        break;
    case 1:
        store_bits(&block[index / 4], index % 4 * 2, 3, value);
        break;
    case 2:
        store_bits(&block[index / 2], index % 2 * 4, 15, value);
        break;
    case 3:
        block[index] = (uint8_t)value;
        break;
    case 4:
        store_be16(block + index * 2, (uint16_t)value);
        break;
    case 5:
        store_be32(block + index * 4, (uint32_t)value);
        break;
    default:
        store_be64(block + index * 8, value);
        break;
    }
}

static uint64_t refcount_max(const Qcow2 *q)
{
    return q->refcount_order == 6 ? UINT64_MAX : (1ull << (1u << q->refcount_order)) - 1;
}

/* The slice that holds a cluster's refcount; *slot is NULL when its block does not exist. */
static int find_slot(Qcow2 *q, uint64_t cluster, Qcow2Slot **slot, uint64_t *index)
{
    uint64_t block = cluster >> q->refblock_bits;
    uint64_t in_block = cluster & ((1ull << q->refblock_bits) - 1), byte = in_block << q->refcount_order >> 3;
    *slot = NULL;
    if (block >= q->reftable_size || !q->reftable[block])
        return 0;
    uint64_t offset = q->reftable[block];
    if (offset & (q->cluster_size - 1) || offset >> q->cluster_bits >= q->file_end) {
        q->broken = true;
        return image_fault(q->image, "refcount table entry %llu at offset %#llx: block offset %#llx is %s",
                           (unsigned long long)block, (unsigned long long)(q->reftable_offset + block * 8),
                           (unsigned long long)offset,
                           offset & (q->cluster_size - 1) ? "unaligned" : "beyond the file");
    }
    uint64_t start = byte & ~(uint64_t)(q->refblock_cache.slice - 1);
    *index = in_block - (start << 3 >> q->refcount_order);
    return qcow2_cache_get(q, &q->refblock_cache, offset + start, slot);
}

int qcow2_refcount_get(Qcow2 *q, uint64_t cluster, uint64_t *value)
{
    Qcow2Slot *slot;
    uint64_t index;
    int result = find_slot(q, cluster, &slot, &index);
    if (!result)
        *value = slot ? qcow2_refcount_load(slot->data, index, q->refcount_order) : 0;
    return result;
}

int qcow2_refcount_set(Qcow2 *q, uint64_t cluster, uint64_t value)
{
    Qcow2Slot *slot;
    uint64_t index;
    int result = find_slot(q, cluster, &slot, &index);
    if (result || !slot)
        return result ? result : -ERANGE;
    qcow2_refcount_store(slot->data, index, q->refcount_order, value);
    qcow2_cache_dirty(&q->refblock_cache, slot);
    if (!value)
        q->free_hint = MIN(q->free_hint, cluster);
    return 0;
}

int qcow2_refcount_add(Qcow2 *q, uint64_t cluster, int delta)
{
    Qcow2Slot *slot;
    uint64_t index;
    int result = find_slot(q, cluster, &slot, &index);
    if (result)
        return result;
    uint64_t old = slot ? qcow2_refcount_load(slot->data, index, q->refcount_order) : 0;
    if (delta < 0 && !old) {
        image_fault(q->image, "cluster at offset %#llx is freed, but its refcount is 0: run `pyvmm image check`",
                    (unsigned long long)(cluster << q->cluster_bits));
        return qcow2_mark_corrupt(q);
    }
    if (!slot || (delta > 0 && old == refcount_max(q)))
        return -ERANGE;
    qcow2_refcount_store(slot->data, index, q->refcount_order, delta < 0 ? old - 1 : old + 1);
    qcow2_cache_dirty(&q->refblock_cache, slot);
    if (delta < 0 && old == 1)
        q->free_hint = MIN(q->free_hint, cluster);
    return 0;
}

/* ---- safety net ---- */

/* True when [offset, offset+length) touches tables that are known without reading; `deep` looks for L2 and blocks
 * too. */
bool qcow2_overlaps_metadata(const Qcow2 *q, uint64_t offset, uint64_t length, bool deep)
{
    uint64_t end = offset + length;
    if (offset < q->cluster_size)
        return true;
    if (q->l1_size && offset < q->l1_offset + q->l1_size * 8ull && end > q->l1_offset)
        return true;
    if (offset < q->reftable_offset + q->reftable_clusters * q->cluster_size && end > q->reftable_offset)
        return true;
    if (!deep || q->l1_size > OVERLAP_SCAN_MAX || q->reftable_size > OVERLAP_SCAN_MAX)
        return false;
    for (uint32_t i = 0; i < q->l1_size; i++) {
        uint64_t table = q->l1[i] & QCOW2_OFFSET_MASK;
        if (table && offset < table + q->cluster_size && end > table)
            return true;
    }
    for (uint32_t i = 0; i < q->reftable_size; i++)
        if (q->reftable[i] && offset < q->reftable[i] + q->cluster_size && end > q->reftable[i])
            return true;
    return false;
}

/* No more writes through us, and for version 3 none by others [Header, corrupt bit]. Returns -EIO. */
int qcow2_mark_corrupt(Qcow2 *q)
{
    q->broken = true;
    if (q->version >= 3 && !q->image->read_only && !(q->incompatible & QCOW2_INCOMPAT_CORRUPT)) {
        q->incompatible |= QCOW2_INCOMPAT_CORRUPT;
        qcow2_write_features(q);
    }
    return -EIO;
}

/* ---- growing the refcount structure ---- */

/* Reached when every refcount block that exists is full: the clusters from `block`'s first on are all free. */
static int add_refblock(Qcow2 *q, uint64_t block)
{
    uint64_t cluster = block << q->refblock_bits, offset = cluster << q->cluster_bits;
    if (qcow2_overlaps_metadata(q, offset, q->cluster_size, true)) {
        image_fault(q->image, "offset %#llx holds a table, but has no refcount: run `pyvmm image check -r all`",
                    (unsigned long long)offset);
        return qcow2_mark_corrupt(q);
    }
    uint8_t *data = calloc(1, q->cluster_size), entry[8];
    if (!data)
        return -ENOMEM;
    qcow2_refcount_store(data, 0, q->refcount_order, 1); /* it counts itself */
    int result = file_pwrite(q->file, data, q->cluster_size, offset);
    free(data);
    q->unsynced = true;
    if (!result)
        result = qcow2_barrier(q);
    if (result)
        return result;
    store_be64(entry, offset);
    result = file_pwrite(q->file, entry, sizeof entry, q->reftable_offset + block * 8);
    if (result)
        return result;
    q->unsynced = true;
    q->reftable[block] = offset;
    q->file_end = MAX(q->file_end, cluster + 1);
    return 0;
}

/* A longer table with the blocks that count it, all behind the last cluster that the present table can count. */
static int grow_reftable(Qcow2 *q)
{
    uint64_t old_size = q->reftable_size, first = old_size << q->refblock_bits;
    uint64_t table_clusters = qcow2_clusters(q, (old_size + old_size / 2 + 64) * 8), blocks = 1;
    while (blocks << q->refblock_bits < blocks + table_clusters)
        blocks++;
    uint64_t size = table_clusters << q->cluster_bits >> 3, total = blocks + table_clusters;
    if (table_clusters << q->cluster_bits > QCOW2_REFTABLE_MAX && old_size * 8 >= QCOW2_REFTABLE_MAX)
        return -EFBIG;
    uint64_t *table = calloc(size, sizeof *table);
    uint8_t *data = calloc(total, q->cluster_size);
    if (!table || !data) {
        free(table);
        free(data);
        return -ENOMEM;
    }
    memcpy(table, q->reftable, old_size * sizeof *table);
    for (uint64_t i = 0; i < blocks; i++)
        table[old_size + i] = (first + i) << q->cluster_bits;
    for (uint64_t i = 0; i < total; i++)
        qcow2_refcount_store(data, i, q->refcount_order, 1);
    for (uint64_t i = 0; i < size; i++)
        store_be64(data + (blocks << q->cluster_bits) + i * 8, table[i]);
    uint64_t offset = first << q->cluster_bits, table_offset = offset + (blocks << q->cluster_bits);
    int result = file_pwrite(q->file, data, total << q->cluster_bits, offset);
    free(data);
    uint8_t header[12];
    store_be64(header, table_offset);
    store_be32(header + 8, (uint32_t)table_clusters);
    q->unsynced = true;
    if (!result)
        result = qcow2_barrier(q);
    if (!result)
        result = file_pwrite(q->file, header, sizeof header, QCOW2_H_REFTABLE_OFFSET);
    q->unsynced = true;
    if (!result)
        result = qcow2_barrier(q);
    if (result) {
        free(table);
        return result;
    }
    uint64_t old_offset = q->reftable_offset, old_clusters = q->reftable_clusters;
    free(q->reftable);
    q->reftable = table;
    q->reftable_offset = table_offset;
    q->reftable_clusters = (uint32_t)table_clusters;
    q->reftable_size = (uint32_t)size;
    q->file_end = MAX(q->file_end, first + total);
    return qcow2_free_later(q, old_offset, old_clusters, false);
}

/* ---- allocation ---- */

static int is_free(Qcow2 *q, uint64_t cluster, bool *answer)
{
    uint64_t block = cluster >> q->refblock_bits, value = 0;
    int result = 0;
    if (block >= q->reftable_size)
        result = grow_reftable(q);
    if (!result && !q->reftable[block])
        result = add_refblock(q, block);
    if (!result)
        result = qcow2_refcount_get(q, cluster, &value);
    *answer = !value;
    return result;
}

int64_t qcow2_alloc(Qcow2 *q, uint64_t want, bool exact, uint64_t *offset)
{
    uint64_t run = 0, cluster = q->free_hint, first_free = UINT64_MAX;
    int beyond = 0;
    if (q->broken)
        return -EIO;
    while (run < want) {
        bool yes;
        if (cluster > (uint64_t)INT64_MAX >> q->cluster_bits)
            return -EFBIG;
        int result = is_free(q, cluster, &yes);
        if (result)
            return result;
        if (yes && first_free == UINT64_MAX)
            first_free = cluster;
        if (!yes && run && !exact)
            break;
        if (!yes && cluster >= q->file_end && ++beyond > USED_BEYOND_MAX) {
            image_fault(q->image, "refcounts of more than %d clusters beyond the end of the file are not 0",
                        USED_BEYOND_MAX);
            return qcow2_mark_corrupt(q);
        }
        run = yes ? run + 1 : 0;
        cluster++;
    }
    uint64_t first = cluster - run;
    *offset = first << q->cluster_bits;
    if (qcow2_overlaps_metadata(q, *offset, run << q->cluster_bits, true)) {
        image_fault(q->image, "offset %#llx holds a table, but its refcount is 0: run `pyvmm image check -r all`",
                    (unsigned long long)*offset);
        return qcow2_mark_corrupt(q);
    }
    for (uint64_t i = 0; i < run; i++) {
        int result = qcow2_refcount_add(q, first + i, 1);
        if (result) {
            qcow2_free_now(q, *offset, i);
            return result;
        }
    }
    q->free_hint = first_free == first ? first + run : first_free;
    q->file_end = MAX(q->file_end, first + run);
    return (int64_t)run;
}

/* For clusters that nothing in the file refers to yet. */
void qcow2_free_now(Qcow2 *q, uint64_t offset, uint64_t clusters)
{
    for (uint64_t i = 0; i < clusters; i++)
        if (qcow2_refcount_add(q, (offset >> q->cluster_bits) + i, -1))
            return;
}

int qcow2_free_later(Qcow2 *q, uint64_t offset, uint64_t clusters, bool punch)
{
    uint64_t first = offset >> q->cluster_bits;
    Qcow2Range *last = q->frees_count ? &q->frees[q->frees_count - 1] : NULL;
    if (last && last->first + last->count == first && last->punch == punch) {
        last->count += clusters;
        return 0;
    }
    if (q->frees_count == q->frees_room) {
        size_t room = q->frees_room ? q->frees_room * 2 : 64;
        Qcow2Range *more = realloc(q->frees, room * sizeof *more);
        if (!more)
            return -ENOMEM;
        q->frees = more;
        q->frees_room = room;
    }
    q->frees[q->frees_count++] = (Qcow2Range){first, clusters, punch};
    return q->frees_count >= FREES_MAX ? qcow2_write_metadata(q) : 0;
}

/* Called when the L2 tables that dropped them are on the disk. Waits for another time while data is on its way. */
int qcow2_apply_frees(Qcow2 *q)
{
    if (q->frees_count < FREES_MAX ? pthread_rwlock_trywrlock(&q->transfers) : pthread_rwlock_wrlock(&q->transfers))
        return 0;
    int result = 0;
    size_t count = q->frees_count;
    q->frees_count = 0;
    for (size_t i = 0; i < count && !result; i++) {
        Qcow2Range range = q->frees[i];
        uint64_t hole = range.first;
        for (uint64_t n = 0; n < range.count && !result; n++) {
            uint64_t left = 0, cluster = range.first + n;
            result = qcow2_refcount_add(q, cluster, -1);
            if (!result)
                result = qcow2_refcount_get(q, cluster, &left);
            bool end = left || n + 1 == range.count;
            uint64_t hole_end = left ? cluster : cluster + 1;
            if (range.punch && end && hole_end > hole)
                file_punch_hole(q->file, hole << q->cluster_bits, (hole_end - hole) << q->cluster_bits);
            if (left)
                hole = cluster + 1;
        }
    }
    pthread_rwlock_unlock(&q->transfers);
    return result;
}
