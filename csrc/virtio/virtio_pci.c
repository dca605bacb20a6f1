#include <stdio.h>
#include <stdlib.h>

#include "virtio/virtio_pci.h"

#define VIRTIO_VENDOR           0x1af4
#define PCI_CAP_VENDOR_SPECIFIC 0x09
#define PCI_CFG_DATA            16 /* pci_cfg_data in its capability, §4.1.4.9 */

typedef struct VirtioPci {
    VirtioOwner owner;
    PciFunction function;
    DeviceClass class; /* named after what is carried */
    uint64_t features_written;
    uint32_t device_feature_select;
    uint32_t driver_feature_select;
    uint16_t queue_select;
    uint8_t isr;
    uint16_t config_vector;
    uint16_t queue_vectors[VIRTIO_MAX_QUEUES];
    PciMsix msix;
    uint32_t window; /* offset of the VIRTIO_PCI_CAP_PCI_CFG capability */
    bool use_ioeventfd;
    IoEventFd notify[VIRTIO_MAX_QUEUES]; /* each queue's; fd -1: none */
} VirtioPci;

static VirtioPci *pci_of(Device *device) { return (VirtioPci *)device; }

static Virtqueue *selected(VirtioPci *pci)
{
    return pci->queue_select < pci->owner.virtio->queue_count ? &pci->owner.virtio->queues[pci->queue_select].ring
                                                              : NULL;
}

/* ---- Interrupts: MSI-X (§4.1.5.1.2), or the ISR status and INTx# (§4.1.4.5) --------------------------------- */

/* INTx# is the ISR status, and silent while MSI-X is on (PCI 3.0 §6.8.2). */
static void update_intx(VirtioPci *pci)
{
    pci_function_set_intx(&pci->function, pci->isr && !pci_msix_is_enabled(&pci->msix));
}

/* §4.1.4.5.1: with MSI-X there is no queue bit in the ISR status. */
static void interrupt_queue(Device *owner, uint32_t queue)
{
    VirtioPci *pci = pci_of(owner);
    if (pci_msix_is_enabled(&pci->msix)) {
        pci_msix_notify(&pci->msix, pci->queue_vectors[queue]);
        return;
    }
    pci->isr |= VIRTIO_ISR_QUEUE;
    update_intx(pci);
}

static void interrupt_config(Device *owner)
{
    VirtioPci *pci = pci_of(owner);
    pci->isr |= VIRTIO_ISR_CONFIG;
    if (pci_msix_is_enabled(&pci->msix))
        pci_msix_notify(&pci->msix, pci->config_vector);
    update_intx(pci);
}

/* §4.1.5.1.2: what cannot be mapped reads back as NO_VECTOR. */
static uint16_t mapped_vector(const VirtioPci *pci, uint64_t vector)
{
    return vector < pci->msix.count ? (uint16_t)vector : VIRTIO_NO_VECTOR;
}

static uint16_t *selected_vector(VirtioPci *pci)
{
    return selected(pci) ? &pci->queue_vectors[pci->queue_select] : NULL;
}

static void forget_vectors(VirtioPci *pci)
{
    pci->config_vector = VIRTIO_NO_VECTOR;
    for (uint32_t i = 0; i < VIRTIO_MAX_QUEUES; i++)
        pci->queue_vectors[i] = VIRTIO_NO_VECTOR;
}

static bool pci_may_dma(const Device *owner)
{
    return pci_function_is_master(&((const VirtioPci *)owner)->function);
}

static uint64_t pci_irqfd_sent(const Device *owner) { return ((const VirtioPci *)owner)->msix.irqfd_sent; }

static const VirtioTransport pci_transport = {.interrupt_queue = interrupt_queue,
                                              .interrupt_config = interrupt_config,
                                              .may_dma = pci_may_dma,
                                              .irqfd_sent = pci_irqfd_sent};

static uint8_t take_isr(VirtioPci *pci)
{
    uint8_t isr = pci->isr;
    pci->isr = 0;
    update_intx(pci);
    return isr;
}

/* ---- Notifications without an exit -------------------------------------------------------------------------- */

