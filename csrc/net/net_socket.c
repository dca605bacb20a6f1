#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <unistd.h>

#include "net/net_address.h"
#include "net/net_backend.h"
#include "net/net_socket.h"
#include "net/net_stream.h"

#define FRAMES_PER_LOOK   64
#define CONNECT_MS        10000
#define DATAGRAM_RETRY_MS 1
#define STREAM_BUFFER     (256u << 10)
#define PACKET_MAX        (NET_FRAME_MAX + (uint32_t)sizeof(NetHeader))

typedef struct NetSocket {
    NetBackend base;
    /* Changed on the I/O thread, with the lock held. */
    int fd; /* connected or being connected; -1: none */
    int listener;
    int timer; /* to try again */
    bool datagrams, connecting, lost, writing;
    bool header;
    bool watched; /* fd is in the I/O thread's set: on that thread only */
    bool has_remote;
    uint32_t reconnect_ms;
    NetAddress remote, local;
    NetStream in, out;
    char *unlink_path;
} NetSocket;

static NetSocket *socket_of(NetBackend *backend) { return container_of(backend, NetSocket, base); }

static uint32_t head_size(const NetSocket *sock) { return sock->header ? sizeof(NetHeader) : 0; }

/* ---- Sending: lock held ------------------------------------------------------------------------------------- */

static bool is_lost(const NetSocket *sock) { return __atomic_load_n(&sock->lost, __ATOMIC_RELAXED); }

static void lose_locked(NetSocket *sock)
{
    __atomic_store_n(&sock->lost, true, __ATOMIC_RELAXED);
    net_peer_locked(&sock->base, false);
}

static void arm_timer(NetSocket *sock, uint32_t ms)
{
    struct itimerspec spec = {.it_value = {.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000}};
    if (sock->timer >= 0)
        timerfd_settime(sock->timer, 0, &spec, NULL);
}

/* EPOLLOUT says nothing of the room at the other end of datagrams. */
static void want_writing(NetSocket *sock)
{
    if (sock->has_remote)
        arm_timer(sock, DATAGRAM_RETRY_MS);
    else if (!sock->writing)
        io_watch_modify(sock->base.io, sock->fd, EPOLLIN | EPOLLOUT);
    sock->writing = !sock->has_remote;
}

static int send_datagram(NetSocket *sock, const struct iovec *iov, uint32_t count, const NetHeader *header)
{
    struct iovec all[NET_MAX_SEGMENTS + 1] = {{(void *)(uintptr_t)header, sizeof *header}};
    memcpy(all + 1, iov, count * sizeof *iov);
    struct msghdr message = {.msg_iov = sock->header ? all : all + 1, .msg_iovlen = count + sock->header};
    if (sock->has_remote) {
        message.msg_name = &sock->remote.address;
        message.msg_namelen = sock->remote.size;
    }
    if (sendmsg(sock->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT) >= 0)
        return 0;
    if (errno == EAGAIN) {
        want_writing(sock);
        return -EAGAIN;
    }
    int result = -errno;
    if (errno == EPIPE || errno == ECONNRESET)
        lose_locked(sock);
    return result;
}

