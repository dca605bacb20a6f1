#include <stdlib.h>

#include "devices/uart16550.h"

enum { RBR_THR, IER, IIR_FCR, LCR, MCR, LSR, MSR, SCR };
enum { IER_ERBFI = 0x01, IER_ETBEI = 0x02, IER_ELSI = 0x04, IER_EDSSI = 0x08 };
enum {
    IIR_NONE = 0x01,
    IIR_MODEM = 0x00,
    IIR_THRE = 0x02,
    IIR_DATA = 0x04,
    IIR_LINE = 0x06,
    IIR_TIMEOUT = 0x0c,
    IIR_FIFOS = 0xc0,
};
enum { FCR_ENABLE = 0x01, FCR_CLEAR_RX = 0x02, FCR_CLEAR_TX = 0x04, FCR_KEPT = 0xc9 };
enum { LCR_BREAK = 0x40, LCR_DLAB = 0x80 };
enum { MCR_DTR = 0x01, MCR_RTS = 0x02, MCR_OUT1 = 0x04, MCR_OUT2 = 0x08, MCR_LOOP = 0x10 };
enum {
    LSR_DR = 0x01,
    LSR_OE = 0x02,
    LSR_PE = 0x04,
    LSR_FE = 0x08,
    LSR_BI = 0x10,
    LSR_THRE = 0x20,
    LSR_TEMT = 0x40,
    LSR_FIFO_ERROR = 0x80,
    LSR_ERRORS = LSR_OE | LSR_PE | LSR_FE | LSR_BI,
};
enum { MSR_CTS = 0x10, MSR_DSR = 0x20, MSR_RI = 0x40, MSR_DCD = 0x80, MSR_TERI = 0x04, MSR_DELTAS = 0x0f };

#define UART_HZ            1843200
#define BITS_PER_CHARACTER 10

typedef struct Uart16550 {
    Device device;
    IrqLine *irq;
    CharSink *sink;
    Timer *timeout;
    Uart16550State state;
    /* What came for the guest and has no room in the FIFO yet: belongs to the host, not to the machine's state. */
    uint32_t queue_head;
    uint32_t queue_count;
    bool break_after_queue;
    uint8_t queue[UART16550_QUEUE];
} Uart16550;

static bool fifos_on(const Uart16550State *s) { return s->fcr & FCR_ENABLE; }
static uint32_t fifo_size(const Uart16550State *s) { return fifos_on(s) ? UART16550_FIFO : 1; }

static uint32_t trigger_level(const Uart16550State *s)
{
    static const uint8_t levels[4] = {1, 4, 8, 14};
    return fifos_on(s) ? levels[s->fcr >> 6] : 1;
}

/* The one pending interrupt of highest priority (16550D table IV). */
static uint8_t interrupt_id(const Uart16550State *s)
{
    if ((s->ier & IER_ELSI) && (s->lsr & LSR_ERRORS))
        return IIR_LINE;
    if ((s->ier & IER_ERBFI) && s->rx_count >= trigger_level(s))
        return IIR_DATA;
    if ((s->ier & IER_ERBFI) && s->timeout_pending)
        return IIR_TIMEOUT;
    if ((s->ier & IER_ETBEI) && s->thre_pending)
        return IIR_THRE;
    if ((s->ier & IER_EDSSI) && (s->msr & MSR_DELTAS))
        return IIR_MODEM;
    return IIR_NONE;
}

/* On the PC, OUT2 opens the way to the interrupt controller; loopback forces the pin inactive (16550D §8.6.5). */
static void uart_update(Uart16550 *uart)
{
    const Uart16550State *s = &uart->state;
    bool gate = (s->mcr & (MCR_OUT2 | MCR_LOOP)) == MCR_OUT2;
    irq_line_set(uart->irq, gate && interrupt_id(s) != IIR_NONE);
}

/* Four character times without a read or an arrival, with bytes below the trigger level (16550D §8.4.4). */
static void restart_timeout(Uart16550 *uart)
{
    Uart16550State *s = &uart->state;
    s->timeout_pending = 0;
    if (!fifos_on(s) || !s->rx_count || !(s->ier & IER_ERBFI)) {
        timer_disarm(uart->timeout);
        return;
    }
    uint32_t divisor = MAX(1u, (uint32_t)s->dll | (uint32_t)s->dlm << 8);
    uint64_t ns = clock_ticks_to_ns(4ull * BITS_PER_CHARACTER * 16 * divisor, UART_HZ);
    timer_arm(uart->timeout, clock_now(uart->device.board->clock) + ns);
}

