/* Copying and comparing images by ranges (image convert, image compare): holes are skipped, zeros stay holes. */
#include <stdlib.h>

#include "block/image.h"

enum { CHUNK = 2 << 20, GRAIN = 4096 };

static bool is_zero(const void *data, size_t length)
{
    const char *at = data;
    for (; length && (uintptr_t)at % 8; at++, length--)
        if (*at)
            return false;
    for (; length >= 64; at += 64, length -= 64) {
        uint64_t w[8];
        memcpy(w, at, sizeof w);
        if (w[0] | w[1] | w[2] | w[3] | w[4] | w[5] | w[6] | w[7])
            return false;
    }
    for (; length; at++, length--)
        if (*at)
            return false;
    return true;
}

static int fail(const BlockImage *image, int result, const char *what, uint64_t offset, Error *error)
{
    const char *fault = block_fault(image);
    if (fault)
        return error_set(error, -result, "%s", fault);
    return error_set(error, -result, "%s: cannot %s at offset %llu: %s", image->file->path, what,
                     (unsigned long long)offset, strerror(-result));
}

/* Runs of GRAIN that hold something are written; the rest is left, or zeroed where the target is not new. */
static int64_t write_data(BlockImage *target, const char *data, size_t length, uint64_t offset, bool target_is_zero)
{
    int64_t written = 0;
    for (size_t at = 0; at < length;) {
        bool zero = is_zero(data + at, MIN(length - at, (size_t)GRAIN));
        size_t end = MIN(at + GRAIN, length);
        while (end < length && is_zero(data + end, MIN(length - end, (size_t)GRAIN)) == zero)
            end = MIN(end + GRAIN, length);
        int result = 0;
        if (!zero)
            result = block_pwrite(target, data + at, end - at, offset + at);
        else if (!target_is_zero)
            result = block_write_zeroes(target, offset + at, end - at, true);
        if (result)
            return result;
        written += zero ? 0 : (int64_t)(end - at);
        at = end;
    }
    return written;
}

static int64_t write_packed(BlockImage *target, const char *data, size_t length, uint64_t offset, Error *error)
{
    BlockInfo info;
    int64_t written = 0;
    int result = block_info(target, &info);
    if (result)
        return result;
    for (size_t at = 0; at < length; at += info.cluster_size) {
        size_t piece = MIN(length - at, (size_t)info.cluster_size);
        if (is_zero(data + at, piece))
            continue;
        result = target->format->write_compressed(target, offset + at, data + at, piece, error);
        if (result == -EFBIG)
            result = block_pwrite(target, data + at, piece, offset + at);
        if (result)
            return result;
        written += (int64_t)piece;
    }
    return written;
}

int64_t block_copy(BlockImage *source, BlockImage *target, uint64_t offset, uint64_t length, bool target_is_zero,
                   bool compress, Error *error)
{
    char *data = NULL;
    int64_t written = 0;
    uint64_t end = offset + length;
    if (compress && (!target->format->write_compressed || !target_is_zero))
        return error_set(error, EINVAL, "%s: only a new qcow2 image can be written compressed", target->file->path);
    if (posix_memalign((void **)&data, GRAIN, CHUNK))
        return error_set(error, ENOMEM, "%s: out of memory", source->file->path);
    while (offset < end) {
        BlockStatus status = {0};
        int64_t result = block_status(source, offset, end - offset, &status);
        if (result) {
            written = fail(source, (int)result, "read", offset, error);
            break;
        }
        bool zero = status.flags & BLOCK_STATUS_ZERO;
        size_t piece = (size_t)(zero ? status.length : MIN(status.length, (uint64_t)CHUNK));
        if (compress && !zero) /* whole clusters: CHUNK is a multiple of them, and so is `offset` */
            piece = (size_t)MIN(end - offset, (uint64_t)CHUNK);
        if (compress && zero)
            piece -= (size_t)(offset + piece < end ? (offset + piece) % CHUNK : 0);
        if (compress && (ssize_t)piece <= 0)
            zero = false, piece = (size_t)MIN(end - offset, (uint64_t)CHUNK);
        if (zero) {
            result = target_is_zero ? 0 : block_write_zeroes(target, offset, piece, true);
        } else {
            result = block_pread(source, data, piece, offset);
            if (result) {
                written = fail(source, (int)result, "read", offset, error);
                break;
            }
            result = compress ? write_packed(target, data, piece, offset, error)
                              : write_data(target, data, piece, offset, target_is_zero);
        }
        if (result < 0) {
            written = error && error->text[0] ? result : fail(target, (int)result, "write", offset, error);
            break;
        }
        written += result;
        offset += piece;
    }
    free(data);
    return written;
}

int64_t block_compare(BlockImage *a, BlockImage *b, uint64_t offset, uint64_t length, Error *error)
{
    char *left = malloc(CHUNK), *right = malloc(CHUNK);
    uint64_t end = offset + length;
    int64_t answer = -1;
    if (!left || !right)
        answer = error_set(error, ENOMEM, "%s: out of memory", a->file->path) - 1;
    while (answer == -1 && offset < end) {
        BlockStatus one = {0}, other = {0};
        int result = block_status(a, offset, end - offset, &one);
        if (!result)
            result = block_status(b, offset, end - offset, &other);
        uint64_t both = MIN(one.length, other.length);
        if (!result && one.flags & other.flags & BLOCK_STATUS_ZERO) {
            offset += both;
            continue;
        }
        size_t piece = (size_t)MIN(both, (uint64_t)CHUNK);
        const BlockImage *failing = a;
        if (!result)
            result = block_pread(a, left, piece, offset);
        if (!result) {
            failing = b;
            result = block_pread(b, right, piece, offset);
        }
        if (result) {
            answer = fail(failing, result, "read", offset, error) - 1;
            break;
        }
        size_t at = 0;
        if (memcmp(left, right, piece))
            for (answer = 0; left[at] == right[at];)
                at++;
        if (answer == 0)
            answer = (int64_t)(offset + at);
        offset += piece;
    }
    free(left);
    free(right);
    return answer;
}