/* Where the driver notifies this queue, §4.1.4.4 and §4.1.4.8; fd -1 when it may not, or nothing answers there. */
static IoEventFd notify_place(VirtioPci *pci, uint32_t index)
{
    const VirtioDevice *virtio = pci->owner.virtio;
    bool modern = virtio_has(virtio, VIRTIO_F_VERSION_1);
    uint64_t base;
    IoEventFd place = {.fd = -1};
    if (!pci->use_ioeventfd || !virtio_wants_signals(virtio, index) ||
        !pci_function_bar_at(&pci->function, modern ? VIRTIO_PCI_MODERN_BAR : VIRTIO_PCI_LEGACY_BAR, &base))
        return place;
    place.fd = io_notifier_fd(virtio->queues[index].notifier);
    if (modern) { /* the address says which queue: what is written does not matter */
        place.space = BUS_MMIO;
        place.address = base + VIRTIO_PCI_NOTIFY + (uint64_t)index * VIRTIO_PCI_NOTIFY_MULTIPLIER;
    } else {
        place.space = BUS_PIO;
        place.address = base + LEGACY_QUEUE_NOTIFY;
        place.size = 2;
        place.match = true;
        place.value = index;
    }
    return place;
}

static bool same_place(const IoEventFd *a, const IoEventFd *b)
{
    return a->fd == b->fd && a->space == b->space && a->address == b->address;
}

/* Make the board's list agree with the driver's state and the BARs. */
static void update_notify(VirtioPci *pci)
{
    IoEventFds *list = pci->owner.device.board->ioeventfds;
    for (uint32_t i = 0; i < pci->owner.virtio->queue_count; i++) {
        IoEventFd place = notify_place(pci, i), *now = &pci->notify[i];
        if (same_place(&place, now))
            continue;
        if (now->fd >= 0)
            ioeventfd_remove(list, now);
        if (place.fd >= 0 && ioeventfd_add(list, &place) < 0)
            place.fd = -1; /* the bus it is: somebody else has the address */
        *now = place;
    }
}

static void remove_notify(VirtioPci *pci)
{
    for (uint32_t i = 0; i < VIRTIO_MAX_QUEUES; i++)
        if (pci->notify[i].fd >= 0)
            ioeventfd_remove(pci->owner.device.board->ioeventfds, &pci->notify[i]);
}

static void write_status(VirtioPci *pci, uint8_t status)
{
    virtio_write_status(pci->owner.virtio, status);
    if (status == 0) {
        pci->features_written = 0;
        pci->device_feature_select = pci->driver_feature_select = 0;
        pci->queue_select = 0;
        forget_vectors(pci);
        take_isr(pci);
    }
    update_notify(pci);
}

/* ---- Common configuration, §4.1.4.3 ------------------------------------------------------------------------- */

static uint64_t common_read(VirtioPci *pci, uint64_t offset, uint32_t size)
{
    if (offset >= COMMON_SIZE)
        return UINT64_MAX;
    const VirtioDevice *virtio = pci->owner.virtio;
    const Virtqueue *ring = selected(pci);
    uint32_t word = pci->device_feature_select, driver_word = pci->driver_feature_select;
    uint8_t common[COMMON_SIZE + 8] = {0};
    store_le32(common + COMMON_DEVICE_FEATURE_SELECT, word);
    store_le32(common + COMMON_DEVICE_FEATURE, word < 2 ? (uint32_t)(virtio->device_features >> (32 * word)) : 0);
    store_le32(common + COMMON_DRIVER_FEATURE_SELECT, driver_word);
    store_le32(common + COMMON_DRIVER_FEATURE,
               driver_word < 2 ? (uint32_t)(pci->features_written >> (32 * driver_word)) : 0);
    store_le16(common + COMMON_CONFIG_MSIX_VECTOR, pci->config_vector);
    store_le16(common + COMMON_NUM_QUEUES, (uint16_t)virtio->queue_count);
    common[COMMON_DEVICE_STATUS] = virtio->status;
    common[COMMON_CONFIG_GENERATION] = virtio->generation;
    store_le16(common + COMMON_QUEUE_SELECT, pci->queue_select);
    store_le16(common + COMMON_QUEUE_MSIX_VECTOR, VIRTIO_NO_VECTOR);
    if (ring) { /* a queue that is not there has size 0, §4.1.4.3.1 */
        store_le16(common + COMMON_QUEUE_SIZE, ring->size);
        store_le16(common + COMMON_QUEUE_MSIX_VECTOR, pci->queue_vectors[pci->queue_select]);
        store_le16(common + COMMON_QUEUE_ENABLE, ring->enabled);
        store_le16(common + COMMON_QUEUE_NOTIFY_OFF, pci->queue_select);
        store_le64(common + COMMON_QUEUE_DESC, ring->desc_gpa);
        store_le64(common + COMMON_QUEUE_DRIVER, ring->avail_gpa);
        store_le64(common + COMMON_QUEUE_DEVICE, ring->used_gpa);
        store_le16(common + COMMON_QUEUE_NOTIFY_DATA, pci->queue_select);
    }
    uint64_t value;
    memcpy(&value, common + offset, sizeof value);
    return value;
}

