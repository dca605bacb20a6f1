#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "net/net_user_internal.h"

#define EVENTS_PER_WAIT 64
#define NS_PER_MS       1000000ll
#define POLL_FOREVER    UINT32_MAX

static NetUser *user_of(NetBackend *backend) { return container_of(backend, NetUser, base); }

static int64_t host_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000 * NS_PER_MS + now.tv_nsec;
}

/* ---- What libslirp calls: lock held ------------------------------------------------------------------------- */

static void on_guest_error(const char *message, void *opaque)
{
    NetUser *user = opaque;
    user->base.counters.tx_invalid++;
}

static int64_t on_clock(void *opaque) { return host_ns(); }

static void *on_timer_new(SlirpTimerCallback callback, void *timer_opaque, void *opaque)
{
    NetUser *user = opaque;
    UserTimer *timer = calloc(1, sizeof *timer);
    if (!timer)
        return NULL;
    *timer = (UserTimer){.callback = callback, .opaque = timer_opaque, .at = INT64_MAX, .next = user->timers};
    user->timers = timer;
    return timer;
}

static void on_timer_free(void *timer, void *opaque)
{
    NetUser *user = opaque;
    for (UserTimer **link = &user->timers; *link; link = &(*link)->next) {
        if (*link == timer) {
            *link = (*link)->next;
            free(timer);
            return;
        }
    }
}

static void on_timer_mod(void *timer, int64_t expire_ms, void *opaque)
{
    if (timer)
        ((UserTimer *)timer)->at = expire_ms * NS_PER_MS;
}

static void on_register(int fd, void *opaque) {}

/* It is about to be closed, which takes it out of the epoll set; its number may come back as another socket. */
static void on_unregister(int fd, void *opaque)
{
    NetUser *user = opaque;
    if (fd < 0 || (uint32_t)fd >= user->slots || !user->watched[fd].events)
        return;
    epoll_ctl(user->epoll, EPOLL_CTL_DEL, fd, NULL);
    user->watched[fd] = (UserWatch){.round = user->watched[fd].round, .next_events = user->watched[fd].next_events};
}

static void on_notify(void *opaque)
{
    NetUser *user = opaque;
    user->dirty = true;
    net_wake(&user->base);
}

static const SlirpCallbacks callbacks = {
    .send_packet = net_user_from_slirp,
    .guest_error = on_guest_error,
    .clock_get_ns = on_clock,
    .timer_new = on_timer_new,
    .timer_free = on_timer_free,
    .timer_mod = on_timer_mod,
    .register_poll_fd = on_register,
    .unregister_poll_fd = on_unregister,
    .notify = on_notify,
};

/* ---- Descriptors and time: lock held ------------------------------------------------------------------------ */

static bool make_slot(NetUser *user, int fd)
{
    if ((uint32_t)fd < user->slots)
        return true;
    uint32_t slots = MAX((uint32_t)fd + 64, user->slots * 2);
    UserWatch *watched = realloc(user->watched, slots * sizeof *watched);
    if (!watched)
        return false;
    memset(watched + user->slots, 0, (slots - user->slots) * sizeof *watched);
    user->watched = watched;
    user->slots = slots;
    return true;
}

static uint32_t to_epoll(int events)
{
    return (events & SLIRP_POLL_IN ? EPOLLIN : 0u) | (events & SLIRP_POLL_OUT ? EPOLLOUT : 0u) |
           (events & SLIRP_POLL_PRI ? EPOLLPRI : 0u) | (events & SLIRP_POLL_ERR ? EPOLLERR : 0u) |
           (events & SLIRP_POLL_HUP ? EPOLLHUP : 0u);
}

static int from_epoll(uint32_t events)
{
    return (events & EPOLLIN ? SLIRP_POLL_IN : 0) | (events & EPOLLOUT ? SLIRP_POLL_OUT : 0) |
           (events & EPOLLPRI ? SLIRP_POLL_PRI : 0) | (events & EPOLLERR ? SLIRP_POLL_ERR : 0) |
           (events & EPOLLHUP ? SLIRP_POLL_HUP : 0);
}

