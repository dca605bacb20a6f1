/*
 * I/O threads: an epoll loop for file descriptors and notifiers (kicks from vCPUs). The machine's own one, "io",
 * also fires the realtime timers. Workers have no timers: slow work (a disk's requests) is given to one, so that no
 * timer waits for it. On a virtual clock no thread is started: all is done on the thread that asks, and a run
 * repeats.
 */
#ifndef PYVMM_IO_IO_THREAD_H
#define PYVMM_IO_IO_THREAD_H

#include "common/common.h"
#include "io/clock.h"

typedef struct IoThread IoThread;
typedef struct IoNotifier IoNotifier;
typedef void (*IoCallback)(void *opaque);

#define IO_THREAD_NAME_SIZE 16 /* pthread_setname_np(3) */

/* Not started. The clock is told only of the thread with timers; there is one for each clock. */
IoThread *io_thread_new(Clock *clock, Error *error);
IoThread *io_thread_new_worker(Clock *clock, const char *name, Error *error);
int io_thread_start(IoThread *io, Error *error);
void io_thread_stop(IoThread *io); /* joins; safe to call twice */
void io_thread_free(IoThread *io);
/* No watch's or notifier's callback runs between the two (timers do): pause waits for the one that is running, and
 * what becomes ready is kept. Called twice they do no more. Not with a lock held that a callback takes. */
void io_thread_pause(IoThread *io);
void io_thread_resume(IoThread *io);
const char *io_thread_name(const IoThread *io); /* as in `top -H` */
bool io_thread_running(const IoThread *io);
bool io_thread_is_current(const IoThread *io);

/* A kick that any thread may give; `callback` runs on the I/O thread once for any number of kicks given before it
 * ran. When the thread is not running (virtual clock: everything synchronous) the callback runs on the caller's
 * thread. */
IoNotifier *io_notifier_new(IoThread *io, IoCallback callback, void *opaque);
void io_notifier_kick(IoNotifier *notifier);
void io_notifier_free(IoNotifier *notifier); /* waits for a running callback */
/* A kick that always waits for the thread, also for one that is not started yet. */
void io_notifier_post(IoNotifier *notifier);
int io_notifier_fd(const IoNotifier *notifier); /* eventfd, for an IoEventFd (io/ioeventfd.h) */
/* Signals through the eventfd that were not given by kick or post: of those that the callback has run for. */
uint64_t io_notifier_signals(const IoNotifier *notifier);

/* Watch a descriptor: events is EPOLLIN and so on; callback gets the ready set. */
typedef void (*IoWatchCallback)(void *opaque, uint32_t events);
int io_watch_add(IoThread *io, int fd, uint32_t events, IoWatchCallback callback, void *opaque);
int io_watch_modify(IoThread *io, int fd, uint32_t events);
int io_watch_remove(IoThread *io, int fd); /* waits for a running callback */

#endif
