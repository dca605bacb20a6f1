/*
 * The serial port once more, from the PC16550D datasheet (June 1995) by who did not write the device: reset values,
 * priorities and what clears each interrupt, FIFO triggers and the time-out, overrun and errors in both modes,
 * loopback.
 */
#include "device_check.h"
#include "devices/uart16550.h"

enum { RBR, IER, IIR, LCR, MCR, LSR, MSR, SCR, THR = RBR, FCR = IIR, DLL = RBR, DLM = IER };
enum { DR = 1, OE = 2, PE = 4, FE = 8, BI = 16, THRE = 32, TEMT = 64, FIFO_ERROR = 128 };
enum { NONE = 1, IS_MSR = 0, IS_THRE = 2, IS_RX = 4, IS_LSR = 6, IS_TIMEOUT = 12, FIFOS = 0xc0 };
enum { OUT2 = 8, LOOP = 16 };

typedef struct Setup {
    Board *board;
    Device *uart;
    CharSink *sink;
    EdgeCounter irq;
} Setup;

static uint8_t get(Setup *s, unsigned at) { return in8(s->uart, 0, at); }
static void put(Setup *s, unsigned at, uint8_t value) { out8(s->uart, 0, at, value); }

static void divisor(Setup *s, uint16_t value)
{
    put(s, LCR, 0x83), put(s, DLL, (uint8_t)value), put(s, DLM, (uint8_t)(value >> 8)), put(s, LCR, 0x03);
}

static void setup(Setup *s)
{
    Error error = {0};
    *s = (Setup){.board = test_board(), .irq.gsi = 4};
    CHECK_EQ(irq_router_add_sink(s->board->irqs, edge_counter_sink, &s->irq), 0);
    s->sink = char_sink_new_fd(s->board, -1, 4096, &error);
    CHECK(s->sink);
    s->uart = uart16550_new(s->board, irq_line_new(s->board->irqs, 4), s->sink);
    CHECK(s->uart);
    divisor(s, 12); /* 9600 baud: a character of 10 bits takes 1041.7 us */
}

static void done(Setup *s)
{
    device_free(s->uart);
    char_sink_free(s->sink);
    board_free(s->board);
}

static void receive(Setup *s, const char *text)
{
    CHECK_EQ(uart16550_receive(s->uart, (const uint8_t *)text, strlen(text)), strlen(text));
}

static unsigned sent(Setup *s, char *text, size_t size) { return (unsigned)char_sink_read(s->sink, text, size); }

/* Table I and §8.1 to §8.10. */
static void test_reset_and_registers(void)
{
    Setup s;
    setup(&s);
    for (unsigned i = IER; i < 8; i++)
        put(&s, i, 0xff);
    put(&s, LCR, 0x7f);
    CHECK_EQ(get(&s, IER), 0x0f); /* the upper bits are always 0 */
    CHECK_EQ(get(&s, LCR), 0x7f);
    CHECK_EQ(get(&s, MCR), 0x1f);
    CHECK_EQ(get(&s, SCR), 0xff);
    device_reset(s.uart);
    CHECK_EQ(get(&s, IER), 0);
    CHECK_EQ(get(&s, IIR), NONE);
    CHECK_EQ(get(&s, LCR), 0);
    CHECK_EQ(get(&s, MCR), 0);
    CHECK_EQ(get(&s, LSR), THRE | TEMT);
    CHECK_EQ(get(&s, MSR) & 0x0f, 0);
    CHECK(!s.irq.level);
    for (unsigned value = 0; value < 256; value++) {
        put(&s, SCR, (uint8_t)value);
        put(&s, LCR, 0x80);
        put(&s, DLL, (uint8_t)~value), put(&s, DLM, (uint8_t)(value * 3));
        CHECK_EQ(get(&s, DLL), (uint8_t)~value);
        CHECK_EQ(get(&s, DLM), (uint8_t)(value * 3));
        put(&s, LCR, 0x03);
        CHECK_EQ(get(&s, IER), 0); /* another register behind the same address */
        CHECK_EQ(get(&s, SCR), value);
    }
    CHECK_EQ(char_sink_captured(s.sink), 0);                               /* nothing of that was a character */
    put(&s, LCR, 0x80), put(&s, DLL, 0), put(&s, DLM, 0), put(&s, LCR, 3); /* no division: it must still live */
    put(&s, THR, 'x');
    receive(&s, "y");
    pass(s.board, NS_PER_SECOND);
    CHECK_EQ(get(&s, RBR), 'y');
    done(&s);
}