/* The index that libslirp is given for a descriptor is the descriptor. */
static int add_poll(int fd, int events, void *opaque)
{
    NetUser *user = opaque;
    if (fd < 0 || !make_slot(user, fd))
        return -1;
    UserWatch *watch = &user->watched[fd];
    if (watch->round != user->round) {
        if (user->wanted_count == user->wanted_size) {
            uint32_t size = user->wanted_size * 2 + 64;
            int *wanted = realloc(user->wanted, size * sizeof *wanted);
            if (!wanted)
                return -1;
            user->wanted = wanted;
            user->wanted_size = size;
        }
        user->wanted[user->wanted_count++] = fd;
        watch->round = user->round;
        watch->next_events = 0;
    }
    watch->next_events |= to_epoll(events);
    return fd;
}

static void watch_fd(NetUser *user, int fd)
{
    UserWatch *watch = &user->watched[fd];
    uint32_t events = watch->round == user->round ? watch->next_events : 0;
    if (events == watch->events)
        return;
    struct epoll_event event = {.events = events, .data.fd = fd};
    if (!events)
        epoll_ctl(user->epoll, EPOLL_CTL_DEL, fd, NULL);
    else if (epoll_ctl(user->epoll, watch->events ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, fd, &event) < 0)
        epoll_ctl(user->epoll, errno == ENOENT ? EPOLL_CTL_ADD : EPOLL_CTL_MOD, fd, &event);
    watch->events = events;
}

static void set_timer(NetUser *user, int64_t at)
{
    if (user->armed <= at)
        return; /* it fires too early, and is set again then: no call for each frame */
    struct itimerspec spec = {.it_value = {.tv_sec = at / (1000 * NS_PER_MS), .tv_nsec = at % (1000 * NS_PER_MS)}};
    timerfd_settime(user->timer, TFD_TIMER_ABSTIME, &spec, NULL);
    user->armed = at;
}

/* Ask libslirp what it waits for, and wait for that. */
static void refill(NetUser *user)
{
    uint32_t timeout = POLL_FOREVER;
    uint32_t before = user->wanted_count;
    int *last = user->wanted;
    user->wanted = user->last_wanted;
    user->last_wanted = last;
    uint32_t size = user->wanted_size;
    user->wanted_size = user->last_size;
    user->last_size = size;
    user->wanted_count = 0;
    user->round++;
    user->dirty = false;
    user->slirp->pollfds_fill(user->stack, &timeout, add_poll, user);
    for (uint32_t i = 0; i < user->wanted_count; i++)
        watch_fd(user, user->wanted[i]);
    for (uint32_t i = 0; i < before; i++) /* and no more for what it no longer wants */
        watch_fd(user, user->last_wanted[i]);
    int64_t at = timeout == POLL_FOREVER ? INT64_MAX : host_ns() + timeout * NS_PER_MS;
    for (UserTimer *timer = user->timers; timer; timer = timer->next)
        at = MIN(at, timer->at);
    if (at != INT64_MAX)
        set_timer(user, MAX(at, 1));
}

static int revents(int fd, void *opaque)
{
    NetUser *user = opaque;
    return fd >= 0 && (uint32_t)fd < user->slots ? from_epoll(user->watched[fd].ready) : 0;
}

static void run_timers(NetUser *user)
{
    int64_t now = host_ns();
    for (UserTimer *timer = user->timers; timer; timer = timer->next) {
        if (timer->at > now)
            continue;
        timer->at = INT64_MAX;
        timer->callback(timer->opaque);
        break; /* it may have freed or made others: the rest has its turn with the next look */
    }
}

/* One round: what is ready, what is due, what to wait for then. */
static void serve(NetUser *user)
{
    struct epoll_event events[EVENTS_PER_WAIT];
    pthread_mutex_lock(&user->base.lock);
    int count = 0;
    if (!user->base.rx_waiting && !net_queue_is_full_locked(&user->base))
        count = epoll_wait(user->epoll, events, EVENTS_PER_WAIT, 0);
    for (int i = 0; i < count; i++)
        user->watched[events[i].data.fd].ready = events[i].events;
    user->slirp->pollfds_poll(user->stack, 0, revents, user);
    for (int i = 0; i < count; i++)
        user->watched[events[i].data.fd].ready = 0;
    run_timers(user);
    refill(user);
    pthread_mutex_unlock(&user->base.lock);
}

