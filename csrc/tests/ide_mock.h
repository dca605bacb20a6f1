/* An IDE driver for tests: a board with RAM and PCI, a disk, a CD-ROM drive, and the registers by their names. */
#ifndef PYVMM_TESTS_IDE_MOCK_H
#define PYVMM_TESTS_IDE_MOCK_H

#include <unistd.h>

#include "check.h"
#include "device_check.h"
#include "devices/ide.h"
#include "devices/pci_bridges.h"

enum {
    IDE_DEVFN = PCI_DEVFN(1, 1),
    PRIMARY = 0x1f0,
    SECONDARY = 0x170,
    CONTROL = 0x206, /* from the command block's first port */
    BUS_MASTER = 0xc000,
    RAM_SEAM = 0x100000, /* two memslots meet here */
    RAM_END = 0x200000,
    ROM = 0x200000, /* a read-only slot */
    DISK_SECTORS = 2048,
    DISC_SECTORS = 64,
};

typedef struct IdeMock {
    Board *board;
    PciBus *bus;
    Device *isa, *ide;
    BlockImage *disk, *disc;
    char disk_path[32], disc_path[32];
    EdgeCounter irq[2];
} IdeMock;

static inline uint8_t pattern(uint64_t offset) { return (uint8_t)(offset * 31 + offset / 512 * 7 + 1); }

static inline BlockImage *mock_image(char path[32], uint64_t size, uint32_t flags)
{
    Error error = {0};
    strcpy(path, "/tmp/pyvmm-test-XXXXXX");
    int fd = mkstemp(path);
    uint8_t *data = malloc(size);
    CHECK(fd >= 0 && data);
    for (uint64_t i = 0; i < size; i++)
        data[i] = pattern(i);
    CHECK_EQ(pwrite(fd, data, size, 0), size);
    free(data);
    close(fd);
    BlockImage *image = block_open(path, "raw", BLOCK_CACHE_UNSAFE, flags, &error);
    CHECK(image);
    return image;
}

static inline uint32_t port_in(IdeMock *mock, uint32_t port, uint32_t size)
{
    uint64_t value;
    bus_read(mock->board->pio, port, size, &value);
    return (uint32_t)value & (size == 4 ? UINT32_MAX : (1u << (8 * size)) - 1);
}

static inline void port_out(IdeMock *mock, uint32_t port, uint32_t size, uint32_t value)
{
    bus_write(mock->board->pio, port, size, value);
}

/* The controller on mock->disk and mock->disc; a second time with another disk. */
static inline void mock_use_disk(IdeMock *mock)
{
    Error error = {0};
    for (uint32_t i = 0; mock->ide && i < 2; i++) {
        bus_remove(mock->board->pio, i ? SECONDARY : PRIMARY);
        bus_remove(mock->board->pio, (i ? SECONDARY : PRIMARY) + CONTROL);
    }
    device_free(mock->ide);
    IdeOptions options = {.drives = {[0] = {IDE_DISK, mock->disk, "SERIAL-1"}, [2] = {IDE_CDROM, mock->disc, ""}}};
    mock->ide = ide_new(mock->board, mock->bus, IDE_DEVFN, irq_line_new(mock->board->irqs, 14),
                        irq_line_new(mock->board->irqs, 15), &options, &error);
    CHECK(mock->ide);
    for (uint32_t i = 0; i < 2; i++) {
        uint32_t base = i ? SECONDARY : PRIMARY;
        CHECK_EQ(device_map(mock->ide, mock->board->pio, base, 8, IDE_REGION_COMMAND0 + 2 * i, &error), 0);
        CHECK_EQ(device_map(mock->ide, mock->board->pio, base + CONTROL, 1, IDE_REGION_CONTROL0 + 2 * i, &error),
                 0);
    }
    device_reset(mock->ide);
}