/* Table IV: priorities, and what resets each source. */
static void test_priorities(void)
{
    Setup s;
    setup(&s);
    put(&s, MCR, LOOP);
    get(&s, MSR);
    put(&s, IER, 0x0f);
    CHECK_EQ(get(&s, IIR), IS_THRE); /* the holding register is empty already */
    CHECK_EQ(get(&s, IIR), NONE);    /* that read was its reset */
    put(&s, MCR, LOOP | 1);          /* DTR: DSR changes */
    CHECK_EQ(get(&s, IIR), IS_MSR);
    CHECK_EQ(get(&s, IIR), IS_MSR); /* reading IIR is not its reset */
    put(&s, THR, 'a');
    pass(s.board, 10000000);
    CHECK_EQ(get(&s, IIR), IS_RX); /* data came round; THRE and MSR wait */
    put(&s, THR, 'b');
    pass(s.board, 10000000);
    CHECK_EQ(get(&s, IIR), IS_LSR); /* overrun: nobody read the first */
    CHECK_EQ(get(&s, LSR), DR | OE | THRE | TEMT);
    CHECK_EQ(get(&s, LSR), DR | THRE | TEMT);
    CHECK_EQ(get(&s, IIR), IS_RX);
    CHECK_EQ(get(&s, RBR), 'b'); /* the new one is in the place of the old */
    CHECK_EQ(get(&s, IIR), IS_THRE);
    CHECK_EQ(get(&s, IIR), IS_MSR);
    CHECK_EQ(get(&s, MSR), 0x20 | 0x02);
    CHECK_EQ(get(&s, IIR), NONE);
    /* A write to THR resets THRE's; an enable that comes later shows the source at once. */
    put(&s, IER, 0), put(&s, IER, 2);
    CHECK_EQ(get(&s, IIR), IS_THRE);
    put(&s, IER, 0);
    CHECK_EQ(get(&s, IIR), NONE);
    put(&s, THR, 'c');
    pass(s.board, 10000000);
    put(&s, IER, 1);
    CHECK_EQ(get(&s, IIR), IS_RX);
    put(&s, IER, 0);
    CHECK_EQ(get(&s, IIR), NONE);
    CHECK_EQ(get(&s, LSR) & DR, DR);
    done(&s);
}

/* §8.6.1 and §8.7: trigger levels and the time-out of four characters. */
static void test_fifo_levels(void)
{
    static const uint8_t LEVELS[] = {1, 4, 8, 14};
    const uint64_t character = 1041667;
    for (unsigned i = 0; i < 4; i++)
        for (unsigned count = 1; count <= 16; count++) {
            Setup s;
            setup(&s);
            put(&s, FCR, (uint8_t)(i << 6 | 1));
            put(&s, IER, 1);
            put(&s, MCR, OUT2);
            CHECK_EQ(get(&s, IIR), FIFOS | NONE);
            for (unsigned j = 0; j < count; j++)
                receive(&s, "z");
            pass(s.board, 0);
            bool reached = count >= LEVELS[i];
            CHECK_EQ(get(&s, IIR), FIFOS | (reached ? IS_RX : NONE));
            CHECK_EQ(s.irq.level, reached);
            if (!reached) {
                pass(s.board, 3 * character);
                CHECK_EQ(get(&s, IIR), FIFOS | NONE);
                check_save_restore(s.uart);
                pass(s.board, 5 * character);
                CHECK_EQ(get(&s, IIR), FIFOS | IS_TIMEOUT);
                CHECK(s.irq.level);
                CHECK_EQ(get(&s, RBR), 'z'); /* a read resets it and its timer */
                CHECK_EQ(get(&s, IIR), FIFOS | NONE);
                CHECK(!s.irq.level);
                count > 1 ? pass(s.board, 3 * character) : (void)0;
                CHECK_EQ(get(&s, IIR), FIFOS | NONE);
                pass(s.board, 5 * character);
                CHECK_EQ(get(&s, IIR), FIFOS | (count > 1 ? IS_TIMEOUT : NONE));
                done(&s);
                continue;
            }
            for (unsigned left = count; left--;) {
                CHECK_EQ(get(&s, RBR), 'z');
                CHECK_EQ(get(&s, IIR), FIFOS | (left >= LEVELS[i] ? IS_RX : NONE));
                CHECK_EQ(get(&s, LSR) & DR, left > 0);
            }
            done(&s);
        }
}

