/*
 * The keyboard controller, keyboard and mouse once more, from the IBM PS/2 Hardware Interface Technical Reference
 * (1988, "Keyboard and Auxiliary Device Controller", "Keyboard", "Auxiliary device") by who did not write the
 * devices.
 */
#include "device_check.h"
#include "devices/i8042.h"

enum { OBF = 1, IBF = 2, SYSTEM = 4, IS_COMMAND = 8, NOT_LOCKED = 16, AUX = 32 };
enum { KEY_INT = 1, AUX_INT = 2, KEY_OFF = 16, AUX_OFF = 32, TRANSLATE = 64 };

typedef struct Setup {
    Board *board;
    Device *kbc;
    EdgeCounter key, aux;
} Setup;

static void command(Setup *s, uint8_t value) { out8(s->kbc, I8042_REGION_COMMAND, 0, value); }
static void put(Setup *s, uint8_t value) { out8(s->kbc, I8042_REGION_DATA, 0, value); }
static uint8_t status(Setup *s) { return in8(s->kbc, I8042_REGION_COMMAND, 0); }
static uint8_t get(Setup *s) { return in8(s->kbc, I8042_REGION_DATA, 0); }

/* The next byte, and from whom: -1 when none came in the time of some bytes on the wire; 0x100 added: the mouse's.
 */
static int next(Setup *s)
{
    for (int i = 0; i < 8 && !(status(s) & OBF); i++)
        pass(s->board, 500000);
    uint8_t now = status(s);
    return now & OBF ? get(s) | (now & AUX ? 0x100 : 0) : -1;
}

static void set_command_byte(Setup *s, uint8_t value) { command(s, 0x60), put(s, value); }

static uint8_t command_byte(Setup *s)
{
    command(s, 0x20);
    return (uint8_t)next(s);
}

static void setup(Setup *s)
{
    *s = (Setup){.board = test_board(), .key.gsi = 1, .aux.gsi = 12};
    CHECK_EQ(irq_router_add_sink(s->board->irqs, edge_counter_sink, &s->key), 0);
    CHECK_EQ(irq_router_add_sink(s->board->irqs, edge_counter_sink, &s->aux), 0);
    s->kbc = i8042_new(s->board, irq_line_new(s->board->irqs, 1), irq_line_new(s->board->irqs, 12));
    CHECK(s->kbc);
    command(s, 0xaa);
    CHECK_EQ(next(s), 0x55);
    set_command_byte(s, 0);
    command(s, 0xae), command(s, 0xa8);
}

static void done(Setup *s)
{
    device_free(s->kbc);
    board_free(s->board);
}

/* Bytes to the keyboard, or with 0x100 to the mouse, and what they answer; -1 ends a list. */
static void talk(Setup *s, const int *sent, const int *answers)
{
    for (; *sent >= 0; sent++) {
        if (*sent & 0x100)
            command(s, 0xd4);
        put(s, (uint8_t)*sent);
        pass(s->board, 2000000);
        CHECK_EQ(next(s), (*sent & 0x100) | 0xfa); /* each byte is acknowledged */
    }
    for (; *answers >= 0; answers++)
        CHECK_EQ(next(s), *answers);
    CHECK_EQ(next(s), -1);
}
#define TALK(s, sent, ...)                                                                                         \
    do {                                                                                                           \
        const int sent_[] = {SENT sent, -1}, answers_[] = {__VA_ARGS__ __VA_OPT__(, ) - 1};                        \
        talk(s, sent_, answers_);                                                                                  \
    } while (0)
#define SENT(...) __VA_ARGS__

