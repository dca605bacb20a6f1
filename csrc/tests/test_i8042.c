/* PS/2 Hardware Interface Technical Reference: controller commands, keyboard commands, translation, A20 and reset.
 */
#include "device_check.h"
#include "devices/i8042.h"

enum { DATA = I8042_REGION_DATA, COMMAND = I8042_REGION_COMMAND };

typedef struct Setup {
    Board *board;
    Device *kbc;
    IrqLine *keyboard, *aux;
} Setup;

static Setup setup(void)
{
    Setup s = {.board = test_board()};
    s.keyboard = irq_line_new(s.board->irqs, 1);
    s.aux = irq_line_new(s.board->irqs, 12);
    s.kbc = i8042_new(s.board, s.keyboard, s.aux);
    CHECK(s.kbc);
    return s;
}

static void done(Setup *s)
{
    device_free(s->kbc);
    board_free(s->board);
}

static uint8_t status(Setup *s) { return in8(s->kbc, COMMAND, 0); }
static uint8_t data(Setup *s) { return in8(s->kbc, DATA, 0); }
static void command(Setup *s, uint8_t value) { out8(s->kbc, COMMAND, 0, value); }
static void put(Setup *s, uint8_t value) { out8(s->kbc, DATA, 0, value); }

/* The keyboard's next byte, after the time that it takes on the wire. */
static int key_byte(Setup *s)
{
    pass(s->board, 1000000);
    return status(s) & 1 ? data(s) : -1;
}

static void acknowledged(Setup *s, uint8_t value)
{
    put(s, value);
    CHECK_EQ(key_byte(s), 0xfa);
}

static int ask(Setup *s, uint8_t value)
{
    command(s, value);
    CHECK_EQ(status(s) & 0x21, 0x01);
    return data(s);
}

static void controller(void)
{
    Setup s = setup();
    CHECK_EQ(status(&s), 0x10);
    CHECK_EQ(ask(&s, 0xaa), 0x55);
    CHECK_EQ(status(&s), 0x1c); /* system flag, last write was a command */
    CHECK_EQ(ask(&s, 0xab), 0);
    CHECK_EQ(ask(&s, 0xa9), 0);
    CHECK_EQ(ask(&s, 0xc0), 0x80);
    CHECK_EQ(ask(&s, 0xa4), 0xf1);
    command(&s, 0x60), put(&s, 0x47);
    CHECK_EQ(ask(&s, 0x20), 0x47);
    command(&s, 0xad);
    CHECK_EQ(ask(&s, 0x20), 0x57);
    command(&s, 0xae);
    command(&s, 0xa7);
    CHECK_EQ(ask(&s, 0x20), 0x67);
    command(&s, 0xa8);
    CHECK_EQ(ask(&s, 0x20), 0x47);
    command(&s, 0x65), put(&s, 0x99);
    CHECK_EQ(ask(&s, 0x25), 0x99);
    char text[100];
    CHECK_EQ(event_log_take(s.board->log, text, sizeof text), 0);
    command(&s, 0x10);
    CHECK(event_log_take(s.board->log, text, sizeof text) > 0);
    done(&s);
}

static void a20_and_reset(void)
{
    Setup s = setup();
    uint32_t code;
    CHECK_EQ(s.board->a20, 1);
    CHECK_EQ(ask(&s, 0xd0) & 3, 3);
    command(&s, 0xd1), put(&s, 0xdd);
    CHECK_EQ(s.board->a20, 0);
    command(&s, 0xdf);
    CHECK_EQ(s.board->a20, 1);
    command(&s, 0xdd);
    CHECK_EQ(s.board->a20, 0);
    command(&s, 0xff); /* pulses nothing */
    CHECK_EQ(board_take_request(s.board, &code), SYSTEM_NONE);
    command(&s, 0xfe);
    CHECK_EQ(board_take_request(s.board, &code), SYSTEM_RESET);
    command(&s, 0xd1), put(&s, 0xde);
    CHECK_EQ(board_take_request(s.board, &code), SYSTEM_RESET);
    device_reset(s.kbc);
    CHECK_EQ(s.board->a20, 1);
    done(&s);
}

