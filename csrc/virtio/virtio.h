/*
 * What all virtio devices share, whatever carries them: feature negotiation, the status byte, configuration space,
 * queues and who runs them.
 *
 * Source: virtio 1.2 §2.1 (status), §2.2 (features), §2.5 (configuration space), §3.1 (initialisation), §6
 * (reserved features). Left out: shared memory regions.
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

#define VIRTIO_MAX_QUEUES    64
#define VIRTIO_CONFIG_MAX    256
#define VIRTIO_OWN_STATE_MAX 1024 /* bytes of saved state that a class has beside its configuration */

enum VirtioStatus {
    VIRTIO_STATUS_ACKNOWLEDGE = 1,
    VIRTIO_STATUS_DRIVER = 2,
    VIRTIO_STATUS_DRIVER_OK = 4,
    VIRTIO_STATUS_FEATURES_OK = 8,
    VIRTIO_STATUS_NEEDS_RESET = 64,
    VIRTIO_STATUS_FAILED = 128,
};

#define VIRTIO_F_ANY_LAYOUT        (1ull << 27) /* legacy only, §6.3 */
#define VIRTIO_F_INDIRECT_DESC     (1ull << 28)
#define VIRTIO_F_EVENT_IDX         (1ull << 29)
#define VIRTIO_F_VERSION_1         (1ull << 32)
#define VIRTIO_F_RING_PACKED       (1ull << 34)
#define VIRTIO_F_IN_ORDER          (1ull << 35)
#define VIRTIO_F_NOTIFICATION_DATA (1ull << 38)
#define VIRTIO_F_RING_RESET        (1ull << 40)
/* What every device offers, and what it offers when it is asked to (VirtioPlace). */
#define VIRTIO_RING_FEATURES  (VIRTIO_F_INDIRECT_DESC | VIRTIO_F_EVENT_IDX | VIRTIO_F_RING_RESET)
#define VIRTIO_RING_ON_DEMAND (VIRTIO_F_RING_PACKED | VIRTIO_F_IN_ORDER | VIRTIO_F_NOTIFICATION_DATA)

enum VirtioIsr { VIRTIO_ISR_QUEUE = 1, VIRTIO_ISR_CONFIG = 2 }; /* §4.1.4.5 */

typedef struct VirtioDevice VirtioDevice;
typedef struct VirtioQueue VirtioQueue;

/* One kind of device. All functions but `run` may be NULL; all are called with the lock held but the last two. */
typedef struct VirtioClass {
    const char *name;
    uint32_t id;              /* virtio 1.2 §5 */
    uint32_t pci_class;       /* class code for the PCI transport */
    uint16_t transitional_id; /* PCI device ID of the transitional device, §4.1.2.1; 0: there is none */
    void (*kicked)(VirtioDevice *device, uint32_t queue);  /* the driver's notification came, if `tell_kicks` */
    void (*run)(VirtioDevice *device, VirtioQueue *queue); /* look at a queue; see virtio_serve, virtio_begin_io */
    bool (*config_write)(VirtioDevice *device, uint32_t offset, uint8_t value); /* one byte; false: read-only */
    void (*features_changed)(VirtioDevice *device);                             /* negotiated, or restored */
    void (*driver_ok)(VirtioDevice *device); /* the driver is ready; queues are looked at after it */
    void (*reset)(VirtioDevice *device);
    void (*queue_reset)(VirtioDevice *device, VirtioQueue *queue); /* by itself: forget chains that were taken */
    size_t state_size; /* of its own state, at most VIRTIO_OWN_STATE_MAX */
    void (*save)(VirtioDevice *device, void *state);
    int (*restore)(VirtioDevice *device, const void *state); /* after features_changed; -EINVAL: out of range */
    void (*stop)(VirtioDevice *device);    /* first of all at the end: no timer or backend calls in after it */
    void (*destroy)(VirtioDevice *device); /* no queue runs any more */
} VirtioClass;

/* What one device is made with. */
typedef struct VirtioSetup {
    uint64_t features; /* of the class; those of the ring and transport are added */
    uint32_t config_size;
    uint32_t queue_count;
    uint16_t queue_size; /* of each queue, a power of two; change queues[i].ring.max_size after for others */
} VirtioSetup;

/* What a device needs of its transport; the lock is held. */
typedef struct VirtioTransport {
    void (*interrupt_queue)(Device *owner, uint32_t queue); /* a used buffer notification, §2.3 */
    void (*interrupt_config)(Device *owner);                /* a configuration change notification */
    bool (*may_dma)(const Device *owner);
    uint64_t (*irqfd_sent)(const Device *owner); /* interrupts that went by eventfd */
} VirtioTransport;

