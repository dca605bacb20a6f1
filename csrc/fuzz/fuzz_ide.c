/*
 * A driver that does anything: the input is a program of port accesses, commands, packets, descriptors, changed
 * saved states and changed discs, on a disk and a CD-ROM drive in memory. The controller must neither crash nor
 * hang, and must work again after a reset.
 */
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "devices/ide.h"
#include "devices/pci_bridges.h"
#include "fuzz/input.h"

enum { RAM = 0x10000, DISK = 0x40000, DISC = 0x20000, TABLE = 0x400, MASTER = 0xc000, DEVFN = PCI_DEVFN(1, 1) };

static const uint32_t bases[2] = {0x1f0, 0x170};

typedef struct Machine {
    Board *board;
    PciBus *bus;
    Device *isa, *ide;
    BlockImage *images[2];
    uint8_t *ram;
} Machine;

static BlockImage *image_new(uint64_t size)
{
    char path[40];
    int fd = memfd_create("pyvmm-fuzz", 0);
    if (fd < 0 || ftruncate(fd, (off_t)size) < 0)
        abort();
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    BlockImage *image = block_open(path, "raw", BLOCK_CACHE_UNSAFE, BLOCK_NO_LOCK, NULL);
    close(fd);
    if (!image)
        abort();
    return image;
}

static void assign(Machine *machine)
{
    pci_bus_config_write(machine->bus, DEVFN, IDE_CONFIG_IDETIM, 4, 0x80008000);
    pci_bus_config_write(machine->bus, DEVFN, PCI_BAR0 + 16, 4, MASTER);
    pci_bus_config_write(machine->bus, DEVFN, PCI_COMMAND, 2, PCI_COMMAND_IO | PCI_COMMAND_MASTER);
}

static void machine_new(Machine *machine)
{
    machine->board = board_new(CLOCK_KIND_VIRTUAL, NULL);
    guest_memory_add(machine->board->memory, 0, RAM, 0, NULL);
    guest_memory_add(machine->board->memory, RAM, 0x1000, MEMSLOT_READ_ONLY, NULL);
    machine->ram = guest_memory_ptr(machine->board->memory, 0, RAM, true);
    machine->bus = pci_bus_new(machine->board);
    machine->isa = piix3_isa_new(machine->board, machine->bus, PCI_DEVFN(1, 0), NULL);
    machine->images[0] = image_new(DISK);
    machine->images[1] = image_new(DISC);
    IdeOptions options = {
        .drives = {[0] = {IDE_DISK, machine->images[0], ""}, [2] = {IDE_CDROM, machine->images[1], ""}}};
    machine->ide = ide_new(machine->board, machine->bus, DEVFN, irq_line_new(machine->board->irqs, 14),
                           irq_line_new(machine->board->irqs, 15), &options, NULL);
    for (uint32_t i = 0; i < 2; i++) {
        device_map(machine->ide, machine->board->pio, bases[i], 8, 2 * i, NULL);
        device_map(machine->ide, machine->board->pio, bases[i] + 0x206, 1, 2 * i + 1, NULL);
    }
    assign(machine);
}

static void machine_free(Machine *machine)
{
    device_free(machine->ide);
    device_free(machine->isa);
    device_free(pci_bus_device(machine->bus));
    block_close(machine->images[0]);
    block_close(machine->images[1]);
    board_free(machine->board);
}

static void out(Machine *machine, uint32_t port, uint32_t size, uint64_t value)
{
    bus_write(machine->board->pio, port, size, value);
}

static uint64_t in(Machine *machine, uint32_t port, uint32_t size)
{
    uint64_t value = 0;
    bus_read(machine->board->pio, port, size, &value);
    return value;
}

/* A command with a plausible address. */
static void put_command(Machine *machine, Input *input)
{
    uint32_t base = bases[take(input, 1) & 1];
    static const uint8_t commands[16] = {0x20, 0x24, 0xc4, 0x29, 0xc8, 0x25, 0x30, 0x34,
                                         0xc5, 0x39, 0xca, 0x35, 0x40, 0xec, 0xc6, 0x91};
    uint8_t code = (uint8_t)take(input, 1);
    out(machine, base + 6, 1, 0x40 | (take(input, 1) & 0x5f));
    out(machine, base + 1, 1, take(input, 1));
    for (uint32_t i = 2; i < 6; i++)
        out(machine, base + i, 1, i < 4 ? take(input, 1) : 0);
    out(machine, base + 7, 1, code & 0x80 ? take(input, 1) : commands[code & 15]);
}

