#include "devices/ps2_mouse.h"

enum { ACK = 0xfa, RESEND = 0xfe, SELF_TEST_PASSED = 0xaa, DEFAULT_RATE = 100, DEFAULT_RESOLUTION = 2 };
enum { COMMAND_RESOLUTION = 0xe8, COMMAND_RATE = 0xf3 };
enum {
    PACKET_ALWAYS = 0x08,
    PACKET_X_SIGN = 0x10,
    PACKET_Y_SIGN = 0x20,
    PACKET_X_OVERFLOW = 0x40,
    PACKET_Y_OVERFLOW = 0x80
};
#define MOVE_LIMIT 0x100000 /* of what is not yet reported */

static void push(Ps2MouseState *mouse, uint8_t byte)
{
    if (mouse->queue_count == PS2_MOUSE_QUEUE) { /* an answer matters more than an old movement */
        mouse->queue_head = (mouse->queue_head + 1) % PS2_MOUSE_QUEUE;
        mouse->queue_count--;
    }
    mouse->queue[(mouse->queue_head + mouse->queue_count++) % PS2_MOUSE_QUEUE] = byte;
    mouse->last_sent = byte;
}

static void answer(Ps2MouseState *mouse, uint8_t byte)
{
    push(mouse, ACK);
    push(mouse, byte);
}

static void forget_movement(Ps2MouseState *mouse)
{
    mouse->dx = mouse->dy = mouse->dz = 0;
    mouse->queue_count = 0;
}

static void set_defaults(Ps2MouseState *mouse)
{
    mouse->reporting = mouse->remote = mouse->wrap = mouse->scaling = 0;
    mouse->resolution = DEFAULT_RESOLUTION;
    mouse->sample_rate = DEFAULT_RATE;
    mouse->pending = 0;
    forget_movement(mouse);
}

void ps2_mouse_reset(Ps2MouseState *mouse)
{
    uint8_t buttons = mouse->buttons;
    *mouse = (Ps2MouseState){.buttons = buttons};
    set_defaults(mouse);
}

bool ps2_mouse_is_valid(const Ps2MouseState *m)
{
    return m->queue_head < PS2_MOUSE_QUEUE && m->queue_count <= PS2_MOUSE_QUEUE && m->resolution < 4 &&
           m->reporting < 2 && m->remote < 2 && m->wrap < 2 && m->scaling < 2 &&
           (m->id == 0 || m->id == 3 || m->id == 4) && m->dx >= -MOVE_LIMIT && m->dx <= MOVE_LIMIT &&
           m->dy >= -MOVE_LIMIT && m->dy <= MOVE_LIMIT && m->dz >= -MOVE_LIMIT && m->dz <= MOVE_LIMIT &&
           m->buttons < 32 && m->reported_buttons < 32 &&
           (m->pending == 0 || m->pending == COMMAND_RESOLUTION || m->pending == COMMAND_RATE);
}

static int32_t clamp(int32_t value, int32_t low, int32_t high)
{
    return value < low ? low : value > high ? high : value;
}

/* Two to one: 1 1 3 6 9, then twice the count (PS/2 HITR, "Set scaling 2:1"). */
static int32_t scale(int32_t counts)
{
    static const int32_t SMALL[6] = {0, 1, 1, 3, 6, 9};
    int32_t size = counts < 0 ? -counts : counts, scaled = size < 6 ? SMALL[size] : 2 * size;
    return counts < 0 ? -scaled : scaled;
}

/* Take what one packet can carry out of `*rest`; the sign counts upwards or to the right. */
static int32_t take(int32_t *rest, bool scaled)
{
    int32_t part = clamp(*rest, scaled ? -127 : -255, scaled ? 127 : 255);
    *rest -= part;
    return scaled ? scale(part) : part;
}

static void push_packet(Ps2MouseState *mouse, bool scaled)
{
    int32_t x = take(&mouse->dx, scaled), y = -take(&mouse->dy, scaled);
    uint8_t first =
        PACKET_ALWAYS | (mouse->buttons & 7) | (x < 0 ? PACKET_X_SIGN : 0) | (y < 0 ? PACKET_Y_SIGN : 0);
    mouse->reported_buttons = mouse->buttons;
    push(mouse, first);
    push(mouse, (uint8_t)x);
    push(mouse, (uint8_t)y);
    int32_t z = clamp(mouse->dz, mouse->id == 4 ? -8 : -128, mouse->id == 4 ? 7 : 127);
    mouse->dz = mouse->id ? mouse->dz - z : 0;
    if (mouse->id == 3)
        push(mouse, (uint8_t)z);
    else if (mouse->id == 4)
        push(mouse, (uint8_t)((z & 0xf) | (mouse->buttons & 0x18) << 1));
}

