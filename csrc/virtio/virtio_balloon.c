#include <stdlib.h>

#include "virtio/virtio_balloon.h"
#include "virtio/virtio_chain.h"

/* inflateq, deflateq, statsq, free_page_vq, reporting_vq (§5.5.2). Drivers number those that were not negotiated in
 * two ways: Linux leaves no gaps, the text does. Without FREE_PAGE_HINT both 3 and 4 can only be reporting_vq. */
enum { QUEUE_INFLATE, QUEUE_DEFLATE, QUEUE_STATS, QUEUE_REPORTING, QUEUE_REPORTING_GAP, QUEUES };

#define CHAIN_SEGMENTS (VIRTIO_BALLOON_QUEUE_SIZE + 16u)
#define BATCH_RANGES   1024u
#define STAT_BYTES     10u    /* tag (16 bits), value (64 bits) */
#define MAX_NUMBERS    65536u /* of one request: 256 MiB */

typedef struct BalloonState { /* of its own, in VirtioState.own */
    uint32_t target_pages;
    uint32_t reserved;
} BalloonState;

typedef struct Range {
    gpa_t gpa;
    uint64_t size;
} Range;

typedef struct VirtioBalloon {
    VirtioDevice virtio;
    VirtioBalloonOptions options;
    VirtioBalloonStatus status;
    Timer *timer;
    bool stats_wanted;
    uint32_t range_count;
    Range ranges[BATCH_RANGES]; /* to be given back without the lock */
    VirtqSegment chain[CHAIN_SEGMENTS];
} VirtioBalloon;

static VirtioBalloon *balloon_of(VirtioDevice *device) { return container_of(device, VirtioBalloon, virtio); }

static bool take(VirtioBalloon *balloon, VirtioQueue *queue, VirtqChain *chain)
{
    int result = virtqueue_pop(&queue->ring, chain, balloon->chain, CHAIN_SEGMENTS);
    if (result < 0)
        virtio_fail(&balloon->virtio, queue,
                    result == -ENOSPC ? "buffers are in too many pieces" : queue->ring.fault);
    return result > 0;
}

/* ---- Giving memory back: slow, and any guest address is somebody's own fault -------------------------------- */

static void add_range(VirtioBalloon *balloon, gpa_t gpa, uint64_t size)
{
    Range *last = balloon->range_count ? &balloon->ranges[balloon->range_count - 1] : NULL;
    if (last && last->gpa + last->size == gpa)
        last->size += size;
    else if (last && gpa + size == last->gpa)
        *last = (Range){gpa, last->size + size};
    else if (balloon->range_count < BATCH_RANGES)
        balloon->ranges[balloon->range_count++] = (Range){gpa, size};
}

static uint64_t discard_ranges(VirtioBalloon *balloon)
{
    GuestMemory *memory = balloon->virtio.owner->board->memory;
    uint64_t given = 0;
    virtio_begin_io(&balloon->virtio);
    for (uint32_t i = 0; i < balloon->range_count; i++)
        given += guest_memory_discard(memory, balloon->ranges[i].gpa, balloon->ranges[i].size);
    virtio_end_io(&balloon->virtio);
    return given;
}

/* §5.5.6: page numbers of 4 KiB pages, 32 bits each. */
static bool inflate_batch(VirtioDevice *device, VirtioQueue *queue)
{
    VirtioBalloon *balloon = balloon_of(device);
    VirtqChain chain;
    uint8_t numbers[4 * 256];
    if (!take(balloon, queue, &chain))
        return false;
    balloon->range_count = 0;
    uint64_t offset = 0;
    /* Linux sends 256 at once. What is beyond the limit is not given back: the host may leave it. */
    while (balloon->range_count < BATCH_RANGES - sizeof numbers / 4 && offset < MAX_NUMBERS * 4) {
        size_t size = virtio_chain_read(balloon->chain, &chain, offset, numbers, sizeof numbers) & ~3u;
        for (size_t i = 0; i < size; i += 4)
            add_range(balloon, (gpa_t)load_le32(numbers + i) << GUEST_PAGE_BITS, GUEST_PAGE_SIZE);
        offset += size;
        if (size < sizeof numbers)
            break;
    }
    uint64_t given = discard_ranges(balloon);
    balloon->status.inflated += given;
    virtqueue_push(&queue->ring, chain.token, 0);
    virtio_publish(device, queue);
    return true;
}

