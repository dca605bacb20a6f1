/*
 * A driver that does anything: the input is a program of register accesses, writes to guest memory near the rings,
 * and kicks. The device must neither crash nor hang, and must work again after a reset. Now and then its file
 * cannot be written, so that the machine stops and goes on; queues are looked at, requests are recorded.
 */
#include <stdlib.h>
#include <unistd.h>

#include "block/image.h"
#include "devices/pci_bridges.h"
#include "fuzz/input.h"
#include "virtio/virtio_blk.h"
#include "virtio/virtio_pci.h"
#include "virtio/virtio_view.h"

enum {
    RAM = 0x10000,
    DISK = 0x8000,
    IO = 0xc000,
    MMIO = 0xe0000000,
    DESC = 0x0,
    AVAIL = 0x400,
    USED = 0x600,
    QUEUE = 64
};

typedef struct Machine {
    Board *board;
    PciBus *bus;
    Device *blk;
    BlockImage *image;
    uint8_t *ram;
    char path[32];
    struct BadFormat *format;
    int *write_error;
} Machine;

/* Raw, but for writes that may fail. */
typedef struct BadFormat {
    BlockFormat format;
    int write_error;
} BadFormat;

static int bad_pwritev(BlockImage *image, const struct iovec *iov, int iovcnt, uint64_t offset)
{
    int error = container_of(image->format, BadFormat, format)->write_error;
    return error ? error : raw_format.pwritev(image, iov, iovcnt, offset);
}

static void machine_new(Machine *machine)
{
    machine->board = board_new(CLOCK_KIND_VIRTUAL, NULL);
    guest_memory_add(machine->board->memory, 0, RAM, 0, NULL);
    guest_memory_add(machine->board->memory, RAM, RAM, MEMSLOT_READ_ONLY, NULL);
    machine->ram = guest_memory_ptr(machine->board->memory, 0, RAM, true);
    machine->bus = pci_bus_new(machine->board);
    device_map(pci_bus_device(machine->bus), machine->board->pio, 0xcf8, 1, PCI_REGION_ADDRESS, NULL);
    device_map(pci_bus_device(machine->bus), machine->board->pio, 0xcfc, 4, PCI_REGION_DATA, NULL);
    strcpy(machine->path, "/tmp/pyvmm-fuzz-XXXXXX");
    int fd = mkstemp(machine->path);
    if (fd < 0 || ftruncate(fd, DISK) < 0)
        abort();
    close(fd);
    machine->image = block_open(machine->path, "raw", BLOCK_CACHE_UNSAFE, 0, NULL);
    unlink(machine->path);
    VirtioBlkOptions options = {.queue_size = QUEUE, .num_queues = 2, .on_write_error = VIRTIO_BLK_ON_ERROR_STOP};
    VirtioPlace place = {.bus = machine->bus, .devfn = PCI_DEVFN(3, 0)};
    machine->blk = virtio_blk_new(machine->board, &place, machine->image, &options, NULL);
    machine->format = calloc(1, sizeof *machine->format);
    if (!machine->image || !machine->blk || !machine->format)
        abort();
    machine->format->format = raw_format;
    machine->format->format.pwritev = bad_pwritev;
    machine->image->format = &machine->format->format;
    machine->write_error = &machine->format->write_error;
}

static void machine_free(Machine *machine)
{
    device_free(machine->blk);
    device_free(pci_bus_device(machine->bus));
    block_close(machine->image);
    free(machine->format);
    board_free(machine->board);
}

static void assign(Machine *machine)
{
    uint32_t devfn = PCI_DEVFN(3, 0);
    pci_bus_config_write(machine->bus, devfn, PCI_BAR0, 4, IO);
    pci_bus_config_write(machine->bus, devfn, PCI_BAR0 + 16, 4, MMIO);
    pci_bus_config_write(machine->bus, devfn, PCI_BAR0 + 20, 4, 0);
    pci_bus_config_write(machine->bus, devfn, PCI_COMMAND, 2, 7);
}

static void modern(Machine *machine, uint64_t offset, uint32_t size, uint64_t value)
{
    bus_write(machine->board->mmio, MMIO + offset, size, value);
}

static void start(Machine *machine, uint64_t features)
{
    modern(machine, COMMON_DEVICE_STATUS, 1, 0);
    modern(machine, COMMON_DEVICE_STATUS, 1, 3);
    for (uint32_t word = 0; word < 2; word++) {
        modern(machine, COMMON_DRIVER_FEATURE_SELECT, 4, word);
        modern(machine, COMMON_DRIVER_FEATURE, 4, (features | VIRTIO_F_VERSION_1) >> (32 * word));
    }
    modern(machine, COMMON_DEVICE_STATUS, 1, 11);
    modern(machine, COMMON_QUEUE_DESC, 8, DESC);
    modern(machine, COMMON_QUEUE_DRIVER, 8, AVAIL);
    modern(machine, COMMON_QUEUE_DEVICE, 8, USED);
    modern(machine, COMMON_QUEUE_ENABLE, 2, 1);
    modern(machine, COMMON_DEVICE_STATUS, 1, 15);
}

