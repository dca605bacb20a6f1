/* 28F320J5 datasheet: commands, status and the query table; CFI (JESD68.01). */
#include <stdio.h>
#include <unistd.h>

#include "device_check.h"
#include "devices/pflash.h"

enum { SIZE = 16 * PFLASH_BLOCK_SIZE };

static void command(Device *flash, uint64_t at, uint8_t value) { device_write(flash, 0, at, 1, value); }
static uint8_t get(Device *flash, uint64_t at) { return (uint8_t)device_read(flash, 0, at, 1); }

static Device *make(Board *board)
{
    Error error;
    Device *flash = pflash_new(board, -1, SIZE, &error);
    CHECK(flash);
    return flash;
}

static void done(Device *flash, Board *board)
{
    device_free(flash);
    board_free(board);
}

static void program_and_erase(void)
{
    Board *board = test_board();
    Device *flash = make(board);
    CHECK_EQ(get(flash, 5), 0xff);
    command(flash, 5, 0x40), command(flash, 5, 0x5a);
    CHECK_EQ(get(flash, 5), 0x80); /* status, until the array is asked for */
    command(flash, 0, 0xff);
    CHECK_EQ(get(flash, 5), 0x5a);
    command(flash, 5, 0x10), command(flash, 5, 0xf3); /* bits are cleared, never set */
    command(flash, 0, 0xff);
    CHECK_EQ(get(flash, 5), 0x52);
    command(flash, PFLASH_BLOCK_SIZE, 0x40), command(flash, PFLASH_BLOCK_SIZE, 0);
    command(flash, 7, 0x20), command(flash, 7, 0xd0);
    command(flash, 0, 0xff);
    CHECK_EQ(get(flash, 5), 0xff);
    CHECK_EQ(get(flash, PFLASH_BLOCK_SIZE), 0); /* the next block stays */
    command(flash, PFLASH_BLOCK_SIZE, 0x20), command(flash, PFLASH_BLOCK_SIZE, 0x55);
    CHECK_EQ(get(flash, 0), 0xb0); /* command sequence error */
    command(flash, 0, 0x50), command(flash, 0, 0x70);
    CHECK_EQ(get(flash, 0) & 0x30, 0);
    command(flash, 0, 0xff);
    CHECK_EQ(get(flash, PFLASH_BLOCK_SIZE), 0);
    CHECK_EQ(device_read(flash, 0, PFLASH_BLOCK_SIZE - 1, 4), 0xffff00ff);
    CHECK_EQ(device_read(flash, 0, SIZE - 2, 8), 0xffff); /* the end of it */
    done(flash, board);
}

static void write_buffer(void)
{
    Board *board = test_board();
    Device *flash = make(board);
    command(flash, 0x120, 0xe8);
    CHECK_EQ(get(flash, 0x120), 0x80);
    command(flash, 0x120, 3);
    for (uint8_t i = 0; i < 4; i++)
        command(flash, 0x120 + i, 0x10 + i);
    command(flash, 0x120, 0xd0);
    command(flash, 0, 0xff);
    CHECK_EQ(device_read(flash, 0, 0x120, 4), 0x13121110);
    CHECK_EQ(get(flash, 0x11f), 0xff);
    CHECK_EQ(get(flash, 0x124), 0xff);
    command(flash, 0x200, 0xe8), command(flash, 0x200, 0), command(flash, 0x200, 1), command(flash, 0x200, 0xff);
    CHECK_EQ(get(flash, 0x200) & 0x30, 0x30); /* not confirmed */
    command(flash, 0, 0xff);
    CHECK_EQ(get(flash, 0x200), 0xff);
    command(flash, SIZE - 1, 0xe8), command(flash, SIZE - 1, 0xff); /* more than the buffer holds: 64 */
    for (uint32_t i = 0; i < 64; i++)
        command(flash, SIZE - 64 + i, 0x77);
    command(flash, SIZE - 1, 0xd0), command(flash, 0, 0xff);
    CHECK_EQ(get(flash, SIZE - 1), 0x77);
    CHECK_EQ(get(flash, SIZE - 64), 0x77);
    done(flash, board);
}

static void identity_and_query(void)
{
    Board *board = test_board();
    Device *flash = make(board);
    command(flash, 0, 0x90);
    CHECK_EQ(get(flash, 0), 0x89);
    command(flash, 0x55, 0x98);
    CHECK_EQ(device_read(flash, 0, 0x10, 2), 'Q' | 'R' << 8);
    CHECK_EQ(get(flash, 0x12), 'Y');
    CHECK_EQ(get(flash, 0x13), 1);
    CHECK_EQ(1ull << get(flash, 0x27), SIZE);
    CHECK_EQ(device_read(flash, 0, 0x2d, 2), SIZE / PFLASH_BLOCK_SIZE - 1);
    CHECK_EQ(device_read(flash, 0, 0x2f, 2) * 256, PFLASH_BLOCK_SIZE);
    device_reset(flash);
    CHECK_EQ(get(flash, 0x10), 0xff);
    done(flash, board);
}

static void file_and_state(void)
{
    Board *board = test_board();
    FILE *file = tmpfile();
    CHECK(file && ftruncate(fileno(file), SIZE) == 0);
    Error error;
    Device *flash = pflash_new(board, fileno(file), SIZE, &error);
    CHECK(flash);
    command(flash, 9, 0x20), command(flash, 9, 0xd0), command(flash, 9, 0x40), command(flash, 9, 0x42);
    CHECK_EQ(pflash_flush(flash), 0);
    uint8_t byte = 0;
    CHECK_EQ(pread(fileno(file), &byte, 1, 9), 1);
    CHECK_EQ(byte, 0x42);
    command(flash, 64, 0xe8), command(flash, 64, 5), command(flash, 65, 1);
    check_save_restore(flash);
    PflashState bad;
    device_save(flash, &bad);
    bad.buffer_start = SIZE;
    CHECK_EQ(device_restore(flash, &bad), -EINVAL);
    device_save(flash, &bad);
    bad.mode = 0x12;
    CHECK_EQ(device_restore(flash, &bad), -EINVAL);
    device_save(flash, &bad);
    bad.buffer_left = 65;
    CHECK_EQ(device_restore(flash, &bad), -EINVAL);
    fclose(file);
    done(flash, board);
}

static void sizes(void)
{
    Board *board = test_board();
    Error error;
    CHECK(!pflash_new(board, -1, 0, &error));
    CHECK(!pflash_new(board, -1, 100, &error));
    CHECK(!pflash_new(board, -1, 128ull << 20, &error));
    CHECK_EQ(error.code, EINVAL);
    board_free(board);
}

int main(void)
{
    RUN(program_and_erase);
    RUN(write_buffer);
    RUN(identity_and_query);
    RUN(file_and_state);
    RUN(sizes);
    return 0;
}
