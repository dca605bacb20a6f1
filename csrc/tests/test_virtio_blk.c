/* The block device behind both interfaces: requests, batches, broken drivers, reset while the host works
 * (virtio 1.2 §5.2). */
#include <pthread.h>

#include "virtio_mock.h"

static void mock_up(Mock *mock, bool modern, uint64_t features)
{
    mock_new(mock, CLOCK_KIND_VIRTUAL, NULL, 0);
    mock_assign(mock, 11);
    mock_start(mock, modern, features);
}

static void fill(Mock *mock, gpa_t gpa, uint32_t bytes, uint8_t seed)
{
    uint8_t *data = mock_ram(mock, gpa);
    for (uint32_t i = 0; i < bytes; i++)
        data[i] = (uint8_t)(seed + i * 7 + (i >> 8));
}

static bool same(Mock *mock, gpa_t a, gpa_t b, uint32_t bytes)
{
    return memcmp(mock_ram(mock, a), mock_ram(mock, b), bytes) == 0;
}

static uint64_t faults_of(Mock *mock)
{
    VirtioCounters counters;
    virtio_counters(mock->blk, &counters);
    return counters.faults;
}

static void test_read_write(void)
{
    for (int modern = 0; modern < 2; modern++) {
        Mock mock;
        mock_up(&mock, modern, VIRTIO_BLK_F_FLUSH);
        fill(&mock, MOCK_DATA, 8192, 3);
        CHECK_EQ(mock_do(&mock, VIRTIO_BLK_T_OUT, 5, MOCK_DATA, 8192), VIRTIO_BLK_S_OK);
        CHECK_EQ(mock.used_ring->ring[0].len, 1);
        CHECK_EQ(mock_do(&mock, VIRTIO_BLK_T_FLUSH, 0, 0, 0), VIRTIO_BLK_S_OK);
        CHECK_EQ(mock_do(&mock, VIRTIO_BLK_T_IN, 5, MOCK_DATA + 0x10000, 8192), VIRTIO_BLK_S_OK);
        CHECK_EQ(mock.used_ring->ring[2].len, 8193);
        CHECK(same(&mock, MOCK_DATA, MOCK_DATA + 0x10000, 8192));
        uint8_t sector[512];
        CHECK_EQ(block_pread(mock.image, sector, 512, 20 * 512), 0);
        CHECK_EQ(memcmp(sector, (uint8_t *)mock_ram(&mock, MOCK_DATA) + 15 * 512, 512), 0);
        mock_free(&mock);
    }
}

static void test_get_id(void)
{
    Mock mock;
    VirtioBlkOptions options = {.serial = "pyvmm-disk-0"};
    mock_new(&mock, CLOCK_KIND_VIRTUAL, &options, 0);
    mock_assign(&mock, 11);
    mock_start(&mock, true, 0);
    memset(mock_ram(&mock, MOCK_DATA), 0xcc, 64);
    CHECK_EQ(mock_do(&mock, VIRTIO_BLK_T_GET_ID, 0, MOCK_DATA, 20), VIRTIO_BLK_S_OK);
    CHECK_EQ(memcmp(mock_ram(&mock, MOCK_DATA), "pyvmm-disk-0\0\0\0\0\0\0\0\0\xcc", 21), 0);
    CHECK_EQ(mock_do(&mock, VIRTIO_BLK_T_GET_ID, 0, MOCK_DATA, 4), VIRTIO_BLK_S_OK);
    CHECK_EQ(mock.used_ring->ring[1].len, 5);
    CHECK_EQ(mock_do(&mock, VIRTIO_BLK_T_GET_ID, 0, MOCK_DATA, 64), VIRTIO_BLK_S_OK);
    CHECK_EQ(mock.used_ring->ring[2].len, 20);
    mock_free(&mock);
}

