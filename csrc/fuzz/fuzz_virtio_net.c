/*
 * A network driver that does anything: the input is a program of register accesses, writes to guest memory near the
 * rings, frames from outside and kicks, on split or packed rings. The device must neither crash nor hang, and must
 * send and receive after a reset.
 */
#include <stdlib.h>

#include "devices/pci_bridges.h"
#include "fuzz/input.h"
#include "fuzz/net_sink.h"
#include "virtio/virtio_net.h"
#include "virtio/virtio_pci.h"

enum { RAM = 0x20000, MMIO = 0xe0000000, IO = 0xc000, QUEUE = 64, RING = 0x1000, AVAIL = 0x400, USED = 0x600 };

static const uint8_t mac[6] = {0x52, 0x54, 0, 1, 2, 3};

typedef struct Machine {
    Board *board;
    PciBus *bus;
    Device *nic;
    NetSink *sink;
    uint8_t *ram;
} Machine;

static void machine_new(Machine *machine, uint32_t offloads)
{
    machine->board = board_new(CLOCK_KIND_VIRTUAL, NULL);
    guest_memory_add(machine->board->memory, 0, RAM, 0, NULL);
    guest_memory_add(machine->board->memory, RAM, RAM, MEMSLOT_READ_ONLY, NULL);
    machine->ram = guest_memory_ptr(machine->board->memory, 0, RAM, true);
    machine->bus = pci_bus_new(machine->board);
    machine->sink = net_sink_new(machine->board, offloads);
    VirtioNetOptions options = {.rx_size = QUEUE, .tx_size = QUEUE};
    memcpy(options.mac, mac, 6);
    VirtioPlace place = {
        .bus = machine->bus, .devfn = PCI_DEVFN(3, 0), .offer = VIRTIO_F_RING_PACKED | VIRTIO_F_IN_ORDER};
    machine->nic = virtio_net_new(machine->board, &place, &machine->sink->base, &options, NULL);
    if (!machine->nic)
        abort();
}

static void machine_free(Machine *machine)
{
    device_free(machine->nic);
    net_backend_free(&machine->sink->base);
    device_free(pci_bus_device(machine->bus));
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
    features = (features & virtio_device_features(machine->nic)) | VIRTIO_F_VERSION_1;
    for (uint32_t word = 0; word < 2; word++) {
        modern(machine, COMMON_DRIVER_FEATURE_SELECT, 4, word);
        modern(machine, COMMON_DRIVER_FEATURE, 4, (uint32_t)(features >> (32 * word)));
    }
    modern(machine, COMMON_DEVICE_STATUS, 1, 11);
    for (uint32_t queue = 0; queue < VIRTIO_NET_QUEUES; queue++) {
        modern(machine, COMMON_QUEUE_SELECT, 2, queue);
        modern(machine, COMMON_QUEUE_DESC, 8, RING * queue);
        modern(machine, COMMON_QUEUE_DRIVER, 8, RING * queue + AVAIL);
        modern(machine, COMMON_QUEUE_DEVICE, 8, RING * queue + USED);
        modern(machine, COMMON_QUEUE_ENABLE, 2, 1);
    }
    modern(machine, COMMON_DEVICE_STATUS, 1, 15);
}

static void offer(Machine *machine, uint32_t queue, uint16_t head)
{
    VirtqAvail *avail = (VirtqAvail *)(machine->ram + RING * queue + AVAIL);
    avail->ring[avail->idx % QUEUE] = head;
    avail->idx++;
}

/* A descriptor with fields that are often right: in RAM, long enough. */
static void put_desc(Machine *machine, Input *input)
{
    uint32_t queue = take(input, 1) % VIRTIO_NET_QUEUES, index = take(input, 1) % QUEUE;
    uint8_t shape = (uint8_t)take(input, 1);
    VirtqDesc desc = {.addr = 0x4000 + take(input, 2),
                      .len = (uint32_t)take(input, 2),
                      .flags = shape & 7,
                      .next = (uint16_t)take(input, 1)};
    if (shape & 8)
        desc.addr = take(input, 8);
    if (shape & 16)
        desc.len = 12;
    if (shape & 32)
        desc.flags |= 0x80;
    memcpy(machine->ram + RING * queue + 16 * index, &desc, sizeof desc);
    offer(machine, queue, (uint16_t)index);
}

