/*
 * New qcow2 images: header cluster, refcount table, refcount blocks, L1 table, in this order in the file; and
 * preallocation, which maps every cluster beforehand.
 */
#include <fcntl.h>
#include <stdlib.h>

#include "block/qcow2.h"

#define FAIL(code, ...) error_set(error, code, __VA_ARGS__)

typedef struct Layout {
    uint64_t cluster_size, l1_entries, l1_clusters, blocks, table_clusters;
    uint32_t cluster_bits, order, version;
} Layout;

static bool is_power_of_two(uint64_t n) { return n && !(n & (n - 1)); }

static int plan_layout(const BlockCreate *o, const char *path, uint64_t size, Layout *l, Error *error)
{
    l->cluster_size = o->cluster_size ? o->cluster_size : 65536;
    l->version = o->version ? o->version : 3;
    uint32_t bits = o->refcount_bits ? o->refcount_bits : 16;
    if (!is_power_of_two(l->cluster_size) || l->cluster_size < 512 || l->cluster_size > 2 << 20)
        return FAIL(EINVAL, "%s: cluster_size %u is not a power of two from 512 to 2M", path, o->cluster_size);
    if (l->version != 2 && l->version != 3)
        return FAIL(EINVAL, "%s: qcow2 version %u: use compat=0.10 (2) or compat=1.1 (3)", path, l->version);
    if (!is_power_of_two(bits) || bits > 64)
        return FAIL(EINVAL, "%s: refcount_bits %u is not 1, 2, 4, 8, 16, 32 or 64", path, bits);
    if (l->version == 2 && (bits != 16 || o->lazy_refcounts || o->compression))
        return FAIL(EINVAL, "%s: refcount_bits, lazy_refcounts and compression_type need compat=1.1", path);
    if (o->compression > 1)
        return FAIL(EINVAL, "%s: compression_type %u is neither zlib nor zstd", path, o->compression);
    l->cluster_bits = (uint32_t)__builtin_ctzll(l->cluster_size);
    l->order = (uint32_t)__builtin_ctz(bits);
    uint64_t span = l->cluster_size * (l->cluster_size / 8);
    l->l1_entries = size / span + !!(size % span);
    if (l->l1_entries > QCOW2_L1_MAX / 8)
        return FAIL(EFBIG, "%s: %llu bytes are too many for clusters of %llu bytes: use a larger cluster_size",
                    path, (unsigned long long)size, (unsigned long long)l->cluster_size);
    l->l1_clusters = (l->l1_entries * 8 + l->cluster_size - 1) >> l->cluster_bits;
    l->l1_clusters += !l->l1_clusters; /* an empty disk has a place for its L1 table too */
    uint64_t per_block = l->cluster_size * 8 / bits;
    for (l->blocks = 1;; l->blocks++) { /* blocks that count header, table, themselves and L1 */
        l->table_clusters = (l->blocks * 8 + l->cluster_size - 1) >> l->cluster_bits;
        if (1 + l->table_clusters + l->blocks + l->l1_clusters <= l->blocks * per_block)
            return 0;
    }
}

static int fill_header(const Layout *l, const BlockCreate *o, uint64_t size, uint8_t *h, const char *path,
                       Error *error)
{
    size_t length = l->version >= 3 ? QCOW2_V3_FULL_LENGTH : QCOW2_V2_LENGTH;
    store_be32(h, QCOW2_MAGIC);
    store_be32(h + QCOW2_H_VERSION, l->version);
    store_be32(h + QCOW2_H_CLUSTER_BITS, l->cluster_bits);
    store_be64(h + QCOW2_H_SIZE, size);
    store_be32(h + QCOW2_H_L1_SIZE, (uint32_t)l->l1_entries);
    store_be64(h + QCOW2_H_L1_OFFSET, (1 + l->table_clusters + l->blocks) << l->cluster_bits);
    store_be64(h + QCOW2_H_REFTABLE_OFFSET, l->cluster_size);
    store_be32(h + QCOW2_H_REFTABLE_CLUSTERS, (uint32_t)l->table_clusters);
    if (l->version >= 3) {
        store_be64(h + QCOW2_H_INCOMPATIBLE, o->compression ? QCOW2_INCOMPAT_COMPRESSION : 0);
        store_be64(h + QCOW2_H_COMPATIBLE, o->lazy_refcounts ? QCOW2_COMPAT_LAZY_REFCOUNTS : 0);
        store_be32(h + QCOW2_H_REFCOUNT_ORDER, l->order);
        store_be32(h + QCOW2_H_LENGTH, (uint32_t)length);
        h[QCOW2_H_COMPRESSION] = (uint8_t)o->compression;
    }
    size_t name = o->backing_file ? strlen(o->backing_file) : 0;
    size_t format = o->backing_format && name ? strlen(o->backing_format) : 0;
    if (name > 1023 || format > 15 || length + 16 + 24 + name > l->cluster_size)
        return FAIL(ENAMETOOLONG,
                    "%s: the backing file's name does not fit into the header (1023 bytes, and a cluster)", path);
    size_t used = length + qcow2_header_extensions(h + length, l->cluster_size - length - name - 8,
                                                   format ? o->backing_format : NULL, l->version);
    if (name) {
        store_be64(h + QCOW2_H_BACKING_OFFSET, used);
        store_be32(h + QCOW2_H_BACKING_SIZE, (uint32_t)name);
        memcpy(h + used, o->backing_file, name);
    }
    return 0;
}

