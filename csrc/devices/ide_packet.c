/* The PACKET protocol (ATA-6, PACKET command) and the packet commands of a CD-ROM drive (SFF-8020i, MMC-3). */
#include "devices/ide_internal.h"

enum AtapiCommand { ATAPI_PACKET = 0xa0, ATAPI_IDENTIFY = 0xa1, ATAPI_READ = 0x20, ATAPI_ATA_IDENTIFY = 0xec };

enum PacketCommand {
    MMC_TEST_UNIT_READY = 0x00,
    MMC_REQUEST_SENSE = 0x03,
    MMC_INQUIRY = 0x12,
    MMC_START_STOP = 0x1b,
    MMC_PREVENT_ALLOW = 0x1e,
    MMC_READ_CAPACITY = 0x25,
    MMC_READ_10 = 0x28,
    MMC_SEEK = 0x2b,
    MMC_READ_TOC = 0x43,
    MMC_GET_CONFIGURATION = 0x46,
    MMC_GET_EVENT = 0x4a,
    MMC_READ_DISC_INFORMATION = 0x51,
    MMC_MODE_SENSE_10 = 0x5a,
    MMC_READ_12 = 0xa8,
    MMC_SET_CD_SPEED = 0xbb,
    MMC_MECHANISM_STATUS = 0xbd,
    MMC_READ_CD = 0xbe,
};

/* Sense keys, and additional sense codes as ASC << 8 | ASCQ (SPC-3 §4.5.6). */
enum SenseKey { NOT_READY = 0x02, ILLEGAL_REQUEST = 0x05, UNIT_ATTENTION = 0x06 };
enum SenseCode {
    INVALID_OPERATION = 0x2000,
    LBA_OUT_OF_RANGE = 0x2100,
    INVALID_FIELD = 0x2400,
    MEDIUM_CHANGED = 0x2800,
    POWER_ON = 0x2900,
    SAVING_NOT_SUPPORTED = 0x3900,
    NO_MEDIUM_TRAY_CLOSED = 0x3a01,
    NO_MEDIUM_TRAY_OPEN = 0x3a02,
    REMOVAL_PREVENTED = 0x5302,
    ILLEGAL_MODE_FOR_TRACK = 0x6400,
};

enum { TRANSFER_DMA = 0x01, TRANSFER_OVERLAPPED = 0x02 }; /* the features register of PACKET */

/* ---- How packet commands end -------------------------------------------------------------------------------- */

void ide_packet_finish(IdeChannel *channel, IdeDrive *drive)
{
    drive->state->count = IDE_REASON_COMMAND | IDE_REASON_TO_HOST;
    ide_finish(channel, drive);
}

void ide_packet_fail(IdeChannel *channel, IdeDrive *drive, uint8_t key, uint8_t asc, uint8_t ascq)
{
    drive->state->sense_key = key;
    drive->state->asc = asc;
    drive->state->ascq = ascq;
    drive->state->count = IDE_REASON_COMMAND | IDE_REASON_TO_HOST;
    ide_fail(channel, drive, (uint8_t)(key << 4 | IDE_ABRT));
}

static void refuse(IdeChannel *channel, IdeDrive *drive, enum SenseKey key, enum SenseCode code)
{
    ide_packet_fail(channel, drive, (uint8_t)key, (uint8_t)(code >> 8), (uint8_t)code);
}

static bool uses_dma(const IdeDrive *drive) { return drive->state->features & TRANSFER_DMA; }

/* Bytes of a DRQ block: the host's limit, which is even unless all fits into one block. 0 for PIO data is an error.
 */
static uint32_t block_limit(const IdeDrive *drive, uint64_t bytes)
{
    uint32_t limit = drive->state->lba_mid | (uint32_t)drive->state->lba_high << 8;
    if (limit == 0xffff || bytes > limit)
        limit = limit > 1 ? limit & ~1u : limit;
    return limit;
}

static bool can_send(IdeChannel *channel, IdeDrive *drive, uint32_t limit)
{
    if (limit || uses_dma(drive))
        return true;
    refuse(channel, drive, ILLEGAL_REQUEST, INVALID_FIELD);
    return false;
}

/* An answer of `length` bytes in the buffer, cut to what the host has room for; -1 is an invalid field. */
static void answer(IdeChannel *channel, IdeDrive *drive, int length, uint32_t room)
{
    if (length < 0) {
        refuse(channel, drive, ILLEGAL_REQUEST, INVALID_FIELD);
        return;
    }
    uint32_t bytes = MIN((uint32_t)length, room), limit = block_limit(drive, bytes);
    if (bytes == 0)
        ide_packet_finish(channel, drive);
    else if (can_send(channel, drive, limit))
        ide_send_buffer(channel, drive, bytes, limit, uses_dma(drive));
}

