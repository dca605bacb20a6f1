#include "devices/fdc_internal.h"
#include "devices/i8237.h"

enum { OPTION_MT = 0x80, OPTION_MFM = 0x40, VERIFY_COUNTED = 0x80, LOCK_BIT = 0x80, NON_DMA = 1, SIZE_512 = 2 };
enum { ST2_DATA_ERROR = 0x20, VERSION_ENHANCED = 0x90, MAX_PULSES = 79 };
/* Bytes of the data commands (82077AA table 5-1). FORMAT's are others. */
enum { BYTE_DRIVE = 1, BYTE_C, BYTE_H, BYTE_R, BYTE_N, BYTE_EOT, BYTE_GAP, BYTE_DTL };
enum { FORMAT_N = 2, FORMAT_COUNT, FORMAT_GAP, FORMAT_FILL };

typedef enum Transfer { NOT_DATA, READ, WRITE, READ_TRACK, READ_DELETED, VERIFY, FORMAT, READ_ID } Transfer;

typedef struct Command {
    uint8_t mask, code, length;
    Transfer transfer;
    void (*execute)(Fdc *fdc);
} Command;

static const Command *find_command(uint8_t first);
static Transfer current(const Fdc *fdc) { return find_command(fdc->state.command[0])->transfer; }

/* ---- Drives ------------------------------------------------------------------------------------------------- */

static uint32_t selected(const Fdc *fdc) { return fdc->state.command[BYTE_DRIVE] & 3; }
static uint8_t head(const Fdc *fdc) { return fdc->state.command[BYTE_DRIVE] >> 2 & 1; }

static FdcDrive *drive_at(Fdc *fdc, uint32_t drive)
{
    return drive < FDC_DRIVES && fdc->drives[drive].present ? &fdc->drives[drive] : NULL;
}

/* Stepping with a disk in the drive makes its change line fall. */
static void step_to(Fdc *fdc, uint32_t drive, int track)
{
    FdcState *s = &fdc->state;
    if (!drive_at(fdc, drive))
        return;
    track = MAX(0, MIN(track, FDC_MAX_TRACKS - 1));
    if (track != s->track[drive] && fdc->drives[drive].image)
        s->changed[drive] = 0;
    s->track[drive] = (uint8_t)track;
}

/* The controller counts pulses from where it thinks that it is; a reset makes it think 0. */
static void seek_to(Fdc *fdc, uint32_t drive, uint8_t cylinder)
{
    FdcState *s = &fdc->state;
    if (drive < FDC_DRIVES)
        step_to(fdc, drive, s->track[drive] + cylinder - s->cylinder[drive]);
    s->cylinder[drive] = cylinder;
}

/* ---- Ends of commands --------------------------------------------------------------------------------------- */

static void finish(Fdc *fdc, uint8_t st0, uint8_t st1, uint8_t st2)
{
    FdcState *s = &fdc->state;
    const uint8_t *id = s->command + BYTE_C;
    uint8_t result[7] = {st0 | (s->command[BYTE_DRIVE] & 7), st1, st2, id[0], id[1], id[2], id[3]};
    if ((current(fdc) == WRITE || current(fdc) == FORMAT) && drive_at(fdc, selected(fdc)) &&
        fdc->drives[selected(fdc)].image && !(st1 & ST1_WRITE_PROTECT))
        block_flush(fdc->drives[selected(fdc)].image); /* what is written is on the disk */
    fdc_give_result(fdc, result, sizeof result);
    fdc_interrupt(fdc, true);
}

static void finish_badly(Fdc *fdc, uint8_t st1, uint8_t st2) { finish(fdc, ST0_ABNORMAL, st1, st2); }

static void host_error(Fdc *fdc, int error, const char *what)
{
    event_log_add(fdc->device.board->log, "floppy %u: %s: %s", selected(fdc), what, strerror(-error));
    finish_badly(fdc, ST1_CRC, ST2_DATA_ERROR);
}

/* ---- Data commands ------------------------------------------------------------------------------------------ */