static void test_refusals(void)
{
    Mock mock;
    mock_up(&mock, true, 0);
    uint64_t end = MOCK_DISK / 512;
    CHECK_EQ(mock_do(&mock, VIRTIO_BLK_T_IN, end, MOCK_DATA, 512), VIRTIO_BLK_S_IOERR);
    CHECK_EQ(mock.used_ring->ring[0].len, 0);
    CHECK_EQ(mock_do(&mock, VIRTIO_BLK_T_OUT, end - 1, MOCK_DATA, 1024), VIRTIO_BLK_S_IOERR);
    CHECK_EQ(mock_do(&mock, VIRTIO_BLK_T_IN, UINT64_MAX, MOCK_DATA, 512), VIRTIO_BLK_S_IOERR);
    CHECK_EQ(mock_do(&mock, VIRTIO_BLK_T_IN, UINT64_MAX / 512 + 1, MOCK_DATA, 512), VIRTIO_BLK_S_IOERR);
    CHECK_EQ(mock_do(&mock, VIRTIO_BLK_T_IN, 0, MOCK_DATA, 500), VIRTIO_BLK_S_IOERR);
    CHECK_EQ(mock_do(&mock, 2, 0, MOCK_DATA, 512), VIRTIO_BLK_S_UNSUPP); /* legacy SCSI command */
    CHECK_EQ(mock_do(&mock, 0xffffffff, 0, MOCK_DATA, 512), VIRTIO_BLK_S_UNSUPP);
    CHECK_EQ(mock_do(&mock, VIRTIO_BLK_T_IN, end - 1, MOCK_DATA, 512), VIRTIO_BLK_S_OK);
    VirtioBlkCounters counters;
    virtio_blk_counters(mock.blk, &counters);
    CHECK(counters.errors == 7 && counters.reads == 5 && counters.bytes_read == 512 && faults_of(&mock) == 0);
    mock_free(&mock);
}

/* Memory that a request only names is not told to have changed: a refused request costs nothing. */
static void test_unchanged_memory(void)
{
    Mock mock;
    uint64_t dirty[MOCK_RAM_END / GUEST_PAGE_SIZE / 64];
    mock_new(&mock, CLOCK_KIND_VIRTUAL, NULL, 0);
    mock_assign(&mock, 11);
    mock_start(&mock, true, VIRTIO_BLK_F_FLUSH);
    guest_memory_take_dirty(mock.board->memory, 2, dirty); /* MOCK_DATA's */
    CHECK_EQ(mock_do(&mock, VIRTIO_BLK_T_IN, MOCK_DISK / 512, MOCK_DATA, 65536), VIRTIO_BLK_S_IOERR);
    CHECK_EQ(guest_memory_take_dirty(mock.board->memory, 2, dirty), 0);
    CHECK_EQ(mock_do(&mock, VIRTIO_BLK_T_GET_ID, 0, MOCK_DATA, 65536), VIRTIO_BLK_S_OK);
    CHECK_EQ(guest_memory_take_dirty(mock.board->memory, 2, dirty), 1);
    CHECK_EQ(mock_do(&mock, VIRTIO_BLK_T_IN, 0, MOCK_DATA, 65536), VIRTIO_BLK_S_OK);
    CHECK_EQ(guest_memory_take_dirty(mock.board->memory, 2, dirty), 16);
    mock_free(&mock);
}

static void test_read_only(void)
{
    Mock mock;
    mock_new(&mock, CLOCK_KIND_VIRTUAL, NULL, BLOCK_READ_ONLY);
    mock_assign(&mock, 11);
    CHECK(mock_in(&mock, MOCK_IO, 4) & VIRTIO_BLK_F_RO);
    CHECK(!(mock_in(&mock, MOCK_IO, 4) & (VIRTIO_BLK_F_DISCARD | VIRTIO_BLK_F_CONFIG_WCE)));
    mock_start(&mock, false, VIRTIO_BLK_F_RO);
    CHECK_EQ(mock_do(&mock, VIRTIO_BLK_T_IN, 0, MOCK_DATA, 512), VIRTIO_BLK_S_OK);
    CHECK_EQ(mock_do(&mock, VIRTIO_BLK_T_OUT, 0, MOCK_DATA, 512), VIRTIO_BLK_S_IOERR);
    CHECK_EQ(mock_do(&mock, VIRTIO_BLK_T_DISCARD, 0, MOCK_DATA, 16), VIRTIO_BLK_S_IOERR);
    mock_free(&mock);
}