static void test_controller_commands(void)
{
    Setup s;
    setup(&s);
    for (unsigned i = 0; i < 32; i++)
        command(&s, (uint8_t)(0x60 + i)), put(&s, (uint8_t)(i ? i * 9 : 0x74));
    for (unsigned i = 0; i < 32; i++) {
        command(&s, (uint8_t)(0x20 + i));
        CHECK_EQ(next(&s), (uint8_t)(i ? i * 9 : 0x74));
    }
    CHECK_EQ(status(&s) & (SYSTEM | IS_COMMAND | NOT_LOCKED | IBF), SYSTEM | IS_COMMAND | NOT_LOCKED);
    set_command_byte(&s, 0x30);
    CHECK_EQ(status(&s) & (SYSTEM | IS_COMMAND), 0); /* the system flag is bit 2; the last write was data */
    command(&s, 0xa8);
    CHECK_EQ(command_byte(&s), 0x10);
    command(&s, 0xae);
    CHECK_EQ(command_byte(&s), 0x00);
    command(&s, 0xa7);
    CHECK_EQ(command_byte(&s), 0x20);
    command(&s, 0xad);
    CHECK_EQ(command_byte(&s), 0x30);
    command(&s, 0xab);
    CHECK_EQ(next(&s), 0);
    command(&s, 0xa9);
    CHECK_EQ(next(&s), 0);
    command(&s, 0xa8), command(&s, 0xae);
    /* D0, D1: the output port; bit 1 is A20. Bit 0 is the reset line. */
    for (unsigned on = 0; on < 4; on++) {
        command(&s, 0xd1), put(&s, (uint8_t)(0xdd | (on & 1) << 1));
        CHECK_EQ(s.board->a20, on & 1);
        command(&s, 0xd0);
        CHECK_EQ(next(&s) & 3, 1 | (on & 1) << 1);
    }
    uint32_t code;
    CHECK_EQ(board_take_request(s.board, &code), SYSTEM_NONE);
    command(&s, 0xf0 | 0xf), command(&s, 0xf1); /* pulses without bit 0 */
    CHECK_EQ(board_take_request(s.board, &code), SYSTEM_NONE);
    command(&s, 0xfe);
    CHECK_EQ(board_take_request(s.board, &code), SYSTEM_RESET);
    /* D2 and D3: as if from the keyboard, and from the mouse. */
    set_command_byte(&s, KEY_INT | AUX_INT);
    unsigned key = s.key.edges, aux = s.aux.edges;
    command(&s, 0xd2), put(&s, 0x5a);
    CHECK_EQ(s.key.edges, key + 1);
    CHECK_EQ(next(&s), 0x5a);
    CHECK(!s.key.level);
    command(&s, 0xd3), put(&s, 0xa5);
    CHECK_EQ(s.aux.edges, aux + 1);
    CHECK_EQ(s.key.edges, key + 1);
    CHECK_EQ(next(&s), 0x1a5);
    CHECK(!s.aux.level);
    CHECK_EQ(next(&s), -1);
    done(&s);
}

static void test_keyboard_commands(void)
{
    Setup s;
    setup(&s);
    TALK(&s, (0xff), 0xaa);
    TALK(&s, (0xf2), 0xab, 0x83);
    for (int leds = 0; leds < 8; leds++) {
        TALK(&s, (0xed, leds));
        CHECK_EQ(i8042_leds(s.kbc), leds);
    }
    TALK(&s, (0xf3, 0x2b));
    TALK(&s, (0xf0, 0), 2); /* the power-on set */
    TALK(&s, (0xf0, 1));
    TALK(&s, (0xf0, 0), 1);
    TALK(&s, (0xf6));
    TALK(&s, (0xf5));
    CHECK_EQ(i8042_key(s.kbc, (const uint8_t[]){0x1c}, 1), -EAGAIN);
    TALK(&s, (0xf4));
    put(&s, 0xee); /* echo is its own answer */
    CHECK_EQ(next(&s), 0xee);
    put(&s, 0xfe); /* again */
    CHECK_EQ(next(&s), 0xee);
    put(&s, 0x01); /* not a command */
    CHECK_EQ(next(&s), 0xfe);
    CHECK_EQ(next(&s), -1);
    /* The last byte again, also after a code; not the resend itself. */
    TALK(&s, (0xff), 0xaa);
    put(&s, 0xfe);
    CHECK_EQ(next(&s), 0xaa);
    /* A command where a parameter was due is a command. */
    put(&s, 0xed);
    CHECK_EQ(next(&s), 0xfa);
    TALK(&s, (0xf4));
    put(&s, 0xee);
    CHECK_EQ(next(&s), 0xee);
    /* Through the translation the identity is what BIOSes know. */
    set_command_byte(&s, TRANSLATE);
    TALK(&s, (0xf2), 0xab, 0x41);
    done(&s);
}

static void press(Setup *s, uint8_t a, uint8_t b, uint8_t c, size_t size)
{
    CHECK_EQ(i8042_key(s->kbc, (const uint8_t[]){a, b, c}, size), 0);
}

