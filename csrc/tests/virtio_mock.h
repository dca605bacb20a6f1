/* A virtio-blk driver for tests: a board with RAM and PCI, and a queue that the test fills by hand in guest memory.
 */
#ifndef PYVMM_TESTS_VIRTIO_MOCK_H
#define PYVMM_TESTS_VIRTIO_MOCK_H

#include <unistd.h>

#include "check.h"
#include "devices/pci_bridges.h"
#include "virtio/virtio_blk.h"
#include "virtio/virtio_pci.h"

enum {
    MOCK_SLOT = 3,
    MOCK_IO = 0xc000,
    MOCK_MMIO = 0xe0000000,
    MOCK_RINGS = 0x10000, /* page-aligned: descriptors, available, used as the legacy layout has them */
    MOCK_HEADERS = 0x20000,
    MOCK_STATUS = 0x30000,
    MOCK_INDIRECT = 0x40000,
    MOCK_DATA = 0x100000,
    MOCK_SEAM = 0x200000, /* two memslots meet here */
    MOCK_RAM_END = 0x400000,
    MOCK_DISK = 1 << 20,
};

typedef struct Mock {
    Board *board;
    PciBus *bus;
    IoThread *worker; /* of the disk, when the test asked for one (mock_new_with_worker) */
    Device *host, *isa, *blk;
    BlockImage *image;
    char path[32];
    bool modern;
    uint64_t features;
    uint16_t size;
    uint16_t avail, used; /* what the driver has made available and has seen used */
    VirtqDesc *desc;
    VirtqAvail *avail_ring;
    VirtqUsed *used_ring;
} Mock;

static inline uint64_t mock_in(Mock *mock, uint64_t port, uint32_t size)
{
    uint64_t value;
    bus_read(mock->board->pio, port, size, &value);
    return value;
}

static inline void mock_out(Mock *mock, uint64_t port, uint32_t size, uint64_t value)
{
    bus_write(mock->board->pio, port, size, value);
}

static inline uint32_t mock_config_read(Mock *mock, uint32_t devfn, uint32_t offset, uint32_t size)
{
    mock_out(mock, 0xcf8, 4, 0x80000000u | devfn << 8 | (offset & 0xfc));
    return (uint32_t)mock_in(mock, 0xcfc + (offset & 3), size);
}

static inline void mock_config_write(Mock *mock, uint32_t devfn, uint32_t offset, uint32_t size, uint32_t value)
{
    mock_out(mock, 0xcf8, 4, 0x80000000u | devfn << 8 | (offset & 0xfc));
    mock_out(mock, 0xcfc + (offset & 3), size, value);
}

static inline uint64_t mock_modern_read(Mock *mock, uint64_t offset, uint32_t size)
{
    uint64_t value;
    bus_read(mock->board->mmio, MOCK_MMIO + offset, size, &value);
    return value;
}

static inline void mock_modern_write(Mock *mock, uint64_t offset, uint32_t size, uint64_t value)
{
    bus_write(mock->board->mmio, MOCK_MMIO + offset, size, value);
}

static inline void *mock_ram(Mock *mock, gpa_t gpa) { return guest_memory_ptr(mock->board->memory, gpa, 1, false); }

static inline uint8_t mock_status(Mock *mock)
{
    return (uint8_t)(mock->modern ? mock_modern_read(mock, COMMON_DEVICE_STATUS, 1)
                                  : mock_in(mock, MOCK_IO + LEGACY_DEVICE_STATUS, 1));
}

static inline void mock_set_status(Mock *mock, uint8_t status)
{
    if (mock->modern)
        mock_modern_write(mock, COMMON_DEVICE_STATUS, 1, status);
    else
        mock_out(mock, MOCK_IO + LEGACY_DEVICE_STATUS, 1, status);
}

static inline uint8_t mock_isr(Mock *mock)
{
    return (uint8_t)(mock->modern ? mock_modern_read(mock, VIRTIO_PCI_ISR, 1)
                                  : mock_in(mock, MOCK_IO + LEGACY_ISR, 1));
}

static inline void mock_kick(Mock *mock)
{
    if (mock->modern)
        mock_modern_write(mock, VIRTIO_PCI_NOTIFY, 2, 0);
    else
        mock_out(mock, MOCK_IO + LEGACY_QUEUE_NOTIFY, 2, 0);
}

static inline gpa_t mock_used_gpa(const Mock *mock)
{
    return (MOCK_RINGS + 16u * mock->size + 6 + 2u * mock->size + 4095) & ~4095u;
}

static inline VirtioPlace mock_place(const Mock *mock, uint32_t slot)
{
    return (VirtioPlace){.bus = mock->bus, .devfn = PCI_DEVFN(slot, 0)};
}

