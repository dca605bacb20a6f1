/*
 * qcow2, inside: constants of the format and what an open image keeps in memory.
 *
 * Specification: QEMU docs/interop/qcow2.txt (versions 2 and 3); section names are cited as [Header], [L2 table]
 * and so on.
 *
 * Order of writes. L1, L2 and refcount entries change in caches and reach the file in this order only, with
 * fdatasync where an arrow is (skipped for cache=unsafe; the order of the write calls stays, which is what a killed
 * process needs):
 *
 *     data of new clusters, raised refcounts -> L2 -> L1 -> (only now) lowered refcounts
 *
 * so that whatever the file holds at any moment refers to initialised clusters that are counted; at worst some are
 * counted that nothing refers to. Freed clusters wait in `frees` until the L2 tables without them are on the disk.
 *
 * Locks: BlockImage.lock guards everything here; data is moved outside of it under `transfers` (shared), and
 * `frees` become free clusters only when no transfer is under way. Order: lock > transfers > codec.lock.
 */
#ifndef PYVMM_BLOCK_QCOW2_H
#define PYVMM_BLOCK_QCOW2_H

#include "block/image.h"

#define QCOW2_MAGIC             0x514649fbu
#define QCOW2_COPIED            (1ull << 63)
#define QCOW2_COMPRESSED        (1ull << 62)
#define QCOW2_ZERO              1ull
#define QCOW2_OFFSET_MASK       0x00fffffffffffe00ull
#define QCOW2_L1_RESERVED       0x7f000000000001ffull
#define QCOW2_L2_RESERVED       0x3f000000000001feull
#define QCOW2_REFTABLE_RESERVED 0x1ffull

enum {
    QCOW2_INCOMPAT_DIRTY = 1,
    QCOW2_INCOMPAT_CORRUPT = 2,
    QCOW2_INCOMPAT_DATA_FILE = 4,
    QCOW2_INCOMPAT_COMPRESSION = 8,
    QCOW2_INCOMPAT_EXTENDED_L2 = 16,
    QCOW2_COMPAT_LAZY_REFCOUNTS = 1,
    QCOW2_AUTOCLEAR_BITMAPS = 1,
};

enum { /* header fields' offsets [Header] */
       QCOW2_H_VERSION = 4,
       QCOW2_H_BACKING_OFFSET = 8,
       QCOW2_H_BACKING_SIZE = 16,
       QCOW2_H_CLUSTER_BITS = 20,
       QCOW2_H_SIZE = 24,
       QCOW2_H_CRYPT = 32,
       QCOW2_H_L1_SIZE = 36,
       QCOW2_H_L1_OFFSET = 40,
       QCOW2_H_REFTABLE_OFFSET = 48,
       QCOW2_H_REFTABLE_CLUSTERS = 56,
       QCOW2_H_SNAPSHOTS = 60,
       QCOW2_H_SNAPSHOTS_OFFSET = 64,
       QCOW2_V2_LENGTH = 72,
       QCOW2_H_INCOMPATIBLE = 72,
       QCOW2_H_COMPATIBLE = 80,
       QCOW2_H_AUTOCLEAR = 88,
       QCOW2_H_REFCOUNT_ORDER = 96,
       QCOW2_H_LENGTH = 100,
       QCOW2_H_COMPRESSION = 104,
       QCOW2_V3_LENGTH = 104,
       QCOW2_V3_FULL_LENGTH = 112,
};

#define QCOW2_EXT_BACKING_FORMAT 0xe2792acau
#define QCOW2_EXT_FEATURE_NAMES  0x6803f857u
#define QCOW2_EXT_BITMAPS        0x23852875u

enum {
    QCOW2_L1_MAX = 32 << 20,
    QCOW2_REFTABLE_MAX = 8 << 20,
    QCOW2_SNAPSHOTS_MAX = 65536
}; /* bytes, bytes, count */
enum { QCOW2_SLICE = 4096, QCOW2_L2_CACHE_MAX = 32 << 20, QCOW2_REFBLOCK_CACHE_MAX = 4 << 20 };

