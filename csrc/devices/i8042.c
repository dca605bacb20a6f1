#include <stdlib.h>

#include "devices/i8042.h"

enum {
    STATUS_OBF = 0x01,
    STATUS_SYSTEM = 0x04,
    STATUS_COMMAND = 0x08,
    STATUS_UNLOCKED = 0x10,
    STATUS_AUX = 0x20,
    STATUS_TIMEOUT = 0x40,
};
enum {
    BYTE_KEYBOARD_IRQ = 0x01,
    BYTE_AUX_IRQ = 0x02,
    BYTE_SYSTEM = 0x04,
    BYTE_KEYBOARD_OFF = 0x10,
    BYTE_AUX_OFF = 0x20,
    BYTE_TRANSLATE = 0x40,
};
enum { P2_NO_RESET = 0x01, P2_A20 = 0x02, P2_KEYBOARD_FULL = 0x10, P2_AUX_FULL = 0x20, P2_IDLE = 0xcf };
enum { KEYBOARD_ACK = 0xfa, KEYBOARD_RESEND = 0xfe, KEYBOARD_BAT_OK = 0xaa, KEYBOARD_DEFAULT_TYPEMATIC = 0x2b };

#define BYTE_NS      700000 /* 11 bits at about 15 kHz */
#define BREAK_PREFIX 0xf0

typedef struct I8042 {
    Device device;
    IrqLine *keyboard_irq;
    IrqLine *aux_irq;
    Timer *timer;
    bool logged; /* an unknown command was named in the log */
    I8042State state;
} I8042;

/* Scan code set 2 to set 1, for make codes below 0x80 (PS/2 HITR "Scan code translation"). */
static const uint8_t set1_of[128] = {
    0xff, 0x43, 0x41, 0x3f, 0x3d, 0x3b, 0x3c, 0x58, 0x64, 0x44, 0x42, 0x40, 0x3e, 0x0f, 0x29, 0x59,
    0x65, 0x38, 0x2a, 0x70, 0x1d, 0x10, 0x02, 0x5a, 0x66, 0x71, 0x2c, 0x1f, 0x1e, 0x11, 0x03, 0x5b,
    0x67, 0x2e, 0x2d, 0x20, 0x12, 0x05, 0x04, 0x5c, 0x68, 0x39, 0x2f, 0x21, 0x14, 0x13, 0x06, 0x5d,
    0x69, 0x31, 0x30, 0x23, 0x22, 0x15, 0x07, 0x5e, 0x6a, 0x72, 0x32, 0x24, 0x16, 0x08, 0x09, 0x5f,
    0x6b, 0x33, 0x25, 0x17, 0x18, 0x0b, 0x0a, 0x60, 0x6c, 0x34, 0x35, 0x26, 0x27, 0x19, 0x0c, 0x61,
    0x6d, 0x73, 0x28, 0x74, 0x1a, 0x0d, 0x62, 0x6e, 0x3a, 0x36, 0x1c, 0x1b, 0x75, 0x2b, 0x63, 0x76,
    0x55, 0x56, 0x77, 0x78, 0x79, 0x7a, 0x0e, 0x7b, 0x7c, 0x4f, 0x7d, 0x4b, 0x47, 0x7e, 0x7f, 0x6f,
    0x52, 0x53, 0x50, 0x4c, 0x4d, 0x48, 0x01, 0x45, 0x57, 0x4e, 0x51, 0x4a, 0x37, 0x49, 0x46, 0x54,
};

static uint8_t translate(uint8_t code)
{
    if (code < 0x80)
        return set1_of[code];
    return code == 0x83 ? 0x41 : code == 0x84 ? 0x54 : code; /* F7 and SysRq; responses pass */
}

