#include <stdlib.h>

#include "virtio/virtio_chain.h"
#include "virtio/virtio_console.h"

#define CHAIN_SEGMENTS (VIRTIO_CONSOLE_QUEUE_SIZE + 16u)
#define CHUNK          4096u
#define CONTROL_BYTES  8u /* struct virtio_console_control: id, event, value */
#define MAX_ROUNDS     (2u * VIRTQ_MAX_SIZE)
#define TURN_BYTES     (1u << 20)  /* before the I/O thread's other work has its turn */
#define KICK_BYTES     (64u << 20) /* inside one notification: more than any driver has in its ring */

enum PendingMessage { /* control messages that a port still owes the driver, in the order in which they go */
                      PENDING_ADD = 1,
                      PENDING_CONSOLE = 2,
                      PENDING_NAME = 4,
                      PENDING_RESIZE = 8,
                      PENDING_OPEN = 16,
                      PENDING_ALL = 31,
};

typedef struct PortState { /* of its own, in VirtioState.own */
    uint32_t sent;         /* bytes of the first chain to be transmitted that the host has taken already */
    uint8_t pending;
    uint8_t ready; /* the driver said PORT_READY */
    uint8_t guest_open;
    uint8_t reserved;
} PortState;

typedef struct Port {
    struct VirtioConsole *console;
    uint32_t index;
    VirtioConsolePortOptions options;
    PortState state;
    bool host_open; /* without a socket */
    uint64_t from_guest, to_guest;
    uint32_t head, count; /* what waits for the guest: the host's, not the machine's state */
    uint8_t backlog[VIRTIO_CONSOLE_BACKLOG];
} Port;

typedef struct VirtioConsole {
    VirtioDevice virtio;
    uint32_t port_count;
    Port ports[VIRTIO_CONSOLE_MAX_PORTS];
    uint8_t chunk[CHUNK];
    VirtqSegment chain[CHAIN_SEGMENTS];
} VirtioConsole;

static VirtioConsole *console_of(VirtioDevice *device) { return container_of(device, VirtioConsole, virtio); }

/* §5.3.2: ports 0, control, then the others. */
static uint32_t rx_queue(uint32_t port) { return port ? 2 * port + 2 : CONSOLE_QUEUE_RX; }

static bool has_ports(const VirtioConsole *console)
{
    return virtio_has(&console->virtio, VIRTIO_CONSOLE_F_MULTIPORT);
}

static bool is_guest_open(const Port *port)
{
    return has_ports(port->console) ? port->state.guest_open : port->index == 0;
}

static bool is_host_open(const Port *port)
{
    return port->options.socket ? char_socket_is_connected(port->options.socket) : port->host_open;
}

/* The next chain: 1, or 0; a broken queue is 0 too. */
static int take(VirtioConsole *console, VirtioQueue *queue, VirtqChain *chain)
{
    int result = virtqueue_pop(&queue->ring, chain, console->chain, CHAIN_SEGMENTS);
    if (result < 0)
        virtio_fail(&console->virtio, queue,
                    result == -ENOSPC ? "buffers are in too many pieces" : queue->ring.fault);
    return result > 0;
}

/* ---- From the guest ----------------------------------------------------------------------------------------- */

static size_t to_host(const Port *port, const void *data, size_t size)
{
    if (port->options.socket)
        return char_socket_write(port->options.socket, data, size);
    return port->options.sink && port->host_open ? char_sink_write(port->options.sink, data, size) : size;
}

/* What the host has taken of the chain; less than all of it: it has no room, or the turn (`left`, bytes) is over.
 */
static uint64_t send_chain(Port *port, const VirtqChain *chain, uint64_t *left)
{
    VirtioConsole *console = port->console;
    uint64_t sent = MIN(port->state.sent, chain->readable_bytes); /* the driver may have changed it meanwhile */
    while (sent < chain->readable_bytes && *left) {
        size_t n = virtio_chain_read(console->chain, chain, sent, console->chunk, MIN(CHUNK, *left));
        size_t taken = to_host(port, console->chunk, n);
        sent += taken;
        *left -= taken;
        port->from_guest += taken;
        if (taken < n)
            break;
    }
    return sent;
}

/* One chain, or a part of it; false when nothing can be done now. While the host has no room the chain stays the
 * first of its ring, and the driver need not notify. */