/* `flags` are the disk image's. The machine is as reset leaves it. */
static inline void mock_new(IdeMock *mock, enum ClockKind clock, uint32_t flags)
{
    Error error = {0};
    memset(mock, 0, sizeof *mock);
    mock->board = board_new(clock, &error);
    CHECK(mock->board);
    CHECK_EQ(guest_memory_add(mock->board->memory, 0, RAM_SEAM, 0, &error), 0);
    CHECK_EQ(guest_memory_add(mock->board->memory, RAM_SEAM, RAM_END - RAM_SEAM, 0, &error), 0);
    CHECK_EQ(guest_memory_add(mock->board->memory, ROM, 0x1000, MEMSLOT_READ_ONLY, &error), 0);
    for (uint32_t i = 0; i < 2; i++) {
        mock->irq[i].gsi = 14 + i;
        CHECK_EQ(irq_router_add_sink(mock->board->irqs, edge_counter_sink, &mock->irq[i]), 0);
    }
    mock->bus = pci_bus_new(mock->board);
    mock->isa = piix3_isa_new(mock->board, mock->bus, PCI_DEVFN(1, 0), &error);
    mock->disk = mock_image(mock->disk_path, DISK_SECTORS * 512, flags);
    mock->disc = mock_image(mock->disc_path, DISC_SECTORS * 2048, BLOCK_READ_ONLY);
    CHECK(mock->isa);
    mock_use_disk(mock);
    if (clock == CLOCK_KIND_REALTIME)
        CHECK_EQ(io_thread_start(mock->board->io, &error), 0);
}

/* What firmware does: both channels decoded, the bus master at its ports. */
static inline void mock_assign(IdeMock *mock)
{
    pci_bus_config_write(mock->bus, IDE_DEVFN, IDE_CONFIG_IDETIM, 4, 0x80008000);
    pci_bus_config_write(mock->bus, IDE_DEVFN, PCI_BAR0 + 16, 4, BUS_MASTER);
    pci_bus_config_write(mock->bus, IDE_DEVFN, PCI_COMMAND, 2, PCI_COMMAND_IO | PCI_COMMAND_MASTER);
}

static inline void mock_up(IdeMock *mock)
{
    mock_new(mock, CLOCK_KIND_VIRTUAL, 0);
    mock_assign(mock);
}

static inline void mock_free(IdeMock *mock)
{
    io_thread_stop(mock->board->io);
    device_free(mock->ide);
    device_free(mock->isa);
    device_free(pci_bus_device(mock->bus));
    block_close(mock->disk);
    block_close(mock->disc);
    board_free(mock->board);
    unlink(mock->disk_path);
    unlink(mock->disc_path);
}

static inline uint8_t reg(IdeMock *mock, uint32_t base, uint32_t offset)
{
    return (uint8_t)port_in(mock, base + offset, 1);
}

static inline uint8_t status(IdeMock *mock, uint32_t base) { return reg(mock, base, 7); }

/* Features, count, LBA as a 28-bit command has them, then the command. */
static inline void command(IdeMock *mock, uint32_t base, uint8_t code, uint32_t lba, uint8_t count, uint8_t feature)
{
    port_out(mock, base + 6, 1, 0xe0 | (lba >> 24 & 15));
    port_out(mock, base + 1, 1, feature);
    port_out(mock, base + 2, 1, count);
    port_out(mock, base + 3, 1, lba & 0xff);
    port_out(mock, base + 4, 1, lba >> 8 & 0xff);
    port_out(mock, base + 5, 1, lba >> 16 & 0xff);
    port_out(mock, base + 7, 1, code);
}

/* The same for a 48-bit command: each register twice, the upper byte first. */
static inline void command_ext(IdeMock *mock, uint32_t base, uint8_t code, uint64_t lba, uint16_t count)
{
    port_out(mock, base + 6, 1, 0x40);
    const uint8_t bytes[2][4] = {
        {(uint8_t)(count >> 8), (uint8_t)(lba >> 24), (uint8_t)(lba >> 32), (uint8_t)(lba >> 40)},
        {(uint8_t)count, (uint8_t)lba, (uint8_t)(lba >> 8), (uint8_t)(lba >> 16)},
    };
    for (uint32_t turn = 0; turn < 2; turn++)
        for (uint32_t i = 0; i < 4; i++)
            port_out(mock, base + 2 + i, 1, bytes[turn][i]);
    port_out(mock, base + 7, 1, code);
}