/* Their pages are there as soon as they are touched. */
static bool deflate_batch(VirtioDevice *device, VirtioQueue *queue)
{
    VirtqChain chain;
    if (!take(balloon_of(device), queue, &chain))
        return false;
    virtqueue_push(&queue->ring, chain.token, 0);
    virtio_publish(device, queue);
    return true;
}

/* §5.5.6.7: the buffers themselves are the free pages. */
static bool report_batch(VirtioDevice *device, VirtioQueue *queue)
{
    VirtioBalloon *balloon = balloon_of(device);
    VirtqChain chain;
    if (!take(balloon, queue, &chain))
        return false;
    bool poisoned =
        virtio_has(device, VIRTIO_BALLOON_F_PAGE_POISON) && load_le32(device->config + BALLOON_CONFIG_POISON_VAL);
    balloon->range_count = 0;
    for (uint32_t i = chain.readable; !poisoned && i < chain.readable + chain.writable; i++)
        add_range(balloon, balloon->chain[i].gpa, balloon->chain[i].iov.iov_len);
    uint64_t given = discard_ranges(balloon);
    balloon->status.reported += given;
    virtqueue_push(&queue->ring, chain.token, 0);
    virtio_publish(device, queue);
    return true;
}

/* ---- Statistics, §5.5.6.3: one buffer is left with the device, which gives it back to ask for new ones ------- */

static void read_stats(VirtioBalloon *balloon, const VirtqChain *chain)
{
    VirtioBalloonStatus *status = &balloon->status;
    uint8_t entry[STAT_BYTES];
    status->stats_known = 0;
    for (uint64_t offset = 0; offset < 64 * STAT_BYTES; offset += STAT_BYTES) {
        if (virtio_chain_read(balloon->chain, chain, offset, entry, STAT_BYTES) < STAT_BYTES)
            break;
        uint16_t tag = load_le16(entry);
        if (tag < VIRTIO_BALLOON_STATS) {
            status->stats[tag] = load_le64(entry + 2);
            status->stats_known |= 1ull << tag;
        }
    }
    status->stats_ns = clock_now(balloon->virtio.owner->board->clock);
    status->stats_count++;
}

/* The buffer stays in its ring: what was read of it is no state to be saved. A new one comes with a notification.
 */
static void run_stats(VirtioBalloon *balloon, VirtioQueue *queue)
{
    VirtqChain chain;
    if (take(balloon, queue, &chain)) {
        if (balloon->stats_wanted) {
            balloon->stats_wanted = false;
            virtqueue_push(&queue->ring, chain.token, 0);
            virtio_publish(&balloon->virtio, queue);
        } else {
            read_stats(balloon, &chain);
            virtqueue_unpop(&queue->ring, chain.token);
            return;
        }
    }
    if (virtio_queue_is_live(queue) && virtqueue_enable_notify(&queue->ring))
        virtio_notify(&balloon->virtio, queue->index);
}

static void ask_for_stats(VirtioBalloon *balloon)
{
    if (!virtio_has(&balloon->virtio, VIRTIO_BALLOON_F_STATS_VQ))
        return;
    balloon->stats_wanted = true;
    virtio_notify(&balloon->virtio, QUEUE_STATS);
}

static void arm_stats(VirtioBalloon *balloon)
{
    if (balloon->options.stats_interval_ns)
        timer_arm(balloon->timer,
                  clock_now(balloon->virtio.owner->board->clock) + balloon->options.stats_interval_ns);
}

static void stats_due(void *opaque)
{
    VirtioBalloon *balloon = opaque;
    pthread_mutex_lock(&balloon->virtio.owner->lock);
    if (balloon->virtio.status & VIRTIO_STATUS_DRIVER_OK) {
        ask_for_stats(balloon);
        arm_stats(balloon);
    }
    pthread_mutex_unlock(&balloon->virtio.owner->lock);
}

static void balloon_run(VirtioDevice *device, VirtioQueue *queue)
{
    switch (queue->index) {
    case QUEUE_INFLATE:
        virtio_serve(device, queue, inflate_batch);
        break;
    case QUEUE_DEFLATE:
        virtio_serve(device, queue, deflate_batch);
        break;
    case QUEUE_STATS:
        if (virtio_has(device, VIRTIO_BALLOON_F_STATS_VQ)) {
            run_stats(balloon_of(device), queue);
            break;
        } /* fall through */
    default:
        if (virtio_has(device, VIRTIO_BALLOON_F_PAGE_REPORTING))
            virtio_serve(device, queue, report_batch);
    }
}

/* ---- The device --------------------------------------------------------------------------------------------- */

