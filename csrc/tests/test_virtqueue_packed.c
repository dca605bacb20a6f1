/* The packed ring alone, as virtio 1.2 §2.8 has it, from a driver that keeps its own wrap counters; and in-order
 * use (§2.7.9, §2.8.9) of both rings. */
#include "check.h"
#include "virtio/virtqueue.h"

enum { SIZE = 5, RING = 0x1000, DRIVER = 0x2000, DEVICE = 0x3000, TABLE = 0x4000, DATA = 0x8000, RAM = 0x20000 };

typedef struct Ring {
    GuestMemory *memory;
    Virtqueue queue;
    VirtqPackedDesc *ring;
    VirtqEventSuppress *driver, *device;
    VirtqPackedDesc *table;
    uint16_t next; /* of the driver: where it puts a descriptor, and looks for a used one */
    uint16_t seen;
    bool avail_wrap, used_wrap;
} Ring;

static VirtqSegment segments[32];
static VirtqChain chain;

static void ring_new(Ring *ring, bool event_idx, bool in_order)
{
    Error error;
    memset(ring, 0, sizeof *ring);
    ring->memory = guest_memory_new(&error);
    CHECK(ring->memory);
    CHECK_EQ(guest_memory_add(ring->memory, 0, RAM, 0, &error), 0);
    CHECK_EQ(guest_memory_add(ring->memory, RAM, RAM, MEMSLOT_READ_ONLY, &error), 0);
    virtqueue_init(&ring->queue, ring->memory, 8);
    virtqueue_set_packed(&ring->queue, true);
    ring->queue.size = SIZE; /* §2.8.10.1: no power of two is asked for */
    ring->queue.desc_gpa = RING;
    ring->queue.avail_gpa = DRIVER;
    ring->queue.used_gpa = DEVICE;
    ring->queue.indirect = true;
    ring->queue.event_idx = event_idx;
    ring->queue.in_order = in_order;
    CHECK_EQ(virtqueue_enable(&ring->queue), 0);
    ring->ring = guest_memory_ptr(ring->memory, RING, 1, false);
    ring->driver = guest_memory_ptr(ring->memory, DRIVER, 1, false);
    ring->device = guest_memory_ptr(ring->memory, DEVICE, 1, false);
    ring->table = guest_memory_ptr(ring->memory, TABLE, 1, false);
    ring->avail_wrap = ring->used_wrap = true;
}

static void ring_free(Ring *ring)
{
    virtqueue_reset(&ring->queue);
    guest_memory_free(ring->memory);
}

/* One descriptor after the other, as a driver writes it. */
static void put(Ring *ring, uint64_t addr, uint32_t len, uint16_t flags, uint16_t id)
{
    uint16_t turn = ring->avail_wrap ? VIRTQ_PACKED_AVAIL : VIRTQ_PACKED_USED;
    ring->ring[ring->next] = (VirtqPackedDesc){.addr = addr, .len = len, .id = id, .flags = flags | turn};
    if (++ring->next == SIZE) {
        ring->next = 0;
        ring->avail_wrap = !ring->avail_wrap;
    }
}

static int pop(Ring *ring) { return virtqueue_pop(&ring->queue, &chain, segments, ARRAY_SIZE(segments)); }

/* Is the next descriptor that the driver looks at a used one? */
static bool is_used(const Ring *ring)
{
    uint16_t flags = ring->ring[ring->seen].flags;
    return (bool)(flags & VIRTQ_PACKED_AVAIL) == ring->used_wrap &&
           (bool)(flags & VIRTQ_PACKED_USED) == ring->used_wrap;
}

/* Take the used element of a list of `descriptors`. */
static VirtqPackedDesc take_used(Ring *ring, uint16_t descriptors)
{
    CHECK(is_used(ring));
    VirtqPackedDesc desc = ring->ring[ring->seen];
    ring->seen += descriptors;
    if (ring->seen >= SIZE) {
        ring->seen -= SIZE;
        ring->used_wrap = !ring->used_wrap;
    }
    return desc;
}

