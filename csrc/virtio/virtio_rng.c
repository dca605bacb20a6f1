#include <stdlib.h>
#include <sys/random.h>

#include "virtio/virtio_chain.h"
#include "virtio/virtio_rng.h"

#define CHAIN_SEGMENTS (VIRTIO_RNG_QUEUE_SIZE + 16u)
#define CHUNK          4096u
#define TURN_REQUESTS  64u
#define MAX_ANSWER     65536u /* of one request: a driver that wants more asks again (§5.4.6.1) */
#define NS_PER_SECOND  1000000000ull
#define BURST_MS       100u /* what a driver that has waited can have at once, but at least: */
#define BURST_BYTES    256u

typedef struct VirtioRngState { /* of its own, in VirtioState.own */
    uint64_t stream;            /* seeded: position */
    uint64_t budget;            /* bytes that may be given now */
    uint64_t budget_ns;         /* clock time up to which it was counted */
} VirtioRngState;

typedef struct VirtioRng {
    VirtioDevice virtio;
    VirtioRngOptions options;
    VirtioRngCounters counters;
    VirtioRngState state;
    Timer *timer;
    uint8_t chunk[CHUNK];
    VirtqSegment chain[CHAIN_SEGMENTS];
} VirtioRng;

static VirtioRng *rng_of(VirtioDevice *device) { return container_of(device, VirtioRng, virtio); }

/* ---- The limit ---------------------------------------------------------------------------------------------- */

static uint64_t burst(const VirtioRng *rng)
{
    return MAX(rng->options.bytes_per_second * BURST_MS / 1000, BURST_BYTES);
}

static void refill_budget(VirtioRng *rng)
{
    uint64_t now = clock_now(rng->virtio.owner->board->clock), rate = rng->options.bytes_per_second;
    uint64_t passed = now > rng->state.budget_ns ? MIN(now - rng->state.budget_ns, NS_PER_SECOND) : 0;
    uint64_t more = passed * rate / NS_PER_SECOND;
    if (more == 0)
        return; /* the fraction goes on counting */
    rng->state.budget = MIN(rng->state.budget + more, burst(rng));
    rng->state.budget_ns = now;
}

/* Whether `wanted` bytes may be given now; if not, the timer will look at the queue again. */
static bool may_give(VirtioRng *rng, uint64_t wanted)
{
    uint64_t rate = rng->options.bytes_per_second;
    if (!rate)
        return true;
    refill_budget(rng);
    if (rng->state.budget >= wanted) {
        rng->state.budget -= wanted;
        return true;
    }
    uint64_t wait = (wanted - rng->state.budget) * NS_PER_SECOND / rate;
    timer_arm(rng->timer, clock_now(rng->virtio.owner->board->clock) + MAX(wait, NS_PER_SECOND / 1000));
    rng->counters.waits++;
    return false;
}

static void budget_came(void *opaque)
{
    VirtioRng *rng = opaque;
    Device *owner = rng->virtio.owner;
    pthread_mutex_lock(&owner->lock);
    virtio_notify(&rng->virtio, 0);
    pthread_mutex_unlock(&owner->lock);
}

/* ---- The bytes ---------------------------------------------------------------------------------------------- */

/* SplitMix64: a counter, mixed. */
static uint64_t next_word(uint64_t *stream)
{
    uint64_t word = *stream += 0x9e3779b97f4a7c15ull;
    word = (word ^ word >> 30) * 0xbf58476d1ce4e5b9ull;
    word = (word ^ word >> 27) * 0x94d049bb133111ebull;
    return word ^ word >> 31;
}

/* The host's random numbers do not fail once the host is up; and a driver is told how many bytes it has. */
static size_t draw(VirtioRng *rng, size_t size)
{
    if (rng->options.seeded) {
        for (size_t i = 0; i < size; i += sizeof(uint64_t))
            store_le64(rng->chunk + i, next_word(&rng->state.stream));
        return size;
    }
    ssize_t got = getrandom(rng->chunk, size, 0);
    return got < 0 ? 0 : (size_t)got;
}

static uint32_t fill(VirtioRng *rng, const VirtqChain *chain, uint64_t wanted)
{
    uint64_t done = 0;
    while (done < wanted) {
        size_t n = draw(rng, MIN(wanted - done, CHUNK));
        if (n == 0)
            break;
        done += virtio_chain_write(rng->virtio.owner->board->memory, rng->chain, chain, done, rng->chunk,
                                   MIN(n, wanted - done));
    }
    return (uint32_t)done;
}

/* Quirk: Linux 6.1's driver may wait for ever after an answer that is shorter than its buffer, so the limit makes
 * it wait for a whole one. A buffer that is larger than the burst has no whole one. */
