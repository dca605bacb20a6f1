/*
 * The console: a 16550 UART at COM1 (NS PC16550D data sheet §8), 115200 8N1. Sending waits for THRE and then fills
 * the FIFO; receiving is by IRQ 4 into a ring, or, where that interrupt does not arrive, by looking at LSR after
 * each tick.
 * Left out: flow control, modem status, other ports.
 */
#include "kernel.h"
#include "x86.h"

#define REG_DATA 0
#define REG_IER  1
#define REG_IIR  2 /* read */
#define REG_FCR  2 /* write */
#define REG_LCR  3
#define REG_MCR  4
#define REG_LSR  5

#define IER_RECEIVED     0x01
#define IER_TRANSMITTED  0x02
#define LSR_DATA_READY   0x01
#define LSR_THR_EMPTY    0x20
#define LCR_8N1          0x03
#define LCR_DLAB         0x80
#define MCR_DTR_RTS_OUT2 0x0b /* on a PC, OUT2 gates the interrupt line */
#define FIFO_SIZE        16
#define RING_SIZE        256
#define SERIAL_IRQ       4

static volatile char ring[RING_SIZE];
static volatile unsigned ring_head, ring_tail;
static volatile unsigned interrupts;
static bool interrupt_driven;
static unsigned fifo_size, fifo_room;

static void serial_receive(void)
{
    while (inb(COM1 + REG_LSR) & LSR_DATA_READY) {
        char c = (char)inb(COM1 + REG_DATA);
        if (ring_head - ring_tail < RING_SIZE)
            ring[ring_head++ % RING_SIZE] = c;
    }
}

static void serial_interrupt(void)
{
    interrupts++;
    inb(COM1 + REG_IIR); /* reading IIR takes back a THR-empty request */
    serial_receive();
}

void serial_init(void)
{
    outb(COM1 + REG_IER, 0);
    outb(COM1 + REG_LCR, LCR_DLAB);
    outb(COM1 + REG_DATA, 1); /* divisor 1: 115200 baud */
    outb(COM1 + REG_IER, 0);
    outb(COM1 + REG_LCR, LCR_8N1);
    outb(COM1 + REG_FCR, 0x07); /* enable and clear the FIFOs, interrupt from one byte on */
    outb(COM1 + REG_MCR, MCR_DTR_RTS_OUT2);
    fifo_size = (inb(COM1 + REG_IIR) & 0xc0) == 0xc0 ? FIFO_SIZE : 1;
    fifo_room = 0;
}

/*
 * Switching on the THR-empty interrupt while THR is empty raises it at once (§8.6): a self-test of the IRQ's whole
 * way.
 */
void serial_enable_interrupts(void)
{
    trap_set_irq(SERIAL_IRQ, serial_interrupt);
    while (!(inb(COM1 + REG_LSR) & LSR_THR_EMPTY))
        pause();
    outb(COM1 + REG_IER, IER_RECEIVED | IER_TRANSMITTED);
    uint64_t start = timer_ticks();
    while (!interrupts && timer_ticks() - start < 2)
        sti_hlt();
    outb(COM1 + REG_IER, IER_RECEIVED);
    interrupt_driven = interrupts != 0;
}

bool serial_interrupts(void) { return interrupt_driven; }

static void serial_put(char c)
{
    if (!fifo_room) {
        for (unsigned spins = 0; !(inb(COM1 + REG_LSR) & LSR_THR_EMPTY) && spins < 1000000; spins++)
            pause();
        fifo_room = fifo_size;
    }
    outb(COM1 + REG_DATA, (uint8_t)c);
    fifo_room--;
}

void serial_write(const char *text, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        if (text[i] == '\n')
            serial_put('\r');
        serial_put(text[i]);
    }
    fifo_room = 0; /* the next caller cannot know how much has left by then */
}

char serial_getc(void)
{
    for (;;) {
        cli();
        if (!interrupt_driven)
            serial_receive();
        if (ring_head != ring_tail) {
            char c = ring[ring_tail++ % RING_SIZE];
            sti();
            return c;
        }
        sti_hlt();
    }
}