static void test_lists_over_many_laps(void)
{
    Ring ring;
    ring_new(&ring, false, false);
    CHECK(virtqueue_is_empty(&ring.queue) && pop(&ring) == 0);
    for (uint16_t lap = 0; lap < 40; lap++) {
        put(&ring, DATA, 16, VIRTQ_DESC_F_NEXT, 0xbad);
        put(&ring, DATA + 0x1000, 512, VIRTQ_DESC_F_NEXT | VIRTQ_DESC_F_WRITE, 0xbad);
        put(&ring, DATA + 0x2000, 1, VIRTQ_DESC_F_WRITE, 100 + lap);
        CHECK_EQ(pop(&ring), 1);
        CHECK(chain.token.id == 100 + lap && chain.token.descriptors == 3);
        CHECK(chain.readable == 1 && chain.writable == 2 && chain.readable_bytes == 16 &&
              chain.writable_bytes == 513);
        CHECK(segments[1].gpa == DATA + 0x1000 && segments[1].iov.iov_len == 512);
        CHECK_EQ(pop(&ring), 0);
        virtqueue_push(&ring.queue, chain.token, 513);
        CHECK(!is_used(&ring)); /* not published yet */
        CHECK(virtqueue_publish(&ring.queue));
        VirtqPackedDesc used = take_used(&ring, 3);
        CHECK(used.id == 100 + lap && used.len == 513 && used.flags & VIRTQ_DESC_F_WRITE);
        CHECK(!is_used(&ring));
    }
    ring_free(&ring);
}

static void test_a_batch_is_seen_at_once(void)
{
    Ring ring;
    VirtqToken tokens[5];
    ring_new(&ring, false, false);
    for (uint16_t lap = 0; lap < 7; lap++) {
        for (uint16_t i = 0; i < 5; i++)
            put(&ring, DATA + 64u * i, 64, 0, i);
        for (uint16_t i = 0; i < 5; i++) {
            CHECK_EQ(pop(&ring), 1);
            CHECK_EQ(chain.token.id, i);
            tokens[i] = chain.token;
        }
        CHECK_EQ(pop(&ring), 0);
        for (uint16_t i = 0; i < 5; i++) { /* in another order: 3 1 4 2 0 */
            virtqueue_push(&ring.queue, tokens[(8 - 2 * i) % 5], 0);
            CHECK(!is_used(&ring));
        }
        CHECK(virtqueue_publish(&ring.queue));
        for (uint16_t i = 0; i < 5; i++) {
            VirtqPackedDesc used = take_used(&ring, 1);
            CHECK(used.id == (8 - 2 * i) % 5 && !(used.flags & VIRTQ_DESC_F_WRITE));
        }
    }
    ring_free(&ring);
}

/* What was taken last is the next one again, over the ring's end too. */
static void test_unpop(void)
{
    Ring ring;
    ring_new(&ring, false, true);
    for (uint16_t lap = 0; lap < 2 * SIZE; lap++) {
        put(&ring, DATA, 16, VIRTQ_DESC_F_NEXT, 0);
        put(&ring, DATA, 16, 0, 7);
        put(&ring, DATA, 16, 0, 8);
        uint16_t before = virtqueue_last_avail(&ring.queue);
        CHECK_EQ(pop(&ring), 1);
        VirtqToken first = chain.token;
        CHECK_EQ(pop(&ring), 1);
        virtqueue_unpop(&ring.queue, chain.token);
        virtqueue_unpop(&ring.queue, first);
        CHECK_EQ(virtqueue_last_avail(&ring.queue), before);
        for (uint16_t i = 7; i < 9; i++) {
            CHECK_EQ(pop(&ring), 1);
            CHECK_EQ(chain.token.id, i);
            virtqueue_push(&ring.queue, chain.token, 0);
        }
        virtqueue_publish(&ring.queue);
        CHECK_EQ(take_used(&ring, 2).id, 7);
        CHECK_EQ(take_used(&ring, 1).id, 8);
    }
    ring_free(&ring);
}

static void test_indirect(void)
{
    Ring ring;
    ring_new(&ring, false, false);
    ring.table[0] = (VirtqPackedDesc){DATA, 12, 77, 0}; /* in order of the table; the ID is reserved */
    ring.table[1] = (VirtqPackedDesc){DATA + 0x100, 4, 0, 0};
    ring.table[2] = (VirtqPackedDesc){DATA + 0x200, 1, 0, VIRTQ_DESC_F_WRITE};
    put(&ring, TABLE, 48, VIRTQ_DESC_F_INDIRECT | VIRTQ_DESC_F_WRITE, 9);
    CHECK_EQ(pop(&ring), 1);
    CHECK(chain.token.id == 9 && chain.token.descriptors == 1);
    CHECK(chain.readable == 2 && chain.writable == 1 && chain.readable_bytes == 16);
    virtqueue_push(&ring.queue, chain.token, 1);
    CHECK(virtqueue_publish(&ring.queue));
    CHECK_EQ(take_used(&ring, 1).id, 9);
    ring_free(&ring);
}

