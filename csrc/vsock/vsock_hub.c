#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "vsock/vsock_internal.h"

#define LISTENER        UINT64_MAX
#define BACKLOG         128
#define EVENTS_PER_POLL 64

/* ---- Making and freeing ------------------------------------------------------------------------------------- */

static struct sockaddr_un address_of(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    return address;
}

/* A socket that was left by a program that is gone: nobody listens on it. */
static void remove_stale(const char *path)
{
    struct stat stat;
    if (lstat(path, &stat) < 0 || !S_ISSOCK(stat.st_mode))
        return;
    struct sockaddr_un address = address_of(path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return;
    if (connect(fd, (struct sockaddr *)&address, sizeof address) < 0 && errno == ECONNREFUSED)
        unlink(path);
    close(fd);
}

static int listen_on(VsockHub *hub)
{
    struct sockaddr_un address = address_of(hub->path);
    struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.u64 = LISTENER};
    remove_stale(hub->path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -errno;
    if (bind(fd, (struct sockaddr *)&address, sizeof address) < 0) {
        int code = errno;
        close(fd);
        return -code;
    }
    hub->listener = fd; /* and ours to remove */
    if (listen(fd, BACKLOG) < 0 || epoll_ctl(hub->epoll, EPOLL_CTL_ADD, fd, &event) < 0)
        return -errno;
    return 0;
}

static void forget(VsockHub *hub)
{
    for (uint32_t i = 0; i < VSOCK_BUCKETS; i++)
        hub->buckets[i] = VSOCK_NO_INDEX;
    hub->ready_first = hub->ready_last = VSOCK_NO_INDEX;
    hub->stray_first = hub->stray_count = 0;
    hub->next_port = VSOCK_HOST_PORT;
}

VsockHub *vsock_hub_new(const char *path, uint32_t guest_cid, Error *error)
{
    size_t length = strlen(path);
    if (length == 0 || length >= VSOCK_MAX_PATH) {
        error_set(error, ENAMETOOLONG,
                  "vsock: %s: the path of its socket has to have 1 to %u bytes; choose a shorter one", path,
                  VSOCK_MAX_PATH - 1);
        return NULL;
    }
    if (guest_cid < VSOCK_FIRST_CID || guest_cid == VSOCK_ANY_CID) {
        error_set(error, EINVAL, "vsock: the guest's CID %u is not one of 3 to 4294967294", guest_cid);
        return NULL;
    }
    VsockHub *hub = calloc(1, sizeof *hub);
    if (!hub) {
        error_set(error, ENOMEM, "no host memory for vsock");
        return NULL;
    }
    hub->guest_cid = guest_cid;
    hub->listener = -1;
    memcpy(hub->path, path, length);
    forget(hub);
    hub->epoll = epoll_create1(EPOLL_CLOEXEC);
    int result = hub->epoll < 0 ? -errno : listen_on(hub);
    if (result == 0)
        return hub;
    error_set(error, -result, "vsock: %s: %s%s", path, strerror(-result),
              result == -EADDRINUSE ? "; remove it, or choose another path" : "");
    vsock_hub_free(hub);
    return NULL;
}

void vsock_hub_reset(VsockHub *hub)
{
    for (uint32_t i = 0; i < VSOCK_MAX_CONNECTIONS; i++) {
        VsockConnection *connection = &hub->connections[i];
        connection->queued = false; /* the queue is emptied below */
        if (connection->state != VSOCK_FREE)
            vsock_connection_free(hub, connection);
    }
    forget(hub);
}

void vsock_hub_free(VsockHub *hub)
{
    if (!hub)
        return;
    vsock_hub_reset(hub);
    if (hub->listener >= 0) {
        unlink(hub->path);
        close(hub->listener);
    }
    if (hub->epoll >= 0)
        close(hub->epoll);
    free(hub);
}

void vsock_hub_counters(const VsockHub *hub, VsockCounters *counters) { *counters = hub->counters; }
int vsock_hub_fd(const VsockHub *hub) { return hub->epoll; }

/* ---- Packets of the guest ----------------------------------------------------------------------------------- */

bool vsock_hub_is_full(const VsockHub *hub) { return hub->stray_count == VSOCK_STRAYS; }

/* §5.10.6.5: who sends to nobody is told so. */
static void reset_stray(VsockHub *hub, const VsockHeader *header)
{
    if (header->op == VSOCK_OP_RST || vsock_hub_is_full(hub))
        return;
    uint32_t at = (hub->stray_first + hub->stray_count++) % VSOCK_STRAYS;
    hub->strays[at] = (VsockStray){.host_cid = header->dst_cid,
                                   .guest_port = header->src_port,
                                   .host_port = header->dst_port,
                                   .type = header->type};
}

/* To the program that listens on PATH_PORT; -1 when there is none. */
static int connect_program(const VsockHub *hub, uint32_t port)
{
    char path[sizeof((struct sockaddr_un *)0)->sun_path];
    snprintf(path, sizeof path, "%s_%u", hub->path, port);
    struct sockaddr_un address = address_of(path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof address) < 0) {
        close(fd);
        fd = -1;
    }
    return fd;
}