static bool answer_one(VirtioDevice *device, VirtioQueue *queue)
{
    VirtioRng *rng = rng_of(device);
    VirtqChain chain;
    int result = virtqueue_pop(&queue->ring, &chain, rng->chain, CHAIN_SEGMENTS);
    if (result == 0)
        return false;
    const char *why = result == -ENOSPC ? "buffers are in too many pieces" : result < 0 ? queue->ring.fault : NULL;
    if (!why && chain.readable) /* §5.4.6.1 */
        why = "a buffer for random bytes that is not writable";
    if (why) {
        virtio_fail(device, queue, why);
        return false;
    }
    uint64_t wanted = MIN(chain.writable_bytes, MAX_ANSWER);
    if (rng->options.bytes_per_second)
        wanted = MIN(wanted, burst(rng));
    if (!may_give(rng, wanted)) {
        virtqueue_unpop(&queue->ring, chain.token);
        return false;
    }
    uint32_t written = fill(rng, &chain, wanted);
    rng->counters.requests++;
    rng->counters.bytes += written;
    virtqueue_push(&queue->ring, chain.token, written);
    virtio_publish(device, queue);
    return true;
}

/* While the limit holds, the ring is not looked at and the driver need not notify: the timer does. */
static void rng_run(VirtioDevice *device, VirtioQueue *queue)
{
    if (!rng_of(device)->options.bytes_per_second) {
        virtio_serve(device, queue, answer_one);
        return;
    }
    for (uint32_t left = TURN_REQUESTS; virtio_queue_is_live(queue); left--) {
        if (left == 0 && !device->lock_kept) { /* a driver that goes on asking: others have their turn */
            virtio_notify(device, queue->index);
            return;
        }
        virtqueue_disable_notify(&queue->ring);
        if (virtqueue_is_empty(&queue->ring)) {
            if (!virtqueue_enable_notify(&queue->ring))
                return;
        } else if (!answer_one(device, queue)) {
            return;
        }
    }
}

/* ---- The device --------------------------------------------------------------------------------------------- */

static void rng_reset(VirtioDevice *device)
{
    VirtioRng *rng = rng_of(device);
    timer_disarm(rng->timer); /* the budget stays: a reset is no way around the limit */
}

static void rng_save(VirtioDevice *device, void *state)
{
    memcpy(state, &rng_of(device)->state, sizeof(VirtioRngState));
}

static int rng_restore(VirtioDevice *device, const void *state)
{
    VirtioRng *rng = rng_of(device);
    VirtioRngState saved;
    memcpy(&saved, state, sizeof saved);
    if (saved.budget > burst(rng))
        return -EINVAL;
    rng->state = saved;
    uint64_t now = clock_now(device->owner->board->clock); /* of another run's clock: it must not be waited for */
    rng->state.budget_ns = MIN(saved.budget_ns, now);
    if (rng->options.bytes_per_second) /* requests may wait in the ring */
        timer_arm(rng->timer, clock_now(device->owner->board->clock));
    return 0;
}

static void rng_stop(VirtioDevice *device) { timer_free(rng_of(device)->timer); }

static const VirtioClass rng_class = {
    .name = "virtio-rng",
    .id = 4,
    .pci_class = 0x00ff00, /* what no class is defined for */
    .transitional_id = 0x1005,
    .run = rng_run,
    .reset = rng_reset,
    .state_size = sizeof(VirtioRngState),
    .save = rng_save,
    .restore = rng_restore,
    .stop = rng_stop,
};

Device *virtio_rng_new(Board *board, const VirtioPlace *place, const VirtioRngOptions *options, Error *error)
{
    static const VirtioRngOptions defaults = {0};
    VirtioRng *rng = calloc(1, sizeof *rng);
    Timer *timer = rng ? timer_new(board->clock, budget_came, rng) : NULL;
    if (!timer) {
        free(rng);
        error_set(error, ENOMEM, "no host memory for virtio-rng");
        return NULL;
    }
    rng->timer = timer;
    rng->options = options ? *options : defaults;
    rng->state.stream = rng->options.seed;
    VirtioSetup setup = {.queue_count = 1, .queue_size = VIRTIO_RNG_QUEUE_SIZE};
    virtio_init(&rng->virtio, &rng_class, &setup);
    return virtio_place(board, &rng->virtio, place, error);
}

void virtio_rng_counters(Device *device, VirtioRngCounters *counters)
{
    pthread_mutex_lock(&device->lock);
    *counters = rng_of(virtio_of(device))->counters;
    pthread_mutex_unlock(&device->lock);
}
