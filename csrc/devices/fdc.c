#include "devices/fdc_internal.h"

#include <stdlib.h>

#define MECHANICS_NS 100000
enum { DSR_RESET = 0x80, RATE_BITS = 3, DIR_CHANGED = 0x80, DIR_FLOATING = 0x7f };

static bool in_reset(const Fdc *fdc) { return !(fdc->state.dor & DOR_NOT_RESET); }

/* DMAGATE lets INT out in AT mode (82077AA §2.1.3). */
static void drive_line(Fdc *fdc)
{
    irq_line_set(fdc->irq, fdc->state.interrupt && fdc->state.dor & DOR_DMAGATE && !in_reset(fdc));
}

void fdc_interrupt(Fdc *fdc, bool raised)
{
    fdc->state.interrupt = raised;
    drive_line(fdc);
}

void fdc_give_result(Fdc *fdc, const uint8_t *bytes, uint8_t count)
{
    FdcState *s = &fdc->state;
    for (uint8_t i = 0; i < count; i++)
        s->result[i] = bytes[i];
    s->result_length = count;
    s->position = 0;
    s->phase = count ? FDC_RESULT : FDC_COMMAND_PHASE;
}

/* ---- The mechanics ------------------------------------------------------------------------------------------ */

void fdc_schedule(Fdc *fdc, uint8_t event)
{
    fdc->state.events |= event;
    fdc->state.deadline_ns = clock_now(fdc->device.board->clock) + MECHANICS_NS;
    timer_arm(fdc->timer, fdc->state.deadline_ns);
}

/* 82077AA §2.1.3 and §5.2.4: four statuses, one for each drive, after a reset. */
static void reset_ended(Fdc *fdc)
{
    fdc->state.reset_senses = 4;
    fdc_interrupt(fdc, true);
}

/* The notifier's callback, with no lock held. What was called off meanwhile has no deadline. */
static void work(void *opaque)
{
    Fdc *fdc = opaque;
    FdcState *s = &fdc->state;
    pthread_mutex_lock(&fdc->device.lock);
    if (s->deadline_ns && clock_now(fdc->device.board->clock) >= s->deadline_ns) {
        uint8_t events = s->events;
        s->events = 0;
        s->deadline_ns = 0;
        for (uint32_t drive = 0; drive < 4; drive++)
            if (events & FDC_EVENT_SEEK << drive)
                fdc_seek_ended(fdc, drive);
        if (events & FDC_EVENT_RESET)
            reset_ended(fdc);
        if (events & FDC_EVENT_TRANSFER)
            fdc_transfer(fdc);
    }
    pthread_mutex_unlock(&fdc->device.lock);
}

static void expired(void *opaque) { io_notifier_kick(((Fdc *)opaque)->notifier); }

static void stop_mechanics(Fdc *fdc)
{
    fdc->state.events = 0;
    fdc->state.deadline_ns = 0;
    timer_disarm(fdc->timer);
}

/* ---- Registers ---------------------------------------------------------------------------------------------- */

/* What DOR's and DSR's reset do alike; LOCK keeps the FIFO's settings (82077AA §5.1.19). */
static void software_reset(Fdc *fdc)
{
    FdcState *s = &fdc->state;
    stop_mechanics(fdc);
    s->phase = FDC_COMMAND_PHASE;
    s->position = s->command_length = s->result_length = 0;
    s->fifo_position = s->fifo_length = s->reset_senses = s->seek_done = 0;
    memset(s->cylinder, 0, sizeof s->cylinder);
    s->config = s->locked ? s->config & (CONFIG_NO_FIFO | CONFIG_THRESHOLD) : CONFIG_NO_FIFO;
    s->precompensation = s->locked ? s->precompensation : 0;
    s->perpendicular &= ~3; /* GAP and WGATE */
    fdc_interrupt(fdc, false);
}

static void write_dor(Fdc *fdc, uint8_t value)
{
    bool was_reset = in_reset(fdc);
    fdc->state.dor = value;
    if (in_reset(fdc))
        software_reset(fdc);
    else if (was_reset)
        fdc_schedule(fdc, FDC_EVENT_RESET);
    drive_line(fdc);
}

static void write_dsr(Fdc *fdc, uint8_t value)
{
    fdc->state.dsr = value & ~DSR_RESET;
    fdc->state.rate = value & RATE_BITS;
    if (!(value & DSR_RESET) || in_reset(fdc))
        return;
    software_reset(fdc);
    fdc_schedule(fdc, FDC_EVENT_RESET);
}

