/* The split ring alone: chains of every shape, and each way in which a driver can get them wrong (virtio 1.2 §2.7).
 */
#include "check.h"
#include "virtio/virtqueue.h"

enum { SIZE = 8, DESC = 0x1000, AVAIL = 0x2000, USED = 0x3000, TABLE = 0x4000, DATA = 0x8000, RAM = 0x20000 };

typedef struct Ring {
    GuestMemory *memory;
    Virtqueue queue;
    VirtqDesc *desc, *table;
    VirtqAvail *avail;
    VirtqUsed *used;
} Ring;

static VirtqSegment segments[32];
static VirtqChain chain;

static void ring_new(Ring *ring, bool event_idx)
{
    Error error;
    memset(ring, 0, sizeof *ring);
    ring->memory = guest_memory_new(&error);
    CHECK(ring->memory);
    CHECK_EQ(guest_memory_add(ring->memory, 0, RAM, 0, &error), 0);
    CHECK_EQ(guest_memory_add(ring->memory, RAM, RAM, MEMSLOT_READ_ONLY, &error), 0);
    virtqueue_init(&ring->queue, ring->memory, SIZE);
    ring->queue.desc_gpa = DESC;
    ring->queue.avail_gpa = AVAIL;
    ring->queue.used_gpa = USED;
    ring->queue.indirect = true;
    ring->queue.event_idx = event_idx;
    CHECK_EQ(virtqueue_enable(&ring->queue), 0);
    ring->desc = guest_memory_ptr(ring->memory, DESC, 1, false);
    ring->avail = guest_memory_ptr(ring->memory, AVAIL, 1, false);
    ring->used = guest_memory_ptr(ring->memory, USED, 1, false);
    ring->table = guest_memory_ptr(ring->memory, TABLE, 1, false);
}

static void ring_free(Ring *ring) { guest_memory_free(ring->memory); }

static void offer(Ring *ring, uint16_t head)
{
    ring->avail->ring[ring->avail->idx % SIZE] = head;
    ring->avail->idx++;
}

static int pop(Ring *ring) { return virtqueue_pop(&ring->queue, &chain, segments, ARRAY_SIZE(segments)); }

/* The chain at `head` is refused with `why`, and stays where it is. */
static void refused(Ring *ring, uint16_t head, const char *why)
{
    uint16_t before = ring->queue.last_avail;
    offer(ring, head);
    int result = pop(ring);
    if (result != -EINVAL || strcmp(ring->queue.fault, why) != 0) {
        fprintf(stderr, "%d, %s: not %s\n", result, result == -EINVAL ? ring->queue.fault : "-", why);
        exit(1);
    }
    CHECK_EQ(ring->queue.last_avail, before);
    ring->avail->idx--;
}

static void test_chain(void)
{
    Ring ring;
    ring_new(&ring, false);
    CHECK_EQ(pop(&ring), 0);
    ring.desc[5] = (VirtqDesc){DATA, 16, VIRTQ_DESC_F_NEXT, 2};
    ring.desc[2] = (VirtqDesc){DATA + 0x1000, 512, VIRTQ_DESC_F_NEXT | VIRTQ_DESC_F_WRITE, 7};
    ring.desc[7] = (VirtqDesc){DATA + 0x2000, 1, VIRTQ_DESC_F_WRITE, 0};
    offer(&ring, 5);
    CHECK_EQ(pop(&ring), 1);
    CHECK(chain.token.id == 5 && chain.readable == 1 && chain.writable == 2);
    CHECK(chain.readable_bytes == 16 && chain.writable_bytes == 513);
    CHECK(segments[1].gpa == DATA + 0x1000 && segments[1].iov.iov_len == 512);
    CHECK(segments[1].iov.iov_base == guest_memory_ptr(ring.memory, DATA + 0x1000, 1, false));
    CHECK_EQ(pop(&ring), 0);
    virtqueue_push(&ring.queue, chain.token, 513);
    CHECK_EQ(ring.used->idx, 0); /* not published yet */
    CHECK(virtqueue_publish(&ring.queue));
    CHECK(ring.used->idx == 1 && ring.used->ring[0].id == 5 && ring.used->ring[0].len == 513);
    ring_free(&ring);
}

