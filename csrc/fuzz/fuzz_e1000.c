/*
 * A driver of the 82540EM that does anything: register accesses, descriptors of every kind, frames from outside.
 * The device must neither crash nor hang, and must send and receive after a reset.
 */
#include <stdlib.h>

#include "devices/e1000.h"
#include "fuzz/input.h"
#include "fuzz/net_sink.h"

enum { RAM = 0x20000, MMIO = 0xe0000000, IO = 0xc000, COUNT = 16, TX_RING = 0x1000, RX_RING = 0x2000 };

static const uint8_t mac[6] = {0x52, 0x54, 0, 1, 2, 3};

typedef struct Machine {
    Board *board;
    PciBus *bus;
    Device *nic;
    NetSink *sink;
    uint8_t *ram;
    uint32_t tail;
} Machine;

static void machine_new(Machine *machine, uint32_t offloads)
{
    machine->board = board_new(CLOCK_KIND_VIRTUAL, NULL);
    guest_memory_add(machine->board->memory, 0, RAM, 0, NULL);
    guest_memory_add(machine->board->memory, RAM, RAM, MEMSLOT_READ_ONLY, NULL);
    machine->ram = guest_memory_ptr(machine->board->memory, 0, RAM, true);
    machine->bus = pci_bus_new(machine->board);
    machine->sink = net_sink_new(machine->board, offloads);
    machine->nic = e1000_new(machine->board, machine->bus, PCI_DEVFN(3, 0), &machine->sink->base, mac, NULL);
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

static void set(Machine *machine, uint32_t offset, uint32_t value)
{
    bus_write(machine->board->mmio, MMIO + offset, 4, value);
}

static void start(Machine *machine)
{
    uint32_t devfn = PCI_DEVFN(3, 0);
    pci_bus_config_write(machine->bus, devfn, PCI_BAR0, 4, MMIO);
    pci_bus_config_write(machine->bus, devfn, PCI_BAR0 + 4, 4, IO);
    pci_bus_config_write(machine->bus, devfn, PCI_COMMAND, 2, 7);
    set(machine, E1000_CTRL, E1000_CTRL_RST);
    set(machine, E1000_CTRL, E1000_CTRL_SLU | E1000_CTRL_VME);
    set(machine, E1000_TDBAL, TX_RING);
    set(machine, E1000_TDLEN, 16 * COUNT);
    set(machine, E1000_TCTL, E1000_TCTL_EN | E1000_TCTL_PSP);
    set(machine, E1000_RDBAL, RX_RING);
    set(machine, E1000_RDLEN, 16 * COUNT);
    for (uint32_t i = 0; i < COUNT; i++)
        store_le64(machine->ram + RX_RING + 16 * i, 0x10000 + 0x800 * i);
    set(machine, E1000_RXCSUM, E1000_RXCSUM_IPOFL | E1000_RXCSUM_TUOFL);
    set(machine, E1000_RCTL, E1000_RCTL_EN);
    set(machine, E1000_RDT, COUNT - 1);
    machine->tail = 0;
}

static void put_desc(Machine *machine, Input *input)
{
    uint8_t *at = machine->ram + TX_RING + 16 * machine->tail, shape = (uint8_t)take(input, 1);
    uint32_t command = (uint32_t)take(input, 1) << 24;
    if (shape & 1)
        store_le64(at, take(input, 8));
    else
        store_le64(at, 0x4000 + take(input, 2));
    if (shape & 2) /* a context */
        store_le64(at, 14 | 24 << 8 | 33 << 16 | 34ull << 32 | (uint64_t)(34 + take(input, 1) % 32) << 40);
    store_le32(at + 8, (uint32_t)take(input, shape & 4 ? 3 : 2) | command);
    store_le32(at + 12, (uint32_t)take(input, 4));
    machine->tail = (machine->tail + 1) % COUNT;
    if (shape & 8)
        set(machine, E1000_TDT, machine->tail);
}

static void step(Machine *machine, Input *input)
{
    uint64_t value;
    uint32_t size;
    static const uint16_t ranges[8] = {0x0000, 0x0100, 0x0400, 0x2800, 0x3800, 0x4000, 0x5000, 0x5400};
    switch (take(input, 1) % 11) {
    case 0:
    case 1:
    case 2:
        put_desc(machine, input);
        break;
    case 3:
    case 4:
        size = ranges[take(input, 1) & 7];
        set(machine, size + (take(input, 1) & 0xfc), (uint32_t)take(input, 4));
        break;
    case 5:
        size = 1u << (take(input, 1) & 3);
        bus_read(machine->board->mmio, MMIO + (take(input, 3) & 0x1fff8), size, &value);
        break;
    case 6:
        size = 1u << (take(input, 1) % 3);
        bus_write(machine->board->pio, IO + (take(input, 1) & 0x3c), size, take(input, 4));
        break;
    case 7: {
        NetHeader header = {.flags = (uint8_t)take(input, 1), .csum_start = (uint16_t)take(input, 2)};
        size = (uint32_t)take(input, 2);
        net_sink_deliver(machine->sink, size, size & 1 ? &header : NULL, mac);
        break;
    }
    case 8:
        net_sink_set_full(machine->sink, take(input, 1) & 1);
        machine->ram[take(input, 2)] = (uint8_t)take(input, 1);
        break;
    case 9:
        start(machine);
        break;
    case 10: {
        E1000State state;
        device_save(machine->nic, &state);
        ((uint8_t *)&state)[take(input, 2) % sizeof state] ^= (uint8_t)take(input, 1);
        device_restore(machine->nic, &state);
        break;
    }
    }
    clock_advance(machine->board->clock, 100000);
    clock_run_timers(machine->board->clock);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    Machine machine;
    Input input = {data, size};
    machine_new(&machine, (uint32_t)take(&input, 1));
    start(&machine);
    while (input.left)
        step(&machine, &input);

    /* It lives: after a reset, one frame each way. */
    net_sink_set_full(machine.sink, false);
    device_reset(machine.nic);
    clock_advance(machine.board->clock, 1000);
    clock_run_timers(machine.board->clock);
    memset(machine.ram, 0, RAM);
    start(&machine);
    uint64_t sent = machine.sink->sent, head;
    store_le64(machine.ram + TX_RING, 0x4000);
    store_le32(machine.ram + TX_RING + 8, 60 | (uint32_t)E1000_TXD_EOP << 24);
    set(&machine, E1000_TDT, 1);
    net_sink_deliver(machine.sink, 54, NULL, mac);
    bus_read(machine.board->mmio, MMIO + E1000_RDH, 4, &head);
    if (machine.sink->sent != sent + 1 || head != 1)
        abort();
    machine_free(&machine);
    return 0;
}