/* FCR: bits that clear, and that every change of mode clears. */
static void test_fifo_control(void)
{
    Setup s;
    setup(&s);
    put(&s, FCR, 1);
    receive(&s, "abc");
    pass(s.board, 0);
    put(&s, FCR, 0x03);
    pass(s.board, 0);
    CHECK_EQ(get(&s, LSR), THRE | TEMT);
    receive(&s, "d");
    CHECK_EQ(get(&s, RBR), 'd');
    receive(&s, "e");
    put(&s, FCR, 0xc2); /* bit 0 is clear: the others are not programmed, and the mode changes */
    CHECK_EQ(get(&s, IIR) & FIFOS, 0);
    CHECK_EQ(get(&s, LSR) & DR, 0);
    put(&s, FCR, 0x01);
    CHECK_EQ(get(&s, IIR), FIFOS | NONE);
    put(&s, IER, 1);
    receive(&s, "f");
    CHECK_EQ(get(&s, IIR), FIFOS | IS_RX); /* the trigger level is still 1 */
    done(&s);
}

/* Overrun in FIFO mode: the sixteen stay, the one in the shift register is overwritten. */
static void test_overrun(void)
{
    Setup s;
    setup(&s);
    put(&s, MCR, LOOP);
    put(&s, FCR, 0x81);
    put(&s, IER, 4);
    for (unsigned i = 0; i < 16; i++) {
        put(&s, THR, (uint8_t)i);
        pass(s.board, 2000000);
    }
    CHECK_EQ(get(&s, LSR), DR | THRE | TEMT);
    CHECK_EQ(get(&s, IIR), FIFOS | NONE);
    put(&s, THR, 99);
    pass(s.board, 2000000);
    CHECK_EQ(get(&s, IIR), FIFOS | IS_LSR);
    CHECK_EQ(get(&s, LSR), DR | OE | THRE | TEMT);
    CHECK_EQ(get(&s, IIR), FIFOS | NONE);
    for (unsigned i = 0; i < 16; i++)
        CHECK_EQ(get(&s, RBR), i);
    CHECK_EQ(get(&s, LSR), THRE | TEMT);
    CHECK_EQ(char_sink_captured(s.sink), 0); /* the pin stayed at mark */
    done(&s);
}

