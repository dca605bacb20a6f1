/* PC16550D datasheet: interrupts and their priority, FIFOs, time-out, errors, modem, loopback; and the character
 * sink behind it. */
#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include "device_check.h"
#include "devices/uart16550.h"

enum { RBR, IER, IIR, LCR, MCR, LSR, MSR, SCR };

typedef struct Setup {
    Board *board;
    CharSink *sink;
    Device *uart;
    IrqLine *irq;
} Setup;

static Setup setup_on(enum ClockKind kind, int fd)
{
    Setup s = {.board = board_new(kind, NULL)};
    CHECK(s.board);
    CHECK_EQ(io_thread_start(s.board->io, NULL), 0);
    s.sink = char_sink_new_fd(s.board, fd, 1024, NULL);
    CHECK(s.sink);
    s.irq = irq_line_new(s.board->irqs, 4);
    s.uart = uart16550_new(s.board, s.irq, s.sink);
    CHECK(s.uart);
    return s;
}

static Setup setup(void) { return setup_on(CLOCK_KIND_VIRTUAL, -1); }

static void done(Setup *s)
{
    io_thread_stop(s->board->io);
    device_free(s->uart);
    char_sink_free(s->sink);
    board_free(s->board);
}

static void receive(Setup *s, const char *text)
{
    CHECK_EQ(uart16550_receive(s->uart, (const uint8_t *)text, strlen(text)), strlen(text));
}

static uint8_t get(Setup *s, unsigned reg) { return in8(s->uart, 0, reg); }
static void set(Setup *s, unsigned reg, uint8_t value) { out8(s->uart, 0, reg, value); }

static void reset_values(void)
{
    Setup s = setup();
    CHECK_EQ(get(&s, IER), 0);
    CHECK_EQ(get(&s, IIR), 0x01);
    CHECK_EQ(get(&s, LCR), 0);
    CHECK_EQ(get(&s, MCR), 0);
    CHECK_EQ(get(&s, LSR), 0x60);
    CHECK_EQ(get(&s, MSR), 0xb0);
    set(&s, SCR, 0x5a);
    CHECK_EQ(get(&s, SCR), 0x5a);
    set(&s, LCR, 0x83);
    set(&s, RBR, 0x34), set(&s, IER, 0x12);
    CHECK_EQ(get(&s, RBR), 0x34);
    CHECK_EQ(get(&s, IER), 0x12);
    set(&s, LCR, 0x03);
    CHECK_EQ(get(&s, IER), 0);
    set(&s, IER, 0xff);
    CHECK_EQ(get(&s, IER), 0x0f);
    done(&s);
}

static void transmit(void)
{
    Setup s = setup();
    set(&s, MCR, 0x0b);
    set(&s, IER, 0x02);
    CHECK(irq_line_level(s.irq)); /* THR is empty when it is enabled */
    CHECK_EQ(get(&s, IIR), 0x02);
    CHECK(!irq_line_level(s.irq)); /* reading IIR acknowledges it */
    CHECK_EQ(get(&s, IIR), 0x01);
    set(&s, RBR, 'h');
    CHECK(irq_line_level(s.irq));
    CHECK_EQ(get(&s, LSR), 0x60);
    set(&s, RBR, 'i');
    set(&s, MCR, 0x03); /* OUT2 low: the PC does not see it */
    CHECK(!irq_line_level(s.irq));
    char text[8];
    CHECK_EQ(char_sink_read(s.sink, text, sizeof text), 2);
    CHECK(!memcmp(text, "hi", 2));
    CHECK_EQ(char_sink_total(s.sink), 2);
    done(&s);
}

static void receive_without_fifo(void)
{
    Setup s = setup();
    set(&s, MCR, 0x08), set(&s, IER, 0x01);
    receive(&s, "abc");
    CHECK(irq_line_level(s.irq));
    CHECK_EQ(get(&s, IIR), 0x04);
    CHECK_EQ(get(&s, LSR), 0x61);
    CHECK_EQ(get(&s, RBR), 'a');
    CHECK(irq_line_level(s.irq)); /* the next one waited in the host, nothing overran */
    CHECK_EQ(get(&s, RBR), 'b');
    CHECK_EQ(get(&s, RBR), 'c');
    CHECK(!irq_line_level(s.irq));
    CHECK_EQ(get(&s, LSR), 0x60);
    done(&s);
}

