#include "devices/ide_internal.h"

/* BMIDE §2: registers of one channel. */
enum { BM_REG_COMMAND = 0, BM_REG_STATUS = 2, BM_REG_TABLE = 4 };

#define PRD_BYTES  8u
#define PRD_COUNT  8192u /* a table is within 64 KiB (BMIDE §1.2) */
#define PRD_END    0x80000000u
#define PRD_REGION 0x10000u /* what a byte count of 0 means */

/* ---- Registers ---------------------------------------------------------------------------------------------- */

void ide_master_reset(IdeChannel *channel) { channel->state.master = (IdeBusMasterState){0}; }

uint8_t ide_master_read(IdeChannel *channel, uint64_t offset)
{
    const IdeBusMasterState *master = &channel->state.master;
    switch (offset) {
    case BM_REG_COMMAND:
        return master->command;
    case BM_REG_STATUS:
        return master->status;
    default:
        return offset >= BM_REG_TABLE ? (uint8_t)(master->table >> (8 * (offset - BM_REG_TABLE))) : 0;
    }
}

/* Starting begins at the table's first descriptor; stopping waits for what is on its way, and cannot be taken back
 * (BMIDE §2.1). */
static void write_command(IdeChannel *channel, uint8_t value)
{
    IdeBusMasterState *master = &channel->state.master;
    bool was = master->command & BM_START, is = value & BM_START;
    if (was && !is) {
        if (channel->job == IDE_JOB_DMA)
            ide_finish_job(channel);
        master->status &= (uint8_t)~BM_ACTIVE;
    }
    master->command = value & (BM_START | BM_TO_MEMORY);
    if (!was && is) {
        master->status |= BM_ACTIVE;
        master->next = master->table;
        master->left = master->fetched = 0;
        master->last = 0;
        ide_try_dma(channel);
    }
}

void ide_master_write(IdeChannel *channel, uint64_t offset, uint8_t value)
{
    IdeBusMasterState *master = &channel->state.master;
    switch (offset) {
    case BM_REG_COMMAND:
        write_command(channel, value);
        break;
    case BM_REG_STATUS: /* writing 1 clears error and interrupt; firmware tells drivers what the drives can */
        master->status &= (uint8_t) ~(value & (BM_ERROR | BM_INTERRUPT));
        master->status = (uint8_t)((master->status & ~BM_DRIVE_CAPABLE) | (value & BM_DRIVE_CAPABLE));
        break;
    default:
        if (offset < BM_REG_TABLE)
            break;
        uint32_t shift = 8 * (uint32_t)(offset - BM_REG_TABLE);
        master->table = ((master->table & ~(0xffu << shift)) | (uint32_t)value << shift) & ~3u;
    }
}

void ide_try_dma(IdeChannel *channel)
{
    const IdeTransferState *t = &channel->state.transfer;
    const IdeBusMasterState *master = &channel->state.master;
    bool started = master->command & BM_START && master->status & BM_ACTIVE;
    if (channel->job || t->phase != IDE_PHASE_DMA || !started || !pci_function_is_master(&channel->ide->function))
        return;
    if (t->is_write == !(master->command & BM_TO_MEMORY)) /* both want the same direction */
        ide_start_job(channel, IDE_JOB_DMA);
}

void ide_dma_ended(IdeChannel *channel, enum IdeDmaEnd end)
{
    IdeBusMasterState *master = &channel->state.master;
    if (end == IDE_DMA_FAULT)
        master->status |= BM_ERROR;
    if (end != IDE_DMA_DONE || (master->last && master->left == 0))
        master->status &= (uint8_t)~BM_ACTIVE;
}

/* ---- Moving data: no lock ----------------------------------------------------------------------------------- */

/* The next physical region descriptor: base, then byte count and EOT (BMIDE §1.2). Bit 0 of both is ignored. */
static enum IdeDmaEnd fetch(IdeBusMasterState *master, const GuestMemory *memory)
{
    uint8_t descriptor[PRD_BYTES];
    if (master->last)
        return IDE_DMA_TABLE_END;
    if (master->fetched++ >= PRD_COUNT || guest_memory_read(memory, master->next, descriptor, PRD_BYTES) < 0)
        return IDE_DMA_FAULT;
    uint32_t count = load_le32(descriptor + 4);
    master->next += PRD_BYTES;
    master->address = load_le32(descriptor) & ~1u;
    master->left = count & 0xfffe ? count & 0xfffe : PRD_REGION;
    master->last = (count & PRD_END) != 0;
    return IDE_DMA_DONE;
}

