#include <pthread.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "irq/irqfd.h"

enum { NO_ROUTE = -1 };

struct IrqFd {
    IrqFds *list;
    IrqFd *next;
    int fd; /* -1: not needed yet */
    int route;
    bool refused; /* by this engine: not asked again */
    MsiMessage message;
};

struct IrqFds {
    pthread_mutex_t lock;
    IrqFd *entries;
    const IrqFdOps *ops; /* atomic: read without the lock by irqfds_usable */
    void *engine;
    uint64_t changes, refused;
};

IrqFds *irqfds_new(void)
{
    IrqFds *list = calloc(1, sizeof *list);
    if (list)
        pthread_mutex_init(&list->lock, NULL);
    return list;
}

void irqfds_free(IrqFds *list)
{
    if (!list)
        return;
    pthread_mutex_destroy(&list->lock);
    free(list);
}

IrqFd *irqfd_new(IrqFds *list)
{
    IrqFd *irqfd = calloc(1, sizeof *irqfd);
    if (!irqfd)
        return NULL;
    *irqfd = (IrqFd){.list = list, .fd = -1, .route = NO_ROUTE};
    pthread_mutex_lock(&list->lock);
    irqfd->next = list->entries;
    list->entries = irqfd;
    pthread_mutex_unlock(&list->lock);
    return irqfd;
}

static void release_locked(IrqFd *irqfd)
{
    if (irqfd->route != NO_ROUTE)
        irqfd->list->ops->remove(irqfd->list->engine, irqfd->route, irqfd->fd);
    irqfd->route = NO_ROUTE;
}

void irqfd_release(IrqFd *irqfd)
{
    pthread_mutex_lock(&irqfd->list->lock);
    release_locked(irqfd);
    pthread_mutex_unlock(&irqfd->list->lock);
}

void irqfd_free(IrqFd *irqfd)
{
    if (!irqfd)
        return;
    IrqFds *list = irqfd->list;
    pthread_mutex_lock(&list->lock);
    release_locked(irqfd);
    for (IrqFd **link = &list->entries; *link; link = &(*link)->next)
        if (*link == irqfd) {
            *link = irqfd->next;
            break;
        }
    pthread_mutex_unlock(&list->lock);
    if (irqfd->fd >= 0)
        close(irqfd->fd);
    free(irqfd);
}

/* Make the engine's entry hold the message. 0 or -errno. */
static int route_locked(IrqFd *irqfd, const MsiMessage *message)
{
    IrqFds *list = irqfd->list;
    if (likely(irqfd->route != NO_ROUTE && irqfd->message.address == message->address &&
               irqfd->message.data == message->data))
        return 0;
    int result;
    if (irqfd->route != NO_ROUTE) {
        result = list->ops->change(list->engine, irqfd->route, message);
    } else {
        if (irqfd->fd < 0)
            irqfd->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        result = irqfd->fd < 0 ? -errno : list->ops->add(list->engine, irqfd->fd, message);
        irqfd->route = result < 0 ? NO_ROUTE : result;
    }
    list->changes += result >= 0;
    irqfd->message = *message;
    return result < 0 ? result : 0;
}

bool irqfd_send(IrqFd *irqfd, const MsiMessage *message)
{
    IrqFds *list = irqfd->list;
    bool sent = false;
    pthread_mutex_lock(&list->lock);
    if (list->ops && !irqfd->refused) {
        const uint64_t one = 1;
        if (route_locked(irqfd, message) == 0) {
            sent = write(irqfd->fd, &one, sizeof one) == sizeof one;
        } else {
            release_locked(irqfd);
            irqfd->refused = true;
            list->refused++;
        }
    }
    pthread_mutex_unlock(&list->lock);
    return sent;
}

bool irqfds_usable(const IrqFds *list) { return __atomic_load_n(&list->ops, __ATOMIC_ACQUIRE); }

void irqfds_attach(IrqFds *list, const IrqFdOps *ops, void *engine)
{
    pthread_mutex_lock(&list->lock);
    for (IrqFd *irqfd = list->entries; irqfd; irqfd = irqfd->next) {
        release_locked(irqfd);
        irqfd->refused = false;
    }
    __atomic_store_n(&list->ops, ops, __ATOMIC_RELEASE);
    list->engine = engine;
    pthread_mutex_unlock(&list->lock);
}

void irqfds_counts(IrqFds *list, IrqFdCounts *counts)
{
    *counts = (IrqFdCounts){0};
    pthread_mutex_lock(&list->lock);
    counts->changes = list->changes;
    counts->refused = list->refused;
    for (const IrqFd *irqfd = list->entries; irqfd; irqfd = irqfd->next) {
        counts->entries++;
        counts->active += irqfd->route != NO_ROUTE;
    }
    pthread_mutex_unlock(&list->lock);
}