/* As much as the socket takes. */
static void write_out(NetSocket *sock)
{
    NetStream *out = &sock->out;
    while (out->start < out->end) {
        ssize_t written =
            send(sock->fd, out->bytes + out->start, out->end - out->start, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (written < 0) {
            if (errno == EAGAIN)
                want_writing(sock);
            else
                lose_locked(sock);
            return;
        }
        out->start += (uint32_t)written;
    }
}

static int send_stream(NetSocket *sock, const struct iovec *iov, uint32_t count, const NetHeader *header)
{
    NetStream *out = &sock->out;
    uint32_t length = (uint32_t)net_length(iov, count) + head_size(sock), need = NET_STREAM_HEAD + length;
    if (net_stream_room(out) < need)
        write_out(sock);
    if (sock->lost)
        return -ENOLINK;
    if (net_stream_room(out) < need)
        return -EAGAIN; /* it waits for EPOLLOUT */
    store_be32(out->bytes + out->end, length);
    out->end += NET_STREAM_HEAD;
    memcpy(out->bytes + out->end, header, head_size(sock));
    out->end += head_size(sock);
    for (uint32_t i = 0; i < count; out->end += (uint32_t)iov[i++].iov_len)
        memcpy(out->bytes + out->end, iov[i].iov_base, iov[i].iov_len);
    net_wake(&sock->base); /* written soon, with what comes after it */
    return 0;
}

static int socket_send(NetBackend *backend, const struct iovec *iov, uint32_t count, const NetHeader *header)
{
    NetSocket *sock = socket_of(backend);
    if (sock->fd < 0 || sock->connecting || sock->lost)
        return -ENOLINK;
    return (sock->datagrams ? send_datagram : send_stream)(sock, iov, count, header);
}

static void socket_flush(NetBackend *backend)
{
    NetSocket *sock = socket_of(backend);
    if (sock->fd >= 0 && !sock->connecting && !sock->lost && !sock->writing)
        write_out(sock);
}

/* ---- Receiving: I/O thread, lock not held ------------------------------------------------------------------- */

static void set_lost(NetSocket *sock)
{
    pthread_mutex_lock(&sock->base.lock);
    lose_locked(sock);
    pthread_mutex_unlock(&sock->base.lock);
}

static bool deliver_packet(NetSocket *sock, uint8_t *packet, uint32_t length)
{
    NetHeader header = {0};
    uint32_t head = head_size(sock);
    if (length < head + NET_ETHERNET)
        return true; /* a peer's nonsense */
    memcpy(&header, packet, head);
    struct iovec iov = {packet + head, length - head};
    return net_deliver(&sock->base, &iov, 1, &header);
}

/* Packets that are whole; false: the NIC has no room. */
static bool deliver_stream(NetSocket *sock, uint32_t *frames)
{
    uint8_t *packet;
    int length;
    bool go_on = true;
    while (go_on && (length = net_stream_take(&sock->in, 1, PACKET_MAX, &packet)) != 0) {
        if (length < 0) {
            set_lost(sock);
            return true;
        }
        go_on = deliver_packet(sock, packet, (uint32_t)length);
        (*frames)++;
    }
    return go_on;
}

static bool receive(NetSocket *sock, uint32_t *frames)
{
    NetStream *in = &sock->in;
    for (int i = 0; i < FRAMES_PER_LOOK && !is_lost(sock); i++) {
        uint32_t room = sock->datagrams ? in->size : net_stream_room(in);
        ssize_t length = recv(sock->fd, in->bytes + (sock->datagrams ? 0 : in->end), room, MSG_DONTWAIT);
        bool closed = length == 0 && !sock->has_remote;
        if (closed || (length < 0 && errno != EAGAIN && errno != EINTR && errno != ECONNREFUSED))
            set_lost(sock);
        if (length <= 0)
            return true;
        in->end += sock->datagrams ? 0 : (uint32_t)length;
        bool go_on =
            sock->datagrams ? deliver_packet(sock, in->bytes, (uint32_t)length) : deliver_stream(sock, frames);
        *frames += sock->datagrams;
        if (!go_on)
            return false;
    }
    return true;
}

static void watch_events(NetSocket *sock, bool reading)
{
    pthread_mutex_lock(&sock->base.lock);
    uint32_t events = (reading ? EPOLLIN : 0u) | (sock->writing ? EPOLLOUT : 0u);
    if (sock->watched)
        io_watch_modify(sock->base.io, sock->fd, events);
    pthread_mutex_unlock(&sock->base.lock);
}

static void look(NetSocket *sock)
{
    uint32_t frames = 0;
    bool go_on = receive(sock, &frames);
    if (frames)
        net_delivered(&sock->base);
    if (!go_on)
        watch_events(sock, false);
}

static void socket_resume(NetBackend *backend)
{
    NetSocket *sock = socket_of(backend);
    uint32_t frames = 0;
    if (sock->fd < 0)
        return;
    bool go_on = sock->datagrams || deliver_stream(sock, &frames); /* what was read already */
    if (frames)
        net_delivered(backend);
    if (go_on)
        watch_events(sock, true);
}

/* ---- Connections: I/O thread, lock not held ----------------------------------------------------------------- */

static void on_socket(void *opaque, uint32_t events);

static void drop_connection(NetSocket *sock)
{
    if (sock->watched)
        io_watch_remove(sock->base.io, sock->fd);
    sock->watched = false;
    pthread_mutex_lock(&sock->base.lock);
    if (sock->fd >= 0)
        close(sock->fd);
    sock->fd = -1;
    sock->connecting = sock->lost = sock->writing = false;
    sock->in.start = sock->in.end = sock->out.start = sock->out.end = 0;
    net_peer_locked(&sock->base, false);
    pthread_mutex_unlock(&sock->base.lock);
    if (sock->listener >= 0)
        io_watch_modify(sock->base.io, sock->listener, EPOLLIN);
    else if (sock->reconnect_ms)
        arm_timer(sock, sock->reconnect_ms);
}

/* -errno: it cannot be watched. */
static int take_connection(NetSocket *sock, int fd, bool connecting)
{
    pthread_mutex_lock(&sock->base.lock);
    sock->fd = fd;
    sock->connecting = sock->writing = connecting;
    net_peer_locked(&sock->base, !connecting);
    pthread_mutex_unlock(&sock->base.lock);
    int result = io_watch_add(sock->base.io, fd, connecting ? EPOLLOUT : EPOLLIN, on_socket, sock);
    sock->watched = result == 0;
    return result;
}

/* 0, or -errno: a connection that was begun has failed. */
static int connect_result(int fd)
{
    int failed = 0;
    socklen_t size = sizeof failed;
    getsockopt(fd, SOL_SOCKET, SO_ERROR, &failed, &size);
    return -failed;
}

/* `wait`: until it is known whether there is somebody. */
static int start_connect(NetSocket *sock, bool wait)
{
    int fd = net_address_socket(&sock->remote, SOCK_STREAM);
    if (fd < 0)
        return fd;
    int result = connect(fd, (struct sockaddr *)&sock->remote.address, sock->remote.size);
    result = result < 0 ? -errno : 0;
    if (result == -EINPROGRESS && wait)
        result = poll(&(struct pollfd){.fd = fd, .events = POLLOUT}, 1, CONNECT_MS) > 0 ? connect_result(fd)
                                                                                        : -ETIMEDOUT;
    if (result < 0 && result != -EINPROGRESS) {
        close(fd);
        return result;
    }
    return take_connection(sock, fd, result < 0);
}

static void on_timer(void *opaque, uint32_t events)
{
    NetSocket *sock = opaque;
    uint64_t fired;
    if (read(sock->timer, &fired, sizeof fired) < 0)
        return;
    if (sock->has_remote) {
        pthread_mutex_lock(&sock->base.lock);
        net_room_locked(&sock->base);
        pthread_mutex_unlock(&sock->base.lock);
    } else if (sock->fd < 0 && start_connect(sock, false) < 0)
        drop_connection(sock);
}

static void on_listener(void *opaque, uint32_t events)
{
    NetSocket *sock = opaque;
    int fd = accept4(sock->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0)
        return;
    io_watch_modify(sock->base.io, sock->listener, 0); /* the next one waits until this one has gone */
    if (take_connection(sock, fd, false) < 0)
        drop_connection(sock);
}

static void finish_connect(NetSocket *sock)
{
    if (poll(&(struct pollfd){.fd = sock->fd, .events = POLLOUT}, 1, 0) == 0)
        return;
    if (connect_result(sock->fd) < 0) {
        drop_connection(sock);
        return;
    }
    pthread_mutex_lock(&sock->base.lock);
    sock->connecting = sock->writing = false;
    net_peer_locked(&sock->base, true);
    pthread_mutex_unlock(&sock->base.lock);
    watch_events(sock, true);
}

static void make_room(NetSocket *sock)
{
    pthread_mutex_lock(&sock->base.lock);
    sock->writing = false;
    if (!sock->datagrams)
        write_out(sock);
    if (!sock->writing) {
        io_watch_modify(sock->base.io, sock->fd, EPOLLIN);
        net_room_locked(&sock->base);
    }
    pthread_mutex_unlock(&sock->base.lock);
}

static void on_socket(void *opaque, uint32_t events)
{
    NetSocket *sock = opaque;
    if (sock->connecting) {
        finish_connect(sock);
        return;
    }
    if (events & EPOLLOUT)
        make_room(sock);
    pthread_mutex_lock(&sock->base.lock);
    bool waiting = sock->base.rx_waiting;
    pthread_mutex_unlock(&sock->base.lock);
    if (!waiting && events & ~(uint32_t)EPOLLOUT)
        look(sock);
    if (is_lost(sock) || (waiting && events & (EPOLLERR | EPOLLHUP)))
        drop_connection(sock);
}

static void socket_work(NetBackend *backend)
{
    NetSocket *sock = socket_of(backend);
    pthread_mutex_lock(&backend->lock);
    socket_flush(backend);
    bool lost = sock->lost;
    pthread_mutex_unlock(&backend->lock);
    if (lost)
        drop_connection(sock);
}

/* Where no I/O thread runs, nobody else looks at the listener either. */
static void socket_poll(NetBackend *backend)
{
    NetSocket *sock = socket_of(backend);
    if (sock->timer >= 0)
        on_timer(sock, EPOLLIN);
    if (sock->fd < 0 && sock->listener >= 0)
        on_listener(sock, EPOLLIN);
    if (sock->fd >= 0)
        on_socket(sock, EPOLLIN | (sock->writing ? EPOLLOUT : 0));
}

/* ---- Making and freeing ------------------------------------------------------------------------------------- */

static void socket_free(NetBackend *backend)
{
    NetSocket *sock = socket_of(backend);
    int fds[] = {sock->fd, sock->listener, sock->timer};
    for (size_t i = 0; i < ARRAY_SIZE(fds); i++) {
        if (fds[i] < 0)
            continue;
        io_watch_remove(backend->io, fds[i]);
        close(fds[i]);
    }
    net_base_destroy(backend);
    if (sock->unlink_path)
        unlink(sock->unlink_path);
    free(sock->unlink_path);
    free(sock->in.bytes);
    free(sock->out.bytes);
    free(sock);
}

static const NetBackendClass socket_class = {
    .name = "socket",
    .send = socket_send,
    .flush = socket_flush,
    .work = socket_work,
    .resume = socket_resume,
    .poll = socket_poll,
    .free = socket_free,
};

static int bind_local(NetSocket *sock, int fd, int type)
{
    int result = net_address_bind(fd, &sock->local, type);
    if (result == 0 && sock->local.address.ss_family == AF_UNIX)
        sock->unlink_path = strdup(((struct sockaddr_un *)&sock->local.address)->sun_path);
    return result;
}

static int start_listening(NetSocket *sock, const char *text, Error *error)
{
    int result = net_address_parse("listen", text, SOCK_STREAM, &sock->local, error);
    if (result < 0)
        return result;
    sock->listener = result = net_address_socket(&sock->local, SOCK_STREAM);
    if (result >= 0)
        result = bind_local(sock, sock->listener, SOCK_STREAM);
    if (result == 0 && listen(sock->listener, 1) < 0)
        result = -errno;
    if (result == 0)
        result = io_watch_add(sock->base.io, sock->listener, EPOLLIN, on_listener, sock);
    return result < 0 ? error_set(error, -result, "listen=%s: %s", text, strerror(-result)) : 0;
}

static int make_timer(NetSocket *sock)
{
    sock->timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    return sock->timer < 0 ? -errno : io_watch_add(sock->base.io, sock->timer, EPOLLIN, on_timer, sock);
}

static int start_connecting(NetSocket *sock, const char *text, Error *error)
{
    int result = net_address_parse("connect", text, SOCK_STREAM, &sock->remote, error);
    if (result < 0)
        return result;
    if (sock->reconnect_ms && make_timer(sock) < 0)
        return error_set(error, EMFILE, "connect=%s: no descriptor for a timer (see ulimit -n)", text);
    result = start_connect(sock, !sock->reconnect_ms);
    if (result < 0 && sock->reconnect_ms) {
        arm_timer(sock, sock->reconnect_ms);
        return 0;
    }
    return result < 0 ? error_set(error, -result, "connect=%s: %s", text, strerror(-result)) : 0;
}

static int start_datagrams(NetSocket *sock, const NetSocketOptions *options, Error *error)
{
    if (!options->local)
        return error_set(error, EINVAL, "remote=%s: datagrams need local=ADDRESS as well", options->remote);
    int result = net_address_parse("remote", options->remote, SOCK_DGRAM, &sock->remote, error);
    if (result == 0)
        result = net_address_parse("local", options->local, SOCK_DGRAM, &sock->local, error);
    if (result < 0)
        return result;
    if (sock->remote.address.ss_family != sock->local.address.ss_family)
        return error_set(error, EINVAL, "remote=%s and local=%s are addresses of two kinds", options->remote,
                         options->local);
    sock->datagrams = sock->has_remote = true;
    if (make_timer(sock) < 0)
        return error_set(error, EMFILE, "local=%s: no descriptor for a timer (see ulimit -n)", options->local);
    int fd = net_address_socket(&sock->local, SOCK_DGRAM);
    if (fd >= 0 && (result = bind_local(sock, fd, SOCK_DGRAM)) == 0)
        result = take_connection(sock, fd, false);
    else if (fd >= 0)
        close(fd);
    else
        result = fd;
    return result < 0 ? error_set(error, -result, "local=%s: %s", options->local, strerror(-result)) : 0;
}

static int take_fd(NetSocket *sock, int fd, Error *error)
{
    int type = 0;
    socklen_t size = sizeof type;
    if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) < 0)
        return error_set(error, errno, "fd=%d is not a socket", fd);
    fcntl(fd, F_SETFL, O_NONBLOCK);
    fcntl(fd, F_SETFD, FD_CLOEXEC);
    sock->datagrams = type != SOCK_STREAM;
    int result = take_connection(sock, fd, false);
    return result < 0 ? error_set(error, -result, "fd=%d: %s", fd, strerror(-result)) : 0;
}

