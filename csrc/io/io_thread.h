/*
 * The machine's I/O thread: one epoll loop for file descriptors, notifiers (kicks from vCPUs) and realtime timers.
 */
#ifndef PYVMM_IO_IO_THREAD_H
#define PYVMM_IO_IO_THREAD_H

#include "common/common.h"
#include "io/clock.h"

typedef struct IoThread IoThread;
typedef struct IoNotifier IoNotifier;
typedef void (*IoCallback)(void *opaque);

IoThread *io_thread_new(Clock *clock, Error *error); /* not started */
int io_thread_start(IoThread *io, Error *error);
void io_thread_stop(IoThread *io); /* joins; safe to call twice */
void io_thread_free(IoThread *io);
bool io_thread_running(const IoThread *io);
bool io_thread_is_current(const IoThread *io);

/* A kick that any thread may give; `callback` runs on the I/O thread once for any number of kicks given before it ran.
 * When the thread is not running (virtual clock: everything synchronous) the callback runs on the caller's thread. */
IoNotifier *io_notifier_new(IoThread *io, IoCallback callback, void *opaque);
void io_notifier_kick(IoNotifier *notifier);
void io_notifier_free(IoNotifier *notifier); /* waits for a running callback */
int io_notifier_fd(const IoNotifier *notifier); /* eventfd, for KVM's ioeventfd */

/* Watch a descriptor: events is EPOLLIN and so on; callback gets the ready set. */
typedef void (*IoWatchCallback)(void *opaque, uint32_t events);
int io_watch_add(IoThread *io, int fd, uint32_t events, IoWatchCallback callback, void *opaque);
int io_watch_modify(IoThread *io, int fd, uint32_t events);
int io_watch_remove(IoThread *io, int fd); /* waits for a running callback */

#endif
