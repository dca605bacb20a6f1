/*
 * irqfd: a message signalled interrupt as an eventfd. Where an engine's local APICs are in the kernel it can have
 * the kernel deliver a message whenever an eventfd is written to (KVM_IRQFD, Documentation/virt/kvm/api.rst 4.75),
 * by an entry in its routing table that holds the message. A device has one IrqFd for each vector that it signals
 * often.
 *
 * Changing an entry is much slower than signalling, so the table follows what is sent, not what is written to
 * vectors: irqfd_send() compares, and an entry changes only when the message has changed since it was last sent.
 * What is masked is not sent, and need not be known here. An eventfd is made when first needed: an engine that
 * cannot costs nothing.
 *
 * The list is kept by the board, so that it outlives an engine; an entry is with the engine from its first message
 * until the device releases it or the engine goes.
 *
 * Lock order: a device's lock may be held; the list's own lock is held around the engine's calls and the signal.
 */
#ifndef PYVMM_IRQ_IRQFD_H
#define PYVMM_IRQ_IRQFD_H

#include "common/common.h"

typedef struct MsiMessage {
    uint64_t address;
    uint32_t data;
} MsiMessage;

/* The engine's. A route is a number >= 0; remove must have delivered what was signalled before. */
typedef struct IrqFdOps {
    int (*add)(void *engine, int fd, const MsiMessage *message); /* the route, or -errno */
    int (*change)(void *engine, int route, const MsiMessage *message);
    void (*remove)(void *engine, int route, int fd);
} IrqFdOps;

typedef struct IrqFds IrqFds;
typedef struct IrqFd IrqFd;

IrqFds *irqfds_new(void);
void irqfds_free(IrqFds *list); /* after the devices that have entries */

/* For devices, one thread at a time for each IrqFd. NULL: no memory. */
IrqFd *irqfd_new(IrqFds *list);
void irqfd_free(IrqFd *irqfd); /* NULL: nothing */
/* True: the message is delivered. False: no engine takes eventfds, or it refused this one; send it in another way.
 */
bool irqfd_send(IrqFd *irqfd, const MsiMessage *message);
/* The vector is out of use: the engine forgets it. */
void irqfd_release(IrqFd *irqfd);
bool irqfds_usable(const IrqFds *list); /* an engine takes them: any thread, cheap */

/* For engines: one at a time; `ops` NULL takes every entry back. */
void irqfds_attach(IrqFds *list, const IrqFdOps *ops, void *engine);

typedef struct IrqFdCounts {
    uint32_t entries;
    uint32_t active;  /* with the engine */
    uint64_t changes; /* additions to the engine's table and changes of it, since the board was made */
    uint64_t refused; /* by an engine, the same */
} IrqFdCounts;
void irqfds_counts(IrqFds *list, IrqFdCounts *counts);

#endif
