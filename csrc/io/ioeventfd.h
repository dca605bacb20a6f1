/*
 * ioeventfd: a device says of a port or an address that a write to it is only a notification, and gives an eventfd
 * in place of the access. The engine that has the board may then signal the eventfd without leaving guest code
 * (KVM_IOEVENTFD, Documentation/virt/kvm/api.rst 4.59); an engine that cannot lets the access go to the bus as
 * ever, where the device must answer it too.
 *
 * The list is kept by the board, so that it outlives an engine. An entry is with the engine while all three hold:
 * an engine that can is there, I/O threads run (else nobody would look at the eventfd), and the accesses are not to
 * be seen as exits.
 *
 * Lock order: a device's lock may be held; the list's own lock is held around the engine's call.
 */
#ifndef PYVMM_IO_IOEVENTFD_H
#define PYVMM_IO_IOEVENTFD_H

#include "common/common.h"
#include "io/bus.h"

#define IOEVENTFD_ANY_SIZE 0

typedef struct IoEventFd {
    uint64_t address; /* the access must begin here */
    uint64_t value;   /* and write this, when `match` */
    enum BusKind space;
    uint32_t size; /* and have this size: 1, 2, 4, 8 or IOEVENTFD_ANY_SIZE */
    bool match;    /* needs a size */
    int fd;
} IoEventFd;

/* The engine's: begin or end signalling. 0 or -errno; what it refuses goes to the bus. */
typedef int (*IoEventFdSet)(void *engine, const IoEventFd *entry, bool add);

typedef struct IoEventFds IoEventFds;

IoEventFds *ioeventfds_new(void);
void ioeventfds_free(IoEventFds *list);

/* For devices. add: -EINVAL, -EEXIST (space, address, size and value are taken) or -ENOMEM. remove: all that has
 * this fd in this place; the fd may be closed afterwards. Signals that are in the eventfd already stay there. */
int ioeventfd_add(IoEventFds *list, const IoEventFd *entry);
int ioeventfd_remove(IoEventFds *list, const IoEventFd *entry);

/* For engines: attach hands every entry over, detach takes them back. One engine at a time; `set` NULL detaches. */
void ioeventfds_attach(IoEventFds *list, IoEventFdSet set, void *engine);
/* For the board: I/O threads run. */
void ioeventfds_serve(IoEventFds *list, bool served);
/* For the exit loop: writes are to leave guest code, because somebody looks at them. Cheap when nothing changes. */
void ioeventfds_surface(IoEventFds *list, bool surfaced);

typedef struct IoEventFdCounts {
    uint32_t entries;
    uint32_t active;  /* with the engine */
    uint64_t refused; /* by an engine, since the board was made */
} IoEventFdCounts;
void ioeventfds_counts(IoEventFds *list, IoEventFdCounts *counts);

#endif
