/* For tests of devices: a board on a virtual clock, time that passes timer by timer, and short names for accesses.
 */
#ifndef PYVMM_TESTS_DEVICE_CHECK_H
#define PYVMM_TESTS_DEVICE_CHECK_H

#include "check.h"
#include "devices/device.h"

static inline Board *test_board(void)
{
    Board *board = board_new(CLOCK_KIND_VIRTUAL, NULL);
    CHECK(board);
    return board;
}

/* Let `ns` pass as an engine would: stop at each deadline on the way. */
static inline void pass(Board *board, uint64_t ns)
{
    uint64_t end = clock_now(board->clock) + ns;
    for (;;) {
        uint64_t now = clock_now(board->clock);
        uint64_t deadline = clock_next_deadline(board->clock);
        uint64_t to = deadline < end ? deadline : end;
        if (to > now)
            clock_advance(board->clock, to - now);
        clock_run_timers(board->clock);
        if (to == end && clock_next_deadline(board->clock) > end)
            return;
    }
}

static inline uint8_t in8(Device *device, uint32_t region, uint64_t offset)
{
    return (uint8_t)device_read(device, region, offset, 1);
}

static inline void out8(Device *device, uint32_t region, uint64_t offset, uint8_t value)
{
    device_write(device, region, offset, 1, value);
}

/* Counts rising edges of one GSI. */
typedef struct EdgeCounter {
    uint32_t gsi;
    uint32_t edges;
    bool level;
} EdgeCounter;

static inline void edge_counter_sink(void *opaque, uint32_t gsi, bool level)
{
    EdgeCounter *counter = opaque;
    if (gsi != counter->gsi)
        return;
    counter->edges += level && !counter->level;
    counter->level = level;
}

/* Save, reset, restore: the state must come back, byte for byte. */
static inline void check_save_restore(Device *device)
{
    size_t size = device_state_size(device);
    uint8_t *before = malloc(size), *after = malloc(size);
    CHECK(before && after);
    device_save(device, before);
    device_reset(device);
    CHECK_EQ(device_restore(device, before), 0);
    device_save(device, after);
    CHECK(!memcmp(before, after, size));
    free(before);
    free(after);
}

#endif
