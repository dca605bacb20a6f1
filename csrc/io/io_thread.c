#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "io/io_thread.h"

#define EVENTS_PER_WAIT 16

/* One descriptor in the epoll set: a watch of the user's, or a notifier's eventfd. */
typedef struct Source {
    int fd;
    IoWatchCallback callback;
    void *opaque;
    struct Source *next;
} Source;

struct IoNotifier {
    IoThread *io;
    IoCallback callback;
    void *opaque;
    uint32_t pending; /* atomic: a kick is in the eventfd */
    int fd;
    uint64_t signals; /* atomic */
};

struct IoThread {
    Clock *clock;
    char name[IO_THREAD_NAME_SIZE];
    int epoll;
    int timer; /* timerfd, edge-triggered: set by whoever moves the earliest deadline, which wakes nobody; -1: none
                */
    int wake;  /* eventfd for stopping */
    uint64_t
        armed; /* with timer_lock: what the timerfd is set for, of the host's clock; CLOCK_NEVER: it has fired */
    bool started;
    bool stopping;
    pthread_t thread;
    pthread_mutex_t timer_lock;
    pthread_mutex_t lock; /* guards what follows */
    pthread_cond_t idle;  /* `running`, `paused` or `stopping` changed */
    bool paused;
    Source *sources;
    Source *running;
};

/*
 * From any thread. Reading the deadline and setting the timerfd are one step under `timer_lock`: otherwise a thread
 * that read an older, later deadline could set it after another had set a new, earlier one, and that timer would be
 * lost.
 *
 * A timerfd that is set for an earlier time stays so: when it fires, the I/O thread finds nothing due and comes
 * here again. A guest that moves its timer to and fro, or takes it back, so costs no system call, and one that sets
 * a new one-shot at each tick costs one.
 */
static void arm_timer(void *opaque)
{
    IoThread *io = opaque;
    pthread_mutex_lock(&io->timer_lock);
    /* A paused clock reaches no deadline: resuming it comes here again. */
    uint64_t wanted = clock_host_deadline(io->clock, clock_next_deadline(io->clock));
    if (wanted < io->armed) {
        struct itimerspec spec = {
            .it_value = {.tv_sec = (time_t)(wanted / NS_PER_SECOND), .tv_nsec = (long)(wanted % NS_PER_SECOND)}};
        timerfd_settime(io->timer, TFD_TIMER_ABSTIME, &spec, NULL);
        io->armed = wanted;
    }
    pthread_mutex_unlock(&io->timer_lock);
}

/* On the I/O thread: the timerfd says that its time has come. It may have been set anew since. */
static void timer_fired(IoThread *io)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    pthread_mutex_lock(&io->timer_lock);
    if (io->armed <= (uint64_t)now.tv_sec * NS_PER_SECOND + (uint64_t)now.tv_nsec)
        io->armed = CLOCK_NEVER;
    pthread_mutex_unlock(&io->timer_lock);
    clock_run_timers(io->clock);
    arm_timer(io);
}

static int add_fd(IoThread *io, int fd, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.fd = fd};
    return epoll_ctl(io->epoll, EPOLL_CTL_ADD, fd, &event) < 0 ? -errno : 0;
}

static IoThread *new_thread(Clock *clock, const char *name, bool timers, Error *error)
{
    IoThread *io = calloc(1, sizeof *io);
    if (!io) {
        error_set(error, ENOMEM, "no host memory for the I/O thread");
        return NULL;
    }
    io->clock = clock;
    io->armed = CLOCK_NEVER;
    snprintf(io->name, sizeof io->name, "%s", name);
    pthread_mutex_init(&io->timer_lock, NULL);
    pthread_mutex_init(&io->lock, NULL);
    pthread_cond_init(&io->idle, NULL);
    io->epoll = epoll_create1(EPOLL_CLOEXEC);
    io->timer = timers ? timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC) : -1;
    io->wake = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (io->epoll < 0 || (timers && io->timer < 0) || io->wake < 0 ||
        (timers && add_fd(io, io->timer, EPOLLIN | EPOLLET) < 0) || add_fd(io, io->wake, EPOLLIN) < 0) {
        error_set(error, errno, "cannot make the descriptors of the I/O thread %s: %s (see ulimit -n)", io->name,
                  strerror(errno));
        io_thread_free(io);
        return NULL;
    }
    return io;
}

