/* Opening an image (probe, chain, temporary overlay) and the checks that every call passes before its format sees
 * it. */
#include "block/block.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "block/image.h"

enum { SECTOR0 = 512 };

/* What other tools would recognise at byte 0: a guest must not plant it in an image that was only guessed to be
 * raw. */
static bool is_image_header(const uint8_t *sector)
{
    static const struct {
        const char *magic;
        size_t length;
    } known[] = {
        {"QFI\xfb", 4},
        {"QED\0", 4},
        {"KDMV", 4},
        {"COWD", 4},
        {"conectix", 8},
        {"vhdxfile", 8},
        {"LUKS\xba\xbe", 6},
        {"WithoutFreeSpace", 16},
        {"WithouFreSpacExt", 16},
        {"Bochs Virtual HD Image", 22},
        {"# Disk DescriptorFile", 21},
    };
    static const uint8_t vdi[4] = {0x7f, 0x10, 0xda, 0xbe}; /* at byte 64 */
    for (size_t i = 0; i < ARRAY_SIZE(known); i++)
        if (!memcmp(sector, known[i].magic, known[i].length))
            return true;
    return !memcmp(sector + 64, vdi, sizeof vdi);
}

int image_fault(BlockImage *image, const char *format, ...)
{
    if (!image->fault[0]) {
        int used = snprintf(image->fault, sizeof image->fault, "%s: ", image->file->path);
        va_list args;
        va_start(args, format);
        if (used > 0 && (size_t)used < sizeof image->fault)
            vsnprintf(image->fault + used, sizeof image->fault - (size_t)used, format, args);
        va_end(args);
    }
    return -EIO;
}

/* ---- open ---- */

static const BlockFormat *find_format(BlockImage *image, const char *name, Error *error)
{
    if (name && !strcmp(name, "raw"))
        return &raw_format;
    if (name && !strcmp(name, "qcow2"))
        return &qcow2_format;
    if (name) {
        error_set(error, EINVAL, "%s: unknown image format '%s': use raw or qcow2", image->file->path, name);
        return NULL;
    }
    uint8_t header[8] = {0};
    int result = file_pread(image->file, header, sizeof header, 0);
    if (result) {
        error_set(error, -result, "%s: cannot read offset 0: %s", image->file->path, strerror(-result));
        return NULL;
    }
    if (qcow2_probe(header, sizeof header))
        return &qcow2_format;
    image->probed_raw = true;
    return &raw_format;
}

static BlockImage *image_new(BlockFile *file, uint32_t flags)
{
    BlockImage *image = calloc(1, sizeof *image);
    if (!image)
        return NULL;
    image->file = file;
    image->flags = flags;
    image->read_only = flags & BLOCK_READ_ONLY;
    pthread_mutex_init(&image->lock, NULL);
    return image;
}

static void image_free(BlockImage *image)
{
    block_close(image->backing);
    file_close(image->file);
    pthread_mutex_destroy(&image->lock);
    free(image);
}

static int raw_open(BlockImage *image, Error *error)
{
    int64_t size = file_size(image->file);
    if (size < 0)
        return error_set(error, (int)-size, "%s: cannot find its size: %s", image->file->path,
                         strerror((int)-size));
    image->size = (uint64_t)size;
    image->file->whole = true;
    return 0;
}

static int check_chain(const char *path, const BlockFile *file, BlockChain *here, Error *error)
{
    struct stat st;
    if (fstat(file->fd, &st) < 0)
        return error_set(error, errno, "%s: cannot stat: %s", path, strerror(errno));
    here->device = st.st_dev;
    here->inode = st.st_ino;
    here->depth = here->above ? here->above->depth + 1 : 0;
    if (here->depth > BLOCK_CHAIN_MAX)
        return error_set(error, ELOOP,
                         "%s: more than %d backing files in the chain: flatten it with `image convert`", path,
                         BLOCK_CHAIN_MAX);
    return 0;
}