static bool transmit_one(Port *port, VirtioQueue *queue, uint64_t *left)
{
    VirtioConsole *console = port->console;
    VirtqChain chain;
    virtqueue_disable_notify(&queue->ring);
    if (!take(console, queue, &chain))
        return virtio_queue_is_live(queue) && virtqueue_enable_notify(&queue->ring);
    if (chain.readable_bytes > UINT32_MAX) {
        virtio_fail(&console->virtio, queue, "a buffer of 4 GiB to be transmitted");
        return false;
    }
    uint64_t sent = send_chain(port, &chain, left);
    bool whole = sent == chain.readable_bytes;
    port->state.sent = whole ? 0 : (uint32_t)sent;
    if (!whole) {
        virtqueue_unpop(&queue->ring, chain.token);
        return *left == 0;
    }
    virtqueue_push(&queue->ring, chain.token, 0);
    virtio_publish(&console->virtio, queue);
    return true;
}

static void run_transmit(Port *port, VirtioQueue *queue)
{
    VirtioDevice *device = &port->console->virtio;
    uint64_t left = device->lock_kept ? KICK_BYTES : TURN_BYTES;
    for (uint32_t rounds = MAX_ROUNDS; virtio_queue_is_live(queue) && transmit_one(port, queue, &left);) {
        if (left && --rounds)
            continue;
        if (device->lock_kept) /* the guest adds nothing meanwhile: the ring feeds itself */
            virtio_fail(device, queue, "the available ring never ends");
        else
            virtio_notify(device, queue->index);
        return;
    }
}

/* ---- To the guest ------------------------------------------------------------------------------------------- */

static uint32_t fill_buffer(Port *port, const VirtqChain *chain)
{
    VirtioConsole *console = port->console;
    uint64_t room = MIN(chain->writable_bytes, port->count), done = 0;
    while (done < room) {
        uint64_t n = MIN(room - done, VIRTIO_CONSOLE_BACKLOG - port->head);
        n = virtio_chain_write(console->virtio.owner->board->memory, console->chain, chain, done,
                               port->backlog + port->head, n);
        port->head = (port->head + (uint32_t)n) % VIRTIO_CONSOLE_BACKLOG;
        port->count -= (uint32_t)n;
        done += n;
    }
    port->to_guest += done;
    return (uint32_t)done;
}

static void run_receive(Port *port, VirtioQueue *queue)
{
    VirtioConsole *console = port->console;
    while (virtio_queue_is_live(queue)) {
        VirtqChain chain;
        virtqueue_disable_notify(&queue->ring);
        if (!port->count || !is_guest_open(port))
            return; /* nothing to give: new buffers need not be told of */
        if (take(console, queue, &chain)) {
            if (!chain.writable) {
                virtio_fail(&console->virtio, queue, "a receive buffer that is not writable");
                return;
            }
            uint32_t written = fill_buffer(port, &chain);
            virtqueue_push(&queue->ring, chain.token, written);
            virtio_publish(&console->virtio, queue);
            if (port->options.socket)
                char_socket_resume(port->options.socket);
        } else if (!virtio_queue_is_live(queue) || !virtqueue_enable_notify(&queue->ring)) {
            return;
        }
    }
}

/* ---- Control messages, §5.3.6.2 ----------------------------------------------------------------------------- */

static size_t message(const Port *port, uint8_t pending, uint8_t *out)
{
    const uint8_t *config = port->console->virtio.config;
    uint16_t event = CONSOLE_DEVICE_ADD, value = 1;
    size_t size = CONTROL_BYTES, name = strlen(port->options.name);
    switch (pending) {
    case PENDING_CONSOLE:
        event = CONSOLE_PORT;
        break;
    case PENDING_NAME:
        event = CONSOLE_PORT_NAME;
        memcpy(out + size, port->options.name, name);
        size += name;
        break;
    case PENDING_RESIZE: /* columns, rows: Linux before 6.15, but for its stable series, reads them the other way */
        event = CONSOLE_RESIZE;
        value = 0;
        memcpy(out + size, config + CONSOLE_CONFIG_COLS, 4);
        size += 4;
        break;
    case PENDING_OPEN:
        event = CONSOLE_PORT_OPEN;
        value = is_host_open(port);
        break;
    }
    store_le32(out, port->index);
    store_le16(out + 4, event);
    store_le16(out + 6, value);
    return size;
}

static Port *next_owing(VirtioConsole *console)
{
    for (uint32_t i = 0; i < console->port_count; i++)
        if (console->ports[i].state.pending)
            return &console->ports[i];
    return NULL;
}

