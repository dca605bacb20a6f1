/* The board's list of ioeventfds, with an engine played by the test; and virtio's use of it. */
#include "virtio_mock.h"

enum { MAX_KNOWN = 8 };

/* What an engine was told. */
typedef struct FakeEngine {
    IoEventFd known[MAX_KNOWN];
    uint32_t count;
    bool refuse;
} FakeEngine;

static int fake_set(void *opaque, const IoEventFd *entry, bool add)
{
    FakeEngine *engine = opaque;
    if (add && engine->refuse)
        return -ENOSPC;
    if (add) {
        CHECK(engine->count < MAX_KNOWN);
        engine->known[engine->count++] = *entry;
        return 0;
    }
    for (uint32_t i = 0; i < engine->count; i++)
        if (!memcmp(&engine->known[i], entry, sizeof *entry)) {
            engine->known[i] = engine->known[--engine->count];
            return 0;
        }
    CHECK(!"an entry is taken away that was never added");
    return -ENOENT;
}

static uint32_t active(IoEventFds *list)
{
    IoEventFdCounts counts;
    ioeventfds_counts(list, &counts);
    return counts.active;
}

static void test_what_may_be_added(void)
{
    IoEventFds *list = ioeventfds_new();
    const IoEventFd good = {.space = BUS_PIO, .address = 0xc010, .size = 2, .match = true, .value = 1, .fd = 7};
    const struct {
        IoEventFd entry;
        int result;
    } CASES[] = {
        {good, 0},
        {good, -EEXIST},
        {{.space = BUS_PIO, .address = 0xc010, .size = 2, .match = true, .value = 2, .fd = 8}, 0},
        {{.space = BUS_PIO, .address = 0xc010, .size = 4, .match = true, .value = 1, .fd = 8}, 0},
        {{.space = BUS_PIO, .address = 0xc010, .size = 2, .fd = 8}, -EEXIST},
        {{.space = BUS_PIO, .address = 0xc010, .fd = 8}, -EEXIST},
        {{.space = BUS_MMIO, .address = 0xc010, .fd = 8}, 0},
        {{.space = BUS_MMIO, .address = 0xd000, .size = 3, .fd = 8}, -EINVAL},
        {{.space = BUS_MMIO, .address = 0xd000, .size = 16, .fd = 8}, -EINVAL},
        {{.space = BUS_PIO, .address = 0xd000, .size = 8, .fd = 8}, -EINVAL},
        {{.space = BUS_PIO, .address = 0xffff, .size = 2, .fd = 8}, -EINVAL},
        {{.space = BUS_PIO, .address = 0x10000, .size = 1, .fd = 8}, -EINVAL},
        {{.space = BUS_MMIO, .address = UINT64_MAX, .size = 2, .fd = 8}, -EINVAL},
        {{.space = BUS_MMIO, .address = 0xd000, .match = true, .fd = 8}, -EINVAL},
        {{.space = BUS_MMIO, .address = 0xd000, .size = 2, .match = true, .value = 0x10000, .fd = 8}, -EINVAL},
        {{.space = BUS_MMIO, .address = 0xd000, .size = 2, .fd = -1}, -EINVAL},
    };
    for (size_t i = 0; i < ARRAY_SIZE(CASES); i++)
        CHECK_EQ(ioeventfd_add(list, &CASES[i].entry), CASES[i].result);
    IoEventFd other = good;
    other.fd = 9;
    CHECK_EQ(ioeventfd_remove(list, &other), -ENOENT);
    CHECK_EQ(ioeventfd_remove(list, &good), 0);
    CHECK_EQ(ioeventfd_remove(list, &good), -ENOENT);
    ioeventfds_free(list);
}

/* Engine, I/O threads, nobody looking: all three, in any order. */
static void test_when_the_engine_has_it(void)
{
    IoEventFds *list = ioeventfds_new();
    FakeEngine one = {0}, two = {0};
    const IoEventFd a = {.space = BUS_MMIO, .address = 0x1000, .fd = 7}, b = {.address = 0x2000, .fd = 8};
    CHECK_EQ(ioeventfd_add(list, &a), 0);
    ioeventfds_attach(list, fake_set, &one);
    CHECK_EQ(one.count, 0);
    ioeventfds_serve(list, true);
    CHECK_EQ(one.count, 1);
    CHECK_EQ(ioeventfd_add(list, &b), 0);
    CHECK_EQ(one.count, 2);
    ioeventfds_surface(list, true);
    CHECK_EQ(one.count, 0);
    ioeventfds_surface(list, true);
    ioeventfds_surface(list, false);
    CHECK_EQ(one.count, 2);
    ioeventfds_attach(list, NULL, NULL); /* the machine changes engines */
    CHECK_EQ(one.count, 0);
    ioeventfds_attach(list, fake_set, &two);
    CHECK_EQ(two.count, 2);
    ioeventfds_serve(list, false);
    CHECK_EQ(two.count, 0);
    ioeventfds_serve(list, true);
    CHECK_EQ(ioeventfd_remove(list, &a), 0);
    CHECK_EQ(two.count, 1);
    CHECK_EQ(two.known[0].address, 0x2000);
    ioeventfds_attach(list, NULL, NULL);

    FakeEngine full = {.refuse = true}; /* what it refuses is asked for again by the next one */
    IoEventFdCounts counts;
    ioeventfds_attach(list, fake_set, &full);
    ioeventfds_counts(list, &counts);
    CHECK(counts.entries == 1 && counts.active == 0 && counts.refused == 1);
    ioeventfds_attach(list, fake_set, &one);
    CHECK_EQ(active(list), 1);
    ioeventfds_attach(list, NULL, NULL);
    ioeventfds_free(list);
}