static void keyboard_commands(void)
{
    Setup s = setup();
    command(&s, 0x60), put(&s, 0x01); /* no translation */
    put(&s, 0xff);
    CHECK(irq_line_level(s.keyboard));
    CHECK_EQ(key_byte(&s), 0xfa);
    CHECK(!irq_line_level(s.keyboard));
    CHECK_EQ(data(&s), 0xfa); /* the next byte takes its time: the same again */
    CHECK_EQ(status(&s) & 1, 0);
    CHECK_EQ(key_byte(&s), 0xaa);
    CHECK_EQ(key_byte(&s), -1);
    put(&s, 0xf2);
    CHECK_EQ(key_byte(&s), 0xfa);
    CHECK_EQ(key_byte(&s), 0xab);
    CHECK_EQ(key_byte(&s), 0x83);
    put(&s, 0xed);
    CHECK_EQ(key_byte(&s), 0xfa);
    put(&s, 0x05);
    CHECK_EQ(key_byte(&s), 0xfa);
    CHECK_EQ(i8042_leds(s.kbc), 5);
    put(&s, 0xf0);
    CHECK_EQ(key_byte(&s), 0xfa);
    put(&s, 0x00);
    CHECK_EQ(key_byte(&s), 0xfa);
    CHECK_EQ(key_byte(&s), 0x02);
    acknowledged(&s, 0xf3);
    acknowledged(&s, 0x00);
    put(&s, 0xee);
    CHECK_EQ(key_byte(&s), 0xee);
    put(&s, 0xfe);
    CHECK_EQ(key_byte(&s), 0xee);
    put(&s, 0x12);
    CHECK_EQ(key_byte(&s), 0xfe);
    acknowledged(&s, 0xed);
    acknowledged(&s, 0xf4); /* a command instead of the parameter */
    CHECK_EQ(i8042_leds(s.kbc), 5);
    done(&s);
}

static void keys(void)
{
    Setup s = setup();
    static const uint8_t a_make[] = {0x1c}, a_break[] = {0xf0, 0x1c}, up_break[] = {0xe0, 0xf0, 0x75};
    CHECK_EQ(i8042_key(s.kbc, a_make, 1), 0);
    CHECK(irq_line_level(s.keyboard));
    CHECK_EQ(i8042_key(s.kbc, a_break, 2), 0);
    CHECK_EQ(i8042_key(s.kbc, up_break, 3), 0);
    CHECK_EQ(key_byte(&s), 0x1e); /* translated to set 1 */
    CHECK_EQ(key_byte(&s), 0x9e);
    CHECK_EQ(key_byte(&s), 0xe0);
    CHECK_EQ(key_byte(&s), 0xc8);
    CHECK_EQ(key_byte(&s), -1);
    command(&s, 0x60), put(&s, 0x11); /* keyboard off: held back */
    CHECK_EQ(i8042_key(s.kbc, a_break, 2), 0);
    CHECK_EQ(key_byte(&s), -1);
    command(&s, 0xae);
    CHECK_EQ(key_byte(&s), 0xf0);
    CHECK_EQ(key_byte(&s), 0x1c);
    acknowledged(&s, 0xf0);
    acknowledged(&s, 0x01);
    CHECK_EQ(i8042_key(s.kbc, up_break, 3), 0); /* the keyboard itself speaks set 1 */
    CHECK_EQ(key_byte(&s), 0xe0);
    CHECK_EQ(key_byte(&s), 0xc8);
    unsigned queued = 0;
    while (i8042_key(s.kbc, up_break, 3) == 0)
        CHECK(++queued < 100);
    CHECK_EQ(i8042_key(s.kbc, up_break, 3), -ENOSPC);
    put(&s, 0xf5);
    CHECK_EQ(i8042_key(s.kbc, a_make, 1), -EAGAIN);
    done(&s);
}