IoThread *io_thread_new(Clock *clock, Error *error) { return new_thread(clock, "io", true, error); }

IoThread *io_thread_new_worker(Clock *clock, const char *name, Error *error)
{
    return new_thread(clock, name, false, error);
}

static bool is_stopping(const IoThread *io) { return __atomic_load_n(&io->stopping, __ATOMIC_ACQUIRE); }

static void dispatch(IoThread *io, int fd, uint32_t events)
{
    pthread_mutex_lock(&io->lock);
    while (io->paused && !is_stopping(io))
        pthread_cond_wait(&io->idle, &io->lock);
    Source *source = io->paused ? NULL : io->sources; /* else the descriptor stays ready until the next start */
    while (source && source->fd != fd)
        source = source->next;
    io->running = source;
    IoWatchCallback callback = source ? source->callback : NULL;
    void *opaque = source ? source->opaque : NULL;
    pthread_mutex_unlock(&io->lock);
    if (!callback)
        return;
    callback(opaque, events);
    pthread_mutex_lock(&io->lock);
    io->running = NULL;
    pthread_cond_broadcast(&io->idle);
    pthread_mutex_unlock(&io->lock);
}

static void *io_thread_main(void *opaque)
{
    IoThread *io = opaque;
    pthread_setname_np(pthread_self(), io->name);
    pthread_mutex_lock(&io->lock); /* until `thread` and `started` are set: callbacks ask io_thread_is_current() */
    pthread_mutex_unlock(&io->lock);
    struct epoll_event events[EVENTS_PER_WAIT];
    if (io->timer >= 0)
        timer_fired(io); /* what was due before */
    while (!is_stopping(io)) {
        int count = epoll_wait(io->epoll, events, EVENTS_PER_WAIT, -1);
        for (int i = 0; i < count; i++) {
            if (events[i].data.fd == io->timer) {
                timer_fired(io);
            } else if (events[i].data.fd != io->wake) {
                dispatch(io, events[i].data.fd, events[i].events);
            }
        }
    }
    return NULL;
}

int io_thread_start(IoThread *io, Error *error)
{
    if (io->started || clock_kind(io->clock) == CLOCK_KIND_VIRTUAL)
        return 0;
    uint64_t drained;
    if (read(io->wake, &drained, sizeof drained) < 0 && errno != EAGAIN)
        return error_set(error, errno, "I/O thread: %s", strerror(errno));
    __atomic_store_n(&io->stopping, false, __ATOMIC_RELAXED);
    if (io->timer >= 0)
        clock_set_notify(io->clock, arm_timer, io); /* before the thread looks: no deadline falls between */
    pthread_mutex_lock(&io->lock);
    int result = pthread_create(&io->thread, NULL, io_thread_main, io);
    __atomic_store_n(&io->started, result == 0, __ATOMIC_RELEASE);
    pthread_mutex_unlock(&io->lock);
    if (result)
        return error_set(error, result, "cannot start the I/O thread %s: %s (see ulimit -u)", io->name,
                         strerror(result));
    return 0;
}

void io_thread_stop(IoThread *io)
{
    if (!io || !io->started)
        return;
    pthread_mutex_lock(&io->lock);
    __atomic_store_n(&io->stopping, true, __ATOMIC_RELEASE);
    pthread_cond_broadcast(&io->idle);
    pthread_mutex_unlock(&io->lock);
    uint64_t one = 1;
    ssize_t written = write(io->wake, &one, sizeof one);
    (void)written; /* cannot fail: the counter is nowhere near its limit */
    pthread_join(io->thread, NULL);
    __atomic_store_n(&io->started, false, __ATOMIC_RELEASE);
}

void io_thread_free(IoThread *io)
{
    if (!io)
        return;
    io_thread_stop(io);
    if (io->timer >= 0)
        clock_set_notify(io->clock, NULL, NULL);
    while (io->sources) {
        Source *source = io->sources;
        io->sources = source->next;
        free(source);
    }
    if (io->epoll >= 0)
        close(io->epoll);
    if (io->timer >= 0)
        close(io->timer);
    if (io->wake >= 0)
        close(io->wake);
    pthread_mutex_destroy(&io->timer_lock);
    pthread_mutex_destroy(&io->lock);
    pthread_cond_destroy(&io->idle);
    free(io);
}

