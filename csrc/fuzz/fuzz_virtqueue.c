/*
 * A driver that does anything to what all virtio devices share: the input chooses transport (PCI, MMIO version 2 or
 * 1), ring format and features for a device that echoes, and is then a program of writes to descriptors, rings,
 * event structures and registers, kicks, resets of queue and device, and saved states that are spoiled. The device
 * must neither crash nor hang, and must do one good request after a reset.
 */
#include <stdlib.h>

#include "fuzz/input.h"
#include "tests/virtio_echo.h"

enum {
    RAM = 0x10000,
    HIGH = 0x20000, /* a second memslot, behind a hole, and read-only memory behind that */
    BASE = 0xe0000000,
    IO = 0xc000,
    RING = 0x4000, /* of each queue: descriptors, driver area, device area, an indirect table */
    AVAIL = 0x1000,
    USED = 0x2000,
    TABLE = 0x3000,
    DATA = 0x8000,
    SIZE = 16,
};

enum Transport { TRANSPORT_PCI, TRANSPORT_MMIO, TRANSPORT_MMIO_LEGACY, TRANSPORTS };

typedef struct Machine {
    Board *board;
    PciBus *bus;
    Device *device;
    Echo *echo;
    uint8_t *ram;
    enum Transport transport;
    bool packed; /* as the driver thinks */
} Machine;

static void machine_new(Machine *machine, uint32_t choice)
{
    *machine = (Machine){.board = board_new(CLOCK_KIND_VIRTUAL, NULL), .transport = choice % TRANSPORTS};
    Board *board = machine->board;
    guest_memory_add(board->memory, 0, RAM, 0, NULL);
    guest_memory_add(board->memory, HIGH, 0x1000, 0, NULL);
    guest_memory_add(board->memory, HIGH + 0x1000, 0x1000, MEMSLOT_READ_ONLY, NULL);
    machine->ram = guest_memory_ptr(board->memory, 0, RAM, true);
    machine->bus = pci_bus_new(board);
    VirtioPlace place = {.offer = choice & 4 ? VIRTIO_RING_ON_DEMAND : 0,
                         .withhold = choice & 8 ? VIRTIO_RING_FEATURES : 0,
                         .modern_only = choice & 16,
                         .devfn = PCI_DEVFN(3, 0)};
    if (machine->transport == TRANSPORT_PCI) {
        place.bus = machine->bus;
    } else {
        place.line = irq_line_new(board->irqs, 5);
        place.base = BASE;
        place.legacy = machine->transport == TRANSPORT_MMIO_LEGACY;
    }
    machine->device = echo_new(board, &place, NULL);
    if (!machine->device)
        abort();
    machine->echo = echo_of(virtio_of(machine->device));
    machine->echo->random = choice >> 8;
    if (machine->transport != TRANSPORT_PCI && device_map(machine->device, board->mmio, BASE, 0x200, 0, NULL) < 0)
        abort();
}

static void machine_free(Machine *machine)
{
    device_free(machine->device);
    device_free(pci_bus_device(machine->bus));
    board_free(machine->board);
}

static void put(Machine *machine, uint64_t offset, uint32_t size, uint64_t value)
{
    bus_write(machine->board->mmio, BASE + offset, size, value);
}

static void kick(Machine *machine, uint32_t queue)
{
    if (machine->transport == TRANSPORT_PCI)
        put(machine, VIRTIO_PCI_NOTIFY + queue * VIRTIO_PCI_NOTIFY_MULTIPLIER, 2, queue);
    else
        put(machine, MMIO_QUEUE_NOTIFY, 4, queue);
}

/* ---- Starting: §3.1.1 --------------------------------------------------------------------------------------- */

static void set_status(Machine *machine, uint8_t status)
{
    if (machine->transport == TRANSPORT_PCI)
        put(machine, COMMON_DEVICE_STATUS, 1, status);
    else
        put(machine, MMIO_STATUS, 4, status);
}