/* The interrupt lines follow the output buffer. */
static void update_irqs(I8042 *kbc)
{
    I8042State *s = &kbc->state;
    bool full = s->status & STATUS_OBF, aux = s->status & STATUS_AUX;
    s->output_port &= ~(P2_KEYBOARD_FULL | P2_AUX_FULL);
    if (full)
        s->output_port |= aux ? P2_AUX_FULL : P2_KEYBOARD_FULL;
    irq_line_set(kbc->keyboard_irq, full && !aux && (s->command_byte & BYTE_KEYBOARD_IRQ));
    irq_line_set(kbc->aux_irq, full && aux && (s->command_byte & BYTE_AUX_IRQ));
}

/* Controller's own answers replace what is in the output buffer: software waits for it to be empty. */
static void put_output(I8042 *kbc, uint8_t byte, uint8_t flags)
{
    I8042State *s = &kbc->state;
    if (s->status & STATUS_OBF) { /* the edge of the interrupt must be seen */
        s->status &= ~STATUS_OBF;
        update_irqs(kbc);
    }
    s->output = byte;
    s->status = (s->status & ~(STATUS_AUX | STATUS_TIMEOUT)) | STATUS_OBF | flags;
    update_irqs(kbc);
}

static void queue_push(I8042State *s, uint8_t byte)
{
    s->queue[(s->queue_head + s->queue_count++) % I8042_KEYBOARD_QUEUE] = byte;
}

static uint8_t queue_pop(I8042State *s)
{
    uint8_t byte = s->queue[s->queue_head];
    s->queue_head = (s->queue_head + 1) % I8042_KEYBOARD_QUEUE;
    s->queue_count--;
    return byte;
}

static bool keyboard_waits(const I8042State *s) { return s->queue_count && !(s->command_byte & BYTE_KEYBOARD_OFF); }

static bool mouse_waits(const I8042State *s)
{
    return !(s->command_byte & BYTE_AUX_OFF) && ps2_mouse_has_data(&s->mouse);
}

/* Move the next byte of the keyboard, or of the mouse, to the output buffer when line, buffer and pace allow it. */
static void pump(I8042 *kbc)
{
    I8042State *s = &kbc->state;
    while (!(s->status & STATUS_OBF) && (keyboard_waits(s) || mouse_waits(s))) {
        if (clock_now(kbc->device.board->clock) < s->next_byte_ns) {
            timer_arm(kbc->timer, s->next_byte_ns);
            return;
        }
        if (!keyboard_waits(s)) {
            put_output(kbc, (uint8_t)ps2_mouse_read(&s->mouse), STATUS_AUX);
            return;
        }
        uint8_t byte = queue_pop(s);
        if (s->command_byte & BYTE_TRANSLATE) {
            if (byte == BREAK_PREFIX) {
                s->break_prefix = 0x80;
                continue;
            }
            byte = translate(byte) | s->break_prefix;
            s->break_prefix = 0;
        }
        put_output(kbc, byte, 0);
    }
}

static void i8042_expired(void *opaque)
{
    I8042 *kbc = opaque;
    pthread_mutex_lock(&kbc->device.lock);
    pump(kbc);
    pthread_mutex_unlock(&kbc->device.lock);
}

/* What the keyboard answers; it drops keys rather than an answer. */
static void keyboard_send(I8042State *s, uint8_t byte)
{
    if (s->queue_count == I8042_KEYBOARD_QUEUE)
        queue_pop(s);
    queue_push(s, byte);
    s->last_sent = byte;
}

static void keyboard_defaults(I8042State *s)
{
    s->queue_count = 0;
    s->scan_set = 2;
    s->typematic = KEYBOARD_DEFAULT_TYPEMATIC;
    s->keyboard_pending = 0;
    s->break_prefix = 0;
}