static void put_range(Mock *mock, uint32_t index, uint64_t sector, uint32_t sectors, uint32_t flags)
{
    uint8_t *range = (uint8_t *)mock_ram(mock, MOCK_DATA) + 16 * index;
    store_le64(range, sector);
    store_le32(range + 8, sectors);
    store_le32(range + 12, flags);
}

static void test_discard_and_zeroes(void)
{
    Mock mock;
    mock_up(&mock, true, VIRTIO_BLK_F_DISCARD | VIRTIO_BLK_F_WRITE_ZEROES);
    gpa_t pattern = MOCK_DATA + 0x10000, back = MOCK_DATA + 0x20000;
    fill(&mock, pattern, 16384, 9);
    CHECK_EQ(mock_do(&mock, VIRTIO_BLK_T_OUT, 0, pattern, 16384), VIRTIO_BLK_S_OK);
    put_range(&mock, 0, 0, 8, 0);
    put_range(&mock, 1, 16, 8, 1);
    CHECK_EQ(mock_do(&mock, VIRTIO_BLK_T_WRITE_ZEROES, 0, MOCK_DATA, 32), VIRTIO_BLK_S_OK);
    CHECK_EQ(mock_do(&mock, VIRTIO_BLK_T_IN, 0, back, 16384), VIRTIO_BLK_S_OK);
    memset(mock_ram(&mock, pattern), 0, 4096);
    memset(mock_ram(&mock, pattern + 8192), 0, 4096);
    CHECK(same(&mock, pattern, back, 16384));
    put_range(&mock, 0, 24, 8, 0);
    CHECK_EQ(mock_do(&mock, VIRTIO_BLK_T_DISCARD, 0, MOCK_DATA, 16), VIRTIO_BLK_S_OK);
    put_range(&mock, 0, 8, 8, 1); /* unmap means nothing to a discard: unsupported */
    CHECK_EQ(mock_do(&mock, VIRTIO_BLK_T_DISCARD, 0, MOCK_DATA, 16), VIRTIO_BLK_S_UNSUPP);
    put_range(&mock, 0, 8, 8, 2);
    CHECK_EQ(mock_do(&mock, VIRTIO_BLK_T_WRITE_ZEROES, 0, MOCK_DATA, 16), VIRTIO_BLK_S_UNSUPP);
    put_range(&mock, 0, 8, 8, 0);
    put_range(&mock, 1, MOCK_DISK / 512 - 1, 2, 0); /* one is bad: none is done */
    CHECK_EQ(mock_do(&mock, VIRTIO_BLK_T_WRITE_ZEROES, 0, MOCK_DATA, 32), VIRTIO_BLK_S_IOERR);
    CHECK_EQ(mock_do(&mock, VIRTIO_BLK_T_WRITE_ZEROES, 0, MOCK_DATA, 20), VIRTIO_BLK_S_IOERR);
    CHECK_EQ(mock_do(&mock, VIRTIO_BLK_T_WRITE_ZEROES, 0, MOCK_DATA, 33 * 16), VIRTIO_BLK_S_IOERR);
    CHECK_EQ(mock_do(&mock, VIRTIO_BLK_T_WRITE_ZEROES, 0, 0, 0), VIRTIO_BLK_S_IOERR);
    CHECK_EQ(mock_do(&mock, VIRTIO_BLK_T_IN, 0, back, 16384 - 4096), VIRTIO_BLK_S_OK);
    CHECK(same(&mock, pattern, back, 16384 - 4096));
    mock_free(&mock);
}