static int start(NetSocket *sock, const NetSocketOptions *options, Error *error)
{
    int ways = !!options->listen + !!options->connect + !!options->remote + (options->fd > 0);
    if (ways != 1)
        return error_set(error, EINVAL,
                         "a socket network has one of listen=, connect=, remote= (with local=) and fd=");
    if (options->listen)
        return start_listening(sock, options->listen, error);
    if (options->connect)
        return start_connecting(sock, options->connect, error);
    return options->remote ? start_datagrams(sock, options, error) : take_fd(sock, options->fd, error);
}

NetBackend *net_socket_new(Board *board, IoThread *io, const NetSocketOptions *options, Error *error)
{
    NetSocket *sock = calloc(1, sizeof *sock);
    if (!sock || net_base_init(&sock->base, &socket_class, board, io, error) < 0) {
        error_set(error, ENOMEM, "no host memory for a socket network");
        free(sock);
        return NULL;
    }
    sock->fd = sock->listener = sock->timer = -1;
    sock->reconnect_ms = options->reconnect_ms;
    sock->header = options->header;
    sock->base.peer_up = sock->base.told_up = false;
    if (sock->header)
        sock->base.offloads = NET_OFFLOAD_CSUM | NET_OFFLOAD_TSO4 | NET_OFFLOAD_TSO6 | NET_OFFLOAD_ECN |
                              NET_OFFLOAD_UFO | NET_OFFLOAD_USO;
    sock->in = (NetStream){malloc(STREAM_BUFFER), STREAM_BUFFER, 0, 0};
    sock->out = (NetStream){malloc(STREAM_BUFFER), STREAM_BUFFER, 0, 0};
    int result = sock->in.bytes && sock->out.bytes
                     ? start(sock, options, error)
                     : error_set(error, ENOMEM, "no host memory for a socket network");
    if (result == 0)
        return &sock->base;
    if (sock->fd == options->fd)
        sock->fd = -1; /* stays the caller's */
    socket_free(&sock->base);
    return NULL;
}

int net_socket_address(NetBackend *backend, char *text, size_t size)
{
    NetSocket *sock = socket_of(backend);
    NetAddress address = {.size = sizeof address.address};
    int fd = sock->listener >= 0 ? sock->listener : sock->fd;
    if (fd < 0 || getsockname(fd, (struct sockaddr *)&address.address, &address.size) < 0)
        return snprintf(text, size, "%s", "");
    return net_address_format(&address, text, size);
}

int net_socket_pair(int ends[2])
{
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends) < 0)
        return -errno;
    for (int i = 0; i < 2; i++) { /* several of the largest frames; what the host allows is enough if less */
        int size = 1 << 20;
        setsockopt(ends[i], SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
    }
    return 0;
}