typedef struct Batch {
    uint32_t count;
    uint64_t bytes;
    enum IdeDmaEnd end; /* why there is no more, if it is not because `want` is reached or the list is full */
} Batch;

/* Up to `want` bytes of guest memory as the descriptors have them. */
static Batch collect(IdeChannel *channel, uint64_t want)
{
    const GuestMemory *memory = channel->ide->device.board->memory;
    IdeBusMasterState *master = &channel->state.master;
    bool to_memory = !channel->state.transfer.is_write;
    Batch batch = {.end = IDE_DMA_DONE};
    while (batch.bytes < want && batch.count < DMA_SEGMENTS) {
        if (master->left == 0 && (batch.end = fetch(master, memory)) != IDE_DMA_DONE)
            break;
        const Memslot *slot = guest_memory_find(memory, master->address);
        if (!slot || (to_memory && slot->flags & MEMSLOT_READ_ONLY)) {
            batch.end = IDE_DMA_FAULT; /* nobody answers at this address */
            break;
        }
        uint64_t skip = master->address - slot->gpa;
        uint64_t n = MIN(MIN(master->left, slot->size - skip), want - batch.bytes);
        channel->iov[batch.count] = (struct iovec){slot->hva + skip, n};
        channel->gpa[batch.count++] = master->address;
        batch.bytes += n;
        master->address += (uint32_t)n;
        master->left -= (uint32_t)n;
    }
    return batch;
}

/* A table that ends inside a sector writes only what is before that sector. */
static void trim(IdeChannel *channel, Batch *batch)
{
    uint64_t excess = MIN((channel->state.transfer.offset + batch->bytes) % ATA_SECTOR, batch->bytes);
    batch->bytes -= excess;
    while (excess) {
        struct iovec *last = &channel->iov[batch->count - 1];
        uint64_t n = MIN(excess, last->iov_len);
        last->iov_len -= n;
        excess -= n;
        batch->count -= last->iov_len == 0;
    }
}

static void tell_memory(IdeChannel *channel, const Batch *batch)
{
    for (uint32_t i = 0; i < batch->count; i++)
        guest_memory_written(channel->ide->device.board->memory, channel->gpa[i], channel->iov[i].iov_len);
}

static void copy_buffer(IdeChannel *channel, const Batch *batch)
{
    IdeTransferState *t = &channel->state.transfer;
    for (uint32_t i = 0; i < batch->count; i++) {
        memcpy(channel->iov[i].iov_base, channel->state.buffer + t->position, channel->iov[i].iov_len);
        t->position += (uint32_t)channel->iov[i].iov_len;
    }
}

static int move_batch(IdeChannel *channel, Batch *batch)
{
    IdeTransferState *t = &channel->state.transfer;
    BlockImage *image = channel->drives[t->drive].image;
    int result = 0;
    if (t->is_write) {
        if (batch->end != IDE_DMA_DONE)
            trim(channel, batch);
        if (batch->count)
            result = block_pwritev(image, channel->iov, (int)batch->count, t->offset);
    } else if (t->position < t->filled) {
        copy_buffer(channel, batch);
        tell_memory(channel, batch);
        return 0;
    } else if (batch->count) {
        result = block_preadv(image, channel->iov, (int)batch->count, t->offset);
        tell_memory(channel, batch); /* also after an error: some of it may be there */
    }
    if (result < 0)
        return result;
    t->offset += batch->bytes;
    t->left -= batch->bytes;
    return 0;
}

int ide_do_dma(IdeChannel *channel, enum IdeDmaEnd *end)
{
    IdeTransferState *t = &channel->state.transfer;
    *end = IDE_DMA_DONE;
    while (*end == IDE_DMA_DONE && (t->left || t->position < t->filled)) {
        Batch batch = collect(channel, t->position < t->filled ? t->filled - t->position : t->left);
        int result = move_batch(channel, &batch);
        if (result < 0)
            return result;
        *end = batch.end;
    }
    return 0;
}