static void receive_request(VsockHub *hub, const VsockHeader *header)
{
    int fd = connect_program(hub, header->dst_port);
    VsockConnection *connection = fd < 0 ? NULL : vsock_connection_new(hub, fd, VSOCK_ESTABLISHED);
    if (!connection) {
        hub->counters.refused++;
        reset_stray(hub, header);
        return;
    }
    hub->counters.by_guest++;
    vsock_name(hub, connection, header->src_port, header->dst_port);
    vsock_take_credit(connection, header);
    vsock_pend(hub, connection, VSOCK_PENDING_RESPONSE);
}

/* "OK PORT\n" is the first that the program reads; its socket is empty, so there is room. */
static void receive_response(VsockHub *hub, VsockConnection *connection)
{
    char line[VSOCK_LINE_MAX];
    int length = snprintf(line, sizeof line, "OK %u\n", connection->host_port);
    if (connection->state != VSOCK_REQUESTED ||
        send(connection->fd, line, (size_t)length, MSG_DONTWAIT | MSG_NOSIGNAL) != length) {
        vsock_reset(hub, connection);
        return;
    }
    connection->state = VSOCK_ESTABLISHED;
    hub->counters.by_host++;
}

static void receive_reset(VsockHub *hub, VsockConnection *connection)
{
    bool over = connection->host_shutdown == VSOCK_SHUTDOWN_BOTH || connection->state == VSOCK_RESETTING;
    if (connection->state == VSOCK_REQUESTED)
        hub->counters.refused++;
    else
        hub->counters.resets += !over;
    if (connection->used == 0) {
        vsock_connection_free(hub, connection);
        return;
    }
    vsock_drain(hub, connection);
}

static void receive_shutdown(VsockHub *hub, VsockConnection *connection, uint32_t flags)
{
    if (connection->state != VSOCK_ESTABLISHED) {
        vsock_reset(hub, connection);
        return;
    }
    connection->guest_shutdown |= flags & VSOCK_SHUTDOWN_BOTH;
    if (connection->guest_shutdown & VSOCK_SHUTDOWN_RCV)
        shutdown(connection->fd, SHUT_RD); /* the program's writes fail from here on */
    vsock_flush(hub, connection);
}

static void receive_for(VsockHub *hub, VsockConnection *connection, const VsockHeader *header,
                        const struct iovec *data, uint32_t count)
{
    vsock_take_credit(connection, header);
    switch (header->op) {
    case VSOCK_OP_RESPONSE:
        receive_response(hub, connection);
        break;
    case VSOCK_OP_RST:
        receive_reset(hub, connection);
        break;
    case VSOCK_OP_SHUTDOWN:
        receive_shutdown(hub, connection, header->flags);
        break;
    case VSOCK_OP_RW:
        if (connection->state == VSOCK_ESTABLISHED && !(connection->guest_shutdown & VSOCK_SHUTDOWN_SEND))
            vsock_take_data(hub, connection, data, count, header->len);
        else
            vsock_reset(hub, connection);
        break;
    case VSOCK_OP_CREDIT_UPDATE:
        break;
    case VSOCK_OP_CREDIT_REQUEST:
        vsock_pend(hub, connection, VSOCK_PENDING_CREDIT_UPDATE);
        break;
    default: /* a request for a connection that is there, or no operation at all */
        vsock_reset(hub, connection);
    }
    if (connection->state == VSOCK_ESTABLISHED) /* every packet may bring credit */
        vsock_make_ready(hub, connection);
}

void vsock_hub_receive(VsockHub *hub, const VsockHeader *header, const struct iovec *data, uint32_t count)
{
    if (header->src_cid != hub->guest_cid) { /* §5.10.6.2: no other guest speaks through this device */
        hub->counters.malformed++;
        return;
    }
    if (header->dst_cid != VSOCK_HOST_CID || header->type != VSOCK_TYPE_STREAM) {
        reset_stray(hub, header);
        return;
    }
    VsockConnection *connection = vsock_find(hub, header->src_port, header->dst_port);
    if (connection && connection->state != VSOCK_RESETTING)
        receive_for(hub, connection, header, data, count);
    else if (connection && header->op == VSOCK_OP_RST)
        receive_reset(hub, connection);
    else if (!connection && header->op == VSOCK_OP_REQUEST)
        receive_request(hub, header);
    else if (!connection)
        reset_stray(hub, header);
}

/* ---- Packets for the guest ---------------------------------------------------------------------------------- */

bool vsock_hub_has_packet(const VsockHub *hub) { return hub->stray_count || hub->ready_first != VSOCK_NO_INDEX; }

static void send_stray(VsockHub *hub, VsockHeader *header)
{
    const VsockStray *stray = &hub->strays[hub->stray_first];
    *header = (VsockHeader){.src_cid = stray->host_cid,
                            .dst_cid = hub->guest_cid,
                            .src_port = stray->host_port,
                            .dst_port = stray->guest_port,
                            .type = stray->type,
                            .op = VSOCK_OP_RST};
    hub->stray_first = (hub->stray_first + 1) % VSOCK_STRAYS;
    hub->stray_count--;
}

