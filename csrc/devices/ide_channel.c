#include "devices/ide_internal.h"

/* Offsets in the command block: ATA-6, I/O registers. */
enum {
    REG_DATA,
    REG_ERROR, /* features when written */
    REG_COUNT,
    REG_LBA_LOW,
    REG_LBA_MID,
    REG_LBA_HIGH,
    REG_DEVICE,
    REG_STATUS, /* command when written */
};

#define UNDRIVEN 0x7f /* nobody drives the bus: pulled up, but for DD7, which the host pulls down */

IdeDrive *ide_selected(IdeChannel *channel)
{
    return &channel->drives[(channel->state.device & IDE_DEVICE_1) != 0];
}

static bool is_there(const IdeDrive *drive) { return drive->kind != IDE_NONE; }

/* INTRQ: driven by the selected device only, while nIEN is 0. The bus master latches its rising edge (BMIDE §2.2).
 */
void ide_update_irq(IdeChannel *channel)
{
    const IdeDrive *drive = ide_selected(channel);
    bool level = is_there(drive) && drive->state->interrupt && !(channel->state.control & IDE_CONTROL_NIEN);
    if (level && !channel->intrq) {
        channel->state.master.status |= BM_INTERRUPT;
        channel->counters.interrupts++;
    }
    channel->intrq = level;
    irq_line_set(channel->line, level);
}

void ide_raise(IdeChannel *channel, IdeDrive *drive)
{
    drive->state->interrupt = 1;
    ide_update_irq(channel);
}

static void end_transfer(IdeChannel *channel) { channel->state.transfer = (IdeTransferState){0}; }

void ide_finish(IdeChannel *channel, IdeDrive *drive)
{
    end_transfer(channel);
    drive->state->status = IDE_READY;
    drive->state->error = 0;
    ide_raise(channel, drive);
}

void ide_fail(IdeChannel *channel, IdeDrive *drive, uint8_t error)
{
    end_transfer(channel);
    channel->counters.errors++;
    drive->state->status = IDE_READY | IDE_ERR;
    drive->state->error = error;
    ide_raise(channel, drive);
}

/* ---- Resets ------------------------------------------------------------------------------------------------- */

/* ATA-6, signature and persistence: what a reset leaves in the registers, and what a driver tells the kinds by. */
void ide_set_signature(IdeDrive *drive)
{
    IdeDriveState *s = drive->state;
    s->count = s->lba_low = 1;
    s->lba_mid = drive->kind == IDE_CDROM ? 0x14 : 0;
    s->lba_high = drive->kind == IDE_CDROM ? 0xeb : 0;
    s->error = 1; /* diagnostics passed */
    s->status = drive->kind == IDE_DISK ? IDE_READY : 0;
}

static void reset_drive(IdeDrive *drive)
{
    IdeDriveState *s = drive->state;
    *s = (IdeDriveState){
        .multiple = IDE_BUFFER_BYTES / ATA_SECTOR,
        .heads = 16,
        .sectors = 63,
        .write_cache = 1,
        .attention = drive->kind == IDE_CDROM ? IDE_ATTENTION_RESET : IDE_ATTENTION_NONE,
    };
    if (is_there(drive))
        ide_set_signature(drive);
}

void ide_channel_reset(IdeChannel *channel)
{
    channel->state.device = channel->state.control = 0;
    end_transfer(channel);
    memset(channel->state.buffer, 0, sizeof channel->state.buffer);
    for (uint32_t i = 0; i < IDE_DRIVES; i++)
        reset_drive(&channel->drives[i]);
    ide_master_reset(channel);
    ide_update_irq(channel);
}

/* ATA-6, software reset protocol: BSY from the moment SRST is set until after it is cleared. */
static void begin_software_reset(IdeChannel *channel)
{
    ide_cancel_job(channel);
    end_transfer(channel);
    for (uint32_t i = 0; i < IDE_DRIVES; i++) {
        channel->drives[i].state->interrupt = 0;
        channel->drives[i].state->status = 0; /* reads as BSY while SRST is set */
    }
}

