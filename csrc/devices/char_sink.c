#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "devices/char_sink.h"

#define COALESCE_NS 2000000
#define TTY_CHUNK   256 /* what a terminal that says POLLOUT takes without blocking */

struct CharSink {
    Board *board;
    int fd;       /* -1: none */
    size_t chunk; /* bytes per write(2) */
    bool is_socket;
    bool pollable; /* epoll takes it: not a regular file */
    IoNotifier *notifier;
    Timer *timer;

    pthread_mutex_t flush_lock; /* one writer to fd at a time; taken before `lock` */
    pthread_mutex_t room_lock;  /* held while `room` runs */
    CharSinkRoom room;
    void *room_opaque;

    pthread_mutex_t lock; /* what follows */
    uint8_t ring[CHAR_SINK_RING];
    size_t head, count;
    uint8_t preamble[16];
    size_t preamble_size;
    bool broken;    /* fd refused for good: bytes for it are dropped */
    bool scheduled; /* a kick or the timer will flush */
    bool watching;  /* epoll will flush */
    bool refused;
    uint8_t *capture;
    size_t capture_size, capture_head, capture_count;
    uint64_t total, overwritten;
};

static bool is_async(const CharSink *sink)
{
    return clock_kind(sink->board->clock) == CLOCK_KIND_REALTIME && io_thread_running(sink->board->io);
}

enum FlushResult { FLUSHED, FLUSH_MORE, FLUSH_BLOCKED };

static ssize_t write_some(CharSink *sink, const void *data, size_t size)
{
    struct pollfd ready = {.fd = sink->fd, .events = POLLOUT};
    if (poll(&ready, 1, 0) <= 0)
        return -EAGAIN;
    ssize_t written =
        sink->is_socket ? send(sink->fd, data, size, MSG_DONTWAIT | MSG_NOSIGNAL) : write(sink->fd, data, size);
    return written < 0 ? -errno : written;
}

/* A write to a pipe without reader raises SIGPIPE, which must not end the host program: hold it back around the
 * write. */