/* ---- Commands ----------------------------------------------------------------------------------------------- */

static bool has_medium(IdeChannel *channel, IdeDrive *drive)
{
    if (mmc_sectors(drive))
        return true;
    refuse(channel, drive, NOT_READY, drive->state->tray_open ? NO_MEDIUM_TRAY_OPEN : NO_MEDIUM_TRAY_CLOSED);
    return false;
}

static void read_blocks(IdeChannel *channel, IdeDrive *drive, uint32_t lba, uint32_t count)
{
    uint32_t sectors = mmc_sectors(drive);
    uint64_t bytes = (uint64_t)count * CD_SECTOR;
    uint32_t limit = block_limit(drive, bytes);
    if (!has_medium(channel, drive))
        return;
    if (lba > sectors || count > sectors - lba)
        refuse(channel, drive, ILLEGAL_REQUEST, LBA_OUT_OF_RANGE);
    else if (count == 0)
        ide_packet_finish(channel, drive);
    else if (can_send(channel, drive, limit))
        ide_read_image(channel, drive, (uint64_t)lba * CD_SECTOR, bytes, limit, uses_dma(drive));
}

/* READ CD, MMC-3: user data of mode 1 sectors; no headers, no error correction, no sub-channels. */
static void read_cd(IdeChannel *channel, IdeDrive *drive, const uint8_t *packet)
{
    enum { ANY_TYPE = 0, MODE_1 = 2, USER_DATA = 0x10 };
    uint8_t type = packet[1] >> 2 & 7, fields = packet[9];
    uint32_t count = (uint32_t)packet[6] << 16 | load_be16(packet + 7);
    if (type != ANY_TYPE && type != MODE_1)
        refuse(channel, drive, ILLEGAL_REQUEST, ILLEGAL_MODE_FOR_TRACK);
    else if (fields & ~USER_DATA || packet[10] & 7)
        refuse(channel, drive, ILLEGAL_REQUEST, INVALID_FIELD);
    else
        read_blocks(channel, drive, load_be32(packet + 2), fields ? count : 0);
}

/* START STOP UNIT with LoEj: the tray opens or closes; the disc goes with it. */
static void start_stop(IdeChannel *channel, IdeDrive *drive, uint8_t flags)
{
    enum { START = 1, LOAD_EJECT = 2 };
    IdeDriveState *s = drive->state;
    if ((flags & (START | LOAD_EJECT)) == LOAD_EJECT) {
        if (s->locked) {
            refuse(channel, drive, ILLEGAL_REQUEST, REMOVAL_PREVENTED);
            return;
        }
        if (!s->tray_open)
            s->media_event = 3; /* media removal */
        s->tray_open = 1;
    } else if (flags & LOAD_EJECT && s->tray_open) {
        s->tray_open = 0;
        s->media_event = drive->image ? 2 : 0; /* new media */
        s->attention = drive->image ? IDE_ATTENTION_MEDIUM : s->attention;
    }
    ide_packet_finish(channel, drive);
}

static void mode_sense(IdeChannel *channel, IdeDrive *drive, const uint8_t *packet)
{
    enum { SAVED_VALUES = 3 };
    if (packet[2] >> 6 == SAVED_VALUES)
        refuse(channel, drive, ILLEGAL_REQUEST, SAVING_NOT_SUPPORTED);
    else
        answer(channel, drive, mmc_mode_sense(drive, packet, channel->state.buffer), load_be16(packet + 7));
}

/* The commands that look at the disc; false: not one of them. */
static bool medium_command(IdeChannel *channel, IdeDrive *drive, const uint8_t *packet)
{
    uint8_t *buffer = channel->state.buffer;
    switch (packet[0]) {
    case MMC_TEST_UNIT_READY:
        if (has_medium(channel, drive))
            ide_packet_finish(channel, drive);
        return true;
    case MMC_READ_CAPACITY:
        if (has_medium(channel, drive))
            answer(channel, drive, mmc_capacity(drive, buffer), UINT32_MAX);
        return true;
    case MMC_READ_10:
        read_blocks(channel, drive, load_be32(packet + 2), load_be16(packet + 7));
        return true;
    case MMC_READ_12:
        read_blocks(channel, drive, load_be32(packet + 2), load_be32(packet + 6));
        return true;
    case MMC_READ_CD:
        read_cd(channel, drive, packet);
        return true;
    case MMC_SEEK:
        if (!has_medium(channel, drive))
            return true;
        if (load_be32(packet + 2) < mmc_sectors(drive))
            ide_packet_finish(channel, drive);
        else
            refuse(channel, drive, ILLEGAL_REQUEST, LBA_OUT_OF_RANGE);
        return true;
    case MMC_READ_TOC:
        if (has_medium(channel, drive))
            answer(channel, drive, mmc_toc(drive, packet, buffer), load_be16(packet + 7));
        return true;
    case MMC_READ_DISC_INFORMATION:
        if (has_medium(channel, drive))
            answer(channel, drive, mmc_disc_information(packet, buffer), load_be16(packet + 7));
        return true;
    default:
        return false;
    }
}