static bool balloon_config_write(VirtioDevice *device, uint32_t offset, uint8_t value)
{
    (void)value;
    if (offset >= BALLOON_CONFIG_POISON_VAL)
        return virtio_has(device, VIRTIO_BALLOON_F_PAGE_POISON);
    return offset >= BALLOON_CONFIG_ACTUAL && offset < BALLOON_CONFIG_ACTUAL + 4;
}

static void balloon_driver_ok(VirtioDevice *device) { arm_stats(balloon_of(device)); }

static void balloon_reset(VirtioDevice *device)
{
    VirtioBalloon *balloon = balloon_of(device);
    timer_disarm(balloon->timer);
    balloon->stats_wanted = false;
    store_le32(device->config + BALLOON_CONFIG_ACTUAL, 0); /* §5.5.3: a driver begins with an empty balloon */
    store_le32(device->config + BALLOON_CONFIG_POISON_VAL, 0);
}

static void balloon_save(VirtioDevice *device, void *state)
{
    BalloonState own = {.target_pages = load_le32(device->config + BALLOON_CONFIG_NUM_PAGES)};
    memcpy(state, &own, sizeof own);
}

static int balloon_restore(VirtioDevice *device, const void *state)
{
    BalloonState own;
    memcpy(&own, state, sizeof own);
    store_le32(device->config + BALLOON_CONFIG_NUM_PAGES, own.target_pages);
    if (device->status & VIRTIO_STATUS_DRIVER_OK)
        arm_stats(balloon_of(device));
    return 0;
}

static void balloon_stop(VirtioDevice *device) { timer_free(balloon_of(device)->timer); }

static const VirtioClass balloon_class = {
    .name = "virtio-balloon",
    .id = 5,
    .pci_class = 0x00ff00,
    .transitional_id = 0x1002,
    .run = balloon_run,
    .config_write = balloon_config_write,
    .driver_ok = balloon_driver_ok,
    .reset = balloon_reset,
    .state_size = sizeof(BalloonState),
    .save = balloon_save,
    .restore = balloon_restore,
    .stop = balloon_stop,
};

Device *virtio_balloon_new(Board *board, const VirtioPlace *place, const VirtioBalloonOptions *options,
                           Error *error)
{
    static const VirtioBalloonOptions defaults = {0};
    options = options ? options : &defaults;
    VirtioBalloon *balloon = calloc(1, sizeof *balloon);
    Timer *timer = balloon ? timer_new(board->clock, stats_due, balloon) : NULL;
    if (!timer) {
        free(balloon);
        error_set(error, ENOMEM, "no host memory for virtio-balloon");
        return NULL;
    }
    balloon->timer = timer;
    balloon->options = *options;
    uint64_t features = VIRTIO_BALLOON_F_STATS_VQ | VIRTIO_BALLOON_F_PAGE_POISON;
    features |= options->no_deflate_on_oom ? 0 : VIRTIO_BALLOON_F_DEFLATE_ON_OOM;
    features |= options->no_reporting ? 0 : VIRTIO_BALLOON_F_PAGE_REPORTING;
    VirtioSetup setup = {.features = features,
                         .config_size = BALLOON_CONFIG_SIZE,
                         .queue_count = QUEUES,
                         .queue_size = VIRTIO_BALLOON_QUEUE_SIZE};
    virtio_init(&balloon->virtio, &balloon_class, &setup);
    return virtio_place(board, &balloon->virtio, place, error);
}

void virtio_balloon_set_target(Device *device, uint32_t pages)
{
    VirtioDevice *virtio = virtio_of(device);
    pthread_mutex_lock(&device->lock);
    if (load_le32(virtio->config + BALLOON_CONFIG_NUM_PAGES) != pages) {
        store_le32(virtio->config + BALLOON_CONFIG_NUM_PAGES, pages);
        virtio_config_changed(virtio);
    }
    pthread_mutex_unlock(&device->lock);
}

void virtio_balloon_poll(Device *device)
{
    pthread_mutex_lock(&device->lock);
    ask_for_stats(balloon_of(virtio_of(device)));
    pthread_mutex_unlock(&device->lock);
}

void virtio_balloon_status(Device *device, VirtioBalloonStatus *status)
{
    VirtioDevice *virtio = virtio_of(device);
    pthread_mutex_lock(&device->lock);
    *status = balloon_of(virtio)->status;
    status->target_pages = load_le32(virtio->config + BALLOON_CONFIG_NUM_PAGES);
    status->actual_pages = load_le32(virtio->config + BALLOON_CONFIG_ACTUAL);
    pthread_mutex_unlock(&device->lock);
}
