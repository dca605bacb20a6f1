#include <stdio.h>
#include <stdlib.h>

#include "devices/ide_internal.h"

#define PCI_LATENCY_TIMER 0x0d

static Ide *ide_of(Device *device) { return container_of(device, Ide, device); }

/* ---- Accesses ----------------------------------------------------------------------------------------------- */

/* PIIX3 PCICMD.IOSE and IDETIM.IDE: both must be set for the ports to be decoded. */
static bool is_decoded(const Ide *ide, uint32_t channel)
{
    uint16_t timing = load_le16(ide->function.config + IDE_CONFIG_IDETIM + 2 * channel);
    return ide->function.config[PCI_COMMAND] & PCI_COMMAND_IO && timing & IDETIM_DECODE;
}

static uint64_t ide_read(void *opaque, uint32_t region, uint64_t offset, uint32_t size)
{
    Ide *ide = ide_of(opaque);
    uint64_t value = 0;
    if (region == IDE_REGION_BUS_MASTER) {
        for (uint32_t i = 0; i < size; i++) {
            uint64_t at = offset + i;
            uint8_t byte = at < 16 ? ide_master_read(&ide->channels[at / 8], at % 8) : 0xff;
            value |= (uint64_t)byte << (8 * i);
        }
        return value;
    }
    uint32_t channel = region / 2;
    if (region > IDE_REGION_CONTROL1 || !is_decoded(ide, channel))
        return UINT64_MAX;
    return ide_channel_read(&ide->channels[channel], region & 1, offset, size);
}

static void ide_write(void *opaque, uint32_t region, uint64_t offset, uint32_t size, uint64_t value)
{
    Ide *ide = ide_of(opaque);
    if (region == IDE_REGION_BUS_MASTER) {
        for (uint32_t i = 0; i < size && offset + i < 16; i++)
            ide_master_write(&ide->channels[(offset + i) / 8], (offset + i) % 8, (uint8_t)(value >> (8 * i)));
        return;
    }
    uint32_t channel = region / 2;
    if (region <= IDE_REGION_CONTROL1 && is_decoded(ide, channel))
        ide_channel_write(&ide->channels[channel], region & 1, offset, size, value);
}

static void ide_config_written(PciFunction *function, uint32_t offset, uint32_t size)
{
    Ide *ide = container_of(function, Ide, function);
    if (offset <= PCI_COMMAND)
        for (uint32_t i = 0; i < IDE_CHANNELS; i++)
            ide_try_dma(&ide->channels[i]);
}

/* ---- Reset and saved state ---------------------------------------------------------------------------------- */

static void ide_reset(Device *device)
{
    Ide *ide = ide_of(device);
    for (uint32_t i = 0; i < IDE_CHANNELS; i++) {
        ide_cancel_job(&ide->channels[i]);
        ide_channel_reset(&ide->channels[i]);
    }
    pci_function_reset(&ide->function);
}

static void ide_save(Device *device, void *opaque)
{
    Ide *ide = ide_of(device);
    IdeState *state = opaque;
    while (ide->channels[0].job || ide->channels[1].job) /* waiting for one lets a vCPU begin on the other */
        for (uint32_t i = 0; i < IDE_CHANNELS; i++)
            ide_finish_job(&ide->channels[i]);
    for (uint32_t i = 0; i < IDE_CHANNELS; i++)
        state->channels[i] = ide->channels[i].state;
    pci_function_save(&ide->function, &state->pci);
}

static bool drive_is_valid(const IdeDrive *drive, const IdeDriveState *state)
{
    if (state->status & IDE_BSY || state->multiple > IDE_BUFFER_BYTES / ATA_SECTOR)
        return false;
    if (state->multiple & (state->multiple - 1) || state->heads < 1 || state->heads > 16 || state->sectors < 1)
        return false;
    return state->power <= IDE_POWER_SLEEP && state->attention <= IDE_ATTENTION_MEDIUM && state->tray_open <= 1 &&
           state->locked <= 1 && state->interrupt <= 1 && state->write_cache <= 1 &&
           (drive->kind == IDE_CDROM || !(state->tray_open | state->locked));
}

