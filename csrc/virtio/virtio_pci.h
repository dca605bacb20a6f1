/*
 * virtio over PCI: the modern interface in a 64-bit memory BAR, and (transitional devices) the legacy one in an I/O
 * BAR.
 *
 * Source: virtio 1.2 §4.1; §4.1.4 the capabilities, §4.1.4.8 and §4.1.4.10 the legacy layout, §4.1.5 initialisation
 * and use, §4.1.5.1.2 MSI-X vectors. Interrupts go by MSI-X where the driver enables it, else by INTx# and the ISR
 * status. Left out: shared memory and vendor capabilities.
 *
 * While the driver runs a queue and a BAR answers, the queue's notification register is an ioeventfd
 * (io/ioeventfd.h): the modern one, or the legacy one for a driver without VERSION_1.
 *
 * BAR 0 (transitional only): legacy registers, then the device's configuration. BAR 1: MSI-X's table and pending
 * bits, one vector for configuration changes and one for each queue, up to 64 in all. BAR 4: one page each for the
 * common configuration, ISR, device configuration and notifications (4 bytes a queue).
 */
#ifndef PYVMM_VIRTIO_VIRTIO_PCI_H
#define PYVMM_VIRTIO_VIRTIO_PCI_H

#include "devices/pci_msi.h"
#include "virtio/virtio_place.h"

enum VirtioPciBar { VIRTIO_PCI_LEGACY_BAR = 0, VIRTIO_PCI_MSIX_BAR = 1, VIRTIO_PCI_MODERN_BAR = 4 };

enum VirtioPciMsix { /* in the MSI-X BAR */
                     VIRTIO_PCI_MSIX_TABLE = 0,
                     VIRTIO_PCI_MSIX_PENDING = 0x800,
                     VIRTIO_PCI_MSIX_SIZE = 0x1000,
};

#define VIRTIO_NO_VECTOR 0xffff

enum VirtioPciCapType { /* §4.1.4 */
                        VIRTIO_PCI_CAP_COMMON_CFG = 1,
                        VIRTIO_PCI_CAP_NOTIFY_CFG = 2,
                        VIRTIO_PCI_CAP_ISR_CFG = 3,
                        VIRTIO_PCI_CAP_DEVICE_CFG = 4,
                        VIRTIO_PCI_CAP_PCI_CFG = 5,
};

enum VirtioPciModern { /* offsets in the modern BAR */
                       VIRTIO_PCI_COMMON = 0x0000,
                       VIRTIO_PCI_ISR = 0x1000,
                       VIRTIO_PCI_DEVICE = 0x2000,
                       VIRTIO_PCI_NOTIFY = 0x3000,
                       VIRTIO_PCI_MODERN_SIZE = 0x4000,
                       VIRTIO_PCI_NOTIFY_MULTIPLIER = 4,
};

enum VirtioPciCommon { /* struct virtio_pci_common_cfg, §4.1.4.3 */
                       COMMON_DEVICE_FEATURE_SELECT = 0,
                       COMMON_DEVICE_FEATURE = 4,
                       COMMON_DRIVER_FEATURE_SELECT = 8,
                       COMMON_DRIVER_FEATURE = 12,
                       COMMON_CONFIG_MSIX_VECTOR = 16,
                       COMMON_NUM_QUEUES = 18,
                       COMMON_DEVICE_STATUS = 20,
                       COMMON_CONFIG_GENERATION = 21,
                       COMMON_QUEUE_SELECT = 22,
                       COMMON_QUEUE_SIZE = 24,
                       COMMON_QUEUE_MSIX_VECTOR = 26,
                       COMMON_QUEUE_ENABLE = 28,
                       COMMON_QUEUE_NOTIFY_OFF = 30,
                       COMMON_QUEUE_DESC = 32,
                       COMMON_QUEUE_DRIVER = 40,
                       COMMON_QUEUE_DEVICE = 48,
                       COMMON_QUEUE_NOTIFY_DATA = 56,
                       COMMON_QUEUE_RESET = 58,
                       COMMON_SIZE = 60,
};

enum VirtioPciLegacy { /* §4.1.4.8 */
                       LEGACY_DEVICE_FEATURES = 0,
                       LEGACY_DRIVER_FEATURES = 4,
                       LEGACY_QUEUE_ADDRESS = 8,
                       LEGACY_QUEUE_SIZE = 12,
                       LEGACY_QUEUE_SELECT = 14,
                       LEGACY_QUEUE_NOTIFY = 16,
                       LEGACY_DEVICE_STATUS = 18,
                       LEGACY_ISR = 19,
                       LEGACY_CONFIG = 20, /* without MSI-X; with it 4 bytes later, after: */
                       LEGACY_CONFIG_VECTOR = 20,
                       LEGACY_QUEUE_VECTOR = 22,
};

typedef struct VirtioPciState {
    PciFunctionState pci;
    VirtioState virtio;
    uint64_t features_written; /* driver_feature through both windows */
    uint32_t device_feature_select;
    uint32_t driver_feature_select;
    uint16_t queue_select;
    uint8_t isr;
    uint16_t config_vector;
    uint16_t queue_vectors[VIRTIO_MAX_QUEUES];
    PciMsixState msix;
} VirtioPciState;

/* Takes `virtio` over, also when it fails. For virtio_place(). */
Device *virtio_pci_new(Board *board, VirtioDevice *virtio, const VirtioPlace *place, Error *error);

#endif