/* Where a sector of the current track is in the image; -1: there is none. */
static int64_t sector_offset(Fdc *fdc, uint8_t sector)
{
    const FdcGeometry *geometry = &fdc->drives[selected(fdc)].geometry;
    uint8_t track = fdc->state.track[selected(fdc)];
    if (sector < 1 || sector > geometry->sectors || track >= geometry->tracks || head(fdc) >= geometry->heads)
        return -1;
    return (((int64_t)track * geometry->heads + head(fdc)) * geometry->sectors + sector - 1) * FDC_SECTOR;
}

/* Is there the sector whose ID the command gives? If not, it ends (82077AA §5.2.2: no mark, no data, wrong
 * cylinder). */
static bool find_sector(Fdc *fdc, int64_t *offset)
{
    FdcState *s = &fdc->state;
    const uint8_t *command = s->command;
    bool track_is_there = sector_offset(fdc, 1) >= 0;
    *offset = sector_offset(fdc, command[BYTE_R]);
    if (!track_is_there)
        finish_badly(fdc, ST1_NO_MARK, 0);
    else if (command[BYTE_C] != s->track[selected(fdc)])
        finish_badly(fdc, ST1_NO_DATA, ST2_WRONG_CYLINDER);
    else if (command[BYTE_H] != head(fdc) || command[BYTE_N] != SIZE_512 || *offset < 0)
        finish_badly(fdc, ST1_NO_DATA, 0);
    else
        return true;
    return false;
}

/* The next sector's ID, as the result phase shows it too (82077AA table 5-6); false: that was the last. */
static bool next_sector(Fdc *fdc)
{
    uint8_t *command = fdc->state.command;
    if (command[BYTE_R] != command[BYTE_EOT]) {
        command[BYTE_R]++;
        return true;
    }
    command[BYTE_R] = 1;
    if (command[0] & OPTION_MT && current(fdc) != READ_TRACK) {
        command[BYTE_H] ^= 1;
        command[BYTE_DRIVE] ^= ST0_HEAD;
        if (command[BYTE_H] & 1)
            return true;
        command[BYTE_DRIVE] ^= ST0_HEAD; /* ST0 has the head that was last */
    }
    command[BYTE_C]++;
    return false;
}

/* After a sector that went well. True: go on with the next. */
static bool sector_ended(Fdc *fdc, bool terminal_count)
{
    FdcState *s = &fdc->state;
    Transfer transfer = current(fdc);
    bool more = next_sector(fdc);
    if (transfer == READ_DELETED) /* this sector has an ordinary mark: the command ends with it (82077AA §5.1.3) */
        finish(fdc, ST0_ABNORMAL, 0, ST2_CONTROL_MARK);
    else if (terminal_count || (transfer == VERIFY && s->sectors_left && !--s->sectors_left))
        finish(fdc, 0, 0, 0);
    else if (!more && (transfer == VERIFY || transfer == READ_TRACK))
        finish(fdc, 0, 0, 0);
    else if (!more)
        finish_badly(fdc, ST1_END, 0);
    else
        return true;
    return false;
}

static void wait_for_host(Fdc *fdc, enum FdcPhase phase, uint16_t bytes)
{
    FdcState *s = &fdc->state;
    s->phase = (uint8_t)phase;
    s->fifo_position = 0;
    s->fifo_length = bytes;
    fdc_interrupt(fdc, true);
}

/* `count` bytes from the host into the buffer: by DMA now, or by the FIFO. False: not yet, or never. */
static bool take_data(Fdc *fdc, uint16_t count, bool *terminal_count)
{
    FdcState *s = &fdc->state;
    *terminal_count = false;
    if (s->head_load & NON_DMA) {
        if (!s->found)
            wait_for_host(fdc, FDC_FIFO_OUT, count);
        return s->found;
    }
    memset(s->buffer, 0, count); /* a terminal count fills the sector with zeros (82077AA §5.1.2) */
    size_t done = i8237_transfer(fdc->dma, fdc->dma_channel, s->buffer, count, I8237_FROM_MEMORY, terminal_count);
    if (done < count && !*terminal_count)
        finish_badly(fdc, ST1_OVERRUN, 0);
    return done == count || *terminal_count;
}

