/*
 * Drivers that do anything, for virtio's smaller devices: the input says which device, and is then a program of
 * register accesses, buffers in its queues, kicks, what the host does meanwhile, and saved states that are spoiled.
 * The device must neither crash nor hang, and must be of use after a reset.
 */
#include <stdlib.h>

#include "devices/pci_bridges.h"
#include "fuzz/input.h"
#include "virtio/virtio_balloon.h"
#include "virtio/virtio_console.h"
#include "virtio/virtio_input.h"
#include "virtio/virtio_pci.h"
#include "virtio/virtio_rng.h"

enum { RAM = 0x10000, MMIO = 0xe0000000, QUEUES = 6, SIZE = 16, RING = 0x400 };
enum { DEVICE_RNG, DEVICE_CONSOLE, DEVICE_BALLOON, DEVICE_INPUT, DEVICES };

typedef struct Machine {
    Board *board;
    PciBus *bus;
    Device *device;
    CharSink *sink;
    uint8_t *ram;
    uint32_t kind;
} Machine;

static void machine_new(Machine *machine, uint32_t kind)
{
    *machine = (Machine){.board = board_new(CLOCK_KIND_VIRTUAL, NULL), .kind = kind};
    guest_memory_add(machine->board->memory, 0, RAM, 0, NULL);
    guest_memory_add(machine->board->memory, RAM, RAM, MEMSLOT_READ_ONLY, NULL);
    machine->ram = guest_memory_ptr(machine->board->memory, 0, RAM, true);
    machine->bus = pci_bus_new(machine->board);
    machine->sink = char_sink_new_fd(machine->board, -1, 100, NULL);
    VirtioPlace place = {.bus = machine->bus, .devfn = PCI_DEVFN(3, 0)};
    VirtioRngOptions rng = {.bytes_per_second = 1000, .seeded = true};
    VirtioBalloonOptions balloon = {.stats_interval_ns = 1000000};
    VirtioConsoleOptions console = {.port_count = 2,
                                    .ports = {{.is_console = true, .sink = machine->sink}, {.name = "port"}}};
    if (kind == DEVICE_RNG)
        machine->device = virtio_rng_new(machine->board, &place, &rng, NULL);
    else if (kind == DEVICE_CONSOLE)
        machine->device = virtio_console_new(machine->board, &place, &console, NULL);
    else if (kind == DEVICE_BALLOON)
        machine->device = virtio_balloon_new(machine->board, &place, &balloon, NULL);
    else
        machine->device = virtio_input_new(machine->board, &place, VIRTIO_INPUT_KEYBOARD, NULL);
    if (!machine->device || !machine->sink)
        abort();
}

static void machine_free(Machine *machine)
{
    device_free(machine->device);
    device_free(pci_bus_device(machine->bus));
    char_sink_free(machine->sink);
    board_free(machine->board);
}

static void modern(Machine *machine, uint64_t offset, uint32_t size, uint64_t value)
{
    bus_write(machine->board->mmio, MMIO + offset, size, value);
}

static void start(Machine *machine, uint64_t features)
{
    uint32_t devfn = PCI_DEVFN(3, 0);
    pci_bus_config_write(machine->bus, devfn, PCI_BAR0 + 16, 4, MMIO);
    pci_bus_config_write(machine->bus, devfn, PCI_BAR0 + 20, 4, 0);
    pci_bus_config_write(machine->bus, devfn, PCI_COMMAND, 2, 6);
    modern(machine, COMMON_DEVICE_STATUS, 1, 0);
    modern(machine, COMMON_DEVICE_STATUS, 1, 3);
    for (uint32_t word = 0; word < 2; word++) {
        modern(machine, COMMON_DRIVER_FEATURE_SELECT, 4, word);
        modern(machine, COMMON_DRIVER_FEATURE, 4, (features | VIRTIO_F_VERSION_1) >> (32 * word));
    }
    modern(machine, COMMON_DEVICE_STATUS, 1, 11);
    for (uint32_t queue = 0; queue < QUEUES; queue++) {
        modern(machine, COMMON_QUEUE_SELECT, 2, queue);
        modern(machine, COMMON_QUEUE_SIZE, 2, SIZE);
        modern(machine, COMMON_QUEUE_DESC, 8, RING * queue);
        modern(machine, COMMON_QUEUE_DRIVER, 8, RING * queue + 0x100);
        modern(machine, COMMON_QUEUE_DEVICE, 8, RING * queue + 0x200);
        modern(machine, COMMON_QUEUE_ENABLE, 2, 1);
    }
    modern(machine, COMMON_DEVICE_STATUS, 1, 15);
}