/* A descriptor with fields that are often right: near RAM, short, in the table. */
static void put_desc(Machine *machine, Input *input)
{
    uint32_t index = take(input, 1) % QUEUE;
    uint8_t shape = (uint8_t)take(input, 1);
    VirtqDesc desc = {.addr = take(input, 2),
                      .len = (uint32_t)take(input, 2),
                      .flags = shape & 7,
                      .next = (uint16_t)take(input, 1)};
    if (shape & 8)
        desc.addr = take(input, 8);
    if (shape & 16)
        desc.len = 16;
    if (shape & 32)
        desc.len = 1;
    if (shape & 64)
        desc.len = 512;
    memcpy(machine->ram + DESC + 16 * index, &desc, sizeof desc);
}

static void offer(Machine *machine, uint16_t head)
{
    VirtqAvail *avail = (VirtqAvail *)(machine->ram + AVAIL);
    avail->ring[avail->idx % QUEUE] = head;
    avail->idx++;
}

/* A header, and a chain of three for it. */
static void put_request(Machine *machine, Input *input)
{
    uint32_t slot = take(input, 1) % 20, at = 0x1000 + 32 * slot;
    static const uint8_t types[8] = {0, 1, 4, 8, 11, 13, 0, 1};
    uint8_t type = types[take(input, 1) & 7];
    store_le32(machine->ram + at, type);
    store_le64(machine->ram + at + 8, take(input, 1));
    uint16_t write = type == 0 || type == 8 ? VIRTQ_DESC_F_WRITE : 0, head = (uint16_t)(3 * slot);
    VirtqDesc chain[3] = {
        {at, 16, VIRTQ_DESC_F_NEXT, (uint16_t)(head + 1)},
        {take(input, 2), (uint32_t)take(input, 1) * 16, VIRTQ_DESC_F_NEXT | write, (uint16_t)(head + 2)},
        {at + 16, 1, VIRTQ_DESC_F_WRITE, 0},
    };
    memcpy(machine->ram + DESC + 16 * head, chain, sizeof chain);
    offer(machine, head);
}

static void step(Machine *machine, Input *input)
{
    uint64_t value;
    uint32_t size;
    switch (take(input, 1) % 17) {
    case 0:
    case 1:
        put_desc(machine, input);
        break;
    case 2:
        offer(machine, (uint16_t)take(input, 1));
        break;
    case 3:
    case 4:
        put_request(machine, input);
        break;
    case 5:
    case 6:
        modern(machine, VIRTIO_PCI_NOTIFY, 2, 0);
        break;
    case 7:
        size = 1u << (take(input, 1) & 3);
        modern(machine, take(input, 2) & 0x3fff, size, take(input, 8));
        break;
    case 8:
        size = 1u << (take(input, 1) & 3);
        bus_read(machine->board->mmio, MMIO + (take(input, 2) & 0x3fff), size, &value);
        break;
    case 9:
        size = 1u << (take(input, 1) & 1);
        bus_write(machine->board->pio, IO + (take(input, 1) & 0x7f), size, take(input, 4));
        break;
    case 10:
        bus_write(machine->board->pio, 0xcf8, 4, 0x80001800 | take(input, 1));
        bus_write(machine->board->pio, 0xcfc, 1u << (take(input, 1) % 3), take(input, 4));
        bus_read(machine->board->pio, 0xcfc, 4, &value);
        break;
    case 11:
        machine->ram[take(input, 2)] = (uint8_t)take(input, 1);
        break;
    case 12:
        assign(machine);
        start(machine, take(input, 4));
        break;
    case 13: {
        VirtioPciState state;
        device_save(machine->blk, &state);
        ((uint8_t *)&state)[take(input, 2) % sizeof state] ^= (uint8_t)take(input, 1);
        device_restore(machine->blk, &state);
        break;
    }
    case 14: {
        static const uint32_t kinds[4] = {0, 1, 2, UINT32_MAX};
        VirtioQueueView view;
        VirtqDesc table[16];
        virtio_queue_view(machine->blk, kinds[take(input, 1) & 3], &view);
        virtio_queue_table(machine->blk, take(input, 8), 16, table);
        break;
    }
    case 15:
        *machine->write_error = take(input, 1) & 1 ? -ENOSPC : 0;
        virtio_blk_go_on(machine->blk);
        break;
    case 16: {
        VirtioBlkRecord record;
        if (take(input, 1) & 1)
            virtio_blk_record_start(machine->blk, 1 + (uint32_t)take(input, 1));
        else
            virtio_blk_record_stop(machine->blk);
        virtio_blk_record_take(machine->blk, &record, 1, NULL);
        break;
    }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    Machine machine;
    Input input = {data, size};
    machine_new(&machine);
    assign(&machine);
    start(&machine, take(&input, 4));
    while (input.left)
        step(&machine, &input);

    /* It lives: after a reset, one good request. */
    *machine.write_error = 0;
    device_reset(machine.blk);
    memset(machine.ram, 0, RAM);
    assign(&machine);
    start(&machine, 0);
    const uint8_t flush[] = {4, 2};
    Input good = {flush, sizeof flush};
    put_request(&machine, &good);
    VirtqDesc *desc = (VirtqDesc *)(machine.ram + DESC);
    memset(desc, 0, 16 * QUEUE);
    desc[12] = (VirtqDesc){0x1000 + 32 * 4, 16, VIRTQ_DESC_F_NEXT, 13};
    desc[13] = (VirtqDesc){0x2000, 1, VIRTQ_DESC_F_WRITE, 0};
    modern(&machine, VIRTIO_PCI_NOTIFY, 2, 0);
    if (((VirtqUsed *)(machine.ram + USED))->idx != 1 || machine.ram[0x2000] != 0)
        abort();
    machine_free(&machine);
    return 0;
}
