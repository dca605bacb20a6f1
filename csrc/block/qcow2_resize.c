/* Growing (a longer L1 table where needed) and shrinking (the end is dropped, the L1 table stays). */
#include <stdlib.h>

#include "block/qcow2.h"

static int grow_l1(Qcow2 *q, uint32_t entries)
{
    uint64_t clusters = qcow2_clusters(q, entries * 8ull), offset, old_offset = q->l1_offset;
    uint64_t old_clusters = qcow2_clusters(q, q->l1_size * 8ull);
    uint64_t *l1 = calloc(entries, sizeof *l1);
    uint8_t *data = calloc(clusters, q->cluster_size), header[12];
    int64_t got = l1 && data ? qcow2_alloc(q, clusters, true, &offset) : -ENOMEM;
    int result = got < 0 ? (int)got : 0;
    if (!result) {
        memcpy(l1, q->l1, q->l1_size * sizeof *l1);
        for (uint32_t i = 0; i < entries; i++)
            store_be64(data + i * 8, l1[i]);
        result = file_pwrite(q->file, data, clusters << q->cluster_bits, offset);
        q->unsynced = true;
    }
    if (!result)
        result = qcow2_write_metadata(q); /* its refcounts, and the L2 tables that it names */
    if (!result)
        result = qcow2_barrier(q);
    store_be32(header, entries);
    store_be64(header + 4, offset);
    if (!result)
        result = file_pwrite(q->file, header, sizeof header, QCOW2_H_L1_SIZE);
    free(data);
    if (result) {
        free(l1);
        return result;
    }
    q->unsynced = true;
    free(q->l1);
    q->l1 = l1;
    q->l1_offset = offset;
    q->l1_size = entries;
    return old_clusters ? qcow2_free_later(q, old_offset, old_clusters, false) : 0;
}

int qcow2_resize(BlockImage *image, uint64_t size, Error *error)
{
    Qcow2 *q = image->state;
    const char *path = image->file->path;
    uint64_t span = q->cluster_size << q->l2_bits, entries = size / span + !!(size % span);
    uint8_t word[8];
    int result = 0;
    if (q->snapshots)
        return error_set(error, ENOTSUP, "%s: has internal snapshots: delete them (qemu-img snapshot -d) to resize",
                         path);
    if (entries > QCOW2_L1_MAX / 8)
        return error_set(error, EFBIG, "%s: %llu bytes are too many for clusters of %llu bytes", path,
                         (unsigned long long)size, (unsigned long long)q->cluster_size);
    if (size < image->size && q->version < 3 && q->has_backing)
        return error_set(error, ENOTSUP,
                         "%s: a version 2 overlay cannot shrink, having no zero clusters: convert it to "
                         "compat=1.1",
                         path);
    if (size < image->size) {
        uint64_t kept = qcow2_clusters(q, size) << q->cluster_bits;
        if (kept < image->size)
            result = qcow2_discard(image, kept, image->size - kept);
    }
    uint64_t old = image->size;
    pthread_mutex_lock(&image->lock);
    if (!result && entries > q->l1_size)
        result = grow_l1(q, (uint32_t)entries);
    if (!result)
        result = qcow2_write_metadata(q);
    if (!result)
        result = qcow2_barrier(q);
    store_be64(word, size);
    if (!result)
        result = file_pwrite(q->file, word, sizeof word, QCOW2_H_SIZE);
    q->unsynced = true;
    if (!result)
        image->size = size;
    pthread_mutex_unlock(&image->lock);
    /* what becomes visible behind the old end, in its cluster or in a longer backing file, must be zeros */
    uint64_t visible = MAX(qcow2_clusters(q, old) << q->cluster_bits, image->backing ? image->backing->size : 0);
    if (!result && MIN(visible, size) > old)
        result = qcow2_write_zeroes(image, old, MIN(visible, size) - old, false);
    return result ? error_set(error, -result, "%s: cannot resize: %s", path, strerror(-result)) : 0;
}
