/*
 * A virtio block device (virtio 1.2 §5.2) with one split virtqueue (§2.7) and one request under way at a time:
 * three descriptors, header, data, status. Completion comes by INTx; the timer's tick also looks, so that a machine
 * without interrupt routing is only slower.
 * Left out: several requests in flight, discard, zones, event index, indirect descriptors, a second disk.
 */
#include "kernel.h"
#include "x86.h"

#define VENDOR_VIRTIO      0x1af4
#define DEVICE_BLK_LEGACY  0x1001 /* transitional */
#define DEVICE_BLK_MODERN  0x1042
#define STATUS_ACKNOWLEDGE 1 /* §2.1 */
#define STATUS_DRIVER      2
#define STATUS_DRIVER_OK   4
#define STATUS_FAILED      128
#define F_RO               5 /* §5.2.3 */
#define F_BLK_SIZE         6
#define F_FLUSH            9
#define F_VERSION_1        32
#define DESC_NEXT          1
#define DESC_WRITE         2
#define QUEUE_SIZE_MODERN  4
#define QUEUE_SIZE_LIMIT   1024 /* a legacy device dictates its size */
#define DATA_SECTORS       8
#define REQUEST_TICKS      (30 * TIMER_HZ)

typedef struct Descriptor {
    uint64_t address;
    uint32_t length;
    uint16_t flags, next;
} Descriptor;

typedef struct AvailRing {
    uint16_t flags, index, ring[];
} AvailRing;

typedef struct UsedRing {
    uint16_t flags, index;
    struct {
        uint32_t id, length;
    } ring[];
} UsedRing;

typedef struct RequestHeader {
    uint32_t type, reserved;
    uint64_t sector;
} RequestHeader;

static VirtioDevice device;
static bool present;
static const char *absent = "no virtio block device on the PCI bus";
static uint64_t capacity, offered, accepted;
static uint16_t queue_size, used_seen;
static Descriptor *descriptors;
static volatile AvailRing *avail;
static volatile UsedRing *used;
static volatile RequestHeader *header; /* at the start of a page, the status byte after it */
static volatile uint8_t *status;
static uint8_t *data; /* a page of its own */
static volatile uint64_t interrupts;
static uint64_t requests;

static void disk_interrupt(void)
{
    if (virtio_isr(&device) & 1) /* reading it lowers the line (§4.1.4.5) */
        interrupts++;
}

/* The places of the three parts in legacy layout (§2.7.2), which a modern device takes as well. */
static bool queue_init(void)
{
    uint16_t max = virtio_queue_max(&device);
    queue_size = device.modern && max > QUEUE_SIZE_MODERN ? QUEUE_SIZE_MODERN : max;
    if (queue_size < 3 || queue_size > QUEUE_SIZE_LIMIT) {
        absent = "the device's queue size is not usable (3 to 1024 wanted)";
        return false;
    }
    uint64_t first = (sizeof(Descriptor) + 2ul) * queue_size + 6, second = 8ul * queue_size + 6;
    first = (first + PAGE_SIZE - 1) & ~(PAGE_SIZE - 1);
    uint8_t *queue = pages_alloc((first + second + PAGE_SIZE - 1) / PAGE_SIZE);
    header = page_alloc();
    data = page_alloc();
    if (!queue || !header || !data) {
        absent = "no memory for the virtqueue";
        return false;
    }
    status = (volatile uint8_t *)(header + 1);
    descriptors = (Descriptor *)queue;
    avail = (volatile AvailRing *)(queue + sizeof(Descriptor) * queue_size);
    used = (volatile UsedRing *)(queue + first);
    if (!virtio_queue_enable(&device, queue_size, descriptors, (void *)avail, (void *)used)) {
        absent = "the device's notification address lies outside its capability";
        return false;
    }
    return true;
}

/* The initialisation sequence of §3.1.1. */
static bool disk_start(const PciDevice *pci)
{
    if (!virtio_open(&device, pci, &absent))
        return false;
    virtio_reset(&device);
    virtio_set_status(&device, STATUS_ACKNOWLEDGE);
    virtio_set_status(&device, STATUS_DRIVER);
    offered = virtio_features(&device);
    accepted =
        offered & (1ul << F_RO | 1ul << F_BLK_SIZE | 1ul << F_FLUSH | (device.modern ? 1ul << F_VERSION_1 : 0));
    if (!virtio_accept(&device, accepted)) {
        absent = "the device refuses the driver's features";
        return false;
    }
    if (!queue_init())
        return false;
    if (pci->irq_pin && pci->irq_line > 2 && pci->irq_line < 16) {
        pic_set_level(pci->irq_line);
        trap_set_irq(pci->irq_line, disk_interrupt);
    }
    virtio_set_status(&device, STATUS_DRIVER_OK);
    capacity = virtio_config32(&device, 0) | (uint64_t)virtio_config32(&device, 4) << 32;
    return true;
}