/* LSR bits 4 and 7: a break is a zero byte, seen when it is at the top of the FIFO. */
static void test_break(void)
{
    for (int fifo = 0; fifo < 2; fifo++) {
        Setup s;
        setup(&s);
        put(&s, FCR, (uint8_t)fifo);
        put(&s, IER, 4);
        receive(&s, "a");
        if (!fifo)
            CHECK_EQ(get(&s, RBR), 'a');
        uart16550_receive_break(s.uart);
        receive(&s, "b");
        pass(s.board, 0);
        if (fifo) {
            CHECK_EQ(get(&s, LSR), FIFO_ERROR | DR | THRE | TEMT); /* an error is in there, below the top */
            CHECK_EQ(get(&s, IIR), FIFOS | NONE);
            CHECK_EQ(get(&s, RBR), 'a');
        }
        CHECK_EQ(get(&s, IIR), (fifo ? FIFOS : 0) | IS_LSR);
        CHECK_EQ(get(&s, LSR) & (DR | BI | OE), DR | BI);
        CHECK_EQ(get(&s, LSR) & BI, 0);
        CHECK_EQ(get(&s, RBR), 0);
        CHECK_EQ(get(&s, LSR) & (FIFO_ERROR | DR), DR);
        CHECK_EQ(get(&s, RBR), 'b');
        done(&s);
    }
}

/* §8.8: loopback wires MCR to MSR; deltas are sticky until read, TERI is the trailing edge only. */
static void test_modem(void)
{
    Setup s;
    setup(&s);
    put(&s, MCR, LOOP);
    get(&s, MSR);
    static const struct {
        uint8_t mcr, level, delta, edge;
    } WIRES[] = {{1, 0x20, 0x02, 3}, {2, 0x10, 0x01, 3}, {4, 0x40, 0x04, 2}, {8, 0x80, 0x08, 3}};
    for (unsigned i = 0; i < 4; i++) {
        put(&s, MCR, LOOP | WIRES[i].mcr);
        CHECK_EQ(get(&s, MSR), WIRES[i].level | (WIRES[i].edge & 1 ? WIRES[i].delta : 0));
        CHECK_EQ(get(&s, MSR), WIRES[i].level);
        put(&s, MCR, LOOP);
        CHECK_EQ(get(&s, MSR), WIRES[i].delta);
        CHECK_EQ(get(&s, MSR), 0);
        put(&s, MCR, LOOP | WIRES[i].mcr), put(&s, MCR, LOOP); /* there and back is a change too */
        CHECK_EQ(get(&s, MSR), WIRES[i].delta);
    }
    put(&s, MCR, LOOP | 0x0f);
    CHECK_EQ(get(&s, MSR), 0xfb);
    put(&s, IER, 8);
    CHECK_EQ(get(&s, IIR), NONE);
    put(&s, MCR, LOOP);
    CHECK_EQ(get(&s, IIR), IS_MSR);
    get(&s, MSR);
    CHECK_EQ(get(&s, IIR), NONE);
    done(&s);
}

/* The PC: OUT2 lets the interrupt through. What is sent arrives whole and in order. */
static void test_line(void)
{
    Setup s;
    setup(&s);
    put(&s, IER, 3);
    CHECK(!s.irq.level);
    put(&s, MCR, OUT2);
    CHECK(s.irq.level);
    CHECK_EQ(get(&s, IIR), IS_THRE);
    CHECK(!s.irq.level);
    char text[64];
    for (unsigned i = 0; i < 40; i++) {
        unsigned edges = s.irq.edges;
        put(&s, THR, (uint8_t)('A' + i % 26));
        pass(s.board, 2000000);
        CHECK_EQ(s.irq.edges, edges + 1); /* empty again */
        CHECK_EQ(get(&s, IIR), IS_THRE);
    }
    CHECK_EQ(sent(&s, text, sizeof text), 40);
    for (unsigned i = 0; i < 40; i++)
        CHECK_EQ(text[i], 'A' + i % 26);
    receive(&s, "q");
    CHECK(s.irq.level);
    put(&s, MCR, 0);
    CHECK(!s.irq.level);
    put(&s, MCR, OUT2);
    CHECK(s.irq.level);
    CHECK_EQ(get(&s, RBR), 'q');
    CHECK(!s.irq.level);
    done(&s);
}

int main(void)
{
    RUN(test_reset_and_registers);
    RUN(test_priorities);
    RUN(test_fifo_levels);
    RUN(test_fifo_control);
    RUN(test_overrun);
    RUN(test_break);
    RUN(test_modem);
    RUN(test_line);
    return 0;
}