static void keyboard_parameter(I8042State *s, uint8_t value)
{
    uint8_t command = s->keyboard_pending;
    s->keyboard_pending = 0;
    switch (command) {
    case 0xed:
        s->leds = value & 7;
        break;
    case 0xf3:
        s->typematic = value & 0x7f;
        break;
    default: /* 0xf0: scan code set, 0 asks for it */
        if (value > 2) {
            keyboard_send(s, KEYBOARD_RESEND);
            return;
        }
        keyboard_send(s, KEYBOARD_ACK);
        if (value)
            s->scan_set = value;
        else
            keyboard_send(s, s->scan_set);
        return;
    }
    keyboard_send(s, KEYBOARD_ACK);
}

/* PS/2 HITR "Commands from the system". */
static void keyboard_command(I8042State *s, uint8_t value)
{
    if (s->keyboard_pending && value < 0x80) {
        keyboard_parameter(s, value);
        return;
    }
    s->keyboard_pending = 0; /* a command where a parameter should be is the command */
    switch (value) {
    case 0xed: /* set LEDs */
    case 0xf0: /* scan code set */
    case 0xf3: /* typematic rate and delay */
        s->keyboard_pending = value;
        keyboard_send(s, KEYBOARD_ACK);
        break;
    case 0xee: /* echo */
        keyboard_send(s, 0xee);
        break;
    case 0xf2: /* identify: MF-II */
        keyboard_send(s, KEYBOARD_ACK);
        keyboard_send(s, 0xab);
        keyboard_send(s, 0x83);
        break;
    case 0xf4: /* enable */
        s->queue_count = 0;
        s->scanning = 1;
        keyboard_send(s, KEYBOARD_ACK);
        break;
    case 0xf5: /* defaults, and stop scanning */
    case 0xf6: /* defaults */
        keyboard_defaults(s);
        s->scanning = value == 0xf6;
        keyboard_send(s, KEYBOARD_ACK);
        break;
    case 0xf7 ... 0xfd: /* modes of keys in set 3: accepted */
        keyboard_send(s, KEYBOARD_ACK);
        break;
    case 0xfe:
        keyboard_send(s, s->last_sent);
        break;
    case 0xff: /* reset: acknowledge, self-test, its result */
        keyboard_defaults(s);
        s->leds = 0;
        s->scanning = 1;
        keyboard_send(s, KEYBOARD_ACK);
        keyboard_send(s, KEYBOARD_BAT_OK);
        break;
    default:
        keyboard_send(s, KEYBOARD_RESEND);
    }
}

static void write_output_port(I8042 *kbc, uint8_t value)
{
    kbc->state.output_port = value;
    update_irqs(kbc);
    board_set_a20(kbc->device.board, A20_I8042, value & P2_A20);
    if (!(value & P2_NO_RESET))
        board_request(kbc->device.board, SYSTEM_RESET, 0);
}

static void write_command_byte(I8042 *kbc, uint8_t value)
{
    I8042State *s = &kbc->state;
    s->command_byte = value;
    s->status = (s->status & ~STATUS_SYSTEM) | (value & BYTE_SYSTEM ? STATUS_SYSTEM : 0);
    update_irqs(kbc);
}

/* A byte at 0x60: for the keyboard, unless a controller command waits for it. */
static void write_data(I8042 *kbc, uint8_t value)
{
    I8042State *s = &kbc->state;
    uint8_t command = s->pending;
    s->pending = 0;
    s->status &= ~STATUS_COMMAND;
    switch (command) {
    case 0:
        s->command_byte &= ~BYTE_KEYBOARD_OFF; /* sending needs the keyboard's clock */
        keyboard_command(s, value);
        break;
    case 0x60:
        write_command_byte(kbc, value);
        break;
    case 0x61 ... 0x7f:
        s->ram[command - 0x61] = value;
        break;
    case 0xd1:
        write_output_port(kbc, value);
        break;
    case 0xd2:
        put_output(kbc, value, 0);
        break;
    case 0xd3:
        put_output(kbc, value, STATUS_AUX);
        break;
    default: /* 0xd4 */
        s->command_byte &= ~BYTE_AUX_OFF;
        ps2_mouse_write(&s->mouse, value);
    }
    pump(kbc);
}

