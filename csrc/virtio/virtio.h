/*
 * What all virtio devices share, whatever carries them: feature negotiation, the status byte, configuration space,
 * queues and who runs them.
 *
 * Source: virtio 1.2 §2.1 (status), §2.2 (features), §2.5 (configuration space), §3.1 (initialisation), §6
 * (reserved features). Left out: the packed ring, queue reset, notification data, shared memory regions.
 *
 * Locking. The transport owns a Device; its lock guards everything here. A queue runs on the I/O thread (or on the
 * vCPU's own thread, lock held, when no I/O thread runs): its class takes chains under the lock, gives it up for
 * the slow part (virtio_begin_io), and takes it again to complete (virtio_end_io). Reset, restore and turning a
 * queue off wait for the slow part to end, so no chain outlives them.
 */
#ifndef PYVMM_VIRTIO_VIRTIO_H
#define PYVMM_VIRTIO_VIRTIO_H

#include "devices/device.h"
#include "virtio/virtqueue.h"

#define VIRTIO_MAX_QUEUES 8
#define VIRTIO_CONFIG_MAX 64

enum VirtioStatus {
    VIRTIO_STATUS_ACKNOWLEDGE = 1,
    VIRTIO_STATUS_DRIVER = 2,
    VIRTIO_STATUS_DRIVER_OK = 4,
    VIRTIO_STATUS_FEATURES_OK = 8,
    VIRTIO_STATUS_NEEDS_RESET = 64,
    VIRTIO_STATUS_FAILED = 128,
};

#define VIRTIO_F_ANY_LAYOUT    (1ull << 27) /* legacy only, §6.3 */
#define VIRTIO_F_INDIRECT_DESC (1ull << 28)
#define VIRTIO_F_EVENT_IDX     (1ull << 29)
#define VIRTIO_F_VERSION_1     (1ull << 32)

enum VirtioIsr { VIRTIO_ISR_QUEUE = 1, VIRTIO_ISR_CONFIG = 2 }; /* §4.1.4.5 */

typedef struct VirtioDevice VirtioDevice;
typedef struct VirtioQueue VirtioQueue;

typedef struct VirtioClass {
    const char *name;
    uint32_t id;        /* virtio 1.2 §5 */
    uint32_t pci_class; /* class code for the PCI transport */
    uint32_t config_size;
    uint32_t queue_count;
    void (*run)(VirtioDevice *device, VirtioQueue *queue); /* lock held; see virtio_begin_io */
    bool (*config_write)(VirtioDevice *device, uint32_t offset,
                         uint8_t value); /* one byte; false: read-only. May be NULL */
    void (*reset)(VirtioDevice *device); /* lock held */
    void (*destroy)(VirtioDevice *device);
} VirtioClass;

/* What a device needs of its transport; the lock is held. */
typedef struct VirtioTransport {
    void (*interrupt_queue)(Device *owner, uint32_t queue); /* a used buffer notification, §2.3 */
    void (*interrupt_config)(Device *owner);                /* a configuration change notification */
    bool (*may_dma)(const Device *owner);
} VirtioTransport;

struct VirtioQueue {
    Virtqueue ring;
    VirtioDevice *device;
    uint32_t index;
    IoNotifier *notifier;
};

struct VirtioDevice {
    const VirtioClass *class;
    Device *owner;
    const VirtioTransport *transport;
    uint64_t device_features;
    uint64_t driver_features;
    uint8_t status;
    uint8_t generation; /* of the configuration space, §2.5.1 */
    bool draining;      /* somebody waits for I/O to end: start no more */
    bool lock_kept;     /* the queue runs inside a notification: the lock is not given up */
    uint32_t io_active; /* queues between begin_io and end_io */
    uintptr_t kicker;   /* thread that is giving a kick with the lock held */
    pthread_cond_t idle;
    uint64_t faults; /* malformed chains and rings */
    uint64_t kicks;  /* the driver's, that came as a write to the transport */
    uint8_t config[VIRTIO_CONFIG_MAX];
    VirtioQueue queues[VIRTIO_MAX_QUEUES];
};

typedef struct VirtioQueueState {
    uint64_t desc;
    uint64_t driver;
    uint64_t device;
    uint16_t size;
    uint16_t last_avail;
    uint16_t next_used;
    uint8_t enabled;
} VirtioQueueState;

typedef struct VirtioState {
    uint64_t driver_features;
    uint8_t status;
    uint8_t generation;
    uint8_t config[VIRTIO_CONFIG_MAX];
    VirtioQueueState queues[VIRTIO_MAX_QUEUES];
} VirtioState;

/* For a device's constructor. */
void virtio_init(VirtioDevice *device, const VirtioClass *class, uint64_t features, uint16_t queue_size);
/* For a transport's constructor, then for its class. */
int virtio_attach(VirtioDevice *device, Device *owner, const VirtioTransport *transport, IoThread *io);
void virtio_free(VirtioDevice *device);

/* All below: lock held. */
void virtio_reset(VirtioDevice *device);
void virtio_save(VirtioDevice *device, VirtioState *state); /* waits for I/O */
int virtio_restore(VirtioDevice *device, const VirtioState *state);

/* As the driver writes them. `legacy`: by the legacy interface, which has 32 features and cannot refuse. */
void virtio_write_status(VirtioDevice *device, uint8_t status);
void virtio_write_features(VirtioDevice *device, uint64_t features, bool legacy);
uint64_t virtio_config_read(const VirtioDevice *device, uint64_t offset, uint32_t size);
void virtio_config_write(VirtioDevice *device, uint64_t offset, uint32_t size, uint64_t value);
/* The device changed it by itself. */
void virtio_config_changed(VirtioDevice *device);

void virtio_enable_queue(VirtioDevice *device, uint32_t index);
void virtio_disable_queue(VirtioDevice *device, uint32_t index); /* waits for I/O */
void virtio_kick(VirtioDevice *device, uint32_t index);          /* the driver wrote a notification */
void virtio_notify(VirtioDevice *device, uint32_t index);        /* look at the queue */
void virtio_notify_all(VirtioDevice *device);
/* May the driver's notifications of this queue go straight to its eventfd? */
bool virtio_wants_signals(const VirtioDevice *device, uint32_t index);
uint64_t virtio_signals(const VirtioDevice *device); /* kicks that came that way */

/* For classes. */
bool virtio_queue_is_live(const VirtioQueue *queue); /* may chains be taken? */
void virtio_begin_io(VirtioDevice *device);
void virtio_end_io(VirtioDevice *device);
void virtio_fail(VirtioDevice *device, const VirtioQueue *queue, const char *why); /* DEVICE_NEEDS_RESET */
static inline bool virtio_has(const VirtioDevice *device, uint64_t feature)
{
    return device->driver_features & feature;
}

#endif