static bool is_loop(const char *path, const BlockChain *above)
{
    struct stat st;
    if (!above || stat(path, &st) < 0)
        return false;
    for (; above; above = above->above)
        if (above->device == st.st_dev && above->inode == st.st_ino)
            return true;
    return false;
}

BlockImage *block_open_chain(const char *path, const char *format, int cache, uint32_t flags,
                             const BlockChain *above, Error *error)
{
    if (is_loop(path, above)) {
        error_set(error, ELOOP, "%s: is a backing file of itself (backing file loop): rebase the overlay", path);
        return NULL;
    }
    BlockFile *file = file_open(path, cache, flags, error);
    if (!file)
        return NULL;
    BlockImage *image = image_new(file, flags);
    if (!image) {
        file_close(file);
        error_set(error, ENOMEM, "%s: out of memory", path);
        return NULL;
    }
    BlockChain here = {.above = above};
    image->format = find_format(image, format, error);
    if (!image->format || check_chain(path, file, &here, error) ||
        (image->format == &raw_format ? raw_open(image, error) : qcow2_open(image, cache, &here, error))) {
        image_free(image);
        return NULL;
    }
    return image;
}

/* snapshot=on: a qcow2 overlay without a name; the file below is only read. */
static BlockImage *open_overlay(BlockImage *backing, Error *error)
{
    BlockFile *file = file_open_temporary(backing->file->path, error);
    if (!file)
        return NULL;
    BlockCreate options = {.size = backing->size};
    BlockImage *image = NULL;
    if (!qcow2_create(file, &options, error))
        image = image_new(file, 0);
    if (!image) {
        file_close(file);
        return NULL;
    }
    image->format = &qcow2_format;
    if (qcow2_open(image, BLOCK_CACHE_UNSAFE, NULL, error)) {
        image_free(image);
        return NULL;
    }
    image->size = backing->size; /* the overlay's own size is rounded up to a sector */
    image->backing = backing;
    image->temporary = true;
    return image;
}

BlockImage *block_open(const char *path, const char *format, int cache, uint32_t flags, Error *error)
{
    if (cache < BLOCK_CACHE_WRITEBACK || cache > BLOCK_CACHE_UNSAFE) {
        error_set(error, EINVAL, "%s: unknown cache mode %d", path, cache);
        return NULL;
    }
    uint32_t base_flags = flags & ~(uint32_t)BLOCK_SNAPSHOT;
    if (flags & BLOCK_SNAPSHOT)
        base_flags |= BLOCK_READ_ONLY;
    BlockImage *image = block_open_chain(path, format, cache, base_flags, NULL, error);
    if (!image || !(flags & BLOCK_SNAPSHOT) || flags & BLOCK_READ_ONLY)
        return image;
    BlockImage *overlay = open_overlay(image, error);
    if (!overlay)
        block_close(image);
    return overlay;
}

void block_close(BlockImage *image)
{
    if (!image)
        return;
    if (image->format && image->format->close)
        image->format->close(image);
    else if (!image->read_only)
        file_flush(image->file);
    image_free(image);
}

/* ---- questions ---- */

uint64_t block_size(const BlockImage *image) { return image->size; }
bool block_is_read_only(const BlockImage *image) { return image->read_only; }
const char *block_format(const BlockImage *image) { return image->format->name; }
const char *block_fault(const BlockImage *image) { return image->fault[0] ? image->fault : NULL; }
bool block_probed_raw(const BlockImage *image)
{
    return image->probed_raw || (image->temporary && image->backing->probed_raw);
}
const char *block_path(const BlockImage *image) { return image->file->path; }
BlockImage *block_backing(const BlockImage *image) { return image->backing; }

int block_info(BlockImage *image, BlockInfo *info)
{
    struct stat st;
    if (fstat(image->file->fd, &st) < 0)
        return -errno;
    memset(info, 0, sizeof *info);
    info->size = image->size;
    int64_t size = file_size(image->file);
    info->file_size = size < 0 ? 0 : (uint64_t)size;
    info->disk_usage = (uint64_t)st.st_blocks * 512;
    return image->format->info ? image->format->info(image, info) : 0;
}