struct VirtioQueue {
    Virtqueue ring;
    VirtioDevice *device;
    uint32_t index;
    uint32_t unpublished; /* chains given back that the driver does not see yet; see virtio_publish_soon */
    IoThread *io;         /* who runs it; NULL: as the place says */
    IoNotifier *notifier;
};

struct VirtioDevice {
    const VirtioClass *class;
    Device *owner;
    const VirtioTransport *transport;
    uint64_t device_features;
    uint64_t driver_features;
    uint32_t config_size;
    uint32_t queue_count;
    uint8_t status;
    uint8_t generation; /* of the configuration space, §2.5.1 */
    bool halted;        /* by its class: takes no chains until that changes */
    bool tell_kicks;    /* the class wants to hear of notifications */
    uint32_t draining;  /* how many wait for I/O to end: start no more */
    bool lock_kept;     /* with the lock: the queue runs inside a notification, and the lock is not given up */
    uint32_t io_active; /* queues between begin_io and end_io */
    uintptr_t kicker;   /* thread that is giving a kick with the lock held */
    pthread_cond_t idle;
    uint64_t faults;     /* malformed chains and rings */
    uint64_t kicks;      /* the driver's, that came as a write to the transport */
    uint64_t interrupts; /* used buffer notifications, §2.3 */
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

/* A transport's struct begins with this. */
typedef struct VirtioOwner {
    Device device;
    VirtioDevice *virtio;
} VirtioOwner;

static inline VirtioDevice *virtio_of(const Device *device) { return ((const VirtioOwner *)device)->virtio; }

typedef struct VirtioState {
    uint64_t driver_features;
    uint8_t status;
    uint8_t generation;
    uint8_t config[VIRTIO_CONFIG_MAX];
    uint8_t own[VIRTIO_OWN_STATE_MAX]; /* the class's */
    VirtioQueueState queues[VIRTIO_MAX_QUEUES];
} VirtioState;

/* Of any virtio device since it was made. */
typedef struct VirtioCounters {
    uint64_t interrupts;       /* used buffer notifications */
    uint64_t faults;           /* malformed chains and rings */
    uint64_t kicks;            /* notifications that came as an access to a register */
    uint64_t signals;          /* and those that came by eventfd, without leaving guest code */
    uint64_t irqfd_interrupts; /* of `interrupts` and configuration changes: those that went by eventfd */
} VirtioCounters;

/* For a device's constructor; the queues' `io` may be set after. */
void virtio_init(VirtioDevice *device, const VirtioClass *class, const VirtioSetup *setup);
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
void virtio_disable_queue(VirtioDevice *device, uint32_t index); /* as after reset; waits for I/O */
void virtio_kick(VirtioDevice *device, uint32_t index);          /* the driver wrote a notification */
void virtio_notify(VirtioDevice *device, uint32_t index);        /* look at the queue */
void virtio_notify_all(VirtioDevice *device);
/* May the driver's notifications of this queue go straight to its eventfd? */
bool virtio_wants_signals(const VirtioDevice *device, uint32_t index);

void virtio_counters(Device *device, VirtioCounters *counters); /* takes the lock */
uint64_t virtio_device_features(Device *device);                /* what it offers */

/* For classes. */
/* Call `batch` until it has nothing more to do (false), with the driver's notifications off meanwhile, or for some
 * rounds: then the I/O thread's other work has its turn. */
typedef bool (*VirtioBatch)(VirtioDevice *device, VirtioQueue *queue);
void virtio_serve(VirtioDevice *device, VirtioQueue *queue, VirtioBatch batch);
void virtio_publish(VirtioDevice *device, VirtioQueue *queue); /* what was pushed; interrupts if the driver waits */
/* For a batch under virtio_serve: the same at once, or, while the ring has more and no more than 16 chains wait,
 * with the next batch, so that a driver that goes on giving has one interrupt for several. */
void virtio_publish_soon(VirtioDevice *device, VirtioQueue *queue, uint32_t pushed);
bool virtio_queue_is_live(const VirtioQueue *queue); /* may chains be taken? */
void virtio_begin_io(VirtioDevice *device);
void virtio_end_io(VirtioDevice *device);
void virtio_fail(VirtioDevice *device, const VirtioQueue *queue, const char *why); /* DEVICE_NEEDS_RESET */
static inline bool virtio_has(const VirtioDevice *device, uint64_t feature)
{
    return device->driver_features & feature;
}

#endif