/* What lies in the ring is refused with `why` and stays there. */
static void refused(Ring *ring, const char *why)
{
    uint16_t before = virtqueue_last_avail(&ring->queue);
    int result = pop(ring);
    if (result != -EINVAL || strcmp(ring->queue.fault, why) != 0) {
        fprintf(stderr, "%d, %s: not %s\n", result, result == -EINVAL ? ring->queue.fault : "-", why);
        exit(1);
    }
    CHECK_EQ(virtqueue_last_avail(&ring->queue), before);
    ring->next = 0;
    ring->avail_wrap = true;
}

static void test_refused(void)
{
    Ring ring;
    ring_new(&ring, false, false);
    for (int i = 0; i < SIZE; i++)
        put(&ring, DATA, 1, VIRTQ_DESC_F_NEXT, 0);
    refused(&ring, "chain loops or is longer than the queue");
    put(&ring, DATA, 0, 0, 0);
    refused(&ring, "buffer of length 0");
    put(&ring, RAM + 2 * RAM, 16, 0, 0);
    refused(&ring, "buffer is not in RAM");
    put(&ring, UINT64_MAX - 7, 16, 0, 0);
    refused(&ring, "buffer is not in RAM");
    put(&ring, RAM, 16, VIRTQ_DESC_F_WRITE, 0);
    refused(&ring, "writable buffer is not in writable RAM");
    put(&ring, DATA, 16, VIRTQ_DESC_F_WRITE | VIRTQ_DESC_F_NEXT, 0);
    put(&ring, DATA, 16, 0, 0);
    refused(&ring, "readable buffer after a writable one");
    put(&ring, DATA, 16, VIRTQ_DESC_F_NEXT, 0);
    put(&ring, TABLE, 16, VIRTQ_DESC_F_INDIRECT, 0);
    refused(&ring, "indirect descriptor in a list");
    put(&ring, TABLE, 16, VIRTQ_DESC_F_INDIRECT | VIRTQ_DESC_F_NEXT, 0);
    refused(&ring, "indirect descriptor with a next one");
    put(&ring, TABLE, 24, VIRTQ_DESC_F_INDIRECT, 0);
    refused(&ring, "indirect table's length is not a multiple of 16");
    put(&ring, RAM * 4, 16, VIRTQ_DESC_F_INDIRECT, 0);
    refused(&ring, "indirect table is not in RAM");
    ring.table[0] = (VirtqPackedDesc){TABLE, 16, 0, VIRTQ_DESC_F_INDIRECT};
    put(&ring, TABLE, 16, VIRTQ_DESC_F_INDIRECT, 0);
    refused(&ring, "indirect descriptor in an indirect table");
    for (int i = 0; i < 9; i++)
        ring.table[i] = (VirtqPackedDesc){DATA, 16, 0, 0};
    put(&ring, TABLE, 9 * 16, VIRTQ_DESC_F_INDIRECT, 0);
    refused(&ring, "chain loops or is longer than the queue");
    ring.queue.indirect = false;
    put(&ring, TABLE, 16, VIRTQ_DESC_F_INDIRECT, 0);
    refused(&ring, "indirect descriptor was not negotiated");
    put(&ring, DATA, 16, 0, 4); /* and it goes on after all of them */
    CHECK_EQ(pop(&ring), 1);
    CHECK_EQ(chain.token.id, 4);
    ring_free(&ring);
}

static void test_not_enough_segments(void)
{
    Ring ring;
    ring_new(&ring, false, false);
    put(&ring, DATA, 16, VIRTQ_DESC_F_NEXT, 0);
    put(&ring, DATA, 16, 0, 3);
    CHECK_EQ(virtqueue_pop(&ring.queue, &chain, segments, 1), -ENOSPC);
    CHECK_EQ(pop(&ring), 1); /* it was not taken */
    CHECK_EQ(chain.token.id, 3);
    ring_free(&ring);
}

static void test_enable(void)
{
    Ring ring;
    ring_new(&ring, false, false);
    virtqueue_reset(&ring.queue);
    virtqueue_set_packed(&ring.queue, true);
    const struct {
        uint16_t size;
        gpa_t desc, driver, device;
        int code;
    } bad[] = {
        {0, RING, DRIVER, DEVICE, -EINVAL},     {9, RING, DRIVER, DEVICE, -EINVAL},
        {8, RING + 8, DRIVER, DEVICE, -EINVAL}, {8, RING, DRIVER + 2, DEVICE, -EINVAL},
        {8, RING, DRIVER, DEVICE + 2, -EINVAL}, {8, RAM, DRIVER, DEVICE, -EFAULT}, /* the device writes the ring */
        {8, RING, 4 * RAM, DEVICE, -EFAULT},    {8, RING, DRIVER, RAM, -EFAULT},
        {8, RAM - 16, DRIVER, DEVICE, -EFAULT},
    };
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        ring.queue.size = bad[i].size;
        ring.queue.desc_gpa = bad[i].desc;
        ring.queue.avail_gpa = bad[i].driver;
        ring.queue.used_gpa = bad[i].device;
        CHECK_EQ(virtqueue_enable(&ring.queue), bad[i].code);
        CHECK(!ring.queue.enabled && ring.queue.fault);
    }
    ring_free(&ring);
}

