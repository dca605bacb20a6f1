/* The small ports: system control, refresh toggle and PIT gate, reset, POST code, debug console, exit and firmware
 * service. */
#include <pthread.h>
#include <sched.h>

#include "device_check.h"
#include "devices/i8254.h"
#include "devices/ports.h"

static void count_kick(void *engine) { (*(uint32_t *)engine)++; }

static void port92(void)
{
    Board *board = test_board();
    Device *port = port92_new(board);
    uint32_t code;
    board_set_a20(board, A20_I8042, false);
    CHECK_EQ(board->a20, 0);
    out8(port, 0, 0, 0x02);
    CHECK_EQ(board->a20, 1);
    CHECK_EQ(in8(port, 0, 0), 0x02);
    check_save_restore(port);
    CHECK_EQ(board->a20, 1);
    CHECK_EQ(board_take_request(board, &code), SYSTEM_NONE);
    out8(port, 0, 0, 0x01);
    CHECK_EQ(board->a20, 0);
    CHECK_EQ(board_take_request(board, &code), SYSTEM_RESET);
    out8(port, 0, 0, 0x01); /* the bit does not rise */
    CHECK_EQ(board_take_request(board, &code), SYSTEM_NONE);
    device_free(port);
    board_free(board);
}

static void port61(void)
{
    Board *board = test_board();
    Device *pit = i8254_new(board, irq_line_new(board->irqs, 0));
    Device *port = port61_new(board, pit);
    CHECK_EQ(in8(port, 0, 0), 0x00);
    pass(board, 15085);
    CHECK_EQ(in8(port, 0, 0) & 0x10, 0x10);
    pass(board, 15085);
    CHECK_EQ(in8(port, 0, 0) & 0x10, 0);
    /* How a kernel measures its TSC: 10 ms of channel 2 in mode 0. */
    out8(port, 0, 0, 0xfd);
    CHECK(i8254_gate(pit, 2));
    out8(pit, 0, 3, 0xb0), out8(pit, 0, 2, 11932 & 0xff), out8(pit, 0, 2, 11932 >> 8);
    pass(board, 9990000);
    CHECK_EQ(in8(port, 0, 0) & 0x2f, 0x0d);
    pass(board, 20000);
    CHECK_EQ(in8(port, 0, 0) & 0x2f, 0x2d);
    check_save_restore(port);
    out8(port, 0, 0, 0x00);
    CHECK(!i8254_gate(pit, 2));
    device_free(port);
    device_free(pit);
    board_free(board);
}

static void requests(void)
{
    Board *board = test_board();
    uint32_t code, count = 0;
    board->engine = &count;
    board->kick = count_kick;
    Device *exit_port = exit_port_new(board), *reset = reset_control_new(board),
           *firmware = firmware_port_new(board);
    out8(exit_port, 0, 0, 3);
    CHECK_EQ(board_take_request(board, &code), SYSTEM_EXIT);
    CHECK_EQ(code, 7);
    CHECK_EQ(count, 1);
    device_write(firmware, 0, 0, 2, 0x1305);
    CHECK_EQ(board_take_request(board, &code), SYSTEM_FIRMWARE);
    CHECK_EQ(code, 0x1305);
    CHECK_EQ(count, 2);
    out8(reset, 0, 0, 0x02);
    CHECK_EQ(board_take_request(board, &code), SYSTEM_NONE);
    out8(reset, 0, 0, 0x06);
    CHECK_EQ(board_take_request(board, &code), SYSTEM_RESET);
    CHECK_EQ(in8(reset, 0, 0), 0x06);
    check_save_restore(reset);
    device_reset(reset);
    CHECK_EQ(in8(reset, 0, 0), 0);
    device_free(exit_port);
    device_free(reset);
    device_free(firmware);
    board_free(board);
}

static void debug_ports(void)
{
    Board *board = test_board();
    CharSink *sink = char_sink_new_fd(board, -1, 16, NULL);
    Device *console = debug_console_new(board, sink), *unconnected = debug_console_new(board, NULL);
    Device *post = post_code_new(board);
    CHECK_EQ(in8(console, 0, 0), 0xe9);
    out8(console, 0, 0, 'o'), out8(console, 0, 0, 'k'), out8(unconnected, 0, 0, 'x');
    char text[16];
    CHECK_EQ(char_sink_read(sink, text, sizeof text), 2);
    CHECK(!memcmp(text, "ok", 2));
    out8(post, 0, 0, 0x55);
    CHECK_EQ(in8(post, 0, 0), 0x55);
    device_free(console);
    device_free(unconnected);
    device_free(post);
    char_sink_free(sink);
    board_free(board);
}

static void *request_codes(void *opaque)
{
    for (uint32_t i = 1; i <= 200000; i++)
        board_request(opaque, SYSTEM_EXIT, i);
    while (__atomic_load_n(&((Board *)opaque)->system_request, __ATOMIC_ACQUIRE))
        sched_yield();
    board_request(opaque, SYSTEM_POWEROFF, 0);
    return NULL;
}

/* A request from another thread is taken with its own code. */
static void a_request_and_its_code_are_one(void)
{
    Board *board = board_new(CLOCK_KIND_REALTIME, NULL);
    pthread_t thread;
    CHECK_EQ(pthread_create(&thread, NULL, request_codes, board), 0);
    uint32_t code, last = 0;
    for (bool over = false; !over;) {
        enum SystemRequest request = board_take_request(board, &code);
        over = request == SYSTEM_POWEROFF;
        if (request != SYSTEM_EXIT)
            continue;
        CHECK(code > last);
        last = code;
    }
    pthread_join(thread, NULL);
    board_free(board);
}

typedef struct Gate {
    uint32_t inside; /* atomic */
    bool crossed, on;
} Gate;

static void gate_moved(void *engine, bool on)
{
    Gate *gate = engine;
    if (__atomic_exchange_n(&gate->inside, 1, __ATOMIC_SEQ_CST))
        gate->crossed = true;
    sched_yield();
    gate->on = on;
    __atomic_store_n(&gate->inside, 0, __ATOMIC_SEQ_CST);
}

static void *move_gate(void *board)
{
    for (int i = 0; i < 20000; i++)
        board_set_a20(board, A20_PORT92, i % 2 == 0);
    return NULL;
}

/* Two vCPUs at two devices: the engine hears of one change at a time, and of the last one last. */
static void a20_has_one_order(void)
{
    Board *board = board_new(CLOCK_KIND_REALTIME, NULL);
    Gate gate = {.on = true};
    board->engine = &gate;
    board->a20_changed = gate_moved;
    pthread_t thread;
    CHECK_EQ(pthread_create(&thread, NULL, move_gate, board), 0);
    for (int i = 0; i < 20000; i++)
        board_set_a20(board, A20_I8042, i % 2 == 0);
    pthread_join(thread, NULL);
    CHECK(!gate.crossed);
    CHECK_EQ(board->a20_sources, 0);
    CHECK_EQ(gate.on, board->a20);
    board->engine = NULL;
    board_free(board);
}

int main(void)
{
    RUN(port92);
    RUN(a20_has_one_order);
    RUN(port61);
    RUN(requests);
    RUN(debug_ports);
    RUN(a_request_and_its_code_are_one);
    return 0;
}