static void drive_command(IdeChannel *channel, IdeDrive *drive, const uint8_t *packet)
{
    uint8_t *buffer = channel->state.buffer;
    switch (packet[0]) {
    case MMC_REQUEST_SENSE:
        answer(channel, drive, mmc_sense(drive, buffer), packet[4]);
        break;
    case MMC_INQUIRY: /* no vital product data */
        answer(channel, drive, packet[1] & 1 ? -1 : mmc_inquiry(buffer), packet[4]);
        break;
    case MMC_START_STOP:
        start_stop(channel, drive, packet[4]);
        break;
    case MMC_PREVENT_ALLOW:
        drive->state->locked = packet[4] & 1;
        ide_packet_finish(channel, drive);
        break;
    case MMC_GET_CONFIGURATION:
        answer(channel, drive, mmc_configuration(drive, packet, buffer), load_be16(packet + 7));
        break;
    case MMC_GET_EVENT:
        answer(channel, drive, mmc_event(drive, packet, buffer), load_be16(packet + 7));
        break;
    case MMC_MODE_SENSE_10:
        mode_sense(channel, drive, packet);
        break;
    case MMC_SET_CD_SPEED:
        ide_packet_finish(channel, drive);
        break;
    case MMC_MECHANISM_STATUS:
        answer(channel, drive, mmc_mechanism_status(drive, buffer), load_be16(packet + 8));
        break;
    default:
        refuse(channel, drive, ILLEGAL_REQUEST, INVALID_OPERATION);
    }
}

/* A unit attention waits behind these (SAM-3, unit attention condition; MMC-3 for the last two). */
static bool is_told_first(uint8_t command)
{
    return command != MMC_INQUIRY && command != MMC_REQUEST_SENSE && command != MMC_GET_CONFIGURATION &&
           command != MMC_GET_EVENT;
}

/* ---- The protocol ------------------------------------------------------------------------------------------- */

void ide_packet_received(IdeChannel *channel)
{
    IdeDrive *drive = &channel->drives[channel->state.transfer.drive];
    IdeDriveState *s = drive->state;
    uint8_t packet[PACKET_BYTES];
    memcpy(packet, channel->state.buffer, PACKET_BYTES);
    channel->state.transfer = (IdeTransferState){0};
    channel->counters.packets++;
    s->power = IDE_POWER_ACTIVE;
    s->count = IDE_REASON_TO_HOST;
    if (s->attention && is_told_first(packet[0])) {
        enum SenseCode code = s->attention == IDE_ATTENTION_RESET ? POWER_ON : MEDIUM_CHANGED;
        s->attention = IDE_ATTENTION_NONE;
        refuse(channel, drive, UNIT_ATTENTION, code);
        return;
    }
    if (packet[0] != MMC_REQUEST_SENSE)
        s->sense_key = s->asc = s->ascq = 0;
    if (!medium_command(channel, drive, packet))
        drive_command(channel, drive, packet);
}

static void begin_packet(IdeChannel *channel, IdeDrive *drive)
{
    if (drive->state->features & TRANSFER_OVERLAPPED) {
        ide_fail(channel, drive, IDE_ABRT);
        return;
    }
    channel->state.transfer = (IdeTransferState){
        .phase = IDE_PHASE_PACKET,
        .drive = (uint8_t)drive->index,
        .is_packet = 1,
        .end = PACKET_BYTES,
        .filled = PACKET_BYTES,
        .block = PACKET_BYTES,
    };
    drive->state->count = IDE_REASON_COMMAND;
    drive->state->error = 0;
    drive->state->status = IDE_READY | IDE_DRQ; /* no interrupt: IDENTIFY PACKET DEVICE says so */
}

void ide_atapi_command(IdeChannel *channel, IdeDrive *drive, uint8_t command)
{
    switch (command) {
    case ATAPI_PACKET:
        begin_packet(channel, drive);
        return;
    case ATAPI_IDENTIFY:
        ide_identify_packet(drive, channel->state.buffer);
        ide_send_identity(channel, drive);
        return;
    case ATAPI_READ:
    case ATAPI_ATA_IDENTIFY: /* the signature tells the host whom it talks to */
        ide_set_signature(drive);
        ide_fail(channel, drive, IDE_ABRT);
        return;
    default:
        if (!ide_common_command(channel, drive, command))
            ide_fail(channel, drive, IDE_ABRT);
    }
}
