/* What all virtio devices share, by a device that does nothing but share it: several vCPUs at one device while its
 * I/O is under way, queues that notify queues, and queues that come before their format. */
#include <unistd.h>

#include "virtio_driver.h"
#include "virtio_echo.h"

enum { LEGACY_IO = 0xc000, MMIO_BASE = 0xd0000000, OLD_FRAME = DRIVER_RINGS >> 12, NEW_FRAME = 0x20 };

typedef struct Rig {
    Driver driver;
    Echo *echo;
    bool mmio;             /* version 1 of the registers; otherwise the legacy interface over PCI */
    uint32_t in_io, go_on; /* atomic: the device is in its I/O, and may leave it */
} Rig;

static Rig rig;

static void wait_in_io(Echo *echo, uint32_t queue)
{
    __atomic_store_n(&rig.in_io, 1, __ATOMIC_SEQ_CST);
    while (!__atomic_load_n(&rig.go_on, __ATOMIC_SEQ_CST))
        usleep(100);
}

static void write_register(uint64_t pci_offset, uint32_t size, uint64_t mmio_offset, uint64_t value)
{
    if (rig.mmio)
        bus_write(rig.driver.board->mmio, MMIO_BASE + mmio_offset, 4, value);
    else
        bus_write(rig.driver.board->pio, LEGACY_IO + pci_offset, size, value);
}

static void select_queue(uint16_t index) { write_register(LEGACY_QUEUE_SELECT, 2, MMIO_QUEUE_SEL, index); }
static void place_queue(uint32_t frame) { write_register(LEGACY_QUEUE_ADDRESS, 4, MMIO_QUEUE_PFN, frame); }
static void kick(uint16_t index) { write_register(LEGACY_QUEUE_NOTIFY, 2, MMIO_QUEUE_NOTIFY, index); }

/* A legacy driver has started both queues. */
static void rig_new(bool mmio, enum ClockKind clock)
{
    Error error = {0};
    rig = (Rig){.mmio = mmio};
    VirtioPlace place = driver_new(&rig.driver, clock);
    Board *board = rig.driver.board;
    if (mmio)
        place = (VirtioPlace){.line = irq_line_new(board->irqs, 5), .base = MMIO_BASE, .legacy = true};
    Device *device = rig.driver.device = echo_new(board, &place, &error);
    CHECK(device);
    rig.echo = echo_of(virtio_of(device));
    if (mmio)
        CHECK_EQ(device_map(device, board->mmio, MMIO_BASE, 0x200, 0, &error), 0);
    CHECK_EQ(board_start_io(board, &error), 0);
    pci_bus_config_write(rig.driver.bus, PCI_DEVFN(DRIVER_SLOT, 0), PCI_BAR0, 4, LEGACY_IO);
    pci_bus_config_write(rig.driver.bus, PCI_DEVFN(DRIVER_SLOT, 0), PCI_COMMAND, 2, 7);
    write_register(LEGACY_DEVICE_STATUS, 1, MMIO_STATUS, 3);
    write_register(0x40, 1, MMIO_GUEST_PAGE_SIZE, 4096);
    for (uint16_t i = 0; i < ECHO_QUEUES; i++) {
        select_queue(i);
        write_register(0x40, 1, MMIO_QUEUE_SIZE, ECHO_QUEUE_SIZE);
        place_queue(OLD_FRAME + 4u * i);
    }
    write_register(LEGACY_DEVICE_STATUS, 1, MMIO_STATUS, 7);
}

/* The I/O thread may be looking at the ring already: DRIVER_OK makes it. */
static void make_request(void)
{
    VirtqAvail *avail = (VirtqAvail *)driver_ram(&rig.driver, DRIVER_RINGS + 16 * ECHO_QUEUE_SIZE);
    *(VirtqDesc *)driver_ram(&rig.driver, DRIVER_RINGS) =
        (VirtqDesc){.addr = DRIVER_DATA, .len = 16, .flags = VIRTQ_DESC_F_WRITE};
    __atomic_store_n(&avail->idx, 1, __ATOMIC_SEQ_CST);
    kick(0);
}

static uint32_t waiters(void)
{
    pthread_mutex_lock(&rig.driver.device->lock);
    uint32_t count = rig.echo->virtio.draining;
    pthread_mutex_unlock(&rig.driver.device->lock);
    return count;
}

static void start_io(void)
{
    pthread_mutex_lock(&rig.driver.device->lock);
    rig.echo->in_io = wait_in_io;
    pthread_mutex_unlock(&rig.driver.device->lock);
    make_request();
    while (!__atomic_load_n(&rig.in_io, __ATOMIC_SEQ_CST))
        usleep(100);
}

static void *move_queue(void *opaque)
{
    place_queue(NEW_FRAME);
    return NULL;
}

