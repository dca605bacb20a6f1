/* A virtio driver for tests of any device: a board with RAM and PCI, and queues that the test fills by hand through
 * the modern interface. On a virtual clock all of it happens inside the kick. */
#ifndef PYVMM_TESTS_VIRTIO_DRIVER_H
#define PYVMM_TESTS_VIRTIO_DRIVER_H

#include "check.h"
#include "device_check.h"
#include "devices/pci_bridges.h"
#include "virtio/virtio_pci.h"

enum {
    DRIVER_SLOT = 3,
    DRIVER_MMIO = 0xe0000000,
    DRIVER_RAM = 0x800000,
    DRIVER_RINGS = 0x10000, /* 64 KiB each queue */
    DRIVER_DATA = 0x400000,
    DRIVER_SIZE = 64, /* of each queue */
    DRIVER_QUEUES = 16,
};

typedef struct DriverQueue {
    VirtqDesc *desc;
    VirtqAvail *avail;
    VirtqUsed *used;
    uint16_t made, seen; /* buffers made available, and seen used */
} DriverQueue;

typedef struct Driver {
    Board *board;
    PciBus *bus;
    Device *device;
    DriverQueue queues[DRIVER_QUEUES];
} Driver;

static inline VirtioPlace driver_new(Driver *driver, enum ClockKind clock)
{
    Error error = {0};
    memset(driver, 0, sizeof *driver);
    driver->board = board_new(clock, &error);
    CHECK(driver->board);
    CHECK_EQ(guest_memory_add(driver->board->memory, 0, DRIVER_RAM, 0, &error), 0);
    CHECK_EQ(guest_memory_add(driver->board->memory, 0xf00000, 0x10000, MEMSLOT_READ_ONLY, &error), 0);
    driver->bus = pci_bus_new(driver->board);
    return (VirtioPlace){.bus = driver->bus, .devfn = PCI_DEVFN(DRIVER_SLOT, 0)};
}

static inline void driver_free(Driver *driver)
{
    board_stop_io(driver->board);
    device_free(driver->device);
    device_free(pci_bus_device(driver->bus));
    board_free(driver->board);
}

static inline uint64_t driver_read(Driver *driver, uint64_t offset, uint32_t size)
{
    uint64_t value;
    bus_read(driver->board->mmio, DRIVER_MMIO + offset, size, &value);
    return value;
}

static inline void driver_write(Driver *driver, uint64_t offset, uint32_t size, uint64_t value)
{
    bus_write(driver->board->mmio, DRIVER_MMIO + offset, size, value);
}

static inline uint8_t *driver_ram(Driver *driver, gpa_t gpa)
{
    return guest_memory_ptr(driver->board->memory, gpa, 1, false);
}

static inline uint8_t driver_status(Driver *driver)
{
    return (uint8_t)driver_read(driver, COMMON_DEVICE_STATUS, 1);
}

static inline void driver_queue(Driver *driver, uint16_t index)
{
    DriverQueue *queue = &driver->queues[index];
    gpa_t at = DRIVER_RINGS + 0x10000u * index;
    memset(driver_ram(driver, at), 0, 0x3000);
    *queue = (DriverQueue){.desc = (VirtqDesc *)driver_ram(driver, at),
                           .avail = (VirtqAvail *)driver_ram(driver, at + 0x1000),
                           .used = (VirtqUsed *)driver_ram(driver, at + 0x2000)};
    driver_write(driver, COMMON_QUEUE_SELECT, 2, index);
    driver_write(driver, COMMON_QUEUE_SIZE, 2, DRIVER_SIZE);
    driver_write(driver, COMMON_QUEUE_DESC, 8, at);
    driver_write(driver, COMMON_QUEUE_DRIVER, 8, at + 0x1000);
    driver_write(driver, COMMON_QUEUE_DEVICE, 8, at + 0x2000);
    driver_write(driver, COMMON_QUEUE_ENABLE, 2, 1);
}

/* What firmware does, then §3.1.1 from reset to DRIVER_OK. */
static inline void driver_start(Driver *driver, uint64_t features, uint16_t queues)
{
    uint32_t devfn = PCI_DEVFN(DRIVER_SLOT, 0);
    pci_bus_config_write(driver->bus, devfn, PCI_BAR0 + 16, 4, DRIVER_MMIO);
    pci_bus_config_write(driver->bus, devfn, PCI_BAR0 + 20, 4, 0);
    pci_bus_config_write(driver->bus, devfn, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    driver_write(driver, COMMON_DEVICE_STATUS, 1, 0);
    driver_write(driver, COMMON_DEVICE_STATUS, 1, 3);
    for (uint32_t word = 0; word < 2; word++) {
        driver_write(driver, COMMON_DRIVER_FEATURE_SELECT, 4, word);
        driver_write(driver, COMMON_DRIVER_FEATURE, 4, (features | VIRTIO_F_VERSION_1) >> (32 * word) & UINT32_MAX);
    }
    driver_write(driver, COMMON_DEVICE_STATUS, 1, 11);
    CHECK_EQ(driver_status(driver), 11);
    for (uint16_t i = 0; i < queues; i++)
        driver_queue(driver, i);
    driver_write(driver, COMMON_DEVICE_STATUS, 1, 15);
}

static inline void driver_kick(Driver *driver, uint16_t index)
{
    driver_write(driver, VIRTIO_PCI_NOTIFY + index * VIRTIO_PCI_NOTIFY_MULTIPLIER, 2, index);
}

/* One buffer of one descriptor, at the descriptor that its number says. */
static inline void driver_add(Driver *driver, uint16_t index, gpa_t gpa, uint32_t size, bool writable)
{
    DriverQueue *queue = &driver->queues[index];
    uint16_t head = queue->made % DRIVER_SIZE;
    queue->desc[head] = (VirtqDesc){.addr = gpa, .len = size, .flags = writable ? VIRTQ_DESC_F_WRITE : 0};
    queue->avail->ring[queue->made % DRIVER_SIZE] = head;
    __atomic_store_n(&queue->avail->idx, ++queue->made, __ATOMIC_SEQ_CST);
}

/* How many bytes the device wrote to the next used buffer; -1: none is used. */
static inline int64_t driver_used(Driver *driver, uint16_t index)
{
    DriverQueue *queue = &driver->queues[index];
    if (__atomic_load_n(&queue->used->idx, __ATOMIC_SEQ_CST) == queue->seen)
        return -1;
    return queue->used->ring[queue->seen++ % DRIVER_SIZE].len;
}

#endif