/* What was taken last is the next one again, however often. */
static void test_unpop(void)
{
    Ring ring;
    ring_new(&ring, false);
    for (uint16_t i = 0; i < 3; i++) {
        ring.desc[i] = (VirtqDesc){DATA + 0x100u * i, 16, VIRTQ_DESC_F_WRITE, 0};
        offer(&ring, i);
    }
    CHECK_EQ(pop(&ring), 1);
    VirtqToken first = chain.token;
    CHECK_EQ(pop(&ring), 1);
    VirtqToken second = chain.token;
    virtqueue_unpop(&ring.queue, second);
    virtqueue_unpop(&ring.queue, first);
    for (uint16_t i = 0; i < 3; i++) {
        CHECK_EQ(pop(&ring), 1);
        CHECK_EQ(chain.token.id, i);
        virtqueue_push(&ring.queue, chain.token, 1);
    }
    CHECK_EQ(pop(&ring), 0);
    virtqueue_publish(&ring.queue);
    CHECK(ring.used->idx == 3 && ring.used->ring[2].id == 2);
    ring_free(&ring);
}

static void test_indirect(void)
{
    Ring ring;
    ring_new(&ring, false);
    ring.desc[0] = (VirtqDesc){DATA, 4, VIRTQ_DESC_F_NEXT, 1}; /* §2.7.5.3.2: plain ones may come first */
    ring.desc[1] = (VirtqDesc){TABLE, 3 * 16, VIRTQ_DESC_F_INDIRECT | VIRTQ_DESC_F_WRITE, 0};
    ring.table[0] = (VirtqDesc){DATA + 0x100, 12, VIRTQ_DESC_F_NEXT, 2};
    ring.table[2] = (VirtqDesc){DATA + 0x200, 1, VIRTQ_DESC_F_WRITE, 0};
    offer(&ring, 0);
    CHECK_EQ(pop(&ring), 1);
    CHECK(chain.readable == 2 && chain.writable == 1 && chain.readable_bytes == 16);
    ring.table[2].flags = VIRTQ_DESC_F_NEXT;
    ring.table[2].next = 3;
    refused(&ring, 0, "descriptor index is beyond its table");
    ring.table[2].next = 0;
    refused(&ring, 0, "chain loops or is longer than the queue");
    ring.table[2] = (VirtqDesc){TABLE, 16, VIRTQ_DESC_F_INDIRECT, 0};
    refused(&ring, 0, "indirect descriptor in an indirect table");
    ring.desc[1].flags |= VIRTQ_DESC_F_NEXT;
    refused(&ring, 0, "indirect descriptor with a next one");
    ring.desc[1].flags = VIRTQ_DESC_F_INDIRECT;
    ring.desc[1].len = 24;
    refused(&ring, 0, "indirect table's length is not a multiple of 16");
    ring.desc[1].len = 0;
    refused(&ring, 0, "indirect table's length is not a multiple of 16");
    ring.desc[1].len = 0xfffffff0;
    refused(&ring, 0, "indirect table is not in RAM");
    ring.queue.indirect = false;
    refused(&ring, 0, "indirect descriptor was not negotiated");
    ring_free(&ring);
}

static void test_malformed(void)
{
    Ring ring;
    ring_new(&ring, false);
    refused(&ring, SIZE, "descriptor index is beyond its table");
    refused(&ring, 0xffff, "descriptor index is beyond its table");
    ring.desc[0] = (VirtqDesc){DATA, 0, 0, 0};
    refused(&ring, 0, "buffer of length 0");
    ring.desc[0] = (VirtqDesc){DATA, 16, VIRTQ_DESC_F_NEXT, 0};
    refused(&ring, 0, "chain loops or is longer than the queue");
    ring.desc[0] = (VirtqDesc){2 * RAM, 16, 0, 0};
    refused(&ring, 0, "buffer is not in RAM");
    ring.desc[0] = (VirtqDesc){UINT64_MAX - 7, 16, 0, 0};
    refused(&ring, 0, "buffer is not in RAM");
    ring.desc[0] = (VirtqDesc){2 * RAM - 8, 16, 0, 0};
    refused(&ring, 0, "buffer is not in RAM");
    ring.desc[0] = (VirtqDesc){RAM - 8, 16, VIRTQ_DESC_F_WRITE, 0};
    refused(&ring, 0, "writable buffer is not in writable RAM");
    ring.desc[0] = (VirtqDesc){DATA, 0xffffffff, 0, 0};
    refused(&ring, 0, "buffer is not in RAM");
    ring.desc[0] = (VirtqDesc){DATA, 1, VIRTQ_DESC_F_WRITE | VIRTQ_DESC_F_NEXT, 1};
    ring.desc[1] = (VirtqDesc){DATA, 16, 0, 0};
    refused(&ring, 0, "readable buffer after a writable one");
    ring.avail->idx = SIZE + 1;
    CHECK_EQ(pop(&ring), -EINVAL);
    CHECK(!strcmp(ring.queue.fault, "available index is ahead by more than the queue's size"));
    ring_free(&ring);
}