static void set_half(gpa_t *address, uint64_t offset, uint32_t size, uint64_t value)
{
    if (size == 8 && offset == 0)
        *address = value;
    else if (size == 4 && offset == 0)
        *address = (*address & ~(gpa_t)UINT32_MAX) | value;
    else if (size == 4 && offset == 4)
        *address = (*address & UINT32_MAX) | value << 32;
}

static void enable_queue(VirtioPci *pci)
{
    virtio_enable_queue(pci->owner.virtio, pci->queue_select);
    update_notify(pci);
}

/* §2.6.1, §4.1.4.3: done when the write returns, so that queue_reset always reads 0. */
static void reset_queue(VirtioPci *pci)
{
    if (!virtio_has(pci->owner.virtio, VIRTIO_F_RING_RESET) || !selected(pci)->enabled)
        return;
    virtio_disable_queue(pci->owner.virtio, pci->queue_select);
    update_notify(pci);
}

/* Fields of the selected queue: all but its vector are fixed once it is enabled (§4.1.4.3.2). */
static void common_write_queue(VirtioPci *pci, uint64_t offset, uint32_t size, uint64_t value)
{
    Virtqueue *ring = selected(pci);
    if (ring && offset == COMMON_QUEUE_MSIX_VECTOR && size == 2)
        *selected_vector(pci) = mapped_vector(pci, value);
    if (ring && offset == COMMON_QUEUE_RESET && size == 2 && value == 1)
        reset_queue(pci);
    if (!ring || ring->enabled || offset >= COMMON_QUEUE_NOTIFY_DATA)
        return;
    if (offset == COMMON_QUEUE_SIZE && size == 2)
        ring->size = (uint16_t)value;
    else if (offset == COMMON_QUEUE_ENABLE && size == 2 && value == 1)
        enable_queue(pci);
    else if (offset >= COMMON_QUEUE_DEVICE)
        set_half(&ring->used_gpa, offset - COMMON_QUEUE_DEVICE, size, value);
    else if (offset >= COMMON_QUEUE_DRIVER)
        set_half(&ring->avail_gpa, offset - COMMON_QUEUE_DRIVER, size, value);
    else if (offset >= COMMON_QUEUE_DESC)
        set_half(&ring->desc_gpa, offset - COMMON_QUEUE_DESC, size, value);
}

static void write_driver_feature(VirtioPci *pci, uint32_t value)
{
    if (pci->driver_feature_select >= 2 || pci->owner.virtio->status & VIRTIO_STATUS_FEATURES_OK)
        return;
    uint32_t shift = 32 * pci->driver_feature_select;
    pci->features_written &= ~((uint64_t)UINT32_MAX << shift);
    pci->features_written |= (uint64_t)value << shift;
    virtio_write_features(pci->owner.virtio, pci->features_written, false);
}

static void common_write(VirtioPci *pci, uint64_t offset, uint32_t size, uint64_t value)
{
    if (offset >= COMMON_QUEUE_SIZE)
        common_write_queue(pci, offset, size, value);
    else if (offset == COMMON_DEVICE_FEATURE_SELECT && size == 4)
        pci->device_feature_select = (uint32_t)value;
    else if (offset == COMMON_DRIVER_FEATURE_SELECT && size == 4)
        pci->driver_feature_select = (uint32_t)value;
    else if (offset == COMMON_DRIVER_FEATURE && size == 4)
        write_driver_feature(pci, (uint32_t)value);
    else if (offset == COMMON_CONFIG_MSIX_VECTOR && size == 2)
        pci->config_vector = mapped_vector(pci, value);
    else if (offset == COMMON_DEVICE_STATUS && size == 1)
        write_status(pci, (uint8_t)value);
    else if (offset == COMMON_QUEUE_SELECT && size == 2)
        pci->queue_select = (uint16_t)value;
}