/* ---- On the I/O thread -------------------------------------------------------------------------------------- */

/* Connections wait at the host while the NIC has no buffers. */
static void on_sockets(void *opaque, uint32_t events)
{
    NetUser *user = opaque;
    serve(user);
    net_drain(&user->base);
    pthread_mutex_lock(&user->base.lock);
    bool stop = user->base.rx_waiting;
    user->base.source_stopped |= stop;
    pthread_mutex_unlock(&user->base.lock);
    if (stop)
        io_watch_modify(user->base.io, user->epoll, 0);
}

static void on_time(void *opaque, uint32_t events)
{
    NetUser *user = opaque;
    uint64_t fired;
    if (read(user->timer, &fired, sizeof fired) < 0)
        return;
    pthread_mutex_lock(&user->base.lock);
    user->armed = INT64_MAX;
    pthread_mutex_unlock(&user->base.lock);
    serve(user);
    net_drain(&user->base);
}

static void user_work(NetBackend *backend)
{
    NetUser *user = user_of(backend);
    pthread_mutex_lock(&backend->lock);
    if (user->dirty)
        refill(user);
    pthread_mutex_unlock(&backend->lock);
}

static void user_resume(NetBackend *backend)
{
    NetUser *user = user_of(backend);
    io_watch_modify(backend->io, user->epoll, EPOLLIN);
}

static void user_poll(NetBackend *backend)
{
    NetUser *user = user_of(backend);
    pthread_mutex_lock(&backend->lock);
    user->armed = INT64_MAX;
    pthread_mutex_unlock(&backend->lock);
    serve(user);
}

/* ---- Making and freeing ------------------------------------------------------------------------------------- */

static void user_free(NetBackend *backend)
{
    NetUser *user = user_of(backend);
    if (user->epoll >= 0)
        io_watch_remove(backend->io, user->epoll);
    if (user->timer >= 0)
        io_watch_remove(backend->io, user->timer);
    if (user->stack) {
        pthread_mutex_lock(&backend->lock);
        user->slirp->cleanup(user->stack);
        pthread_mutex_unlock(&backend->lock);
    }
    if (user->epoll >= 0)
        close(user->epoll);
    if (user->timer >= 0)
        close(user->timer);
    while (user->timers)
        on_timer_free(user->timers, user);
    net_base_destroy(backend);
    free(user->watched);
    free(user->wanted);
    free(user->last_wanted);
    free(user);
}

static const NetBackendClass user_class = {
    .name = "user",
    .send = net_user_to_slirp,
    .work = user_work,
    .resume = user_resume,
    .poll = user_poll,
    .free = user_free,
};

int net_user_available(Error *error)
{
    SlirpLibrary library;
    return slirp_load(&library, error);
}

NetBackend *net_user_new(Board *board, IoThread *io, const NetUserOptions *options, Error *error)
{
    static const NetUserOptions defaults = {0};
    SlirpConfig config;
    options = options ? options : &defaults;
    NetUser *user = calloc(1, sizeof *user);
    if (!user) {
        error_set(error, ENOMEM, "no host memory for a user network");
        return NULL;
    }
    user->epoll = user->timer = -1;
    user->armed = INT64_MAX;
    user->plain = options->plain;
    user->slirp = &user->library;
    if (net_user_config(options, &config, error) < 0 || slirp_load(&user->library, error) < 0 ||
        net_base_init(&user->base, &user_class, board, io, error) < 0) {
        free(user);
        return NULL;
    }
    user->base.offloads =
        user->plain ? NET_OFFLOAD_CSUM
                    : NET_OFFLOAD_CSUM | NET_OFFLOAD_TSO4 | NET_OFFLOAD_TSO6 | NET_OFFLOAD_ECN | NET_OFFLOAD_UFO;
    user->epoll = epoll_create1(EPOLL_CLOEXEC);
    user->timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    user->stack = user->slirp->new (&config, &callbacks, user);
    if (user->stack && user->epoll >= 0 && user->timer >= 0 &&
        io_watch_add(io, user->epoll, EPOLLIN, on_sockets, user) == 0 &&
        io_watch_add(io, user->timer, EPOLLIN, on_time, user) == 0) {
        pthread_mutex_lock(&user->base.lock);
        refill(user);
        pthread_mutex_unlock(&user->base.lock);
        return &user->base;
    }
    error_set(error, user->stack ? EMFILE : EINVAL, "%s",
              user->stack ? "cannot make the descriptors of a user network (see ulimit -n)"
                          : "libslirp refused the user network's options");
    user_free(&user->base);
    return NULL;
}

