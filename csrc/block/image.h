/* Inside csrc/block: what an open image holds, and what a format (raw, qcow2) offers to block.c. */
#ifndef PYVMM_BLOCK_IMAGE_H
#define PYVMM_BLOCK_IMAGE_H

#include <pthread.h>

#include "block/block.h"
#include "block/file.h"
#include "block/iov.h"

typedef struct BlockFormat {
    const char *name;
    void (*close)(BlockImage *image);
    int (*preadv)(BlockImage *image, const struct iovec *iov, int iovcnt, uint64_t offset);
    int (*pwritev)(BlockImage *image, const struct iovec *iov, int iovcnt, uint64_t offset);
    int (*flush)(BlockImage *image);
    int (*discard)(BlockImage *image, uint64_t offset, uint64_t length);
    int (*write_zeroes)(BlockImage *image, uint64_t offset, uint64_t length, bool may_unmap);
    int (*status)(BlockImage *image, uint64_t offset, uint64_t length, BlockStatus *status); /* this layer only */
    int (*info)(BlockImage *image, BlockInfo *info);
    int (*resize)(BlockImage *image, uint64_t size, Error *error);
    int (*check)(BlockImage *image, int repair, BlockCheck *result, Error *error);
    /* One cluster as a compressed one; -EFBIG when it does not shrink (then it is written plainly). */
    int (*write_compressed)(BlockImage *image, uint64_t offset, const void *data, size_t length, Error *error);
} BlockFormat;

struct BlockImage {
    const BlockFormat *format;
    BlockFile *file;
    BlockImage *backing;
    uint64_t size;
    uint32_t flags; /* enum BlockOpenFlags */
    bool read_only;
    bool probed_raw;
    bool temporary;       /* the overlay of snapshot=on */
    void *state;          /* the format's own */
    pthread_mutex_t lock; /* the format's metadata */
    char fault[480];
};

extern const BlockFormat raw_format, qcow2_format;

/* Where an open image's place in a chain of backing files is known, to refuse loops. */
typedef struct BlockChain {
    const struct BlockChain *above;
    uint64_t device, inode;
    unsigned depth;
} BlockChain;
enum { BLOCK_CHAIN_MAX = 100 };

BlockImage *block_open_chain(const char *path, const char *format, int cache, uint32_t flags,
                             const BlockChain *above, Error *error);

/* Reads and checks the header in image->file and fills size, state, backing. */
int qcow2_open(BlockImage *image, int cache, const BlockChain *chain, Error *error);
bool qcow2_probe(const uint8_t *header, size_t length);
int qcow2_create(BlockFile *file, const BlockCreate *options, Error *error);
int qcow2_preallocate(BlockImage *image, uint32_t preallocation);

/* Remember the first inconsistency; returns -EIO. */
int image_fault(BlockImage *image, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