typedef struct Qcow2Slot {
    uint64_t offset; /* in the file; 0: empty */
    uint8_t *data;
    int next; /* in the hash chain */
    bool dirty, referenced;
} Qcow2Slot;

/* Pieces ("slices") of L2 tables or refcount blocks. */
typedef struct Qcow2Cache {
    uint32_t slice; /* bytes: min(cluster, 4 KiB) */
    int capacity, used, hand, dirty;
    int *heads; /* hash chains */
    uint32_t hash_mask;
    Qcow2Slot *slots;
    bool is_l2;
} Qcow2Cache;

typedef struct Qcow2Range {
    uint64_t first, count; /* clusters */
    bool punch;            /* give the space back to the host */
} Qcow2Range;

typedef struct Qcow2 {
    BlockImage *image;
    BlockFile *file;
    uint32_t version, cluster_bits, refcount_order, header_length;
    uint64_t cluster_size, incompatible, compatible, autoclear;
    uint8_t compression; /* 0 zlib, 1 zstd */
    bool has_backing;    /* the header names one, whether or not it is open */
    bool broken;         /* an inconsistency was met: no more writes */
    char backing_file[1024], backing_format[16];

    uint64_t *l1;
    uint64_t l1_offset;
    uint32_t l1_size, l2_bits;            /* entries; log2 of the entries in an L2 table */
    uint32_t l1_dirty_low, l1_dirty_high; /* [low, high) */
    uint64_t *reftable;
    uint64_t reftable_offset;
    uint32_t reftable_clusters, reftable_size, refblock_bits; /* size in entries; log2 of the entries in a block */
    uint32_t snapshots;
    uint64_t snapshots_offset;
    uint32_t bitmaps;
    uint64_t bitmaps_offset, bitmaps_size;

    Qcow2Cache l2_cache, refblock_cache;
    uint64_t free_hint; /* no free cluster below it */
    uint64_t file_end;  /* clusters from here on were never written, and read as zeros */
    bool unsynced;      /* data or refcounts were written since the last barrier */
    Qcow2Range *frees;
    size_t frees_count, frees_room;
    uint64_t compressed_next; /* where the next compressed cluster may go on, 0 for a new cluster */
    pthread_rwlock_t transfers;

    struct {
        pthread_mutex_t lock;
        uint64_t entry; /* of the cluster in `cluster`, 0 for none */
        uint8_t *cluster;
    } codec;
} Qcow2;

enum Qcow2Type {
    QCOW2_UNALLOCATED,
    QCOW2_ZERO_PLAIN,
    QCOW2_ZERO_ALLOCATED,
    QCOW2_NORMAL,
    QCOW2_COMPRESSED_CLUSTER
};

typedef struct Qcow2Extent {
    int type;
    bool copied;
    uint64_t entry;  /* of the first cluster */
    uint64_t host;   /* of the first byte, not of its cluster */
    uint64_t length; /* bytes */
} Qcow2Extent;

static inline uint64_t qcow2_start_of_cluster(const Qcow2 *q, uint64_t offset)
{
    return offset & ~(q->cluster_size - 1);
}
static inline uint64_t qcow2_clusters(const Qcow2 *q, uint64_t bytes)
{
    return (bytes >> q->cluster_bits) + !!(bytes & (q->cluster_size - 1));
}

/* qcow2_cache.c */
int qcow2_cache_init(Qcow2Cache *cache, const Qcow2 *q, uint64_t most_bytes, bool is_l2);
void qcow2_cache_free(Qcow2Cache *cache);
void qcow2_cache_empty(Qcow2Cache *cache); /* forget all, dirty or not */
int qcow2_cache_get(Qcow2 *q, Qcow2Cache *cache, uint64_t offset, Qcow2Slot **slot);
void qcow2_cache_forget(Qcow2Cache *cache, uint64_t offset, uint64_t length);
static inline void qcow2_cache_dirty(Qcow2Cache *cache, Qcow2Slot *slot)
{
    cache->dirty += !slot->dirty;
    slot->dirty = true;
}
int qcow2_cache_write(Qcow2 *q, Qcow2Cache *cache);
int qcow2_barrier(Qcow2 *q);
int qcow2_write_metadata(Qcow2 *q); /* all caches, in order; not the last fdatasync */