static void end_software_reset(IdeChannel *channel)
{
    channel->state.device = 0;
    for (uint32_t i = 0; i < IDE_DRIVES; i++) {
        if (!is_there(&channel->drives[i]))
            continue;
        channel->drives[i].state->power = IDE_POWER_ACTIVE;
        ide_set_signature(&channel->drives[i]);
    }
}

static void write_control(IdeChannel *channel, uint8_t value)
{
    uint8_t changed = channel->state.control ^ value;
    channel->state.control = value & (IDE_CONTROL_HOB | IDE_CONTROL_SRST | IDE_CONTROL_NIEN);
    if (changed & value & IDE_CONTROL_SRST)
        begin_software_reset(channel);
    else if (changed & IDE_CONTROL_SRST)
        end_software_reset(channel);
    ide_update_irq(channel);
}

/* ---- Commands ----------------------------------------------------------------------------------------------- */

/* EXECUTE DEVICE DIAGNOSTIC is for both devices, whichever is selected; device 0 answers for both. */
static void diagnose(IdeChannel *channel)
{
    end_transfer(channel);
    channel->state.device = 0;
    for (uint32_t i = 0; i < IDE_DRIVES; i++)
        if (is_there(&channel->drives[i]))
            ide_set_signature(&channel->drives[i]);
    ide_raise(channel, ide_selected(channel));
}

/* DEVICE RESET: also while BSY; for packet devices only. */
static void reset_packet_device(IdeChannel *channel, IdeDrive *drive)
{
    ide_cancel_job(channel);
    end_transfer(channel);
    drive->state->power = IDE_POWER_ACTIVE;
    drive->state->interrupt = 0;
    ide_set_signature(drive);
    channel->state.device &= IDE_DEVICE_1;
    ide_update_irq(channel);
}

static void write_command(IdeChannel *channel, uint8_t command)
{
    enum { DEVICE_RESET = 0x08, DIAGNOSTIC = 0x90 };
    IdeDrive *drive = ide_selected(channel);
    if (command == DEVICE_RESET && drive->kind == IDE_CDROM) {
        reset_packet_device(channel, drive);
        return;
    }
    if (channel->job)
        return; /* BSY */
    if (command != DIAGNOSTIC && (!is_there(drive) || drive->state->power == IDE_POWER_SLEEP))
        return;
    channel->counters.commands++;
    drive->state->interrupt = 0;
    ide_update_irq(channel);
    end_transfer(channel); /* what the last command had not moved is lost */
    if (command == DIAGNOSTIC)
        diagnose(channel);
    else if (drive->kind == IDE_DISK)
        ide_ata_command(channel, drive, command);
    else
        ide_atapi_command(channel, drive, command);
}

/* ---- Registers ---------------------------------------------------------------------------------------------- */

/* ATA-6, 48-bit address: each register is two bytes deep, and a write pushes the older one back. */
static void write_pair(uint8_t *current, uint8_t *previous, uint8_t value)
{
    *previous = *current;
    *current = value;
}

/* Both devices take what is written (ATA-6, device register): commands are for the selected one. */
static void write_register(IdeChannel *channel, uint64_t offset, uint8_t value)
{
    if (channel->state.control & IDE_CONTROL_SRST)
        return;
    if (offset == REG_STATUS) {
        channel->state.control &= (uint8_t)~IDE_CONTROL_HOB;
        write_command(channel, value);
        return;
    }
    if (channel->job)
        return; /* BSY: not to be written */
    channel->state.control &= (uint8_t)~IDE_CONTROL_HOB;
    if (offset == REG_DEVICE) {
        channel->state.device = value;
        ide_update_irq(channel);
        return;
    }
    for (uint32_t i = 0; i < IDE_DRIVES; i++) {
        IdeDriveState *s = channel->drives[i].state;
        switch (offset) {
        case REG_ERROR:
            write_pair(&s->features, &s->previous_features, value);
            break;
        case REG_COUNT:
            write_pair(&s->count, &s->previous_count, value);
            break;
        case REG_LBA_LOW:
            write_pair(&s->lba_low, &s->previous_lba_low, value);
            break;
        case REG_LBA_MID:
            write_pair(&s->lba_mid, &s->previous_lba_mid, value);
            break;
        case REG_LBA_HIGH:
            write_pair(&s->lba_high, &s->previous_lba_high, value);
            break;
        }
    }
}