static uint8_t read_msr(const Fdc *fdc)
{
    const FdcState *s = &fdc->state;
    if (in_reset(fdc) || s->events & FDC_EVENT_RESET)
        return 0;
    uint8_t seeks = FDC_SEEKS(s);
    switch (s->phase) {
    case FDC_COMMAND_PHASE:
        return MSR_RQM | (s->position ? MSR_BUSY : 0) | seeks;
    case FDC_FIFO_IN:
        return MSR_RQM | MSR_DIO | MSR_NDM | MSR_BUSY | seeks;
    case FDC_FIFO_OUT:
        return MSR_RQM | MSR_NDM | MSR_BUSY | seeks;
    case FDC_RESULT:
        return MSR_RQM | MSR_DIO | MSR_BUSY | seeks;
    default:
        return MSR_BUSY | seeks;
    }
}

static uint8_t read_fifo(Fdc *fdc)
{
    FdcState *s = &fdc->state;
    if (s->phase == FDC_RESULT) {
        uint8_t byte = s->result[s->position++];
        if (fdc_is_data_command(s->command[0]))
            fdc_interrupt(fdc, false);
        if (s->position >= s->result_length)
            s->position = s->phase = 0;
        return byte;
    }
    if (s->phase != FDC_FIFO_IN)
        return 0xff;
    uint8_t byte = s->buffer[s->fifo_position++];
    if (s->fifo_position >= s->fifo_length)
        fdc_fifo_drained(fdc);
    return byte;
}

static void write_fifo(Fdc *fdc, uint8_t value)
{
    FdcState *s = &fdc->state;
    if (s->phase == FDC_FIFO_OUT) {
        s->buffer[s->fifo_position++] = value;
        if (s->fifo_position >= s->fifo_length)
            fdc_fifo_drained(fdc);
        return;
    }
    if (s->phase != FDC_COMMAND_PHASE || in_reset(fdc) || s->events & FDC_EVENT_RESET)
        return;
    if (s->position == 0)
        s->command_length = fdc_command_length(value);
    s->command[s->position++] = value;
    if (s->position < s->command_length)
        return;
    s->position = 0;
    fdc_execute(fdc);
}

/* DSKCHG of the selected drive; the other lines are nobody's in AT mode (82077AA §2.1.7). */
static uint8_t read_dir(const Fdc *fdc)
{
    uint32_t drive = fdc->state.dor & DOR_SELECT;
    bool changed = drive < FDC_DRIVES && fdc->drives[drive].present && fdc->state.changed[drive];
    return DIR_FLOATING | (changed ? DIR_CHANGED : 0);
}

static uint8_t read_register(Fdc *fdc, uint32_t region, uint64_t offset)
{
    if (region == FDC_REGION_RATE)
        return offset ? 0xff : read_dir(fdc);
    switch (offset) {
    case FDC_DOR:
        return fdc->state.dor;
    case FDC_TDR:
        return fdc->state.tdr;
    case FDC_MSR:
        return read_msr(fdc);
    case FDC_FIFO:
        return read_fifo(fdc);
    default: /* SRA and SRB: not in AT mode */
        return 0xff;
    }
}

static void write_register(Fdc *fdc, uint32_t region, uint64_t offset, uint8_t value)
{
    if (region == FDC_REGION_RATE) {
        if (!offset) /* CCR */
            fdc->state.rate = value & RATE_BITS;
        return;
    }
    switch (offset) {
    case FDC_DOR:
        write_dor(fdc, value);
        break;
    case FDC_TDR:
        fdc->state.tdr = value & 3;
        break;
    case FDC_MSR:
        write_dsr(fdc, value);
        break;
    case FDC_FIFO:
        write_fifo(fdc, value);
        break;
    default:
        break;
    }
}

static uint64_t fdc_read(void *opaque, uint32_t region, uint64_t offset, uint32_t size)
{
    uint64_t value = 0;
    for (uint32_t i = 0; i < size; i++)
        value |= (uint64_t)read_register(opaque, region, offset + i) << 8 * i;
    return value;
}

static void fdc_write(void *opaque, uint32_t region, uint64_t offset, uint32_t size, uint64_t value)
{
    for (uint32_t i = 0; i < size; i++)
        write_register(opaque, region, offset + i, (uint8_t)(value >> 8 * i));
}

/* ---- The device --------------------------------------------------------------------------------------------- */

