#include "devices/ide_internal.h"

/* ---- Which thread works ------------------------------------------------------------------------------------- */

static IdeDrive *transfer_drive(IdeChannel *channel) { return &channel->drives[channel->state.transfer.drive]; }

static void run_job(IdeChannel *channel);

/* The notifier's callback: on the I/O thread, or inside ide_start_job() on the thread that holds the lock. */
static void job_ready(void *opaque)
{
    IdeChannel *channel = opaque;
    pthread_mutex_t *lock = &channel->ide->device.lock;
    bool holds_lock = __atomic_load_n(&channel->kicker, __ATOMIC_RELAXED) == (uintptr_t)pthread_self();
    if (!holds_lock)
        pthread_mutex_lock(lock);
    channel->lock_kept = holds_lock;
    if (channel->job && !channel->working)
        run_job(channel);
    channel->lock_kept = false;
    if (!holds_lock)
        pthread_mutex_unlock(lock);
}

int ide_channel_attach(IdeChannel *channel, IoThread *io)
{
    pthread_cond_init(&channel->idle, NULL);
    channel->notifier = io_notifier_new(io, job_ready, channel);
    return channel->notifier ? 0 : -ENOMEM;
}

void ide_channel_detach(IdeChannel *channel)
{
    io_notifier_free(channel->notifier);
    pthread_cond_destroy(&channel->idle);
}

void ide_start_job(IdeChannel *channel, enum IdeJob job)
{
    channel->job = job;
    transfer_drive(channel)->state->status = IDE_BSY;
    __atomic_store_n(&channel->kicker, (uintptr_t)pthread_self(), __ATOMIC_RELAXED);
    io_notifier_kick(channel->notifier);
    __atomic_store_n(&channel->kicker, 0, __ATOMIC_RELAXED);
}

static void wait_for_work(IdeChannel *channel)
{
    while (channel->working)
        pthread_cond_wait(&channel->idle, &channel->ide->device.lock);
}

void ide_cancel_job(IdeChannel *channel)
{
    wait_for_work(channel);
    channel->job = IDE_JOB_NONE;
}

void ide_finish_job(IdeChannel *channel)
{
    wait_for_work(channel);
    if (!channel->job)
        return;
    channel->lock_kept = true; /* its kick finds nothing to do */
    run_job(channel);
    channel->lock_kept = false;
}

/* ---- The work: no lock -------------------------------------------------------------------------------------- */

static uint32_t unit_of(const IdeTransferState *transfer) { return transfer->is_packet ? CD_SECTOR : ATA_SECTOR; }

/* Bytes that the next read puts into the buffer. */
static uint32_t fill_size(const IdeTransferState *transfer)
{
    return (uint32_t)MIN(transfer->left, transfer->is_packet ? IDE_BUFFER_BYTES : transfer->block);
}

/* Move `offset` to the first sector that cannot be read: ATA-6 wants its address. */
static void find_bad_sector(IdeChannel *channel, const IdeDrive *drive)
{
    IdeTransferState *t = &channel->state.transfer;
    uint32_t unit = unit_of(t);
    uint64_t end = t->offset + t->left;
    for (t->offset -= t->offset % unit; t->offset + unit < end; t->offset += unit)
        if (block_pread(drive->image, channel->state.buffer, unit, t->offset) < 0)
            return;
}

static int verify(IdeChannel *channel, const IdeDrive *drive)
{
    IdeTransferState *t = &channel->state.transfer;
    while (t->left) {
        uint32_t n = (uint32_t)MIN(t->left, IDE_BUFFER_BYTES);
        int result = block_pread(drive->image, channel->state.buffer, n, t->offset);
        if (result < 0)
            return result;
        t->offset += n;
        t->left -= n;
    }
    return 0;
}