static void write_features(Machine *machine, uint64_t features)
{
    bool pci = machine->transport == TRANSPORT_PCI;
    for (uint32_t word = 0; word < 2; word++) {
        put(machine, pci ? COMMON_DRIVER_FEATURE_SELECT : MMIO_DRIVER_FEATURES_SEL, 4, word);
        put(machine, pci ? COMMON_DRIVER_FEATURE : MMIO_DRIVER_FEATURES, 4, features >> (32 * word) & UINT32_MAX);
    }
}

static void start_queue(Machine *machine, uint32_t index)
{
    uint64_t at = index * RING;
    switch (machine->transport) {
    case TRANSPORT_PCI:
        put(machine, COMMON_QUEUE_SELECT, 2, index);
        put(machine, COMMON_QUEUE_SIZE, 2, SIZE);
        put(machine, COMMON_QUEUE_DESC, 8, at);
        put(machine, COMMON_QUEUE_DRIVER, 8, at + AVAIL);
        put(machine, COMMON_QUEUE_DEVICE, 8, at + USED);
        put(machine, COMMON_QUEUE_ENABLE, 2, 1);
        break;
    case TRANSPORT_MMIO:
        put(machine, MMIO_QUEUE_SEL, 4, index);
        put(machine, MMIO_QUEUE_SIZE, 4, SIZE);
        put(machine, MMIO_QUEUE_DESC, 4, at);
        put(machine, MMIO_QUEUE_DRIVER, 4, at + AVAIL);
        put(machine, MMIO_QUEUE_DEVICE, 4, at + USED);
        put(machine, MMIO_QUEUE_READY, 4, 1);
        break;
    default:
        put(machine, MMIO_GUEST_PAGE_SIZE, 4, 4096);
        put(machine, MMIO_QUEUE_SEL, 4, index);
        put(machine, MMIO_QUEUE_SIZE, 4, SIZE);
        put(machine, MMIO_QUEUE_ALIGN, 4, 4096);
        put(machine, MMIO_QUEUE_PFN, 4, at / 4096);
    }
}

/* Where the driver's and the device's areas are: the legacy layout has its own (§2.7.2). */
static uint64_t avail_at(const Machine *machine, uint32_t queue)
{
    return queue * RING + (machine->transport == TRANSPORT_MMIO_LEGACY ? 16 * SIZE : AVAIL);
}

static uint64_t used_at(const Machine *machine, uint32_t queue)
{
    return queue * RING + (machine->transport == TRANSPORT_MMIO_LEGACY ? 4096 : USED);
}

static void start(Machine *machine, uint64_t features)
{
    bool legacy = machine->transport == TRANSPORT_MMIO_LEGACY;
    if (machine->transport == TRANSPORT_PCI) {
        uint32_t devfn = PCI_DEVFN(3, 0);
        pci_bus_config_write(machine->bus, devfn, PCI_BAR0, 4, IO);
        pci_bus_config_write(machine->bus, devfn, PCI_BAR0 + 4, 4, BASE + 0x10000);
        pci_bus_config_write(machine->bus, devfn, PCI_BAR0 + 16, 4, BASE);
        pci_bus_config_write(machine->bus, devfn, PCI_BAR0 + 20, 4, 0);
        pci_bus_config_write(machine->bus, devfn, PCI_COMMAND, 2, 7);
    }
    set_status(machine, 0);
    set_status(machine, 3);
    features &= machine->echo->virtio.device_features;
    write_features(machine, features | (legacy ? 0 : VIRTIO_F_VERSION_1));
    set_status(machine, legacy ? 3 : 11);
    machine->packed = features & VIRTIO_F_RING_PACKED;
    for (uint32_t queue = 0; queue < ECHO_QUEUES; queue++) {
        memset(machine->ram + queue * RING, 0, RING);
        start_queue(machine, queue);
    }
    set_status(machine, legacy ? 7 : 15);
}

static const uint64_t feature_sets[] = {
    0,
    VIRTIO_F_EVENT_IDX,
    VIRTIO_F_INDIRECT_DESC,
    VIRTIO_F_INDIRECT_DESC | VIRTIO_F_EVENT_IDX | VIRTIO_F_RING_RESET,
    VIRTIO_F_IN_ORDER | VIRTIO_F_RING_RESET,
    VIRTIO_F_RING_PACKED,
    VIRTIO_F_RING_PACKED | VIRTIO_F_EVENT_IDX | VIRTIO_F_INDIRECT_DESC,
    VIRTIO_F_RING_PACKED | VIRTIO_F_IN_ORDER | VIRTIO_F_RING_RESET | VIRTIO_F_NOTIFICATION_DATA,
};

