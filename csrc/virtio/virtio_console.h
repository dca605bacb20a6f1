/*
 * virtio console device: ports of characters, each a console or a named serial port.
 *
 * Source: virtio 1.2 §5.3. Offered: SIZE, MULTIPORT, EMERG_WRITE. A driver without MULTIPORT has port 0 alone. What
 * the guest writes goes to a CharSink or a CharSocket (devices/char_sink.h, char_socket.h); what that has no room
 * for stays in the guest's ring. What comes for the guest waits in a queue of each port, which refuses bytes when
 * it is full, and goes to a port of the guest that is open. Left out: taking ports away while the machine runs
 * (PORT_REMOVE).
 */
#ifndef PYVMM_VIRTIO_VIRTIO_CONSOLE_H
#define PYVMM_VIRTIO_VIRTIO_CONSOLE_H

#include "devices/char_sink.h"
#include "devices/char_socket.h"
#include "virtio/virtio_place.h"

#define VIRTIO_CONSOLE_F_SIZE        (1ull << 0)
#define VIRTIO_CONSOLE_F_MULTIPORT   (1ull << 1)
#define VIRTIO_CONSOLE_F_EMERG_WRITE (1ull << 2)

enum VirtioConsoleConfig { /* §5.3.4 */
                           CONSOLE_CONFIG_COLS = 0,
                           CONSOLE_CONFIG_ROWS = 2,
                           CONSOLE_CONFIG_MAX_PORTS = 4,
                           CONSOLE_CONFIG_EMERG_WRITE = 8,
                           CONSOLE_CONFIG_SIZE = 12,
};

enum VirtioConsoleEvent { /* §5.3.6.2 */
                          CONSOLE_DEVICE_READY = 0,
                          CONSOLE_DEVICE_ADD = 1,
                          CONSOLE_DEVICE_REMOVE = 2,
                          CONSOLE_PORT_READY = 3,
                          CONSOLE_PORT = 4,
                          CONSOLE_RESIZE = 5,
                          CONSOLE_PORT_OPEN = 6,
                          CONSOLE_PORT_NAME = 7,
};

enum { CONSOLE_QUEUE_RX = 0, CONSOLE_QUEUE_TX = 1, CONSOLE_QUEUE_CONTROL_RX = 2, CONSOLE_QUEUE_CONTROL_TX = 3 };

#define VIRTIO_CONSOLE_QUEUE_SIZE 64
#define VIRTIO_CONSOLE_MAX_PORTS  16
#define VIRTIO_CONSOLE_NAME_SIZE  64   /* with its NUL */
#define VIRTIO_CONSOLE_BACKLOG    4096 /* bytes for the guest that wait at a port */

typedef struct VirtioConsolePortOptions {
    char name[VIRTIO_CONSOLE_NAME_SIZE]; /* empty: none */
    bool is_console;
    CharSink *sink;     /* at most one of these two; both stay the caller's and outlive the device */
    CharSocket *socket; /* its port is open while a client is connected */
} VirtioConsolePortOptions;

typedef struct VirtioConsoleOptions {
    uint32_t port_count; /* 1 to VIRTIO_CONSOLE_MAX_PORTS */
    VirtioConsolePortOptions ports[VIRTIO_CONSOLE_MAX_PORTS];
} VirtioConsoleOptions;

typedef struct VirtioConsolePortStatus {
    bool guest_open; /* somebody in the guest has it open */
    bool host_open;
    uint32_t room; /* bytes that virtio_console_receive() would take */
    uint64_t from_guest;
    uint64_t to_guest; /* bytes that are in the guest's buffers */
} VirtioConsolePortStatus;

Device *virtio_console_new(Board *board, const VirtioPlace *place, const VirtioConsoleOptions *options,
                           Error *error);

/* All of these from any thread; a port that is not there takes nothing. */
/* Bytes for the guest; returns how many were taken. */
size_t virtio_console_receive(Device *device, uint32_t port, const uint8_t *data, size_t size);
void virtio_console_port_status(Device *device, uint32_t port, VirtioConsolePortStatus *status);
/* Somebody is at the host's end, or has gone; for a port without a socket. They are open from the start. */
void virtio_console_set_open(Device *device, uint32_t port, bool open);
/* The terminal of all console ports has this size; 0 by 0: not known. */
void virtio_console_resize(Device *device, uint16_t columns, uint16_t rows);

#endif
