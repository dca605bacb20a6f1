/* The rest of net.h, and what classes of backends call. */
#include <stdlib.h>

#include "net/net_backend.h"

static void on_notifier(void *opaque) { net_drain(opaque); }

/* Where no I/O thread runs. */
static void look(NetBackend *backend)
{
    if (backend->class->poll)
        backend->class->poll(backend);
    net_drain(backend);
}

static void on_timer(void *opaque)
{
    NetBackend *backend = opaque;
    pthread_mutex_lock(&backend->lock);
    bool connected = backend->ops;
    pthread_mutex_unlock(&backend->lock);
    if (connected && backend->class->poll)
        timer_arm(backend->timer, clock_now(backend->board->clock) + NET_POLL_NS);
    look(backend);
}

void net_wake(NetBackend *backend)
{
    if (backend->timer)
        timer_arm(backend->timer, clock_now(backend->board->clock));
    else
        io_notifier_post(backend->notifier);
}

void net_room_locked(NetBackend *backend)
{
    backend->room = true;
    net_wake(backend);
}

void net_peer_locked(NetBackend *backend, bool up)
{
    if (backend->peer_up == up)
        return;
    backend->peer_up = up;
    if (!up) {
        net_queue_clear(&backend->tx);
        backend->room = true; /* the NIC's next frames are lost, and its driver goes on */
    }
    net_wake(backend);
}

void net_backend_flush(NetBackend *backend)
{
    if (!backend->class->flush)
        return;
    pthread_mutex_lock(&backend->lock);
    backend->class->flush(backend);
    pthread_mutex_unlock(&backend->lock);
}

void net_backend_resume(NetBackend *backend)
{
    pthread_mutex_lock(&backend->lock);
    backend->resumes++;
    if (backend->rx_waiting) {
        backend->rx_waiting = false;
        net_wake(backend);
    }
    pthread_mutex_unlock(&backend->lock);
}

/* ---- The rest of net.h -------------------------------------------------------------------------------------- */

static void set_offloads_locked(NetBackend *backend, uint32_t offloads)
{
    backend->nic_offloads = offloads & NET_OFFLOAD_CSUM ? offloads : 0;
    if (backend->class->set_offloads)
        backend->class->set_offloads(backend, backend->nic_offloads);
}

void net_backend_set_offloads(NetBackend *backend, uint32_t offloads)
{
    pthread_mutex_lock(&backend->lock);
    set_offloads_locked(backend, offloads);
    pthread_mutex_unlock(&backend->lock);
}

int net_connect(NetBackend *backend, const NetNicOps *ops, void *nic)
{
    pthread_mutex_lock(&backend->lock);
    int result = backend->ops ? -EBUSY : 0;
    if (result == 0) {
        backend->ops = ops;
        backend->nic = nic;
        backend->rx_waiting = backend->tx_waiting = false;
        backend->told_up = backend->cable_in && backend->peer_up;
        set_offloads_locked(backend, 0);
        net_wake(backend);
    }
    pthread_mutex_unlock(&backend->lock);
    return result;
}

void net_disconnect(NetBackend *backend)
{
    pthread_mutex_lock(&backend->lock);
    backend->ops = NULL;
    backend->nic = NULL;
    while (backend->calling && !io_thread_is_current(backend->io))
        pthread_cond_wait(&backend->idle, &backend->lock);
    net_queue_clear(&backend->rx);
    backend->rx_waiting = backend->tx_waiting = false;
    set_offloads_locked(backend, 0);
    pthread_mutex_unlock(&backend->lock);
}

uint32_t net_backend_offloads(const NetBackend *backend) { return backend->offloads; }

IoThread *net_backend_io(const NetBackend *backend) { return backend->io; }

const char *net_backend_name(const NetBackend *backend) { return backend->class->name; }

bool net_backend_link(NetBackend *backend)
{
    pthread_mutex_lock(&backend->lock);
    bool up = backend->cable_in && backend->peer_up;
    pthread_mutex_unlock(&backend->lock);
    return up;
}

void net_backend_set_link(NetBackend *backend, bool up)
{
    pthread_mutex_lock(&backend->lock);
    backend->cable_in = up;
    if (!up)
        net_queue_clear(&backend->rx);
    net_wake(backend);
    pthread_mutex_unlock(&backend->lock);
}

void net_backend_counters(NetBackend *backend, NetCounters *counters)
{
    pthread_mutex_lock(&backend->lock);
    *counters = backend->counters;
    counters->rx_queued = backend->rx.frames;
    counters->link = backend->cable_in && backend->peer_up;
    pthread_mutex_unlock(&backend->lock);
}

void net_backend_poll(NetBackend *backend)
{
    if (!io_thread_running(backend->io))
        look(backend);
}

void net_backend_free(NetBackend *backend)
{
    if (backend)
        backend->class->free(backend);
}

int net_backend_capture(NetBackend *backend, const char *path, uint32_t snaplen, Error *error)
{
    NetCapture *capture = net_capture_open(path, snaplen, error);
    if (!capture)
        return error && error->code ? -error->code : -EIO;
    pthread_mutex_lock(&backend->lock);
    NetCapture *before = backend->capture;
    backend->capture = capture;
    pthread_mutex_unlock(&backend->lock);
    net_capture_close(before, NULL);
    return 0;
}

int net_backend_capture_stop(NetBackend *backend, Error *error)
{
    pthread_mutex_lock(&backend->lock);
    NetCapture *capture = backend->capture;
    backend->capture = NULL;
    pthread_mutex_unlock(&backend->lock);
    return net_capture_close(capture, error);
}

/* ---- For classes -------------------------------------------------------------------------------------------- */

int net_base_init(NetBackend *backend, const NetBackendClass *class, Board *board, IoThread *io, Error *error)
{
    backend->class = class;
    backend->board = board;
    backend->io = io;
    backend->peer_up = backend->cable_in = backend->told_up = true;
    net_queue_init(&backend->rx);
    net_queue_init(&backend->tx);
    pthread_mutex_init(&backend->lock, NULL);
    pthread_cond_init(&backend->idle, NULL);
    bool virtual_clock = clock_kind(board->clock) == CLOCK_KIND_VIRTUAL;
    backend->scratch = malloc(NET_FRAME_MAX);
    backend->rx_scratch = malloc(NET_FRAME_MAX);
    backend->notifier = io_notifier_new(io, on_notifier, backend);
    backend->timer = virtual_clock ? timer_new(board->clock, on_timer, backend) : NULL;
    if (backend->scratch && backend->rx_scratch && backend->notifier && (backend->timer || !virtual_clock))
        return 0;
    net_base_destroy(backend);
    return error_set(error, ENOMEM, "no host memory for the network %s", class->name);
}

void net_base_destroy(NetBackend *backend)
{
    if (backend->timer)
        timer_free(backend->timer);
    io_notifier_free(backend->notifier);
    net_queue_clear(&backend->rx);
    net_queue_clear(&backend->tx);
    net_capture_close(backend->capture, NULL);
    free(backend->scratch);
    free(backend->rx_scratch);
    pthread_cond_destroy(&backend->idle);
    pthread_mutex_destroy(&backend->lock);
}