/* §2.8.10: what the driver asks for, and what the device does. */
static void test_interrupts(void)
{
    for (int event_idx = 0; event_idx < 2; event_idx++) {
        Ring ring;
        ring_new(&ring, event_idx, false);
        uint32_t wanted = 0;
        for (uint32_t i = 0; i < 50; i++) {
            put(&ring, DATA, 1, 0, 0);
            CHECK_EQ(pop(&ring), 1);
            virtqueue_push(&ring.queue, chain.token, 0);
            if (i == 10)
                ring.driver->flags = VIRTQ_EVENT_DISABLE;
            if (i == 20)
                ring.driver->flags = VIRTQ_EVENT_DESC;
            bool interrupt = virtqueue_publish(&ring.queue);
            if (i < 10)
                CHECK(interrupt);
            else if (i < 20)
                CHECK(!interrupt);
            else if (!event_idx) /* §2.8.10: without the feature a position means nothing */
                CHECK(interrupt);
            else if (i >= 24)
                CHECK_EQ(interrupt, i % 3 == 2);
            wanted += interrupt;
            if (i >= 20 && i % 3 == 2) { /* each third: ask for the one after the next two */
                uint16_t offset = ring.next + 2, wrap = ring.avail_wrap;
                if (offset >= SIZE) {
                    offset -= SIZE;
                    wrap = !wrap;
                }
                ring.driver->offset_wrap = (uint16_t)(offset | wrap << 15);
            }
            take_used(&ring, 1);
        }
        CHECK(wanted > 10);
        ring_free(&ring);
    }
}

/* A position that lies inside a published batch, at every place of the ring. */
static void test_interrupt_within_a_batch(void)
{
    for (uint16_t start = 0; start < 2 * SIZE; start++)
        for (uint16_t at = 0; at < 4; at++) {
            Ring ring;
            VirtqToken tokens[3];
            ring_new(&ring, true, false);
            for (uint16_t i = 0; i <= start; i++) {
                put(&ring, DATA, 1, 0, 0);
                CHECK_EQ(pop(&ring), 1);
                virtqueue_push(&ring.queue, chain.token, 0);
                virtqueue_publish(&ring.queue);
                take_used(&ring, 1);
            }
            uint16_t offset = ring.next + at, wrap = ring.avail_wrap;
            if (offset >= SIZE) {
                offset -= SIZE;
                wrap = !wrap;
            }
            *ring.driver = (VirtqEventSuppress){(uint16_t)(offset | wrap << 15), VIRTQ_EVENT_DESC};
            for (uint16_t i = 0; i < 3; i++) {
                put(&ring, DATA, 1, 0, i);
                CHECK_EQ(pop(&ring), 1);
                tokens[i] = chain.token;
            }
            for (uint16_t i = 0; i < 3; i++)
                virtqueue_push(&ring.queue, tokens[i], 0);
            CHECK_EQ(virtqueue_publish(&ring.queue), at < 3);
            ring_free(&ring);
        }
}

static void test_notifications(void)
{
    Ring ring;
    ring_new(&ring, false, false);
    virtqueue_disable_notify(&ring.queue);
    CHECK_EQ(ring.device->flags, VIRTQ_EVENT_DISABLE);
    CHECK(!virtqueue_enable_notify(&ring.queue));
    CHECK_EQ(ring.device->flags, VIRTQ_EVENT_ENABLE);
    virtqueue_disable_notify(&ring.queue);
    put(&ring, DATA, 1, 0, 0);
    CHECK(virtqueue_enable_notify(&ring.queue)); /* something came meanwhile */
    ring_free(&ring);

    ring_new(&ring, true, false);
    for (uint16_t i = 0; i < 2 * SIZE + 2; i++) {
        virtqueue_disable_notify(&ring.queue);
        CHECK(!virtqueue_enable_notify(&ring.queue));
        CHECK_EQ(ring.device->flags, VIRTQ_EVENT_DESC);
        CHECK_EQ(ring.device->offset_wrap, ring.next | ring.avail_wrap << 15);
        put(&ring, DATA, 1, 0, 0);
        CHECK_EQ(pop(&ring), 1);
        virtqueue_push(&ring.queue, chain.token, 0);
        virtqueue_publish(&ring.queue);
    }
    ring_free(&ring);
}