static int mouse_byte(Setup *s)
{
    pass(s->board, 1000000);
    if ((status(s) & 0x21) != 0x21)
        return -1;
    CHECK(irq_line_level(s->aux) && !irq_line_level(s->keyboard));
    int byte = data(s);
    CHECK(!irq_line_level(s->aux));
    return byte;
}

static void to_mouse(Setup *s, uint8_t value) { command(s, 0xd4), put(s, value); }

static void mouse_acknowledged(Setup *s, uint8_t value)
{
    to_mouse(s, value);
    CHECK_EQ(mouse_byte(s), 0xfa);
}

static void set_rate(Setup *s, uint8_t rate)
{
    mouse_acknowledged(s, 0xf3);
    mouse_acknowledged(s, rate);
}

static void expect_mouse(Setup *s, const uint8_t *bytes, size_t count)
{
    for (size_t i = 0; i < count; i++)
        CHECK_EQ(mouse_byte(s), bytes[i]);
    CHECK_EQ(mouse_byte(s), -1);
}
#define EXPECT_MOUSE(s, ...) expect_mouse(s, (const uint8_t[]){__VA_ARGS__}, sizeof((uint8_t[]){__VA_ARGS__}))

/* PS/2 HITR, "Auxiliary device commands". */
static void mouse_commands(Setup *s)
{
    to_mouse(s, 0xff);
    EXPECT_MOUSE(s, 0xfa, 0xaa, 0x00);
    to_mouse(s, 0xf2);
    EXPECT_MOUSE(s, 0xfa, 0x00);
    to_mouse(s, 0xe9);
    EXPECT_MOUSE(s, 0xfa, 0x00, 2, 100);
    mouse_acknowledged(s, 0xe8);
    to_mouse(s, 4); /* no such resolution */
    CHECK_EQ(mouse_byte(s), 0xfe);
    mouse_acknowledged(s, 0xe8);
    mouse_acknowledged(s, 3);
    set_rate(s, 40);
    mouse_acknowledged(s, 0xe7);
    i8042_mouse(s->kbc, 0, 0, 0, 0x5); /* left and middle */
    to_mouse(s, 0xe9);
    EXPECT_MOUSE(s, 0xfa, 0x16, 3, 40);
    to_mouse(s, 0xfe);
    EXPECT_MOUSE(s, 40);
    mouse_acknowledged(s, 0xee); /* wrap: an echo */
    to_mouse(s, 0x5a);
    EXPECT_MOUSE(s, 0x5a);
    mouse_acknowledged(s, 0xec);
    to_mouse(s, 0x42);
    EXPECT_MOUSE(s, 0xfe);
    i8042_mouse(s->kbc, 0, 0, 0, 0);
    mouse_acknowledged(s, 0xf6);
}

static void mouse_movement(Setup *s)
{
    i8042_mouse(s->kbc, 9, 9, 0, 0); /* not asked for */
    CHECK_EQ(mouse_byte(s), -1);
    mouse_acknowledged(s, 0xf4);
    i8042_mouse(s->kbc, 3, 5, 0, 1); /* right and down, left button */
    EXPECT_MOUSE(s, 0x29, 3, (uint8_t)-5);
    i8042_mouse(s->kbc, 3, 5, 0, 1); /* on its way while the next one comes: they add up */
    i8042_mouse(s->kbc, -300, 0, 0, 1);
    i8042_mouse(s->kbc, -1, 0, 0, 1);
    EXPECT_MOUSE(s, 0x29, 3, (uint8_t)-5, 0x19, 0x01, 0, 0x19, (uint8_t)-46, 0);
    i8042_mouse(s->kbc, 0, 0, 0, 0);
    EXPECT_MOUSE(s, 0x08, 0, 0);
    mouse_acknowledged(s, 0xe7); /* scaling 2:1: 1 1 3 6 9, then twice */
    i8042_mouse(s->kbc, 4, -7, 0, 0);
    EXPECT_MOUSE(s, 0x08, 6, 14);
    mouse_acknowledged(s, 0xe6);
    mouse_acknowledged(s, 0xf0); /* remote: only when asked */
    i8042_mouse(s->kbc, 4, 0, 0, 0);
    CHECK_EQ(mouse_byte(s), -1);
    to_mouse(s, 0xeb);
    EXPECT_MOUSE(s, 0xfa, 0x08, 4, 0);
    mouse_acknowledged(s, 0xea);
}