/* "Scan code sets 1 and 2": the same keys by each way. */
static void test_scan_codes(void)
{
    static const struct {
        uint8_t set2, set1;
        bool extended;
    } KEYS[] = {
        {0x76, 0x01, 0}, {0x16, 0x02, 0}, {0x45, 0x0b, 0}, {0x66, 0x0e, 0}, {0x0d, 0x0f, 0}, {0x15, 0x10, 0},
        {0x4d, 0x19, 0}, {0x5a, 0x1c, 0}, {0x14, 0x1d, 0}, {0x1c, 0x1e, 0}, {0x4b, 0x26, 0}, {0x0e, 0x29, 0},
        {0x12, 0x2a, 0}, {0x1a, 0x2c, 0}, {0x59, 0x36, 0}, {0x11, 0x38, 0}, {0x29, 0x39, 0}, {0x58, 0x3a, 0},
        {0x05, 0x3b, 0}, {0x83, 0x41, 0}, {0x09, 0x44, 0}, {0x77, 0x45, 0}, {0x7e, 0x46, 0}, {0x6c, 0x47, 0},
        {0x71, 0x53, 0}, {0x61, 0x56, 0}, {0x78, 0x57, 0}, {0x07, 0x58, 0}, {0x75, 0x48, 1}, {0x72, 0x50, 1},
        {0x6b, 0x4b, 1}, {0x74, 0x4d, 1}, {0x70, 0x52, 1}, {0x71, 0x53, 1}, {0x6c, 0x47, 1}, {0x7d, 0x49, 1},
        {0x14, 0x1d, 1}, {0x11, 0x38, 1}, {0x4a, 0x35, 1}, {0x5a, 0x1c, 1}, {0x1f, 0x5b, 1}, {0x27, 0x5c, 1},
    };
    for (int way = 0; way < 3; way++) { /* set 2 as it is, set 2 translated, set 1 as it is */
        Setup s;
        setup(&s);
        TALK(&s, (0xf0, way == 2 ? 1 : 2));
        set_command_byte(&s, way == 1 ? TRANSLATE : 0);
        for (size_t i = 0; i < ARRAY_SIZE(KEYS); i++) {
            uint8_t code = KEYS[i].set2;
            if (KEYS[i].extended)
                press(&s, 0xe0, code, 0, 2), press(&s, 0xe0, 0xf0, code, 3);
            else
                press(&s, code, 0, 0, 1), press(&s, 0xf0, code, 0, 2);
            for (int release = 0; release < 2; release++) {
                if (KEYS[i].extended)
                    CHECK_EQ(next(&s), 0xe0);
                if (release && !way)
                    CHECK_EQ(next(&s), 0xf0);
                CHECK_EQ(next(&s), way ? KEYS[i].set1 | (release ? 0x80 : 0) : code);
            }
            CHECK_EQ(next(&s), -1);
        }
        /* Pause has no release: E1 14 77 E1 F0 14 F0 77, and E1 1D 45 E1 9D C5. */
        static const uint8_t PAUSE[] = {0xe1, 0x14, 0x77, 0xe1, 0xf0, 0x14, 0xf0, 0x77};
        static const uint8_t PAUSE_1[] = {0xe1, 0x1d, 0x45, 0xe1, 0x9d, 0xc5};
        CHECK_EQ(i8042_key(s.kbc, PAUSE, sizeof PAUSE), 0);
        for (size_t i = 0; i < (way ? sizeof PAUSE_1 : sizeof PAUSE); i++)
            CHECK_EQ(next(&s), way ? PAUSE_1[i] : PAUSE[i]);
        done(&s);
    }
}

/* One byte at a time, an interrupt each; what is disabled waits. */
static void test_flow(void)
{
    Setup s;
    setup(&s);
    set_command_byte(&s, KEY_INT | AUX_INT);
    unsigned edges = s.key.edges;
    for (uint8_t i = 1; i <= 10; i++)
        press(&s, i, 0, 0, 1);
    for (uint8_t i = 1; i <= 10; i++) {
        pass(s.board, 100000000);
        CHECK_EQ(s.key.edges, edges + i); /* the next only after the last was read */
        CHECK(s.key.level);
        CHECK_EQ(get(&s), i);
        if (i == 5)
            check_save_restore(s.kbc);
    }
    pass(s.board, 100000000);
    CHECK_EQ(s.key.edges, edges + 10);
    CHECK_EQ(get(&s), 10); /* an empty buffer reads what was there */
    command(&s, 0xad);
    press(&s, 0x1c, 0, 0, 1);
    CHECK_EQ(next(&s), -1);
    command(&s, 0xae);
    CHECK_EQ(next(&s), 0x1c);
    /* A byte to the keyboard enables its port again. */
    command(&s, 0xad);
    TALK(&s, (0xf4));
    CHECK_EQ(command_byte(&s) & KEY_OFF, 0);
    /* Interrupts that are enabled while a byte waits come then. */
    set_command_byte(&s, 0);
    press(&s, 0x1c, 0, 0, 1);
    pass(s.board, 5000000);
    CHECK(status(&s) & OBF && !s.key.level);
    set_command_byte(&s, KEY_INT);
    CHECK(s.key.level);
    get(&s);
    CHECK(!s.key.level);
    /* Its buffer is finite, and what does not fit is told. */
    unsigned taken = 0;
    while (taken < 1000 && i8042_key(s.kbc, (const uint8_t[]){0x1c}, 1) == 0)
        taken++;
    CHECK(taken >= 16 && taken < 1000);
    while (next(&s) >= 0)
        taken--;
    CHECK_EQ(taken, 0);
    done(&s);
}