static void fifo_trigger_and_timeout(void)
{
    static const uint8_t level[4] = {1, 4, 8, 14};
    for (unsigned i = 0; i < 4; i++) {
        Setup s = setup();
        set(&s, LCR, 0x80), set(&s, RBR, 1), set(&s, LCR, 0x03); /* 115200 baud */
        set(&s, IIR, (uint8_t)(i << 6 | 0x01));
        set(&s, IER, 0x01);
        for (unsigned n = 1; n < level[i]; n++)
            receive(&s, "x");
        CHECK_EQ(get(&s, IIR), 0xc1);
        receive(&s, "x");
        CHECK_EQ(get(&s, IIR), 0xc4);
        CHECK_EQ(get(&s, RBR), 'x');
        CHECK_EQ(get(&s, IIR), 0xc1); /* below the level again */
        pass(s.board, 347000);        /* four characters of 10 bits at 115200 baud last 347.2 us */
        CHECK_EQ(get(&s, IIR), 0xc1);
        pass(s.board, 300);
        CHECK_EQ(get(&s, IIR), level[i] > 1 ? 0xcc : 0xc1);
        get(&s, RBR);
        CHECK_EQ(get(&s, IIR), 0xc1); /* a read ends the time-out */
        done(&s);
    }
}

static void pacing(void)
{
    Setup s = setup();
    uint8_t block[5000];
    for (unsigned i = 0; i < sizeof block; i++)
        block[i] = (uint8_t)(i * 7);
    set(&s, IIR, 0xc1);
    CHECK_EQ(uart16550_receive(s.uart, block, sizeof block), 4096);
    CHECK_EQ(uart16550_receive_room(s.uart), 16);
    CHECK_EQ(uart16550_receive(s.uart, block + 4096, 904), 16);
    for (unsigned i = 0; i < 4112; i++) {
        CHECK_EQ(get(&s, LSR), 0x61);
        CHECK_EQ(get(&s, RBR), block[i]);
    }
    CHECK_EQ(get(&s, LSR), 0x60);
    receive(&s, "abcdefghijklmnopqrstuvwxyz");
    set(&s, IIR, 0xc3); /* clears the FIFO; the host's queue goes on */
    CHECK_EQ(get(&s, RBR), 'q');
    done(&s);
}

static void priorities(void)
{
    Setup s = setup();
    set(&s, IIR, 0x01);
    set(&s, IER, 0x0f);
    set(&s, MCR, 0x10); /* loopback: CTS, DSR and DCD fall */
    receive(&s, "k");   /* not from the line */
    set(&s, RBR, 'a');
    set(&s, LCR, 0x40);                  /* break comes after it */
    CHECK_EQ(get(&s, LSR) & 0x9f, 0x81); /* there is an error in the FIFO, but not at its top */
    CHECK_EQ(get(&s, IIR), 0xc4);
    CHECK_EQ(get(&s, RBR), 'a');
    CHECK_EQ(get(&s, IIR), 0xc6); /* line status */
    CHECK_EQ(get(&s, LSR) & 0x91, 0x91);
    CHECK_EQ(get(&s, IIR), 0xc4);
    CHECK_EQ(get(&s, RBR), 0);
    CHECK_EQ(get(&s, IIR), 0xc2);
    CHECK_EQ(get(&s, IIR), 0xc0);
    CHECK_EQ(get(&s, MSR), 0x0b);
    CHECK_EQ(get(&s, IIR), 0xc1);
    set(&s, MCR, 0x00);
    CHECK_EQ(get(&s, RBR), 'k'); /* the line is connected again */
    done(&s);
}

static void loopback(void)
{
    Setup s = setup();
    set(&s, MCR, 0x1f);
    CHECK_EQ(get(&s, MSR), 0xf0); /* DTR, RTS, OUT1 and OUT2 come back; RI counts by its trailing edge */
    set(&s, MCR, 0x10);
    CHECK_EQ(get(&s, MSR), 0x0f);
    set(&s, IER, 0x01);
    set(&s, RBR, 0xaa);
    CHECK_EQ(get(&s, LSR), 0x61);
    CHECK(!irq_line_level(s.irq)); /* loopback forces OUT2 inactive */
    set(&s, RBR, 0x55);            /* overruns the one register */
    CHECK_EQ(get(&s, LSR), 0x63);
    CHECK_EQ(get(&s, RBR), 0x55);
    set(&s, IIR, 0x01);
    for (unsigned i = 0; i < 17; i++)
        set(&s, RBR, (uint8_t)i);
    CHECK_EQ(get(&s, LSR), 0x63); /* the FIFO keeps its 16, the 17th is lost */
    for (unsigned i = 0; i < 16; i++)
        CHECK_EQ(get(&s, RBR), i);
    CHECK_EQ(char_sink_total(s.sink), 0);
    done(&s);
}

static void break_from_line(void)
{
    Setup s = setup();
    set(&s, IIR, 0x01);
    receive(&s, "ab");
    uart16550_receive_break(s.uart);
    CHECK_EQ(get(&s, LSR), 0xe1);
    CHECK_EQ(get(&s, RBR), 'a');
    CHECK_EQ(get(&s, RBR), 'b');
    CHECK_EQ(get(&s, LSR), 0xf1);
    CHECK_EQ(get(&s, RBR), 0);
    CHECK_EQ(get(&s, LSR), 0x60);
    done(&s);
}