static void uart_timed_out(void *opaque)
{
    Uart16550 *uart = opaque;
    pthread_mutex_lock(&uart->device.lock);
    Uart16550State *s = &uart->state;
    if (fifos_on(s) && s->rx_count && timer_deadline(uart->timeout) == CLOCK_NEVER) {
        s->timeout_pending = 1;
        uart_update(uart);
    }
    pthread_mutex_unlock(&uart->device.lock);
}

/* The errors of the byte at the top of the FIFO show in LSR when it gets there (16550D §8.6.3). */
static void reveal_errors(Uart16550State *s)
{
    if (s->rx_count) {
        s->lsr |= s->rx_errors[0];
        s->rx_errors[0] = 0;
    }
}

static void rx_push(Uart16550State *s, uint8_t byte, uint8_t errors)
{
    if (s->rx_count == fifo_size(s)) {
        s->lsr |= LSR_OE;
        if (fifos_on(s))
            return; /* the shift register is overwritten, the FIFO is not */
        s->rx_count = 0;
    }
    s->rx_fifo[s->rx_count] = byte;
    s->rx_errors[s->rx_count++] = errors;
    reveal_errors(s);
}

/* Let the FIFO fill from the host's queue. In loopback the line is disconnected. */
static void rx_refill(Uart16550 *uart)
{
    Uart16550State *s = &uart->state;
    if (s->mcr & MCR_LOOP)
        return;
    while (uart->queue_count && s->rx_count < fifo_size(s)) {
        rx_push(s, uart->queue[uart->queue_head], 0);
        uart->queue_head = (uart->queue_head + 1) % UART16550_QUEUE;
        uart->queue_count--;
    }
    if (uart->break_after_queue && !uart->queue_count && s->rx_count < fifo_size(s)) {
        uart->break_after_queue = false;
        rx_push(s, 0, LSR_BI);
    }
}

static uint8_t read_rbr(Uart16550 *uart)
{
    Uart16550State *s = &uart->state;
    rx_refill(uart);
    uint8_t byte = s->rx_fifo[0]; /* an empty receiver gives its last byte again */
    if (s->rx_count) {
        s->rx_count--;
        if (s->rx_count) {
            memmove(s->rx_fifo, s->rx_fifo + 1, s->rx_count);
            memmove(s->rx_errors, s->rx_errors + 1, s->rx_count);
            reveal_errors(s);
        }
    }
    rx_refill(uart);
    restart_timeout(uart);
    return byte;
}

static void clear_rx(Uart16550 *uart)
{
    uart->state.rx_count = 0;
    uart->state.timeout_pending = 0;
    timer_disarm(uart->timeout);
}

/* Hand to the sink what it refused before. THR is empty again when all is gone. */
static void tx_retry(Uart16550 *uart)
{
    Uart16550State *s = &uart->state;
    if (!s->tx_count)
        return;
    size_t sent = uart->sink ? char_sink_write(uart->sink, s->tx_fifo, s->tx_count) : s->tx_count;
    s->tx_count -= (uint8_t)sent;
    memmove(s->tx_fifo, s->tx_fifo + sent, s->tx_count);
    if (!s->tx_count)
        s->thre_pending = 1;
}

static void sink_has_room(void *opaque)
{
    Uart16550 *uart = opaque;
    pthread_mutex_lock(&uart->device.lock);
    tx_retry(uart);
    uart_update(uart);
    pthread_mutex_unlock(&uart->device.lock);
}

static void write_thr(Uart16550 *uart, uint8_t byte)
{
    Uart16550State *s = &uart->state;
    s->thre_pending = 0;
    if (s->mcr & MCR_LOOP) {
        rx_push(s, byte, 0);
        restart_timeout(uart);
        s->thre_pending = 1;
        return;
    }
    tx_retry(uart);
    if (s->tx_count == fifo_size(s)) {
        s->tx_count--; /* the guest did not wait for THRE: the last byte is overwritten */
    }
    s->tx_fifo[s->tx_count++] = byte;
    s->thre_pending = 0;
    tx_retry(uart);
}

/* Modem inputs as they are now: the far end's, or the outputs looped back (16550D §8.6.5). */
static uint8_t modem_inputs(const Uart16550State *s)
{
    if (!(s->mcr & MCR_LOOP))
        return MSR_CTS | MSR_DSR | MSR_DCD;
    return (s->mcr & MCR_RTS ? MSR_CTS : 0) | (s->mcr & MCR_DTR ? MSR_DSR : 0) | (s->mcr & MCR_OUT1 ? MSR_RI : 0) |
           (s->mcr & MCR_OUT2 ? MSR_DCD : 0);
}