/* One vCPU moves a queue and waits for its I/O; another selects a queue that is not there. */
static void check_select_while_moving(bool mmio)
{
    pthread_t mover;
    rig_new(mmio, CLOCK_KIND_REALTIME);
    start_io();
    select_queue(0);
    CHECK_EQ(pthread_create(&mover, NULL, move_queue, NULL), 0);
    while (!waiters())
        usleep(100);
    select_queue(0xffff);
    __atomic_store_n(&rig.go_on, 1, __ATOMIC_SEQ_CST);
    pthread_join(mover, NULL);
    CHECK(rig.echo->virtio.queues[0].ring.enabled);
    CHECK_EQ(rig.echo->virtio.queues[0].ring.desc_gpa, NEW_FRAME * 4096);
    CHECK_EQ(rig.echo->virtio.faults, 0);
    driver_free(&rig.driver);
}

static void test_select_while_moving(void)
{
    check_select_while_moving(false);
    check_select_while_moving(true);
}

static void *reset_device(void *opaque)
{
    write_register(LEGACY_DEVICE_STATUS, 1, MMIO_STATUS, 0);
    return NULL;
}

/* Several wait for the same I/O: each of them is counted, so none starts the queues again under another. */
static void test_two_wait(void)
{
    pthread_t mover, resetter;
    rig_new(false, CLOCK_KIND_REALTIME);
    start_io();
    select_queue(1);
    CHECK_EQ(pthread_create(&mover, NULL, move_queue, NULL), 0);
    CHECK_EQ(pthread_create(&resetter, NULL, reset_device, NULL), 0);
    while (waiters() != 2)
        usleep(100);
    __atomic_store_n(&rig.go_on, 1, __ATOMIC_SEQ_CST);
    pthread_join(mover, NULL);
    pthread_join(resetter, NULL);
    CHECK_EQ(waiters(), 0);
    driver_free(&rig.driver);
}

static void *try_lock(void *opaque)
{
    int result = pthread_mutex_trylock(&rig.driver.device->lock);
    if (result == 0)
        pthread_mutex_unlock(&rig.driver.device->lock);
    return (void *)(intptr_t)result;
}

static void check_lock_is_held(Echo *echo, uint32_t queue)
{
    pthread_t other;
    void *result;
    CHECK_EQ(pthread_create(&other, NULL, try_lock, NULL), 0);
    pthread_join(other, &result);
    CHECK_EQ((intptr_t)result, EBUSY);
    __atomic_store_n(&rig.in_io, 1, __ATOMIC_SEQ_CST);
}

static void notify_other(Echo *echo, uint32_t queue)
{
    if (queue == 0)
        virtio_notify(&echo->virtio, 1);
}

/* Without an I/O thread all of it happens under the vCPU's own lock, to the end. */
static void test_nested_notify(void)
{
    rig_new(false, CLOCK_KIND_VIRTUAL);
    rig.echo->in_run = notify_other;
    rig.echo->in_io = check_lock_is_held;
    make_request();
    CHECK_EQ(rig.in_io, 1);
    CHECK_EQ(rig.echo->chains, 1);
    driver_free(&rig.driver);
}

static void write_features(Driver *driver, uint64_t features)
{
    for (uint32_t word = 0; word < 2; word++) {
        driver_write(driver, COMMON_DRIVER_FEATURE_SELECT, 4, word);
        driver_write(driver, COMMON_DRIVER_FEATURE, 4, features >> (32 * word) & UINT32_MAX);
    }
}

/* §3.1.1: queues come after FEATURES_OK. One in a format that then is not negotiated is of no use. */
static void check_early_queue(uint64_t before, uint64_t after, bool good)
{
    Error error = {0};
    Driver driver;
    VirtioPlace place = driver_new(&driver, CLOCK_KIND_VIRTUAL);
    place.offer = VIRTIO_F_RING_PACKED | VIRTIO_F_IN_ORDER;
    driver.device = echo_new(driver.board, &place, &error);
    CHECK(driver.device);
    driver_start(&driver, 0, 0);
    driver_write(&driver, COMMON_DEVICE_STATUS, 1, 0);
    driver_write(&driver, COMMON_DEVICE_STATUS, 1, 3);
    write_features(&driver, before);
    driver_queue(&driver, 0);
    CHECK_EQ(driver_read(&driver, COMMON_QUEUE_ENABLE, 2), 1);
    write_features(&driver, after | VIRTIO_F_VERSION_1);
    driver_write(&driver, COMMON_DEVICE_STATUS, 1, 11);
    CHECK_EQ(driver_status(&driver), 11 | (good ? 0 : VIRTIO_STATUS_NEEDS_RESET));
    VirtioPciState state; /* and what is saved can be restored */
    device_save(driver.device, &state);
    CHECK_EQ(device_restore(driver.device, &state), 0);
    driver_free(&driver);
}

static void test_early_queue(void)
{
    check_early_queue(0, 0, true);
    check_early_queue(0, VIRTIO_F_RING_PACKED, false);
    check_early_queue(VIRTIO_F_RING_PACKED, 0, false);
    check_early_queue(VIRTIO_F_IN_ORDER, 0, false);
    check_early_queue(VIRTIO_F_IN_ORDER, VIRTIO_F_IN_ORDER, true);
}

int main(void)
{
    RUN(test_select_while_moving);
    RUN(test_two_wait);
    RUN(test_nested_notify);
    RUN(test_early_queue);
    return 0;
}