/* A chain of one or two buffers, most often in RAM and short. */
static void offer(Machine *machine, Input *input)
{
    uint32_t queue = (uint32_t)take(input, 1) % QUEUES, head = (uint32_t)take(input, 1) % SIZE;
    uint8_t shape = (uint8_t)take(input, 1);
    VirtqDesc desc = {
        .addr = take(input, 2), .len = (uint32_t)take(input, 1), .flags = shape & 3, .next = shape >> 4};
    if (shape & 4)
        desc.len = 8;
    if (shape & 8)
        desc.addr = take(input, 8);
    memcpy(machine->ram + RING * queue + 16 * head, &desc, sizeof desc);
    VirtqAvail *avail = (VirtqAvail *)(machine->ram + RING * queue + 0x100);
    avail->ring[avail->idx % SIZE] = (uint16_t)head;
    avail->idx++;
    modern(machine, VIRTIO_PCI_NOTIFY + queue * VIRTIO_PCI_NOTIFY_MULTIPLIER, 2, queue);
}

/* What comes from the host's side. */
static void host(Machine *machine, Input *input)
{
    uint8_t data[8];
    store_le64(data, take(input, 8));
    VirtioInputEvent event = {data[0], data[1], data[2]};
    if (machine->kind == DEVICE_CONSOLE) {
        virtio_console_receive(machine->device, data[0] & 3, data, sizeof data);
        virtio_console_resize(machine->device, data[1], data[2]);
        virtio_console_set_open(machine->device, data[3] & 3, data[4] & 1);
    } else if (machine->kind == DEVICE_BALLOON) {
        virtio_balloon_set_target(machine->device, load_le32(data));
        virtio_balloon_poll(machine->device);
    } else if (machine->kind == DEVICE_INPUT) {
        virtio_input_send(machine->device, &event, 1);
    }
    clock_advance(machine->board->clock, load_le32(data));
    clock_run_timers(machine->board->clock);
}

static void step(Machine *machine, Input *input)
{
    uint64_t value;
    uint32_t size;
    switch (take(input, 1) % 8) {
    case 0:
    case 1:
    case 2:
        offer(machine, input);
        break;
    case 3:
        host(machine, input);
        break;
    case 4:
        size = 1u << (take(input, 1) & 3);
        modern(machine, take(input, 2) & 0x3fff, size, take(input, 4));
        break;
    case 5:
        bus_read(machine->board->mmio, MMIO + (take(input, 2) & 0x3fff), 4, &value);
        break;
    case 6:
        machine->ram[take(input, 2)] = (uint8_t)take(input, 1);
        break;
    case 7: {
        static VirtioPciState state;
        if (take(input, 1) & 1) {
            start(machine, take(input, 4));
            break;
        }
        device_save(machine->device, &state);
        ((uint8_t *)&state)[take(input, 2) % sizeof state] ^= (uint8_t)take(input, 1);
        device_restore(machine->device, &state);
        break;
    }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    Machine machine;
    Input input = {data, size};
    machine_new(&machine, (uint32_t)take(&input, 1) % DEVICES);
    start(&machine, take(&input, 1));
    while (input.left)
        step(&machine, &input);

    /* It lives: after a reset queue 1 (queue 0 of the entropy device) takes a buffer. */
    uint32_t queue = machine.kind == DEVICE_RNG ? 0 : 1;
    device_reset(machine.device);
    memset(machine.ram, 0, RAM);
    start(&machine, 0);
    const uint8_t good[] = {(uint8_t)queue, 0, machine.kind == DEVICE_RNG ? 6 : 4, 0, 0x80, 8};
    Input one = {good, sizeof good};
    offer(&machine, &one);
    clock_advance(machine.board->clock, 2000000000);
    clock_run_timers(machine.board->clock);
    if (((VirtqUsed *)(machine.ram + RING * queue + 0x200))->idx != 1)
        abort();
    machine_free(&machine);
    return 0;
}
