/*
 * What a CD-ROM drive answers: the data of packet commands (MMC-3, SPC-3 for inquiry and sense). The disc has one
 * session of one data track, with the image's 2048-byte sectors.
 */
#include "devices/ide_internal.h"

#define CD_MOST_SECTORS 450000u /* 100 minutes: more than that is a DVD */
#define PREGAP          150u    /* LBA 0 is at 00:02:00 */
#define FRAMES          75u
#define DATA_TRACK      0x14 /* ADR 1, control: data, copying not permitted */
#define LEAD_OUT        0xaa
#define SPEED           7056 /* kB/s: 40 x 176.4 */

enum Profile { PROFILE_NONE = 0x0000, PROFILE_CD = 0x0008, PROFILE_DVD = 0x0010 };

uint32_t mmc_sectors(const IdeDrive *drive)
{
    if (!drive->image || drive->state->tray_open)
        return 0;
    return (uint32_t)MIN(block_size(drive->image) / CD_SECTOR, UINT32_MAX - PREGAP);
}

static void put_padded(uint8_t *data, const char *text, size_t length)
{
    size_t n = MIN(strlen(text), length);
    memcpy(data, text, n);
    memset(data + n, ' ', length - n);
}

/* SPC-3 §6.4, with the values that SFF-8020i fixes. */
int mmc_inquiry(uint8_t *data)
{
    memset(data, 0, 36);
    data[0] = 0x05; /* CD-ROM device */
    data[1] = 0x80; /* removable */
    data[3] = 0x21; /* ATAPI 2, response format 1 */
    data[4] = 31;   /* bytes that follow */
    put_padded(data + 8, "PYVMM", 8);
    put_padded(data + 16, "DVD-ROM", 16);
    put_padded(data + 32, "1.0", 4);
    return 36;
}

/* Fixed format sense data (SPC-3 §4.5.3): told once. A unit attention is told when nothing else is. */
int mmc_sense(IdeDrive *drive, uint8_t *data)
{
    IdeDriveState *s = drive->state;
    if (!s->sense_key && s->attention) {
        s->sense_key = 0x06;
        s->asc = s->attention == IDE_ATTENTION_RESET ? 0x29 : 0x28;
        s->ascq = 0;
        s->attention = IDE_ATTENTION_NONE;
    }
    memset(data, 0, 18);
    data[0] = 0x70;
    data[2] = s->sense_key & 0x0f;
    data[7] = 10; /* bytes that follow */
    data[12] = s->asc;
    data[13] = s->ascq;
    s->sense_key = s->asc = s->ascq = 0;
    return 18;
}

int mmc_capacity(const IdeDrive *drive, uint8_t *data)
{
    store_be32(data, mmc_sectors(drive) - 1);
    store_be32(data + 4, CD_SECTOR);
    return 8;
}

/* ---- Table of contents -------------------------------------------------------------------------------------- */

static void put_msf(uint8_t *data, uint32_t lba)
{
    uint32_t frames = lba + PREGAP;
    data[0] = (uint8_t)MIN(frames / FRAMES / 60, 255);
    data[1] = (uint8_t)(frames / FRAMES % 60);
    data[2] = (uint8_t)(frames % FRAMES);
}

static uint8_t *put_track(uint8_t *data, uint8_t track, uint32_t lba, bool msf)
{
    memset(data, 0, 8);
    data[1] = DATA_TRACK;
    data[2] = track;
    if (msf)
        put_msf(data + 5, lba);
    else
        store_be32(data + 4, lba);
    return data + 8;
}

/* One entry of the full TOC: the lead-in's point and what it points at. */
static uint8_t *put_point(uint8_t *data, uint8_t point, uint8_t minute, uint8_t second, uint8_t frame)
{
    memset(data, 0, 11);
    data[0] = 1; /* session */
    data[1] = DATA_TRACK;
    data[3] = point;
    data[8] = minute;
    data[9] = second;
    data[10] = frame;
    return data + 11;
}