/* What the transfer of a saved channel may be, so that going on with it stays inside the image and the buffer. */
static bool transfer_is_valid(const IdeChannel *channel, const IdeTransferState *transfer)
{
    if (transfer->phase >= IDE_PHASE_COUNT || transfer->drive >= IDE_DRIVES || transfer->is_packet > 1 ||
        transfer->is_write > 1)
        return false;
    if (transfer->position > transfer->end || transfer->end > transfer->filled ||
        transfer->filled > IDE_BUFFER_BYTES)
        return false;
    if (transfer->phase == IDE_PHASE_IDLE)
        return true;
    const IdeDrive *drive = &channel->drives[transfer->drive];
    if (drive->kind == IDE_NONE || (transfer->is_packet && drive->kind != IDE_CDROM))
        return false;
    if (drive->kind == IDE_CDROM && !transfer->is_packet && (transfer->phase != IDE_PHASE_IN || transfer->left))
        return false; /* only its identity is no packet command's data */
    if (transfer->phase == IDE_PHASE_PACKET && (!transfer->is_packet || transfer->end != PACKET_BYTES))
        return false;
    uint64_t size = drive->image ? block_size(drive->image) : 0;
    if (transfer->offset > size || transfer->left > size - transfer->offset)
        return false;
    bool buffered = transfer->position < transfer->filled;
    if (transfer->is_write && (transfer->is_packet || transfer->phase == IDE_PHASE_IN))
        return false;
    if (transfer->phase == IDE_PHASE_OUT && (!transfer->is_write || transfer->filled > transfer->left))
        return false;
    if (transfer->phase == IDE_PHASE_DMA)
        return !(transfer->is_write && buffered);
    uint32_t unit = transfer->is_packet ? CD_SECTOR : ATA_SECTOR;
    if (transfer->left % unit || transfer->offset % unit || transfer->block == 0 || !buffered)
        return false;
    return transfer->is_packet || (transfer->block % ATA_SECTOR == 0 && transfer->block <= IDE_BUFFER_BYTES);
}

static bool channel_is_valid(const IdeChannel *channel, const IdeChannelState *state)
{
    for (uint32_t i = 0; i < IDE_DRIVES; i++)
        if (!drive_is_valid(&channel->drives[i], &state->drives[i]))
            return false;
    return transfer_is_valid(channel, &state->transfer) && state->master.left <= 0x10000;
}

static int ide_restore(Device *device, const void *opaque)
{
    Ide *ide = ide_of(device);
    const IdeState *state = opaque;
    for (uint32_t i = 0; i < IDE_CHANNELS; i++)
        if (!channel_is_valid(&ide->channels[i], &state->channels[i]))
            return -EINVAL;
    for (uint32_t i = 0; i < IDE_CHANNELS; i++)
        ide_cancel_job(&ide->channels[i]);
    int result = pci_function_restore(&ide->function, &state->pci);
    for (uint32_t i = 0; result == 0 && i < IDE_CHANNELS; i++) {
        IdeChannel *channel = &ide->channels[i];
        channel->state = state->channels[i];
        channel->intrq = false;
        uint8_t status = channel->state.master.status; /* the edge was then, not now */
        ide_update_irq(channel);
        channel->state.master.status = status;
    }
    return result;
}

/* ---- Making one --------------------------------------------------------------------------------------------- */

static void ide_destroy(Device *device)
{
    Ide *ide = ide_of(device);
    for (uint32_t i = 0; i < IDE_CHANNELS; i++)
        ide_channel_detach(&ide->channels[i]);
    pci_bus_remove(&ide->function);
}

static const DeviceClass ide_class = {
    .name = "piix3-ide",
    .ops = {ide_read, ide_write},
    .reset = ide_reset,
    .destroy = ide_destroy,
    .state_size = sizeof(IdeState),
    .state_version = 1,
    .save = ide_save,
    .restore = ide_restore,
};

static void add_function(Ide *ide)
{
    static const PciIdentity identity = {.vendor_id = 0x8086, .device_id = 0x7010, .class_code = 0x010180};
    static const PciFunctionOps ops = {.written = ide_config_written};
    PciFunction *function = &ide->function;
    pci_function_init(function, &ide->device, &identity, &ops);
    store_le16(function->write_mask + PCI_COMMAND, PCI_COMMAND_MASTER);
    store_le16(function->config + PCI_STATUS, 0x0280); /* medium DEVSEL#, fast back-to-back */
    function->write_mask[0x0c] = 0;                    /* no cache line size register */
    function->write_mask[PCI_LATENCY_TIMER] = 0xf0;
    function->write_mask[PCI_INTERRUPT_LINE] = 0; /* IRQ 14 and 15, whatever is written */
    for (uint32_t i = 0; i < IDE_CHANNELS; i++)
        store_le16(function->write_mask + IDE_CONFIG_IDETIM + 2 * i, 0xf3ff);
    function->write_mask[IDE_CONFIG_SIDETIM] = 0xff;
    pci_function_add_bar(function, 4, 16, PCI_BAR_IO, &ide_class.ops, ide, IDE_REGION_BUS_MASTER,
                         &ide->device.lock);
}

