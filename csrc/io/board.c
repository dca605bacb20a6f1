#include <stdlib.h>

#include "io/board.h"

typedef struct BoardWorker {
    IoThread *io;
    struct BoardWorker *next;
} BoardWorker;

Board *board_new(enum ClockKind clock, Error *error)
{
    Board *board = calloc(1, sizeof *board);
    if (!board) {
        error_set(error, ENOMEM, "no host memory for the machine");
        return NULL;
    }
    pthread_mutex_init(&board->a20_lock, NULL);
    board->a20_sources = A20_I8042;
    board->a20 = 1;
    board->tsc_hz = NS_PER_SECOND;
    board->memory = guest_memory_new(error);
    board->log = event_log_new();
    board->clock = clock_new(clock);
    board->irqs = irq_router_new();
    board->apics = apic_bus_new();
    board->extint.pin = &board->intr;
    ext_int_connect(&board->extint, NULL, NULL);
    board->ioeventfds = ioeventfds_new();
    board->device_rams = device_rams_new();
    board->irqfds = irqfds_new();
    if (board->log) {
        board->pio = bus_new(BUS_PIO, board->log);
        board->mmio = bus_new(BUS_MMIO, board->log);
    }
    if (board->clock)
        board->io = io_thread_new(board->clock, error);
    if (board->memory && board->pio && board->mmio && board->irqs && board->apics && board->io &&
        board->ioeventfds && board->device_rams && board->irqfds)
        return board;
    if (error && !error->code)
        error_set(error, ENOMEM, "no host memory for the machine");
    board_free(board);
    return NULL;
}

void board_free(Board *board)
{
    if (!board)
        return;
    board_stop_io(board);
    while (board->workers) {
        BoardWorker *worker = board->workers;
        board->workers = worker->next;
        io_thread_free(worker->io);
        free(worker);
    }
    io_thread_free(board->io);
    irqfds_free(board->irqfds);
    ioeventfds_free(board->ioeventfds);
    device_rams_free(board->device_rams);
    bus_free(board->pio);
    bus_free(board->mmio);
    irq_router_free(board->irqs);
    apic_bus_free(board->apics);
    clock_free(board->clock);
    guest_memory_free(board->memory);
    event_log_free(board->log);
    pthread_mutex_destroy(&board->a20_lock);
    free(board);
}

IoThread *board_add_worker(Board *board, const char *name, Error *error)
{
    BoardWorker *worker = calloc(1, sizeof *worker);
    if (!worker) {
        error_set(error, ENOMEM, "no host memory for the I/O thread %s", name);
        return NULL;
    }
    worker->io = io_thread_new_worker(board->clock, name, error);
    if (!worker->io || (io_thread_running(board->io) && io_thread_start(worker->io, error) < 0)) {
        io_thread_free(worker->io);
        free(worker);
        return NULL;
    }
    worker->next = board->workers;
    board->workers = worker;
    return worker->io;
}

int board_start_io(Board *board, Error *error)
{
    int result = io_thread_start(board->io, error);
    for (BoardWorker *worker = board->workers; worker && result == 0; worker = worker->next)
        result = io_thread_start(worker->io, error);
    if (result == 0 && io_thread_running(board->io))
        ioeventfds_serve(board->ioeventfds, true);
    else
        board_stop_io(board);
    return result;
}

void board_stop_io(Board *board)
{
    if (board->ioeventfds)
        ioeventfds_serve(board->ioeventfds, false);
    for (BoardWorker *worker = board->workers; worker; worker = worker->next)
        io_thread_stop(worker->io);
    io_thread_stop(board->io);
}

void board_pause_io(Board *board)
{
    for (BoardWorker *worker = board->workers; worker; worker = worker->next)
        io_thread_pause(worker->io);
}

void board_resume_io(Board *board)
{
    for (BoardWorker *worker = board->workers; worker; worker = worker->next)
        io_thread_resume(worker->io);
}

void board_request(Board *board, enum SystemRequest request, uint32_t code)
{
    if (board->vcpu_request &&
        board->vcpu_request(__atomic_load_n(&board->engine, __ATOMIC_SEQ_CST), request, code))
        return;
    uint64_t none = SYSTEM_NONE;
    if (!__atomic_compare_exchange_n(&board->system, &none, (uint64_t)code << 32 | request, false, __ATOMIC_SEQ_CST,
                                     __ATOMIC_RELAXED))
        return;
    if (board->kick)
        board->kick(__atomic_load_n(&board->engine, __ATOMIC_SEQ_CST));
}

enum SystemRequest board_take_request(Board *board, uint32_t *code)
{
    uint64_t taken = __atomic_exchange_n(&board->system, SYSTEM_NONE, __ATOMIC_SEQ_CST);
    *code = (uint32_t)(taken >> 32);
    return (enum SystemRequest)(uint32_t)taken;
}

void board_set_a20(Board *board, enum A20Source source, bool on)
{
    pthread_mutex_lock(&board->a20_lock);
    board->a20_sources = on ? board->a20_sources | source : board->a20_sources & ~(uint32_t)source;
    uint32_t enabled = board->a20_sources != 0;
    if (__atomic_exchange_n(&board->a20, enabled, __ATOMIC_SEQ_CST) != enabled && board->a20_changed)
        board->a20_changed(__atomic_load_n(&board->engine, __ATOMIC_SEQ_CST), enabled);
    pthread_mutex_unlock(&board->a20_lock);
}

void board_nmi(Board *board)
{
    if (!board->lint1_edge || !board->lint1_edge(board->lint1))
        board_nmi_edge(board);
}

void board_nmi_edge(Board *board)
{
    __atomic_fetch_add(&board->nmi_pending, 1, __ATOMIC_SEQ_CST);
    if (board->kick)
        board->kick(__atomic_load_n(&board->engine, __ATOMIC_SEQ_CST));
}

int board_msi(Board *board, uint64_t address, uint32_t data)
{
    if ((address & ~(uint64_t)0xfffff) != MSI_ADDRESS_BASE) {
        uint8_t bytes[4];
        store_le32(bytes, data);
        return guest_memory_write(board->memory, address, bytes, sizeof bytes);
    }
    return board->msi ? board->msi(board->msi_irqchip, address, data) : -ENODEV;
}
