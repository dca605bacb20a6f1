/*
 * virtio over MMIO: 512 bytes of registers and configuration, and an interrupt line; for machines without PCI.
 *
 * Source: virtio 1.2 §4.2; §4.2.2 the registers of version 2, §4.2.4 those of version 1 (legacy). Left out: shared
 * memory regions (their length reads as all ones: there are none).
 *
 * While the driver runs a queue, a write of its number to QueueNotify is an ioeventfd (io/ioeventfd.h) where the
 * machine says at which address the registers are, and NOTIFICATION_DATA was not taken.
 */
#ifndef PYVMM_VIRTIO_VIRTIO_MMIO_H
#define PYVMM_VIRTIO_VIRTIO_MMIO_H

#include "virtio/virtio_place.h"

enum VirtioMmioRegister {
    MMIO_MAGIC = 0x000,
    MMIO_VERSION = 0x004,
    MMIO_DEVICE_ID = 0x008,
    MMIO_VENDOR_ID = 0x00c,
    MMIO_DEVICE_FEATURES = 0x010,
    MMIO_DEVICE_FEATURES_SEL = 0x014,
    MMIO_DRIVER_FEATURES = 0x020,
    MMIO_DRIVER_FEATURES_SEL = 0x024,
    MMIO_GUEST_PAGE_SIZE = 0x028, /* legacy */
    MMIO_QUEUE_SEL = 0x030,
    MMIO_QUEUE_SIZE_MAX = 0x034,
    MMIO_QUEUE_SIZE = 0x038,
    MMIO_QUEUE_ALIGN = 0x03c, /* legacy */
    MMIO_QUEUE_PFN = 0x040,   /* legacy */
    MMIO_QUEUE_READY = 0x044,
    MMIO_QUEUE_NOTIFY = 0x050,
    MMIO_INTERRUPT_STATUS = 0x060,
    MMIO_INTERRUPT_ACK = 0x064,
    MMIO_STATUS = 0x070,
    MMIO_QUEUE_DESC = 0x080, /* low half, then high: as the next two */
    MMIO_QUEUE_DRIVER = 0x090,
    MMIO_QUEUE_DEVICE = 0x0a0,
    MMIO_SHM_LEN = 0x0b0,
    MMIO_SHM_BASE = 0x0b8,
    MMIO_QUEUE_RESET = 0x0c0,
    MMIO_CONFIG_GENERATION = 0x0fc,
    MMIO_CONFIG = 0x100,
    MMIO_SIZE = 0x200,
};

#define VIRTIO_MMIO_MAGIC 0x74726976u /* "virt" */

typedef struct VirtioMmioState {
    VirtioState virtio;
    uint64_t features_written;
    uint32_t device_features_sel;
    uint32_t driver_features_sel;
    uint32_t queue_sel;
    uint32_t guest_page_size;
    uint32_t queue_align[VIRTIO_MAX_QUEUES];
    uint8_t interrupt_status;
} VirtioMmioState;

/* Takes `virtio` over, also when it fails. For virtio_place(). */
Device *virtio_mmio_new(Board *board, VirtioDevice *virtio, const VirtioPlace *place, Error *error);

#endif