static void put_header(Machine *machine, Input *input)
{
    uint8_t *at = machine->ram + 0x4000 + take(input, 2);
    NetHeader header = {.flags = (uint8_t)take(input, 1),
                        .gso_type = (uint8_t)take(input, 1),
                        .gso_size = (uint16_t)take(input, 2),
                        .csum_start = (uint16_t)take(input, 2),
                        .csum_offset = (uint16_t)take(input, 1)};
    memcpy(at, &header, sizeof header);
    if (take(input, 1) & 1) { /* an IP header behind it */
        at[24] = 8, at[25] = 0, at[26] = 0x45, at[35] = 6;
        store_be16(at + 28, (uint16_t)take(input, 2));
    }
}

/* A control command with its answer. */
static void command(Machine *machine, Input *input)
{
    uint8_t *at = machine->ram + 0x3800;
    uint32_t bytes = 2 + take(input, 1) % 100;
    at[0] = (uint8_t)(take(input, 1) % 7);
    at[1] = (uint8_t)(take(input, 1) % 7);
    for (uint32_t i = 2; i < bytes; i++)
        at[i] = (uint8_t)take(input, 1);
    VirtqDesc chain[2] = {{0x3800, bytes, VIRTQ_DESC_F_NEXT, 41}, {0x3900, 1, VIRTQ_DESC_F_WRITE, 0}};
    memcpy(machine->ram + RING * VIRTIO_NET_CTRL + 16 * 40, chain, sizeof chain);
    offer(machine, VIRTIO_NET_CTRL, 40);
    modern(machine, VIRTIO_PCI_NOTIFY + 4 * VIRTIO_NET_CTRL, 2, 0);
}

static void step(Machine *machine, Input *input)
{
    uint64_t value;
    uint32_t size;
    switch (take(input, 1) % 13) {
    case 0:
    case 1:
    case 2:
        put_desc(machine, input);
        break;
    case 3:
        put_header(machine, input);
        break;
    case 4:
    case 5:
        modern(machine, VIRTIO_PCI_NOTIFY + 4 * (take(input, 1) % 3), 2, 0);
        break;
    case 6:
        size = 1u << (take(input, 1) & 3);
        modern(machine, take(input, 2) & 0x3fff, size, take(input, 8));
        break;
    case 7:
        size = 1u << (take(input, 1) & 3);
        bus_read(machine->board->mmio, MMIO + (take(input, 2) & 0x3fff), size, &value);
        break;
    case 8:
        command(machine, input);
        break;
    case 9: {
        NetHeader header = {.flags = (uint8_t)take(input, 1), .csum_start = (uint16_t)take(input, 2)};
        size = (uint32_t)take(input, 2);
        net_sink_deliver(machine->sink, size, size & 1 ? &header : NULL, mac);
        break;
    }
    case 10:
        net_sink_set_full(machine->sink, take(input, 1) & 1);
        break;
    case 11:
        assign(machine);
        start(machine, take(input, 8));
        break;
    case 12: {
        VirtioPciState state;
        device_save(machine->nic, &state);
        ((uint8_t *)&state)[take(input, 2) % sizeof state] ^= (uint8_t)take(input, 1);
        device_restore(machine->nic, &state);
        break;
    }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    Machine machine;
    Input input = {data, size};
    machine_new(&machine, (uint32_t)take(&input, 1));
    assign(&machine);
    start(&machine, take(&input, 8));
    while (input.left)
        step(&machine, &input);

    /* It lives: after a reset, one frame each way. */
    net_sink_set_full(machine.sink, false);
    net_backend_set_link(&machine.sink->base, true);
    device_reset(machine.nic);
    clock_advance(machine.board->clock, 1000);
    clock_run_timers(machine.board->clock);
    memset(machine.ram, 0, RAM);
    assign(&machine);
    start(&machine, 0);
    uint64_t sent = machine.sink->sent;
    VirtqDesc frame = {0x4000, 12 + 60, 0, 0}, buffer = {0x5000, 2048, VIRTQ_DESC_F_WRITE, 0};
    memcpy(machine.ram + RING * VIRTIO_NET_TX, &frame, sizeof frame);
    memcpy(machine.ram + RING * VIRTIO_NET_RX, &buffer, sizeof buffer);
    offer(&machine, VIRTIO_NET_TX, 0);
    offer(&machine, VIRTIO_NET_RX, 0);
    modern(&machine, VIRTIO_PCI_NOTIFY + 4, 2, 0);
    net_sink_deliver(machine.sink, 54, NULL, mac);
    if (machine.sink->sent != sent + 1 || ((VirtqUsed *)(machine.ram + USED))->idx != 1)
        abort();
    machine_free(&machine);
    return 0;
}