/* The same the other way; true: the sector is with the host. */
static bool give_data(Fdc *fdc, bool *terminal_count)
{
    FdcState *s = &fdc->state;
    *terminal_count = false;
    if (s->head_load & NON_DMA) {
        wait_for_host(fdc, FDC_FIFO_IN, FDC_SECTOR);
        return false;
    }
    size_t done =
        i8237_transfer(fdc->dma, fdc->dma_channel, s->buffer, FDC_SECTOR, I8237_TO_MEMORY, terminal_count);
    if (done < FDC_SECTOR && !*terminal_count)
        finish_badly(fdc, ST1_OVERRUN, 0);
    return done == FDC_SECTOR || *terminal_count;
}

static void transfer_sectors(Fdc *fdc)
{
    FdcState *s = &fdc->state;
    BlockImage *image = fdc->drives[selected(fdc)].image;
    Transfer transfer = current(fdc);
    bool terminal_count = false;
    int64_t offset;
    do {
        if (!find_sector(fdc, &offset))
            return;
        if (transfer == WRITE && !take_data(fdc, FDC_SECTOR, &terminal_count))
            return;
        s->found = 0;
        int result = transfer == WRITE ? block_pwrite(image, s->buffer, FDC_SECTOR, (uint64_t)offset)
                                       : block_pread(image, s->buffer, FDC_SECTOR, (uint64_t)offset);
        if (result < 0) {
            host_error(fdc, result, transfer == WRITE ? "writing a sector" : "reading a sector");
            return;
        }
        if (transfer != WRITE && transfer != VERIFY && !give_data(fdc, &terminal_count))
            return;
    } while (sector_ended(fdc, terminal_count));
}

/* Four bytes of ID for each sector (82077AA §5.1.7). The image has the sectors that it has: another ID is not
 * found. */
static void format_track(Fdc *fdc)
{
    FdcState *s = &fdc->state;
    BlockImage *image = fdc->drives[selected(fdc)].image;
    bool terminal_count = false;
    for (; s->sectors_left; s->sectors_left--) {
        if (terminal_count || !take_data(fdc, 4, &terminal_count))
            break;
        s->found = 0;
        const uint8_t *id = s->buffer;
        int64_t offset = sector_offset(fdc, id[2]);
        if (offset < 0 || id[0] != s->track[selected(fdc)] || id[1] != head(fdc) || id[3] != SIZE_512) {
            finish_badly(fdc, ST1_NO_DATA, 0);
            return;
        }
        memset(s->buffer, s->command[FORMAT_FILL], FDC_SECTOR);
        int result = block_pwrite(image, s->buffer, FDC_SECTOR, (uint64_t)offset);
        if (result < 0) {
            host_error(fdc, result, "formatting a sector");
            return;
        }
    }
    if (s->phase == FDC_EXECUTION)
        finish(fdc, 0, 0, 0);
}

static void read_id(Fdc *fdc)
{
    FdcState *s = &fdc->state;
    if (sector_offset(fdc, 1) < 0) {
        finish_badly(fdc, ST1_NO_MARK, 0);
        return;
    }
    s->command[BYTE_C] = s->track[selected(fdc)];
    s->command[BYTE_H] = head(fdc);
    s->command[BYTE_R] = 1;
    s->command[BYTE_N] = SIZE_512;
    finish(fdc, 0, 0, 0);
}

void fdc_transfer(Fdc *fdc)
{
    FdcState *s = &fdc->state;
    FdcDrive *drive = drive_at(fdc, selected(fdc));
    Transfer transfer = current(fdc);
    if (s->phase != FDC_EXECUTION || transfer == NOT_DATA)
        return;
    if (!drive || !drive->image || !(s->dor >> (DOR_MOTOR_SHIFT + selected(fdc)) & 1))
        return; /* no index pulses: the controller waits for them until it is reset */
    if ((transfer == WRITE || transfer == FORMAT) && block_is_read_only(drive->image))
        finish_badly(fdc, ST1_WRITE_PROTECT, 0);
    else if (s->rate != drive->geometry.rate || !(s->command[0] & OPTION_MFM))
        finish_badly(fdc, ST1_NO_MARK, 0);
    else if (transfer == READ_ID)
        read_id(fdc);
    else if (transfer == FORMAT)
        format_track(fdc);
    else
        transfer_sectors(fdc);
}

