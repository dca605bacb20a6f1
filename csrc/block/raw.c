/* The raw format: the file is the disk. Holes are found by SEEK_DATA/SEEK_HOLE (lseek(2)). */
#include "block/image.h"

#include <string.h>

static int raw_preadv(BlockImage *image, const struct iovec *iov, int iovcnt, uint64_t offset)
{
    return file_preadv(image->file, iov, iovcnt, offset);
}

static int raw_pwritev(BlockImage *image, const struct iovec *iov, int iovcnt, uint64_t offset)
{
    return file_pwritev(image->file, iov, iovcnt, offset);
}

static int raw_flush(BlockImage *image) { return file_flush(image->file); }

static int raw_discard(BlockImage *image, uint64_t offset, uint64_t length)
{
    int result = file_punch_hole(image->file, offset, length);
    return result == -EOPNOTSUPP ? 0 : result; /* a hint */
}

static int raw_write_zeroes(BlockImage *image, uint64_t offset, uint64_t length, bool may_unmap)
{
    return file_zero_range(image->file, offset, length, may_unmap);
}

static int raw_status(BlockImage *image, uint64_t offset, uint64_t length, BlockStatus *status)
{
    status->length = length;
    bool data = file_is_data(image->file, offset, &status->length);
    status->flags = BLOCK_STATUS_ALLOCATED | BLOCK_STATUS_OFFSET | (data ? BLOCK_STATUS_DATA : BLOCK_STATUS_ZERO);
    status->host_offset = offset;
    return 0;
}

static int raw_resize(BlockImage *image, uint64_t size, Error *error)
{
    int result = file_truncate(image->file, size);
    if (result)
        return error_set(error, -result, "%s: cannot resize to %llu bytes: %s", image->file->path,
                         (unsigned long long)size, strerror(-result));
    image->size = size;
    return 0;
}

const BlockFormat raw_format = {
    .name = "raw",
    .preadv = raw_preadv,
    .pwritev = raw_pwritev,
    .flush = raw_flush,
    .discard = raw_discard,
    .write_zeroes = raw_write_zeroes,
    .status = raw_status,
    .resize = raw_resize,
};