void io_thread_pause(IoThread *io)
{
    pthread_mutex_lock(&io->lock);
    io->paused = true;
    while (io->running && !io_thread_is_current(io))
        pthread_cond_wait(&io->idle, &io->lock);
    pthread_mutex_unlock(&io->lock);
}

void io_thread_resume(IoThread *io)
{
    pthread_mutex_lock(&io->lock);
    io->paused = false;
    pthread_cond_broadcast(&io->idle);
    pthread_mutex_unlock(&io->lock);
}

const char *io_thread_name(const IoThread *io) { return io->name; }

bool io_thread_running(const IoThread *io) { return __atomic_load_n(&io->started, __ATOMIC_ACQUIRE); }

bool io_thread_is_current(const IoThread *io)
{
    return io_thread_running(io) && pthread_equal(io->thread, pthread_self());
}

int io_watch_add(IoThread *io, int fd, uint32_t events, IoWatchCallback callback, void *opaque)
{
    Source *source = calloc(1, sizeof *source);
    if (!source)
        return -ENOMEM;
    *source = (Source){.fd = fd, .callback = callback, .opaque = opaque};
    pthread_mutex_lock(&io->lock);
    source->next = io->sources;
    io->sources = source;
    pthread_mutex_unlock(&io->lock);
    int result = add_fd(io, fd, events);
    if (result < 0)
        io_watch_remove(io, fd);
    return result;
}

int io_watch_modify(IoThread *io, int fd, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.fd = fd};
    return epoll_ctl(io->epoll, EPOLL_CTL_MOD, fd, &event) < 0 ? -errno : 0;
}

int io_watch_remove(IoThread *io, int fd)
{
    int result = -ENOENT;
    epoll_ctl(io->epoll, EPOLL_CTL_DEL, fd, NULL);
    pthread_mutex_lock(&io->lock);
    for (Source **link = &io->sources; *link; link = &(*link)->next) {
        if ((*link)->fd != fd)
            continue;
        Source *source = *link;
        *link = source->next;
        while (io->running == source && !io_thread_is_current(io))
            pthread_cond_wait(&io->idle, &io->lock);
        free(source);
        result = 0;
        break;
    }
    pthread_mutex_unlock(&io->lock);
    return result;
}

static void notifier_ready(void *opaque, uint32_t events)
{
    IoNotifier *notifier = opaque;
    uint64_t count;
    if (read(notifier->fd, &count, sizeof count) < 0)
        count = 0; /* EAGAIN: another kick's callback already took it */
    uint32_t kicked = __atomic_exchange_n(&notifier->pending, 0, __ATOMIC_SEQ_CST);
    if (count > kicked)
        __atomic_fetch_add(&notifier->signals, count - kicked, __ATOMIC_RELAXED);
    notifier->callback(notifier->opaque);
}

IoNotifier *io_notifier_new(IoThread *io, IoCallback callback, void *opaque)
{
    IoNotifier *notifier = calloc(1, sizeof *notifier);
    if (!notifier)
        return NULL;
    *notifier = (IoNotifier){.io = io, .callback = callback, .opaque = opaque};
    notifier->fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (notifier->fd < 0 || io_watch_add(io, notifier->fd, EPOLLIN, notifier_ready, notifier) < 0) {
        if (notifier->fd >= 0)
            close(notifier->fd);
        free(notifier);
        return NULL;
    }
    return notifier;
}

void io_notifier_kick(IoNotifier *notifier)
{
    if (!io_thread_running(notifier->io)) {
        notifier->callback(notifier->opaque);
    } else {
        io_notifier_post(notifier);
    }
}

void io_notifier_post(IoNotifier *notifier)
{
    if (__atomic_exchange_n(&notifier->pending, 1, __ATOMIC_SEQ_CST))
        return;
    uint64_t one = 1;
    ssize_t written = write(notifier->fd, &one, sizeof one);
    (void)written; /* cannot fail: the counter is nowhere near its limit */
}

uint64_t io_notifier_signals(const IoNotifier *notifier)
{
    return __atomic_load_n(&notifier->signals, __ATOMIC_RELAXED);
}

void io_notifier_free(IoNotifier *notifier)
{
    if (!notifier)
        return;
    io_watch_remove(notifier->io, notifier->fd);
    close(notifier->fd);
    free(notifier);
}

int io_notifier_fd(const IoNotifier *notifier) { return notifier->fd; }