void fdc_fifo_drained(Fdc *fdc)
{
    FdcState *s = &fdc->state;
    bool writing = s->phase == FDC_FIFO_OUT;
    fdc_interrupt(fdc, false);
    s->phase = FDC_EXECUTION;
    s->found = writing; /* the buffer has what is to be written */
    if (writing || sector_ended(fdc, false))
        fdc_schedule(fdc, FDC_EVENT_TRANSFER);
}

static void start_transfer(Fdc *fdc)
{
    FdcState *s = &fdc->state;
    Transfer transfer = current(fdc);
    s->phase = FDC_EXECUTION;
    s->found = 0;
    if (transfer == FORMAT) {
        s->sectors_left = s->end_of_track = s->command[FORMAT_COUNT];
    } else if (transfer == READ_ID) {
        memset(s->command + BYTE_C, 0, 4); /* until one is found */
    } else {
        s->end_of_track = s->command[BYTE_EOT];
        s->sectors_left = s->command[BYTE_DRIVE] & VERIFY_COUNTED ? s->command[BYTE_DTL] : 0;
        if (transfer == READ_TRACK)
            s->command[BYTE_R] = 1;
        if (s->config & CONFIG_IMPLIED_SEEK)
            seek_to(fdc, selected(fdc), s->command[BYTE_C]);
    }
    fdc_schedule(fdc, FDC_EVENT_TRANSFER);
}

/* ---- Control commands --------------------------------------------------------------------------------------- */

static void answer(Fdc *fdc, uint8_t byte) { fdc_give_result(fdc, &byte, 1); }
static void no_result(Fdc *fdc) { fdc_give_result(fdc, NULL, 0); }
static void invalid(Fdc *fdc) { answer(fdc, ST0_INVALID); }
static void version(Fdc *fdc) { answer(fdc, VERSION_ENHANCED); }

/* RECALIBRATE and SEEK have no result: SENSE INTERRUPT STATUS tells. */
static void start_seek(Fdc *fdc)
{
    no_result(fdc);
    fdc_schedule(fdc, (uint8_t)(FDC_EVENT_SEEK << selected(fdc)));
    fdc->state.seek_status[selected(fdc)] = fdc->state.command[0] == 0x0f;
    if (fdc->state.command[0] == 0x0f)
        fdc->state.seek_target[selected(fdc)] = fdc->state.command[2];
}

void fdc_seek_ended(Fdc *fdc, uint32_t drive)
{
    FdcState *s = &fdc->state;
    uint8_t status = (uint8_t)(ST0_SEEK_END | drive);
    if (s->seek_status[drive]) {
        seek_to(fdc, drive, s->seek_target[drive]);
    } else {
        bool found = drive_at(fdc, drive) && s->track[drive] <= MAX_PULSES;
        if (drive < FDC_DRIVES)
            step_to(fdc, drive, s->track[drive] - MAX_PULSES);
        s->cylinder[drive] = 0;
        status |= found ? 0 : ST0_ABNORMAL | ST0_EQUIPMENT;
    }
    s->seek_status[drive] = status;
    s->seek_done |= (uint8_t)(1 << drive);
    fdc_interrupt(fdc, true);
}

static void sense_interrupt(Fdc *fdc)
{
    FdcState *s = &fdc->state;
    uint32_t drive;
    uint8_t status;
    if (s->reset_senses) {
        drive = 4u - s->reset_senses--;
        status = (uint8_t)(0xc0 | drive); /* polling found that it is ready */
    } else if (s->seek_done) {
        drive = (uint32_t)__builtin_ctz(s->seek_done);
        status = s->seek_status[drive];
        s->seek_done &= (uint8_t) ~(1 << drive);
    } else {
        invalid(fdc);
        return;
    }
    fdc_interrupt(fdc, s->seek_done != 0);
    fdc_give_result(fdc, (const uint8_t[]){status, s->cylinder[drive]}, 2);
}

