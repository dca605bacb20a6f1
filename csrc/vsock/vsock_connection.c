/* One connection: its program's socket, its buffer, its credit, and what it has to tell the guest. */
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "vsock/vsock_internal.h"

/* ---- The table ---------------------------------------------------------------------------------------------- */

static uint32_t *bucket(VsockHub *hub, uint32_t guest_port, uint32_t host_port)
{
    return &hub->buckets[(guest_port * 2654435761u ^ host_port * 2246822519u) >> 24];
}
_Static_assert(VSOCK_BUCKETS == 1u << 8, "bucket() takes 8 bits");

VsockConnection *vsock_find(VsockHub *hub, uint32_t guest_port, uint32_t host_port)
{
    uint32_t index = *bucket(hub, guest_port, host_port);
    while (index != VSOCK_NO_INDEX) {
        VsockConnection *connection = &hub->connections[index];
        if (connection->guest_port == guest_port && connection->host_port == host_port)
            return connection;
        index = connection->next;
    }
    return NULL;
}

void vsock_name(VsockHub *hub, VsockConnection *connection, uint32_t guest_port, uint32_t host_port)
{
    uint32_t *first = bucket(hub, guest_port, host_port);
    connection->guest_port = guest_port;
    connection->host_port = host_port;
    connection->next = *first;
    *first = vsock_index(hub, connection);
}

static void unname(VsockHub *hub, VsockConnection *connection)
{
    uint32_t *link = bucket(hub, connection->guest_port, connection->host_port);
    while (*link != VSOCK_NO_INDEX && *link != vsock_index(hub, connection))
        link = &hub->connections[*link].next;
    if (*link != VSOCK_NO_INDEX)
        *link = connection->next;
}

VsockConnection *vsock_connection_new(VsockHub *hub, int fd, enum VsockState state)
{
    VsockConnection *connection = hub->connections;
    while (connection < hub->connections + VSOCK_MAX_CONNECTIONS && connection->state != VSOCK_FREE)
        connection++;
    if (connection == hub->connections + VSOCK_MAX_CONNECTIONS) {
        close(fd);
        return NULL;
    }
    uint32_t generation = connection->generation + 1;
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET,
                                .data.u64 = (uint64_t)generation << 32 | vsock_index(hub, connection)};
    if (epoll_ctl(hub->epoll, EPOLL_CTL_ADD, fd, &event) < 0) {
        close(fd);
        return NULL;
    }
    *connection =
        (VsockConnection){.state = state, .fd = fd, .generation = generation, .can_read = true, .can_write = true};
    hub->counters.connections++;
    return connection;
}

static void close_socket(VsockConnection *connection)
{
    if (connection->fd >= 0)
        close(connection->fd); /* and it is out of the epoll set */
    connection->fd = -1;
    free(connection->buffer);
    connection->buffer = NULL;
    connection->used = 0;
}

/* One that waits in the queue leaves it when its turn comes, and is free then. */
void vsock_connection_free(VsockHub *hub, VsockConnection *connection)
{
    close_socket(connection);
    unname(hub, connection);
    connection->pending = 0;
    connection->generation++;
    connection->state = connection->queued ? VSOCK_GONE : VSOCK_FREE;
    connection->guest_port = connection->host_port = 0;
    if (connection->state == VSOCK_FREE)
        hub->counters.connections--;
}

void vsock_drain(VsockHub *hub, VsockConnection *connection)
{
    unname(hub, connection);
    connection->pending = 0;
    connection->state = VSOCK_DRAINING;
}

/* ---- What it has to send ------------------------------------------------------------------------------------ */

static uint32_t credit(const VsockConnection *connection)
{
    uint32_t on_the_way = connection->tx_cnt - connection->peer_fwd_cnt;
    return on_the_way < connection->peer_buf_alloc ? connection->peer_buf_alloc - on_the_way : 0;
}