/* qcow2_refcount.c */
uint64_t qcow2_refcount_load(const uint8_t *block, uint64_t index, uint32_t order);
void qcow2_refcount_store(uint8_t *block, uint64_t index, uint32_t order, uint64_t value);
int qcow2_refcount_get(Qcow2 *q, uint64_t cluster, uint64_t *value);
int qcow2_refcount_set(Qcow2 *q, uint64_t cluster, uint64_t value); /* its block exists */
int qcow2_refcount_add(Qcow2 *q, uint64_t cluster, int delta);
int64_t qcow2_alloc(Qcow2 *q, uint64_t want, bool exact, uint64_t *offset); /* clusters got (>= 1) or -errno */
void qcow2_free_now(Qcow2 *q, uint64_t offset, uint64_t clusters);
int qcow2_free_later(Qcow2 *q, uint64_t offset, uint64_t clusters, bool punch);
int qcow2_apply_frees(Qcow2 *q);
bool qcow2_overlaps_metadata(const Qcow2 *q, uint64_t offset, uint64_t length, bool deep);
int qcow2_mark_corrupt(Qcow2 *q);

/* qcow2_map.c */
int qcow2_map(Qcow2 *q, uint64_t offset, uint64_t length, Qcow2Extent *extent);
int qcow2_l2_slot(Qcow2 *q, uint64_t offset, Qcow2Slot **slot, uint32_t *index);
int qcow2_l2_writable(Qcow2 *q, uint64_t offset); /* the L2 table for offset exists and is ours alone */
int qcow2_entry_type(const Qcow2 *q, uint64_t entry);
void qcow2_compressed_range(const Qcow2 *q, uint64_t entry, uint64_t *offset, uint64_t *length);
int qcow2_release(Qcow2 *q, uint64_t entry, bool punch); /* what an L2 entry held is to be freed */
static inline uint32_t qcow2_l2_slice_entries(const Qcow2 *q) { return q->l2_cache.slice / 8; }

/* qcow2_io.c */
int qcow2_preadv(BlockImage *image, const struct iovec *iov, int iovcnt, uint64_t offset);
int qcow2_pwritev(BlockImage *image, const struct iovec *iov, int iovcnt, uint64_t offset);
int qcow2_write_compressed(BlockImage *image, uint64_t offset, const void *data, size_t length, Error *error);

/* qcow2_zero.c */
int qcow2_discard(BlockImage *image, uint64_t offset, uint64_t length);
int qcow2_write_zeroes(BlockImage *image, uint64_t offset, uint64_t length, bool may_unmap);

/* qcow2_codec.c: zlib and zstd, loaded when first needed. `error` names the library that is missing. */
int qcow2_decompress(int type, void *out, size_t out_length, const void *in, size_t in_length, Error *error);
int64_t qcow2_compress(int type, void *out, size_t room, const void *in, size_t length, Error *error); /* -EFBIG */

/* qcow2_check.c, qcow2_repair.c */
typedef struct Qcow2Counts {
    uint32_t *count; /* references found, for each cluster of the file */
    uint64_t clusters;
} Qcow2Counts;
int qcow2_check(BlockImage *image, int repair, BlockCheck *result, Error *error);
int qcow2_rebuild_refcounts(Qcow2 *q, const Qcow2Counts *counts, Error *error);

/* qcow2_resize.c */
int qcow2_resize(BlockImage *image, uint64_t size, Error *error);

/* qcow2_header.c */
int qcow2_read_header(Qcow2 *q, uint64_t *size, Error *error);
int qcow2_read_tables(Qcow2 *q, uint64_t size, Error *error);
int qcow2_write_features(Qcow2 *q); /* the incompatible, compatible and autoclear words */
size_t qcow2_header_extensions(uint8_t *out, size_t room, const char *backing_format, uint32_t version);

#endif