static uint8_t *put_full_toc(const IdeDrive *drive, uint8_t *data)
{
    uint8_t end[3];
    put_msf(end, mmc_sectors(drive));
    data = put_point(data, 0xa0, 1, 0, 0); /* first track; disc type CD-ROM */
    data = put_point(data, 0xa1, 1, 0, 0); /* last track */
    data = put_point(data, 0xa2, end[0], end[1], end[2]);
    return put_point(data, 1, 0, 2, 0);
}

/* READ TOC/PMA/ATIP: formats 0 (tracks), 1 (sessions) and 2 (full). */
int mmc_toc(const IdeDrive *drive, const uint8_t *packet, uint8_t *data)
{
    bool msf = packet[1] & 2;
    uint8_t format = packet[2] & 0x0f ? packet[2] & 0x0f : packet[9] >> 6; /* SFF-8020i has it in byte 9 */
    uint8_t first = packet[6], *end = data + 4;
    data[2] = data[3] = 1;
    switch (format) {
    case 0:
        if (first > 1 && first != LEAD_OUT)
            return -1;
        if (first <= 1)
            end = put_track(end, 1, 0, msf);
        end = put_track(end, LEAD_OUT, mmc_sectors(drive), msf);
        break;
    case 1:
        end = put_track(end, 1, 0, msf);
        break;
    case 2:
        if (first > 1)
            return -1;
        end = put_full_toc(drive, end);
        break;
    default:
        return -1;
    }
    store_be16(data, (uint16_t)(end - data - 2));
    return (int)(end - data);
}

/* ---- The drive's abilities ---------------------------------------------------------------------------------- */

static enum Profile current_profile(const IdeDrive *drive)
{
    uint32_t sectors = mmc_sectors(drive);
    return sectors == 0 ? PROFILE_NONE : sectors > CD_MOST_SECTORS ? PROFILE_DVD : PROFILE_CD;
}

typedef struct Feature {
    uint16_t code;
    uint8_t flags; /* version << 2 | persistent << 1 | current */
    uint8_t length;
    uint8_t data[8];
} Feature;

enum { PERSISTENT = 2, CURRENT = 1 };

/* MMC-3 §5: the features of a drive that reads CDs and DVDs. */
static uint32_t list_features(const IdeDrive *drive, Feature *features)
{
    enum Profile profile = current_profile(drive);
    uint8_t cd = profile == PROFILE_CD, dvd = profile == PROFILE_DVD;
    const Feature list[] = {
        {0x0000, PERSISTENT | CURRENT, 8, {0x00, 0x10, dvd, 0, 0x00, 0x08, cd, 0}}, /* profile list */
        {0x0001, PERSISTENT | CURRENT, 4, {0, 0, 0, 2}},                            /* core: ATAPI */
        {0x0002, PERSISTENT | CURRENT, 4, {0}},                                     /* morphing: polled events */
        {0x0003, PERSISTENT | CURRENT, 4, {0x29}},                                  /* tray, ejects, locks */
        {0x0010, cd | dvd, 8, {0, 0, 8, 0, 0, 1, 0, 0}}, /* random readable: 2048 bytes */
        {0x001e, cd, 0, {0}},                            /* CD read */
        {0x001f, dvd, 0, {0}},                           /* DVD read */
    };
    memcpy(features, list, sizeof list);
    return ARRAY_SIZE(list);
}

int mmc_configuration(const IdeDrive *drive, const uint8_t *packet, uint8_t *data)
{
    enum { ALL = 0, ONLY_CURRENT = 1, ONE = 2 };
    uint8_t type = packet[1] & 3, *end = data + 8;
    uint16_t start = load_be16(packet + 2);
    Feature features[8];
    uint32_t count = list_features(drive, features);
    if (type > ONE)
        return -1;
    for (uint32_t i = 0; i < count; i++) {
        const Feature *feature = &features[i];
        bool wanted = type == ONE ? feature->code == start : feature->code >= start;
        if (!wanted || (type == ONLY_CURRENT && !(feature->flags & CURRENT)))
            continue;
        store_be16(end, feature->code);
        end[2] = feature->flags;
        end[3] = feature->length;
        memcpy(end + 4, feature->data, feature->length);
        end += 4 + feature->length;
    }
    store_be32(data, (uint32_t)(end - data - 4));
    store_be16(data + 4, 0);
    store_be16(data + 6, (uint16_t)current_profile(drive));
    return (int)(end - data);
}