/* ---- Chains ------------------------------------------------------------------------------------------------- */

/* A descriptor that is often right: in RAM, short, in the table, of this lap. */
static void put_desc(Machine *machine, Input *input)
{
    uint32_t place = (uint32_t)take(input, 1), queue = place >> 5 & 1, index = place % SIZE;
    uint8_t shape = (uint8_t)take(input, 1);
    VirtqDesc desc = {.addr = DATA + take(input, 1) * 64, .len = 16, .flags = shape & 7};
    if (shape & 8)
        desc.len = (uint32_t)take(input, 2);
    if (shape & 16)
        desc.addr = shape & 32 ? take(input, 8) : HIGH + take(input, 2) % 0x3000;
    if (desc.flags & VIRTQ_DESC_F_INDIRECT)
        desc = (VirtqDesc){queue * RING + TABLE, 16 * (1 + (shape >> 4 & 7)), desc.flags, 0};
    desc.next = (uint16_t)take(input, 1);
    if (machine->packed) {
        VirtqPackedDesc packed = {.addr = desc.addr, .len = desc.len, .id = desc.next};
        packed.flags = desc.flags | (shape & 64 ? VIRTQ_PACKED_USED : VIRTQ_PACKED_AVAIL);
        memcpy(&desc, &packed, sizeof desc);
    } else {
        desc.next %= 2 * SIZE;
    }
    memcpy(machine->ram + queue * RING + (shape & 128 ? TABLE : 0) + 16 * index, &desc, sizeof desc);
}

static void offer(Machine *machine, Input *input)
{
    uint32_t queue = (uint32_t)take(input, 1) & 1;
    VirtqAvail *avail = (VirtqAvail *)(machine->ram + avail_at(machine, queue));
    avail->ring[avail->idx % SIZE] = (uint16_t)(take(input, 1) % (SIZE + 1));
    avail->idx++;
    kick(machine, queue);
}

/* Event indices and structures, flags, indices. */
static void put_word(Machine *machine, Input *input)
{
    uint32_t queue = (uint32_t)take(input, 1), where = queue >> 1 & 3;
    uint64_t at = where & 1 ? used_at(machine, queue & 1) : avail_at(machine, queue & 1);
    if (where & 2)
        at += 4 + (where & 1 ? 8 : 2) * SIZE;
    store_le16(machine->ram + at + (queue >> 3 & 2), (uint16_t)take(input, 2));
}

static void spoil_state(Machine *machine, Input *input)
{
    union {
        VirtioPciState pci;
        VirtioMmioState mmio;
        uint8_t bytes[1];
    } state;
    size_t size = machine->transport == TRANSPORT_PCI ? sizeof state.pci : sizeof state.mmio;
    device_save(machine->device, &state);
    uint32_t count = (uint32_t)take(input, 1) % 4;
    for (uint32_t i = 0; i < count; i++) {
        uint64_t where = take(input, 2);
        if (where & 1) { /* the queues', as often as all the rest */
            VirtioState *virtio = machine->transport == TRANSPORT_PCI ? &state.pci.virtio : &state.mmio.virtio;
            ((uint8_t *)virtio->queues)[(where >> 1) % (ECHO_QUEUES * sizeof(VirtioQueueState))] ^= take(input, 1);
        } else {
            state.bytes[(where >> 1) % size] ^= (uint8_t)take(input, 1);
        }
    }
    device_restore(machine->device, &state);
    device_save(machine->device, &state); /* what was taken is good to be saved */
    if (device_restore(machine->device, &state) < 0)
        abort();
}

/* What no sanitizer sees: positions beyond a ring are somebody else's memory, but mapped. */
static void check_rings(const Machine *machine)
{
    for (uint32_t i = 0; i < ECHO_QUEUES; i++) {
        const Virtqueue *ring = &machine->echo->virtio.queues[i].ring;
        if (ring->enabled && (!ring->size || ring->size > ECHO_QUEUE_SIZE))
            abort();
        if (ring->enabled && virtqueue_is_packed(ring) &&
            (ring->last_avail >= ring->size || ring->next_used >= ring->size))
            abort();
    }
}