int block_status(BlockImage *image, uint64_t offset, uint64_t length, BlockStatus *status)
{
    if (offset > image->size || length > image->size - offset || !length)
        return -EINVAL;
    memset(status, 0, sizeof *status);
    for (uint32_t depth = 0;; depth++, image = image->backing) {
        if (offset >= image->size) { /* beyond a shorter backing file */
            *status = (BlockStatus){.length = length, .flags = BLOCK_STATUS_ZERO, .depth = depth};
            return 0;
        }
        bool cut = length > image->size - offset;
        BlockStatus layer = {.length = cut ? image->size - offset : length};
        int result = image->format->status(image, offset, layer.length, &layer);
        if (result)
            return result;
        layer.depth = depth;
        *status = layer;
        if (layer.flags & BLOCK_STATUS_ALLOCATED)
            return 0;
        if (!image->backing) {
            status->flags |= BLOCK_STATUS_ZERO;
            return 0;
        }
        length = layer.length;
    }
}

/* ---- transfers ---- */

static int check_range(const BlockImage *image, uint64_t offset, uint64_t length, bool write)
{
    if (offset > image->size || length > image->size - offset)
        return -EINVAL;
    return write && image->read_only ? -EROFS : 0;
}

static int check_iov(const struct iovec *iov, int iovcnt, uint64_t *length)
{
    *length = 0;
    if (iovcnt < 0 || iovcnt > BLOCK_IOV_MAX)
        return -EINVAL;
    for (int i = 0; i < iovcnt; i++)
        if (__builtin_add_overflow(*length, (uint64_t)iov[i].iov_len, length))
            return -EINVAL;
    return 0;
}

/* -EPERM when sector 0 of a disk that was guessed to be raw would look like another format afterwards. */
static int guard_header(BlockImage *image, const struct iovec *iov, int iovcnt, uint64_t offset, uint64_t length)
{
    uint8_t sector[SECTOR0];
    if (!image->probed_raw || offset >= SECTOR0)
        return 0;
    int result = file_pread(image->file, sector, sizeof sector, 0);
    if (result)
        return result;
    iov_to_buffer(iov, iovcnt, 0, sector + offset, (size_t)MIN(length, SECTOR0 - offset));
    return is_image_header(sector) ? -EPERM : 0;
}

static int settle(BlockImage *image, int result)
{
    return !result && image->file->cache == BLOCK_CACHE_WRITETHROUGH ? image->format->flush(image) : result;
}

int block_preadv(BlockImage *image, const struct iovec *iov, int iovcnt, uint64_t offset)
{
    uint64_t length;
    int result = check_iov(iov, iovcnt, &length);
    if (!result)
        result = check_range(image, offset, length, false);
    return result || !length ? result : image->format->preadv(image, iov, iovcnt, offset);
}

int block_pwritev(BlockImage *image, const struct iovec *iov, int iovcnt, uint64_t offset)
{
    uint64_t length;
    int result = check_iov(iov, iovcnt, &length);
    if (!result)
        result = check_range(image, offset, length, true);
    if (!result)
        result = guard_header(image, iov, iovcnt, offset, length);
    return result || !length ? result : settle(image, image->format->pwritev(image, iov, iovcnt, offset));
}

int block_pread(BlockImage *image, void *data, size_t length, uint64_t offset)
{
    struct iovec iov = {data, length};
    return block_preadv(image, &iov, 1, offset);
}

int block_pwrite(BlockImage *image, const void *data, size_t length, uint64_t offset)
{
    struct iovec iov = {(void *)(uintptr_t)data, length};
    return block_pwritev(image, &iov, 1, offset);
}

int block_flush(BlockImage *image) { return image->read_only ? 0 : image->format->flush(image); }