static void update_modem_status(Uart16550State *s)
{
    uint8_t inputs = modem_inputs(s);
    uint8_t changed = (s->msr ^ inputs) & 0xf0;
    uint8_t deltas = (changed & ~MSR_RI) >> 4;
    if (changed & ~inputs & MSR_RI)
        deltas |= MSR_TERI; /* the trailing edge only */
    s->msr = inputs | (s->msr & MSR_DELTAS) | deltas;
}

static void write_fcr(Uart16550 *uart, uint8_t value)
{
    Uart16550State *s = &uart->state;
    if ((value ^ s->fcr) & FCR_ENABLE)
        value |= FCR_CLEAR_RX | FCR_CLEAR_TX; /* changing the mode clears both FIFOs */
    else if (!(value & FCR_ENABLE))
        return; /* the other bits are not programmed without bit 0 */
    if (value & FCR_CLEAR_RX)
        clear_rx(uart);
    if ((value & FCR_CLEAR_TX) && s->tx_count) {
        s->tx_count = 0;
        s->thre_pending = 1;
    }
    s->fcr = value & FCR_ENABLE ? value & FCR_KEPT : 0;
    rx_refill(uart);
    restart_timeout(uart);
}

static void write_ier(Uart16550 *uart, uint8_t value)
{
    Uart16550State *s = &uart->state;
    uint8_t rising = value & ~s->ier;
    s->ier = value & 0x0f;
    if (rising & IER_ETBEI) /* enabling it with an empty THR makes the interrupt (16550D §8.6.7) */
        s->thre_pending = s->tx_count == 0;
    rx_refill(uart);
    if (rising & IER_ERBFI)
        restart_timeout(uart);
}

static void write_mcr(Uart16550 *uart, uint8_t value)
{
    uart->state.mcr = value & 0x1f;
    update_modem_status(&uart->state);
    rx_refill(uart); /* loopback may have ended */
    if (uart->state.rx_count && !uart->state.timeout_pending && timer_deadline(uart->timeout) == CLOCK_NEVER)
        restart_timeout(uart);
}

static void write_lcr(Uart16550 *uart, uint8_t value)
{
    Uart16550State *s = &uart->state;
    bool break_starts = value & ~s->lcr & LCR_BREAK;
    s->lcr = value;
    if (break_starts && (s->mcr & MCR_LOOP))
        rx_push(s, 0, LSR_BI);
}

static void uart16550_write(void *opaque, uint32_t region, uint64_t offset, uint32_t size, uint64_t value)
{
    Uart16550 *uart = opaque;
    Uart16550State *s = &uart->state;
    uint8_t byte = (uint8_t)value;
    bool dlab = s->lcr & LCR_DLAB;
    switch (offset) {
    case RBR_THR:
        if (dlab)
            s->dll = byte;
        else
            write_thr(uart, byte);
        break;
    case IER:
        if (dlab)
            s->dlm = byte;
        else
            write_ier(uart, byte);
        break;
    case IIR_FCR:
        write_fcr(uart, byte);
        break;
    case LCR:
        write_lcr(uart, byte);
        break;
    case MCR:
        write_mcr(uart, byte);
        break;
    case SCR:
        s->scr = byte;
        break;
    default: /* LSR and MSR: writes are for factory tests */
        return;
    }
    uart_update(uart);
}

static uint8_t read_iir(Uart16550State *s)
{
    uint8_t id = interrupt_id(s);
    if (id == IIR_THRE)
        s->thre_pending = 0;
    return id | (fifos_on(s) ? IIR_FIFOS : 0);
}

static uint8_t read_lsr(Uart16550 *uart)
{
    Uart16550State *s = &uart->state;
    tx_retry(uart);
    rx_refill(uart);
    uint8_t value = s->lsr | (s->rx_count ? LSR_DR : 0) | (s->tx_count ? 0 : LSR_THRE | LSR_TEMT);
    uint8_t errors = 0;
    for (uint32_t i = 0; i < s->rx_count; i++)
        errors |= s->rx_errors[i];
    if (fifos_on(s) && (errors | (s->lsr & ~LSR_OE)))
        value |= LSR_FIFO_ERROR;
    s->lsr = 0;
    return value;
}