int qcow2_create(BlockFile *file, const BlockCreate *options, Error *error)
{
    Layout l = {0};
    uint64_t size = (options->size + 511) & ~511ull;
    int result = plan_layout(options, file->path, size, &l, error);
    if (result)
        return result;
    uint64_t first_block = 1 + l.table_clusters, clusters = first_block + l.blocks;
    uint8_t *data = calloc(clusters, l.cluster_size);
    if (!data)
        return FAIL(ENOMEM, "%s: out of memory", file->path);
    result = fill_header(&l, options, size, data, file->path, error);
    uint64_t per_block = l.cluster_size * 8 >> l.order, used = clusters + l.l1_clusters;
    for (uint64_t i = 0; i < l.blocks; i++)
        store_be64(data + l.cluster_size + i * 8, (first_block + i) << l.cluster_bits);
    for (uint64_t i = 0; i < used; i++)
        qcow2_refcount_store(data + ((first_block + i / per_block) << l.cluster_bits), i % per_block, l.order, 1);
    if (!result) {
        /* the L1 table is a hole; the header comes last, so that a half-made image is not taken for one */
        result = file->regular ? file_truncate(file, 0) : 0;
        if (!result)
            result = file_truncate(file, used << l.cluster_bits);
        if (!result)
            result = file_pwrite(file, data + l.cluster_size, (clusters - 1) << l.cluster_bits, l.cluster_size);
        if (!result && !file->regular)
            result = file_zero_range(file, clusters << l.cluster_bits, l.l1_clusters << l.cluster_bits, false);
        if (!result)
            result = file_pwrite(file, data, l.cluster_size, 0);
        if (!result)
            result = file_flush(file);
        if (result)
            FAIL(-result, "%s: cannot write: %s", file->path, strerror(-result));
    }
    free(data);
    return result;
}

/* ---- preallocation ---- */

static int map_slice(Qcow2 *q, uint64_t offset, uint64_t *done)
{
    Qcow2Slot *slot;
    uint32_t index;
    uint64_t host, want = MIN(qcow2_clusters(q, q->image->size - offset), (uint64_t)qcow2_l2_slice_entries(q));
    int result = qcow2_l2_writable(q, offset);
    if (result)
        return result;
    int64_t got = qcow2_alloc(q, want, false, &host);
    if (got < 0)
        return (int)got;
    result = qcow2_l2_slot(q, offset, &slot, &index);
    uint64_t room = qcow2_l2_slice_entries(q) - index, count = MIN((uint64_t)got, room);
    if (!result && (uint64_t)got > room)
        qcow2_free_now(q, host + (room << q->cluster_bits), (uint64_t)got - room);
    for (uint64_t i = 0; i < count && !result; i++)
        store_be64(slot->data + (index + i) * 8, (host + (i << q->cluster_bits)) | QCOW2_COPIED);
    if (!result)
        qcow2_cache_dirty(&q->l2_cache, slot);
    *done = count << q->cluster_bits;
    return result;
}

/* For a new image, whose clusters have never been written: they read as zeros. */
int qcow2_preallocate(BlockImage *image, uint32_t preallocation)
{
    Qcow2 *q = image->state;
    uint64_t done = 0;
    int result = 0;
    pthread_mutex_lock(&image->lock);
    for (uint64_t offset = 0; offset < image->size && !result; offset += done)
        result = map_slice(q, offset, &done);
    uint64_t length = q->file_end << q->cluster_bits;
    if (!result)
        result = file_truncate(q->file, length);
    if (!result && preallocation >= BLOCK_PREALLOC_FALLOC)
        result = -posix_fallocate(q->file->fd, 0, (off_t)length);
    if (!result)
        result = qcow2_write_metadata(q);
    pthread_mutex_unlock(&image->lock);
    if (result || preallocation < BLOCK_PREALLOC_FULL)
        return result;
    void *zeros = calloc(1, 1 << 20);
    for (uint64_t offset = 0; zeros && offset < image->size && !result; offset += 1 << 20)
        result = block_pwrite(image, zeros, (size_t)MIN(image->size - offset, 1u << 20), offset);
    result = zeros ? result : -ENOMEM;
    free(zeros);
    return result;
}