/* §5.2.6.4, §2.7.4: any layout; here header in two, status with the data, all of it indirect. */
static void test_any_layout(void)
{
    Mock mock;
    mock_up(&mock, true, VIRTIO_F_INDIRECT_DESC);
    fill(&mock, MOCK_DATA, 1024, 1);
    CHECK_EQ(mock_do(&mock, VIRTIO_BLK_T_OUT, 0, MOCK_DATA, 1024), VIRTIO_BLK_S_OK);
    gpa_t back = MOCK_SEAM - 700; /* data across two memslots */
    memset(mock_ram(&mock, back), 0, 700);
    mock_header(&mock, 0, VIRTIO_BLK_T_IN, 0);
    VirtqDesc *table = mock_ram(&mock, MOCK_INDIRECT);
    table[0] = (VirtqDesc){MOCK_HEADERS, 5, VIRTQ_DESC_F_NEXT, 1};
    table[1] = (VirtqDesc){MOCK_HEADERS + 5, 11, VIRTQ_DESC_F_NEXT, 2};
    table[2] = (VirtqDesc){back, 1025, VIRTQ_DESC_F_WRITE, 0};
    *((uint8_t *)mock_ram(&mock, back + 1024)) = 0xee;
    mock_desc(&mock, 0, MOCK_INDIRECT, 48, VIRTQ_DESC_F_INDIRECT, 0);
    mock_make_available(&mock, 0);
    mock_kick(&mock);
    CHECK_EQ(mock_used_idx(&mock), 2);
    CHECK_EQ(mock.used_ring->ring[1].len, 1025);
    CHECK_EQ(*(uint8_t *)mock_ram(&mock, back + 1024), 0);
    uint8_t bytes[1024];
    CHECK_EQ(guest_memory_read(mock.board->memory, back, bytes, 1024), 0);
    CHECK_EQ(memcmp(bytes, mock_ram(&mock, MOCK_DATA), 1024), 0);
    mock_header(&mock, 1, VIRTIO_BLK_T_OUT, 8); /* header and data in one buffer */
    mock_header(&mock, 2, 0, 0);
    memset(mock_ram(&mock, MOCK_HEADERS + 32), 0x5a, 512);
    mock_desc(&mock, 0, MOCK_HEADERS + 16, 16 + 512, VIRTQ_DESC_F_NEXT, 1);
    mock_desc(&mock, 1, MOCK_STATUS + 1, 1, VIRTQ_DESC_F_WRITE, 0);
    mock_make_available(&mock, 0);
    mock_kick(&mock);
    CHECK_EQ(mock_result(&mock, 1), VIRTIO_BLK_S_OK);
    CHECK_EQ(block_pread(mock.image, bytes, 512, 8 * 512), 0);
    CHECK_EQ(bytes[511], 0x5a);
    mock_free(&mock);
}

static void test_batch_and_merge(void)
{
    Mock mock;
    MockIrqs irqs = {0};
    mock_new(&mock, CLOCK_KIND_VIRTUAL, NULL, 0);
    irq_router_add_sink(mock.board->irqs, mock_irq_sink, &irqs);
    mock_assign(&mock, 11);
    mock_start(&mock, true, 0);
    fill(&mock, MOCK_DATA, 40 * 512, 77);
    for (uint16_t i = 0; i < 40; i++) /* neighbours, except that one in the middle is beyond the disk */
        mock_queue(&mock, i, VIRTIO_BLK_T_OUT, i == 20 ? 1 << 20 : i, MOCK_DATA + 512u * i, 512);
    mock_kick(&mock);
    CHECK_EQ(mock_used_idx(&mock), 40);
    for (uint16_t i = 0; i < 40; i++) {
        CHECK_EQ(mock.used_ring->ring[i].id, 3 * i);
        CHECK_EQ(mock_result(&mock, i), i == 20 ? VIRTIO_BLK_S_IOERR : VIRTIO_BLK_S_OK);
    }
    VirtioBlkCounters counters;
    virtio_blk_counters(mock.blk, &counters);
    CHECK(counters.batches == 1 && counters.host_calls == 2 && counters.writes == 40);
    CHECK_EQ(irqs.edges[11], 1);
    uint8_t sector[512];
    for (uint32_t i = 0; i < 40; i++) {
        CHECK_EQ(block_pread(mock.image, sector, 512, 512u * i), 0);
        if (i != 20)
            CHECK_EQ(memcmp(sector, mock_ram(&mock, MOCK_DATA + 512u * i), 512), 0);
        else
            CHECK_EQ(sector[0] | sector[511], 0);
    }
    for (uint16_t i = 0; i < 40; i++) /* and back: one call */
        mock_queue(&mock, i, VIRTIO_BLK_T_IN, i, MOCK_DATA + 0x10000 + 512u * i, 512);
    mock_kick(&mock);
    memset(mock_ram(&mock, MOCK_DATA + 20 * 512), 0, 512);
    CHECK(same(&mock, MOCK_DATA, MOCK_DATA + 0x10000, 40 * 512));
    virtio_blk_counters(mock.blk, &counters);
    CHECK_EQ(counters.host_calls, 3);
    mock_free(&mock);
}

