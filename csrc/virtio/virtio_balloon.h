/*
 * virtio memory balloon: the guest gives pages back to the host, and takes them again.
 *
 * Source: virtio 1.2 §5.5. Offered: STATS_VQ, DEFLATE_ON_OOM, PAGE_POISON, PAGE_REPORTING. Pages in the balloon,
 * and those that the driver reports free, are punched out of the memfd that is guest RAM (guest_memory_discard):
 * they read as zero and take no host memory until they are touched again. Left out: FREE_PAGE_HINT (it serves
 * migration), MUST_TELL_HOST (memory is there again without being told).
 *
 * Reported pages stay as they are when the driver poisons free pages with something else than zero (§5.5.6.7).
 */
#ifndef PYVMM_VIRTIO_VIRTIO_BALLOON_H
#define PYVMM_VIRTIO_VIRTIO_BALLOON_H

#include "virtio/virtio_place.h"

#define VIRTIO_BALLOON_F_STATS_VQ       (1ull << 1)
#define VIRTIO_BALLOON_F_DEFLATE_ON_OOM (1ull << 2)
#define VIRTIO_BALLOON_F_PAGE_POISON    (1ull << 4)
#define VIRTIO_BALLOON_F_PAGE_REPORTING (1ull << 5)

enum VirtioBalloonConfig { /* §5.5.4 */
                           BALLOON_CONFIG_NUM_PAGES = 0,
                           BALLOON_CONFIG_ACTUAL = 4,
                           BALLOON_CONFIG_POISON_VAL = 12,
                           BALLOON_CONFIG_SIZE = 16,
};

#define VIRTIO_BALLOON_QUEUE_SIZE 128
#define VIRTIO_BALLOON_STATS      16 /* tags 0 to 15, §5.5.6.4 */

typedef struct VirtioBalloonOptions {
    bool no_deflate_on_oom;
    bool no_reporting;
    uint64_t
        stats_interval_ns; /* how often statistics are asked for; 0: only when virtio_balloon_poll() is called */
} VirtioBalloonOptions;

typedef struct VirtioBalloonStatus {
    uint32_t target_pages; /* of 4 KiB, in the balloon: what the host wants */
    uint32_t actual_pages; /* and what the driver says that there are */
    uint64_t inflated;     /* bytes given back through the balloon, since it was made */
    uint64_t reported;     /* bytes given back as free pages */
    uint64_t stats_count;  /* how often statistics came */
    uint64_t stats_ns;     /* clock time of the last ones */
    uint64_t stats_known;  /* bit mask of the tags that they had */
    uint64_t stats[VIRTIO_BALLOON_STATS];
} VirtioBalloonStatus;

Device *virtio_balloon_new(Board *board, const VirtioPlace *place, const VirtioBalloonOptions *options,
                           Error *error);
/* From any thread. */
void virtio_balloon_set_target(Device *device, uint32_t pages); /* how many the driver is to put into the balloon */
void virtio_balloon_poll(Device *device);                       /* ask for statistics */
void virtio_balloon_status(Device *device, VirtioBalloonStatus *status);

#endif
