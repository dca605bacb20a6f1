/* qcow2 as a format of block.c: open with its backing chain, close, flush, status, info. See qcow2.h for the
 * design. */
#include "block/qcow2.h"

#include <stdio.h>
#include <stdlib.h>

static void free_state(Qcow2 *q)
{
    qcow2_cache_free(&q->l2_cache);
    qcow2_cache_free(&q->refblock_cache);
    pthread_rwlock_destroy(&q->transfers);
    pthread_mutex_destroy(&q->codec.lock);
    free(q->codec.cluster);
    free(q->frees);
    free(q->l1);
    free(q->reftable);
    free(q);
}

/* ---- open ---- */

/* The name as the header has it, relative to the folder of the overlay. -ENOTSUP for what is not a file's name. */
static int backing_path(const Qcow2 *q, char *out, size_t room, Error *error)
{
    const char *name = q->backing_file, *path = q->file->path, *slash = strrchr(path, '/');
    if (!strncmp(name, "json:", 5) || strstr(name, "://"))
        return error_set(error, ENOTSUP,
                         "%s: backing file '%.200s' is not a plain file name, which is all that is supported", path,
                         name);
    if (!strncmp(name, "file:", 5))
        name += 5;
    int length = name[0] == '/' || !slash ? snprintf(out, room, "%s", name)
                                          : snprintf(out, room, "%.*s/%s", (int)(slash - path), path, name);
    if (length < 0 || (size_t)length >= room)
        return error_set(error, ENAMETOOLONG, "%s: the path of its backing file is too long", path);
    return 0;
}

static int open_backing(BlockImage *image, int cache, const BlockChain *chain, Error *error)
{
    Qcow2 *q = image->state;
    char path[4096];
    Error below = {0};
    if (!q->has_backing || image->flags & BLOCK_NO_BACKING)
        return 0;
    int result = backing_path(q, path, sizeof path, error);
    if (result)
        return result;
    uint32_t flags = BLOCK_READ_ONLY | (image->flags & BLOCK_NO_LOCK);
    image->backing =
        block_open_chain(path, q->backing_format[0] ? q->backing_format : NULL, cache, flags, chain, &below);
    if (!image->backing)
        return error_set(error, below.code, "%.150s: backing file: %.300s", image->file->path, below.text);
    return 0;
}

/* What a writer must settle first: corrupt images are not written, dirty ones counted anew, autoclear bits cleared.
 */
static int prepare_for_writing(BlockImage *image, Error *error)
{
    Qcow2 *q = image->state;
    const char *path = image->file->path;
    if (image->flags & BLOCK_FIX)
        return 0;
    if (q->incompatible & QCOW2_INCOMPAT_CORRUPT)
        return error_set(error, EROFS,
                         "%s: qcow2 header offset %d: the image is marked corrupt: run `pyvmm image check -r "
                         "all`, or open it read-only",
                         path, QCOW2_H_INCOMPATIBLE);
    if (q->incompatible & QCOW2_INCOMPAT_DIRTY) {
        BlockCheck check = {0};
        int result = qcow2_check(image, BLOCK_REPAIR_ALL, &check, error);
        if (result)
            return result;
        if (check.corruptions || check.errors)
            return error_set(error, EIO,
                             "%.100s: was not closed cleanly (dirty bit) and cannot be repaired: %.300s", path,
                             check.first);
    }
    if (q->autoclear) {
        q->autoclear = 0;
        q->bitmaps = 0;
        int result = qcow2_write_features(q);
        if (result)
            return error_set(error, -result, "%s: cannot write the header: %s", path, strerror(-result));
    }
    return 0;
}