static inline void mock_make(Mock *mock, enum ClockKind clock, const VirtioBlkOptions *options,
                             const VirtioPlace *how, uint32_t flags, bool worker)
{
    Error error = {0};
    memset(mock, 0, sizeof *mock);
    mock->board = board_new(clock, &error);
    CHECK(mock->board);
    CHECK_EQ(guest_memory_add(mock->board->memory, 0, 0xa0000, 0, &error), 0);
    CHECK_EQ(guest_memory_add(mock->board->memory, MOCK_DATA, MOCK_SEAM - MOCK_DATA, 0, &error), 0);
    CHECK_EQ(guest_memory_add(mock->board->memory, MOCK_SEAM, MOCK_RAM_END - MOCK_SEAM, 0, &error), 0);
    CHECK_EQ(guest_memory_add(mock->board->memory, 0xf0000, 0x10000, MEMSLOT_READ_ONLY, &error), 0);
    mock->bus = pci_bus_new(mock->board);
    Device *bus = pci_bus_device(mock->bus);
    CHECK_EQ(device_map(bus, mock->board->pio, 0xcf8, 1, PCI_REGION_ADDRESS, &error), 0);
    CHECK_EQ(device_map(bus, mock->board->pio, 0xcfc, 4, PCI_REGION_DATA, &error), 0);
    mock->host = i440fx_new(mock->board, mock->bus, PCI_DEVFN(0, 0), &error);
    mock->isa = piix3_isa_new(mock->board, mock->bus, PCI_DEVFN(1, 0), &error);
    CHECK(mock->host && mock->isa);
    strcpy(mock->path, "/tmp/pyvmm-test-XXXXXX");
    int fd = mkstemp(mock->path);
    CHECK(fd >= 0 && ftruncate(fd, MOCK_DISK) == 0);
    close(fd);
    mock->image = block_open(mock->path, "raw", BLOCK_CACHE_UNSAFE, flags, &error);
    CHECK(mock->image);
    VirtioPlace place = mock_place(mock, MOCK_SLOT);
    if (how)
        place = *how;
    place.bus = mock->bus;
    place.devfn = PCI_DEVFN(MOCK_SLOT, 0);
    if (worker)
        place.io = mock->worker = board_add_worker(mock->board, "blk-0", &error);
    CHECK_EQ(mock->worker != NULL, worker);
    mock->blk = virtio_blk_new(mock->board, &place, mock->image, options, &error);
    CHECK(mock->blk);
    CHECK_EQ(board_start_io(mock->board, &error), 0);
}

/* Machine without a driver yet. `flags` are the image's. */
static inline void mock_new(Mock *mock, enum ClockKind clock, const VirtioBlkOptions *options, uint32_t flags)
{
    mock_make(mock, clock, options, NULL, flags, false);
}

/* And the disk stands there in another way than the default. */
static inline void mock_new_placed(Mock *mock, enum ClockKind clock, VirtioPlace how)
{
    mock_make(mock, clock, NULL, &how, 0, false);
}

/* And its requests are done by an I/O thread of its own. */
static inline void mock_new_with_worker(Mock *mock, enum ClockKind clock)
{
    mock_make(mock, clock, NULL, NULL, 0, true);
}

static inline void mock_free(Mock *mock)
{
    board_stop_io(mock->board);
    device_free(mock->blk);
    device_free(mock->isa);
    device_free(mock->host);
    device_free(pci_bus_device(mock->bus));
    block_close(mock->image);
    board_free(mock->board);
    unlink(mock->path);
}

