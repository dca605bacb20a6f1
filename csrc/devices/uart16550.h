/*
 * The 16550A serial port as the PC wires it (OUT2 gates the interrupt).
 *
 * Source: National Semiconductor PC16550D datasheet (June 1995), named "16550D" below.
 * Bytes leave for the CharSink at once: the baud rate delays nothing but the receiver's time-out. When the sink is
 * full the transmitter shows itself busy until there is room. Received bytes wait in a buffer of the host and enter
 * the FIFO as the guest reads, so the host side never overruns it. Left out: word length and parity (all eight bits
 * pass), DMA mode of RXRDY/TXRDY, flow control by the modem lines: the far end shows CTS, DSR and DCD all the time.
 */
#ifndef PYVMM_DEVICES_UART16550_H
#define PYVMM_DEVICES_UART16550_H

#include "devices/char_sink.h"
#include "devices/device.h"

#define UART16550_FIFO  16
#define UART16550_QUEUE 4096

#define UART16550_STATE_VERSION 1
typedef struct Uart16550State {
    uint8_t ier;
    uint8_t fcr;
    uint8_t lcr;
    uint8_t mcr;
    uint8_t lsr; /* error bits only; DR, THRE, TEMT and bit 7 follow from the FIFOs */
    uint8_t msr;
    uint8_t scr;
    uint8_t dll;
    uint8_t dlm;
    uint8_t thre_pending;    /* THR-empty interrupt not acknowledged yet */
    uint8_t timeout_pending; /* character time-out */
    uint8_t rx_count;
    uint8_t tx_count; /* bytes that the sink refused */
    uint8_t reserved[3];
    uint8_t rx_fifo[UART16550_FIFO];
    uint8_t rx_errors[UART16550_FIFO]; /* LSR bits that come with each byte */
    uint8_t tx_fifo[UART16550_FIFO];
} Uart16550State;
_Static_assert(sizeof(Uart16550State) == 64, "no padding: the bytes are the snapshot's");

/* Region 0: 8 ports. `sink` may be NULL: an unconnected line that swallows all. The caller frees the sink, after
 * the UART. */
Device *uart16550_new(Board *board, IrqLine *irq, CharSink *sink);

/* From any thread: bytes arrive on the line. Returns how many were taken (the queue holds 4096). */
size_t uart16550_receive(Device *device, const uint8_t *data, size_t size);
size_t uart16550_receive_room(Device *device);
/* A break condition arrives, after what is queued. */
void uart16550_receive_break(Device *device);

#endif