/* GET EVENT STATUS NOTIFICATION, polled, of the media class: what happened since it was last asked. */
int mmc_event(IdeDrive *drive, const uint8_t *packet, uint8_t *data)
{
    enum { POLLED = 1, MEDIA_CLASS = 4, NO_EVENT_AVAILABLE = 0x80 };
    if (!(packet[1] & POLLED))
        return -1;
    memset(data, 0, 8);
    data[3] = 1 << MEDIA_CLASS; /* the classes that are supported */
    if (!(packet[4] & 1 << MEDIA_CLASS)) {
        store_be16(data, 2);
        data[2] = NO_EVENT_AVAILABLE;
        return 4;
    }
    store_be16(data, 6);
    data[2] = MEDIA_CLASS;
    data[4] = drive->state->media_event & 0x0f;
    data[5] = (uint8_t)((mmc_sectors(drive) ? 2 : 0) | drive->state->tray_open);
    drive->state->media_event = 0;
    return 8;
}

static uint8_t *put_recovery_page(uint8_t *data, bool values)
{
    memset(data, 0, 8);
    data[0] = 0x01;
    data[1] = 6;
    data[3] = values ? 5 : 0; /* read retries */
    return data + 8;
}

/* MMC-3, capabilities and mechanical status page. */
static uint8_t *put_capabilities_page(const IdeDrive *drive, uint8_t *data, bool values)
{
    memset(data, 0, 22);
    data[0] = 0x2a;
    data[1] = 20;
    if (!values)
        return data + 22;
    data[2] = 0x0b;                                             /* reads CD-R, CD-RW, DVD-ROM */
    data[6] = (uint8_t)(0x29 | (drive->state->locked ? 2 : 0)); /* tray, ejects, locks */
    store_be16(data + 8, SPEED);
    store_be16(data + 12, IDE_BUFFER_BYTES / 1024);
    store_be16(data + 14, SPEED);
    return data + 22;
}

/* MODE SENSE(10): no block descriptors; nothing is changeable. */
int mmc_mode_sense(const IdeDrive *drive, const uint8_t *packet, uint8_t *data)
{
    enum { CHANGEABLE = 1, PAGE_RECOVERY = 0x01, PAGE_CAPABILITIES = 0x2a, PAGE_ALL = 0x3f };
    uint8_t page = packet[2] & 0x3f, *end = data + 8;
    bool values = packet[2] >> 6 != CHANGEABLE;
    if (page != PAGE_RECOVERY && page != PAGE_CAPABILITIES && page != PAGE_ALL)
        return -1;
    memset(data, 0, 8);
    if (page != PAGE_CAPABILITIES)
        end = put_recovery_page(end, values);
    if (page != PAGE_RECOVERY)
        end = put_capabilities_page(drive, end, values);
    store_be16(data, (uint16_t)(end - data - 2));
    return (int)(end - data);
}

/* READ DISC INFORMATION: a finished disc of one session and one track. */
int mmc_disc_information(const uint8_t *packet, uint8_t *data)
{
    if (packet[1] & 7) /* another type than standard */
        return -1;
    memset(data, 0, 34);
    store_be16(data, 32);
    data[2] = 0x0e; /* disc and last session are complete */
    data[3] = data[4] = data[5] = data[6] = 1;
    data[7] = 0x20; /* unrestricted use */
    return 34;
}

int mmc_mechanism_status(const IdeDrive *drive, uint8_t *data)
{
    memset(data, 0, 8);
    data[1] = drive->state->tray_open ? 0x10 : 0; /* door open */
    data[5] = 1;                                  /* slots */
    return 8;
}