static int do_job(IdeChannel *channel, enum IdeDmaEnd *end)
{
    const IdeDrive *drive = transfer_drive(channel);
    IdeTransferState *t = &channel->state.transfer;
    int result = 0;
    switch (channel->job) {
    case IDE_JOB_READ:
        result = block_pread(drive->image, channel->state.buffer, fill_size(t), t->offset);
        break;
    case IDE_JOB_WRITE:
        result = block_pwrite(drive->image, channel->state.buffer, t->filled, t->offset);
        break;
    case IDE_JOB_DMA:
        result = ide_do_dma(channel, end);
        break;
    case IDE_JOB_VERIFY:
        result = verify(channel, drive);
        break;
    case IDE_JOB_FLUSH:
        return block_flush(drive->image);
    }
    if (result < 0 && !t->is_write)
        find_bad_sector(channel, drive);
    bool through = result == 0 && t->is_write && !drive->state->write_cache;
    return through ? block_flush(drive->image) : result;
}

/* ---- What comes of it: lock held ---------------------------------------------------------------------------- */

/* The host's error as the drive's: what cannot be read is uncorrectable, what cannot be written is a device fault.
 */
static void fail_transfer(IdeChannel *channel, IdeDrive *drive, enum IdeJob job, int result)
{
    bool reads = job != IDE_JOB_FLUSH && !channel->state.transfer.is_write;
    if (drive->kind == IDE_CDROM) {
        ide_packet_fail(channel, drive, 0x03, 0x11, 0x00); /* medium error, unrecovered read error */
        return;
    }
    if (job != IDE_JOB_FLUSH)
        ide_set_lba(channel, drive, channel->state.transfer.offset / ATA_SECTOR);
    ide_fail(channel, drive, reads ? IDE_UNC : IDE_ABRT);
    if (!reads && result != -EROFS)
        drive->state->status |= IDE_DF;
}

static void advance(IdeTransferState *transfer, uint32_t bytes)
{
    transfer->offset += bytes;
    transfer->left -= bytes;
}

static void complete_dma(IdeChannel *channel, IdeDrive *drive, enum IdeDmaEnd end)
{
    ide_dma_ended(channel, end);
    if (end != IDE_DMA_DONE)
        drive->state->status = IDE_READY | IDE_DRQ; /* it waits for the bus master */
    else if (channel->state.transfer.is_packet)
        ide_packet_finish(channel, drive);
    else
        ide_finish(channel, drive);
    channel->counters.dma_transfers += end == IDE_DMA_DONE;
}

static void complete(IdeChannel *channel, IdeDrive *drive, enum IdeJob job, enum IdeDmaEnd end)
{
    IdeTransferState *t = &channel->state.transfer;
    switch (job) {
    case IDE_JOB_READ:
        t->filled = fill_size(t);
        t->position = 0;
        advance(t, t->filled);
        ide_begin_block(channel, true);
        break;
    case IDE_JOB_WRITE:
        advance(t, t->filled);
        if (t->left == 0) {
            ide_finish(channel, drive);
            break;
        }
        t->filled = (uint32_t)MIN(t->left, t->block);
        t->position = 0;
        ide_begin_block(channel, true);
        break;
    case IDE_JOB_DMA:
        complete_dma(channel, drive, end);
        break;
    default:
        ide_finish(channel, drive);
    }
}

static void run_job(IdeChannel *channel)
{
    pthread_mutex_t *lock = &channel->ide->device.lock;
    enum IdeDmaEnd end = IDE_DMA_DONE;
    enum IdeJob job = channel->job;
    IdeDrive *drive = transfer_drive(channel);
    uint64_t before = channel->state.transfer.left;
    bool kept = channel->lock_kept;
    channel->working = true;
    if (!kept)
        pthread_mutex_unlock(lock);
    int result = do_job(channel, &end);
    if (!kept)
        pthread_mutex_lock(lock);
    channel->working = false;
    channel->job = IDE_JOB_NONE;
    bool writes = channel->state.transfer.is_write;
    if (result < 0)
        fail_transfer(channel, drive, job, result);
    else
        complete(channel, drive, job, end);
    uint64_t after = channel->state.transfer.left;
    if (result == 0 && after <= before)
        *(writes ? &channel->counters.bytes_written : &channel->counters.bytes_read) += before - after;
    pthread_cond_broadcast(&channel->idle);
}

/* ---- The phases of a command with data ---------------------------------------------------------------------- */

