/* A virtio disk over MMIO, from a driver that goes by virtio 1.2 §4.2 alone. */
#include <unistd.h>

#include "check.h"
#include "virtio/virtio_blk.h"
#include "virtio/virtio_mmio.h"

enum { BASE = 0xfeb00000, IRQ = 12, SIZE = 16, RING = 0x10000, HEADER = 0x20000, DATA = 0x30000, RAM = 0x100000 };
enum { ACKNOWLEDGE = 1, DRIVER = 2, DRIVER_OK = 4, FEATURES_OK = 8, NEEDS_RESET = 64 };

typedef struct Machine {
    Board *board;
    BlockImage *image;
    Device *blk;
    char path[32];
    bool level;
    uint16_t sent;
} Machine;

static void sink(void *opaque, uint32_t gsi, bool level)
{
    if (gsi == IRQ)
        *(bool *)opaque = level;
}

static void machine_new(Machine *machine, bool legacy, uint64_t offer)
{
    Error error;
    memset(machine, 0, sizeof *machine);
    machine->board = board_new(CLOCK_KIND_VIRTUAL, &error);
    CHECK_EQ(guest_memory_add(machine->board->memory, 0, RAM, 0, &error), 0);
    strcpy(machine->path, "/tmp/pyvmm-test-XXXXXX");
    int fd = mkstemp(machine->path);
    CHECK(fd >= 0 && ftruncate(fd, 1 << 16) == 0);
    close(fd);
    machine->image = block_open(machine->path, "raw", BLOCK_CACHE_UNSAFE, 0, &error);
    irq_router_add_sink(machine->board->irqs, sink, &machine->level);
    VirtioPlace place = {
        .line = irq_line_new(machine->board->irqs, IRQ), .base = BASE, .legacy = legacy, .offer = offer};
    machine->blk = virtio_blk_new(machine->board, &place, machine->image, NULL, &error);
    CHECK(machine->blk);
    CHECK_EQ(device_map(machine->blk, machine->board->mmio, BASE, MMIO_SIZE, 0, &error), 0);
}

static void machine_free(Machine *machine)
{
    device_free(machine->blk);
    block_close(machine->image);
    board_free(machine->board);
    unlink(machine->path);
}

static uint32_t get(Machine *machine, uint64_t offset)
{
    uint64_t value = 0;
    CHECK(bus_read(machine->board->mmio, BASE + offset, 4, &value));
    return (uint32_t)value;
}

static void put(Machine *machine, uint64_t offset, uint32_t value)
{
    CHECK(bus_write(machine->board->mmio, BASE + offset, 4, value));
}

static void *ram(Machine *machine, gpa_t gpa) { return guest_memory_ptr(machine->board->memory, gpa, 1, true); }

