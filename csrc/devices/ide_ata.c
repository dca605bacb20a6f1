#include "devices/ide_internal.h"

/* ATA-6, command codes. Retired second codes of the old command set are taken as well where BIOSes use them. */
enum AtaCommand {
    ATA_RECALIBRATE = 0x10, /* 10h..1fh */
    ATA_READ = 0x20,
    ATA_READ_ONCE = 0x21,
    ATA_READ_EXT = 0x24,
    ATA_READ_DMA_EXT = 0x25,
    ATA_READ_NATIVE_MAX_EXT = 0x27,
    ATA_READ_MULTIPLE_EXT = 0x29,
    ATA_WRITE = 0x30,
    ATA_WRITE_ONCE = 0x31,
    ATA_WRITE_EXT = 0x34,
    ATA_WRITE_DMA_EXT = 0x35,
    ATA_WRITE_MULTIPLE_EXT = 0x39,
    ATA_VERIFY = 0x40,
    ATA_VERIFY_ONCE = 0x41,
    ATA_VERIFY_EXT = 0x42,
    ATA_SEEK = 0x70, /* 70h..7fh */
    ATA_INITIALIZE_PARAMETERS = 0x91,
    ATA_OLD_STANDBY_IMMEDIATE = 0x94,
    ATA_OLD_IDLE_IMMEDIATE = 0x95,
    ATA_OLD_STANDBY = 0x96,
    ATA_OLD_IDLE = 0x97,
    ATA_OLD_CHECK_POWER = 0x98,
    ATA_OLD_SLEEP = 0x99,
    ATA_READ_MULTIPLE = 0xc4,
    ATA_WRITE_MULTIPLE = 0xc5,
    ATA_SET_MULTIPLE = 0xc6,
    ATA_READ_DMA = 0xc8,
    ATA_READ_DMA_ONCE = 0xc9,
    ATA_WRITE_DMA = 0xca,
    ATA_WRITE_DMA_ONCE = 0xcb,
    ATA_STANDBY_IMMEDIATE = 0xe0,
    ATA_IDLE_IMMEDIATE = 0xe1,
    ATA_STANDBY = 0xe2,
    ATA_IDLE = 0xe3,
    ATA_CHECK_POWER = 0xe5,
    ATA_SLEEP = 0xe6,
    ATA_FLUSH = 0xe7,
    ATA_FLUSH_EXT = 0xea,
    ATA_IDENTIFY = 0xec,
    ATA_SET_FEATURES = 0xef,
    ATA_READ_NATIVE_MAX = 0xf8,
};

enum AtaFeature {
    FEATURE_WRITE_CACHE_ON = 0x02,
    FEATURE_TRANSFER_MODE = 0x03,
    FEATURE_KEEP_SETTINGS = 0x66,
    FEATURE_WRITE_CACHE_OFF = 0x82,
    FEATURE_REVERT_SETTINGS = 0xcc,
};

/* ---- Addresses ---------------------------------------------------------------------------------------------- */

uint64_t ide_sectors(const IdeDrive *drive) { return drive->image ? block_size(drive->image) / ATA_SECTOR : 0; }

/* In the translation of power-on, 16 heads and 63 sectors a track: at most 16383 (ATA-6, IDENTIFY DEVICE word 1).
 */
uint32_t ide_default_cylinders(const IdeDrive *drive)
{
    return (uint32_t)MIN(ide_sectors(drive) / (16 * 63), 16383);
}

static uint64_t lba48(const IdeDriveState *s)
{
    return s->lba_low | (uint64_t)s->lba_mid << 8 | (uint64_t)s->lba_high << 16 |
           (uint64_t)s->previous_lba_low << 24 | (uint64_t)s->previous_lba_mid << 32 |
           (uint64_t)s->previous_lba_high << 40;
}