static bool has_news(const Ps2MouseState *mouse)
{
    bool moved = mouse->dx || mouse->dy || (mouse->dz && mouse->id);
    uint8_t pressed = (mouse->buttons ^ mouse->reported_buttons) & (mouse->id == 4 ? 0x1f : 0x07);
    return mouse->reporting && !mouse->remote && !mouse->wrap && (moved || pressed);
}

/* Stream mode: a packet when there is something to say and the last one has gone. */
static void report(Ps2MouseState *mouse)
{
    if (!mouse->queue_count && has_news(mouse))
        push_packet(mouse, mouse->scaling);
}

static void take_parameter(Ps2MouseState *mouse, uint8_t value)
{
    uint8_t command = mouse->pending;
    mouse->pending = 0;
    if (command == COMMAND_RESOLUTION && value > 3) {
        push(mouse, RESEND);
        return;
    }
    if (command == COMMAND_RESOLUTION) {
        mouse->resolution = value;
    } else {
        if (mouse->rates[0] == 200 && value == 80 && (mouse->rates[1] == 100 || mouse->rates[1] == 200))
            mouse->id = mouse->rates[1] == 100 ? 3 : 4;
        mouse->rates[0] = mouse->rates[1];
        mouse->rates[1] = mouse->sample_rate = value;
    }
    push(mouse, ACK);
}

static void send_status(Ps2MouseState *mouse)
{
    answer(mouse,
           (uint8_t)(mouse->remote << 6 | mouse->reporting << 5 | mouse->scaling << 4 | (mouse->buttons & 1) << 2 |
                     (mouse->buttons >> 2 & 1) << 1 | (mouse->buttons >> 1 & 1)));
    push(mouse, mouse->resolution);
    push(mouse, mouse->sample_rate);
}

static void command(Ps2MouseState *mouse, uint8_t value)
{
    switch (value) {
    case 0xe6: /* scaling 1:1 and 2:1 */
    case 0xe7:
        mouse->scaling = value & 1;
        break;
    case COMMAND_RESOLUTION:
    case COMMAND_RATE:
        mouse->pending = value;
        break;
    case 0xe9:
        send_status(mouse);
        return;
    case 0xea: /* stream mode */
    case 0xf0: /* remote mode */
        mouse->remote = value == 0xf0;
        forget_movement(mouse);
        break;
    case 0xeb: /* read data */
        push(mouse, ACK);
        push_packet(mouse, false);
        return;
    case 0xec: /* wrap mode ends and begins */
    case 0xee:
        mouse->wrap = value == 0xee;
        break;
    case 0xf2:
        answer(mouse, mouse->id);
        return;
    case 0xf4:
        mouse->reporting = 1;
        forget_movement(mouse);
        break;
    case 0xf5:
        mouse->reporting = 0;
        break;
    case 0xf6:
        set_defaults(mouse);
        break;
    case 0xfe: /* does not count as sent again */
        push(mouse, mouse->last_sent);
        return;
    case 0xff:
        ps2_mouse_reset(mouse);
        answer(mouse, SELF_TEST_PASSED);
        push(mouse, 0);
        return;
    default:
        push(mouse, RESEND);
        return;
    }
    push(mouse, ACK);
}

void ps2_mouse_write(Ps2MouseState *mouse, uint8_t byte)
{
    if (mouse->wrap && byte != 0xec && byte != 0xff)
        push(mouse, byte);
    else if (mouse->pending)
        take_parameter(mouse, byte);
    else
        command(mouse, byte);
}

void ps2_mouse_move(Ps2MouseState *mouse, int32_t dx, int32_t dy, int32_t dz, uint8_t buttons)
{
    mouse->dx = clamp(mouse->dx + clamp(dx, -MOVE_LIMIT, MOVE_LIMIT), -MOVE_LIMIT, MOVE_LIMIT);
    mouse->dy = clamp(mouse->dy + clamp(dy, -MOVE_LIMIT, MOVE_LIMIT), -MOVE_LIMIT, MOVE_LIMIT);
    mouse->dz = clamp(mouse->dz + clamp(dz, -MOVE_LIMIT, MOVE_LIMIT), -MOVE_LIMIT, MOVE_LIMIT);
    mouse->buttons = buttons & 0x1f;
    if (!mouse->reporting && !mouse->remote) /* nobody asked: only the buttons are kept */
        mouse->dx = mouse->dy = mouse->dz = 0;
    report(mouse);
}

int ps2_mouse_read(Ps2MouseState *mouse)
{
    report(mouse);
    if (!mouse->queue_count)
        return -1;
    uint8_t byte = mouse->queue[mouse->queue_head];
    mouse->queue_head = (mouse->queue_head + 1) % PS2_MOUSE_QUEUE;
    mouse->queue_count--;
    return byte;
}

bool ps2_mouse_has_data(const Ps2MouseState *mouse) { return mouse->queue_count || has_news(mouse); }