/* §3.1.1 with version 2; the rings lie in one block as the legacy layout has them. */
static void start(Machine *machine, uint64_t features)
{
    put(machine, MMIO_STATUS, 0);
    put(machine, MMIO_STATUS, ACKNOWLEDGE | DRIVER);
    for (uint32_t word = 0; word < 2; word++) {
        put(machine, MMIO_DRIVER_FEATURES_SEL, word);
        put(machine, MMIO_DRIVER_FEATURES, (uint32_t)((features | VIRTIO_F_VERSION_1) >> (32 * word)));
    }
    put(machine, MMIO_STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK);
    CHECK_EQ(get(machine, MMIO_STATUS), ACKNOWLEDGE | DRIVER | FEATURES_OK);
    put(machine, MMIO_QUEUE_SEL, 0);
    CHECK_EQ(get(machine, MMIO_QUEUE_READY), 0);
    CHECK(get(machine, MMIO_QUEUE_SIZE_MAX) >= SIZE);
    memset(ram(machine, RING), 0, 0x4000);
    put(machine, MMIO_QUEUE_SIZE, SIZE);
    put(machine, MMIO_QUEUE_DESC, RING);
    put(machine, MMIO_QUEUE_DESC + 4, 0);
    put(machine, MMIO_QUEUE_DRIVER, RING + 16 * SIZE);
    put(machine, MMIO_QUEUE_DRIVER + 4, 0);
    put(machine, MMIO_QUEUE_DEVICE, RING + 0x1000);
    put(machine, MMIO_QUEUE_DEVICE + 4, 0);
    put(machine, MMIO_QUEUE_READY, 1);
    CHECK_EQ(get(machine, MMIO_QUEUE_READY), 1);
    put(machine, MMIO_STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
    machine->sent = 0;
}

/* §4.2.4: version 1, by a page frame. */
static void start_legacy(Machine *machine)
{
    put(machine, MMIO_STATUS, 0);
    put(machine, MMIO_STATUS, ACKNOWLEDGE | DRIVER);
    put(machine, MMIO_GUEST_PAGE_SIZE, 4096);
    put(machine, MMIO_DRIVER_FEATURES_SEL, 0);
    put(machine, MMIO_DRIVER_FEATURES, 0);
    put(machine, MMIO_QUEUE_SEL, 0);
    CHECK_EQ(get(machine, MMIO_QUEUE_PFN), 0);
    memset(ram(machine, RING), 0, 0x4000);
    put(machine, MMIO_QUEUE_SIZE, SIZE);
    put(machine, MMIO_QUEUE_ALIGN, 4096);
    put(machine, MMIO_QUEUE_PFN, RING / 4096);
    CHECK_EQ(get(machine, MMIO_QUEUE_PFN), RING / 4096);
    put(machine, MMIO_STATUS, ACKNOWLEDGE | DRIVER | DRIVER_OK);
    machine->sent = 0;
}

/* One request; its status byte, after the interrupt was seen and acknowledged. */
static uint8_t request(Machine *machine, uint32_t type, uint64_t sector, bool to_device)
{
    VirtqDesc *desc = ram(machine, RING);
    VirtqAvail *avail = ram(machine, RING + 16 * SIZE);
    VirtqUsed *used = ram(machine, RING + 0x1000);
    uint8_t *header = ram(machine, HEADER);
    memset(header, 0, 17);
    store_le32(header, type);
    store_le64(header + 8, sector);
    header[16] = 0xee;
    desc[0] = (VirtqDesc){HEADER, 16, VIRTQ_DESC_F_NEXT, 1};
    desc[1] = (VirtqDesc){DATA, 512, VIRTQ_DESC_F_NEXT | (to_device ? 0 : VIRTQ_DESC_F_WRITE), 2};
    desc[2] = (VirtqDesc){HEADER + 16, 1, VIRTQ_DESC_F_WRITE, 0};
    avail->idx = ++machine->sent;
    CHECK(!machine->level);
    put(machine, MMIO_QUEUE_NOTIFY, 0);
    CHECK_EQ(used->idx, machine->sent);
    CHECK(machine->level);
    CHECK_EQ(get(machine, MMIO_INTERRUPT_STATUS), VIRTIO_ISR_QUEUE);
    CHECK(machine->level); /* reading it does not take it away, unlike PCI's */
    put(machine, MMIO_INTERRUPT_ACK, VIRTIO_ISR_QUEUE);
    CHECK(!machine->level && get(machine, MMIO_INTERRUPT_STATUS) == 0);
    return header[16];
}

static void test_identity(void)
{
    for (int legacy = 0; legacy < 2; legacy++) {
        Machine machine;
        machine_new(&machine, legacy, 0);
        CHECK_EQ(get(&machine, MMIO_MAGIC), VIRTIO_MMIO_MAGIC);
        CHECK_EQ(get(&machine, MMIO_VERSION), legacy ? 1 : 2);
        CHECK_EQ(get(&machine, MMIO_DEVICE_ID), 2);
        put(&machine, MMIO_DEVICE_FEATURES_SEL, 1);
        CHECK_EQ(get(&machine, MMIO_DEVICE_FEATURES) & 1, !legacy); /* VERSION_1 */
        put(&machine, MMIO_DEVICE_FEATURES_SEL, 2);
        CHECK_EQ(get(&machine, MMIO_DEVICE_FEATURES), 0);
        put(&machine, MMIO_QUEUE_SEL, 1); /* there is one queue */
        CHECK_EQ(get(&machine, MMIO_QUEUE_SIZE_MAX), 0);
        put(&machine, MMIO_QUEUE_READY, 1);
        put(&machine, MMIO_QUEUE_PFN, 1);
        CHECK_EQ(get(&machine, MMIO_SHM_LEN), legacy ? 0 : UINT32_MAX);
        CHECK_EQ(get(&machine, MMIO_CONFIG), (1 << 16) / 512); /* capacity */
        uint64_t byte;
        CHECK(bus_read(machine.board->mmio, BASE + MMIO_CONFIG, 1, &byte) && byte == 128);
        CHECK(bus_read(machine.board->mmio, BASE + MMIO_MAGIC, 1, &byte) && byte == 0); /* 32 bits at a time */
        machine_free(&machine);
    }
}

static void test_requests(void)
{
    for (int legacy = 0; legacy < 2; legacy++) {
        Machine machine;
        machine_new(&machine, legacy, 0);
        for (int round = 0; round < 2; round++) {
            if (legacy)
                start_legacy(&machine);
            else
                start(&machine, 0);
            memset(ram(&machine, DATA), 0x5a, 512);
            CHECK_EQ(request(&machine, VIRTIO_BLK_T_OUT, 3, true), VIRTIO_BLK_S_OK);
            memset(ram(&machine, DATA), 0, 512);
            CHECK_EQ(request(&machine, VIRTIO_BLK_T_IN, 3, false), VIRTIO_BLK_S_OK);
            CHECK_EQ(*(uint8_t *)ram(&machine, DATA + 511), 0x5a);
            CHECK_EQ(request(&machine, VIRTIO_BLK_T_IN, 1 << 20, false), VIRTIO_BLK_S_IOERR);
        }
        machine_free(&machine);
    }
}

static void test_queue_goes_and_comes(void)
{
    Machine machine;
    machine_new(&machine, false, 0);
    for (int by_reset = 0; by_reset < 2; by_reset++) {
        start(&machine, by_reset ? VIRTIO_F_RING_RESET : 0);
        CHECK_EQ(request(&machine, VIRTIO_BLK_T_IN, 0, false), VIRTIO_BLK_S_OK);
        put(&machine, MMIO_QUEUE_SIZE, 8); /* fixed while it is ready */
        put(&machine, MMIO_QUEUE_RESET, 1);
        CHECK_EQ(get(&machine, MMIO_QUEUE_READY), !by_reset);
        put(&machine, MMIO_QUEUE_READY, 0);
        CHECK_EQ(get(&machine, MMIO_QUEUE_READY), 0);
        CHECK_EQ(get(&machine, MMIO_QUEUE_RESET), 0);
        put(&machine, MMIO_QUEUE_NOTIFY, 0); /* nobody is there */
        CHECK_EQ(get(&machine, MMIO_STATUS) & NEEDS_RESET, 0);
    }
    machine_free(&machine);
}

static void test_needs_reset(void)
{
    Machine machine;
    machine_new(&machine, false, 0);
    start(&machine, 0);
    VirtqAvail *avail = ram(&machine, RING + 16 * SIZE);
    avail->ring[0] = SIZE;
    avail->idx = 1;
    put(&machine, MMIO_QUEUE_NOTIFY, 0);
    CHECK(get(&machine, MMIO_STATUS) & NEEDS_RESET);
    CHECK(machine.level && get(&machine, MMIO_INTERRUPT_STATUS) == VIRTIO_ISR_CONFIG);
    start(&machine, 0);
    CHECK(!machine.level);
    put(&machine, MMIO_QUEUE_READY, 0); /* a ring outside RAM */
    put(&machine, MMIO_QUEUE_DESC + 4, 1);
    put(&machine, MMIO_QUEUE_READY, 1);
    CHECK(get(&machine, MMIO_STATUS) & NEEDS_RESET);
    start(&machine, 0);
    CHECK_EQ(request(&machine, VIRTIO_BLK_T_IN, 0, false), VIRTIO_BLK_S_OK);
    machine_free(&machine);

    machine_new(&machine, true, 0); /* §4.2.4: an alignment that nobody uses */
    put(&machine, MMIO_STATUS, ACKNOWLEDGE | DRIVER);
    put(&machine, MMIO_GUEST_PAGE_SIZE, 4096);
    put(&machine, MMIO_QUEUE_ALIGN, 64);
    put(&machine, MMIO_QUEUE_PFN, RING / 4096);
    CHECK(get(&machine, MMIO_STATUS) & NEEDS_RESET);
    start_legacy(&machine);
    CHECK_EQ(request(&machine, VIRTIO_BLK_T_IN, 0, false), VIRTIO_BLK_S_OK);
    put(&machine, MMIO_QUEUE_PFN, 0);
    CHECK_EQ(get(&machine, MMIO_QUEUE_PFN), 0);
    machine_free(&machine);
}

/* §4.2.3.3: the position is in the upper half of what is written. */
static void test_notification_data(void)
{
    Machine machine;
    machine_new(&machine, false, VIRTIO_F_NOTIFICATION_DATA);
    start(&machine, VIRTIO_F_NOTIFICATION_DATA);
    VirtqAvail *avail = ram(&machine, RING + 16 * SIZE);
    VirtqUsed *used = ram(&machine, RING + 0x1000);
    VirtqDesc *desc = ram(&machine, RING);
    desc[0] = (VirtqDesc){HEADER, 16, VIRTQ_DESC_F_NEXT, 1};
    desc[1] = (VirtqDesc){HEADER + 16, 1, VIRTQ_DESC_F_WRITE, 0};
    store_le32(ram(&machine, HEADER), VIRTIO_BLK_T_FLUSH);
    avail->idx = 1;
    put(&machine, MMIO_QUEUE_NOTIFY, 1u << 16);
    CHECK_EQ(used->idx, 1);
    start(&machine, 0); /* without it the value is a queue number, and there is no such queue */
    avail->idx = 1;
    put(&machine, MMIO_QUEUE_NOTIFY, 1u << 16);
    CHECK_EQ(used->idx, 0);
    machine_free(&machine);
}

static void test_save_and_restore(void)
{
    for (int legacy = 0; legacy < 2; legacy++) {
        Machine machine;
        VirtioMmioState state = {0}, bad;
        machine_new(&machine, legacy, 0);
        if (legacy)
            start_legacy(&machine);
        else
            start(&machine, 0);
        CHECK_EQ(request(&machine, VIRTIO_BLK_T_IN, 0, false), VIRTIO_BLK_S_OK);
        device_save(machine.blk, &state);
        bad = state;
        bad.interrupt_status = 4;
        CHECK_EQ(device_restore(machine.blk, &bad), -EINVAL);
        device_reset(machine.blk);
        CHECK_EQ(get(&machine, MMIO_STATUS), 0);
        CHECK_EQ(device_restore(machine.blk, &state), 0);
        CHECK_EQ(request(&machine, VIRTIO_BLK_T_IN, 1, false), VIRTIO_BLK_S_OK);
        machine_free(&machine);
    }
}

int main(void)
{
    RUN(test_identity);
    RUN(test_requests);
    RUN(test_queue_goes_and_comes);
    RUN(test_needs_reset);
    RUN(test_notification_data);
    RUN(test_save_and_restore);
    return 0;
}