/* ---- Modern BAR --------------------------------------------------------------------------------------------- */

static uint64_t modern_read(VirtioPci *pci, uint64_t offset, uint32_t size)
{
    switch (offset & 0xf000) {
    case VIRTIO_PCI_COMMON:
        return common_read(pci, offset, size);
    case VIRTIO_PCI_ISR:
        return offset == VIRTIO_PCI_ISR ? take_isr(pci) : 0;
    case VIRTIO_PCI_DEVICE:
        return virtio_config_read(pci->owner.virtio, offset - VIRTIO_PCI_DEVICE, size);
    default:
        return 0; /* notifications are written only */
    }
}

static void modern_write(VirtioPci *pci, uint64_t offset, uint32_t size, uint64_t value)
{
    switch (offset & 0xf000) {
    case VIRTIO_PCI_NOTIFY:
        virtio_kick(pci->owner.virtio, (uint32_t)(offset - VIRTIO_PCI_NOTIFY) / VIRTIO_PCI_NOTIFY_MULTIPLIER);
        break;
    case VIRTIO_PCI_COMMON:
        common_write(pci, offset, size, value);
        break;
    case VIRTIO_PCI_DEVICE:
        virtio_config_write(pci->owner.virtio, offset - VIRTIO_PCI_DEVICE, size, value);
        break;
    }
}

/* ---- Legacy BAR, §4.1.4.8 ----------------------------------------------------------------------------------- */

/* The device's configuration comes after the vectors while MSI-X is on. */
static uint64_t legacy_config(const VirtioPci *pci)
{
    return pci_msix_is_enabled(&pci->msix) ? LEGACY_CONFIG + 4 : LEGACY_CONFIG;
}

/* The two vectors, while MSI-X is on; NULL: it is not one of them. */
static uint16_t *legacy_vector(VirtioPci *pci, uint64_t offset)
{
    if (!pci_msix_is_enabled(&pci->msix))
        return NULL;
    return offset == LEGACY_CONFIG_VECTOR  ? &pci->config_vector
           : offset == LEGACY_QUEUE_VECTOR ? selected_vector(pci)
                                           : NULL;
}

static uint64_t legacy_read(VirtioPci *pci, uint64_t offset, uint32_t size)
{
    const Virtqueue *ring = selected(pci);
    const uint16_t *vector = legacy_vector(pci, offset);
    if (vector)
        return *vector;
    switch (offset) {
    case LEGACY_DEVICE_FEATURES:
        return (uint32_t)pci->owner.virtio->device_features;
    case LEGACY_DRIVER_FEATURES:
        return (uint32_t)pci->owner.virtio->driver_features;
    case LEGACY_QUEUE_ADDRESS:
        return ring && ring->enabled ? ring->desc_gpa / GUEST_PAGE_SIZE : 0;
    case LEGACY_QUEUE_SIZE:
        return ring ? ring->size : 0;
    case LEGACY_QUEUE_SELECT:
        return pci->queue_select;
    case LEGACY_QUEUE_NOTIFY:
        return 0;
    case LEGACY_DEVICE_STATUS:
        return pci->owner.virtio->status;
    case LEGACY_ISR:
        return take_isr(pci);
    default:
        return offset >= legacy_config(pci)
                   ? virtio_config_read(pci->owner.virtio, offset - legacy_config(pci), size)
                   : UINT64_MAX;
    }
}

/* A page frame number places the whole queue; 0 takes it away. While I/O ends the lock is given up, and another
 * vCPU may select another queue. */
static void legacy_write_address(VirtioPci *pci, uint32_t frame)
{
    uint32_t index = pci->queue_select;
    Virtqueue *ring = selected(pci);
    if (!ring)
        return;
    if (ring->enabled)
        virtio_disable_queue(pci->owner.virtio, index);
    if (frame) {
        virtqueue_set_legacy_address(ring, (gpa_t)frame * GUEST_PAGE_SIZE);
        virtio_enable_queue(pci->owner.virtio, index);
    }
    update_notify(pci);
}