static void test_write_through(void)
{
    /* No flush possible, or the cache turned off: what completes is on the image (cannot be seen, so only that it
     * works). */
    Mock mock;
    mock_up(&mock, true, VIRTIO_BLK_F_CONFIG_WCE | VIRTIO_BLK_F_FLUSH);
    mock_modern_write(&mock, VIRTIO_PCI_DEVICE + BLK_CONFIG_WRITEBACK, 1, 0);
    CHECK_EQ(mock_do(&mock, VIRTIO_BLK_T_OUT, 0, MOCK_DATA, 512), VIRTIO_BLK_S_OK);
    mock_start(&mock, false, 0);
    CHECK_EQ(mock_modern_read(&mock, VIRTIO_PCI_DEVICE + BLK_CONFIG_WRITEBACK, 1), 1); /* reset puts it back */
    CHECK_EQ(mock_do(&mock, VIRTIO_BLK_T_OUT, 0, MOCK_DATA, 512), VIRTIO_BLK_S_OK);
    mock_free(&mock);
}

/* After a good request, whatever `spoil` makes available ends in DEVICE_NEEDS_RESET; the good one before it counts.
 */
static void broken(void (*spoil)(Mock *mock), const char *why)
{
    Mock mock;
    char text[200];
    mock_up(&mock, true, VIRTIO_F_INDIRECT_DESC);
    mock_queue(&mock, 0, VIRTIO_BLK_T_IN, 0, MOCK_DATA, 512);
    spoil(&mock);
    mock_kick(&mock);
    CHECK(mock_status(&mock) & VIRTIO_STATUS_NEEDS_RESET);
    CHECK(mock_isr(&mock) & VIRTIO_ISR_CONFIG);
    CHECK(event_log_take(mock.board->log, text, sizeof text) && strstr(text, why));
    CHECK_EQ(faults_of(&mock), 1);
    mock_kick(&mock); /* dead until reset */
    CHECK_EQ(faults_of(&mock), 1);
    mock_start(&mock, true, 0);
    CHECK_EQ(mock_do(&mock, VIRTIO_BLK_T_IN, 0, MOCK_DATA, 512), VIRTIO_BLK_S_OK);
    mock_free(&mock);
}

static void spoil_loop(Mock *mock)
{
    mock_desc(mock, 50, MOCK_HEADERS, 16, VIRTQ_DESC_F_NEXT, 51);
    mock_desc(mock, 51, MOCK_HEADERS, 16, VIRTQ_DESC_F_NEXT, 50);
    mock_make_available(mock, 50);
}

static void spoil_address(Mock *mock) { mock_queue(mock, 20, VIRTIO_BLK_T_IN, 0, 0xfee00000, 512); }

static void spoil_no_header(Mock *mock)
{
    mock_queue(mock, 20, VIRTIO_BLK_T_IN, 0, MOCK_DATA, 512);
    mock->desc[60].len = 15;
}

static void spoil_no_status(Mock *mock)
{
    mock_queue(mock, 20, VIRTIO_BLK_T_OUT, 0, MOCK_DATA, 512);
    mock->desc[62].flags = 0;
}

static void spoil_order(Mock *mock)
{
    mock_queue(mock, 20, VIRTIO_BLK_T_IN, 0, MOCK_DATA, 512);
    mock->desc[62].flags = 0;
}

static void spoil_index(Mock *mock) { mock->avail_ring->idx = (uint16_t)(mock->avail + 1000); }

