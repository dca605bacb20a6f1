/*
 * Where a virtio device stands: which transport carries it, and whose thread runs its queues.
 *
 * A device's constructor makes a VirtioDevice and hands it here; what comes back is the transport's Device, which
 * owns it. Source: virtio 1.2 §4.
 */
#ifndef PYVMM_VIRTIO_VIRTIO_PLACE_H
#define PYVMM_VIRTIO_VIRTIO_PLACE_H

#include "devices/pci.h"
#include "virtio/virtio.h"

typedef struct VirtioPlace {
    PciBus *bus;       /* §4.1; NULL: memory-mapped, §4.2 */
    uint32_t devfn;    /* on the bus */
    bool modern_only;  /* on PCI: no legacy interface, device ID 0x1040 + id */
    IrqLine *line;     /* memory-mapped: its interrupt */
    uint64_t base;     /* where the machine will map the registers; 0: nobody knows */
    bool legacy;       /* memory-mapped: version 1 of the registers, otherwise 2 */
    uint64_t offer;    /* of VIRTIO_RING_ON_DEMAND */
    uint64_t withhold; /* of VIRTIO_RING_FEATURES */
    bool no_ioeventfd; /* the engine is never told of the notification registers */
    bool no_irqfd;     /* every interrupt is a call */
    IoThread *io; /* runs the queues (board_add_worker); NULL: the board's, where a slow backend delays timers */
} VirtioPlace;

/* Takes `virtio` over, also when it fails (NULL). */
Device *virtio_place(Board *board, VirtioDevice *virtio, const VirtioPlace *place, Error *error);

#endif
