#include <stdlib.h>

#include "virtio/virtio_mmio.h"

#define VENDOR          0x4d4d5650u /* "PVMM": "a virtio subsystem vendor ID", §4.2.2 */
#define VERSION         2u
#define LEGACY_VERSION  1u
#define LEGACY_ALIGN    4096u
#define INTERRUPT_KINDS (VIRTIO_ISR_QUEUE | VIRTIO_ISR_CONFIG)

typedef struct VirtioMmio {
    VirtioOwner owner;
    DeviceClass class; /* named after what is carried */
    IrqLine *line;
    bool legacy;
    uint64_t features_written;
    uint32_t device_features_sel;
    uint32_t driver_features_sel;
    uint32_t queue_sel;
    uint32_t guest_page_size;
    uint32_t queue_align[VIRTIO_MAX_QUEUES];
    uint8_t interrupt_status;
    bool use_ioeventfd;
    uint64_t base;                       /* of the registers, for ioeventfds */
    IoEventFd notify[VIRTIO_MAX_QUEUES]; /* each queue's; fd -1: none */
} VirtioMmio;

static VirtioMmio *mmio_of(Device *device) { return (VirtioMmio *)device; }

static Virtqueue *selected(VirtioMmio *mmio)
{
    VirtioDevice *virtio = mmio->owner.virtio;
    return mmio->queue_sel < virtio->queue_count ? &virtio->queues[mmio->queue_sel].ring : NULL;
}

/* ---- Interrupts: a level until the driver acknowledges, §4.2.3.4 -------------------------------------------- */

static void set_interrupt(VirtioMmio *mmio, uint8_t status)
{
    mmio->interrupt_status = status;
    irq_line_set(mmio->line, status);
}

static void interrupt_queue(Device *owner, uint32_t queue)
{
    VirtioMmio *mmio = mmio_of(owner);
    set_interrupt(mmio, mmio->interrupt_status | VIRTIO_ISR_QUEUE);
}

static void interrupt_config(Device *owner)
{
    VirtioMmio *mmio = mmio_of(owner);
    set_interrupt(mmio, mmio->interrupt_status | VIRTIO_ISR_CONFIG);
}

static bool mmio_may_dma(const Device *owner) { return true; }
static uint64_t mmio_irqfd_sent(const Device *owner) { return 0; }

static const VirtioTransport mmio_transport = {.interrupt_queue = interrupt_queue,
                                               .interrupt_config = interrupt_config,
                                               .may_dma = mmio_may_dma,
                                               .irqfd_sent = mmio_irqfd_sent};

/* ---- Notifications without an exit -------------------------------------------------------------------------- */

static void update_notify(VirtioMmio *mmio)
{
    IoEventFds *list = mmio->owner.device.board->ioeventfds;
    VirtioDevice *virtio = mmio->owner.virtio;
    bool data = virtio_has(virtio, VIRTIO_F_NOTIFICATION_DATA); /* then the value is not the number alone */
    for (uint32_t i = 0; i < virtio->queue_count; i++) {
        IoEventFd *now = &mmio->notify[i];
        bool wanted = mmio->use_ioeventfd && !data && virtio_wants_signals(virtio, i);
        if (wanted == (now->fd >= 0))
            continue;
        if (!wanted) {
            ioeventfd_remove(list, now);
            now->fd = -1;
            continue;
        }
        *now = (IoEventFd){.fd = io_notifier_fd(virtio->queues[i].notifier),
                           .space = BUS_MMIO,
                           .address = mmio->base + MMIO_QUEUE_NOTIFY,
                           .size = 4,
                           .match = true,
                           .value = i};
        if (ioeventfd_add(list, now) < 0)
            now->fd = -1; /* the bus it is: somebody else has the address */
    }
}

static void remove_notify(VirtioMmio *mmio)
{
    for (uint32_t i = 0; i < VIRTIO_MAX_QUEUES; i++)
        if (mmio->notify[i].fd >= 0)
            ioeventfd_remove(mmio->owner.device.board->ioeventfds, &mmio->notify[i]);
}

/* ---- Registers, §4.2.2 and §4.2.4 --------------------------------------------------------------------------- */