/* What firmware does: addresses, decoding, interrupts (slot 3's INTA# on `irq`). */
static inline void mock_assign(Mock *mock, uint8_t irq)
{
    uint32_t devfn = PCI_DEVFN(MOCK_SLOT, 0), link = pci_link(MOCK_SLOT, 0);
    mock_config_write(mock, devfn, PCI_BAR0, 4, MOCK_IO);
    mock_config_write(mock, devfn, PCI_BAR0 + 16, 4, MOCK_MMIO);
    mock_config_write(mock, devfn, PCI_BAR0 + 20, 4, 0);
    mock_config_write(mock, devfn, PCI_COMMAND, 2, PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    mock_config_write(mock, PCI_DEVFN(1, 0), PIIX3_PIRQRC + link, 1, irq);
}

static inline void mock_modern_queue(Mock *mock, gpa_t desc, gpa_t avail, gpa_t used)
{
    mock_modern_write(mock, COMMON_QUEUE_SELECT, 2, 0);
    mock_modern_write(mock, COMMON_QUEUE_SIZE, 2, mock->size);
    mock_modern_write(mock, COMMON_QUEUE_DESC, 8, desc);
    mock_modern_write(mock, COMMON_QUEUE_DRIVER, 4, avail);
    mock_modern_write(mock, COMMON_QUEUE_DRIVER + 4, 4, avail >> 32);
    mock_modern_write(mock, COMMON_QUEUE_DEVICE, 8, used);
    mock_modern_write(mock, COMMON_QUEUE_ENABLE, 2, 1);
}

static inline void mock_write_features(Mock *mock, uint64_t features)
{
    for (uint32_t word = 0; word < 2; word++) {
        mock_modern_write(mock, COMMON_DRIVER_FEATURE_SELECT, 4, word);
        mock_modern_write(mock, COMMON_DRIVER_FEATURE, 4, features >> (32 * word) & UINT32_MAX);
    }
}

/* §3.1.1: from reset to DRIVER_OK. */
static inline void mock_start(Mock *mock, bool modern, uint64_t features)
{
    mock->modern = modern;
    mock->features = features;
    mock->avail = mock->used = 0;
    mock_set_status(mock, 0);
    mock_set_status(mock, VIRTIO_STATUS_ACKNOWLEDGE);
    mock_set_status(mock, VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER);
    uint8_t status = VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER;
    if (modern) {
        mock_write_features(mock, features | VIRTIO_F_VERSION_1);
        status |= VIRTIO_STATUS_FEATURES_OK;
        mock_set_status(mock, status);
        CHECK_EQ(mock_status(mock), status);
        mock->size = 128;
    } else {
        mock_out(mock, MOCK_IO + LEGACY_DRIVER_FEATURES, 4, features);
        mock_out(mock, MOCK_IO + LEGACY_QUEUE_SELECT, 2, 0);
        mock->size = (uint16_t)mock_in(mock, MOCK_IO + LEGACY_QUEUE_SIZE, 2);
    }
    mock->desc = mock_ram(mock, MOCK_RINGS);
    mock->avail_ring = mock_ram(mock, MOCK_RINGS + 16u * mock->size);
    mock->used_ring = mock_ram(mock, mock_used_gpa(mock));
    memset(mock->desc, 0, 0x4000);
    if (modern)
        mock_modern_queue(mock, MOCK_RINGS, MOCK_RINGS + 16u * mock->size, mock_used_gpa(mock));
    else
        mock_out(mock, MOCK_IO + LEGACY_QUEUE_ADDRESS, 4, MOCK_RINGS / 4096);
    mock_set_status(mock, status | VIRTIO_STATUS_DRIVER_OK);
}

static inline void mock_make_available(Mock *mock, uint16_t head)
{
    mock->avail_ring->ring[mock->avail % mock->size] = head;
    __atomic_store_n(&mock->avail_ring->idx, ++mock->avail, __ATOMIC_SEQ_CST);
}

static inline void mock_desc(Mock *mock, uint16_t index, gpa_t gpa, uint32_t len, uint16_t flags, uint16_t next)
{
    mock->desc[index] = (VirtqDesc){.addr = gpa, .len = len, .flags = flags, .next = next};
}

static inline void mock_header(Mock *mock, uint16_t tag, uint32_t type, uint64_t sector)
{
    uint8_t *header = mock_ram(mock, MOCK_HEADERS + 16u * tag);
    memset(header, 0, 16);
    store_le32(header, type);
    store_le64(header + 8, sector);
    *(uint8_t *)mock_ram(mock, MOCK_STATUS + tag) = 0xee;
}

/* The plain three-descriptor request at descriptors 3 * tag; `bytes` 0 leaves the data out. */
static inline void mock_queue(Mock *mock, uint16_t tag, uint32_t type, uint64_t sector, gpa_t data, uint32_t bytes)
{
    uint16_t head = (uint16_t)(3 * tag);
    bool in = type == VIRTIO_BLK_T_IN || type == VIRTIO_BLK_T_GET_ID;
    mock_header(mock, tag, type, sector);
    mock_desc(mock, head, MOCK_HEADERS + 16u * tag, 16, VIRTQ_DESC_F_NEXT, (uint16_t)(head + (bytes ? 1 : 2)));
    mock_desc(mock, (uint16_t)(head + 1), data, bytes,
              (uint16_t)(VIRTQ_DESC_F_NEXT | (in ? VIRTQ_DESC_F_WRITE : 0)), (uint16_t)(head + 2));
    mock_desc(mock, (uint16_t)(head + 2), MOCK_STATUS + tag, 1, VIRTQ_DESC_F_WRITE, 0);
    mock_make_available(mock, head);
}

static inline uint8_t mock_result(Mock *mock, uint16_t tag)
{
    return *(uint8_t *)mock_ram(mock, MOCK_STATUS + tag);
}

static inline uint16_t mock_used_idx(Mock *mock)
{
    return __atomic_load_n(&mock->used_ring->idx, __ATOMIC_SEQ_CST);
}

/* Queue one, kick, and take its used element (virtual clock: all of it inside the kick). */
static inline uint8_t mock_do(Mock *mock, uint32_t type, uint64_t sector, gpa_t data, uint32_t bytes)
{
    mock_queue(mock, 0, type, sector, data, bytes);
    mock_kick(mock);
    CHECK_EQ(mock_used_idx(mock), ++mock->used);
    CHECK_EQ(mock->used_ring->ring[(mock->used - 1) % mock->size].id, 0);
    return mock_result(mock, 0);
}

/* The level of each GSI as an irqchip sees it. */
typedef struct MockIrqs {
    bool level[IRQ_GSI_COUNT];
    uint32_t edges[IRQ_GSI_COUNT];
} MockIrqs;

static inline void mock_irq_sink(void *opaque, uint32_t gsi, bool level)
{
    MockIrqs *irqs = opaque;
    irqs->level[gsi] = level;
    irqs->edges[gsi] += level;
}

#endif