static void run_control_receive(VirtioConsole *console)
{
    VirtioQueue *queue = &console->virtio.queues[CONSOLE_QUEUE_CONTROL_RX];
    while (virtio_queue_is_live(queue)) {
        Port *port = next_owing(console);
        VirtqChain chain;
        virtqueue_disable_notify(&queue->ring);
        if (!port)
            return;
        if (take(console, queue, &chain)) {
            uint8_t bytes[CONTROL_BYTES + VIRTIO_CONSOLE_NAME_SIZE];
            uint8_t pending = port->state.pending & (uint8_t)-port->state.pending;
            port->state.pending &= (uint8_t)~pending;
            size_t size = message(port, pending, bytes);
            size = virtio_chain_write(console->virtio.owner->board->memory, console->chain, &chain, 0, bytes, size);
            virtqueue_push(&queue->ring, chain.token, (uint32_t)size);
            virtio_publish(&console->virtio, queue);
        } else if (!virtio_queue_is_live(queue) || !virtqueue_enable_notify(&queue->ring)) {
            return;
        }
    }
}

static void port_is_ready(Port *port)
{
    const uint8_t *config = port->console->virtio.config;
    port->state.ready = 1;
    if (port->options.is_console)
        port->state.pending |= PENDING_CONSOLE | (load_le32(config) ? PENDING_RESIZE : 0);
    if (port->options.name[0])
        port->state.pending |= PENDING_NAME;
    if (is_host_open(port))
        port->state.pending |= PENDING_OPEN;
}

static void handle_control(VirtioConsole *console, const uint8_t *bytes)
{
    uint32_t id = load_le32(bytes), event = load_le16(bytes + 4), value = load_le16(bytes + 6);
    if (event == CONSOLE_DEVICE_READY && value == 1)
        for (uint32_t i = 0; i < console->port_count; i++)
            console->ports[i].state.pending |= PENDING_ADD;
    if (id >= console->port_count)
        return;
    Port *port = &console->ports[id];
    if (event == CONSOLE_PORT_READY && value == 1) {
        port_is_ready(port);
    } else if (event == CONSOLE_PORT_OPEN) {
        port->state.guest_open = value != 0;
        run_receive(port, &console->virtio.queues[rx_queue(id)]);
    }
}

static bool control_batch(VirtioDevice *device, VirtioQueue *queue)
{
    VirtioConsole *console = console_of(device);
    uint8_t bytes[CONTROL_BYTES];
    VirtqChain chain;
    if (!take(console, queue, &chain))
        return false;
    bool whole = virtio_chain_read(console->chain, &chain, 0, bytes, sizeof bytes) == sizeof bytes;
    virtqueue_push(&queue->ring, chain.token, 0);
    virtio_publish(device, queue);
    if (whole)
        handle_control(console, bytes);
    run_control_receive(console);
    return true;
}

static bool is_port_queue(const VirtioQueue *queue)
{
    return queue->index != CONSOLE_QUEUE_CONTROL_RX && queue->index != CONSOLE_QUEUE_CONTROL_TX;
}

static Port *port_of_queue(VirtioConsole *console, const VirtioQueue *queue)
{
    return &console->ports[queue->index < 2 ? 0 : queue->index / 2 - 1];
}

static void console_run(VirtioDevice *device, VirtioQueue *queue)
{
    VirtioConsole *console = console_of(device);
    if (queue->index == CONSOLE_QUEUE_CONTROL_RX) {
        run_control_receive(console);
    } else if (queue->index == CONSOLE_QUEUE_CONTROL_TX) {
        virtio_serve(device, queue, control_batch);
    } else {
        Port *port = port_of_queue(console, queue);
        if (queue->index % 2)
            run_transmit(port, queue);
        else
            run_receive(port, queue);
    }
}

/* ---- The host's side: any thread, no lock held -------------------------------------------------------------- */

static void owe(Port *port, uint8_t pending)
{
    if (!has_ports(port->console) || !port->state.ready)
        return;
    port->state.pending |= pending;
    virtio_notify(&port->console->virtio, CONSOLE_QUEUE_CONTROL_RX);
}

static void host_has_room(void *opaque)
{
    Port *port = opaque;
    Device *owner = port->console->virtio.owner;
    pthread_mutex_lock(&owner->lock);
    virtio_notify(&port->console->virtio, rx_queue(port->index) + 1);
    pthread_mutex_unlock(&owner->lock);
}