int block_discard(BlockImage *image, uint64_t offset, uint64_t length)
{
    int result = check_range(image, offset, length, true);
    return result || !length ? result : settle(image, image->format->discard(image, offset, length));
}

int block_write_zeroes(BlockImage *image, uint64_t offset, uint64_t length, bool may_unmap)
{
    int result = check_range(image, offset, length, true);
    return result || !length ? result
                             : settle(image, image->format->write_zeroes(image, offset, length, may_unmap));
}

/* ---- create, resize, check ---- */

int block_create(const char *path, const char *format, const BlockCreate *options, Error *error)
{
    bool qcow2 = !strcmp(format, "qcow2");
    if (!qcow2 && strcmp(format, "raw"))
        return error_set(error, EINVAL, "%s: unknown image format '%s': use raw or qcow2", path, format);
    if (!qcow2 && options->backing_file)
        return error_set(error, EINVAL, "%s: a raw image has no backing file: use -f qcow2", path);
    if (options->size > (uint64_t)INT64_MAX - 512)
        return error_set(error, EFBIG, "%s: size %llu is more than a file can hold", path,
                         (unsigned long long)options->size);
    BlockFile *file = NULL;
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    bool made = fd >= 0;
    if (fd < 0 && errno != EEXIST)
        return error_set(error, errno, "%s: cannot create: %s", path, strerror(errno));
    if (made)
        close(fd);
    file = file_open(path, BLOCK_CACHE_WRITEBACK, 0, error); /* with its locks: not under a running machine */
    if (!file)
        return error ? -error->code : -EIO;
    int result = 0;
    if (qcow2) {
        result = qcow2_create(file, options, error);
    } else {
        uint64_t size = (options->size + 511) & ~511ull;
        result = file->regular ? file_truncate(file, 0) : 0;
        if (!result)
            result = file_truncate(file, size);
        if (!result && size && options->preallocation == BLOCK_PREALLOC_FALLOC)
            result = -posix_fallocate(file->fd, 0, (off_t)size);
        if (!result && size && options->preallocation == BLOCK_PREALLOC_FULL)
            result = file_truncate(file, 0) ?: file_zero_range(file, 0, size, false);
        if (result)
            error_set(error, -result, "%s: cannot make it %llu bytes long: %s", path, (unsigned long long)size,
                      strerror(-result));
    }
    file_close(file);
    if (result && made)
        unlink(path);
    if (result || !qcow2 || options->preallocation == BLOCK_PREALLOC_OFF)
        return result;
    BlockImage *image = block_open(path, "qcow2", BLOCK_CACHE_UNSAFE, BLOCK_NO_BACKING, error);
    if (!image)
        return error ? -error->code : -EIO;
    result = qcow2_preallocate(image, options->preallocation);
    if (result)
        error_set(error, -result, "%s: cannot preallocate: %s", path, strerror(-result));
    block_close(image);
    return result;
}

int block_resize(BlockImage *image, uint64_t size, bool shrink, Error *error)
{
    const char *path = image->file->path;
    size = size > INT64_MAX - 512 ? size : (size + 511) & ~511ull;
    if (image->read_only)
        return error_set(error, EROFS, "%s: is open read-only", path);
    if (size < image->size && !shrink)
        return error_set(error, EINVAL, "%s: shrinking from %llu to %llu bytes loses data: say --shrink to do it",
                         path, (unsigned long long)image->size, (unsigned long long)size);
    if (size > INT64_MAX)
        return error_set(error, EFBIG, "%s: size %llu is too large", path, (unsigned long long)size);
    return image->format->resize(image, size, error);
}

int block_check(BlockImage *image, int repair, BlockCheck *result, Error *error)
{
    memset(result, 0, sizeof *result);
    if (!image->format->check)
        return error_set(error, EOPNOTSUPP, "%s: a %s image has nothing to check", image->file->path,
                         image->format->name);
    if (repair && image->read_only)
        return error_set(error, EROFS, "%s: is open read-only", image->file->path);
    return image->format->check(image, repair, result, error);
}