static void state(void)
{
    Setup s = setup();
    set(&s, IIR, 0x81), set(&s, IER, 0x03), set(&s, MCR, 0x0b);
    receive(&s, "abc");
    check_save_restore(s.uart);
    CHECK(irq_line_level(s.irq));
    CHECK_EQ(get(&s, RBR), 'a');
    Uart16550State bad;
    device_save(s.uart, &bad);
    bad.rx_count = 17;
    CHECK_EQ(device_restore(s.uart, &bad), -EINVAL);
    done(&s);
}

/* A pipe that nobody reads: the transmitter gets busy, nothing is lost, nothing blocks; reading lets it go on. */
static void full_sink(void)
{
    int ends[2];
    CHECK_EQ(pipe(ends), 0);
    int before = fcntl(ends[1], F_GETFL);
    Setup s = setup_on(CLOCK_KIND_REALTIME, ends[1]);
    set(&s, IIR, 0x01), set(&s, IER, 0x02), set(&s, MCR, 0x08);
    size_t sent = 0, got = 0;
    while (get(&s, LSR) & 0x20)
        set(&s, RBR, (uint8_t)(sent++ % 251));
    CHECK(sent > CHAR_SINK_RING);
    get(&s, IIR);
    CHECK(!irq_line_level(s.irq));
    size_t goal = sent;
    while (got < goal) {
        uint8_t block[4096];
        struct pollfd ready = {.fd = ends[0], .events = POLLIN};
        CHECK_EQ(poll(&ready, 1, 10000), 1);
        ssize_t n = read(ends[0], block, sizeof block);
        CHECK(n > 0);
        for (ssize_t i = 0; i < n; i++)
            CHECK_EQ(block[i], got++ % 251);
    }
    for (unsigned i = 0; i < 10000 && !irq_line_level(s.irq); i++)
        usleep(1000);
    CHECK(irq_line_level(s.irq)); /* told that there is room */
    CHECK_EQ(get(&s, LSR), 0x60);
    CHECK_EQ(fcntl(ends[1], F_GETFL), before);
    close(ends[0]); /* broken: one line in the log, and the guest goes on */
    for (unsigned i = 0; i < 3; i++)
        set(&s, RBR, 'x');
    CHECK_EQ(char_sink_drain(s.sink, 10000), 0);
    char text[200];
    CHECK(event_log_take(s.board->log, text, sizeof text) > 0);
    CHECK(strstr(text, "Broken pipe"));
    CHECK_EQ(event_log_take(s.board->log, text, sizeof text), 0);
    set(&s, RBR, 'y');
    CHECK_EQ(get(&s, LSR), 0x60);
    close(ends[1]);
    done(&s);
}

static void sink_to_file(void)
{
    char path[] = "/tmp/char-sink-XXXXXX";
    int fd = mkstemp(path);
    CHECK(fd >= 0);
    unlink(path);
    for (unsigned kind = 0; kind < 2; kind++) {
        Setup s = setup_on(kind ? CLOCK_KIND_VIRTUAL : CLOCK_KIND_REALTIME, fd);
        for (unsigned i = 0; i < 100000; i++) {
            uint8_t byte = (uint8_t)(i % 253);
            while (!char_sink_write(s.sink, &byte, 1))
                CHECK_EQ(char_sink_drain(s.sink, 10000), 0);
        }
        CHECK_EQ(char_sink_drain(s.sink, 10000), 0);
        CHECK_EQ(char_sink_captured(s.sink), 1024);
        CHECK_EQ(char_sink_overwritten(s.sink), 100000 - 1024);
        done(&s);
    }
    static uint8_t all[200001];
    CHECK_EQ(pread(fd, all, sizeof all, 0), 200000);
    for (unsigned i = 0; i < 200000; i++)
        CHECK_EQ(all[i], i % 100000 % 253);
    close(fd);
    Error error = {0};
    Board *board = board_new(CLOCK_KIND_VIRTUAL, NULL);
    CHECK(!char_sink_new_fd(board, 9999, 0, &error));
    CHECK_EQ(error.code, EBADF);
    board_free(board);
}

int main(void)
{
    RUN(reset_values);
    RUN(transmit);
    RUN(receive_without_fifo);
    RUN(fifo_trigger_and_timeout);
    RUN(pacing);
    RUN(priorities);
    RUN(loopback);
    RUN(break_from_line);
    RUN(state);
    RUN(full_sink);
    RUN(sink_to_file);
    return 0;
}