static uint32_t half(uint64_t value, uint32_t select)
{
    return select < 2 ? (uint32_t)(value >> (32 * select)) : 0;
}

/* Those of the selected queue; one that is not there has size 0 (§4.2.2, QueueSizeMax). */
static uint32_t read_queue(VirtioMmio *mmio, uint64_t offset)
{
    const Virtqueue *ring = selected(mmio);
    if (!ring)
        return 0;
    switch (offset) {
    case MMIO_QUEUE_SIZE_MAX:
        return ring->max_size;
    case MMIO_QUEUE_PFN:
        return mmio->legacy && ring->enabled && mmio->guest_page_size
                   ? (uint32_t)(ring->desc_gpa / mmio->guest_page_size)
                   : 0;
    case MMIO_QUEUE_READY:
        return !mmio->legacy && ring->enabled;
    default:
        return 0;
    }
}

static uint32_t read_register(VirtioMmio *mmio, uint64_t offset)
{
    const VirtioDevice *virtio = mmio->owner.virtio;
    switch (offset) {
    case MMIO_MAGIC:
        return VIRTIO_MMIO_MAGIC;
    case MMIO_VERSION:
        return mmio->legacy ? LEGACY_VERSION : VERSION;
    case MMIO_DEVICE_ID:
        return virtio->class->id;
    case MMIO_VENDOR_ID:
        return VENDOR;
    case MMIO_DEVICE_FEATURES:
        return mmio->legacy && mmio->device_features_sel ? 0
                                                         : half(virtio->device_features, mmio->device_features_sel);
    case MMIO_INTERRUPT_STATUS:
        return mmio->interrupt_status;
    case MMIO_STATUS:
        return virtio->status;
    case MMIO_CONFIG_GENERATION:
        return mmio->legacy ? 0 : virtio->generation;
    case MMIO_SHM_LEN: /* §4.2.2: no such region */
    case MMIO_SHM_LEN + 4:
    case MMIO_SHM_BASE:
    case MMIO_SHM_BASE + 4:
        return mmio->legacy ? 0 : UINT32_MAX;
    default:
        return read_queue(mmio, offset);
    }
}

static void write_features(VirtioMmio *mmio, uint32_t value)
{
    VirtioDevice *virtio = mmio->owner.virtio;
    if (mmio->driver_features_sel >= (mmio->legacy ? 1u : 2u) || virtio->status & VIRTIO_STATUS_FEATURES_OK)
        return;
    uint32_t shift = 32 * mmio->driver_features_sel;
    mmio->features_written &= ~((uint64_t)UINT32_MAX << shift);
    mmio->features_written |= (uint64_t)value << shift;
    virtio_write_features(virtio, mmio->features_written, mmio->legacy);
}

static void write_status(VirtioMmio *mmio, uint8_t status)
{
    virtio_write_status(mmio->owner.virtio, status);
    if (status == 0) {
        mmio->features_written = 0;
        mmio->device_features_sel = mmio->driver_features_sel = mmio->queue_sel = 0;
        mmio->guest_page_size = 0;
        for (uint32_t i = 0; i < VIRTIO_MAX_QUEUES; i++)
            mmio->queue_align[i] = LEGACY_ALIGN;
        set_interrupt(mmio, 0);
    }
    update_notify(mmio);
}

static void set_half(gpa_t *address, bool high, uint32_t value)
{
    *address = high ? (*address & UINT32_MAX) | (uint64_t)value << 32 : (*address & ~(gpa_t)UINT32_MAX) | value;
}

static void stop_queue(VirtioMmio *mmio, uint32_t index)
{
    virtio_disable_queue(mmio->owner.virtio, index);
    update_notify(mmio);
}

static void start_queue(VirtioMmio *mmio, uint32_t index)
{
    virtio_enable_queue(mmio->owner.virtio, index);
    update_notify(mmio);
}

/* §4.2.4: a page number, in pages of GuestPageSize, places the queue; 0 takes it away. The used ring is aligned to
 * QueueAlign, which every driver leaves at a page: another one is refused. While I/O ends the lock is given up, and
 * another vCPU may select another queue. */