static void test_saved_positions(void)
{
    Ring ring;
    ring_new(&ring, false, false);
    for (uint16_t i = 0; i < SIZE + 2; i++) {
        put(&ring, DATA, 1, 0, i);
        CHECK_EQ(pop(&ring), 1);
        virtqueue_push(&ring.queue, chain.token, 0);
        virtqueue_publish(&ring.queue);
        take_used(&ring, 1);
    }
    CHECK_EQ(virtqueue_last_avail(&ring.queue), 2); /* second lap: the counter is clear */
    CHECK_EQ(virtqueue_next_used(&ring.queue), 2);
    CHECK_EQ(virtqueue_set_indices(&ring.queue, SIZE, 0), -EINVAL);
    CHECK_EQ(virtqueue_set_indices(&ring.queue, 0, 0x8000 | SIZE), -EINVAL);
    CHECK_EQ(virtqueue_set_indices(&ring.queue, 2, 2), 0);
    put(&ring, DATA, 1, 0, 42);
    CHECK_EQ(pop(&ring), 1);
    CHECK_EQ(chain.token.id, 42);
    virtqueue_push(&ring.queue, chain.token, 0);
    CHECK(virtqueue_publish(&ring.queue));
    CHECK_EQ(take_used(&ring, 1).id, 42);
    ring_free(&ring);
}

/* §2.8.9: buffers come back in the order in which they were made available, whatever the device does. */
static void test_in_order_packed(void)
{
    Ring ring;
    VirtqToken tokens[4];
    ring_new(&ring, false, true);
    for (uint16_t lap = 0; lap < 30; lap++) {
        for (uint16_t i = 0; i < 4; i++) {
            put(&ring, DATA, 1, 0, (uint16_t)(10 * lap + i));
            CHECK_EQ(pop(&ring), 1);
            tokens[i] = chain.token;
        }
        static const uint16_t order[] = {2, 1, 0, 3};
        for (uint16_t i = 0; i < 4; i++) {
            virtqueue_push(&ring.queue, tokens[order[i]], order[i]);
            virtqueue_publish(&ring.queue);
            CHECK_EQ(is_used(&ring), i >= 2);
        }
        for (uint16_t i = 0; i < 4; i++) {
            VirtqPackedDesc used = take_used(&ring, 1);
            CHECK(used.id == 10 * lap + i && used.len == i);
        }
    }
    ring_free(&ring);
}

static void test_in_order_split(void)
{
    Error error;
    GuestMemory *memory = guest_memory_new(&error);
    CHECK_EQ(guest_memory_add(memory, 0, RAM, 0, &error), 0);
    Virtqueue queue;
    virtqueue_init(&queue, memory, 8);
    queue.desc_gpa = RING;
    queue.avail_gpa = DRIVER;
    queue.used_gpa = DEVICE;
    queue.in_order = true;
    CHECK_EQ(virtqueue_enable(&queue), 0);
    VirtqDesc *desc = guest_memory_ptr(memory, RING, 1, false);
    VirtqAvail *avail = guest_memory_ptr(memory, DRIVER, 1, false);
    VirtqUsed *used = guest_memory_ptr(memory, DEVICE, 1, false);
    VirtqToken tokens[8];
    for (uint16_t i = 0; i < 8; i++) {
        desc[i] = (VirtqDesc){DATA, 1, 0, 0};
        avail->ring[i] = i;
    }
    avail->idx = 8;
    for (uint16_t i = 0; i < 8; i++) {
        CHECK_EQ(virtqueue_pop(&queue, &chain, segments, ARRAY_SIZE(segments)), 1);
        tokens[i] = chain.token;
    }
    for (int i = 7; i >= 0; i--) {
        virtqueue_push(&queue, tokens[i], 0);
        virtqueue_publish(&queue);
        CHECK_EQ(used->idx, i ? 0 : 8);
    }
    for (uint16_t i = 0; i < 8; i++)
        CHECK_EQ(used->ring[i].id, i);
    virtqueue_reset(&queue);
    guest_memory_free(memory);
}

int main(void)
{
    RUN(test_lists_over_many_laps);
    RUN(test_a_batch_is_seen_at_once);
    RUN(test_unpop);
    RUN(test_indirect);
    RUN(test_refused);
    RUN(test_not_enough_segments);
    RUN(test_enable);
    RUN(test_interrupts);
    RUN(test_interrupt_within_a_batch);
    RUN(test_notifications);
    RUN(test_saved_positions);
    RUN(test_in_order_packed);
    RUN(test_in_order_split);
    return 0;
}