static void step(Machine *machine, Input *input)
{
    uint64_t value, at;
    uint32_t span = machine->transport == TRANSPORT_PCI ? VIRTIO_PCI_MODERN_SIZE : 0x200;
    switch (take(input, 1) % 16) {
    case 0:
    case 1:
    case 2:
    case 3:
        put_desc(machine, input);
        break;
    case 4:
    case 5:
    case 6:
        offer(machine, input);
        break;
    case 7:
        kick(machine, (uint32_t)take(input, 1) & 3);
        break;
    case 8:
        put_word(machine, input);
        break;
    case 9:
        at = take(input, 2) % span;
        put(machine, at & 0x3000 ? at : at & 0xff, 1u << (take(input, 1) & 3), take(input, 4));
        break;
    case 10:
        bus_read(machine->board->mmio, BASE + take(input, 2) % span, 1u << (take(input, 1) & 3), &value);
        break;
    case 11:
        machine->ram[take(input, 2)] = (uint8_t)take(input, 1);
        break;
    case 12:
        bus_write(machine->board->pio, IO + take(input, 1) % 64, 1u << (take(input, 1) % 3), take(input, 4));
        pci_bus_config_write(machine->bus, PCI_DEVFN(3, 0), (uint32_t)take(input, 1) & ~3u, 4,
                             (uint32_t)take(input, 4));
        break;
    case 13:
        spoil_state(machine, input);
        break;
    case 14:
        if (machine->transport == TRANSPORT_PCI)
            put(machine, COMMON_QUEUE_RESET, 2, 1);
        else
            put(machine, MMIO_QUEUE_RESET, 4, 1);
        start_queue(machine, (uint32_t)take(input, 1) & 1);
        break;
    case 15:
        start(machine, feature_sets[take(input, 1) % ARRAY_SIZE(feature_sets)]);
        break;
    }
}

/* It lives: after a reset, two buffers of one request in each format that it offers. */
static void check_good(Machine *machine, uint64_t features)
{
    device_reset(machine->device);
    machine->echo->random = 0;
    start(machine, features);
    VirtqDesc chain[2] = {{DATA, 16, VIRTQ_DESC_F_NEXT, 1}, {DATA + 0x100, 32, VIRTQ_DESC_F_WRITE, 0}};
    VirtqPackedDesc packed[2] = {
        {DATA, 16, 0, VIRTQ_DESC_F_NEXT | VIRTQ_PACKED_AVAIL},
        {DATA + 0x100, 32, 7, VIRTQ_DESC_F_WRITE | VIRTQ_PACKED_AVAIL},
    };
    memset(machine->ram + DATA, 0x5a, 16);
    memset(machine->ram + DATA + 0x100, 0, 32);
    memcpy(machine->ram + RING, machine->packed ? (const void *)packed : chain, sizeof chain);
    VirtqAvail *avail = (VirtqAvail *)(machine->ram + avail_at(machine, 1));
    if (!machine->packed)
        avail->idx = 1;
    kick(machine, 1);
    const VirtqUsed *used = (const VirtqUsed *)(machine->ram + used_at(machine, 1));
    const VirtqPackedDesc *first = (const VirtqPackedDesc *)(machine->ram + RING);
    bool done = machine->packed ? first->id == 7 && first->len == 16 && first->flags & VIRTQ_PACKED_USED
                                : used->idx == 1 && used->ring[0].len == 16;
    if (!done || machine->ram[DATA + 0x10f] != 0x5a || machine->ram[DATA + 0x110])
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    Machine machine;
    Input input = {data, size};
    machine_new(&machine, (uint32_t)take(&input, 2));
    start(&machine, feature_sets[take(&input, 1) % ARRAY_SIZE(feature_sets)]);
    while (input.left) {
        step(&machine, &input);
        check_rings(&machine);
    }
    check_good(&machine, 0);
    check_good(&machine, VIRTIO_F_RING_PACKED | VIRTIO_F_EVENT_IDX);
    machine_free(&machine);
    return 0;
}