#define M(byte) (0x100 | (byte))

static void test_mouse_commands(void)
{
    Setup s;
    setup(&s);
    TALK(&s, (M(0xff)), M(0xaa), M(0));
    TALK(&s, (M(0xf2)), M(0));
    TALK(&s, (M(0xe9)), M(0x00), M(2), M(100)); /* defaults: 4 counts/mm, 100 a second, stream, off, 1:1 */
    TALK(&s, (M(0xe8), M(3), M(0xf3), M(40), M(0xe7), M(0xf4)));
    TALK(&s, (M(0xe9)), M(0x30), M(3), M(40));
    TALK(&s, (M(0xf0)));
    TALK(&s, (M(0xe9)), M(0x70), M(3), M(40));
    TALK(&s, (M(0xf6)));
    TALK(&s, (M(0xe9)), M(0x00), M(2), M(100));
    done(&s);
}

/* Wrap mode sends everything back but its own end and reset. */
static void test_mouse_wrap(void)
{
    Setup s;
    setup(&s);
    TALK(&s, (M(0xee)));
    static const uint8_t BYTES[] = {0x00, 0xf2, 0xf4, 0xee, 0xe9, 0xfe, 0x5a};
    for (size_t i = 0; i < sizeof BYTES; i++) {
        command(&s, 0xd4), put(&s, BYTES[i]);
        CHECK_EQ(next(&s), M(BYTES[i]));
        CHECK_EQ(next(&s), -1);
    }
    TALK(&s, (M(0xec)));
    TALK(&s, (M(0xf2)), M(0));
    TALK(&s, (M(0xee)));
    TALK(&s, (M(0xff)), M(0xaa), M(0));
    command(&s, 0xd4), put(&s, 0x11); /* not a command */
    CHECK_EQ(next(&s), M(0xfe));
    TALK(&s, (M(0xf4)));
    done(&s);
}

/* A packet: buttons, signs, overflow; X to the right and Y up are positive. */
static void check_packet(Setup *s, int buttons, int dx, int dy)
{
    int first = next(s);
    CHECK_EQ(first, M(8 | buttons | (dx < 0 ? 0x10 : 0) | (dy < 0 ? 0x20 : 0)));
    CHECK_EQ(next(s), M(dx & 0xff));
    CHECK_EQ(next(s), M(dy & 0xff));
}

static void test_mouse_movement(void)
{
    Setup s;
    setup(&s);
    i8042_mouse(s.kbc, 5, 5, 0, 0);
    CHECK_EQ(next(&s), -1); /* not enabled */
    TALK(&s, (M(0xff)), M(0xaa), M(0));
    TALK(&s, (M(0xf4)));
    i8042_mouse(s.kbc, 3, -4, 0, 0); /* right and up */
    check_packet(&s, 0, 3, 4);
    i8042_mouse(s.kbc, -200, 100, 0, 1);
    check_packet(&s, 1, -200, -100);
    i8042_mouse(s.kbc, 0, 0, 0, 6);
    check_packet(&s, 6, 0, 0);
    i8042_mouse(s.kbc, 0, 0, 0, 6); /* nothing changed */
    CHECK_EQ(next(&s), -1);
    /* Far movements come in parts, none of them lost and each in the range of nine bits. */
    i8042_mouse(s.kbc, 1000, -700, 0, 0);
    int x = 0, y = 0, first;
    while ((first = next(&s)) >= 0) {
        CHECK_EQ(first & ~0x30, M(8));
        int dx = next(&s) & 0xff, dy = next(&s) & 0xff;
        x += first & 0x10 ? dx - 256 : dx, y += first & 0x20 ? dy - 256 : dy;
    }
    CHECK(x == 1000 && y == 700);
    /* 2:1 scaling, in stream mode: 0 1 1 3 6 9 2N. */
    TALK(&s, (M(0xe7)));
    static const int SCALED[] = {0, 1, 1, 3, 6, 9, 12, 14, 16};
    for (int i = 1; i < 9; i++) {
        i8042_mouse(s.kbc, i, i, 0, 0);
        check_packet(&s, 0, SCALED[i], -SCALED[i]);
    }
    /* Remote: only on request, and not scaled. */
    TALK(&s, (M(0xf0)));
    i8042_mouse(s.kbc, 4, 0, 0, 1);
    CHECK_EQ(next(&s), -1);
    TALK(&s, (M(0xeb)), M(0x09), M(4), M(0));
    TALK(&s, (M(0xeb)), M(0x09), M(0), M(0));
    TALK(&s, (M(0xea), M(0xe6)));
    i8042_mouse(s.kbc, 7, 0, 0, 1);
    check_packet(&s, 1, 7, 0);
    command(&s, 0xd4), put(&s, 0xfe); /* the last packet again */
    first = next(&s);
    CHECK(first == M(0x09) || first == M(0)); /* a packet by the reference, its last byte by later mice */
    while (next(&s) >= 0)
        continue;
    done(&s);
}

