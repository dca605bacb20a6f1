/*
 * virtio block device on a BlockImage.
 *
 * Source: virtio 1.2 §5.2. Offered: SEG_MAX, BLK_SIZE, TOPOLOGY, FLUSH, CONFIG_WCE, RO (a read-only image), DISCARD
 * and WRITE_ZEROES (a writable one). Left out: GEOMETRY and SIZE_MAX (they would say nothing), more than one
 * request queue (one thread serves them all), LIFETIME, SECURE_ERASE, zones, legacy SCSI commands.
 *
 * Requests are taken in batches, neighbours on disk go to the image as one call on guest memory itself, and one
 * interrupt ends a batch. Written data reaches stable storage when the driver flushes, or before a write completes
 * when the driver did not take FLUSH or turned the write cache off (§5.2.6.2).
 */
#ifndef PYVMM_VIRTIO_VIRTIO_BLK_H
#define PYVMM_VIRTIO_VIRTIO_BLK_H

#include "block/block.h"
#include "virtio/virtio_place.h"

#define VIRTIO_BLK_F_SEG_MAX      (1ull << 2)
#define VIRTIO_BLK_F_RO           (1ull << 5)
#define VIRTIO_BLK_F_BLK_SIZE     (1ull << 6)
#define VIRTIO_BLK_F_FLUSH        (1ull << 9)
#define VIRTIO_BLK_F_TOPOLOGY     (1ull << 10)
#define VIRTIO_BLK_F_CONFIG_WCE   (1ull << 11)
#define VIRTIO_BLK_F_DISCARD      (1ull << 13)
#define VIRTIO_BLK_F_WRITE_ZEROES (1ull << 14)

enum VirtioBlkRequestType { /* §5.2.6 */
                            VIRTIO_BLK_T_IN = 0,
                            VIRTIO_BLK_T_OUT = 1,
                            VIRTIO_BLK_T_FLUSH = 4,
                            VIRTIO_BLK_T_GET_ID = 8,
                            VIRTIO_BLK_T_DISCARD = 11,
                            VIRTIO_BLK_T_WRITE_ZEROES = 13,
};

enum VirtioBlkStatus { VIRTIO_BLK_S_OK = 0, VIRTIO_BLK_S_IOERR = 1, VIRTIO_BLK_S_UNSUPP = 2 };

enum VirtioBlkConfig { /* struct virtio_blk_config, §5.2.4 */
                       BLK_CONFIG_CAPACITY = 0,
                       BLK_CONFIG_SEG_MAX = 12,
                       BLK_CONFIG_BLK_SIZE = 20,
                       BLK_CONFIG_PHYSICAL_BLOCK_EXP = 24,
                       BLK_CONFIG_MIN_IO_SIZE = 26,
                       BLK_CONFIG_WRITEBACK = 32,
                       BLK_CONFIG_MAX_DISCARD_SECTORS = 36,
                       BLK_CONFIG_MAX_DISCARD_SEG = 40,
                       BLK_CONFIG_DISCARD_SECTOR_ALIGNMENT = 44,
                       BLK_CONFIG_MAX_WRITE_ZEROES_SECTORS = 48,
                       BLK_CONFIG_MAX_WRITE_ZEROES_SEG = 52,
                       BLK_CONFIG_WRITE_ZEROES_MAY_UNMAP = 56,
                       BLK_CONFIG_SIZE = 60,
};

#define VIRTIO_BLK_ID_BYTES       20
#define VIRTIO_BLK_MAX_QUEUE_SIZE 256

typedef struct VirtioBlkOptions {
    char serial[VIRTIO_BLK_ID_BYTES + 1]; /* what GET_ID answers */
    uint32_t queue_size;                  /* power of two, 4 to 256; 0: 256 */
    uint32_t block_size;                  /* logical, power of two, 512 to 4096; 0: 512 */
} VirtioBlkOptions;

typedef struct VirtioBlkCounters {
    uint64_t reads;
    uint64_t writes;
    uint64_t flushes;
    uint64_t others;
    uint64_t bytes_read;
    uint64_t bytes_written;
    uint64_t errors; /* requests answered with another status than OK */
    uint64_t batches;
    uint64_t host_calls; /* reads and writes of the image: fewer than requests where they were merged */
} VirtioBlkCounters;

/* `options` may be NULL. The image stays the caller's, and must outlive the device. */
Device *virtio_blk_new(Board *board, const VirtioPlace *place, BlockImage *image, const VirtioBlkOptions *options,
                       Error *error);
void virtio_blk_counters(Device *device, VirtioBlkCounters *counters);
/* The image's size has changed: tell the driver (§5.2.4, configuration change). */
void virtio_blk_resized(Device *device);

#endif
