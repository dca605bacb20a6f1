/* Inside virtio-blk: a batch of requests, one for each queue. virtio_blk_batch.c fills and does it, virtio_blk.c
 * gives it back. */
#ifndef PYVMM_VIRTIO_VIRTIO_BLK_INTERNAL_H
#define PYVMM_VIRTIO_VIRTIO_BLK_INTERNAL_H

#include "virtio/virtio_blk.h"

#define SECTOR         512u
#define BATCH_REQUESTS 64u
#define BATCH_SEGMENTS 1024u /* IOV_MAX: a batch can become one host call */
/* A chain's buffers, and a few more where buffers lie across memslots. */
#define CHAIN_SEGMENTS    (VIRTIO_BLK_MAX_QUEUE_SIZE + 16u)
#define MAX_RANGE_SECTORS (1u << 22) /* of one discard or write-zeroes segment: 2 GiB */
#define MAX_RANGES        32u

typedef struct BlkRequest {
    VirtqToken token;
    uint8_t status;
    int error; /* the host's, -errno; 0: none, also where the request itself was wrong */
    uint32_t type;
    uint64_t sector;
    uint64_t bytes;    /* of data */
    uint64_t writable; /* bytes of the chain that the device may write: data and status */
    uint32_t first;    /* its data's segments in BlkBatch.data */
    uint32_t count;
    uint8_t *status_ptr; /* in guest memory */
    gpa_t status_gpa;
    /* While requests are recorded, of the host's clock: see VirtioBlkRecord. */
    uint64_t pop_ns, begin_ns, end_ns;
    uint32_t merged;
} BlkRequest;

/* Filled under the lock, worked on without it. */
typedef struct BlkBatch {
    struct VirtioBlk *blk;
    uint64_t capacity;  /* sectors */
    bool write_through; /* its writes are flushed before they complete */
    bool recording;
    uint32_t host_calls;
    uint32_t count; /* requests, and segments of their data */
    uint32_t segments;
    const char *broken; /* why the ring can go on no more */
    uint32_t keep;      /* the first request that goes back to the ring, for later; `count`: none does */
    BlkRequest requests[BATCH_REQUESTS];
    struct iovec data[BATCH_SEGMENTS];
    gpa_t data_gpa[BATCH_SEGMENTS];
    VirtqSegment chain[CHAIN_SEGMENTS];
} BlkBatch;

typedef struct VirtioBlk {
    VirtioDevice virtio;
    BlockImage *image;
    char serial[VIRTIO_BLK_ID_BYTES];
    enum VirtioBlkOnError on_read_error, on_write_error;
    int stopped_by; /* -errno of the request that the machine stopped for; 0: it did not */
    VirtioBlkCounters counters;
    struct BlkRecorder *recorder; /* NULL: nobody looks */
    BlkBatch *batches;            /* of each queue */
} VirtioBlk;

/* Does the device read the request's data (and change the disk by it)? */
static inline bool blk_device_reads(uint32_t type)
{
    return type == VIRTIO_BLK_T_OUT || type == VIRTIO_BLK_T_DISCARD || type == VIRTIO_BLK_T_WRITE_ZEROES;
}

/* Lock held. Fill the batch. Returns why the queue is broken, if it is: what was taken before that still counts. */
const char *blk_take_batch(BlkBatch *batch, Virtqueue *ring);
/* No lock. Do it, and write what the guest reads of it, but for what is kept. */
void blk_do_batch(BlkBatch *batch);

/* How many bytes, from the first writable one on, are sure to be written (§2.7.8.2). */
uint32_t blk_bytes_written(const BlkRequest *request);

/* The recorder, virtio_blk_record.c; all with the lock held. */
void blk_record_kick(VirtioDevice *device, uint32_t queue);
/* Publishes the batch, too: what was published when, and whether the driver was told, is part of the record. */
void blk_record_batch(VirtioBlk *blk, VirtioQueue *queue, const BlkBatch *batch);
void blk_record_free(VirtioBlk *blk);
uint64_t blk_now(void); /* the host's CLOCK_MONOTONIC in ns */

#endif