static void write_frame(VirtioMmio *mmio, Virtqueue *ring, uint32_t frame)
{
    VirtioDevice *virtio = mmio->owner.virtio;
    uint32_t index = mmio->queue_sel;
    if (ring->enabled) {
        uint16_t size = ring->size;
        stop_queue(mmio, index);
        ring->size = size;
    }
    if (!frame)
        return;
    if (mmio->queue_align[index] != LEGACY_ALIGN) {
        virtio_fail(virtio, &virtio->queues[index], "the used ring's alignment is not 4096");
        return;
    }
    virtqueue_set_legacy_address(ring, (gpa_t)frame * mmio->guest_page_size);
    start_queue(mmio, index);
}

/* §4.2.2.2: addresses and size are fixed while the queue is ready. */
static void write_queue(VirtioMmio *mmio, uint64_t offset, uint32_t value)
{
    Virtqueue *ring = selected(mmio);
    if (!ring)
        return;
    if (mmio->legacy) {
        if (offset == MMIO_QUEUE_PFN)
            write_frame(mmio, ring, value);
        else if (offset == MMIO_QUEUE_ALIGN)
            mmio->queue_align[mmio->queue_sel] = value;
        else if (offset == MMIO_QUEUE_SIZE && !ring->enabled)
            ring->size = (uint16_t)MIN(value, UINT16_MAX);
        return;
    }
    if (ring->enabled) {
        bool reset = offset == MMIO_QUEUE_RESET && value == 1 &&
                     virtio_has(mmio->owner.virtio, VIRTIO_F_RING_RESET); /* §2.6.1 */
        if (reset || (offset == MMIO_QUEUE_READY && value == 0))
            stop_queue(mmio, mmio->queue_sel);
        return;
    }
    bool high = offset & 4;
    switch (offset & ~4ull) {
    case MMIO_QUEUE_DESC:
        set_half(&ring->desc_gpa, high, value);
        break;
    case MMIO_QUEUE_DRIVER:
        set_half(&ring->avail_gpa, high, value);
        break;
    case MMIO_QUEUE_DEVICE:
        set_half(&ring->used_gpa, high, value);
        break;
    case MMIO_QUEUE_SIZE:
        if (!high)
            ring->size = (uint16_t)MIN(value, UINT16_MAX);
        break;
    case MMIO_QUEUE_READY & ~4:
        if (high && value == 1)
            start_queue(mmio, mmio->queue_sel);
        break;
    }
}

static void write_register(VirtioMmio *mmio, uint64_t offset, uint32_t value)
{
    switch (offset) {
    case MMIO_DEVICE_FEATURES_SEL:
        mmio->device_features_sel = value;
        break;
    case MMIO_DRIVER_FEATURES_SEL:
        mmio->driver_features_sel = value;
        break;
    case MMIO_DRIVER_FEATURES:
        write_features(mmio, value);
        break;
    case MMIO_GUEST_PAGE_SIZE:
        if (mmio->legacy)
            mmio->guest_page_size = value;
        break;
    case MMIO_QUEUE_SEL:
        mmio->queue_sel = value;
        break;
    case MMIO_QUEUE_NOTIFY: /* §4.2.3.3: with NOTIFICATION_DATA more follows in the upper half */
        virtio_kick(mmio->owner.virtio,
                    virtio_has(mmio->owner.virtio, VIRTIO_F_NOTIFICATION_DATA) ? (uint16_t)value : value);
        break;
    case MMIO_INTERRUPT_ACK:
        set_interrupt(mmio, (uint8_t)(mmio->interrupt_status & ~value));
        break;
    case MMIO_STATUS:
        write_status(mmio, (uint8_t)value);
        break;
    default:
        write_queue(mmio, offset, value);
    }
}

/* §4.2.2.2: registers are used 32 bits at a time; configuration in any way. */
static uint64_t mmio_read(void *device, uint32_t region, uint64_t offset, uint32_t size)
{
    VirtioMmio *mmio = device;
    if (offset >= MMIO_CONFIG)
        return virtio_config_read(mmio->owner.virtio, offset - MMIO_CONFIG, size);
    return size == 4 && offset % 4 == 0 ? read_register(mmio, offset) : 0;
}