static void spoil_head(Mock *mock) { mock_make_available(mock, 0x8000); }

static void spoil_pieces(Mock *mock)
{
    VirtqDesc *table = mock_ram(mock, MOCK_INDIRECT);
    for (uint16_t i = 0; i < 300; i++) /* more than the longest chain that the device offers */
        table[i] = (VirtqDesc){MOCK_DATA, 16, i < 299 ? VIRTQ_DESC_F_NEXT : 0, (uint16_t)(i + 1)};
    mock_desc(mock, 60, MOCK_INDIRECT, 300 * 16, VIRTQ_DESC_F_INDIRECT, 0);
    mock_make_available(mock, 60);
}

static void test_broken_drivers(void)
{
    broken(spoil_loop, "loops or is longer");
    broken(spoil_address, "not in writable RAM");
    broken(spoil_no_header, "without a whole header");
    broken(spoil_no_status, "without a status byte");
    broken(spoil_order, "readable buffer after");
    broken(spoil_index, "ahead by more");
    broken(spoil_head, "beyond its table");
    broken(spoil_pieces, "loops or is longer");
}

/* A ring without end: every request reads a sector over the available ring and over its own header, and what it
 * reads makes 64 more available and names the next sector. 1024 sectors bring the index round. */
static void make_endless(Mock *mock)
{
    uint8_t sector[512] = {0};
    const uint32_t header = 272; /* in the sector, after the ring */
    mock->size = 128;
    gpa_t avail = MOCK_RINGS + 16u * mock->size;
    for (uint32_t i = 0; i <= 1024; i++) {
        store_le16(sector + 2, (uint16_t)(64 * (i + 1)));
        store_le32(sector + header, VIRTIO_BLK_T_IN);
        store_le64(sector + header + 8, i % 1024 + 1);
        CHECK_EQ(block_pwrite(mock->image, sector, 512, 512ull * i), 0);
    }
    mock_desc(mock, 0, avail + header, 16, VIRTQ_DESC_F_NEXT, 1);
    mock_desc(mock, 1, avail, 512, VIRTQ_DESC_F_NEXT | VIRTQ_DESC_F_WRITE, 2);
    mock_desc(mock, 2, MOCK_STATUS, 1, VIRTQ_DESC_F_WRITE, 0);
    CHECK_EQ(block_pread(mock->image, mock_ram(mock, avail), 512, 0), 0);
}

static void test_endless_ring(void)
{
    Mock mock;
    char text[200];
    mock_up(&mock, true, 0);
    make_endless(&mock);
    mock_kick(&mock); /* on the vCPU's thread: must come back */
    CHECK(mock_status(&mock) & VIRTIO_STATUS_NEEDS_RESET);
    CHECK(event_log_take(mock.board->log, text, sizeof text) && strstr(text, "never ends"));
    mock_free(&mock);
}

typedef struct Turn {
    uint32_t taken;
} Turn;

static void take_turn(void *opaque) { __atomic_fetch_add(&((Turn *)opaque)->taken, 1, __ATOMIC_SEQ_CST); }

static void test_endless_ring_is_fair(void)
{
    Mock mock;
    Turn turn = {0};
    mock_new(&mock, CLOCK_KIND_REALTIME, NULL, 0);
    IoNotifier *other = io_notifier_new(mock.board->io, take_turn, &turn);
    mock_assign(&mock, 11);
    mock_start(&mock, true, 0);
    make_endless(&mock);
    mock_kick(&mock);
    for (uint32_t i = 0; i < 20; i++) { /* somebody else's work on the I/O thread is done all the same */
        io_notifier_kick(other);
        while (__atomic_load_n(&turn.taken, __ATOMIC_SEQ_CST) <= i)
            usleep(50);
    }
    VirtioBlkCounters counters;
    virtio_blk_counters(mock.blk, &counters);
    CHECK(counters.reads > 0 && faults_of(&mock) == 0);
    mock_set_status(&mock, 0);
    CHECK_EQ(mock_status(&mock), 0);
    io_notifier_free(other);
    mock_free(&mock);
}

