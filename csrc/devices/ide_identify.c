/* IDENTIFY DEVICE and IDENTIFY PACKET DEVICE: 256 words that say what a drive is (ATA-6, those commands). */
#include "devices/ide_internal.h"

#define MODEL_DISK  "PYVMM HARD DISK"
#define MODEL_CDROM "PYVMM DVD-ROM"
#define FIRMWARE    "1.0"

static void put(uint8_t *data, uint32_t word, uint32_t value) { store_le16(data + 2 * word, (uint16_t)value); }

static void put32(uint8_t *data, uint32_t word, uint32_t value) { store_le32(data + 2 * word, value); }

/* ATA strings: padded with spaces, the first of two characters in the upper byte. */
static void put_text(uint8_t *data, uint32_t word, const char *text, size_t length)
{
    memset(data + 2 * word, ' ', length);
    for (size_t i = 0; i < length && text[i]; i++)
        data[2 * word + (i ^ 1)] = (uint8_t)text[i];
}

static void put_names(const IdeDrive *drive, uint8_t *data, const char *model)
{
    put_text(data, 10, drive->serial, 20);
    put_text(data, 23, FIRMWARE, 8);
    put_text(data, 27, model, 40);
}

/* Words 49 to 88 that both kinds have: LBA, DMA, IORDY, PIO 4, multiword DMA 2, and what SET FEATURES chose. */
static void put_modes(const IdeDrive *drive, uint8_t *data, uint32_t ultra)
{
    uint8_t mode = drive->state->transfer_mode;
    put(data, 49, 0x0b00);
    put(data, 53, 0x0007); /* words 54-58, 64-70 and 88 are valid */
    put(data, 63, 0x0007 | (mode >= 0x20 && mode <= 0x22 ? 0x100u << (mode - 0x20) : 0));
    put(data, 64, 0x0003);
    for (uint32_t word = 65; word <= 68; word++)
        put(data, word, 120); /* ns */
    put(data, 80, 0x007e);    /* ATA-1 to ATA/ATAPI-6 */
    put(data, 88, ultra | (mode >= 0x40 && mode <= 0x45 ? 0x100u << (mode - 0x40) : 0));
}

/* The result of the hardware reset: 80-conductor cable, place by jumper, diagnostics passed. */
static void put_reset_result(const IdeDrive *drive, uint8_t *data)
{
    put(data, 93, drive->index ? 0x6b00 : 0x600b);
}

static void put_checksum(uint8_t *data)
{
    uint8_t sum = data[510] = 0xa5;
    for (uint32_t i = 0; i < 510; i++)
        sum = (uint8_t)(sum + data[i]);
    data[511] = (uint8_t)-sum;
}

static void put_geometry(const IdeDrive *drive, uint8_t *data)
{
    const IdeDriveState *s = drive->state;
    uint64_t sectors = ide_sectors(drive), cylinders = sectors / (s->heads * s->sectors);
    put(data, 1, ide_default_cylinders(drive));
    put(data, 3, 16);
    put(data, 6, 63);
    put(data, 54, (uint32_t)MIN(cylinders, 65535));
    put(data, 55, s->heads);
    put(data, 56, s->sectors);
    put32(data, 57, (uint32_t)(MIN(cylinders, 65535) * s->heads * s->sectors));
    put32(data, 60, (uint32_t)MIN(sectors, 0x0fffffff));
    put32(data, 100, (uint32_t)sectors);
    put32(data, 102, (uint32_t)(sectors >> 32));
}

void ide_identify_disk(IdeDrive *drive, uint8_t *data)
{
    const IdeDriveState *s = drive->state;
    memset(data, 0, 512);
    put(data, 0, 0x0040); /* ATA, not removable */
    put_names(drive, data, MODEL_DISK);
    put_modes(drive, data, 0x3f);
    put_geometry(drive, data);
    put(data, 47, 0x8000 | IDE_BUFFER_BYTES / ATA_SECTOR);
    put(data, 50, 0x4000);
    put(data, 51, 0x0200);
    put(data, 59, s->multiple ? 0x0100 | s->multiple : 0);
    put(data, 82, 0x4028); /* NOP, write cache, power management */
    put(data, 83, 0x7400); /* FLUSH CACHE (EXT), 48-bit addresses */
    put(data, 84, 0x4000);
    put(data, 85, 0x4008 | (s->write_cache ? 0x20 : 0));
    put(data, 86, 0x3400);
    put(data, 87, 0x4000);
    put_reset_result(drive, data);
    put_checksum(data);
}

void ide_identify_packet(IdeDrive *drive, uint8_t *data)
{
    memset(data, 0, 512);
    put(data, 0, 0x85c0); /* ATAPI, CD-ROM, removable, DRQ within 50 us of PACKET, 12-byte packets */
    put_names(drive, data, MODEL_CDROM);
    put_modes(drive, data, 0);
    put(data, 53, 0x0002);
    put(data, 80, 0x007e);
    put(data, 82, 0x4218); /* NOP, DEVICE RESET, PACKET, power management */
    put(data, 83, 0x4000);
    put(data, 84, 0x4000);
    put(data, 85, 0x4218);
    put(data, 87, 0x4000);
    put_reset_result(drive, data);
    put_checksum(data);
}