static void mouse_wheel(Setup *s)
{
    set_rate(s, 200), set_rate(s, 100), set_rate(s, 80);
    to_mouse(s, 0xf2);
    EXPECT_MOUSE(s, 0xfa, 3);
    i8042_mouse(s->kbc, 0, 0, -2, 0);
    EXPECT_MOUSE(s, 0x08, 0, 0, (uint8_t)-2);
    set_rate(s, 200), set_rate(s, 200), set_rate(s, 80);
    to_mouse(s, 0xf2);
    EXPECT_MOUSE(s, 0xfa, 4);
    i8042_mouse(s->kbc, 0, 0, 9, 0x12);
    EXPECT_MOUSE(s, 0x0a, 0, 0, 0x27, 0x0a, 0, 0, 0x22);
    i8042_mouse(s->kbc, 0, 0, 0, 0);
    EXPECT_MOUSE(s, 0x08, 0, 0, 0);
}

static void mouse(void)
{
    Setup s = setup();
    command(&s, 0x60), put(&s, 0x47);
    command(&s, 0xd3), put(&s, 0x5a);
    CHECK_EQ(mouse_byte(&s), 0x5a);
    command(&s, 0xd2), put(&s, 0x33);
    CHECK_EQ(status(&s) & 0x21, 0x01);
    CHECK_EQ(data(&s), 0x33);
    mouse_commands(&s);
    mouse_movement(&s);
    mouse_wheel(&s);
    check_save_restore(s.kbc);
    command(&s, 0xa7); /* held back */
    i8042_mouse(s.kbc, 1, 0, 0, 0);
    CHECK_EQ(mouse_byte(&s), -1);
    static const uint8_t a_make[] = {0x1c};
    CHECK_EQ(i8042_key(s.kbc, a_make, 1), 0);
    CHECK_EQ(key_byte(&s), 0x1e);
    command(&s, 0xa8);
    EXPECT_MOUSE(&s, 0x08, 1, 0, 0);
    i8042_mouse(s.kbc, INT32_MAX, INT32_MIN, INT32_MAX, 0xff);
    i8042_mouse(s.kbc, INT32_MAX, INT32_MIN, INT32_MIN, 0xff);
    CHECK(mouse_byte(&s) >= 0);
    device_reset(s.kbc);
    CHECK_EQ(mouse_byte(&s), -1);
    done(&s);
}

static void state(void)
{
    Setup s = setup();
    static const uint8_t up_break[] = {0xe0, 0xf0, 0x75};
    CHECK_EQ(i8042_key(s.kbc, up_break, 3), 0);
    command(&s, 0xdd);
    command(&s, 0x60);
    check_save_restore(s.kbc);
    CHECK_EQ(s.board->a20, 0);
    CHECK(irq_line_level(s.keyboard));
    put(&s, 0x41); /* the pending command came back too */
    CHECK_EQ(key_byte(&s), 0xe0);
    CHECK_EQ(key_byte(&s), 0xc8);
    I8042State bad;
    device_save(s.kbc, &bad);
    bad.queue_head = I8042_KEYBOARD_QUEUE;
    CHECK_EQ(device_restore(s.kbc, &bad), -EINVAL);
    device_save(s.kbc, &bad);
    bad.pending = 0x20;
    CHECK_EQ(device_restore(s.kbc, &bad), -EINVAL);
    device_save(s.kbc, &bad);
    bad.mouse.queue_count = PS2_MOUSE_QUEUE + 1;
    CHECK_EQ(device_restore(s.kbc, &bad), -EINVAL);
    done(&s);
}

int main(void)
{
    RUN(controller);
    RUN(a20_and_reset);
    RUN(keyboard_commands);
    RUN(keys);
    RUN(mouse);
    RUN(state);
    return 0;
}