static void wait_used(Mock *mock, uint16_t index)
{
    while (mock_used_idx(mock) != index)
        usleep(100);
}

/* §2.7.10: what a driver looks at after it added `count`; without a kick the device must see them by itself. */
static bool mock_wants_kick(Mock *mock, uint16_t count)
{
    if (!(mock->features & VIRTIO_F_EVENT_IDX))
        return !(__atomic_load_n(&mock->used_ring->flags, __ATOMIC_SEQ_CST) & VIRTQ_USED_F_NO_NOTIFY);
    uint16_t *event = (uint16_t *)&mock->used_ring->ring[mock->size];
    return (uint16_t)(mock->avail - __atomic_load_n(event, __ATOMIC_SEQ_CST) - 1) < count;
}

static void test_io_thread(void)
{
    for (int modern = 0; modern < 2; modern++) {
        Mock mock;
        mock_new(&mock, CLOCK_KIND_REALTIME, NULL, 0);
        mock_assign(&mock, 11);
        mock_start(&mock, modern, modern ? VIRTIO_F_EVENT_IDX : 0);
        for (int round = 0; round < 200; round++) {
            uint16_t count = (uint16_t)(1 + round % 40);
            for (uint16_t i = 0; i < count; i++)
                mock_queue(&mock, i, i % 3 ? VIRTIO_BLK_T_IN : VIRTIO_BLK_T_OUT, i, MOCK_DATA + 512u * i, 512);
            if (mock_wants_kick(&mock, count))
                mock_kick(&mock);
            wait_used(&mock, mock.avail);
        }
        VirtioBlkCounters counters;
        virtio_blk_counters(mock.blk, &counters);
        CHECK(counters.errors == 0 && faults_of(&mock) == 0 && counters.reads + counters.writes == mock.avail);
        mock_free(&mock);
    }
}

/* Holds the I/O thread inside a request: it tells of its first write to guest memory and waits. */
typedef struct Gate {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool armed, reached, open;
} Gate;

static void gate_written(void *opaque, gpa_t gpa, uint64_t size)
{
    Gate *gate = opaque;
    if (gpa != MOCK_DATA)
        return;
    pthread_mutex_lock(&gate->lock);
    gate->reached = true;
    pthread_cond_broadcast(&gate->changed);
    while (gate->armed && !gate->open)
        pthread_cond_wait(&gate->changed, &gate->lock);
    pthread_mutex_unlock(&gate->lock);
}

static void gate_wait(Gate *gate)
{
    pthread_mutex_lock(&gate->lock);
    while (!gate->reached)
        pthread_cond_wait(&gate->changed, &gate->lock);
    pthread_mutex_unlock(&gate->lock);
}

static void *open_gate_later(void *opaque)
{
    Gate *gate = opaque;
    usleep(20000);
    pthread_mutex_lock(&gate->lock);
    gate->open = true;
    pthread_cond_broadcast(&gate->changed);
    pthread_mutex_unlock(&gate->lock);
    return NULL;
}

static void test_reset_in_flight(void)
{
    for (int way = 0; way < 4; way++) {
        Mock mock;
        Gate gate = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, true, false, false};
        mock_new(&mock, CLOCK_KIND_REALTIME, NULL, 0);
        CHECK_EQ(guest_memory_add_listener(mock.board->memory, gate_written, &gate), 0);
        mock_assign(&mock, 11);
        mock_start(&mock, way != 2, 0);
        mock_queue(&mock, 0, VIRTIO_BLK_T_IN, 0, MOCK_DATA, 512);
        mock_kick(&mock);
        gate_wait(&gate);
        mock_status(&mock); /* registers answer while the host works */
        CHECK_EQ(mock_modern_read(&mock, VIRTIO_PCI_DEVICE, 4), MOCK_DISK / 512);
        mock_queue(&mock, 1, VIRTIO_BLK_T_IN, 0, MOCK_DATA + 4096, 512);
        mock_kick(&mock);
        pthread_t opener;
        pthread_create(&opener, NULL, open_gate_later, &gate);
        VirtioPciState *state = calloc(1, sizeof *state);
        if (way == 0) {
            mock_set_status(&mock, 0);
            CHECK_EQ(mock_status(&mock), 0);
        } else if (way == 1) {
            device_reset(mock.blk);
        } else if (way == 2) {
            mock_out(&mock, MOCK_IO + LEGACY_QUEUE_ADDRESS, 4, 0);
        } else {
            device_save(mock.blk, state); /* saved between requests: all that was taken is in the used ring */
            CHECK_EQ(state->virtio.queues[0].last_avail, state->virtio.queues[0].next_used);
            wait_used(&mock, 2); /* and the rest goes on afterwards */
        }
        CHECK(gate.open);
        CHECK(mock_used_idx(&mock) <= 2);
        pthread_join(opener, NULL);
        free(state);
        if (way == 1)
            mock_assign(&mock, 11);
        mock_start(&mock, true, 0);
        mock_queue(&mock, 0, VIRTIO_BLK_T_IN, 0, MOCK_DATA, 512);
        mock_kick(&mock);
        wait_used(&mock, 1);
        mock_free(&mock);
    }
}