/* It is asked for once, until there is some: a guest that has none answers every question. */
void vsock_take_credit(VsockConnection *connection, const VsockHeader *header)
{
    connection->peer_buf_alloc = header->buf_alloc;
    connection->peer_fwd_cnt = header->fwd_cnt;
    if (credit(connection))
        connection->credit_asked = false;
}

static bool has_data(const VsockConnection *connection)
{
    return connection->state == VSOCK_ESTABLISHED && connection->can_read && !connection->ended &&
           !(connection->guest_shutdown & VSOCK_SHUTDOWN_RCV);
}

void vsock_make_ready(VsockHub *hub, VsockConnection *connection)
{
    if (has_data(connection) && credit(connection) == 0 && !connection->credit_asked) {
        connection->credit_asked = true;
        connection->pending |= VSOCK_PENDING_CREDIT_REQUEST;
    }
    bool wanted = connection->pending || (has_data(connection) && credit(connection));
    if (!wanted || connection->queued)
        return;
    uint32_t index = vsock_index(hub, connection);
    connection->queued = true;
    connection->next_ready = VSOCK_NO_INDEX;
    if (hub->ready_first == VSOCK_NO_INDEX)
        hub->ready_first = index;
    else
        hub->connections[hub->ready_last].next_ready = index;
    hub->ready_last = index;
}

void vsock_pend(VsockHub *hub, VsockConnection *connection, enum VsockPending what)
{
    connection->pending |= (uint8_t)what;
    vsock_make_ready(hub, connection);
}

void vsock_reset(VsockHub *hub, VsockConnection *connection)
{
    close_socket(connection);
    hub->counters.resets++;
    connection->state = VSOCK_RESETTING;
    connection->pending = 0;
    vsock_pend(hub, connection, VSOCK_PENDING_RST);
}

/* The host's side of it is over, or a part: tell the guest what it is. */
static void say_shutdown(VsockHub *hub, VsockConnection *connection, uint8_t what)
{
    if ((connection->host_shutdown & what) == what)
        return;
    connection->host_shutdown |= what;
    vsock_pend(hub, connection, VSOCK_PENDING_SHUTDOWN);
}

void vsock_hung_up(VsockHub *hub, VsockConnection *connection)
{
    if (connection->ended || connection->guest_shutdown & VSOCK_SHUTDOWN_RCV)
        say_shutdown(hub, connection, VSOCK_SHUTDOWN_BOTH);
}

/* ---- From the guest to the program -------------------------------------------------------------------------- */

/* Handed on, or thrown away: the guest has room for as much again. It is told before it is out of it. */
static void forwarded(VsockHub *hub, VsockConnection *connection, uint32_t bytes)
{
    connection->fwd_cnt += bytes;
    if (connection->state == VSOCK_ESTABLISHED &&
        connection->fwd_cnt - connection->told_fwd_cnt >= VSOCK_BUFFER / 4)
        vsock_pend(hub, connection, VSOCK_PENDING_CREDIT_UPDATE);
}

/* The program takes no more: what it did not take is lost, as with any socket. */
static void go_deaf(VsockHub *hub, VsockConnection *connection)
{
    connection->deaf = true;
    connection->can_write = false;
    free(connection->buffer);
    connection->buffer = NULL;
    connection->used = 0;
    forwarded(hub, connection, connection->rx_cnt - connection->fwd_cnt);
    if (connection->state == VSOCK_ESTABLISHED)
        say_shutdown(hub, connection, VSOCK_SHUTDOWN_RCV);
}

/* Returns the bytes that the program took. */
static uint32_t give(VsockHub *hub, VsockConnection *connection, const struct iovec *iov, uint32_t count)
{
    struct msghdr message = {.msg_iov = (struct iovec *)iov, .msg_iovlen = count};
    ssize_t sent = count ? sendmsg(connection->fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL) : 0;
    if (sent >= 0) {
        hub->counters.bytes_from_guest += (uint64_t)sent;
        return (uint32_t)sent;
    }
    connection->can_write = errno == EINTR;
    if (errno != EAGAIN && errno != EINTR)
        go_deaf(hub, connection);
    return 0;
}