static void legacy_write(VirtioPci *pci, uint64_t offset, uint32_t size, uint64_t value)
{
    uint16_t *vector = legacy_vector(pci, offset);
    if (vector) {
        if (size == 2)
            *vector = mapped_vector(pci, value);
        return;
    }
    switch (offset) {
    case LEGACY_QUEUE_NOTIFY:
        virtio_kick(pci->owner.virtio, (uint16_t)value);
        break;
    case LEGACY_DRIVER_FEATURES:
        virtio_write_features(pci->owner.virtio, (uint32_t)value, true);
        break;
    case LEGACY_QUEUE_ADDRESS:
        legacy_write_address(pci, (uint32_t)value);
        break;
    case LEGACY_QUEUE_SELECT:
        pci->queue_select = (uint16_t)value;
        break;
    case LEGACY_DEVICE_STATUS:
        write_status(pci, (uint8_t)value);
        break;
    default:
        if (offset >= legacy_config(pci))
            virtio_config_write(pci->owner.virtio, offset - legacy_config(pci), size, value);
    }
}

static uint64_t bar_read(void *device, uint32_t region, uint64_t offset, uint32_t size)
{
    VirtioPci *pci = device;
    if (region == VIRTIO_PCI_MSIX_BAR)
        return pci_msix_read(&pci->msix, offset, size);
    return region == VIRTIO_PCI_LEGACY_BAR ? legacy_read(pci, offset, size) : modern_read(pci, offset, size);
}

static void bar_write(void *device, uint32_t region, uint64_t offset, uint32_t size, uint64_t value)
{
    VirtioPci *pci = device;
    if (region == VIRTIO_PCI_MSIX_BAR)
        pci_msix_write(&pci->msix, offset, size, value);
    else if (region == VIRTIO_PCI_LEGACY_BAR)
        legacy_write(pci, offset, size, value);
    else
        modern_write(pci, offset, size, value);
}

/* ---- The window in configuration space, §4.1.4.9 ------------------------------------------------------------ */

/* What the capability points at now; false when that is no access that a BAR of ours can answer. */
static bool window_target(const VirtioPci *pci, uint32_t *region, uint32_t *offset, uint32_t *size)
{
    const uint8_t *cap = pci->function.config + pci->window;
    *region = cap[4];
    *offset = load_le32(cap + 8);
    *size = load_le32(cap + 12);
    if (*region >= PCI_ROM_BAR || (*size != 1 && *size != 2 && *size != 4) || *offset % *size)
        return false;
    uint64_t bar_size = pci->function.bars[*region].size;
    return *offset < bar_size && *size <= bar_size - *offset;
}

static bool touches_window_data(const VirtioPci *pci, uint32_t offset)
{
    return pci->window && offset >= pci->window + PCI_CFG_DATA && offset < pci->window + PCI_CFG_DATA + 4;
}

static void config_before_read(PciFunction *function, uint32_t offset, uint32_t size)
{
    VirtioPci *pci = pci_of(function->device);
    uint32_t region, at, length;
    if (!touches_window_data(pci, offset) || !window_target(pci, &region, &at, &length))
        return;
    uint32_t value = (uint32_t)bar_read(pci, region, at, length);
    memcpy(function->config + pci->window + PCI_CFG_DATA, &value, length);
}

static void config_written(PciFunction *function, uint32_t offset, uint32_t size)
{
    VirtioPci *pci = pci_of(function->device);
    uint32_t region, at, length;
    if (offset == PCI_COMMAND && pci_function_is_master(function))
        virtio_notify_all(pci->owner.virtio); /* what waited for the right to reach memory */
    update_notify(pci);                       /* BARs may have moved */
    if (pci_msix_config_written(&pci->msix, offset, size))
        update_intx(pci);
    if (!touches_window_data(pci, offset) || !window_target(pci, &region, &at, &length))
        return;
    uint32_t value = load_le32(function->config + pci->window + PCI_CFG_DATA);
    if (length < 4)
        value &= (1u << (8 * length)) - 1;
    bar_write(pci, region, at, length, value);
}

static const PciFunctionOps function_ops = {.before_read = config_before_read, .written = config_written};

/* ---- The capabilities, §4.1.4 ------------------------------------------------------------------------------- */

static int add_capability(VirtioPci *pci, uint8_t type, uint8_t bar, uint32_t offset, uint32_t length,
                          uint32_t extra)
{
    uint32_t size = 16 + extra;
    int at = pci_function_add_capability(&pci->function, PCI_CAP_VENDOR_SPECIFIC, size);
    if (at < 0)
        return at;
    uint8_t *cap = pci->function.config + at;
    cap[2] = (uint8_t)size;
    cap[3] = type;
    cap[4] = bar;
    store_le32(cap + 8, offset);
    store_le32(cap + 12, length);
    return at;
}