/* One thread drives, another resets and saves all the time: nothing crashes, nothing stops for good. */
typedef struct Stress {
    Mock *mock;
    bool stop;
} Stress;

static void *stress_main(void *opaque)
{
    Stress *stress = opaque;
    VirtioPciState *state = calloc(1, sizeof *state);
    while (!__atomic_load_n(&stress->stop, __ATOMIC_RELAXED)) {
        device_save(stress->mock->blk, state);
        usleep(50);
    }
    free(state);
    return NULL;
}

static void test_save_under_load(void)
{
    Mock mock;
    Stress stress = {&mock, false};
    pthread_t thread;
    mock_new(&mock, CLOCK_KIND_REALTIME, NULL, 0);
    mock_assign(&mock, 11);
    mock_start(&mock, true, VIRTIO_F_EVENT_IDX);
    pthread_create(&thread, NULL, stress_main, &stress);
    for (int round = 0; round < 500; round++) {
        for (uint16_t i = 0; i < 8; i++)
            mock_queue(&mock, i, VIRTIO_BLK_T_IN, i, MOCK_DATA + 512u * i, 512);
        mock_kick(&mock);
        wait_used(&mock, mock.avail);
        if (round % 50 == 49)
            mock_start(&mock, true, VIRTIO_F_EVENT_IDX);
    }
    __atomic_store_n(&stress.stop, true, __ATOMIC_RELAXED);
    pthread_join(thread, NULL);
    mock_free(&mock);
}

static void test_options(void)
{
    Mock mock;
    Error error;
    mock_new(&mock, CLOCK_KIND_VIRTUAL, NULL, 0);
    VirtioPlace place = mock_place(&mock, 5), taken = mock_place(&mock, MOCK_SLOT);
    VirtioBlkOptions bad_queue = {.queue_size = 100}, bad_block = {.block_size = 8192};
    CHECK(!virtio_blk_new(mock.board, &place, mock.image, &bad_queue, &error));
    CHECK(!virtio_blk_new(mock.board, &place, mock.image, &bad_block, &error));
    CHECK(!virtio_blk_new(mock.board, &taken, mock.image, NULL, &error));
    CHECK_EQ(error.code, EEXIST);
    VirtioBlkOptions large = {.block_size = 4096, .queue_size = 16};
    Device *second = virtio_blk_new(mock.board, &place, mock.image, &large, &error);
    CHECK(second);
    device_free(second);
    mock_free(&mock);
}

int main(void)
{
    RUN(test_read_write);
    RUN(test_get_id);
    RUN(test_refusals);
    RUN(test_unchanged_memory);
    RUN(test_read_only);
    RUN(test_discard_and_zeroes);
    RUN(test_any_layout);
    RUN(test_batch_and_merge);
    RUN(test_write_through);
    RUN(test_broken_drivers);
    RUN(test_endless_ring);
    RUN(test_endless_ring_is_fair);
    RUN(test_io_thread);
    RUN(test_reset_in_flight);
    RUN(test_save_under_load);
    RUN(test_options);
    return 0;
}
