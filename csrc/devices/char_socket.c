#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "devices/char_socket.h"

#define CHUNK 4096

struct CharSocket {
    Board *board;
    int listener;
    char path[sizeof((struct sockaddr_un *)0)->sun_path];
    IoNotifier *resume;
    pthread_mutex_t call_lock; /* held while `ops` are called; taken before `lock` */
    const CharSocketOps *ops;
    void *opaque;
    pthread_mutex_t lock; /* what follows */
    int client;           /* -1: none */
    bool refused;         /* a write found no room */
    uint32_t watched;     /* events that epoll is asked for */
};

/* Lock held. Reading stops while the device has no room, writing is watched after a refusal. */
static void watch_client(CharSocket *socket, bool may_read)
{
    uint32_t events = EPOLLRDHUP | (may_read ? EPOLLIN : 0u) | (socket->refused ? EPOLLOUT : 0u);
    if (events == socket->watched)
        return;
    socket->watched = events;
    io_watch_modify(socket->board->io, socket->client, events);
}

static void listener_ready(void *opaque, uint32_t events);

/* On the I/O thread, call_lock held. */
static void drop_client(CharSocket *socket)
{
    pthread_mutex_lock(&socket->lock);
    int client = socket->client;
    socket->client = -1;
    socket->refused = false;
    pthread_mutex_unlock(&socket->lock);
    if (client < 0)
        return;
    io_watch_remove(socket->board->io, client);
    close(client);
    io_watch_add(socket->board->io, socket->listener, EPOLLIN, listener_ready, socket);
    if (socket->ops) {
        socket->ops->connected(socket->opaque, false);
        socket->ops->writable(socket->opaque); /* what was refused has nobody to go to */
    }
}

/* call_lock held. False: the client has gone. */
static bool read_client(CharSocket *socket)
{
    uint8_t data[CHUNK];
    size_t room;
    while (socket->ops && (room = socket->ops->room(socket->opaque)) > 0) {
        ssize_t got = recv(socket->client, data, MIN(room, sizeof data), MSG_DONTWAIT);
        if (got == 0)
            return false;
        if (got < 0)
            return errno == EAGAIN || errno == EINTR;
        socket->ops->receive(socket->opaque, data, (size_t)got);
        if ((size_t)got < sizeof data)
            break;
    }
    return true;
}

