/*
 * A host file or block device under an image: whole transfers, cache modes, O_DIRECT with a bounce buffer, and
 * locks.
 *
 * Locks: open file description locks on the bytes that QEMU uses (seen in /proc/locks beside a running QEMU): byte
 * 100+n says "I use permission n", byte 200+n says "I do not share permission n"; n is 0 read, 1 write, 3 resize.
 * Each side takes shared locks on its bytes and then looks for the opposite bytes in other hands.
 */
#ifndef PYVMM_BLOCK_FILE_H
#define PYVMM_BLOCK_FILE_H

#include <pthread.h>
#include <sys/uio.h>

#include "block/block.h"

typedef struct BlockFile {
    int fd;
    int cache; /* enum BlockCache */
    bool read_only;
    bool direct;             /* O_DIRECT is on */
    bool whole;              /* what is read was there once: an end before it is an error, not zeros */
    bool regular;            /* a regular file: holes read as zeros, and it grows by writing */
    pthread_rwlock_t bounce; /* direct: unaligned writes (read, modify, write) exclude all others */
    char *path;              /* as given, for messages */
} BlockFile;

/* flags: enum BlockOpenFlags. The size of a directory, a pipe or a socket is refused here. */
BlockFile *file_open(const char *path, int cache, uint32_t flags, Error *error);
BlockFile *file_open_temporary(const char *name, Error *error); /* unlinked, in $TMPDIR or /var/tmp, cache=unsafe */
void file_close(BlockFile *file);

int64_t file_size(const BlockFile *file);
int file_truncate(BlockFile *file, uint64_t size);

/* Whole transfers or -errno. Reads beyond the end give zeros, or -EIO when `whole`. */
int file_preadv(BlockFile *file, const struct iovec *iov, int iovcnt, uint64_t offset);
int file_pwritev(BlockFile *file, const struct iovec *iov, int iovcnt, uint64_t offset);
int file_pread(BlockFile *file, void *data, size_t length, uint64_t offset);
int file_pwrite(BlockFile *file, const void *data, size_t length, uint64_t offset);

int file_flush(BlockFile *file);                                        /* fdatasync; nothing for cache=unsafe */
int file_punch_hole(BlockFile *file, uint64_t offset, uint64_t length); /* -EOPNOTSUPP when it cannot */
int file_zero_range(BlockFile *file, uint64_t offset, uint64_t length,
                    bool may_unmap); /* writes zeros if it must */

/* Where [offset, offset+*length) is a hole: shortens *length to the first run of one kind. True for data. */
bool file_is_data(BlockFile *file, uint64_t offset, uint64_t *length);

#endif
