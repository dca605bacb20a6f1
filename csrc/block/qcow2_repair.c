/*
 * A whole new refcount structure, from the references that a check counted: table and blocks are written behind the
 * end of the file, then the header is switched to them in one write. The old structure's clusters are simply not
 * counted.
 */
#include <stdlib.h>

#include "block/qcow2.h"

static uint64_t limit_of(const Qcow2 *q)
{
    return q->refcount_order >= 5 ? UINT32_MAX : (1ull << (1u << q->refcount_order)) - 1;
}

static int write_blocks(Qcow2 *q, const Qcow2Counts *counts, uint64_t start, uint64_t blocks, uint64_t total)
{
    uint64_t per_block = 1ull << q->refblock_bits;
    uint8_t *data = malloc(q->cluster_size);
    int result = data ? 0 : -ENOMEM;
    for (uint64_t b = 0; b < blocks && !result; b++) {
        memset(data, 0, q->cluster_size);
        for (uint64_t i = 0; i < per_block; i++) {
            uint64_t cluster = b * per_block + i, value = 0;
            if (cluster < counts->clusters)
                value = counts->count[cluster];
            else if (cluster >= start && cluster < total)
                value = 1;
            if (value > limit_of(q))
                result = -ERANGE;
            qcow2_refcount_store(data, i, q->refcount_order, value);
        }
        if (!result)
            result = file_pwrite(q->file, data, q->cluster_size, (start + b) << q->cluster_bits);
    }
    free(data);
    return result;
}

/* How many blocks and table clusters count `used` clusters and themselves. */
static void plan(const Qcow2 *q, uint64_t used, uint64_t *blocks, uint64_t *table_clusters)
{
    uint64_t per_block = 1ull << q->refblock_bits;
    *blocks = *table_clusters = 0;
    for (;;) {
        uint64_t total = used + *blocks + *table_clusters;
        uint64_t want = (total + per_block - 1) / per_block, tables = qcow2_clusters(q, want * 8);
        if (want <= *blocks && tables <= *table_clusters)
            return;
        *blocks = MAX(*blocks, want);
        *table_clusters = MAX(*table_clusters, tables);
    }
}

int qcow2_rebuild_refcounts(Qcow2 *q, const Qcow2Counts *counts, Error *error)
{
    uint64_t start = counts->clusters, blocks, table_clusters;
    plan(q, start, &blocks, &table_clusters);
    uint64_t size = table_clusters << q->cluster_bits >> 3, table_offset = (start + blocks) << q->cluster_bits;
    if (size * 8 > QCOW2_REFTABLE_MAX)
        return error_set(error, EFBIG, "%s: its refcount table would be too large", q->file->path);
    uint64_t *table = calloc(size, sizeof *table), *wire = calloc(size, sizeof *wire);
    int result = table && wire ? write_blocks(q, counts, start, blocks, start + blocks + table_clusters) : -ENOMEM;
    for (uint64_t i = 0; i < blocks && !result; i++) {
        table[i] = (start + i) << q->cluster_bits;
        store_be64(&wire[i], table[i]);
    }
    if (!result)
        result = file_pwrite(q->file, wire, size * 8, table_offset);
    if (!result)
        result = file_flush(q->file);
    uint8_t header[12];
    store_be64(header, table_offset);
    store_be32(header + 8, (uint32_t)table_clusters);
    if (!result)
        result = file_pwrite(q->file, header, sizeof header, QCOW2_H_REFTABLE_OFFSET);
    if (!result)
        result = file_flush(q->file);
    free(wire);
    if (result) {
        free(table);
        return error_set(error, -result, "%s: cannot write new refcounts: %s", q->file->path, strerror(-result));
    }
    free(q->reftable);
    q->reftable = table;
    q->reftable_offset = table_offset;
    q->reftable_clusters = (uint32_t)table_clusters;
    q->reftable_size = (uint32_t)size;
    q->file_end = MAX(q->file_end, start + blocks + table_clusters);
    q->free_hint = 0;
    q->broken = false;
    q->frees_count = 0;
    qcow2_cache_empty(&q->refblock_cache);
    return 0;
}