static void serve_client(CharSocket *socket, uint32_t events)
{
    pthread_mutex_lock(&socket->call_lock);
    if (socket->client >= 0) {
        bool there = !(events & (EPOLLHUP | EPOLLERR)) && read_client(socket);
        size_t room = socket->ops ? socket->ops->room(socket->opaque) : 0;
        /* A client that has said its last word is gone once that is read. */
        if (there && events & EPOLLRDHUP && room) {
            uint8_t byte;
            ssize_t left = recv(socket->client, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
            there = left > 0;
        }
        if (!there) {
            drop_client(socket);
        } else {
            pthread_mutex_lock(&socket->lock);
            bool tell = events & EPOLLOUT && socket->refused;
            if (tell)
                socket->refused = false;
            watch_client(socket, room > 0);
            pthread_mutex_unlock(&socket->lock);
            if (tell && socket->ops)
                socket->ops->writable(socket->opaque);
        }
    }
    pthread_mutex_unlock(&socket->call_lock);
}

static void client_ready(void *opaque, uint32_t events) { serve_client(opaque, events); }

static void resumed(void *opaque) { serve_client(opaque, 0); }

static void listener_ready(void *opaque, uint32_t events)
{
    CharSocket *self = opaque;
    int client = accept4(self->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (client < 0)
        return;
    pthread_mutex_lock(&self->call_lock);
    pthread_mutex_lock(&self->lock);
    self->client = client;
    self->refused = false;
    self->watched = EPOLLRDHUP | EPOLLIN;
    pthread_mutex_unlock(&self->lock);
    io_watch_remove(self->board->io, self->listener); /* others wait in its backlog */
    io_watch_add(self->board->io, client, EPOLLRDHUP | EPOLLIN, client_ready, self);
    if (self->ops)
        self->ops->connected(self->opaque, true);
    pthread_mutex_unlock(&self->call_lock);
}

/* A socket of a process that has ended is in the way; one that answers is somebody's. */
static bool is_stale(const struct sockaddr_un *address)
{
    int probe = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool stale = probe >= 0 && connect(probe, (const struct sockaddr *)address, sizeof *address) < 0 &&
                 errno == ECONNREFUSED;
    if (probe >= 0)
        close(probe);
    return stale;
}

static int listen_at(CharSocket *self)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strcpy(address.sun_path, self->path);
    self->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (self->listener < 0)
        return -errno;
    int result = bind(self->listener, (struct sockaddr *)&address, sizeof address);
    if (result < 0 && errno == EADDRINUSE && is_stale(&address)) {
        unlink(self->path);
        result = bind(self->listener, (struct sockaddr *)&address, sizeof address);
    } else if (result < 0 && errno == EADDRINUSE) {
        self->path[0] = 0; /* not ours to remove */
        return -EADDRINUSE;
    }
    if (result < 0 || listen(self->listener, 4) < 0)
        return -errno;
    return io_watch_add(self->board->io, self->listener, EPOLLIN, listener_ready, self);
}

CharSocket *char_socket_new(Board *board, const char *path, Error *error)
{
    CharSocket *self = calloc(1, sizeof *self);
    if (!self) {
        error_set(error, ENOMEM, "no host memory for a socket");
        return NULL;
    }
    self->board = board;
    self->listener = self->client = -1;
    pthread_mutex_init(&self->call_lock, NULL);
    pthread_mutex_init(&self->lock, NULL);
    int result = -ENAMETOOLONG;
    if (clock_kind(board->clock) != CLOCK_KIND_REALTIME) {
        result = error_set(error, EINVAL, "%s: a socket needs the realtime clock", path);
    } else if (*path && strlen(path) < sizeof self->path) {
        strcpy(self->path, path);
        self->resume = io_notifier_new(board->io, resumed, self);
        result = self->resume ? listen_at(self) : -EMFILE;
        if (result < 0)
            error_set(error, -result, "%s: %s", path, strerror(-result));
    } else {
        error_set(error, ENAMETOOLONG, "%s: a socket's path has 1 to %zu bytes", path, sizeof self->path - 1);
    }
    if (result < 0) {
        char_socket_free(self);
        return NULL;
    }
    return self;
}

void char_socket_free(CharSocket *self)
{
    if (!self)
        return;
    io_notifier_free(self->resume);
    if (self->client >= 0) {
        io_watch_remove(self->board->io, self->client);
        close(self->client);
    }
    if (self->listener >= 0) {
        io_watch_remove(self->board->io, self->listener);
        close(self->listener);
        if (self->path[0])
            unlink(self->path);
    }
    pthread_mutex_destroy(&self->call_lock);
    pthread_mutex_destroy(&self->lock);
    free(self);
}

void char_socket_attach(CharSocket *self, const CharSocketOps *ops, void *opaque)
{
    pthread_mutex_lock(&self->call_lock);
    self->ops = ops;
    self->opaque = opaque;
    pthread_mutex_unlock(&self->call_lock);
}

bool char_socket_is_connected(CharSocket *self)
{
    pthread_mutex_lock(&self->lock);
    bool connected = self->client >= 0;
    pthread_mutex_unlock(&self->lock);
    return connected;
}

size_t char_socket_write(CharSocket *self, const void *data, size_t size)
{
    size_t taken = size;
    pthread_mutex_lock(&self->lock);
    if (self->client >= 0) {
        ssize_t sent = send(self->client, data, size, MSG_DONTWAIT | MSG_NOSIGNAL);
        bool full = sent < 0 ? errno == EAGAIN || errno == EINTR : (size_t)sent < size;
        taken = sent < 0 ? (full ? 0 : size) : (size_t)sent; /* a client that has gone is dropped by epoll */
        if (full) {
            self->refused = true;
            watch_client(self, self->watched & EPOLLIN);
        }
    }
    pthread_mutex_unlock(&self->lock);
    return taken;
}

void char_socket_resume(CharSocket *self)
{
    pthread_mutex_lock(&self->lock);
    bool stopped = self->client >= 0 && !(self->watched & EPOLLIN);
    pthread_mutex_unlock(&self->lock);
    if (stopped)
        io_notifier_kick(self->resume);
}