static size_t receive(Port *port, const uint8_t *data, size_t size)
{
    Device *owner = port->console->virtio.owner;
    pthread_mutex_lock(&owner->lock);
    size_t taken = MIN(size, (size_t)VIRTIO_CONSOLE_BACKLOG - port->count);
    for (size_t i = 0; i < taken; i++)
        port->backlog[(port->head + port->count++) % VIRTIO_CONSOLE_BACKLOG] = data[i];
    virtio_notify(&port->console->virtio, rx_queue(port->index));
    pthread_mutex_unlock(&owner->lock);
    return taken;
}

static size_t socket_receive(void *opaque, const uint8_t *data, size_t size) { return receive(opaque, data, size); }

static size_t socket_room(void *opaque)
{
    Port *port = opaque;
    Device *owner = port->console->virtio.owner;
    pthread_mutex_lock(&owner->lock);
    size_t room = VIRTIO_CONSOLE_BACKLOG - port->count;
    pthread_mutex_unlock(&owner->lock);
    return room;
}

static void socket_connected(void *opaque, bool on)
{
    Port *port = opaque;
    Device *owner = port->console->virtio.owner;
    (void)on; /* the message says what is so when it is sent */
    pthread_mutex_lock(&owner->lock);
    owe(port, PENDING_OPEN);
    pthread_mutex_unlock(&owner->lock);
}

static const CharSocketOps socket_ops = {
    .receive = socket_receive, .room = socket_room, .writable = host_has_room, .connected = socket_connected};

static Port *port_of(Device *device, uint32_t index)
{
    VirtioConsole *console = console_of(virtio_of(device));
    return index < console->port_count ? &console->ports[index] : NULL;
}

size_t virtio_console_receive(Device *device, uint32_t index, const uint8_t *data, size_t size)
{
    Port *port = port_of(device, index);
    return port ? receive(port, data, size) : 0;
}

void virtio_console_port_status(Device *device, uint32_t index, VirtioConsolePortStatus *status)
{
    Port *port = port_of(device, index);
    *status = (VirtioConsolePortStatus){0};
    if (!port)
        return;
    pthread_mutex_lock(&device->lock);
    *status = (VirtioConsolePortStatus){
        .guest_open = is_guest_open(port) && port->console->virtio.status & VIRTIO_STATUS_DRIVER_OK,
        .host_open = is_host_open(port),
        .room = VIRTIO_CONSOLE_BACKLOG - port->count,
        .from_guest = port->from_guest,
        .to_guest = port->to_guest,
    };
    pthread_mutex_unlock(&device->lock);
}

void virtio_console_set_open(Device *device, uint32_t index, bool open)
{
    Port *port = port_of(device, index);
    if (!port)
        return;
    pthread_mutex_lock(&device->lock);
    if (port->host_open != open) {
        port->host_open = open;
        owe(port, PENDING_OPEN);
    }
    pthread_mutex_unlock(&device->lock);
}

void virtio_console_resize(Device *device, uint16_t columns, uint16_t rows)
{
    VirtioConsole *console = console_of(virtio_of(device));
    uint8_t *config = console->virtio.config;
    pthread_mutex_lock(&device->lock);
    if (load_le16(config + CONSOLE_CONFIG_COLS) != columns || load_le16(config + CONSOLE_CONFIG_ROWS) != rows) {
        store_le16(config + CONSOLE_CONFIG_COLS, columns);
        store_le16(config + CONSOLE_CONFIG_ROWS, rows);
        virtio_config_changed(&console->virtio);
        for (uint32_t i = 0; i < console->port_count; i++)
            if (console->ports[i].options.is_console)
                owe(&console->ports[i], PENDING_RESIZE);
    }
    pthread_mutex_unlock(&device->lock);
}

/* ---- The device --------------------------------------------------------------------------------------------- */

/* §5.3.4: a character for port 0, also before the driver is there. Nothing is kept. */
static bool console_config_write(VirtioDevice *device, uint32_t offset, uint8_t value)
{
    if (offset == CONSOLE_CONFIG_EMERG_WRITE)
        to_host(&console_of(device)->ports[0], &value, 1);
    return false;
}

static void console_reset(VirtioDevice *device)
{
    VirtioConsole *console = console_of(device);
    for (uint32_t i = 0; i < console->port_count; i++)
        console->ports[i].state = (PortState){0};
}

