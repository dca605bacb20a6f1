/*
 * The face of a disk image to the devices and to Python: bytes in, bytes out, whatever the format.
 *
 * All calls are thread-safe for one image (one internal lock), block the caller, and never need the GIL.
 * Offsets and lengths are bytes; any alignment is accepted. Reads beyond the end of a shorter backing file give zeros.
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

#endif