static void mmio_write(void *device, uint32_t region, uint64_t offset, uint32_t size, uint64_t value)
{
    VirtioMmio *mmio = device;
    if (offset >= MMIO_CONFIG)
        virtio_config_write(mmio->owner.virtio, offset - MMIO_CONFIG, size, value);
    else if (size == 4 && offset % 4 == 0)
        write_register(mmio, offset, (uint32_t)value);
}

/* ---- The device --------------------------------------------------------------------------------------------- */

static void virtio_mmio_reset(Device *device) { write_status(mmio_of(device), 0); }

static void virtio_mmio_destroy(Device *device)
{
    VirtioMmio *mmio = mmio_of(device);
    remove_notify(mmio);
    virtio_free(mmio->owner.virtio);
}

static void virtio_mmio_save(Device *device, void *opaque)
{
    VirtioMmio *mmio = mmio_of(device);
    VirtioMmioState *state = opaque;
    virtio_save(mmio->owner.virtio, &state->virtio);
    state->features_written = mmio->features_written;
    state->device_features_sel = mmio->device_features_sel;
    state->driver_features_sel = mmio->driver_features_sel;
    state->queue_sel = mmio->queue_sel;
    state->guest_page_size = mmio->guest_page_size;
    memcpy(state->queue_align, mmio->queue_align, sizeof state->queue_align);
    state->interrupt_status = mmio->interrupt_status;
}

static int apply_state(VirtioMmio *mmio, const VirtioMmioState *state)
{
    int result = virtio_restore(mmio->owner.virtio, &state->virtio);
    mmio->features_written = state->features_written;
    mmio->device_features_sel = state->device_features_sel;
    mmio->driver_features_sel = state->driver_features_sel;
    mmio->queue_sel = state->queue_sel;
    mmio->guest_page_size = state->guest_page_size;
    memcpy(mmio->queue_align, state->queue_align, sizeof mmio->queue_align);
    set_interrupt(mmio, state->interrupt_status);
    update_notify(mmio);
    return result;
}

static int virtio_mmio_restore(Device *device, const void *opaque)
{
    VirtioMmio *mmio = mmio_of(device);
    const VirtioMmioState *state = opaque;
    if (state->interrupt_status & ~INTERRUPT_KINDS)
        return -EINVAL;
    VirtioMmioState before = {0};
    virtio_mmio_save(device, &before);
    int result = apply_state(mmio, state);
    if (result < 0)
        apply_state(mmio, &before);
    return result;
}

static const DeviceClass virtio_mmio_class = {
    .ops = {.read = mmio_read, .write = mmio_write},
    .reset = virtio_mmio_reset,
    .destroy = virtio_mmio_destroy,
    .state_size = sizeof(VirtioMmioState),
    .state_version = 1,
    .save = virtio_mmio_save,
    .restore = virtio_mmio_restore,
};

Device *virtio_mmio_new(Board *board, VirtioDevice *virtio, const VirtioPlace *place, Error *error)
{
    VirtioMmio *mmio = calloc(1, sizeof *mmio);
    if (!mmio) {
        error_set(error, ENOMEM, "no host memory for %s", virtio->class->name);
        virtio_free(virtio);
        return NULL;
    }
    mmio->class = virtio_mmio_class;
    mmio->class.name = virtio->class->name;
    mmio->owner.virtio = virtio;
    mmio->line = place->line;
    mmio->legacy = place->legacy;
    mmio->base = place->base;
    mmio->use_ioeventfd = place->base && !place->no_ioeventfd;
    for (uint32_t i = 0; i < VIRTIO_MAX_QUEUES; i++) {
        mmio->notify[i].fd = -1;
        mmio->queue_align[i] = LEGACY_ALIGN;
    }
    if (mmio->legacy) /* §6.3; it has no second half of feature bits */
        virtio->device_features = (virtio->device_features & UINT32_MAX) | VIRTIO_F_ANY_LAYOUT;
    device_init(&mmio->owner.device, &mmio->class, board);
    if (virtio_attach(virtio, &mmio->owner.device, &mmio_transport, place->io ? place->io : board->io) == 0)
        return &mmio->owner.device;
    error_set(error, EMFILE, "%s: no descriptor for its queues: raise `ulimit -n`", virtio->class->name);
    device_free(&mmio->owner.device);
    return NULL;
}