static void put_ring(VsockConnection *connection, const uint8_t *from, uint32_t bytes)
{
    while (bytes) {
        uint32_t at = (connection->head + connection->used) % VSOCK_BUFFER, n = MIN(bytes, VSOCK_BUFFER - at);
        memcpy(connection->buffer + at, from, n);
        connection->used += n;
        from += n;
        bytes -= n;
    }
}

/* The bytes [skip, skip + bytes) of the data. There is room: the guest keeps to its credit, or was reset. */
static bool buffer_data(VsockConnection *connection, const struct iovec *data, uint32_t count, uint32_t skip,
                        uint32_t bytes)
{
    if (!connection->buffer) {
        connection->buffer = malloc(VSOCK_BUFFER);
        connection->head = 0;
    }
    if (!connection->buffer)
        return false;
    for (uint32_t i = 0; i < count && bytes; i++) {
        uint32_t length = (uint32_t)MIN(data[i].iov_len, UINT32_MAX), from = MIN(skip, length);
        uint32_t n = MIN(bytes, length - from);
        put_ring(connection, (const uint8_t *)data[i].iov_base + from, n);
        skip -= from;
        bytes -= n;
    }
    return true;
}

void vsock_take_data(VsockHub *hub, VsockConnection *connection, const struct iovec *data, uint32_t count,
                     uint32_t bytes)
{
    if (bytes > VSOCK_BUFFER - (connection->rx_cnt - connection->fwd_cnt)) {
        vsock_reset(hub, connection); /* §5.10.6.3: more than it may */
        return;
    }
    connection->rx_cnt += bytes;
    uint32_t taken = 0;
    if (connection->used == 0 && connection->can_write)
        taken = give(hub, connection, data, count);
    if (connection->deaf) { /* now, or since long: nobody hears it */
        forwarded(hub, connection, connection->rx_cnt - connection->fwd_cnt);
        return;
    }
    if (taken < bytes && !buffer_data(connection, data, count, taken, bytes - taken)) {
        vsock_reset(hub, connection);
        return;
    }
    forwarded(hub, connection, taken);
}

/* Both sides agree that it is over: the answer to a whole shutdown is a reset (§5.10.6.5). */
static void finish(VsockHub *hub, VsockConnection *connection)
{
    close_socket(connection);
    connection->state = VSOCK_RESETTING;
    connection->pending = 0;
    vsock_pend(hub, connection, VSOCK_PENDING_RST);
}

void vsock_flush(VsockHub *hub, VsockConnection *connection)
{
    while (connection->used && connection->can_write) {
        uint32_t first = MIN(connection->used, VSOCK_BUFFER - connection->head);
        struct iovec iov[2] = {{connection->buffer + connection->head, first},
                               {connection->buffer, connection->used - first}};
        uint32_t taken = give(hub, connection, iov, connection->used > first ? 2 : 1);
        if (connection->deaf)
            break;
        connection->head = (connection->head + taken) % VSOCK_BUFFER;
        connection->used -= taken;
        forwarded(hub, connection, taken);
    }
    if (connection->used)
        return;
    free(connection->buffer);
    connection->buffer = NULL;
    if (connection->state == VSOCK_DRAINING)
        vsock_connection_free(hub, connection);
    else if (connection->guest_shutdown == VSOCK_SHUTDOWN_BOTH)
        finish(hub, connection);
    else if (connection->guest_shutdown & VSOCK_SHUTDOWN_SEND && !connection->deaf)
        shutdown(connection->fd, SHUT_WR);
}

/* ---- From the program to the guest -------------------------------------------------------------------------- */