static ssize_t write_without_sigpipe(CharSink *sink, const void *data, size_t size)
{
    sigset_t pipe_set, before, pending;
    sigemptyset(&pipe_set);
    sigaddset(&pipe_set, SIGPIPE);
    sigpending(&pending);
    bool was_pending = sigismember(&pending, SIGPIPE);
    pthread_sigmask(SIG_BLOCK, &pipe_set, &before);
    ssize_t written = write_some(sink, data, size);
    if (written == -EPIPE && !was_pending) {
        struct timespec none = {0};
        while (sigtimedwait(&pipe_set, NULL, &none) < 0 && errno == EINTR)
            ;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return written;
}

/* The ring's bytes have nowhere to go any more: the guest goes on without them. lock held. */
static void give_up(CharSink *sink, int code)
{
    event_log_add(sink->board->log, "character output stopped: %s; what the guest writes there is dropped",
                  strerror(code));
    sink->broken = true;
    sink->head = sink->count = 0;
}

/* Write one chunk. flush_lock held. */
static enum FlushResult flush_chunk(CharSink *sink)
{
    uint8_t chunk[PIPE_BUF];
    pthread_mutex_lock(&sink->lock);
    size_t size = MIN(sink->count, sink->chunk);
    size_t first = MIN(size, CHAR_SINK_RING - sink->head);
    memcpy(chunk, sink->ring + sink->head, first);
    memcpy(chunk + first, sink->ring, size - first);
    pthread_mutex_unlock(&sink->lock);
    if (!size)
        return FLUSHED;
    ssize_t written = write_without_sigpipe(sink, chunk, size);
    if (written == -EINTR)
        return FLUSH_MORE;
    if (written == -EAGAIN)
        return FLUSH_BLOCKED;
    enum FlushResult result = FLUSHED;
    pthread_mutex_lock(&sink->lock);
    if (written < 0) {
        give_up(sink, (int)-written);
    } else {
        sink->head = (sink->head + (size_t)written) % CHAR_SINK_RING;
        sink->count -= (size_t)written;
        result = sink->count ? FLUSH_MORE : FLUSHED;
    }
    pthread_mutex_unlock(&sink->lock);
    return result;
}

static enum FlushResult flush(CharSink *sink)
{
    enum FlushResult result;
    pthread_mutex_lock(&sink->flush_lock);
    do
        result = flush_chunk(sink);
    while (result == FLUSH_MORE);
    pthread_mutex_unlock(&sink->flush_lock);
    return result;
}

/* Tell the device that was refused. No lock of the device or of the ring held. */
static void tell_room(CharSink *sink)
{
    pthread_mutex_lock(&sink->lock);
    bool tell = sink->refused && sink->count <= CHAR_SINK_RING / 2;
    if (tell)
        sink->refused = false;
    pthread_mutex_unlock(&sink->lock);
    if (!tell)
        return;
    pthread_mutex_lock(&sink->room_lock);
    if (sink->room)
        sink->room(sink->room_opaque);
    pthread_mutex_unlock(&sink->room_lock);
}

static void flush_on_io_thread(CharSink *sink, bool idle_ends_schedule);

static void watch_ready(void *opaque, uint32_t events) { flush_on_io_thread(opaque, false); }

static void kicked(void *opaque) { flush_on_io_thread(opaque, false); }

static void coalesced(void *opaque) { flush_on_io_thread(opaque, true); }

/* On the I/O thread. After a flush the timer stands guard for COALESCE_NS; when it finds nothing new, the next byte
 * kicks again. */
static void flush_on_io_thread(CharSink *sink, bool idle_ends_schedule)
{
    pthread_mutex_lock(&sink->lock);
    bool had_bytes = sink->count > 0;
    if (!had_bytes && idle_ends_schedule)
        sink->scheduled = false;
    pthread_mutex_unlock(&sink->lock);
    if (!had_bytes && idle_ends_schedule)
        return;
    enum FlushResult result = flush(sink);

    pthread_mutex_lock(&sink->lock);
    bool blocked = result == FLUSH_BLOCKED && !sink->broken;
    if (blocked && sink->pollable && !sink->watching) {
        sink->watching = io_watch_add(sink->board->io, sink->fd, EPOLLOUT, watch_ready, sink) == 0;
    } else if (!blocked && sink->watching) {
        io_watch_remove(sink->board->io, sink->fd);
        sink->watching = false;
    }
    bool watching = sink->watching; /* while epoll watches, nothing else needs to */
    sink->scheduled = !watching;
    pthread_mutex_unlock(&sink->lock);
    if (!watching)
        timer_arm(sink->timer, clock_now(sink->board->clock) + COALESCE_NS);
    if (io_thread_is_current(sink->board->io)) /* else a stopping I/O thread made a device's own kick come here */
        tell_room(sink);
}

/* Is it a pseudo-terminal's master? Opening that again would make another pair. */
static bool is_pty_master(int fd)
{
    unsigned int number;
    return ioctl(fd, TIOCGPTN, &number) == 0;
}

/* A descriptor of our own, non-blocking where that does not change the caller's. */
static int own_descriptor(CharSink *sink, int fd)
{
    struct stat st;
    if (fstat(fd, &st) < 0)
        return -errno;
    sink->is_socket = S_ISSOCK(st.st_mode);
    sink->pollable = !S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode);
    sink->chunk = isatty(fd) ? TTY_CHUNK : PIPE_BUF;
    if (isatty(fd) && !is_pty_master(fd)) {
        char path[40];
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        int again = open(path, O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
        if (again >= 0) {
            sink->chunk = PIPE_BUF;
            return again;
        }
    }
    int copy = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    return copy < 0 ? -errno : copy;
}

CharSink *char_sink_new_fd(Board *board, int fd, size_t capture, Error *error)
{
    if (capture > 1u << 30) {
        error_set(error, EINVAL, "character buffer of %zu bytes: at most 1 GiB", capture);
        return NULL;
    }
    CharSink *sink = calloc(1, sizeof *sink);
    if (!sink) {
        error_set(error, ENOMEM, "no host memory for a character device");
        return NULL;
    }
    sink->board = board;
    sink->fd = -1;
    pthread_mutex_init(&sink->flush_lock, NULL);
    pthread_mutex_init(&sink->room_lock, NULL);
    pthread_mutex_init(&sink->lock, NULL);
    sink->capture_size = capture;
    sink->capture = capture ? malloc(capture) : NULL;
    sink->notifier = io_notifier_new(board->io, kicked, sink);
    sink->timer = timer_new(board->clock, coalesced, sink);
    if ((capture && !sink->capture) || !sink->notifier || !sink->timer) {
        error_set(error, ENOMEM, "no host memory for a character device");
        char_sink_free(sink);
        return NULL;
    }
    if (fd >= 0 && (sink->fd = own_descriptor(sink, fd)) < 0) {
        error_set(error, -sink->fd, "character output: descriptor %d: %s", fd, strerror(-sink->fd));
        char_sink_free(sink);
        return NULL;
    }
    return sink;
}

void char_sink_free(CharSink *sink)
{
    if (!sink)
        return;
    io_notifier_free(sink->notifier);
    if (sink->fd >= 0 && sink->pollable)
        io_watch_remove(sink->board->io, sink->fd);
    timer_free(sink->timer);
    if (sink->fd >= 0)
        close(sink->fd);
    pthread_mutex_destroy(&sink->flush_lock);
    pthread_mutex_destroy(&sink->room_lock);
    pthread_mutex_destroy(&sink->lock);
    free(sink->capture);
    free(sink);
}

static int64_t host_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000ll + t.tv_nsec / 1000000;
}