/* Where a 28-bit command goes; false for a CHS address that is none. */
static bool lba28(const IdeChannel *channel, const IdeDriveState *s, uint64_t *lba)
{
    uint32_t high = channel->state.device & 0x0f, middle = s->lba_mid | (uint32_t)s->lba_high << 8;
    if (channel->state.device & IDE_DEVICE_LBA) {
        *lba = s->lba_low | (uint64_t)middle << 8 | (uint64_t)high << 24;
        return true;
    }
    *lba = ((uint64_t)middle * s->heads + high) * s->sectors + s->lba_low - 1;
    return s->lba_low >= 1 && s->lba_low <= s->sectors && high < s->heads;
}

void ide_set_lba(IdeChannel *channel, IdeDrive *drive, uint64_t lba)
{
    IdeDriveState *s = drive->state;
    uint8_t *device = &channel->state.device;
    if (!(*device & IDE_DEVICE_LBA)) {
        uint64_t track = lba / s->sectors, cylinder = track / s->heads;
        s->lba_low = (uint8_t)(lba % s->sectors + 1);
        s->lba_mid = (uint8_t)cylinder;
        s->lba_high = (uint8_t)(cylinder >> 8);
        *device = (uint8_t)((*device & 0xf0) | track % s->heads);
        return;
    }
    s->lba_low = (uint8_t)lba;
    s->lba_mid = (uint8_t)(lba >> 8);
    s->lba_high = (uint8_t)(lba >> 16);
    s->previous_lba_low = (uint8_t)(lba >> 24);
    s->previous_lba_mid = (uint8_t)(lba >> 32);
    s->previous_lba_high = (uint8_t)(lba >> 40);
    if (lba < 1u << 28)
        *device = (uint8_t)((*device & 0xf0) | lba >> 24);
}

typedef struct Range {
    uint64_t offset; /* bytes of the image */
    uint64_t bytes;
} Range;

/* The registers as a range of the disk; false after ending the command with IDNF. A count of 0 is the most. */
static bool get_range(IdeChannel *channel, IdeDrive *drive, bool ext, Range *range)
{
    const IdeDriveState *s = drive->state;
    uint64_t lba = 0, most = ext ? 0x10000 : 0x100, sectors = ide_sectors(drive);
    uint64_t count = s->count | (ext ? (uint64_t)s->previous_count << 8 : 0);
    bool valid = true;
    if (ext)
        lba = lba48(s);
    else
        valid = lba28(channel, s, &lba);
    count = count ? count : most;
    if (!valid || lba > sectors || count > sectors - lba) {
        ide_fail(channel, drive, IDE_IDNF);
        return false;
    }
    *range = (Range){lba * ATA_SECTOR, count * ATA_SECTOR};
    return true;
}

/* ---- Data --------------------------------------------------------------------------------------------------- */

static void read_sectors(IdeChannel *channel, IdeDrive *drive, bool ext, uint32_t sectors, bool dma)
{
    Range range;
    if (sectors == 0) /* MULTIPLE is off */
        ide_fail(channel, drive, IDE_ABRT);
    else if (get_range(channel, drive, ext, &range))
        ide_read_image(channel, drive, range.offset, range.bytes, sectors * ATA_SECTOR, dma);
}

static void write_sectors(IdeChannel *channel, IdeDrive *drive, bool ext, uint32_t sectors, bool dma)
{
    Range range;
    if (sectors == 0 || block_is_read_only(drive->image))
        ide_fail(channel, drive, IDE_ABRT);
    else if (get_range(channel, drive, ext, &range))
        ide_write_image(channel, drive, range.offset, range.bytes, sectors * ATA_SECTOR, dma);
}

static void verify_sectors(IdeChannel *channel, IdeDrive *drive, bool ext)
{
    Range range;
    if (get_range(channel, drive, ext, &range))
        ide_verify_image(channel, drive, range.offset, range.bytes);
}

static void seek(IdeChannel *channel, IdeDrive *drive)
{
    uint64_t lba;
    if (lba28(channel, drive->state, &lba) && lba < ide_sectors(drive))
        ide_finish(channel, drive);
    else
        ide_fail(channel, drive, IDE_IDNF);
}

