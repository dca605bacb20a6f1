/*
 * The face of a disk image to the devices and to Python: bytes in, bytes out, whatever the format.
 *
 * All calls are thread-safe for one image (one internal lock), block the caller, and never need the GIL.
 * Offsets and lengths are bytes; any alignment is accepted; an iov has at most 1024 entries (-EINVAL beyond). Reads
 * beyond the end of a shorter backing file give zeros.
 */
#ifndef PYVMM_BLOCK_BLOCK_H
#define PYVMM_BLOCK_BLOCK_H

#include <sys/uio.h>

#include "common/common.h"

typedef struct BlockImage BlockImage;

enum BlockCache { BLOCK_CACHE_WRITEBACK, BLOCK_CACHE_NONE, BLOCK_CACHE_WRITETHROUGH, BLOCK_CACHE_UNSAFE };

enum BlockOpenFlags {
    BLOCK_READ_ONLY = 1, /* every write is -EROFS; shared lock */
    BLOCK_SNAPSHOT = 2,  /* writes go to an unlinked temporary overlay */
    BLOCK_NO_LOCK = 4,   /* do not lock the file (image info) */
    BLOCK_FIX = 8,       /* opened by `image check -r`: a corrupt bit in the header is tolerated */
    BLOCK_NO_BACKING =
        16, /* leave the backing file closed (image info and check): reads of its clusters give zeros */
};

/* format: "raw" or "qcow2"; NULL probes for qcow2 and falls back to raw. */
BlockImage *block_open(const char *path, const char *format, int cache, uint32_t flags, Error *error);
void block_close(BlockImage *image); /* flushes (unless cache=unsafe), unlocks, frees; NULL is fine */

uint64_t block_size(const BlockImage *image); /* virtual size in bytes */
bool block_is_read_only(const BlockImage *image);
const char *block_format(const BlockImage *image);

/* Whole transfer or -errno; a transfer beyond the end is -EINVAL. iov variants are what virtio uses (no copy). */
int block_preadv(BlockImage *image, const struct iovec *iov, int iovcnt, uint64_t offset);
int block_pwritev(BlockImage *image, const struct iovec *iov, int iovcnt, uint64_t offset);
int block_pread(BlockImage *image, void *data, size_t length, uint64_t offset);
int block_pwrite(BlockImage *image, const void *data, size_t length, uint64_t offset);
int block_flush(BlockImage *image); /* data and metadata on stable storage when it returns */
int block_discard(BlockImage *image, uint64_t offset, uint64_t length);
int block_write_zeroes(BlockImage *image, uint64_t offset, uint64_t length, bool may_unmap);

/* The first inconsistency met in the image's metadata since it was opened, one line; NULL when there was none. */
const char *block_fault(const BlockImage *image);
/* True when the format was not given and nothing but "raw" fitted: worth a warning, and image headers may not be
 * written into sector 0 (-EPERM), since the next probe would believe them. */
bool block_probed_raw(const BlockImage *image);
const char *block_path(const BlockImage *image);
BlockImage *block_backing(const BlockImage *image); /* NULL without one; owned by the image */

/* ---- what the bytes are ---- */
enum BlockStatusFlags {
    BLOCK_STATUS_DATA = 1,      /* read from a file */
    BLOCK_STATUS_ZERO = 2,      /* reads as zeros */
    BLOCK_STATUS_ALLOCATED = 4, /* settled by this image, not by its backing file */
    BLOCK_STATUS_OFFSET = 8,    /* host_offset is where the data starts in the file */
    BLOCK_STATUS_COMPRESSED = 16,
};
typedef struct BlockStatus {
    uint64_t length;      /* bytes from `offset` of which the rest is true, at most what was asked */
    uint64_t host_offset; /* in the file of the layer `depth` */
    uint32_t flags;
    uint32_t depth; /* layers below the image: 0 is the image itself */
} BlockStatus;
int block_status(BlockImage *image, uint64_t offset, uint64_t length, BlockStatus *status); /* through the chain */

typedef struct BlockInfo {
    uint64_t size, file_size, disk_usage; /* virtual, length of the file, bytes it takes on the host */
    uint64_t cluster_size;                /* 0 for raw */
    uint32_t version, refcount_bits;      /* qcow2: 2 or 3; 1..64 */
    uint32_t snapshots;                   /* internal snapshots */
    uint8_t dirty, corrupt, lazy_refcounts, compression; /* compression: 0 zlib, 1 zstd */
    uint8_t bitmaps, reserved[3];
    char backing_file[1024], backing_format[16];
} BlockInfo;
int block_info(BlockImage *image, BlockInfo *info);

/* ---- making and changing images ---- */
enum BlockPreallocation { BLOCK_PREALLOC_OFF, BLOCK_PREALLOC_METADATA, BLOCK_PREALLOC_FALLOC, BLOCK_PREALLOC_FULL };
typedef struct BlockCreate {
    uint64_t size;              /* bytes; rounded up to 512 */
    uint32_t cluster_size;      /* 512..2 MiB, a power of two; 0 means 64 KiB */
    uint32_t version;           /* 2 ("0.10") or 3 ("1.1"); 0 means 3 */
    uint32_t refcount_bits;     /* 1, 2, 4 .. 64; 0 means 16 */
    uint32_t lazy_refcounts;    /* 0 or 1 */
    uint32_t compression;       /* 0 zlib, 1 zstd */
    uint32_t preallocation;     /* enum BlockPreallocation */
    const char *backing_file;   /* stored as given; not opened here; may be NULL */
    const char *backing_format; /* "raw" or "qcow2", may be NULL */
} BlockCreate;
int block_create(const char *path, const char *format, const BlockCreate *options, Error *error);
int block_resize(BlockImage *image, uint64_t size, bool shrink, Error *error);

typedef struct BlockCheck {
    uint64_t corruptions, leaks, corruptions_fixed, leaks_fixed, errors; /* errors: what could not be checked */
    uint64_t total_clusters, allocated_clusters, compressed_clusters, fragmented_clusters, image_end_offset;
    char first[400]; /* the first finding, one line */
} BlockCheck;
enum BlockRepair { BLOCK_REPAIR_NONE, BLOCK_REPAIR_LEAKS, BLOCK_REPAIR_ALL };
int block_check(BlockImage *image, int repair, BlockCheck *result, Error *error); /* -EOPNOTSUPP for raw */

/* Copy a range that the target does not hold yet; zeros stay holes. `offset` a multiple of the target's cluster
 * size when compressing. Returns bytes of data written or -errno. */
int64_t block_copy(BlockImage *source, BlockImage *target, uint64_t offset, uint64_t length, bool target_is_zero,
                   bool compress, Error *error);
/* First offset at which the images differ within the range, or -1; -errno - 1 on a failure (error is set). */
int64_t block_compare(BlockImage *a, BlockImage *b, uint64_t offset, uint64_t length, Error *error);

#endif
