/*
 * A driver that does anything to the HPET: reads and writes of any size anywhere, time that passes, changed saved
 * states. It must neither crash nor hang, its reserved bits stay clear, and a reset makes it count from 0 again.
 */
#include <stdlib.h>

#include "devices/hpet.h"
#include "fuzz/input.h"

/* The registers that there are, more often than the holes between them. */
static uint64_t take_offset(Input *input)
{
    static const uint16_t often[16] = {0x00,  0x10,  0x20,  0xf0,  0x100, 0x108, 0x110, 0x120,
                                       0x128, 0x130, 0x140, 0x148, 0x150, 0x104, 0x10c, 0x14c};
    uint8_t at = (uint8_t)take(input, 1);
    return at & 0x80 ? often[at & 15] : take(input, 2) % HPET_SIZE;
}

static void step(Board *board, Device *hpet, Input *input)
{
    uint8_t what = (uint8_t)take(input, 1);
    uint32_t size = 1u << (what >> 4 & 3);
    HpetState state;
    switch (what & 3) {
    case 0:
        device_read(hpet, 0, take_offset(input), size);
        break;
    case 1: {
        uint64_t offset = take_offset(input);
        device_write(hpet, 0, offset, size, take(input, size));
        break;
    }
    case 2:
        clock_advance(board->clock, take(input, what & 4 ? 6 : 3));
        clock_run_timers(board->clock);
        break;
    case 3:
        device_save(hpet, &state);
        ((uint8_t *)&state)[take(input, 1) % sizeof state] ^= (uint8_t)take(input, 1);
        device_restore(hpet, &state);
        break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    Board *board = board_new(CLOCK_KIND_VIRTUAL, NULL);
    Device *hpet = hpet_new(board, irq_line_new(board->irqs, 0), irq_line_new(board->irqs, 8));
    Input input = {data, MIN(size, 4096)};
    while (input.left)
        step(board, hpet, &input);
    if (device_read(hpet, 0, 0x10, 8) > 3 || device_read(hpet, 0, 0x20, 8) > 7)
        abort();
    device_reset(hpet);
    device_write(hpet, 0, 0x10, 1, 1);
    clock_advance(board->clock, 100 * HPET_TICK_NS);
    if (device_read(hpet, 0, 0xf0, 8) != 100)
        abort();
    device_free(hpet);
    board_free(board);
    return 0;
}