static uint64_t uart16550_read(void *opaque, uint32_t region, uint64_t offset, uint32_t size)
{
    Uart16550 *uart = opaque;
    Uart16550State *s = &uart->state;
    bool dlab = s->lcr & LCR_DLAB;
    uint8_t value;
    switch (offset) {
    case RBR_THR:
        value = dlab ? s->dll : read_rbr(uart);
        break;
    case IER:
        return dlab ? s->dlm : s->ier;
    case IIR_FCR:
        value = read_iir(s);
        break;
    case LCR:
        return s->lcr;
    case MCR:
        return s->mcr;
    case LSR:
        value = read_lsr(uart);
        break;
    case MSR:
        value = s->msr;
        s->msr &= ~MSR_DELTAS;
        break;
    case SCR:
        return s->scr;
    default:
        return 0xff;
    }
    uart_update(uart);
    return value;
}

size_t uart16550_receive(Device *device, const uint8_t *data, size_t size)
{
    Uart16550 *uart = container_of(device, Uart16550, device);
    pthread_mutex_lock(&device->lock);
    size_t taken = MIN(size, (size_t)(UART16550_QUEUE - uart->queue_count));
    for (size_t i = 0; i < taken; i++)
        uart->queue[(uart->queue_head + uart->queue_count++) % UART16550_QUEUE] = data[i];
    rx_refill(uart);
    restart_timeout(uart);
    uart_update(uart);
    pthread_mutex_unlock(&device->lock);
    return taken;
}

size_t uart16550_receive_room(Device *device)
{
    Uart16550 *uart = container_of(device, Uart16550, device);
    pthread_mutex_lock(&device->lock);
    size_t room = UART16550_QUEUE - uart->queue_count;
    pthread_mutex_unlock(&device->lock);
    return room;
}

void uart16550_receive_break(Device *device)
{
    Uart16550 *uart = container_of(device, Uart16550, device);
    pthread_mutex_lock(&device->lock);
    uart->break_after_queue = true;
    rx_refill(uart);
    restart_timeout(uart);
    uart_update(uart);
    pthread_mutex_unlock(&device->lock);
}

/* 16550D table III; the divisor is undefined there: 9600 baud here. */
static void uart16550_reset(Device *device)
{
    Uart16550 *uart = container_of(device, Uart16550, device);
    uart->state = (Uart16550State){.dll = 12};
    uart->state.msr = modem_inputs(&uart->state);
    timer_disarm(uart->timeout);
    uart_update(uart); /* what waits on the line enters when the guest looks, so that no reset loses it */
}

static void uart16550_destroy(Device *device)
{
    Uart16550 *uart = container_of(device, Uart16550, device);
    if (uart->sink)
        char_sink_set_room(uart->sink, NULL, NULL);
    timer_free(uart->timeout);
}

static void uart16550_save(Device *device, void *state)
{
    *(Uart16550State *)state = container_of(device, Uart16550, device)->state;
}

static int uart16550_restore(Device *device, const void *state)
{
    Uart16550 *uart = container_of(device, Uart16550, device);
    const Uart16550State *saved = state;
    if (saved->rx_count > fifo_size(saved) || saved->tx_count > fifo_size(saved))
        return -EINVAL;
    uart->state = *saved;
    uart->state.ier &= 0x0f;
    uart->state.mcr &= 0x1f;
    uart->state.lsr &= LSR_ERRORS;
    uint8_t timeout_pending = saved->timeout_pending;
    restart_timeout(uart);
    uart->state.timeout_pending = timeout_pending;
    uart_update(uart);
    return 0;
}

static const DeviceClass uart16550_class = {
    .name = "uart16550",
    .ops = {uart16550_read, uart16550_write},
    .reset = uart16550_reset,
    .destroy = uart16550_destroy,
    .state_size = sizeof(Uart16550State),
    .state_version = UART16550_STATE_VERSION,
    .save = uart16550_save,
    .restore = uart16550_restore,
};

Device *uart16550_new(Board *board, IrqLine *irq, CharSink *sink)
{
    Uart16550 *uart = calloc(1, sizeof *uart);
    if (!uart)
        return NULL;
    device_init(&uart->device, &uart16550_class, board);
    uart->irq = irq;
    uart->sink = sink;
    uart->timeout = timer_new(board->clock, uart_timed_out, uart);
    if (!uart->timeout) {
        device_free(&uart->device);
        return NULL;
    }
    uart16550_reset(&uart->device);
    if (sink)
        char_sink_set_room(sink, sink_has_room, uart);
    return &uart->device;
}