/* By itself, §2.6.1: the chain that was sent in part is the driver's again, and not the first of the next ring. */
static void console_queue_reset(VirtioDevice *device, VirtioQueue *queue)
{
    if (is_port_queue(queue) && queue->index % 2)
        port_of_queue(console_of(device), queue)->state.sent = 0;
}

static void console_save(VirtioDevice *device, void *state)
{
    VirtioConsole *console = console_of(device);
    for (uint32_t i = 0; i < console->port_count; i++)
        memcpy((uint8_t *)state + i * sizeof(PortState), &console->ports[i].state, sizeof(PortState));
}

static int console_restore(VirtioDevice *device, const void *state)
{
    VirtioConsole *console = console_of(device);
    PortState saved[VIRTIO_CONSOLE_MAX_PORTS];
    memcpy(saved, state, sizeof saved);
    for (uint32_t i = 0; i < console->port_count; i++)
        if (saved[i].pending & ~PENDING_ALL || saved[i].ready > 1 || saved[i].guest_open > 1 || saved[i].reserved)
            return -EINVAL;
    for (uint32_t i = 0; i < console->port_count; i++)
        console->ports[i].state = saved[i];
    return 0;
}

static void console_stop(VirtioDevice *device)
{
    VirtioConsole *console = console_of(device);
    for (uint32_t i = 0; i < console->port_count; i++) {
        if (console->ports[i].options.sink)
            char_sink_set_room(console->ports[i].options.sink, NULL, NULL);
        if (console->ports[i].options.socket)
            char_socket_attach(console->ports[i].options.socket, NULL, NULL);
    }
}

static const VirtioClass console_class = {
    .name = "virtio-console",
    .id = 3,
    .pci_class = 0x078000, /* simple communication controller, other */
    .transitional_id = 0x1003,
    .run = console_run,
    .config_write = console_config_write,
    .reset = console_reset,
    .queue_reset = console_queue_reset,
    .state_size = VIRTIO_CONSOLE_MAX_PORTS * sizeof(PortState),
    .save = console_save,
    .restore = console_restore,
    .stop = console_stop,
};
_Static_assert(VIRTIO_CONSOLE_MAX_PORTS * sizeof(PortState) <= VIRTIO_OWN_STATE_MAX, "fits into VirtioState.own");

static void attach_ports(VirtioConsole *console)
{
    for (uint32_t i = 0; i < console->port_count; i++) {
        Port *port = &console->ports[i];
        if (port->options.sink)
            char_sink_set_room(port->options.sink, host_has_room, port);
        if (port->options.socket)
            char_socket_attach(port->options.socket, &socket_ops, port);
    }
}

Device *virtio_console_new(Board *board, const VirtioPlace *place, const VirtioConsoleOptions *options,
                           Error *error)
{
    if (options->port_count < 1 || options->port_count > VIRTIO_CONSOLE_MAX_PORTS) {
        error_set(error, EINVAL, "virtio-console: %u ports; it has 1 to %d", options->port_count,
                  VIRTIO_CONSOLE_MAX_PORTS);
        return NULL;
    }
    VirtioConsole *console = calloc(1, sizeof *console);
    if (!console) {
        error_set(error, ENOMEM, "no host memory for virtio-console");
        return NULL;
    }
    console->port_count = options->port_count;
    for (uint32_t i = 0; i < options->port_count; i++) {
        Port *port = &console->ports[i];
        *port = (Port){.console = console, .index = i, .options = options->ports[i], .host_open = true};
        port->options.name[VIRTIO_CONSOLE_NAME_SIZE - 1] = 0;
    }
    VirtioSetup setup = {.features =
                             VIRTIO_CONSOLE_F_SIZE | VIRTIO_CONSOLE_F_MULTIPORT | VIRTIO_CONSOLE_F_EMERG_WRITE,
                         .config_size = CONSOLE_CONFIG_SIZE,
                         .queue_count = 2 * options->port_count + 2,
                         .queue_size = VIRTIO_CONSOLE_QUEUE_SIZE};
    virtio_init(&console->virtio, &console_class, &setup);
    store_le32(console->virtio.config + CONSOLE_CONFIG_MAX_PORTS, options->port_count);
    Device *device = virtio_place(board, &console->virtio, place, error);
    if (device)
        attach_ports(console);
    return device;
}