static void sense_drive(Fdc *fdc)
{
    uint32_t number = selected(fdc);
    const FdcDrive *drive = drive_at(fdc, number);
    uint8_t status = ST3_FIXED | (fdc->state.command[BYTE_DRIVE] & 7);
    if (drive && fdc->state.track[number] == 0)
        status |= ST3_TRACK0;
    if (drive && drive->image && block_is_read_only(drive->image))
        status |= ST3_WRITE_PROTECT;
    answer(fdc, status);
}

static void specify(Fdc *fdc)
{
    fdc->state.step_rate = fdc->state.command[1];
    fdc->state.head_load = fdc->state.command[2];
    no_result(fdc);
}

static void configure(Fdc *fdc)
{
    fdc->state.config = fdc->state.command[2] & 0x7f;
    fdc->state.precompensation = fdc->state.command[3];
    no_result(fdc);
}

static void perpendicular(Fdc *fdc)
{
    uint8_t value = fdc->state.command[1]; /* OW lets D0 to D3 be written */
    fdc->state.perpendicular = value & 0x80 ? value & 0x3f : (fdc->state.perpendicular & 0x3c) | (value & 3);
    no_result(fdc);
}

static void lock(Fdc *fdc)
{
    fdc->state.locked = (fdc->state.command[0] & LOCK_BIT) != 0;
    answer(fdc, (uint8_t)(fdc->state.locked << 4));
}

static void dump_registers(Fdc *fdc)
{
    const FdcState *s = &fdc->state;
    uint8_t result[10] = {[4] = s->step_rate, s->head_load,
                          s->end_of_track,    (uint8_t)(s->locked << 7 | s->perpendicular),
                          s->config,          s->precompensation};
    memcpy(result, s->cylinder, 4);
    fdc_give_result(fdc, result, sizeof result);
}

static const Command INVALID = {0, 0, 1, NOT_DATA, invalid};

static const Command COMMANDS[] = {
    {0x1f, 0x06, 9, READ, start_transfer},
    {0x1f, 0x0c, 9, READ_DELETED, start_transfer},
    {0x3f, 0x05, 9, WRITE, start_transfer},
    {0x3f, 0x09, 9, WRITE, start_transfer}, /* WRITE DELETED DATA */
    {0xbf, 0x02, 9, READ_TRACK, start_transfer},
    {0x1f, 0x16, 9, VERIFY, start_transfer},
    {0xbf, 0x0d, 6, FORMAT, start_transfer},
    {0xbf, 0x0a, 2, READ_ID, start_transfer},
    {0xff, 0x07, 2, NOT_DATA, start_seek},
    {0xff, 0x0f, 3, NOT_DATA, start_seek},
    {0xff, 0x08, 1, NOT_DATA, sense_interrupt},
    {0xff, 0x04, 2, NOT_DATA, sense_drive},
    {0xff, 0x03, 3, NOT_DATA, specify},
    {0xff, 0x13, 4, NOT_DATA, configure},
    {0xff, 0x0e, 1, NOT_DATA, dump_registers},
    {0xff, 0x12, 2, NOT_DATA, perpendicular},
    {0x7f, 0x14, 1, NOT_DATA, lock},
    {0xff, 0x10, 1, NOT_DATA, version},
};

static const Command *find_command(uint8_t first)
{
    for (size_t i = 0; i < ARRAY_SIZE(COMMANDS); i++)
        if ((first & COMMANDS[i].mask) == COMMANDS[i].code)
            return &COMMANDS[i];
    return &INVALID;
}

uint8_t fdc_command_length(uint8_t first) { return find_command(first)->length; }

bool fdc_is_data_command(uint8_t first) { return find_command(first)->transfer != NOT_DATA; }

void fdc_execute(Fdc *fdc) { find_command(fdc->state.command[0])->execute(fdc); }