void disk_init(void)
{
    const PciDevice *list;
    size_t count = pci_devices(&list);
    for (size_t i = 0; i < count && !present; i++) {
        if (list[i].vendor_id != VENDOR_VIRTIO)
            continue;
        if (list[i].device_id != DEVICE_BLK_LEGACY && list[i].device_id != DEVICE_BLK_MODERN)
            continue;
        present = disk_start(&list[i]);
        if (!present && (device.common || device.io))
            virtio_set_status(&device, STATUS_FAILED);
    }
}

static int disk_submit(DiskOp op, uint64_t lba, size_t bytes)
{
    bool from_device = op == DISK_READ || op == DISK_GET_ID;
    header->type = op;
    header->reserved = 0;
    header->sector = lba;
    *status = 0xff;
    descriptors[0] = (Descriptor){(uint64_t)header, sizeof(*header), DESC_NEXT, bytes ? 1 : 2};
    descriptors[1] = (Descriptor){(uint64_t)data, (uint32_t)bytes, DESC_NEXT | (from_device ? DESC_WRITE : 0), 2};
    descriptors[2] = (Descriptor){(uint64_t)status, 1, DESC_WRITE, 0};

    uint16_t index = avail->index;
    avail->ring[index % queue_size] = 0;
    __asm__ volatile("" : : : "memory"); /* x86 keeps stores in order; the compiler has to be told (§2.7.13) */
    avail->index = (uint16_t)(index + 1);
    __asm__ volatile("mfence" : : : "memory");
    virtio_notify(&device);

    uint64_t start = timer_ticks();
    cli();
    while (used->index == used_seen) {
        if (timer_ticks() - start > REQUEST_TICKS) { /* a late answer would be taken for the next one's */
            sti();
            present = false;
            absent = "the device stopped answering";
            virtio_reset(&device);
            return -1;
        }
        sti_hlt(); /* INTx or the next tick */
        cli();
    }
    sti();
    used_seen++;
    requests++;
    return *status;
}

int disk_request(DiskOp op, uint64_t lba, void *buffer, size_t sectors)
{
    if (op == DISK_FLUSH)
        return accepted & 1ul << F_FLUSH ? disk_submit(op, 0, 0) : 0;
    if (op == DISK_GET_ID) {
        int result = disk_submit(op, 0, 20);
        memcpy(buffer, data, 20);
        return result;
    }
    for (uint8_t *p = buffer; sectors;) {
        size_t now = sectors < DATA_SECTORS ? sectors : DATA_SECTORS, bytes = now * SECTOR_SIZE;
        if (op == DISK_WRITE)
            memcpy(data, p, bytes);
        int result = disk_submit(op, lba, bytes);
        if (result)
            return result;
        if (op == DISK_READ)
            memcpy(p, data, bytes);
        p += bytes, lba += now, sectors -= now;
    }
    return 0;
}

bool disk_present(void) { return present; }

const char *disk_why_absent(void) { return absent; }

uint64_t disk_sectors(void) { return capacity; }

bool disk_read_only(void) { return accepted & 1ul << F_RO; }

void disk_print_info(void)
{
    static const struct {
        unsigned bit;
        const char *name;
    } names[] = {
        {1, "SIZE_MAX"},    {2, "SEG_MAX"},          {4, "GEOMETRY"},
        {5, "RO"},          {6, "BLK_SIZE"},         {9, "FLUSH"},
        {10, "TOPOLOGY"},   {11, "CONFIG_WCE"},      {12, "MQ"},
        {13, "DISCARD"},    {14, "WRITE_ZEROES"},    {16, "SECURE_ERASE"},
        {27, "ANY_LAYOUT"}, {28, "INDIRECT_DESC"},   {29, "EVENT_IDX"},
        {32, "VERSION_1"},  {33, "ACCESS_PLATFORM"}, {34, "RING_PACKED"},
        {35, "IN_ORDER"},   {40, "RING_RESET"},
    };
    char id[21] = {0};
    print("virtio-blk at %02x:%02x.%u, %s interface, queue of %u\n", device.pci->bus, device.pci->device,
          device.pci->function, device.modern ? "modern" : "legacy", queue_size);
    print("size: %lu sectors of 512 bytes (%lu KiB)%s\n", capacity, capacity / 2,
          disk_read_only() ? ", read-only" : "");
    print("features offered %lx, accepted %lx:", offered, accepted);
    for (size_t i = 0; i < ARRAY_SIZE(names); i++)
        if (offered >> names[i].bit & 1)
            print(" %s%s", names[i].name, accepted >> names[i].bit & 1 ? "+" : "");
    print("\n");
    if (accepted & 1ul << F_BLK_SIZE)
        print("block size %u\n", virtio_config32(&device, 20)); /* §5.2.4: blk_size */
    if (disk_request(DISK_GET_ID, 0, id, 0) == 0)
        print("serial \"%s\"\n", id);
    print("requests %lu, interrupts %lu%s\n", requests, interrupts, interrupts ? "" : " (polled by the timer)");
}