static void put_packet(Machine *machine, Input *input)
{
    static const uint8_t codes[16] = {0x00, 0x03, 0x12, 0x1b, 0x1e, 0x25, 0x28, 0xa8,
                                      0xbe, 0x43, 0x46, 0x4a, 0x51, 0x5a, 0xbd, 0xff};
    uint8_t flags = (uint8_t)take(input, 1);
    out(machine, 0x176, 1, 0xa0);
    out(machine, 0x171, 1, flags & 1);
    out(machine, 0x174, 1, take(input, 1));
    out(machine, 0x175, 1, flags & 2 ? 0x20 : 0);
    out(machine, 0x177, 1, 0xa0);
    uint64_t first = take(input, 8), second = take(input, 4);
    if (!(flags & 4))
        first = (first & ~0xffull) | codes[flags >> 4];
    for (uint32_t i = 0; i < 6; i++)
        out(machine, 0x170, 2, i < 4 ? first >> (16 * i) : second >> (16 * (i - 4)));
}

static void put_table(Machine *machine, Input *input)
{
    uint32_t channel = take(input, 1) & 1, count = take(input, 1) & 7;
    for (uint32_t i = 0; i <= count; i++) {
        uint8_t shape = (uint8_t)take(input, 1);
        store_le32(machine->ram + TABLE + 8 * i, (uint32_t)take(input, shape & 1 ? 4 : 2));
        store_le32(machine->ram + TABLE + 8 * i + 4,
                   (uint32_t)take(input, 2) | (shape & 2 && i == count ? 0x80000000 : 0));
    }
    out(machine, MASTER + 8 * channel + 4, 4, TABLE);
    out(machine, MASTER + 8 * channel + 2, 1, 6);
    out(machine, MASTER + 8 * channel, 1, take(input, 1) & 9);
}

static void move_data(Machine *machine, Input *input)
{
    uint32_t base = bases[take(input, 1) & 1], count = (uint32_t)take(input, 2) & 0xfff;
    uint8_t shape = (uint8_t)take(input, 1);
    for (uint32_t i = 0; i < count; i++) {
        if (shape & 1)
            out(machine, base, shape & 2 ? 4 : 2, shape);
        else
            in(machine, base, shape & 2 ? 4 : 2);
    }
}

static void change_state(Machine *machine, Input *input)
{
    IdeState *state = malloc(sizeof *state);
    device_save(machine->ide, state);
    uint32_t at = take(input, 2) % 160; /* the registers, not the buffer */
    uint8_t *bytes = (uint8_t *)&state->channels[take(input, 1) & 1];
    bytes[at] ^= (uint8_t)take(input, 1);
    device_restore(machine->ide, state);
    free(state);
}

static void step(Machine *machine, Input *input)
{
    uint32_t port;
    switch (take(input, 1) % 12) {
    case 0:
    case 1:
        put_command(machine, input);
        break;
    case 2:
    case 3:
        put_packet(machine, input);
        break;
    case 4:
        put_table(machine, input);
        break;
    case 5:
    case 6:
        move_data(machine, input);
        break;
    case 7:
        port = bases[take(input, 1) & 1] + (take(input, 1) & 7);
        out(machine, port, 1u << (take(input, 1) % 3), take(input, 4));
        in(machine, port, 1);
        break;
    case 8:
        out(machine, bases[take(input, 1) & 1] + 0x206, 1, take(input, 1));
        break;
    case 9:
        port = MASTER + (take(input, 1) & 15);
        out(machine, port, 1u << (take(input, 1) % 3), take(input, 4));
        in(machine, port, 4);
        break;
    case 10:
        change_state(machine, input);
        break;
    case 11:
        pci_bus_config_write(machine->bus, DEVFN, (uint32_t)take(input, 1) & 0xfc, 4, (uint32_t)take(input, 4));
        if (take(input, 1) & 1)
            ide_change_medium(machine->ide, 1, 0, take(input, 1) & 1 ? machine->images[1] : NULL);
        break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    Machine machine;
    Input input = {data, MIN(size, 4096)};
    machine_new(&machine);
    while (input.left)
        step(&machine, &input);

    device_reset(machine.ide); /* it lives */
    assign(&machine);
    out(&machine, 0x1f6, 1, 0xe0);
    out(&machine, 0x1f7, 1, 0xec);
    if ((in(&machine, 0x1f7, 1) & 0xff) != 0x58 || (in(&machine, 0x1f0, 2) & 0xffff) != 0x0040)
        abort();
    machine_free(&machine);
    return 0;
}