int fdc_change_medium(Device *device, uint32_t drive, BlockImage *image, const FdcGeometry *geometry)
{
    Fdc *fdc = container_of(device, Fdc, device);
    if (drive >= FDC_DRIVES || !fdc->drives[drive].present)
        return -EINVAL;
    pthread_mutex_lock(&device->lock);
    fdc->drives[drive].image = image;
    fdc->drives[drive].geometry = image ? *geometry : (FdcGeometry){0};
    fdc->state.changed[drive] = 1;
    pthread_mutex_unlock(&device->lock);
    return 0;
}

/* As at power-on: heads at track 0, and disks that nobody has looked at yet. */
static void fdc_reset(Device *device)
{
    Fdc *fdc = container_of(device, Fdc, device);
    stop_mechanics(fdc);
    memset(&fdc->state, 0, sizeof fdc->state);
    fdc->state.config = CONFIG_NO_FIFO;
    fdc->state.rate = fdc->state.dsr = 2; /* 250 kbit/s */
    for (uint32_t i = 0; i < FDC_DRIVES; i++)
        fdc->state.changed[i] = 1;
    drive_line(fdc);
}

static void fdc_destroy(Device *device)
{
    Fdc *fdc = container_of(device, Fdc, device);
    timer_free(fdc->timer);
    io_notifier_free(fdc->notifier);
}

static void fdc_save(Device *device, void *state) { *(FdcState *)state = container_of(device, Fdc, device)->state; }

static bool state_is_valid(const FdcState *s, uint64_t now)
{
    bool fifo = s->phase == FDC_FIFO_IN || s->phase == FDC_FIFO_OUT;
    bool lengths = s->command_length <= sizeof s->command && s->result_length <= sizeof s->result &&
                   s->fifo_length <= FDC_SECTOR;
    bool positions = s->phase == FDC_RESULT          ? s->position < s->result_length
                     : s->phase == FDC_COMMAND_PHASE ? !s->position || s->position < s->command_length
                                                     : true;
    bool heads = s->track[0] < FDC_MAX_TRACKS && s->track[1] < FDC_MAX_TRACKS;
    return s->phase <= FDC_RESULT && lengths && positions && heads &&
           (!fifo || s->fifo_position < s->fifo_length) && s->events <= FDC_EVENTS &&
           !s->events == !s->deadline_ns && s->deadline_ns <= now + MECHANICS_NS && s->interrupt <= 1 &&
           s->reset_senses <= 4 && s->seek_done <= 15 && s->rate <= RATE_BITS;
}

static int fdc_restore(Device *device, const void *state)
{
    Fdc *fdc = container_of(device, Fdc, device);
    FdcState saved = *(const FdcState *)state;
    if (!state_is_valid(&saved, clock_now(device->board->clock)))
        return -EINVAL;
    memset(saved.reserved, 0, sizeof saved.reserved);
    fdc->state = saved;
    if (saved.deadline_ns)
        timer_arm(fdc->timer, saved.deadline_ns);
    else
        timer_disarm(fdc->timer);
    drive_line(fdc);
    return 0;
}

static const DeviceClass fdc_class = {
    .name = "fdc",
    .ops = {fdc_read, fdc_write},
    .reset = fdc_reset,
    .destroy = fdc_destroy,
    .state_size = sizeof(FdcState),
    .state_version = FDC_STATE_VERSION,
    .save = fdc_save,
    .restore = fdc_restore,
};

Device *fdc_new(Board *board, IrqLine *irq, Device *dma, uint32_t dma_channel, const FdcOptions *options)
{
    Fdc *fdc = calloc(1, sizeof *fdc);
    if (!fdc)
        return NULL;
    device_init(&fdc->device, &fdc_class, board);
    fdc->irq = irq;
    fdc->dma = dma;
    fdc->dma_channel = dma_channel & 3;
    for (uint32_t i = 0; i < FDC_DRIVES; i++) {
        const FdcDriveOptions *drive = &options->drives[i];
        fdc->drives[i] =
            (FdcDrive){drive->image, drive->image ? drive->geometry : (FdcGeometry){0}, drive->present};
    }
    fdc->timer = timer_new(board->clock, expired, fdc);
    fdc->notifier = io_notifier_new(options->io ? options->io : board->io, work, fdc);
    if (!fdc->timer || !fdc->notifier) {
        device_free(&fdc->device);
        return NULL;
    }
    fdc_reset(&fdc->device);
    return &fdc->device;
}