/* As the engine does when the guest writes what the entry says. */
static bool guest_writes(const FakeEngine *engine, enum BusKind space, uint64_t address)
{
    for (uint32_t i = 0; i < engine->count; i++)
        if (engine->known[i].space == space && engine->known[i].address == address)
            return write(engine->known[i].fd, &(uint64_t){1}, 8) == 8;
    return false;
}

static void wait_used(Mock *mock, uint16_t index)
{
    while (mock_used_idx(mock) != index)
        usleep(100);
}

static void test_virtio_notifications(void)
{
    for (int modern = 0; modern < 2; modern++) {
        Mock mock;
        FakeEngine engine = {0};
        VirtioCounters counters;
        mock_new_with_worker(&mock, CLOCK_KIND_REALTIME);
        ioeventfds_attach(mock.board->ioeventfds, fake_set, &engine);
        mock_assign(&mock, 11);
        CHECK_EQ(engine.count, 0);
        mock_start(&mock, modern, 0);
        CHECK_EQ(engine.count, 1);
        CHECK_EQ(engine.known[0].match, !modern);
        CHECK_EQ(engine.known[0].size, modern ? IOEVENTFD_ANY_SIZE : 2);
        for (uint16_t i = 1; i <= 50; i++) {
            mock_queue(&mock, 0, VIRTIO_BLK_T_IN, 0, MOCK_DATA, 512);
            CHECK(modern ? guest_writes(&engine, BUS_MMIO, MOCK_MMIO + VIRTIO_PCI_NOTIFY)
                         : guest_writes(&engine, BUS_PIO, MOCK_IO + LEGACY_QUEUE_NOTIFY));
            wait_used(&mock, i);
        }
        mock_queue(&mock, 0, VIRTIO_BLK_T_IN, 0, MOCK_DATA, 512);
        mock_kick(&mock); /* the bus is answered all the same */
        wait_used(&mock, 51);
        virtio_counters(mock.blk, &counters);
        CHECK_EQ(counters.kicks, 1);
        CHECK_EQ(counters.signals, 50);
        mock_free(&mock);
    }
}

/* Where the BARs go the entry goes; where they do not answer, and after a reset, there is none. */
static void test_virtio_places(void)
{
    Mock mock;
    FakeEngine engine = {0};
    uint32_t devfn = PCI_DEVFN(MOCK_SLOT, 0);
    uint32_t all = PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER;
    mock_new_with_worker(&mock, CLOCK_KIND_REALTIME);
    IoEventFds *list = mock.board->ioeventfds;
    ioeventfds_attach(list, fake_set, &engine);
    mock_assign(&mock, 11);
    mock_start(&mock, true, 0);
    mock_config_write(&mock, devfn, PCI_BAR0 + 16, 4, MOCK_MMIO + 0x100000);
    CHECK(engine.count == 1 && engine.known[0].address == MOCK_MMIO + 0x100000 + VIRTIO_PCI_NOTIFY);
    mock_config_write(&mock, devfn, PCI_BAR0 + 16, 4, MOCK_MMIO);
    mock_config_write(&mock, devfn, PCI_COMMAND, 2, PCI_COMMAND_IO | PCI_COMMAND_MASTER);
    CHECK_EQ(engine.count, 0);
    mock_config_write(&mock, devfn, PCI_COMMAND, 2, all);
    CHECK_EQ(engine.count, 1);
    VirtioPciState *state = calloc(1, sizeof *state);
    device_save(mock.blk, state);
    mock_set_status(&mock, 0);
    CHECK_EQ(engine.count, 0);
    CHECK_EQ(device_restore(mock.blk, state), 0);
    CHECK(engine.count == 1 && engine.known[0].space == BUS_MMIO);
    free(state);
    device_reset(mock.blk);
    CHECK_EQ(engine.count, 0);
    mock_assign(&mock, 11);
    mock_start(&mock, false, 0);
    CHECK(engine.count == 1 && engine.known[0].space == BUS_PIO);
    mock_config_write(&mock, devfn, PCI_BAR0, 4, MOCK_IO + 0x400);
    CHECK(engine.count == 1 && engine.known[0].address == MOCK_IO + 0x400 + LEGACY_QUEUE_NOTIFY);
    mock_config_write(&mock, devfn, PCI_BAR0, 4, MOCK_IO);
    mock_out(&mock, MOCK_IO + LEGACY_QUEUE_ADDRESS, 4, 0); /* the queue is taken away */
    CHECK_EQ(engine.count, 0);
    mock_out(&mock, MOCK_IO + LEGACY_QUEUE_ADDRESS, 4, MOCK_RINGS / 4096);
    CHECK_EQ(engine.count, 1);
    board_stop_io(mock.board); /* nobody looks at the eventfd: the bus answers */
    CHECK_EQ(engine.count, 0);
    CHECK_EQ(board_start_io(mock.board, NULL), 0);
    CHECK_EQ(engine.count, 1);
    device_free(mock.blk);
    IoEventFdCounts counts;
    ioeventfds_counts(list, &counts);
    CHECK(engine.count == 0 && counts.entries == 0);
    mock.blk = NULL;
    mock_free(&mock);
}

static void test_off(void)
{
    Mock mock;
    FakeEngine engine = {0};
    mock_new_placed(&mock, CLOCK_KIND_REALTIME, (VirtioPlace){.no_ioeventfd = true});
    ioeventfds_attach(mock.board->ioeventfds, fake_set, &engine);
    mock_assign(&mock, 11);
    mock_start(&mock, true, 0);
    CHECK_EQ(engine.count, 0);
    mock_free(&mock);
}

int main(void)
{
    RUN(test_what_may_be_added);
    RUN(test_when_the_engine_has_it);
    RUN(test_virtio_notifications);
    RUN(test_virtio_places);
    RUN(test_off);
    return 0;
}