static void add_drives(IdeChannel *channel, const IdeDriveOptions *options)
{
    for (uint32_t i = 0; i < IDE_DRIVES; i++) {
        IdeDrive *drive = &channel->drives[i];
        *drive = (IdeDrive){.kind = options[i].kind, .index = i, .state = &channel->state.drives[i]};
        drive->image = drive->kind == IDE_NONE ? NULL : options[i].image;
        if (options[i].serial[0])
            snprintf(drive->serial, sizeof drive->serial, "%.20s", options[i].serial);
        else
            snprintf(drive->serial, sizeof drive->serial, "PYVMM%04u", channel->index * IDE_DRIVES + i + 1);
    }
}

static int check_options(const IdeOptions *options, Error *error)
{
    for (uint32_t i = 0; i < IDE_CHANNELS * IDE_DRIVES; i++) {
        if (options->drives[i].kind > IDE_CDROM)
            return error_set(error, EINVAL, "ide: drive %u is neither a disk nor a CD-ROM drive", i);
        if (options->drives[i].kind == IDE_DISK && !options->drives[i].image)
            return error_set(error, EINVAL, "ide: disk %u has no image", i);
    }
    return 0;
}

Device *ide_new(Board *board, PciBus *bus, uint32_t devfn, IrqLine *primary, IrqLine *secondary,
                const IdeOptions *options, Error *error)
{
    if (check_options(options, error) < 0)
        return NULL;
    Ide *ide = calloc(1, sizeof *ide);
    if (!ide) {
        error_set(error, ENOMEM, "no host memory for the IDE controller");
        return NULL;
    }
    device_init(&ide->device, &ide_class, board);
    add_function(ide);
    bool attached = true;
    for (uint32_t i = 0; i < IDE_CHANNELS; i++) {
        IdeChannel *channel = &ide->channels[i];
        channel->ide = ide;
        channel->index = i;
        channel->line = i ? secondary : primary;
        add_drives(channel, options->drives + IDE_DRIVES * i);
        attached &= ide_channel_attach(channel, options->io ? options->io : board->io) == 0;
        ide_channel_reset(channel);
    }
    if (!attached)
        error_set(error, EMFILE, "ide: no descriptor for its channels: raise `ulimit -n`");
    else if (pci_bus_add(bus, devfn, &ide->function, error) == 0)
        return &ide->device;
    device_free(&ide->device);
    return NULL;
}

void ide_counters(Device *device, uint32_t channel, IdeCounters *counters)
{
    pthread_mutex_lock(&device->lock);
    *counters = ide_of(device)->channels[channel % IDE_CHANNELS].counters;
    pthread_mutex_unlock(&device->lock);
}

int ide_change_medium(Device *device, uint32_t channel, uint32_t drive, BlockImage *image)
{
    if (channel >= IDE_CHANNELS || drive >= IDE_DRIVES)
        return -EINVAL;
    IdeChannel *place = &ide_of(device)->channels[channel];
    IdeDrive *changed = &place->drives[drive];
    if (changed->kind != IDE_CDROM)
        return -EINVAL;
    pthread_mutex_lock(&device->lock);
    ide_finish_job(place);
    IdeTransferState *transfer = &place->state.transfer;
    if (transfer->phase >= IDE_PHASE_IN && transfer->drive == drive) /* the disc it was read from is gone */
        ide_packet_fail(place, changed, 0x02, 0x3a, 0x00);
    changed->image = image;
    changed->state->tray_open = 0;
    changed->state->attention = image ? IDE_ATTENTION_MEDIUM : changed->state->attention;
    changed->state->media_event = image ? 2 : 3; /* MMC-3 GET EVENT STATUS NOTIFICATION: new media, media removal */
    pthread_mutex_unlock(&device->lock);
    return 0;
}