static IdeTransferState *set_transfer(IdeChannel *channel, const IdeDrive *drive, uint64_t offset, uint64_t bytes,
                                      uint32_t block)
{
    channel->state.transfer = (IdeTransferState){
        .offset = offset,
        .left = bytes,
        .block = block,
        .drive = (uint8_t)drive->index,
        .is_packet = drive->kind == IDE_CDROM,
    };
    return &channel->state.transfer;
}

static void wait_for_master(IdeChannel *channel, IdeDrive *drive)
{
    channel->state.transfer.phase = IDE_PHASE_DMA;
    drive->state->status = IDE_READY | IDE_DRQ;
    ide_try_dma(channel);
}

void ide_read_image(IdeChannel *channel, IdeDrive *drive, uint64_t offset, uint64_t bytes, uint32_t block, bool dma)
{
    IdeTransferState *t = set_transfer(channel, drive, offset, bytes, block);
    if (dma) {
        wait_for_master(channel, drive);
        return;
    }
    t->phase = IDE_PHASE_IN;
    ide_start_job(channel, IDE_JOB_READ);
}

/* ATA-6, PIO data-out: the first block's DRQ comes without an interrupt. */
void ide_write_image(IdeChannel *channel, IdeDrive *drive, uint64_t offset, uint64_t bytes, uint32_t block,
                     bool dma)
{
    IdeTransferState *t = set_transfer(channel, drive, offset, bytes, block);
    t->is_write = 1;
    if (dma) {
        wait_for_master(channel, drive);
        return;
    }
    t->phase = IDE_PHASE_OUT;
    t->filled = (uint32_t)MIN(bytes, block);
    ide_begin_block(channel, false);
}

void ide_verify_image(IdeChannel *channel, IdeDrive *drive, uint64_t offset, uint64_t bytes)
{
    set_transfer(channel, drive, offset, bytes, 0);
    ide_start_job(channel, IDE_JOB_VERIFY);
}

void ide_flush_image(IdeChannel *channel, IdeDrive *drive)
{
    set_transfer(channel, drive, 0, 0, 0);
    ide_start_job(channel, IDE_JOB_FLUSH);
}

void ide_send_buffer(IdeChannel *channel, IdeDrive *drive, uint32_t bytes, uint32_t block, bool dma)
{
    IdeTransferState *t = set_transfer(channel, drive, 0, 0, block);
    t->filled = bytes;
    if (dma) {
        t->end = bytes;
        wait_for_master(channel, drive);
        return;
    }
    t->phase = IDE_PHASE_IN;
    ide_begin_block(channel, true);
}

void ide_send_identity(IdeChannel *channel, IdeDrive *drive)
{
    IdeTransferState *t = set_transfer(channel, drive, 0, 0, ATA_SECTOR);
    t->phase = IDE_PHASE_IN;
    t->filled = ATA_SECTOR;
    t->is_packet = 0; /* also of a packet device this is plain PIO data-in */
    ide_begin_block(channel, true);
}

void ide_begin_block(IdeChannel *channel, bool interrupt)
{
    IdeTransferState *t = &channel->state.transfer;
    IdeDrive *drive = transfer_drive(channel);
    uint32_t size = MIN(t->filled - t->position, t->block);
    t->end = t->position + size;
    drive->state->status = IDE_READY | IDE_DRQ;
    drive->state->error = 0;
    if (t->is_packet) { /* the byte count registers tell how much (ATA-6, PACKET) */
        drive->state->count = IDE_REASON_TO_HOST;
        drive->state->lba_mid = (uint8_t)size;
        drive->state->lba_high = (uint8_t)(size >> 8);
    }
    channel->counters.pio_blocks++;
    if (interrupt)
        ide_raise(channel, drive);
}

void ide_block_done(IdeChannel *channel)
{
    IdeTransferState *t = &channel->state.transfer;
    IdeDrive *drive = transfer_drive(channel);
    if (t->phase == IDE_PHASE_OUT) {
        ide_start_job(channel, IDE_JOB_WRITE);
    } else if (t->position < t->filled) {
        ide_begin_block(channel, true);
    } else if (t->left) {
        ide_start_job(channel, IDE_JOB_READ);
    } else if (t->is_packet) {
        ide_packet_finish(channel, drive);
    } else { /* PIO data-in ends without an interrupt */
        *t = (IdeTransferState){0};
        drive->state->status = IDE_READY;
    }
}
