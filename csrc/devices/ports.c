#include <stdlib.h>

#include "devices/i8254.h"
#include "devices/ports.h"

typedef struct PortDevice {
    Device device;
    Device *pit;
    CharSink *sink;
    PortState state;
} PortDevice;

static PortDevice *port_of(Device *device) { return container_of(device, PortDevice, device); }

static uint64_t port_read(void *opaque, uint32_t region, uint64_t offset, uint32_t size)
{
    return ((PortDevice *)opaque)->state.value;
}

static void port_reset(Device *device) { port_of(device)->state.value = 0; }

static void port_save(Device *device, void *state) { *(PortState *)state = port_of(device)->state; }

static int port_restore(Device *device, const void *state)
{
    port_of(device)->state = *(const PortState *)state;
    return 0;
}

/* Everything but reading, writing, and the two hooks that some ports have. */
#define PORT_CLASS(device_name, read_op, write_op, reset_op, restore_op)                                           \
    {                                                                                                              \
        .name = device_name, .ops = {read_op, write_op}, .reset = reset_op, .state_size = sizeof(PortState),       \
        .state_version = PORT_STATE_VERSION, .save = port_save, .restore = restore_op                              \
    }

static PortDevice *port_new(Board *board, const DeviceClass *class)
{
    PortDevice *port = calloc(1, sizeof *port);
    if (!port)
        return NULL;
    device_init(&port->device, class, board);
    return port;
}

static Device *port_ready(PortDevice *port)
{
    if (!port)
        return NULL;
    device_reset(&port->device);
    return &port->device;
}

/* Port 0x92, system control A (PS/2 HITR). */

enum { PORT92_RESET = 0x01, PORT92_A20 = 0x02, PORT92_KEPT = 0xcb };

static void port92_write(void *opaque, uint32_t region, uint64_t offset, uint32_t size, uint64_t value)
{
    PortDevice *port = opaque;
    bool reset = value & ~port->state.value & PORT92_RESET; /* the bit must rise */
    port->state.value = value & PORT92_KEPT;
    board_set_a20(port->device.board, A20_PORT92, value & PORT92_A20);
    if (reset)
        board_request(port->device.board, SYSTEM_RESET, 0);
}

static void port92_reset(Device *device)
{
    port_of(device)->state.value = 0;
    board_set_a20(device->board, A20_PORT92, false);
}

static int port92_restore(Device *device, const void *state)
{
    uint32_t value = ((const PortState *)state)->value;
    if (value & ~(uint32_t)PORT92_KEPT)
        return -EINVAL;
    port_of(device)->state.value = value;
    board_set_a20(device->board, A20_PORT92, value & PORT92_A20);
    return 0;
}

static const DeviceClass port92_class = PORT_CLASS("port92", port_read, port92_write, port92_reset, port92_restore);

Device *port92_new(Board *board) { return port_ready(port_new(board, &port92_class)); }

/* Port 0x61 (PC/AT; PIIX 290562 §2.5.6): bit 0 gate of PIT channel 2, 1 speaker, 2 and 3 disable parity and I/O
 * channel checks; read only: bit 4 toggles with each RAM refresh, bit 5 is channel 2's OUT. */

enum { PORT61_GATE = 0x01, PORT61_KEPT = 0x0f, PORT61_REFRESH = 0x10, PORT61_OUT = 0x20 };
#define REFRESH_NS 15085 /* 18 ticks of the PIT's clock */

static uint64_t port61_read(void *opaque, uint32_t region, uint64_t offset, uint32_t size)
{
    PortDevice *port = opaque;
    uint64_t refresh = clock_now(port->device.board->clock) / REFRESH_NS & 1;
    return port->state.value | (refresh ? PORT61_REFRESH : 0) | (i8254_out(port->pit, 2) ? PORT61_OUT : 0);
}

/* Lock order: this port, then the timer. */
static void port61_write(void *opaque, uint32_t region, uint64_t offset, uint32_t size, uint64_t value)
{
    PortDevice *port = opaque;
    port->state.value = value & PORT61_KEPT;
    i8254_set_gate(port->pit, 2, value & PORT61_GATE);
}