/* ---- Parameters --------------------------------------------------------------------------------------------- */

static void set_multiple(IdeChannel *channel, IdeDrive *drive)
{
    uint8_t count = drive->state->count;
    if (count & (count - 1) || count > IDE_BUFFER_BYTES / ATA_SECTOR) {
        ide_fail(channel, drive, IDE_ABRT);
        return;
    }
    drive->state->multiple = count;
    ide_finish(channel, drive);
}

/* INITIALIZE DEVICE PARAMETERS: sectors a track, and the number of the last head. */
static void set_translation(IdeChannel *channel, IdeDrive *drive)
{
    if (drive->state->count == 0) {
        ide_fail(channel, drive, IDE_ABRT);
        return;
    }
    drive->state->sectors = drive->state->count;
    drive->state->heads = (channel->state.device & 0x0f) + 1;
    ide_finish(channel, drive);
}

/* SET FEATURES 03h: PIO by default, PIO 0..4, multiword DMA 0..2, Ultra DMA 0..5 (a drive's, not this
 * controller's). */
static bool is_transfer_mode(const IdeDrive *drive, uint8_t mode)
{
    return mode <= 0x01 || (mode >= 0x08 && mode <= 0x0c) || (mode >= 0x20 && mode <= 0x22) ||
           (drive->kind == IDE_DISK && mode >= 0x40 && mode <= 0x45);
}

static void set_features(IdeChannel *channel, IdeDrive *drive)
{
    IdeDriveState *s = drive->state;
    bool known = true, disk = drive->kind == IDE_DISK;
    switch (s->features) {
    case FEATURE_WRITE_CACHE_ON:
    case FEATURE_WRITE_CACHE_OFF:
        known = disk;
        if (!disk)
            break;
        s->write_cache = s->features == FEATURE_WRITE_CACHE_ON;
        if (!s->write_cache && !block_is_read_only(drive->image)) { /* what is in the cache goes to the medium */
            ide_flush_image(channel, drive);
            return;
        }
        break;
    case FEATURE_TRANSFER_MODE:
        known = is_transfer_mode(drive, s->count);
        if (known)
            s->transfer_mode = s->count;
        break;
    case FEATURE_KEEP_SETTINGS: /* they are always kept over a software reset */
    case FEATURE_REVERT_SETTINGS:
        break;
    default:
        known = false;
    }
    if (known)
        ide_finish(channel, drive);
    else
        ide_fail(channel, drive, IDE_ABRT);
}

static void set_power(IdeChannel *channel, IdeDrive *drive, enum IdePower power)
{
    drive->state->power = (uint8_t)power;
    ide_finish(channel, drive);
}

/* Power management and what else both kinds of device have. */
bool ide_common_command(IdeChannel *channel, IdeDrive *drive, uint8_t command)
{
    IdeDriveState *s = drive->state;
    switch (command) {
    case ATA_SET_FEATURES:
        set_features(channel, drive);
        return true;
    case ATA_OLD_STANDBY:
    case ATA_OLD_STANDBY_IMMEDIATE:
    case ATA_STANDBY:
    case ATA_STANDBY_IMMEDIATE:
        set_power(channel, drive, IDE_POWER_STANDBY);
        return true;
    case ATA_OLD_IDLE:
    case ATA_OLD_IDLE_IMMEDIATE:
    case ATA_IDLE:
    case ATA_IDLE_IMMEDIATE:
        set_power(channel, drive, IDE_POWER_IDLE);
        return true;
    case ATA_OLD_SLEEP:
    case ATA_SLEEP:
        set_power(channel, drive, IDE_POWER_SLEEP);
        return true;
    case ATA_OLD_CHECK_POWER:
    case ATA_CHECK_POWER:
        s->count = s->power == IDE_POWER_STANDBY ? 0x00 : s->power == IDE_POWER_IDLE ? 0x80 : 0xff;
        ide_finish(channel, drive);
        return true;
    case ATA_FLUSH:
    case ATA_FLUSH_EXT:
        if (drive->kind == IDE_DISK && !block_is_read_only(drive->image))
            ide_flush_image(channel, drive);
        else
            ide_finish(channel, drive);
        return true;
    default:
        return false;
    }
}