static void add_capabilities(VirtioPci *pci)
{
    uint8_t bar = VIRTIO_PCI_MODERN_BAR;
    const VirtioDevice *virtio = pci->owner.virtio;
    add_capability(pci, VIRTIO_PCI_CAP_COMMON_CFG, bar, VIRTIO_PCI_COMMON, COMMON_SIZE, 0);
    int notify = add_capability(pci, VIRTIO_PCI_CAP_NOTIFY_CFG, bar, VIRTIO_PCI_NOTIFY,
                                virtio->queue_count * VIRTIO_PCI_NOTIFY_MULTIPLIER, 4);
    store_le32(pci->function.config + notify + 16, VIRTIO_PCI_NOTIFY_MULTIPLIER);
    add_capability(pci, VIRTIO_PCI_CAP_ISR_CFG, bar, VIRTIO_PCI_ISR, 1, 0);
    if (virtio->config_size)
        add_capability(pci, VIRTIO_PCI_CAP_DEVICE_CFG, bar, VIRTIO_PCI_DEVICE, virtio->config_size, 0);
    int window = add_capability(pci, VIRTIO_PCI_CAP_PCI_CFG, 0, 0, 0, 4);
    pci->window = (uint32_t)window;
    uint8_t *mask = pci->function.write_mask + window;
    mask[4] = 0xff;             /* bar */
    memset(mask + 8, 0xff, 12); /* offset, length, pci_cfg_data */
}

/* ---- The device --------------------------------------------------------------------------------------------- */

static void virtio_pci_reset(Device *device)
{
    VirtioPci *pci = pci_of(device);
    write_status(pci, 0);
    pci_function_reset(&pci->function);
    update_notify(pci);
    pci_msix_reset(&pci->msix);
}

static void virtio_pci_destroy(Device *device)
{
    VirtioPci *pci = pci_of(device);
    remove_notify(pci);
    pci_msix_fini(&pci->msix);
    pci_bus_remove(&pci->function);
    virtio_free(pci->owner.virtio);
}

static void virtio_pci_save(Device *device, void *opaque)
{
    VirtioPci *pci = pci_of(device);
    VirtioPciState *state = opaque;
    virtio_save(pci->owner.virtio, &state->virtio);
    pci_function_save(&pci->function, &state->pci);
    state->features_written = pci->features_written;
    state->device_feature_select = pci->device_feature_select;
    state->driver_feature_select = pci->driver_feature_select;
    state->queue_select = pci->queue_select;
    state->isr = pci->isr;
    state->config_vector = pci->config_vector;
    memcpy(state->queue_vectors, pci->queue_vectors, sizeof state->queue_vectors);
    pci_msix_save(&pci->msix, &state->msix);
}

static int apply_state(VirtioPci *pci, const VirtioPciState *state)
{
    int result = virtio_restore(pci->owner.virtio, &state->virtio);
    if (result == 0)
        result = pci_function_restore(&pci->function, &state->pci);
    if (result == 0)
        result = pci_msix_restore(&pci->msix, &state->msix);
    pci->features_written = state->features_written;
    pci->device_feature_select = state->device_feature_select;
    pci->driver_feature_select = state->driver_feature_select;
    pci->queue_select = state->queue_select;
    pci->isr = state->isr;
    update_notify(pci);
    pci->config_vector = state->config_vector;
    memcpy(pci->queue_vectors, state->queue_vectors, sizeof pci->queue_vectors);
    if (result == 0)
        update_intx(pci);
    return result;
}

static bool vectors_are_valid(const VirtioPci *pci, const VirtioPciState *state)
{
    bool valid = mapped_vector(pci, state->config_vector) == state->config_vector;
    for (uint32_t i = 0; i < VIRTIO_MAX_QUEUES; i++)
        valid &= mapped_vector(pci, state->queue_vectors[i]) == state->queue_vectors[i];
    return valid;
}

static int virtio_pci_restore(Device *device, const void *opaque)
{
    VirtioPci *pci = pci_of(device);
    const VirtioPciState *state = opaque;
    if (state->isr & ~(VIRTIO_ISR_QUEUE | VIRTIO_ISR_CONFIG) || (state->pci.intx && !state->isr) ||
        !vectors_are_valid(pci, state))
        return -EINVAL;
    VirtioPciState before = {0};
    virtio_pci_save(device, &before);
    int result = apply_state(pci, state);
    if (result < 0)
        apply_state(pci, &before);
    return result;
}