static void port61_reset(Device *device)
{
    PortDevice *port = port_of(device);
    port->state.value = 0;
    i8254_set_gate(port->pit, 2, false);
}

static int port61_restore(Device *device, const void *state)
{
    uint32_t value = ((const PortState *)state)->value;
    if (value & ~(uint32_t)PORT61_KEPT)
        return -EINVAL;
    port_of(device)->state.value = value; /* the timer's own state has the gate */
    return 0;
}

static const DeviceClass port61_class =
    PORT_CLASS("port61", port61_read, port61_write, port61_reset, port61_restore);

Device *port61_new(Board *board, Device *pit)
{
    PortDevice *port = port_new(board, &port61_class);
    if (port)
        port->pit = pit;
    return port_ready(port);
}

/* Port 0x80: the manufacturing check-point. Kernels also write it to pass a microsecond. */

static void post_code_write(void *opaque, uint32_t region, uint64_t offset, uint32_t size, uint64_t value)
{
    ((PortDevice *)opaque)->state.value = value & 0xff;
}

static const DeviceClass post_code_class =
    PORT_CLASS("post-code", port_read, post_code_write, port_reset, port_restore);

Device *post_code_new(Board *board) { return port_ready(port_new(board, &post_code_class)); }

/* Port 0xe9: reading its own number says that it is there. */

static uint64_t debug_console_read(void *opaque, uint32_t region, uint64_t offset, uint32_t size) { return 0xe9; }

static void debug_console_write(void *opaque, uint32_t region, uint64_t offset, uint32_t size, uint64_t value)
{
    PortDevice *port = opaque;
    uint8_t byte = (uint8_t)value;
    port->state.value = byte;
    if (port->sink)
        char_sink_write(port->sink, &byte, 1); /* no way to say "busy": a byte may be lost when the sink is full */
}

static const DeviceClass debug_console_class =
    PORT_CLASS("debug-console", debug_console_read, debug_console_write, port_reset, port_restore);

Device *debug_console_new(Board *board, CharSink *sink)
{
    PortDevice *port = port_new(board, &debug_console_class);
    if (port)
        port->sink = sink;
    return port_ready(port);
}

static void exit_port_write(void *opaque, uint32_t region, uint64_t offset, uint32_t size, uint64_t value)
{
    PortDevice *port = opaque;
    port->state.value = (uint32_t)value;
    board_request(port->device.board, SYSTEM_EXIT, (uint32_t)value << 1 | 1);
}

static const DeviceClass exit_port_class =
    PORT_CLASS("exit-port", port_read, exit_port_write, port_reset, port_restore);

Device *exit_port_new(Board *board) { return port_ready(port_new(board, &exit_port_class)); }

/* Port 0xcf9 (PIIX 290562 §2.5.7): bit 1 says hard or soft, a rising bit 2 resets. Both kinds reset all the machine
 * here. */

enum { RESET_CONTROL_CPU = 0x04, RESET_CONTROL_KEPT = 0x0e };

static void reset_control_write(void *opaque, uint32_t region, uint64_t offset, uint32_t size, uint64_t value)
{
    PortDevice *port = opaque;
    bool reset = value & ~port->state.value & RESET_CONTROL_CPU;
    port->state.value = value & RESET_CONTROL_KEPT;
    if (reset)
        board_request(port->device.board, SYSTEM_RESET, 0);
}

static const DeviceClass reset_control_class =
    PORT_CLASS("reset-control", port_read, reset_control_write, port_reset, port_restore);

Device *reset_control_new(Board *board) { return port_ready(port_new(board, &reset_control_class)); }

static void firmware_port_write(void *opaque, uint32_t region, uint64_t offset, uint32_t size, uint64_t value)
{
    PortDevice *port = opaque;
    port->state.value = value & 0xffff;
    board_request(port->device.board, SYSTEM_FIRMWARE,
                  value & 0xffff); /* kicks: the vCPU leaves after this instruction */
}

static const DeviceClass firmware_port_class =
    PORT_CLASS("firmware-port", port_read, firmware_port_write, port_reset, port_restore);

Device *firmware_port_new(Board *board) { return port_ready(port_new(board, &firmware_port_class)); }