static void native_max(IdeChannel *channel, IdeDrive *drive, bool ext)
{
    uint64_t sectors = MIN(ide_sectors(drive), ext ? 1ull << 48 : 0x0fffffff);
    channel->state.device |= IDE_DEVICE_LBA;
    ide_set_lba(channel, drive, sectors ? sectors - 1 : 0);
    ide_finish(channel, drive);
}

static void identify(IdeChannel *channel, IdeDrive *drive)
{
    ide_identify_disk(drive, channel->state.buffer);
    ide_send_identity(channel, drive);
}

/* ---- Dispatch ----------------------------------------------------------------------------------------------- */

/* Commands that move sectors, or look at them; false: not one. */
static bool data_command(IdeChannel *channel, IdeDrive *drive, uint8_t command)
{
    uint32_t multiple = drive->state->multiple;
    switch (command) {
    case ATA_READ:
    case ATA_READ_ONCE:
    case ATA_READ_EXT:
        read_sectors(channel, drive, command == ATA_READ_EXT, 1, false);
        return true;
    case ATA_READ_MULTIPLE:
    case ATA_READ_MULTIPLE_EXT:
        read_sectors(channel, drive, command == ATA_READ_MULTIPLE_EXT, multiple, false);
        return true;
    case ATA_READ_DMA:
    case ATA_READ_DMA_ONCE:
    case ATA_READ_DMA_EXT:
        read_sectors(channel, drive, command == ATA_READ_DMA_EXT, 1, true);
        return true;
    case ATA_WRITE:
    case ATA_WRITE_ONCE:
    case ATA_WRITE_EXT:
        write_sectors(channel, drive, command == ATA_WRITE_EXT, 1, false);
        return true;
    case ATA_WRITE_MULTIPLE:
    case ATA_WRITE_MULTIPLE_EXT:
        write_sectors(channel, drive, command == ATA_WRITE_MULTIPLE_EXT, multiple, false);
        return true;
    case ATA_WRITE_DMA:
    case ATA_WRITE_DMA_ONCE:
    case ATA_WRITE_DMA_EXT:
        write_sectors(channel, drive, command == ATA_WRITE_DMA_EXT, 1, true);
        return true;
    case ATA_VERIFY:
    case ATA_VERIFY_ONCE:
    case ATA_VERIFY_EXT:
        verify_sectors(channel, drive, command == ATA_VERIFY_EXT);
        return true;
    default:
        return false;
    }
}

void ide_ata_command(IdeChannel *channel, IdeDrive *drive, uint8_t command)
{
    if (data_command(channel, drive, command)) {
        drive->state->power = IDE_POWER_ACTIVE;
        return;
    }
    if (ide_common_command(channel, drive, command))
        return;
    if ((command & 0xf0) == ATA_RECALIBRATE)
        ide_finish(channel, drive);
    else if ((command & 0xf0) == ATA_SEEK)
        seek(channel, drive);
    else if (command == ATA_IDENTIFY)
        identify(channel, drive);
    else if (command == ATA_INITIALIZE_PARAMETERS)
        set_translation(channel, drive);
    else if (command == ATA_SET_MULTIPLE)
        set_multiple(channel, drive);
    else if (command == ATA_READ_NATIVE_MAX || command == ATA_READ_NATIVE_MAX_EXT)
        native_max(channel, drive, command == ATA_READ_NATIVE_MAX_EXT);
    else
        ide_fail(channel, drive, IDE_ABRT); /* NOP ends so by definition */
}