/* PS/2 HITR "Controller commands". */
static void write_command(I8042 *kbc, uint8_t value)
{
    I8042State *s = &kbc->state;
    s->status |= STATUS_COMMAND;
    s->pending = 0;
    switch (value) {
    case 0x20:
        put_output(kbc, s->command_byte, 0);
        break;
    case 0x21 ... 0x3f:
        put_output(kbc, s->ram[value - 0x21], 0);
        break;
    case 0x60 ... 0x7f:
    case 0xd1 ... 0xd4:
        s->pending = value;
        break;
    case 0xa4: /* is a password installed? no */
        put_output(kbc, 0xf1, 0);
        break;
    case 0xa7:
        s->command_byte |= BYTE_AUX_OFF;
        break;
    case 0xa8:
        s->command_byte &= ~BYTE_AUX_OFF;
        break;
    case 0xa9: /* interface tests: no error */
    case 0xab:
        put_output(kbc, 0x00, 0);
        break;
    case 0xaa: /* self-test */
        s->status |= STATUS_SYSTEM;
        s->command_byte |= BYTE_SYSTEM;
        put_output(kbc, 0x55, 0);
        break;
    case 0xad:
        s->command_byte |= BYTE_KEYBOARD_OFF;
        break;
    case 0xae:
        s->command_byte &= ~BYTE_KEYBOARD_OFF;
        break;
    case 0xc0: /* input port: keyboard not locked */
        put_output(kbc, 0x80, 0);
        break;
    case 0xd0:
        put_output(kbc, s->output_port, 0);
        break;
    case 0xdd:
    case 0xdf: /* A20 off and on, as later controllers have it */
        write_output_port(kbc, value == 0xdf ? s->output_port | P2_A20 : s->output_port & ~P2_A20);
        break;
    case 0xe0: /* test inputs: both clocks idle */
        put_output(kbc, 0x00, 0);
        break;
    case 0xf0 ... 0xff: /* pulse the output port's low bits that are 0 here; bit 0 is the CPU's reset */
        if (!(value & P2_NO_RESET))
            board_request(kbc->device.board, SYSTEM_RESET, 0);
        break;
    default:
        if (!kbc->logged)
            event_log_add(kbc->device.board->log, "i8042: unknown controller command %#x", value);
        kbc->logged = true;
    }
    pump(kbc);
}

static uint8_t read_data(I8042 *kbc)
{
    I8042State *s = &kbc->state;
    uint8_t value = s->output;
    if (s->status & STATUS_OBF) {
        bool aux = s->status & STATUS_AUX;
        s->status &= ~(STATUS_OBF | STATUS_AUX | STATUS_TIMEOUT);
        update_irqs(kbc);
        if (aux ? ps2_mouse_has_data(&s->mouse)
                : s->queue_count != 0) /* a byte takes its time on the wire: a second read gives the same one */
            s->next_byte_ns = clock_now(kbc->device.board->clock) + BYTE_NS;
        pump(kbc);
    }
    return value;
}

static uint64_t i8042_read(void *opaque, uint32_t region, uint64_t offset, uint32_t size)
{
    I8042 *kbc = opaque;
    return region == I8042_REGION_DATA ? read_data(kbc) : kbc->state.status;
}

static void i8042_write(void *opaque, uint32_t region, uint64_t offset, uint32_t size, uint64_t value)
{
    if (region == I8042_REGION_DATA)
        write_data(opaque, (uint8_t)value);
    else
        write_command(opaque, (uint8_t)value);
}