static int write_out(CharSink *sink, int timeout_ms)
{
    int64_t end = host_ms() + timeout_ms;
    while (flush(sink) == FLUSH_BLOCKED) {
        int64_t left = timeout_ms < 0 ? 100 : MIN(end - host_ms(), 100);
        if (left <= 0)
            return -ETIMEDOUT;
        struct pollfd ready = {.fd = sink->fd, .events = POLLOUT};
        poll(&ready, 1, (int)left);
    }
    return 0;
}

int char_sink_drain(CharSink *sink, int timeout_ms)
{
    int result = write_out(sink, timeout_ms);
    if (result < 0)
        return result;
    tell_room(sink); /* the device may have kept a FIFO of bytes */
    return write_out(sink, timeout_ms);
}

/* lock held */
static void capture_bytes(CharSink *sink, const uint8_t *data, size_t size)
{
    for (size_t i = 0; i < size && sink->capture_size; i++) {
        sink->capture[(sink->capture_head + sink->capture_count) % sink->capture_size] = data[i];
        if (sink->capture_count < sink->capture_size) {
            sink->capture_count++;
        } else {
            sink->capture_head = (sink->capture_head + 1) % sink->capture_size;
            sink->overwritten++;
        }
    }
}

int char_sink_set_preamble(CharSink *sink, const void *data, size_t size)
{
    if (size > sizeof sink->preamble)
        return -EINVAL;
    pthread_mutex_lock(&sink->lock);
    memcpy(sink->preamble, data, size);
    sink->preamble_size = size;
    pthread_mutex_unlock(&sink->lock);
    return 0;
}

/* lock held; the caller has seen that there is room */
static void ring_put(CharSink *sink, const uint8_t *data, size_t size)
{
    size_t tail = (sink->head + sink->count) % CHAR_SINK_RING;
    size_t first = MIN(size, CHAR_SINK_RING - tail);
    memcpy(sink->ring + tail, data, first);
    memcpy(sink->ring, data + first, size - first);
    sink->count += size;
}

size_t char_sink_write(CharSink *sink, const void *data, size_t size)
{
    bool async = is_async(sink);
    if (!async)
        write_out(sink, -1); /* what came before, in order; then there is room */
    pthread_mutex_lock(&sink->lock);
    size_t taken = size;
    if (sink->fd >= 0 && !sink->broken) {
        if (size && sink->preamble_size && sink->count + sink->preamble_size < CHAR_SINK_RING) {
            ring_put(sink, sink->preamble, sink->preamble_size);
            sink->preamble_size = 0;
        }
        taken = MIN(size, CHAR_SINK_RING - sink->count);
        ring_put(sink, data, taken);
        sink->refused |= taken < size;
    }
    capture_bytes(sink, data, taken);
    sink->total += taken;
    bool kick = async && sink->count && !sink->scheduled && !sink->watching;
    if (kick)
        sink->scheduled = true;
    pthread_mutex_unlock(&sink->lock);
    if (kick)
        io_notifier_kick(sink->notifier);
    else if (!async)
        write_out(sink, -1);
    return taken;
}

void char_sink_set_room(CharSink *sink, CharSinkRoom room, void *opaque)
{
    pthread_mutex_lock(&sink->room_lock);
    sink->room = room;
    sink->room_opaque = opaque;
    pthread_mutex_unlock(&sink->room_lock);
}

size_t char_sink_read(CharSink *sink, void *data, size_t size)
{
    pthread_mutex_lock(&sink->lock);
    size_t taken = MIN(size, sink->capture_count);
    size_t first = MIN(taken, sink->capture_size - sink->capture_head);
    if (taken) {
        memcpy(data, sink->capture + sink->capture_head, first);
        memcpy((uint8_t *)data + first, sink->capture, taken - first);
        sink->capture_head = (sink->capture_head + taken) % sink->capture_size;
        sink->capture_count -= taken;
    }
    pthread_mutex_unlock(&sink->lock);
    return taken;
}

static uint64_t locked_value(CharSink *sink, const uint64_t *value)
{
    pthread_mutex_lock(&sink->lock);
    uint64_t copy = *value;
    pthread_mutex_unlock(&sink->lock);
    return copy;
}

size_t char_sink_captured(CharSink *sink)
{
    pthread_mutex_lock(&sink->lock);
    size_t count = sink->capture_count;
    pthread_mutex_unlock(&sink->lock);
    return count;
}

uint64_t char_sink_total(CharSink *sink) { return locked_value(sink, &sink->total); }

uint64_t char_sink_overwritten(CharSink *sink) { return locked_value(sink, &sink->overwritten); }