bool vsock_hub_send(VsockHub *hub, VsockHeader *header, const struct iovec *data, uint32_t count)
{
    if (hub->stray_count) {
        send_stray(hub, header);
        return true;
    }
    const uint32_t last = hub->ready_last; /* each has one turn: some may have nothing to say in so little room */
    for (bool more = true; more && hub->ready_first != VSOCK_NO_INDEX;) {
        VsockConnection *connection = &hub->connections[hub->ready_first];
        more = hub->ready_first != last;
        hub->ready_first = connection->next_ready;
        connection->queued = false;
        if (connection->state == VSOCK_GONE) {
            vsock_connection_free(hub, connection);
            continue;
        }
        bool sent = vsock_connection_send(hub, connection, header, data, count);
        if (connection->state != VSOCK_FREE)
            vsock_make_ready(hub, connection); /* behind the others */
        if (sent)
            return true;
    }
    return false;
}

/* ---- Programs of the host ----------------------------------------------------------------------------------- */

/* "CONNECT PORT\n": false when it is something else. */
static bool parse_line(const char *line, size_t length, uint32_t *port)
{
    static const char word[] = "CONNECT ";
    uint64_t value = 0;
    size_t at = sizeof word - 1;
    if (length <= at + 1 || memcmp(line, word, at) || line[length - 1] != '\n')
        return false;
    for (; at < length - 1; at++) {
        if (line[at] < '0' || line[at] > '9')
            return false;
        value = value * 10 + (uint64_t)(line[at] - '0');
        if (value > UINT32_MAX)
            return false;
    }
    *port = (uint32_t)value;
    return true;
}

static uint32_t free_port(VsockHub *hub, uint32_t guest_port)
{
    do {
        if (++hub->next_port < VSOCK_HOST_PORT)
            hub->next_port = VSOCK_HOST_PORT;
    } while (vsock_find(hub, guest_port, hub->next_port));
    return hub->next_port;
}

/* What follows the line belongs to the guest: it is looked at first, and only the line taken. */
static void shake_hands(VsockHub *hub, VsockConnection *connection)
{
    char line[VSOCK_LINE_MAX];
    uint32_t port;
    ssize_t got = recv(connection->fd, line, sizeof line, MSG_PEEK | MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    const char *end = got > 0 ? memchr(line, '\n', (size_t)got) : NULL;
    size_t length = end ? (size_t)(end - line) + 1 : 0;
    if (!end && got > 0 && got < (ssize_t)sizeof line && !connection->hung_up)
        return; /* the rest comes yet */
    if (!end || !parse_line(line, length, &port) ||
        recv(connection->fd, line, length, MSG_DONTWAIT) != (ssize_t)length) {
        hub->counters.refused++;
        vsock_connection_free(hub, connection);
        return;
    }
    vsock_name(hub, connection, port, free_port(hub, port));
    connection->state = VSOCK_REQUESTED;
    vsock_pend(hub, connection, VSOCK_PENDING_REQUEST);
}

static void accept_programs(VsockHub *hub, bool accept)
{
    for (;;) {
        int fd = accept4(hub->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd < 0 && (errno == EINTR || errno == ECONNABORTED))
            continue;
        if (fd < 0)
            return;
        VsockConnection *connection = NULL;
        if (accept)
            connection = vsock_connection_new(hub, fd, VSOCK_HANDSHAKE);
        else
            close(fd);
        if (!connection)
            hub->counters.refused++;
    }
}

static void socket_event(VsockHub *hub, VsockConnection *connection, uint32_t events)
{
    connection->can_read |= (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0;
    connection->can_write |= (events & (EPOLLOUT | EPOLLHUP | EPOLLERR)) && !connection->deaf;
    connection->hung_up |= (events & (EPOLLHUP | EPOLLERR)) != 0;
    switch (connection->state) {
    case VSOCK_HANDSHAKE:
        shake_hands(hub, connection);
        break;
    case VSOCK_REQUESTED:
        if (connection->hung_up)
            vsock_reset(hub, connection);
        break;
    case VSOCK_ESTABLISHED:
        if (connection->hung_up)
            vsock_hung_up(hub, connection);
        vsock_flush(hub, connection);
        vsock_make_ready(hub, connection);
        break;
    case VSOCK_DRAINING:
        vsock_flush(hub, connection);
        break;
    case VSOCK_FREE:
    case VSOCK_RESETTING:
    case VSOCK_GONE:
        break;
    }
}

void vsock_hub_poll(VsockHub *hub, bool accept)
{
    struct epoll_event events[EVENTS_PER_POLL];
    int count = epoll_wait(hub->epoll, events, EVENTS_PER_POLL, 0);
    for (int i = 0; i < count; i++) {
        uint64_t data = events[i].data.u64;
        if (data == LISTENER)
            continue;
        VsockConnection *connection = &hub->connections[(uint32_t)data];
        if (connection->generation == data >> 32)
            socket_event(hub, connection, events[i].events);
    }
    accept_programs(hub, accept); /* also when it was out of descriptors before */
}