int i8042_key(Device *device, const uint8_t *codes, size_t size)
{
    I8042 *kbc = container_of(device, I8042, device);
    I8042State *s = &kbc->state;
    int result = 0;
    pthread_mutex_lock(&device->lock);
    if (!s->scanning)
        result = -EAGAIN;
    else if (size > (size_t)(I8042_KEYBOARD_QUEUE - s->queue_count))
        result = -ENOSPC;
    uint8_t break_bit = 0;
    for (size_t i = 0; i < size && !result; i++) {
        if (s->scan_set == 2) {
            queue_push(s, codes[i]);
        } else if (codes[i] == BREAK_PREFIX) {
            break_bit = 0x80;
        } else {
            queue_push(s, translate(codes[i]) | break_bit);
            break_bit = 0;
        }
    }
    pump(kbc);
    pthread_mutex_unlock(&device->lock);
    return result;
}

uint8_t i8042_leds(Device *device)
{
    return __atomic_load_n(&container_of(device, I8042, device)->state.leds, __ATOMIC_RELAXED);
}

void i8042_mouse(Device *device, int32_t dx, int32_t dy, int32_t dz, uint8_t buttons)
{
    I8042 *kbc = container_of(device, I8042, device);
    pthread_mutex_lock(&device->lock);
    ps2_mouse_move(&kbc->state.mouse, dx, dy, dz, buttons);
    pump(kbc);
    pthread_mutex_unlock(&device->lock);
}

static void i8042_reset(Device *device)
{
    I8042 *kbc = container_of(device, I8042, device);
    timer_disarm(kbc->timer);
    kbc->state = (I8042State){
        .status = STATUS_UNLOCKED,
        .command_byte = BYTE_KEYBOARD_IRQ | BYTE_TRANSLATE | BYTE_AUX_OFF,
        .output_port = P2_IDLE,
        .scanning = 1,
        .scan_set = 2,
        .typematic = KEYBOARD_DEFAULT_TYPEMATIC,
    };
    ps2_mouse_reset(&kbc->state.mouse);
    update_irqs(kbc);
    board_set_a20(device->board, A20_I8042,
                  true); /* the pull-up: the CPU fetches its first instruction with A20 high */
}

static void i8042_destroy(Device *device) { timer_free(container_of(device, I8042, device)->timer); }

static void i8042_save(Device *device, void *state)
{
    *(I8042State *)state = container_of(device, I8042, device)->state;
}

static int i8042_restore(Device *device, const void *state)
{
    I8042 *kbc = container_of(device, I8042, device);
    const I8042State *saved = state;
    bool pending_is_valid = !saved->pending || (saved->pending >= 0x60 && saved->pending <= 0x7f) ||
                            (saved->pending >= 0xd1 && saved->pending <= 0xd4);
    if (saved->queue_head >= I8042_KEYBOARD_QUEUE || saved->queue_count > I8042_KEYBOARD_QUEUE ||
        saved->scan_set < 1 || saved->scan_set > 2 || !pending_is_valid || !ps2_mouse_is_valid(&saved->mouse))
        return -EINVAL;
    kbc->state = *saved;
    update_irqs(kbc);
    board_set_a20(device->board, A20_I8042, saved->output_port & P2_A20);
    pump(kbc);
    return 0;
}

static const DeviceClass i8042_class = {
    .name = "i8042",
    .ops = {i8042_read, i8042_write},
    .reset = i8042_reset,
    .destroy = i8042_destroy,
    .state_size = sizeof(I8042State),
    .state_version = I8042_STATE_VERSION,
    .save = i8042_save,
    .restore = i8042_restore,
};

Device *i8042_new(Board *board, IrqLine *keyboard, IrqLine *aux)
{
    I8042 *kbc = calloc(1, sizeof *kbc);
    if (!kbc)
        return NULL;
    device_init(&kbc->device, &i8042_class, board);
    kbc->keyboard_irq = keyboard;
    kbc->aux_irq = aux;
    kbc->timer = timer_new(board->clock, i8042_expired, kbc);
    if (!kbc->timer) {
        device_free(&kbc->device);
        return NULL;
    }
    i8042_reset(&kbc->device);
    return &kbc->device;
}