int qcow2_open(BlockImage *image, int cache, const BlockChain *chain, Error *error)
{
    Qcow2 *q = calloc(1, sizeof *q);
    uint64_t size = 0;
    if (!q)
        return error_set(error, ENOMEM, "%s: out of memory", image->file->path);
    q->image = image;
    q->file = image->file;
    q->l1_dirty_low = UINT32_MAX;
    pthread_rwlock_init(&q->transfers, NULL);
    pthread_mutex_init(&q->codec.lock, NULL);
    image->state = q;
    int result = qcow2_read_header(q, &size, error);
    if (!result)
        result = qcow2_read_tables(q, size, error);
    image->size = size;
    if (!result)
        result = open_backing(image, cache, chain, error);
    if (!result && !image->read_only)
        result = prepare_for_writing(image, error);
    if (result) {
        free_state(q);
        image->state = NULL;
    }
    return result;
}

/* ---- close and flush ---- */

static int flush_metadata(BlockImage *image)
{
    Qcow2 *q = image->state;
    pthread_mutex_lock(&image->lock);
    int result = qcow2_write_metadata(q);
    pthread_mutex_unlock(&image->lock);
    return result;
}

static int qcow2_flush(BlockImage *image)
{
    int result = flush_metadata(image);
    return result ? result : file_flush(image->file);
}

static void qcow2_close(BlockImage *image)
{
    Qcow2 *q = image->state;
    if (!image->read_only && !image->temporary) {
        flush_metadata(image); /* twice: the first pass lowers refcounts, the second writes them */
        flush_metadata(image);
        file_flush(image->file);
    }
    free_state(q);
}

/* ---- questions ---- */

static int qcow2_status(BlockImage *image, uint64_t offset, uint64_t length, BlockStatus *status)
{
    Qcow2 *q = image->state;
    Qcow2Extent extent;
    pthread_mutex_lock(&image->lock);
    int result = qcow2_map(q, offset, length, &extent);
    pthread_mutex_unlock(&image->lock);
    if (result)
        return result;
    status->length = extent.length;
    status->host_offset = extent.host;
    switch (extent.type) {
    case QCOW2_UNALLOCATED:
        status->flags = 0;
        break;
    case QCOW2_ZERO_PLAIN:
        status->flags = BLOCK_STATUS_ALLOCATED | BLOCK_STATUS_ZERO;
        break;
    case QCOW2_ZERO_ALLOCATED:
        status->flags = BLOCK_STATUS_ALLOCATED | BLOCK_STATUS_ZERO | BLOCK_STATUS_OFFSET;
        break;
    case QCOW2_NORMAL:
        status->flags = BLOCK_STATUS_ALLOCATED | BLOCK_STATUS_DATA | BLOCK_STATUS_OFFSET;
        break;
    default:
        status->flags = BLOCK_STATUS_ALLOCATED | BLOCK_STATUS_DATA | BLOCK_STATUS_COMPRESSED;
        break;
    }
    return 0;
}

static int qcow2_info(BlockImage *image, BlockInfo *info)
{
    const Qcow2 *q = image->state;
    info->cluster_size = q->cluster_size;
    info->version = q->version;
    info->refcount_bits = 1u << q->refcount_order;
    info->snapshots = q->snapshots;
    info->dirty = !!(q->incompatible & QCOW2_INCOMPAT_DIRTY);
    info->corrupt = !!(q->incompatible & QCOW2_INCOMPAT_CORRUPT);
    info->lazy_refcounts = !!(q->compatible & QCOW2_COMPAT_LAZY_REFCOUNTS);
    info->compression = q->compression;
    info->bitmaps = q->bitmaps > 0;
    memcpy(info->backing_file, q->backing_file, sizeof info->backing_file);
    memcpy(info->backing_format, q->backing_format, sizeof info->backing_format);
    return 0;
}

const BlockFormat qcow2_format = {
    .name = "qcow2",
    .close = qcow2_close,
    .preadv = qcow2_preadv,
    .pwritev = qcow2_pwritev,
    .flush = qcow2_flush,
    .discard = qcow2_discard,
    .write_zeroes = qcow2_write_zeroes,
    .status = qcow2_status,
    .info = qcow2_info,
    .resize = qcow2_resize,
    .check = qcow2_check,
    .write_compressed = qcow2_write_compressed,
};