static void test_memslot_seam(void)
{
    Ring ring;
    ring_new(&ring, false);
    ring.desc[0] = (VirtqDesc){RAM - 8, 16, 0, 0};
    offer(&ring, 0);
    CHECK_EQ(pop(&ring), 1);
    CHECK(chain.readable == 2 && chain.readable_bytes == 16 && segments[0].iov.iov_len == 8);
    CHECK_EQ(segments[1].gpa, RAM);
    offer(&ring, 0);
    CHECK_EQ(virtqueue_pop(&ring.queue, &chain, segments, 1), -ENOSPC);
    CHECK_EQ(pop(&ring), 1); /* it was left in the ring */
    ring_free(&ring);
}

static void test_addresses(void)
{
    static const struct {
        uint16_t size;
        gpa_t desc, avail, used;
        int result;
    } cases[] = {
        {SIZE, DESC, AVAIL, USED, 0},
        {0, DESC, AVAIL, USED, -EINVAL},
        {6, DESC, AVAIL, USED, -EINVAL},
        {2 * SIZE, DESC, AVAIL, USED, -EINVAL},
        {SIZE, DESC + 8, AVAIL, USED, -EINVAL},
        {SIZE, DESC, AVAIL + 1, USED, -EINVAL},
        {SIZE, DESC, AVAIL, USED + 2, -EINVAL},
        {SIZE, 2 * RAM, AVAIL, USED, -EFAULT},
        {SIZE, DESC, 2 * RAM - 6, USED, -EFAULT},
        {SIZE, DESC, AVAIL, RAM, -EFAULT}, /* the used ring in ROM */
        {SIZE, UINT64_MAX & ~15ull, AVAIL, USED, -EFAULT},
    };
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        Ring ring;
        ring_new(&ring, false);
        virtqueue_reset(&ring.queue);
        CHECK(!ring.queue.enabled);
        ring.queue.size = cases[i].size;
        ring.queue.desc_gpa = cases[i].desc;
        ring.queue.avail_gpa = cases[i].avail;
        ring.queue.used_gpa = cases[i].used;
        CHECK_EQ(virtqueue_enable(&ring.queue), cases[i].result);
        CHECK_EQ(ring.queue.enabled, cases[i].result == 0);
        ring_free(&ring);
    }
}

static void push_one(Ring *ring) { virtqueue_push(&ring->queue, (VirtqToken){.descriptors = 1}, 0); }

static void test_suppression_by_flags(void)
{
    Ring ring;
    ring_new(&ring, false);
    push_one(&ring);
    ring.avail->flags = VIRTQ_AVAIL_F_NO_INTERRUPT;
    CHECK(!virtqueue_publish(&ring.queue));
    ring.avail->flags = 0;
    push_one(&ring);
    CHECK(virtqueue_publish(&ring.queue));
    virtqueue_disable_notify(&ring.queue);
    CHECK_EQ(ring.used->flags, VIRTQ_USED_F_NO_NOTIFY);
    CHECK(!virtqueue_enable_notify(&ring.queue));
    CHECK_EQ(ring.used->flags, 0);
    ring.avail->idx++;
    virtqueue_disable_notify(&ring.queue);
    CHECK(virtqueue_enable_notify(&ring.queue)); /* something came in between */
    ring_free(&ring);
}

static void test_suppression_by_event(void)
{
    Ring ring;
    ring_new(&ring, true);
    uint16_t *used_event = &ring.avail->ring[SIZE];
    const uint16_t *avail_event = (uint16_t *)&ring.used->ring[SIZE];
    virtqueue_set_indices(&ring.queue, 0xfff0, 0xfffe);
    ring.used->idx = 0xfffe;
    ring.avail->idx = 0xfff0;
    *used_event = 0x100;
    push_one(&ring);
    CHECK(virtqueue_publish(&ring.queue)); /* the first one after a start always tells */
    *used_event = 0;                       /* the index wraps: 0xffff, then 0, then 1 passes event 0 */
    push_one(&ring);
    CHECK(!virtqueue_publish(&ring.queue));
    push_one(&ring);
    CHECK(virtqueue_publish(&ring.queue));
    push_one(&ring);
    CHECK(!virtqueue_publish(&ring.queue));
    *used_event = 4;
    push_one(&ring);
    push_one(&ring);
    push_one(&ring);
    CHECK(virtqueue_publish(&ring.queue)); /* a batch that passes it */
    virtqueue_disable_notify(&ring.queue);
    CHECK_EQ(ring.used->flags, 0);
    CHECK(!virtqueue_enable_notify(&ring.queue));
    CHECK_EQ(*avail_event, 0xfff0);
    ring_free(&ring);
}

int main(void)
{
    RUN(test_chain);
    RUN(test_unpop);
    RUN(test_indirect);
    RUN(test_malformed);
    RUN(test_memslot_seam);
    RUN(test_addresses);
    RUN(test_suppression_by_flags);
    RUN(test_suppression_by_event);
    return 0;
}