static uint8_t read_status(IdeChannel *channel)
{
    const IdeDrive *drive = ide_selected(channel);
    if (!is_there(drive)) /* device 0 answers for an absent device 1 (ATA-6, device 0 only configurations) */
        return drive->index == 1 && is_there(&channel->drives[0]) ? 0 : UNDRIVEN;
    return channel->state.control & IDE_CONTROL_SRST ? IDE_BSY : drive->state->status;
}

static uint8_t read_register(IdeChannel *channel, uint64_t offset)
{
    const IdeDrive *drive = ide_selected(channel);
    if (offset == REG_STATUS) {
        uint8_t status = read_status(channel);
        drive->state->interrupt = 0;
        ide_update_irq(channel);
        return status;
    }
    if (!is_there(drive))
        drive = &channel->drives[0];
    if (!is_there(drive))
        return UNDRIVEN;
    const IdeDriveState *s = drive->state;
    bool previous = channel->state.control & IDE_CONTROL_HOB;
    switch (offset) {
    case REG_ERROR:
        return s->error;
    case REG_COUNT:
        return previous ? s->previous_count : s->count;
    case REG_LBA_LOW:
        return previous ? s->previous_lba_low : s->lba_low;
    case REG_LBA_MID:
        return previous ? s->previous_lba_mid : s->lba_mid;
    case REG_LBA_HIGH:
        return previous ? s->previous_lba_high : s->lba_high;
    default:
        return channel->state.device | 0xa0; /* bits 7 and 5 are obsolete, and were 1 */
    }
}

/* ---- The data port ------------------------------------------------------------------------------------------ */

/* May the selected device's data be moved this way? */
static bool data_is_ready(IdeChannel *channel, bool to_host)
{
    const IdeTransferState *t = &channel->state.transfer;
    if (channel->job || t->drive != ide_selected(channel)->index)
        return false;
    return to_host ? t->phase == IDE_PHASE_IN : t->phase == IDE_PHASE_OUT || t->phase == IDE_PHASE_PACKET;
}

static uint64_t read_data(IdeChannel *channel, uint32_t size)
{
    if (!data_is_ready(channel, true))
        return is_there(ide_selected(channel)) ? 0 : 0xffffffff ^ 0x00800080;
    IdeTransferState *t = &channel->state.transfer;
    uint64_t value = 0;
    uint32_t n = MIN(size, t->end - t->position); /* a block of odd length ends with a pad byte */
    memcpy(&value, channel->state.buffer + t->position, n);
    t->position += n;
    if (t->position == t->end)
        ide_block_done(channel);
    return value;
}

static void write_data(IdeChannel *channel, uint32_t size, uint64_t value)
{
    if (!data_is_ready(channel, false))
        return;
    IdeTransferState *t = &channel->state.transfer;
    uint32_t n = MIN(size, t->end - t->position);
    memcpy(channel->state.buffer + t->position, &value, n);
    t->position += n;
    if (t->position < t->end)
        return;
    if (t->phase == IDE_PHASE_PACKET)
        ide_packet_received(channel);
    else
        ide_block_done(channel);
}

uint64_t ide_channel_read(IdeChannel *channel, bool control, uint64_t offset, uint32_t size)
{
    if (control) /* alternate status: as status, the interrupt stays */
        return read_status(channel) | (UINT64_MAX << 8);
    if (offset == REG_DATA)
        return read_data(channel, MIN(size, 4));
    uint64_t value = 0;
    for (uint32_t i = 0; i < size; i++) {
        uint8_t byte = offset + i <= REG_STATUS ? read_register(channel, offset + i) : 0xff;
        value |= (uint64_t)byte << (8 * i);
    }
    return value;
}

void ide_channel_write(IdeChannel *channel, bool control, uint64_t offset, uint32_t size, uint64_t value)
{
    if (control) {
        write_control(channel, (uint8_t)value);
        return;
    }
    if (offset == REG_DATA) {
        write_data(channel, MIN(size, 4), value);
        return;
    }
    for (uint32_t i = 0; i < size && offset + i <= REG_STATUS; i++)
        write_register(channel, offset + i, (uint8_t)(value >> (8 * i)));
}