/* IntelliMouse: 200, 100, 80 make it 3, with a wheel; 200, 200, 80 make it 4, with two more buttons. Reset ends it.
 */
static void test_wheel(void)
{
    Setup s;
    setup(&s);
    TALK(&s, (M(0xf3), M(200), M(0xf3), M(80), M(0xf3), M(100)));
    TALK(&s, (M(0xf2)), M(0));
    TALK(&s, (M(0xf3), M(200), M(0xf3), M(100), M(0xf3), M(80)));
    TALK(&s, (M(0xf2)), M(3));
    TALK(&s, (M(0xf4)));
    i8042_mouse(s.kbc, 1, 0, -1, 0); /* the wheel away from the user */
    check_packet(&s, 0, 1, 0);
    CHECK_EQ(next(&s), M(0xff));
    i8042_mouse(s.kbc, 0, 0, 2, 0);
    check_packet(&s, 0, 0, 0);
    CHECK_EQ(next(&s), M(2));
    check_save_restore(s.kbc);
    TALK(&s, (M(0xf3), M(200), M(0xf3), M(200), M(0xf3), M(80)));
    TALK(&s, (M(0xf2)), M(4));
    i8042_mouse(s.kbc, 0, 0, -3, 0x18);
    check_packet(&s, 0, 0, 0);
    CHECK_EQ(next(&s), M(0x3d)); /* buttons 4 and 5, and four bits of the wheel */
    TALK(&s, (M(0xff)), M(0xaa), M(0));
    TALK(&s, (M(0xf2)), M(0));
    TALK(&s, (M(0xf4)));
    i8042_mouse(s.kbc, 1, 0, 5, 0);
    check_packet(&s, 0, 1, 0);
    CHECK_EQ(next(&s), -1);
    done(&s);
}

/* Its bytes come by IRQ 12 with the status bit; disabled they wait, and the keyboard is not held up. */
static void test_mouse_line(void)
{
    Setup s;
    setup(&s);
    TALK(&s, (M(0xf4)));
    set_command_byte(&s, KEY_INT | AUX_INT);
    unsigned edges = s.aux.edges, keys = s.key.edges;
    i8042_mouse(s.kbc, 1, 1, 0, 0);
    for (unsigned i = 1; i <= 3; i++) {
        pass(s.board, 20000000);
        CHECK_EQ(s.aux.edges, edges + i);
        CHECK(s.aux.level && !s.key.level);
        CHECK_EQ(status(&s) & (OBF | AUX), OBF | AUX);
        get(&s);
        CHECK(!s.aux.level);
    }
    command(&s, 0xa7);
    i8042_mouse(s.kbc, 1, 1, 0, 0);
    pass(s.board, 20000000);
    CHECK(!(status(&s) & OBF));
    press(&s, 0x1c, 0, 0, 1);
    CHECK_EQ(next(&s), 0x1c);
    CHECK_EQ(s.key.edges, keys + 1);
    command(&s, 0xa8);
    check_packet(&s, 0, 1, -1);
    done(&s);
}

int main(void)
{
    RUN(test_controller_commands);
    RUN(test_keyboard_commands);
    RUN(test_scan_codes);
    RUN(test_flow);
    RUN(test_mouse_commands);
    RUN(test_mouse_wrap);
    RUN(test_mouse_movement);
    RUN(test_wheel);
    RUN(test_mouse_line);
    return 0;
}
