/* A device whose requests are answered from outside: late, by the handler of another request, or when their queue
 * is not there any more. */
#include "virtio/virtio_python.h"

#include "virtio_driver.h"

typedef struct Outside {
    Driver driver;
    uint32_t requests;
    uint64_t tickets[4];
    bool answer_older; /* the first one, when the second one comes */
} Outside;

static void request(void *handle, uint32_t queue, uint64_t ticket, const uint8_t *data, size_t size, uint64_t room)
{
    Outside *outside = handle;
    outside->tickets[outside->requests++] = ticket;
    if (outside->answer_older && outside->requests == 2)
        CHECK_EQ(virtio_python_answer(outside->driver.device, outside->tickets[0], (const uint8_t *)"ab", 2), 0);
}

static void outside_new(Outside *outside, uint64_t features, uint32_t queues)
{
    Error error = {0};
    *outside = (Outside){0};
    VirtioPlace place = driver_new(&outside->driver, CLOCK_KIND_VIRTUAL);
    place.offer = VIRTIO_F_RING_PACKED;
    VirtioPythonOptions options = {.name = "outside",
                                   .device_id = 42,
                                   .queue_count = queues,
                                   .queue_size = DRIVER_SIZE,
                                   .request = request,
                                   .handle = outside};
    outside->driver.device = virtio_python_new(outside->driver.board, &place, &options, &error);
    CHECK(outside->driver.device);
    driver_start(&outside->driver, features, 1);
}

/* An answer that another request's handler gives is not lost. */
static void test_older_answer(void)
{
    Outside outside;
    outside_new(&outside, 0, 1);
    outside.answer_older = true;
    driver_add(&outside.driver, 0, DRIVER_DATA, 16, true);
    driver_kick(&outside.driver, 0);
    CHECK_EQ(driver_used(&outside.driver, 0), -1);
    driver_add(&outside.driver, 0, DRIVER_DATA + 64, 16, true);
    driver_kick(&outside.driver, 0);
    CHECK_EQ(outside.requests, 2);
    CHECK_EQ(driver_used(&outside.driver, 0), 2);
    CHECK_EQ(outside.driver.queues[0].used->ring[0].id, 0);
    CHECK(!memcmp(driver_ram(&outside.driver, DRIVER_DATA), "ab", 2));
    CHECK_EQ(virtio_python_pending(outside.driver.device), 1);
    CHECK_EQ(virtio_python_answer(outside.driver.device, outside.tickets[1], NULL, 0), 0);
    CHECK_EQ(driver_used(&outside.driver, 0), 0);
    driver_free(&outside.driver);
}

/* §2.6.1: a queue that was reset has no requests. The ring that comes is of two descriptors, at the end of memory;
 * the request had forty. */
static void test_queue_reset(void)
{
    Outside outside;
    outside_new(&outside, VIRTIO_F_RING_PACKED | VIRTIO_F_RING_RESET, 1);
    Driver *driver = &outside.driver;
    VirtqPackedDesc *ring = (VirtqPackedDesc *)driver->queues[0].desc;
    for (uint16_t i = 0; i < 40; i++)
        ring[i] = (VirtqPackedDesc){
            .addr = DRIVER_DATA, .len = 1, .id = i, .flags = (i < 39 ? VIRTQ_DESC_F_NEXT : 0) | VIRTQ_PACKED_AVAIL};
    driver_kick(driver, 0);
    CHECK_EQ(outside.requests, 1);
    CHECK_EQ(virtio_python_pending(driver->device), 1);
    driver_write(driver, COMMON_QUEUE_RESET, 2, 1);
    CHECK_EQ(virtio_python_pending(driver->device), 0);
    driver_write(driver, COMMON_QUEUE_SIZE, 2, 2);
    driver_write(driver, COMMON_QUEUE_DESC, 8, DRIVER_RAM - 32);
    driver_write(driver, COMMON_QUEUE_DRIVER, 8, DRIVER_RINGS);
    driver_write(driver, COMMON_QUEUE_DEVICE, 8, DRIVER_RINGS + 16);
    driver_write(driver, COMMON_QUEUE_ENABLE, 2, 1);
    CHECK_EQ(driver_read(driver, COMMON_QUEUE_ENABLE, 2), 1);
    CHECK_EQ(virtio_python_answer(driver->device, outside.tickets[0], NULL, 0), -ENOENT);
    CHECK_EQ(virtio_of(driver->device)->queues[0].ring.next_used, 0);
    CHECK_EQ(driver_status(driver), 15);
    driver_free(driver);
}

/* With more queues than there are vectors they share: a driver then gives one to several (§4.1.5.1.2). */
static void test_many_queues(void)
{
    Outside outside;
    outside_new(&outside, 0, VIRTIO_MAX_QUEUES);
    PciBus *bus = outside.driver.bus;
    uint32_t devfn = PCI_DEVFN(DRIVER_SLOT, 0), at = pci_bus_config_read(bus, devfn, PCI_CAPABILITIES, 1);
    while (at && pci_bus_config_read(bus, devfn, at, 1) != PCI_CAP_MSIX)
        at = pci_bus_config_read(bus, devfn, at + 1, 1);
    CHECK(at);
    CHECK_EQ(pci_bus_config_read(bus, devfn, at + 2, 2), 63);
    driver_write(&outside.driver, COMMON_QUEUE_SELECT, 2, 63);
    driver_write(&outside.driver, COMMON_QUEUE_MSIX_VECTOR, 2, 64);
    CHECK_EQ(driver_read(&outside.driver, COMMON_QUEUE_MSIX_VECTOR, 2), VIRTIO_NO_VECTOR);
    driver_write(&outside.driver, COMMON_QUEUE_MSIX_VECTOR, 2, 63);
    CHECK_EQ(driver_read(&outside.driver, COMMON_QUEUE_MSIX_VECTOR, 2), 63);
    driver_free(&outside.driver);
}

int main(void)
{
    RUN(test_older_answer);
    RUN(test_queue_reset);
    RUN(test_many_queues);
    return 0;
}