const char *net_user_version(NetBackend *backend) { return user_of(backend)->slirp->version; }

int net_user_connections(NetBackend *backend, char *text, size_t size)
{
    NetUser *user = user_of(backend);
    pthread_mutex_lock(&backend->lock);
    char *info = user->slirp->connection_info(user->stack);
    pthread_mutex_unlock(&backend->lock);
    int length = snprintf(text, size, "%s", info ? info : "");
    free(info); /* g_free() is free(3) since GLib 2.46 */
    return length;
}

/* The port of a listening socket that libslirp has only now. */
static int new_port(NetUser *user, const uint64_t *before, uint32_t slots, bool udp)
{
    for (uint32_t i = 0; i < user->wanted_count; i++) {
        int fd = user->wanted[i], type = 0;
        struct sockaddr_in address;
        socklen_t size = sizeof address, type_size = sizeof type;
        if ((uint32_t)fd < slots && before[fd / 64] >> fd % 64 & 1)
            continue;
        if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &type_size) == 0 &&
            type == (udp ? SOCK_DGRAM : SOCK_STREAM) && getsockname(fd, (struct sockaddr *)&address, &size) == 0)
            return ntohs(address.sin_port);
    }
    return -ENOENT;
}

static int add_forward(NetUser *user, const HostForward *forward)
{
    uint64_t before[1024] = {0}; /* descriptors that it has already */
    refill(user);
    for (uint32_t i = 0; i < user->wanted_count; i++)
        if ((uint32_t)user->wanted[i] < 64 * ARRAY_SIZE(before))
            before[user->wanted[i] / 64] |= 1ull << user->wanted[i] % 64;
    errno = 0;
    if (user->slirp->add_hostfwd(user->stack, forward->udp, forward->host, forward->host_port, forward->guest,
                                 forward->guest_port) < 0)
        return errno ? -errno : -EINVAL;
    refill(user);
    return forward->host_port ? forward->host_port : new_port(user, before, 64 * ARRAY_SIZE(before), forward->udp);
}

int net_user_hostfwd(NetBackend *backend, const char *rule, Error *error)
{
    HostForward forward;
    if (net_user_parse_forward(rule, false, &forward, error) < 0)
        return -EINVAL;
    pthread_mutex_lock(&backend->lock);
    int result = add_forward(user_of(backend), &forward);
    pthread_mutex_unlock(&backend->lock);
    if (result < 0)
        error_set(error, -result, "hostfwd=%s: cannot listen on port %u: %s", rule, forward.host_port,
                  strerror(-result));
    return result;
}

int net_user_hostfwd_remove(NetBackend *backend, const char *rule, Error *error)
{
    HostForward forward;
    NetUser *user = user_of(backend);
    if (net_user_parse_forward(rule, true, &forward, error) < 0)
        return -EINVAL;
    pthread_mutex_lock(&backend->lock);
    int result = user->slirp->remove_hostfwd(user->stack, forward.udp, forward.host, forward.host_port);
    refill(user);
    pthread_mutex_unlock(&backend->lock);
    return result < 0 ? error_set(error, ENOENT, "hostfwd=%s: there is no such forwarding", rule) : 0;
}