static const DeviceClass virtio_pci_class = {
    .ops = {.read = bar_read, .write = bar_write},
    .reset = virtio_pci_reset,
    .destroy = virtio_pci_destroy,
    .state_size = sizeof(VirtioPciState),
    .state_version = 3, /* 2: MSI-X; 3: more queues, the class's own state */
    .save = virtio_pci_save,
    .restore = virtio_pci_restore,
};

static uint64_t legacy_bar_size(const VirtioDevice *virtio)
{
    uint64_t size = 32;
    while (size < LEGACY_CONFIG + 4 + virtio->config_size)
        size *= 2;
    return size;
}

static void add_function(VirtioPci *pci, bool modern_only, bool use_irqfd)
{
    const VirtioClass *class = pci->owner.virtio->class;
    PciIdentity identity = {
        .vendor_id = VIRTIO_VENDOR, /* §4.1.2: identity and revision say which interfaces there are */
        .device_id = modern_only ? (uint16_t)(0x1040 + class->id) : class->transitional_id,
        .class_code = class->pci_class,
        .revision = modern_only ? 1 : 0,
        .subsystem_vendor_id = VIRTIO_VENDOR,
        .subsystem_id = modern_only ? (uint16_t)(0x0040 + class->id) : (uint16_t) class->id,
        .interrupt_pin = 1,
    };
    pci_function_init(&pci->function, &pci->owner.device, &identity, &function_ops);
    if (!modern_only)
        pci_function_add_bar(&pci->function, VIRTIO_PCI_LEGACY_BAR, legacy_bar_size(pci->owner.virtio), PCI_BAR_IO,
                             &pci->class.ops, pci, VIRTIO_PCI_LEGACY_BAR, &pci->owner.device.lock);
    pci_function_add_bar(&pci->function, VIRTIO_PCI_MODERN_BAR, VIRTIO_PCI_MODERN_SIZE, PCI_BAR_MEMORY64,
                         &pci->class.ops, pci, VIRTIO_PCI_MODERN_BAR, &pci->owner.device.lock);
    pci_function_add_bar(&pci->function, VIRTIO_PCI_MSIX_BAR, VIRTIO_PCI_MSIX_SIZE, PCI_BAR_MEMORY, &pci->class.ops,
                         pci, VIRTIO_PCI_MSIX_BAR, &pci->owner.device.lock);
    add_capabilities(pci);
    pci_msix_init(&pci->msix, &pci->function, MIN(pci->owner.virtio->queue_count + 1, PCI_MSIX_VECTORS),
                  VIRTIO_PCI_MSIX_BAR, VIRTIO_PCI_MSIX_TABLE, VIRTIO_PCI_MSIX_PENDING);
    pci->msix.use_irqfd = use_irqfd;
    forget_vectors(pci);
}

Device *virtio_pci_new(Board *board, VirtioDevice *virtio, const VirtioPlace *place, Error *error)
{
    VirtioPci *pci = calloc(1, sizeof *pci);
    if (!pci) {
        error_set(error, ENOMEM, "no host memory for %s", virtio->class->name);
        virtio_free(virtio);
        return NULL;
    }
    pci->class = virtio_pci_class;
    pci->class.name = virtio->class->name;
    pci->owner.virtio = virtio;
    pci->use_ioeventfd = !place->no_ioeventfd;
    for (uint32_t i = 0; i < VIRTIO_MAX_QUEUES; i++)
        pci->notify[i].fd = -1;
    bool modern_only = place->modern_only || !virtio->class->transitional_id;
    if (!modern_only)
        virtio->device_features |= VIRTIO_F_ANY_LAYOUT;
    device_init(&pci->owner.device, &pci->class, board);
    add_function(pci, modern_only, !place->no_irqfd);
    if (virtio_attach(virtio, &pci->owner.device, &pci_transport, place->io ? place->io : board->io) < 0)
        error_set(error, EMFILE, "%s: no descriptor for its queues: raise `ulimit -n`", virtio->class->name);
    else if (pci_bus_add(place->bus, place->devfn, &pci->function, error) == 0)
        return &pci->owner.device;
    device_free(&pci->owner.device);
    return NULL;
}