static void fill(const VsockHub *hub, VsockConnection *connection, VsockHeader *header, enum VsockOp op)
{
    *header = (VsockHeader){.src_cid = VSOCK_HOST_CID,
                            .dst_cid = hub->guest_cid,
                            .src_port = connection->host_port,
                            .dst_port = connection->guest_port,
                            .type = VSOCK_TYPE_STREAM,
                            .op = (uint16_t)op,
                            .flags = op == VSOCK_OP_SHUTDOWN ? connection->host_shutdown : 0,
                            .buf_alloc = VSOCK_BUFFER,
                            .fwd_cnt = connection->fwd_cnt};
    connection->told_fwd_cnt = connection->fwd_cnt;
    connection->pending &= (uint8_t)~VSOCK_PENDING_CREDIT_UPDATE; /* every packet says it */
}

/* As much as there is, the guest has room for, and the packet holds. */
static bool send_data(VsockHub *hub, VsockConnection *connection, VsockHeader *header, const struct iovec *data,
                      uint32_t count)
{
    struct iovec iov[16];
    uint32_t room = MIN(credit(connection), VSOCK_MAX_DATA), used = 0;
    for (uint32_t i = 0; i < count && used < ARRAY_SIZE(iov) && room; i++) {
        uint32_t n = (uint32_t)MIN(data[i].iov_len, room);
        if (n)
            iov[used++] = (struct iovec){data[i].iov_base, n};
        room -= n;
    }
    if (used == 0)
        return false;
    struct msghdr message = {.msg_iov = iov, .msg_iovlen = used};
    ssize_t got = recvmsg(connection->fd, &message, MSG_DONTWAIT);
    if (got > 0) {
        fill(hub, connection, header, VSOCK_OP_RW);
        header->len = (uint32_t)got;
        connection->tx_cnt += (uint32_t)got;
        hub->counters.bytes_to_guest += (uint64_t)got;
        return true;
    }
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) {
        connection->can_read = errno == EINTR;
        return false;
    }
    connection->ended = true; /* closed, or broken (ECONNRESET: it did not take all that it was sent) */
    say_shutdown(hub, connection, connection->hung_up || got < 0 ? VSOCK_SHUTDOWN_BOTH : VSOCK_SHUTDOWN_SEND);
    return false;
}

/* The most urgent of what it has to say beside data. */
static bool send_pending(VsockHub *hub, VsockConnection *connection, VsockHeader *header, uint32_t which)
{
    static const struct {
        enum VsockPending pending;
        enum VsockOp op;
    } order[] = {{VSOCK_PENDING_RST, VSOCK_OP_RST},
                 {VSOCK_PENDING_REQUEST, VSOCK_OP_REQUEST},
                 {VSOCK_PENDING_RESPONSE, VSOCK_OP_RESPONSE},
                 {VSOCK_PENDING_SHUTDOWN, VSOCK_OP_SHUTDOWN},
                 {VSOCK_PENDING_CREDIT_REQUEST, VSOCK_OP_CREDIT_REQUEST},
                 {VSOCK_PENDING_CREDIT_UPDATE, VSOCK_OP_CREDIT_UPDATE}};
    for (size_t i = 0; i < ARRAY_SIZE(order); i++) {
        if (!(connection->pending & which & order[i].pending))
            continue;
        connection->pending &= (uint8_t)~order[i].pending;
        fill(hub, connection, header, order[i].op);
        if (order[i].pending == VSOCK_PENDING_RST)
            vsock_connection_free(hub, connection);
        return true;
    }
    return false;
}

/* A shutdown of sending is said only when all data has gone, so it may go before data. */
bool vsock_connection_send(VsockHub *hub, VsockConnection *connection, VsockHeader *header,
                           const struct iovec *data, uint32_t count)
{
    const uint32_t credit_packets = VSOCK_PENDING_CREDIT_REQUEST | VSOCK_PENDING_CREDIT_UPDATE;
    return send_pending(hub, connection, header, ~credit_packets) ||
           (has_data(connection) && send_data(hub, connection, header, data, count)) ||
           send_pending(hub, connection, header, UINT32_MAX);
}
