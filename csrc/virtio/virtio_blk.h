/*
 * virtio block device on a BlockImage.
 *
 * Source: virtio 1.2 §5.2. Offered: SEG_MAX, BLK_SIZE, TOPOLOGY, FLUSH, CONFIG_WCE, RO (a read-only image), DISCARD
 * and WRITE_ZEROES (a writable one), MQ (more than one queue). Left out: GEOMETRY and SIZE_MAX (they would say
 * nothing), LIFETIME and SECURE_ERASE (a file's old blocks are the host's file system's), zones, legacy SCSI
 * commands.
 *
 * Requests are taken in batches, neighbours on disk go to the image as one call on guest memory itself, and one
 * interrupt ends a batch. Written data reaches stable storage when the driver flushes, or before a write completes
 * when the driver did not take FLUSH or turned the write cache off (§5.2.6.2). Each queue has a batch of its own,
 * so queues run on as many threads as they are given.
 *
 * What the host cannot do is an error to the driver (VIRTIO_BLK_S_IOERR), or stops the machine, when it was asked
 * to: the request goes back to the ring and is tried again after virtio_blk_go_on.
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
#define VIRTIO_BLK_F_MQ           (1ull << 12)
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
                       BLK_CONFIG_NUM_QUEUES = 34,
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

/* What a failure of the host is to the guest: an error, or a machine that stops, for all or for a full disk only.
 */
enum VirtioBlkOnError { VIRTIO_BLK_ON_ERROR_REPORT, VIRTIO_BLK_ON_ERROR_STOP, VIRTIO_BLK_ON_ERROR_ENOSPC };

typedef struct VirtioBlkOptions {
    char serial[VIRTIO_BLK_ID_BYTES + 1]; /* what GET_ID answers */
    uint32_t queue_size;                  /* power of two, 4 to 256; 0: 256 */
    uint32_t block_size;                  /* logical, power of two, 512 to 4096; 0: 512 */
    uint32_t num_queues;                  /* 1 to 64; 0: 1 */
    uint32_t on_read_error;               /* enum VirtioBlkOnError; 0: report */
    uint32_t on_write_error;              /* also of flush, discard and write-zeroes */
    IoThread **io;                        /* who runs the queues, in turns; */
    uint32_t io_count;                    /* 0: as the place says */
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

/* The errno of the request that the machine stopped for; 0: none waits. */
int virtio_blk_stopped_by(Device *device);
/* Try again what the machine stopped for; otherwise nothing. */
void virtio_blk_go_on(Device *device);

/* One request's time line, in ns of the host's CLOCK_MONOTONIC. */
typedef struct VirtioBlkRecord {
    uint64_t kick_ns;  /* the notification that made the device look; 0: it was looking already */
    uint64_t pop_ns;   /* taken from the ring */
    uint64_t begin_ns; /* of the host's reading or writing, for as many requests as `merged` says */
    uint64_t end_ns;
    uint64_t used_ns;      /* in the used ring */
    uint64_t interrupt_ns; /* the driver was told; 0: it did not want to be */
    uint64_t sector;
    uint32_t bytes;
    uint32_t type; /* enum VirtioBlkRequestType */
    uint16_t queue;
    uint16_t id; /* head descriptor, or buffer ID of a packed ring */
    uint16_t merged;
    uint8_t status;
} VirtioBlkRecord;

/* Record requests, the last `capacity` of them, until stop. -EBUSY: somebody does; -ENOMEM; -EINVAL: 0. */
int virtio_blk_record_start(Device *device, uint32_t capacity);
void virtio_blk_record_stop(Device *device); /* and forget */
/* Take at most `count` records, oldest first; `lost` (may be NULL): those that newer ones drove out until now. */
uint32_t virtio_blk_record_take(Device *device, VirtioBlkRecord *records, uint32_t count, uint64_t *lost);

#endif