static inline void data_in(IdeMock *mock, uint32_t base, void *data, uint32_t bytes)
{
    for (uint32_t i = 0; i < bytes; i += 2)
        store_le16((uint8_t *)data + i, (uint16_t)port_in(mock, base, 2));
}

static inline void data_out(IdeMock *mock, uint32_t base, const void *data, uint32_t bytes)
{
    for (uint32_t i = 0; i < bytes; i += 2)
        port_out(mock, base, 2, load_le16((const uint8_t *)data + i));
}

static inline bool is_pattern(const uint8_t *data, uint64_t offset, uint64_t bytes)
{
    for (uint64_t i = 0; i < bytes; i++)
        if (data[i] != pattern(offset + i))
            return false;
    return true;
}

/* PACKET: the protocol up to the written packet. `limit` is the byte count limit. */
static inline void packet(IdeMock *mock, const uint8_t bytes[12], uint16_t limit, bool dma)
{
    port_out(mock, SECONDARY + 6, 1, 0xa0);
    port_out(mock, SECONDARY + 1, 1, dma);
    port_out(mock, SECONDARY + 4, 1, limit & 0xff);
    port_out(mock, SECONDARY + 5, 1, limit >> 8);
    port_out(mock, SECONDARY + 7, 1, 0xa0);
    CHECK_EQ(status(mock, SECONDARY) & 0x89, 0x08);
    CHECK_EQ(reg(mock, SECONDARY, 2) & 3, 1); /* command, to the device */
    data_out(mock, SECONDARY, bytes, 12);
}

/* The whole command by PIO: returns the bytes that came, or -1 for a check condition. */
static inline int packet_in(IdeMock *mock, const uint8_t bytes[12], void *data, uint32_t room)
{
    packet(mock, bytes, 0xfffe, false);
    uint32_t done = 0;
    uint8_t now;
    while ((now = status(mock, SECONDARY)) & 0x08) {
        CHECK_EQ(reg(mock, SECONDARY, 2) & 3, 2);
        uint32_t size = reg(mock, SECONDARY, 4) | reg(mock, SECONDARY, 5) << 8;
        CHECK(size > 0 && done + size <= room);
        data_in(mock, SECONDARY, (uint8_t *)data + done, (size + 1) & ~1u);
        done += size;
    }
    CHECK_EQ(now & 0x80, 0);
    CHECK_EQ(reg(mock, SECONDARY, 2) & 3, 3);
    return now & 1 ? -1 : (int)done;
}

/* Sense key << 16 | ASC << 8 | ASCQ. */
static inline uint32_t sense(IdeMock *mock)
{
    static const uint8_t request[12] = {0x03, 0, 0, 0, 18};
    uint8_t data[20];
    CHECK_EQ(packet_in(mock, request, data, 20), 18);
    CHECK_EQ(data[0], 0x70);
    return (uint32_t)data[2] << 16 | (uint32_t)data[12] << 8 | data[13];
}

/* Bus master of a channel. */
static inline uint32_t bm(uint32_t base) { return BUS_MASTER + (base == PRIMARY ? 0 : 8); }

static inline void put_prd(IdeMock *mock, gpa_t at, uint32_t address, uint32_t count)
{
    uint8_t entry[8];
    store_le32(entry, address);
    store_le32(entry + 4, count);
    CHECK_EQ(guest_memory_write(mock->board->memory, at, entry, 8), 0);
}

static inline void bm_start(IdeMock *mock, uint32_t base, gpa_t table, bool to_memory)
{
    port_out(mock, bm(base) + 4, 4, (uint32_t)table);
    port_out(mock, bm(base) + 2, 1, 0x06);
    port_out(mock, bm(base), 1, to_memory ? 8 : 0);
    port_out(mock, bm(base), 1, to_memory ? 9 : 1);
}

static inline uint8_t bm_status(IdeMock *mock, uint32_t base) { return (uint8_t)port_in(mock, bm(base) + 2, 1); }

static inline void bm_stop(IdeMock *mock, uint32_t base) { port_out(mock, bm(base), 1, 0); }

static inline uint8_t *mock_ram(IdeMock *mock, gpa_t gpa)
{
    return guest_memory_ptr(mock->board->memory, gpa, 1, false);
}

#endif
