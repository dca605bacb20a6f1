/*
 * The console: COM1, polled (NS PC16550D data sheet §8), or the monitor's hypercall. Only sending, and only between
 * measurements.
 */
#include "lab_kernel.h"

#define REG_IER 1
#define REG_FCR 2
#define REG_LCR 3
#define REG_MCR 4
#define REG_LSR 5

#define LSR_THR_EMPTY 0x20
#define FIFO_SIZE     16u
#define SPINS         1000000u

#ifdef LAB_PARAVIRT

void serial_init(void) {}

void serial_write(const char *text, size_t size)
{
    for (size_t done = 0; done < size; done += LAB_CONSOLE_MAX) {
        size_t now = size - done < LAB_CONSOLE_MAX ? size - done : LAB_CONSOLE_MAX;
        hypercall(LAB_HC_CONSOLE, (uint64_t)text + done, now, 0);
    }
}

#else

void serial_init(void)
{
    outb(COM1 + REG_IER, 0);
    outb(COM1 + REG_LCR, 0x80);
    outb(COM1, 1); /* divisor 1: 115200 baud */
    outb(COM1 + REG_IER, 0);
    outb(COM1 + REG_LCR, 3);
    outb(COM1 + REG_FCR, 7);
    outb(COM1 + REG_MCR, 3);
}

static unsigned room; /* in the FIFO */

static void serial_put(char c)
{
    if (!room) {
        for (unsigned i = 0; !(inb(COM1 + REG_LSR) & LSR_THR_EMPTY) && i < SPINS; i++)
            pause();
        room = FIFO_SIZE;
    }
    outb(COM1, (uint8_t)c);
    room--;
}

void serial_write(const char *text, size_t size)
{
    room = 0;
    for (size_t i = 0; i < size; i++) {
        if (text[i] == '\n')
            serial_put('\r');
        serial_put(text[i]);
    }
}

#endif
